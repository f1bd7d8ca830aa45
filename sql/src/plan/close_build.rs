//! `EMIT ON WINDOW CLOSE` of a graph: its rows wait until they are final.

use std::sync::Arc;

use crate::error::SqlError;
use crate::operator::close::CloseSpec;
use crate::operator::graph::{Kind, Mode};
use crate::plan::bounds::Time;
use crate::plan::graph::{Builder, Edge};
use crate::plan::source::Source;

/// The column that tells when a window is over, if the query has several columns of times.
const WINDOW_END: &str = "window_end";

impl Builder<'_> {
    /// Lets the rows of an edge leave once, by the time that one of its columns holds.
    pub(super) fn close(&mut self, edge: Edge) -> Result<Edge, SqlError> {
        let schema = Arc::clone(&self.nodes[edge.node].schema);
        let is_end = |time: &&Time| schema.field(time.column).name() == WINDOW_END;
        // A row without the time would never be final, and so never leave.
        let times = || edge.times.iter().filter(|time| !time.is_padded);
        let time = times().find(is_end).or_else(|| times().next());
        if let (None, Some(padded)) = (time, edge.times.first()) {
            return Err(SqlError::invalid(
                format!(
                    "EMIT ON WINDOW CLOSE needs a time that every row has, and {} is NULL in rows of an outer join that met nothing, or of a grouping set without it",
                    schema.field(padded.column).name()
                ),
                "select the time of the side whose rows all stay, and have it in every grouping set; of a FULL JOIN neither is: write EMIT CHANGES, or a LEFT JOIN and the rest of the other side with UNION ALL",
            ));
        }
        if let (None, Some(topic)) = (time, self.only_keyed()) {
            return Err(SqlError::invalid(
                format!(
                    "EMIT ON WINDOW CLOSE needs rows that are final some time, and those of {topic} are not: it has a primary key, and a later row of a key takes the place of an earlier one",
                ),
                "write EMIT CHANGES, or read a topic without PRIMARY KEY",
            ));
        }
        let time = time.cloned().ok_or_else(|| {
            SqlError::invalid(
                "EMIT ON WINDOW CLOSE needs a column that tells when a row is final, and the select list has none",
                "select window_end, or the time column of a topic with a watermark by which rows are joined or grouped, or write EMIT CHANGES",
            )
        })?;
        let lateness_ms = self.options.allowed_lateness_ms.unwrap_or(0);
        let horizon = match time.is_strict {
            true => time.horizon.clone(),
            false => time.horizon.lagging(lateness_ms),
        };
        let spec = CloseSpec {
            column: time.column,
            horizon: horizon.clone(),
            schema: Arc::clone(&schema),
        };
        let closed = Edge {
            node: self.push(Kind::Close(spec), vec![edge.node], schema),
            mode: Mode::Append,
            unique: edge.unique,
            times: vec![Time {
                column: time.column,
                horizon,
                is_strict: true,
                is_padded: false,
            }],
        };
        self.tell("rows leave when they are final", &closed);
        Ok(closed)
    }

    /// The topic that is read, or the first of them, if all that are read have a primary key.
    pub(super) fn only_keyed(&self) -> Option<&str> {
        let is_keyed = |source: &Source| !source.topic.primary_key.is_empty();
        let first = self.sources.first()?;
        self.sources
            .iter()
            .all(is_keyed)
            .then_some(first.topic.name.as_str())
    }
}
