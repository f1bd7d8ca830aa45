//! Bounded queries: topics as tables of the query engine, sessions over them, and exports.
//!
//! Reading order: [`notices`] (what a query noticed beside its rows), [`provider`] (a topic as a table), `prune` (what of it need not be read),
//! [`latest`] (the last row per key of an updating view), [`session`], [`system`]
//! (system tables), [`view`] (plain views), and what
//! becomes of rows that are not answered: [`copy`], [`insert`].

pub mod copy;
pub mod insert;
pub mod latest;
pub mod notices;
pub mod provider;
mod prune;
pub mod session;
pub mod system;
pub mod view;
