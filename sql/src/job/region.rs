//! One epoch of a continuous query: envelopes in, prepared output rows out; no I/O, but for state at rest.
//!
//! Rows are taken in side by side ([`crate::job::intake`]) and then computed tick by tick, in as many lanes as the query
//! has ([`crate::job::lanes`]), within a tick by (queue, offset): an order that is the log's alone. The
//! rows of a tick are judged by the watermark before it, then the watermark moves and windows close. So
//! the output does not depend on where epochs were cut, except that an updating query emits at their ends unless it says `EMIT EVERY`, nor on the
//! number of lanes. To a query without state ticks mean nothing: it is given the rows of an epoch at once, by (queue, offset).

mod late;
mod shelved;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::FutureExt;
use millpond_connectors::format::body::{BodyEncoder, Encoding};
use millpond_proto::message::QueueId;
use millpond_proto::time::Timestamp;

use crate::continuous::OperatorStatus;
use crate::error::SqlError;
use crate::job::crew::Crew;
use crate::job::error::JobError;
use crate::job::intake::{Intake, Intakes, Taken};
use crate::job::lanes::{Lanes, Tick};
use crate::job::pace::Pace;
use crate::job::parts::Parts;
use crate::job::shares;
use crate::job::written::{Left, deletion};
use crate::operator::{OperatorError, StepFigures};
use crate::plan::continuous::ContinuousPlan;
use crate::plan::lanes::Built;
use crate::progress::Watermark;
use crate::state::cells::Cell;
use crate::state::checkpoint::Counts;
use crate::topic::{OutputRow, TICK_MS};
use millpond_storage::tier::cold::typed::Reads;

/// What an epoch leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Rows for the output topic.
    pub rows: Vec<OutputRow>,
    /// Rows for the side topic.
    pub late: Vec<OutputRow>,
}

/// A query's computation with its state.
#[derive(Debug)]
pub struct Region {
    plan: ContinuousPlan,
    crew: Crew,
    intakes: Intakes,
    inputs: Vec<Source>,
    lanes: Lanes,
    counts: Counts,
    /// Rows that were written before this run.
    written_before: u64,
    /// Milliseconds that the lanes of a query of one step took.
    busy_ms: u64,
    encoder: Arc<BodyEncoder>,
    state_bytes_max: usize,
    /// More memory than this and some of the state goes to rest; `None`: it has nowhere to go, or can not.
    rests_above: Option<usize>,
    /// The parts of a state of which some rest.
    parts: Option<Parts>,
}

/// What is known of one topic that is read.
#[derive(Debug)]
struct Source {
    watermark: Watermark,
    rows: u64,
    rows_undecodable: u64,
    bytes: u64,
    busy_ms: u64,
}

/// Batches of a queue, and which input of the query it belongs to.
#[derive(Debug)]
pub struct Arrived {
    /// Index of the input.
    pub input: usize,
    /// The queue.
    pub queue: QueueId,
    /// Envelopes in order.
    pub batches: Vec<RecordBatch>,
}

impl Region {
    /// A region that has seen nothing, computed by `crew`, and writes bodies as `output` says; its state takes at most
    /// `state_bytes_max` of memory.
    ///
    /// # Errors
    /// [`SqlError`] when a topic's declaration can not be read.
    ///
    /// # Panics
    /// Never: a chain reads one topic.
    pub fn new(
        plan: ContinuousPlan,
        output: &Encoding,
        crew: Crew,
        state_bytes_max: usize,
    ) -> Result<Self, SqlError> {
        let lanes = crew.lanes();
        Self::in_lanes(plan, output, crew, state_bytes_max, lanes)
    }

    fn in_lanes(
        plan: ContinuousPlan,
        output: &Encoding,
        crew: Crew,
        state_bytes_max: usize,
        lanes: usize,
    ) -> Result<Self, SqlError> {
        let encoder = BodyEncoder::new(output)?;
        let (mut inputs, mut intakes) = (Vec::new(), Vec::new());
        for input in &plan.inputs {
            let spec = input.source.watermark.as_ref();
            inputs.push(Source {
                watermark: Watermark::new(spec.map_or(0, |spec| spec.delay_ms)),
                rows: 0,
                rows_undecodable: 0,
                bytes: 0,
                busy_ms: 0,
            });
            let intake = Intake::new(input, plan.windowed)?;
            intakes.push(match plan.sets_late_aside() {
                true => intake.setting_aside(),
                false => intake,
            });
        }
        let lanes = match plan.build(lanes, state_bytes_max)? {
            Built::Rows(transform) => {
                let intake = intakes.pop().expect("a chain reads one topic");
                intakes.push(intake.through(transform).writing(encoder.clone()));
                Lanes::None
            }
            Built::Groups(transform, router, lanes) => {
                let intake = intakes.pop().expect("a chain reads one topic");
                let intake = intake.through(transform);
                intakes.push(match lanes.len() {
                    1 => intake,
                    count => intake.routed(router, count),
                });
                Lanes::Groups(lanes)
            }
            Built::Graph(lanes) => Lanes::Graph(lanes),
        };
        Ok(Self {
            crew,
            intakes: intakes.into(),
            inputs,
            lanes,
            counts: Counts::default(),
            written_before: 0,
            busy_ms: 0,
            encoder: Arc::new(encoder),
            state_bytes_max,
            rests_above: None,
            parts: None,
            plan,
        })
    }

    /// Goes on from a checkpoint; the greatest event times are in the order of the inputs.
    ///
    /// # Errors
    /// [`OperatorError::OtherState`] when it was saved by another query.
    pub fn restore(
        &mut self,
        greatest_ms: &[Option<i64>],
        counts: Counts,
        state: Option<&RecordBatch>,
    ) -> Result<(), OperatorError> {
        for (index, source) in self.inputs.iter_mut().enumerate() {
            let greatest_ms = greatest_ms.get(index).copied().flatten();
            source.watermark = source.watermark.resumed(greatest_ms);
        }
        self.written_before = counts.rows_out;
        self.counts = counts;
        let watermark = self.watermark();
        match state {
            Some(state) => self.lanes.restore(state, watermark),
            None => Ok(()),
        }
    }

    /// What [`Region::epoch`] must be given of the rows of an input.
    #[must_use]
    pub fn reads(&self, input: usize) -> Reads {
        self.intakes[input].reads()
    }

    /// Where the watermark stands: no input expects an earlier event. `None` before each has one.
    #[must_use]
    pub fn watermark(&self) -> Option<Timestamp> {
        let each = self.inputs.iter().map(|source| source.watermark.at());
        each.min().flatten()
    }

    fn watermarks(&self) -> Vec<Option<Timestamp>> {
        let each = self.inputs.iter();
        each.map(|source| source.watermark.at()).collect()
    }

    /// The greatest event time of each input, in milliseconds.
    #[must_use]
    pub fn greatest_ms(&self) -> Vec<Option<i64>> {
        let each = self.inputs.iter();
        each.map(|source| source.watermark.greatest_ms()).collect()
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Its steps, from what it reads to what it writes.
    #[must_use]
    pub fn figures(&self, output: &str, pace: &Pace) -> Vec<OperatorStatus> {
        let mut figures = Vec::new();
        for (source, input) in self.inputs.iter().zip(&self.plan.inputs) {
            figures.push(OperatorStatus {
                operator: format!("read {}", input.source.name),
                rows_in: source.rows,
                rows_out: source.rows - source.rows_undecodable,
                bytes_in: Some(source.bytes),
                state_bytes: 0,
                rest_bytes: 0,
                watermark: source.watermark.at(),
                busy: source.busy_ms,
                back_pressured: 0,
            });
        }
        let read: u64 = figures.iter().map(|read| read.rows_out).sum();
        let mut steps = self.lanes.figures(self.parts.as_ref());
        if steps.is_empty() {
            steps.push(StepFigures {
                name: "",
                reads: None,
                takes: Vec::new(),
                rows_in: read,
                rows_out: self.counts.rows_out - self.written_before,
                state_bytes: self.lanes.state_bytes() as u64,
                rest_bytes: self.parts.as_ref().map_or(0, |parts| parts.rest_bytes(0)),
                busy_ms: self.busy_ms,
            });
        }
        let all = self
            .plan
            .explained
            .first()
            .map_or("compute", String::as_str);
        let reads = figures.len();
        let mut takes = vec![Vec::new(); reads];
        takes.extend(steps.iter().map(|step| shares::taken(step, reads)));
        takes.push(vec![figures.len() + steps.len() - 1]);
        figures.extend(steps.into_iter().map(|step| OperatorStatus {
            operator: if step.name.is_empty() { all } else { step.name }.to_owned(),
            rows_in: step.rows_in,
            rows_out: step.rows_out,
            bytes_in: None,
            state_bytes: step.state_bytes,
            rest_bytes: step.rest_bytes,
            watermark: None,
            busy: step.busy_ms,
            back_pressured: 0,
        }));
        shares::split(&mut figures, pace.busy);
        let written = self.counts.rows_out - self.written_before;
        figures.push(OperatorStatus {
            operator: format!("write {output}"),
            rows_in: written,
            rows_out: written,
            bytes_in: None,
            state_bytes: 0,
            rest_bytes: 0,
            watermark: None,
            busy: u64::from(pace.held_back),
            back_pressured: 0,
        });
        shares::hold_back(&mut figures, &takes);
        figures
    }

    /// The state as rows, between two epochs; `None` for a query without.
    ///
    /// # Errors
    /// [`OperatorError`] when it can not be put into columns.
    pub fn save(&self) -> Result<Option<RecordBatch>, OperatorError> {
        self.lanes.save()
    }

    /// Which rows of the saved state are written together.
    pub(crate) fn cell(&self) -> Cell {
        self.lanes.cell()
    }

    /// Memory of the state, about.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        self.lanes.state_bytes()
    }

    /// Computes the rows of one epoch, given by input and queue: of each queue, all rows before the epoch's tick and after those
    /// of the epoch before.
    ///
    /// # Errors
    /// [`JobError`] when a row can not be computed, with its place where that is known.
    pub async fn epoch(
        &mut self,
        arrived: Vec<Arrived>,
        tick: Timestamp,
    ) -> Result<Effects, JobError> {
        let mut effects = self.ticks(arrived).await?;
        self.give_first(tick, &mut effects).await?;
        self.until(tick, &mut effects)?;
        self.barrier(&mut effects).await?;
        Ok(effects)
    }

    /// Computes rows and lets what changed wait for [`Region::barrier`]; rows that stay leave at once.
    ///
    /// # Errors
    /// As [`Region::epoch`].
    pub async fn ticks(&mut self, arrived: Vec<Arrived>) -> Result<Effects, JobError> {
        let mut taken = self.take_in(arrived).await?;
        self.count(&taken);
        let ticks = self.cut_into_ticks(&taken);
        let mut effects = Effects::default();
        for taken in &mut taken {
            self.counts.rows_out += taken.left.len() as u64;
            effects.rows.append(&mut taken.left);
        }
        let taken: Arc<[Taken]> = taken.into();
        let (crew, encoder) = (&self.crew, &self.encoder);
        let parts = self.parts.as_mut();
        let done = self.lanes.ticks(crew, encoder, &taken, ticks, parts).await;
        let (left, busy_ms) = match done {
            Err(JobError::Operator {
                error: OperatorError::StateTooLarge { size_bytes, .. },
                ..
            }) => return Err(self.no_room(size_bytes)),
            Err(JobError::Operator {
                error: error @ OperatorError::Compute { .. },
                ..
            }) => {
                let place = self.place_of_failure(&taken).unwrap_or_default();
                return Err(JobError::Operator { error, place });
            }
            left => left?,
        };
        self.busy_ms += busy_ms;
        for left in left {
            self.leave(left, &taken, &mut effects)?;
        }
        self.check_room()?;
        Ok(effects)
    }

    /// Gives what is there before any row comes, if none came before `tick`: the row of an aggregate without GROUP BY.
    ///
    /// # Errors
    /// As [`Region::epoch`].
    pub async fn give_first(
        &mut self,
        tick: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), JobError> {
        if !self.lanes.waits() {
            return Ok(());
        }
        let nothing: Arc<[Taken]> = Arc::from([]);
        let ticks = vec![Tick {
            at: Timestamp(tick.as_ms().saturating_sub(TICK_MS)),
            until: tick,
            before: self.watermarks(),
            after: self.watermarks(),
            has_late: false,
            parts: Vec::new(),
        }];
        let (left, _) = self
            .lanes
            .ticks(
                &self.crew,
                &self.encoder,
                &nothing,
                ticks,
                self.parts.as_mut(),
            )
            .await?;
        for left in left {
            self.leave(left, &nothing, effects)?;
        }
        Ok(())
    }

    /// Lets time come so far: all rows from before it were given.
    fn until(&mut self, now: Timestamp, effects: &mut Effects) -> Result<(), JobError> {
        let left = self.lanes.until(&self.encoder, now)?;
        for left in left {
            self.leave(left, &[], effects)?;
        }
        Ok(())
    }

    /// The time at which an epoch is due though no row comes.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        self.lanes.due()
    }

    /// Ends an epoch: what changed in it leaves.
    ///
    /// # Errors
    /// [`JobError`] when what leaves can not be computed.
    pub async fn barrier(&mut self, effects: &mut Effects) -> Result<(), JobError> {
        // What leaves is about as much as the state that changed, which is not known before.
        let rows = usize::try_from(self.counts.rows_in).unwrap_or(usize::MAX);
        let (crew, encoder, parts) = (&self.crew, &self.encoder, self.parts.as_mut());
        let left = self.lanes.barrier(crew, encoder, rows, parts).await?;
        let nothing: Arc<[Taken]> = Arc::from([]);
        for left in left {
            self.leave(left, &nothing, effects)?;
        }
        Ok(())
    }

    /// Takes all batches in, in lanes of about equally many rows; answers them in their order.
    async fn take_in(&mut self, arrived: Vec<Arrived>) -> Result<Vec<Taken>, JobError> {
        let mut batches = Vec::new();
        for arrived in arrived {
            let (input, queue) = (arrived.input, arrived.queue);
            let all = arrived.batches.into_iter();
            batches.extend(all.map(|batch| (input, queue, batch)));
        }
        let rows: usize = batches.iter().map(|(.., batch)| batch.num_rows()).sum();
        let lanes = self.crew.lanes();
        let mut shares: Vec<Vec<(usize, QueueId, RecordBatch)>> = vec![Vec::new(); lanes];
        let mut before = 0;
        for batch in batches {
            let lane = (before * lanes / rows.max(1)).min(lanes - 1);
            before += batch.2.num_rows();
            shares[lane].push(batch);
        }
        shares.retain(|share| !share.is_empty());
        let work = shares.into_iter().map(|share| {
            let intakes = Arc::clone(&self.intakes);
            let mut laps = self.crew.laps();
            move || -> Result<Vec<Taken>, JobError> {
                laps.lap();
                let share = share.iter().map(|(input, queue, batch)| {
                    let mut taken = intakes[*input].take(*input, *queue, batch)?;
                    taken.busy_ms = laps.lap();
                    Ok(taken)
                });
                share.collect()
            }
        });
        let mut taken = Vec::new();
        for share in self.crew.all(rows, work.collect()).await? {
            taken.extend(share?);
        }
        Ok(taken)
    }

    fn count(&mut self, taken: &[Taken]) {
        for taken in taken {
            let source = &mut self.inputs[taken.input];
            source.rows += taken.rows;
            source.bytes += taken.bytes;
            source.busy_ms += taken.busy_ms;
            source.rows_undecodable += taken.rows_undecodable;
            self.counts.rows_in += taken.rows;
            self.counts.rows_undecodable += taken.rows_undecodable;
            let without = taken.ticks.iter().map(|tick| tick.rows_without_time);
            self.counts.rows_without_time += without.sum::<u64>();
        }
        if self.counts.first_undecodable.is_none() {
            let told = taken
                .iter()
                .filter_map(|taken| taken.first_undecodable.as_ref());
            let first = told.min_by_key(|(tick_ms, _)| *tick_ms);
            self.counts.first_undecodable = first.map(|(_, told)| told.clone());
        }
    }

    /// The ticks that rows came in, and where they leave the watermarks.
    fn cut_into_ticks(&mut self, taken: &[Taken]) -> Vec<Tick> {
        let mut parts: BTreeMap<i64, Vec<(usize, usize)>> = BTreeMap::new();
        for (index, taken) in taken.iter().enumerate() {
            for (part, tick) in taken.ticks.iter().enumerate() {
                parts.entry(tick.tick_ms).or_default().push((index, part));
            }
        }
        let mut ticks = Vec::with_capacity(parts.len());
        for (tick_ms, parts) in parts {
            let before = self.watermarks();
            let mut greatest_ms = vec![None; self.inputs.len()];
            let (mut rows, mut has_late) = (Vec::with_capacity(parts.len()), false);
            for (index, part) in parts {
                let (input, tick) = (taken[index].input, &taken[index].ticks[part]);
                let first = tick.least_ms.zip(before[input]);
                has_late |= first.is_some_and(|(least_ms, at)| least_ms < at.as_ms());
                greatest_ms[input] = greatest_ms[input].max(tick.greatest_ms);
                rows.push((index, tick.rows.clone()));
            }
            for (source, greatest_ms) in self.inputs.iter_mut().zip(greatest_ms) {
                source.watermark.end_tick(greatest_ms);
            }
            ticks.push(Tick {
                at: Timestamp(tick_ms),
                until: Timestamp(tick_ms.saturating_add(TICK_MS)),
                before,
                after: self.watermarks(),
                has_late,
                parts: rows,
            });
        }
        ticks
    }

    /// Finds a row that fails by itself, in lanes that have seen nothing.
    fn place_of_failure(&self, taken: &[Taken]) -> Option<String> {
        let fails = |taken: &Taken, from: usize, to: usize| {
            let rows = taken.table.slice(from, to - from);
            let alone = Self::new(
                self.plan.clone(),
                &Encoding::default(),
                Crew::alone(),
                self.state_bytes_max,
            );
            alone.is_ok_and(|mut alone| {
                let taken: Arc<[Taken]> = Arc::from([Taken::alone(taken.input, rows)]);
                let (crew, encoder) = (Crew::alone(), Arc::clone(&alone.encoder));
                let ticks = alone.cut_into_ticks(&taken);
                let done = alone.lanes.ticks(&crew, &encoder, &taken, ticks, None);
                matches!(done.now_or_never(), Some(Err(_)))
            })
        };
        let failing = taken
            .iter()
            .find(|taken| fails(taken, 0, taken.table.num_rows()))?;
        let (mut from, mut to) = (0, failing.table.num_rows());
        while to - from > 1 {
            let half = from + (to - from) / 2;
            if fails(failing, from, half) {
                to = half;
            } else {
                from = half;
            }
        }
        let is_one = fails(failing, from, to);
        let place = self.intakes[failing.input].place_of(failing, from);
        place.filter(|_| is_one)
    }

    /// Counts what left, and adds it to the effects.
    fn leave(
        &mut self,
        left: Left,
        taken: &[Taken],
        effects: &mut Effects,
    ) -> Result<(), JobError> {
        self.counts.rows_out += (left.rows.len() + left.deleted.len()) as u64;
        effects
            .rows
            .extend(left.rows.into_iter().map(|(_, row)| row));
        effects.rows.extend(left.deleted.into_iter().map(deletion));
        self.counts.rows_late += left.late_more + left.late.len() as u64;
        if self.plan.sets_late_aside() {
            for late in left.late {
                let message = self.late_message(&late, &taken[late.taken])?;
                effects.late.push(message);
            }
        }
        Ok(())
    }
}
