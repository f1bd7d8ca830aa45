//! Bounded queries: topics as tables of the query engine, sessions over them, and exports.
//!
//! Reading order: [`notices`] (what a query noticed beside its rows), [`provider`] (a topic as a table),
//! [`tail`] (its newest rows, decoded once), `prune` (what of it need not be read),
//! [`latest`] (the last row per key of an updating view), [`session`], [`system`]
//! (system tables; `operators` and `schemas` fill two of them), [`view`] (plain views), and what
//! becomes of rows that are not answered: [`copy`], [`insert`].

pub mod copy;
pub mod insert;
pub mod latest;
pub mod notices;
pub(crate) mod operators;
pub mod provider;
mod prune;
pub(crate) mod schemas;
pub mod session;
pub mod system;
pub mod tail;
pub mod view;
