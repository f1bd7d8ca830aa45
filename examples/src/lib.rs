//! Lessons, one file each in `examples/examples`, over the wire with the Rust SDK.
//!
//! Start a server (`millpond`), then run one: `cargo run --release -p millpond-examples --example hello_queue`. Each takes
//! the server's address from `MILLPOND_SERVER`, makes what it needs anew, and is run by a test.
//!
//! 1. `hello_queue`: send, receive, acknowledge.
//! 2. `flights`: a CSV file becomes messages, and SQL counts them.
//! 3. `streaming_view`: a continuous view answers while messages arrive.
//! 4. `joins`: a view over two topics.
//! 5. `view_as_table`: a view is asked like any table.
//! 6. `cdc_upserts`: changes of a database's rows.
//! 7. `export`: an answer as a Parquet file.

use std::error::Error;
use std::time::Duration;

use arrow::ipc::reader::StreamReader;
use arrow::json::LineDelimitedWriter;
use millpond_proto::client::admin::Frame;
use millpond_proto::client::{Admin, Client};
use millpond_proto::time::{Clock as _, SystemClock};
use millpond_proto::wire::admin::QuerySummary;

/// What a lesson returns: any error ends it.
pub type Lesson = Result<(), Box<dyn Error>>;

/// Connects to the server that `MILLPOND_SERVER` names, or to the usual address of one on this machine.
///
/// # Errors
/// When the address is none.
pub fn connect() -> Result<Client, Box<dyn Error>> {
    let server = std::env::var("MILLPOND_SERVER");
    let server = server.unwrap_or_else(|_| "http://127.0.0.1:8081".to_owned());
    Ok(Client::connect(&server)?)
}

/// Runs a statement for what it does, not for its rows.
///
/// # Errors
/// When the server refuses it.
pub async fn execute(client: &Client, sql: &str) -> Result<QuerySummary, Box<dyn Error>> {
    let mut answer = Admin::new(client).query(sql).await?;
    let mut done = QuerySummary::default();
    while let Some(frame) = answer.next().await? {
        if let Frame::Summary(summary) = frame {
            done = summary;
        }
    }
    Ok(done)
}

/// Asks a question and answers its rows, each as a JSON object.
///
/// # Errors
/// When the server refuses it.
pub async fn rows(client: &Client, sql: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let mut answer = Admin::new(client).query(sql).await?;
    let mut bytes = Vec::new();
    while let Some(frame) = answer.next().await? {
        if let Frame::ArrowIpc(piece) = frame {
            bytes.extend_from_slice(&piece);
        }
    }
    let mut lines = LineDelimitedWriter::new(Vec::new());
    for batch in StreamReader::try_new(bytes.as_slice(), None)? {
        lines.write(&batch?)?;
    }
    lines.finish()?;
    let lines = String::from_utf8(lines.into_inner())?;
    Ok(lines.lines().map(str::to_owned).collect())
}

/// Waits until a continuous query has read so many rows, and all that there are.
///
/// # Errors
/// When there is no such query, or it stopped.
pub async fn caught_up(client: &Client, query: &str, rows: u64) -> Lesson {
    loop {
        let job = Admin::new(client).describe_job(query).await?;
        if job.state == "failed" {
            return Err(job.error.into());
        }
        if job.rows_in >= rows && job.lag == 0 {
            return Ok(());
        }
        SystemClock.sleep(Duration::from_millis(50)).await;
    }
}

/// Drops views and deletes topics of an earlier run, so that a lesson always begins alike.
///
/// # Errors
/// When the server refuses for another reason than that there are none.
pub async fn begin_anew(client: &Client, views: &[&str], topics: &[&str]) -> Lesson {
    for view in views {
        match Admin::new(client).cancel_job(view).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => forget_topic(client, view).await?,
        }
    }
    for topic in topics {
        forget_topic(client, topic).await?;
    }
    Ok(())
}

/// Deletes a topic of an earlier run, so that a lesson always begins alike.
///
/// # Errors
/// When the server refuses for another reason than that there is none.
pub async fn forget_topic(client: &Client, topic: &str) -> Lesson {
    match Admin::new(client).delete_topic(topic).await {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}
