//! A shard's state: what it decides from and what its records make of it.
//!
//! [`ShardState::decide`] reads and changes nothing; [`ShardState::apply_change`] and
//! [`ShardState::apply_message`] are the only mutations. No I/O, no clock, no async: time and the next
//! random number come in as arguments, so recovery is replay and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::limits;
use millpond_proto::message::ShardId;
use millpond_proto::time::Timestamp;
use millpond_storage::error::ShardDamaged;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Projection, Record, Replayed};
use prost::Message as _;

use crate::broker::catalog::Catalog;
use crate::broker::consume::Consumed;
use crate::broker::consume::ready::{Hint, Pair};
use crate::broker::lite::index::Lites;
use crate::broker::lite::{LiteLetGo, LiteMade, LiteName, Touched, is_lite};
use crate::broker::producer::Producers;
use crate::broker::record::{
    Change, EffectDone, GroupOffset, JobSnapshot, PlacesSnapshot, Reopened, ShardSnapshotRecord,
};
use crate::broker::request::{
    Effect, NotedOffset, Place, Reason, Reopen, Reply, Request, Send, Snapshot,
};
use crate::broker::shelf::{Shelf, is_shelf};

mod alter;
mod catalog;
mod forget;
pub mod shelving;

/// The shard that holds the catalog.
pub const CATALOG_SHARD: ShardId = ShardId(0);

/// What a decision leads to: records to append and apply, and the reply to give once they are durable.
#[derive(Debug)]
#[must_use = "a decision has no effect before its records are appended and applied"]
pub struct Decision {
    /// In order; atomic.
    pub records: Vec<Record>,
    /// Given when the records, and all before them, are durable.
    pub reply: Reply,
}

impl Decision {
    pub(super) fn reply(reply: Reply) -> Self {
        Self {
            records: Vec::new(),
            reply,
        }
    }

    pub(super) fn change(change: &Change, reply: Reply) -> Self {
        Self {
            records: vec![Record::State(change.to_bytes())],
            reply,
        }
    }
}

/// Time and chance of one decision.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Now; never earlier than a store time given out or a tick closed before.
    pub now: Timestamp,
    /// A number that nobody can guess.
    pub random: u64,
}

/// The state of one shard.
#[derive(Debug, PartialEq)]
pub struct ShardState {
    shard: ShardId,
    stored_at: Timestamp,
    /// Next offset by topic and queue.
    queues: BTreeMap<(u64, u32), u64>,
    consumed: Consumed,
    lites: Lites,
    producers: Producers,
    /// Last (epoch, part) appended, by job and topic.
    effects: BTreeMap<(u64, u64), (u64, u32)>,
    jobs: BTreeMap<u64, JobSnapshot>,
    /// What readers noted, by group, topic and queue.
    noted: BTreeMap<(u64, u64, u32), u64>,
    shelf: Shelf,
    catalog: Catalog,
}

impl ShardState {
    /// The greatest store time given out.
    #[must_use]
    pub fn stored_at(&self) -> Timestamp {
        self.stored_at
    }

    /// The greatest tick that a job at home here has recorded, whether or not its state was saved since.
    #[must_use]
    pub fn last_tick(&self) -> Timestamp {
        let ticks = self
            .jobs
            .values()
            .flat_map(|job| job.since.iter().chain(&job.cuts))
            .map(|cut| cut.tick_ms);
        Timestamp(ticks.max().unwrap_or(0))
    }

    /// The catalog; empty but in the catalog shard.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// When a poll may find something of a topic for a group here; from then on [`ShardState::news`] tells of it.
    /// It follows from the state and is none of it.
    pub(super) fn hint(&mut self, pair: Pair) -> Hint {
        self.consumed.hint(pair, &self.queues)
    }

    /// What has changed of what was told so.
    pub(super) fn news(&mut self) -> Vec<(Pair, Hint)> {
        self.consumed.news()
    }

    /// Decides what a request leads to; changes nothing.
    pub fn decide(&self, request: Request, moment: Moment) -> Decision {
        match request {
            Request::Send(send) => self.decide_send(send, moment.now),
            Request::Pop(pop) => self.consumed.decide_pop(&pop, &self.queues, moment),
            Request::PopLite(pop) => self.consumed.decide_pop_lite(&pop, &self.lites, moment),
            Request::StartLite(start) => {
                self.consumed
                    .decide_start_lite(&start, &self.lites, moment.now)
            }
            Request::ListLites(asked) => {
                Decision::reply(self.consumed.list_lites(&asked, &self.lites, moment.now))
            }
            Request::EndLites(end) => self
                .consumed
                .decide_end_lites(&end, &self.lites, moment.now),
            Request::Look(look) => Decision::reply(self.consumed.look(&look, moment.now)),
            Request::Ack(ack) => self.consumed.decide_ack(&ack, moment.now),
            Request::Move(change) => self.consumed.decide_move(&change, moment),
            Request::Renew(renew) => self.consumed.decide_renew(&renew, moment.now),
            Request::Return(back) => self.consumed.decide_return(&back, moment.now),
            Request::Release(consumer) => self.consumed.decide_release(&consumer, moment.now),
            Request::Renewable(within_ms) => {
                Decision::reply(self.consumed.renewable(within_ms, moment.now))
            }
            Request::Fates(of) => {
                Decision::reply(self.consumed.fates(&of, &self.lites, moment.now))
            }
            Request::InFlight(asked) => {
                Decision::reply(self.consumed.in_flight(&asked, moment.now))
            }
            Request::Bury(bury) => self.consumed.decide_bury(&bury, moment.now),
            Request::Transfers(of) => Decision::reply(self.consumed.transfers(of)),
            Request::Place(place) => self.decide_place(place, moment.now),
            Request::Reopen(reopen) => self.decide_reopen(reopen, moment.now),
            Request::EndTransfers(end) => self.consumed.decide_end(end, moment.now),
            Request::Settle(settle) => self.consumed.decide_settle(&settle, moment.now),
            Request::Outstanding(asked) => {
                Decision::reply(self.consumed.outstanding(&asked, &self.queues))
            }
            Request::Reset(reset) => self.consumed.decide_reset(&reset, moment.now),
            Request::CloneGroup(clone) => self.consumed.decide_clone(&clone, moment.now),
            // The owner keeps the closed tick; the reply waits for what was appended before.
            Request::NoteErasure(erasure) => {
                Decision::change(&Change::Erased(erasure), Reply::done())
            }
            Request::CloseTick(_) => Decision::reply(Reply::done()),
            Request::Progress(group) => Decision::reply(self.consumed.progress(
                group,
                &self.queues,
                &self.lites,
                moment.now,
            )),
            Request::Effect(effect) => self.decide_effect(effect, moment.now),
            Request::Commit(cut) => self.decide_commit(cut),
            Request::Saved(saved) => Decision::change(&Change::Saved(saved), Reply::done()),
            Request::Job(job) => Decision::reply(Reply::Job(self.job(job))),
            Request::ForgetTopic(topic) => {
                self.decide_forget(&Change::TopicForgotten(topic), self.knows_topic(topic))
            }
            Request::ForgetGroup(group) => {
                self.decide_forget(&Change::GroupForgotten(group), self.knows_group(group))
            }
            Request::ForgetJob(job) => self.decide_forget(
                &Change::JobForgotten(job),
                self.jobs.contains_key(&job) || self.effects.keys().any(|&(j, _)| j == job),
            ),
            Request::NoteOffset(noted) => {
                Decision::change(&Change::OffsetNoted(noted), Reply::done())
            }
            Request::OffsetOf(of) => {
                let noted = self.noted.get(&(of.group, of.topic, of.queue));
                Decision::reply(Reply::NotedOffset(NotedOffset {
                    offset: noted.copied(),
                }))
            }
            Request::Shelve(shelve) => self.decide_shelve(shelve, moment.now),
            Request::Fire(fire) => self.decide_fire(fire, moment.now),
            Request::Recall(recall) => self.decide_recall(&recall),
            Request::EndHalf(end) => self.decide_end_half(end, moment.now),
            Request::Delayed(from) => Decision::reply(self.delayed(from)),
            Request::Transactions(of) => Decision::reply(self.transactions(&of, moment.now)),
            Request::Checked(checked) => self.decide_checked(checked, moment.now),
            Request::SweepShelf(asked) => self.decide_sweep(&asked, moment.now),
            Request::Trim(trimmed) => self.consumed.decide_trim(trimmed, &self.queues),
            Request::Snapshot(_) => Decision::reply(Reply::Snapshot(Snapshot {
                state: self.snapshot().encode_to_vec().into(),
                position: 0,
            })),
            other => self.catalog.decide(other),
        }
    }

    fn decide_send(&self, send: Send, now: Timestamp) -> Decision {
        let Some(mut screened) = self.producers.screen(send.messages, now) else {
            return Decision::reply(Reply::refused(Reason::ManyProducers, ""));
        };
        let mut records = match self.make_room(&screened.new, now) {
            Ok(records) => records,
            Err(refused) => return Decision::reply(*refused),
        };
        let (placed, offsets) = self.place(std::mem::take(&mut screened.new), now);
        if records.is_empty() {
            records = placed;
        } else {
            records.extend(placed);
        }
        Decision {
            records,
            reply: Reply::Stored(screened.answer(offsets)),
        }
    }

    /// What messages need of the lite topics that they name: those that are not there are made, and one that is
    /// full lets go of what every group has worked off.
    fn make_room(&self, messages: &[Envelope], now: Timestamp) -> Result<Vec<Record>, Box<Reply>> {
        let mut changes = Vec::new();
        let mut names = BTreeSet::new();
        let mut taken: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for message in messages {
            let Some(name) = &message.lite_topic else {
                continue;
            };
            if !names.insert((message.topic, name)) {
                continue;
            }
            let at = LiteName {
                queue: message.queue,
                name: name.clone(),
            };
            let Some(queue) = self.lites.find(message.topic, &at) else {
                let taken = taken.entry(message.queue).or_default();
                let queue = self.lites.choose(message.topic, &at, taken);
                let queue =
                    queue.map_err(|_| Box::new(Reply::refused(Reason::LiteTopicsFull, name)))?;
                taken.insert(queue);
                changes.push(Change::LiteMade(LiteMade {
                    topic: message.topic,
                    queue,
                    name: name.clone(),
                    at_ms: now.max(self.stored_at).as_ms(),
                }));
                continue;
            };
            let lite = self.lites.get(message.topic, queue);
            if lite.is_some_and(|lite| lite.offsets.count() >= limits::LITE_MESSAGES_MAX) {
                let first = self.consumed.lite_floor(message.topic, queue);
                let stays = first
                    .zip(lite)
                    .map(|(first, lite)| lite.offsets.count_from(first));
                if stays.is_none_or(|stays| stays >= limits::LITE_MESSAGES_MAX) {
                    return Err(Box::new(Reply::refused(Reason::LiteTopicFull, name)));
                }
                changes.push(Change::LiteLetGo(LiteLetGo {
                    topic: message.topic,
                    queue,
                    first: first.unwrap_or(0),
                }));
            }
        }
        let records = changes
            .iter()
            .map(|change| Record::State(change.to_bytes()));
        Ok(records.collect())
    }

    /// Whether a message that was stored is the only one of its lite topic, which it made.
    #[must_use]
    pub fn is_first_of_lite(&self, message: &Envelope) -> bool {
        self.lites.is_first(message)
    }

    /// The name of a lite queue of which a group may have more now; none when it is still held back, or gone.
    #[must_use]
    pub fn freed(&self, touched: &Touched, now: Timestamp) -> Option<&str> {
        let lite = self.lites.get(touched.topic, touched.queue)?;
        let is_open = self.consumed.is_open(touched, now);
        is_open.then_some(&*lite.name)
    }

    /// Gives each message its offset and store time.
    fn place(&self, mut messages: Vec<Envelope>, now: Timestamp) -> (Vec<Record>, Vec<u64>) {
        // They come in runs of one queue, most often in one: where it stands needs no map.
        let mut run: Option<((u64, u32), u64)> = None;
        let mut before: BTreeMap<(u64, u32), u64> = BTreeMap::new();
        let mut offsets = Vec::with_capacity(messages.len());
        for message in &mut messages {
            let queue = (message.topic, message.queue);
            message.offset = match run {
                Some((same, end)) if same == queue => end,
                other => {
                    before.extend(other);
                    let known = before.remove(&queue);
                    known.unwrap_or_else(|| self.end(queue))
                }
            };
            run = Some((queue, message.offset + 1));
            message.stored_at_ms = now.max(self.stored_at).as_ms();
            offsets.push(message.offset);
        }
        (messages.into_iter().map(Record::Message).collect(), offsets)
    }

    /// The effect of burials: those that are not here yet.
    fn decide_place(&self, place: Place, now: Timestamp) -> Decision {
        let done = self.effects.get(&(place.origin, place.topic));
        let done = done.map_or(0, |&(sequence, _)| sequence);
        let new = place.sequences.iter().zip(place.messages);
        let new: Vec<_> = new.filter(|(sequence, _)| **sequence > done).collect();
        let Some(&(&last, _)) = new.last() else {
            return Decision::reply(Reply::done());
        };
        let messages = new.into_iter().map(|(_, message)| message).collect();
        let (mut records, _) = self.place(messages, now);
        records.push(effect(place.origin, place.topic, last));
        Decision {
            records,
            reply: Reply::done(),
        }
    }

    /// The effect of a redrive, unless it was done before.
    fn decide_reopen(&self, reopen: Reopen, now: Timestamp) -> Decision {
        let done = self.effects.get(&(reopen.origin, reopen.topic));
        if done.is_some_and(|&(sequence, _)| reopen.sequence <= sequence) {
            return Decision::reply(Reply::done());
        }
        if is_lite(reopen.queue)
            && !self
                .lites
                .holds(reopen.topic, reopen.queue, reopen.fact.offset)
        {
            return Decision::reply(Reply::refused(Reason::LiteTopicGone, ""));
        }
        let change = Change::Reopened(Reopened {
            group: reopen.group,
            topic: reopen.topic,
            queue: reopen.queue,
            fact: reopen.fact,
            at_ms: now.as_ms(),
        });
        Decision {
            records: vec![
                Record::State(change.to_bytes()),
                effect(reopen.origin, reopen.topic, reopen.sequence),
            ],
            reply: Reply::done(),
        }
    }

    fn decide_effect(&self, effect: Effect, now: Timestamp) -> Decision {
        let done = self.effects.get(&(effect.job, effect.topic));
        if done.is_some_and(|&done| (effect.epoch, effect.part) <= done) {
            return Decision::reply(Reply::done());
        }
        let mark = EffectDone {
            job: effect.job,
            topic: effect.topic,
            epoch: effect.epoch,
            part: effect.part,
        };
        let (mut records, _) = self.place(effect.messages, now);
        records.push(Record::State(Change::EffectDone(mark).to_bytes()));
        Decision {
            records,
            reply: Reply::done(),
        }
    }

    fn decide_commit(&self, cut: crate::broker::record::CutRecord) -> Decision {
        let job = self.job(cut.job);
        let last = job.cuts.last();
        // A commit whose answer was lost is asked again: the same cut is the same intent.
        if last.is_some_and(|last| last.is_again(&cut)) {
            return Decision::reply(Reply::done());
        }
        let saved = job.saved.as_ref().map_or(0, |saved| saved.epoch);
        let expected = last.map_or(saved, |cut| cut.epoch) + 1;
        if cut.epoch != expected {
            let what = format!(
                "epoch {} of job {}, expected {expected}",
                cut.epoch, cut.job
            );
            return Decision::reply(Reply::refused(Reason::EpochOrder, what));
        }
        Decision::change(&Change::Cut(cut), Reply::done())
    }

    fn job(&self, job: u64) -> JobSnapshot {
        let empty = || JobSnapshot {
            job,
            ..JobSnapshot::default()
        };
        self.jobs.get(&job).cloned().unwrap_or_else(empty)
    }

    fn end(&self, queue: (u64, u32)) -> u64 {
        self.queues.get(&queue).copied().unwrap_or(0)
    }

    /// Applies a record that was just decided on here.
    ///
    /// # Panics
    /// When the record is not one of ours: it was made a moment ago by [`ShardState::decide`].
    pub fn apply_record(&mut self, record: &Record) {
        match record {
            Record::Message(message) => self.apply_message(message),
            Record::State(bytes) => {
                let change = Change::from_bytes(bytes).expect("decided on here a moment ago");
                self.apply_change(change);
            }
        }
    }

    fn apply_message(&mut self, message: &Envelope) {
        self.stored_at = self.stored_at.max(message.stored_at());
        if is_shelf(message.topic) {
            self.producers.shelved(message);
            self.shelf.put(message);
            return;
        }
        self.producers.stored(message);
        self.take_place(message.topic, message.queue, message.offset);
        self.consumed.arrived(message.topic, message.queue);
        self.lites.stored(message);
    }

    fn take_place(&mut self, topic: u64, queue: u32, offset: u64) {
        let end = self.queues.entry((topic, queue)).or_default();
        assert!(
            offset >= *end,
            "offsets of a queue only grow: {offset} after {end}"
        );
        *end = offset + 1;
    }

    fn apply_change(&mut self, change: Change) {
        self.lites.apply(&change);
        let Some(change) = self.consumed.apply(change, &self.queues) else {
            return;
        };
        let Some(change) = self.shelf.apply(change) else {
            return;
        };
        match change {
            Change::EffectDone(record) => {
                self.effects
                    .insert((record.job, record.topic), (record.epoch, record.part));
            }
            Change::TopicForgotten(topic) => self.forget_topic(topic),
            Change::GroupForgotten(group) => self.forget_group(group),
            Change::JobForgotten(job) => {
                self.jobs.remove(&job);
                self.effects.retain(|&(j, _), _| j != job);
            }
            Change::Cut(cut) => self.job_log(cut.job).cuts.push(cut),
            Change::Saved(saved) => {
                let job = self.job_log(saved.job);
                let since = job.cuts.iter().find(|cut| cut.epoch == saved.epoch);
                job.since = since.cloned().or(job.since.take());
                job.cuts.retain(|cut| cut.epoch > saved.epoch);
                job.saved = Some(saved);
            }
            Change::OffsetNoted(noted) => {
                let key = (noted.group, noted.topic, noted.queue);
                self.noted.insert(key, noted.offset);
            }
            Change::BucketClosed(bucket) => self.apply_closed(bucket),
            Change::Erased(_) => {}
            catalog => self.catalog.apply(&catalog),
        }
    }

    fn job_log(&mut self, job: u64) -> &mut JobSnapshot {
        self.jobs.entry(job).or_insert_with(|| JobSnapshot {
            job,
            ..JobSnapshot::default()
        })
    }

    fn snapshot(&self) -> ShardSnapshotRecord {
        let ends = self.queues.iter();
        let ends = ends.map(|(&(topic, queue), &offset)| ((0, topic, queue), offset));
        let effects = self
            .effects
            .iter()
            .map(|(&(job, topic), &(epoch, part))| EffectDone {
                job,
                topic,
                epoch,
                part,
            });
        let noted = self
            .noted
            .iter()
            .map(|(&(group, topic, queue), &offset)| GroupOffset {
                group,
                topic,
                queue,
                offset,
            });
        let mut snapshot = ShardSnapshotRecord {
            ends: PlacesSnapshot::of(ends),
            effects: effects.collect(),
            jobs: self.jobs.values().cloned().collect(),
            stored_at_ms: self.stored_at.as_ms(),
            catalog: (self.shard == CATALOG_SHARD).then(|| self.catalog.snapshot()),
            noted: noted.collect(),
            producers: self.producers.snapshot(),
            lites: self.lites.save(),
            ..ShardSnapshotRecord::default()
        };
        self.consumed.save(&mut snapshot);
        self.shelf.save(&mut snapshot);
        snapshot
    }
}

/// The mark of an effect whose intent another shard logged.
fn effect(origin: u64, topic: u64, sequence: u64) -> Record {
    let mark = EffectDone {
        job: origin,
        topic,
        epoch: sequence,
        part: 0,
    };
    Record::State(Change::EffectDone(mark).to_bytes())
}

impl Projection for ShardState {
    fn restore(shard: ShardId, snapshot: Option<&[u8]>) -> Result<Self, ShardDamaged> {
        let snapshot =
            ShardSnapshotRecord::decode(snapshot.unwrap_or_default()).map_err(|error| {
                ShardDamaged {
                    shard,
                    detail: format!("its snapshot can not be read: {error}"),
                }
            })?;
        let early = snapshot.queues.iter();
        let early = early.map(|q| ((q.topic, q.queue), q.offset));
        let ends = PlacesSnapshot::all(&snapshot.ends);
        let queues = early.chain(ends.map(|((_, topic, queue), end)| ((topic, queue), end)));
        Ok(Self {
            shard,
            stored_at: Timestamp(snapshot.stored_at_ms),
            queues: queues.collect(),
            consumed: Consumed::restore(&snapshot),
            lites: Lites::restore(&snapshot.lites),
            shelf: Shelf::restore(shard, &snapshot),
            producers: Producers::restore(snapshot.producers),
            effects: snapshot
                .effects
                .iter()
                .map(|done| ((done.job, done.topic), (done.epoch, done.part)))
                .collect(),
            jobs: snapshot
                .jobs
                .into_iter()
                .map(|job| (job.job, job))
                .collect(),
            noted: snapshot
                .noted
                .iter()
                .map(|one| ((one.group, one.topic, one.queue), one.offset))
                .collect(),
            catalog: snapshot.catalog.map(Catalog::restore).unwrap_or_default(),
        })
    }

    fn apply(&mut self, record: &Replayed) -> Result<(), ShardDamaged> {
        match record {
            Replayed::Message(message) => self.apply_message(message),
            Replayed::Lost {
                topic,
                queue,
                offset,
            } if is_shelf(topic.0) => self.shelf.put_lost(queue.0, offset.0),
            Replayed::Lost {
                topic,
                queue,
                offset,
            } => {
                self.take_place(topic.0, queue.0, offset.0);
            }
            Replayed::State(bytes) => {
                let change = Change::from_bytes(bytes).ok_or_else(|| ShardDamaged {
                    shard: self.shard,
                    detail: "a state record is of a kind that this version does not know".into(),
                })?;
                self.apply_change(change);
            }
        }
        Ok(())
    }
}
