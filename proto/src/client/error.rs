//! What can go wrong between a client and a server.

use tonic::Code;

use crate::remedy::Remedy;
use crate::wire::rocketmq;

/// Why a call did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The address can not be dialled as it is written.
    #[error("{endpoint:?} is not a server address; write it like http://127.0.0.1:8081")]
    Address {
        /// As given.
        endpoint: String,
    },
    /// Nobody listens, or the connection broke.
    #[error(
        "no Millpond answers at {address}; \
         start one with: millpond serve --data DIR, or name another with --server"
    )]
    Unreachable {
        /// Host and port dialled.
        address: String,
        /// What the network said.
        detail: String,
    },
    /// Somebody listens who speaks HTTP and no gRPC.
    #[error(
        "what answers at {address} is no gRPC server; \
         name the port that `millpond serve` tells as \"grpc listening on\", 8081 unless it was told another"
    )]
    NotGrpc {
        /// Host and port dialled.
        address: String,
    },
    /// The messaging service refused.
    #[error("{message} ({})", .code.as_str_name())]
    Refused {
        /// Wire code.
        code: rocketmq::Code,
        /// The server's words: what, which, what to do next.
        message: String,
    },
    /// The admin service refused, or gRPC itself did.
    #[error("{message}")]
    Status {
        /// gRPC code.
        code: Code,
        /// The server's words: what, which, what to do next.
        message: String,
    },
    /// The server's answer breaks the contract.
    #[error("the server's answer lacks {what}; is {address} a Millpond of this version?")]
    Incomplete {
        /// What is missing.
        what: &'static str,
        /// Host and port dialled.
        address: String,
    },
}

impl ClientError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        use rocketmq::Code as Wire;
        match self {
            Self::Address { .. } | Self::NotGrpc { .. } => Remedy::FixRequest,
            Self::Unreachable { .. } => Remedy::Operator,
            Self::Incomplete { .. } => Remedy::Bug,
            Self::Refused { code, .. } => match code {
                Wire::TooManyRequests
                | Wire::RequestTimeout
                | Wire::HaNotAvailable
                | Wire::ProxyTimeout
                | Wire::MasterPersistenceTimeout
                | Wire::SlavePersistenceTimeout => Remedy::Retry,
                Wire::InternalError | Wire::InternalServerError => Remedy::Bug,
                _ => Remedy::FixRequest,
            },
            Self::Status { code, .. } => match code {
                Code::Unavailable
                | Code::ResourceExhausted
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::Cancelled => Remedy::Retry,
                Code::Internal | Code::Unknown | Code::DataLoss => Remedy::Operator,
                _ => Remedy::FixRequest,
            },
        }
    }

    /// Whether what was asked may have been done all the same: the connection broke before the answer, or the server
    /// could not tell.
    #[must_use]
    pub fn leaves_unknown(&self) -> bool {
        use rocketmq::Code as Wire;
        match self {
            Self::Address { .. } | Self::NotGrpc { .. } => false,
            Self::Unreachable { .. } | Self::Incomplete { .. } => true,
            Self::Refused { code, .. } => matches!(
                code,
                Wire::RequestTimeout
                    | Wire::ProxyTimeout
                    | Wire::MasterPersistenceTimeout
                    | Wire::SlavePersistenceTimeout
                    | Wire::InternalError
                    | Wire::InternalServerError
            ),
            Self::Status { code, .. } => matches!(
                code,
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::Aborted
                    | Code::Internal
                    | Code::Unknown
            ),
        }
    }

    /// Whether the named thing does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        use rocketmq::Code as Wire;
        match self {
            Self::Status { code, .. } => *code == Code::NotFound,
            Self::Refused { code, .. } => matches!(
                code,
                Wire::NotFound | Wire::TopicNotFound | Wire::ConsumerGroupNotFound
            ),
            _ => false,
        }
    }

    /// Reads a gRPC status; one that the network made, not the server, means that nobody answers.
    pub(crate) fn from_status(status: &tonic::Status, address: &str) -> Self {
        // A status that came over the wire has no source: only our own side attaches one.
        let local = std::error::Error::source(status).is_some();
        if local && matches!(status.code(), Code::Unavailable | Code::Unknown) {
            return Self::Unreachable {
                address: address.to_owned(),
                detail: status.message().to_owned(),
            };
        }
        // Tonic's words for an answer that has no status of gRPC.
        if status.message().starts_with("grpc-status header missing") {
            return Self::NotGrpc {
                address: address.to_owned(),
            };
        }
        Self::Status {
            code: status.code(),
            message: match status.message() {
                "" => format!("the server answered {}", status.code()),
                message => message.to_owned(),
            },
        }
    }

    /// Reads the status inside a messaging answer; `Ok` when it is OK or one of `accepted`.
    pub(crate) fn check(
        status: Option<rocketmq::Status>,
        accepted: &[rocketmq::Code],
        address: &str,
    ) -> Result<rocketmq::Code, Self> {
        let Some(status) = status else {
            return Err(Self::Incomplete {
                what: "a status",
                address: address.to_owned(),
            });
        };
        let code = status.code();
        if code == rocketmq::Code::Ok || accepted.contains(&code) {
            return Ok(code);
        }
        Err(Self::Refused {
            code,
            message: status.message,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_the_servers_words_and_the_codes_name() {
        let status = rocketmq::Status {
            code: rocketmq::Code::TopicNotFound as i32,
            message: "topic \"x\" does not exist".to_owned(),
        };
        let error = ClientError::check(Some(status), &[], "host:1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "topic \"x\" does not exist (TOPIC_NOT_FOUND)"
        );
        assert_eq!(error.remedy(), Remedy::FixRequest);
        assert!(error.is_not_found());
    }

    #[test]
    fn an_answer_without_status_is_an_error() {
        let error = ClientError::check(None, &[], "host:1").unwrap_err();
        assert_eq!(error.remedy(), Remedy::Bug);
    }
}
