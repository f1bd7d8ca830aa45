//! Names of topics and groups as administrative requests give them.

use millpond_proto::name::{GroupName, NameError, TopicName};
use tonic::Status;

use crate::broker::BrokerError;
use crate::service::code::grpc;

pub(super) fn topic_name(name: &str) -> Result<TopicName, Status> {
    TopicName::new(name).map_err(name_status)
}

pub(super) fn group_name(name: &str) -> Result<GroupName, Status> {
    GroupName::new(name).map_err(name_status)
}

fn name_status(error: NameError) -> Status {
    grpc(&BrokerError::Name(error))
}
