//! The broker: topics, groups, pop and ack over the shards of one log.
//!
//! Every call finds the shard that owns what it is about and hands it a request; the shard decides,
//! appends, applies and replies. Nothing here knows the wire.
//!
//! Reading order: [`vocabulary`] (what it takes and gives), [`error`] (the refusals), [`fit`] (what a message may hold), [`message`] (send, ack), [`poll`], `visit`, [`hints`], [`scan`],
//! [`undelivered`] (receive), [`filter`] (which messages a consumer wants), [`transfer`], `carry` (dead
//! letters), [`pull`] (streams by offset), [`find`] and [`trace`] (messages that people ask about), [`topic`] and [`alter`] (topics and groups), [`standing`] (where groups
//! stand), `since` (where a time lies in a queue), [`incarnation`] and [`supervisor`] (one run, and what happens when it ends), [`shard`] (the
//! owner), [`request`] (what it is asked), [`state`] (decide and apply), [`consume`] and [`group`] (what
//! groups have consumed, and a group's cursor), [`producer`] (what was sent before), [`catalog`], `savepoint`, [`encoding`] (how bodies
//! are written), [`record`] (what goes to the log), [`care`] (retention and the merging of files), [`compaction`] (keeping the last message of each key), `erasure` (what was sent under a key), `rewrites` (how often either took something out), [`tables`] (topics as
//! outsiders see them), `room` (what is refused when the log is full), [`way`] (what is on its way to it), [`waiting`] and [`parking`] (polls that wait),
//! [`awaited`] (topics to come), [`traffic`] (what went in and out), [`arrivals`] (parked continuous queries), [`sql`], `effect` and `facts` (the broker as SQL sees it).
//!
//! Small queues by name: [`lite`].
//!
//! Messages that are not visible yet: [`delay`] and [`half`] (sending, recalling, ending a transaction),
//! [`shelf`] (where they lie), [`timer`] and [`transaction`] (what is due, what is open), [`fates`], [`errand`], [`ahead`].

pub mod ahead;
pub mod alter;
pub(crate) mod arrivals;
pub mod awaited;
pub mod care;
mod carry;
pub mod catalog;
pub mod compaction;
pub mod consume;
pub mod delay;
mod effect;
pub mod encoding;
mod erasure;
pub mod errand;
pub mod error;
mod facts;
mod family;
pub mod fates;
pub mod filter;
pub mod find;
pub mod fit;
pub mod group;
pub mod half;
pub mod hints;
pub mod incarnation;
pub mod lite;
pub mod message;
pub mod parking;
pub mod poll;
pub mod producer;
pub mod pull;
pub mod record;
pub mod request;
mod rewrites;
mod room;
mod savepoint;
pub mod scan;
pub mod shard;
pub mod shelf;
mod since;
mod spread;
pub mod sql;
pub mod standing;
pub mod state;
pub mod supervisor;
pub mod tables;
pub mod timer;
pub mod topic;
pub mod trace;
pub mod traffic;
pub mod transaction;
pub mod transfer;
pub mod undelivered;
mod visit;
pub mod vocabulary;
pub mod waiting;
pub mod way;

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};

use millpond_proto::task::Task;
use millpond_storage::log::Parts;
use tokio::sync::{Notify, mpsc, watch};

use crate::broker::lite::listeners::Listeners;
use crate::broker::parking::Parking;
use crate::broker::request::Return;
use crate::broker::supervisor::Run;
use crate::broker::traffic::Traffic;

pub use crate::broker::alter::{GroupChange, TopicChange};
pub use crate::broker::error::BrokerError;
pub use crate::broker::vocabulary::{
    Bodies, Delivery, DeliveryPolicy, Group, GroupProgress, GroupStart, GroupWork, InFlightMessage,
    NewRetention, NewTopic, ReceiptHandle, Receive, Retention, Sent, Topic, TopicType, TopicWork,
};

/// The broker of one data folder. It also implements [`millpond_sql::topic::Topics`].
#[derive(Debug)]
pub struct Broker {
    parts: Parts,
    current: watch::Receiver<Run>,
    supervisor: Mutex<Option<Task>>,
    stop: Notify,
    turn: AtomicU32,
    parking: Parking,
    listeners: Arc<Listeners>,
    traffic: Arc<Traffic>,
    returns: mpsc::Sender<Return>,
}

#[cfg(test)]
mod tests;
