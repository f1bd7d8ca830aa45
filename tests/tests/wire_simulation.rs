//! A whole server and its clients over a network that is slow, cuts and loses: one seed, one run.
//!
//! Everything from the client's stub to the disk runs on one thread in simulated time. Producers number their messages and send
//! them again until they are answered, so each must be stored once; consumers hear of an answer or not, and acknowledge what
//! they heard of. In between the power goes. What clients saw is held to the promises of the broker
//! (`tests/src/history.rs`).
//!
//! What this does not do: the simulation beside it ([`crate::simulation`]) has every kind of topic and operators at work; here
//! is one topic, and what lies between the broker and its clients. Which seeds it looks at, `millpond_tests::seeds`
//! says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64};
use std::time::Duration;

use futures::future::{Either, select};
use millpond_engine::config::Config;
use millpond_engine::net::MemoryNetwork;
use millpond_engine::parts::Parts;
use millpond_engine::server::{Running, Server};
use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::task::{Lane, Runtimes, Spawn as _, Task};
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use millpond_storage::disk::Disk;
use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::log::Settings;
use millpond_storage::tier::objects::DiskObjectStore;
use millpond_tests::history::{Event, History, Reader, Tally};
use millpond_tests::panics;
use millpond_tests::power::MortalDisk;
use millpond_tests::seeds::{is_one, seeds};

use self::client::{Client, channel};
use self::pipe::{Connector, Weather};

mod client;
mod pipe;

const TOPIC: &str = "orders";
const TOPIC_ID: u64 = 1;
const GROUP: &str = "billing";
/// Invisible times that consumers ask for.
const INVISIBLE_MS: (u64, u64) = (10_000, 15_000);
const SEEDS_DEFAULT: u64 = 40;
/// Lives that end in a crash, before the last one.
const CRASHES: u32 = 3;
const CLIENTS: u32 = 2;

/// What the lives of a run share.
#[derive(Debug, Default)]
struct Shared {
    history: History,
    /// Numbers the calls of receive.
    calls: AtomicU64,
}

/// One life: a server on what the last crash left.
struct World {
    life: u32,
    disk: MortalDisk,
    clock: Arc<dyn Clock>,
    chance: Seeded,
    weather: Weather,
    shared: Arc<Shared>,
}

fn run(seed: u64) -> Arc<Shared> {
    panics::watch();
    let chance = Seeded::new(seed);
    let shared = Arc::new(Shared::default());
    let mut disk = SimulatedDisk::new();
    disk.reorder(seed);
    let mut now = Timestamp(1_700_000_000_000);
    let weather = Weather {
        delay_ms_max: [0, 5, 100, 900][usize::try_from(chance.below(4)).unwrap()],
        percent: [30, 100, 100][usize::try_from(chance.below(3)).unwrap()],
        works_ms_max: [500, 5000][usize::try_from(chance.below(2)).unwrap()],
    };
    for life in 0..=CRASHES {
        let is_last = life == CRASHES;
        let changes = if is_last {
            u64::MAX
        } else {
            chance.below(3000)
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        now = runtime.block_on(async {
            let world = World {
                life,
                disk: MortalDisk::new(disk.clone(), changes),
                clock: Arc::new(SimulatedClock::starting_at(now)),
                chance: Seeded::new(chance.next_u64()),
                weather: if is_last { Weather::CALM } else { weather },
                shared: Arc::clone(&shared),
            };
            let how = if is_last {
                world.heal().await
            } else {
                world.live().await
            };
            world.note(Event::Ended { how });
            world.clock.now()
        });
        drop(runtime);
        shared.history.record_panics(now);
        if !is_last {
            disk = disk.crash(&chance);
            now = now + Duration::from_millis(chance.below(20_000));
        }
    }
    shared
}

impl World {
    fn note(&self, event: Event) {
        let who = Arc::from("world");
        self.shared.history.record(self.clock.now(), &who, event);
    }

    async fn start(&self) -> Result<(Running, Connector), String> {
        self.note(Event::Started { life: self.life });
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let network = MemoryNetwork::default();
        let any = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            grpc: any,
            http: any,
            storage: Settings {
                shards: 2,
                segment_bytes: 64 * 1024,
                overlap_bytes: 0,
                ..Settings::default()
            },
            ..Config::default()
        };
        let parts = Parts {
            storage: millpond_storage::log::Parts {
                objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
                disk,
                clock: Arc::clone(&self.clock),
                chance: Arc::new(Seeded::new(self.chance.next_u64())),
                spawn: Arc::new(Runtimes::single()),
            },
            network: Arc::new(network.clone()),
        };
        let started = Server::start(config, parts).await;
        let server = started.map_err(|error| format!("the start failed: {error:?}"))?;
        self.note(Event::Ready);
        let connector = Connector {
            network,
            address: server.grpc_addr,
            weather: self.weather,
            clock: Arc::clone(&self.clock),
            chance: Arc::new(Seeded::new(self.chance.next_u64())),
            ports: Arc::new(AtomicU16::new(10_000)),
        };
        Ok((server, connector))
    }

    fn client(&self, connector: &Connector, name: &str, number: u32) -> Client {
        Client {
            name: Arc::from(format!("{name}-{}-{number}", self.life)),
            connector: connector.clone(),
            shared: Arc::clone(&self.shared),
            chance: Arc::new(Seeded::new(self.chance.next_u64())),
            channel: channel(connector),
        }
    }

    /// Clients work until the power goes or the time is over.
    async fn live(&self) -> String {
        let limit = Duration::from_millis(1000 + self.chance.below(60_000));
        let over = self.clock.sleep(limit);
        let gone = std::pin::pin!(self.disk.power.gone.notified());
        let work = std::pin::pin!(async {
            let (_server, connector) = match self.start().await {
                Ok(started) => started,
                Err(how) => {
                    // Nothing else fails a start.
                    if !self.disk.power.is_gone() {
                        self.note(Event::Broken(how.clone()));
                    }
                    return how;
                }
            };
            self.client(&connector, "maker", 0).make_topic().await;
            self.note(Event::TopicIs {
                id: TOPIC_ID,
                name: TOPIC,
            });
            let spawn = Runtimes::single();
            let mut tasks: Vec<Task> = Vec::new();
            for number in 0..CLIENTS {
                let producer = self.client(&connector, "producer", number).produce();
                let consumer = self.client(&connector, "consumer", number).consume();
                tasks.push(spawn.spawn(Lane::Service, Box::pin(producer)));
                tasks.push(spawn.spawn(Lane::Service, Box::pin(consumer)));
            }
            // What panics is told when the life is over.
            futures::future::join_all(tasks).await;
            "nobody was left".to_owned()
        });
        match select(work, select(gone, over)).await {
            Either::Left((how, _)) => how,
            Either::Right(_) => "the power went".to_owned(),
        }
    }

    /// The last life: nothing goes wrong any more, and everything must be there.
    async fn heal(&self) -> String {
        let broken = |what: String| {
            self.note(Event::Broken(what.clone()));
            what
        };
        let (server, connector) = match self.start().await {
            Ok(started) => started,
            Err(how) => return broken(how),
        };
        let mut client = self.client(&connector, "healer", 0);
        client.make_topic().await;
        self.note(Event::Healing);
        client.drain().await;
        client.read().await;
        drop(client);
        server.stop().await;
        "it was stopped".to_owned()
    }
}

fn readers() -> [Reader; 1] {
    [Reader {
        topic: TOPIC,
        group: GROUP,
        wants: |_| true,
        attempts_max: None,
    }]
}

fn check(seed: u64) -> Tally {
    let shared = std::panic::catch_unwind(|| run(seed))
        .unwrap_or_else(|_| panic!("seed {seed} panicked; again: MILLPOND_SEED={seed}"));
    let broken = shared.history.broken_promises(&readers());
    if !broken.is_empty() && is_one() {
        eprintln!("{}", shared.history);
    }
    let some: Vec<_> = broken.iter().take(10).collect();
    assert!(
        broken.is_empty(),
        "seed {seed} broke {} promises; again: MILLPOND_SEED={seed}\n{some:#?}",
        broken.len()
    );
    shared.history.tally()
}

#[test]
fn what_clients_are_told_over_a_bad_network_holds_through_crashes() {
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.end - seeds.start;
    let mut sum = Tally::default();
    for seed in seeds {
        sum.add(&check(seed));
    }
    println!("{sum:?}");
    if count >= SEEDS_DEFAULT {
        // Runs in which nothing happens would prove nothing.
        assert!(sum.sent > 500 && sum.acked > 500, "{sum:?}");
        // The weather is the seed's, and ten of them may have it good.
        assert!(sum.lost > 100, "{sum:?}");
    }
}

#[test]
fn a_seed_of_the_network_runs_the_same_twice() {
    for seed in [0, 1, 2] {
        let (first, second) = (run(seed).history.to_string(), run(seed).history.to_string());
        let differs = first.lines().zip(second.lines()).find(|(a, b)| a != b);
        assert!(
            first == second,
            "seed {seed} ran differently the second time: {differs:?}"
        );
    }
}
