//! The merged settings that a client gets back: what it said, with what the server decides.
//!
//! Only the fields of the contract are set; everything else is echoed, because clients read their own
//! words again. No bound of ours depends on what a client claims here.

use millpond_proto::limits;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;
use millpond_proto::wire::rocketmq::retry_policy::Strategy;
use millpond_proto::wire::rocketmq::settings::PubSub;
use prost::Message as _;

use crate::broker::record::Backoff;
use crate::broker::{Broker, DeliveryPolicy};
use crate::service::client::{Client, REQUEST_TIMEOUT_MS_DEFAULT};
use crate::service::code::Refusal;
use crate::service::route::{group_name, topic_name};
use crate::service::time::{duration_ms, wire_duration};

/// Largest settings that are read: they are kept while the stream lives.
const SETTINGS_BYTES_MAX: usize = 1024 * 1024;
/// Attempts of a producer.
const SEND_ATTEMPTS: i32 = 3;
/// Waits between deliveries, in seconds: the published list.
const REDELIVERY_S: [i64; 18] = [
    1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200,
];
const CLIENT_PROPERTIES_MAX: usize = 32;
const CLIENT_PROPERTY_KEY_BYTES_MAX: usize = 64;
const CLIENT_PROPERTY_VALUE_BYTES_MAX: usize = 256;
const CLIENT_PROPERTIES_BYTES_MAX: usize = 4096;

/// Checks settings and merges them with the server's.
///
/// # Errors
/// `BAD_REQUEST` when they say neither what is published nor what is subscribed, or contradict
/// themselves; `INVALID_CLIENT_PROPERTIES` by the rules of the contract.
///
/// # Panics
/// Never: a constant of ours fits its type.
pub fn merge(
    mut settings: pb::Settings,
    policy: impl FnOnce(&pb::Subscription) -> DeliveryPolicy,
) -> Result<(pb::Settings, Client), Refusal> {
    if settings.encoded_len() > SETTINGS_BYTES_MAX {
        return Err(bad(format!(
            "the settings have {} bytes, limit {SETTINGS_BYTES_MAX}; name fewer topics per client",
            settings.encoded_len()
        )));
    }
    check_properties(&settings)?;
    let kind = settings.client_type.map(pb::ClientType::try_from);
    let is_lite = match kind {
        None | Some(Err(_) | Ok(pb::ClientType::Unspecified)) => None,
        Some(Ok(kind)) => Some(matches!(
            kind,
            pb::ClientType::LitePushConsumer | pb::ClientType::LiteSimpleConsumer
        )),
    };
    let producer = match &mut settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            publishing.validate_message_type = true;
            publishing.max_body_size =
                i32::try_from(limits::BODY_BYTES_MAX).expect("the limit is a few MiB");
            settings.backoff_policy = Some(resend());
            true
        }
        Some(PubSub::Subscription(subscription)) => {
            let policy = policy(subscription);
            subscription.fifo = Some(policy.fifo);
            settings.backoff_policy = Some(redelivery(&policy));
            subscription.receive_batch_size =
                Some(i32::try_from(limits::RECEIVE_BATCH_MAX).expect("the limit is small"));
            subscription.long_polling_timeout = Some(wire_duration(limits::POLL_MS_MAX));
            if is_lite == Some(true) {
                // Lite topics are delivered in order, so they are to be worked off in order.
                subscription.fifo = Some(true);
                subscription.lite_subscription_quota =
                    i32::try_from(limits::LITE_SUBSCRIPTIONS_TOLD).ok();
                subscription.max_lite_topic_size = i32::try_from(limits::LITE_TOPIC_BYTES_MAX).ok();
            }
            let agent = settings.user_agent.as_ref();
            let is_node = agent.is_some_and(|agent| agent.language() == pb::Language::NodeJs);
            if is_node && subscription.fifo == Some(true) {
                settings.backoff_policy = Some(redelivery(&doubling(policy)));
            }
            false
        }
        None => {
            return Err(bad(
                "the settings say neither what is published nor what is subscribed; set one",
            ));
        }
    };
    let contradiction = match kind {
        Some(Ok(pb::ClientType::Producer)) => !producer,
        Some(Ok(pb::ClientType::Unspecified) | Err(_)) | None => false,
        Some(Ok(_)) => producer,
    };
    if contradiction {
        return Err(bad(
            "client_type does not fit: producers set publishing, consumers subscription",
        ));
    }
    settings.metric = Some(pb::Metric {
        on: false,
        endpoints: None,
    });
    let is_push = matches!(
        kind,
        Some(Ok(
            pb::ClientType::PushConsumer | pb::ClientType::LitePushConsumer
        ))
    );
    let client = Client {
        is_push,
        is_lite,
        request_timeout_ms: settings
            .request_timeout
            .as_ref()
            .map(duration_ms)
            .filter(|ms| *ms > 0)
            .unwrap_or(REQUEST_TIMEOUT_MS_DEFAULT),
    };
    Ok((settings, client))
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadRequest, message)
}

fn resend() -> pb::RetryPolicy {
    pb::RetryPolicy {
        max_attempts: SEND_ATTEMPTS,
        strategy: Some(Strategy::ExponentialBackoff(pb::ExponentialBackoff {
            initial: Some(wire_duration(10)),
            max: Some(wire_duration(1000)),
            multiplier: 2.0,
        })),
    }
}

/// What the server tells consumers of the group that a subscription names.
pub fn policy_of(broker: Option<&Broker>, subscription: &pb::Subscription) -> DeliveryPolicy {
    let group = group_name(subscription.group.as_ref());
    let topics = subscription.subscriptions.iter();
    let topics = topics.filter_map(|entry| topic_name(entry.topic.as_ref()).ok());
    match (broker, group) {
        (Some(broker), Ok(group)) => broker.delivery_policy(&group, &topics.collect::<Vec<_>>()),
        _ => DeliveryPolicy {
            attempts_max: limits::DELIVERY_ATTEMPTS_MAX.unsigned_abs(),
            ..DeliveryPolicy::default()
        },
    }
}

fn redelivery(policy: &DeliveryPolicy) -> pb::RetryPolicy {
    let strategy = match &policy.backoff {
        Some(backoff) if backoff.list_ms.is_empty() => {
            #[expect(clippy::cast_possible_truncation, reason = "the wire has no better")]
            let multiplier = backoff.multiplier as f32;
            Strategy::ExponentialBackoff(pb::ExponentialBackoff {
                initial: Some(wire_duration(backoff.initial_ms)),
                max: Some(wire_duration(backoff.max_ms)),
                multiplier,
            })
        }
        Some(backoff) => customized(backoff.list_ms.iter().copied()),
        None => customized(REDELIVERY_S.iter().map(|s| s * 1000)),
    };
    pb::RetryPolicy {
        max_attempts: i32::try_from(policy.attempts_max).unwrap_or(i32::MAX),
        strategy: Some(strategy),
    }
}

/// The policy with pauses that double, from the first of its list to the last.
///
/// Where Node's client works in order it repeats what failed itself, and it knows no lists: told of one, it
/// gives a message up at the first failure.
fn doubling(mut policy: DeliveryPolicy) -> DeliveryPolicy {
    let list_ms = match &policy.backoff {
        Some(backoff) if backoff.list_ms.is_empty() => return policy,
        Some(backoff) => backoff.list_ms.clone(),
        None => REDELIVERY_S.map(|s| s * 1000).to_vec(),
    };
    policy.backoff = Some(Backoff {
        initial_ms: list_ms.first().copied().unwrap_or_default(),
        max_ms: list_ms.last().copied().unwrap_or_default(),
        multiplier: 2.0,
        list_ms: Vec::new(),
    });
    policy
}

fn customized(list_ms: impl Iterator<Item = i64>) -> Strategy {
    let next = list_ms.map(wire_duration).collect();
    Strategy::CustomizedBackoff(pb::CustomizedBackoff { next })
}

fn check_properties(settings: &pb::Settings) -> Result<(), Refusal> {
    let properties = &settings.client_properties;
    let bytes: usize = properties
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    let good_key = |key: &str| {
        key.len() <= CLIENT_PROPERTY_KEY_BYTES_MAX
            && key.starts_with(|c: char| c.is_ascii_alphabetic())
            && key
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
    };
    let good = properties.len() <= CLIENT_PROPERTIES_MAX
        && bytes <= CLIENT_PROPERTIES_BYTES_MAX
        && properties
            .iter()
            .all(|(key, value)| good_key(key) && value.len() <= CLIENT_PROPERTY_VALUE_BYTES_MAX);
    if good {
        return Ok(());
    }
    Err(Refusal::new(
        Code::InvalidClientProperties,
        format!(
            "client properties: at most {CLIENT_PROPERTIES_MAX} and \
             {CLIENT_PROPERTIES_BYTES_MAX} bytes, keys of 1 to {CLIENT_PROPERTY_KEY_BYTES_MAX} \
             letters, digits, '_', '.' or '-' beginning with a letter, values up to \
             {CLIENT_PROPERTY_VALUE_BYTES_MAX} bytes"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(subscription: &pb::Subscription) -> DeliveryPolicy {
        policy_of(None, subscription)
    }

    #[test]
    fn a_push_consumer_gets_what_its_group_says() {
        let settings = pb::Settings {
            client_type: Some(pb::ClientType::PushConsumer.into()),
            pub_sub: Some(PubSub::Subscription(pb::Subscription::default())),
            ..pb::Settings::default()
        };
        let policy = |_: &pb::Subscription| DeliveryPolicy {
            attempts_max: 3,
            backoff: Some(Backoff {
                initial_ms: 5000,
                max_ms: 7_200_000,
                multiplier: 2.0,
                ..Backoff::default()
            }),
            fifo: true,
        };
        let (merged, client) = merge(settings, policy).unwrap();
        assert!(client.is_push);
        let Some(PubSub::Subscription(subscription)) = &merged.pub_sub else {
            panic!("stays a consumer");
        };
        assert_eq!(subscription.fifo, Some(true));
        let told = merged.backoff_policy.unwrap();
        assert_eq!(told.max_attempts, 3);
        let Some(Strategy::ExponentialBackoff(backoff)) = told.strategy else {
            panic!("exponential");
        };
        assert_eq!(backoff.initial.unwrap().seconds, 5);
    }

    #[test]
    fn a_client_that_knows_no_lists_and_works_in_order_is_told_to_double_its_pauses() {
        let told = |language: pb::Language, fifo: bool, list_ms: &[i64]| {
            let settings = pb::Settings {
                user_agent: Some(pb::Ua {
                    language: language.into(),
                    ..pb::Ua::default()
                }),
                pub_sub: Some(PubSub::Subscription(pb::Subscription::default())),
                ..pb::Settings::default()
            };
            let backoff = (!list_ms.is_empty()).then(|| Backoff {
                list_ms: list_ms.to_vec(),
                ..Backoff::default()
            });
            let policy = |_: &pb::Subscription| DeliveryPolicy {
                attempts_max: 3,
                backoff,
                fifo,
            };
            let policy = merge(settings, policy).unwrap().0.backoff_policy.unwrap();
            assert_eq!(policy.max_attempts, 3);
            match policy.strategy {
                Some(Strategy::ExponentialBackoff(told)) => {
                    Some((told.initial.unwrap().seconds, told.max.unwrap().seconds))
                }
                _ => None,
            }
        };
        use pb::Language::{Java, NodeJs};
        assert_eq!(told(NodeJs, true, &[2000, 5000, 9000]), Some((2, 9)));
        assert_eq!(told(NodeJs, true, &[]), Some((1, 7200)));
        assert_eq!(told(NodeJs, false, &[2000, 5000]), None);
        assert_eq!(told(Java, true, &[2000, 5000]), None);
    }

    fn producer() -> pb::Settings {
        pb::Settings {
            client_type: Some(pb::ClientType::Producer.into()),
            request_timeout: Some(wire_duration(5000)),
            user_agent: Some(pb::Ua {
                hostname: "here".to_owned(),
                ..pb::Ua::default()
            }),
            pub_sub: Some(PubSub::Publishing(pb::Publishing {
                max_body_size: 134_217_728,
                ..pb::Publishing::default()
            })),
            ..pb::Settings::default()
        }
    }

    #[test]
    fn a_producer_gets_exponential_backoff_and_its_own_words() {
        let (merged, client) = merge(producer(), unknown).unwrap();
        assert_eq!(client.request_timeout_ms, 5000);
        let Some(PubSub::Publishing(publishing)) = &merged.pub_sub else {
            panic!("stays a producer");
        };
        assert!(publishing.validate_message_type);
        assert_eq!(publishing.max_body_size, 4 * 1024 * 1024);
        let policy = merged.backoff_policy.unwrap();
        assert_eq!(policy.max_attempts, 3);
        assert!(matches!(
            policy.strategy,
            Some(Strategy::ExponentialBackoff(_))
        ));
        assert!(!merged.metric.unwrap().on);
        assert_eq!(merged.user_agent.unwrap().hostname, "here");
    }

    #[test]
    fn a_consumer_gets_the_published_list() {
        let settings = pb::Settings {
            client_type: Some(pb::ClientType::SimpleConsumer.into()),
            pub_sub: Some(PubSub::Subscription(pb::Subscription::default())),
            ..pb::Settings::default()
        };
        let (merged, client) = merge(settings, unknown).unwrap();
        let simple = Client {
            is_lite: Some(false),
            ..Client::default()
        };
        assert_eq!(client, simple);
        let Some(PubSub::Subscription(subscription)) = &merged.pub_sub else {
            panic!("stays a consumer");
        };
        assert_eq!(subscription.fifo, Some(false));
        assert_eq!(subscription.receive_batch_size, Some(32));
        let policy = merged.backoff_policy.unwrap();
        assert_eq!(policy.max_attempts, 17);
        let Some(Strategy::CustomizedBackoff(list)) = policy.strategy else {
            panic!("a list");
        };
        assert_eq!(list.next.len(), 18);
        assert_eq!(list.next[17].seconds, 7200);
    }

    #[test]
    fn settings_that_contradict_themselves_are_refused() {
        let code = |settings| merge(settings, unknown).unwrap_err().code;
        let mut silent = producer();
        silent.pub_sub = None;
        assert_eq!(code(silent), Code::BadRequest);
        let mut mixed = producer();
        mixed.client_type = Some(pb::ClientType::PushConsumer.into());
        assert_eq!(code(mixed), Code::BadRequest);
        let mut odd = producer();
        odd.client_properties
            .insert("1st".to_owned(), String::new());
        assert_eq!(code(odd), Code::InvalidClientProperties);
    }
}
