//! From a query to what a continuous query computes: a chain from a topic to its output, or a graph.
//!
//! The query engine parses names, checks types and inserts casts; its analysed plan is then walked from
//! the topic up. Filters and projections, at most one aggregate, filters and projections over one topic
//! are a chain ([`crate::plan::chain`]); anything else becomes a graph ([`crate::plan::graph`]) or is
//! refused by the name of the construct, with what to do instead. Only expressions that depend on the
//! row alone are taken, since a replay must compute the same.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, cast};
use datafusion::sql::sqlparser::ast::Query;

use crate::catalog;
use crate::error::SqlError;
use crate::operator::assign::Windows;
use crate::operator::graph::{GraphPlan, Kind, Leaving, Planned};
use crate::operator::group::{self, Bound, Grouping, WindowKey};
use crate::operator::project::{Step, Transform};
use crate::plan::as_of::{self, Reading};
use crate::plan::as_of_node;
use crate::plan::chain::{Chain, Grouped, Origin, Walk, marks_of};
use crate::plan::graph::build;
use crate::plan::output::{columns_of, primary_key};
use crate::plan::refuse::{refused, without_watermark, without_window};
use crate::plan::source::{Input, analyse, for_chain, for_graph, sources_of};
use crate::plan::store_time::timed;
use crate::plan::window::{Window, rewrite};
use crate::statement::{ContinuousJob, Emit, LateRows, QueryOptions};
use crate::topic::{Changelog, ColumnSpec, TopicInfo, Topics};

/// What a continuous query computes.
#[derive(Clone, Debug)]
pub struct ContinuousPlan {
    /// What it reads, one entry a topic.
    pub inputs: Vec<Input>,
    /// Whether rows belong to windows that end; then the source declares a watermark.
    pub windowed: bool,
    /// Output columns, as a topic declares them.
    pub columns: Vec<ColumnSpec>,
    /// Output columns that make up the key; empty when every row counts.
    pub primary_key: Vec<String>,
    /// How it is computed, a line a step, the last first.
    pub explained: Vec<String>,
    /// Whether late rows are counted and left out, and go to no side topic.
    pub drops_late: bool,
    /// How many lanes it asks for.
    pub parallelism: Option<usize>,
    shape: Shape,
}

#[derive(Clone, Debug)]
pub(super) enum Shape {
    Rows(Transform),
    Groups(Box<Grouping>),
    Graph(Box<GraphPlan>),
}

impl ContinuousPlan {
    /// Whether each row leads to rows of its own, whatever came before it and whenever.
    #[must_use]
    pub fn is_stateless(&self) -> bool {
        matches!(self.shape, Shape::Rows(_))
    }

    /// What it is made of.
    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether it emits each group once, when its window is over.
    #[must_use]
    pub fn emits_on_close(&self) -> bool {
        matches!(&self.shape, Shape::Groups(grouping) if grouping.emit.is_on_close())
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
    ///
    /// # Panics
    /// Never: a query has at least one node.
    pub fn into_target(mut self, target: &TopicInfo) -> Result<Self, SqlError> {
        let mut cast_to_target;
        let transform = match &mut self.shape {
            Shape::Rows(transform) => transform,
            Shape::Graph(graph)
                if graph.leaving == Leaving::Append || !target.primary_key.is_empty() =>
            {
                let last = graph.nodes.last().expect("a query has a node");
                cast_to_target = Transform::over(Arc::clone(&last.schema));
                &mut cast_to_target
            }
            Shape::Groups(grouping) if grouping.emit.is_on_close() => &mut grouping.output,
            Shape::Groups(_) | Shape::Graph(_) => {
                return Err(SqlError::invalid(
                    format!(
                        "the rows of this query change, and topic {} takes rows that stay, because it has no primary key",
                        target.name
                    ),
                    "insert into a topic with PRIMARY KEY, or write EMIT ON WINDOW CLOSE, or CREATE MATERIALIZED VIEW name AS SELECT …",
                ));
            }
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
        let schema = Arc::new(Schema::new(fields));
        transform.push(Step::Project {
            expressions,
            schema: Arc::clone(&schema),
        });
        let transform = transform.clone();
        if let Shape::Graph(graph) = &mut self.shape {
            let last = graph.nodes.len() - 1;
            graph.nodes.push(Planned {
                kind: Kind::Transform(transform),
                inputs: vec![last],
                schema,
            });
        }
        Ok(self)
    }
}

/// Plans a query without options, see [`plan_with`].
///
/// # Errors
/// As [`plan_with`].
pub async fn plan(
    query: &Query,
    emit: Emit,
    topics: &dyn Topics,
) -> Result<ContinuousPlan, SqlError> {
    plan_with(query, emit, QueryOptions::default(), topics).await
}

impl ContinuousPlan {
    /// Lets rows leave under the primary key of the topic that they are written to.
    fn keyed(mut self, target: &TopicInfo) -> Result<Self, SqlError> {
        let stored = target.columns.iter();
        let stored: Vec<&str> = stored
            .filter(|column| column.expression.is_none())
            .map(|column| column.name.as_str())
            .collect();
        let mut key = Vec::with_capacity(target.primary_key.len());
        for name in &target.primary_key {
            let at = stored.iter().position(|column| column == name);
            key.push(at.ok_or_else(|| SqlError::Bug {
                cause: format!("topic {} has no column {name} of its key", target.name),
            })?);
        }
        let Shape::Graph(graph) = &mut self.shape else {
            return Err(SqlError::Bug {
                cause: "a query into a topic with a key is no graph".to_owned(),
            });
        };
        graph.leaving = match &graph.leaving {
            Leaving::Append | Leaving::Keyed(_) => Leaving::Keyed(key),
            Leaving::Upsert(own) => {
                if let Some(column) = own.iter().find(|column| !key.contains(column)) {
                    return Err(SqlError::invalid(
                        format!(
                            "rows of the query are told apart by {}, which is no part of the primary key of topic {}, so that one would replace another",
                            stored.get(*column).unwrap_or(&"a column"),
                            target.name
                        ),
                        "add it to the primary key of the topic, or aggregate over it in the query",
                    ));
                }
                Leaving::Upsert(key)
            }
            Leaving::Rows => {
                return Err(SqlError::invalid(
                    format!(
                        "rows of the query have no key, so that none of topic {} could be told from another",
                        target.name
                    ),
                    "group by the columns of its primary key",
                ));
            }
        };
        graph.debezium = target.changelog == Changelog::Debezium;
        graph.text_keys = true;
        let form = match graph.debezium {
            true => "changes of Debezium",
            false => "upsert",
        };
        self.explained.insert(
            0,
            format!(
                "write {}: {form} by ({})",
                target.name,
                target.primary_key.join(", ")
            ),
        );
        self.primary_key.clone_from(&target.primary_key);
        Ok(self)
    }
}

/// Plans a query of a view (`emit` as it says) or of a job (`emit` = changes).
///
/// # Errors
/// [`SqlError`] naming the construct that a continuous query does not take, and what to write instead.
///
/// # Panics
/// Never: a query has at least one node.
pub async fn plan_with(
    query: &Query,
    emit: Emit,
    options: QueryOptions,
    topics: &dyn Topics,
) -> Result<ContinuousPlan, SqlError> {
    plan_as(query, emit, options, topics, false).await
}

/// Plans the query of a job that writes into a topic.
///
/// A topic with a primary key takes rows that change: what a job writes to it tells, key by key, what its row is from now on.
///
/// # Errors
/// As [`plan`], and [`SqlError`] when the topic can not take what the query gives.
///
/// # Panics
/// Never: a query has at least one node.
pub async fn plan_into(
    job: &ContinuousJob,
    target: &TopicInfo,
    topics: &dyn Topics,
) -> Result<ContinuousPlan, SqlError> {
    let is_keyed = !target.primary_key.is_empty();
    if is_keyed && job.emit == Emit::OnWindowClose {
        return Err(refused(
            "EMIT ON WINDOW CLOSE into a topic with a primary key",
            "leave EMIT out, or insert into a topic without a primary key",
        ));
    }
    let plan = plan_as(&job.query, job.emit, job.options, topics, is_keyed).await?;
    let plan = plan.into_target(target)?;
    if is_keyed {
        plan.keyed(target)
    } else {
        Ok(plan)
    }
}

async fn plan_as(
    query: &Query,
    emit: Emit,
    options: QueryOptions,
    topics: &dyn Topics,
    as_graph: bool,
) -> Result<ContinuousPlan, SqlError> {
    if emit == Emit::OnWindowClose && options.late == Some(LateRows::Update) {
        return Err(refused(
            "late = 'update' with EMIT ON WINDOW CLOSE, which gives each window once",
            "write EMIT CHANGES, or let windows stay open longer WITH (allowed_lateness = '1 hour')",
        ));
    }
    let (mut query, windows) = rewrite(query)?;
    as_of::rewrite(&mut query, topics, Reading::Continuous)?;
    let sources = sources_of(&query, topics)?;
    let (analysed, state) = analyse(query, &sources, windows.len()).await?;
    let analysed = as_of_node::nodes(analysed, &sources)?;
    if let ([source], true) = (sources.as_slice(), is_chain(&analysed, !windows.is_empty())?)
        && source.topic.primary_key.is_empty()
        // Groups that end otherwise than with their windows are those of a graph.
        && (!windows.is_empty() || (options.state_ttl_ms.is_none() && emit == Emit::Changes))
        && !as_graph
    {
        let logical = for_chain(analysed, &state)?;
        check_marks(&logical, &windows)?;
        let walk = Walk {
            source_schema: &source.schema,
            window: windows.first().cloned(),
            properties: ExecutionProps::new(),
        };
        let chain = walk.chain(&logical)?;
        let topic = timed(&source.topic, windows.first());
        let input = Input::of(&topic, &source.schema, &logical)?;
        return finish(chain, emit, options, windows.first(), input);
    }
    let mut options = options;
    if emit == Emit::OnWindowClose {
        // What is final does not change any more.
        options.allowed_lateness_ms.get_or_insert(0);
    }
    if options.late == Some(LateRows::Topic) {
        return Err(refused(
            "late = 'topic' with joins or further aggregates, whose late rows are no messages",
            "write late = 'drop', or make a view of the windows and read that in a second query",
        ));
    }
    let logical = for_graph(analysed, &state)?;
    check_marks(&logical, &windows)?;
    let built = build(&logical, &sources, &windows, emit, options)?;
    let last = built.graph.nodes.last().expect("a query has a node");
    let columns = columns_of(&last.schema)?;
    let name = |column: &usize| columns[*column].name.clone();
    let primary_key = match &built.graph.leaving {
        Leaving::Append | Leaving::Keyed(_) => Vec::new(),
        Leaving::Upsert(key) if !key.is_empty() => key.iter().map(name).collect(),
        // One row, or rows without a key of their own: the whole row tells it.
        Leaving::Upsert(_) | Leaving::Rows => (0..columns.len()).map(|at| name(&at)).collect(),
    };
    Ok(ContinuousPlan {
        inputs: built.inputs,
        windowed: false,
        columns,
        primary_key,
        explained: built.explained,
        drops_late: false,
        parallelism: options.parallelism,
        shape: Shape::Graph(Box::new(built.graph)),
    })
}

fn check_marks(plan: &LogicalPlan, windows: &[Window]) -> Result<(), SqlError> {
    if windows.len() == marks_of(plan) {
        return Ok(());
    }
    Err(refused(
        "a window function whose windows nobody reads",
        "group by window_start, window_end, or read the topic itself",
    ))
}

/// Whether a plan is one topic with filters and projections and at most one aggregate.
fn is_chain(plan: &LogicalPlan, has_windows: bool) -> Result<bool, SqlError> {
    let (mut scans, mut aggregates, mut others) = (0, 0, 0);
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::TableScan(_) => scans += 1,
            LogicalPlan::Distinct(_) => aggregates += 1,
            LogicalPlan::Aggregate(aggregate) => {
                aggregates += 1;
                let sets = aggregate.group_expr.first();
                // A chain lets its groups rest as the accumulators' states: of DISTINCT all values, taken
                // up again at every tick. A graph adds to them; windows are few and go.
                let is_distinct = !has_windows
                    && aggregate.aggr_expr.iter().any(|expr| {
                        let expr = expr.clone().unalias();
                        matches!(&expr, Expr::AggregateFunction(of) if of.params.distinct)
                    });
                if sets.is_none_or(|first| matches!(first, Expr::GroupingSet(_))) || is_distinct {
                    others += 1;
                }
            }
            LogicalPlan::Join(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::Window(_)
            | LogicalPlan::Extension(_) => others += 1,
            _ => {}
        }
        Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
    })?;
    Ok(scans == 1 && aggregates <= 1 && others == 0)
}

fn finish(
    chain: Chain,
    emit: Emit,
    options: QueryOptions,
    window: Option<&Window>,
    input: Input,
) -> Result<ContinuousPlan, SqlError> {
    let columns = columns_of(&chain.transform.schema())?;
    let is_timed = chain
        .aggregate
        .as_ref()
        .is_some_and(|grouped| grouped.windows.is_some());
    if !is_timed && (options.late.is_some() || options.allowed_lateness_ms.is_some()) {
        return Err(SqlError::invalid(
            "no row of this query can be late, since it has neither windows nor a join by time",
            "leave out late and allowed_lateness, or group by a window",
        ));
    }
    let Some(grouped) = chain.aggregate else {
        if emit == Emit::OnWindowClose {
            return Err(without_window());
        }
        if let Some(window) = window
            && matches!(window.kind, Windows::Session { .. })
        {
            return Err(refused(
                "SESSION without GROUP BY",
                "group by its PARTITION BY, window_start and window_end",
            ));
        }
        return Ok(ContinuousPlan {
            explained: vec![
                "filter and project: append".to_owned(),
                format!("read {}: append", input.source.name),
            ],
            inputs: vec![input],
            windowed: false,
            columns,
            primary_key: Vec::new(),
            drops_late: false,
            parallelism: options.parallelism,
            shape: Shape::Rows(chain.transform),
        });
    };

    let key = grouped.windows.map(|kind| WindowKey {
        kind,
        bounds: (0..)
            .zip(&grouped.origins)
            .filter_map(|(column, origin)| match origin {
                Origin::WindowStart => Some((column, Bound::Start)),
                Origin::WindowEnd => Some((column, Bound::End)),
                _ => None,
            })
            .collect(),
    });
    if let (Some(window), Some(_)) = (window, &key) {
        let declared = input.source.watermark.as_ref();
        if declared.is_none_or(|declared| declared.column != window.time_column) {
            return Err(without_watermark(&input.source, window));
        }
    } else if emit == Emit::OnWindowClose {
        return Err(without_window());
    }
    let primary_key = match emit {
        Emit::OnWindowClose => Vec::new(),
        Emit::Changes => primary_key(&grouped, &chain.origins, &columns)?,
    };
    Ok(ContinuousPlan {
        explained: vec![
            explain_groups(&grouped, key.as_ref(), &primary_key),
            format!("read {}: append", input.source.name),
        ],
        inputs: vec![input],
        windowed: key.is_some(),
        columns,
        primary_key,
        drops_late: options.late == Some(LateRows::Drop),
        parallelism: options.parallelism,
        shape: Shape::Groups(Box::new(Grouping {
            input: grouped.input,
            groups: grouped.groups,
            aggregates: grouped.aggregates,
            schema: grouped.schema,
            output: chain.transform,
            window: key,
            emit: match emit {
                Emit::Changes => group::Emit::Changes {
                    keep_ms: lateness_ms(options, group::STATE_TTL_MS),
                },
                Emit::OnWindowClose => group::Emit::OnClose {
                    grace_ms: options.allowed_lateness_ms.unwrap_or(0),
                },
            },
        })),
    })
}

/// How long after its end a window takes rows, unless the query says otherwise in one of two ways.
pub(crate) fn lateness_ms(options: QueryOptions, usual_ms: i64) -> i64 {
    let strict = matches!(options.late, Some(LateRows::Drop | LateRows::Topic));
    let usual_ms = if strict { 0 } else { usual_ms };
    options.allowed_lateness_ms.unwrap_or(usual_ms)
}

/// A grouped chain in a line.
fn explain_groups(grouped: &Grouped, window: Option<&WindowKey>, primary_key: &[String]) -> String {
    let kept = match window {
        Some(WindowKey { kind, .. }) => format!("state by group and slice of {kind:?}"),
        None => "state by group".to_owned(),
    };
    let mode = match primary_key {
        [] => "append when the window closes".to_owned(),
        key => format!("upsert by ({})", key.join(", ")),
    };
    format!("aggregate by {}, {kept}: {mode}", grouped.names.join(", "))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, StringArray, TimestampMillisecondArray};
    use arrow::record_batch::RecordBatch;
    use millpond_proto::remedy::Remedy;
    use millpond_proto::time::{SimulatedClock, Timestamp};

    use super::*;
    use crate::operator::graph::{Graph, GraphStep};
    use crate::operator::moment::Marks;
    use crate::operator::session::Session;
    use crate::operator::{Operator, OperatorError, Output, window};
    use crate::statement::parse_query;
    use crate::testing::MemoryTopics;
    use crate::topic::{NewTopic, WatermarkSpec};

    #[tokio::test]
    async fn state_over_its_bound_is_an_error_that_says_what_to_do() {
        let clock = Arc::new(SimulatedClock::starting_at(Timestamp(0)));
        let topics = MemoryTopics::new(clock);
        let column = |name: &str, sql_type: &str| ColumnSpec {
            name: name.to_owned(),
            sql_type: sql_type.to_owned(),
            expression: None,
        };
        let topic = NewTopic {
            name: "t".to_owned(),
            queues: Some(1),
            columns: vec![column("k", "VARCHAR"), column("at", "TIMESTAMP")],
            watermark: Some(WatermarkSpec {
                column: "at".to_owned(),
                delay_ms: 0,
            }),
            primary_key: Vec::new(),
            written_by: None,
            ..NewTopic::default()
        };
        topics.create_topic(topic).await.unwrap();
        for query in [
            "SELECT k, window_start, count(*) AS n FROM TUMBLE(TABLE t, DESCRIPTOR(at), INTERVAL '1 second') \
             GROUP BY k, window_start",
            "SELECT k, window_start, count(*) AS n FROM SESSION(TABLE t PARTITION BY k, DESCRIPTOR(at), INTERVAL '1 second') \
             GROUP BY k, window_start",
            "SELECT a.k, b.at FROM t a JOIN t b ON a.k = b.k",
        ] {
            let query = parse_query(query).unwrap();
            let planned = plan(&query, Emit::Changes, topics.as_ref()).await.unwrap();
            let input = &planned.inputs[0];
            let schema = catalog::table_schema(&input.source).unwrap();
            let columns = &input.decoded[..input.query_columns];
            let schema = Arc::new(schema.project(columns).unwrap());
            let keys: ArrayRef = Arc::new(StringArray::from_iter_values(
                (0..100).map(|n| format!("k{n}")),
            ));
            let times: ArrayRef = Arc::new(TimestampMillisecondArray::from_iter_values(0..100));
            let batch = RecordBatch::try_new(schema, vec![keys, times]).unwrap();
            let run = |bytes: usize| match planned.shape.clone() {
                Shape::Graph(graph) => {
                    let graph = Graph::new(Arc::new(*graph)).unwrap();
                    let mut graph = graph.with_state_bytes_max(bytes);
                    let marks = Marks::default();
                    let step = GraphStep {
                        before: marks.clone(),
                        after: marks,
                    };
                    graph.begin(Arc::from([step]), vec![[(0, batch.clone())].into()]);
                    (0..graph.nodes()).try_for_each(|node| graph.run(node, None))
                }
                Shape::Groups(grouping) => {
                    let mut operator: Box<dyn Operator> =
                        match grouping.window.as_ref().unwrap().kind {
                            Windows::Session { gap_ms } => Box::new(
                                Session::new(*grouping, gap_ms)
                                    .unwrap()
                                    .with_state_bytes_max(bytes),
                            ),
                            _ => Box::new(
                                window::Window::new(*grouping)
                                    .unwrap()
                                    .with_state_bytes_max(bytes),
                            ),
                        };
                    operator.on_batch(&batch, None, &mut Output::default())
                }
                Shape::Rows(_) => panic!("it has state"),
            };
            run(1 << 20).unwrap();
            let error = run(2000).unwrap_err();
            assert!(
                matches!(error, OperatorError::StateTooLarge { .. }),
                "{error}"
            );
            assert!(
                error
                    .to_string()
                    .contains("limit 2000; use shorter windows"),
                "{error}"
            );
            assert_eq!(error.remedy(), Remedy::FixRequest);
        }
    }
}
