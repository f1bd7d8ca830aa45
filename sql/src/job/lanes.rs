//! The lanes of a query with state: each computes the rows of its keys, tick by tick.
//!
//! A lane never waits for another within a tick. A chain's lanes go through all ticks of an epoch by themselves;
//! those of a graph meet wherever rows must find the lane of another key, once an epoch and node. Each lane
//! writes what it emits as messages; [`crate::job::written`] puts them into one order.
//!
//! **Invariant.** What is computed does not depend on the number of lanes: rows of a key are in one lane, in the
//! order of the log, and whatever a node does with rows of several keys does not depend on their order. The saved state
//! is that of all lanes in a line, and each takes from it what it owns, however many there were.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, interleave_record_batch, take_record_batch};
use millpond_connectors::format::body::BodyEncoder;
use millpond_proto::time::Timestamp;

use crate::job::adding::{added_up, hot_lane};
use crate::job::crew::Crew;
use crate::job::error::JobError;
use crate::job::intake::Taken;
use crate::job::nodes::graph;
use crate::job::parts::Parts;
use crate::job::written::{Left, in_order, written};
use crate::operator::delta::Entries;
use crate::operator::graph::Graph;
use crate::operator::key::Keys;
use crate::operator::spread::{by_lane, lane_of};
use crate::operator::{Operator, OperatorError, Output, StepFigures};
use crate::state::cells::Cell;

/// The rows of a tick, and where the clocks stand.
#[derive(Clone, Debug)]
pub(crate) struct Tick {
    /// Its rows were stored from then on, and before that.
    pub(crate) at: Timestamp,
    pub(crate) until: Timestamp,
    /// The watermark of each input that its rows are judged by, and after them.
    pub(crate) before: Vec<Option<Timestamp>>,
    pub(crate) after: Vec<Option<Timestamp>>,
    /// Whether a row came behind the watermark of its input.
    pub(crate) has_late: bool,
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
        mut parts: Option<&mut Parts>,
    ) -> Result<(Vec<Left>, u64), JobError> {
        match self {
            Self::None => Ok((Vec::new(), 0)),
            Self::Groups(lanes) => {
                let ticks: Arc<[Tick]> = ticks.into();
                let rows = rows_of(taken);
                let adds_up = crew.lanes() > 1 && lanes.len() == 1 && parts.is_none();
                if let Some(adder) = lanes[0].adder().filter(|_| adds_up) {
                    let lane = lanes[0].as_mut();
                    let (left, busy_ms) =
                        added_up(crew, encoder, &adder, taken, &ticks, 0, lane).await?;
                    return Ok((in_order(vec![left]), busy_ms));
                }
                let hot = hot_lane(taken, lanes.len());
                let hot = hot.filter(|_| crew.lanes() > 1 && parts.is_none());
                let hot = hot.and_then(|hot| Some((hot, lanes[hot].adder()?)));
                let waves = match &mut parts {
                    Some(parts) => {
                        let has_rows = |lane| {
                            let mut ticks = ticks.iter();
                            ticks.any(|tick| !own_rows(lane, taken, tick).is_empty())
                        };
                        let takes: Vec<bool> = (0..lanes.len()).map(has_rows).collect();
                        parts.waves(0, &takes, crew.lanes())
                    }
                    None => match &hot {
                        Some((hot, _)) => vec![0..*hot, hot + 1..lanes.len()],
                        None => iter::once(0..lanes.len()).collect(),
                    },
                };
                let (mut all, mut busy_ms) = (Vec::with_capacity(lanes.len()), 0);
                if let Some((hot, adder)) = hot {
                    let lane = lanes[hot].as_mut();
                    let (left, spent_ms) =
                        added_up(crew, encoder, &adder, taken, &ticks, hot, lane).await?;
                    all.push(left);
                    busy_ms += spent_ms;
                }
                let watermark = ticks.first().and_then(|tick| least(&tick.before));
                let rests = parts.is_some();
                for wave in waves {
                    if let Some(parts) = &mut parts {
                        parts.wake(lanes, 0, wave.clone(), watermark).await?;
                    }
                    let done = each(crew, rows, lanes, wave, |lane| {
                        let (encoder, taken) = (Arc::clone(encoder), Arc::clone(taken));
                        let (ticks, crew) = (Arc::clone(&ticks), crew.clone());
                        move |operator| {
                            let mut laps = crew.laps();
                            let left = groups(operator.as_mut(), lane, &encoder, &taken, &ticks)?;
                            // Its rows of the epoch are all there, and it may be let go before the others'.
                            let told = rests.then(|| barrier(operator.as_mut(), &encoder));
                            Ok((left, told.transpose()?, laps.lap()))
                        }
                    });
                    for (left, told, spent_ms) in done.await? {
                        all.push(left);
                        busy_ms += spent_ms;
                        if let (Some(parts), Some(told)) = (&mut parts, told) {
                            parts.told.push(told);
                        }
                    }
                    if let Some(parts) = &mut parts {
                        parts.settle(lanes).await?;
                    }
                }
                Ok((in_order(all), busy_ms))
            }
            Self::Graph(lanes) => {
                let left = graph(crew, encoder, taken, &ticks, lanes, parts).await?;
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
        parts: Option<&mut Parts>,
    ) -> Result<Vec<Left>, JobError> {
        let left = match self {
            Self::None => return Ok(Vec::new()),
            Self::Groups(lanes) => match parts {
                Some(parts) => std::mem::take(&mut parts.told),
                None => {
                    let all = 0..lanes.len();
                    each(crew, rows, lanes, all, |_| {
                        let encoder = Arc::clone(encoder);
                        move |operator| barrier(operator.as_mut(), &encoder)
                    })
                    .await?
                }
            },
            Self::Graph(lanes) => {
                let all = 0..lanes.len();
                each(crew, rows, lanes, all, |_| {
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

    /// Whether there is something to give before any row comes.
    pub(crate) fn waits(&self) -> bool {
        matches!(self, Self::Graph(lanes) if lanes.iter().any(Graph::waits))
    }

    /// The first time for which something waits.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        match self {
            Self::None => None,
            Self::Groups(lanes) => lanes.iter().filter_map(|lane| lane.due()).min(),
            Self::Graph(_) if self.waits() => Some(Timestamp(i64::MIN)),
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
                    // Where state rests it comes in parts, and each lane is given its own.
                    if rows.is_empty() && lane.rests() {
                        continue;
                    }
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

    /// Whether some of its state may rest.
    pub(crate) fn rests(&self) -> bool {
        match self {
            Self::None => false,
            // What has no key is one group, in one lane.
            Self::Groups(lanes) => {
                let has_key = lanes[0].state_key_columns() > 0;
                has_key && lanes[0].rests()
            }
            Self::Graph(lanes) => (0..lanes[0].parts()).any(|part| lanes[0].part_rests(part)),
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
    pub(crate) fn figures(&self, parts: Option<&Parts>) -> Vec<StepFigures> {
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
        for (step, sum) in all.iter_mut().enumerate() {
            sum.rest_bytes = parts.map_or(0, |parts| parts.rest_bytes(step));
        }
        all
    }
}

pub(super) fn rows_of(taken: &[Taken]) -> usize {
    taken.iter().map(|taken| taken.table.num_rows()).sum()
}

/// Does the work of some lanes; a lane goes to the one that does it and comes back.
pub(super) async fn each<L, T, W>(
    crew: &Crew,
    rows: usize,
    lanes: &mut Vec<L>,
    which: Range<usize>,
    mut work: impl FnMut(usize) -> W,
) -> Result<Vec<T>, JobError>
where
    L: Send + 'static,
    T: Send + 'static,
    W: FnOnce(&mut L) -> Result<T, JobError> + Send + 'static,
{
    let behind = lanes.split_off(which.end);
    let mine = lanes.split_off(which.start).into_iter();
    let pieces = which.zip(mine).map(|(index, mut lane)| {
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
    lanes.extend(behind);
    answers.into_iter().collect()
}

pub(super) fn least(watermarks: &[Option<Timestamp>]) -> Option<Timestamp> {
    watermarks.iter().min().copied().flatten()
}

/// What a lane of a chain tells at the end of an epoch.
fn barrier(operator: &mut dyn Operator, encoder: &BodyEncoder) -> Result<Vec<Left>, JobError> {
    let mut out = Output::default();
    operator.on_barrier(&mut out)?;
    Ok(vec![written(encoder, 0, out, &[])?])
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
pub(super) fn own_rows(lane: usize, taken: &[Taken], tick: &Tick) -> Vec<(usize, usize)> {
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
pub(super) fn rows_at(taken: &[Taken], rows: &[(usize, usize)]) -> Result<RecordBatch, JobError> {
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
