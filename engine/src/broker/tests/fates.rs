//! What becomes of sends when the log fails or is slow: nobody is told that nothing was stored when something may have
//! been, and what nobody waits for any more still counts.

use futures::FutureExt as _;
use millpond_proto::limits;
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

#[tokio::test(start_paused = true)]
async fn what_producers_that_left_have_on_its_way_is_bounded() {
    let broker = open(&SimulatedDisk::new()).await;
    broker.create_topic(new_topic()).await.unwrap();
    send(&broker, &["a"]).await;
    let way = || broker.incarnation().unwrap().way().bytes();
    assert_eq!(way(), 0, "what is answered is not on its way");
    // The shards do not run meanwhile, as on a disk that hangs; one body is shared, so this takes little memory.
    let large = Bytes::from(vec![b'l'; limits::BODY_BYTES_MAX]);
    let sending = || {
        let message = Envelope {
            body: Some(large.clone()),
            ..message("k", "large")
        };
        let topic = topic();
        let broker = &broker;
        async move { broker.send(&topic, vec![message]).await }
    };
    for _ in 0..limits::SENDING_BYTES_MAX / limits::BODY_BYTES_MAX - 1 {
        assert!(sending().now_or_never().is_none(), "it waits for the shard");
    }
    assert!(way() > limits::SENDING_BYTES_MAX - 2 * limits::BODY_BYTES_MAX);
    let Some(Ok(mut refused)) = sending().now_or_never() else {
        panic!("a refusal waits for no shard");
    };
    let refused = refused.remove(0).unwrap_err();
    assert!(matches!(refused, BrokerError::TooMany { .. }), "{refused}");
}
