//! What the log lets go of, by time, by bytes and with its topic, and that no restart takes it back.

use super::*;

fn first(storage: &Storage) -> u64 {
    storage.extent(TOPIC, QueueId(1)).unwrap().first.0
}

#[tokio::test]
async fn retention_by_time_raises_the_first_offset_and_no_restart_lowers_it() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for file in 0..3 {
        send_at(&storage, file * 10..(file + 1) * 10).await;
        storage.tier().await.unwrap();
    }
    send_at(&storage, 30..40).await;
    let keep = |stored_from_ms| Keep {
        stored_from_ms: Some(stored_from_ms),
        ..Keep::default()
    };
    assert_eq!(
        storage.retain(TOPIC, keep(90)).await.unwrap(),
        Trimmed::default()
    );
    let trimmed = storage.retain(TOPIC, keep(150)).await.unwrap();
    assert_eq!(
        (trimmed.messages, trimmed.files, first(&storage)),
        (10, 1, 10)
    );
    let read = one(&storage, 1, 9).await.unwrap_err();
    assert!(
        matches!(
            read,
            ReadError::Trimmed {
                first: Offset(10),
                ..
            }
        ),
        "{read}"
    );
    assert_eq!(one(&storage, 1, 10).await.unwrap().offset, 10);
    // The log is trimmed too, in the middle, once all files are old.
    let trimmed = storage.retain(TOPIC, keep(333)).await.unwrap();
    assert_eq!(
        (trimmed.messages, trimmed.files, first(&storage)),
        (24, 2, 34)
    );
    storage.close().await;
    let disk = disk.crash(&Seeded::new(1));
    let (storage, _) = open(&disk).await;
    assert_eq!(first(&storage), 34);
    assert_eq!(storage.sizes().hot_messages, 6);
    assert_eq!(one(&storage, 1, 34).await.unwrap().offset, 34);
    assert_eq!(storage.retain(TOPIC, keep(9999)).await.unwrap().messages, 6);
    let extent = storage.extent(TOPIC, QueueId(1)).unwrap();
    assert_eq!((extent.first.0, extent.next.0), (40, 40));
    storage.close().await;
    let (storage, _) = open(&disk).await;
    assert_eq!(storage.extent(TOPIC, QueueId(1)), Some(extent));
    send_at(&storage, 40..42).await;
    storage.tier().await.unwrap();
    assert_eq!(
        (first(&storage), one(&storage, 1, 41).await.unwrap().offset),
        (40, 41)
    );
}

#[tokio::test]
async fn a_queue_is_let_go_of_alone_and_its_file_when_nothing_in_it_is_kept() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for queue in 1..=3 {
        for offset in 0..4 {
            send(&storage, queue, offset).await.unwrap();
        }
        if queue == 2 {
            storage.tier().await.unwrap();
        }
    }
    let all_of = |queue| BTreeMap::from([(QueueId(queue), Offset(4))]);
    let files = || storage.sizes_of(TOPIC).cold.files;
    for queue in [1, 3] {
        storage.release(TOPIC, &all_of(queue)).await.unwrap();
        assert_eq!(files(), 1);
    }
    assert_eq!(offsets(&storage, 2, 0).await, [0, 1, 2, 3]);
    storage.release(TOPIC, &all_of(2)).await.unwrap();
    storage.release(TOPIC, &all_of(2)).await.unwrap();
    assert_eq!(files(), 0);
    storage.close().await;
    // The log still has the messages; nobody sees them again, and the queues go on.
    let (storage, _) = open(&disk.crash(&Seeded::new(1))).await;
    for queue in 1..=3 {
        let read = storage.read(TOPIC, QueueId(queue), Offset(3), ALL).await;
        assert!(matches!(read, Err(ReadError::Trimmed { .. })), "{read:?}");
    }
    send(&storage, 2, 4).await.unwrap();
    assert_eq!(offsets(&storage, 2, 4).await, [4]);
}

#[tokio::test]
async fn retention_by_bytes_keeps_the_newest() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for file in 0..3 {
        send_at(&storage, file * 10..(file + 1) * 10).await;
        storage.tier().await.unwrap();
    }
    send_at(&storage, 30..40).await;
    let sizes = storage.sizes_of(TOPIC);
    let all = sizes.hot_bytes + sizes.cold.bytes;
    let keep = |bytes| Keep {
        bytes_max: Some(bytes),
        ..Keep::default()
    };
    assert_eq!(
        storage.retain(TOPIC, keep(all)).await.unwrap(),
        Trimmed::default()
    );
    storage.retain(TOPIC, keep(all - 1)).await.unwrap();
    assert_eq!(first(&storage), 10);
    storage.retain(TOPIC, keep(sizes.hot_bytes)).await.unwrap();
    assert_eq!(first(&storage), 30);
    storage
        .retain(TOPIC, keep(sizes.hot_bytes / 2))
        .await
        .unwrap();
    assert_eq!(first(&storage), 35);
    assert!(storage.sizes_of(TOPIC).hot_bytes <= sizes.hot_bytes / 2);
    storage.retain(TOPIC, keep(0)).await.unwrap();
    let extent = storage.extent(TOPIC, QueueId(1)).unwrap();
    assert_eq!((extent.first.0, extent.next.0), (40, 40));
}

#[tokio::test]
async fn a_deleted_topic_stays_deleted_whatever_the_log_remembers() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    send_at(&storage, 0..10).await;
    storage.tier().await.unwrap();
    send_at(&storage, 10..20).await;
    storage.forget(TOPIC).await.unwrap();
    // A send that was on its way when the topic was deleted.
    send_at(&storage, 20..21).await;
    assert_eq!(storage.tier().await.unwrap(), Tiered::default());
    assert_eq!(storage.topics(), []);
    let anew = TopicId(8);
    let other = Envelope {
        topic: 8,
        ..message(1, 0)
    };
    let durable = storage
        .append(ShardId(1), vec![Record::Message(other.clone())])
        .await;
    durable.unwrap().await.unwrap();
    storage.close().await;
    let (storage, _) = open(&disk).await;
    assert_eq!(storage.topics(), [anew]);
    assert_eq!(storage.tier().await.unwrap().messages, 1);
    assert_eq!(
        storage
            .read(anew, QueueId(1), Offset(0), ALL)
            .await
            .unwrap(),
        [other]
    );
    let of_old = |disk: &SimulatedDisk| {
        let paths = disk.snapshot().into_keys();
        paths
            .filter(|path| path.starts_with("objects/topics/7/"))
            .count()
    };
    assert_eq!(of_old(&disk), 0);
    // Once the log holds nothing of it, nothing is kept to remember it by.
    let gone = |storage: &Storage| storage.meta().keys("topic/7/").unwrap().len();
    for round in 0..3 {
        assert!(round > 0 || gone(&storage) == 1);
        for offset in round * 30..(round + 1) * 30 {
            let filler = Envelope {
                topic: 9,
                ..message(1, offset)
            };
            let durable = storage
                .append(ShardId(1), vec![Record::Message(filler)])
                .await;
            durable.unwrap().await.unwrap();
            send_to_0(&storage, offset).await;
        }
        storage.tier().await.unwrap();
        let mut snapshots = Vec::new();
        for shard in (0..4).map(ShardId) {
            let position = storage.append(shard, vec![]).await.unwrap().await.unwrap();
            let state = Bytes::new();
            snapshots.push(ShardSnapshot {
                shard,
                position,
                state,
            });
        }
        storage.checkpoint(snapshots).await.unwrap();
    }
    assert_eq!(gone(&storage), 0);
}
