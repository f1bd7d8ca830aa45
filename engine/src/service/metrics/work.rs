//! What consumer groups and continuous queries have before them: what an operator is woken by.
//!
//! Groups are asked as a poll would ask, of counts that their shards hold, and no message is read: of a compacted topic
//! the lag counts what compaction took away. A page names [`GROUPS_MAX`] groups and tells how many there are.

use futures::StreamExt as _;
use millpond_proto::wire::admin as pb;
use millpond_storage::metrics::Text;

use crate::broker::{Broker, Group, GroupWork, TopicWork};

/// Groups that a page names: the first ones, by when they were made.
const GROUPS_MAX: usize = 1000;
/// Groups that are asked at once.
const AT_ONCE: usize = 16;
/// What a continuous query may be doing, as the admin service names it.
const STATES: [&str; 5] = ["running", "restarting", "paused", "failed", "cancelled"];

/// Adds the groups.
pub(super) async fn of_groups(text: &mut Text, broker: &Broker) {
    let groups = broker.groups();
    let known = groups.len();
    let named = groups.into_iter().take(GROUPS_MAX);
    let asked = named.map(|group| async move {
        let work = broker.group_work(&group.name).await;
        work.map(|work| (group, work))
    });
    let answers: Vec<_> = futures::stream::iter(asked)
        .buffered(AT_ONCE)
        .collect()
        .await;
    // A group may have been deleted meanwhile, and while the log is reopened none answers.
    let found: Vec<_> = answers.into_iter().filter_map(Result::ok).collect();
    text.one(
        "millpond_groups",
        "gauge",
        "consumer groups, also those that the page does not name",
        known,
    );
    let lag = "rocketmq_consumer_lag_messages";
    text.family(
        lag,
        "gauge",
        "messages that a group is not done with, by topic",
    );
    of_topics(text, lag, &found, |work| work.lag);
    let in_flight = "rocketmq_consumer_inflight_messages";
    text.family(
        in_flight,
        "gauge",
        "messages that consumers of a group hold, by topic",
    );
    of_topics(text, in_flight, &found, |work| work.in_flight);
    let letters = "millpond_dead_letters";
    text.family(
        letters,
        "gauge",
        "messages that a group gave up and that nobody redrove or purged",
    );
    for (group, work) in &found {
        let labels = format!("consumer_group=\"{}\"", escaped(group.name.as_str()));
        text.value(letters, &labels, work.dead_letters);
    }
    let paused = "millpond_group_paused";
    text.family(
        paused,
        "gauge",
        "1 while nothing is delivered to a group until it is resumed",
    );
    for (group, _) in &found {
        let labels = format!("consumer_group=\"{}\"", escaped(group.name.as_str()));
        text.value(paused, &labels, u8::from(group.paused));
    }
}

fn of_topics(
    text: &mut Text,
    name: &str,
    found: &[(Group, GroupWork)],
    value: impl Fn(&TopicWork) -> u64,
) {
    for (group, work) in found {
        for topic in &work.topics {
            let labels = format!(
                "topic=\"{}\",consumer_group=\"{}\"",
                escaped(topic.topic.as_str()),
                escaped(group.name.as_str())
            );
            text.value(name, &labels, value(topic));
        }
    }
}

/// Adds the continuous queries.
pub(super) fn of_queries(text: &mut Text, jobs: &[pb::Job]) {
    let state = "millpond_job_state";
    text.family(
        state,
        "gauge",
        "1 for what a continuous query is doing, 0 for all else",
    );
    for job in jobs {
        for word in STATES {
            let labels = format!("job=\"{}\",state=\"{word}\"", escaped(&job.name));
            text.value(state, &labels, u8::from(job.state == word));
        }
    }
    type Number = fn(&pb::Job) -> u64;
    let each: [(&str, &str, Number); 3] = [
        (
            "millpond_job_lag_messages",
            "messages of input that are durable and that a continuous query has not committed",
            |job| job.lag,
        ),
        (
            "millpond_job_restarts",
            "how often a continuous query was started over within the last hour of trouble",
            |job| job.restarts,
        ),
        (
            "millpond_job_state_bytes",
            "size of the state of a continuous query",
            |job| job.state_bytes,
        ),
    ];
    for (name, what, value) in each {
        text.family(name, "gauge", what);
        for job in jobs {
            text.value(name, &format!("job=\"{}\"", escaped(&job.name)), value(job));
        }
    }
}

/// A name as the value of a label.
pub(super) fn escaped(name: &str) -> String {
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    name.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_in_one_state_and_its_name_stays_one_label() {
        let job = pb::Job {
            name: "a\"b\\".to_owned(),
            state: "failed".to_owned(),
            lag: 7,
            restarts: 3,
            ..pb::Job::default()
        };
        let mut text = Text::default();
        of_queries(&mut text, &[job]);
        let text = text.into_string();
        for line in [
            "millpond_job_state{job=\"a\\\"b\\\\\",state=\"failed\"} 1",
            "millpond_job_state{job=\"a\\\"b\\\\\",state=\"running\"} 0",
            "millpond_job_lag_messages{job=\"a\\\"b\\\\\"} 7",
            "millpond_job_restarts{job=\"a\\\"b\\\\\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
