use std::sync::Arc;

use arrow::array::AsArray;
use arrow::util::pretty::pretty_format_batches;
use millpond_proto::remedy::Remedy;
use millpond_proto::task::Runtimes;
use millpond_proto::time::{SimulatedClock, Timestamp};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

use super::*;
use crate::answer::Finished;
use crate::continuous::NoJobs;
use crate::testing::MemoryTopics;
use crate::topic::{ColumnSpec, NewTopic};

struct World {
    sql: Sql,
    topics: Arc<MemoryTopics>,
    export: Arc<InMemory>,
}

/// 2013-01-01T00:00:00Z.
const NEW_YEAR_MS: i64 = 1_356_998_400_000;

fn world() -> World {
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::starting_at(Timestamp(NEW_YEAR_MS)));
    let topics = MemoryTopics::new(Arc::clone(&clock));
    let export = Arc::new(InMemory::new());
    let sql = Sql::new(SqlParts {
        topics: Arc::clone(&topics) as Arc<dyn Topics>,
        clock,
        spawn: Arc::new(Runtimes::single()),
        export: Arc::clone(&export) as Arc<dyn ObjectStore>,
        state: Arc::new(InMemory::new()),
        jobs: Arc::new(NoJobs),
    })
    .unwrap();
    World {
        sql,
        topics,
        export,
    }
}

async fn flights() -> World {
    let world = world();
    world
        .run("CREATE TOPIC flights (carrier VARCHAR, dep_delay DOUBLE, departure TIMESTAMP, late AS (dep_delay > 15), \
              WATERMARK FOR departure AS departure - INTERVAL '24 hours') WITH (queues = 3)")
        .await;
    for n in 0..500_i64 {
        let carrier = ["AA", "UA", "DL"][usize::try_from(n % 3).unwrap()];
        let departure = if n % 10 == 0 {
            String::new()
        } else {
            format!(
                ",\"departure\":\"2013-01-{:02} {:02}:00:00\"",
                1 + n % 5,
                n % 24
            )
        };
        let body = format!("{{\"carrier\":\"{carrier}\",\"dep_delay\":{n}{departure}}}");
        world
            .topics
            .send("flights", Some(&format!("N{n}")), Some(&body));
    }
    world
}

impl World {
    async fn run(&self, sql: &str) -> Finished {
        match self.try_run(sql).await {
            Ok(finished) => finished,
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    async fn try_run(&self, sql: &str) -> Result<Finished, SqlError> {
        self.sql.execute(sql).await?.finish().await
    }

    async fn refused(&self, sql: &str) -> String {
        match self.try_run(sql).await {
            Ok(finished) => panic!("{sql}: {finished:?}"),
            Err(error) => error.to_string(),
        }
    }

    async fn table(&self, sql: &str) -> String {
        let finished = self.run(sql).await;
        pretty_format_batches(&finished.batches)
            .unwrap()
            .to_string()
    }

    async fn number(&self, sql: &str) -> i64 {
        let finished = self.run(sql).await;
        let batch = finished
            .batches
            .iter()
            .find(|batch| batch.num_rows() > 0)
            .unwrap();
        batch
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>()
            .value(0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_grouped_as_a_table() {
    let world = flights().await;
    assert_eq!(
        world
            .table("SELECT carrier, count(*) AS n, avg(dep_delay) AS delay FROM flights GROUP BY carrier ORDER BY carrier")
            .await,
        "+---------+-----+-------+\n\
         | carrier | n   | delay |\n\
         +---------+-----+-------+\n\
         | AA      | 167 | 249.0 |\n\
         | DL      | 166 | 249.5 |\n\
         | UA      | 167 | 250.0 |\n\
         +---------+-----+-------+"
    );
    assert_eq!(
        world
            .number("SELECT count(*) FROM flights WHERE late")
            .await,
        484
    );
    assert_eq!(world.number("SELECT count(*) FROM flights").await, 500);
}

#[tokio::test(start_paused = true)]
async fn system_columns_tell_where_a_message_lies() {
    let world = flights().await;
    assert_eq!(
        world
            .number(
                "SELECT count(*) FROM flights WHERE _queue = 1 AND _offset >= 0 AND _key LIKE 'N%'"
            )
            .await,
        world
            .number("SELECT count(*) FROM flights WHERE _queue = 1")
            .await
    );
    assert_eq!(
        world
            .number("SELECT count(*) FROM flights WHERE _offset < 2")
            .await,
        6
    );
    assert_eq!(
        world
            .number("SELECT count(*) FROM flights WHERE 2 > _offset AND _queue <> 0")
            .await,
        4
    );
    let plan = world
        .table("EXPLAIN SELECT carrier FROM flights WHERE _queue = 1")
        .await;
    assert!(
        plan.contains("TopicScan: topic=flights, queues=1"),
        "{plan}"
    );
    let all = world.run("SELECT * FROM flights LIMIT 5").await;
    assert_eq!(
        all.batches.iter().map(RecordBatch::num_rows).sum::<usize>(),
        5
    );
    let names = all.schema.fields().iter().map(|field| field.name());
    assert!(names.clone().all(|name| !catalog::is_system_column(name)));
    assert_eq!(names.count(), 4, "only what was declared");
}

#[tokio::test(start_paused = true)]
async fn broken_bodies_are_counted_and_shown_and_their_neighbours_stay() {
    let world = world();
    world
        .run("CREATE TOPIC t (n BIGINT) WITH (queues = 1)")
        .await;
    for body in [
        r#"{"n":1}"#,
        r#"{"n":"x"}"#,
        r#"{"n":3}{"n":4}"#,
        r#"{"n":5}"#,
    ] {
        world.topics.send("t", None, Some(body));
    }
    let finished = world
        .run("SELECT _offset, n, _decode_error IS NULL AS good FROM t ORDER BY _offset")
        .await;
    let table = pretty_format_batches(&finished.batches)
        .unwrap()
        .to_string();
    assert_eq!(
        table,
        "+---------+---+-------+\n\
         | _offset | n | good  |\n\
         +---------+---+-------+\n\
         | 0       | 1 | true  |\n\
         | 1       |   | false |\n\
         | 2       |   | false |\n\
         | 3       | 5 | true  |\n\
         +---------+---+-------+"
    );
    assert_eq!(finished.notices.len(), 1);
    assert!(
        finished.notices[0].starts_with(
            "2 rows of topic t did not parse as its columns, first: queue 0 offset 1: "
        ),
        "{finished:?}"
    );
    let bodies = world
        .table("SELECT _body FROM t WHERE _decode_error IS NOT NULL")
        .await;
    assert!(bodies.contains(r#"{"n":3}{"n":4}"#), "{bodies}");
}

#[tokio::test(start_paused = true)]
async fn an_updating_view_counts_the_last_row_of_each_key() {
    let world = world();
    let info = world
        .topics
        .create_topic(NewTopic {
            name: "view".to_owned(),
            queues: Some(2),
            columns: vec![
                ColumnSpec {
                    name: "k".to_owned(),
                    sql_type: "VARCHAR".to_owned(),
                    expression: None,
                },
                ColumnSpec {
                    name: "n".to_owned(),
                    sql_type: "BIGINT".to_owned(),
                    expression: None,
                },
            ],
            watermark: None,
            primary_key: vec!["k".to_owned()],
            written_by: Some("view".to_owned()),
            ..NewTopic::default()
        })
        .await
        .unwrap();
    for n in 0..1000 {
        let key = format!("k{}", n % 7);
        world.topics.send(
            "view",
            Some(&key),
            Some(&format!("{{\"k\":\"{key}\",\"n\":{n}}}")),
        );
    }
    world.topics.send("view", Some("k3"), None);
    let table = world
        .table("SELECT k, n FROM view WHERE _offset > -1 ORDER BY k")
        .await;
    assert_eq!(world.number("SELECT count(*) FROM view").await, 6);
    assert_eq!(world.number("SELECT max(n) FROM view").await, 999);
    assert_eq!(world.number("SELECT min(n) FROM view").await, 993);
    assert!(!table.contains("k3"), "{table}");
    assert_eq!(info.queues, 2);
    assert!(
        world
            .refused("INSERT INTO view VALUES ('a', 1)")
            .await
            .contains("written by view")
    );
    assert!(
        world
            .refused("DROP TOPIC view")
            .await
            .contains("DROP MATERIALIZED VIEW view")
    );
}

#[tokio::test(start_paused = true)]
async fn a_bounded_window_equals_date_bin_by_hand() {
    let world = flights().await;
    let windows = world
        .table(
            "SELECT carrier, window_start, window_end, count(*) AS n, avg(dep_delay) AS d \
             FROM TUMBLE(TABLE flights, DESCRIPTOR(departure), INTERVAL '1 day') \
             GROUP BY carrier, window_start, window_end ORDER BY carrier, window_start",
        )
        .await;
    let by_hand = world
        .table(
            "SELECT carrier, date_bin(INTERVAL '1 day', departure) AS window_start, \
             date_bin(INTERVAL '1 day', departure) + INTERVAL '1 day' AS window_end, count(*) AS n, avg(dep_delay) AS d \
             FROM flights WHERE departure IS NOT NULL \
             GROUP BY 1, 2, 3 ORDER BY 1, 2",
        )
        .await;
    assert_eq!(windows, by_hand);
    assert!(windows.contains("2013-01-05T00:00:00"), "{windows}");
    assert_eq!(
        world.number("SELECT count(*) FROM TABLE(TUMBLE(TABLE flights, DESCRIPTOR(departure), INTERVAL '1' HOUR)) AS w").await,
        450
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_writes_parquet_that_reads_back() {
    let world = flights().await;
    let finished = world
        .run("COPY (SELECT carrier, dep_delay, departure FROM flights) TO 'out/flights.parquet'")
        .await;
    assert_eq!(finished.command, "COPY 500");
    let path = Path::from("out/flights.parquet");
    let bytes = world
        .export
        .get(&path)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes)
        .unwrap()
        .build()
        .unwrap();
    let rows: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows, 500);
    assert_eq!(
        world.run("COPY flights TO 'all.parquet'").await.command,
        "COPY 500"
    );
    assert_eq!(
        world
            .run("COPY (SELECT 1) TO 'out/flights.parquet'")
            .await
            .command,
        "COPY 1"
    );
    let error = world.refused("COPY flights TO '../x.parquet'").await;
    assert!(error.contains("export folder"), "{error}");
    assert!(
        world
            .refused("COPY (SELECT 1 / 0) TO 'bad.parquet'")
            .await
            .contains("failed on its data")
    );
    assert!(
        world.export.get(&Path::from("bad.parquet")).await.is_err(),
        "a failed export leaves nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn inserted_rows_are_messages_with_json_bodies() {
    let world = world();
    world.run("CREATE TOPIC t (n BIGINT, at TIMESTAMP, s VARCHAR, double_n AS (n * 2)) WITH (queues = 2)").await;
    let finished = world
        .run("INSERT INTO t (_key, n, at) VALUES ('a', 1, '2013-01-01T10:00:00Z'), ('b', 2, NULL)")
        .await;
    assert_eq!(finished.command, "INSERT 2");
    let mut bodies: Vec<String> = world
        .topics
        .messages("t")
        .iter()
        .map(|(_, message)| String::from_utf8_lossy(message.body.as_ref().unwrap()).into_owned())
        .collect();
    bodies.sort();
    assert_eq!(
        bodies,
        [r#"{"n":1,"at":"2013-01-01T10:00:00.000Z"}"#, r#"{"n":2}"#]
    );
    assert_eq!(
        world
            .run("INSERT INTO t SELECT n, at, 'x' FROM t")
            .await
            .command,
        "INSERT 2"
    );
    assert_eq!(world.number("SELECT sum(double_n) FROM t").await, 12);
    assert!(
        world
            .refused("INSERT INTO t (double_n) VALUES (1)")
            .await
            .contains("no stored column")
    );
    assert!(
        world
            .refused("INSERT INTO t (n) VALUES ('many')")
            .await
            .contains("many")
    );
    assert!(
        world
            .refused("INSERT INTO t VALUES (1)")
            .await
            .contains("3 columns are to be filled")
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_but_our_tables_can_be_reached() {
    let world = flights().await;
    for sql in [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM pg_ls_dir('/etc')",
        "SELECT * INTO x FROM flights",
        "WITH x AS (SELECT 1) INSERT INTO flights SELECT 'a', 1, NULL",
        "SELECT * FROM foo.bar",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "SET datafusion.catalog.information_schema = false",
    ] {
        match world.try_run(sql).await {
            Ok(finished) => panic!("{sql}: {finished:?}"),
            Err(error) => assert_eq!(error.remedy(), Remedy::FixRequest, "{sql}: {error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn misspelt_tables_and_columns_are_pointed_at_and_corrected() {
    let world = flights().await;
    assert_eq!(
        world.refused("SELECT *\nFROM flihgts").await,
        "line 2, column 6: there is no topic flihgts; did you mean flights?"
    );
    assert_eq!(
        world.refused("SELECT carier FROM flights").await,
        "line 1, column 8: there is no column carier; did you mean carrier?"
    );
    assert!(
        world
            .refused("SELECT * FROM millpond.topic")
            .await
            .contains("did you mean topics?")
    );
    assert!(
        world
            .refused("DROP TOPIC flihgts")
            .await
            .contains("did you mean flights?")
    );
    assert!(
        world
            .refused("DESCRIBE flihgts")
            .await
            .contains("did you mean flights?")
    );
}

#[tokio::test(start_paused = true)]
async fn system_tables_and_descriptions_are_answered() {
    let world = flights().await;
    assert!(world.table("SHOW TOPICS").await.contains("flights"));
    assert!(
        world
            .table("SELECT name FROM millpond.topics")
            .await
            .contains("flights")
    );
    world.run("SHOW JOBS").await;
    world.run("SHOW GROUPS").await;
    world.run("SELECT * FROM millpond.jobs").await;
    let described = world.table("DESCRIBE flights").await;
    assert!(
        described.contains("event time, watermark 86400000 ms behind"),
        "{described}"
    );
    assert!(
        described.contains("computed: dep_delay > 15"),
        "{described}"
    );
    assert!(
        world
            .table("SELECT table_name FROM information_schema.tables")
            .await
            .contains("flights")
    );
}

#[tokio::test(start_paused = true)]
async fn topics_are_made_once_and_views_need_a_runtime() {
    let world = flights().await;
    assert!(
        world
            .refused("CREATE TOPIC flights")
            .await
            .contains("exists already")
    );
    let again = world.run("CREATE TOPIC IF NOT EXISTS flights").await;
    assert!(again.notices[0].contains("left as it is"));
    assert!(
        world
            .refused("CREATE TOPIC t (a INT, WATERMARK FOR a AS a)")
            .await
            .contains("TIMESTAMP")
    );
    assert!(
        world
            .refused("CREATE MATERIALIZED VIEW v AS SELECT carrier FROM flights")
            .await
            .contains("no continuous queries")
    );
    world.run("DROP TOPIC flights").await;
    assert!(world.topics.topic("flights").is_none());
    world.run("DROP TOPIC IF EXISTS flights").await;
}

#[tokio::test(start_paused = true)]
async fn a_statement_ends_when_its_time_is_over() {
    let world = flights().await;
    // The reader takes one batch and then waits longer than a statement may run.
    let mut answer = world
        .sql
        .execute("SELECT a._offset FROM flights a, flights b, flights c")
        .await
        .unwrap();
    answer.batches.next().await.unwrap().unwrap();
    world
        .sql
        .parts
        .clock
        .sleep(Duration::from_millis(
            limits::QUERY_MS_MAX.unsigned_abs() + 1,
        ))
        .await;
    let error = loop {
        match answer.batches.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("the statement ended as if it were done"),
        }
    };
    assert!(error.to_string().contains("QUERY_MS_MAX"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn columns_are_added_by_nobody_where_that_would_make_a_query_another() {
    let world = world();
    world.run("CREATE TOPIC read (n BIGINT)").await;
    let column = |name: &str, sql_type: &str| ColumnSpec {
        name: name.to_owned(),
        sql_type: sql_type.to_owned(),
        expression: None,
    };
    let check = |column: ColumnSpec| world.sql.check_columns_to_add("read", &[column]);
    check(column("m", "BIGINT")).unwrap();
    for (column, told) in [
        (column("n", "BIGINT"), "has a column n already"),
        (column("m", "BIGINTT"), "BIGINTT"),
    ] {
        let error = check(column).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    let job = "CREATE MATERIALIZED VIEW copy AS SELECT * FROM read";
    world.topics.create_job("copy", job, &[]).await.unwrap();
    let error = check(column("m", "BIGINT")).unwrap_err().to_string();
    assert!(error.contains("read with * by copy"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_names_come_to_is_bounded_and_not_only_what_is_written() {
    let world = world();
    world.run("CREATE TOPIC t (x BIGINT)").await;
    let union =
        |of: &str, parts: usize| vec![format!("SELECT x FROM {of}"); parts].join(" UNION ALL ");
    world
        .run(&format!("CREATE VIEW v1 AS {}", union("t", 16)))
        .await;
    world
        .run(&format!("CREATE VIEW v2 AS {}", union("v1", 16)))
        .await;
    assert_eq!(world.number("SELECT count(*) FROM v2").await, 0);
    // A chain of views would be made of a million tables, and each of its texts is short.
    for query in [union("v2", 2), union("v2", 16)] {
        for statement in [
            query.clone(),
            format!("CREATE VIEW v3 AS {query}"),
            format!("EXPLAIN CREATE MATERIALIZED VIEW v3 AS {query}"),
        ] {
            let refused = world.refused(&statement).await;
            assert!(refused.contains("TABLES_MAX of 256 tables"), "{refused}");
        }
    }
    let deep = |levels: usize| {
        let first = format!("a0 AS ({})", union("t", 2));
        let next = (1..levels).map(|n| format!("a{n} AS ({})", union(&format!("a{}", n - 1), 2)));
        let with: Vec<String> = std::iter::once(first).chain(next).collect();
        format!(
            "WITH {} SELECT count(*) FROM a{}",
            with.join(", "),
            levels - 1
        )
    };
    assert_eq!(world.number(&deep(8)).await, 0);
    let refused = world.refused(&deep(20)).await;
    assert!(refused.contains("TABLES_MAX"), "{refused}");
    assert_eq!(
        world
            .number("SELECT value FROM millpond.limits WHERE name = 'TABLES_MAX'")
            .await,
        256
    );
}

#[tokio::test(start_paused = true)]
async fn an_insert_is_computed_before_it_is_stored_and_tells_what_is_stored_of_it() {
    let world = world();
    world
        .run("CREATE TOPIC a (s VARCHAR) WITH (queues = 1)")
        .await;
    world.run("CREATE TOPIC b (n BIGINT)").await;
    for n in 0..9000 {
        let text = if n == 8999 { "x" } else { "1" };
        world
            .topics
            .send("a", None, Some(&format!("{{\"s\":\"{text}\"}}")));
    }
    let copy = "INSERT INTO b SELECT CAST(s AS BIGINT) FROM a";
    let refused = world.refused(copy).await;
    assert!(refused.contains("'x' is no BIGINT"), "{refused}");
    assert!(!refused.contains("stored"), "{refused}");
    assert_eq!(world.number("SELECT count(*) FROM b").await, 0);
    // What the broker took before it took no more is told, and nobody is told to do it all again.
    world.topics.limit_room(Some(3));
    let insert = "INSERT INTO b VALUES (1), (2), (3), (4), (5)";
    let error = world.try_run(insert).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::FixRequest);
    let text = error.to_string();
    assert!(
        text.starts_with("not all rows were stored, but 3 rows; look at"),
        "{text}"
    );
    assert!(
        text.ends_with("there is no room for more; try again later"),
        "{text}"
    );
    assert_eq!(world.number("SELECT count(*) FROM b").await, 3);
    let error = world.try_run(insert).await.unwrap_err();
    assert_eq!(error.remedy(), Remedy::Retry, "nothing is stored: {error}");
    world.topics.limit_room(None);
    assert_eq!(world.run(insert).await.command, "INSERT 5");
    assert_eq!(world.number("SELECT count(*) FROM b").await, 8);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_parse_is_one_however_often_it_is_read() {
    let world = world();
    world
        .run("CREATE TOPIC t (n BIGINT) WITH (queues = 2)")
        .await;
    for body in ["{\"n\":1}", "{", "{\"n\":2}"] {
        world.topics.send("t", None, Some(body));
    }
    let joined = world
        .run("SELECT a.n FROM t AS a JOIN t AS b ON a.n = b.n")
        .await;
    let [notice] = joined.notices.as_slice() else {
        panic!("{:?}", joined.notices);
    };
    assert!(
        notice.starts_with("1 row of topic t did not parse"),
        "{notice}"
    );
}
