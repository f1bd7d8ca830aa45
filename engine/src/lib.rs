//! The server: services on the wire, the broker behind them, jobs, configuration and the command line.
//!
//! The binary is `main.rs`: it parses arguments, starts tracing and serves or does one command. Tests
//! start the same server in-process.
//!
//! Reading order: [`config`], [`server`], [`parts`], [`net`] and [`tls`] (connections), [`authorize`],
//! [`service`] (what is on the wire), [`broker`], [`cli`] (the command line), [`demo`].

pub mod authorize;
pub mod broker;
pub mod cli;
pub mod config;
pub mod demo;
pub mod net;
pub mod parts;
pub mod server;
pub mod service;
pub mod tls;
