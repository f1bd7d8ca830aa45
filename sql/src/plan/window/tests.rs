//! Window functions as they are written, and what becomes of them.

use std::sync::Arc;

use millpond_proto::time::{SimulatedClock, Timestamp};

use super::*;
use crate::testing::MemoryTopics;

const DAY_MS: i64 = 86_400_000;

fn topics() -> Arc<MemoryTopics> {
    MemoryTopics::new(Arc::new(SimulatedClock::starting_at(Timestamp(0))))
}

fn continuous(sql: &str) -> Result<(Query, Vec<Window>), SqlError> {
    rewrite(&parse_query(sql).unwrap(), topics().as_ref())
}

#[test]
fn a_window_over_windows_takes_the_place_of_their_bounds() {
    let minutes = "SELECT window_start, n FROM TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL '1 minute')";
    let (query, windows) = continuous(&format!(
        "SELECT 1 FROM TUMBLE(({minutes}), DESCRIPTOR(window_start), INTERVAL '1 hour') AS h"
    ))
    .unwrap();
    assert_eq!(windows.len(), 2);
    assert_eq!(windows[0].topic, "h");
    let told = query.to_string();
    assert!(
        told.contains("FROM (SELECT * EXCEPT (window_start), "),
        "{told}"
    );
}

#[test]
fn both_spellings_of_tumble_become_the_same_derived_table() {
    let bare = "SELECT carrier FROM TUMBLE(TABLE flights, DESCRIPTOR(departure), INTERVAL '1 day') GROUP BY carrier";
    let nested = "SELECT carrier FROM TABLE(TUMBLE(TABLE flights, DESCRIPTOR(departure), INTERVAL '1' DAY)) GROUP BY carrier";
    let (bare, windows) = continuous(bare).unwrap();
    let (nested, _) = continuous(nested).unwrap();
    assert_eq!(bare.to_string(), nested.to_string());
    assert_eq!(
        windows,
        vec![Window {
            topic: "flights".to_owned(),
            rows: None,
            time_column: "departure".to_owned(),
            kind: Windows::Tumble { size_ms: DAY_MS },
            keys: Vec::new(),
        }]
    );
    assert!(bare.to_string().contains("AS window_start"), "{bare}");
}

#[test]
fn a_bounded_window_leaves_out_rows_without_time() {
    let sql = "SELECT 1 FROM TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL '1 hour') AS w";
    let (query, _) = rewrite_bounded(&parse_query(sql).unwrap(), topics().as_ref()).unwrap();
    assert!(query.to_string().contains("IS NOT NULL"), "{query}");
    let (query, _) = continuous(sql).unwrap();
    assert!(!query.to_string().contains("IS NOT NULL"), "{query}");
}

#[test]
fn other_table_functions_and_odd_sizes_are_refused() {
    for (sql, expected) in [
        (
            "SELECT 1 FROM read_csv('/etc/passwd')",
            "the table functions are TUMBLE",
        ),
        (
            "SELECT 1 FROM TABLE(generate_series(1, 9))",
            "the table functions are TUMBLE",
        ),
        (
            "SELECT 1 FROM TUMBEL(TABLE t, DESCRIPTOR(c), INTERVAL '1 hour')",
            "did you mean TUMBLE?",
        ),
        (
            "SELECT 1 FROM TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL '1 month')",
            "no fixed length",
        ),
        (
            "SELECT 1 FROM TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL '0 hours')",
            "longer than nothing",
        ),
        ("SELECT 1 FROM TUMBLE(TABLE t)", "1 arguments"),
        (
            "SELECT 1 FROM HOP(TABLE t, DESCRIPTOR(c), INTERVAL '2 hours', INTERVAL '3 hours')",
            "not a multiple",
        ),
        (
            "SELECT 1 FROM CUMULATE(TABLE t, DESCRIPTOR(c), INTERVAL '1 second', INTERVAL '1 day')",
            "86400 windows",
        ),
        (
            "SELECT 1 FROM HOP(TABLE t, DESCRIPTOR(c), INTERVAL '1 hour')",
            "3 arguments",
        ),
        (
            "SELECT 1 FROM TUMBLE(TABLE t PARTITION BY k, DESCRIPTOR(c), INTERVAL '1 hour')",
            "takes no PARTITION BY",
        ),
    ] {
        let error = continuous(sql).unwrap_err();
        assert!(error.to_string().contains(expected), "{sql}: {error}");
    }
}
