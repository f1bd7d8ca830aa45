use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::TryStreamExt as _;
use futures::stream::{self, BoxStream, StreamExt as _};
use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use proptest::prelude::*;

use super::*;
use crate::disk::Disk;
use crate::disk::simulated::SimulatedDisk;
use crate::error::ReadError;
use crate::format::columns::tests::{all_columns, envelope};
use crate::format::columns::{projected_schema, to_batch};
use crate::format::manifest::day_of;
use crate::log::ReadLimit;
use crate::meta::embedded::EmbeddedMeta;
use crate::tier::cold::compaction::Compaction;
use crate::tier::objects::DiskObjectStore;
use crate::tier::simulated::SimulatedStore;

pub(crate) const TOPIC: TopicId = TopicId(7);
pub(crate) const ALL: ReadLimit = ReadLimit {
    messages: usize::MAX,
    bytes: usize::MAX,
};

fn parts(disk: &Arc<SimulatedDisk>) -> (Arc<dyn ObjectStore>, Arc<dyn MetaStore>) {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    let objects = Arc::new(DiskObjectStore::new(Arc::clone(&disk), "cold"));
    (
        objects,
        Arc::new(EmbeddedMeta::open(disk, "facts").unwrap()),
    )
}

/// A term that nobody had before.
pub(crate) fn term() -> Term {
    static LAST: AtomicU64 = AtomicU64::new(0);
    Term(LAST.fetch_add(1, Ordering::Relaxed) + 1)
}

pub(crate) async fn open(disk: &Arc<SimulatedDisk>) -> Arc<Cold> {
    let (objects, meta) = parts(disk);
    Arc::new(Cold::open(objects, meta, term()).await.unwrap())
}

pub(crate) fn paths(disk: &SimulatedDisk, folder: &str) -> Vec<String> {
    let paths = disk.snapshot().into_keys();
    paths.filter(|path| path.starts_with(folder)).collect()
}

fn message(queue: u32, offset: u64) -> Envelope {
    // Bodies that do not shrink away, so that blocks and pages are many.
    let word =
        millpond_proto::message::stable_hash(&(offset << 32 | u64::from(queue)).to_le_bytes());
    let body: Vec<u8> = (0..25_u64)
        .flat_map(|i| word.wrapping_mul(2 * i + 1).rotate_left(17).to_le_bytes())
        .collect();
    Envelope {
        topic: TOPIC.0,
        queue,
        offset,
        message_id: format!("{queue}-{offset}"),
        body: (!offset.is_multiple_of(10)).then(|| body.into()),
        ..Envelope::default()
    }
}

pub(crate) fn messages(queue: u32, offsets: Range<u64>) -> Vec<Envelope> {
    offsets.map(|offset| message(queue, offset)).collect()
}

pub(crate) async fn read(
    cold: &Cold,
    queue: u32,
    from: u64,
    limit: ReadLimit,
) -> Result<Vec<Envelope>, ReadError> {
    cold.read(TOPIC, QueueId(queue), Offset(from), limit).await
}

#[tokio::test]
async fn offsets_come_back_from_several_files_and_queues() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    let first = [messages(0, 5..300), messages(3, 0..40)].concat();
    let second = [messages(0, 300..420), messages(1, 7..9)].concat();
    assert!(cold.write(TOPIC, &first, &[]).await.unwrap() > 0);
    assert!(cold.write(TOPIC, &second, &[]).await.unwrap() > 0);
    for cold in [Arc::clone(&cold), {
        drop(cold);
        open(&disk).await
    }] {
        let extents = [
            (TOPIC, QueueId(0), Offset(5)..Offset(420)),
            (TOPIC, QueueId(1), Offset(7)..Offset(9)),
            (TOPIC, QueueId(3), Offset(0)..Offset(40)),
        ];
        assert_eq!(cold.queues(), extents);
        assert_eq!(cold.extent(TOPIC, QueueId(1)), Some(Offset(7)..Offset(9)));
        assert_eq!(cold.extent(TOPIC, QueueId(2)), None);
        assert_eq!(read(&cold, 0, 5, ALL).await.unwrap(), messages(0, 5..420));
        assert_eq!(read(&cold, 3, 39, ALL).await.unwrap(), messages(3, 39..40));
        assert_eq!(read(&cold, 0, 420, ALL).await.unwrap(), []);
        assert_eq!(read(&cold, 2, 0, ALL).await.unwrap(), []);
        let below = read(&cold, 0, 4, ALL).await.unwrap_err();
        assert!(
            matches!(
                below,
                ReadError::Trimmed {
                    first: Offset(5),
                    ..
                }
            ),
            "{below}"
        );
        let ten = ReadLimit {
            messages: 10,
            ..ALL
        };
        assert_eq!(
            read(&cold, 0, 295, ten).await.unwrap(),
            messages(0, 295..305)
        );
        let two_bodies = ReadLimit { bytes: 400, ..ALL };
        assert_eq!(
            read(&cold, 0, 11, two_bodies).await.unwrap(),
            messages(0, 11..13)
        );
        let nothing = ReadLimit { bytes: 0, ..ALL };
        assert_eq!(
            read(&cold, 0, 11, nothing).await.unwrap(),
            messages(0, 11..12)
        );
    }
}

#[tokio::test]
async fn a_scan_gives_the_columns_asked_for_in_their_order() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(
        TOPIC,
        &[messages(0, 0..100), messages(1, 0..50)].concat(),
        &[],
    )
    .await
    .unwrap();
    cold.write(TOPIC, &messages(0, 100..150), &[])
        .await
        .unwrap();
    let all = all_columns();
    for columns in [&["body", "offset"][..], &[], &["properties", "keys"], &all] {
        let range = Offset(90)..Offset(1000);
        let batches: Vec<_> = cold
            .scan(TOPIC, QueueId(0), range, columns)
            .try_collect()
            .await
            .unwrap();
        let schema = projected_schema(columns);
        assert!(batches.iter().all(|b| b.schema() == schema));
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, 60);
        if !columns.is_empty() {
            let together = arrow::compute::concat_batches(&schema, &batches).unwrap();
            assert_eq!(together, to_batch(&messages(0, 90..150), columns));
        }
    }
    let nothing = cold.scan(TOPIC, QueueId(9), Offset(0)..Offset(9), &["body"]);
    assert_eq!(nothing.count().await, 0);
}

#[tokio::test]
async fn writing_what_is_cold_already_changes_nothing() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(TOPIC, &messages(0, 0..10), &[]).await.unwrap();
    assert_eq!(
        cold.write(TOPIC, &messages(0, 0..10), &[]).await.unwrap(),
        0
    );
    cold.write(TOPIC, &messages(0, 5..15), &[]).await.unwrap();
    assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), messages(0, 0..15));
}

#[tokio::test]
async fn a_message_that_was_lost_before_is_damaged_and_its_neighbours_are_not() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(TOPIC, &[messages(0, 0..3), messages(0, 4..6)].concat(), &[])
        .await
        .unwrap();
    assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), messages(0, 0..3));
    let lost = read(&cold, 0, 3, ALL).await.unwrap_err();
    assert!(
        matches!(
            lost,
            ReadError::Damaged {
                offset: Offset(3),
                ..
            }
        ),
        "{lost}"
    );
    assert_eq!(read(&cold, 0, 4, ALL).await.unwrap(), messages(0, 4..6));
}

#[tokio::test]
async fn forgetting_leaves_nothing_and_may_be_repeated() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(TOPIC, &messages(0, 0..10), &[]).await.unwrap();
    let mut other = message(0, 0);
    other.topic = 70;
    cold.write(TopicId(70), &[other.clone()], &[])
        .await
        .unwrap();
    for _ in 0..2 {
        cold.forget(TOPIC).await.unwrap();
        assert_eq!(cold.extent(TOPIC, QueueId(0)), None);
        assert!(paths(&disk, "cold/topics/7/").is_empty());
    }
    drop(cold);
    let cold = open(&disk).await;
    assert_eq!(cold.queues().len(), 1);
    let kept = cold
        .read(TopicId(70), QueueId(0), Offset(0), ALL)
        .await
        .unwrap();
    assert_eq!(kept, [other]);
}

/// Dies at one of its calls: that one does nothing, or happens without being answered.
#[derive(Debug)]
pub(crate) struct Dying {
    objects: DiskObjectStore,
    meta: EmbeddedMeta,
    calls: AtomicUsize,
    dies_at: usize,
    happens: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Handle(Arc<Dying>);

impl Handle {
    /// Both stores on a disk, which die at a call.
    pub(crate) fn over(disk: &Arc<SimulatedDisk>, dies_at: usize, happens: bool) -> Self {
        let shared = Arc::clone(disk) as Arc<dyn Disk>;
        Self(Arc::new(Dying {
            objects: DiskObjectStore::new(Arc::clone(&shared), "cold"),
            meta: EmbeddedMeta::open(shared, "facts").unwrap(),
            calls: AtomicUsize::new(0),
            dies_at,
            happens,
        }))
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dying")
    }
}

impl Dying {
    /// Whether this call takes place, and whether it is answered.
    fn call(&self) -> (bool, bool) {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        match number.cmp(&self.dies_at) {
            std::cmp::Ordering::Less => (true, true),
            std::cmp::Ordering::Equal => (self.happens, false),
            std::cmp::Ordering::Greater => (false, false),
        }
    }
}

fn died<T>() -> object_store::Result<T> {
    Err(object_store::Error::Generic {
        store: "Dying",
        source: "died".into(),
    })
}

#[async_trait]
impl ObjectStore for Handle {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let (happens, answers) = self.0.call();
        if happens {
            let result = self.0.objects.put_opts(location, payload, options).await;
            if answers {
                return result;
            }
        }
        died()
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        died()
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.0.objects.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        match self.0.call() {
            (true, _) => self.0.objects.delete_stream(locations),
            (false, _) => stream::once(async { died() }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        died()
    }
}

impl MetaStore for Handle {
    fn close(&self) {
        self.0.meta.close();
    }

    fn get(&self, key: &str) -> Result<Option<Versioned>, MetaError> {
        self.0.meta.get(key)
    }

    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Option<&[u8]>,
    ) -> Result<bool, MetaError> {
        let (happens, answers) = self.0.call();
        let result = if happens {
            self.0.meta.compare_and_swap(key, expected, value)
        } else {
            Ok(false)
        };
        if answers {
            return result;
        }
        Err(MetaError {
            detail: "died".to_owned(),
        })
    }

    fn keys(&self, prefix: &str) -> Result<Vec<String>, MetaError> {
        self.0.meta.keys(prefix)
    }
}

#[tokio::test]
async fn a_crash_anywhere_in_a_write_leaves_the_old_state_or_the_new_one() {
    let cases = (0..5).flat_map(|at| [(at, false), (at, true)]);
    let seeds = 0..8;
    for (seed, (dies_at, happens)) in seeds.flat_map(|seed| cases.clone().map(move |c| (seed, c))) {
        let disk = Arc::new(SimulatedDisk::default());
        let cold = open(&disk).await;
        cold.write(TOPIC, &messages(0, 0..10), &[]).await.unwrap();
        drop(cold);

        let dying = Handle::over(&disk, dies_at, happens);
        let cold = Cold::open(Arc::new(dying.clone()), Arc::new(dying.clone()), term())
            .await
            .unwrap();
        let written = cold.write(TOPIC, &messages(0, 10..20), &[]).await.is_ok();
        let disk = Arc::new(disk.crash(&Seeded::new(seed)));
        drop(cold);
        drop(dying);

        let cold = open(&disk).await;
        let end = cold.extent(TOPIC, QueueId(0)).unwrap().end.0;
        assert!(
            end == 20 || (end == 10 && !written),
            "seed {seed}, died at {dies_at}, {happens}"
        );
        assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), messages(0, 0..end));
        // The log still has them and moves them again.
        cold.write(TOPIC, &messages(0, 10..20), &[]).await.unwrap();
        cold.write(TOPIC, &messages(0, 20..30), &[]).await.unwrap();
        assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), messages(0, 0..30));
    }
}

#[tokio::test]
async fn a_swap_without_an_answer_is_found_out_by_the_next_write() {
    let disk = Arc::new(SimulatedDisk::default());
    let shared = Arc::clone(&disk) as Arc<dyn Disk>;
    let dying = Handle(Arc::new(Dying {
        objects: DiskObjectStore::new(Arc::clone(&shared), "cold"),
        meta: EmbeddedMeta::open(Arc::clone(&shared), "facts").unwrap(),
        calls: AtomicUsize::new(0),
        dies_at: 2,
        happens: true,
    }));
    // Only the metadata store dies; the objects are asked apart.
    let objects = Arc::new(DiskObjectStore::new(shared, "cold"));
    dying.0.calls.store(2, Ordering::Relaxed);
    let cold = Cold::open(objects, Arc::new(dying), term()).await.unwrap();
    cold.write(TOPIC, &messages(0, 0..10), &[])
        .await
        .unwrap_err();
    assert_eq!(cold.extent(TOPIC, QueueId(0)), None);
    assert_eq!(
        cold.write(TOPIC, &messages(0, 0..10), &[]).await.unwrap(),
        0
    );
    assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), messages(0, 0..10));
}

#[tokio::test]
async fn damage_in_one_block_spares_messages_of_others() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    // About a megabyte of bodies: several blocks, one row group.
    let all = messages(0, 0..6000);
    cold.write(TOPIC, &all, &[]).await.unwrap();
    let path = paths(&disk, "cold/topics/7/data").remove(0);
    let length = disk.snapshot()[&path].len();
    assert!(length > 1_000_000, "{length} bytes");
    disk.flip_bit(&path, length / 2 * 8);
    let good = read(&cold, 0, 0, ALL).await.unwrap();
    assert!(!good.is_empty() && good.len() < all.len());
    assert_eq!(good, all[..good.len()]);
    let at = good.len() as u64;
    let error = read(&cold, 0, at, ALL).await.unwrap_err();
    assert!(
        matches!(error, ReadError::Damaged { offset, .. } if offset.0 == at),
        "{error}"
    );
    assert_eq!(read(&cold, 0, 5999, ALL).await.unwrap(), all[5999..]);
}

#[tokio::test]
async fn a_damaged_manifest_is_named_when_opening() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(TOPIC, &messages(0, 0..2), &[]).await.unwrap();
    drop(cold);
    let path = paths(&disk, "cold/topics/7/manifest").remove(0);
    disk.flip_bit(&path, 160);
    let (objects, meta) = parts(&disk);
    let error = Cold::open(objects, meta, term()).await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn any_message_comes_back_from_a_file_as_it_went_in() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let many = proptest::collection::vec(envelope(), 1..20);
    proptest!(ProptestConfig::with_cases(64), |(mut many in many, queues in 1..4_u32)| {
        for (message, number) in many.iter_mut().zip(0..) {
            message.queue = number % queues;
            message.offset = 100 + u64::from(number / queues);
        }
        many.sort_by_key(|m| (m.queue, m.offset));
        let found = runtime.block_on(async {
            let disk = Arc::new(SimulatedDisk::default());
            let cold = open(&disk).await;
            cold.write(TOPIC, &many, &[]).await.unwrap();
            let mut found = Vec::new();
            for queue in 0..queues {
                found.extend(read(&cold, queue, 100, ALL).await.unwrap_or_default());
            }
            found
        });
        prop_assert_eq!(found, many);
    });
}

async fn whole(cold: &Cold, queue: u32, from: u64) -> Vec<Envelope> {
    let mut found: Vec<Envelope> = Vec::new();
    let mut at = from;
    loop {
        let read = read(cold, queue, at, ALL).await.unwrap();
        let Some(last) = read.last() else {
            return found;
        };
        at = last.offset + 1;
        found.extend(read);
    }
}

#[tokio::test]
async fn small_files_become_one_and_readers_in_flight_read_on() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    for file in 0..12_u64 {
        let two = [
            messages(0, file * 10..file * 10 + 10),
            messages(5, file..file + 1),
        ];
        cold.write(TOPIC, &two.concat(), &[]).await.unwrap();
    }
    let columns = ["offset", "body"];
    let range = Offset(0)..Offset(120);
    let mut scan = cold.scan(TOPIC, QueueId(0), range, &columns);
    let first = scan.next().await.unwrap().unwrap();
    let few = Compaction {
        files_min: 13,
        ..Compaction::default()
    };
    assert_eq!(cold.compact(TOPIC, few).await.unwrap().files_made, 0);
    let done = cold.compact(TOPIC, Compaction::default()).await.unwrap();
    assert_eq!((done.files_merged, done.files_made), (12, 1));
    assert_eq!(
        paths(&disk, "cold/topics/7/data").len(),
        13,
        "a reader holds the old ones"
    );
    let mut rows = first.num_rows();
    while let Some(batch) = scan.next().await {
        rows += batch.unwrap().num_rows();
    }
    assert_eq!(rows, 120);
    drop(scan);
    cold.remove_garbage().await;
    assert_eq!(paths(&disk, "cold/topics/7/data").len(), 1);
    assert_eq!(paths(&disk, "cold/topics/7/manifest").len(), 1);
    assert_eq!(whole(&cold, 0, 0).await, messages(0, 0..120));
    drop(cold);
    let cold = open(&disk).await;
    assert_eq!(whole(&cold, 0, 0).await, messages(0, 0..120));
    assert_eq!(whole(&cold, 5, 0).await, messages(5, 0..12));
}

#[test]
fn compaction_changes_no_offset_and_no_byte() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    // Files of messages; each message goes to a queue and may be preceded by a gap.
    let file = proptest::collection::vec((envelope(), 0..3_u32, 0..3_u64), 1..12);
    let files = proptest::collection::vec(file, 2..6);
    proptest!(ProptestConfig::with_cases(48), |(files in files, dropped in 0..4_u64)| {
        runtime.block_on(async {
            let disk = Arc::new(SimulatedDisk::default());
            let cold = open(&disk).await;
            let mut next = [100_u64; 3];
            let mut all = Vec::new();
            for file in files {
                let mut messages = Vec::new();
                for (mut message, queue, gap) in file {
                    let at = &mut next[queue as usize];
                    *at += gap;
                    (message.topic, message.queue, message.offset) = (TOPIC.0, queue, *at);
                    *at += 1;
                    messages.push(message);
                }
                messages.sort_by_key(|m| (m.queue, m.offset));
                cold.write(TOPIC, &messages, &[]).await.unwrap();
                all.extend(messages);
            }
            let firsts = [(0, 100 + dropped)].into();
            cold.trim(TOPIC, 0, &firsts).await.unwrap();
            let before = cold.queues();
            let done = cold.compact(TOPIC, Compaction::default()).await.unwrap();
            let days = all.iter().map(|m| day_of(m.stored_at_ms)).collect::<BTreeSet<_>>();
            assert!(days.len() > 1 || done.files_made <= 1);
            let again = cold.compact(TOPIC, Compaction::default()).await.unwrap();
            assert_eq!(again.files_made, 0);
            let cold = open(&disk).await;
            assert_eq!(cold.queues(), before);
            for message in &all {
                let (queue, offset) = (message.queue, message.offset);
                let one = ReadLimit { messages: 1, ..ALL };
                match read(&cold, queue, offset, one).await {
                    Ok(found) => assert_eq!(&found[..], std::slice::from_ref(message)),
                    Err(ReadError::Trimmed { .. }) => {
                        assert!(queue == 0 && offset < 100 + dropped);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
    });
}

#[tokio::test]
async fn a_crash_anywhere_in_a_change_leaves_what_is_kept_readable_and_no_orphan_after_a_sweep() {
    for trims in [false, true] {
        for (dies_at, happens) in (0..8).flat_map(|at| [(at, false), (at, true)]) {
            let disk = Arc::new(SimulatedDisk::default());
            let cold = open(&disk).await;
            for file in 0..4 {
                cold.write(TOPIC, &messages(0, file * 10..file * 10 + 10), &[])
                    .await
                    .unwrap();
            }
            drop(cold);
            let dying = Handle::over(&disk, dies_at, happens);
            let cold = Cold::open(Arc::new(dying.clone()), Arc::new(dying.clone()), term())
                .await
                .unwrap();
            let answered = if trims {
                cold.trim(TOPIC, 2, &[(0, 25)].into()).await.is_ok()
            } else {
                cold.compact(TOPIC, Compaction::default()).await.is_ok()
            };
            let disk = Arc::new(disk.crash(&Seeded::new(dies_at as u64)));
            drop(cold);
            drop(dying);
            let cold = open(&disk).await;
            let first = cold.extent(TOPIC, QueueId(0)).unwrap().start.0;
            if trims {
                assert!(first == 25 || (first == 0 && !answered));
            }
            assert_eq!(whole(&cold, 0, first).await, messages(0, first..40));
            cold.sweep().await.unwrap();
            let files = cold.ages(TOPIC).len();
            assert_eq!(paths(&disk, "cold/topics/").len(), files + 1);
            assert_eq!(whole(&cold, 0, first).await, messages(0, first..40));
            // What was begun can be done again.
            cold.compact(TOPIC, Compaction::default()).await.unwrap();
            assert_eq!(whole(&cold, 0, first).await, messages(0, first..40));
        }
    }
}

#[tokio::test]
async fn a_damaged_file_is_left_out_of_a_merge() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    for file in 0..5 {
        cold.write(TOPIC, &messages(0, file * 10..file * 10 + 10), &[])
            .await
            .unwrap();
    }
    let path = paths(&disk, "cold/topics/7/data").remove(2);
    disk.flip_bit(&path, 999);
    let done = cold.compact(TOPIC, Compaction::default()).await.unwrap();
    assert_eq!((done.files_merged, done.files_made), (4, 2));
    assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), messages(0, 0..20));
    assert!(read(&cold, 0, 20, ALL).await.is_err());
    assert_eq!(whole(&cold, 0, 30).await, messages(0, 30..50));
}

#[tokio::test(start_paused = true)]
async fn a_read_anywhere_in_a_large_file_takes_two_round_trips_and_a_mebibyte() {
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::starting_at(Timestamp(0)));
    let store = SimulatedStore::new(1).by(Arc::clone(&clock));
    let disk = Arc::new(SimulatedDisk::default());
    let meta = Arc::clone(&parts(&disk).1);
    let objects: Arc<dyn ObjectStore> = Arc::new(store.clone());
    let chance = Seeded::new(1);
    // A kibibyte each, that does not shrink.
    let body = || (0..128).flat_map(|_| chance.next_u64().to_le_bytes());
    let all: Vec<Envelope> = (0..20_000)
        .map(|offset| Envelope {
            topic: TOPIC.0,
            offset,
            message_id: format!("{:016x}", chance.next_u64()),
            key: Some(Bytes::from(chance.next_u64().to_string())),
            tag: Some("a".to_owned()),
            body: Some(body().collect::<Vec<u8>>().into()),
            ..Envelope::default()
        })
        .collect();
    let cold = Cold::open(Arc::clone(&objects), Arc::clone(&meta), term());
    cold.await.unwrap().write(TOPIC, &all, &[]).await.unwrap();
    // By someone who has not seen the file yet.
    for from in [0, 7_000, 16_383, 19_968] {
        let cold = Cold::open(Arc::clone(&objects), Arc::clone(&meta), term());
        let cold = cold.await.unwrap();
        store.set_latency(Duration::from_secs(1));
        let (before, bytes) = (clock.now(), store.bytes_read());
        let limit = ReadLimit {
            messages: 32,
            bytes: usize::MAX,
        };
        let found = read(&cold, 0, from, limit).await.unwrap();
        let index = usize::try_from(from).unwrap();
        assert_eq!(found, all[index..index + 32]);
        let trips = clock.now().since(before).as_secs();
        let bytes = store.bytes_read() - bytes;
        assert!(trips <= 2, "{trips} round trips from offset {from}");
        assert!(bytes <= 1024 * 1024, "{bytes} bytes from offset {from}");
        store.set_latency(Duration::ZERO);
    }
}
