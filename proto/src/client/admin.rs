//! Topics, groups, jobs and queries: the administration API, one method per call.
//!
//! Requests and answers are the wire's own types ([`crate::wire::admin`]); the contract that explains
//! their fields is `proto/api/millpond/v1/admin.proto`.

use bytes::Bytes;
use tonic::Streaming;

use crate::client::connection::Client;
use crate::client::error::ClientError;
use crate::wire::admin::query_response::Content;
use crate::wire::admin::{
    AlterGroupRequest, AlterTopicRequest, CancelJobRequest, CloneGroupRequest, CloneGroupResponse,
    CompactRequest, CompactResponse, CreateGroupRequest, CreateTopicRequest, DeadLettersRequest,
    DeadLettersResponse, DeleteGroupRequest, DeleteTopicRequest, DescribeGroupRequest,
    DescribeGroupResponse, DescribeJobRequest, DescribeServerRequest, DescribeTopicRequest,
    DescribeTopicResponse, EndLiteTopicRequest, EraseKeyRequest, EraseKeyResponse,
    FindMessagesRequest, FindMessagesResponse, Group, Job, ListGroupsRequest, ListInFlightRequest,
    ListInFlightResponse, ListJobsRequest, ListLiteListenersRequest, ListLiteTopicsRequest,
    ListLiteTopicsResponse, ListStorageRequest, ListStorageResponse, ListTopicsRequest,
    LiteListener, QueryRequest, QueryResponse, QuerySummary, ReadRequest, ReadResponse,
    ResetGroupRequest, ResetGroupResponse, Server, SubmitJobRequest, TierRequest, TierResponse,
    Topic, TraceMessageRequest, TraceMessageResponse, VerifyRequest, VerifyResponse,
};

/// Administers a server over a client's connection.
#[derive(Clone, Debug)]
pub struct Admin {
    pub(super) client: Client,
}

/// The answer of a statement, as it arrives.
#[derive(Debug)]
pub struct QueryAnswer {
    client: Client,
    frames: Streaming<QueryResponse>,
    /// Whether the summary has arrived, without which an answer is not whole.
    is_whole: bool,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The next bytes of one Arrow IPC stream, cut anywhere.
    ArrowIpc(Bytes),
    /// What was done; the last frame.
    Summary(QuerySummary),
}

impl Client {
    /// Administration on this connection.
    #[must_use]
    pub fn admin_handle(&self) -> Admin {
        Admin {
            client: self.clone(),
        }
    }
}

impl QueryAnswer {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// Any [`ClientError`]: the statement failed, or the connection broke. [`ClientError::Incomplete`] when the answer
    /// ends without its summary: rows may be missing.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        while let Some(frame) = self
            .frames
            .message()
            .await
            .map_err(|status| self.client.status_error(&status))?
        {
            match frame.content {
                Some(Content::ArrowIpc(bytes)) => return Ok(Some(Frame::ArrowIpc(bytes))),
                Some(Content::Summary(summary)) => {
                    self.is_whole = true;
                    return Ok(Some(Frame::Summary(summary)));
                }
                None => {}
            }
        }
        if !self.is_whole {
            return Err(self.client.incomplete("the summary of a statement"));
        }
        Ok(None)
    }
}

impl Admin {
    /// Administration on this connection.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        client.admin_handle()
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn create_topic(&self, request: CreateTopicRequest) -> Result<Topic, ClientError> {
        let answer = self.client.admin().create_topic(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Grows the number of queues or adds columns.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn alter_topic(&self, request: AlterTopicRequest) -> Result<Topic, ClientError> {
        let answer = self.client.admin().alter_topic(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list_topics(&self) -> Result<Vec<Topic>, ClientError> {
        let answer = self.client.admin().list_topics(ListTopicsRequest {}).await;
        answer
            .map(|answer| answer.into_inner().topics)
            .map_err(|status| self.client.status_error(&status))
    }

    /// A topic and where its queues stand.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn describe_topic(&self, name: &str) -> Result<DescribeTopicResponse, ClientError> {
        let answer = self
            .client
            .admin()
            .describe_topic(DescribeTopicRequest {
                name: name.to_owned(),
            })
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Deletes a topic and its messages.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn delete_topic(&self, name: &str) -> Result<(), ClientError> {
        let answer = self
            .client
            .admin()
            .delete_topic(DeleteTopicRequest {
                name: name.to_owned(),
            })
            .await;
        answer
            .map(|_| ())
            .map_err(|status| self.client.status_error(&status))
    }

    /// Reads messages as stored, without a group.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn read_topic(&self, request: ReadRequest) -> Result<ReadResponse, ClientError> {
        let answer = self.client.admin().read_topic(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Takes a step of a search for messages.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn find_messages(
        &self,
        request: FindMessagesRequest,
    ) -> Result<FindMessagesResponse, ClientError> {
        let answer = self.client.admin().find_messages(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// What became of a message.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn trace_message(
        &self,
        request: TraceMessageRequest,
    ) -> Result<TraceMessageResponse, ClientError> {
        let answer = self.client.admin().trace_message(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Creates a consumer group.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn create_group(&self, request: CreateGroupRequest) -> Result<Group, ClientError> {
        let answer = self.client.admin().create_group(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Changes a group's settings.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn alter_group(&self, request: AlterGroupRequest) -> Result<Group, ClientError> {
        let answer = self.client.admin().alter_group(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// All consumer groups, by name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list_groups(&self) -> Result<Vec<Group>, ClientError> {
        let answer = self.client.admin().list_groups(ListGroupsRequest {}).await;
        answer
            .map(|answer| answer.into_inner().groups)
            .map_err(|status| self.client.status_error(&status))
    }

    /// A group and where it stands in every queue.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn describe_group(&self, name: &str) -> Result<DescribeGroupResponse, ClientError> {
        let answer = self
            .client
            .admin()
            .describe_group(DescribeGroupRequest {
                name: name.to_owned(),
            })
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Deletes a consumer group and its progress.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn delete_group(&self, name: &str) -> Result<(), ClientError> {
        let answer = self
            .client
            .admin()
            .delete_group(DeleteGroupRequest {
                name: name.to_owned(),
            })
            .await;
        answer
            .map(|_| ())
            .map_err(|status| self.client.status_error(&status))
    }

    /// Puts a group elsewhere in a topic.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn reset_group(
        &self,
        request: ResetGroupRequest,
    ) -> Result<ResetGroupResponse, ClientError> {
        let answer = self.client.admin().reset_group(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Lets a group stand where another one stands.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn clone_group(
        &self,
        request: CloneGroupRequest,
    ) -> Result<CloneGroupResponse, ClientError> {
        let answer = self.client.admin().clone_group(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Lite topics of a parent, or one of them.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list_lite_topics(
        &self,
        request: ListLiteTopicsRequest,
    ) -> Result<ListLiteTopicsResponse, ClientError> {
        let answer = self.client.admin().list_lite_topics(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Ends a lite topic; its messages stay in the parent.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn end_lite_topic(&self, topic: &str, name: &str) -> Result<(), ClientError> {
        let request = EndLiteTopicRequest {
            topic: topic.to_owned(),
            name: name.to_owned(),
        };
        let answer = self.client.admin().end_lite_topic(request).await;
        answer
            .map(|_| ())
            .map_err(|status| self.client.status_error(&status))
    }

    /// What each consumer of a group listens to.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list_lite_listeners(&self, group: &str) -> Result<Vec<LiteListener>, ClientError> {
        let request = ListLiteListenersRequest {
            group: group.to_owned(),
        };
        let answer = self.client.admin().list_lite_listeners(request).await;
        answer
            .map(|answer| answer.into_inner().listeners)
            .map_err(|status| self.client.status_error(&status))
    }

    /// What consumers of a group hold.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list_in_flight(
        &self,
        request: ListInFlightRequest,
    ) -> Result<ListInFlightResponse, ClientError> {
        let answer = self.client.admin().list_in_flight(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Some of a group's dead letters.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list_dead_letters(
        &self,
        request: DeadLettersRequest,
    ) -> Result<DeadLettersResponse, ClientError> {
        let answer = self.client.admin().list_dead_letters(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Delivers dead letters to their group once more.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn redrive_dead_letters(
        &self,
        request: DeadLettersRequest,
    ) -> Result<DeadLettersResponse, ClientError> {
        let answer = self.client.admin().redrive_dead_letters(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Is done with dead letters.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn purge_dead_letters(
        &self,
        request: DeadLettersRequest,
    ) -> Result<DeadLettersResponse, ClientError> {
        let answer = self.client.admin().purge_dead_letters(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Starts a continuous statement.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn submit_job(&self, sql: &str) -> Result<Job, ClientError> {
        let answer = self
            .client
            .admin()
            .submit_job(SubmitJobRequest {
                sql: sql.to_owned(),
            })
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// All continuous queries, by name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list_jobs(&self) -> Result<Vec<Job>, ClientError> {
        let answer = self.client.admin().list_jobs(ListJobsRequest {}).await;
        answer
            .map(|answer| answer.into_inner().jobs)
            .map_err(|status| self.client.status_error(&status))
    }

    /// A continuous query and how far it is.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn describe_job(&self, name: &str) -> Result<Job, ClientError> {
        let answer = self
            .client
            .admin()
            .describe_job(DescribeJobRequest {
                name: name.to_owned(),
            })
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Stops a continuous query for good; tells in sentences what went with it beside the rows of the view that was named.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn cancel_job(&self, name: &str) -> Result<Vec<String>, ClientError> {
        let answer = self
            .client
            .admin()
            .cancel_job(CancelJobRequest {
                name: name.to_owned(),
            })
            .await;
        answer
            .map(|answer| answer.into_inner().notices)
            .map_err(|status| self.client.status_error(&status))
    }

    /// The server's process: version, CPU time, memory.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn describe_server(&self) -> Result<Server, ClientError> {
        let mut admin = self.client.admin();
        let answer = admin.describe_server(DescribeServerRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Moves everything durable in the log into Parquet now.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn tier(&self) -> Result<TierResponse, ClientError> {
        let answer = self.client.admin().tier(TierRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Merges small Parquet files of a topic, or of all topics when it is empty, now.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn compact(&self, topic: &str) -> Result<CompactResponse, ClientError> {
        let topic = topic.to_owned();
        let answer = self.client.admin().compact(CompactRequest { topic }).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Erases what was sent to a topic under a key.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn erase_key(
        &self,
        topic: &str,
        key: &[u8],
    ) -> Result<EraseKeyResponse, ClientError> {
        let request = EraseKeyRequest {
            topic: topic.to_owned(),
            key: key.to_vec().into(),
        };
        let answer = self.client.admin().erase_key(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// How much every topic holds.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list_storage(&self) -> Result<ListStorageResponse, ClientError> {
        let answer = self
            .client
            .admin()
            .list_storage(ListStorageRequest {})
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Checks every byte that the server stores.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn verify(&self) -> Result<VerifyResponse, ClientError> {
        let answer = self.client.admin().verify(VerifyRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Runs one statement; read its answer to the end.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn query(&self, sql: &str) -> Result<QueryAnswer, ClientError> {
        let request = QueryRequest {
            sql: sql.to_owned(),
        };
        let answer = self.client.admin().query(request).await;
        let frames = answer
            .map_err(|status| self.client.status_error(&status))?
            .into_inner();
        Ok(QueryAnswer {
            client: self.client.clone(),
            frames,
            is_whole: false,
        })
    }
}
