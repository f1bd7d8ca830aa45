//! From a query to what a continuous query computes: one chain from a topic to its output.
//!
//! The query engine parses names, checks types and inserts casts; its analysed plan is then walked from
//! the topic up: filters and projections, at most one aggregate, filters and projections. What is not
//! such a chain is refused by the name of the construct, with what to do instead. Only expressions
//! that depend on the row alone are taken, since a replay must compute the same.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue, TableReference};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Operator as Sign, Volatility};
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::expressions::{Column, cast};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{ObjectName, Query, Statement as SyntaxTree, Visit, Visitor};

use millpond_proto::limits;

use crate::catalog;
use crate::error::SqlError;
use crate::operator::Operator;
use crate::operator::project::{Project, Step, Transform};
use crate::operator::window::{self, Grouping, Kernel, WindowColumn};
use crate::plan::window::{Window, rewrite};
use crate::runtime;
use crate::statement::Emit;
use crate::topic::{ColumnSpec, TopicInfo, Topics};

/// What a continuous query computes.
#[derive(Clone, Debug)]
pub struct ContinuousPlan {
    /// The topic that it reads.
    pub source: TopicInfo,
    /// Positions in that topic's table that are decoded: first those that the query reads.
    pub decoded: Vec<usize>,
    /// How many of those the query reads.
    pub query_columns: usize,
    /// Where the event time is among the decoded columns, if the topic declares it.
    pub time_column: Option<usize>,
    /// Whether the query itself deals with rows whose body does not parse.
    pub reads_undecodable: bool,
    /// Whether rows belong to windows; then the source declares a watermark.
    pub windowed: bool,
    /// Output columns, as a topic declares them.
    pub columns: Vec<ColumnSpec>,
    /// Output columns that make up the key; empty when every row counts.
    pub primary_key: Vec<String>,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Rows(Transform),
    Groups(Box<Grouping>),
}

impl ContinuousPlan {
    /// The operator that computes it, without state yet.
    ///
    /// # Errors
    /// [`SqlError`] when a group column's type can not be a key.
    pub fn operator(&self) -> Result<Box<dyn Operator>, SqlError> {
        Ok(match &self.shape {
            Shape::Rows(transform) => Box::new(Project::new(transform.clone())),
            Shape::Groups(grouping) => {
                let operator = window::Window::new(grouping.as_ref().clone());
                Box::new(operator.map_err(|error| {
                    SqlError::invalid(error.to_string(), "group by columns of plain types")
                })?)
            }
        })
    }

    /// Whether it emits each group once, when its window is over.
    #[must_use]
    pub fn emits_on_close(&self) -> bool {
        matches!(&self.shape, Shape::Groups(grouping) if grouping.emit == window::Emit::OnClose)
    }

    /// Whether it groups rows.
    #[must_use]
    pub fn is_grouped(&self) -> bool {
        matches!(self.shape, Shape::Groups(_))
    }

    /// Brings the output to the columns of a topic that exists already, by position.
    ///
    /// # Errors
    /// [`SqlError`] when their number differs or a column can not be cast.
    pub fn into_target(mut self, target: &TopicInfo) -> Result<Self, SqlError> {
        let Shape::Rows(transform) = &mut self.shape else {
            return Err(SqlError::invalid(
                "a job that inserts into a topic has no aggregates",
                "write CREATE MATERIALIZED VIEW name AS SELECT …, whose result is a topic of its own",
            ));
        };
        let schema = catalog::table_schema(target)?;
        let body: Vec<&ColumnSpec> = target
            .columns
            .iter()
            .filter(|column| column.expression.is_none())
            .collect();
        if target.columns.is_empty() {
            return Ok(self);
        }
        let from = transform.schema();
        if from.fields().len() != body.len() {
            return Err(SqlError::invalid(
                format!(
                    "the query has {} columns, topic {} takes {}",
                    from.fields().len(),
                    target.name,
                    body.len()
                ),
                "select one expression for each column of the topic, in its order",
            ));
        }
        let mut expressions: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        let mut fields = Vec::new();
        for (index, (column, field)) in body.iter().zip(from.fields()).enumerate() {
            let wanted = schema.field_with_name(&column.name)?.data_type().clone();
            if !arrow::compute::can_cast_types(field.data_type(), &wanted) {
                return Err(SqlError::invalid(
                    format!(
                        "column {} of the query is {}, column {} of topic {} is {}",
                        field.name(),
                        field.data_type(),
                        column.name,
                        target.name,
                        column.sql_type
                    ),
                    "cast it in the query",
                ));
            }
            let value = Arc::new(Column::new(field.name(), index));
            fields.push(Field::new(&column.name, wanted.clone(), true));
            expressions.push(cast(value, &from, wanted)?);
        }
        transform.push(Step::Project {
            expressions,
            schema: Arc::new(Schema::new(fields)),
        });
        Ok(self)
    }
}

/// Plans a query of a view (`emit` as it says) or of a job (`emit` = changes).
///
/// # Errors
/// [`SqlError`] naming the construct that a continuous query does not take, and what to write instead.
pub async fn plan(
    query: &Query,
    emit: Emit,
    topics: &dyn Topics,
) -> Result<ContinuousPlan, SqlError> {
    let (query, windows) = rewrite(query)?;
    let source = source_of(&query, topics)?;
    if !source.primary_key.is_empty() {
        return Err(SqlError::invalid(
            format!(
                "topic {} is updated by key, and a continuous query reads topics whose rows stay",
                source.name
            ),
            "read the topic that it is made of, or a view with EMIT ON WINDOW CLOSE",
        ));
    }
    let source_schema = catalog::table_schema(&source)?;
    let window = match windows.as_slice() {
        [] => None,
        [window] => Some(window.clone()),
        _ => {
            return Err(refused(
                "more than one window function",
                "write one query per window",
            ));
        }
    };
    let logical = analyse(query, &source, &source_schema).await?;
    let walk = Walk {
        source_schema: &source_schema,
        window: window.as_ref(),
        properties: ExecutionProps::new(),
    };
    let chain = walk.chain(&logical)?;
    finish(
        chain,
        emit,
        window.as_ref(),
        Input::of(&source, &source_schema, &logical)?,
    )
}

/// What is decoded of the source.
struct Input {
    source: TopicInfo,
    decoded: Vec<usize>,
    query_columns: usize,
    time_column: Option<usize>,
    reads_undecodable: bool,
}

impl Input {
    fn of(source: &TopicInfo, schema: &Schema, plan: &LogicalPlan) -> Result<Self, SqlError> {
        let mut read = None;
        plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                read.clone_from(&scan.projection);
            }
            Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
        })?;
        let mut decoded: Vec<usize> = read.unwrap_or_else(|| (0..schema.fields().len()).collect());
        let query_columns = decoded.len();
        let error = schema.index_of(catalog::DECODE_ERROR)?;
        let reads_undecodable = decoded.contains(&error);
        let mut place = |column: usize| match decoded.iter().position(|at| *at == column) {
            Some(at) => at,
            None => {
                decoded.push(column);
                decoded.len() - 1
            }
        };
        place(error);
        let time_column = match &source.watermark {
            Some(spec) => Some(place(schema.index_of(&spec.column)?)),
            None => None,
        };
        Ok(Self {
            source: source.clone(),
            decoded,
            query_columns,
            time_column,
            reads_undecodable,
        })
    }
}

/// Where a column comes from, as far as the query only passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Computed,
    WindowStart,
    WindowEnd,
    Group(usize),
}

/// The chain up to a node of the plan.
struct Chain {
    /// Since the topic, or since the aggregate.
    transform: Transform,
    origins: Vec<Origin>,
    aggregate: Option<Grouped>,
}

/// The aggregate of a chain.
struct Grouped {
    input: Transform,
    groups: Vec<Arc<dyn PhysicalExpr>>,
    names: Vec<String>,
    origins: Vec<Origin>,
    aggregates: Vec<Kernel>,
    schema: SchemaRef,
}

struct Walk<'a> {
    source_schema: &'a SchemaRef,
    window: Option<&'a Window>,
    properties: ExecutionProps,
}

impl Walk<'_> {
    fn chain(&self, plan: &LogicalPlan) -> Result<Chain, SqlError> {
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
fn is_start(expr: &Expr, window: &Window) -> bool {
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

fn bare(mut expr: &Expr) -> &Expr {
    loop {
        expr = match expr {
            Expr::Alias(alias) => &alias.expr,
            Expr::Cast(cast) => &cast.expr,
            other => return other,
        };
    }
}

fn interval_ms(expr: &Expr) -> Option<i64> {
    match bare(expr) {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(length)), _) if length.months == 0 => {
            Some(i64::from(length.days) * DAY_MS + length.nanoseconds / NANOSECONDS_PER_MS)
        }
        _ => None,
    }
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const NANOSECONDS_PER_MS: i64 = 1_000_000;

fn finish(
    chain: Chain,
    emit: Emit,
    window: Option<&Window>,
    input: Input,
) -> Result<ContinuousPlan, SqlError> {
    let source = input.source;
    let columns = columns_of(&chain.transform.schema())?;
    let Some(grouped) = chain.aggregate else {
        if emit == Emit::OnWindowClose {
            return Err(without_window());
        }
        return Ok(ContinuousPlan {
            source,
            decoded: input.decoded,
            query_columns: input.query_columns,
            time_column: input.time_column,
            reads_undecodable: input.reads_undecodable,
            windowed: false,
            columns,
            primary_key: Vec::new(),
            shape: Shape::Rows(chain.transform),
        });
    };

    let windowed = window.and_then(|window| {
        let column = grouped
            .origins
            .iter()
            .position(|origin| matches!(origin, Origin::WindowStart | Origin::WindowEnd))?;
        let key = WindowColumn {
            column,
            is_end: grouped.origins[column] == Origin::WindowEnd,
            size_ms: window.size_ms,
        };
        Some((window, key))
    });
    if let Some((window, _)) = windowed {
        let declared = source.watermark.as_ref();
        if declared.is_none_or(|declared| declared.column != window.time_column) {
            return Err(without_watermark(&source, window));
        }
    } else if emit == Emit::OnWindowClose {
        return Err(without_window());
    }
    let primary_key = match emit {
        Emit::OnWindowClose => Vec::new(),
        Emit::Changes => primary_key(&grouped, &chain.origins, &columns)?,
    };
    Ok(ContinuousPlan {
        source,
        decoded: input.decoded,
        query_columns: input.query_columns,
        time_column: input.time_column,
        reads_undecodable: input.reads_undecodable,
        windowed: windowed.is_some(),
        columns,
        primary_key,
        shape: Shape::Groups(Box::new(Grouping {
            input: grouped.input,
            groups: grouped.groups,
            aggregates: grouped.aggregates,
            schema: grouped.schema,
            output: chain.transform,
            window: windowed.map(|(_, key)| key),
            emit: match emit {
                Emit::Changes => window::Emit::Changes,
                Emit::OnWindowClose => window::Emit::OnClose,
            },
        })),
    })
}

/// The output columns that tell the groups apart.
fn primary_key(
    grouped: &Grouped,
    outputs: &[Origin],
    columns: &[ColumnSpec],
) -> Result<Vec<String>, SqlError> {
    let is_window = |group: usize| {
        matches!(
            grouped.origins[group],
            Origin::WindowStart | Origin::WindowEnd
        )
    };
    let output_of = |group: usize| outputs.iter().position(|o| *o == Origin::Group(group));
    let window_is_out =
        (0..grouped.groups.len()).any(|group| is_window(group) && output_of(group).is_some());
    let mut key = Vec::new();
    for group in 0..grouped.groups.len() {
        match output_of(group) {
            Some(index) => key.push(columns[index].name.clone()),
            // Start and end of a window say the same, so one of them is enough.
            None if is_window(group) && window_is_out => {}
            None => {
                let name = &grouped.names[group];
                return Err(SqlError::invalid(
                    format!(
                        "the select list lacks the group column {name}, so rows of a group could not be told apart"
                    ),
                    format!("add {name} to the select list"),
                ));
            }
        }
    }
    Ok(key)
}

/// The one topic that a query reads.
fn source_of(query: &Query, topics: &dyn Topics) -> Result<TopicInfo, SqlError> {
    struct Tables {
        names: BTreeSet<String>,
        local: BTreeSet<String>,
    }
    impl Visitor for Tables {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
                self.local
                    .insert(crate::statement::name_of(&cte.alias.name));
            }
            ControlFlow::Continue(())
        }
        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
            let parts: Vec<String> = relation
                .0
                .iter()
                .map(|part| match part.as_ident() {
                    Some(ident) => crate::statement::name_of(ident),
                    None => part.to_string(),
                })
                .collect();
            self.names.insert(parts.join("."));
            ControlFlow::Continue(())
        }
    }
    let mut tables = Tables {
        names: BTreeSet::new(),
        local: BTreeSet::new(),
    };
    let _ = query.visit(&mut tables);
    let names: Vec<&String> = tables.names.difference(&tables.local).collect();
    match names.as_slice() {
        [] => Err(refused(
            "a query without a topic",
            "read a topic: SELECT … FROM topic",
        )),
        [name] => topics.topic(name).ok_or_else(|| {
            let known = topics.topics().into_iter().map(|topic| topic.name);
            SqlError::unknown("topic", name, None, known)
        }),
        _ => Err(joins()),
    }
}

async fn analyse(
    query: Query,
    source: &TopicInfo,
    schema: &SchemaRef,
) -> Result<LogicalPlan, SqlError> {
    let config = runtime::config(1).with_create_default_catalog_and_schema(true);
    let runtime = runtime::locked_runtime(limits::QUERY_MEMORY_BYTES)?;
    let context = SessionContext::new_with_state(runtime::session_state(config, runtime));
    context.register_table(
        TableReference::bare(source.name.as_str()),
        Arc::new(EmptyTable::new(Arc::clone(schema))),
    )?;
    let state = context.state();
    let statement = EngineStatement::Statement(Box::new(SyntaxTree::Query(Box::new(query))));
    let plan = state.statement_to_plan(statement).await?;
    let analysed = state
        .analyzer()
        .execute_and_check(plan, state.config_options(), |_, _| {})?;
    // Of all optimisations only this one: do not decode what the query does not read.
    let optimizer = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
    Ok(optimizer.optimize(analysed, &state, |_, _| {})?)
}

/// Refuses what is not a function of the row.
fn deterministic(expr: &Expr) -> Result<(), SqlError> {
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

/// Output columns as a topic declares them.
fn columns_of(schema: &Schema) -> Result<Vec<ColumnSpec>, SqlError> {
    let mut names = BTreeSet::new();
    let mut columns = Vec::new();
    for field in schema.fields() {
        if !names.insert(field.name()) {
            return Err(SqlError::invalid(
                format!("two output columns are named {}", field.name()),
                "name one of them otherwise with AS",
            ));
        }
        columns.push(ColumnSpec {
            name: field.name().clone(),
            sql_type: sql_type(field)?,
            expression: None,
        });
    }
    Ok(columns)
}

fn sql_type(field: &Field) -> Result<String, SqlError> {
    Ok(match field.data_type() {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 | DataType::UInt8 => "SMALLINT".to_owned(),
        DataType::Int32 | DataType::UInt16 => "INT".to_owned(),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "BIGINT".to_owned(),
        DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BYTES".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Timestamp(_, _) => "TIMESTAMP".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        other => {
            return Err(SqlError::invalid(
                format!(
                    "output column {} has type {other}, which no topic declares",
                    field.name()
                ),
                "cast it, for example to VARCHAR",
            ));
        }
    })
}

fn unsupported(plan: &LogicalPlan) -> SqlError {
    match plan {
        LogicalPlan::Join(_) => joins(),
        LogicalPlan::Sort(_) => refused(
            "ORDER BY",
            "leave it out, and sort where the view is read: SELECT … FROM view ORDER BY …",
        ),
        LogicalPlan::Limit(_) => refused(
            "LIMIT",
            "leave it out, and limit where the view is read: SELECT … FROM view LIMIT …",
        ),
        LogicalPlan::Distinct(_) => distinct(),
        LogicalPlan::Union(_) => refused("UNION", "write one query per topic"),
        LogicalPlan::Window(_) => refused(
            "OVER",
            "group by a window, or compute it where the view is read",
        ),
        LogicalPlan::Unnest(_) => refused("UNNEST", "compute it where the view is read"),
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => refused(
            "a query without a topic",
            "read a topic: SELECT … FROM topic",
        ),
        LogicalPlan::RecursiveQuery(_) => {
            refused("WITH RECURSIVE", "compute it where the view is read")
        }
        other => refused(
            &format!("{}", other.display()),
            "write one SELECT over one topic, with WHERE, GROUP BY and HAVING",
        ),
    }
}

fn refused(what: &str, instead: &str) -> SqlError {
    SqlError::invalid(format!("a continuous query does not take {what}"), instead)
}

fn joins() -> SqlError {
    refused(
        "JOIN",
        "read one topic, and join where the view is read: SELECT … FROM view JOIN …",
    )
}

fn distinct() -> SqlError {
    refused(
        "DISTINCT",
        "group by the columns and count: SELECT a, count(*) FROM topic GROUP BY a",
    )
}

fn without_window() -> SqlError {
    SqlError::invalid(
        "EMIT ON WINDOW CLOSE needs groups with a window, and the query has none",
        "group by window_start, window_end over TUMBLE(TABLE topic, DESCRIPTOR(time_column), \
         INTERVAL '1 hour'), or write EMIT CHANGES",
    )
}

fn without_watermark(source: &TopicInfo, window: &Window) -> SqlError {
    let (topic, column) = (&source.name, &window.time_column);
    let declared = match &source.watermark {
        Some(declared) => format!("its watermark is for {}", declared.column),
        None => "it declares no watermark".to_owned(),
    };
    SqlError::invalid(
        format!(
            "a window over {column} needs to know how late rows of topic {topic} may come, and {declared}"
        ),
        format!(
            "make the topic with CREATE TOPIC {topic} (…, WATERMARK FOR {column} AS {column} - INTERVAL '5 minutes')"
        ),
    )
}
