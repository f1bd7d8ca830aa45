//! What was leased for an answer that reached nobody goes back at once.
//!
//! A client may leave at any moment: while a shard decides, while bodies are read, while the answer is
//! written. Whoever holds leases that are not handed on yet holds them in an [`Undelivered`]; dropping
//! it puts them on a queue that the broker works off. The queue is bounded: what finds no place there
//! comes back when its invisible time ends, as does everything when the server dies.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use millpond_proto::message::ShardId;
use millpond_storage::error::AppendError;
use tokio::sync::{mpsc, oneshot};

use crate::broker::incarnation::{Incarnation, unanswered};
use crate::broker::request::{Handle, Lease, Reply, Request, Return};
use crate::broker::{Broker, Delivery};

/// Returns that may wait.
pub(super) const RETURNS_MAX: usize = 4096;

/// Leases that are given back when this is dropped.
#[derive(Debug)]
pub struct Undelivered {
    to: mpsc::Sender<Return>,
    back: Return,
}

/// Deliveries on their way to a consumer; what is not taken is given back.
#[derive(Debug, Default)]
pub struct Batch {
    deliveries: Vec<Delivery>,
    undelivered: Option<Undelivered>,
}

/// A shard's answer to a poll; leases in an answer that nobody takes are given back.
pub(super) struct Answer {
    asked: oneshot::Receiver<Result<Reply, AppendError>>,
    undelivered: Undelivered,
}

impl Undelivered {
    /// Holds more leases.
    pub fn extend(&mut self, leases: &[Lease]) {
        let handles = leases.iter().map(|lease| lease.handle.clone());
        self.back.handles.extend(handles);
    }

    /// Takes over what another one holds.
    pub fn absorb(&mut self, other: &mut Self) {
        self.back.handles.append(&mut other.back.handles);
    }

    /// Lets go of what is not among the deliveries: it comes back when its invisible time ends.
    pub fn keep_only(&mut self, deliveries: &[Delivery]) {
        let places: BTreeSet<(u32, u64)> = deliveries
            .iter()
            .map(|delivery| (delivery.handle.queue, delivery.handle.offset))
            .collect();
        let handles = &mut self.back.handles;
        handles.retain(|handle| places.contains(&(handle.queue, handle.offset)));
    }

    /// How many leases it holds.
    pub fn count(&self) -> usize {
        self.back.handles.len()
    }

    /// The consumer may have seen them from now on.
    pub fn begin(&mut self) {
        self.back.unseen = false;
    }

    /// They are in other hands.
    pub fn clear(&mut self) {
        self.back.handles.clear();
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if !self.back.handles.is_empty() {
            let _ = self.to.try_send(std::mem::take(&mut self.back));
        }
    }
}

impl Batch {
    pub(super) fn new(deliveries: Vec<Delivery>, undelivered: Undelivered) -> Self {
        Self {
            deliveries,
            undelivered: Some(undelivered),
        }
    }

    /// The deliveries.
    #[must_use]
    pub fn deliveries(&self) -> &[Delivery] {
        &self.deliveries
    }

    /// The deliveries; whoever takes them answers for them.
    #[must_use]
    pub fn take(mut self) -> Vec<Delivery> {
        if let Some(undelivered) = &mut self.undelivered {
            undelivered.clear();
        }
        self.deliveries
    }

    /// The deliveries, and what gives them back unless it is told that they arrived.
    #[must_use]
    pub fn split(self) -> (Vec<Delivery>, Option<Undelivered>) {
        (self.deliveries, self.undelivered)
    }
}

impl Answer {
    pub(super) fn of(
        asked: oneshot::Receiver<Result<Reply, AppendError>>,
        undelivered: Undelivered,
    ) -> Self {
        Self { asked, undelivered }
    }
}

impl Future for Answer {
    type Output = Result<Reply, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.asked)
            .poll(cx)
            .map(|answer| answer.unwrap_or_else(|_| Err(unanswered())))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The shard that answers from now on sees that nobody listens.
        self.asked.close();
        if let Ok(Ok(Reply::Leases(found))) = self.asked.try_recv() {
            self.undelivered.extend(&found.leases);
        }
    }
}

impl Broker {
    pub(super) fn undelivered(&self, group: u64, topic: u64) -> Undelivered {
        Undelivered {
            to: self.returns.clone(),
            back: Return {
                group,
                topic,
                handles: Vec::new(),
                unseen: true,
            },
        }
    }
}

/// Gives back what comes over the queue; never ends by itself.
pub(super) async fn give_back(incarnation: &Incarnation, returns: &mut mpsc::Receiver<Return>) {
    while let Some(mut back) = returns.recv().await {
        let mut by_shard: BTreeMap<ShardId, Vec<Handle>> = BTreeMap::new();
        for handle in std::mem::take(&mut back.handles) {
            let shard = incarnation.shard(back.topic, handle.queue);
            by_shard.entry(shard).or_default().push(handle);
        }
        for (shard, handles) in by_shard {
            let request = Request::Return(Return {
                handles,
                ..back.clone()
            });
            if let Err(error) = incarnation.ask(shard, request).await {
                tracing::debug!(%error, "deliveries come back when their time ends");
            }
        }
    }
    std::future::pending().await
}
