//! The log as its users see it, on a disk that crashes, tears and rots by seed.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::future::join_all;
use millpond_proto::chance::Seeded;
use millpond_proto::task::Runtimes;
use millpond_proto::time::SystemClock;

use super::*;
use crate::disk::Disk;
use crate::disk::simulated::SimulatedDisk;
use crate::tier::cold::typed::Reads;
use crate::tier::objects::DiskObjectStore;
use crate::wal::recovery::{self, Found};

mod apart;
mod behind;
mod checkpoints;
mod counts;
mod damage;
mod holes;
mod late;
mod moving;
mod resting;
mod retention;
mod rot;
mod verified;

const TOPIC: TopicId = TopicId(7);
const ALL: ReadLimit = ReadLimit {
    messages: 10_000,
    bytes: usize::MAX,
};

/// Remembers every record in words; its snapshot is those words.
#[derive(Debug, PartialEq)]
struct Seen(Vec<String>);

impl Projection for Seen {
    fn restore(_: ShardId, snapshot: Option<&[u8]>) -> Result<Self, ShardDamaged> {
        let words = std::str::from_utf8(snapshot.unwrap_or_default()).unwrap();
        Ok(Self(words.lines().map(str::to_owned).collect()))
    }

    fn apply(&mut self, record: &Replayed) -> Result<(), ShardDamaged> {
        self.0.push(match record {
            Replayed::Message(m) => format!("{}/{} {:?}", m.queue, m.offset, m.body),
            Replayed::Lost { queue, offset, .. } => format!("{queue}/{offset} lost"),
            Replayed::State(bytes) => format!("state {bytes:?}"),
        });
        Ok(())
    }
}

fn settings() -> Settings {
    Settings {
        shards: 4,
        wals: 2,
        segment_bytes: 32 * 1024,
        writes_in_flight: 3,
        overlap_bytes: 0,
        wal_io: WalIo::Auto,
        cache_bytes: 4096,
        ..Settings::default()
    }
}

async fn try_open(disk: &SimulatedDisk) -> Result<(Arc<Storage>, Recovered<Seen>), OpenError> {
    open_with(disk, settings()).await
}

async fn open_with(
    disk: &SimulatedDisk,
    settings: Settings,
) -> Result<(Arc<Storage>, Recovered<Seen>), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let parts = Parts {
        objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
        disk,
        clock: Arc::new(SystemClock),
        chance: Arc::new(Seeded::new(1)),
        spawn: Arc::new(Runtimes::single()),
    };
    Storage::open(parts, settings).await
}

async fn open(disk: &SimulatedDisk) -> (Arc<Storage>, Recovered<Seen>) {
    try_open(disk).await.unwrap()
}

/// Queue n belongs to shard n in these tests.
fn message(queue: u16, offset: u64) -> Envelope {
    Envelope {
        topic: TOPIC.0,
        queue: u32::from(queue),
        offset,
        message_id: format!("id-{queue}-{offset}"),
        body: Some(Bytes::from(format!("body {queue} {offset} ").repeat(8))),
        ..Envelope::default()
    }
}

async fn send(storage: &Storage, queue: u16, offset: u64) -> Result<Position, AppendError> {
    let record = Record::Message(message(queue, offset));
    storage.append(ShardId(queue), vec![record]).await?.await
}

async fn state(storage: &Storage, shard: u16, text: &'static str) -> Position {
    let record = Record::State(Bytes::from_static(text.as_bytes()));
    let durable = storage.append(ShardId(shard), vec![record]).await.unwrap();
    durable.await.unwrap()
}

async fn offsets(storage: &Storage, queue: u16, from: u64) -> Vec<u64> {
    let mut offsets = Vec::new();
    let mut next = Offset(from);
    loop {
        let read = storage.read(TOPIC, QueueId(queue.into()), next, ALL).await;
        let read = read.unwrap();
        let Some(last) = read.last() else {
            return offsets;
        };
        next = last.at().next();
        for found in read {
            assert_eq!(found, message(queue, found.offset), "the very bytes");
            offsets.push(found.offset);
        }
    }
}

fn states(recovered: Recovered<Seen>) -> Vec<Seen> {
    recovered.shards.into_iter().map(Result::unwrap).collect()
}

fn wal_files(disk: &SimulatedDisk) -> BTreeMap<String, Vec<u8>> {
    let mut files = disk.snapshot();
    files.retain(|path, _| path.starts_with("wal/") && path.ends_with(".log"));
    files
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_each_restart_and_terms_rise() {
    let disk = SimulatedDisk::new();
    let mut last = (Term(0), Position(0));
    for round in 0..4 {
        let (storage, recovered) = open(&disk).await;
        assert!(recovered.term > last.0);
        assert_eq!((recovered.torn_bytes, recovered.damage.len()), (0, 0));
        last.0 = recovered.term;
        for offset in round * 10..(round + 1) * 10 {
            let position = send(&storage, 1, offset).await.unwrap();
            assert!(position > last.1, "positions grow for ever");
            last.1 = position;
        }
        let extent = storage.extent(TOPIC, QueueId(1)).unwrap();
        assert_eq!((extent.first, extent.next.0), (Offset(0), (round + 1) * 10));
        let expected: Vec<u64> = (0..(round + 1) * 10).collect();
        assert_eq!(offsets(&storage, 1, 0).await, expected);
        assert_eq!(storage.topics(), [TOPIC]);
        assert_eq!(storage.queues_of(TOPIC), [(QueueId(1), extent)]);
        storage.close().await;
    }
}

#[tokio::test]
async fn appends_that_wait_together_cost_one_write_and_one_sync() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    let before = (disk.write_count(), disk.sync_count());
    // Shards 1 and 3 share a WAL.
    let sends = (0..24).map(|n| send(&storage, if n % 2 == 0 { 1 } else { 3 }, n / 2));
    let answers = join_all(sends).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(
        (disk.write_count() - before.0, disk.sync_count() - before.1),
        (1, 1)
    );
    let mut sorted: Vec<Position> = answers.into_iter().map(Result::unwrap).collect();
    sorted.dedup();
    assert_eq!(sorted.len(), 24, "each append has a position of its own");
    assert!(sorted.is_sorted());
}

#[tokio::test]
async fn nothing_is_answered_ok_after_a_failed_sync_and_what_was_acknowledged_is_recovered() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    send(&storage, 0, 0).await.unwrap();
    disk.fail_next_sync();
    assert!(matches!(
        send(&storage, 0, 1).await,
        Err(AppendError::Failed { .. })
    ));
    assert!(matches!(storage.failed().await, AppendError::Failed { .. }));
    for shard in 0..4 {
        let answer = send(&storage, shard, 1).await;
        assert!(
            matches!(answer, Err(AppendError::Failed { .. })),
            "every WAL has ended"
        );
    }
    assert_eq!(
        offsets(&storage, 0, 0).await,
        [0],
        "readers see what is durable"
    );
    storage.close().await;
    let disk = disk.crash(&Seeded::new(3));
    let (storage, recovered) = open(&disk).await;
    assert!(recovered.damage.is_empty());
    let next = storage.extent(TOPIC, QueueId(0)).unwrap().next.0;
    assert!((1..=2).contains(&next));
    send(&storage, 0, next).await.unwrap();
}

#[tokio::test]
async fn what_was_read_after_a_failed_sync_is_written_again_before_anybody_sees_it() {
    for seed in 0..12 {
        let disk = SimulatedDisk::new();
        let (storage, _) = open(&disk).await;
        send(&storage, 0, 0).await.unwrap();
        disk.fail_next_sync();
        assert!(send(&storage, 0, 1).await.is_err());
        storage.close().await;
        // Opened as it is: the system still reads what it could not write, and thinks that it is clean.
        let (storage, _) = open(&disk).await;
        let seen = offsets(&storage, 0, 0).await;
        storage.close().await;
        let (storage, recovered) = open(&disk.crash(&Seeded::new(seed))).await;
        assert_eq!(recovered.damage, Vec::<String>::new());
        assert_eq!(offsets(&storage, 0, 0).await, seen, "what was seen stays");
    }
}

#[tokio::test]
async fn a_write_cut_short_is_a_torn_tail_and_the_log_goes_on_before_it() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    send(&storage, 0, 0).await.unwrap();
    disk.fail_next_write();
    let long = Record::State(Bytes::from(vec![1; 3 * block::ALIGN_BYTES]));
    let answer = storage.append(ShardId(0), vec![long]).await.unwrap().await;
    assert!(answer.is_err());
    storage.close().await;
    let (storage, recovered) = open(&disk).await;
    assert_eq!(recovered.torn_bytes, 4 * block::ALIGN_BYTES as u64);
    assert!(recovered.damage.is_empty());
    send(&storage, 0, 1).await.unwrap();
    storage.close().await;
    let (storage, recovered) = open(&disk).await;
    assert_eq!(
        (recovered.torn_bytes, recovered.damage.len()),
        (0, 0),
        "it was cut once"
    );
    assert_eq!(offsets(&storage, 0, 0).await, [0, 1]);
}

#[tokio::test]
async fn no_crash_loses_what_was_acknowledged_or_leaves_a_hole() {
    for seed in 0..100 {
        let chance = Seeded::new(seed);
        let mut disk = SimulatedDisk::new();
        disk.reorder(seed);
        let mut acknowledged = [0_u64; 4];
        for _ in 0..3 {
            let (storage, recovered) = open(&disk).await;
            assert!(
                recovered.damage.is_empty(),
                "seed {seed}: {:?}",
                recovered.damage
            );
            assert!(recovered.shards.iter().all(Result::is_ok), "seed {seed}");
            let mut next = [0; 4];
            for queue in 0..4_u16 {
                let at = usize::from(queue);
                let found = offsets(&storage, queue, 0).await;
                next[at] = found.len() as u64;
                assert_eq!(found, (0..next[at]).collect::<Vec<u64>>(), "seed {seed}");
                assert!(
                    next[at] >= acknowledged[at],
                    "seed {seed}: queue {queue} lost messages"
                );
                acknowledged[at] = next[at];
            }
            for _ in 0..chance.below(6) {
                match chance.below(12) {
                    0 => disk.fail_next_sync(),
                    1 => disk.fail_next_write(),
                    _ => {}
                }
                let mut sends = Vec::new();
                for queue in 0..4_u16 {
                    for _ in 0..chance.below(8) {
                        sends.push((queue, next[usize::from(queue)]));
                        next[usize::from(queue)] += 1;
                    }
                }
                let answers = sends
                    .iter()
                    .map(|&(queue, offset)| send(&storage, queue, offset));
                for (&(queue, offset), answer) in sends.iter().zip(join_all(answers).await) {
                    if answer.is_ok() {
                        acknowledged[usize::from(queue)] = offset + 1;
                    }
                }
            }
            disk = disk.crash(&chance);
        }
    }
}

#[tokio::test]
async fn a_crash_with_several_writes_in_flight_cuts_at_the_first_that_did_not_land() {
    let (mut cut, mut acknowledged_all) = (0, 0);
    for seed in 0..150 {
        let chance = Seeded::new(seed);
        let disk = SimulatedDisk::new();
        disk.reorder(seed);
        let (storage, _) = open(&disk).await;
        // Each waits in a block of its own; queue 0 and 2 share a WAL.
        let mut waiting = Vec::new();
        for number in 0..chance.below(12) {
            let record = vec![Record::Message(message(0, number))];
            waiting.push(storage.append(ShardId(0), record).await.unwrap());
            if chance.percent(60) {
                tokio::task::yield_now().await;
            }
        }
        for _ in 0..chance.below(20) {
            tokio::task::yield_now().await;
        }
        let answered = waiting.into_iter().map(futures::FutureExt::now_or_never);
        let answered: Vec<bool> = answered.map(|a| a.is_some_and(|a| a.is_ok())).collect();
        let acknowledged = answered.iter().take_while(|&&ok| ok).count();
        let in_order = answered.iter().skip(acknowledged).all(|ok| !ok);
        assert!(in_order, "seed {seed}: answered out of order");
        acknowledged_all += acknowledged;
        let crashed = disk.crash(&chance);
        drop(storage);
        let (storage, recovered) = open(&crashed).await;
        assert!(
            recovered.damage.is_empty(),
            "seed {seed}: {:?}",
            recovered.damage
        );
        cut += usize::from(recovered.torn_bytes > 0);
        let found = offsets(&storage, 0, 0).await;
        assert_eq!(
            found,
            (0..found.len() as u64).collect::<Vec<u64>>(),
            "seed {seed}"
        );
        assert!(
            found.len() >= acknowledged,
            "seed {seed}: acknowledged and lost"
        );
        // What was cut does not come back behind what is written now.
        let next = found.len() as u64;
        send(&storage, 0, next).await.unwrap();
        storage.close().await;
        let (storage, recovered) = open(&crashed).await;
        assert_eq!(
            (recovered.torn_bytes, recovered.damage.len()),
            (0, 0),
            "seed {seed}"
        );
        assert_eq!(
            offsets(&storage, 0, 0).await.len() as u64,
            next + 1,
            "seed {seed}"
        );
    }
    assert!(
        cut > 10 && acknowledged_all > 100,
        "{cut} {acknowledged_all}"
    );
}

#[tokio::test]
async fn a_checkpoint_and_a_full_replay_give_the_same_state() {
    let disk = SimulatedDisk::new();
    let (storage, recovered) = open(&disk).await;
    let mut seen = states(recovered);
    let mut segments_before = 0;
    for offset in 0..60 {
        for queue in 0..4 {
            send(&storage, queue, offset).await.unwrap();
            let record = Replayed::Message(message(queue, offset));
            seen[usize::from(queue)].apply(&record).unwrap();
        }
        if offset == 40 {
            storage.tier().await.unwrap();
            segments_before = wal_files(&disk).len();
            let mut snapshots = Vec::new();
            for (shard, seen) in (0..).map(ShardId).zip(&seen) {
                let position = storage.append(shard, vec![]).await.unwrap();
                snapshots.push(ShardSnapshot {
                    shard,
                    position: position.await.unwrap(),
                    state: Bytes::from(seen.0.join("\n")),
                });
            }
            storage.checkpoint(snapshots).await.unwrap();
            assert!(
                wal_files(&disk).len() < segments_before,
                "segments were let go"
            );
            let files = disk.snapshot();
            let spares = files.keys().filter(|path| path.ends_with(".spare"));
            assert!(spares.count() > 2, "they wait to be used again");
        }
    }
    storage.close().await;
    let disk = disk.crash(&Seeded::new(1));
    let (storage, recovered) = open(&disk).await;
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    assert_eq!(states(recovered), seen);
    for queue in 0..4 {
        let expected: Vec<u64> = (0..60).collect();
        assert_eq!(offsets(&storage, queue, 0).await, expected);
        let extent = storage.extent(TOPIC, QueueId(queue.into())).unwrap();
        assert_eq!(
            (extent.first, extent.tiered, extent.next),
            (Offset(0), Offset(41), Offset(60))
        );
    }
    assert!(segments_before > 2);
}

#[tokio::test]
async fn reading_gives_the_same_messages_from_every_tier() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for offset in 0..30 {
        send(&storage, 1, offset).await.unwrap();
    }
    let tiered = storage.tier().await.unwrap();
    assert_eq!(tiered.messages, 30);
    assert_eq!(storage.tier().await.unwrap(), Tiered::default());
    for offset in 30..50 {
        send(&storage, 1, offset).await.unwrap();
    }
    assert_eq!(offsets(&storage, 1, 0).await, (0..50).collect::<Vec<u64>>());
    assert_eq!(offsets(&storage, 1, 45).await, [45, 46, 47, 48, 49]);
    let range = Offset(10)..Offset(90);
    let rows: usize = storage
        .scan(TOPIC, QueueId(1), range, &Reads::of(&["offset", "body"]))
        .map(|batch| batch.unwrap().num_rows())
        .collect::<Vec<usize>>()
        .await
        .into_iter()
        .sum();
    assert_eq!(rows, 40);
    assert_eq!(storage.sizes().hot_messages, 20);
    storage.forget(TOPIC).await.unwrap();
    storage.forget(TOPIC).await.unwrap();
    assert_eq!(
        (storage.topics().len(), storage.extent(TOPIC, QueueId(1))),
        (0, None)
    );
}

#[tokio::test]
async fn a_snapshot_without_a_wait_never_takes_in_what_came_after_it() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    let record = |text: &'static str| vec![Record::State(Bytes::from_static(text.as_bytes()))];
    let shard = ShardId(0);
    // All four are in one block; the empty state has a position of its own too.
    let before = storage.append(shard, record("before")).await.unwrap();
    let position = storage.append(shard, vec![]).await.unwrap();
    let empty = storage.append(shard, record("")).await.unwrap();
    let after = storage.append(shard, record("after")).await.unwrap();
    let (before, position) = (before.await.unwrap(), position.await.unwrap());
    assert_eq!(before, position);
    assert!(empty.await.unwrap() < after.await.unwrap());
    let state = Bytes::from_static(b"taken");
    let snapshot = ShardSnapshot {
        shard,
        position,
        state,
    };
    storage.checkpoint(vec![snapshot]).await.unwrap();
    storage.close().await;
    let seen = states(open(&disk).await.1);
    assert_eq!(seen[0].0, ["taken", "state b\"\"", "state b\"after\""]);
}

#[tokio::test]
async fn a_closed_log_takes_nothing_and_has_kept_all_that_waited() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    let record = vec![Record::Message(message(0, 0))];
    let waiting = storage.append(ShardId(0), record).await.unwrap();
    storage.close().await;
    waiting.await.unwrap();
    assert!(matches!(
        send(&storage, 0, 1).await,
        Err(AppendError::Closed)
    ));
    storage.close().await;
    assert_eq!(offsets(&open(&disk).await.0, 0, 0).await, [0]);
}

#[tokio::test]
async fn an_append_above_the_limit_is_refused_and_one_above_the_target_is_taken() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    let huge = Record::State(Bytes::from(vec![1; block::APPEND_BYTES_MAX]));
    let refused = storage.append(ShardId(0), vec![huge]).await;
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
    let large = Record::State(Bytes::from(vec![1; block::TARGET_BYTES + 1]));
    let taken = storage.append(ShardId(0), vec![large]).await.unwrap();
    let small = send(&storage, 0, 0).await.unwrap();
    assert!(taken.await.unwrap() < small);
    storage.close().await;
    assert_eq!(states(open(&disk).await.1)[0].0.len(), 2);
}

#[tokio::test]
async fn a_foreign_folder_and_changed_settings_are_refused() {
    let foreign = SimulatedDisk::holding(&BTreeMap::from([("thesis.txt".to_owned(), vec![1])]));
    assert!(matches!(
        try_open(&foreign).await,
        Err(OpenError::NotOurs { .. })
    ));
    let disk = SimulatedDisk::new();
    open(&disk).await.0.close().await;
    let more = Settings {
        shards: 8,
        ..settings()
    };
    assert!(matches!(
        open_with(&disk, more).await,
        Err(OpenError::FixedSetting {
            setting: "shards",
            stored: 4,
            asked: 8
        })
    ));
}

async fn send_to_0(storage: &Storage, offset: u64) {
    let filler = Envelope {
        topic: 9,
        ..message(0, offset)
    };
    let durable = storage
        .append(ShardId(0), vec![Record::Message(filler)])
        .await;
    durable.unwrap().await.unwrap();
}

/// Reads one offset: the message, or whether it is damaged.
async fn one(storage: &Storage, queue: u16, offset: u64) -> Result<Envelope, ReadError> {
    let limit = ReadLimit { messages: 1, ..ALL };
    let read = storage
        .read(TOPIC, QueueId(queue.into()), Offset(offset), limit)
        .await?;
    Ok(read.into_iter().next().expect("it is below the end"))
}

/// Queue 1 with messages stored at 0, 10, 20, ….
async fn send_at(storage: &Storage, offsets: Range<u64>) {
    for offset in offsets {
        let stored = Envelope {
            stored_at_ms: i64::try_from(offset).unwrap() * 10,
            ..message(1, offset)
        };
        let record = vec![Record::Message(stored)];
        let durable = storage.append(ShardId(1), record).await.unwrap();
        durable.await.unwrap();
    }
}
