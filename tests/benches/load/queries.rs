//! Bounded queries over the log and over Parquet.

use millpond_proto::client::{OutgoingMessage, Producer};
use millpond_proto::wire::admin::{Column, CreateTopicRequest};
use millpond_tests::harness::Server;

use crate::measure::{cpu, say};

/// Rows for the queries.
const ROWS: usize = 200_000;

/// A bounded aggregate over JSON bodies in the log, then over the same rows in Parquet.
pub(crate) async fn run(server: &Server) {
    let columns = ["carrier VARCHAR", "delay BIGINT", "distance DOUBLE"].map(|column| {
        let (name, sql_type) = column.split_once(' ').unwrap();
        Column {
            name: name.to_owned(),
            sql_type: sql_type.to_owned(),
            expression: String::new(),
        }
    });
    create(server, "rows", columns.to_vec()).await;
    let producer = Producer::new(&server.client());
    for from in (0..ROWS).step_by(1000) {
        let batch = (from..from + 1000).map(|row| {
            OutgoingMessage::new(format!(
                r#"{{"carrier":"C{}","delay":{},"distance":{}.5}}"#,
                row % 16,
                row % 300,
                row % 2500
            ))
        });
        producer.send_batch("rows", batch.collect()).await.unwrap();
    }
    let sql = "SELECT carrier, count(*), avg(delay), max(distance) FROM rows GROUP BY carrier";
    measure(server, "JSON bodies in the log", sql);
    server.admin().tier().await.unwrap();
    measure(server, "JSON bodies in Parquet", sql);
    measure(
        server,
        "system columns in Parquet",
        "SELECT _queue, count(*), max(_stored_at) FROM rows GROUP BY _queue",
    );
}

fn measure(server: &Server, what: &str, sql: &str) {
    const TURNS: u32 = 5;
    let before = cpu(server);
    for _ in 0..TURNS {
        assert!(!server.rows(sql).is_empty());
    }
    let spent = (cpu(server) - before) / TURNS;
    say(&format!(
        "SELECT over {ROWS} rows, {what}: {:.0} rows per CPU-second",
        ROWS as f64 / spent.as_secs_f64()
    ));
}

async fn create(server: &Server, name: &str, columns: Vec<Column>) {
    let request = CreateTopicRequest {
        name: name.to_owned(),
        columns,
        ..CreateTopicRequest::default()
    };
    server.admin().create_topic(request).await.unwrap();
}
