use super::*;
use crate::error::SqlError;
use crate::topic::WatermarkSpec;

fn refused(sql: &str) -> String {
    match parse(sql) {
        Ok(statement) => format!("parsed as {statement:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_topic_is_declared_with_columns_watermark_and_queues() {
    let statement = parse(
        "CREATE TOPIC IF NOT EXISTS flights (carrier VARCHAR, dep_delay DOUBLE, departure TIMESTAMP, \
         late AS (dep_delay > 15), WATERMARK FOR departure AS departure - INTERVAL '24 hours') \
         WITH (queues = 8);",
    )
    .unwrap();
    let Statement::CreateTopic(topic) = statement else {
        panic!("{statement:?}");
    };
    assert_eq!(
        (
            topic.name.as_str(),
            topic.if_not_exists,
            topic.options.queues
        ),
        ("flights", true, Some(8))
    );
    assert_eq!(topic.columns.len(), 4);
    assert_eq!(
        topic.columns[3].expression.as_deref(),
        Some("dep_delay > 15")
    );
    assert_eq!(
        topic.watermark,
        Some(WatermarkSpec {
            column: "departure".to_owned(),
            delay_ms: 24 * 3_600_000,
            behind: Vec::new(),
        })
    );
}

#[test]
fn emit_ends_a_view_and_is_never_an_alias() {
    for (clause, emit) in [
        ("", Emit::Changes),
        ("EMIT CHANGES", Emit::Changes),
        ("EMIT ON WINDOW CLOSE", Emit::OnWindowClose),
    ] {
        for from in [
            "t",
            "t GROUP BY a",
            "TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL '1 day')",
            "t WHERE a > 1",
        ] {
            let sql = format!("CREATE MATERIALIZED VIEW v AS SELECT a FROM {from} {clause}");
            let Ok(Statement::CreateMaterializedView(view)) = parse(&sql) else {
                panic!("{sql}: {}", refused(&sql));
            };
            assert_eq!(view.emit, emit, "{sql}");
            assert!(
                !view.query.to_string().to_lowercase().contains("emit"),
                "{}",
                view.query
            );
        }
    }
    assert!(refused("SELECT * FROM t EMIT ON WINDOW CLOSE").contains("CREATE MATERIALIZED VIEW"));
}

#[test]
fn jobs_copies_and_inserts_are_parsed() {
    assert!(matches!(
        parse("CREATE JOB j AS INSERT INTO late SELECT * FROM flights WHERE dep_delay > 60").unwrap(),
        Statement::CreateJob(job) if job.target == "late" && job.name == "j"
    ));
    assert!(matches!(parse("PAUSE JOB j").unwrap(), Statement::PauseJob { name } if name == "j"));
    assert!(matches!(
        parse("RESUME MATERIALIZED VIEW j").unwrap(),
        Statement::ResumeJob { name } if name == "j"
    ));
    assert!(matches!(
        parse("EXPLAIN CREATE MATERIALIZED VIEW v AS SELECT n FROM t").unwrap(),
        Statement::ExplainContinuous(_)
    ));
    assert!(parse("EXPLAIN CREATE TOPIC t").is_err());
    assert!(
        matches!(parse("CANCEL JOB j").unwrap(), Statement::DropJob { name, .. } if name == "j")
    );
    assert!(matches!(
        parse("COPY (SELECT 1) TO 'a/b.parquet'").unwrap(),
        Statement::Copy { path, .. } if path == "a/b.parquet"
    ));
    assert!(matches!(
        parse("COPY flights TO 'f.parquet'").unwrap(),
        Statement::Copy { query, .. } if query.to_string().contains("\"flights\"")
    ));
    assert!(matches!(
        parse("INSERT INTO t (a, b) VALUES (1, 'x')").unwrap(),
        Statement::Insert { columns, .. } if columns == ["a", "b"]
    ));
    assert!(matches!(
        parse("insert into t (select 1)").unwrap(),
        Statement::Insert { columns, .. } if columns.is_empty()
    ));
}

#[test]
fn topics_are_altered_keyed_and_shown() {
    let Statement::CreateTopic(topic) =
        parse("CREATE TOPIC t (a INT, b VARCHAR, PRIMARY KEY (b, a) NOT ENFORCED)").unwrap()
    else {
        panic!("a topic");
    };
    assert_eq!(topic.primary_key, ["b", "a"]);
    assert!(matches!(
        parse("ALTER TOPIC t ADD COLUMN c INT, ADD d AS (c + 1)").unwrap(),
        Statement::AlterTopic(change) if change.add_columns.len() == 2 && change.options.queues.is_none()
    ));
    assert!(matches!(
        parse("ALTER TOPIC t SET (queues = 9)").unwrap(),
        Statement::AlterTopic(change) if change.options.queues == Some(9)
    ));
    assert!(matches!(
        parse("CREATE OR REPLACE VIEW v AS SELECT 1").unwrap(),
        Statement::CreateView(view) if view.or_replace
    ));
    assert!(matches!(
        parse("SHOW COLUMNS FROM t").unwrap(),
        Statement::Show(Shown::Columns(name)) if name == "t"
    ));
    assert!(matches!(
        parse("SHOW VIEWS").unwrap(),
        Statement::Show(Shown::Table("views"))
    ));
    assert!(refused("ALTER TOPIC t DROP COLUMN a").contains("write ADD COLUMN"));
    assert!(refused("CREATE TOPIC t (a INT, PRIMARY KEY (b))").contains("did you mean a?"));
    assert!(refused("CREATE TOPIC t (a AS (1), PRIMARY KEY (a))").contains("computed"));
}

#[test]
fn whatever_is_not_allowed_is_refused_with_what_is() {
    for sql in [
        "SET datafusion.execution.batch_size = 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE TABLE t (a INT)",
        "CREATE FUNCTION f() RETURNS INT LANGUAGE SQL AS 'SELECT 1'",
        "CREATE SCHEMA s",
        "COPY t FROM '/etc/passwd'",
        "ATTACH DATABASE 'x' AS y",
        "DELETE FROM t",
        "UPDATE t SET a = 1",
        "DROP TABLE t",
        "TRUNCATE t",
        "LOAD 'x'",
        "BEGIN",
        "SHOW ALL",
        "PREPARE p AS SELECT 1",
        "RESET x",
        "ANALYZE t",
    ] {
        assert!(
            matches!(parse(sql), Err(SqlError::NotAllowed(_))),
            "{sql}: {}",
            refused(sql)
        );
    }
    assert!(refused("CREATE TABLE t (a INT)").contains("CREATE TOPIC"));
    assert!(refused("DELETE FROM t").contains("INSERT INTO topic (_key, _body)"));
}

#[test]
fn exactly_one_statement_is_taken() {
    assert!(parse("SELECT 1;").is_ok());
    assert!(refused("SELECT 1; SELECT 2").contains("expected the end of the statement"));
    assert!(refused("  ").contains("empty"));
}

#[test]
fn misspelt_words_are_pointed_at_and_corrected() {
    assert_eq!(
        refused("SELCT 1"),
        "line 1, column 1: SELCT does not begin a statement of this server; did you mean SELECT?"
    );
    assert!(refused("CREATE TOPICK t").contains("did you mean CREATE TOPIC?"));
    assert!(refused("SHOW TOPIC").contains("did you mean SHOW TOPICS?"));
    let error = refused("SELECT a\nFROM t AS x\nGRUOP BY a");
    assert!(
        error.contains("line 3, column 1") && error.contains("GROUP"),
        "{error}"
    );
}

#[test]
fn declarations_that_can_not_mean_what_they_say_are_refused() {
    for (sql, expected) in [
        ("CREATE TOPIC t (depDelay DOUBLE)", "\"depDelay\""),
        ("CREATE TOPIC t (a INT, a INT)", "twice"),
        ("CREATE TOPIC t (_offset INT)", "system column"),
        ("CREATE TOPIC t (a POINT)", "type"),
        (
            "CREATE TOPIC t (a TIMESTAMP, WATERMARK FOR b AS b)",
            "there is no column b",
        ),
        (
            "CREATE TOPIC t (a TIMESTAMP, WATERMARK FOR a AS a + INTERVAL '1 day')",
            "less a constant delay",
        ),
        (
            "CREATE TOPIC t (a TIMESTAMP, WATERMARK FOR a AS a - INTERVAL '1 month')",
            "no fixed length",
        ),
        ("CREATE TOPIC t WITH (queues = 0)", "1 to 1024"),
        ("CREATE TOPIC t WITH (partitions = 3)", "queues"),
        ("CREATE TOPIC t WITH (familie = 'meters')", "family"),
    ] {
        let error = refused(sql);
        assert!(error.contains(expected), "{sql}: {error}");
    }
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow() {
    let sql = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(matches!(
        parse(&sql),
        Err(SqlError::Limit {
            limit: "DEPTH_MAX",
            ..
        })
    ));
}

#[test]
fn long_chains_are_refused_and_long_lists_are_not() {
    let chain = format!("SELECT 1{}", " + 1".repeat(100_000));
    assert!(matches!(
        parse(&chain),
        Err(SqlError::Limit {
            limit: "CHAIN_TOKENS_MAX",
            ..
        })
    ));
    let list = format!("SELECT a FROM t WHERE a IN (1{})", ", 1".repeat(100_000));
    assert!(parse(&list).is_ok());
    // Commas within brackets end no chain around these, and those of a SELECT no UNION.
    for chain in [
        format!("SELECT ARRAY[1, 1]{}", " || ARRAY[1, 1]".repeat(50_000)),
        format!(
            "SELECT f({{1: 1, 2: 2}}{})",
            " || {1: 1, 2: 2}".repeat(50_000)
        ),
    ] {
        assert!(matches!(
            parse(&chain),
            Err(SqlError::Limit {
                limit: "CHAIN_TOKENS_MAX",
                ..
            })
        ));
    }
    let sets = format!("{}SELECT 1, 1", "SELECT 1, 1 UNION ".repeat(50_000));
    assert!(matches!(
        parse(&sets),
        Err(SqlError::Limit {
            limit: "SET_OPERATIONS_MAX",
            ..
        })
    ));
    let some = format!("{}SELECT 1, 1", "SELECT 1, 1 UNION ".repeat(400));
    assert!(parse(&some).is_ok());
}

#[test]
fn a_sink_is_a_job_and_both_say_when_rows_leave() {
    for (sql, emit) in [
        ("CREATE SINK s INTO t AS SELECT n FROM u", Emit::Changes),
        (
            "CREATE JOB s AS INSERT INTO t SELECT n FROM u EMIT CHANGES",
            Emit::Changes,
        ),
        (
            "CREATE SINK s INTO t AS SELECT n FROM u EMIT ON WINDOW CLOSE",
            Emit::OnWindowClose,
        ),
    ] {
        let parsed = parse(sql).unwrap();
        let Statement::CreateJob(job) = parsed else {
            panic!("{parsed:?}");
        };
        assert_eq!(
            (job.name.as_str(), job.target.as_str(), job.emit),
            ("s", "t", emit)
        );
        assert_eq!(job.sql, sql);
    }
    assert!(parse("CREATE SINK s INTO t AS SELECT n FROM u EMIT NOW").is_err());
    assert!(matches!(
        parse("DROP SINK IF EXISTS s").unwrap(),
        Statement::DropJob { name, if_exists: true } if name == "s"
    ));
}

#[test]
fn a_subscription_names_a_query_or_a_table_and_where_to_begin() {
    for (sql, begin) in [
        ("SUBSCRIBE v", Begin::Snapshot),
        ("SUBSCRIBE TO v FROM NOW", Begin::Now),
        (
            "SUBSCRIBE SELECT n FROM v EMIT CHANGES FROM CURSOR '1-2'",
            Begin::Cursor("1-2".to_owned()),
        ),
        (
            "SUBSCRIBE (SELECT n FROM v WHERE n > 1) FROM NOW",
            Begin::Now,
        ),
    ] {
        let parsed = parse(sql).unwrap();
        assert!(
            matches!(&parsed, Statement::Subscribe { from, .. } if *from == begin),
            "{parsed:?}"
        );
    }
    for wrong in [
        "SUBSCRIBE",
        "SUBSCRIBE v FROM CURSOR 5",
        "SUBSCRIBE v FROM BEFORE",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
