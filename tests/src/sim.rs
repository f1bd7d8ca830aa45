//! One seed, one run: a whole broker on a simulated disk, clients around it, and a power that fails.
//!
//! Everything runs on one thread in simulated time. A run has several lives: each starts the broker on
//! what the last crash left, lets clients work, and ends when the power goes, which it does at a random
//! write, sync, rename or removal, in the middle of a send as well as of a checkpoint or a recovery. In the
//! last life the disk is kind, every group is drained, and everything is read back.
//!
//! Meanwhile clients leave in the middle of a call, lose answers, hang while they hold messages and come back
//! with handles that are long over; operators move, pause and clone groups, redrive dead letters, delete topics
//! and make them anew, move messages to the cold tier and let retention have them; the machine's clock is set
//! forward and back.
//!
//! What this does not do: it has no network (clients call the broker; an answer is lost by being dropped; the simulation of the
//! wire in `tests/tests/wire_simulation.rs` has one), and it flips no bits.
//!
//! Reading order: this file (a run and its lives), [`client`] (how a client calls), [`line`](mod@line) (topics whose clients
//! are alike), [`order`] and [`later`] (topics that have clients of their own), [`operator`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millpond_engine::broker::Broker;
use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::task::{Lane, Runtimes, Spawn as _, Task};
use millpond_proto::time::{Clock, SimulatedClock, SteadyClock, Timestamp};
use millpond_storage::disk::Disk;
use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Parts, Settings, WalIo};
use millpond_storage::tier::objects::DiskObjectStore;

use crate::history::{Event, History, Place, Reader};
use crate::panics;
use crate::power::MortalDisk;
use crate::sim::client::Client;
use crate::sim::line::{LINES, Numbered};
use crate::sim::order::ORDERED;

mod client;
mod later;
mod line;
mod operator;
mod order;

/// Longest invisible time that a consumer asks for.
const INVISIBLE_MS: (u64, u64) = (10_000, 30_000);
/// Of so many seeds one has a cold tier, and fewer lives, because what is read from its files costs a run most of
/// its time; the others replay a longer log.
const SEEDS_PER_TIER: u64 = 14;
/// The part of its lives that such a seed has.
const TIERED_LIVES: u32 = 3;
/// How far the clock is set back or forward between two lives, at most.
const SET_BETWEEN_LIVES_MS: u64 = 3_600_000;

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

/// The groups that are drained in the end.
#[must_use]
pub fn readers() -> Vec<Reader> {
    line::readers()
}

impl Plan {
    /// Whether messages are moved to the cold tier.
    fn tiers(self) -> bool {
        self.seed.is_multiple_of(SEEDS_PER_TIER)
    }

    /// Runs it and hands back what happened.
    #[must_use]
    pub fn run(self) -> Arc<History> {
        panics::watch();
        let history = Arc::new(History::default());
        let chance = Arc::new(Seeded::new(self.seed));
        let mut disk = SimulatedDisk::new();
        disk.reorder(self.seed);
        let mut now = Timestamp(1_700_000_000_000);
        let shared = Arc::default();
        let crashes = if self.tiers() {
            self.crashes / TIERED_LIVES
        } else {
            self.crashes
        };
        for life in 0..=crashes {
            let is_last = life == crashes;
            // Some lives end in their recovery; others by the clock, with nothing in flight.
            let operations = match chance.below(100) {
                _ if is_last => u64::MAX,
                0..20 => chance.below(150),
                20..75 => chance.below(1500),
                _ => chance.below(16_000),
            };
            let world = World {
                plan: self,
                life,
                is_last,
                disk: MortalDisk::new(disk.clone(), operations),
                chance: Arc::clone(&chance),
                history: Arc::clone(&history),
                shared: Arc::clone(&shared),
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            now = runtime.block_on(world.live(now));
            drop(runtime);
            history.record_panics(now);
            if !is_last {
                disk = disk.crash(&chance);
                now = now + Duration::from_millis(chance.below(20_000));
                match chance.below(10) {
                    0 => now = now - Duration::from_millis(chance.below(SET_BETWEEN_LIVES_MS)),
                    1 => now = now + Duration::from_millis(chance.below(SET_BETWEEN_LIVES_MS)),
                    _ => {}
                }
            }
        }
        history
    }
}

/// What every life of a run shares.
#[derive(Debug, Default)]
struct Shared {
    /// Every stored message as it was first read.
    known: Mutex<BTreeMap<Place, Envelope>>,
    /// The highest offset of each queue that a send was answered with.
    tails: Mutex<BTreeMap<(u64, u32), u64>>,
    /// What the producer that numbers its messages is about.
    numbered: Mutex<Numbered>,
    /// Numbers the calls of receive.
    calls: AtomicU64,
    /// When the last delayed message is due.
    last_due_ms: AtomicI64,
}

/// One life of a run.
#[derive(Debug)]
struct World {
    plan: Plan,
    life: u32,
    is_last: bool,
    disk: MortalDisk,
    chance: Arc<Seeded>,
    history: Arc<History>,
    shared: Arc<Shared>,
}

/// The machine's clock, and the one that the broker and everybody else goes by.
#[derive(Clone, Debug)]
struct Clocks {
    wall: Arc<SimulatedClock>,
    steady: Arc<dyn Clock>,
}

impl World {
    /// Lives until the power goes, the time is over, or (in the last life) all is checked.
    async fn live(self, start: Timestamp) -> Timestamp {
        let wall = Arc::new(SimulatedClock::starting_at(start));
        let steady = SteadyClock::over(Arc::clone(&wall) as Arc<dyn Clock>);
        let steady: Arc<dyn Clock> = Arc::new(steady);
        let clocks = Clocks { wall, steady };
        let power = Arc::clone(&self.disk.power);
        let limit = Duration::from_millis(1000 + self.chance.below(180_000));
        let over = clocks.steady.sleep(limit);
        let world = Arc::new(self);
        world.note(&clocks, Event::Started { life: world.life });
        if world.is_last {
            world.heal(&clocks).await;
            return clocks.wall.now();
        }
        let how = {
            let work = std::pin::pin!(world.work(&clocks));
            let gone = std::pin::pin!(power.gone.notified());
            let ended = futures::future::select(gone, over);
            match futures::future::select(work, ended).await {
                futures::future::Either::Left((how, _)) => how,
                futures::future::Either::Right(_) => "the power went".to_owned(),
            }
        };
        world.note(&clocks, Event::Ended { how });
        clocks.wall.now()
    }

    fn note(&self, clocks: &Clocks, event: Event) {
        self.history
            .record(clocks.steady.now(), &Arc::from("world"), event);
    }

    /// Starts the broker; its recovery runs on the same mortal disk.
    async fn start(&self, clocks: &Clocks) -> Result<Arc<Broker>, String> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let parts = Parts {
            objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
            disk,
            clock: Arc::clone(&clocks.steady),
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
        let broker = started.map_err(|error| format!("the start failed: {error:?}"))?;
        self.note(clocks, Event::Ready);
        Ok(broker)
    }

    fn client(
        self: &Arc<Self>,
        broker: &Arc<Broker>,
        clocks: &Clocks,
        name: &str,
        number: u32,
    ) -> Client {
        Client {
            name: Arc::from(format!("{name}-{}-{number}", self.life)),
            world: Arc::clone(self),
            broker: Arc::clone(broker),
            clocks: clocks.clone(),
            chance: Seeded::new(self.chance.next_u64()),
        }
    }

    /// An ordinary life: clients work until someone else ends it.
    async fn work(self: &Arc<Self>, clocks: &Clocks) -> String {
        let broker = match self.start(clocks).await {
            Ok(broker) => broker,
            Err(how) => return self.excused(clocks, how),
        };
        if let Err(how) = self.client(&broker, clocks, "maker", 0).make().await {
            return self.excused(clocks, how);
        }
        // What panics is told when the life is over.
        futures::future::join_all(self.clients(&broker, clocks)).await;
        "nobody was left".to_owned()
    }

    /// Before any client is at work, nothing fails but for the power.
    fn excused(&self, clocks: &Clocks, how: String) -> String {
        if !self.disk.power.is_gone() {
            self.note(clocks, Event::Broken(format!("for no reason {how}")));
        }
        how
    }

    fn clients(self: &Arc<Self>, broker: &Arc<Broker>, clocks: &Clocks) -> Vec<Task> {
        let spawn = Runtimes::single();
        let client = |name: &str, number: u32| self.client(broker, clocks, name, number);
        let mut tasks = Vec::new();
        let mut add = |work| tasks.push(spawn.spawn(Lane::Service, work));
        for line in &LINES {
            for number in 0..line.producers {
                add(Box::pin(client(line.topic, number).produce(line)));
            }
            for group in line.groups {
                for number in 0..group.consumers {
                    add(Box::pin(client(group.name, number).consume(line, group)));
                }
            }
        }
        add(Box::pin(client("numbered", 0).produce_numbered()));
        for of in &ORDERED {
            add(Box::pin(client(of.topic, 0).produce_in_order(of)));
            for number in 0..2 {
                add(Box::pin(client(of.group, number).consume_in_order(of)));
            }
        }
        add(Box::pin(client("delaying", 0).produce_for_later()));
        add(Box::pin(client("deciding", 0).produce_halves()));
        add(Box::pin(client("asker", 0).ask()));
        add(Box::pin(client("watcher", 0).watch()));
        add(Box::pin(client("operator", 0).operate()));
        add(Box::pin(client("mover", 0).move_groups()));
        add(Box::pin(client("remaker", 0).remake()));
        tasks
    }

    /// The last life: nothing fails any more, and everything must be there.
    async fn heal(self: &Arc<Self>, clocks: &Clocks) {
        let broken = |what: String| self.note(clocks, Event::Broken(what));
        let broker = match self.start(clocks).await {
            Ok(broker) => broker,
            Err(how) => return broken(how),
        };
        let healer = self.client(&broker, clocks, "healer", 0);
        if let Err(how) = healer.make().await {
            return broken(how);
        }
        self.note(clocks, Event::Healing);
        healer.read_lines().await;
        healer.send_numbered().await;
        healer.settle_groups().await;
        healer.drain_lines().await;
        healer.count_dead().await;
        for of in &ORDERED {
            healer.drain_in_order(of).await;
        }
        healer.wait_for_all(self.chance.percent(50)).await;
        healer.tier().await;
        drop(healer);
        broker.close().await;
        drop(broker);
        // Once more from disk, after an orderly end.
        let broker = match self.start(clocks).await {
            Ok(broker) => broker,
            Err(how) => return broken(how),
        };
        let healer = self.client(&broker, clocks, "healer", 1);
        healer.read_lines().await;
        if healer.drain_lines().await > 0 {
            broken("drained queues gave more after a restart".to_owned());
        }
        broker.close().await;
    }
}
