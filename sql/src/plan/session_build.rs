//! `SESSION` as a node, where what stands around it is more than its aggregate.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::Expr;

use crate::error::SqlError;
use crate::operator::graph::{Kind, Mode};
use crate::operator::group::STATE_TTL_MS;
use crate::operator::session_rows::SessionRowsSpec;
use crate::plan::bounds::{Time, time_of};
use crate::plan::continuous::lateness_ms;
use crate::plan::graph::{Builder, Edge, named, nullable};
use crate::plan::refuse::refused;
use crate::plan::window::{Window, end_mark, start_mark};

impl Builder<'_> {
    /// Gives the rows of an edge, whose columns are those of `input`, the bounds of their sessions as two more columns.
    pub(super) fn sessions(
        &mut self,
        below: Edge,
        index: usize,
        window: &Window,
        gap_ms: i64,
        time: &Expr,
        input: &DFSchema,
    ) -> Result<Edge, SqlError> {
        let Some(known) = time_of(time, input, &below.times) else {
            return Err(self.without_horizon(window));
        };
        let horizon = match known.is_strict {
            true => known.horizon,
            false => {
                let lateness_ms = lateness_ms(&self.options, STATE_TTL_MS);
                known.horizon.lagging(lateness_ms)
            }
        };
        let keys = window.keys.iter();
        let keys = keys.map(|key| input.index_of_column(&Column::new_unqualified(key)));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let rows: SchemaRef = Arc::clone(&self.nodes[below.node].schema);
        let time = self.physical(time, input)?;
        let kind: DataType = time.data_type(&rows)?;
        let marks = [start_mark(index), end_mark(index)];
        let marks = marks.into_iter().map(|mark| (mark, kind.clone()));
        let schema = nullable(named(&rows).into_iter().chain(marks));
        let end = rows.fields().len() + 1;
        let spec = SessionRowsSpec {
            time,
            keys,
            gap_ms,
            horizon: horizon.clone(),
            input: rows,
            schema: Arc::clone(&schema),
        };
        let edge = Edge {
            node: self.push(Kind::SessionRows(Box::new(spec)), vec![below.node], schema),
            mode: Mode::Retract,
            unique: None,
            // Sessions change until they are over, and those that are left end later.
            times: vec![Time {
                column: end,
                horizon: horizon.lagging(-1),
                is_strict: true,
                is_padded: false,
            }],
        };
        self.tell("sessions, state ends by time", &edge);
        Ok(edge)
    }

    fn without_horizon(&self, window: &Window) -> SqlError {
        if let Some(topic) = self.only_keyed() {
            return refused(
                &format!(
                    "SESSION over topic {topic}, which has a primary key, so that its rows are replaced"
                ),
                "read a topic without PRIMARY KEY, or group by TUMBLE or HOP",
            );
        }
        refused(
            &format!(
                "SESSION over {}, of which nobody knows how late it may come",
                window.time_column
            ),
            "put it over the time column of a topic with a watermark, passed on as it is",
        )
    }
}
