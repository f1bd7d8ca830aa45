//! Continuous queries at work: each is a loop of its own on the background lane.
//!
//! A turn of the loop reads what was stored before a tick, computes, records the cut (the intent) and
//! appends the output (the effect); from time to time it saves its state. Whatever fails, fails for
//! this one query: a passing trouble makes it go on from its last cut, anything else makes it stop and
//! say why. This room holds no data of its own; topics and objects are behind traits.
//!
//! Reading order: [`undivided`] (changes are made whole), [`runtime`] (create, drop, list), [`end`] (what is dropped), [`savepoint`] (state under a name), [`alter`] (a view takes another's place), [`runner`] (the loop), [`region`] (one epoch,
//! without I/O), its [`intake`], [`lanes`], the [`nodes`] that they go through, rows that are added up before one lane ([`adding`]) and [`written`] rows, [`parts`] of state that rest, as lanes are [`stepped`], [`crew`] (who does the work), [`inputs`] and [`reader`] (queues in ticks), topics that are [`declared`] anew under a query, [`subscribe`] (a query that is watched and kept nowhere), [`restart`] (how often it starts over), [`pace`] and `shares` (where its time goes), [`error`].

pub(crate) mod adding;
pub mod alter;
pub mod crew;
pub(crate) mod declared;
mod end;
pub mod error;
pub mod inputs;
pub(crate) mod intake;
pub(crate) mod lanes;
pub(crate) mod nodes;
pub mod pace;
pub(crate) mod parts;
pub mod reader;
pub mod region;
pub(crate) mod restart;
pub mod runner;
pub mod runtime;
pub(crate) mod savepoint;
pub(crate) mod shares;
pub(crate) mod stepped;
pub mod subscribe;
pub mod undivided;
pub(crate) mod written;

#[cfg(test)]
mod cascading;
#[cfg(test)]
mod equality;
#[cfg(test)]
mod firing;
#[cfg(test)]
mod folding;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod layered;
#[cfg(test)]
mod parallel;
#[cfg(test)]
mod resting;
#[cfg(test)]
mod settings;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod timed;
#[cfg(test)]
mod whole;
#[cfg(test)]
mod widened;
