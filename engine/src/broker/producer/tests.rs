//! The windows against a model that remembers everything.

use proptest::prelude::*;

use millpond_proto::message::ShardId;

use super::*;
use crate::broker::shelf::{Address, address, shelf_topic};

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

/// A queue and a shelf as a shard keeps them.
#[derive(Default)]
struct Queue {
    producers: Producers,
    end: u64,
    shelf: u64,
}

impl Queue {
    fn send(&mut self, messages: Vec<Envelope>) -> Stored {
        let screened = self.producers.screen(messages, NOW).unwrap();
        let stored = screened.new.iter().map(|message| self.place(message));
        let offsets = stored.collect();
        screened.answer(offsets)
    }

    fn place(&mut self, message: &Envelope) -> u64 {
        let offset = self.end;
        self.end += 1;
        self.producers.stored(&Envelope {
            offset,
            stored_at_ms: NOW.as_ms(),
            ..message.clone()
        });
        offset
    }

    /// Sends messages that wait.
    fn shelve(&mut self, messages: Vec<Envelope>) -> Vec<Option<Place>> {
        let screened = self.producers.screen(messages, NOW).unwrap();
        let mut spots = Vec::new();
        for message in &screened.new {
            let spot = Spot {
                bucket: 70_000,
                number: self.shelf,
            };
            self.shelf += 1;
            let mut shelved = message.clone();
            let to = Address {
                topic: message.topic,
                queue: message.queue,
                check_after_ms: 0,
            };
            address(&mut shelved, &to);
            (shelved.topic, shelved.queue) = (shelf_topic(ShardId(0)), spot.bucket);
            (shelved.offset, shelved.stored_at_ms) = (spot.number, NOW.as_ms());
            self.producers.shelved(&shelved);
            spots.push(Place::Shelf(spot));
        }
        screened.places(spots)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Every number is stored once: a repetition gets the first's place, or is refused as too old. What leaves the
    /// shelf changes nothing.
    #[test]
    fn a_number_is_stored_once_whatever_is_sent_again(
        sends in prop::collection::vec(
            (any::<bool>(), prop::collection::vec((0..3_u8, 0..700_u64), 1..6)),
            1..400,
        )
    ) {
        let mut queue = Queue::default();
        let mut model: BTreeMap<(u8, u64), Place> = BTreeMap::new();
        for (turn, (waits, send)) in sends.into_iter().enumerate() {
            // Numbers grow as time goes by, with some of them much too late.
            let send: Vec<(u8, u64)> = send
                .into_iter()
                .map(|(p, s)| (p, s % 350 + turn as u64))
                // Those that wait have producers of their own, as they have topics of their own.
                .map(|(p, s)| if waits { (p + 10, s) } else { (p, s) })
                .collect();
            let messages: Vec<Envelope> =
                send.iter().map(|(p, s)| numbered(&p.to_string(), *s)).collect();
            let places = if waits {
                let places = queue.shelve(messages.clone());
                let known = queue.producers.clone();
                for (message, _) in messages.iter().zip(&places).filter(|(_, place)| place.is_some()) {
                    queue.place(message);
                }
                prop_assert_eq!(&queue.producers, &known, "what leaves the shelf is known");
                places
            } else {
                let answer = queue.send(messages);
                let stale = |place: usize| answer.stale.contains(&u32::try_from(place).unwrap());
                let offsets = answer.offsets.iter().enumerate();
                offsets
                    .map(|(place, offset)| (!stale(place)).then_some(Place::Queue(*offset)))
                    .collect()
            };
            prop_assert_eq!(places.len(), send.len());
            for (place, key) in places.into_iter().zip(send) {
                let Some(place) = place else {
                    let newer = model.keys().filter(|(p, s)| *p == key.0 && *s > key.1).count();
                    prop_assert!(newer >= limits::PRODUCER_WINDOW, "only the old ones are refused");
                    continue;
                };
                let first = *model.entry(key).or_insert(place);
                prop_assert_eq!(place, first, "the answer is the first's");
            }
            let shelved = model.keys().filter(|(p, _)| *p >= 10).count();
            prop_assert_eq!(queue.shelf, shelved as u64, "nothing is shelved twice");
        }
        let offset = |place: &Place| match place {
            Place::Queue(offset) => Some(*offset),
            Place::Shelf(_) => None,
        };
        let offsets: BTreeSet<u64> = model.values().filter_map(offset).collect();
        let sent = model.keys().filter(|(p, _)| *p < 10).count();
        prop_assert_eq!(offsets.len(), sent, "nothing is stored twice");
        let restored = Producers::restore(queue.producers.snapshot());
        prop_assert_eq!(restored, queue.producers);
    }
}

#[test]
fn what_leaves_the_shelf_when_its_producer_is_forgotten_finds_no_room_that_is_not_there() {
    let mut queue = Queue::default();
    for producer in 0..limits::PRODUCERS_PER_SHARD_MAX {
        queue.send(vec![numbered(&producer.to_string(), 1)]);
    }
    let known = queue.producers.clone();
    queue.place(&numbered("long ago", 1));
    assert_eq!(queue.producers, known);
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
