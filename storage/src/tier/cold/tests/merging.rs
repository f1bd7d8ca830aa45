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
