//! Data folders that earlier versions wrote: all that is in them is found again, for ever.
//!
//! `tests/fixtures/v1/data` was written once, by [`write`](fn@write), and is never written again: its log has every kind of
//! record behind a checkpoint, its checkpoint the state of every shard, its cold tier files, and `state/` what continuous
//! queries saved. `listing.txt` beside it says what is in it. A later version adds a folder of its own beside it.
//!
//! `MILLPOND_FIXTURE_TO=folder` writes there what today's code writes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use millpond_engine::broker::delay::Delayed;
use millpond_engine::broker::lite::LiteGroup;
use millpond_engine::broker::lite::listeners::Action;
use millpond_engine::broker::lite::topics::Word;
use millpond_engine::broker::poll::Consumer;
use millpond_engine::broker::{
    Broker, Delivery, Group, GroupStart, NewRetention, NewTopic, Receive, TopicType,
};
use millpond_proto::chance::Seeded;
use millpond_proto::message::{Offset, QueueId};
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::task::{Runtimes, Spawn};
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use millpond_sql::job::runtime::{JobParts, Jobs};
use millpond_sql::sql::{Sql, SqlParts};
use millpond_sql::topic::Topics;
use millpond_storage::disk::Disk;
use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Parts, Settings};
use millpond_storage::tier::objects::DiskObjectStore;
use millpond_tests::harness::workspace;
use object_store::ObjectStore;

/// 2024-01-01T00:00:00Z, when the folder was written by its own clock.
const WRITTEN: Timestamp = Timestamp(1_704_067_200_000);
/// How long it took to write it, at most; it is opened after that.
const WRITING: Duration = Duration::from_secs(300);
/// Longer than anything of the folder is looked at.
const HOURS: Duration = Duration::from_secs(11 * 3600);

/// What is asked of a folder, with every column that is to be found again.
const QUESTIONS: [&str; 19] = [
    "SELECT name, queues, messages, written_by, format, changelog FROM millpond.topics ORDER BY name",
    "SELECT topic, queue, first, next, tiered FROM millpond.queues ORDER BY topic, queue",
    "SELECT name, start, start_at FROM millpond.groups ORDER BY name",
    "SELECT \"group\", topic, queue, ack_floor, next, in_flight, lag FROM millpond.group_progress \
     ORDER BY \"group\", topic, queue",
    "SELECT topic, queue, message_id, due, stored_at, bytes FROM millpond.delayed ORDER BY message_id",
    "SELECT topic, queue, message_id, state, stored_at, checks, next_check FROM millpond.transactions \
     ORDER BY message_id",
    "SELECT \"group\", topic, queue, \"offset\", consumer, since, until, attempts FROM millpond.in_flight \
     ORDER BY \"group\", topic, queue, \"offset\"",
    "SELECT \"group\", topic, queue, \"offset\", message_id, attempts, reason, died_at FROM millpond.dead_letters \
     ORDER BY message_id",
    "SELECT name, state, output_topic FROM millpond.jobs ORDER BY name",
    "SELECT _queue, _offset, _key, k, n, at FROM orders ORDER BY _queue, _offset",
    "SELECT _offset, _key, k, n FROM kept ORDER BY _offset",
    "SELECT _offset, n, name FROM written ORDER BY _offset",
    "SELECT _offset, _key, id, name FROM changes ORDER BY _offset",
    "SELECT _offset, n FROM meter_1 ORDER BY _offset",
    "SELECT _offset, n FROM meter_2 ORDER BY _offset",
    "SELECT k, total, rows FROM sums ORDER BY k",
    "SELECT window_end, rows FROM closed ORDER BY window_end",
    "SELECT k, most FROM greatest ORDER BY k",
    "SELECT k, n, name FROM joined ORDER BY k, n",
];

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

/// A broker and its queries over a disk.
struct World {
    clock: Arc<SimulatedClock>,
    broker: Arc<Broker>,
    jobs: Arc<Jobs>,
    sql: Sql,
}

impl World {
    async fn open(disk: &SimulatedDisk, at: Timestamp) -> Self {
        let simulated = Arc::new(SimulatedClock::starting_at(at));
        let clock = Arc::clone(&simulated) as Arc<dyn Clock>;
        let spawn: Arc<dyn Spawn> = Arc::new(Runtimes::single());
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = |folder| -> Arc<dyn ObjectStore> {
            Arc::new(DiskObjectStore::new(Arc::clone(&disk), folder))
        };
        let parts = Parts {
            disk: Arc::clone(&disk),
            objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
            clock: Arc::clone(&clock),
            chance: Arc::new(Seeded::new(1)),
            spawn: Arc::clone(&spawn),
        };
        let settings = Settings {
            shards: 4,
            segment_bytes: 32 * 1024,
            overlap_bytes: 0,
            ..Settings::default()
        };
        let broker = Broker::start(parts, settings).await.unwrap();
        let parts = JobParts {
            topics: Arc::clone(&broker) as _,
            clock,
            spawn,
            state: store("state"),
        };
        let jobs = Jobs::start(parts.clone());
        let sql = Sql::new(SqlParts::beside(
            Arc::clone(&jobs) as _,
            parts,
            store("export"),
        ));
        Self {
            clock: simulated,
            broker,
            jobs,
            sql: sql.unwrap(),
        }
    }

    /// Runs a statement; its rows as text.
    async fn run(&self, statement: &str) -> Vec<String> {
        let answer = self.sql.execute(statement).await;
        let finished = match answer {
            Ok(answer) => answer.finish().await,
            Err(error) => Err(error),
        };
        let finished = finished.unwrap_or_else(|error| panic!("{statement}: {error}"));
        let options = FormatOptions::new().with_null("NULL");
        let mut rows = Vec::new();
        for batch in &finished.batches {
            let columns = batch.columns().iter();
            let formats: Vec<_> = columns
                .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
                .collect();
            rows.extend((0..batch.num_rows()).map(|row| {
                let cells: Vec<_> = formats
                    .iter()
                    .map(|cell| cell.value(row).to_string())
                    .collect();
                cells.join(" | ")
            }));
        }
        rows
    }

    async fn make(&self, name: &str, kind: TopicType) {
        let new = NewTopic {
            name: topic(name),
            kind,
            queues: Some(2),
            columns: Vec::new(),
            watermark: None,
            primary_key: Vec::new(),
            written_by: None,
        };
        self.broker.create_topic(new).await.unwrap();
    }

    async fn send(&self, to: &str, messages: Vec<Envelope>) {
        for sent in self.broker.send(&topic(to), messages).await.unwrap() {
            sent.unwrap();
        }
    }

    async fn receive(
        &self,
        by: &str,
        of: &str,
        limit: usize,
        invisible: Duration,
    ) -> Vec<Delivery> {
        let receive = Receive {
            group: group(by),
            topic: topic(of),
            limit,
            invisible,
            poll: Duration::ZERO,
        };
        let consumer = Consumer {
            id: format!("consumer-of-{by}"),
            ..Consumer::default()
        };
        let batch = self.broker.receive_as(receive, &consumer).await.unwrap();
        batch.take()
    }

    async fn ack(&self, by: &str, of: &str, delivery: Delivery) {
        let handles = vec![delivery.handle];
        let acked = self.broker.ack(&group(by), &topic(of), handles).await;
        acked.unwrap().pop().unwrap().unwrap();
    }

    async fn wait(&self, seconds: u64) {
        self.clock.sleep(Duration::from_secs(seconds)).await;
    }

    async fn delay(&self, name: &str, ahead: Duration) -> Delayed {
        let due_at_ms = Some((self.clock.now() + ahead).as_ms());
        let message = Envelope {
            due_at_ms,
            ..message(name)
        };
        let sent = self
            .broker
            .send_delayed(&topic("later"), vec![message])
            .await;
        sent.unwrap().pop().unwrap().unwrap()
    }

    /// A transaction that is decided in this way, if at all.
    async fn transaction(&self, name: &str, commit: Option<bool>) {
        let half = vec![(message(name), HOURS.as_millis().try_into().unwrap())];
        let sent = self.broker.send_half(&topic("payments"), half).await;
        let id = sent.unwrap().pop().unwrap().unwrap();
        if let Some(commit) = commit {
            let topic = topic("payments");
            let ended = self.broker.end_transaction(&topic, id, Some(name), commit);
            ended.await.unwrap();
        }
    }
}

fn message(name: &str) -> Envelope {
    Envelope {
        message_id: name.to_owned(),
        body: Some(Bytes::from(format!("body of {name}"))),
        ..Envelope::default()
    }
}

/// What is behind the checkpoint and what is before it are alike, but for their names.
async fn fill(world: &World, part: &str, numbers: u64, lite: &str) {
    let numbered = |number: u64, message: Envelope| Envelope {
        producer_id: Some("till".to_owned()),
        producer_sequence: Some(number),
        ..message
    };
    let in_group = |name: &str, number: u64| Envelope {
        message_group: Some(part.to_owned()),
        key: Some(Bytes::from(part.to_owned())),
        tag: Some("red".to_owned()),
        ..numbered(number, message(name))
    };
    let name = |what: &str| format!("{part}-{what}");
    world.wait(1).await;
    world
        .send(
            "in_order",
            vec![
                in_group(&name("first"), numbers),
                in_group(&name("second"), numbers + 1),
            ],
        )
        .await;
    let urgent = [(0, "low"), (4, "high")].map(|(priority, what)| Envelope {
        priority: Some(priority),
        ..message(&name(what))
    });
    world.send("urgent", urgent.into()).await;
    world.delay(&name("soon"), HOURS).await;
    world
        .delay(&name("in-a-month"), Duration::from_secs(30 * 86_400))
        .await;
    if let Delayed::Waits(handle) = world.delay(&name("recalled"), HOURS).await {
        world.broker.recall(&topic("later"), handle).await.unwrap();
    }
    world.transaction(&name("open"), None).await;
    world.transaction(&name("committed"), Some(true)).await;
    world.transaction(&name("rolled-back"), Some(false)).await;
    let lites = ["a", "b"].map(|lite| Envelope {
        lite_topic: Some(lite.to_owned()),
        ..message(&name(lite))
    });
    world.send("chats", lites.into()).await;

    // One is acknowledged, one is held, one is dead and one waits.
    let plain = ["acked", "held", "given-up", "waiting"].map(|what| Envelope {
        key: Some(Bytes::from_static(b"k")),
        ..message(&name(what))
    });
    world.send("plain", plain.into()).await;
    let mut came = world
        .receive("workers", "plain", 3, HOURS)
        .await
        .into_iter();
    world.ack("workers", "plain", came.next().unwrap()).await;
    assert!(came.next().is_some(), "it is held");
    let given_up = came.next().unwrap().handle;
    let (workers, plain) = (group("workers"), topic("plain"));
    let forwarded = world
        .broker
        .forward_to_dead_letters(&workers, &plain, given_up);
    forwarded.await.unwrap();
    let in_order = world.receive("ledger", "in_order", 1, HOURS).await;
    assert_eq!(in_order.len(), 1);
    let (by, of) = (group("listeners"), topic("chats"));
    let word = Word {
        group: &by,
        topic: &of,
        consumer: "consumer-of-listeners",
        action: Action::Set,
        names: &[lite.to_owned()],
        version: None,
        start: None,
    };
    world.broker.listen(word).await.unwrap();
    assert_eq!(world.receive("listeners", "chats", 1, HOURS).await.len(), 1);
    let readers = group("readers");
    let noted = world
        .broker
        .note_offset(&readers, &plain, QueueId(0), Offset(1));
    noted.await.unwrap();

    for statement in [
        "INSERT INTO orders (k, n, at) VALUES ('a', 1, TIMESTAMP '2024-01-01 00:00:00'), \
         ('b', 2, TIMESTAMP '2024-01-01 00:00:01'), ('a', 3, TIMESTAMP '2024-01-01 00:00:05')",
        "INSERT INTO kept (k, n) VALUES ('a', 1), ('b', 2), ('a', 3)",
        "INSERT INTO written (n, name) VALUES (1, 'one'), (NULL, 'none')",
        r#"INSERT INTO changes (_key, _body) VALUES
            ('1', '{"before":null,"after":{"id":1,"name":"Ada"},"op":"c"}'),
            ('2', '{"before":null,"after":{"id":2,"name":"Bob"},"op":"c"}'),
            ('1', '{"before":{"id":1,"name":"Ada"},"after":{"id":1,"name":"Ann"},"op":"u"}')"#,
        "INSERT INTO meter_1 (n) VALUES (11)",
        "INSERT INTO meter_2 (n) VALUES (21), (22)",
    ] {
        world.run(statement).await;
    }
    let gone = format!("gone_{part}");
    world.make(&gone, TopicType::Normal).await;
    world.send(&gone, vec![message("gone")]).await;
    world.broker.delete_topic(&topic(&gone)).await.unwrap();
    world.wait(3).await;
}

/// Everything of which a record is kept, half of it behind a checkpoint; the disk as the power left it.
async fn write() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let world = World::open(&disk, WRITTEN).await;
    for (name, kind) in [
        ("plain", TopicType::Normal),
        ("in_order", TopicType::Fifo),
        ("urgent", TopicType::Priority),
        ("later", TopicType::Delay),
        ("payments", TopicType::Transaction),
        ("chats", TopicType::Lite),
    ] {
        world.make(name, kind).await;
    }
    let kept = NewRetention {
        ms: Some(86_400_000 * 3650),
        bytes: Some(1 << 40),
        ..NewRetention::default()
    };
    world
        .broker
        .alter_topic(&topic("plain"), kept.into())
        .await
        .unwrap();
    for new in [
        Group {
            attempts_max: Some(5),
            ..Group::new(group("workers"))
        },
        Group {
            start: GroupStart::At(WRITTEN),
            fifo: true,
            ..Group::new(group("ledger"))
        },
        Group {
            lite: Some(LiteGroup {
                topic: "chats".to_owned(),
                exclusive: true,
            }),
            ..Group::new(group("listeners"))
        },
        Group {
            start: GroupStart::Latest,
            paused: true,
            ..Group::new(group("sleepers"))
        },
        Group::new(group("readers")),
        Group::new(group("nobody")),
    ] {
        world.broker.create_group(new).await.unwrap();
    }
    world.broker.delete_group(&group("nobody")).await.unwrap();
    for statement in [
        "CREATE TOPIC orders (k VARCHAR, n BIGINT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '1 second') \
         WITH (queues = 2)",
        "CREATE TOPIC kept (k VARCHAR, n BIGINT, PRIMARY KEY (k)) \
         WITH (queues = 1, cleanup = 'compact', tombstone_retention = '2 days', table_retention = '365 days')",
        "CREATE TOPIC written (n BIGINT, name VARCHAR) WITH (queues = 1, format = 'avro')",
        "CREATE TOPIC changes (id BIGINT, name VARCHAR, PRIMARY KEY (id)) WITH (queues = 1, changelog = 'debezium')",
        "CREATE TOPIC meter_1 (n BIGINT) WITH (queues = 1, family = 'meters')",
        "CREATE TOPIC meter_2 (n BIGINT) WITH (queues = 1, family = 'meters')",
        "CREATE MATERIALIZED VIEW sums AS SELECT k, sum(n) AS total, count(*) AS rows FROM orders GROUP BY k",
        "CREATE MATERIALIZED VIEW closed AS SELECT window_end, count(*) AS rows FROM \
         TUMBLE(TABLE orders, DESCRIPTOR(at), INTERVAL '1 second') GROUP BY window_end EMIT ON WINDOW CLOSE",
        "CREATE MATERIALIZED VIEW joined WITH (parallelism = 2) AS \
         SELECT orders.k, orders.n, changes.name FROM orders JOIN changes ON orders.n = changes.id",
        "CREATE TOPIC greatest (k VARCHAR, most BIGINT, PRIMARY KEY (k)) WITH (queues = 1)",
        "CREATE JOB finds AS INSERT INTO greatest SELECT k, max(n) AS most FROM orders GROUP BY k",
    ] {
        world.run(statement).await;
    }
    fill(&world, "saved", 1, "a").await;
    world.run("CREATE SAVEPOINT midway FOR JOB finds").await;
    world.broker.tier().await.unwrap();
    fill(&world, "logged", 3, "b").await;
    // What the queries saved is there, and so are records of theirs.
    world.jobs.stop().await;
    let took = world.clock.now().since(WRITTEN);
    assert!(took < WRITING, "{took:?}");
    SimulatedDisk::holding(&disk.snapshot())
}

/// All that a folder holds, as text, found by what opens it.
async fn listing(disk: &SimulatedDisk) -> String {
    let world = World::open(disk, WRITTEN + WRITING).await;
    world.wait(10).await;
    let mut text = String::new();
    let mut say = |what: &str, rows: Vec<String>| {
        writeln!(text, "{what}").unwrap();
        for row in rows {
            writeln!(text, "  {row}").unwrap();
        }
    };
    for question in QUESTIONS {
        say(question, world.run(question).await);
    }
    let broker = &world.broker;
    let kinds = broker.topics().into_iter().map(|topic| {
        let (name, kept) = (topic.name, topic.retention);
        format!(
            "{name}: {}, kept for {:?} ms and {:?} bytes, compacted {}, tombstones {:?}, table {:?}, family {:?}, key {:?}",
            topic.kind.as_str(), kept.ms, kept.bytes, kept.compacts, kept.tombstones_ms, kept.table_ms, topic.family,
            topic.primary_key
        )
    });
    say("topics", kinds.collect());
    let groups = broker.groups().into_iter().map(|group| {
        let lite = group.lite.map(|lite| (lite.topic, lite.exclusive));
        format!(
            "{}: {:?} attempts, fifo {}, paused {}, lite {lite:?}",
            group.name, group.attempts_max, group.fifo, group.paused
        )
    });
    say("groups", groups.collect());
    let savepoints = Topics::savepoints(broker.as_ref()).into_iter();
    let savepoints =
        savepoints.map(|one| format!("{} of {}, epoch {}", one.name, one.job, one.cut.epoch));
    say("savepoints", savepoints.collect());
    let lites = broker
        .lite_topics(&topic("chats"), None, 100)
        .await
        .unwrap();
    let lites = lites.topics.into_iter();
    let lites = lites.map(|lite| format!("{} in {}: {}", lite.name, lite.queue, lite.messages));
    say("lite topics", lites.collect());
    let noted = broker
        .noted_offset(&group("readers"), &topic("plain"), QueueId(0))
        .await;
    say("noted", vec![format!("{:?}", noted.unwrap())]);
    for name in ["plain", "in_order", "urgent", "later", "payments", "chats"] {
        let mut rows = Vec::new();
        for queue in [QueueId(0), QueueId(1)] {
            let mut from = Offset(0);
            loop {
                let read = broker.read(&topic(name), queue, from, 100).await;
                let (found, next) = read.unwrap();
                if next == from {
                    break;
                }
                from = next;
                rows.extend(found.into_iter().map(|one| {
                    format!(
                        "{queue} {}: {} {:?} key {:?} tag {:?} group {:?} lite {:?} priority {:?} number {:?} at {}",
                        one.offset, one.message_id, one.body, one.key, one.tag, one.message_group, one.lite_topic,
                        one.priority, one.producer_sequence, one.stored_at_ms
                    )
                }));
            }
        }
        say(name, rows);
    }
    // Queries go on from what they had saved: only what comes is read. The savepoint is of before the second half.
    world
        .run("CREATE TOPIC greatest_since (k VARCHAR, most BIGINT, PRIMARY KEY (k)) WITH (queues = 1)")
        .await;
    world
        .run(
            "CREATE JOB goes_on WITH (savepoint = 'midway') AS \
             INSERT INTO greatest_since SELECT k, max(n) AS most FROM orders GROUP BY k",
        )
        .await;
    world
        .run("INSERT INTO orders (k, n, at) VALUES ('a', 100, TIMESTAMP '2024-01-01 00:01:00')")
        .await;
    world.wait(2).await;
    for question in [
        "SELECT k, total, rows FROM sums ORDER BY k",
        "SELECT window_end, rows FROM closed ORDER BY window_end",
        "SELECT k, most FROM greatest ORDER BY k",
        "SELECT k, most FROM greatest_since ORDER BY k",
        "SELECT name, state FROM millpond.jobs ORDER BY name",
    ] {
        say(question, world.run(question).await);
    }
    world.jobs.stop().await;
    broker.close().await;
    text
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(work)
}

/// The files of a folder by path.
fn files(folder: &Path, within: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, within, found);
        } else {
            let name = path
                .strip_prefix(within)
                .unwrap()
                .to_str()
                .unwrap()
                .replace('\\', "/");
            found.insert(name, fs::read(&path).unwrap());
        }
    }
}

/// The folders of all versions, the newest last.
fn versions() -> Vec<PathBuf> {
    let entries = fs::read_dir(workspace().join("tests/fixtures")).unwrap();
    let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
}

#[test]
fn all_that_an_earlier_version_wrote_is_found_again() {
    for folder in versions() {
        let mut found = BTreeMap::new();
        files(&folder.join("data"), &folder.join("data"), &mut found);
        let expected = fs::read_to_string(folder.join("listing.txt")).unwrap();
        let listed = run(listing(&SimulatedDisk::holding(&found)));
        let differs = expected
            .lines()
            .zip(listed.lines())
            .find(|(one, other)| one != other);
        assert!(
            expected == listed,
            "{}: first {differs:?}, in all\n{listed}",
            folder.display()
        );
    }
}

#[test]
fn what_is_written_today_is_found_again_and_is_as_much() {
    let (disk, listed) = run(async {
        let disk = write().await;
        let files = disk.snapshot();
        let listed = listing(&SimulatedDisk::holding(&files)).await;
        (files, listed)
    });
    let newest = versions().pop().unwrap().join("listing.txt");
    if let Some(folder) = std::env::var_os("MILLPOND_FIXTURE_TO") {
        let folder = PathBuf::from(folder);
        for (path, bytes) in &disk {
            let path = folder.join("data").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        fs::write(folder.join("listing.txt"), &listed).unwrap();
        return;
    }
    assert_eq!(fs::read_to_string(newest).unwrap(), listed);
}
