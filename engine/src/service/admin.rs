//! Our own administration: topics, groups, jobs and statements.
//!
//! Each call says here who may make it; what it does is in the file of its family. Refusals are gRPC statuses;
//! the proto says which.

use std::sync::Arc;

use millpond_proto::task::{Lane, Spawn};
use millpond_proto::time::Timestamp;
use millpond_proto::wire::admin as pb;
use millpond_proto::wire::admin::admin_server::Admin;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::authorize::{Action, Resource};
use crate::process;
use crate::service::code::{explain, grpc, of_remedy};
use crate::service::gate::{Admitted, Gate};
use crate::service::names::{group_name, topic_name};
use crate::service::time::to_wire;
use crate::service::{groups, lites, messages, query, shelf, topics, upkeep};

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
        let made = topics::create(admitted.broker()?, request.into_inner()).await?;
        Ok(Response::new(made))
    }

    async fn alter_topic(&self, request: Request<pb::AlterTopicRequest>) -> Answered<pb::Topic> {
        let resource = Resource::Topic(&request.get_ref().name);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let sql = admitted.inside()?.sql.as_ref();
        let altered = topics::alter(admitted.broker()?, sql, request.into_inner()).await?;
        Ok(Response::new(altered))
    }

    async fn list_topics(
        &self,
        request: Request<pb::ListTopicsRequest>,
    ) -> Answered<pb::ListTopicsResponse> {
        let admitted = self.admit(&request, Action::Describe, Resource::Server)?;
        let topics = admitted.broker()?.topics().into_iter();
        Ok(Response::new(pb::ListTopicsResponse {
            topics: topics.map(topics::to_wire).collect(),
        }))
    }

    async fn describe_topic(
        &self,
        request: Request<pb::DescribeTopicRequest>,
    ) -> Answered<pb::DescribeTopicResponse> {
        let name = &request.get_ref().name;
        let admitted = self.admit(&request, Action::Describe, Resource::Topic(name))?;
        Ok(Response::new(topics::describe(admitted.broker()?, name)?))
    }

    async fn delete_topic(
        &self,
        request: Request<pb::DeleteTopicRequest>,
    ) -> Answered<pb::DeleteTopicResponse> {
        let name = &request.get_ref().name;
        let admitted = self.admit(&request, Action::Manage, Resource::Topic(name))?;
        admitted.inside()?.sql.check_unused(name)?;
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
        let read = messages::read(admitted.broker()?, request.get_ref()).await?;
        Ok(Response::new(read))
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
        let request = request.into_inner();
        let name = group_name(&request.name)?;
        let altered = broker.alter_group(&name, groups::change(request)?).await;
        let altered = altered.map_err(|e| grpc(&e))?;
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
        let notices = admitted.inside()?.sql.cancel(name).await?;
        Ok(Response::new(pb::CancelJobResponse { notices }))
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
        Ok(Response::new(upkeep::tier(admitted.broker()?).await?))
    }

    async fn compact(&self, request: Request<pb::CompactRequest>) -> Answered<pb::CompactResponse> {
        let name = &request.get_ref().topic;
        let resource = match name.as_str() {
            "" => Resource::Server,
            name => Resource::Topic(name),
        };
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let compacted = upkeep::compact(admitted.broker()?, name).await?;
        Ok(Response::new(compacted))
    }

    async fn erase_key(
        &self,
        request: Request<pb::EraseKeyRequest>,
    ) -> Answered<pb::EraseKeyResponse> {
        let resource = Resource::Topic(&request.get_ref().topic);
        let admitted = self.admit(&request, Action::Manage, resource)?;
        let erased = upkeep::erase(admitted.broker()?, request.get_ref()).await?;
        Ok(Response::new(erased))
    }

    async fn list_storage(
        &self,
        request: Request<pb::ListStorageRequest>,
    ) -> Answered<pb::ListStorageResponse> {
        let admitted = self.admit(&request, Action::Describe, Resource::Server)?;
        Ok(Response::new(upkeep::list(admitted.broker()?)))
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
