//! What an open log tells of itself.

use super::*;
use crate::log::counts::{Appended, AtRest};

#[tokio::test]
async fn what_becomes_durable_is_counted_once_and_bytes_go_from_hot_to_cold() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    assert_eq!(storage.appended(), Appended::default());
    assert_eq!(storage.at_rest(), AtRest::default());
    for offset in 0..30 {
        send(&storage, 1, offset).await.unwrap();
    }
    state(&storage, 0, "seven b").await;
    let (appended, at_rest) = (storage.appended(), storage.at_rest());
    assert_eq!((appended.records, appended.groups), (31, 31));
    assert_eq!(appended.bytes, at_rest.hot_bytes + 7);
    assert_eq!((at_rest.cold_bytes, at_rest.cold_files), (0, 0));

    let tiered = storage.tier().await.unwrap();
    let at_rest = storage.at_rest();
    assert_eq!((at_rest.hot_bytes, at_rest.cold_bytes), (0, tiered.bytes));
    assert_eq!(at_rest.cold_files, 1);
    send(&storage, 1, 30).await.unwrap();
    storage.close().await;

    // What recovery finds lies somewhere, and was counted before.
    let (storage, _) = open(&disk).await;
    let again = storage.at_rest();
    assert!(again.hot_bytes > 0);
    assert_eq!(again.cold_bytes, at_rest.cold_bytes);
    assert_eq!(storage.appended(), Appended::default());
    storage.forget(TOPIC).await.unwrap();
    assert_eq!(storage.at_rest(), AtRest::default());
}
