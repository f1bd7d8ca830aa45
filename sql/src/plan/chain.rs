//! The walk up an analysed plan: from the topic through filters, projections and one aggregate.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::error::DataFusionError;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, Projection, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr, create_physical_expr};

use crate::error::SqlError;
use crate::operator::assign::Windows;
use crate::operator::kernel::Kernel;
use crate::operator::ordered;
use crate::operator::project::{Step, Transform};
use crate::plan::bounds::end_of_last_moment;
use crate::plan::grouping_sets::distinct;
use crate::plan::output::key_places;
use crate::plan::refuse::{refused, unsupported};
use crate::plan::unnest::lists_of;
use crate::plan::window::{Window, end_mark, marked_window, start_mark};

/// Where a column comes from, as far as the query only passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Computed,
    /// A column of the topic's table, by its place there.
    Column(usize),
    WindowStart,
    WindowEnd,
    /// The last moment of the window.
    WindowTime,
    Group(usize),
}

impl Origin {
    pub(crate) fn is_window(self) -> bool {
        matches!(self, Self::WindowStart | Self::WindowEnd | Self::WindowTime)
    }
}

/// The chain up to a node of the plan.
pub(crate) struct Chain {
    /// Since the topic, or since the aggregate.
    pub(crate) transform: Transform,
    pub(crate) origins: Vec<Origin>,
    /// Whether rows were given their windows.
    pub(crate) has_windows: bool,
    /// The time that these are of, and the columns that each have sessions of their own.
    pub(crate) window_time: Origin,
    pub(crate) window_keys: Vec<Origin>,
    /// Whether some rows were left out since then by what differs between those of a session.
    leaves_rows_out: bool,
    /// Whether something was computed of a window's bounds, so that slices can not stand for them.
    pub(crate) computes_with_bounds: bool,
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
    /// Windows, if groups have them: how rows come to the aggregate.
    pub(crate) windows: Option<Windows>,
}

impl Chain {
    /// Whether what leaves tells the groups of its aggregate apart, if it has one.
    pub(crate) fn tells_groups(&self) -> bool {
        let Some(grouped) = &self.aggregate else {
            return true;
        };
        key_places(grouped, &self.origins).is_ok()
    }
}

pub(crate) struct Walk<'a> {
    pub(crate) source_schema: &'a SchemaRef,
    pub(crate) window: Option<Window>,
    pub(crate) properties: ExecutionProps,
}

impl Walk<'_> {
    pub(crate) fn chain(&self, plan: &LogicalPlan) -> Result<Chain, SqlError> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let (schema, columns) = match &scan.projection {
                    Some(columns) => (
                        Arc::new(self.source_schema.project(columns)?),
                        columns.clone(),
                    ),
                    None => (
                        Arc::clone(self.source_schema),
                        (0..self.source_schema.fields().len()).collect(),
                    ),
                };
                Ok(Chain {
                    origins: columns.into_iter().map(Origin::Column).collect(),
                    transform: Transform::over(schema),
                    has_windows: false,
                    window_time: Origin::Computed,
                    window_keys: Vec::new(),
                    leaves_rows_out: false,
                    computes_with_bounds: false,
                    aggregate: None,
                })
            }
            LogicalPlan::SubqueryAlias(alias) => self.chain(&alias.input),
            LogicalPlan::Filter(filter) => {
                let mut chain = self.chain(&filter.input)?;
                let input = filter.input.schema();
                chain.computes_with_bounds |= reads_bounds(&filter.predicate, input, &chain)?;
                for column in filter.predicate.column_refs() {
                    let origin = chain.origins[input.index_of_column(column)?];
                    chain.leaves_rows_out |=
                        chain.has_windows && !chain.window_keys.contains(&origin);
                }
                let predicate = self.physical(&filter.predicate, input)?;
                chain.transform.push(Step::Filter(predicate));
                Ok(chain)
            }
            LogicalPlan::Projection(projection) => self.project(projection),
            LogicalPlan::Unnest(unnest) => {
                let mut chain = self.chain(&unnest.input)?;
                let lists = lists_of(unnest, &chain.transform.schema())?;
                let origins = chain.origins.iter().enumerate();
                let origins = origins.map(|(at, origin)| match lists.columns.contains(&at) {
                    true => Origin::Computed,
                    false => *origin,
                });
                chain.origins = origins.collect();
                chain.leaves_rows_out |= chain.has_windows;
                chain.transform.push(Step::Unnest(lists));
                Ok(chain)
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let groups: Vec<Expr> = input
                    .schema()
                    .iter()
                    .map(|(qualifier, field)| Expr::Column((qualifier, field).into()))
                    .collect();
                self.aggregate(input, &groups, &[], plan.schema())
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(
                &aggregate.input,
                &aggregate.group_expr,
                &aggregate.aggr_expr,
                &aggregate.schema,
            ),
            other => Err(unsupported(other)),
        }
    }

    fn project(&self, projection: &Projection) -> Result<Chain, SqlError> {
        let mut chain = self.chain(&projection.input)?;
        let mut input = projection.input.schema().as_ref().clone();
        let mut exprs = projection.expr.clone();
        if let Some((_, time)) = exprs.iter().find_map(marked_time) {
            chain.window_time = origin(&time, &input, &chain)?;
            for key in self.window.iter().flat_map(|window| &window.keys) {
                // One that nothing groups by is not read.
                let at = input.index_of_column(&Column::new_unqualified(key));
                let origin = at.map_or(Origin::Computed, |at| chain.origins[at]);
                chain.window_keys.push(origin);
            }
        }
        if give_windows(
            &mut chain.transform,
            &mut input,
            &mut exprs,
            self.window.as_slice(),
        )? {
            chain
                .origins
                .extend([Origin::WindowStart, Origin::WindowEnd]);
            chain.has_windows = true;
        }
        let mut origins = Vec::new();
        let mut expressions = Vec::new();
        let mut fields = Vec::new();
        for (expr, field) in exprs.iter().zip(projection.schema.fields()) {
            let origin = origin(expr, &input, &chain)?;
            if origin == Origin::Computed {
                chain.computes_with_bounds |= reads_bounds(expr, &input, &chain)?;
            }
            origins.push(origin);
            let expression = self.physical(expr, &input)?;
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

    fn aggregate(
        &self,
        below: &LogicalPlan,
        group_expr: &[Expr],
        aggr_expr: &[Expr],
        schema: &DFSchema,
    ) -> Result<Chain, SqlError> {
        let mut chain = self.chain(below)?;
        if chain.aggregate.is_some() {
            return Err(refused(
                "an aggregate over an aggregate",
                "create a materialized view of the inner one and read it in a second query",
            ));
        }
        if group_expr.is_empty() {
            return Err(refused(
                "an aggregate without GROUP BY",
                "group by a window, for example GROUP BY window_start, window_end over \
                 TUMBLE(TABLE topic, DESCRIPTOR(time_column), INTERVAL '1 hour')",
            ));
        }
        let input = below.schema();
        let rows = chain.transform.schema();
        let mut groups = Vec::new();
        let mut names = Vec::new();
        let mut origins = Vec::new();
        let mut fields = Vec::new();
        for (expr, field) in distinct(group_expr)?.iter().zip(schema.fields()) {
            if matches!(expr, Expr::GroupingSet(_)) {
                return Err(SqlError::Bug {
                    cause: "GROUPING SETS are planned as a graph".to_owned(),
                });
            }
            let group = self.physical(expr, input)?;
            let origin = origin(expr, input, &chain)?;
            if origin == Origin::Computed {
                chain.computes_with_bounds |= reads_bounds(expr, input, &chain)?;
            }
            origins.push(origin);
            fields.push(Field::new(field.name(), group.data_type(&rows)?, true));
            names.push(field.name().clone());
            groups.push(group);
        }
        let mut aggregates = Vec::new();
        for expr in aggr_expr {
            chain.computes_with_bounds |= reads_bounds(expr, input, &chain)?;
            let kernel = self.kernel(expr, input, &rows)?;
            let name = format!("aggregate_{}", aggregates.len());
            let data_type = kernel.function.field().data_type().clone();
            fields.push(Field::new(name, data_type, true));
            aggregates.push(kernel);
        }
        let windows = self.group_windows(&mut chain, &origins, &aggregates)?;
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let count = groups.len();
        let passed = (0..count).map(Origin::Group);
        let computed = aggregates.iter().map(|_| Origin::Computed);
        Ok(Chain {
            transform: Transform::over(Arc::clone(&schema)),
            origins: passed.chain(computed).collect(),
            has_windows: chain.has_windows,
            window_time: chain.window_time,
            window_keys: chain.window_keys,
            leaves_rows_out: false,
            computes_with_bounds: false,
            aggregate: Some(Grouped {
                input: chain.transform,
                groups,
                names,
                origins,
                aggregates,
                schema,
                windows,
            }),
        })
    }

    /// Decides how rows come to groups with windows: as slices where the windows can be put together
    /// of them, else once for each window.
    fn group_windows(
        &self,
        chain: &mut Chain,
        origins: &[Origin],
        aggregates: &[Kernel],
    ) -> Result<Option<Windows>, SqlError> {
        let Some(window) = self.window.as_ref().filter(|_| chain.has_windows) else {
            return Ok(None);
        };
        let by_window = origins.iter().any(|origin| origin.is_window());
        let by_end = origins.contains(&Origin::WindowEnd) || origins.contains(&Origin::WindowTime);
        match window.kind {
            // Others are those of a graph.
            Windows::Session { .. } if !Self::are_sessions(chain, origins) => return Ok(None),
            Windows::Session { .. } => {}
            _ if !by_window => return Ok(None),
            Windows::Tumble { .. } => {}
            Windows::Hop { size_ms, .. } if chain.computes_with_bounds => {
                return Ok(Some(Windows::Tumble { size_ms }));
            }
            Windows::Hop { .. } => {}
            Windows::Cumulate { .. } if chain.computes_with_bounds => {
                return Err(refused(
                    "an expression of window_start or window_end below the aggregate of CUMULATE",
                    "compare the time column, or write the condition after HAVING",
                ));
            }
            Windows::Cumulate { .. } if !by_end => {
                return Err(refused(
                    "GROUP BY window_start without window_end over CUMULATE, whose windows begin together",
                    "group by window_start, window_end",
                ));
            }
            Windows::Cumulate { .. } => {}
        }
        if !matches!(window.kind, Windows::Tumble { .. })
            && let Some(name) = aggregates.iter().find_map(depends_on_order)
        {
            return Err(refused(
                &format!(
                    "{name} over windows that are put together of parts, since it depends on the order of rows"
                ),
                "use TUMBLE, or an aggregate that does not",
            ));
        }
        chain.transform.leave_slices();
        Ok(Some(window.kind))
    }

    /// Whether groups are the sessions of all rows, as the operator of a chain finds them.
    fn are_sessions(chain: &Chain, origins: &[Origin]) -> bool {
        let keys = &chain.window_keys;
        let mut plain = origins.iter().filter(|origin| !origin.is_window());
        !keys.contains(&Origin::Computed)
            && plain.all(|origin| keys.contains(origin))
            && keys.iter().all(|key| origins.contains(key))
            && origins.iter().any(|origin| origin.is_window())
            && !chain.computes_with_bounds
            && !chain.leaves_rows_out
    }

    fn kernel(&self, expr: &Expr, input: &DFSchema, rows: &Schema) -> Result<Kernel, SqlError> {
        let kernel = lower(expr, input, rows)?;
        let function = &kernel.function;
        let name = function.fun().name();
        // Other functions would see the distinct values in the order of a hash table.
        let is_exact = !function.field().data_type().is_floating();
        if function.is_distinct()
            && !matches!(name, "count" | "min" | "max")
            && !(name == "sum" && is_exact)
        {
            return Err(refused(
                &format!("DISTINCT in {name}"),
                "DISTINCT is taken in count, min, max, and sum of whole numbers or decimals",
            ));
        }
        Ok(kernel)
    }

    fn physical(&self, expr: &Expr, input: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, SqlError> {
        deterministic(expr)?;
        let expr = simplified(expr, input)?;
        Ok(create_physical_expr(&expr, input, &self.properties)?)
    }
}

/// Writes out functions that the engine leaves to its optimiser and can not compute as they stand, such as `coalesce`.
/// It comes after [`deterministic`], so that no reading of a clock is folded into a constant here.
pub(crate) fn simplified(expr: &Expr, input: &DFSchema) -> Result<Expr, SqlError> {
    let context = SimplifyContext::builder().with_schema(Arc::new(input.clone()));
    let simplifier = ExprSimplifier::new(context.build());
    let written_out = expr.clone().transform_up(|expr| match expr {
        Expr::ScalarFunction(_) => Ok(Transformed::yes(simplifier.simplify(expr)?)),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(written_out.data)
}

/// An aggregate function, ready to be computed.
pub(crate) fn lower(expr: &Expr, input: &DFSchema, rows: &Schema) -> Result<Kernel, SqlError> {
    deterministic(expr)?;
    let expr = simplified(expr, input)?;
    let properties = ExecutionProps::new();
    let lowered = LoweredAggregateBuilder::new(&expr, input, rows, &properties).build()?;
    let function = lowered.aggregate;
    let orders = function.order_bys();
    let ordered = function.expressions();
    let is_argument = |by: &PhysicalSortExpr| ordered.contains(&by.expr);
    if function.is_distinct() && !orders.iter().all(is_argument) {
        return Err(refused(
            &format!(
                "DISTINCT in {} ordered by something else, since equal values have several places then",
                function.fun().name()
            ),
            "order by the value itself, and by its text where a text is made of it, ORDER BY CAST(x AS VARCHAR); or leave DISTINCT out",
        ));
    }
    Ok(Kernel {
        function,
        filter: lowered.filter,
    })
}

/// What an expression passes on unchanged.
fn origin(expr: &Expr, input: &DFSchema, below: &Chain) -> Result<Origin, SqlError> {
    let mut inner = expr;
    while let Expr::Alias(alias) = inner {
        inner = &alias.expr;
    }
    if let Expr::Column(column) = inner {
        return Ok(below.origins[input.index_of_column(column)?]);
    }
    let end = end_of_last_moment(inner).map(|end| origin(end, input, below));
    Ok(match end.transpose()? {
        Some(Origin::WindowEnd) => Origin::WindowTime,
        _ => Origin::Computed,
    })
}

/// Whether an expression reads the start or end of a window.
fn reads_bounds(expr: &Expr, input: &DFSchema, below: &Chain) -> Result<bool, SqlError> {
    let mut reads = false;
    expr.apply(|expr| {
        if let Expr::Column(column) = expr {
            reads |= below.origins[input.index_of_column(column)?].is_window();
        }
        Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
    })?;
    Ok(reads)
}

/// Gives rows the windows that the expressions have marks of, as two more columns; the marks are read
/// from there then. Answers whether there are any.
pub(crate) fn give_windows(
    transform: &mut Transform,
    input: &mut DFSchema,
    exprs: &mut Vec<Expr>,
    windows: &[Window],
) -> Result<bool, SqlError> {
    let Some((index, time)) = exprs.iter().find_map(marked_time) else {
        return Ok(false);
    };
    let window = windows.get(index).ok_or_else(|| SqlError::Bug {
        cause: format!("there is no window {index}"),
    })?;
    deterministic(&time)?;
    let time = simplified(&time, input)?;
    let time = create_physical_expr(&time, input, &ExecutionProps::new())?;
    transform.push_windows(time, window.kind, [start_mark(index), end_mark(index)])?;
    read_marks(&transform.schema(), input, exprs)?;
    Ok(true)
}

/// Has expressions over `input` read the bounds of windows from the last two columns of `rows`.
pub(crate) fn read_marks(
    rows: &Schema,
    input: &mut DFSchema,
    exprs: &mut Vec<Expr>,
) -> Result<(), SqlError> {
    let added = rows.fields().iter().skip(rows.fields().len() - 2);
    let added = added
        .map(|field| field.as_ref().clone())
        .collect::<Vec<_>>();
    *input = input.join(&DFSchema::try_from(Schema::new(added))?)?;
    *exprs = std::mem::take(exprs)
        .into_iter()
        .map(unmarked)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(())
}

/// The window and the time that a mark is over, if the expression has one.
pub(crate) fn marked_time(expr: &Expr) -> Option<(usize, Expr)> {
    let mut found = None;
    let walked = expr.apply(|expr| {
        if let Expr::ScalarFunction(function) = expr
            && let Some(window) = marked_window(function.func.name())
        {
            found = function.args.first().map(|time| (window, time.clone()));
            return Ok::<_, DataFusionError>(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.ok().and(found)
}

/// Reads the windows' columns where the marks were.
fn unmarked(expr: Expr) -> Result<Expr, DataFusionError> {
    let replaced = expr.transform(|expr| {
        Ok(match &expr {
            Expr::ScalarFunction(function) if marked_window(function.func.name()).is_some() => {
                let column = Column::new_unqualified(function.func.name());
                Transformed::yes(Expr::Column(column))
            }
            _ => Transformed::no(expr),
        })
    })?;
    Ok(replaced.data)
}

/// The name of a function whose result depends on the order in which its rows come.
pub(crate) fn depends_on_order(kernel: &Kernel) -> Option<String> {
    let name = kernel.function.fun().name();
    let is_ordered = !kernel.function.order_bys().is_empty();
    (ordered::depends_on_order(name) && !is_ordered).then(|| name.to_owned())
}

/// Refuses what is not a function of the row.
pub(crate) fn deterministic(expr: &Expr) -> Result<(), SqlError> {
    match no_function_of_the_row(expr)? {
        Some((what, instead)) => Err(refused(&what, instead)),
        None => Ok(()),
    }
}

/// What in an expression is not a function of the row, and what to write instead.
pub(crate) fn no_function_of_the_row(
    expr: &Expr,
) -> Result<Option<(String, &'static str)>, SqlError> {
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
                let instead = match clock {
                    true => "use the event time of the row",
                    false => "let the producer send it, or compute it of columns of the row",
                };
                (clock || volatile).then(|| {
                    let what = format!("{name}(), which gives another value at each replay");
                    (what, instead)
                })
            }
            _ => None,
        };
        Ok::<_, DataFusionError>(match found {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

/// How many windows a plan gives to rows.
pub(crate) fn marks_of(plan: &LogicalPlan) -> usize {
    let mut found = std::collections::BTreeSet::new();
    let walked = plan.apply_with_subqueries(|node| {
        let exprs = node.expressions();
        found.extend(
            exprs
                .iter()
                .filter_map(marked_time)
                .map(|(window, _)| window),
        );
        Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "the walk itself does not fail");
    found.len()
}
