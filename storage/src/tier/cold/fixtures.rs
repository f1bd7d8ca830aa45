//! A manifest and a file of the format as it was released, that every later version opens.
//!
//! They lie in `tests/fixtures` and are never written again: five messages of one queue, the last two with a body that
//! does not parse, beside typed columns of the declaration `id BIGINT, item VARCHAR, price DECIMAL(10, 2), at
//! TIMESTAMP, twice AS (id * 2), few SMALLINT`.

use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use futures::TryStreamExt as _;
use millpond_proto::message::{Offset, QueueId, TopicId};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use crate::disk::simulated::SimulatedDisk;
use crate::error::ReadError;
use crate::format::manifest::Manifest;
use crate::log::ReadLimit;
use crate::meta::MetaStore;
use crate::meta::embedded::EmbeddedMeta;
use crate::tier::cold::tests::term;
use crate::tier::cold::typed::{Reads, Typed};
use crate::tier::cold::{Cold, manifest_path, pointer_key};
use crate::tier::columns::ERROR;

const TOPIC: TopicId = TopicId(1);
const MANIFEST: &[u8] = include_bytes!("../../../tests/fixtures/v1/cold/manifest");
const DATA: &[u8] = include_bytes!("../../../tests/fixtures/v1/cold/data.parquet");
const BODIES: [&str; 5] = [
    r#"{"id":1,"item":"tea","price":2.50,"at":"2013-01-02T03:04:05.000Z","few":7}"#,
    r#"{"id":2,"item":"milk"}"#,
    r#"{"id":3,"item":"tea","price":10.00,"at":"2013-01-03T00:00:00.000Z","few":-1}"#,
    "not json",
    r#"{"id":5,"few":70000}"#,
];

async fn open(data: Bytes) -> Arc<Cold> {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let manifest = Manifest::decode(MANIFEST).unwrap();
    let file = Path::from(manifest.files[0].key.as_str());
    objects.put(&file, data.into()).await.unwrap();
    let pointer = format!("{:020}", manifest.version);
    let path = manifest_path(TOPIC, &pointer);
    objects.put(&path, MANIFEST.into()).await.unwrap();
    let disk = Arc::new(SimulatedDisk::default());
    let meta = EmbeddedMeta::open(disk, "facts").unwrap();
    meta.compare_and_swap(&pointer_key(TOPIC), None, Some(pointer.as_bytes()))
        .unwrap();
    Arc::new(Cold::open(objects, Arc::new(meta), term()).await.unwrap())
}

async fn bodies(cold: &Cold) -> Result<Vec<String>, ReadError> {
    let all = ReadLimit {
        messages: 9,
        bytes: 9999,
    };
    let messages = cold.read(TOPIC, QueueId(0), Offset(0), all).await?;
    let body = |body: Option<Bytes>| String::from_utf8(body.unwrap().to_vec()).unwrap();
    Ok(messages.into_iter().map(|m| body(m.body)).collect())
}

#[tokio::test]
async fn a_released_file_is_read_by_bodies_and_by_typed_columns() {
    let cold = open(Bytes::from_static(DATA)).await;
    assert_eq!(bodies(&cold).await.unwrap(), BODIES);
    let manifest = Manifest::decode(MANIFEST).unwrap();
    let table = manifest.table.unwrap();
    assert_eq!(table.snapshots, [2], "the store had moved: it began anew");
    assert_eq!(
        (manifest.files[0].added, table.columns),
        (1, manifest.files[0].columns)
    );
    let typed = Typed {
        declaration: table.columns,
        envelope: vec!["offset".to_owned()],
        columns: vec!["id".to_owned(), "few".to_owned(), "item".to_owned()],
        skip: None,
    };
    let range = Offset(0)..Offset(9);
    let mut reads = Reads::of(&["offset", "body"]);
    reads.typed = Some(typed);
    let batches = cold.scan(TOPIC, QueueId(0), range, &reads);
    let batches: Vec<_> = batches.try_collect().await.unwrap();
    let [batch] = batches.as_slice() else {
        panic!("five rows come at once");
    };
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let ids: Vec<_> = column("v_id").as_primitive::<Int64Type>().iter().collect();
    assert_eq!(ids, [Some(1), Some(2), Some(3), None, None]);
    let few: Vec<_> = column("v_few").as_primitive::<Int32Type>().iter().collect();
    assert_eq!(few, [Some(7), None, Some(-1), None, None]);
    let items: Vec<_> = column("v_item").as_string::<i32>().iter().collect();
    assert_eq!(items, [Some("tea"), Some("milk"), Some("tea"), None, None]);
    let why: Vec<_> = column(ERROR).as_string::<i32>().iter().skip(3).collect();
    let small = "field few: 70000 does not fit SMALLINT";
    assert_eq!(why, [Some("body is not a JSON object"), Some(small)]);
}

#[tokio::test]
async fn a_damaged_copy_of_it_is_damage() {
    let mut damaged = DATA.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let cold = open(damaged.into()).await;
    let error = bodies(&cold).await.unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
    let mut manifest = MANIFEST.to_vec();
    manifest[40] ^= 1;
    assert!(Manifest::decode(&manifest).is_err());
}
