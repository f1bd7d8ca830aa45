//! From a query to what a continuous query computes: a chain from a topic to its output, or a graph.
//!
//! The query engine parses names, checks types and inserts casts; its analysed plan is then walked from
//! the topic up. Filters and projections, at most one aggregate, filters and projections over one topic
//! are a chain ([`crate::plan::chain`]); anything else becomes a graph ([`crate::plan::graph`]) or is
//! refused by the name of the construct, with what to do instead. Only expressions that depend on the
//! row alone are taken, since a replay must compute the same.

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast::Query;

use crate::error::SqlError;
use crate::operator::graph::{GraphPlan, Leaving};
use crate::operator::group::{self, Bound, Fire, Grouping, WindowKey};
use crate::operator::project::Transform;
use crate::plan::as_of::{self, Reading};
use crate::plan::as_of_node;
use crate::plan::chain::{Chain, Grouped, Origin, Walk, marked_time, marks_of};
use crate::plan::closed_times::declared;
use crate::plan::graph::build;
use crate::plan::limited;
use crate::plan::located::located;
use crate::plan::named;
use crate::plan::output::{columns_of, primary_key};
use crate::plan::refuse::{
    every_of_rows, nothing_late, of_computed_time, refused, unknown_side, without_watermark,
    without_window,
};
use crate::plan::session_filter::{self, is_session};
use crate::plan::session_node;
use crate::plan::source::{Input, Source, analyse, for_chain, for_graph, sources_of};
use crate::plan::star;
use crate::plan::store_time::timed;
use crate::plan::unnest_written::named_lists;
use crate::plan::views;
use crate::plan::window::{Window, rewrite};
use crate::statement::{Emit, LateRows, QueryOptions};
use crate::topic::{ColumnSpec, Topics, WatermarkSpec};

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
    /// The event time of its rows, if they leave when their windows end.
    pub watermark: Option<WatermarkSpec>,
    /// Whether rows may come too late.
    pub judges_late: bool,
    /// Whether late rows are counted and left out, and go to no side topic.
    pub drops_late: bool,
    /// How many lanes it asks for.
    pub parallelism: Option<usize>,
    /// The query with its plain views written out, if it reads any.
    pub(super) written_out: Option<String>,
    pub(super) shape: Shape,
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

    /// Whether late rows go to a side topic.
    #[must_use]
    pub fn sets_late_aside(&self) -> bool {
        self.judges_late && !self.drops_late
    }

    /// Whether it groups rows.
    #[must_use]
    pub fn is_grouped(&self) -> bool {
        matches!(self.shape, Shape::Groups(_))
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

pub(super) async fn plan_as(
    query: &Query,
    emit: Emit,
    options: QueryOptions,
    topics: &dyn Topics,
    as_graph: bool,
) -> Result<ContinuousPlan, SqlError> {
    let written = query;
    let mut query = query.clone();
    limited::to_places(&mut query)?;
    let has_views = views::expand(&mut query, topics)?;
    let written_out = has_views.then(|| query.to_string());
    named_lists(&mut query)?;
    star::expand(&mut query, topics)?;
    let (mut query, windows) = rewrite(&query, topics)?;
    as_of::rewrite(&mut query, topics, Reading::Continuous)?;
    if !options.names_of_old {
        named::as_written(&mut query);
    }
    let sources = sources_of(&query, topics).map_err(|error| located(error, written))?;
    let analysis = analyse(query, &sources, windows.len(), options.numbers).await;
    // A rewritten window or a view is another text, and so are the places in it.
    let (analysed, state) = analysis.map_err(|error| match windows.is_empty() && !has_views {
        true => error,
        false => error.without_position(),
    })?;
    let analysed = as_of_node::nodes(analysed, &sources)?;
    let analysed = session_filter::into_aggregates(analysed, &windows)?;
    if let ([source], true) = (sources.as_slice(), is_chain(&analysed, windows.len())?)
        && source.topic.primary_key.is_empty()
        // Groups that end otherwise than with their windows are those of a graph.
        && (!windows.is_empty() || (options.state_ttl_ms.is_none() && emit != Emit::OnWindowClose))
        && !as_graph
    {
        let logical = for_chain(analysed.clone(), &state)?;
        check_marks(&logical, &windows)?;
        let walk = Walk {
            source_schema: &source.schema,
            window: windows.first().cloned(),
            properties: ExecutionProps::new(),
        };
        let chain = walk.chain(&logical)?;
        if stays_chain(&chain, source, &windows, emit, &options) {
            if let Some((side, _)) = options.side_ttls_ms.first() {
                return Err(unknown_side(side, &[]));
            }
            let time_column = time_of_windows(&chain, source, &windows);
            let topic = timed(&source.topic, time_column);
            let input = Input::of(&topic, &source.schema, &logical)?;
            let window = windows.first().zip(time_column);
            let plan = finish(chain, emit, &options, window, input)?;
            return Ok(ContinuousPlan {
                written_out,
                ..plan
            });
        }
    }
    let mut options = options;
    if emit == Emit::OnWindowClose && options.late == Some(LateRows::Update) {
        return Err(refused(
            "late = 'update' with EMIT ON WINDOW CLOSE over joins or further aggregates, whose rows leave once",
            "write EMIT CHANGES, or let windows stay open longer WITH (allowed_lateness = '1 hour')",
        ));
    }
    if matches!(emit, Emit::Every { on_close: true, .. }) {
        return Err(refused(
            "EMIT ON WINDOW CLOSE AND EVERY over joins or further aggregates, whose rows leave once or when they change",
            "write EMIT EVERY or EMIT ON WINDOW CLOSE, or make a view of the windows and read that in a second query",
        ));
    }
    if emit == Emit::OnWindowClose {
        // What is final does not change any more.
        options.allowed_lateness_ms.get_or_insert(0);
    }
    let logical = for_graph(session_node::nodes(analysed, &windows)?, &state)?;
    check_marks(&logical, &windows)?;
    let drops_late = options.late == Some(LateRows::Drop);
    let parallelism = options.parallelism;
    let is_about_time = options.late.is_some()
        || (emit != Emit::OnWindowClose && options.allowed_lateness_ms.is_some());
    let built = build(&logical, &sources, &windows, emit, options)?;
    let judges_late = built.graph.judges_time();
    if is_about_time && !judges_late {
        return Err(nothing_late());
    }
    let columns = built.columns;
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
        judges_late,
        columns,
        primary_key,
        watermark: built.watermark,
        explained: built.explained,
        drops_late,
        parallelism,
        written_out,
        shape: Shape::Graph(Box::new(built.graph)),
    })
}

/// The column that the windows of a chain are of.
fn time_of_windows<'a>(
    chain: &Chain,
    source: &'a Source,
    windows: &'a [Window],
) -> Option<&'a str> {
    match chain.window_time {
        Origin::Column(column) => Some(source.schema.field(column).name().as_str()),
        _ => windows.first().map(|window| window.time_column.as_str()),
    }
}

/// Whether a query that could be a chain is computed as one.
fn stays_chain(
    chain: &Chain,
    source: &Source,
    windows: &[Window],
    emit: Emit,
    options: &QueryOptions,
) -> bool {
    let Some(window) = windows.first() else {
        // Rows of groups whose key does not leave are told apart by all that they are, and a graph counts them.
        return chain.tells_groups() || !leaves_changed(emit);
    };
    let aggregate = chain.aggregate.as_ref();
    if is_session(window) {
        return aggregate.is_some_and(|grouped| grouped.windows.is_some());
    }
    // The windows of a chain are of the event time itself.
    let time_column = time_of_windows(chain, source, windows);
    let mut behind = source.topic.watermark.iter().flat_map(|spec| &spec.behind);
    if behind.any(|behind| Some(behind.column.as_str()) == time_column) {
        return false;
    }
    // Groups that do not end with their windows end when they are at rest, if that is said.
    let ends_by_time = aggregate.is_none_or(|grouped| grouped.windows.is_some());
    ends_by_time || options.state_ttl_ms.is_none()
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
fn is_chain(plan: &LogicalPlan, windows: usize) -> Result<bool, SqlError> {
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
                let is_distinct = windows == 0
                    && aggregate.aggr_expr.iter().any(|expr| {
                        let expr = expr.clone().unalias();
                        matches!(&expr, Expr::AggregateFunction(of) if of.params.distinct)
                    });
                // Nor does it take rows in another order than that of the log.
                let is_ordered = aggregate.aggr_expr.iter().any(|expr| {
                    let expr = expr.clone().unalias();
                    matches!(&expr, Expr::AggregateFunction(of) if !of.params.order_by.is_empty())
                });
                if sets.is_none_or(|first| matches!(first, Expr::GroupingSet(_)))
                    || is_distinct
                    || is_ordered
                {
                    others += 1;
                }
            }
            LogicalPlan::Join(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::Window(_)
            | LogicalPlan::Values(_)
            | LogicalPlan::EmptyRelation(_)
            | LogicalPlan::Extension(_) => others += 1,
            // A group is a row of a chain, told by its key; with a list it would be several.
            LogicalPlan::Unnest(_) if has_groups(node)? => others += 1,
            _ => {}
        }
        Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
    })?;
    Ok(scans == 1 && aggregates <= 1 && others == 0 && windows <= 1 && !windows_of_groups(plan)?)
}

/// Whether windows are given to what an aggregate answers.
fn windows_of_groups(plan: &LogicalPlan) -> Result<bool, SqlError> {
    let mut is_found = false;
    plan.apply_with_subqueries(|node| {
        if node
            .expressions()
            .iter()
            .any(|expr| marked_time(expr).is_some())
        {
            is_found |= has_groups(node)?;
        }
        Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
    })?;
    Ok(is_found)
}

/// Whether rows of a plan are made of groups, at whatever depth.
fn has_groups(plan: &LogicalPlan) -> Result<bool, DataFusionError> {
    let mut is_found = false;
    plan.apply_with_subqueries(|below| {
        is_found |= matches!(below, LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_));
        Ok(match is_found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(is_found)
}

fn finish(
    chain: Chain,
    emit: Emit,
    options: &QueryOptions,
    window: Option<(&Window, &str)>,
    input: Input,
) -> Result<ContinuousPlan, SqlError> {
    let columns = columns_of(&chain.transform.schema())?;
    let is_timed = chain
        .aggregate
        .as_ref()
        .is_some_and(|grouped| grouped.windows.is_some());
    if !is_timed && (options.late.is_some() || options.allowed_lateness_ms.is_some()) {
        return Err(nothing_late());
    }
    let Some(grouped) = chain.aggregate else {
        match emit {
            Emit::Changes => {}
            Emit::OnWindowClose | Emit::Every { on_close: true, .. } => {
                return Err(without_window());
            }
            Emit::Every { .. } => return Err(every_of_rows()),
        }
        return Ok(ContinuousPlan {
            explained: vec![
                "filter and project: append".to_owned(),
                format!("read {}: append", input.source.name),
            ],
            inputs: vec![input],
            windowed: false,
            judges_late: false,
            columns,
            primary_key: Vec::new(),
            watermark: None,
            drops_late: false,
            parallelism: options.parallelism,
            written_out: None,
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
                Origin::WindowTime => Some((column, Bound::Last)),
                _ => None,
            })
            .collect(),
    });
    if let (Some((_, time_column)), Some(_)) = (window, &key) {
        let declared = input.source.watermark.as_ref();
        if declared.is_none_or(|declared| declared.column != time_column) {
            return Err(match chain.window_time {
                Origin::Column(_) => without_watermark(&input.source, time_column),
                _ => of_computed_time(&input.source, time_column),
            });
        }
    } else if !leaves_changed(emit) {
        return Err(without_window());
    }
    let leaves = leaving_of(emit, options);
    let primary_key = match leaves {
        group::Emit::OnClose { .. } => Vec::new(),
        group::Emit::Changes { .. } => primary_key(&grouped, &chain.origins, &columns)?,
    };
    let watermark = key.as_ref().filter(|_| leaves.is_on_close());
    let watermark = watermark.and_then(|key| {
        let at = |group: usize| {
            let mut outputs = chain.origins.iter();
            outputs.position(|origin| *origin == Origin::Group(group))
        };
        let bounds = key.bounds.iter();
        let bounds = bounds.filter_map(|(group, bound)| Some((at(*group)?, *bound)));
        declared(key.kind, &bounds.collect::<Vec<_>>(), &columns)
    });
    let mut explained = vec![
        explain_groups(&grouped, key.as_ref(), &primary_key),
        format!("read {}: append", input.source.name),
    ];
    explained.splice(0..0, told_fire(leaves));
    Ok(ContinuousPlan {
        explained,
        inputs: vec![input],
        windowed: key.is_some(),
        judges_late: key.is_some(),
        columns,
        primary_key,
        watermark,
        drops_late: options.late == Some(LateRows::Drop),
        parallelism: options.parallelism,
        written_out: None,
        shape: Shape::Groups(Box::new(Grouping {
            input: grouped.input,
            groups: grouped.groups,
            aggregates: grouped.aggregates,
            schema: grouped.schema,
            output: chain.transform,
            window: key,
            emit: leaves,
            key_format: options.key_format.unwrap_or_default(),
        })),
    })
}

/// How long after its end a window takes rows, unless the query says otherwise in one of two ways.
pub(crate) fn lateness_ms(options: &QueryOptions, usual_ms: i64) -> i64 {
    let strict = matches!(options.late, Some(LateRows::Drop | LateRows::Topic));
    let usual_ms = if strict { 0 } else { usual_ms };
    options.allowed_lateness_ms.unwrap_or(usual_ms)
}

/// Whether rows leave because they changed, and not because a window closes.
fn leaves_changed(emit: Emit) -> bool {
    matches!(
        emit,
        Emit::Changes
            | Emit::Every {
                on_close: false,
                ..
            }
    )
}

/// When the groups of a chain leave.
fn leaving_of(emit: Emit, options: &QueryOptions) -> group::Emit {
    let fire = match emit {
        Emit::Changes => Fire::Epoch,
        Emit::Every { every_ms, on_close } => Fire::Every { every_ms, on_close },
        Emit::OnWindowClose if options.late == Some(LateRows::Update) => Fire::Closed,
        Emit::OnWindowClose => {
            return group::Emit::OnClose {
                grace_ms: options.allowed_lateness_ms.unwrap_or(0),
            };
        }
    };
    group::Emit::Changes {
        keep_ms: lateness_ms(options, group::STATE_TTL_MS),
        fire,
    }
}

/// When what changed leaves, as a line, if it is not at the end of each epoch.
fn told_fire(emit: group::Emit) -> Option<String> {
    let group::Emit::Changes { fire, .. } = emit else {
        return None;
    };
    match fire {
        Fire::Epoch => None,
        Fire::Every { every_ms, on_close } => Some(format!(
            "changes leave every {every_ms} ms of store time{}",
            if on_close {
                ", and when the window closes"
            } else {
                ""
            }
        )),
        Fire::Closed => Some(
            "rows leave when the window closes, and again when late rows change them".to_owned(),
        ),
    }
}

/// A grouped chain in a line.
fn explain_groups(grouped: &Grouped, window: Option<&WindowKey>, primary_key: &[String]) -> String {
    let kept = match window {
        Some(WindowKey { kind, .. }) => format!("state by group and slice ({kind})"),
        None => "state by group".to_owned(),
    };
    let mode = match primary_key {
        [] => "append when the window closes".to_owned(),
        key => format!("upsert by ({})", key.join(", ")),
    };
    format!("aggregate by {}, {kept}: {mode}", grouped.names.join(", "))
}

#[cfg(test)]
mod tests;
