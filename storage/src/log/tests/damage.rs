//! What damage costs: the record it hit, or a shard that says so, and never a wrong answer.

use super::resting::at_rest;
use super::*;
use crate::tier::cold::typed::Reads;

/// A WAL with messages and state changes of two shards, closed in order.
pub(super) async fn small_log() -> SimulatedDisk {
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

pub(super) fn wal_of_the_small_log(disk: &SimulatedDisk) -> String {
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
pub(super) fn bit_of(bytes: &[u8], text: &str) -> usize {
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
        .scan(
            TOPIC,
            QueueId(2),
            Offset(0)..Offset(9),
            &Reads::of(&["offset"]),
        )
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

#[tokio::test]
async fn a_queue_whose_hot_end_was_lost_with_a_gap_answers_damage_before_what_came_later() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for offset in 0..5 {
        if offset == 3 {
            storage.tier().await.unwrap();
        }
        send(&storage, 0, offset).await.unwrap();
    }
    // Its state was saved behind what is lost, so the shard stays open and its queue goes on.
    let snapshot = ShardSnapshot {
        shard: ShardId(0),
        position: state(&storage, 0, "behind").await,
        state: Bytes::from_static(b"saved"),
    };
    storage.checkpoint(vec![snapshot]).await.unwrap();
    storage.close().await;
    let path = wal_of_the_small_log(&disk);
    let bytes = &wal_files(&disk)[&path];
    let heads: Vec<usize> = (0..bytes.len() - 4)
        .filter(|&at| bytes[at..at + 4] == block::MAGIC)
        .collect();
    // The heads of the blocks of offsets 3 and 4, and their copies.
    for &head in &heads[6..10] {
        disk.flip_bit(&path, head * 8);
    }
    let (storage, recovered) = open(&disk).await;
    assert!(!recovered.damage.is_empty());
    assert!(recovered.shards[0].is_ok());
    send(&storage, 0, 5).await.unwrap();
    assert_eq!(offsets(&storage, 0, 5).await, [5]);
    assert!(is_damaged(&one(&storage, 0, 3).await, 3));
    assert!(is_damaged(&one(&storage, 0, 4).await, 4));
    assert_eq!(one(&storage, 0, 2).await.unwrap(), message(0, 2));
    storage.tier().await.unwrap();
    assert!(is_damaged(&one(&storage, 0, 3).await, 3));
    assert_eq!(one(&storage, 0, 5).await.unwrap(), message(0, 5));
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
    let before = disk.snapshot();
    let resting = at_rest(&disk).verify().await.unwrap();
    assert_eq!(resting.whole[3], found.whole[3]);
    assert!(resting.damage.is_empty());
    for (from, expected) in [(3, 3..10), (12, 12..20)] {
        let read = at_rest(&disk)
            .read(TOPIC, QueueId(1), Offset(from), 99)
            .await;
        let offsets: Vec<u64> = read.unwrap().unwrap().iter().map(|m| m.offset).collect();
        assert_eq!(offsets, expected.collect::<Vec<u64>>());
    }
    let seen = at_rest(&disk).project::<Seen>(ShardId(1)).unwrap().unwrap();
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
    let found = at_rest(&disk).verify().await.unwrap();
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
    let found = at_rest(&disk).verify().await.unwrap();
    assert_eq!(found.damage.len(), 2, "{:?}", found.damage);
}
