//! Our own administration: topics, groups, jobs and statements.
//!
//! Refusals are gRPC statuses; the proto says which. Column types and event time are checked by SQL,
//! names and bounds by the broker.

use std::sync::Arc;

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId};
use millpond_proto::name::{GroupName, NameError, TopicName};
use millpond_proto::task::{Lane, Spawn};
use millpond_proto::time::Timestamp;
use millpond_proto::wire::admin as pb;
use millpond_proto::wire::admin::admin_server::Admin;
use millpond_sql::topic::{ColumnSpec, WatermarkSpec};
use millpond_storage::error::TierError;
use millpond_storage::format::envelope::{Envelope, PropertyValue};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::authorize::{Action, Resource};
use crate::broker::compaction::TopicCompacted;
use crate::broker::{
    Bodies, Broker, BrokerError, NewRetention, NewTopic, Retention, Topic, TopicType,
};
use crate::process;
use crate::service::code::{explain, grpc, of_remedy};
use crate::service::gate::{Admitted, Gate};
use crate::service::time::to_wire;
use crate::service::{groups, lites, messages, query, shelf};

/// Messages in one administrative read that does not say.
const READ_MESSAGES_DEFAULT: usize = 32;

/// The service over one gate.
#[derive(Clone, Debug)]
pub struct Administration {
    gate: Arc<Gate>,
    spawn: Arc<dyn Spawn>,
    started_at: Timestamp,
}

impl Administration {
    /// The service; statements run on `spawn`'s reading lane.
    #[must_use]
    pub fn new(gate: Arc<Gate>, spawn: Arc<dyn Spawn>) -> Self {
        let started_at = gate.clock().now();
        Self {
            gate,
            spawn,
            started_at,
        }
    }

    fn admit<T>(
        &self,
        request: &Request<T>,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<Admitted<'_>, Status> {
        Ok(self.gate.admit(request.extensions(), action, resource)?)
    }
}

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for Administration {
    type QueryStream = query::Frames;

    async fn create_topic(&self, request: Request<pb::CreateTopicRequest>) -> Answered<pb::Topic> {
        let resource = Resource::Topic(&request.get_ref().name);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let request = request.into_inner();
        let topic = NewTopic {
            name: topic_name(&request.name)?,
            kind: topic_type(&request.r#type)?,
            queues: Some(request.queues).filter(|queues| *queues != 0),
            columns: request.columns.into_iter().map(column).collect(),
            watermark: request.watermark.map(watermark).transpose()?,
            primary_key: Vec::new(),
            written_by: None,
        };
        let retention = Retention {
            ms: retention_ms(request.retention_ms)?.filter(|ms| *ms != 0),
            bytes: Some(request.retention_bytes).filter(|bytes| *bytes != 0),
            compacts: request.compacts,
            tombstones_ms: retention_ms(request.tombstone_retention_ms)?.filter(|ms| *ms != 0),
            table_ms: some_retention_ms(request.table_retention_ms)?,
            table_bytes: request.table_retention_bytes,
            lite_ms: retention_ms(request.lite_expiry_ms)?.filter(|ms| *ms != 0),
        };
        let family = Some(request.family.as_str()).filter(|family| !family.is_empty());
        let made = admitted
            .broker()?
            .create_topic_in(family, topic, retention, Bodies::default())
            .await
            .map_err(|e| grpc(&e))?;
        Ok(Response::new(topic_to_wire(made)))
    }

    async fn alter_topic(&self, request: Request<pb::AlterTopicRequest>) -> Answered<pb::Topic> {
        let resource = Resource::Topic(&request.get_ref().name);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let request = request.into_inner();
        let name = topic_name(&request.name)?;
        let queues = Some(request.queues).filter(|queues| *queues != 0);
        let columns = request.add_columns.into_iter().map(column).collect();
        let retention = NewRetention {
            ms: some_retention_ms(request.retention_ms)?,
            bytes: request.retention_bytes,
            compacts: request.compacts,
            tombstones_ms: some_retention_ms(request.tombstone_retention_ms)?,
            table_ms: some_retention_ms(request.table_retention_ms)?,
            table_bytes: request.table_retention_bytes,
            table_as_log: request.table_as_log,
            lite_ms: some_retention_ms(request.lite_expiry_ms)?,
        };
        let broker = admitted.broker()?;
        let altered = broker.alter_topic(&name, queues, columns).await;
        let mut altered = altered.map_err(|e| grpc(&e))?;
        if retention != NewRetention::default() {
            let changed = broker.set_retention(&name, retention).await;
            altered = changed.map_err(|e| grpc(&e))?;
        }
        Ok(Response::new(topic_to_wire(altered)))
    }

    async fn list_topics(
        &self,
        request: Request<pb::ListTopicsRequest>,
    ) -> Answered<pb::ListTopicsResponse> {
        let admitted = self.admit(&request, Action::Describe, Resource::Server)?;
        let topics = admitted.broker()?.topics();
        Ok(Response::new(pb::ListTopicsResponse {
            topics: topics.into_iter().map(topic_to_wire).collect(),
        }))
    }

    async fn describe_topic(
        &self,
        request: Request<pb::DescribeTopicRequest>,
    ) -> Answered<pb::DescribeTopicResponse> {
        let name = &request.get_ref().name;
        let admitted = self.admit(&request, Action::Describe, Resource::Topic(name))?;
        let broker = admitted.broker()?;
        let topic = broker.topic(&topic_name(name)?).map_err(|e| grpc(&e))?;
        let ranges = broker
            .extents(&topic)
            .into_iter()
            .map(|(queue, extent)| pb::QueueRange {
                queue: queue.0,
                first: extent.first.0,
                next: extent.next.0,
                tiered: extent.tiered.0,
                superseded: broker.superseded(topic.id, queue),
            })
            .collect();
        let sizes = topic_sizes(broker, &topic);
        Ok(Response::new(pb::DescribeTopicResponse {
            topic: Some(topic_to_wire(topic)),
            sizes: Some(sizes),
            ranges,
        }))
    }

    async fn delete_topic(
        &self,
        request: Request<pb::DeleteTopicRequest>,
    ) -> Answered<pb::DeleteTopicResponse> {
        let name = &request.get_ref().name;
        let admitted = self.admit(&request, Action::Manage, Resource::Topic(name))?;
        let name = topic_name(name)?;
        let deleted = admitted.broker()?.delete_topic(&name).await;
        deleted.map_err(|e| grpc(&e))?;
        Ok(Response::new(pb::DeleteTopicResponse {}))
    }

    async fn list_lite_topics(
        &self,
        request: Request<pb::ListLiteTopicsRequest>,
    ) -> Answered<pb::ListLiteTopicsResponse> {
        let resource = Resource::Topic(&request.get_ref().topic);
        let admitted = self.admit(&request, Action::Describe, resource)?;
        let broker = admitted.broker()?;
        Ok(Response::new(
            lites::list(broker, &request.into_inner()).await?,
        ))
    }

    async fn end_lite_topic(
        &self,
        request: Request<pb::EndLiteTopicRequest>,
    ) -> Answered<pb::EndLiteTopicResponse> {
        let resource = Resource::Topic(&request.get_ref().topic);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let broker = admitted.broker()?;
        Ok(Response::new(
            lites::end(broker, &request.into_inner()).await?,
        ))
    }

    async fn list_lite_listeners(
        &self,
        request: Request<pb::ListLiteListenersRequest>,
    ) -> Answered<pb::ListLiteListenersResponse> {
        let resource = Resource::Group(&request.get_ref().group);
        let admitted = self.admit(&request, Action::Describe, resource)?;
        Ok(Response::new(lites::listeners(
            admitted.broker()?,
            request.get_ref(),
        )?))
    }

    async fn read_topic(&self, request: Request<pb::ReadRequest>) -> Answered<pb::ReadResponse> {
        let resource = Resource::Topic(&request.get_ref().topic);
        let admitted = self.admit(&request, Action::Read, resource)?;
        let request = request.get_ref();
        let name = topic_name(&request.topic)?;
        let limit = match usize::try_from(request.limit).unwrap_or(usize::MAX) {
            0 => READ_MESSAGES_DEFAULT,
            limit => limit.min(limits::READ_MESSAGES_MAX),
        };
        let (queue, from) = (QueueId(request.queue), Offset(request.from));
        let read = admitted.broker()?.read(&name, queue, from, limit).await;
        let (messages, next) = read.map_err(|e| grpc(&e))?;
        Ok(Response::new(pb::ReadResponse {
            messages: messages.into_iter().map(stored).collect(),
            next: next.0,
        }))
    }

    async fn find_messages(
        &self,
        request: Request<pb::FindMessagesRequest>,
    ) -> Answered<pb::FindMessagesResponse> {
        let resource = Resource::Topic(&request.get_ref().topic);
        let admitted = self.admit(&request, Action::Read, resource)?;
        let found = messages::find(admitted.broker()?, request.into_inner()).await?;
        Ok(Response::new(found))
    }

    async fn trace_message(
        &self,
        request: Request<pb::TraceMessageRequest>,
    ) -> Answered<pb::TraceMessageResponse> {
        let resource = Resource::Topic(&request.get_ref().topic);
        let admitted = self.admit(&request, Action::Read, resource)?;
        let trace = messages::trace(admitted.broker()?, request.into_inner()).await?;
        Ok(Response::new(trace))
    }

    async fn create_group(&self, request: Request<pb::CreateGroupRequest>) -> Answered<pb::Group> {
        let resource = Resource::Group(&request.get_ref().name);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let group = groups::new(request.into_inner())?;
        let made = admitted.broker()?.create_group(group).await;
        Ok(Response::new(groups::group_to_wire(
            &made.map_err(|e| grpc(&e))?,
        )))
    }

    async fn alter_group(&self, request: Request<pb::AlterGroupRequest>) -> Answered<pb::Group> {
        let resource = Resource::Group(&request.get_ref().name);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let broker = admitted.broker()?;
        let request = request.get_ref();
        let known = broker.group(&group_name(&request.name)?);
        let group = groups::altered(known.map_err(|e| grpc(&e))?, request)?;
        let altered = broker.alter_group(group).await.map_err(|e| grpc(&e))?;
        Ok(Response::new(groups::group_to_wire(&altered)))
    }

    async fn list_groups(
        &self,
        request: Request<pb::ListGroupsRequest>,
    ) -> Answered<pb::ListGroupsResponse> {
        let admitted = self.admit(&request, Action::Describe, Resource::Server)?;
        let groups = admitted.broker()?.groups();
        Ok(Response::new(pb::ListGroupsResponse {
            groups: groups.iter().map(groups::group_to_wire).collect(),
        }))
    }

    async fn describe_group(
        &self,
        request: Request<pb::DescribeGroupRequest>,
    ) -> Answered<pb::DescribeGroupResponse> {
        let name = &request.get_ref().name;
        let admitted = self.admit(&request, Action::Describe, Resource::Group(name))?;
        let broker = admitted.broker()?;
        let name = group_name(name)?;
        let group = broker.group(&name).map_err(|e| grpc(&e))?;
        let progress = broker.group_progress(&name).await.map_err(|e| grpc(&e))?;
        let now = broker.now();
        Ok(Response::new(pb::DescribeGroupResponse {
            group: Some(groups::group_to_wire(&group)),
            progress: progress
                .into_iter()
                .map(|one| groups::progress_to_wire(one, now))
                .collect(),
        }))
    }

    async fn delete_group(
        &self,
        request: Request<pb::DeleteGroupRequest>,
    ) -> Answered<pb::DeleteGroupResponse> {
        let name = &request.get_ref().name;
        let admitted = self.admit(&request, Action::Manage, Resource::Group(name))?;
        let deleted = admitted.broker()?.delete_group(&group_name(name)?).await;
        deleted.map_err(|e| grpc(&e))?;
        Ok(Response::new(pb::DeleteGroupResponse {}))
    }

    async fn reset_group(
        &self,
        request: Request<pb::ResetGroupRequest>,
    ) -> Answered<pb::ResetGroupResponse> {
        let resource = Resource::Group(&request.get_ref().group);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let reset = groups::reset(admitted.broker()?, request.into_inner()).await;
        reset.map(Response::new)
    }

    async fn clone_group(
        &self,
        request: Request<pb::CloneGroupRequest>,
    ) -> Answered<pb::CloneGroupResponse> {
        let (from, to) = (&request.get_ref().from, &request.get_ref().to);
        let admitted = self
            .admit(&request, Action::Describe, Resource::Group(from))?
            .also(Action::Manage, Resource::Group(to))?;
        let (from, to) = (group_name(from)?, group_name(to)?);
        let cloned = admitted.broker()?.clone_group(&from, &to).await;
        cloned.map_err(|e| grpc(&e))?;
        Ok(Response::new(pb::CloneGroupResponse {}))
    }

    async fn list_in_flight(
        &self,
        request: Request<pb::ListInFlightRequest>,
    ) -> Answered<pb::ListInFlightResponse> {
        let resource = Resource::Group(&request.get_ref().group);
        let admitted = self.admit(&request, Action::Describe, resource)?;
        let found = groups::in_flight(admitted.broker()?, request.get_ref()).await;
        found.map(Response::new)
    }

    async fn list_dead_letters(
        &self,
        request: Request<pb::DeadLettersRequest>,
    ) -> Answered<pb::DeadLettersResponse> {
        let resource = Resource::Group(&request.get_ref().group);
        let admitted = self.admit(&request, Action::Read, resource)?;
        let found = groups::dead_letters(admitted.broker()?, request.into_inner()).await;
        found.map(Response::new)
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<pb::DeadLettersRequest>,
    ) -> Answered<pb::DeadLettersResponse> {
        let resource = Resource::Group(&request.get_ref().group);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let settled = groups::settle(admitted.broker()?, request.into_inner(), true).await;
        settled.map(Response::new)
    }

    async fn purge_dead_letters(
        &self,
        request: Request<pb::DeadLettersRequest>,
    ) -> Answered<pb::DeadLettersResponse> {
        let resource = Resource::Group(&request.get_ref().group);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let settled = groups::settle(admitted.broker()?, request.into_inner(), false).await;
        settled.map(Response::new)
    }

    async fn list_delayed(
        &self,
        request: Request<pb::ListDelayedRequest>,
    ) -> Answered<pb::ListDelayedResponse> {
        let admitted = self.admit(&request, Action::Describe, Resource::Server)?;
        let found = shelf::delayed(admitted.broker()?, request.get_ref()).await;
        found.map(Response::new)
    }

    async fn cancel_delayed(
        &self,
        request: Request<pb::CancelDelayedRequest>,
    ) -> Answered<pb::CancelDelayedResponse> {
        let resource = Resource::Topic(&request.get_ref().topic);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let done = shelf::cancel(admitted.broker()?, request.get_ref()).await;
        done.map(Response::new)
    }

    async fn list_transactions(
        &self,
        request: Request<pb::ListTransactionsRequest>,
    ) -> Answered<pb::ListTransactionsResponse> {
        let admitted = self.admit(&request, Action::Describe, Resource::Server)?;
        let found = shelf::transactions(admitted.broker()?, request.get_ref()).await;
        found.map(Response::new)
    }

    async fn end_transaction(
        &self,
        request: Request<pb::EndTransactionRequest>,
    ) -> Answered<pb::EndTransactionResponse> {
        let resource = Resource::Topic(&request.get_ref().topic);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let done = shelf::end(admitted.broker()?, request.get_ref()).await;
        done.map(Response::new)
    }

    async fn submit_job(&self, request: Request<pb::SubmitJobRequest>) -> Answered<pb::Job> {
        let admitted = self.admit(&request, Action::Manage, Resource::Server)?;
        let sql = &request.get_ref().sql;
        query::check_length(sql)?;
        let job = admitted.inside()?.sql.submit(sql).await?;
        Ok(Response::new(job))
    }

    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Answered<pb::ListJobsResponse> {
        let admitted = self.admit(&request, Action::Describe, Resource::Server)?;
        let jobs = admitted.inside()?.sql.jobs();
        Ok(Response::new(pb::ListJobsResponse { jobs }))
    }

    async fn describe_job(&self, request: Request<pb::DescribeJobRequest>) -> Answered<pb::Job> {
        let name = &request.get_ref().name;
        let admitted = self.admit(&request, Action::Describe, Resource::Job(name))?;
        let job = admitted.inside()?.sql.job(name);
        job.map(Response::new).ok_or_else(|| {
            Status::not_found(format!(
                "job {name:?} does not exist; list them with: millpond job ls"
            ))
        })
    }

    async fn cancel_job(
        &self,
        request: Request<pb::CancelJobRequest>,
    ) -> Answered<pb::CancelJobResponse> {
        let name = &request.get_ref().name;
        let admitted = self.admit(&request, Action::Manage, Resource::Job(name))?;
        admitted.inside()?.sql.cancel(name).await?;
        Ok(Response::new(pb::CancelJobResponse {}))
    }

    async fn query(&self, request: Request<pb::QueryRequest>) -> Answered<Self::QueryStream> {
        // A statement may read and change anything, so it needs the right to both.
        let admitted = self
            .admit(&request, Action::Read, Resource::Server)?
            .also(Action::Manage, Resource::Server)?;
        let sql = request.into_inner().sql;
        query::check_length(&sql)?;
        let statements = Arc::clone(&admitted.inside()?.sql);
        Ok(Response::new(query::run(
            statements,
            self.spawn.as_ref(),
            sql,
        )))
    }

    async fn tier(&self, request: Request<pb::TierRequest>) -> Answered<pb::TierResponse> {
        let admitted = self.admit(&request, Action::Manage, Resource::Server)?;
        let tiered = admitted
            .broker()?
            .tier()
            .await
            .map_err(|e| tier_status(&e))?;
        Ok(Response::new(pb::TierResponse {
            messages: tiered.messages,
            bytes: tiered.bytes,
            damaged: tiered.damaged,
        }))
    }

    async fn compact(&self, request: Request<pb::CompactRequest>) -> Answered<pb::CompactResponse> {
        let name = &request.get_ref().topic;
        let resource = match name.as_str() {
            "" => Resource::Server,
            name => Resource::Topic(name),
        };
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let broker = admitted.broker()?;
        let only = match name.as_str() {
            "" => None,
            name => Some(broker.topic(&topic_name(name)?).map_err(|e| grpc(&e))?.id),
        };
        let keys = broker
            .compact_keys(only)
            .await
            .map_err(|e| tier_status(&e))?;
        let done = broker.compact(only).await.map_err(|e| tier_status(&e))?;
        Ok(Response::new(pb::CompactResponse {
            files_merged: done.files_merged,
            files_made: done.files_made,
            bytes_merged: done.bytes_merged,
            bytes_made: done.bytes_made,
            keys: keys.into_iter().map(keys_to_wire).collect(),
        }))
    }

    async fn erase_key(
        &self,
        request: Request<pb::EraseKeyRequest>,
    ) -> Answered<pb::EraseKeyResponse> {
        let pb::EraseKeyRequest { topic: name, key } = request.get_ref();
        let admitted = self.admit(&request, Action::Manage, Resource::Topic(name))?;
        if key.is_empty() {
            return Err(Status::invalid_argument(
                "the key is empty; say whose messages are to be erased",
            ));
        }
        let broker = admitted.broker()?;
        let topic = broker.topic(&topic_name(name)?).map_err(|e| grpc(&e))?.id;
        let erased = broker
            .erase(topic, key)
            .await
            .map_err(|e| tier_status(&e))?;
        Ok(Response::new(pb::EraseKeyResponse {
            messages: erased.messages,
            files: erased.files,
            held_files: erased.held,
            log_bytes_left: erased.log_bytes,
        }))
    }

    async fn list_storage(
        &self,
        request: Request<pb::ListStorageRequest>,
    ) -> Answered<pb::ListStorageResponse> {
        let admitted = self.admit(&request, Action::Describe, Resource::Server)?;
        let broker = admitted.broker()?;
        let topics = broker.topics();
        Ok(Response::new(pb::ListStorageResponse {
            topics: topics
                .iter()
                .map(|topic| topic_sizes(broker, topic))
                .collect(),
            log_bytes: broker.log_bytes(),
        }))
    }

    async fn verify(&self, request: Request<pb::VerifyRequest>) -> Answered<pb::VerifyResponse> {
        let admitted = self.admit(&request, Action::Manage, Resource::Server)?;
        let broker = Arc::clone(admitted.broker()?);
        let (reply, answer) = oneshot::channel();
        let work = async move {
            // The asker may have left.
            let _ = reply.send(broker.verify().await);
        };
        // Held until the answer is there: dropping the task would stop it.
        let _task = self.spawn.spawn(Lane::Reading, Box::pin(work));
        let found = answer
            .await
            .map_err(|_| Status::unavailable("the server is closing; try again once it is back"))?
            .map_err(|error| Status::new(of_remedy(error.remedy()), explain(&error)))?;
        Ok(Response::new(pb::VerifyResponse {
            whole: found.whole,
            damage: found.damage,
            notes: found.notes,
        }))
    }

    async fn describe_server(
        &self,
        request: Request<pb::DescribeServerRequest>,
    ) -> Answered<pb::Server> {
        let _admitted = self.admit(&request, Action::Describe, Resource::Server)?;
        Ok(Response::new(server_to_wire(self.started_at)))
    }
}

fn server_to_wire(started_at: Timestamp) -> pb::Server {
    let cpu_ms = process::cpu_time().unwrap_or_default().as_millis();
    pb::Server {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: Some(to_wire(started_at)),
        cpu_ms: u64::try_from(cpu_ms).unwrap_or(u64::MAX),
        memory_bytes: process::memory_bytes().unwrap_or_default(),
    }
}

fn retention_ms(ms: u64) -> Result<Option<i64>, Status> {
    let too_long =
        |_| Status::invalid_argument(format!("{ms} ms is too long; choose a shorter time"));
    i64::try_from(ms).map(Some).map_err(too_long)
}

fn some_retention_ms(ms: Option<u64>) -> Result<Option<i64>, Status> {
    ms.map_or(Ok(None), retention_ms)
}

fn topic_sizes(broker: &Broker, topic: &Topic) -> pb::TopicSizes {
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

pub(super) fn topic_name(name: &str) -> Result<TopicName, Status> {
    TopicName::new(name).map_err(name_status)
}

pub(super) fn group_name(name: &str) -> Result<GroupName, Status> {
    GroupName::new(name).map_err(name_status)
}

fn name_status(error: NameError) -> Status {
    grpc(&BrokerError::Name(error))
}

fn topic_type(name: &str) -> Result<TopicType, Status> {
    TopicType::from_name(name).ok_or_else(|| {
        let known = TopicType::ALL.map(TopicType::as_str).join(", ");
        Status::invalid_argument(format!("topic type {name:?} is unknown; there are {known}"))
    })
}

fn column(column: pb::Column) -> ColumnSpec {
    ColumnSpec {
        name: column.name,
        sql_type: column.sql_type,
        expression: Some(column.expression).filter(|text| !text.is_empty()),
    }
}

fn watermark(watermark: pb::Watermark) -> Result<WatermarkSpec, Status> {
    let delay_ms = i64::try_from(watermark.delay_ms).map_err(|_| {
        Status::invalid_argument(format!(
            "the watermark's delay of {} ms is too long; choose a shorter one",
            watermark.delay_ms
        ))
    })?;
    Ok(WatermarkSpec {
        column: watermark.column,
        delay_ms,
    })
}

fn topic_to_wire(topic: Topic) -> pb::Topic {
    pb::Topic {
        name: topic.name.to_string(),
        id: topic.id.0,
        r#type: topic.kind.as_str().to_owned(),
        queues: topic.queues,
        columns: topic
            .columns
            .into_iter()
            .map(|column| pb::Column {
                name: column.name,
                sql_type: column.sql_type,
                expression: column.expression.unwrap_or_default(),
            })
            .collect(),
        watermark: topic.watermark.map(|watermark| pb::Watermark {
            column: watermark.column,
            delay_ms: u64::try_from(watermark.delay_ms).unwrap_or(0),
        }),
        written_by: topic.written_by.unwrap_or_default(),
        primary_key: topic.primary_key,
        retention_ms: topic
            .retention
            .ms
            .map_or(0, |ms| u64::try_from(ms).unwrap_or(0)),
        retention_bytes: topic.retention.bytes.unwrap_or(0),
        compacts: topic.retention.compacts,
        tombstone_retention_ms: topic
            .retention
            .tombstones_ms
            .map_or(0, |ms| u64::try_from(ms).unwrap_or(0)),
        table_retention_ms: topic
            .retention
            .table_ms
            .map(|ms| u64::try_from(ms).unwrap_or(0)),
        table_retention_bytes: topic.retention.table_bytes,
        lite_expiry_ms: topic
            .retention
            .lite_ms
            .map_or(0, |ms| u64::try_from(ms).unwrap_or(0)),
        family: topic.family.unwrap_or_default(),
    }
}

/// Text properties as they are, binary ones left out: the contract's map holds text.
pub(super) fn stored(envelope: Envelope) -> pb::StoredMessage {
    let (stored_at, born_at) = (to_wire(envelope.stored_at()), to_wire(envelope.born_at()));
    pb::StoredMessage {
        queue: envelope.queue,
        offset: envelope.offset,
        stored_at: Some(stored_at),
        born_at: Some(born_at),
        message_id: envelope.message_id,
        key: envelope.key,
        keys: envelope.keys,
        tag: envelope.tag,
        properties: envelope
            .properties
            .into_iter()
            .filter_map(|property| match property.value {
                Some(PropertyValue::Text(text)) => Some((property.key, text)),
                Some(PropertyValue::Binary(_)) | None => None,
            })
            .collect(),
        body: envelope.body,
        message_group: envelope.message_group,
        priority: envelope.priority,
        trace_context: envelope.trace_context,
        born_host: envelope.born_host,
        lite_topic: envelope.lite_topic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_types_are_told_which_there_are() {
        assert_eq!(topic_type("").unwrap(), TopicType::Normal);
        assert_eq!(topic_type("FIFO").unwrap(), TopicType::Fifo);
        let unknown = topic_type("x").unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::InvalidArgument);
        assert!(unknown.message().contains("fifo"), "{unknown}");
    }

    #[test]
    fn a_watermark_delay_must_be_a_time() {
        let wire = |delay_ms| pb::Watermark {
            column: "ts".to_owned(),
            delay_ms,
        };
        assert_eq!(watermark(wire(5)).unwrap().delay_ms, 5);
        assert!(watermark(wire(u64::MAX)).is_err());
    }
}
