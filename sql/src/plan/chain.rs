//! The walk up an analysed plan: from the topic through filters, projections and one aggregate.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Operator as Sign, Volatility};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use crate::error::SqlError;
use crate::operator::project::{Step, Transform};
use crate::operator::window::Kernel;
use crate::plan::refuse::{distinct, refused, unsupported};
use crate::plan::window::Window;

/// Where a column comes from, as far as the query only passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Computed,
    WindowStart,
    WindowEnd,
    Group(usize),
}

/// The chain up to a node of the plan.
pub(crate) struct Chain {
    /// Since the topic, or since the aggregate.
    pub(crate) transform: Transform,
    pub(crate) origins: Vec<Origin>,
    pub(crate) aggregate: Option<Grouped>,
}

/// The aggregate of a chain.
pub(crate) struct Grouped {
    pub(crate) input: Transform,
    pub(crate) groups: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) names: Vec<String>,
    pub(crate) origins: Vec<Origin>,
    pub(crate) aggregates: Vec<Kernel>,
    pub(crate) schema: SchemaRef,
}

pub(crate) struct Walk<'a> {
    pub(crate) source_schema: &'a SchemaRef,
    pub(crate) window: Option<&'a Window>,
    pub(crate) properties: ExecutionProps,
}

impl Walk<'_> {
    pub(crate) fn chain(&self, plan: &LogicalPlan) -> Result<Chain, SqlError> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let schema = match &scan.projection {
                    Some(columns) => Arc::new(self.source_schema.project(columns)?),
                    None => Arc::clone(self.source_schema),
                };
                Ok(Chain {
                    origins: vec![Origin::Computed; schema.fields().len()],
                    transform: Transform::over(schema),
                    aggregate: None,
                })
            }
            LogicalPlan::SubqueryAlias(alias) => self.chain(&alias.input),
            LogicalPlan::Filter(filter) => {
                let mut chain = self.chain(&filter.input)?;
                let predicate = self.physical(&filter.predicate, filter.input.schema())?;
                chain.transform.push(Step::Filter(predicate));
                Ok(chain)
            }
            LogicalPlan::Projection(projection) => {
                let mut chain = self.chain(&projection.input)?;
                let input = projection.input.schema();
                let mut origins = Vec::new();
                let mut expressions = Vec::new();
                let mut fields = Vec::new();
                for (expr, field) in projection.expr.iter().zip(projection.schema.fields()) {
                    origins.push(self.origin(expr, input, &chain)?);
                    let expression = self.physical(expr, input)?;
                    let data_type = expression.data_type(&chain.transform.schema())?;
                    fields.push(Field::new(field.name(), data_type, true));
                    expressions.push(expression);
                }
                chain.transform.push(Step::Project {
                    expressions,
                    schema: Arc::new(Schema::new(fields)),
                });
                chain.origins = origins;
                Ok(chain)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            other => Err(unsupported(other)),
        }
    }

    fn aggregate(&self, aggregate: &Aggregate) -> Result<Chain, SqlError> {
        let chain = self.chain(&aggregate.input)?;
        if chain.aggregate.is_some() {
            return Err(refused(
                "an aggregate over an aggregate",
                "create a materialized view of the inner one and read it in a second query",
            ));
        }
        if aggregate.aggr_expr.is_empty() {
            return Err(distinct());
        }
        if aggregate.group_expr.is_empty() {
            return Err(refused(
                "an aggregate without GROUP BY",
                "group by a window, for example GROUP BY window_start, window_end over \
                 TUMBLE(TABLE topic, DESCRIPTOR(time_column), INTERVAL '1 hour')",
            ));
        }
        let input = aggregate.input.schema();
        let rows = chain.transform.schema();
        let mut groups = Vec::new();
        let mut names = Vec::new();
        let mut origins = Vec::new();
        let mut fields = Vec::new();
        for (expr, field) in aggregate.group_expr.iter().zip(aggregate.schema.fields()) {
            if matches!(expr, Expr::GroupingSet(_)) {
                return Err(refused("GROUPING SETS", "write one query per grouping"));
            }
            let group = self.physical(expr, input)?;
            origins.push(self.origin(expr, input, &chain)?);
            fields.push(Field::new(field.name(), group.data_type(&rows)?, true));
            names.push(field.name().clone());
            groups.push(group);
        }
        let mut aggregates = Vec::new();
        for expr in &aggregate.aggr_expr {
            let kernel = self.kernel(expr, input, &rows)?;
            let name = format!("aggregate_{}", aggregates.len());
            let data_type = kernel.function.field().data_type().clone();
            fields.push(Field::new(name, data_type, true));
            aggregates.push(kernel);
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let count = groups.len();
        let passed = (0..count).map(Origin::Group);
        let computed = aggregates.iter().map(|_| Origin::Computed);
        Ok(Chain {
            transform: Transform::over(Arc::clone(&schema)),
            origins: passed.chain(computed).collect(),
            aggregate: Some(Grouped {
                input: chain.transform,
                groups,
                names,
                origins,
                aggregates,
                schema,
            }),
        })
    }

    fn kernel(&self, expr: &Expr, input: &DFSchema, rows: &Schema) -> Result<Kernel, SqlError> {
        deterministic(expr)?;
        let lowered = LoweredAggregateBuilder::new(expr, input, rows, &self.properties).build()?;
        let function = lowered.aggregate;
        let name = function.fun().name();
        // Other functions would see the distinct values in the order of a hash table.
        if function.is_distinct() && !matches!(name, "count" | "min" | "max") {
            return Err(refused(
                &format!("DISTINCT in {name}"),
                "DISTINCT is taken in count, min and max",
            ));
        }
        let needs_sorted = function.order_sensitivity().hard_requires();
        if needs_sorted && !function.order_bys().is_empty() {
            return Err(refused(
                &format!("ORDER BY in {name}"),
                "leave it out; rows come in the order of the log",
            ));
        }
        Ok(Kernel {
            function,
            filter: lowered.filter,
        })
    }

    fn physical(&self, expr: &Expr, input: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, SqlError> {
        deterministic(expr)?;
        Ok(create_physical_expr(expr, input, &self.properties)?)
    }

    /// What an expression passes on unchanged.
    fn origin(&self, expr: &Expr, input: &DFSchema, below: &Chain) -> Result<Origin, SqlError> {
        let mut inner = expr;
        while let Expr::Alias(alias) = inner {
            inner = &alias.expr;
        }
        if let Expr::Column(column) = inner {
            let index = input.index_of_column(column)?;
            return Ok(below.origins[index]);
        }
        // What the rewrite of the window function wrote, wherever projections were merged to.
        Ok(match (self.window, inner) {
            (Some(window), inner) if is_start(inner, window) => Origin::WindowStart,
            (Some(window), Expr::BinaryExpr(sum))
                if sum.op == Sign::Plus
                    && is_start(&sum.left, window)
                    && interval_ms(&sum.right) == Some(window.size_ms) =>
            {
                Origin::WindowEnd
            }
            _ => Origin::Computed,
        })
    }
}

/// Whether an expression is the start of the window, as the rewrite writes it.
pub(crate) fn is_start(expr: &Expr, window: &Window) -> bool {
    let Expr::ScalarFunction(function) = bare(expr) else {
        return false;
    };
    let [size, time] = function.args.as_slice() else {
        return false;
    };
    function.func.name() == "date_bin"
        && interval_ms(size) == Some(window.size_ms)
        && matches!(bare(time), Expr::Column(column) if column.name == window.time_column)
}

pub(crate) fn bare(mut expr: &Expr) -> &Expr {
    loop {
        expr = match expr {
            Expr::Alias(alias) => &alias.expr,
            Expr::Cast(cast) => &cast.expr,
            other => return other,
        };
    }
}

pub(crate) fn interval_ms(expr: &Expr) -> Option<i64> {
    match bare(expr) {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(length)), _) if length.months == 0 => {
            Some(i64::from(length.days) * DAY_MS + length.nanoseconds / NANOSECONDS_PER_MS)
        }
        _ => None,
    }
}

pub(crate) const DAY_MS: i64 = 24 * 60 * 60 * 1000;
pub(crate) const NANOSECONDS_PER_MS: i64 = 1_000_000;

/// Refuses what is not a function of the row.
pub(crate) fn deterministic(expr: &Expr) -> Result<(), SqlError> {
    let mut found = None;
    expr.apply(|expr| {
        found = match expr {
            Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) => Some((
                "a subquery in an expression".to_owned(),
                "write the values themselves, or a query of its own",
            )),
            Expr::ScalarFunction(function) => {
                let name = function.func.name();
                let clock = matches!(
                    name,
                    "now" | "current_timestamp" | "current_date" | "current_time" | "today"
                );
                let volatile = function.func.signature().volatility == Volatility::Volatile;
                (clock || volatile).then(|| {
                    (
                        format!("{name}(), which gives another value at each replay,"),
                        "use the event time of the row",
                    )
                })
            }
            _ => None,
        };
        Ok::<_, DataFusionError>(match found {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    })?;
    match found {
        Some((what, instead)) => Err(refused(&what, instead)),
        None => Ok(()),
    }
}
