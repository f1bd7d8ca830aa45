//! Look-ups against reading everything.

use std::sync::Arc;

use millpond_proto::message::Term;
use proptest::prelude::*;

use super::*;
use crate::disk::Disk;
use crate::disk::simulated::SimulatedDisk;
use crate::meta::embedded::EmbeddedMeta;
use crate::tier::objects::DiskObjectStore;

const TOPIC: TopicId = TopicId(7);

async fn open() -> Cold {
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::default());
    let objects = Arc::new(DiskObjectStore::new(Arc::clone(&disk), "cold"));
    let meta = Arc::new(EmbeddedMeta::open(disk, "facts").unwrap());
    Cold::open(objects, meta, Term(1)).await.unwrap()
}

fn message(queue: u32, offset: u64, keys: &[&str]) -> Envelope {
    Envelope {
        topic: TOPIC.0,
        queue,
        offset,
        stored_at_ms: i64::try_from(offset).unwrap(),
        message_id: format!("id-{queue}-{offset}"),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        body: Some(vec![7; 20].into()),
        ..Envelope::default()
    }
}

/// All steps of a look-up.
async fn look_up(cold: &Cold, queue: u32, range: Range<u64>, lookup: &Lookup) -> LookedUp {
    let mut found = LookedUp {
        to: Offset(range.start),
        ..LookedUp::default()
    };
    while found.to.0 < range.end {
        let rest = found.to.0..range.end;
        let step = cold.look_up(TOPIC, QueueId(queue), rest, lookup).await;
        found.add(step.unwrap());
    }
    found
}

#[tokio::test]
async fn a_message_is_found_in_its_file_and_the_others_are_ruled_out() {
    let cold = open().await;
    for from in [0, 1000, 2000_u64] {
        let messages: Vec<Envelope> = (from..from + 1000)
            .map(|offset| message(0, offset, &[]))
            .collect();
        cold.write(TOPIC, &messages, &[]).await.unwrap();
    }
    let by_id = Lookup::MessageId("id-0-1234".to_owned());
    let found = look_up(&cold, 0, 0..3000, &by_id).await;
    assert_eq!(found.matches, [Offset(1234)]);
    assert_eq!(found.compared + found.ruled_out, 3000);
    assert!(found.ruled_out >= 1000, "{found:?}");
    let nowhere = Lookup::MessageId("id-0-9999".to_owned());
    let found = look_up(&cold, 0, 100..2900, &nowhere).await;
    assert_eq!(
        (found.matches.len(), found.compared + found.ruled_out),
        (0, 2800)
    );
    let step = cold.look_up(TOPIC, QueueId(9), 0..10, &nowhere).await;
    assert!(
        matches!(step, Err(ReadError::Damaged { .. })),
        "no such queue"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Keys, several of them and twice, in queues that share files with others.
    #[test]
    fn a_look_up_finds_what_reading_all_finds(
        keys in proptest::collection::vec(proptest::collection::vec(0_u8..6, 0..3), 1..60),
        files in 1_usize..4,
        wanted in 0_u8..7,
        from in 0_u64..20,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let cold = open().await;
            let name = |key: u8| format!("key-{key}");
            let messages: Vec<Envelope> = (0_u64..)
                .zip(&keys)
                .map(|(offset, keys)| {
                    let keys: Vec<String> = keys.iter().map(|&key| name(key)).collect();
                    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                    message(3, offset, &keys)
                })
                .collect();
            for part in messages.chunks(messages.len().div_ceil(files)) {
                cold.write(TOPIC, part, &[]).await.unwrap();
            }
            let lookup = Lookup::Key(name(wanted));
            let end = messages.len() as u64;
            let found = look_up(&cold, 3, from.min(end)..end, &lookup).await;
            let expected = messages.iter().filter(|m| m.offset >= from && lookup.matches(m));
            let expected: Vec<Offset> = expected.map(Envelope::at).collect();
            prop_assert_eq!(found.matches, expected);
            prop_assert_eq!(found.compared + found.ruled_out, end - from.min(end));
            Ok(())
        })?;
    }
}
