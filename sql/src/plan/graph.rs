//! From an analysed plan to a graph: joins, aggregates over changing tables, first rows per group.
//!
//! Each relation of the plan becomes a node. Two things are inferred on the way up: what can happen to
//! rows (they stay, or come and go) and which columns tell a row from all others; both decide how rows
//! leave the query. A construct that has no node is refused by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use crate::error::SqlError;
use crate::operator::assign::Windows;
use crate::operator::graph::{GraphPlan, Kind, Leaving, Mode, Planned};
use crate::operator::group::Bound;
use crate::operator::moment::Ending;
use crate::operator::project::{Step, Transform};
use crate::plan::aggregate_build::passed_times;
use crate::plan::bounds::{Time, time_of};
use crate::plan::chain::{deterministic, give_windows, marked_time, read_marks, simplified};
use crate::plan::closed_times::{Told, bound_told};
use crate::plan::output::columns_of;
use crate::plan::over_build::numbers_of;
use crate::plan::refuse::{every_of_rows, unsupported};
use crate::plan::scan_build::inputs_of;
use crate::plan::session_node::SessionNode;
use crate::plan::source::{Input, Source};
use crate::plan::window::Window;
use crate::statement::{Emit, QueryOptions};
use crate::topic::{ColumnSpec, WatermarkSpec};

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
    pub(crate) columns: Vec<ColumnSpec>,
    /// The event time of its rows, if they leave by it.
    pub(crate) watermark: Option<WatermarkSpec>,
    pub(crate) inputs: Vec<Input>,
    /// One line per relation of the query, the last first.
    pub(crate) explained: Vec<String>,
}

pub(super) struct Builder<'a> {
    pub(super) sources: &'a [Source],
    pub(super) windows: &'a [Window],
    pub(super) inputs: Vec<Input>,
    pub(super) nodes: Vec<Planned>,
    lines: Vec<String>,
    /// How many nodes were there when the last line was written.
    told: usize,
    /// Row numbers that a condition holds to at most so many.
    pub(super) most: BTreeMap<*const datafusion::logical_expr::Window, u64>,
    /// Names of sides of joins whose rows may have a time to live of their own.
    pub(super) joined_sides: Vec<String>,
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
        told: 0,
        most: BTreeMap::new(),
        joined_sides: Vec::new(),
        options,
        reads_versions: false,
        properties: ExecutionProps::new(),
    };
    let key_format = builder.options.key_format.unwrap_or_default();
    let mut last = builder.relation(plan)?;
    let mut closes_by = None;
    if emit == Emit::OnWindowClose {
        last = builder.close(last)?;
        closes_by = last.times.first().map(|time| time.column);
    }
    builder.check_side_ttls()?;
    let leaving = match (last.mode, last.unique) {
        (Mode::Append, _) => Leaving::Append,
        (Mode::Retract, Some(columns)) => Leaving::Upsert(columns),
        (Mode::Retract, None) => Leaving::Rows,
    };
    let every_ms = match emit {
        Emit::Every { every_ms, .. } => Some(every_ms),
        Emit::Changes | Emit::OnWindowClose => None,
    };
    if let Some(every_ms) = every_ms {
        if leaving == Leaving::Append {
            return Err(every_of_rows());
        }
        let told = format!("changes leave every {every_ms} ms of store time");
        builder.lines.push(told);
    }
    let columns = columns_of(&builder.nodes[last.node].schema)?;
    let watermark = closes_by.and_then(|column| builder.declared(plan, column, &columns));
    let mut explained = builder.lines;
    explained.reverse();
    Ok(Built {
        columns,
        watermark,
        graph: GraphPlan {
            nodes: builder.nodes,
            leaving,
            debezium: false,
            text_keys: false,
            key_format,
            every_ms,
        },
        inputs: builder.inputs,
        explained,
    })
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
    /// A node, which is one that is there already if that computes the same of the same.
    pub(super) fn push(&mut self, kind: Kind, inputs: Vec<usize>, schema: SchemaRef) -> usize {
        let node = Planned {
            kind,
            inputs,
            schema,
        };
        if let Some(same) = self.nodes.iter().position(|other| *other == node) {
            return same;
        }
        self.nodes.push(node);
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
        if edge.node < self.told {
            self.lines
                .push(format!("{what}: {mode}, as computed below"));
        } else {
            self.told = self.nodes.len();
            self.lines.push(format!("{what}: {mode}"));
        }
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
                if numbers_of(window).is_some()
                    && self.most.contains_key(&std::ptr::from_ref(window)) =>
            {
                self.top(window)
            }
            LogicalPlan::Window(window) => self.over(window),
            LogicalPlan::Projection(projection) => self.project(
                &projection.expr,
                &projection.input,
                projection.schema.as_ref(),
            ),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest),
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
            LogicalPlan::Values(values) => self.values(values),
            LogicalPlan::EmptyRelation(empty) => self.empty_relation(empty),
            LogicalPlan::Extension(extension) => {
                let node = extension.node.as_any();
                match (node.downcast_ref(), node.downcast_ref::<SessionNode>()) {
                    (Some(node), _) => self.as_of(node),
                    (_, Some(node)) => self.relation(&node.input),
                    (None, None) => Err(unsupported(plan)),
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
        let mut below = self.relation(input)?;
        let mut over = input.schema().as_ref().clone();
        let mut exprs = exprs.to_vec();
        let windowed = exprs.iter().any(|expr| marked_time(expr).is_some());
        let session = exprs
            .iter()
            .find_map(marked_time)
            .and_then(|(index, time)| {
                let window = self.windows.get(index)?;
                match window.kind {
                    Windows::Session { gap_ms } => Some((index, window, gap_ms, time)),
                    _ => None,
                }
            });
        if let Some((index, window, gap_ms, time)) = session {
            below = self.sessions(below, index, window, gap_ms, &time, &over)?;
            read_marks(&self.nodes[below.node].schema, &mut over, &mut exprs)?;
        }
        let mut transform = Transform::over(Arc::clone(&self.nodes[below.node].schema));
        let window_times = self.window_times(&exprs, input.schema(), &below.times);
        give_windows(&mut transform, &mut over, &mut exprs, self.windows)?;
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
            let is_told = |column: &usize| {
                // The bounds of a window may tell each other, so one of them is enough.
                place(column).is_some() || {
                    let bound = bound_told(input, *column);
                    let others = columns.iter().filter(|other| place(other).is_some());
                    let others = others.filter_map(|other| bound_told(input, *other));
                    let mut others = others.filter(|other| self.tells_the_others(other));
                    bound.is_some_and(|told| others.any(|other| other.is_of_the_window_of(&told)))
                }
            };
            let is_unique = columns.iter().all(is_told);
            is_unique.then(|| columns.iter().filter_map(place).collect())
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

    /// Whether a bound of a window tells the others: windows that grow begin together, and end apart.
    fn tells_the_others(&self, told: &Told) -> bool {
        match self.windows.get(told.window).map(|window| window.kind) {
            Some(Windows::Tumble { .. } | Windows::Hop { .. }) => true,
            Some(Windows::Cumulate { .. }) => told.bound != Bound::Start,
            _ => false,
        }
    }

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
                is_padded: time.is_padded,
            },
            Time {
                column: start + 1,
                // It ends after the row, by a millisecond at least.
                horizon: time.horizon.lagging(-1),
                is_strict: time.is_strict,
                is_padded: time.is_padded,
            },
        ]
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

/// The columns of times that two relations have in the same places.
fn in_both(these: &[Time], those: &[Time]) -> Vec<Time> {
    let each = these.iter().filter_map(|this| {
        let that = those.iter().find(|that| that.column == this.column)?;
        Some(Time {
            column: this.column,
            horizon: this.horizon.and(&that.horizon),
            is_strict: this.is_strict && that.is_strict,
            is_padded: this.is_padded || that.is_padded,
        })
    });
    each.collect()
}

/// How it is told when state ends.
pub(super) fn told(ending: Option<&Ending>) -> String {
    match ending {
        None => String::new(),
        Some(Ending::Time { .. }) => ", state ends by time".to_owned(),
        Some(Ending::Idle { ttl_ms: 0 }) => ", state ends at once".to_owned(),
        Some(Ending::Idle { ttl_ms }) => format!(", state ends after {ttl_ms} ms at rest"),
    }
}
