//! Much at once: what the log can not take is cut, or refused alone, and never ends the run for everybody.

use millpond_storage::format::envelope::{Property, PropertyValue};

use super::*;

/// Messages whose bodies say little of their size.
fn rich(count: usize, value_bytes: usize) -> Vec<Envelope> {
    let property = Property {
        key: "all".to_owned(),
        value: Some(PropertyValue::Text("x".repeat(value_bytes))),
    };
    let one = Envelope {
        properties: vec![property],
        ..message("k", "1")
    };
    vec![one; count]
}

#[tokio::test(start_paused = true)]
async fn sends_that_come_at_once_are_cut_into_what_the_log_takes() {
    let broker = open(&SimulatedDisk::new()).await;
    broker.create_topic(new_topic()).await.unwrap();
    let before = broker.incarnation().unwrap();
    let sends = (0..3).map(|_| async { broker.send(&topic(), rich(1000, 16_000)).await });
    for sent in futures::future::join_all(sends).await {
        assert!(sent.unwrap().iter().all(Result::is_ok));
    }
    let after = broker.incarnation().unwrap();
    assert!(Arc::ptr_eq(&before, &after), "nobody was interrupted");
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn one_send_that_the_log_does_not_take_is_refused_and_no_other_call_notices() {
    let broker = open(&SimulatedDisk::new()).await;
    broker.create_topic(new_topic()).await.unwrap();
    let before = broker.incarnation().unwrap();
    let orders = topic();
    let (large, small) = tokio::join!(
        broker.send(&orders, rich(2500, 16_000)),
        broker.send(&orders, rich(1, 1)),
    );
    let refused = large.unwrap();
    assert!(
        matches!(
            refused[0],
            Err(BrokerError::Append(
                millpond_storage::error::AppendError::TooLarge { .. }
            ))
        ),
        "{:?}",
        refused[0]
    );
    assert_eq!(small.unwrap()[0].as_ref().unwrap().offset, Offset(0));
    let after = broker.incarnation().unwrap();
    assert!(Arc::ptr_eq(&before, &after), "nobody was interrupted");
    broker.close().await;
}
