//! Statements over the wire: rows as an Arrow IPC stream, cut into frames, then a summary.
//!
//! What SQL is asked for is the trait [`Statements`]; the server puts the real thing behind it. A
//! statement runs on the reading lane, so that a heavy query never delays a send; a client that
//! goes away ends it. An answer is whole when its summary has arrived: whatever ends without one has failed.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use millpond_proto::limits;
use millpond_proto::task::{Lane, Spawn, Task};
use millpond_proto::wire::admin as pb;
use millpond_proto::wire::admin::query_response::Content;
use millpond_sql::topic::ColumnSpec;
use tokio::sync::mpsc;
use tonic::Status;

/// Largest piece of an Arrow stream in one frame.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Frames that wait for the client before the query does.
const FRAMES_AHEAD: usize = 4;

/// The answer to a statement.
pub struct Answer {
    /// Columns of the rows; empty for a statement that returns none.
    pub schema: SchemaRef,
    /// The rows.
    pub rows: BoxStream<'static, Result<RecordBatch, Status>>,
    /// What to tell after the last row was read.
    pub summary: Box<dyn FnOnce() -> pb::QuerySummary + Send>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// SQL, as the services need it; refusals are statuses already.
#[async_trait]
pub trait Statements: Send + Sync + fmt::Debug {
    /// Does one statement.
    ///
    /// # Errors
    /// A status that says what is wrong and what to write instead.
    async fn execute(&self, sql: &str) -> Result<Answer, Status>;

    /// Starts the continuous query that a statement describes.
    ///
    /// # Errors
    /// A status, also for a statement that is not continuous.
    async fn submit(&self, sql: &str) -> Result<pb::Job, Status>;

    /// All continuous queries, by name.
    fn jobs(&self) -> Vec<pb::Job>;

    /// One continuous query.
    fn job(&self, name: &str) -> Option<pb::Job> {
        self.jobs().into_iter().find(|job| job.name == name)
    }

    /// Ends a continuous query.
    ///
    /// # Errors
    /// A status; `NOT_FOUND` when there is none of that name.
    async fn cancel(&self, name: &str) -> Result<Vec<String>, Status>;

    /// Checks that nothing which is remembered by its statement reads a topic or writes into it: it would fail without.
    ///
    /// # Errors
    /// A status that names what does, and the statements that end it.
    fn check_unused(&self, topic: &str) -> Result<(), Status>;

    /// Checks that a topic may have these columns as well, as `ALTER TOPIC` does.
    ///
    /// # Errors
    /// A status that names what is in the way, and what to do about it.
    fn check_columns_to_add(&self, topic: &str, columns: &[ColumnSpec]) -> Result<(), Status>;
}

/// What the client reads.
#[derive(Debug)]
pub struct Frames {
    frames: mpsc::Receiver<Result<pb::QueryResponse, Status>>,
    /// Dropped with the stream, which ends the statement.
    _work: Task,
}

impl Stream for Frames {
    type Item = Result<pb::QueryResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.frames.poll_recv(cx)
    }
}

/// Refuses a statement that is too long to be one.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn check_length(sql: &str) -> Result<(), Status> {
    if sql.len() <= limits::SQL_BYTES_MAX {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "the statement has {} bytes, limit {}; load data with: millpond import",
        sql.len(),
        limits::SQL_BYTES_MAX
    )))
}

/// Runs a statement and sends its answer piece by piece.
pub fn run(statements: Arc<dyn Statements>, spawn: &dyn Spawn, sql: String) -> Frames {
    let (sender, frames) = mpsc::channel(FRAMES_AHEAD);
    let work = async move {
        let answered = AssertUnwindSafe(answer(statements.as_ref(), &sql, &sender));
        // A stream that just ended would look like an answer without rows.
        let answered = answered.catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!(sql, "a statement panicked");
            Err(Status::internal(
                "the statement panicked; see the server's log, and please report it",
            ))
        });
        if let Err(status) = answered {
            let _ = sender.send(Err(status)).await;
        }
    };
    Frames {
        frames,
        _work: spawn.spawn(Lane::Reading, Box::pin(work)),
    }
}

type Sender = mpsc::Sender<Result<pb::QueryResponse, Status>>;

async fn answer(statements: &dyn Statements, sql: &str, sender: &Sender) -> Result<(), Status> {
    let Answer {
        schema,
        mut rows,
        summary,
    } = statements.execute(sql).await?;
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(|e| encode(&e))?;
    loop {
        let bytes = std::mem::take(writer.get_mut());
        if !send(bytes, sender).await {
            return Ok(());
        }
        match rows.next().await {
            Some(batch) => writer.write(&batch?).map_err(|e| encode(&e))?,
            None => break,
        }
    }
    writer.finish().map_err(|e| encode(&e))?;
    let bytes = std::mem::take(writer.get_mut());
    if send(bytes, sender).await {
        let _ = sender.send(Ok(frame(Content::Summary(summary())))).await;
    }
    Ok(())
}

/// Sends bytes in frames; false when the client has gone.
async fn send(bytes: Vec<u8>, sender: &Sender) -> bool {
    let mut bytes = Bytes::from(bytes);
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(FRAME_BYTES_MAX));
        if sender
            .send(Ok(frame(Content::ArrowIpc(piece))))
            .await
            .is_err()
        {
            return false;
        }
    }
    true
}

fn frame(content: Content) -> pb::QueryResponse {
    pb::QueryResponse {
        content: Some(content),
    }
}

fn encode(error: &ArrowError) -> Status {
    Status::internal(format!(
        "could not encode the rows: {error}; please report this"
    ))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, StringArray};
    use arrow::ipc::reader::StreamReader;
    use millpond_proto::task::Runtimes;

    use super::*;

    #[derive(Debug)]
    struct Fixed(Vec<Result<RecordBatch, Status>>);

    #[async_trait]
    impl Statements for Fixed {
        async fn execute(&self, sql: &str) -> Result<Answer, Status> {
            let rows = self.0.clone();
            let schema = rows[0].as_ref().unwrap().schema();
            let command = sql.to_owned();
            Ok(Answer {
                schema,
                rows: futures::stream::iter(rows).boxed(),
                summary: Box::new(move || pb::QuerySummary {
                    command,
                    notices: Vec::new(),
                }),
            })
        }

        async fn submit(&self, _sql: &str) -> Result<pb::Job, Status> {
            Err(Status::unimplemented("not in this test"))
        }

        fn jobs(&self) -> Vec<pb::Job> {
            Vec::new()
        }

        async fn cancel(&self, name: &str) -> Result<Vec<String>, Status> {
            Err(Status::not_found(name))
        }

        fn check_unused(&self, _topic: &str) -> Result<(), Status> {
            Ok(())
        }

        fn check_columns_to_add(
            &self,
            _topic: &str,
            _columns: &[ColumnSpec],
        ) -> Result<(), Status> {
            Ok(())
        }
    }

    fn batch(text: &str, rows: usize) -> RecordBatch {
        let column: ArrayRef = Arc::new(StringArray::from(vec![text; rows]));
        RecordBatch::try_from_iter([("a", column)]).unwrap()
    }

    #[tokio::test]
    async fn rows_arrive_whole_in_small_frames_and_the_summary_is_last() {
        let big = batch(&"x".repeat(1000), 3000);
        let rows = vec![Ok(batch("y", 2)), Ok(big.clone())];
        let runtimes = Runtimes::single();
        let frames = run(Arc::new(Fixed(rows)), &runtimes, "SELECT 2".to_owned());
        let mut frames: Vec<_> = frames.map(|f| f.unwrap().content.unwrap()).collect().await;
        let Some(Content::Summary(summary)) = frames.pop() else {
            panic!("the last frame is the summary");
        };
        assert_eq!(summary.command, "SELECT 2");
        let mut bytes = Vec::new();
        for frame in frames {
            let Content::ArrowIpc(piece) = frame else {
                panic!("one summary only");
            };
            assert!(piece.len() <= FRAME_BYTES_MAX);
            bytes.extend_from_slice(&piece);
        }
        let reader = StreamReader::try_new(bytes.as_slice(), None).unwrap();
        let read: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!(read, [batch("y", 2), big]);
    }

    #[tokio::test]
    async fn an_error_between_rows_ends_the_stream() {
        let rows = vec![Ok(batch("y", 2)), Err(Status::data_loss("row 3"))];
        let runtimes = Runtimes::single();
        let frames = run(Arc::new(Fixed(rows)), &runtimes, String::new());
        let frames: Vec<_> = frames.collect().await;
        let last = frames.last().unwrap().as_ref().unwrap_err();
        assert_eq!(last.code(), tonic::Code::DataLoss);
    }

    /// Answers with a row, then panics.
    #[derive(Debug)]
    struct Panicking;

    #[async_trait]
    impl Statements for Panicking {
        async fn execute(&self, _sql: &str) -> Result<Answer, Status> {
            let first = batch("y", 1);
            let schema = first.schema();
            let panics = futures::stream::poll_fn(|_| panic!("as this test wants"));
            Ok(Answer {
                schema,
                rows: futures::stream::iter([Ok(first)]).chain(panics).boxed(),
                summary: Box::new(pb::QuerySummary::default),
            })
        }

        async fn submit(&self, _sql: &str) -> Result<pb::Job, Status> {
            panic!("as this test wants")
        }

        fn jobs(&self) -> Vec<pb::Job> {
            Vec::new()
        }

        async fn cancel(&self, name: &str) -> Result<Vec<String>, Status> {
            Err(Status::not_found(name))
        }

        fn check_unused(&self, _topic: &str) -> Result<(), Status> {
            Ok(())
        }

        fn check_columns_to_add(&self, _: &str, _: &[ColumnSpec]) -> Result<(), Status> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_statement_that_panics_fails() {
        let runtimes = Runtimes::single();
        let frames = run(Arc::new(Panicking), &runtimes, String::new());
        let frames: Vec<_> = frames.collect().await;
        let (last, before) = frames.split_last().unwrap();
        assert!(!before.is_empty() && before.iter().all(Result::is_ok));
        let status = last.as_ref().unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal);
        assert!(status.message().contains("panicked"), "{status}");
    }

    #[test]
    fn a_statement_has_a_longest_length() {
        assert!(check_length("SELECT 1").is_ok());
        let status = check_length(&" ".repeat(limits::SQL_BYTES_MAX + 1)).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }
}
