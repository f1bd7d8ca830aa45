//! SQL behind the services: statements to answers, jobs to their wire form, errors to statuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt as _;
use millpond_proto::wire::admin as pb;
use millpond_sql::continuous::{Continuous, JobStatus};
use millpond_sql::error::SqlError;
use millpond_sql::sql::Sql;
use millpond_sql::statement::{Statement, parse};
use millpond_sql::topic::ColumnSpec;
use tonic::{Code, Status};

use crate::service::code::{explain, of_remedy};
use crate::service::query::{Answer, Statements};
use crate::service::time::to_wire;

/// SQL over the topics of this server.
#[derive(Clone, Debug)]
pub struct Database {
    sql: Arc<Sql>,
}

impl Database {
    /// The statements of `sql`.
    #[must_use]
    pub fn new(sql: Arc<Sql>) -> Self {
        Self { sql }
    }
}

#[async_trait]
impl Statements for Database {
    async fn execute(&self, sql: &str) -> Result<Answer, Status> {
        let answer = self.sql.execute(sql).await.map_err(|e| status(&e))?;
        let (command, notices) = (answer.command, answer.notices);
        let read = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&read);
        let rows = answer.batches.map(move |batch| match batch {
            Ok(batch) => {
                counted.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                Ok(batch)
            }
            Err(error) => Err(status(&error)),
        });
        Ok(Answer {
            schema: answer.schema,
            rows: rows.boxed(),
            summary: Box::new(move || {
                // PostgreSQL's tag of a query tells its rows, which are known at the end alone.
                let command = match command.as_str() {
                    "SELECT" => format!("SELECT {}", read.load(Ordering::Relaxed)),
                    _ => command,
                };
                pb::QuerySummary {
                    command,
                    notices: notices.list(),
                }
            }),
        })
    }

    async fn submit(&self, sql: &str) -> Result<pb::Job, Status> {
        submit(self.sql.jobs().as_ref(), sql).await
    }

    fn jobs(&self) -> Vec<pb::Job> {
        self.sql.jobs().list().into_iter().map(job).collect()
    }

    fn job(&self, name: &str) -> Option<pb::Job> {
        self.sql.jobs().describe(name).map(job)
    }

    async fn cancel(&self, name: &str) -> Result<Vec<String>, Status> {
        self.sql.drop_job(name).await.map_err(|e| status(&e))
    }

    fn check_unused(&self, topic: &str) -> Result<(), Status> {
        self.sql.check_unused(topic).map_err(|e| status(&e))
    }

    fn check_columns_to_add(&self, topic: &str, columns: &[ColumnSpec]) -> Result<(), Status> {
        let checked = self.sql.check_columns_to_add(topic, columns);
        checked.map_err(|e| status(&e))
    }
}

/// Starts the continuous query of a statement.
///
/// # Errors
/// `INVALID_ARGUMENT` for one that is not continuous, else what SQL says.
pub async fn submit(continuous: &dyn Continuous, sql: &str) -> Result<pb::Job, Status> {
    let name = match parse(sql).map_err(|e| status(&e))? {
        Statement::CreateMaterializedView(view) => {
            continuous
                .create_view(&view)
                .await
                .map_err(|e| status(&e))?;
            view.name
        }
        Statement::CreateJob(spec) => {
            continuous.create_job(&spec).await.map_err(|e| status(&e))?;
            spec.name
        }
        _ => {
            return Err(Status::invalid_argument(
                "this statement is not continuous; run it with: millpond sql -c, or write \
                 CREATE MATERIALIZED VIEW … or CREATE JOB … AS INSERT INTO …",
            ));
        }
    };
    // It may have been dropped in between, and is then gone for good.
    continuous
        .describe(&name)
        .map(job)
        .ok_or_else(|| Status::not_found(format!("job {name:?} was ended right after its start")))
}

/// A job as the wire has it.
#[must_use]
pub fn job(status: JobStatus) -> pb::Job {
    pb::Job {
        name: status.name,
        state: status.state.to_string(),
        sql: status.sql,
        epoch: status.epoch,
        watermark: status.watermark.map(to_wire),
        rows_in: status.rows_in,
        rows_out: status.rows_out,
        rows_late: status.rows_late,
        rows_undecodable: status.rows_undecodable,
        rows_without_time: status.rows_without_time,
        state_bytes: status.state_bytes,
        error: status.error.unwrap_or_default(),
        lag: status.lag,
        output_topic: status.output_topic,
        restarts: status.restarts,
    }
}

/// SQL's errors as our services answer them.
#[must_use]
pub fn status(error: &SqlError) -> Status {
    let code = match error {
        // A statement that is not allowed is one to rewrite: gRPC's UNIMPLEMENTED would say that the call
        // itself is missing.
        SqlError::Syntax(_)
        | SqlError::NotAllowed(_)
        | SqlError::Invalid(_)
        | SqlError::Data { .. } => Code::InvalidArgument,
        SqlError::Unknown(_) => Code::NotFound,
        SqlError::Limit { .. } => Code::ResourceExhausted,
        SqlError::Topics(topics) => of_remedy(topics.remedy()),
        // Not to be sent again as it is.
        SqlError::Partly { .. } => Code::FailedPrecondition,
        SqlError::Export { .. } | SqlError::Bug { .. } => {
            tracing::error!(error = explain(error), "a statement failed");
            Code::Internal
        }
    };
    Status::new(code, explain(error))
}

#[cfg(test)]
mod tests {
    use millpond_sql::continuous::{JobState, NoJobs};
    use millpond_sql::job::pace::Pace;

    use super::*;

    #[tokio::test]
    async fn only_continuous_statements_are_submitted() {
        let status = submit(&NoJobs, "SELECT 1").await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().contains("CREATE MATERIALIZED VIEW"),
            "{status}"
        );
        let status = submit(&NoJobs, "SELEC 1").await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }

    #[test]
    fn a_job_keeps_its_numbers_on_the_wire() {
        let wire = job(JobStatus {
            name: "delays".to_owned(),
            state: JobState::Failed,
            sql: "CREATE …".to_owned(),
            epoch: 1,
            watermark: None,
            rows_in: 2,
            rows_out: 3,
            rows_late: 4,
            rows_undecodable: 5,
            rows_without_time: 6,
            state_bytes: 7,
            error: Some("disk".to_owned()),
            lag: 8,
            output_topic: "delays".to_owned(),
            operators: Vec::new(),
            pace: Pace::default(),
            parallelism: 1,
            state_bytes_max: 9,
            restarts: 0,
        });
        assert_eq!(wire.state, "failed");
        assert_eq!((wire.rows_late, wire.rows_undecodable, wire.lag), (4, 5, 8));
        assert_eq!(wire.error, "disk");
    }
}
