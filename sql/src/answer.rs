//! What a statement answers: columns, batches as they come, and what was noticed on the way.

use std::fmt;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use futures::stream::BoxStream;

use crate::batch::notices::Notices;
use crate::error::SqlError;

/// An answer being read; dropping it stops the statement.
pub struct Answer {
    /// Columns of every batch.
    pub schema: SchemaRef,
    /// The rows. An error ends them.
    pub batches: BoxStream<'static, Result<RecordBatch, SqlError>>,
    /// What was done, in the words of PostgreSQL's command tags, for example `SELECT` or `COPY 5`.
    pub command: String,
    /// What was noticed; complete once `batches` has ended. Clone it to read it then.
    pub notices: Notices,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("schema", &self.schema)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// An answer that has been read to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Columns.
    pub schema: SchemaRef,
    /// All rows.
    pub batches: Vec<RecordBatch>,
    /// What was done.
    pub command: String,
    /// What was noticed, for a person to read.
    pub notices: Vec<String>,
}

impl Answer {
    /// An answer that is already there.
    #[must_use]
    pub fn ready(batch: RecordBatch, command: impl Into<String>, notices: Notices) -> Self {
        Self {
            schema: batch.schema(),
            batches: Box::pin(futures::stream::iter([Ok(batch)])),
            command: command.into(),
            notices,
        }
    }

    /// Reads to the end and keeps all rows in memory.
    ///
    /// # Errors
    /// The error that ended the rows.
    pub async fn finish(self) -> Result<Finished, SqlError> {
        let batches = self.batches.try_collect().await?;
        Ok(Finished {
            schema: self.schema,
            batches,
            command: self.command,
            notices: self.notices.list(),
        })
    }
}
