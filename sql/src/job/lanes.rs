//! The lanes of a query with state: each computes the rows of its keys, tick by tick.
//!
//! A lane never waits for another within a tick. A chain's lanes go through all ticks of an epoch by themselves;
//! those of a graph meet wherever rows must find the lane of another key, once an epoch and node. Each lane
//! writes what it emits as messages; [`crate::job::written`] puts them into one order.
//!
//! **Invariant.** What is computed does not depend on the number of lanes: rows of a key are in one lane, in the
//! order of the log, and whatever a node does with rows of several keys does not depend on their order. The saved state
//! is that of all lanes in a line, and each takes from it what it owns, however many there were.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, interleave_record_batch, take_record_batch};
use millpond_connectors::format::body::BodyEncoder;
use millpond_proto::time::Timestamp;

use crate::job::crew::Crew;
use crate::job::error::JobError;
use crate::job::intake::Taken;
use crate::job::written::{Left, in_order, written};
use crate::operator::delta::Entries;
use crate::operator::graph::{Graph, GraphStep, Routed};
use crate::operator::key::Keys;
use crate::operator::moment::Marks;
use crate::operator::origin::{Came, Message};
use crate::operator::spread::{by_lane, lane_of};
use crate::operator::{Operator, OperatorError, Output, StepFigures};
use crate::state::cells::Cell;
use crate::topic::TICK_MS;

/// The rows of a tick, and where the clocks stand.
#[derive(Clone, Debug)]
pub(crate) struct Tick {
    pub(crate) at: Timestamp,
    /// The watermark of each input that its rows are judged by, and after them.
    pub(crate) before: Vec<Option<Timestamp>>,
    pub(crate) after: Vec<Option<Timestamp>>,
    /// What was taken in together, and which rows of it; by input, queue and offset.
    pub(crate) parts: Vec<(usize, Range<usize>)>,
}

/// The state of a query, by lane.
#[derive(Debug)]
pub(crate) enum Lanes {
    /// It has none.
    None,
    Groups(Vec<Box<dyn Operator>>),
    Graph(Vec<Graph>),
}

impl Lanes {
    /// Computes ticks, and answers the milliseconds that the lanes of a query of one step took: the nodes of a graph
    /// remember theirs. What is told at the end of an epoch waits for [`Lanes::barrier`].
    pub(crate) async fn ticks(
        &mut self,
        crew: &Crew,
        encoder: &Arc<BodyEncoder>,
        taken: &Arc<[Taken]>,
        ticks: Vec<Tick>,
    ) -> Result<(Vec<Left>, u64), JobError> {
        match self {
            Self::None => Ok((Vec::new(), 0)),
            Self::Groups(lanes) => {
                let ticks: Arc<[Tick]> = ticks.into();
                let rows = rows_of(taken);
                let done = each(crew, rows, lanes, |lane| {
                    let (encoder, taken) = (Arc::clone(encoder), Arc::clone(taken));
                    let (ticks, crew) = (Arc::clone(&ticks), crew.clone());
                    move |operator| {
                        let mut laps = crew.laps();
                        let left = groups(operator.as_mut(), lane, &encoder, &taken, &ticks)?;
                        Ok((left, laps.lap()))
                    }
                });
                let (left, busy_ms): (Vec<_>, Vec<u64>) = done.await?.into_iter().unzip();
                Ok((in_order(left), busy_ms.iter().sum()))
            }
            Self::Graph(lanes) => {
                let left = graph(crew, encoder, taken, &ticks, lanes).await?;
                Ok((left, 0))
            }
        }
    }

    /// Ends an epoch: what changed in it leaves.
    pub(crate) async fn barrier(
        &mut self,
        crew: &Crew,
        encoder: &Arc<BodyEncoder>,
        rows: usize,
    ) -> Result<Vec<Left>, JobError> {
        let left = match self {
            Self::None => return Ok(Vec::new()),
            Self::Groups(lanes) => {
                each(crew, rows, lanes, |_| {
                    let encoder = Arc::clone(encoder);
                    move |operator| {
                        let mut out = Output::default();
                        operator.on_barrier(&mut out)?;
                        Ok(vec![written(&encoder, 0, out, &[])?])
                    }
                })
                .await?
            }
            Self::Graph(lanes) => {
                each(crew, rows, lanes, |_| {
                    let encoder = Arc::clone(encoder);
                    move |graph| {
                        let mut out = Output::default();
                        graph.on_barrier(&mut out)?;
                        Ok(vec![written(&encoder, 0, out, &[])?])
                    }
                })
                .await?
            }
        };
        Ok(in_order(left))
    }

    /// Lets time come so far: what waits for it leaves.
    pub(crate) fn until(
        &mut self,
        encoder: &BodyEncoder,
        now: Timestamp,
    ) -> Result<Vec<Left>, JobError> {
        let mut left = Vec::new();
        match self {
            Self::None => {}
            Self::Groups(lanes) => {
                for lane in lanes {
                    let mut out = Output::default();
                    lane.on_time(now, &mut out)?;
                    left.push(vec![written(encoder, 0, out, &[])?]);
                }
            }
            Self::Graph(lanes) => {
                for lane in lanes {
                    let mut out = Output::default();
                    lane.on_time(now, &mut out)?;
                    left.push(vec![written(encoder, 0, out, &[])?]);
                }
            }
        }
        Ok(in_order(left))
    }

    /// The first time for which something waits.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        match self {
            Self::None => None,
            Self::Groups(lanes) => lanes.iter().filter_map(|lane| lane.due()).min(),
            Self::Graph(lanes) => lanes.iter().filter_map(Graph::due).min(),
        }
    }

    /// The state of all lanes as rows, between two epochs.
    pub(crate) fn save(&self) -> Result<Option<RecordBatch>, OperatorError> {
        match self {
            Self::None => Ok(None),
            Self::Groups(lanes) => {
                let saved = lanes.iter().filter_map(|lane| lane.save().transpose());
                let saved = saved.collect::<Result<Vec<_>, _>>()?;
                Ok(match saved.first() {
                    Some(first) => Some(concat_batches(first.schema_ref(), &saved)?),
                    None => None,
                })
            }
            Self::Graph(lanes) => {
                let mut entries = Entries::default();
                for lane in lanes {
                    lane.save(&mut entries);
                }
                Ok(Some(entries.batch()?))
            }
        }
    }

    /// Which rows of what [`Lanes::save`] gives are written together: of a graph those of a key of a node.
    pub(crate) fn cell(&self) -> Cell {
        match self {
            Self::None | Self::Groups(_) => Cell::EachRow,
            Self::Graph(_) => Cell::ByColumns(Entries::CELL),
        }
    }

    /// Takes back what [`Lanes::save`] gave, however many lanes there were then.
    pub(crate) fn restore(
        &mut self,
        state: &RecordBatch,
        watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError> {
        match self {
            Self::None => Err(OperatorError::OtherState {
                detail: "a query without aggregates has no state".to_owned(),
            }),
            Self::Groups(lanes) if lanes.len() == 1 => lanes[0].restore(state, watermark),
            Self::Groups(lanes) => {
                let count = lanes.len();
                let width = lanes[0].state_key_columns();
                let columns = state.columns().get(..width);
                let columns = columns.ok_or_else(|| OperatorError::OtherState {
                    detail: "its columns differ".to_owned(),
                })?;
                let keys = Keys::new(columns.iter().map(|column| column.data_type()))?;
                let keys = keys.encode(columns)?;
                let owners = (0..state.num_rows()).map(|row| lane_of(keys.row(row), count));
                for (lane, rows) in lanes.iter_mut().zip(by_lane(owners, count)) {
                    let own = take_record_batch(state, &UInt32Array::from(rows))?;
                    lane.restore(&own, watermark)?;
                }
                Ok(())
            }
            Self::Graph(lanes) => {
                let count = lanes.len();
                let mut each = lanes.iter_mut().enumerate();
                each.try_for_each(|(lane, graph)| graph.restore(state, lane, count))
            }
        }
    }

    /// Memory of the state, about.
    pub(crate) fn state_bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Groups(lanes) => lanes.iter().map(|lane| lane.state_bytes()).sum(),
            Self::Graph(lanes) => lanes.iter().map(|lane| lane.state_bytes()).sum(),
        }
    }

    /// What each step of a graph did, in all lanes; empty for a query of one step.
    pub(crate) fn figures(&self) -> Vec<StepFigures> {
        let Self::Graph(lanes) = self else {
            return Vec::new();
        };
        let mut all: Vec<StepFigures> = Vec::new();
        for lane in lanes {
            let figures = lane.figures();
            if all.is_empty() {
                all = figures;
                continue;
            }
            for (sum, figures) in all.iter_mut().zip(figures) {
                sum.rows_in += figures.rows_in;
                sum.rows_out += figures.rows_out;
                sum.state_bytes += figures.state_bytes;
                sum.busy_ms += figures.busy_ms;
            }
        }
        all
    }
}

fn rows_of(taken: &[Taken]) -> usize {
    taken.iter().map(|taken| taken.table.num_rows()).sum()
}

/// Does the work of every lane; a lane goes to the one that does it and comes back.
async fn each<L, T, W>(
    crew: &Crew,
    rows: usize,
    lanes: &mut Vec<L>,
    mut work: impl FnMut(usize) -> W,
) -> Result<Vec<T>, JobError>
where
    L: Send + 'static,
    T: Send + 'static,
    W: FnOnce(&mut L) -> Result<T, JobError> + Send + 'static,
{
    let pieces = std::mem::take(lanes).into_iter().enumerate();
    let pieces = pieces.map(|(index, mut lane)| {
        let work = work(index);
        move || {
            let done = work(&mut lane);
            (lane, done)
        }
    });
    let mut answers = Vec::new();
    for (lane, done) in crew.all(rows, pieces.collect()).await? {
        lanes.push(lane);
        answers.push(done);
    }
    answers.into_iter().collect()
}

/// A lane of a chain goes through the ticks.
fn groups(
    operator: &mut dyn Operator,
    lane: usize,
    encoder: &BodyEncoder,
    taken: &[Taken],
    ticks: &[Tick],
) -> Result<Vec<Left>, JobError> {
    // What waited for the tick leaves before what its rows make leave.
    let mut left = Vec::with_capacity(2 * ticks.len());
    for (step, tick) in ticks.iter().enumerate() {
        let least = |each: &[Option<Timestamp>]| each.iter().min().copied().flatten();
        let mut waited = Output::default();
        operator.on_time(tick.at, &mut waited)?;
        left.push(written(encoder, 2 * step, waited, &[])?);
        let mut out = Output::default();
        let rows = own_rows(lane, taken, tick);
        if !rows.is_empty() {
            let batch = rows_at(taken, &rows)?;
            operator.on_batch(&batch, least(&tick.before), &mut out)?;
        }
        if let Some(watermark) = least(&tick.after) {
            operator.on_watermark(watermark, &mut out)?;
        }
        left.push(written(encoder, 2 * step + 1, out, &rows)?);
    }
    Ok(left)
}

/// The rows of a tick that are a lane's, in the order of the log.
fn own_rows(lane: usize, taken: &[Taken], tick: &Tick) -> Vec<(usize, usize)> {
    let mut rows = Vec::new();
    for (index, range) in &tick.parts {
        let by_lane = &taken[*index].by_lane;
        if by_lane.len() <= 1 {
            rows.extend(range.clone().map(|row| (*index, row)));
            continue;
        }
        let own = &by_lane[lane];
        let at = |row: usize| own.partition_point(|own| (*own as usize) < row);
        let own = &own[at(range.start)..at(range.end)];
        rows.extend(own.iter().map(|row| (*index, *row as usize)));
    }
    rows
}

/// Those rows as one table.
fn rows_at(taken: &[Taken], rows: &[(usize, usize)]) -> Result<RecordBatch, JobError> {
    let (first, last) = (rows[0], rows[rows.len() - 1]);
    if first.0 == last.0 && last.1 - first.1 + 1 == rows.len() && rows.is_sorted() {
        return Ok(taken[first.0].table.slice(first.1, rows.len()));
    }
    // Only what the tick has rows of: a table that gives none would cost as well.
    let mut tables: Vec<&RecordBatch> = Vec::new();
    let mut before = None;
    let mut places = Vec::with_capacity(rows.len());
    for (index, row) in rows {
        if before != Some(*index) {
            before = Some(*index);
            tables.push(&taken[*index].table);
        }
        places.push((tables.len() - 1, *row));
    }
    Ok(interleave_record_batch(&tables, &places)?)
}

/// The lanes of a graph go through the nodes.
async fn graph(
    crew: &Crew,
    encoder: &Arc<BodyEncoder>,
    taken: &[Taken],
    ticks: &[Tick],
    lanes: &mut Vec<Graph>,
) -> Result<Vec<Left>, JobError> {
    let count = lanes.len();
    let rows = rows_of(taken);
    let folded = lanes[0].folds().then(|| folded(ticks)).flatten();
    let ticks = folded.as_ref().map_or(ticks, std::slice::from_ref);
    let steps = steps(taken, ticks, lanes[0].is_timed());
    let mut arrived = arrived(taken, &steps, count)?.into_iter();
    let steps: Arc<[GraphStep]> = steps.into_iter().map(|(step, _)| step).collect();
    for lane in lanes.iter_mut() {
        let arrived = arrived.next().unwrap_or_default();
        lane.begin(Arc::clone(&steps), arrived);
    }
    let nodes = lanes[0].nodes();
    let mut routed: Vec<Option<Vec<Routed>>> = vec![None; count];
    let mut from = 0;
    while from < nodes {
        let to = (from + 1..nodes).find(|node| lanes[0].is_routed(*node));
        let routes = match to {
            Some(_) => count > 1,
            None => count > 1 && lanes[0].leaves_routed(),
        };
        let to = to.unwrap_or(nodes);
        let mut given = std::mem::replace(&mut routed, vec![None; count]);
        let done = each(crew, rows, lanes, |lane| {
            let given = given[lane].take();
            stretch(given, from..to, routes.then_some(count), crew.clone())
        });
        for (target, from) in exchanged(done.await?).into_iter().enumerate() {
            routed[target] = Some(from);
        }
        from = to;
    }
    let left = each(crew, rows, lanes, |lane| {
        let (encoder, given) = (Arc::clone(encoder), routed[lane].take());
        move |graph: &mut Graph| {
            let merged = given.map(|given| graph.merge(&given)).transpose()?;
            let left = graph.finish(merged)?.into_iter();
            left.map(|(step, out, late)| written(&encoder, step, out, &late))
                .collect()
        }
    });
    Ok(in_order(left.await?))
}

/// Nodes that rows go through without leaving their lane; the first takes what was routed to it.
fn stretch(
    given: Option<Vec<Routed>>,
    nodes: Range<usize>,
    lanes: Option<usize>,
    crew: Crew,
) -> impl FnOnce(&mut Graph) -> Result<Vec<Routed>, JobError> + Send + 'static {
    move |graph| {
        let mut laps = crew.laps();
        let merged = given.map(|given| graph.merge(&given)).transpose()?;
        for node in nodes.clone() {
            let routed = merged.as_ref().filter(|_| node == nodes.start);
            graph.run(node, routed)?;
            graph.spent(node, laps.lap());
        }
        match lanes {
            Some(lanes) => Ok(graph.route(nodes.end, lanes)?),
            None => Ok(Vec::new()),
        }
    }
}

/// From what each lane gives to all, to what each takes from all.
fn exchanged(given: Vec<Vec<Routed>>) -> Vec<Vec<Routed>> {
    let mut taken: Vec<Vec<Routed>> = Vec::new();
    for lane in given {
        taken.resize_with(lane.len(), Vec::new);
        for (taken, routed) in taken.iter_mut().zip(lane) {
            taken.push(routed);
        }
    }
    taken
}

/// All ticks as one.
fn folded(ticks: &[Tick]) -> Option<Tick> {
    let parts = ticks.iter().flat_map(|tick| tick.parts.iter().cloned());
    Some(Tick {
        parts: parts.collect(),
        ..ticks.last()?.clone()
    })
}

/// The steps of a graph: the rows of each tick that has some, then time alone; with the tick whose rows it takes.
fn steps<'a>(
    taken: &[Taken],
    ticks: &'a [Tick],
    is_timed: bool,
) -> Vec<(GraphStep, Option<&'a Tick>)> {
    let has_rows = |tick: &Tick| tick.parts.iter().any(|(_, rows)| !rows.is_empty());
    debug_assert!(taken.iter().all(|taken| taken.by_lane.is_empty()));
    let mut steps = Vec::with_capacity(2 * ticks.len());
    for tick in ticks {
        let before = Marks {
            stored_ms: tick.at.as_ms(),
            watermarks: tick.before.clone(),
        };
        if has_rows(tick) {
            let step = GraphStep {
                before: before.clone(),
                after: before.clone(),
            };
            steps.push((step, Some(tick)));
        }
        if is_timed {
            let after = Marks {
                stored_ms: before.stored_ms.saturating_add(TICK_MS),
                watermarks: tick.after.clone(),
            };
            steps.push((GraphStep { before, after }, None));
        }
    }
    steps
}

type Arrived = Vec<BTreeMap<usize, Came>>;

/// What each lane begins with: stretches of what was taken in, about equally many rows each, so that lanes in a line
/// have the rows in the order of the log.
fn arrived(
    taken: &[Taken],
    steps: &[(GraphStep, Option<&Tick>)],
    lanes: usize,
) -> Result<Vec<Arrived>, JobError> {
    let all = rows_of(taken).max(1);
    let mut before = 0;
    let owners = taken.iter().map(|taken| {
        let lane = before * lanes / all;
        before += taken.table.num_rows();
        lane
    });
    let owners: Vec<usize> = owners.collect();
    let mut arrived: Vec<Arrived> = vec![vec![BTreeMap::new(); steps.len()]; lanes];
    for (step, (_, tick)) in steps.iter().enumerate() {
        let mut slices: BTreeMap<(usize, usize), (Vec<RecordBatch>, Vec<Message>)> =
            BTreeMap::new();
        for (index, rows) in tick.iter().flat_map(|tick| &tick.parts) {
            if !rows.is_empty() {
                let own = slices.entry((owners[*index], taken[*index].input));
                let slice = taken[*index].table.slice(rows.start, rows.len());
                let own = own.or_default();
                own.0.push(slice);
                own.1.extend(rows.clone().map(|row| (*index, row)));
            }
        }
        for ((lane, input), (slices, messages)) in slices {
            let rows = match slices.as_slice() {
                [one] => one.clone(),
                many => concat_batches(many[0].schema_ref(), many)?,
            };
            arrived[lane][step].insert(input, Came { rows, messages });
        }
    }
    Ok(arrived)
}
