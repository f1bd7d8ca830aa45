use std::collections::btree_map::Entry;

use bytes::Bytes;
use futures::TryStreamExt as _;
use millpond_proto::chance::Seeded;
use proptest::prelude::*;

use super::*;
use crate::disk::Disk;
use crate::disk::simulated::SimulatedDisk;
use crate::error::ReadError;
use crate::log::Findings;
use crate::meta::embedded::EmbeddedMeta;
use crate::tier::cold::compaction::Compaction;
use crate::tier::cold::erasure::emptied;
use crate::tier::cold::lookup::Lookup;
use crate::tier::cold::tests::{ALL, Handle, open, paths, term};
use crate::tier::cold::typed::Reads;
use crate::tier::cold::verify::verify;
use crate::tier::columns::{Table, Tables};
use crate::tier::objects::DiskObjectStore;

const FAMILY: TopicId = TopicId(1 << 63 | 1);
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn message(topic: u64, queue: u32, offset: u64) -> Envelope {
    Envelope {
        topic,
        queue,
        offset,
        stored_at_ms: i64::try_from(offset).unwrap(),
        message_id: format!("{topic}-{queue}-{offset}"),
        keys: vec![format!("k{}", offset % 3)],
        body: (offset % 5 != 4).then(|| Bytes::from(format!("body {topic} {queue} {offset}"))),
        ..Envelope::default()
    }
}

fn messages(topic: u64, queue: u32, offsets: Range<u64>) -> Vec<Envelope> {
    offsets
        .map(|offset| message(topic, queue, offset))
        .collect()
}

async fn read(cold: &Cold, topic: u64, queue: u32, from: u64) -> Vec<Envelope> {
    let (topic, queue) = (TopicId(topic), QueueId(queue));
    cold.read(topic, queue, Offset(from), ALL).await.unwrap()
}

/// Every third topic is of the family, which outsiders see as a table.
#[derive(Debug)]
struct Named;

impl Tables for Named {
    fn revision(&self) -> u64 {
        1
    }

    fn table(&self, topic: TopicId) -> Option<Table> {
        let name = if topic == FAMILY {
            "family".to_owned()
        } else {
            format!("topic{topic}")
        };
        Some(Table {
            name,
            columns: None,
        })
    }

    fn family(&self, topic: TopicId) -> Option<TopicId> {
        (topic != FAMILY && topic.0.is_multiple_of(3)).then_some(FAMILY)
    }
}

async fn findings(disk: &Arc<SimulatedDisk>) -> Findings {
    let shared = Arc::clone(disk) as Arc<dyn Disk>;
    let objects: Arc<dyn ObjectStore> = Arc::new(DiskObjectStore::new(Arc::clone(&shared), "cold"));
    let meta = EmbeddedMeta::open(shared, "facts").unwrap();
    let mut findings = Findings::default();
    verify(&objects, &meta, None, &mut findings).await.unwrap();
    findings
}

/// What an erasure leaves of a message.
fn whole(message: &Envelope) -> Option<Envelope> {
    Some(emptied(message))
}

#[tokio::test]
async fn two_hundred_topics_make_one_file_a_round_and_each_reads_its_own() {
    let disk = Arc::new(SimulatedDisk::default());
    let mut cold = open(&disk).await;
    for round in 0..3_u64 {
        let all: Vec<Envelope> = (1..=200)
            .flat_map(|topic| {
                let queues = 0..=u32::from(topic % 7 == 0);
                queues.flat_map(move |queue| messages(topic, queue, round * 4..round * 4 + 4))
            })
            .collect();
        assert!(cold.write_family(FAMILY, &all, &[]).await.unwrap() > 0);
        assert_eq!(
            paths(&disk, "cold/topics/").len(),
            2 + usize::try_from(round).unwrap()
        );
    }
    for opens in [false, true] {
        if opens {
            drop(cold);
            cold = open(&disk).await;
        }
        assert_eq!(cold.queues().len(), 200 + 200 / 7);
        assert_eq!(cold.family_of(TopicId(7)), Some(FAMILY));
        assert_eq!(cold.queues_of(TopicId(7)), [QueueId(0), QueueId(1)]);
        for topic in [1, 7, 100, 200] {
            assert_eq!(read(&cold, topic, 0, 0).await, messages(topic, 0, 0..12));
            assert_eq!(read(&cold, topic, 0, 5).await, messages(topic, 0, 5..12));
        }
        assert_eq!(read(&cold, 7, 1, 11).await, messages(7, 1, 11..12));
        assert_eq!(read(&cold, 8, 1, 0).await, []);
        let reads = Reads::of(&["offset", "body"]);
        let scan = cold.scan(TopicId(9), QueueId(0), Offset(3)..Offset(10), &reads);
        let rows: Vec<_> = scan.try_collect().await.unwrap();
        assert_eq!(
            rows.iter()
                .map(arrow::array::RecordBatch::num_rows)
                .sum::<usize>(),
            7
        );
        let id = Lookup::MessageId("9-0-6".to_owned());
        let mut found = Vec::new();
        let mut at = 0;
        while at < 12 {
            let step = cold
                .look_up(TopicId(9), QueueId(0), at..12, &id)
                .await
                .unwrap();
            found.extend(step.matches);
            at = step.to.0;
        }
        assert_eq!(found, [Offset(6)]);
        let sizes = cold.sizes(TopicId(7));
        let files = if opens { 1 } else { 3 };
        assert_eq!((sizes.files, sizes.messages, sizes.lost), (files, 24, 0));
        assert_eq!(cold.sizes(FAMILY).messages, 228 * 12);
        let done = cold
            .compact(TopicId(5), Compaction::default())
            .await
            .unwrap();
        assert_eq!(done.files_merged, if opens { 0 } else { 3 });
        assert_eq!(cold.ages(FAMILY).len(), 1);
    }
    let found = findings(&disk).await;
    assert!(
        found.damage.is_empty() && found.notes.is_empty(),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_deleted_topic_is_gone_at_once_and_its_rows_when_most_of_a_file_is() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    let all = [
        messages(1, 0, 0..5),
        messages(2, 0, 0..5),
        messages(3, 0, 0..5),
    ]
    .concat();
    cold.write_family(FAMILY, &all, &[]).await.unwrap();
    for topic in [1, 2] {
        cold.forget(TopicId(topic)).await.unwrap();
        assert_eq!(read(&cold, topic, 0, 0).await, []);
    }
    let listed = |cold: &Cold| {
        cold.queues()
            .iter()
            .map(|queue| queue.0.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(&cold), [3]);
    drop(cold);
    let cold = open(&disk).await;
    assert_eq!(read(&cold, 1, 0, 0).await, []);
    assert_eq!(listed(&cold), [3]);
    // The tombstone is needed until the family has noted it.
    cold.unbury(&[9], &[9]).unwrap();
    cold.unbury(&[9], &[9]).unwrap();
    assert!(cold.is_gone(TopicId(1)));
    cold.bury_members().await.unwrap();
    cold.unbury(&[9], &[9]).unwrap();
    assert!(!cold.is_gone(TopicId(1)));
    assert_eq!(read(&cold, 1, 0, 0).await, []);
    assert_eq!(cold.queues().len(), 1);
    let done = cold.compact(FAMILY, Compaction::default()).await.unwrap();
    assert_eq!((done.files_merged, done.files_made), (1, 1));
    assert_eq!(read(&cold, 3, 0, 0).await, messages(3, 0, 0..5));
    let (index, _) = cold.current(FAMILY).await.unwrap();
    assert_eq!(index.manifest().files[0].rows, 5);
    assert_eq!(index.manifest().family.as_ref().unwrap().lanes.len(), 1);
    cold.forget(TopicId(3)).await.unwrap();
    cold.bury_members().await.unwrap();
    assert_eq!(cold.ages(FAMILY), []);
}

#[tokio::test]
async fn an_erased_key_is_erased_in_its_topic_alone() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    let all = [messages(1, 0, 0..6), messages(2, 0, 0..6)].concat();
    cold.write_family(FAMILY, &all, &[]).await.unwrap();
    let erased = cold.erase(TopicId(2), b"k1", &whole).await.unwrap();
    assert_eq!((erased.messages, erased.files, erased.held), (2, 1, 0));
    assert_eq!(read(&cold, 1, 0, 0).await, messages(1, 0, 0..6));
    let left = read(&cold, 2, 0, 0).await;
    for (known, found) in messages(2, 0, 0..6).iter().zip(&left) {
        if known.offset % 3 == 1 {
            assert_eq!(
                (found.offset, &found.body, found.keys.len()),
                (known.offset, &None, 0)
            );
        } else {
            assert_eq!(found, known);
        }
    }
    assert_eq!(
        cold.erase(TopicId(2), b"k1", &whole).await.unwrap().files,
        0
    );
    assert!(findings(&disk).await.damage.is_empty());
}

#[tokio::test]
async fn a_topic_with_files_of_its_own_keeps_them() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(TopicId(3), &messages(3, 0, 0..2), &[])
        .await
        .unwrap();
    cold.set_tables(Some("file:///x"), Arc::new(Named));
    assert_eq!(cold.family_of(TopicId(3)), None);
    assert_eq!(cold.family_of(TopicId(6)), Some(FAMILY));
    assert_eq!(cold.family_of(TopicId(7)), None);
}

#[tokio::test]
async fn a_family_is_one_table_with_its_topics_as_columns() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.set_tables(Some("file:///x"), Arc::new(Named));
    let mut all = [messages(3, 0, 0..4), messages(6, 0, 0..4)].concat();
    all[7].stored_at_ms = DAY_MS;
    cold.write_family(FAMILY, &all, &[]).await.unwrap();
    assert_eq!(cold.shown_topics(), [FAMILY]);
    assert!(cold.table_metadata(TopicId(3)).await.unwrap().is_none());
    let table = cold.table_metadata(FAMILY).await.unwrap().unwrap();
    let table = String::from_utf8(table.json.to_vec()).unwrap();
    for said in [
        "\"_topic_id\"",
        "\"_topic\"",
        "\"id\":999",
        "\"total-data-files\":\"2\"",
        "\"total-records\":\"8\"",
    ] {
        assert!(table.contains(said), "{said}: {table}");
    }
    let (index, _) = cold.current(FAMILY).await.unwrap();
    assert_eq!(index.manifest().files.len(), 2, "a file for each day");
    let (copy, footer) = cold.copy_of(&index.manifest().files[0]).await.ok().unwrap();
    let mut rows = Rows::open(copy, footer).unwrap();
    let file = &index.manifest().files[0];
    let lane = index.lanes().unwrap().get(file.runs[0].queue).unwrap();
    let taken = rows.take(file.runs[0], lane).await.unwrap();
    let names = taken[0].1.column_by_name("topic").unwrap();
    let names = arrow::array::AsArray::as_string::<i32>(names);
    assert_eq!(names.value(0), "topic3");
    assert!(findings(&disk).await.damage.is_empty());
}

#[tokio::test]
async fn a_flipped_bit_of_a_shared_file_is_damage_and_is_named_by_topic() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    let all = [messages(1, 0, 0..6), messages(2, 3, 0..6)].concat();
    cold.write_family(FAMILY, &all, &[]).await.unwrap();
    drop(cold);
    let path = paths(&disk, "cold/topics/")
        .into_iter()
        .find(|p| p.ends_with("parquet"))
        .unwrap();
    let length = disk.snapshot()[&path].len();
    for at in [8, length / 2, length - 9] {
        disk.flip_bit(&path, at * 8);
        let cold = open(&disk).await;
        let read = cold.read(TopicId(2), QueueId(3), Offset(0), ALL).await;
        assert!(
            matches!(read, Err(ReadError::Damaged { .. })),
            "{at}: {read:?}"
        );
        let found = findings(&disk).await;
        assert!(found.damage[0].contains("queue 3 of topic 2"), "{found:?}");
        assert!(
            cold.erase(TopicId(2), b"k1", &whole).await.is_err(),
            "nothing is erased by halves"
        );
        let done = cold.compact(FAMILY, Compaction::default()).await.unwrap();
        assert_eq!(done.files_made, 0);
        disk.flip_bit(&path, at * 8);
    }
    let cold = open(&disk).await;
    assert_eq!(read(&cold, 2, 3, 0).await, messages(2, 3, 0..6));
}

#[tokio::test]
async fn a_crash_anywhere_leaves_each_topic_as_it_was_or_as_it_becomes() {
    for change in 0..4 {
        for (dies_at, happens) in (0..8).flat_map(|at| [(at, false), (at, true)]) {
            let disk = Arc::new(SimulatedDisk::default());
            let cold = open(&disk).await;
            for round in 0..3 {
                let part = round * 4..round * 4 + 4;
                let all = [messages(1, 0, part.clone()), messages(2, 0, part)].concat();
                cold.write_family(FAMILY, &all, &[]).await.unwrap();
            }
            drop(cold);
            let dying = Handle::over(&disk, dies_at, happens);
            let cold = Cold::open(Arc::new(dying.clone()), Arc::new(dying.clone()), term());
            let cold = cold.await.unwrap();
            let more = [messages(1, 0, 12..14), messages(2, 0, 12..13)].concat();
            let firsts = [((TopicId(1), QueueId(0)), 6)].into();
            let answered = match change {
                0 => cold.write_family(FAMILY, &more, &[]).await.is_ok(),
                1 => cold.trim_family(FAMILY, &firsts).await.is_ok(),
                2 => cold.compact(FAMILY, Compaction::default()).await.is_ok(),
                _ => cold.erase(TopicId(2), b"k0", &whole).await.is_ok(),
            };
            let disk = Arc::new(disk.crash(&Seeded::new(dies_at as u64)));
            drop(cold);
            drop(dying);
            let cold = open(&disk).await;
            let one = cold.extent(TopicId(1), QueueId(0)).unwrap();
            let first = one.start.0;
            assert!(first == 0 || (change == 1 && first == 6));
            assert!(!answered || change != 1 || first == 6);
            assert!(!answered || change != 0 || one.end.0 == 14);
            assert_eq!(
                read(&cold, 1, 0, first).await,
                messages(1, 0, first..one.end.0)
            );
            let other = read(&cold, 2, 0, 0).await;
            assert_eq!(
                other.len(),
                if one.end.0 == 14 { 13 } else { 12 },
                "both or none"
            );
            let bodies = other.iter().filter(|m| !m.keys.is_empty()).count();
            assert!(bodies == other.len() || (change == 3 && bodies == 8));
            cold.sweep().await.unwrap();
            let files = cold.ages(FAMILY).len();
            assert_eq!(paths(&disk, "cold/topics/").len(), files + 1);
            cold.write_family(FAMILY, &more, &[]).await.unwrap();
            cold.compact(FAMILY, Compaction::default()).await.unwrap();
            assert_eq!(read(&cold, 1, 0, first).await, messages(1, 0, first..14));
        }
    }
}

/// What may happen to a family of four topics with two queues each.
#[derive(Clone, Debug)]
enum Step {
    /// So many messages more, by topic and queue.
    Write(Vec<(u64, u32, u64)>),
    Trim(u64, u32, u64),
    Forget(u64),
    Bury,
    Compact(usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let part = (1..5_u64, 0..2_u32, 1..6_u64);
    prop_oneof![
        4 => proptest::collection::vec(part.clone(), 1..6).prop_map(Step::Write),
        2 => part.prop_map(|(topic, queue, count)| Step::Trim(topic, queue, count)),
        1 => (1..5_u64).prop_map(Step::Forget),
        1 => Just(Step::Bury),
        2 => (1..4_usize).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

async fn agrees(steps: Vec<Step>) {
    let disk = Arc::new(SimulatedDisk::default());
    let mut cold = open(&disk).await;
    let mut model: BTreeMap<(u64, u32), Range<u64>> = BTreeMap::new();
    let mut gone = BTreeSet::new();
    for step in steps {
        match step {
            Step::Write(parts) => {
                let mut all = BTreeMap::new();
                for (topic, queue, count) in parts {
                    if gone.contains(&topic) {
                        continue;
                    }
                    let known = model.entry((topic, queue)).or_insert(3..3);
                    let new = known.end..known.end + count;
                    known.end = new.end;
                    match all.entry((topic, queue)) {
                        Entry::Vacant(entry) => {
                            entry.insert(new);
                        }
                        Entry::Occupied(mut entry) => entry.get_mut().end = new.end,
                    }
                }
                let all = all.into_iter();
                let all = all.flat_map(|((topic, queue), part)| messages(topic, queue, part));
                cold.write_family(FAMILY, &all.collect::<Vec<_>>(), &[])
                    .await
                    .unwrap();
            }
            Step::Trim(topic, queue, count) => {
                let Some(known) = model.get_mut(&(topic, queue)) else {
                    continue;
                };
                known.start = (known.start + count).min(known.end);
                let firsts = [((TopicId(topic), QueueId(queue)), known.start)].into();
                cold.trim_family(FAMILY, &firsts).await.unwrap();
            }
            Step::Forget(topic) => {
                gone.insert(topic);
                model.retain(|(of, _), _| *of != topic);
                cold.forget(TopicId(topic)).await.unwrap();
            }
            Step::Bury => cold.bury_members().await.unwrap(),
            Step::Compact(files_min) => {
                let how = Compaction {
                    files_min,
                    ..Compaction::default()
                };
                cold.compact(FAMILY, how).await.unwrap();
            }
            Step::Reopen => {
                drop(cold);
                cold = open(&disk).await;
            }
        }
        for topic in 1..5 {
            for queue in 0..2 {
                let extent = cold.extent(TopicId(topic), QueueId(queue));
                let extent = extent.map(|extent| extent.start.0..extent.end.0);
                let known = model.get(&(topic, queue)).cloned();
                // Until it is buried a reopened store knows a deleted topic; nobody asks for it.
                if gone.contains(&topic) {
                    continue;
                }
                assert_eq!(extent, known, "topic {topic}, queue {queue}");
                if let Some(known) = known {
                    let read = read(&cold, topic, queue, known.start).await;
                    assert_eq!(read, messages(topic, queue, known));
                }
            }
        }
    }
    let found = findings(&disk).await;
    assert!(found.damage.is_empty(), "{found:?}");
    cold.sweep().await.unwrap();
    let (index, _) = cold.current(FAMILY).await.unwrap();
    let (manifest, files) = (index.manifest(), cold.ages(FAMILY).len());
    assert_eq!(Manifest::decode(&manifest.encode()).as_ref(), Ok(manifest));
    assert!(paths(&disk, "cold/topics/").len() <= files + 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn topics_of_a_family_are_as_topics_of_their_own(steps in proptest::collection::vec(step(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(agrees(steps));
    }
}
