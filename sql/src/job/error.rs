//! Why a continuous query does not go on.

use millpond_proto::remedy::Remedy;
use millpond_proto::task::Panicked;

use crate::error::SqlError;
use crate::operator::OperatorError;
use crate::state::checkpoint::CheckpointError;
use crate::state::layers::LayersError;
use crate::topic::TopicsError;

/// Why a turn of a query's loop ended.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The broker refused.
    #[error(transparent)]
    Topics(#[from] TopicsError),
    /// The saved state could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The query could not be computed.
    #[error("{error}{place}")]
    Operator {
        /// Why.
        #[source]
        error: OperatorError,
        /// ` at offset … in queue … of topic …` when the row is known, else nothing.
        place: String,
    },
    /// The remembered statement can not be planned any more, or rows can not be decoded.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// Trouble that should pass did not.
    #[error(
        "started over {restarts} times within an hour, and it met trouble again: {cause}; when that is mended write RESUME JOB"
    )]
    GaveUp {
        /// How often.
        restarts: usize,
        /// The last trouble.
        #[source]
        cause: Box<Self>,
    },
    /// A piece of the work panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// Rows of a recorded cut are not kept any more.
    #[error(
        "rows from offset {from} on in queue {queue} of topic {topic} are gone (kept from {first} on), but the query needs them to restore its state; drop the query and create it again"
    )]
    InputGone {
        /// Topic.
        topic: String,
        /// Queue.
        queue: u32,
        /// First offset needed.
        from: u64,
        /// First offset kept.
        first: u64,
    },
    /// Its state has no room in memory in as few stretches as it is cut into.
    #[error("the state outgrows its memory; it is cut into {stretches} stretches that go to rest")]
    Crowded {
        /// How many it is to have.
        stretches: usize,
    },
    /// Something was asked of a query between two tries to go on.
    #[error("the query starts over after trouble: {why}; ask again when it runs")]
    StartsOver {
        /// The trouble.
        why: String,
    },
    /// The state is larger than a savepoint may be.
    #[error(
        "the state takes more than {limit_bytes} bytes, the most that a savepoint may hold; let it forget what it does not need (state_ttl), or begin another job from the log"
    )]
    SavepointTooLarge {
        /// Most bytes.
        limit_bytes: usize,
    },
    /// The savepoint that it begins with is not there.
    #[error(
        "the savepoint with the id {id}, with which the query begins, is gone; drop the query and create it again"
    )]
    SavepointGone {
        /// Its id.
        id: u64,
    },
    /// A topic that it reads or writes has another declaration than the one that it was planned with.
    #[error(
        "topic {topic} was declared otherwise meanwhile; begin again, behind the last cursor that was seen if there is one"
    )]
    Redeclared {
        /// Topic.
        topic: String,
    },
    /// The topic that it reads or writes is not there any more.
    #[error("topic {topic} was deleted or made anew; drop the query and create it again")]
    TopicGone {
        /// Topic.
        topic: String,
    },
}

impl JobError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Topics(error) => error.remedy(),
            Self::Checkpoint(error) => error.remedy(),
            Self::Operator { error, .. } => error.remedy(),
            Self::Sql(error) => error.remedy(),
            Self::Panicked(_) => Remedy::Bug,
            Self::Crowded { .. } | Self::Redeclared { .. } | Self::StartsOver { .. } => {
                Remedy::Retry
            }
            Self::SavepointTooLarge { .. } => Remedy::FixRequest,
            Self::GaveUp { .. }
            | Self::InputGone { .. }
            | Self::SavepointGone { .. }
            | Self::TopicGone { .. } => Remedy::Operator,
        }
    }
}

impl From<OperatorError> for JobError {
    fn from(error: OperatorError) -> Self {
        Self::Operator {
            error,
            place: String::new(),
        }
    }
}

impl From<LayersError> for JobError {
    fn from(error: LayersError) -> Self {
        match error {
            LayersError::Checkpoint(error) => error.into(),
            LayersError::Operator(error) => error.into(),
        }
    }
}

impl From<arrow::error::ArrowError> for JobError {
    fn from(error: arrow::error::ArrowError) -> Self {
        OperatorError::from(error).into()
    }
}
