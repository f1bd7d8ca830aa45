//! Jobs into topics with a key, and subscriptions, over a broker in memory.

use std::collections::BTreeMap;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use millpond_proto::message::{Offset, QueueId};
use millpond_proto::task::Runtimes;
use millpond_proto::time::{SimulatedClock, Timestamp};
use object_store::memory::InMemory;

use super::*;
use crate::job::runtime::{JobParts, Jobs};
use crate::testing::MemoryTopics;

struct World {
    sql: Sql,
    topics: Arc<MemoryTopics>,
    clock: Arc<dyn Clock>,
    state: Arc<dyn ObjectStore>,
}

impl World {
    fn new() -> Self {
        let start = Timestamp(1_356_998_400_000);
        let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::starting_at(start));
        let topics = MemoryTopics::new(Arc::clone(&clock));
        Self::over(topics, clock, Arc::new(InMemory::new()))
    }

    /// The same topics and jobs in another process.
    fn restarted(self) -> Self {
        let Self {
            sql,
            topics,
            clock,
            state,
        } = self;
        drop(sql);
        Self::over(topics, clock, state)
    }

    fn over(topics: Arc<MemoryTopics>, clock: Arc<dyn Clock>, state: Arc<dyn ObjectStore>) -> Self {
        let parts = JobParts {
            topics: Arc::clone(&topics) as Arc<dyn Topics>,
            clock: Arc::clone(&clock),
            spawn: Arc::new(Runtimes::single()),
            state: Arc::clone(&state),
        };
        let jobs = Jobs::start(parts.clone());
        let sql = Sql::new(SqlParts::beside(jobs, parts, Arc::new(InMemory::new())));
        Self {
            sql: sql.unwrap(),
            topics,
            clock,
            state,
        }
    }

    async fn run(&self, sql: &str) -> Vec<String> {
        let answer = self.sql.execute(sql).await.unwrap().finish().await.unwrap();
        answer.batches.iter().flat_map(lines).collect()
    }

    /// What a statement tells beside its rows.
    async fn notices(&self, sql: &str) -> Vec<String> {
        let answer = self.sql.execute(sql).await.unwrap().finish().await.unwrap();
        answer.notices
    }

    async fn refusal(&self, sql: &str) -> String {
        let refused = self.sql.execute(sql).await;
        refused
            .err()
            .map_or_else(String::new, |error| error.to_string())
    }

    async fn wait(&self) {
        self.clock.sleep(Duration::from_secs(2)).await;
    }

    fn bodies(&self, topic: &str) -> Vec<String> {
        let messages = self.topics.messages(topic).into_iter();
        let bodies = messages.map(|(_, message)| message.body.unwrap_or_default());
        bodies
            .map(|body| String::from_utf8(body.to_vec()).unwrap())
            .collect()
    }
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let columns = batch.columns().iter();
    let columns: Vec<ArrayFormatter<'_>> = columns
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
        .collect();
    let row = |row| {
        let values: Vec<String> = columns
            .iter()
            .map(|column| column.value(row).to_string())
            .collect();
        values.join(" ")
    };
    (0..batch.num_rows()).map(row).collect()
}

/// Runs a test in simulated time.
fn simulated(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn a_job_writes_what_was_and_what_is_for_readers_of_debezium() {
    simulated(async {
        let world = World::new();
        world
            .run("CREATE TOPIC orders (id BIGINT, item VARCHAR, n BIGINT, PRIMARY KEY (id))")
            .await;
        world
            .run("CREATE TOPIC sums (item VARCHAR, total BIGINT, PRIMARY KEY (item)) WITH (changelog = 'debezium', queues = 1)")
            .await;
        world
            .run("CREATE SINK s INTO sums AS SELECT item, sum(n) FROM orders GROUP BY item EMIT CHANGES")
            .await;
        world
            .run("INSERT INTO orders VALUES (1, 'pen', 2), (2, 'ink', 5)")
            .await;
        world.wait().await;
        world.run("INSERT INTO orders VALUES (1, 'pen', 3)").await;
        world
            .run("INSERT INTO orders (_key, _body) VALUES ('[2]', NULL)")
            .await;
        world.wait().await;
        assert_eq!(
            world.bodies("sums"),
            [
                r#"{"after":{"item":"ink","total":5},"op":"c"}"#,
                r#"{"after":{"item":"pen","total":2},"op":"c"}"#,
                r#"{"before":{"item":"ink","total":5},"op":"d"}"#,
                r#"{"before":{"item":"pen","total":2},"after":{"item":"pen","total":3},"op":"u"}"#,
            ]
        );
        assert_eq!(world.run("SELECT item, total FROM sums").await, ["pen 3"]);
    });
}

#[test]
fn a_job_upserts_rows_that_stay_and_rows_that_change_in_the_format_of_its_topic() {
    simulated(async {
        let world = World::new();
        world
            .run("CREATE TOPIC orders (item VARCHAR, n BIGINT)")
            .await;
        let keyed = "(item VARCHAR, n DOUBLE, PRIMARY KEY (item)) WITH (format = 'avro')";
        world.run(&format!("CREATE TOPIC last {keyed}")).await;
        world.run(&format!("CREATE TOPIC sums {keyed}")).await;
        world
            .run("CREATE JOB a AS INSERT INTO last SELECT item, n FROM orders WHERE n > 0")
            .await;
        world
            .run("CREATE JOB b AS INSERT INTO sums SELECT item, sum(n) FROM orders GROUP BY item")
            .await;
        world
            .run("INSERT INTO orders VALUES ('pen', 2), ('ink', 5), ('pen', 4), ('pen', -1)")
            .await;
        world.wait().await;
        assert_eq!(
            world.run("SELECT item, n FROM last ORDER BY item").await,
            ["ink 5.0", "pen 4.0"]
        );
        assert_eq!(
            world.run("SELECT item, n FROM sums ORDER BY item").await,
            ["ink 5.0", "pen 5.0"]
        );
        let encoded = world.topics.messages("sums");
        assert!(
            encoded
                .iter()
                .any(|(_, message)| message.key.as_deref() == Some(b"pen"))
        );
        let single_object = |body: &[u8]| body.starts_with(&[0xc3, 0x01]);
        assert!(
            encoded
                .iter()
                .all(|(_, message)| message.body.as_deref().is_some_and(single_object))
        );
    });
}

#[test]
fn a_job_emits_closed_windows_into_a_topic_and_keeps_its_late_rows() {
    simulated(async {
        let world = World::new();
        world
            .run("CREATE TOPIC clicks (who VARCHAR, at TIMESTAMP, WATERMARK FOR at AS at)")
            .await;
        world
            .run("CREATE TOPIC hours (hour TIMESTAMP, many BIGINT)")
            .await;
        world
            .run("CREATE JOB j AS INSERT INTO hours SELECT window_start, count(*) FROM TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1 hour') GROUP BY window_start, window_end EMIT ON WINDOW CLOSE")
            .await;
        for at in ["10:05:00", "10:55:00", "11:30:00"] {
            world
                .run(&format!(
                    "INSERT INTO clicks VALUES ('a', TIMESTAMP '2013-01-01 {at}')"
                ))
                .await;
            world.wait().await;
        }
        world
            .run("INSERT INTO clicks VALUES ('late', TIMESTAMP '2013-01-01 10:59:00')")
            .await;
        world.wait().await;
        assert_eq!(world.run("SELECT many FROM hours").await, ["2"]);
        assert_eq!(world.run("SELECT who FROM j_late").await, ["late"]);
        let told = world.notices("DROP JOB j").await;
        assert_eq!(
            told,
            ["topic j_late went with it, and with that the rows that came too late, 1 by now"]
        );
        assert!(world.topics.topic("j_late").is_none());
        assert!(world.topics.topic("hours").is_some());
    });
}

/// The next batch of a subscription, as lines without their cursor, and the cursor.
async fn next(answer: &mut Answer) -> (Vec<String>, String) {
    let batch = answer.batches.next().await.unwrap().unwrap();
    let cursors = batch.column(1);
    let cursors = cursors.as_any().downcast_ref::<StringArray>().unwrap();
    let cursor = cursors.value(batch.num_rows() - 1).to_owned();
    let columns: Vec<usize> = (0..batch.num_columns()).filter(|at| *at != 1).collect();
    (lines(&batch.project(&columns).unwrap()), cursor)
}

const SUMS: &str = "SELECT item, sum(n) AS total FROM orders GROUP BY item";

#[test]
fn a_subscription_tells_the_snapshot_then_changes_and_goes_on_behind_a_cursor() {
    simulated(async {
        let world = World::new();
        world
            .run("CREATE TOPIC orders (item VARCHAR, n BIGINT) WITH (queues = 2)")
            .await;
        world
            .run("INSERT INTO orders VALUES ('pen', 1), ('ink', 2), ('pen', 3)")
            .await;
        world.wait().await;
        let mut answer = world
            .sql
            .execute(&format!("SUBSCRIBE {SUMS}"))
            .await
            .unwrap();
        let (snapshot, first) = next(&mut answer).await;
        let sorted: BTreeMap<&String, ()> = snapshot.iter().map(|line| (line, ())).collect();
        let sorted: Vec<&str> = sorted.keys().map(|line| line.as_str()).collect();
        assert_eq!(sorted, ["upsert ink ink 2", "upsert pen pen 4"]);
        world.run("INSERT INTO orders VALUES ('pen', 10)").await;
        let (changes, second) = next(&mut answer).await;
        assert_eq!(changes, ["upsert pen pen 14"]);
        world.run("INSERT INTO orders VALUES ('cap', 1)").await;
        let (changes, _) = next(&mut answer).await;
        assert_eq!(changes, ["upsert cap cap 1"]);
        drop(answer);

        for (cursor, expected) in [(first, "upsert pen pen 14"), (second, "upsert cap cap 1")] {
            let sql = format!("SUBSCRIBE {SUMS} FROM CURSOR '{cursor}'");
            let mut resumed = world.sql.execute(&sql).await.unwrap();
            let (changes, _) = next(&mut resumed).await;
            assert!(changes.contains(&expected.to_owned()), "{changes:?}");
            assert!(
                !changes.contains(&"upsert ink ink 2".to_owned()),
                "{changes:?}"
            );
        }
        let mut later = world
            .sql
            .execute(&format!("SUBSCRIBE {SUMS} FROM NOW"))
            .await
            .unwrap();
        world.wait().await;
        world.run("INSERT INTO orders VALUES ('ink', 1)").await;
        assert_eq!(next(&mut later).await.0, ["upsert ink ink 3"]);
    });
}

#[test]
fn a_query_that_emits_changes_is_a_subscription() {
    simulated(async {
        let world = World::new();
        world
            .run("CREATE TOPIC orders (item VARCHAR, n BIGINT)")
            .await;
        world.run("INSERT INTO orders VALUES ('pen', 1)").await;
        world.wait().await;
        let watched = format!("{SUMS} EMIT CHANGES");
        let mut answer = world.sql.execute(&watched).await.unwrap();
        assert_eq!(next(&mut answer).await.0, ["upsert pen pen 1"]);
        world.run("INSERT INTO orders VALUES ('pen', 2)").await;
        assert_eq!(next(&mut answer).await.0, ["upsert pen pen 3"]);
    });
}

#[test]
fn a_subscription_to_a_name_tells_rows_that_stay_and_keys_that_go() {
    simulated(async {
        let world = World::new();
        world
            .run("CREATE TOPIC orders (item VARCHAR, n BIGINT)")
            .await;
        world
            .run("CREATE TOPIC prices (item VARCHAR, price BIGINT, PRIMARY KEY (item))")
            .await;
        world.run("INSERT INTO prices VALUES ('pen', 1)").await;
        let mut rows = world
            .sql
            .execute("SUBSCRIBE SELECT item, n FROM orders")
            .await
            .unwrap();
        let mut keyed = world
            .sql
            .execute("SUBSCRIBE (SELECT item, price FROM prices)")
            .await
            .unwrap();
        assert_eq!(next(&mut keyed).await.0, ["upsert pen pen 1"]);
        world.run("INSERT INTO orders VALUES ('ink', 2)").await;
        assert_eq!(next(&mut rows).await.0, ["insert NULL ink 2"]);
        world
            .run("INSERT INTO prices (_key, _body) VALUES ('pen', NULL)")
            .await;
        assert_eq!(next(&mut keyed).await.0, ["delete pen NULL NULL"]);
    });
}

#[test]
fn a_cursor_of_something_else_is_refused() {
    simulated(async {
        let world = World::new();
        world
            .run("CREATE TOPIC orders (item VARCHAR, n BIGINT)")
            .await;
        for (cursor, reason) in [
            ("", "is no cursor"),
            ("x-1", "is no cursor"),
            ("1000-00000000000000ff", "of other topics"),
        ] {
            let sql = format!("SUBSCRIBE {SUMS} FROM CURSOR '{cursor}'");
            let error = world.sql.execute(&sql).await.unwrap_err().to_string();
            assert!(error.contains(reason), "{cursor}: {error}");
        }
    });
}

#[test]
fn more_subscriptions_than_there_are_places_are_refused_until_one_ends() {
    simulated(async {
        let world = World::new();
        world
            .run("CREATE TOPIC orders (item VARCHAR, n BIGINT)")
            .await;
        let mut open = Vec::new();
        for _ in 0..limits::SUBSCRIPTIONS_MAX {
            open.push(
                world
                    .sql
                    .execute("SUBSCRIBE SELECT n FROM orders")
                    .await
                    .unwrap(),
            );
        }
        let refused = world.sql.execute("SUBSCRIBE SELECT n FROM orders").await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("SUBSCRIPTIONS_MAX")
        );
        drop(open);
        world.wait().await;
        world
            .sql
            .execute("SUBSCRIBE SELECT n FROM orders")
            .await
            .unwrap();
    });
}

#[test]
fn an_altered_view_is_built_beside_the_old_one_and_takes_its_place() {
    simulated(async {
        let world = World::new();
        world
            .run("CREATE TOPIC orders (item VARCHAR, n BIGINT)")
            .await;
        world
            .run("CREATE MATERIALIZED VIEW v AS SELECT item, count(*) AS many FROM orders GROUP BY item")
            .await;
        world
            .run("INSERT INTO orders VALUES ('pen', 1), ('pen', 3)")
            .await;
        world.wait().await;
        let explained = world
            .run("EXPLAIN ALTER MATERIALIZED VIEW v AS SELECT item, sum(n) AS total FROM orders GROUP BY item")
            .await;
        assert!(
            explained.iter().any(|line| line.contains("state: rebuilt")),
            "{explained:?}"
        );
        assert!(
            explained
                .iter()
                .any(|line| line.contains("removed many; added total")),
            "{explained:?}"
        );
        let old = world.topics.topic("v").unwrap().id;
        world
            .run("ALTER MATERIALIZED VIEW v AS SELECT item, sum(n) AS total FROM orders GROUP BY item")
            .await;
        assert_eq!(world.run("SELECT item, many FROM v").await, ["pen 2"]);
        let again = "ALTER MATERIALIZED VIEW v AS SELECT item FROM orders";
        let refused = world.refusal(again).await;
        assert!(
            refused.contains("view v is being altered already: v_next"),
            "{refused}"
        );
        world.wait().await;
        world.run("INSERT INTO orders VALUES ('ink', 5)").await;
        world.wait().await;
        assert_eq!(
            world.run("SELECT item, total FROM v ORDER BY item").await,
            ["ink 5", "pen 4"]
        );
        assert_ne!(world.topics.topic("v").unwrap().id, old);
        assert!(world.topics.topic("v_next").is_none());
        let jobs = world.run("SELECT name, state FROM millpond.jobs").await;
        assert_eq!(jobs, ["v running"]);
        world.run("DROP MATERIALIZED VIEW v").await;
        assert!(world.topics.topic("v").is_none());
    });
}

#[test]
fn what_alter_refuses_is_not_explained_as_if_it_were_done() {
    simulated(async {
        let world = World::new();
        world.run("CREATE TOPIC orders (item VARCHAR)").await;
        world
            .run("CREATE MATERIALIZED VIEW v AS SELECT item FROM orders")
            .await;
        world
            .run("CREATE MATERIALIZED VIEW w AS SELECT item FROM v")
            .await;
        let alter = "ALTER MATERIALIZED VIEW v AS SELECT upper(item) AS item FROM orders";
        for statement in [alter.to_owned(), format!("EXPLAIN {alter}")] {
            let refused = world.refusal(&statement).await;
            assert!(refused.contains("view v is read by w"), "{refused}");
        }
    });
}

#[test]
fn a_statement_that_did_nothing_says_so() {
    simulated(async {
        let world = World::new();
        world.run("CREATE TOPIC orders (item VARCHAR)").await;
        let create = "CREATE MATERIALIZED VIEW IF NOT EXISTS v AS SELECT item FROM orders";
        assert!(world.notices(create).await.is_empty());
        assert_eq!(
            world.notices(create).await,
            ["view v exists already and was left as it is"]
        );
        for what in ["TOPIC", "VIEW", "MATERIALIZED VIEW", "JOB"] {
            let told = world
                .notices(&format!("DROP {what} IF EXISTS nowhere"))
                .await;
            assert_eq!(told.len(), 1, "{what}: {told:?}");
            assert!(told[0].ends_with("and nothing was dropped"), "{told:?}");
        }
        let view = "DROP MATERIALIZED VIEW IF EXISTS v";
        assert!(world.notices(view).await.is_empty());
    });
}

#[test]
fn a_subscription_goes_on_where_its_topic_gets_another_version_of_its_schema() {
    simulated(async {
        let world = World::new();
        let fields = r#""type":"record","name":"R","fields":[{"name":"item","type":"string"},{"name":"n","type":"long"}"#;
        world
            .run(&format!(
                "CREATE TOPIC orders WITH (format = 'avro', schema = '{{{fields}]}}')"
            ))
            .await;
        world.run("INSERT INTO orders VALUES ('pen', 1)").await;
        world.wait().await;
        let sums = world.sql.execute(&format!("SUBSCRIBE {SUMS}")).await;
        let mut sums = sums.unwrap();
        assert_eq!(next(&mut sums).await.0, ["upsert pen pen 1"]);
        let all = world.sql.execute("SUBSCRIBE SELECT * FROM orders").await;
        let mut all = all.unwrap();
        assert!(all.batches.next().await.unwrap().is_ok());
        world
            .run(&format!(
                r#"ALTER TOPIC orders SET (schema = '{{{fields},{{"name":"note","type":"string","default":""}}]}}')"#
            ))
            .await;
        world.run("INSERT INTO orders VALUES ('pen', 2, 'b')").await;
        assert_eq!(next(&mut sums).await.0, ["upsert pen pen 3"]);
        // Its reader was told other columns.
        let ended = all.batches.next().await.unwrap().unwrap_err().to_string();
        assert!(
            ended.contains("topic orders was declared otherwise"),
            "{ended}"
        );
    });
}

#[test]
fn a_query_over_a_topic_that_was_made_anew_while_it_stood_still_says_so() {
    simulated(async {
        let world = World::new();
        let orders = "CREATE TOPIC orders (item VARCHAR, n BIGINT)";
        world.run(orders).await;
        world
            .run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS many FROM orders")
            .await;
        world.run("INSERT INTO orders VALUES ('pen', 1)").await;
        world.wait().await;
        let topics = Arc::clone(&world.topics);
        // As a crash between two requests, or another door, would leave it.
        topics.drop_topic("orders").await.unwrap();
        world.run(orders).await;
        let world = world.restarted();
        world.run("INSERT INTO orders VALUES ('ink', 1)").await;
        world.wait().await;
        let jobs = world.run("SELECT state, error FROM millpond.jobs").await;
        assert!(jobs[0].contains("was deleted or made anew"), "{jobs:?}");
        assert_eq!(world.run("SELECT many FROM v").await, ["1"]);
    });
}

#[test]
fn a_query_that_rests_does_not_need_the_rows_that_retention_deletes_meanwhile() {
    simulated(async {
        let world = World::new();
        world
            .run("CREATE TOPIC orders (item VARCHAR, n BIGINT) WITH (queues = 1)")
            .await;
        world
            .run("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS many FROM orders")
            .await;
        for n in 0..3 {
            let insert = format!("INSERT INTO orders VALUES ('pen', {n})");
            world.run(&insert).await;
            world.wait().await;
        }
        world.run("PAUSE JOB v").await;
        let orders = world.topics.topic("orders").unwrap().id;
        world.topics.let_go(orders, QueueId(0), Offset(3));
        world.run("RESUME JOB v").await;
        world.run("INSERT INTO orders VALUES ('ink', 1)").await;
        world.wait().await;
        let jobs = world.run("SELECT state, error FROM millpond.jobs").await;
        assert_eq!(jobs, ["running NULL"]);
        assert_eq!(world.run("SELECT many FROM v").await, ["4"]);
    });
}

#[test]
fn a_view_that_others_read_is_not_altered_under_them() {
    simulated(async {
        let world = World::new();
        world
            .run("CREATE TOPIC orders (item VARCHAR, n BIGINT)")
            .await;
        world
            .run("CREATE MATERIALIZED VIEW v AS SELECT item, n FROM orders")
            .await;
        world
            .run("CREATE MATERIALIZED VIEW w AS SELECT n FROM v")
            .await;
        world.wait().await;
        let refuses = async |world: &World| {
            let alter = "ALTER MATERIALIZED VIEW v AS SELECT n FROM orders";
            let refused = world.sql.execute(alter).await.unwrap_err().to_string();
            let reason = "view v is read by w; write DROP MATERIALIZED VIEW w first";
            assert!(refused.contains(reason), "{refused}");
        };
        refuses(&world).await;
        world.run("PAUSE JOB w").await;
        // One that rests has read nothing since the server began.
        let world = world.restarted();
        world.wait().await;
        refuses(&world).await;
        for sql in [
            "ALTER MATERIALIZED VIEW nothing AS SELECT n FROM orders",
            "ALTER MATERIALIZED VIEW w AS SELECT n FROM w",
        ] {
            assert!(world.sql.execute(sql).await.is_err(), "{sql}");
        }
    });
}

#[test]
fn what_show_create_tells_makes_the_same_again() {
    simulated(async {
        let world = World::new();
        for sql in [
            "CREATE TOPIC orders (id BIGINT, \"Item\" VARCHAR, at TIMESTAMP, late AS (100 / id > 1), PRIMARY KEY (id), \
             WATERMARK FOR at AS at - INTERVAL '1 hour') WITH (queues = 2, retention = '7 days', cleanup = 'compact')",
            "CREATE OR REPLACE VIEW dear (number) AS SELECT id FROM orders",
            "CREATE MATERIALIZED VIEW sums (item, n) AS SELECT \"Item\", count(*) FROM orders GROUP BY \"Item\"",
            "CREATE TOPIC target (item VARCHAR, n BIGINT, PRIMARY KEY (item)) WITH (format = 'avro')",
            "CREATE JOB fill AS INSERT INTO target (n, item) SELECT count(*), \"Item\" FROM orders GROUP BY \"Item\"",
            "ALTER JOB fill SET (restarts = 2, state_limit = '2 MiB', parallelism = 3)",
        ] {
            world.run(sql).await;
        }
        let things = [
            "TOPIC orders",
            "VIEW dear",
            "MATERIALIZED VIEW sums",
            "TOPIC target",
            "JOB fill",
        ];
        let shown = async |world: &World| {
            let mut statements = Vec::new();
            for thing in things {
                for line in world.run(&format!("SHOW CREATE {thing}")).await {
                    let (_, statement) = line.split_once(' ').unwrap();
                    statements.push(statement.to_owned());
                }
            }
            statements
        };
        let statements = shown(&world).await;
        assert_eq!(statements.len(), 6, "{statements:?}");
        let again = World::new();
        for sql in &statements {
            again.run(sql).await;
        }
        assert_eq!(shown(&again).await, statements);
        for topic in ["orders", "sums", "target"] {
            let made = |world: &World| world.topics.topic_as_made(topic).unwrap();
            assert_eq!(made(&again), made(&world));
        }
    });
}
