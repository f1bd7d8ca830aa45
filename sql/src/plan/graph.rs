//! From an analysed plan to a graph: joins, aggregates over changing tables, first rows per group.
//!
//! Each relation of the plan becomes a node. Two things are inferred on the way up: what can happen to
//! rows (they stay, or come and go) and which columns tell a row from all others; both decide how rows
//! leave the query. A construct that has no node is refused by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Distinct, Expr, Join, LogicalPlan, Operator as Sign, TableScan};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use crate::error::SqlError;
use crate::operator::aggregate::AggregateSpec;
use crate::operator::assign::Windows;
use crate::operator::graph::{GraphPlan, Kind, Leaving, Mode, Planned};
use crate::operator::group::STATE_TTL_MS;
use crate::operator::join::JoinSpec;
use crate::operator::latest::LatestSpec;
use crate::operator::moment::{Clock, Ending, Horizon};
use crate::operator::project::{Step, Transform};
use crate::operator::top::TopSpec;
use crate::plan::as_of_node::AsOfNode;
use crate::plan::bounds::{Bounded, Time, bounded, distance, time_of};
use crate::plan::chain::{
    depends_on_order, deterministic, give_windows, lower, marked_time, simplified,
};
use crate::plan::continuous::lateness_ms;
use crate::plan::grouping_sets::Sets;
use crate::plan::over_build::{is_row_number, window_function};
use crate::plan::refuse::{refused, unsupported};
use crate::plan::source::{Input, Source};
use crate::plan::window::Window;
use crate::statement::{Emit, QueryOptions};

/// A relation of the plan as a node, and what is known of its rows.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    pub(super) node: usize,
    pub(crate) mode: Mode,
    /// Columns that tell a row from all others.
    pub(crate) unique: Option<Vec<usize>>,
    /// Columns whose times move on.
    pub(crate) times: Vec<Time>,
}

/// A planned graph, what it reads and how it is told.
pub(crate) struct Built {
    pub(crate) graph: GraphPlan,
    pub(crate) inputs: Vec<Input>,
    /// One line per node, the last first.
    pub(crate) explained: Vec<String>,
}

pub(super) struct Builder<'a> {
    sources: &'a [Source],
    pub(super) windows: &'a [Window],
    inputs: Vec<Input>,
    pub(super) nodes: Vec<Planned>,
    lines: Vec<String>,
    /// Row numbers that a condition holds to at most so many.
    most: BTreeMap<*const datafusion::logical_expr::Window, u64>,
    pub(super) options: QueryOptions,
    /// Whether a topic with a key is read as the versions of its rows.
    pub(super) reads_versions: bool,
    pub(super) properties: ExecutionProps,
}

/// Plans a query as a graph.
///
/// # Errors
/// [`SqlError`] naming the construct that has no node.
pub(crate) fn build(
    plan: &LogicalPlan,
    sources: &[Source],
    windows: &[Window],
    emit: Emit,
    options: QueryOptions,
) -> Result<Built, SqlError> {
    let mut builder = Builder {
        sources,
        windows,
        inputs: inputs_of(plan, sources)?,
        nodes: Vec::new(),
        lines: Vec::new(),
        most: BTreeMap::new(),
        options,
        reads_versions: false,
        properties: ExecutionProps::new(),
    };
    let mut last = builder.relation(plan)?;
    if emit == Emit::OnWindowClose {
        last = builder.close(last)?;
    }
    let leaving = match (last.mode, last.unique) {
        (Mode::Append, _) => Leaving::Append,
        (Mode::Retract, Some(columns)) => Leaving::Upsert(columns),
        (Mode::Retract, None) => Leaving::Rows,
    };
    let mut explained = builder.lines;
    explained.reverse();
    Ok(Built {
        graph: GraphPlan {
            nodes: builder.nodes,
            leaving,
            debezium: false,
            text_keys: false,
        },
        inputs: builder.inputs,
        explained,
    })
}

/// For each topic the columns that any of its scans reads; of an upsert topic also key and body.
fn inputs_of(plan: &LogicalPlan, sources: &[Source]) -> Result<Vec<Input>, SqlError> {
    let mut inputs = Vec::new();
    for source in sources {
        let mut columns: Vec<usize> = Vec::new();
        let mut read = |column: usize| {
            if !columns.contains(&column) {
                columns.push(column);
            }
        };
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && scan.table_name.table() == source.topic.name
            {
                match &scan.projection {
                    Some(columns) => columns.iter().copied().for_each(&mut read),
                    None => (0..source.schema.fields().len()).for_each(&mut read),
                }
            }
            Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
        })?;
        if !source.topic.primary_key.is_empty() {
            read(source.schema.index_of("_key")?);
            read(source.schema.index_of("_body")?);
        }
        inputs.push(Input::reading(&source.topic, &source.schema, columns)?);
    }
    Ok(inputs)
}

/// Columns that may all be NULL.
pub(super) fn nullable(fields: impl IntoIterator<Item = (String, DataType)>) -> SchemaRef {
    let fields = fields.into_iter();
    let fields = fields.map(|(name, kind)| Field::new(name, kind, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

pub(super) fn named(schema: &Schema) -> Vec<(String, DataType)> {
    let fields = schema.fields().iter();
    fields
        .map(|field| (field.name().clone(), field.data_type().clone()))
        .collect()
}

/// The column that an expression passes on.
pub(super) fn passed(expr: &Expr, input: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Alias(alias) => passed(&alias.expr, input),
        Expr::Column(column) => input.index_of_column(column).ok(),
        _ => None,
    }
}

impl Builder<'_> {
    pub(super) fn push(&mut self, kind: Kind, inputs: Vec<usize>, schema: SchemaRef) -> usize {
        self.nodes.push(Planned {
            kind,
            inputs,
            schema,
        });
        self.nodes.len() - 1
    }

    pub(super) fn tell(&mut self, what: &str, edge: &Edge) {
        let schema = &self.nodes[edge.node].schema;
        let names = |columns: &[usize]| -> String {
            let names = columns
                .iter()
                .map(|column| schema.field(*column).name().as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let mode = match (edge.mode, &edge.unique) {
            (Mode::Append, _) => "append".to_owned(),
            (Mode::Retract, Some(columns)) => format!("upsert by ({})", names(columns)),
            (Mode::Retract, None) => "retract".to_owned(),
        };
        self.lines.push(format!("{what}: {mode}"));
    }

    pub(super) fn relation(&mut self, plan: &LogicalPlan) -> Result<Edge, SqlError> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.relation(&alias.input),
            LogicalPlan::Filter(filter) => {
                for condition in split_conjunction(&filter.predicate) {
                    self.note_most(condition, &filter.input);
                }
                self.filter(&filter.predicate, &filter.input)
            }
            LogicalPlan::Window(window)
                if is_row_number(window) && self.most.contains_key(&std::ptr::from_ref(window)) =>
            {
                self.top(window)
            }
            LogicalPlan::Window(window) => self.over(window),
            LogicalPlan::Projection(projection) => self.project(
                &projection.expr,
                &projection.input,
                projection.schema.as_ref(),
            ),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(
                &aggregate.input,
                &aggregate.group_expr,
                &aggregate.aggr_expr,
                &aggregate.schema,
            ),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let groups: Vec<Expr> = input
                    .schema()
                    .iter()
                    .map(|(qualifier, field)| Expr::Column((qualifier, field).into()))
                    .collect();
                self.aggregate(input, &groups, &[], plan.schema())
            }
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Extension(extension) => {
                match extension.node.as_any().downcast_ref::<AsOfNode>() {
                    Some(node) => self.as_of(node),
                    None => Err(unsupported(plan)),
                }
            }
            LogicalPlan::Union(union) => {
                let mut inputs = Vec::new();
                let mut mode = Mode::Append;
                let mut times: Option<Vec<Time>> = None;
                for input in &union.inputs {
                    let edge = self.relation(input)?;
                    if edge.mode == Mode::Retract {
                        mode = Mode::Retract;
                    }
                    inputs.push(edge.node);
                    times = Some(match times {
                        None => edge.times,
                        Some(before) => in_both(&before, &edge.times),
                    });
                }
                let first = Arc::clone(&self.nodes[inputs[0]].schema);
                let names = union
                    .schema
                    .fields()
                    .iter()
                    .map(|field| field.name().clone());
                let kinds = first.fields().iter().map(|field| field.data_type().clone());
                let schema = nullable(names.zip(kinds));
                let edge = Edge {
                    node: self.push(Kind::Union, inputs, schema),
                    mode,
                    unique: None,
                    times: times.unwrap_or_default(),
                };
                self.tell("union", &edge);
                Ok(edge)
            }
            other => Err(unsupported(other)),
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Result<Edge, SqlError> {
        let name = scan.table_name.table();
        let input = self
            .sources
            .iter()
            .position(|source| source.topic.name == name);
        let input = input.ok_or_else(|| SqlError::Bug {
            cause: format!("the plan reads {name}, which the query does not name"),
        })?;
        let source = &self.sources[input];
        let wanted = match &scan.projection {
            Some(columns) => columns.clone(),
            None => (0..source.schema.fields().len()).collect(),
        };
        let read = &self.inputs[input];
        let place = |column: &usize| {
            let places = read.decoded[..read.query_columns].iter();
            places
                .clone()
                .position(|at| at == column)
                .ok_or_else(|| SqlError::Bug {
                    cause: format!("column {column} of {name} is not decoded"),
                })
        };
        let columns = wanted.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let schema = nullable(named(&source.schema.project(&wanted)?));
        if source.topic.primary_key.is_empty() || self.reads_versions {
            let times = times_of(source, input, &schema);
            let edge = Edge {
                node: self.push(Kind::Scan { input, columns }, Vec::new(), schema),
                mode: Mode::Append,
                unique: None,
                times,
            };
            self.tell(&format!("read {name}"), &edge);
            return Ok(edge);
        }
        let key = source.schema.index_of("_key")?;
        let body = source.schema.index_of("_body")?;
        let with_key: Vec<usize> = wanted.iter().copied().chain([key, body]).collect();
        let all = with_key.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let full = nullable(
            named(&source.schema.project(&with_key)?)
                .into_iter()
                .enumerate()
                .map(|(index, (name, kind))| (format!("{index}_{name}"), kind)),
        );
        let declared = source.topic.columns.iter();
        let declared = declared
            .filter(|column| column.expression.is_none())
            .count();
        // A view without a key of its own names all its columns, and its rows may repeat.
        let has_key = source.topic.primary_key.len() < declared;
        let unique: Option<Vec<usize>> = source
            .topic
            .primary_key
            .iter()
            .map(|column| schema.index_of(column).ok())
            .collect();
        let rows = self.push(
            Kind::Scan {
                input,
                columns: all,
            },
            Vec::new(),
            Arc::clone(&full),
        );
        let latest = LatestSpec {
            key: wanted.len(),
            body: wanted.len() + 1,
            schema: Arc::clone(&full),
        };
        let latest = self.push(Kind::Latest(latest), vec![rows], Arc::clone(&full));
        let mut transform = Transform::over(Arc::clone(&full));
        let expressions = (0..wanted.len()).map(|index| -> Arc<dyn PhysicalExpr> {
            let name = full.field(index).name();
            Arc::new(PhysicalColumn::new(name, index))
        });
        transform.push(Step::Project {
            expressions: expressions.collect(),
            schema: Arc::clone(&schema),
        });
        let edge = Edge {
            node: self.push(Kind::Transform(transform), vec![latest], schema),
            mode: Mode::Retract,
            unique: unique.filter(|_| has_key),
            times: Vec::new(),
        };
        self.tell(&format!("read {name}, the last row of each key"), &edge);
        Ok(edge)
    }

    fn filter(&mut self, predicate: &Expr, input: &LogicalPlan) -> Result<Edge, SqlError> {
        let below = self.relation(input)?;
        let schema = Arc::clone(&self.nodes[below.node].schema);
        let mut transform = Transform::over(Arc::clone(&schema));
        transform.push(Step::Filter(self.physical(predicate, input.schema())?));
        let edge = Edge {
            node: self.push(Kind::Transform(transform), vec![below.node], schema),
            ..below
        };
        self.tell("filter", &edge);
        Ok(edge)
    }

    fn project(
        &mut self,
        exprs: &[Expr],
        input: &LogicalPlan,
        schema: &DFSchema,
    ) -> Result<Edge, SqlError> {
        let below = self.relation(input)?;
        let mut transform = Transform::over(Arc::clone(&self.nodes[below.node].schema));
        let mut over = input.schema().as_ref().clone();
        let mut exprs = exprs.to_vec();
        let window_times = self.window_times(&exprs, input.schema(), &below.times);
        let windowed = give_windows(&mut transform, &mut over, &mut exprs, self.windows)?;
        if windowed
            && self
                .windows
                .iter()
                .any(|window| matches!(window.kind, Windows::Session { .. }))
        {
            return Err(refused(
                "SESSION together with joins or further aggregates",
                "make a view of the sessions, and read that view in a second query",
            ));
        }
        let mut expressions = Vec::new();
        let mut fields = Vec::new();
        for (expr, field) in exprs.iter().zip(schema.fields()) {
            let expression = self.physical(expr, &over)?;
            let kind = expression.data_type(&transform.schema())?;
            fields.push((field.name().clone(), kind));
            expressions.push(expression);
        }
        let schema = nullable(fields);
        transform.push(Step::Project {
            expressions,
            schema: Arc::clone(&schema),
        });
        let places: Vec<Option<usize>> = exprs.iter().map(|expr| passed(expr, &over)).collect();
        let unique = below.unique.filter(|_| !windowed).and_then(|columns| {
            let place = |column: &usize| places.iter().position(|at| *at == Some(*column));
            columns.iter().map(place).collect()
        });
        let times: Vec<Time> = below.times.into_iter().chain(window_times).collect();
        let edge = Edge {
            node: self.push(Kind::Transform(transform), vec![below.node], schema),
            mode: below.mode,
            unique,
            times: passed_times(&exprs, &over, &times),
        };
        self.tell(if windowed { "windows" } else { "project" }, &edge);
        Ok(edge)
    }

    fn aggregate(
        &mut self,
        input: &LogicalPlan,
        group_expr: &[Expr],
        aggr_expr: &[Expr],
        schema: &DFSchema,
    ) -> Result<Edge, SqlError> {
        let mut below = self.relation(input)?;
        let sets = Sets::of(group_expr)?;
        let group_expr = sets.as_ref().map_or(group_expr, |sets| &sets.exprs);
        let width = self.nodes[below.node].schema.fields().len();
        if let Some(sets) = &sets {
            let id = schema.field(group_expr.len()).data_type();
            below.node = self.expand(below.node, sets, input.schema(), id)?;
        }
        let rows = Arc::clone(&self.nodes[below.node].schema);
        let mut groups: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        let mut fields = Vec::new();
        let count = group_expr.len() + usize::from(sets.is_some());
        for (index, field) in schema.fields().iter().take(count).enumerate() {
            let group = match sets {
                Some(_) => Arc::new(PhysicalColumn::new(field.name(), width + index)),
                None => self.physical(&group_expr[index], input.schema())?,
            };
            fields.push((field.name().clone(), group.data_type(&rows)?));
            groups.push(group);
        }
        let mut kernels = Vec::new();
        for expr in aggr_expr {
            let kernel = lower(expr, input.schema(), &rows)?;
            if let Some(name) = depends_on_order(&kernel) {
                return Err(refused(
                    &format!(
                        "{name} over a table that changes, since it depends on the order of rows"
                    ),
                    "aggregate one topic, or use an aggregate that does not",
                ));
            }
            let kind = kernel.function.field().data_type().clone();
            fields.push((format!("aggregate_{}", kernels.len()), kind));
            kernels.push(kernel);
        }
        let schema = nullable(fields);
        let is_distinct = kernels.is_empty() && below.mode == Mode::Append;
        let times = passed_times(group_expr, input.schema(), &below.times);
        let (ending, times) = self.group_ending(times);
        let told = told(ending.as_ref());
        let spec = AggregateSpec {
            groups,
            kernels,
            input: rows,
            schema: Arc::clone(&schema),
            is_append: below.mode == Mode::Append,
            ending,
        };
        let count = spec.groups.len();
        let edge = Edge {
            node: self.push(Kind::Aggregate(spec), vec![below.node], schema),
            mode: if is_distinct {
                Mode::Append
            } else {
                Mode::Retract
            },
            unique: Some((0..count).collect()),
            times,
        };
        self.tell(&format!("aggregate{told}"), &edge);
        Ok(edge)
    }

    fn join(&mut self, join: &Join) -> Result<Edge, SqlError> {
        if matches!(join.join_type, JoinType::LeftMark | JoinType::RightMark) {
            return Err(refused(
                "EXISTS or IN beside OR",
                "write the subquery as a condition of its own, or as a join",
            ));
        }
        if join.null_aware {
            return Err(refused(
                "NOT IN with a subquery",
                "write NOT EXISTS (SELECT 1 FROM … WHERE …)",
            ));
        }
        let left = self.relation(&join.left)?;
        let right = self.relation(&join.right)?;
        let inputs = [left.node, right.node].map(|node| Arc::clone(&self.nodes[node].schema));
        let mut on: [Vec<Arc<dyn PhysicalExpr>>; 2] = [Vec::new(), Vec::new()];
        let mut on_columns: [Vec<usize>; 2] = [Vec::new(), Vec::new()];
        for (over_left, over_right) in &join.on {
            for (side, expr, input) in [(0, over_left, &join.left), (1, over_right, &join.right)] {
                on[side].push(self.physical(expr, input.schema())?);
                on_columns[side].extend(passed(expr, input.schema()));
            }
        }
        let both = join.left.schema().join(join.right.schema())?;
        let filter = match &join.filter {
            Some(filter) => Some(self.physical(filter, &both)?),
            None => None,
        };
        let pairs = nullable(named(&inputs[0]).into_iter().chain(named(&inputs[1])));
        let schema = match join.join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => Arc::clone(&inputs[0]),
            JoinType::RightSemi | JoinType::RightAnti => Arc::clone(&inputs[1]),
            _ => Arc::clone(&pairs),
        };
        let stays = matches!(
            join.join_type,
            JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi
        );
        let append = left.mode == Mode::Append && right.mode == Mode::Append && stays;
        let width = inputs[0].fields().len();
        let equal: Vec<(usize, usize)> = join
            .on
            .iter()
            .filter_map(|(left, right)| {
                let left = passed(left, join.left.schema())?;
                Some((left, width + passed(right, join.right.schema())?))
            })
            .collect();
        // Where NULL is equal to NULL, rows without time may meet.
        let null_is_equal = join.null_equality == NullEquality::NullEqualsNull;
        let bounded = if null_is_equal {
            None
        } else {
            bounded(
                [&left.times, &right.times],
                [left.mode, right.mode].map(|mode| mode == Mode::Retract),
                self.options.allowed_lateness_ms.unwrap_or(0),
                |left, right| distance(join.filter.as_ref(), &equal, &both, left, width + right),
            )
        };
        let idle = || {
            let ttl_ms = self.options.state_ttl_ms;
            ttl_ms.map(|ttl_ms| Ending::Idle { ttl_ms })
        };
        let (endings, times) = match bounded {
            Some(Bounded { endings, times }) => (endings.map(Some), times),
            None => ([idle(), idle()], [Vec::new(), Vec::new()]),
        };
        let [of_left, of_right] = times;
        let of_right = of_right.into_iter().map(|time| Time {
            column: match join.join_type {
                JoinType::RightSemi | JoinType::RightAnti => time.column,
                _ => width + time.column,
            },
            ..time
        });
        let times: Vec<Time> = match join.join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => of_left,
            JoinType::RightSemi | JoinType::RightAnti => of_right.collect(),
            _ => of_left.into_iter().chain(of_right).collect(),
        };
        let told = told(endings[0].as_ref());
        let unique = match (join.join_type, left.unique, right.unique) {
            (JoinType::LeftSemi | JoinType::LeftAnti, left, _) => left,
            (JoinType::RightSemi | JoinType::RightAnti, _, right) => right,
            // Each left row meets at most one right row.
            (JoinType::Inner | JoinType::Left, Some(left), Some(right))
                if right.iter().all(|column| on_columns[1].contains(column)) =>
            {
                Some(left)
            }
            (_, Some(left), Some(right)) => {
                let right = right.into_iter().map(|column| width + column);
                Some(left.into_iter().chain(right).collect())
            }
            _ => None,
        };
        let spec = JoinSpec {
            kind: join.join_type,
            on,
            filter,
            inputs,
            pairs,
            schema: Arc::clone(&schema),
            null_is_equal,
            endings,
        };
        let edge = Edge {
            node: self.push(Kind::Join(spec), vec![left.node, right.node], schema),
            mode: if append { Mode::Append } else { Mode::Retract },
            unique,
            times,
        };
        self.tell(&format!("{} join{told}", join.join_type), &edge);
        Ok(edge)
    }

    /// Notes that a condition holds a row number to its first values.
    fn note_most(&mut self, condition: &Expr, input: &LogicalPlan) {
        let Some((column, most)) = at_most(condition) else {
            return;
        };
        if let Some(window) = numbering(input, column) {
            let least = self.most.entry(std::ptr::from_ref(window)).or_insert(most);
            *least = most.min(*least);
        }
    }

    /// `ROW_NUMBER() OVER (…)` that a condition above holds to its first values.
    fn top(&mut self, window: &datafusion::logical_expr::Window) -> Result<Edge, SqlError> {
        let function = window.window_expr.first().and_then(window_function);
        let most = self.most.get(&std::ptr::from_ref(window));
        let (function, count) = function.zip(most.copied()).ok_or_else(|| SqlError::Bug {
            cause: "a row number without a bound".to_owned(),
        })?;
        let number = window.schema.field(window.schema.fields().len() - 1).name();
        let below = self.relation(&window.input)?;
        let input = Arc::clone(&self.nodes[below.node].schema);
        let params = &function.params;
        let dfschema = window.input.schema();
        let partition = params.partition_by.iter();
        let partition = partition.map(|expr| self.physical(expr, dfschema));
        let partition = partition.collect::<Result<Vec<_>, _>>()?;
        let partition_columns: Option<Vec<usize>> = params
            .partition_by
            .iter()
            .map(|expr| passed(expr, dfschema))
            .collect();
        let mut order = Vec::new();
        for sort in &params.order_by {
            let options = SortOptions {
                descending: !sort.asc,
                nulls_first: sort.nulls_first,
            };
            order.push((self.physical(&sort.expr, dfschema)?, options));
        }
        let numbered = (number.clone(), DataType::UInt64);
        let schema = nullable(named(&input).into_iter().chain([numbered]));
        let at = input.fields().len();
        let unique = match (partition_columns, below.unique) {
            (Some(columns), _) if count == 1 => Some(columns),
            (_, Some(columns)) => Some(columns),
            (Some(columns), None) => Some(columns.into_iter().chain([at]).collect()),
            (None, None) => None,
        };
        let times = passed_times(&params.partition_by, dfschema, &below.times);
        let (ending, times) = self.group_ending(times);
        let told = told(ending.as_ref());
        let places = params.partition_by.iter();
        let places: Vec<Option<usize>> = places.map(|expr| passed(expr, dfschema)).collect();
        let times = times.into_iter().filter_map(|time| {
            let column = places.get(time.column).copied().flatten()?;
            Some(Time { column, ..time })
        });
        let times = times.collect();
        let spec = TopSpec {
            partition,
            order,
            count,
            input,
            schema: Arc::clone(&schema),
            ending,
        };
        let edge = Edge {
            node: self.push(Kind::Top(spec), vec![below.node], schema),
            mode: Mode::Retract,
            unique,
            times,
        };
        self.tell(&format!("first {count} of each group{told}"), &edge);
        Ok(edge)
    }

    /// The bounds of the windows that expressions have marks of, in the two columns behind the input's.
    fn window_times(&self, exprs: &[Expr], input: &DFSchema, times: &[Time]) -> Vec<Time> {
        let Some((window, time)) = exprs.iter().find_map(marked_time) else {
            return Vec::new();
        };
        let of = time_of(&time, input, times).zip(self.windows.get(window));
        let Some((time, window)) = of else {
            return Vec::new();
        };
        let start = input.fields().len();
        // A window that a row belongs to ends after it, and began at most its length before.
        let size_ms = match window.kind {
            Windows::Tumble { size_ms }
            | Windows::Hop { size_ms, .. }
            | Windows::Cumulate { size_ms, .. } => size_ms,
            Windows::Session { .. } => return Vec::new(),
        };
        vec![
            Time {
                column: start,
                horizon: time.horizon.lagging(size_ms),
                is_strict: time.is_strict,
            },
            Time {
                column: start + 1,
                // It ends after the row, by a millisecond at least.
                horizon: time.horizon.lagging(-1),
                is_strict: time.is_strict,
            },
        ]
    }

    /// When groups end that have these columns of times among their own, and how those move on then.
    fn group_ending(&self, mut times: Vec<Time>) -> (Option<Ending>, Vec<Time>) {
        let Some(first) = times.first_mut() else {
            let ttl_ms = self.options.state_ttl_ms;
            return (ttl_ms.map(|ttl_ms| Ending::Idle { ttl_ms }), times);
        };
        if !first.is_strict {
            let lateness_ms = lateness_ms(self.options, STATE_TTL_MS);
            first.horizon = first.horizon.lagging(lateness_ms);
            first.is_strict = true;
        }
        let ending = Ending::Time {
            column: first.column,
            horizon: Some(first.horizon.clone()),
            late: first.horizon.clone(),
        };
        (Some(ending), times)
    }

    pub(super) fn physical(
        &self,
        expr: &Expr,
        input: &DFSchema,
    ) -> Result<Arc<dyn PhysicalExpr>, SqlError> {
        deterministic(expr)?;
        let expr = simplified(expr, input)?;
        Ok(create_physical_expr(&expr, input, &self.properties)?)
    }
}

/// The columns of a topic's rows that move on by themselves.
fn times_of(source: &Source, input: usize, schema: &Schema) -> Vec<Time> {
    let watermark = source.topic.watermark.as_ref();
    let declared = watermark.map(|spec| (spec.column.as_str(), Clock::Input(input)));
    let each = declared.into_iter().chain([("_stored_at", Clock::Store)]);
    let each = each.filter_map(|(name, clock)| {
        Some(Time {
            column: schema.index_of(name).ok()?,
            horizon: Horizon::of(clock),
            // No row is late by the time at which it was stored.
            is_strict: clock == Clock::Store,
        })
    });
    each.collect()
}

/// The columns of times that expressions compute of others.
fn passed_times(exprs: &[Expr], input: &DFSchema, times: &[Time]) -> Vec<Time> {
    let each = exprs.iter().enumerate();
    let each = each.filter_map(|(column, expr)| {
        let time = time_of(expr, input, times)?;
        Some(Time { column, ..time })
    });
    each.collect()
}

/// The columns of times that two relations have in the same places.
fn in_both(these: &[Time], those: &[Time]) -> Vec<Time> {
    let each = these.iter().filter_map(|this| {
        let that = those.iter().find(|that| that.column == this.column)?;
        Some(Time {
            column: this.column,
            horizon: this.horizon.and(&that.horizon),
            is_strict: this.is_strict && that.is_strict,
        })
    });
    each.collect()
}

/// How it is told when state ends.
fn told(ending: Option<&Ending>) -> String {
    match ending {
        None => String::new(),
        Some(Ending::Time { .. }) => ", state ends by time".to_owned(),
        Some(Ending::Idle { ttl_ms }) => format!(", state ends after {ttl_ms} ms at rest"),
    }
}

/// The column that a condition compares with a constant, and the greatest value that it leaves it.
fn at_most(condition: &Expr) -> Option<(&Column, u64)> {
    let Expr::BinaryExpr(binary) = condition else {
        return None;
    };
    let (sign, column, value) = match (column_of(&binary.left), column_of(&binary.right)) {
        (Some(column), None) => (binary.op, column, constant(&binary.right)?),
        (None, Some(column)) => (binary.op.swap()?, column, constant(&binary.left)?),
        _ => return None,
    };
    match sign {
        Sign::LtEq => Some((column, value)),
        Sign::Lt => Some((column, value.checked_sub(1)?)),
        Sign::Eq if value == 1 => Some((column, 1)),
        _ => None,
    }
}

fn column_of(mut expr: &Expr) -> Option<&Column> {
    while let Expr::Cast(cast) = expr {
        expr = &cast.expr;
    }
    match expr {
        Expr::Column(column) => Some(column),
        _ => None,
    }
}

fn constant(mut expr: &Expr) -> Option<u64> {
    while let Expr::Cast(cast) = expr {
        expr = &cast.expr;
    }
    match expr {
        Expr::Literal(value, _) => match value.cast_to(&DataType::UInt64).ok()? {
            ScalarValue::UInt64(value) => value,
            _ => None,
        },
        _ => None,
    }
}

/// The window function whose last column a column of a plan is.
fn numbering<'p>(
    plan: &'p LogicalPlan,
    column: &Column,
) -> Option<&'p datafusion::logical_expr::Window> {
    let index = plan.schema().index_of_column(column).ok()?;
    match plan {
        LogicalPlan::Window(window) => {
            (index + 1 == window.schema.fields().len()).then_some(window)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let below = alias.input.schema().qualified_field(index);
            numbering(&alias.input, &(below.0, below.1).into())
        }
        LogicalPlan::Filter(filter) => numbering(&filter.input, column),
        LogicalPlan::Projection(projection) => {
            let mut expr = projection.expr.get(index)?;
            while let Expr::Alias(alias) = expr {
                expr = &alias.expr;
            }
            match expr {
                Expr::Column(column) => numbering(&projection.input, column),
                _ => None,
            }
        }
        _ => None,
    }
}
