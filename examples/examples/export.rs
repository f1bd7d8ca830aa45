//! Lesson 7: the answer of a question as a Parquet file for others.
//!
//! The server writes below the folder `export` of its data folder. Prints what was written.

use std::io::Write as _;

use millpond_examples::{Lesson, begin_anew, connect, execute};

const TOPIC: &str = "lesson_sales";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Lesson {
    let client = connect()?;
    let mut out = std::io::stdout();
    begin_anew(&client, &[], &[TOPIC]).await?;
    for statement in [
        format!("CREATE TOPIC {TOPIC} (city VARCHAR, amount BIGINT)"),
        format!("INSERT INTO {TOPIC} (city, amount) VALUES ('Oslo', 20), ('Rome', 5), ('Oslo', 1)"),
    ] {
        execute(&client, &statement).await?;
    }
    let question = format!("SELECT city, sum(amount) AS amount FROM {TOPIC} GROUP BY city");
    let copy = format!("COPY ({question}) TO 'lessons/sales.parquet'");
    let done = execute(&client, &copy).await?;
    writeln!(out, "{}: export/lessons/sales.parquet", done.command)?;
    Ok(())
}
