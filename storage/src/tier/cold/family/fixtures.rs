//! A family of the format as it was released, whole and damaged, that every later version opens.
//!
//! It lies in `tests/fixtures/v3` and is never written again: one file with queues 0 and 1 of topic 5, queue 0 of topic 6, and
//! queue 0 of topic 7, which was deleted since. What queue 0 of topic 5 has below offset 1 is no more.

use bytes::Bytes;
use futures::TryStreamExt as _;

use super::*;
use crate::disk::simulated::SimulatedDisk;
use crate::error::ReadError;
use crate::format::manifest::MAGIC_FAMILY;
use crate::meta::MetaStore;
use crate::meta::embedded::EmbeddedMeta;
use crate::tier::cold::tests::{ALL, term};
use crate::tier::cold::typed::Reads;
use crate::tier::cold::{manifest_path, pointer_key};

const FAMILY: TopicId = TopicId(1 << 62 | 5);
const MANIFEST: &[u8] = include_bytes!("../../../../tests/fixtures/v3/family/manifest");
const DATA: &[u8] = include_bytes!("../../../../tests/fixtures/v3/family/data.parquet");

async fn open(data: Bytes) -> Arc<Cold> {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let manifest = Manifest::decode(MANIFEST).unwrap();
    let file = Path::from(manifest.files[0].key.as_str());
    objects.put(&file, data.into()).await.unwrap();
    let pointer = format!("{:020}", manifest.version);
    let path = manifest_path(FAMILY, &pointer);
    objects.put(&path, MANIFEST.into()).await.unwrap();
    let disk = Arc::new(SimulatedDisk::default());
    let meta = EmbeddedMeta::open(disk, "facts").unwrap();
    meta.compare_and_swap(&pointer_key(FAMILY), None, Some(pointer.as_bytes()))
        .unwrap();
    Arc::new(Cold::open(objects, Arc::new(meta), term()).await.unwrap())
}

/// Bodies from an offset on.
async fn read(cold: &Cold, topic: u64, queue: u32, from: u64) -> Result<Vec<String>, ReadError> {
    let read = cold.read(TopicId(topic), QueueId(queue), Offset(from), ALL);
    let bodies = read.await?.into_iter().filter_map(|message| message.body);
    Ok(bodies
        .map(|body| String::from_utf8(body.to_vec()).unwrap())
        .collect())
}

fn bodies(topic: u64, queue: u32, offsets: Range<u64>) -> Vec<String> {
    let body = |offset| format!("body {topic} {queue} {offset}");
    offsets.map(body).collect()
}

#[tokio::test]
async fn a_released_family_is_read_topic_by_topic() {
    assert_eq!(&MANIFEST[..8], MAGIC_FAMILY);
    let cold = open(Bytes::from_static(DATA)).await;
    assert_eq!(read(&cold, 5, 0, 1).await.unwrap(), bodies(5, 0, 1..4));
    assert_eq!(read(&cold, 5, 1, 0).await.unwrap(), bodies(5, 1, 0..2));
    assert_eq!(read(&cold, 6, 0, 2).await.unwrap(), bodies(6, 0, 2..3));
    let below = read(&cold, 5, 0, 0).await;
    assert!(matches!(below, Err(ReadError::Trimmed { .. })), "{below:?}");
    assert_eq!(read(&cold, 7, 0, 0).await.unwrap(), bodies(7, 0, 0..0));
    assert_eq!(cold.family_of(TopicId(6)), Some(FAMILY));
    assert_eq!(cold.family_of(TopicId(7)), None, "it was deleted");
    assert_eq!(cold.queues_of(TopicId(5)), [QueueId(0), QueueId(1)]);
    assert_eq!(cold.sizes(TopicId(5)).messages, 5);
    let all = Offset(0)..Offset(9);
    let rows = cold.scan(TopicId(6), QueueId(0), all, &Reads::of(&["offset", "body"]));
    let rows: Vec<_> = rows.try_collect().await.unwrap();
    assert_eq!(rows.iter().map(|rows| rows.num_rows()).sum::<usize>(), 3);
}

#[tokio::test]
async fn damaged_copies_of_it_are_damage_to_every_topic_and_nobody_elses_rows() {
    let mut damaged = DATA.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let cold = open(damaged.into()).await;
    for (topic, queue, from) in [(5, 0, 1), (5, 1, 0), (6, 0, 0)] {
        let error = read(&cold, topic, queue, from).await.unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
    }
    for bit in 0..MANIFEST.len() * 8 {
        let mut flipped = MANIFEST.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
    }
}
