//! The ways in: RocketMQ's messaging service, our administration, health pages.
//!
//! A service decodes a request, checks its limits, asks the [`gate`] and knows wire codes; what the
//! request means is the broker's. One file per call or close family.
//!
//! Reading order: [`front`] (which service a call is for), [`gate`] (who may pass, and the way to the broker), [`code`] (errors on the wire),
//! [`time`] (deadlines and durations), [`first_use`] (what is made by using it), then the messaging service
//! [`messaging`] with its calls ([`route`], [`telemetry`] over [`client`] and [`settings`], [`send`] with
//! [`incoming`], [`burden`] and [`producer`], [`receive`] over [`subscription`], [`delivery`] and [`digest`], [`ack`], [`renew`] over [`parting`],
//! [`pull`], [`delay`], [`transaction`] over [`producers`]), our own [`admin`] with `topics`, [`groups`],
//! `messages`, [`shelf`], `upkeep` and [`query`] over [`statements`], and [`http`] with the catalog of tables, [`iceberg`].

pub mod ack;
pub mod admin;
pub mod burden;
pub mod client;
pub mod code;
pub mod delay;
pub mod delivery;
pub mod digest;
pub mod first_use;
pub mod front;
pub mod gate;
pub mod groups;
pub mod http;
pub mod iceberg;
pub mod incoming;
pub mod lite;
mod lites;
mod messages;
pub mod messaging;
mod metrics;
mod names;
pub mod parting;
pub mod producer;
pub mod producers;
pub mod pull;
pub mod query;
pub mod receive;
pub mod renew;
pub mod route;
pub mod send;
pub mod settings;
pub mod shelf;
pub mod statements;
pub mod subscription;
pub mod telemetry;
pub mod time;
mod topics;
pub mod transaction;
mod upkeep;
