//! Which filter each group uses on each topic: one for all its consumers.
//!
//! What a filter does not accept counts as acknowledged by the group, so that two consumers of one group
//! with different filters would lose each other's messages. The second one is refused while a consumer
//! with the first lives. Kept in memory: at most [`limits::CLIENTS_MAX`] consumers of all groups and topics together, each as
//! often as it polls different ones. Those that do not live any more are let go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use millpond_proto::limits;
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::time::Timestamp;
use millpond_proto::wire::rocketmq::Code;

use crate::broker::filter::Filter;
use crate::service::code::Refusal;
use crate::service::time::millis;

type Key = (GroupName, TopicName);

/// The one filter in use, and when each consumer last polled with it.
#[derive(Clone, Debug)]
struct Used {
    filter: Arc<Filter>,
    fingerprint: u64,
    consumers: BTreeMap<String, Timestamp>,
}

/// The filters in use, by group and topic.
#[derive(Debug, Default)]
pub struct Subscriptions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    used: BTreeMap<Key, Used>,
    /// Consumers of all of them.
    consumers: usize,
    swept_at: Timestamp,
}

impl Subscriptions {
    /// Notes that a consumer polls with a filter.
    ///
    /// # Errors
    /// `ILLEGAL_FILTER_EXPRESSION` when another consumer of the group uses a different one;
    /// `TOO_MANY_REQUESTS` when there are too many.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn polls(
        &self,
        group: &GroupName,
        topic: &TopicName,
        consumer: &str,
        filter: &Arc<Filter>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let fingerprint = filter.fingerprint();
        let mut known = self.0.lock().expect("no holder panics");
        let key = (group.clone(), topic.clone());
        let used = known.used.get(&key);
        let is_new = used.is_none_or(|used| !used.consumers.contains_key(consumer));
        if is_new {
            known.make_room(now)?;
        }
        let Known {
            used, consumers, ..
        } = &mut *known;
        let used = used.entry(key).or_insert_with(|| Used {
            filter: Arc::clone(filter),
            fingerprint,
            consumers: BTreeMap::new(),
        });
        if used.fingerprint != fingerprint {
            let before = used.consumers.len();
            used.consumers
                .retain(|id, at| id != consumer && lives(*at, now));
            *consumers -= before - used.consumers.len();
            if let Some(other) = used.consumers.keys().next() {
                let text = format!(
                    "group {group} filters topic {topic} by {:?} (client {other}), and this client asks \
                     for {:?}; all consumers of a group need the same filter: use another group, or \
                     stop the other consumers first",
                    used.filter.to_string(),
                    filter.to_string()
                );
                return Err(Refusal::new(Code::IllegalFilterExpression, text));
            }
            used.filter = Arc::clone(filter);
            used.fingerprint = fingerprint;
        }
        if used.consumers.insert(consumer.to_owned(), now).is_none() {
            *consumers += 1;
        }
        Ok(())
    }

    /// Forgets a consumer.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn forget(&self, consumer: &str) {
        let mut known = self.0.lock().expect("no holder panics");
        let Known {
            used, consumers, ..
        } = &mut *known;
        used.retain(|_, used| {
            *consumers -= usize::from(used.consumers.remove(consumer).is_some());
            !used.consumers.is_empty()
        });
    }
}

impl Known {
    /// Lets those go that do not live any more, once in a while and when there is no room for one more.
    fn make_room(&mut self, now: Timestamp) -> Result<(), Refusal> {
        let is_full = self.consumers >= limits::CLIENTS_MAX;
        let is_late = now.since(self.swept_at) > millis(limits::CLIENT_EXPIRY_MS);
        if is_late || (is_full && now > self.swept_at) {
            self.swept_at = now;
            self.used.retain(|_, used| {
                used.consumers.retain(|_, at| lives(*at, now));
                !used.consumers.is_empty()
            });
            self.consumers = self.used.values().map(|used| used.consumers.len()).sum();
        }
        if self.consumers >= limits::CLIENTS_MAX {
            let text = format!(
                "{} consumers poll here, which is the limit; stop some or try again a little later",
                limits::CLIENTS_MAX
            );
            return Err(Refusal::new(Code::TooManyRequests, text));
        }
        Ok(())
    }
}

fn lives(at: Timestamp, now: Timestamp) -> bool {
    now.since(at) <= millis(limits::CLIENT_EXPIRY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::filter::FilterKind;

    #[test]
    fn a_second_filter_is_refused_while_the_first_is_in_use() {
        let subscriptions = Subscriptions::default();
        let (group, topic) = (GroupName::new("g").unwrap(), TopicName::new("t").unwrap());
        let tag = |text: &str| Arc::new(Filter::parse(FilterKind::Tag, text).unwrap());
        let polls = |who: &str, text: &str, s: i64| {
            subscriptions.polls(&group, &topic, who, &tag(text), Timestamp(s * 1000))
        };
        polls("a", "x || y", 0).unwrap();
        polls("b", "y||x", 1).unwrap();
        let refused = polls("c", "z", 2).unwrap_err();
        assert_eq!(refused.code, Code::IllegalFilterExpression);
        assert!(refused.message.contains("another group"), "{refused}");
        // Both gone: one has said so, one is silent.
        subscriptions.forget("a");
        polls("c", "z", 122).unwrap();
        // Alone, a consumer may change its mind.
        polls("c", "*", 123).unwrap();
    }

    #[test]
    fn consumers_of_all_groups_are_bounded_and_the_dead_are_let_go() {
        let subscriptions = Subscriptions::default();
        let topic = TopicName::new("t").unwrap();
        let all = Arc::new(Filter::parse(FilterKind::Tag, "*").unwrap());
        let polls = |group: usize, who: &str, s: i64| {
            let group = GroupName::new(&format!("g{group}")).unwrap();
            subscriptions.polls(&group, &topic, who, &all, Timestamp(s * 1000))
        };
        for number in 0..limits::CLIENTS_MAX {
            polls(number % 100, &number.to_string(), 1).unwrap();
        }
        let refused = polls(0, "one more", 2).unwrap_err();
        assert_eq!(refused.code, Code::TooManyRequests);
        polls(0, "0", 100).unwrap();
        polls(0, "one more", 122).unwrap();
        assert_eq!(subscriptions.0.lock().unwrap().consumers, 2);
        subscriptions.forget("0");
        assert_eq!(subscriptions.0.lock().unwrap().consumers, 1);
    }
}
