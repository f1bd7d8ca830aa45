//! The demo: five days of real flights in a topic, and a continuous view over them.
//!
//! It is filled over gRPC like anything else, so it shows what a client can do. The data travels inside
//! the binary (`examples/data/README.md` names its source).

use std::io::{self, Cursor, Read};

use millpond_connectors::import::{ImportFormat, ImportOptions, Rows};
use millpond_proto::client::{Admin, Client};
use millpond_proto::wire::admin::{Column, Watermark};

use crate::cli::error::CliError;
use crate::cli::import::{Importer, Keys, missing_topic};

/// The topic.
pub const TOPIC: &str = "flights";
/// The continuous view over it.
pub const VIEW: &str = "daily_carriers";
/// When a flight left: its scheduled hour and minute, and its delay.
const DEPARTURE: &str = "to_timestamp_seconds(to_unixtime(time_hour) + (minute + dep_delay) * 60)";
/// In scheduled order, the latest departure of the year comes almost a day late.
const WATERMARK_DELAY_MS: u64 = 24 * 60 * 60 * 1000;
/// The statement behind [`VIEW`].
const VIEW_SQL: &str = "CREATE MATERIALIZED VIEW daily_carriers AS \
    SELECT carrier, window_start, window_end, count(*) AS flights, avg(dep_delay) AS avg_dep_delay \
    FROM TUMBLE(TABLE flights, DESCRIPTOR(departure), INTERVAL '1 day') \
    GROUP BY carrier, window_start, window_end";

static FLIGHTS: &[u8] = include_bytes!("../../examples/data/flights.csv");

/// What filling the demo did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It is there now, with so many flights.
    Now(u64),
    /// It was there before.
    Already,
}

/// Fills the demo; a topic of its name that exists already is left alone.
///
/// # Errors
/// [`CliError`] as an import has them.
pub async fn fill(client: &Client) -> Result<Filled, CliError> {
    let admin = Admin::new(client);
    match admin.describe_topic(TOPIC).await {
        Ok(_) => return Ok(Filled::Already),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    let rows = flights()?;
    let mut request = missing_topic(TOPIC, &rows);
    request.columns.push(Column {
        name: "departure".to_owned(),
        sql_type: "TIMESTAMP".to_owned(),
        expression: DEPARTURE.to_owned(),
    });
    request.watermark = Some(Watermark {
        column: "departure".to_owned(),
        delay_ms: WATERMARK_DELAY_MS,
    });
    admin.create_topic(request).await?;
    let mut importer = Importer::new(client, TOPIC, Keys::Column("tailnum".to_owned()));
    for batch in rows {
        importer.send(&batch?).await?;
    }
    admin.submit_job(VIEW_SQL).await?;
    Ok(Filled::Now(importer.sent()))
}

/// What the demo holds and three things to try, with `program` as the reader would type it.
#[must_use]
pub fn guide(program: &str) -> String {
    format!(
        "\
The demo holds
  {TOPIC}         a topic: departures from New York City, 1 to 5 January 2013 (public domain)
  {VIEW}  a view that keeps itself current: flights and mean delay per carrier and day

Three things to try in another terminal
  {program} sql -c \"SELECT * FROM {VIEW} ORDER BY window_start, flights DESC\"
  {program} topic consume {TOPIC} --group demo --max 5
  {program} export {TOPIC} --to flights.parquet"
    )
}

fn flights() -> Result<Rows, CliError> {
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(Cursor::new(FLIGHTS))) };
    let options = ImportOptions {
        nulls: vec!["NA".to_owned()],
        ..ImportOptions::default()
    };
    Ok(Rows::read(
        "flights.csv",
        ImportFormat::Csv,
        &open,
        &options,
    )?)
}

#[cfg(test)]
mod tests {
    use millpond_connectors::format::kind::Kind;

    use super::*;

    #[test]
    fn the_shipped_flights_are_read_whole_with_their_types() {
        let rows = flights().unwrap();
        let kind = |name: &str| rows.columns().iter().find(|c| c.name == name).unwrap().kind;
        assert_eq!(kind("dep_delay"), Kind::BigInt);
        assert_eq!(kind("tailnum"), Kind::Text);
        assert_eq!(kind("time_hour"), Kind::Timestamp { zoned: true });
        let batches: Vec<_> = rows.map(Result::unwrap).collect();
        let count: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(count, 4334);
    }

    #[tokio::test]
    async fn the_departure_of_a_flight_can_be_computed() {
        use arrow::array::AsArray;
        use arrow::datatypes::Int64Type;
        let batches: Vec<_> = flights().unwrap().map(Result::unwrap).collect();
        let last_first = format!("{DEPARTURE} DESC NULLS LAST");
        let sorted = millpond_sql::sort::order_by(batches, &last_first)
            .await
            .unwrap();
        let days = sorted[0].column_by_name("day").unwrap();
        assert_eq!(days.as_primitive::<Int64Type>().value(0), 5);
    }

    #[test]
    fn the_guide_shows_commands_as_they_are_typed() {
        let guide = guide("target/release/millpond");
        assert_eq!(guide.matches("target/release/millpond ").count(), 3);
    }
}
