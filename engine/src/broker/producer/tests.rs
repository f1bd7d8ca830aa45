//! The windows against a model that remembers everything.

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn numbered(producer: &str, sequence: u64) -> Envelope {
    Envelope {
        topic: 7,
        queue: 1,
        producer_id: Some(producer.to_owned()),
        producer_sequence: Some(sequence),
        ..Envelope::default()
    }
}

/// A queue as a shard keeps it.
#[derive(Default)]
struct Queue {
    producers: Producers,
    end: u64,
}

impl Queue {
    fn send(&mut self, messages: Vec<Envelope>) -> Stored {
        let screened = self.producers.screen(messages, NOW).unwrap();
        let mut offsets = Vec::new();
        for message in &screened.new {
            let stored = Envelope {
                offset: self.end,
                stored_at_ms: NOW.as_ms(),
                ..message.clone()
            };
            offsets.push(self.end);
            self.end += 1;
            self.producers.stored(&stored);
        }
        screened.answer(offsets)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Every number is stored once: a repetition gets the first's offset, or is refused as too old.
    #[test]
    fn a_number_is_stored_once_whatever_is_sent_again(
        sends in prop::collection::vec(
            prop::collection::vec((0..3_u8, 0..700_u64), 1..6),
            1..400,
        )
    ) {
        let mut queue = Queue::default();
        let mut model: BTreeMap<(u8, u64), u64> = BTreeMap::new();
        for (turn, send) in sends.into_iter().enumerate() {
            // Numbers grow as time goes by, with some of them much too late.
            let send: Vec<(u8, u64)> = send
                .into_iter()
                .map(|(p, s)| (p, s % 350 + turn as u64))
                .collect();
            let messages = send.iter().map(|(p, s)| numbered(&p.to_string(), *s)).collect();
            let answer = queue.send(messages);
            prop_assert_eq!(answer.offsets.len(), send.len());
            for (place, key) in send.into_iter().enumerate() {
                let is_stale = answer.stale.contains(&u32::try_from(place).unwrap());
                if is_stale {
                    let newer = model.keys().filter(|(p, s)| *p == key.0 && *s > key.1).count();
                    prop_assert!(newer >= limits::PRODUCER_WINDOW, "only the old ones are refused");
                    continue;
                }
                let offset = answer.offsets[place];
                let first = *model.entry(key).or_insert(offset);
                prop_assert_eq!(offset, first, "the answer is the first's");
            }
            prop_assert_eq!(queue.end, model.len() as u64, "nothing is stored twice");
        }
        let restored = Producers::restore(queue.producers.snapshot());
        prop_assert_eq!(restored, queue.producers);
    }
}

#[test]
fn a_message_twice_in_one_send_is_stored_once() {
    let mut queue = Queue::default();
    let send = [4, 5, 4].map(|s| numbered("p", s)).into();
    let answer = queue.send(send);
    assert_eq!(answer.offsets, [0, 1, 0]);
    assert_eq!(queue.end, 2);
}

#[test]
fn messages_without_a_number_pass_untouched() {
    let mut queue = Queue::default();
    let answer = queue.send(vec![Envelope::default(); 3]);
    assert_eq!((answer.offsets, queue.end), (vec![0, 1, 2], 3));
    assert_eq!(queue.producers, Producers::default());
}

#[test]
fn one_producer_more_than_can_be_remembered_is_refused_until_another_falls_silent() {
    let mut queue = Queue::default();
    for producer in 0..limits::PRODUCERS_PER_SHARD_MAX {
        queue.send(vec![numbered(&producer.to_string(), 1)]);
    }
    let one_more = || vec![numbered("one more", 1)];
    assert!(queue.producers.screen(one_more(), NOW).is_none());
    // Those that are known go on.
    assert!(
        queue
            .producers
            .screen(vec![numbered("3", 2)], NOW)
            .is_some()
    );
    let later = Timestamp(NOW.as_ms() + limits::PRODUCER_EXPIRY_MS + 1);
    assert!(queue.producers.screen(one_more(), later).is_some());
    let stored = Envelope {
        stored_at_ms: later.as_ms(),
        ..numbered("one more", 1)
    };
    queue.producers.stored(&stored);
    assert_eq!(queue.producers.windows.len(), 1);
}
