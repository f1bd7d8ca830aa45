//! The server: services on the wire, the broker behind them, jobs, configuration and the command line.
//!
//! The binary is `main.rs`: it parses arguments, loads the configuration, starts tracing and calls
//! `server::run`. Tests start the same server in-process.
//!
//! Reading order: [`broker`], [`cli`], [`demo`].

pub mod broker;
pub mod cli;
pub mod demo;
