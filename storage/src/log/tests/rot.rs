//! A flipped bit anywhere in a data folder: found, contained, and no reason to lose anything else.
//!
//! The decoders are tested bit by bit beside their code (segment, checkpoint, manifest, Parquet, identity). Here a
//! whole folder is opened with one bit flipped, twice, because a folder that opens differently the second time is
//! on its way to a crash loop.

use super::*;

const BITS_PER_FILE: usize = 40;
const QUEUE: u16 = 1;
const COLD: u64 = 12;
const ALL_OFFSETS: u64 = 20;

/// A folder with something in each kind of file.
async fn folder() -> BTreeMap<String, Vec<u8>> {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for offset in 0..COLD {
        send(&storage, QUEUE, offset).await.unwrap();
        state(&storage, 2, "a change").await;
    }
    storage.tier().await.unwrap();
    let mut snapshots = Vec::new();
    for shard in (0..4).map(ShardId) {
        let position = storage.append(shard, vec![]).await.unwrap().await.unwrap();
        let state = Bytes::from_static(b"known");
        snapshots.push(ShardSnapshot {
            shard,
            position,
            state,
        });
    }
    storage.checkpoint(snapshots).await.unwrap();
    for offset in COLD..ALL_OFFSETS {
        send(&storage, QUEUE, offset).await.unwrap();
    }
    storage.close().await;
    disk.snapshot()
}

/// What a folder says that opens.
#[derive(Debug)]
struct Seen {
    /// Offsets that are damaged.
    damaged: Vec<u64>,
    /// How many shards are closed.
    closed: usize,
    /// Whether the opening or a look at everything tells of damage.
    is_told: bool,
}

/// What a folder says, or why it does not open.
async fn inspect(disk: &SimulatedDisk) -> Result<Seen, String> {
    let (storage, recovered) = try_open(disk).await.map_err(|error| format!("{error:?}"))?;
    let closed = recovered
        .shards
        .iter()
        .filter(|shard| shard.is_err())
        .count();
    assert!(recovered.term > Term(1), "a term is never taken twice");
    let mut damaged = Vec::new();
    let extent = storage.extent(TOPIC, QueueId(QUEUE.into()));
    let next = extent.map_or(0, |extent| extent.next.0);
    assert!(next <= ALL_OFFSETS, "nothing is invented");
    for offset in 0..ALL_OFFSETS {
        match one(&storage, QUEUE, offset).await {
            Ok(found) => assert_eq!(found, message(QUEUE, offset), "the very bytes"),
            Err(ReadError::Damaged { .. }) => damaged.push(offset),
            Err(error) => panic!("offset {offset}: {error}"),
        }
    }
    let found = storage.verify().await.unwrap();
    let tells = [&recovered.damage, &found.damage, &found.notes];
    let is_told = tells.iter().any(|these| !these.is_empty());
    storage.close().await;
    Ok(Seen {
        damaged,
        closed,
        is_told,
    })
}

#[tokio::test]
async fn a_flipped_bit_of_any_file_is_found_contained_and_opens_the_same_twice() {
    let files = folder().await;
    let chance = Seeded::new(1);
    for (path, bytes) in &files {
        // What a spare holds counts for nothing, and the lock holds nothing.
        let counts = (0..bytes.len()).filter(|&at| bytes[at] != 0).count();
        if counts == 0 || path.ends_with(".spare") {
            continue;
        }
        for _ in 0..BITS_PER_FILE {
            let bit = loop {
                let bit = usize::try_from(chance.below(bytes.len() as u64 * 8)).unwrap();
                // Zeros far from everything are room for later.
                let near = bit / 8..(bit / 8 + 8).min(bytes.len());
                if bytes[near].iter().any(|&byte| byte != 0) {
                    break bit;
                }
            };
            let disk = SimulatedDisk::holding(&files);
            disk.flip_bit(path, bit);
            let first = inspect(&disk).await;
            let again = inspect(&disk).await;
            let place = format!("{path} bit {bit}: {first:?}");
            assert_eq!(first.is_ok(), again.is_ok(), "{place}, then {again:?}");
            let Ok(Seen {
                damaged,
                closed,
                is_told,
            }) = first
            else {
                let is_needed = ["MILLPOND", "meta/", "checkpoint/", "manifest/"];
                assert!(is_needed.iter().any(|part| path.contains(part)), "{place}");
                continue;
            };
            let most = match path {
                path if path.starts_with("wal/") => 1,
                path if path.contains("/data/") => usize::try_from(COLD).unwrap(),
                _ => 0,
            };
            assert!(damaged.len() <= most, "{place}: {damaged:?}");
            assert!(closed <= 1, "{place}: {closed} shards are closed");
            // What nothing reads may lie: pages that the metadata store does not use, and room of the log that holds no record.
            let may_be_unread = path.starts_with("meta/") || path.starts_with("wal/");
            let is_found = is_told || !damaged.is_empty() || closed > 0;
            assert!(is_found || may_be_unread, "{place}: nothing tells of it");
        }
    }
}
