//! What is let go of: that it goes although a removal failed, and that nothing of a deleted topic is remembered.

use super::*;

#[tokio::test]
async fn an_object_that_could_not_be_removed_is_removed_the_next_time() {
    for (at, happens) in (0..12).flat_map(|at| [(at, false), (at, true)]) {
        let disk = Arc::new(SimulatedDisk::default());
        let cold = open(&disk).await;
        for file in 0..4 {
            let messages = messages(0, file * 10..file * 10 + 10);
            cold.write(TOPIC, &messages, &[]).await.unwrap();
        }
        drop(cold);
        let failing = Handle::failing_once(&disk, at, happens);
        let cold = Cold::open(Arc::new(failing.clone()), Arc::new(failing), term())
            .await
            .unwrap();
        if cold.compact(TOPIC, Compaction::default()).await.is_ok() {
            cold.remove_garbage().await;
            assert_eq!(paths(&disk, "cold/topics/").len(), 2, "call {at}");
            assert!(cold.garbage().is_empty());
        }
    }
}

#[tokio::test]
async fn a_deleted_topic_leaves_nothing_in_memory_but_that_it_is_gone() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(TOPIC, &messages(0, 0..10), &[]).await.unwrap();
    let range = Offset(0)..Offset(10);
    let reader = cold.scan(TOPIC, QueueId(0), range, &Reads::of(&["offset"]));
    cold.write(TOPIC, &messages(0, 10..20), &[]).await.unwrap();
    assert!(!cold.garbage().is_empty());
    cold.forget(TOPIC).await.unwrap();
    assert!(cold.garbage().is_empty() && cold.garbage().manifests.is_empty());
    assert!(cold.is_gone(TOPIC));
    drop(reader);
}
