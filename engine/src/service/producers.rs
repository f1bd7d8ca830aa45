//! Clients that listen: producers whom the server can ask about a transaction, consumers whom it can tell something.
//!
//! A producer that published settings for a topic over its telemetry stream is in, until the stream ends. A
//! question goes to the one that was asked longest ago and can take it now; a full queue counts as busy.
//!
//! Bounded: [`limits::CLIENTS_MAX`] streams, [`limits::TOPICS_MAX`] topics of one, and
//! [`limits::PUBLISHED_TOPICS_MAX`] of all together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;

use millpond_proto::limits;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;
use tokio::sync::mpsc;

use crate::service::code::Refusal;

/// Commands that may wait for one client.
pub const COMMANDS_MAX: usize = 64;

/// Producers by the topics that they publish to.
#[derive(Debug, Default)]
pub struct Producers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    last: u64,
    streams: BTreeMap<u64, Stream>,
    clients: BTreeMap<String, BTreeSet<u64>>,
    /// Streams by topic, the one that was asked longest ago first.
    by_topic: BTreeMap<String, VecDeque<u64>>,
    /// Topics of all streams.
    published: usize,
}

#[derive(Debug)]
struct Stream {
    client: String,
    commands: mpsc::Sender<pb::TelemetryCommand>,
    topics: BTreeSet<String>,
}

impl Producers {
    /// A stream has begun; its number, and what the server has for it.
    ///
    /// # Errors
    /// `TOO_MANY_REQUESTS` when there are too many streams.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn enter(
        &self,
        client: &str,
    ) -> Result<(u64, mpsc::Receiver<pb::TelemetryCommand>), Refusal> {
        let mut known = self.0.lock().expect("no holder panics");
        if known.streams.len() >= limits::CLIENTS_MAX {
            return Err(too_many(format!(
                "{} streams of commands are open, which is the limit; close some or try again later",
                limits::CLIENTS_MAX
            )));
        }
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        known.last += 1;
        let number = known.last;
        let topics = BTreeSet::new();
        let client = client.to_owned();
        known
            .clients
            .entry(client.clone())
            .or_default()
            .insert(number);
        let stream = Stream {
            client,
            commands,
            topics,
        };
        known.streams.insert(number, stream);
        Ok((number, receiver))
    }

    /// A stream's client publishes to these topics, and to none that it published to before.
    ///
    /// # Errors
    /// `TOO_MANY_REQUESTS` when they are too many; then it publishes to none.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn publishes(&self, number: u64, topics: BTreeSet<String>) -> Result<(), Refusal> {
        let mut known = self.0.lock().expect("no holder panics");
        known.take_out(number);
        if topics.len() > limits::TOPICS_MAX {
            return Err(too_many(format!(
                "the settings name {} topics to publish to, limit {}; name fewer, or use several clients",
                topics.len(),
                limits::TOPICS_MAX
            )));
        }
        if known.published + topics.len() > limits::PUBLISHED_TOPICS_MAX {
            return Err(too_many(format!(
                "all clients together publish to {} topics, and the settings name {} more, limit {}; name \
                 fewer, or close clients",
                known.published,
                topics.len(),
                limits::PUBLISHED_TOPICS_MAX
            )));
        }
        let Some(stream) = known.streams.get_mut(&number) else {
            return Ok(());
        };
        stream.topics.clone_from(&topics);
        known.published += topics.len();
        for topic in topics {
            known.by_topic.entry(topic).or_default().push_front(number);
        }
        Ok(())
    }

    /// A stream has ended.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn leave(&self, number: u64) {
        let mut known = self.0.lock().expect("no holder panics");
        known.take_out(number);
        let Some(stream) = known.streams.remove(&number) else {
            return;
        };
        if let Some(numbers) = known.clients.get_mut(&stream.client) {
            numbers.remove(&number);
            if numbers.is_empty() {
                known.clients.remove(&stream.client);
            }
        }
    }

    /// Gives a command to a client over its latest stream; whether it could be given.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn tell(&self, client: &str, command: &pb::TelemetryCommand) -> bool {
        let known = self.0.lock().expect("no holder panics");
        let numbers = known.clients.get(client).into_iter().flatten().rev();
        let mut streams = numbers.filter_map(|number| known.streams.get(number));
        streams.any(|stream| stream.commands.try_send(command.clone()).is_ok())
    }

    /// Gives a command to a producer of a topic; whether there was one to take it.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn ask(&self, topic: &str, command: pb::TelemetryCommand) -> bool {
        let mut known = self.0.lock().expect("no holder panics");
        let Known {
            streams, by_topic, ..
        } = &mut *known;
        let Some(queue) = by_topic.get_mut(topic) else {
            return false;
        };
        let mut command = Some(command);
        for _ in 0..queue.len() {
            queue.rotate_left(1);
            let Some(stream) = queue.back().and_then(|number| streams.get(number)) else {
                continue;
            };
            let Some(given) = command.take() else { break };
            match stream.commands.try_send(given) {
                Ok(()) => return true,
                Err(
                    mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back),
                ) => {
                    command = Some(back);
                }
            }
        }
        false
    }
}

impl Known {
    fn take_out(&mut self, number: u64) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        let topics = std::mem::take(&mut stream.topics);
        self.published -= topics.len();
        for topic in &topics {
            if let Some(queue) = self.by_topic.get_mut(topic) {
                queue.retain(|other| *other != number);
                if queue.is_empty() {
                    self.by_topic.remove(topic);
                }
            }
        }
    }
}

fn too_many(message: String) -> Refusal {
    Refusal::new(Code::TooManyRequests, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_of_a_topic_take_turns_until_they_leave() {
        let producers = Producers::default();
        let topics = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let (a, mut to_a) = producers.enter("client").unwrap();
        let (b, mut to_b) = producers.enter("client").unwrap();
        producers
            .publishes(a, topics(&["orders", "bills"]))
            .unwrap();
        producers.publishes(b, topics(&["orders"])).unwrap();
        let ask = |topic: &str| producers.ask(topic, pb::TelemetryCommand::default());
        assert!(ask("orders") && ask("orders") && ask("bills"));
        assert!(!ask("others"));
        assert!(to_a.try_recv().is_ok() && to_b.try_recv().is_ok());
        assert!(to_a.try_recv().is_ok() && to_b.try_recv().is_err());
        // New settings take the place of the old ones.
        producers.publishes(a, topics(&["orders"])).unwrap();
        assert!(!ask("bills"));
        producers.leave(a);
        assert!(ask("orders") && to_b.try_recv().is_ok() && to_a.try_recv().is_err());
        producers.leave(b);
        assert!(!ask("orders"));
        assert!(!producers.tell("client", &pb::TelemetryCommand::default()));
        let (_, mut to_c) = producers.enter("client").unwrap();
        assert!(
            producers.tell("client", &pb::TelemetryCommand::default()) && to_c.try_recv().is_ok()
        );
    }

    #[test]
    fn a_producer_that_does_not_listen_is_passed_over() {
        let producers = Producers::default();
        let topic = || BTreeSet::from(["orders".to_owned()]);
        let (slow, _full) = producers.enter("client").unwrap();
        producers.publishes(slow, topic()).unwrap();
        for _ in 0..COMMANDS_MAX {
            assert!(producers.ask("orders", pb::TelemetryCommand::default()));
        }
        assert!(!producers.ask("orders", pb::TelemetryCommand::default()));
        let (quick, mut commands) = producers.enter("client").unwrap();
        producers.publishes(quick, topic()).unwrap();
        assert!(producers.ask("orders", pb::TelemetryCommand::default()));
        assert!(commands.try_recv().is_ok());
    }

    #[test]
    fn a_client_that_names_too_many_topics_is_refused_and_takes_no_room() {
        let producers = Producers::default();
        let topics = |from: usize, count: usize| -> BTreeSet<String> {
            (from..from + count).map(|n| format!("t{n}")).collect()
        };
        let (greedy, _commands) = producers.enter("greedy").unwrap();
        let refused = producers
            .publishes(greedy, topics(0, limits::TOPICS_MAX + 1))
            .unwrap_err();
        assert_eq!(refused.code, Code::TooManyRequests);
        let mut others = Vec::new();
        for n in 0..limits::PUBLISHED_TOPICS_MAX / limits::TOPICS_MAX {
            let (number, commands) = producers.enter("other").unwrap();
            let named = topics(n * limits::TOPICS_MAX, limits::TOPICS_MAX);
            producers.publishes(number, named).unwrap();
            others.push((number, commands));
        }
        let more = || topics(0, limits::TOPICS_MAX);
        assert!(producers.publishes(greedy, more()).is_err());
        producers.leave(others[0].0);
        assert!(producers.publishes(greedy, more()).is_ok());
        assert!(
            producers.publishes(greedy, more()).is_ok(),
            "in their place"
        );
    }
}
