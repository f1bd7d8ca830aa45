//! Which filter each group uses on each topic: one for all its consumers.
//!
//! What a filter does not accept counts as acknowledged by the group, so that two consumers of one group
//! with different filters would lose each other's messages. The second one is refused while a consumer
//! with the first lives. Kept in memory, bounded by the number of clients.

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
pub struct Subscriptions(Mutex<BTreeMap<Key, Used>>);

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
        let lives = |at: &Timestamp| now.since(*at) <= millis(limits::CLIENT_EXPIRY_MS);
        let mut known = self.0.lock().expect("no holder panics");
        let key = (group.clone(), topic.clone());
        if known.len() >= limits::CLIENTS_MAX && !known.contains_key(&key) {
            known.retain(|_, used| used.consumers.values().any(lives));
            if known.len() >= limits::CLIENTS_MAX {
                return Err(too_many("groups and topics"));
            }
        }
        let used = known.entry(key).or_insert_with(|| Used {
            filter: Arc::clone(filter),
            fingerprint,
            consumers: BTreeMap::new(),
        });
        if used.fingerprint != fingerprint || used.consumers.len() >= limits::CLIENTS_MAX {
            used.consumers.retain(|id, at| id != consumer && lives(at));
            if used.consumers.len() >= limits::CLIENTS_MAX {
                return Err(too_many("consumers of one group"));
            }
        }
        if used.fingerprint != fingerprint {
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
        used.consumers.insert(consumer.to_owned(), now);
        Ok(())
    }

    /// Forgets a consumer.
    ///
    /// # Panics
    /// When a holder of the lock has panicked, which is a bug here.
    pub fn forget(&self, consumer: &str) {
        let mut known = self.0.lock().expect("no holder panics");
        known.retain(|_, used| {
            used.consumers.remove(consumer);
            !used.consumers.is_empty()
        });
    }
}

fn too_many(what: &str) -> Refusal {
    let text = format!(
        "too many {what} poll here, limit {}; try again a little later",
        limits::CLIENTS_MAX
    );
    Refusal::new(Code::TooManyRequests, text)
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
}
