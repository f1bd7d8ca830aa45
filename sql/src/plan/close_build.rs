//! `EMIT ON WINDOW CLOSE` of a graph: its rows wait until they are final.

use std::sync::Arc;

use crate::error::SqlError;
use crate::operator::close::CloseSpec;
use crate::operator::graph::{Kind, Mode};
use crate::plan::bounds::Time;
use crate::plan::graph::{Builder, Edge};

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
}
