use std::time::Duration;

use arrow::util::pretty::pretty_format_batches;
use bytes::Bytes;
use millpond_proto::chance::Seeded;
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::task::Runtimes;
use millpond_proto::time::{SimulatedClock, Timestamp};
use millpond_sql::topic::{FACTS, Topics};
use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::log::{Parts, Settings};
use millpond_storage::tier::objects::DiskObjectStore;

use super::*;
use crate::broker::{Group, GroupStart, NewTopic, Receive, TopicType};

async fn open() -> Arc<Broker> {
    let disk: Arc<dyn millpond_storage::disk::Disk> = Arc::new(SimulatedDisk::new());
    let parts = Parts {
        objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
        disk,
        clock: Arc::new(SimulatedClock::starting_at(Timestamp(1_000_000))),
        chance: Arc::new(Seeded::new(1)),
        spawn: Arc::new(Runtimes::single()),
    };
    Broker::start(parts, Settings::default()).await.unwrap()
}

async fn make(broker: &Broker, name: &str, kind: TopicType) -> TopicName {
    let name = TopicName::new(name).unwrap();
    let topic = NewTopic {
        name: name.clone(),
        kind,
        queues: Some(1),
        columns: Vec::new(),
        watermark: None,
        primary_key: Vec::new(),
        written_by: None,
    };
    broker.create_topic(topic).await.unwrap();
    name
}

fn named(id: &str, due_at_ms: Option<i64>) -> Envelope {
    Envelope {
        message_id: id.to_owned(),
        due_at_ms,
        body: Some(Bytes::from_static(b"body")),
        ..Envelope::default()
    }
}

/// The lines of a table's rows, cells trimmed, without those that name random things.
async fn rows(broker: &Broker, table: &str, without: &[&str]) -> Vec<String> {
    let facts = broker.ask_facts(table, &FactsAsked::default()).await;
    let Facts {
        rows: mut batch,
        is_cut,
    } = facts.unwrap();
    assert!(!is_cut, "all of {table} is there");
    assert_eq!(batch.schema(), broker.facts_schema(table));
    for column in without {
        batch.remove_column(batch.schema().index_of(column).unwrap());
    }
    let text = pretty_format_batches(&[batch]).unwrap().to_string();
    let lines = text.lines().skip(3).filter(|line| line.starts_with('|'));
    let cells = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join(" "));
    cells.map(|line| line.trim().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_held_or_is_dead_can_be_asked_for() {
    let broker = open().await;
    let clock = Arc::clone(&broker.parts.clock);
    for table in FACTS {
        assert_eq!(rows(&broker, table, &[]).await.len(), 0, "{table}");
    }
    let reminders = make(&broker, "reminders", TopicType::Delay).await;
    let late = named("late", Some(8_000_000));
    let soon = named("soon", Some(1_060_000));
    broker
        .send_delayed(&reminders, vec![late, soon])
        .await
        .unwrap();
    assert_eq!(
        rows(&broker, DELAYED, &[]).await,
        [
            "reminders 0 soon 1970-01-01T00:17:40Z 1970-01-01T00:16:40Z 4",
            "reminders 0 late 1970-01-01T02:13:20Z 1970-01-01T00:16:40Z 4",
        ]
    );

    let payments = make(&broker, "payments", TopicType::Transaction).await;
    let halves = vec![(named("half", None), 6000), (named("other", None), 9000)];
    let ids = broker.send_half(&payments, halves).await.unwrap();
    broker
        .transactions_checked(&[ids.into_iter().next().unwrap().unwrap()], true)
        .await
        .unwrap();
    assert_eq!(
        rows(&broker, TRANSACTIONS, &["id"]).await,
        [
            "payments 0 half open 1970-01-01T00:16:40Z 1 1970-01-01T00:17:10Z",
            "payments 0 other open 1970-01-01T00:16:40Z 0 1970-01-01T00:16:49Z",
        ]
    );

    let orders = make(&broker, "orders", TopicType::Normal).await;
    broker
        .send(&orders, vec![named("a", None), named("b", None)])
        .await
        .unwrap();
    let billing = GroupName::new("billing").unwrap();
    let receive = Receive {
        group: billing.clone(),
        topic: orders.clone(),
        limit: 2,
        invisible: Duration::from_secs(30),
        poll: Duration::ZERO,
    };
    let mut held = broker.receive(receive).await.unwrap();
    clock.sleep(Duration::from_secs(1)).await;
    let dead = held.remove(0).handle;
    broker
        .forward_to_dead_letters(&billing, &orders, dead)
        .await
        .unwrap();
    assert_eq!(
        rows(&broker, IN_FLIGHT, &[]).await,
        ["billing orders 0 1  1970-01-01T00:16:40Z 1970-01-01T00:17:10Z 1"]
    );
    assert_eq!(
        rows(&broker, DEAD_LETTERS, &[]).await,
        ["billing orders 0 0 a 1 request 1970-01-01T00:16:41Z"]
    );
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_cut_says_so_and_one_group_or_topic_can_be_asked_for() {
    let broker = open().await;
    let ask = async |table, asked: &FactsAsked, most| {
        let facts = broker.fact_rows(table, asked, most).await.unwrap().unwrap();
        (facts.rows.num_rows(), facts.is_cut)
    };
    let (all, other) = (FactsAsked::default(), "other".to_owned());
    let (reminders, rest) = (
        make(&broker, "reminders", TopicType::Delay).await,
        make(&broker, "other", TopicType::Delay).await,
    );
    let payments = make(&broker, "payments", TopicType::Transaction).await;
    for n in 0..3 {
        let later = named(&format!("later-{n}"), Some(8_000_000));
        broker.send_delayed(&reminders, vec![later]).await.unwrap();
        let half = (named(&format!("half-{n}"), None), 6000);
        broker.send_half(&payments, vec![half]).await.unwrap();
    }
    let later = named("later", Some(9_000_000));
    broker.send_delayed(&rest, vec![later]).await.unwrap();
    let orders = make(&broker, "orders", TopicType::Normal).await;
    let messages = ["a", "b", "c"].map(|id| named(id, None)).to_vec();
    broker.send(&orders, messages).await.unwrap();
    // One of each group's is dead, two are held.
    for group in ["billing", "other"] {
        let group = GroupName::new(group).unwrap();
        let receive = Receive {
            group: group.clone(),
            topic: orders.clone(),
            limit: 3,
            invisible: Duration::from_secs(30),
            poll: Duration::ZERO,
        };
        let mut held = broker.receive(receive).await.unwrap();
        let dead = held.remove(0).handle;
        let forwarded = broker.forward_to_dead_letters(&group, &orders, dead).await;
        forwarded.unwrap();
    }
    for (table, rows) in [
        (DELAYED, 4),
        (TRANSACTIONS, 3),
        (IN_FLIGHT, 4),
        (DEAD_LETTERS, 2),
    ] {
        assert_eq!(ask(table, &all, rows).await, (rows, false), "{table}");
        assert_eq!(
            ask(table, &all, rows - 1).await,
            (rows - 1, true),
            "{table}"
        );
    }
    let topic = FactsAsked {
        topic: Some(other.clone()),
        group: None,
    };
    assert_eq!(ask(DELAYED, &topic, 1).await, (1, false));
    assert_eq!(ask(TRANSACTIONS, &topic, 1).await, (0, false));
    let group = FactsAsked {
        topic: None,
        group: Some(other),
    };
    assert_eq!(ask(DEAD_LETTERS, &group, 1).await, (1, false));
    assert_eq!(ask(IN_FLIGHT, &group, 2).await, (2, false));
    for name in ["nobody", "no name at all: /"] {
        let nothing = FactsAsked {
            topic: Some(name.to_owned()),
            group: Some(name.to_owned()),
        };
        for table in [DELAYED, TRANSACTIONS, IN_FLIGHT, DEAD_LETTERS] {
            assert_eq!(ask(table, &nothing, 9).await, (0, false), "{table}");
        }
    }
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_start_of_a_group_is_told_as_it_was_given() {
    let broker = open().await;
    let starts = [
        ("a", GroupStart::Earliest),
        ("b", GroupStart::Latest),
        ("c", GroupStart::At(Timestamp(60_000))),
    ];
    for (name, start) in starts {
        let name = GroupName::new(name).unwrap();
        let group = Group {
            start,
            ..Group::new(name)
        };
        broker.create_group(group).await.unwrap();
    }
    assert_eq!(
        rows(&broker, "groups", &[]).await,
        ["a earliest", "b latest", "c time 1970-01-01T00:01:00Z"]
    );
    broker.close().await;
}
