//! What is found by key is what a reading of the whole topic finds, and costs no more than it must.

use datafusion::execution::memory_pool::UnboundedMemoryPool;
use datafusion::logical_expr::{col, lit};
use millpond_proto::chance::Seeded;
use millpond_proto::task::Runtimes;
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use object_store::memory::InMemory;

use super::*;
use crate::catalog::table_schema;
use crate::continuous::NoJobs;
use crate::sql::{Sql, SqlParts};
use crate::testing::MemoryTopics;

async fn world(queues: u32) -> (Arc<MemoryTopics>, Sql) {
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::starting_at(Timestamp(0)));
    let topics = MemoryTopics::new(Arc::clone(&clock));
    let sql = Sql::new(SqlParts {
        topics: Arc::clone(&topics) as Arc<dyn Topics>,
        clock,
        spawn: Arc::new(Runtimes::single()),
        export: Arc::new(InMemory::new()),
        state: Arc::new(InMemory::new()),
        jobs: Arc::new(NoJobs),
    })
    .unwrap();
    let create = format!(
        "CREATE TOPIC t (a VARCHAR, b BIGINT, n BIGINT, PRIMARY KEY (a, b)) WITH (queues = {queues})"
    );
    rows(&sql, &create).await;
    (topics, sql)
}

async fn rows(sql: &Sql, statement: &str) -> Vec<String> {
    let answer = sql.execute(statement).await.unwrap();
    let finished = answer.finish().await.unwrap();
    let mut rows = Vec::new();
    for batch in &finished.batches {
        let text = arrow::util::pretty::pretty_format_batches(std::slice::from_ref(batch)).unwrap();
        let text = text.to_string();
        let lines = text.lines().skip(3).map(str::to_owned);
        rows.extend(lines.filter(|line| !line.starts_with('+')));
    }
    rows.sort();
    rows
}

fn send(topics: &MemoryTopics, a: &str, b: u64, n: Option<u64>) {
    let body = n.map(|n| format!("{{\"a\":\"{a}\",\"b\":{b},\"n\":{n}}}"));
    topics.send("t", Some(&format!("[\"{a}\",{b}]")), body.as_deref());
}

/// Conditions with A and B for the columns of the key.
const CONDITIONS: [&str; 12] = [
    "A = 'x'",
    "A = 'x' AND B = 2",
    "B = 3 AND 'y' = A",
    "A IN ('x', 'z', 'x') AND B > 1",
    "A = 'x' AND B >= 2 AND B < 4",
    "A > 'w' AND B = 1",
    "A >= 'x' AND A <= 'y'",
    "A BETWEEN 'w' AND 'y' AND B IN (0, 1, 2, 3, 4, 5)",
    "A = 'x' OR A = 'yy'",
    "A < 'x' AND n > 50",
    "A = 'x' AND A = 'y'",
    "(A = 'x' OR B = 2) AND A = 'y'",
];

#[tokio::test]
async fn conditions_on_the_key_find_what_a_reading_finds() {
    for seed in 0..3 {
        let (topics, sql) = world(3).await;
        let chance = Seeded::new(seed);
        for step in 0..40 {
            for _ in 0..chance.below(12) {
                let a = ["w", "x", "y", "yy", "z"][usize::try_from(chance.below(5)).unwrap()];
                let n = (chance.below(5) > 0).then(|| chance.below(100));
                send(&topics, a, chance.below(6), n);
                if chance.below(8) == 0 {
                    // Messages of producers: without a key they stay, and other keys are other rows.
                    topics.send("t", None, Some("{\"a\":\"x\",\"b\":2,\"n\":7}"));
                    topics.send("t", Some("mine"), Some("{\"a\":\"y\",\"n\":8}"));
                    topics.send("t", Some("broken"), Some("{"));
                }
            }
            let condition = CONDITIONS[step % CONDITIONS.len()];
            let of = |a: &str, b: &str| {
                let condition = condition.replace('A', "$a").replace('B', "$b");
                let condition = condition
                    .replace("$aND", "AND")
                    .replace("$bETWEEN", "BETWEEN");
                condition.replace("$a", a).replace("$b", b)
            };
            let found = rows(&sql, &format!("SELECT * FROM t WHERE {}", of("a", "b"))).await;
            let slow = of("reverse(reverse(a))", "abs(b)");
            let read = rows(&sql, &format!("SELECT * FROM t WHERE {slow}")).await;
            assert_eq!(found, read, "seed {seed}, step {step}: {condition}");
        }
    }
}

#[tokio::test]
async fn a_key_costs_its_row_and_what_came_since() {
    let (topics, sql) = world(4).await;
    for n in 0..5 {
        for b in 0..200 {
            send(&topics, "x", b, Some(n));
        }
    }
    let one = "SELECT n FROM t WHERE a = 'x' AND b = 77";
    assert_eq!(rows(&sql, one).await, ["| 4 |"]);
    let cost = async |statement: &str| {
        let before = topics.rows_scanned();
        let answered = rows(&sql, statement).await.len();
        (answered, topics.rows_scanned() - before)
    };
    assert_eq!(cost(one).await, (1, 1));
    send(&topics, "x", 77, Some(9));
    send(&topics, "x", 78, None);
    assert_eq!(
        cost(one).await,
        (1, 3),
        "two rows came, and one is answered"
    );
    assert_eq!(
        cost("SELECT n FROM t WHERE a = 'x' AND b = 78").await,
        (0, 0)
    );
    let (answered, scanned) = cost("SELECT n FROM t WHERE a = 'x' AND b BETWEEN 10 AND 19").await;
    assert_eq!(answered, 10);
    assert!(scanned < 400, "{scanned} rows were read for ten");
    let plan = rows(&sql, &format!("EXPLAIN {one}")).await.join("\n");
    assert!(plan.contains("rows found by key=1"), "{plan}");
    let plan = rows(&sql, "EXPLAIN SELECT n FROM t WHERE b = 77")
        .await
        .join("\n");
    assert!(!plan.contains("rows found by key"), "{plan}");
}

#[tokio::test]
async fn the_key_of_a_row_that_was_erased_is_not_remembered() {
    let (topics, sql) = world(1).await;
    send(&topics, "x", 1, Some(4));
    send(&topics, "x", 2, Some(5));
    let plan = async || {
        let plan = rows(&sql, "EXPLAIN SELECT n FROM t WHERE a = 'x'").await;
        plan.join("\n")
    };
    assert!(plan().await.contains("rows found by key=2"));
    let id = topics.topic("t").unwrap().id;
    topics.erase(id, QueueId(0), Offset(0));
    assert!(plan().await.contains("rows found by key=1"));
    assert_eq!(rows(&sql, "SELECT n FROM t WHERE a = 'x'").await, ["| 5 |"]);
}

#[tokio::test]
async fn indexes_stay_within_their_bound_and_the_oldest_goes_first() {
    let (topics, sql) = world(2).await;
    rows(&sql, "CREATE TOPIC u (a VARCHAR, PRIMARY KEY (a))").await;
    for b in 0..100 {
        send(&topics, "x", b, Some(1));
        topics.send(
            "u",
            Some(&b.to_string()),
            Some(&format!("{{\"a\":\"{b}\"}}")),
        );
    }
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let find = async |indexes: &KeyIndexes, name: &str| {
        let topic = topics.topic(name).unwrap();
        let table = table_schema(&topic).unwrap();
        let key = KeyColumns::of(&topic, &table).unwrap();
        let ranges = key.ranges(&[col("a").eq(lit("x"))]).unwrap().unwrap();
        let found = indexes.find(topics.as_ref(), &topic, &table, &key, &ranges);
        let found = found.await.unwrap();
        found.map(|found| found.iter().map(|found| found.offsets.len()).sum::<usize>())
    };
    let small = KeyIndexes::new(&pool).with_bytes_max(2000);
    assert_eq!(find(&small, "t").await, None, "it has no room");
    assert_eq!(find(&small, "t").await, None);
    assert_eq!(pool.reserved(), 0);
    let one = KeyIndexes::new(&pool).with_bytes_max(28_000);
    assert_eq!(find(&one, "t").await, Some(100));
    assert_eq!(find(&one, "u").await, Some(0));
    assert_eq!(one.kept().topics.len(), 1, "the other had to go");
    assert!(pool.reserved() <= 28_000);
    assert_eq!(find(&one, "t").await, Some(100), "it is made anew");
}

#[test]
fn an_index_that_is_let_go_while_a_statement_reads_on_in_it_costs_nothing_any_more() {
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let indexes = KeyIndexes::new(&pool).with_bytes_max(1000);
    let (one, other) = (TopicId(1), TopicId(2));
    let index = indexes.of(one).unwrap();
    assert!(indexes.account(one, &index, 0, 600));
    let newer = indexes.of(other).unwrap();
    assert!(indexes.account(other, &newer, 0, 800));
    // The statement that still has the first one's takes a batch that deletes more than it adds.
    assert!(!indexes.account(one, &index, 600, 100));
    let anew = indexes.of(one).unwrap();
    assert!(indexes.account(one, &anew, 0, 50));
    assert!(!indexes.account(one, &index, 600, 700));
    assert_eq!(indexes.kept().bytes, 850);
    assert_eq!(indexes.memory.size(), 850);
}
