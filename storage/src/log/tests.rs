//! The log as its users see it, on a disk that crashes, tears and rots by seed.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::future::join_all;
use millpond_proto::chance::Seeded;
use millpond_proto::task::Runtimes;
use millpond_proto::time::SystemClock;

use super::*;
use crate::disk::simulated::SimulatedDisk;
use crate::tier::objects::DiskObjectStore;
use crate::wal::recovery::{self, Found};

mod counts;
mod rot;

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
    let (storage, recovered) = open(&disk.crash(&Seeded::new(1))).await;
    assert_eq!(recovered.damage, Vec::<String>::new());
    assert_eq!(offsets(&storage, 0, 0).await, seen, "what was seen stays");
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

/// A WAL with messages and state changes of two shards, closed in order.
async fn small_log() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for offset in 0..2 {
        send(&storage, 0, offset).await.unwrap();
        send(&storage, 2, offset).await.unwrap();
    }
    state(&storage, 0, "first").await;
    state(&storage, 2, "second").await;
    storage.close().await;
    disk
}

fn wal_of_the_small_log(disk: &SimulatedDisk) -> String {
    let files = wal_files(disk);
    let in_wal_0 = |path: &&String| path.starts_with("wal/0/");
    files.keys().find(in_wal_0).unwrap().clone()
}

/// Every bit at or near a byte that was written, and some of the zeros between.
fn bits_that_matter(bytes: &[u8]) -> Vec<usize> {
    let is_near = |at: usize| {
        let near = at.saturating_sub(16)..(at + 16).min(bytes.len());
        bytes[near].iter().any(|&byte| byte != 0)
    };
    let bits = (0..bytes.len() * 8).filter(|bit| is_near(bit / 8) || bit % 1009 == 0);
    bits.collect()
}

#[tokio::test]
async fn any_flipped_bit_costs_one_record_at_most_and_is_reported() {
    let disk = small_log().await;
    let path = wal_of_the_small_log(&disk);
    let files = wal_files(&disk);
    let read = |disk: &SimulatedDisk| {
        let mut payloads = Vec::new();
        let recovery = recovery::recover(disk, 0, |found| match found {
            Found::Record { payload, entry, .. } => payloads.push((*entry, payload)),
            Found::Gap { range, .. } => panic!("gap {range:?}"),
        });
        (payloads, recovery.unwrap())
    };
    let (whole, _) = read(&disk);
    assert_eq!(whole.len(), 6);
    for bit in bits_that_matter(&files[&path]) {
        let disk = SimulatedDisk::holding(&files);
        disk.flip_bit(&path, bit);
        let (found, recovery) = read(&disk);
        assert_eq!(found.len(), whole.len(), "bit {bit}");
        let differing = found.iter().zip(&whole).filter(|(a, b)| a != b);
        let lost: Vec<_> = differing.map(|(found, _)| found).collect();
        assert!(lost.len() <= 1, "bit {bit}");
        assert!(
            lost.iter().all(|lost| lost.1.is_none()),
            "bit {bit}: wrong bytes"
        );
        assert!(
            recovery.damage.len() >= lost.len(),
            "bit {bit}: not reported"
        );
        assert_eq!(recovery.torn_bytes, 0, "bit {bit}");
    }
}

/// The bit where the payload that holds `text` begins to differ.
fn bit_of(bytes: &[u8], text: &str) -> usize {
    let window = |window: &[u8]| window == text.as_bytes();
    bytes.windows(text.len()).position(window).unwrap() * 8
}

#[tokio::test]
async fn a_damaged_message_is_lost_alone_and_its_place_stays_taken() {
    let disk = small_log().await;
    let path = wal_of_the_small_log(&disk);
    disk.flip_bit(&path, bit_of(&wal_files(&disk)[&path], "body 2 0"));
    let (storage, recovered) = open(&disk).await;
    assert_eq!(recovered.damage.len(), 1);
    let seen = states(recovered);
    assert_eq!(seen[2].0[0], "2/0 lost");
    assert_eq!((seen[2].0.len(), seen[0].0.len()), (3, 3));
    let damaged = storage.read(TOPIC, QueueId(2), Offset(0), ALL).await;
    assert!(matches!(
        damaged,
        Err(ReadError::Damaged {
            offset: Offset(0),
            ..
        })
    ));
    assert_eq!(offsets(&storage, 2, 1).await, [1]);
    assert_eq!(offsets(&storage, 0, 0).await, [0, 1]);
    send(&storage, 2, 2).await.unwrap();
    let rows: Vec<_> = storage
        .scan(TOPIC, QueueId(2), Offset(0)..Offset(9), &["offset"])
        .collect()
        .await;
    assert!(rows.len() == 1 && rows[0].is_err());
}

#[tokio::test]
async fn a_damaged_state_change_closes_its_shard_and_no_other() {
    let disk = small_log().await;
    let path = wal_of_the_small_log(&disk);
    disk.flip_bit(&path, bit_of(&wal_files(&disk)[&path], "second"));
    for _ in 0..2 {
        let (storage, recovered) = open(&disk).await;
        let open: Vec<bool> = recovered.shards.iter().map(Result::is_ok).collect();
        assert_eq!(open, [true, true, false, true]);
        let snapshots = [0, 1, 3].map(|shard| ShardSnapshot {
            shard: ShardId(shard),
            position: Position(0),
            state: Bytes::new(),
        });
        storage.checkpoint(snapshots.to_vec()).await.unwrap();
        assert_eq!(
            offsets(&storage, 2, 0).await,
            [0, 1],
            "its messages can be read"
        );
        storage.close().await;
    }
}

#[tokio::test]
async fn records_that_can_not_be_found_close_the_shards_that_may_need_them() {
    let disk = small_log().await;
    let path = wal_of_the_small_log(&disk);
    let bytes = &wal_files(&disk)[&path];
    let heads: Vec<usize> = (0..bytes.len() - 4)
        .filter(|&at| bytes[at..at + 4] == block::MAGIC)
        .collect();
    // The head of the second block and its copy.
    disk.flip_bit(&path, heads[2] * 8);
    disk.flip_bit(&path, heads[3] * 8);
    for _ in 0..2 {
        let (storage, recovered) = open(&disk).await;
        assert!(!recovered.damage.is_empty());
        let open: Vec<bool> = recovered.shards.iter().map(Result::is_ok).collect();
        assert_eq!(open, [false, true, false, true], "the other WAL is whole");
        assert_eq!(offsets(&storage, 0, 0).await, [0, 1]);
        storage.close().await;
    }
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
        .scan(TOPIC, QueueId(1), range, &["offset", "body"])
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
async fn a_damaged_checkpoint_is_replaced_by_the_log_or_refused_but_never_guessed() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for offset in 0..30 {
        send(&storage, 0, offset).await.unwrap();
        send(&storage, 1, offset).await.unwrap();
    }
    let snapshot = |shard: u16, position| ShardSnapshot {
        shard: ShardId(shard),
        position,
        state: Bytes::from_static(b"snapshot"),
    };
    let start = (0..4).map(|shard| snapshot(shard, Position(0))).collect();
    storage.checkpoint(start).await.unwrap();
    let reaching_back = SimulatedDisk::holding(&disk.snapshot());
    storage.tier().await.unwrap();
    let mut snapshots = Vec::new();
    for shard in 0..4 {
        let position = storage.append(ShardId(shard), vec![]).await.unwrap();
        snapshots.push(snapshot(shard, position.await.unwrap()));
    }
    storage.checkpoint(snapshots).await.unwrap();
    storage.close().await;

    reaching_back.flip_bit("checkpoint/00000000000000000001", 3);
    let (_storage, recovered) = open(&reaching_back).await;
    assert_eq!(recovered.damage.len(), 1);
    assert_eq!(states(recovered)[0].0.len(), 30);

    disk.flip_bit("checkpoint/00000000000000000002", 3);
    assert!(matches!(
        try_open(&disk).await,
        Err(OpenError::Damaged { .. })
    ));
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

/// Reads one offset: the message, or whether it is damaged.
async fn one(storage: &Storage, queue: u16, offset: u64) -> Result<Envelope, ReadError> {
    let limit = ReadLimit { messages: 1, ..ALL };
    let read = storage
        .read(TOPIC, QueueId(queue.into()), Offset(offset), limit)
        .await?;
    Ok(read.into_iter().next().expect("it is below the end"))
}

fn is_damaged(read: &Result<Envelope, ReadError>, at: u64) -> bool {
    matches!(read, Err(ReadError::Damaged { offset, .. }) if offset.0 == at)
}

#[tokio::test]
async fn a_damaged_message_becomes_a_gap_and_its_queue_is_tiered_on() {
    let disk = small_log().await;
    let path = wal_of_the_small_log(&disk);
    // The first message of one queue and the last one of another.
    disk.flip_bit(&path, bit_of(&wal_files(&disk)[&path], "body 2 0"));
    disk.flip_bit(&path, bit_of(&wal_files(&disk)[&path], "body 0 1"));
    let (storage, _) = open(&disk).await;
    let tiered = storage.tier().await.unwrap();
    assert_eq!((tiered.messages, tiered.damaged), (2, 2));
    assert_eq!(storage.tier().await.unwrap(), Tiered::default());
    storage.close().await;
    let (storage, _) = open(&disk).await;
    for storage in [&storage] {
        assert_eq!(storage.sizes().hot_messages, 0);
        for queue in [QueueId(0), QueueId(2)] {
            let extent = storage.extent(TOPIC, queue).unwrap();
            assert_eq!((extent.first, extent.next), (Offset(0), Offset(2)));
        }
        assert!(is_damaged(&one(storage, 2, 0).await, 0));
        assert_eq!(one(storage, 2, 1).await.unwrap(), message(2, 1));
        assert_eq!(one(storage, 0, 0).await.unwrap(), message(0, 0));
        assert!(is_damaged(&one(storage, 0, 1).await, 1));
        let cold = storage.sizes_of(TOPIC).cold;
        assert_eq!((cold.messages, cold.lost, cold.files), (2, 2, 1));
    }
    send(&storage, 0, 2).await.unwrap();
    assert_eq!(one(&storage, 0, 2).await.unwrap(), message(0, 2));
    storage.tier().await.unwrap();
    assert!(is_damaged(&one(&storage, 0, 1).await, 1));
    assert_eq!(offsets(&storage, 0, 2).await, [2]);
    storage.compact(TOPIC, Compaction::default()).await.unwrap();
    assert!(is_damaged(&one(&storage, 0, 1).await, 1));
    assert_eq!(offsets(&storage, 0, 2).await, [2]);
    assert_eq!(storage.sizes_of(TOPIC).cold.files, 1);
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

fn first(storage: &Storage) -> u64 {
    storage.extent(TOPIC, QueueId(1)).unwrap().first.0
}

#[tokio::test]
async fn retention_by_time_raises_the_first_offset_and_no_restart_lowers_it() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for file in 0..3 {
        send_at(&storage, file * 10..(file + 1) * 10).await;
        storage.tier().await.unwrap();
    }
    send_at(&storage, 30..40).await;
    let keep = |stored_from_ms| Keep {
        stored_from_ms: Some(stored_from_ms),
        ..Keep::default()
    };
    assert_eq!(
        storage.retain(TOPIC, keep(90)).await.unwrap(),
        Trimmed::default()
    );
    let trimmed = storage.retain(TOPIC, keep(150)).await.unwrap();
    assert_eq!(
        (trimmed.messages, trimmed.files, first(&storage)),
        (10, 1, 10)
    );
    let read = one(&storage, 1, 9).await.unwrap_err();
    assert!(
        matches!(
            read,
            ReadError::Trimmed {
                first: Offset(10),
                ..
            }
        ),
        "{read}"
    );
    assert_eq!(one(&storage, 1, 10).await.unwrap().offset, 10);
    // The log is trimmed too, in the middle, once all files are old.
    let trimmed = storage.retain(TOPIC, keep(333)).await.unwrap();
    assert_eq!(
        (trimmed.messages, trimmed.files, first(&storage)),
        (24, 2, 34)
    );
    storage.close().await;
    let disk = disk.crash(&Seeded::new(1));
    let (storage, _) = open(&disk).await;
    assert_eq!(first(&storage), 34);
    assert_eq!(storage.sizes().hot_messages, 6);
    assert_eq!(one(&storage, 1, 34).await.unwrap().offset, 34);
    assert_eq!(storage.retain(TOPIC, keep(9999)).await.unwrap().messages, 6);
    let extent = storage.extent(TOPIC, QueueId(1)).unwrap();
    assert_eq!((extent.first.0, extent.next.0), (40, 40));
    storage.close().await;
    let (storage, _) = open(&disk).await;
    assert_eq!(storage.extent(TOPIC, QueueId(1)), Some(extent));
    send_at(&storage, 40..42).await;
    storage.tier().await.unwrap();
    assert_eq!(
        (first(&storage), one(&storage, 1, 41).await.unwrap().offset),
        (40, 41)
    );
}

#[tokio::test]
async fn a_queue_is_let_go_of_alone_and_its_file_when_nothing_in_it_is_kept() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for queue in 1..=3 {
        for offset in 0..4 {
            send(&storage, queue, offset).await.unwrap();
        }
        if queue == 2 {
            storage.tier().await.unwrap();
        }
    }
    let all_of = |queue| BTreeMap::from([(QueueId(queue), Offset(4))]);
    let files = || storage.sizes_of(TOPIC).cold.files;
    for queue in [1, 3] {
        storage.release(TOPIC, &all_of(queue)).await.unwrap();
        assert_eq!(files(), 1);
    }
    assert_eq!(offsets(&storage, 2, 0).await, [0, 1, 2, 3]);
    storage.release(TOPIC, &all_of(2)).await.unwrap();
    storage.release(TOPIC, &all_of(2)).await.unwrap();
    assert_eq!(files(), 0);
    storage.close().await;
    // The log still has the messages; nobody sees them again, and the queues go on.
    let (storage, _) = open(&disk.crash(&Seeded::new(1))).await;
    for queue in 1..=3 {
        let read = storage.read(TOPIC, QueueId(queue), Offset(3), ALL).await;
        assert!(matches!(read, Err(ReadError::Trimmed { .. })), "{read:?}");
    }
    send(&storage, 2, 4).await.unwrap();
    assert_eq!(offsets(&storage, 2, 4).await, [4]);
}

#[tokio::test]
async fn retention_by_bytes_keeps_the_newest() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for file in 0..3 {
        send_at(&storage, file * 10..(file + 1) * 10).await;
        storage.tier().await.unwrap();
    }
    send_at(&storage, 30..40).await;
    let sizes = storage.sizes_of(TOPIC);
    let all = sizes.hot_bytes + sizes.cold.bytes;
    let keep = |bytes| Keep {
        bytes_max: Some(bytes),
        ..Keep::default()
    };
    assert_eq!(
        storage.retain(TOPIC, keep(all)).await.unwrap(),
        Trimmed::default()
    );
    storage.retain(TOPIC, keep(all - 1)).await.unwrap();
    assert_eq!(first(&storage), 10);
    storage.retain(TOPIC, keep(sizes.hot_bytes)).await.unwrap();
    assert_eq!(first(&storage), 30);
    storage
        .retain(TOPIC, keep(sizes.hot_bytes / 2))
        .await
        .unwrap();
    assert_eq!(first(&storage), 35);
    assert!(storage.sizes_of(TOPIC).hot_bytes <= sizes.hot_bytes / 2);
    storage.retain(TOPIC, keep(0)).await.unwrap();
    let extent = storage.extent(TOPIC, QueueId(1)).unwrap();
    assert_eq!((extent.first.0, extent.next.0), (40, 40));
}

#[tokio::test]
async fn a_deleted_topic_stays_deleted_whatever_the_log_remembers() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    send_at(&storage, 0..10).await;
    storage.tier().await.unwrap();
    send_at(&storage, 10..20).await;
    storage.forget(TOPIC).await.unwrap();
    // A send that was on its way when the topic was deleted.
    send_at(&storage, 20..21).await;
    assert_eq!(storage.tier().await.unwrap(), Tiered::default());
    assert_eq!(storage.topics(), []);
    let anew = TopicId(8);
    let other = Envelope {
        topic: 8,
        ..message(1, 0)
    };
    let durable = storage
        .append(ShardId(1), vec![Record::Message(other.clone())])
        .await;
    durable.unwrap().await.unwrap();
    storage.close().await;
    let (storage, _) = open(&disk).await;
    assert_eq!(storage.topics(), [anew]);
    assert_eq!(storage.tier().await.unwrap().messages, 1);
    assert_eq!(
        storage
            .read(anew, QueueId(1), Offset(0), ALL)
            .await
            .unwrap(),
        [other]
    );
    let of_old = |disk: &SimulatedDisk| {
        let paths = disk.snapshot().into_keys();
        paths
            .filter(|path| path.starts_with("objects/topics/7/"))
            .count()
    };
    assert_eq!(of_old(&disk), 0);
    // Once the log holds nothing of it, nothing is kept to remember it by.
    let gone = |storage: &Storage| storage.meta().keys("topic/7/").unwrap().len();
    for round in 0..3 {
        assert!(round > 0 || gone(&storage) == 1);
        for offset in round * 30..(round + 1) * 30 {
            let filler = Envelope {
                topic: 9,
                ..message(1, offset)
            };
            let durable = storage
                .append(ShardId(1), vec![Record::Message(filler)])
                .await;
            durable.unwrap().await.unwrap();
            send_to_0(&storage, offset).await;
        }
        storage.tier().await.unwrap();
        let mut snapshots = Vec::new();
        for shard in (0..4).map(ShardId) {
            let position = storage.append(shard, vec![]).await.unwrap().await.unwrap();
            let state = Bytes::new();
            snapshots.push(ShardSnapshot {
                shard,
                position,
                state,
            });
        }
        storage.checkpoint(snapshots).await.unwrap();
    }
    assert_eq!(gone(&storage), 0);
}

#[tokio::test]
async fn a_check_says_what_is_whole_and_what_is_damaged_with_and_without_a_server() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    send_at(&storage, 0..10).await;
    storage.tier().await.unwrap();
    send_at(&storage, 10..20).await;
    let found = storage.verify().await.unwrap();
    assert_eq!((&found.damage[..], &found.notes[..]), (&[][..], &[][..]));
    assert!(found.whole[1].starts_with("log 0: "), "{:?}", found.whole);
    assert!(
        found.whole[3].contains("1 files with 10 messages"),
        "{:?}",
        found.whole
    );
    storage.close().await;
    let folder = |disk: &SimulatedDisk| {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let objects = Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects"));
        folder::Folder::open(disk, objects).unwrap()
    };
    let before = disk.snapshot();
    let at_rest = folder(&disk).verify().await.unwrap();
    assert_eq!(at_rest.whole[3], found.whole[3]);
    assert!(at_rest.damage.is_empty());
    for (from, expected) in [(3, 3..10), (12, 12..20)] {
        let read = folder(&disk)
            .read(TOPIC, QueueId(1), Offset(from), 99)
            .await;
        let offsets: Vec<u64> = read.unwrap().unwrap().iter().map(|m| m.offset).collect();
        assert_eq!(offsets, expected.collect::<Vec<u64>>());
    }
    let seen = folder(&disk).project::<Seen>(ShardId(1)).unwrap().unwrap();
    assert_eq!(seen.0.len(), 20);
    assert!(before == disk.snapshot(), "looking changes nothing");

    let files: Vec<String> = before.into_keys().collect();
    let file = |part: &str| {
        files
            .iter()
            .find(|path| path.contains(part))
            .unwrap()
            .clone()
    };
    disk.flip_bit(&file("/data/"), 800);
    let found = folder(&disk).verify().await.unwrap();
    assert_eq!(found.damage.len(), 1, "{:?}", found.damage);
    assert!(
        found.damage[0].contains("offsets 0 to 9 of queue 1"),
        "{:?}",
        found.damage
    );
    disk.flip_bit(&file("/manifest/"), 400);
    let path = wal_files(&disk).into_keys().find(|path| {
        let bytes = &wal_files(&disk)[path];
        bytes.windows(9).any(|window| window == b"body 1 15")
    });
    let path = path.unwrap();
    disk.flip_bit(&path, bit_of(&wal_files(&disk)[&path], "body 1 15"));
    let found = folder(&disk).verify().await.unwrap();
    assert_eq!(found.damage.len(), 2, "{:?}", found.damage);
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
