//! The cold tier in a bucket, over the wire of S3: the same bytes at every offset, whatever the wire does; and a
//! server that keeps it there, is given another one, or a wrong key.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millpond_engine::cold::ColdUrl;
use millpond_proto::chance::Seeded;
use millpond_proto::client::{OutgoingMessage, Producer};
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId};
use millpond_proto::task::Runtimes;
use millpond_proto::time::SystemClock;
use millpond_proto::wire::admin::ReadRequest;
use millpond_storage::disk::Disk;
use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::error::{ReadError, ShardDamaged, TierError};
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{
    Keep, Parts, Projection, ReadLimit, Record, Replayed, Settings, Storage,
};
use millpond_storage::tier::cold::compaction::Compaction;
use millpond_storage::tier::probe::{ProbeError, probe};
use millpond_tests::harness::{Folder, Server};
use object_store::ObjectStore;
use s3s::S3ErrorCode;

use crate::s3::{Fault, S3Server};

const TOPIC: TopicId = TopicId(7);
const QUEUE: QueueId = QueueId(0);
const URL: &str = "s3://bucket/pond";
/// Times that something is tried again after a fault.
const TRIES: usize = 4;

/// A shard without a state.
#[derive(Debug)]
struct Nothing;

impl Projection for Nothing {
    fn restore(_: ShardId, _: Option<&[u8]>) -> Result<Self, ShardDamaged> {
        Ok(Self)
    }

    fn apply(&mut self, _: &Replayed) -> Result<(), ShardDamaged> {
        Ok(())
    }
}

fn client(server: &S3Server, url: &str) -> Arc<dyn ObjectStore> {
    let mut variables = server.variables();
    variables.push(("AWS_TIMEOUT".to_owned(), "300ms".to_owned()));
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
    let url: ColdUrl = url.parse().unwrap();
    url.open(&disk, &variables).unwrap()
}

pub(crate) async fn open(disk: &SimulatedDisk, objects: &Arc<dyn ObjectStore>) -> Arc<Storage> {
    let parts = Parts {
        disk: Arc::new(disk.clone()),
        objects: Arc::clone(objects),
        clock: Arc::new(SystemClock),
        chance: Arc::new(Seeded::new(1)),
        spawn: Arc::new(Runtimes::single()),
    };
    let settings = Settings {
        shards: 1,
        segment_bytes: 64 * 1024,
        cold: URL.to_owned(),
        ..Settings::default()
    };
    let opened = Storage::open::<Nothing>(parts, settings).await;
    let (storage, recovered) = opened.unwrap();
    assert_eq!(recovered.damage, Vec::<String>::new());
    storage
}

fn message(offset: u64) -> Envelope {
    Envelope {
        topic: TOPIC.0,
        queue: QUEUE.0,
        offset,
        message_id: format!("id-{offset}"),
        stored_at_ms: i64::try_from(offset).unwrap() * 1000,
        body: Some(Bytes::from(format!("body of {offset} ").repeat(20))),
        ..Envelope::default()
    }
}

pub(crate) async fn send(storage: &Storage, offsets: Range<u64>) {
    for offset in offsets {
        let record = Record::Message(message(offset));
        let durable = storage.append(ShardId(0), vec![record]).await;
        durable.unwrap().await.unwrap();
    }
}

/// Reads every offset from the first that is kept, alone and with those behind it.
pub(crate) async fn check(storage: &Storage, kept: Range<u64>) {
    let extent = storage.extent(TOPIC, QUEUE).unwrap();
    assert_eq!(extent.first.0..extent.next.0, kept);
    for limit in [1, 1000] {
        let limit = ReadLimit {
            messages: limit,
            bytes: usize::MAX,
        };
        let mut next = kept.start;
        while next < kept.end {
            let read = again(async || storage.read(TOPIC, QUEUE, Offset(next), limit).await).await;
            for found in read {
                assert_eq!(found, message(next));
                next += 1;
            }
        }
    }
}

/// Does something until it is done; a fault may cost it a few tries.
async fn again<T, E: std::fmt::Display>(mut work: impl AsyncFnMut() -> Result<T, E>) -> T {
    let mut said = Vec::new();
    for _ in 0..TRIES {
        match work().await {
            Ok(done) => return done,
            Err(error) => said.push(error.to_string()),
        }
    }
    panic!("not done after {TRIES} tries: {said:#?}");
}

fn faults() -> Vec<Fault> {
    let long = Duration::from_millis(600);
    vec![
        Fault::Slow(Duration::from_millis(50)),
        Fault::Refuse(S3ErrorCode::InternalError),
        Fault::Refuse(S3ErrorCode::SlowDown),
        Fault::Refuse(S3ErrorCode::ConditionalRequestConflict),
        Fault::Refuse(S3ErrorCode::PreconditionFailed),
        Fault::RefuseAfter(S3ErrorCode::InternalError),
        Fault::RefuseAfter(S3ErrorCode::PreconditionFailed),
        Fault::HangBefore(long),
        Fault::HangAfter(long),
        Fault::Reset,
        Fault::StaleList,
        Fault::LateDelete,
    ]
}

/// A bucket behind a wire on which things go wrong.
pub(crate) trait Wire {
    /// Lets the next requests be answered with these faults.
    fn order(&self, before: usize);
    /// Nothing goes wrong any more.
    fn calm(&self);
    /// Keys of all objects.
    fn keys(&self) -> Vec<String>;
}

/// The server of S3 with the fault that it is about.
struct S3Wire<'a>(&'a S3Server, Fault);

impl Wire for S3Wire<'_> {
    fn order(&self, before: usize) {
        let before = std::iter::repeat_n(Fault::None, before);
        self.0.script(before.chain([self.1.clone()]));
    }

    fn calm(&self) {
        self.0.script([]);
    }

    fn keys(&self) -> Vec<String> {
        self.0.keys()
    }
}

/// One fault behind `whole` requests of each thing that is done.
pub(crate) async fn live_through(wire: &impl Wire, objects: &Arc<dyn ObjectStore>, whole: usize) {
    let disk = SimulatedDisk::new();
    let storage = open(&disk, objects).await;
    for turn in 0..3 {
        send(&storage, turn * 10..turn * 10 + 10).await;
        wire.order(whole);
        again(async || storage.tier().await).await;
        check(&storage, 0..turn * 10 + 10).await;
    }
    send(&storage, 30..35).await;
    wire.order(whole);
    check(&storage, 0..35).await;
    wire.order(whole);
    again(async || storage.compact(TOPIC, Compaction::default()).await).await;
    check(&storage, 0..35).await;
    send(&storage, 35..50).await;
    again(async || storage.tier().await).await;
    wire.order(whole);
    let keep = Keep {
        stored_from_ms: Some(30_000),
        ..Keep::default()
    };
    again(async || storage.retain(TOPIC, keep).await).await;
    check(&storage, 30..50).await;
    storage.close().await;
    wire.calm();
    // What was given up on the way is an orphan, and nothing that is named is one.
    let storage = open(&disk, objects).await;
    storage.sweep().await.unwrap();
    check(&storage, 30..50).await;
    let findings = storage.verify().await.unwrap();
    assert_eq!((findings.damage, findings.notes), (vec![], vec![]));
    let files = storage.sizes_of(TOPIC).cold.files;
    let keys = wire.keys();
    assert_eq!(keys.len() as u64, files + 2, "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("pond/")), "{keys:?}");
    storage.close().await;
}

#[tokio::test]
async fn every_offset_reads_the_same_whatever_goes_wrong_on_the_wire() {
    for (number, fault) in faults().iter().enumerate() {
        for whole in [number % 2, 2 + number % 2] {
            let server = S3Server::start();
            let wire = S3Wire(&server, fault.clone());
            live_through(&wire, &client(&server, URL), whole).await;
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_bucket_is_damage_and_never_data() {
    let server = S3Server::start();
    let objects = client(&server, URL);
    let storage = open(&SimulatedDisk::new(), &objects).await;
    send(&storage, 0..10).await;
    storage.tier().await.unwrap();
    let is_file = |key: &&String| key.contains("/data/");
    let key = server.keys().iter().find(is_file).unwrap().clone();
    server.flip_bit(&key, 4000);
    let limit = ReadLimit {
        messages: 10,
        bytes: usize::MAX,
    };
    let error = storage.read(TOPIC, QUEUE, Offset(0), limit).await;
    assert!(matches!(error, Err(ReadError::Damaged { .. })), "{error:?}");
    server.flip_bit(&key, 4000);
    check(&storage, 0..10).await;
    storage.close().await;
}

#[tokio::test]
async fn a_bucket_that_is_down_delays_tiering_and_nothing_else() {
    let server = S3Server::start();
    let objects = client(&server, URL);
    let disk = SimulatedDisk::new();
    let storage = open(&disk, &objects).await;
    send(&storage, 0..10).await;
    server.set_down(true);
    let error = storage.tier().await.unwrap_err();
    assert!(matches!(error, TierError::Objects { .. }), "{error}");
    send(&storage, 10..20).await;
    check(&storage, 0..20).await;
    server.set_down(false);
    assert_eq!(storage.tier().await.unwrap().messages, 20);
    check(&storage, 0..20).await;
    storage.close().await;
}

#[tokio::test]
async fn the_probe_takes_a_real_bucket_and_refuses_a_wrong_key_or_a_missing_bucket() {
    let server = S3Server::start();
    let chance = Seeded::new(1);
    probe(&*client(&server, URL), &chance, URL).await.unwrap();
    assert_eq!(server.keys(), Vec::<String>::new());
    // The client asks again after 500, and is told that what it made exists.
    server.script([Fault::RefuseAfter(S3ErrorCode::InternalError)]);
    probe(&*client(&server, URL), &chance, URL).await.unwrap();
    let elsewhere = "s3://nowhere/pond";
    let error = probe(&*client(&server, elsewhere), &chance, elsewhere).await;
    let error = error.unwrap_err();
    assert!(matches!(error, ProbeError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("s3://nowhere/pond"), "{error}");
}

pub(crate) async fn bodies(server: &Server, topic: &str) -> Vec<(u64, Bytes)> {
    let admin = server.admin();
    let mut found = Vec::new();
    loop {
        let request = ReadRequest {
            topic: topic.to_owned(),
            queue: 0,
            from: found.len() as u64,
            limit: 7,
        };
        let answer = admin.read_topic(request).await.unwrap();
        if answer.messages.is_empty() {
            return found;
        }
        for message in answer.messages {
            found.push((message.offset, message.body.unwrap()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_its_cold_tier_in_a_bucket_and_takes_no_other() {
    let bucket = S3Server::start();
    let variables = bucket.variables();
    let folder = Folder::new();
    let server = folder.serve_with(&["--cold", URL], &variables).unwrap();
    let _ = server.millpond(&["topic", "create", "orders", "--queues", "1"]);
    let producer = Producer::new(&server.client());
    let mut expected: Vec<_> = (0..40_u64)
        .map(|i| (i, Bytes::from(format!("body {i}"))))
        .collect();
    for (i, body) in &expected {
        let message = OutgoingMessage::new(body.clone());
        producer.send("orders", message).await.unwrap();
        if i % 10 == 9 && *i < 39 {
            let _ = server.millpond(&["storage", "tier"]);
        }
    }
    assert_eq!(bodies(&server, "orders").await, expected);
    let merged = server.try_millpond(&["storage", "compact", "orders"]);
    assert!(merged.status.success());
    assert_eq!(bodies(&server, "orders").await, expected);
    let rows = server.rows("SELECT count(*) FROM orders");
    assert_eq!(rows, [["40"]]);
    assert!(bucket.keys().iter().any(|key| key.ends_with(".parquet")));
    assert!(!folder.data().join("objects").exists(), "nothing lies here");
    server.kill();

    // A folder that has its files elsewhere does not start without them.
    let alone = folder.serve_with(&[], &[]).unwrap_err();
    assert!(alone.said.contains("--cold s3://bucket/pond"), "{alone}");
    let other = folder.serve_with(&["--cold", "s3://bucket/other"], &variables);
    let other = other.unwrap_err();
    assert!(other.said.contains("--cold s3://bucket/pond"), "{other}");
    let foreign = Folder::new();
    let foreign = foreign
        .serve_with(&["--cold", URL], &variables)
        .unwrap_err();
    assert!(foreign.said.contains("another data folder"), "{foreign}");
    let mut wrong = variables.clone();
    wrong[3].1 = "not the secret".to_owned();
    let wrong = folder.serve_with(&["--cold", URL], &wrong).unwrap_err();
    assert!(wrong.said.contains("credentials"), "{wrong}");
    let typo = folder.serve_with(&["--cold", "s4://x"], &[]).unwrap_err();
    assert!(typo.said.contains("s3://bucket/prefix"), "{typo}");

    // At rest, the tools find it by what the folder remembers.
    let at = folder.data();
    let mut verify = std::process::Command::new(millpond_tests::harness::binary());
    verify.args(["storage", "verify", "--data", at.to_str().unwrap()]);
    let verified = verify.envs(variables.iter().map(|(n, v)| (n, v))).output();
    let verified = verified.unwrap();
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success(), "{said}");
    assert!(said.contains("1 files with 30 messages"), "{said}");

    // A bucket that is down is no reason not to start: what is in the log is there, what has left it comes later.
    bucket.set_down(true);
    let server = folder.serve_with(&["--cold", URL], &variables).unwrap();
    let producer = Producer::new(&server.client());
    let sent = producer.send("orders", OutgoingMessage::new("late")).await;
    assert_eq!(sent.unwrap().offset, 40);
    let hot = ReadRequest {
        topic: "orders".to_owned(),
        queue: 0,
        from: 35,
        limit: 10,
    };
    let hot = server.admin().read_topic(hot).await.unwrap().messages;
    assert_eq!(hot.len(), 6);
    bucket.set_down(false);
    expected.push((40, Bytes::from("late")));
    assert_eq!(bodies(&server, "orders").await, expected);
    assert!(server.stop());
}
