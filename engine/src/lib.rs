//! The server: services on the wire, the broker behind them, jobs, configuration and the command line.
//!
//! The binary is `main.rs`: it starts tracing, parses arguments and runs what they ask for; `serve` (`cli/serve.rs`) makes
//! a configuration of them and starts the [`server`]. Tests start the same server in-process.
//!
//! Reading order: [`config`], [`server`], [`parts`], [`cold`] (where the cold tier lies), [`process`], [`net`] and [`tls`] (connections), [`authorize`], [`service`]
//! (what is on the wire), [`broker`], [`cli`] and [`demo`] (the command line).

pub mod authorize;
pub mod broker;
pub mod cli;
pub mod cold;
pub mod config;
pub mod demo;
pub mod net;
pub mod parts;
pub mod process;
pub mod server;
pub mod service;
pub mod tls;
