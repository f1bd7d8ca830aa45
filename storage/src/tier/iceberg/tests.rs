use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BinaryArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use arrow::error::ArrowError;
use bytes::Bytes;
use futures::TryStreamExt as _;
use iceberg::io::FileIO;
use iceberg::spec::{FormatVersion, ManifestList, ManifestStatus, TableMetadata};
use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::message::{Offset, QueueId, TopicId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use crate::disk::Disk;
use crate::disk::simulated::SimulatedDisk;
use crate::format::envelope::Envelope;
use crate::format::manifest::Manifest;
use crate::meta::MetaStore;
use crate::meta::embedded::EmbeddedMeta;
use crate::tier::cold::Cold;
use crate::tier::cold::compaction::Compaction;
use crate::tier::cold::tests::{Handle, term};
use crate::tier::cold::typed::{Reads, Skip, Typed};
use crate::tier::columns::{Column, Columns, ERROR, Projected, Table, Tables};
use crate::tier::iceberg::{SNAPSHOTS_MAX, metadata_path};
use crate::tier::objects::DiskObjectStore;

pub(crate) const TOPIC: TopicId = TopicId(7);
const LOCATION: &str = "file:///data/objects";
const DAY_MS: i64 = 86_400_000;

/// Bodies that are numbers, as one column; others do not parse.
#[derive(Debug)]
struct Numbers {
    columns: Vec<Column>,
}

impl Columns for Numbers {
    fn id(&self) -> u64 {
        self.columns.len() as u64
    }

    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn project(&self, bodies: &BinaryArray) -> Result<Projected, ArrowError> {
        let read = |body: &[u8]| std::str::from_utf8(body).ok()?.parse::<i64>().ok();
        let numbers: Int64Array = bodies.iter().map(|body| body.and_then(read)).collect();
        let bad = bodies.iter().enumerate();
        let bad = bad.filter(|(_, body)| body.is_some_and(|body| read(body).is_none()));
        let errors = bad
            .map(|(row, _)| (row, "not a number".to_owned()))
            .collect();
        let numbers: ArrayRef = Arc::new(numbers);
        Ok(Projected {
            columns: self.columns.iter().map(|_| Arc::clone(&numbers)).collect(),
            errors,
        })
    }
}

#[derive(Debug)]
struct OneTable(usize);

impl Tables for OneTable {
    fn revision(&self) -> u64 {
        1
    }

    fn table(&self, topic: TopicId) -> Option<Table> {
        assert_eq!(topic, TOPIC);
        let names = ["n", "_queue"];
        let columns = names.iter().zip(0_u32..).take(self.0);
        let columns: Vec<Column> = columns
            .map(|(name, place)| Column {
                place,
                name: (*name).to_owned(),
                data_type: DataType::Int64,
            })
            .collect();
        Some(Table {
            name: "numbers".to_owned(),
            columns: (!columns.is_empty())
                .then(|| Arc::new(Numbers { columns }) as Arc<dyn Columns>),
        })
    }
}

pub(crate) async fn open(disk: &Arc<SimulatedDisk>, columns: usize) -> Arc<Cold> {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    let objects = Arc::new(DiskObjectStore::new(Arc::clone(&disk), "cold"));
    let meta: Arc<dyn MetaStore> = Arc::new(EmbeddedMeta::open(disk, "facts").unwrap());
    let cold = Arc::new(Cold::open(objects, meta, term()).await.unwrap());
    cold.set_tables(Some(LOCATION), Arc::new(OneTable(columns)));
    cold
}

pub(crate) fn objects(disk: &Arc<SimulatedDisk>) -> Arc<dyn ObjectStore> {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    Arc::new(DiskObjectStore::new(disk, "cold"))
}

fn message(offset: u64, day: i64, body: &str) -> Envelope {
    Envelope {
        topic: TOPIC.0,
        offset,
        stored_at_ms: day * DAY_MS + i64::try_from(offset).unwrap(),
        body: Some(body.to_owned().into()),
        ..Envelope::default()
    }
}

pub(crate) fn numbers(offsets: std::ops::Range<u64>, day: i64) -> Vec<Envelope> {
    offsets
        .map(|at| message(at, day, &at.to_string()))
        .collect()
}

/// Follows the table as an outside reader would: metadata, list, manifests; file paths and their rows.
pub(crate) async fn files(
    cold: &Cold,
    disk: &Arc<SimulatedDisk>,
) -> (TableMetadata, Vec<(String, u64)>) {
    let table = cold.table_metadata(TOPIC).await.unwrap().unwrap();
    let metadata = metadata_of(table.json).await;
    let snapshot = metadata.current_snapshot().unwrap();
    let (files, _) = files_of(snapshot.manifest_list(), disk).await;
    (metadata, files)
}

pub(crate) async fn metadata_of(json: Bytes) -> TableMetadata {
    let memory = FileIO::new_with_memory();
    memory.new_output("/m").unwrap().write(json).await.unwrap();
    TableMetadata::read_from(&memory, "/m").await.unwrap()
}

/// What a snapshot shows, and how many entries each of its manifests has. Everything that it names is there.
pub(crate) async fn files_of(
    list: &str,
    disk: &Arc<SimulatedDisk>,
) -> (Vec<(String, u64)>, Vec<(String, usize)>) {
    let get = async |url: &str| {
        let key = url.strip_prefix("file:///data/objects/").unwrap();
        let object = objects(disk).get(&Path::from(key)).await.unwrap();
        object.bytes().await.unwrap()
    };
    let list = ManifestList::parse_with_version(&get(list).await, FormatVersion::V2).unwrap();
    let (mut files, mut manifests) = (Vec::new(), Vec::new());
    for manifest in list.entries() {
        let bytes = get(&manifest.manifest_path).await;
        assert_eq!(
            i64::try_from(bytes.len()).unwrap(),
            manifest.manifest_length
        );
        let parsed = iceberg::spec::Manifest::parse_avro(&bytes).unwrap();
        manifests.push((manifest.manifest_path.clone(), parsed.entries().len()));
        for entry in parsed
            .entries()
            .iter()
            .filter(|e| e.status() != ManifestStatus::Deleted)
        {
            files.push((entry.file_path().to_owned(), entry.record_count()));
            get(entry.file_path()).await;
        }
    }
    files.sort();
    (files, manifests)
}

async fn trim(cold: &Cold, files: usize) {
    let ages = cold.ages(TOPIC);
    let oldest = ages.get(..files).unwrap_or(&ages);
    cold.trim(TOPIC, oldest, &[].into()).await.unwrap();
}

#[tokio::test]
async fn a_table_follows_moving_merging_and_letting_go() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk, 1).await;
    cold.write(TOPIC, &numbers(0..10, 3), &[]).await.unwrap();
    cold.write(
        TOPIC,
        &[numbers(10..20, 3), numbers(20..25, 4)].concat(),
        &[],
    )
    .await
    .unwrap();
    let (metadata, found) = files(&cold, &disk).await;
    assert_eq!(metadata.location(), "file:///data/objects/topics/7");
    assert_eq!(metadata.snapshots().count(), 2);
    let rows: Vec<u64> = found.iter().map(|(_, rows)| *rows).collect();
    assert_eq!(rows, [10, 10, 5], "a file for each day");
    let schema = metadata.current_schema();
    let id = |name: &str| schema.field_id_by_name(name);
    assert_eq!((id("n"), id("_decode_error")), (Some(1001), Some(1000)));
    assert_eq!((id("_offset"), id("_body")), (Some(3), Some(14)));
    let hint = objects(&disk)
        .get(&Path::from("topics/7/metadata/version-hint.text"))
        .await;
    let hint = hint.unwrap().bytes().await.unwrap();
    assert_eq!(hint, "2");

    cold.compact(TOPIC, Compaction::default()).await.unwrap();
    let (metadata, found) = files(&cold, &disk).await;
    let rows: Vec<u64> = found.iter().map(|(_, rows)| *rows).collect();
    assert_eq!(rows, [5, 20], "days stay apart");
    assert_eq!(
        metadata.snapshots().count(),
        1,
        "the others name files that are gone"
    );

    trim(&cold, 1).await;
    let (_, found) = files(&cold, &disk).await;
    assert_eq!(found.iter().map(|(_, rows)| rows).sum::<u64>(), 5);
    assert_eq!(cold.sweep().await.unwrap(), 0, "nothing is left behind");
}

#[tokio::test]
async fn columns_that_are_added_show_and_old_files_stay() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk, 0).await;
    cold.write(TOPIC, &numbers(0..10, 3), &[]).await.unwrap();
    let (metadata, _) = files(&cold, &disk).await;
    let uuid = metadata.uuid();
    drop(cold);
    let cold = open(&disk, 2).await;
    cold.show_tables().await.unwrap();
    let (metadata, found) = files(&cold, &disk).await;
    assert_eq!((found.len(), metadata.uuid()), (1, uuid));
    let schema = metadata.current_schema();
    assert_eq!(schema.field_id_by_name("n"), Some(1001));
    assert_eq!(
        schema.field_id_by_name("v__queue"),
        Some(1002),
        "a name of ours is taken"
    );
    assert_eq!(schema.field_id_by_name("_queue"), Some(2));
    cold.write(TOPIC, &numbers(10..12, 3), &[]).await.unwrap();
    cold.compact(TOPIC, Compaction::default()).await.unwrap();
    let (_, found) = files(&cold, &disk).await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        typed_rows(&cold, 2, None).await,
        (0..12).map(Some).collect::<Vec<_>>()
    );
}

async fn typed_rows(
    cold: &Arc<Cold>,
    declaration: u64,
    skip: Option<Arc<dyn Skip>>,
) -> Vec<Option<i64>> {
    let typed = Typed {
        declaration,
        envelope: vec!["offset".to_owned()],
        columns: vec!["n".to_owned()],
        skip,
    };
    let range = Offset(0)..Offset(u64::MAX);
    let mut reads = Reads::of(&["offset", "body"]);
    reads.typed = Some(typed);
    let batches = cold.scan(TOPIC, QueueId(0), range, &reads);
    let batches: Vec<_> = batches.try_collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in batches {
        match batch.column_by_name(ERROR) {
            Some(_) => rows.extend(
                batch
                    .column_by_name("v_n")
                    .unwrap()
                    .as_primitive::<Int64Type>(),
            ),
            None => rows.extend((0..batch.num_rows()).map(|_| None)),
        }
    }
    rows
}

#[derive(Debug)]
struct All;

impl Skip for All {
    fn skipped(&self, footer: &ArrowReaderMetadata) -> Vec<bool> {
        vec![true; footer.metadata().num_row_groups()]
    }
}

#[tokio::test]
async fn typed_columns_are_read_where_they_are_and_bodies_elsewhere() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk, 1).await;
    cold.write(TOPIC, &numbers(0..3, 3), &[]).await.unwrap();
    let bad = [message(3, 3, "x"), message(4, 3, "4")];
    cold.write(TOPIC, &bad, &[]).await.unwrap();
    let all = [Some(0), Some(1), Some(2), None, Some(4)];
    assert_eq!(typed_rows(&cold, 1, None).await, all);
    assert_eq!(
        typed_rows(&cold, 9, None).await,
        [None; 5],
        "another declaration"
    );
    // Only where every body parses may rows be passed over: the others have to be told of.
    assert_eq!(
        typed_rows(&cold, 1, Some(Arc::new(All))).await,
        [None, Some(4)]
    );
    let whole = crate::log::ReadLimit {
        messages: 9,
        bytes: 999,
    };
    let read = cold
        .read(TOPIC, QueueId(0), Offset(0), whole)
        .await
        .unwrap();
    assert_eq!(
        read,
        [numbers(0..3, 3), bad.to_vec()].concat(),
        "bodies stay as they came"
    );
}

#[tokio::test]
async fn a_hint_that_a_crash_left_behind_is_made_up_for() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk, 1).await;
    cold.write(TOPIC, &numbers(0..3, 3), &[]).await.unwrap();
    cold.write(TOPIC, &numbers(3..5, 3), &[]).await.unwrap();
    drop(cold);
    let hint = Path::from("topics/7/metadata/version-hint.text");
    objects(&disk).put(&hint, "1".into()).await.unwrap();
    let cold = open(&disk, 1).await;
    cold.show_tables().await.unwrap();
    let found = objects(&disk)
        .get(&hint)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(found, "2");
    let path = metadata_path(TOPIC, 2);
    objects(&disk).get(&path).await.unwrap();
    cold.forget(TOPIC).await.unwrap();
    let left: Vec<_> = objects(&disk).list(None).try_collect().await.unwrap();
    assert_eq!(left, []);
}

#[tokio::test]
async fn a_crash_anywhere_leaves_a_table_that_shows_what_the_manifest_names() {
    for (dies_at, happens) in (0..14).flat_map(|at| [(at, false), (at, true)]) {
        let disk = Arc::new(SimulatedDisk::default());
        let cold = open(&disk, 1).await;
        for part in 0..3 {
            cold.write(TOPIC, &numbers(part * 4..part * 4 + 4, 3), &[])
                .await
                .unwrap();
        }
        drop(cold);
        let dying = Handle::over(&disk, dies_at, happens);
        let cold = Cold::open(Arc::new(dying.clone()), Arc::new(dying.clone()), term())
            .await
            .unwrap();
        cold.set_tables(Some(LOCATION), Arc::new(OneTable(1)));
        // Whether it was done is found out below.
        let _ = cold.write(TOPIC, &numbers(12..14, 4), &[]).await;
        let _ = cold.compact(TOPIC, Compaction::default()).await;
        let disk = Arc::new(disk.crash(&Seeded::new(dies_at as u64)));
        drop(cold);
        drop(dying);

        let cold = open(&disk, 1).await;
        let check = async || {
            let (metadata, found) = files(&cold, &disk).await;
            let kept = cold.sizes(TOPIC);
            let rows: u64 = found.iter().map(|(_, rows)| rows).sum();
            let at = format!("died at {dies_at}, {happens}");
            assert_eq!(
                (found.len() as u64, rows),
                (kept.files, kept.messages),
                "{at}"
            );
            metadata.current_snapshot_id().unwrap()
        };
        check().await;
        cold.sweep().await.unwrap();
        cold.show_tables().await.unwrap();
        let shown = check().await;
        let hint = Path::from("topics/7/metadata/version-hint.text");
        let hint = objects(&disk)
            .get(&hint)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert_eq!(hint, shown.to_string());
        assert_eq!(cold.sweep().await.unwrap(), 0);
        cold.write(TOPIC, &numbers(12..16, 4), &[]).await.unwrap();
        cold.compact(TOPIC, Compaction::default()).await.unwrap();
        check().await;
        assert_eq!(cold.sizes(TOPIC).messages, 16);
    }
}

#[tokio::test]
async fn a_commit_writes_what_changed_and_a_snapshot_has_few_manifests() {
    const COMMITS: u64 = 40;
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk, 0).await;
    let (mut written, mut known) = (0, HashSet::new());
    for commit in 0..COMMITS {
        cold.write(TOPIC, &numbers(commit * 2..commit * 2 + 2, 3), &[])
            .await
            .unwrap();
        let (metadata, found) = files(&cold, &disk).await;
        assert_eq!(found.len() as u64, commit + 1);
        let list = metadata.current_snapshot().unwrap().manifest_list();
        let (_, manifests) = files_of(list, &disk).await;
        assert!(manifests.len() <= 7, "{} manifests", manifests.len());
        let new = manifests
            .into_iter()
            .filter(|(path, _)| known.insert(path.clone()));
        written += new.map(|(_, entries)| entries).sum::<usize>();
    }
    // Listing all anew would be 820.
    assert!(written < 250, "{written} entries were written");
    // Every snapshot that the metadata still has can be read, and shows what there was then.
    let (metadata, _) = files(&cold, &disk).await;
    assert_eq!(metadata.snapshots().count(), SNAPSHOTS_MAX);
    for snapshot in metadata.snapshots() {
        let (found, _) = files_of(snapshot.manifest_list(), &disk).await;
        assert_eq!(found.len() as i64, snapshot.snapshot_id());
    }
    assert_eq!(cold.sweep().await.unwrap(), 0, "nothing is left behind");
    trim(&cold, 3).await;
    let (_, found) = files(&cold, &disk).await;
    assert_eq!(found.len() as u64, COMMITS - 3);
    cold.compact(TOPIC, Compaction::default()).await.unwrap();
    let (_, found) = files(&cold, &disk).await;
    let rows: u64 = found.iter().map(|(_, rows)| rows).sum();
    assert_eq!((found.len(), rows), (1, 2 * (COMMITS - 3)));
    assert_eq!(cold.sweep().await.unwrap(), 0, "nothing is left behind");
}

#[tokio::test]
async fn whatever_is_done_the_table_shows_the_files_of_the_manifest() {
    for seed in 0..12 {
        let chance = Seeded::new(seed);
        let disk = Arc::new(SimulatedDisk::default());
        let mut cold = open(&disk, 1).await;
        let mut next = 0;
        for _ in 0..14 {
            match chance.next_u64() % 6 {
                0 => {
                    let how = Compaction {
                        files_min: 3,
                        ..Compaction::default()
                    };
                    cold.compact(TOPIC, how).await.unwrap();
                }
                1 => trim(&cold, 1).await,
                2 => {
                    drop(cold);
                    cold = open(&disk, (chance.next_u64() % 2) as usize).await;
                    cold.show_tables().await.unwrap();
                }
                _ => {
                    let (count, day) = (1 + chance.next_u64() % 3, chance.next_u64() % 2);
                    let messages = numbers(next..next + count, day.cast_signed());
                    cold.write(TOPIC, &messages, &[]).await.unwrap();
                    next += count;
                }
            }
            let kept = cold.sizes(TOPIC);
            if cold.table_metadata(TOPIC).await.unwrap().is_none() {
                continue;
            }
            let (_, found) = files(&cold, &disk).await;
            let rows: u64 = found.iter().map(|(_, rows)| rows).sum();
            assert_eq!(
                (found.len() as u64, rows),
                (kept.files, kept.messages),
                "seed {seed}"
            );
            assert_eq!(cold.sweep().await.unwrap(), 0, "seed {seed}");
        }
    }
}

#[tokio::test]
async fn damage_in_what_a_table_goes_on_from_is_found_and_the_table_is_right_again() {
    for what in ["v2.metadata.json", "snap-2.avro"] {
        let disk = Arc::new(SimulatedDisk::default());
        let cold = open(&disk, 0).await;
        cold.write(TOPIC, &numbers(0..3, 3), &[]).await.unwrap();
        cold.write(TOPIC, &numbers(3..5, 3), &[]).await.unwrap();
        let path = format!("cold/topics/7/metadata/{what}");
        let length = disk.snapshot()[&path].len();
        disk.flip_bit(&path, length * 4);
        let shown = cold.table_metadata(TOPIC).await;
        assert_eq!(shown.is_err(), what.ends_with("json"), "{what}");
        cold.write(TOPIC, &numbers(5..6, 3), &[]).await.unwrap();
        let (_, found) = files(&cold, &disk).await;
        assert_eq!(found.len(), 3, "{what}");
    }
}

/// What was written of a table of two files in two days, and never again: `tests/fixtures` has it for ever.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1/iceberg");
const MANIFEST: &str = "manifest";
const METADATA: [&str; 5] = [
    "v2.metadata.json",
    "snap-1.avro",
    "snap-2.avro",
    "1-day.avro",
    "2-day.avro",
];

/// Whole but for a flipped bit in the middle of one of them.
async fn released(damaged: &str) -> (Arc<SimulatedDisk>, Arc<Cold>) {
    let disk = Arc::new(SimulatedDisk::default());
    let store = objects(&disk);
    let fixture = |name: &str| {
        let mut bytes = std::fs::read(format!("{FIXTURES}/{name}")).unwrap();
        if name == damaged {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        Bytes::from(bytes)
    };
    let manifest = fixture(MANIFEST);
    let pointer = "00000000000000000002-0000000001-000003";
    let path = Path::from(format!("topics/7/manifest/{pointer}"));
    store.put(&path, manifest.clone().into()).await.unwrap();
    for name in METADATA {
        let path = Path::from(format!("topics/7/metadata/{name}"));
        store.put(&path, fixture(name).into()).await.unwrap();
    }
    // Nobody here reads the rows: their format has fixtures of its own.
    for file in Manifest::decode(&manifest).unwrap().files {
        store
            .put(&Path::from(file.key), "rows".into())
            .await
            .unwrap();
    }
    let meta = EmbeddedMeta::open(Arc::clone(&disk) as _, "facts").unwrap();
    meta.compare_and_swap("topic/7/manifest", None, Some(pointer.as_bytes()))
        .unwrap();
    drop(meta);
    let cold = open(&disk, 1).await;
    (disk, cold)
}

#[tokio::test]
async fn a_released_table_is_read_and_gone_on_from() {
    let (disk, cold) = released("").await;
    let (before, found) = files(&cold, &disk).await;
    let rows: Vec<u64> = found.iter().map(|(_, rows)| *rows).collect();
    assert_eq!((rows, before.snapshots().count()), (vec![3, 2], 2));
    cold.write(TOPIC, &numbers(5..6, 4), &[]).await.unwrap();
    let (after, found) = files(&cold, &disk).await;
    let rows: Vec<u64> = found.iter().map(|(_, rows)| *rows).collect();
    assert_eq!((rows, after.snapshots().count()), (vec![3, 2, 1], 3));
    assert_eq!(after.uuid(), before.uuid());
}

#[tokio::test]
async fn damage_anywhere_in_a_released_table_is_found_and_does_not_last() {
    for damaged in METADATA {
        let (disk, cold) = released(damaged).await;
        if damaged == "v2.metadata.json" {
            cold.table_metadata(TOPIC).await.unwrap_err();
        }
        drop(cold);
        let mut findings = crate::log::Findings::default();
        let meta = EmbeddedMeta::open(Arc::clone(&disk) as _, "facts").unwrap();
        crate::tier::cold::verify::verify(&objects(&disk), &meta, None, &mut findings)
            .await
            .unwrap();
        drop(meta);
        let cold = open(&disk, 1).await;
        let is_named = findings.damage.iter().any(|found| found.contains(damaged));
        assert_eq!(
            is_named,
            damaged != "snap-1.avro",
            "{damaged}: {:?}",
            findings.damage
        );
        cold.write(TOPIC, &numbers(5..6, 4), &[]).await.unwrap();
        if !damaged.ends_with("day.avro") {
            let (_, found) = files(&cold, &disk).await;
            assert_eq!(found.len(), 3, "{damaged}");
        }
    }
}
