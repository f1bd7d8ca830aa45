//! Errors on the wire: one exhaustive match for RocketMQ's codes, one for gRPC's.
//!
//! Refusals of the messaging service are answers with a [`Status`](pb::Status) inside; those of our own
//! services are gRPC statuses. Both carry the whole chain of causes as text.

use std::error::Error;

use millpond_proto::name::NameError;
use millpond_proto::remedy::Remedy;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;
use millpond_storage::error::{AppendError, ReadError};

use crate::authorize::Refused;
use crate::broker::BrokerError;

/// A no of the messaging service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// What, which, and what to do next.
    pub message: String,
}

impl Refusal {
    /// A refusal with its reason.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// As it goes into an answer.
    #[must_use]
    pub fn into_status(self) -> pb::Status {
        pb::Status {
            code: self.code.into(),
            message: self.message,
        }
    }

    /// As the telemetry stream ends with it: it has no answer to put a code into.
    #[must_use]
    pub fn into_grpc(self) -> tonic::Status {
        match i32::from(self.code) {
            _ if self.code == Code::TooManyRequests => {
                tonic::Status::resource_exhausted(self.message)
            }
            40_000..=49_999 => tonic::Status::invalid_argument(self.message),
            _ => tonic::Status::internal(self.message),
        }
    }
}

/// The status of everything that went well.
#[must_use]
pub fn ok() -> pb::Status {
    pb::Status {
        code: Code::Ok.into(),
        message: "OK".to_owned(),
    }
}

/// The status above entries: theirs when they agree, `MULTIPLE_RESULTS` when they do not.
#[must_use]
pub fn summary<'a>(entries: impl IntoIterator<Item = &'a pb::Status>) -> pb::Status {
    let mut entries = entries.into_iter();
    let Some(first) = entries.next() else {
        let none = "the request named nothing; send at least one entry";
        return Refusal::new(Code::InternalServerError, none).into_status();
    };
    if entries.all(|entry| entry.code == first.code) {
        return first.clone();
    }
    Refusal::new(
        Code::MultipleResults,
        "entries have different results; read each entry's status",
    )
    .into_status()
}

impl From<BrokerError> for Refusal {
    fn from(error: BrokerError) -> Self {
        log(&error, error.remedy());
        let code = match &error {
            BrokerError::Name(name) => name_code(name),
            BrokerError::TopicNotFound { .. } => Code::TopicNotFound,
            BrokerError::GroupNotFound { .. } => Code::ConsumerGroupNotFound,
            BrokerError::Exists { .. }
            | BrokerError::StaleSequence { .. }
            | BrokerError::OutOfBounds { .. }
            | BrokerError::LiteCompaction { .. }
            | BrokerError::TooLateToRecall
            | BrokerError::TransactionDecided { .. }
            | BrokerError::NotInFamily { .. }
            | BrokerError::BadChange { .. }
            | BrokerError::ChangeRefused(_) => Code::BadRequest,
            BrokerError::NoParent { .. } | BrokerError::OtherParent { .. } => Code::IllegalTopic,
            BrokerError::NotLite { .. } => Code::IllegalConsumerGroup,
            BrokerError::LiteTopicNotFound { .. } => Code::NotFound,
            BrokerError::LiteTopicsFull { .. } => Code::LiteTopicQuotaExceeded,
            BrokerError::LiteSubscriptions { .. } => Code::LiteSubscriptionQuotaExceeded,
            BrokerError::InvalidTransaction { .. } => Code::InvalidTransactionId,
            BrokerError::WrittenBy { .. } => Code::Forbidden,
            BrokerError::KeyMissing { .. } => Code::IllegalMessageKey,
            BrokerError::InvalidHandle { .. } | BrokerError::InvalidRecallHandle { .. } => {
                Code::InvalidReceiptHandle
            }
            BrokerError::OffsetOutside { .. } => Code::IllegalOffset,
            BrokerError::TooMany { .. } | BrokerError::Full { .. } => Code::TooManyRequests,
            BrokerError::ShardDamaged(_) | BrokerError::Confused(_) => Code::InternalServerError,
            BrokerError::Append(append) => match append {
                AppendError::TooLarge { .. } => Code::MessageBodyTooLarge,
                // The message may exist all the same.
                AppendError::Failed { .. } => Code::MasterPersistenceTimeout,
                AppendError::Full { .. } | AppendError::Closed => Code::TooManyRequests,
            },
            BrokerError::Read(read) => match read {
                ReadError::Trimmed { .. } => Code::IllegalOffset,
                ReadError::Damaged { .. } | ReadError::Disk { .. } | ReadError::Objects { .. } => {
                    Code::InternalServerError
                }
            },
        };
        Self::new(code, explain(&error))
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::new(name_code(&error), error.to_string())
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self::new(Code::Unauthorized, refused.to_string())
    }
}

/// Names say themselves what they are of.
fn name_code(error: &NameError) -> Code {
    let (NameError::Empty { what, .. }
    | NameError::TooLong { what, .. }
    | NameError::Character { what, .. }
    | NameError::Reserved { what, .. }) = error;
    if *what == "topic" {
        Code::IllegalTopic
    } else {
        Code::IllegalConsumerGroup
    }
}

/// The broker's errors as our own services answer them.
#[must_use]
pub fn grpc(error: &BrokerError) -> tonic::Status {
    log(error, error.remedy());
    let code = match error {
        BrokerError::Name(_)
        | BrokerError::OutOfBounds { .. }
        | BrokerError::LiteCompaction { .. } => tonic::Code::InvalidArgument,
        BrokerError::TopicNotFound { .. }
        | BrokerError::GroupNotFound { .. }
        | BrokerError::LiteTopicNotFound { .. }
        | BrokerError::InvalidRecallHandle { .. }
        | BrokerError::InvalidTransaction { .. } => tonic::Code::NotFound,
        BrokerError::Exists { .. } => tonic::Code::AlreadyExists,
        BrokerError::WrittenBy { .. }
        | BrokerError::KeyMissing { .. }
        | BrokerError::StaleSequence { .. }
        | BrokerError::BadChange { .. }
        | BrokerError::ChangeRefused(_)
        | BrokerError::NotInFamily { .. }
        | BrokerError::NoParent { .. }
        | BrokerError::OtherParent { .. }
        | BrokerError::NotLite { .. }
        | BrokerError::TooLateToRecall
        | BrokerError::TransactionDecided { .. }
        | BrokerError::InvalidHandle { .. } => tonic::Code::FailedPrecondition,
        BrokerError::OffsetOutside { .. } => tonic::Code::OutOfRange,
        BrokerError::Confused(_) => tonic::Code::Internal,
        BrokerError::TooMany { .. }
        | BrokerError::Full { .. }
        | BrokerError::LiteTopicsFull { .. }
        | BrokerError::LiteSubscriptions { .. } => tonic::Code::ResourceExhausted,
        BrokerError::ShardDamaged(_) => tonic::Code::DataLoss,
        BrokerError::Append(append) => match append {
            AppendError::TooLarge { .. } => tonic::Code::InvalidArgument,
            AppendError::Full { .. } => tonic::Code::ResourceExhausted,
            AppendError::Failed { .. } | AppendError::Closed => tonic::Code::Unavailable,
        },
        BrokerError::Read(read) => match read {
            ReadError::Trimmed { .. } => tonic::Code::OutOfRange,
            ReadError::Damaged { .. } => tonic::Code::DataLoss,
            ReadError::Disk { .. } => tonic::Code::Internal,
            ReadError::Objects { .. } => tonic::Code::Unavailable,
        },
    };
    tonic::Status::new(code, explain(error))
}

/// The gRPC code for an error of which only the way out is known.
#[must_use]
pub fn of_remedy(remedy: Remedy) -> tonic::Code {
    match remedy {
        Remedy::FixRequest => tonic::Code::InvalidArgument,
        Remedy::Retry | Remedy::Redirect => tonic::Code::Unavailable,
        Remedy::Operator | Remedy::Bug => tonic::Code::Internal,
    }
}

/// An error with all its causes, in one line.
#[must_use]
pub fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // A transparent error says what its cause says.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Errors that the caller can not mend are told to whoever runs the server.
fn log(error: &dyn Error, remedy: Remedy) {
    match remedy {
        Remedy::FixRequest | Remedy::Retry | Remedy::Redirect => {}
        Remedy::Operator | Remedy::Bug => tracing::error!(error = explain(error), "call failed"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn names_are_refused_by_what_they_name() {
        let topic = millpond_proto::name::TopicName::new("a.b").unwrap_err();
        assert_eq!(Refusal::from(topic).code, Code::IllegalTopic);
        let group = millpond_proto::name::GroupName::new("").unwrap_err();
        assert_eq!(
            Refusal::from(BrokerError::Name(group)).code,
            Code::IllegalConsumerGroup
        );
    }

    #[test]
    fn a_failed_sync_tells_its_cause() {
        let error = BrokerError::Append(AppendError::Failed {
            cause: Arc::new(std::io::Error::other("no space left")),
        });
        let refusal = Refusal::from(error.clone());
        assert_eq!(refusal.code, Code::MasterPersistenceTimeout);
        assert!(refusal.message.contains("no space left"), "{refusal}");
        assert_eq!(grpc(&error).code(), tonic::Code::Unavailable);
    }

    #[test]
    fn entries_that_differ_are_multiple_results() {
        let bad = Refusal::new(Code::InvalidReceiptHandle, "gone").into_status();
        let code = |entries: &[pb::Status]| summary(entries).code;
        assert_eq!(code(&[ok(), ok()]), i32::from(Code::Ok));
        assert_eq!(
            code(&[bad.clone(), bad.clone()]),
            i32::from(Code::InvalidReceiptHandle)
        );
        assert_eq!(code(&[ok(), bad]), i32::from(Code::MultipleResults));
        assert_eq!(code(&[]), i32::from(Code::InternalServerError));
    }

    #[test]
    fn telemetry_ends_with_the_status_of_its_class() {
        let grpc = |code| Refusal::new(code, "no").into_grpc().code();
        assert_eq!(grpc(Code::ClientIdRequired), tonic::Code::InvalidArgument);
        assert_eq!(grpc(Code::TooManyRequests), tonic::Code::ResourceExhausted);
        assert_eq!(grpc(Code::InternalServerError), tonic::Code::Internal);
    }
}
