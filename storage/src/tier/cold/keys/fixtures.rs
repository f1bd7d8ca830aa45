//! A compacted topic of the format as it was released, whole and damaged, that every later version opens.
//!
//! It lies in `tests/fixtures/v2` and is never written again: one queue whose offsets 0 to 4 were superseded but for 2, in a
//! sparse run of one file and a hole, and whose offsets 5 to 7 lie in another file; 7 is a tombstone.

use bytes::Bytes;
use millpond_proto::message::{Offset, QueueId};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::*;
use crate::disk::simulated::SimulatedDisk;
use crate::error::ReadError;
use crate::format::manifest::{MAGIC_SPARSE, Manifest};
use crate::log::ReadLimit;
use crate::meta::MetaStore;
use crate::meta::embedded::EmbeddedMeta;
use crate::tier::cold::tests::term;
use crate::tier::cold::{manifest_path, pointer_key};

const TOPIC: TopicId = TopicId(1);
const MANIFEST: &[u8] = include_bytes!("../../../../tests/fixtures/v2/cold/manifest");
/// In the order of the manifest.
const FILES: [&[u8]; 2] = [
    include_bytes!("../../../../tests/fixtures/v2/cold/before.parquet"),
    include_bytes!("../../../../tests/fixtures/v2/cold/behind.parquet"),
];

async fn open(files: [Bytes; 2]) -> Cold {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let manifest = Manifest::decode(MANIFEST).unwrap();
    for (file, bytes) in manifest.files.iter().zip(files) {
        let path = Path::from(file.key.as_str());
        objects.put(&path, bytes.into()).await.unwrap();
    }
    let pointer = format!("{:020}", manifest.version);
    let path = manifest_path(TOPIC, &pointer);
    objects.put(&path, MANIFEST.into()).await.unwrap();
    let disk = Arc::new(SimulatedDisk::default());
    let meta = EmbeddedMeta::open(disk, "facts").unwrap();
    meta.compare_and_swap(&pointer_key(TOPIC), None, Some(pointer.as_bytes()))
        .unwrap();
    Cold::open(objects, Arc::new(meta), term()).await.unwrap()
}

async fn read(cold: &Cold, from: u64) -> Result<Vec<(u64, Option<Bytes>)>, ReadError> {
    let all = ReadLimit {
        messages: 9,
        bytes: 9999,
    };
    let messages = cold.read(TOPIC, QueueId(0), Offset(from), all).await?;
    let messages = messages.into_iter();
    Ok(messages.map(|m| (m.offset, m.body)).collect())
}

#[tokio::test]
async fn a_released_compacted_topic_is_read_over_its_holes() {
    assert_eq!(&MANIFEST[..8], MAGIC_SPARSE);
    let cold = open(FILES.map(Bytes::from_static)).await;
    let body = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let kept = [(2, body("d0")), (5, body("a2")), (6, body("b2")), (7, None)];
    for from in 0..3 {
        assert_eq!(read(&cold, from).await.unwrap(), kept);
    }
    for from in 3..6 {
        assert_eq!(read(&cold, from).await.unwrap(), kept[1..]);
    }
    let missing = cold.missing(TOPIC, QueueId(0), 0..8).await.unwrap();
    assert_eq!((missing, cold.sizes(TOPIC).superseded), (4, 4));
}

#[tokio::test]
async fn damaged_copies_of_it_are_damage_and_no_holes() {
    let mut damaged = FILES[0].to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let cold = open([damaged.into(), Bytes::from_static(FILES[1])]).await;
    let error = read(&cold, 0).await.unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
    assert_eq!(
        read(&cold, 3).await.unwrap().len(),
        3,
        "its neighbour is whole"
    );
    for bit in 0..MANIFEST.len() * 8 {
        let mut flipped = MANIFEST.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
    }
}
