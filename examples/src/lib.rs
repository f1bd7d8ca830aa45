//! Lessons, one file each in `examples/examples`, over the wire with the Rust SDK.
//!
//! Start a server (`millpond`), then run one: `cargo run -p millpond-examples --example hello_queue`.
//! Each takes the server's address from `MILLPOND_SERVER`.
//!
//! 1. `hello_queue`: send, receive, acknowledge.
//! 2. `flights`: a CSV file becomes messages, and SQL counts them.
//! 3. `streaming_view`: a continuous view answers while messages arrive.

use std::error::Error;

use millpond_proto::client::admin::Frame;
use millpond_proto::client::{Admin, Client};
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
