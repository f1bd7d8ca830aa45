//! Idempotent producers at the wire: two user properties.

use millpond_proto::property::{PRODUCER_ID, PRODUCER_SEQUENCE};

use super::consumers::{World, message, poll, world};
use super::*;

fn numbered(sequence: &str) -> pb::Message {
    let properties = [(PRODUCER_ID, "till-7"), (PRODUCER_SEQUENCE, sequence)];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    pb::Message {
        user_properties: properties.into(),
        ..message("orders", sequence, None)
    }
}

async fn send(world: &mut World, messages: Vec<pb::Message>) -> pb::SendMessageResponse {
    let request = from_client(pb::SendMessageRequest { messages });
    let answer = world.client.send_message(request).await;
    answer.unwrap().into_inner()
}

#[tokio::test]
async fn a_message_sent_again_is_answered_ok_and_delivered_once() {
    let mut world = world().await;
    world.make("orders").await;
    let first = send(&mut world, vec![numbered("1"), numbered("2")]).await;
    let again = send(
        &mut world,
        vec![numbered("2"), numbered("1"), numbered("3")],
    )
    .await;
    assert_eq!(code(again.status), pb::Code::Ok);
    assert_eq!(again.entries[0].offset, first.entries[1].offset);
    assert_eq!(again.entries[1].offset, first.entries[0].offset);
    let (_, got) = world.receive("c", poll("orders", "billing", "*")).await;
    assert_eq!(got.len(), 3);
    for message in &got {
        assert_eq!(
            message.user_properties[PRODUCER_ID], "till-7",
            "it stays a property"
        );
    }
    let mut halved = numbered("4");
    halved.user_properties.remove(PRODUCER_ID);
    let refused = send(&mut world, vec![halved]).await;
    assert_eq!(code(refused.status), pb::Code::IllegalMessagePropertyKey);
    world.server.stop().await;
}
