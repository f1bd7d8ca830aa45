//! Small files that become large ones.

use super::*;
use crate::tier::cold::typed::Reads;

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
    let mut scan = cold.scan(TOPIC, QueueId(0), range, &Reads::of(&columns));
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
            cold.trim(TOPIC, &[], &firsts).await.unwrap();
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

/// Nine files over two days, of three buckets each, the first bucket of which is done with.
async fn shelf(disk: &Arc<SimulatedDisk>) {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let cold = open(disk).await;
    for file in 0..9_u64 {
        let mut all = [
            messages(100, file * 10..file * 10 + 10),
            messages(200, file..file + 1),
            messages(300, file * 2..file * 2 + 2),
        ]
        .concat();
        for message in &mut all {
            message.stored_at_ms = if file < 5 { 0 } else { DAY_MS };
        }
        cold.write(TOPIC, &all, &[]).await.unwrap();
    }
    cold.trim(TOPIC, &[], &[(100, 90)].into()).await.unwrap();
}

const SHELF: Compaction = Compaction {
    files_min: 8,
    target_bytes: u64::MAX,
    span_ms_max: None,
    across_days: true,
};

#[tokio::test]
async fn buckets_of_several_days_lie_in_one_file_without_what_is_done_with() {
    let disk = Arc::new(SimulatedDisk::default());
    shelf(&disk).await;
    let cold = open(&disk).await;
    let by_day = Compaction {
        across_days: false,
        ..SHELF
    };
    let bytes = |cold: &Cold| cold.ages(TOPIC).iter().map(|file| file.bytes).sum::<u64>();
    let before = bytes(&cold);
    // Alone, each of them is written anew without most of what it holds.
    let done = cold.compact(TOPIC, by_day).await.unwrap();
    assert_eq!((done.files_merged, done.files_made), (9, 9));
    assert!(bytes(&cold) < before, "{} of {before}", bytes(&cold));
    let done = cold.compact(TOPIC, SHELF).await.unwrap();
    assert_eq!((done.files_merged, done.files_made), (9, 1));
    let done = cold.compact(TOPIC, SHELF).await.unwrap();
    assert_eq!(done.files_made, 0, "there is nothing left to do");
    assert_eq!(read(&cold, 200, 0, ALL).await.unwrap().len(), 9);
    assert_eq!(read(&cold, 300, 0, ALL).await.unwrap().len(), 18);
}

#[tokio::test]
async fn a_crash_anywhere_in_a_merge_of_buckets_loses_nothing_that_waits() {
    for (dies_at, happens) in (0..8).flat_map(|at| [(at, false), (at, true)]) {
        let disk = Arc::new(SimulatedDisk::default());
        shelf(&disk).await;
        let dying = Handle::over(&disk, dies_at, happens);
        let cold = Cold::open(Arc::new(dying.clone()), Arc::new(dying.clone()), term())
            .await
            .unwrap();
        let answered = cold.compact(TOPIC, SHELF).await.is_ok();
        let disk = Arc::new(disk.crash(&Seeded::new(dies_at as u64)));
        drop(cold);
        drop(dying);
        let cold = open(&disk).await;
        let files = cold.ages(TOPIC).len();
        assert!(files == 1 || (files == 9 && !answered), "{files} files");
        let waits = async |cold: &Cold| {
            let mut all = read(cold, 200, 0, ALL).await.unwrap();
            all.extend(read(cold, 300, 0, ALL).await.unwrap());
            all.into_iter()
                .map(|one| one.message_id)
                .collect::<Vec<_>>()
        };
        let expected = [messages(200, 0..9), messages(300, 0..18)].concat();
        let expected: Vec<String> = expected.into_iter().map(|one| one.message_id).collect();
        assert_eq!(waits(&cold).await, expected);
        cold.sweep().await.unwrap();
        cold.compact(TOPIC, SHELF).await.unwrap();
        assert_eq!(cold.ages(TOPIC).len(), 1);
        assert_eq!(waits(&cold).await, expected);
        cold.remove_garbage().await;
        assert_eq!(paths(&disk, "cold/topics/7/data").len(), 1, "no orphan");
    }
}
