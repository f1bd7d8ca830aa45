//! How a continuous query is refused: by the name of the construct, with what to write instead.

use datafusion::logical_expr::LogicalPlan;

use crate::error::SqlError;
use crate::topic::TopicInfo;

pub(crate) fn unsupported(plan: &LogicalPlan) -> SqlError {
    match plan {
        LogicalPlan::Sort(_) => refused(
            "ORDER BY without LIMIT",
            "leave it out, and sort where the view is read: SELECT … FROM view ORDER BY …",
        ),
        LogicalPlan::Limit(_) => refused(
            "LIMIT without ORDER BY, or of a number that is computed",
            "leave it out, and limit where the view is read: SELECT … FROM view LIMIT …",
        ),
        LogicalPlan::Window(_) => refused(
            "OVER",
            "keep the first rows of ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) with WHERE, or compute it where the view is read",
        ),
        LogicalPlan::RecursiveQuery(_) => {
            refused("WITH RECURSIVE", "compute it where the view is read")
        }
        other => refused(
            &format!("{}", other.display()),
            "write one SELECT over one topic, with WHERE, GROUP BY and HAVING",
        ),
    }
}

pub(crate) fn refused(what: &str, instead: &str) -> SqlError {
    SqlError::invalid(format!("a continuous query does not take {what}"), instead)
}

pub(crate) fn without_window() -> SqlError {
    SqlError::invalid(
        "EMIT ON WINDOW CLOSE needs groups with a window, and the query has none",
        "group by window_start, window_end over TUMBLE(TABLE topic, DESCRIPTOR(time_column), \
         INTERVAL '1 hour'), or write EMIT CHANGES",
    )
}

pub(crate) fn nothing_late() -> SqlError {
    SqlError::invalid(
        "no row of this query can be late, since it has neither windows nor a join by time",
        "leave out late and allowed_lateness, or group by a window",
    )
}

pub(crate) fn every_of_rows() -> SqlError {
    SqlError::invalid(
        "EMIT EVERY is for rows that change, and those of this query stay once they are there",
        "leave EMIT out: each row leaves as soon as it is known",
    )
}

/// A side of a join whose time to live is given and that is none.
pub(crate) fn unknown_side(side: &str, known: &[String]) -> SqlError {
    let advice = match known {
        [] => "write state_ttl = '1 day' for all state; a side has a time to live where rows are joined without a bound of time".to_owned(),
        known => format!("the sides of such joins are {}", known.join(", ")),
    };
    SqlError::invalid(
        format!("state_ttl.{side} names no side of a join that is without a bound of time"),
        advice,
    )
}

pub(crate) fn of_computed_time(source: &TopicInfo, column: &str) -> SqlError {
    let time = match &source.watermark {
        Some(declared) => declared.column.as_str(),
        None => "_stored_at",
    };
    refused(
        &format!("a window over {column}, which is computed below the window"),
        &format!("pass {time} on as it is, and put the window over that"),
    )
}

pub(crate) fn without_watermark(source: &TopicInfo, column: &str) -> SqlError {
    let topic = &source.name;
    let declared = match &source.watermark {
        Some(declared) => format!("its watermark is for {}", declared.column),
        None => "it declares no watermark".to_owned(),
    };
    SqlError::invalid(
        format!(
            "a window over {column} needs to know how late rows of topic {topic} may come, and {declared}"
        ),
        match (source.written_by.as_deref(), &source.watermark) {
            (Some(_), Some(declared)) => {
                format!(
                    "put it over {}, which is the time of its rows",
                    declared.column
                )
            }
            (Some(job), None) if job == topic => format!(
                "write {topic} as a plain view (CREATE VIEW), whose times are those of its topics, let it EMIT CHANGES, or make it anew with EMIT ON WINDOW CLOSE"
            ),
            _ => format!(
                "make the topic with CREATE TOPIC {topic} (…, WATERMARK FOR {column} AS {column} - INTERVAL '5 minutes')"
            ),
        },
    )
}
