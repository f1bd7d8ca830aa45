//! The ways in: RocketMQ's messaging service, our administration, health pages.
//!
//! A service decodes a request, checks its limits, asks the [`gate`] and knows wire codes; what the
//! request means is the broker's. One file per call or close family.
//!
//! Reading order: [`gate`] (who may pass, and the way to the broker), [`code`] (errors on the wire),
//! [`time`] (deadlines and durations), then the messaging service [`messaging`] with its calls
//! ([`route`], [`telemetry`] over [`client`] and [`settings`], [`send`], [`receive`] over
//! [`subscription`] and [`delivery`], [`ack`], [`renew`], [`pull`]), our own [`admin`] with [`groups`] and
//! [`query`] over [`statements`], and [`http`] with the catalog of tables, [`iceberg`].

pub mod ack;
pub mod admin;
pub mod client;
pub mod code;
pub mod delivery;
pub mod gate;
pub mod groups;
pub mod http;
pub mod iceberg;
pub mod messaging;
pub mod pull;
pub mod query;
pub mod receive;
pub mod renew;
pub mod route;
pub mod send;
pub mod settings;
pub mod statements;
pub mod subscription;
pub mod telemetry;
pub mod time;
