//! SQL over a broker on the simulated disk, with continuous queries, as a server has it.

use arrow::array::Int64Array;
use millpond_proto::time::Clock;
use millpond_sql::answer::Finished;
use millpond_sql::continuous::{Continuous, JobState};
use millpond_sql::error::SqlError;
use millpond_sql::job::runtime::{JobParts, Jobs};
use millpond_sql::sql::{Sql, SqlParts};

use super::*;

/// SQL over a broker, with continuous queries.
pub(super) struct Database {
    pub(super) broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    pub(super) jobs: Arc<Jobs>,
    sql: Sql,
}

pub(super) async fn database(disk: &SimulatedDisk) -> Database {
    let parts = parts(disk);
    let (clock, spawn) = (Arc::clone(&parts.clock), Arc::clone(&parts.spawn));
    let state = Arc::clone(&parts.objects);
    let broker = Broker::start(parts, settings()).await.unwrap();
    let parts = JobParts {
        topics: Arc::clone(&broker) as _,
        clock: Arc::clone(&clock),
        spawn,
        state: Arc::clone(&state),
    };
    let jobs = Jobs::start(parts.clone());
    let sql = Sql::new(SqlParts::beside(Arc::clone(&jobs) as _, parts, state));
    Database {
        broker,
        clock,
        jobs,
        sql: sql.unwrap(),
    }
}

impl Database {
    pub(super) async fn ask(&self, statement: &str) -> Result<Finished, SqlError> {
        self.sql.execute(statement).await?.finish().await
    }

    pub(super) async fn count(&self, of: &str) -> Result<i64, SqlError> {
        let counted = self.ask(&format!("SELECT count(*) FROM {of}")).await?;
        let counts = counted.batches[0].column(0).as_any();
        Ok(counts.downcast_ref::<Int64Array>().unwrap().value(0))
    }

    pub(super) async fn sleep_ms(&self, ms: u64) {
        self.clock.sleep(Duration::from_millis(ms)).await;
    }

    pub(super) fn state_of(&self, job: &str) -> (JobState, Option<String>) {
        let status = self.jobs.describe(job).unwrap();
        (status.state, status.error)
    }
}
