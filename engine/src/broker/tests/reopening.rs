//! What SQL says while the log is opened anew: nothing that is not so, and what runs goes on behind it.

use millpond_proto::remedy::Remedy;
use millpond_sql::continuous::JobState;

use super::database::database;
use super::*;

#[tokio::test(start_paused = true)]
async fn what_runs_goes_on_when_the_log_was_opened_anew() {
    let disk = SimulatedDisk::new();
    let database = database(&disk).await;
    database.ask("CREATE TOPIC t (n BIGINT)").await.unwrap();
    // One whose rows just pass, which looks when rows come, and one that looks at each tick.
    for view in [
        "CREATE MATERIALIZED VIEW passed AS SELECT n FROM t WHERE n > 0",
        "CREATE MATERIALIZED VIEW counted AS SELECT n % 2 AS odd, count(*) AS c FROM t GROUP BY n % 2",
    ] {
        database.ask(view).await.unwrap();
    }
    database.ask("INSERT INTO t VALUES (1), (2)").await.unwrap();
    database.sleep_ms(500).await;
    // For a while it can not be opened, and each of them looks meanwhile.
    disk.limit_room(Some(0));
    disk.fail_next_sync();
    assert!(database.ask("INSERT INTO t VALUES (-1)").await.is_err());
    database.sleep_ms(3500).await;
    assert!(database.broker.incarnation().is_err(), "it is closed still");
    disk.limit_room(None);
    database.sleep_ms(60_000).await;
    database.ask("INSERT INTO t VALUES (3)").await.unwrap();
    database.sleep_ms(60_000).await;
    for view in ["passed", "counted"] {
        assert_eq!(database.state_of(view), (JobState::Running, None), "{view}");
    }
    assert_eq!(database.count("passed").await.unwrap(), 3);
    let odd = "(SELECT * FROM counted WHERE odd = 1 AND c = 2)";
    assert_eq!(database.count(odd).await.unwrap(), 1);
    database.jobs.stop().await;
    database.broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_told_between_two_runs_is_refused_and_never_none() {
    let disk = SimulatedDisk::new();
    let database = database(&disk).await;
    database.ask("CREATE TOPIC t (n BIGINT)").await.unwrap();
    database
        .ask("CREATE VIEW v AS SELECT n FROM t")
        .await
        .unwrap();
    database.ask("INSERT INTO t VALUES (1), (2)").await.unwrap();
    disk.limit_room(Some(0));
    disk.fail_next_sync();
    assert!(database.ask("INSERT INTO t VALUES (3)").await.is_err());
    database.sleep_ms(500).await;
    assert!(database.broker.incarnation().is_err());
    for statement in [
        "SELECT * FROM t",
        "SELECT count(*) FROM v",
        "SHOW TOPICS",
        "SELECT * FROM millpond.queues",
        "SELECT * FROM millpond.groups",
        "SELECT * FROM millpond.delayed",
        "SELECT * FROM millpond.dead_letters",
        "DROP TOPIC t",
        "DROP VIEW IF EXISTS v",
        "INSERT INTO t VALUES (4)",
    ] {
        match database.ask(statement).await {
            Err(error) if statement == "DROP TOPIC t" => {
                // What reads it is known.
                assert!(error.to_string().contains("read by v"), "{error}");
            }
            Err(error) => assert_eq!(error.remedy(), Remedy::Retry, "{statement}: {error}"),
            Ok(done) => panic!("{statement}: {done:?}"),
        }
    }
    // What is known without the log is told.
    for table in ["views", "columns WHERE topic = 't' AND kind = 'stored'"] {
        let of = format!("millpond.{table}");
        assert_eq!(database.count(&of).await.unwrap(), 1, "{table}");
    }
    disk.limit_room(None);
    database.sleep_ms(60_000).await;
    assert!(database.count("v").await.unwrap() >= 2);
    database.broker.close().await;
}
