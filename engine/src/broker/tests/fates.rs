//! What a producer is told when the log fails: never that nothing was stored when something may have been.

use millpond_storage::error::AppendError;

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_on_its_way_when_a_sync_failed_is_told_to_be_unknown() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let one_queue = NewTopic {
        queues: Some(1),
        ..new_topic()
    };
    broker.create_topic(one_queue).await.unwrap();
    disk.fail_next_sync();
    // The large one fills a group, so the small one is in the group behind it when that one fails.
    let (large, small) = ("l".repeat(2 * 1024 * 1024), "s");
    let topic = topic();
    let sends = [large.as_str(), small].map(|body| {
        let message = Envelope {
            message_id: "id".to_owned(),
            ..message("k", body)
        };
        broker.send(&topic, vec![message])
    });
    for sent in futures::future::join_all(sends).await {
        let error = match sent {
            Err(error) => error,
            Ok(mut results) => results.remove(0).unwrap_err(),
        };
        assert!(
            matches!(error, BrokerError::Append(AppendError::Failed { .. })),
            "{error:?}"
        );
    }
}
