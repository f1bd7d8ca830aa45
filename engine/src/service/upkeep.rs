//! Administration of what is stored: moving, merging, erasing and measuring it.

use millpond_proto::wire::admin as pb;
use millpond_storage::error::TierError;
use tonic::Status;

use crate::broker::compaction::TopicCompacted;
use crate::broker::{Broker, Topic};
use crate::service::code::{explain, grpc, of_remedy};
use crate::service::names::topic_name;

/// Moves what is due into the cold tier.
pub(super) async fn tier(broker: &Broker) -> Result<pb::TierResponse, Status> {
    let tiered = broker.tier().await.map_err(|e| tier_status(&e))?;
    Ok(pb::TierResponse {
        messages: tiered.messages,
        bytes: tiered.bytes,
        damaged: tiered.damaged,
    })
}

/// Merges files and drops superseded messages, of a topic or (with an empty name) of all.
pub(super) async fn compact(broker: &Broker, name: &str) -> Result<pb::CompactResponse, Status> {
    let only = match name {
        "" => None,
        name => Some(broker.topic(&topic_name(name)?).map_err(|e| grpc(&e))?.id),
    };
    let keys = broker.compact_keys(only).await;
    let keys = keys.map_err(|e| tier_status(&e))?;
    let done = broker.compact(only).await.map_err(|e| tier_status(&e))?;
    Ok(pb::CompactResponse {
        files_merged: done.files_merged,
        files_made: done.files_made,
        bytes_merged: done.bytes_merged,
        bytes_made: done.bytes_made,
        keys: keys.into_iter().map(keys_to_wire).collect(),
    })
}

/// Erases the messages of a key.
pub(super) async fn erase(
    broker: &Broker,
    request: &pb::EraseKeyRequest,
) -> Result<pb::EraseKeyResponse, Status> {
    let pb::EraseKeyRequest { topic, key } = request;
    if key.is_empty() {
        return Err(Status::invalid_argument(
            "the key is empty; say whose messages are to be erased",
        ));
    }
    let topic = broker.topic(&topic_name(topic)?).map_err(|e| grpc(&e))?.id;
    let erased = broker.erase(topic, key).await;
    let erased = erased.map_err(|e| tier_status(&e))?;
    Ok(pb::EraseKeyResponse {
        messages: erased.messages,
        files: erased.files,
        held_files: erased.held,
        log_bytes_left: erased.log_bytes,
    })
}

/// How large each topic and the log are.
pub(super) fn list(broker: &Broker) -> pb::ListStorageResponse {
    let topics = broker.topics();
    pb::ListStorageResponse {
        topics: topics
            .iter()
            .map(|topic| topic_sizes(broker, topic))
            .collect(),
        log_bytes: broker.log_bytes(),
    }
}

/// How large a topic is.
pub(super) fn topic_sizes(broker: &Broker, topic: &Topic) -> pb::TopicSizes {
    let sizes = broker.sizes_of(topic.id);
    let extents = broker.extents(topic);
    pb::TopicSizes {
        topic: topic.name.to_string(),
        hot_messages: sizes.hot_messages,
        hot_bytes: sizes.hot_bytes,
        cold_messages: sizes.cold.messages,
        cold_bytes: sizes.cold.bytes,
        files: sizes.cold.files,
        lost: sizes.cold.lost,
        superseded: sizes.cold.superseded,
        first: extents.iter().map(|(_, e)| e.first.0).min().unwrap_or(0),
        next: extents.iter().map(|(_, e)| e.next.0).max().unwrap_or(0),
    }
}

fn keys_to_wire((topic, done): (String, TopicCompacted)) -> pb::KeysCompacted {
    pb::KeysCompacted {
        topic,
        superseded: done.keys.superseded,
        tombstones: done.keys.tombstones,
        files: done.keys.files,
        bytes_before: done.keys.bytes_before,
        bytes_after: done.keys.bytes_after,
        damaged_files: done.keys.damaged,
        held_by: done.held_by.unwrap_or_default(),
    }
}

fn tier_status(error: &TierError) -> Status {
    tracing::error!(
        error = explain(error),
        "moving messages to the cold tier failed"
    );
    Status::new(of_remedy(error.remedy()), explain(error))
}
