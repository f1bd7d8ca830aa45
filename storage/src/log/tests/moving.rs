//! What a turn of the tierer moves at once.

use super::*;
use crate::tier::parquet::GROUP_BYTES_MAX;

#[tokio::test]
async fn however_much_waits_a_turn_holds_no_more_of_it_than_a_row_group_has() {
    const BODY_BYTES: usize = GROUP_BYTES_MAX / 8;
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for offset in 0..20 {
        let large = Envelope {
            body: Some(vec![7; BODY_BYTES].into()),
            ..message(1, offset)
        };
        let durable = storage.append(ShardId(1), vec![Record::Message(large)]);
        durable.await.unwrap().await.unwrap();
    }
    let tiered = storage.tier().await.unwrap();
    assert_eq!(tiered.messages, 20, "all of it is moved in one turn");
    let cold = storage.sizes_of(TOPIC).cold;
    assert_eq!((cold.files, cold.messages), (3, 20));
}
