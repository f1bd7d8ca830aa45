//! What a message may be, what a send answers, and what of it a consumer gets, at the wire.

use millpond_proto::limits;

use super::consumers::{World, by, message, poll, system, world};
use super::*;

async fn sent(world: &mut World, messages: Vec<pb::Message>) -> pb::SendMessageResponse {
    let request = by("p", pb::SendMessageRequest { messages });
    let answer = world.client.send_message(request).await;
    answer.unwrap().into_inner()
}

type Spoil = fn(&mut pb::Message, &mut pb::SystemProperties);

#[tokio::test]
async fn each_limit_of_a_message_has_its_code_and_what_is_just_within_passes() {
    use pb::Code as C;
    let mut world = world().await;
    world.make("orders").await;
    let refused: [(C, Spoil); 15] = [
        (C::MessageBodyEmpty, |m, _| m.body = Default::default()),
        (C::MessageBodyTooLarge, |m, _| {
            m.body = vec![0; limits::BODY_BYTES_MAX + 1].into();
        }),
        (C::MessagePropertiesTooLarge, |m, _| {
            m.user_properties = (0..129).map(|n| (n.to_string(), String::new())).collect();
        }),
        (C::MessagePropertiesTooLarge, |m, _| {
            m.user_properties.insert("k".into(), "v".repeat(16_384));
        }),
        (C::IllegalMessagePropertyKey, |m, _| {
            m.user_properties.insert("UNIQ_KEY".into(), "v".into());
        }),
        (C::IllegalMessagePropertyKey, |m, _| {
            m.user_properties.insert("k".into(), "line\nbreak".into());
        }),
        (C::IllegalMessageTag, |_, s| s.tag = Some("a|b".into())),
        (C::IllegalMessageTag, |_, s| s.tag = Some("  ".into())),
        (C::IllegalMessageKey, |_, s| {
            s.keys = vec!["k".into(), " ".into()]
        }),
        (C::IllegalMessageKey, |_, s| s.keys = vec!["\u{7}".into()]),
        (C::IllegalMessageId, |_, s| s.message_id = " ".into()),
        (C::IllegalMessageGroup, |_, s| {
            s.message_group = Some("g".repeat(64))
        }),
        (C::IllegalMessageGroup, |_, s| {
            s.message_group = Some(" ".into())
        }),
        (C::IllegalLiteTopic, |_, s| {
            s.lite_topic = Some("l".repeat(65))
        }),
        (C::MessagePropertyConflictWithType, |_, s| {
            s.message_group = Some("g".into())
        }),
    ];
    let make = |spoil: Spoil| {
        let mut made = message("orders", "1", None);
        let mut system = made.system_properties.take().unwrap();
        spoil(&mut made, &mut system);
        made.system_properties = Some(system);
        made
    };
    for (n, (expected, spoil)) in refused.into_iter().enumerate() {
        let answer = sent(&mut world, vec![make(spoil)]).await;
        assert_eq!(code(answer.status), expected, "case {n}");
        assert!(answer.entries.is_empty(), "nothing was stored");
    }
    let fine: [Spoil; 5] = [
        |m, _| m.body = vec![0; limits::BODY_BYTES_MAX].into(),
        |m, _| m.user_properties = (0..128).map(|n| (n.to_string(), String::new())).collect(),
        |m, _| {
            m.user_properties.insert("k".into(), "v".repeat(16_383));
        },
        |_, s| s.tag = Some("t".repeat(200)),
        // Empty means absent, as in every language's getter.
        |_, s| (s.tag, s.message_group, s.lite_topic) = (Some("".into()), Some("".into()), None),
    ];
    for (n, spoil) in fine.into_iter().enumerate() {
        let answer = sent(&mut world, vec![make(spoil)]).await;
        assert_eq!(code(answer.status), C::Ok, "case {n}");
    }
    // What was refused is not there, whoever looks.
    let most = limits::REQUEST_BYTES_MAX;
    world.client = world.client.clone().max_decoding_message_size(most);
    let mut count = 0;
    loop {
        let (_, got) = world.receive("c", poll("orders", "billing", "*")).await;
        if got.is_empty() {
            break;
        }
        count += got.len();
    }
    assert_eq!(count, 5);
    let nothing = sent(&mut world, Vec::new()).await;
    assert_eq!(code(nothing.status), C::MessageCorrupted);
    let two = vec![message("orders", "1", None), message("other", "2", None)];
    assert_eq!(
        code(sent(&mut world, two).await.status),
        C::MessageCorrupted
    );
    world.server.stop().await;
}

#[tokio::test]
async fn a_batch_has_one_entry_per_message_in_its_order() {
    let mut world = world().await;
    world.make("orders").await;
    let ids: Vec<String> = (0..40).map(|n| format!("m{n}")).collect();
    let batch = ids.iter().map(|id| message("orders", id, None)).collect();
    let answer = sent(&mut world, batch).await;
    assert_eq!(code(answer.status), pb::Code::Ok);
    let echoed: Vec<&str> = answer
        .entries
        .iter()
        .map(|e| e.message_id.as_str())
        .collect();
    assert_eq!(echoed, ids);
    // However many are asked for, a poll gives 32 at most, from any queue.
    let mut greedy = poll("orders", "billing", "*");
    greedy.batch_size = 1_000;
    greedy.message_queue.as_mut().unwrap().id = 0;
    let (_, got) = world.receive("c", greedy).await;
    assert_eq!(got.len(), limits::RECEIVE_BATCH_MAX);
    world.server.stop().await;
}

#[tokio::test]
async fn a_delivered_message_is_what_every_client_can_read() {
    let mut world = world().await;
    world.make("orders").await;
    let mut original = message("orders", "01AB", Some("paid"));
    original.body = b"hello world".to_vec().into();
    original
        .user_properties
        .insert("__SHARDINGKEY".into(), "k".into());
    let born = prost_types::Timestamp {
        seconds: 1_700_000_000,
        nanos: 5_000_000,
    };
    let said = original.system_properties.as_mut().unwrap();
    said.keys = vec!["a".into(), "b".into()];
    said.born_timestamp = Some(born);
    said.born_host = "till".into();
    said.trace_context = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    world.send(original.clone()).await;
    let (_, got) = world.receive("c", poll("orders", "billing", "*")).await;
    let (got, said) = (&got[0], original.system_properties.as_ref().unwrap());
    assert_eq!(got.topic, original.topic);
    assert_eq!(got.body, original.body);
    assert_eq!(got.user_properties, original.user_properties);
    let system = system(got);
    assert_eq!(system.born_timestamp, Some(born));
    assert_eq!(
        (
            &system.tag,
            &system.keys,
            &system.message_id,
            &system.born_host,
            &system.trace_context
        ),
        (
            &said.tag,
            &said.keys,
            &said.message_id,
            &said.born_host,
            &said.trace_context
        )
    );
    // Node throws without a digest, and no two clients agree on CRC32.
    let digest = system.body_digest.as_ref().unwrap();
    assert_eq!(digest.r#type(), pb::DigestType::Md5);
    assert_eq!(digest.checksum, "5EB63BBBE01EEED093CB22BB8F5ACDC3");
    assert_eq!(system.message_type(), pb::MessageType::Normal);
    assert_eq!(system.delivery_attempt, Some(1));
    assert!(system.store_timestamp.is_some() && system.queue_offset.is_some());
    assert!(
        system.invisible_duration.is_none(),
        "as the original leaves it"
    );
    world.server.stop().await;
}
