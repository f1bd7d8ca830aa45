//! Transactions: half messages, their end, and the questions about those that nobody ends.
//!
//! A half message lies on the shelf of its queue's shard. The transaction id says where, so that any broker
//! can finish it; it is checked against the message that lies there. A commit places the message and marks
//! it in one append, a rollback marks it; the first decision stands.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millpond_proto::limits;
use millpond_proto::name::TopicName;
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::{Envelope, flags};
use prost::Message as _;

use crate::broker::delay::read_shelved;
use crate::broker::request::{Reply, Request};
use crate::broker::shelf::{Checked, Spot, address_of, unshelved};
use crate::broker::state::shelving::{EndHalf, TransactionsOf};
use crate::broker::topic::accepted;
use crate::broker::transaction::{OpenTransaction, TransactionPlace, Transactions};
use crate::broker::{Broker, BrokerError};

/// Transactions of one shard that producers are asked about in one turn.
const CHECKS_AT_ONCE: u32 = 256;

/// Names a transaction; opaque to clients. Text form: URL-safe base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Message)]
pub struct TransactionId {
    /// Topic that its message is for.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Queue there.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Where it lies on the shard's shelf.
    #[prost(message, required, tag = "3")]
    pub spot: Spot,
}

impl TransactionId {
    /// The id as clients carry it.
    #[must_use]
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.encode_to_vec())
    }

    /// Reads an id that a client sent back.
    ///
    /// # Errors
    /// [`BrokerError::InvalidTransaction`] when it is none of ours.
    pub fn from_text(text: &str) -> Result<Self, BrokerError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let id = bytes.and_then(|bytes| Self::decode(bytes.as_slice()).ok());
        let id = id.filter(|id| id.spot.is_half());
        id.ok_or(BrokerError::InvalidTransaction {
            why: "it is not one that this server gives out",
        })
    }
}

/// A half message and what is known of its transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    /// Names it.
    pub id: TransactionId,
    /// Name of its topic; its number when that was deleted.
    pub topic: String,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// How often a producer was asked.
    pub checks: u32,
    /// When one is asked next; none: the server has rolled it back, because nobody decided in time.
    pub next_check: Option<Timestamp>,
    /// The message, as it would be delivered; none when it can not be read, or was let go.
    pub message: Option<Envelope>,
}

impl Broker {
    /// Stores half messages, each with the time after which its producer is asked first, in ms; one result
    /// per message, in order; an answer of `Ok` is durable.
    ///
    /// # Errors
    /// [`BrokerError`] when none of them could be stored.
    pub async fn send_half(
        &self,
        topic: &TopicName,
        messages: Vec<(Envelope, i64)>,
    ) -> Result<Vec<Result<TransactionId, BrokerError>>, BrokerError> {
        let (messages, check_after_ms) = messages.into_iter().unzip();
        let placed = self.shelve(topic, messages, Some(check_after_ms)).await?;
        let id = |result: Result<(super::delay::Routed, Option<Spot>, u64), BrokerError>| {
            let (routed, spot, _) = result?;
            Ok(TransactionId {
                topic: routed.topic,
                queue: routed.queue,
                spot: spot.ok_or(BrokerError::Confused("half message"))?,
            })
        };
        Ok(placed.into_iter().map(id).collect())
    }

    /// Commits or rolls back a transaction of a topic; `Ok` is durable. Asking for the same again is `Ok`.
    /// With a message id, only when it is that message's.
    ///
    /// # Errors
    /// [`BrokerError::TransactionDecided`] when it has ended the other way,
    /// [`BrokerError::InvalidTransaction`] when the id is of no transaction of this topic.
    pub async fn end_transaction(
        &self,
        topic: &TopicName,
        id: TransactionId,
        message_id: Option<&str>,
        commit: bool,
    ) -> Result<(), BrokerError> {
        let topic = self.topic_record(topic)?;
        if id.topic != topic.id {
            return Err(BrokerError::InvalidTransaction {
                why: "it belongs to another topic, or to one that was deleted",
            });
        }
        let incarnation = self.incarnation()?;
        let shard = incarnation.shard(id.topic, id.queue);
        let message = read_shelved(&incarnation, shard, id.spot).await?;
        if let Some(message) = &message {
            let to = address_of(message).map(|to| (to.topic, to.queue));
            let other = message_id.is_some_and(|wanted| wanted != message.message_id);
            if other || to != Some((id.topic, id.queue)) {
                return Err(BrokerError::InvalidTransaction {
                    why: "it belongs to another message",
                });
            }
        }
        let end = EndHalf {
            spot: id.spot,
            commit,
            message: message.filter(|_| commit).and_then(unshelved).map(Box::new),
        };
        accepted(incarnation.ask(shard, Request::EndHalf(end)).await?)?;
        Ok(())
    }

    /// At most `limit` transactions of one topic or of all, behind `after`: the open ones, the oldest first, then those that were
    /// rolled back because nobody decided, the newest first. Beside them the place to go on behind, when there may be more.
    ///
    /// # Errors
    /// [`BrokerError`] when there is no such topic or the log failed.
    pub async fn transactions(
        &self,
        topic: Option<&TopicName>,
        after: Option<TransactionPlace>,
        limit: usize,
    ) -> Result<(Vec<Transaction>, Option<TransactionPlace>), BrokerError> {
        let topic = topic.map(|topic| self.topic_record(topic)).transpose()?;
        let limit = limit.clamp(1, limits::FACT_ROWS_MAX + 1);
        let incarnation = self.incarnation()?;
        let request = Request::Transactions(TransactionsOf {
            due: false,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            topic: topic.map_or(0, |topic| topic.id),
            after,
        });
        let mut all = Vec::new();
        for (_, reply) in incarnation.ask_all(request).await? {
            // A damaged shard shows nothing.
            let Reply::OpenTransactions(here) = reply else {
                continue;
            };
            for (these, given_up) in [(here.open, false), (here.given_up, true)] {
                let placed = |one| (TransactionPlace::of(&one, given_up), one);
                all.extend(these.into_iter().map(placed));
            }
        }
        // Of all shards together: each has its own oldest and newest ones.
        all.sort_unstable_by_key(|(place, _)| place.order());
        all.truncate(limit);
        let next = all.last().filter(|_| all.len() == limit);
        let next = next.map(|(place, _)| *place);
        let mut found = Vec::new();
        for (place, one) in &all {
            found.push(self.transaction(one, !place.given_up).await);
        }
        Ok((found, next))
    }

    /// Transactions about which a producer is to be asked by now. Those that were asked about often enough
    /// are given up here, and those whose message can not be read are put off.
    ///
    /// # Errors
    /// [`BrokerError`] when the log failed.
    pub async fn transactions_to_check(&self) -> Result<Vec<Transaction>, BrokerError> {
        let incarnation = self.incarnation()?;
        let mut found = Vec::new();
        for shard in incarnation.to_check(self.now()) {
            let request = Request::Transactions(TransactionsOf {
                due: true,
                limit: CHECKS_AT_ONCE,
                topic: 0,
                after: None,
            });
            let Reply::OpenTransactions(here) = incarnation.ask(shard, request).await? else {
                continue;
            };
            let mut others = Vec::new();
            for one in here.open {
                if !Transactions::is_spent(&one, self.now()) {
                    let transaction = self.transaction(&one, true).await;
                    if transaction.message.is_some() {
                        found.push(transaction);
                        continue;
                    }
                }
                others.push(TransactionId {
                    topic: one.topic,
                    queue: one.queue,
                    spot: one.spot,
                });
            }
            if !others.is_empty() {
                self.transactions_checked(&others, false).await?;
            }
        }
        Ok(found)
    }

    /// Producers were asked about these transactions, or there was nobody to ask.
    ///
    /// # Errors
    /// [`BrokerError`] when the log failed: they are asked once more.
    pub async fn transactions_checked(
        &self,
        ids: &[TransactionId],
        asked: bool,
    ) -> Result<(), BrokerError> {
        let incarnation = self.incarnation()?;
        let mut by_shard: BTreeMap<_, Vec<Spot>> = BTreeMap::new();
        for id in ids {
            let shard = incarnation.shard(id.topic, id.queue);
            by_shard.entry(shard).or_default().push(id.spot);
        }
        for (shard, spots) in by_shard {
            let checked = Checked {
                spots,
                next_ms: 0,
                asked,
            };
            incarnation.ask(shard, Request::Checked(checked)).await?;
        }
        Ok(())
    }

    async fn transaction(&self, one: &OpenTransaction, is_open: bool) -> Transaction {
        let topic = self
            .catalog()
            .topic_by_id(one.topic)
            .map(|topic| topic.name.clone());
        let message = match self.incarnation() {
            Ok(incarnation) => {
                let shard = incarnation.shard(one.topic, one.queue);
                let read = read_shelved(&incarnation, shard, one.spot).await;
                read.unwrap_or_else(|error| {
                    tracing::warn!(%error, "a half message can not be read");
                    None
                })
            }
            Err(_) => None,
        };
        let message = message.and_then(unshelved).map(|mut message| {
            message.flags |= flags::TRANSACTION;
            message
        });
        Transaction {
            id: TransactionId {
                topic: one.topic,
                queue: one.queue,
                spot: one.spot,
            },
            topic: topic.unwrap_or_else(|| one.topic.to_string()),
            stored_at: Timestamp(one.stored_at_ms),
            checks: one.checks,
            next_check: is_open.then_some(Timestamp(one.next_check_ms)),
            message,
        }
    }
}
