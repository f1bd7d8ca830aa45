//! One seed, one run: a whole broker on a simulated disk, clients around it, and a power that fails.
//!
//! Everything runs on one thread in simulated time. A run has several lives: each starts the broker on
//! what the last crash left, lets clients work, and ends when the power goes, which it does at a random
//! write, sync, rename or removal, in the middle of a send as well as of a checkpoint or a recovery. In the
//! last life the disk is kind, every group is drained, and everything is read back.
//!
//! What this does not do: it has no network (clients call the broker), and it flips no bits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use millpond_engine::broker::{
    Broker, BrokerError, Delivery, NewTopic, ReceiptHandle, Receive, Topic, TopicType,
};
use millpond_proto::chance::{Chance, Seeded};
use millpond_proto::message::{Offset, QueueId, stable_hash};
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::task::{Lane, Runtimes, Spawn as _, Task};
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use millpond_storage::disk::Disk;
use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Parts, Settings, WalIo};
use millpond_storage::tier::objects::DiskObjectStore;

use crate::history::{Event, History, Place};
use crate::power::MortalDisk;

mod later;
mod order;

/// Groups that work through all lives.
pub const GROUPS: [&str; 2] = ["billing", "audit"];
/// A group that comes late and must still see everything.
pub const LATE_GROUP: &str = "late";

const TOPIC: &str = "orders";
const QUEUES: u32 = 3;
const PRODUCERS: u32 = 3;
const INVISIBLE_MS: (u64, u64) = (10_000, 30_000);

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// WALs that the shards are spread over.
    pub wals: u16,
    /// Lives that end in a crash, before the last one.
    pub crashes: u32,
}

impl Plan {
    /// Runs it and hands back what happened.
    #[must_use]
    pub fn run(self) -> Arc<History> {
        let history = Arc::new(History::default());
        let chance = Arc::new(Seeded::new(self.seed));
        let mut disk = SimulatedDisk::new();
        disk.reorder(self.seed);
        let mut now = Timestamp(1_700_000_000_000);
        let known = Arc::default();
        let calls = Arc::default();
        for life in 0..=self.crashes {
            let is_last = life == self.crashes;
            // Generous at times, so that some lives end by the clock with nothing in flight.
            let operations = if is_last {
                u64::MAX
            } else {
                chance.below([40, 400, 4000][life as usize % 3]) + 1
            };
            let world = World {
                plan: self,
                life,
                disk: MortalDisk::new(disk.clone(), operations),
                chance: Arc::clone(&chance),
                history: Arc::clone(&history),
                known: Arc::clone(&known),
                calls: Arc::clone(&calls),
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            now = runtime.block_on(world.live(now, is_last));
            drop(runtime);
            if !is_last {
                disk = disk.crash(&chance);
                now = now + Duration::from_millis(chance.below(20_000));
            }
        }
        history
    }
}

/// What every life of a run shares.
#[derive(Debug)]
struct World {
    plan: Plan,
    life: u32,
    disk: MortalDisk,
    chance: Arc<Seeded>,
    history: Arc<History>,
    /// Every stored message as it was first read.
    known: Arc<Mutex<BTreeMap<Place, Envelope>>>,
    /// Numbers the calls of receive.
    calls: Arc<AtomicU64>,
}

impl World {
    /// Lives until the power goes, the time is over, or (in the last life) all is checked.
    async fn live(self, start: Timestamp, is_last: bool) -> Timestamp {
        let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::starting_at(start));
        let power = Arc::clone(&self.disk.power);
        let limit = Duration::from_millis(1000 + self.chance.below(180_000));
        let over = clock.sleep(limit);
        let world = Arc::new(self);
        world.note(&*clock, "world", Event::Started { life: world.life });
        let how = if is_last {
            world.heal(&clock).await;
            "done".to_owned()
        } else {
            let work = std::pin::pin!(world.work(&clock));
            let gone = std::pin::pin!(power.gone.notified());
            let ended = futures::future::select(gone, over);
            match futures::future::select(work, ended).await {
                futures::future::Either::Left((how, _)) => how,
                futures::future::Either::Right(_) => "the power went".to_owned(),
            }
        };
        if !is_last {
            world.note(&*clock, "world", Event::Ended { how });
        }
        clock.now()
    }

    fn note(&self, clock: &dyn Clock, who: &str, event: Event) {
        self.history.record(clock.now(), who, event);
    }

    /// Starts the broker; its recovery runs on the same mortal disk.
    async fn start(&self, clock: &Arc<dyn Clock>) -> Result<Arc<Broker>, String> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let parts = Parts {
            objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
            disk,
            clock: Arc::clone(clock),
            chance: Arc::new(Seeded::new(self.chance.next_u64())),
            spawn: Arc::new(Runtimes::single()),
        };
        // Small enough that segments are closed, trimmed and read back within a run.
        let settings = Settings {
            shards: 4,
            wals: self.plan.wals,
            segment_bytes: 64 * 1024,
            writes_in_flight: 3,
            overlap_bytes: 0,
            wal_io: WalIo::Auto,
            cache_bytes: 128 * 1024,
            ..Settings::default()
        };
        let started = Broker::start(parts, settings).await;
        started.map_err(|error| format!("the start failed: {error:?}"))
    }

    /// An ordinary life: clients work until someone else ends it.
    async fn work(self: &Arc<Self>, clock: &Arc<dyn Clock>) -> String {
        let broker = match self.start(clock).await {
            Ok(broker) => broker,
            Err(how) => return how,
        };
        if let Err(how) = self.make_topic(&broker).await {
            return how;
        }
        let tasks = self.clients(&broker, clock);
        for task in tasks {
            if task.await.is_err() {
                self.note(
                    &**clock,
                    "world",
                    Event::Broken("a client panicked".to_owned()),
                );
            }
        }
        "nobody was left".to_owned()
    }

    async fn make_topic(&self, broker: &Broker) -> Result<(), String> {
        let topic = NewTopic {
            name: topic_name(),
            kind: TopicType::Normal,
            queues: Some(QUEUES),
            columns: Vec::new(),
            watermark: None,
            primary_key: Vec::new(),
            written_by: None,
        };
        match broker.create_topic(topic).await {
            Ok(_) | Err(BrokerError::Exists { .. }) => {
                order::make(broker).await?;
                later::make(broker).await
            }
            Err(error) => Err(format!("the topic could not be made: {error:?}")),
        }
    }

    fn clients(self: &Arc<Self>, broker: &Arc<Broker>, clock: &Arc<dyn Clock>) -> Vec<Task> {
        let spawn = Runtimes::single();
        let client = |name: String| Client {
            name,
            world: Arc::clone(self),
            broker: Arc::clone(broker),
            clock: Arc::clone(clock),
            chance: Seeded::new(self.chance.next_u64()),
        };
        let mut tasks = Vec::new();
        for number in 0..PRODUCERS {
            let producer = client(format!("producer-{}-{number}", self.life));
            tasks.push(spawn.spawn(Lane::Service, Box::pin(producer.produce())));
        }
        for group in [GROUPS[0], GROUPS[0], GROUPS[1]] {
            let consumer = client(format!("{group}-{}-{}", self.life, tasks.len()));
            tasks.push(spawn.spawn(Lane::Service, Box::pin(consumer.consume(group))));
        }
        let producer = client(format!("ordering-{}", self.life));
        tasks.push(spawn.spawn(Lane::Service, Box::pin(producer.produce_in_order())));
        for number in 0..2 {
            let worker = client(format!("worker-{}-{number}", self.life));
            tasks.push(spawn.spawn(Lane::Service, Box::pin(worker.consume_in_order())));
        }
        let producer = client(format!("delaying-{}", self.life));
        tasks.push(spawn.spawn(Lane::Service, Box::pin(producer.produce_for_later())));
        let producer = client(format!("deciding-{}", self.life));
        tasks.push(spawn.spawn(Lane::Service, Box::pin(producer.produce_halves())));
        let watcher = client(format!("watcher-{}", self.life));
        tasks.push(spawn.spawn(Lane::Service, Box::pin(watcher.watch())));
        let operator = client("operator".to_owned());
        tasks.push(spawn.spawn(Lane::Service, Box::pin(operator.operate())));
        tasks
    }

    /// The last life: nothing fails any more, and everything must be there.
    async fn heal(self: &Arc<Self>, clock: &Arc<dyn Clock>) {
        let broken = |what: String| self.note(&**clock, "world", Event::Broken(what));
        let broker = match self.start(clock).await {
            Ok(broker) => broker,
            Err(how) => return broken(how),
        };
        if let Err(how) = self.make_topic(&broker).await {
            return broken(how);
        }
        let client = |broker: &Arc<Broker>| Client {
            name: "healer".to_owned(),
            world: Arc::clone(self),
            broker: Arc::clone(broker),
            clock: Arc::clone(clock),
            chance: Seeded::new(self.chance.next_u64()),
        };
        self.note(&**clock, "world", Event::Healing);
        let healer = client(&broker);
        healer.read_everything().await;
        for group in GROUPS.into_iter().chain([LATE_GROUP]) {
            healer.drain(group).await;
        }
        healer.drain_in_order().await;
        healer.wait_for_all(self.chance.percent(50)).await;
        healer.tier().await;
        drop(healer);
        broker.close().await;
        drop(broker);
        // Once more from disk, after an orderly end.
        let broker = match self.start(clock).await {
            Ok(broker) => broker,
            Err(how) => return broken(how),
        };
        let healer = client(&broker);
        healer.read_everything().await;
        for group in GROUPS.into_iter().chain([LATE_GROUP]) {
            if healer.drain(group).await > 0 {
                broken(format!("a drained queue gave {group} more after a restart"));
            }
        }
        broker.close().await;
    }
}

/// One client of the broker.
#[derive(Debug)]
struct Client {
    name: String,
    world: Arc<World>,
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    chance: Seeded,
}

impl Client {
    fn note(&self, event: Event) {
        self.world.note(&*self.clock, &self.name, event);
    }

    fn broken(&self, what: String) {
        self.note(Event::Broken(what));
    }

    async fn pause(&self, ms_max: u64) {
        let ms = self.chance.below(ms_max);
        self.clock.sleep(Duration::from_millis(ms)).await;
    }

    async fn produce(self) {
        let mut sequence = 0;
        loop {
            self.pause(1500).await;
            let mut names = Vec::new();
            let mut messages = Vec::new();
            for _ in 0..=self.chance.below(4) {
                sequence += 1;
                let name = format!("{}/{sequence}", self.name);
                let key = self
                    .chance
                    .percent(50)
                    .then(|| self.chance.below(20).to_string());
                messages.push(message(&name, key));
                self.note(Event::SendCalled {
                    message: name.clone(),
                });
                names.push(name);
            }
            match self.broker.send(&topic_name(), messages).await {
                Err(error) => self.note(Event::Note(format!("send: {error}"))),
                Ok(answers) => {
                    if answers.len() != names.len() {
                        self.broken(format!("{} answers for {names:?}", answers.len()));
                    }
                    for (message, answer) in names.into_iter().zip(answers) {
                        match answer {
                            Ok(sent) => self.note(Event::Sent {
                                message,
                                place: (sent.queue.0, sent.offset.0),
                            }),
                            Err(error) => {
                                self.note(Event::Note(format!("send {message}: {error}")));
                            }
                        }
                    }
                }
            }
        }
    }

    async fn consume(self, group: &'static str) {
        loop {
            let limit = usize::try_from(self.chance.below(16)).unwrap() + 1;
            let deliveries = self.receive(group, limit, self.chance.below(20_000)).await;
            let Some(deliveries) = deliveries else {
                self.pause(1000).await;
                continue;
            };
            self.pause(500).await;
            let mut done = Vec::new();
            for delivery in deliveries {
                match self.chance.below(100) {
                    0..75 => done.push(delivery),
                    75..88 => self.change(group, delivery).await,
                    // Forgotten: it comes back by itself.
                    _ => {}
                }
            }
            self.ack(group, done).await;
        }
    }

    /// Receives and checks what came against all that is known; `None` after an error.
    async fn receive(&self, group: &str, limit: usize, poll_ms: u64) -> Option<Vec<Delivery>> {
        let (least, most) = INVISIBLE_MS;
        let invisible_ms = least + self.chance.below(most - least);
        let call = self.world.calls.fetch_add(1, Ordering::Relaxed);
        self.note(Event::ReceiveCalled {
            call,
            group: group.to_owned(),
            invisible_ms: i64::try_from(invisible_ms).unwrap(),
        });
        let receive = Receive {
            group: GroupName::new(group).unwrap(),
            topic: topic_name(),
            limit,
            invisible: Duration::from_millis(invisible_ms),
            poll: Duration::from_millis(poll_ms),
        };
        let deliveries = match self.broker.receive(receive).await {
            Ok(deliveries) => deliveries,
            Err(error) => {
                self.note(Event::Note(format!("receive: {error}")));
                return None;
            }
        };
        if deliveries.len() > limit {
            self.broken(format!("{} came, asked for {limit}", deliveries.len()));
        }
        for delivery in &deliveries {
            let place = place_of(&delivery.envelope);
            if place != (delivery.handle.queue, delivery.handle.offset) {
                self.broken(format!(
                    "the handle of {place:?} names {:?}",
                    delivery.handle
                ));
            }
            let message = self.known(&delivery.envelope);
            self.note(Event::Received {
                call,
                place,
                message,
                attempt: delivery.attempt,
            });
        }
        Some(deliveries)
    }

    async fn change(&self, group: &str, delivery: Delivery) {
        let place = place_of(&delivery.envelope);
        self.note(Event::ChangeCalled {
            group: group.to_owned(),
            place,
        });
        let invisible = Duration::from_millis(self.chance.below(5000));
        let group = GroupName::new(group).unwrap();
        let changed = self
            .broker
            .change_invisible(&group, &topic_name(), delivery.handle, invisible)
            .await;
        match changed {
            Ok(handle) => self.note(Event::Note(format!(
                "changed {:?}",
                (handle.queue, handle.offset)
            ))),
            Err(error) => self.note(Event::Note(format!("change {place:?}: {error}"))),
        }
    }

    async fn ack(&self, group: &str, deliveries: Vec<Delivery>) {
        if deliveries.is_empty() {
            return;
        }
        let places: Vec<Place> = deliveries.iter().map(|d| place_of(&d.envelope)).collect();
        let handles: Vec<ReceiptHandle> = deliveries.into_iter().map(|d| d.handle).collect();
        let name = GroupName::new(group).unwrap();
        match self.broker.ack(&name, &topic_name(), handles).await {
            Err(error) => self.note(Event::Note(format!("ack: {error}"))),
            Ok(answers) => {
                for (place, answer) in places.into_iter().zip(answers) {
                    match answer {
                        Ok(()) => self.note(Event::Acked {
                            group: group.to_owned(),
                            place,
                        }),
                        Err(error) => self.note(Event::Note(format!("ack {place:?}: {error}"))),
                    }
                }
            }
        }
    }

    /// Moves messages to the cold tier and lets the disk fail, now and then.
    async fn operate(self) {
        loop {
            self.pause(30_000).await;
            match self.chance.below(10) {
                0 => self.world.disk.inner.fail_next_sync(),
                1 => self.world.disk.inner.fail_next_write(),
                2..4 => self.read_everything().await,
                _ => self.tier().await,
            }
        }
    }

    /// Everything reads the same before and after, wherever it lies.
    async fn tier(&self) {
        self.read_everything().await;
        self.broker.care().await;
        if let Err(error) = self.broker.compact(None).await {
            self.note(Event::Note(format!("compact: {error}")));
        }
        match self.broker.tier().await {
            Ok(tiered) => self.note(Event::Note(format!("tiered {}", tiered.messages))),
            Err(error) => self.note(Event::Note(format!("tier: {error}"))),
        }
        self.read_everything().await;
    }

    async fn read_everything(&self) {
        let topic: Topic = match self.broker.topic(&topic_name()) {
            Ok(topic) => topic,
            Err(error) => return self.note(Event::Note(format!("read: {error}"))),
        };
        for (queue, extent) in self.broker.extents(&topic) {
            let mut next = extent.first;
            while next < extent.next {
                match self.broker.read(&topic.name, queue, next, 100).await {
                    Ok((envelopes, after)) => {
                        for (envelope, expected) in envelopes.iter().zip(next.0..) {
                            let place = place_of(envelope);
                            if place != (queue.0, expected) {
                                self.broken(format!("asked for {expected}, got {place:?}"));
                            }
                            let message = self.known(envelope);
                            self.note(Event::Read { place, message });
                        }
                        if after <= next {
                            return self.broken(format!("{queue} can not be read from {next} on"));
                        }
                        next = after;
                    }
                    Err(error) => return self.note(Event::Note(format!("read: {error}"))),
                }
            }
        }
    }

    /// Receives and acknowledges until nothing came for longer than any message may stay invisible.
    async fn drain(&self, group: &str) -> usize {
        let mut count = 0;
        let mut quiet_since = self.clock.now();
        while self.clock.now().since(quiet_since) < Duration::from_millis(2 * INVISIBLE_MS.1) {
            match self.receive(group, 32, 10_000).await {
                Some(deliveries) if deliveries.is_empty() => {}
                Some(deliveries) => {
                    count += deliveries.len();
                    self.ack(group, deliveries).await;
                    quiet_since = self.clock.now();
                }
                None => {
                    self.broken(format!("{group} can not receive from a healed broker"));
                    break;
                }
            }
        }
        count
    }

    /// Checks a message against what was sent and what was read before; the answer is its name.
    fn known(&self, envelope: &Envelope) -> String {
        let name = envelope.message_id.clone();
        let sent = message(&name, None);
        if envelope.body != sent.body || envelope.tag != sent.tag {
            self.broken(format!("{name} came with another body or tag"));
        }
        let mut known = self.world.known.lock().unwrap();
        let first = known
            .entry(place_of(envelope))
            .or_insert_with(|| envelope.clone());
        if first != envelope {
            self.broken(format!(
                "{name} reads differently: {first:?} and {envelope:?}"
            ));
        }
        name
    }
}

fn topic_name() -> TopicName {
    TopicName::new(TOPIC).unwrap()
}

fn place_of(envelope: &Envelope) -> Place {
    let (QueueId(queue), Offset(offset)) = (envelope.queue_id(), envelope.at());
    (queue, offset)
}

/// The message of a name: its body follows from the name, mostly small, at times larger than a segment's
/// share.
fn message(name: &str, key: Option<String>) -> Envelope {
    let bytes = Seeded::new(stable_hash(name.as_bytes()));
    let length = match bytes.below(100) {
        0..80 => bytes.below(400),
        80..97 => bytes.below(6000),
        _ => bytes.below(60_000),
    };
    let mut body = name.as_bytes().to_vec();
    while (body.len() as u64) < length {
        body.extend_from_slice(&bytes.next_u64().to_le_bytes());
    }
    Envelope {
        message_id: name.to_owned(),
        tag: Some("t".to_owned()),
        key: key.map(Bytes::from),
        body: Some(Bytes::from(body)),
        ..Envelope::default()
    }
}
