//! The state of a query in parts, of which those lie at rest that memory has no room for.
//!
//! A part is what one step of the query keeps for the keys of one stretch of key groups. There are many more stretches than
//! threads, each a lane of its own. At rest a part is layers in the state store ([`crate::state::layers`]); it is read when a row
//! comes for it, before its step begins, so no step waits and none knows of it. When the parts in memory take more than the budget, the
//! one that is needed least is written, if it changed, and let go. After a restart all of them are at rest, and a save
//! writes those that changed.
//!
//! **Invariant.** What is computed depends on neither the stretches nor the budget: a stretch is a lane, and lanes change nothing
//! ([`crate::job::lanes`]). A part that rests is one whose step gives nothing for time alone; what time makes it
//! forget it forgets when it is read, before a row can meet it. What a recorded checkpoint names is not written again: an object's
//! name has the epoch at work, the stretches and a number.
//!
//! It does not: bound what can not rest, nor one part; nor write behind the back of the step.

use std::cmp::Reverse;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use millpond_proto::limits::{JOB_SAVEPOINT_BYTES_MAX, JOB_STRETCHES_MAX, JOB_STRETCHES_MIN};
use millpond_proto::time::Timestamp;
use object_store::ObjectStore;

use crate::job::error::JobError;
use crate::job::stepped::Stepped;
use crate::job::written::Left;
use crate::operator::delta::other_state;
use crate::state::cells::Cell;
use crate::state::checkpoint::PartAt;
use crate::state::layers::{LayerAt, Layers};

/// Where the state of a query goes that has no room in memory.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) job: u64,
    /// Memory that the state may take before some of it rests.
    pub(crate) budget: usize,
    pub(crate) stretches: usize,
}

/// The next number of stretches, if there may be more than `stretches`; none is 0.
pub(crate) fn more_stretches(stretches: usize) -> Option<usize> {
    let more = (4 * stretches).max(JOB_STRETCHES_MIN);
    (more <= JOB_STRETCHES_MAX).then_some(more)
}

/// The parts of a query's state.
pub(crate) struct Parts {
    shelf: Shelf,
    lanes: usize,
    /// By step, then lane.
    parts: Vec<Part>,
    /// The epoch that is computed, under which parts are written.
    epoch: u64,
    /// Counts what is done, to tell what was done last.
    now: u64,
    /// Memory of the largest part that may rest, ever.
    largest: usize,
    /// What lanes told at the end of an epoch, before they were let go.
    pub(crate) told: Vec<Vec<Left>>,
}

#[derive(Debug)]
struct Part {
    layers: Layers,
    /// Memory that it took when it was put to rest; `None`: it is in memory.
    at_rest: Option<usize>,
    /// Whether it may differ from its layers.
    is_changed: bool,
    /// Whether a row of the step at hand comes for it.
    is_wanted: bool,
    /// The epoch in which a row came for it last, and when within.
    used: (u64, u64),
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_rest = self.parts.iter().filter(|part| part.at_rest.is_some());
        f.debug_struct("Parts")
            .field("lanes", &self.lanes)
            .field("parts", &self.parts.len())
            .field("at_rest", &at_rest.count())
            .finish_non_exhaustive()
    }
}

impl Parts {
    /// The parts of lanes that have no state yet.
    pub(crate) fn of<L: Stepped>(shelf: Shelf, cell: Cell, lanes: &[L]) -> Self {
        let steps = lanes.first().map_or(0, Stepped::steps);
        let count = lanes.len();
        let parts = (0..steps * count).map(|place| {
            let (step, lane) = (place / count, place % count);
            let name = format!("{step}-{lane}-of-{count}");
            Part {
                layers: Layers::of_part(shelf.job, cell, name),
                at_rest: None,
                is_changed: false,
                is_wanted: false,
                used: (0, 0),
            }
        });
        Self {
            parts: parts.collect(),
            lanes: count,
            shelf,
            epoch: 0,
            now: 0,
            largest: 0,
            told: Vec::new(),
        }
    }

    /// What is written from now on is of this epoch.
    pub(crate) fn begin(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// All parts as they lie at rest; what can not rest is read at once.
    ///
    /// # Errors
    /// When the store has not what was written, or it is another query's.
    pub(crate) async fn resume<L: Stepped>(
        &mut self,
        lanes: &mut [L],
        at: Vec<PartAt>,
        watermark: Option<Timestamp>,
    ) -> Result<(), JobError> {
        for at in at {
            let known = lanes.get(at.stretch);
            let known = known.filter(|lane| at.step < lane.steps() && lane.is_kept(at.step));
            let rests = known.ok_or_else(other_state)?.rests(at.step);
            let memory = usize::try_from(at.memory_bytes).unwrap_or(usize::MAX);
            let place = at.step * self.lanes + at.stretch;
            let part = &mut self.parts[place];
            part.layers.lie_at(at.layers);
            part.at_rest = Some(memory);
            if !rests {
                self.read(lanes, place, watermark).await?;
            }
        }
        Ok(())
    }

    /// Takes over state that lanes were given by others: all of it is to be written.
    ///
    /// # Errors
    /// When what has no room can not be written.
    pub(crate) async fn take_over<L: Stepped>(&mut self, lanes: &mut [L]) -> Result<(), JobError> {
        self.parts
            .iter_mut()
            .for_each(|part| part.is_changed = true);
        self.settle(lanes).await
    }

    /// Notes for which lanes rows come at a step, and cuts the lanes into those that may be in memory together.
    pub(crate) fn waves(&mut self, step: usize, takes: &[bool], hands: usize) -> Vec<Range<usize>> {
        let mut waves = Vec::new();
        let (mut from, mut reads) = (0, 0);
        for (lane, takes) in takes.iter().enumerate() {
            let Some(part) = self.parts.get_mut(step * self.lanes + lane) else {
                continue;
            };
            part.is_wanted = *takes;
            if !*takes || part.at_rest.is_none() {
                continue;
            }
            if reads == hands {
                waves.push(from..lane);
                (from, reads) = (lane, 0);
            }
            reads += 1;
        }
        waves.push(from..takes.len());
        waves
    }

    /// Reads the parts of a step that rows come for.
    ///
    /// # Errors
    /// When the store does not give them, or not as they were written.
    pub(crate) async fn wake<L: Stepped>(
        &mut self,
        lanes: &mut [L],
        step: usize,
        wave: Range<usize>,
        watermark: Option<Timestamp>,
    ) -> Result<(), JobError> {
        for lane in wave {
            let place = step * self.lanes + lane;
            if !self.parts[place].is_wanted {
                continue;
            }
            if self.parts[place].at_rest.is_some() {
                self.read(lanes, place, watermark).await?;
            }
            self.now += 1;
            let part = &mut self.parts[place];
            part.is_wanted = false;
            part.is_changed = true;
            part.used = (self.epoch, self.now);
        }
        Ok(())
    }

    async fn read<L: Stepped>(
        &mut self,
        lanes: &mut [L],
        place: usize,
        watermark: Option<Timestamp>,
    ) -> Result<(), JobError> {
        let lane = place % self.lanes;
        let part = &mut self.parts[place];
        let rows = part.layers.wake(self.shelf.store.as_ref()).await?;
        if let Some(rows) = rows {
            lanes[lane].put(&rows, lane..self.lanes, watermark)?;
        }
        part.at_rest = None;
        Ok(())
    }

    /// Puts parts to rest until the others have room.
    ///
    /// # Errors
    /// When the store does not take them.
    pub(crate) async fn settle<L: Stepped>(&mut self, lanes: &mut [L]) -> Result<(), JobError> {
        let each = (0..self.parts.len()).map(|place| (place, self.bytes(lanes, place)));
        let each: Vec<(usize, usize)> = each.filter(|(_, bytes)| *bytes > 0).collect();
        let mut memory: usize = each.iter().map(|(_, bytes)| bytes).sum();
        let rests =
            |(place, _): &(usize, usize)| lanes[place % self.lanes].rests(place / self.lanes);
        let mut resting: Vec<(usize, usize)> = each.into_iter().filter(rests).collect();
        let largest = resting.iter().map(|(_, bytes)| *bytes).max();
        self.largest = self.largest.max(largest.unwrap_or(0));
        if memory <= self.shelf.budget {
            return Ok(());
        }
        // Of what was used in this epoch that goes first which was used last: when all comes in turn in every epoch, the others stay.
        resting.sort_by_key(|(place, _)| {
            let part = &self.parts[*place];
            (
                part.is_wanted,
                part.used.0,
                Reverse(part.used.1),
                Reverse(*place),
            )
        });
        for (place, bytes) in resting {
            if memory <= self.shelf.budget {
                break;
            }
            self.put_to_rest(lanes, place, bytes).await?;
            memory -= bytes;
        }
        Ok(())
    }

    fn bytes<L: Stepped>(&self, lanes: &[L], place: usize) -> usize {
        lanes[place % self.lanes].bytes(place / self.lanes)
    }

    async fn put_to_rest<L: Stepped>(
        &mut self,
        lanes: &mut [L],
        place: usize,
        bytes: usize,
    ) -> Result<(), JobError> {
        self.write(lanes, place).await?;
        let part = &mut self.parts[place];
        part.layers.rest();
        part.at_rest = Some(bytes);
        lanes[place % self.lanes].clear(place / self.lanes);
        Ok(())
    }

    /// Writes what changed of a part.
    async fn write<L: Stepped>(&mut self, lanes: &mut [L], place: usize) -> Result<(), JobError> {
        let (step, lane) = (place / self.lanes, place % self.lanes);
        let part = &mut self.parts[place];
        let differs = part.is_changed || !lanes[lane].rests(step);
        if !differs || part.at_rest.is_some() || !lanes[lane].is_kept(step) {
            return Ok(());
        }
        let rows = lanes[lane].rows(step)?;
        if rows.num_rows() > 0 || !part.layers.at().is_empty() {
            let store = self.shelf.store.as_ref();
            part.layers.save(store, self.epoch, &rows).await?;
        }
        part.is_changed = false;
        Ok(())
    }

    /// Writes all that changed since it was written last, and answers where everything lies.
    ///
    /// # Errors
    /// When the store does not take it.
    pub(crate) async fn save<L: Stepped>(
        &mut self,
        lanes: &mut [L],
    ) -> Result<Vec<PartAt>, JobError> {
        for place in 0..self.parts.len() {
            self.write(lanes, place).await?;
        }
        let each = self.parts.iter().enumerate();
        let some = each.filter(|(_, part)| !part.layers.at().is_empty());
        let at = some.map(|(place, part)| PartAt {
            step: place / self.lanes,
            stretch: place % self.lanes,
            memory_bytes: part.at_rest.unwrap_or_else(|| self.bytes(lanes, place)) as u64,
            layers: part.layers.at().to_vec(),
        });
        Ok(at.collect())
    }

    /// All of the state as rows, wherever it lies.
    ///
    /// # Errors
    /// When it is larger than a savepoint may be, or the store does not give it.
    pub(crate) async fn whole<L: Stepped>(
        &mut self,
        lanes: &mut [L],
    ) -> Result<Option<RecordBatch>, JobError> {
        let mut whole = Vec::new();
        let mut bytes = 0;
        for (place, part) in self.parts.iter().enumerate() {
            let (step, lane) = (place / self.lanes, place % self.lanes);
            let rows = match part.at_rest {
                Some(_) => part.layers.rows(self.shelf.store.as_ref()).await?,
                None if lanes[lane].is_kept(step) => Some(lanes[lane].rows(step)?),
                None => None,
            };
            let Some(rows) = rows.filter(|rows| rows.num_rows() > 0) else {
                continue;
            };
            bytes += rows.get_array_memory_size();
            if bytes > JOB_SAVEPOINT_BYTES_MAX {
                return Err(JobError::SavepointTooLarge {
                    limit_bytes: JOB_SAVEPOINT_BYTES_MAX,
                });
            }
            whole.push(rows);
        }
        Ok(match whole.first() {
            Some(first) => Some(concat_batches(first.schema_ref(), &whole)?),
            None => match lanes.first() {
                Some(lane) => Some(lane.rows(lane.steps() - 1)?),
                None => None,
            },
        })
    }

    /// Memory that the parts at rest of a step would take.
    pub(crate) fn rest_bytes(&self, step: usize) -> u64 {
        let parts = self.parts.iter().skip(step * self.lanes).take(self.lanes);
        parts.map(|part| part.at_rest.unwrap_or(0) as u64).sum()
    }

    /// How many stretches would be better, if a part is too large for `hands` of them to be in memory within `limit`.
    pub(crate) fn wants(&self, hands: usize, limit: usize) -> Option<usize> {
        let is_crowded = 2 * hands.max(1) * self.largest > limit;
        more_stretches(self.lanes).filter(|_| is_crowded)
    }

    /// The objects that the parts lie in.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &LayerAt> {
        self.parts.iter().flat_map(|part| part.layers.at())
    }

    /// How many stretches there are.
    pub(crate) fn stretches(&self) -> usize {
        self.lanes
    }
}

#[cfg(test)]
mod tests;
