//! Bounded queries: topics as tables of the query engine, sessions over them, and exports.
//!
//! Reading order: [`notices`] (what a query noticed beside its rows), [`provider`] (a topic as a table),
//! `comparison` and `prune` (what of it need not be read), [`tail`] (its newest rows, decoded once),
//! [`latest`] (the last row per key of an updating view), [`index`] with `key_range` and `picked` (rows that are looked up by their key), [`session`] (`orders` tells of one case in which it computes in one partition), [`system`]
//! (system tables; `facts` asks the broker for its own, `functions`, `operators`, `savepoints` and `schemas` fill four of them), [`view`] (plain views), `names` (what the names of a query stand for) and `dependents` (what is in the way of a drop), and what
//! becomes of rows that are not answered: [`copy`], [`insert`] (`literals` reads the texts among its values, `fit` tells what a column takes).

pub(crate) mod comparison;
pub mod copy;
pub(crate) mod dependents;
mod facts;
pub(crate) mod fit;
pub(crate) mod functions;
pub mod index;
pub mod insert;
pub(crate) mod key_range;
pub mod latest;
pub(crate) mod literals;
pub(crate) mod names;
pub mod notices;
pub(crate) mod operators;
mod orders;
pub(crate) mod picked;
pub mod provider;
mod prune;
pub(crate) mod savepoints;
pub(crate) mod schemas;
pub mod session;
pub mod system;
pub mod tail;
pub mod view;
