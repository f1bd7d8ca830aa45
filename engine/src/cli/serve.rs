//! `millpond serve`, and `millpond` alone: a server in this process, with the demo when it is asked for.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use millpond_proto::client::Client;
use millpond_proto::remedy::Remedy;
use millpond_storage::error::OpenError;

use crate::cli::args::SERVER_DEFAULT;
use crate::cli::error::CliError;
use crate::cli::run::Terminal;
use crate::cli::serve_args::ServeArgs;
use crate::cold::{ColdError, ColdUrl};
use crate::config::{Config, ConfigError};
use crate::demo;
use crate::parts::{Background, Parts};
use crate::server::{ServeError, Server};

/// When the demo is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demo {
    /// When the data folder is new: `millpond` alone.
    WhenNew,
    /// If it is not there yet: `--demo`.
    Always,
    /// Not: `serve` alone, `--no-demo`.
    Never,
}

/// Why the server did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeFailure {
    /// The server itself.
    #[error(transparent)]
    Server(#[from] ServeError),
    /// The data folder.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The addresses.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cold tier.
    #[error(transparent)]
    Cold(#[from] ColdError),
    /// No threads could be started.
    #[error("no threads could be started; is the machine out of memory or processes?")]
    Threads(#[source] std::io::Error),
    /// Standard output.
    #[error(transparent)]
    Output(#[from] CliError),
}

impl ServeFailure {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Server(error) => error.remedy(),
            Self::Open(error) => error.remedy(),
            Self::Config(error) => error.remedy(),
            Self::Cold(error) => error.remedy(),
            Self::Threads(_) => Remedy::Operator,
            Self::Output(error) => error.remedy(),
        }
    }
}

impl Demo {
    /// What the flags of `serve` mean.
    #[must_use]
    pub fn of(args: &ServeArgs) -> Self {
        if args.demo { Self::Always } else { Self::Never }
    }
}

/// Serves until `shutdown` resolves; `program` is how the reader typed our name.
///
/// # Errors
/// [`ServeFailure`].
pub async fn serve(
    args: &ServeArgs,
    demo: Demo,
    program: &str,
    terminal: &mut Terminal<'_>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeFailure> {
    let cold: ColdUrl = match &args.cold {
        Some(url) => url.parse()?,
        None => ColdUrl::default(),
    };
    let config = Config {
        data: args.data.clone(),
        grpc: args.grpc,
        http: args.http,
        insecure: args.insecure,
        auto_create: (args.auto_create || args.no_auto_create).then_some(args.auto_create),
        storage: millpond_storage::log::Settings {
            wal_io: args.wal_io.into(),
            cold: cold.name().to_owned(),
            location: cold.location(&args.data),
            disk_reserve_bytes: args.disk_reserve,
            table_grace_ms: i64::try_from(args.table_grace).unwrap_or(i64::MAX),
            cache_bytes: usize::try_from(args.tail_cache).unwrap_or(usize::MAX),
            ..millpond_storage::log::Settings::bounded(args.log_bytes_max)
        },
    };
    // Before anything touches the folder: a refused address leaves nothing behind.
    config.clone().check()?;
    let wanted = match demo {
        Demo::Always => true,
        Demo::Never => false,
        Demo::WhenNew => is_new(&args.data),
    };
    let background = Background::start().map_err(ServeFailure::Threads)?;
    let mut parts = Parts::local(&args.data, background.lanes())?;
    parts.storage.objects = cold.open_for_a_server(&parts.storage.disk, &terminal.variables)?;
    let running = Server::start(config, parts).await?;
    let (grpc, http) = (dialled(running.grpc_addr), dialled(running.http_addr));
    terminal.tell(&format!(
        "Millpond {} serves {}\ngrpc listening on {grpc}\nhttp listening on {http}\nCtrl-C stops it",
        env!("CARGO_PKG_VERSION"),
        args.data.display()
    ))?;
    let shutdown = std::pin::pin!(shutdown);
    let mut shutdown = futures::future::FutureExt::fuse(shutdown);
    if wanted {
        let server = format!("http://{grpc}");
        let program = if server == SERVER_DEFAULT {
            program.to_owned()
        } else {
            format!("{program} --server {server}")
        };
        let filling = async {
            let client = Client::connect(&server)?;
            demo::fill(&client).await
        };
        let filled = tokio::select! {
            biased;
            () = &mut shutdown => None,
            filled = filling => Some(filled),
        };
        match filled {
            None => {
                running.stop().await;
                return Ok(());
            }
            Some(Ok(_)) => terminal.tell(&format!("\n{}", demo::guide(&program)))?,
            // The server is whole without its demo.
            Some(Err(error)) => {
                terminal.say("\nthe demo could not be filled; the server runs without it")?;
                error.report(terminal.err).map_err(CliError::output)?;
            }
        }
    }
    Ok(running.until(shutdown).await?)
}

/// Whether nobody has kept data here before.
fn is_new(data: &Path) -> bool {
    match std::fs::read_dir(data) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// An address that a client on this machine can dial.
fn dialled(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_new_when_it_is_missing_or_empty() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_new(folder.path()));
        assert!(is_new(&folder.path().join("missing")));
        std::fs::write(folder.path().join("file"), "x").unwrap();
        assert!(!is_new(folder.path()));
    }

    #[test]
    fn an_address_for_everyone_is_dialled_on_loopback() {
        let address = dialled("0.0.0.0:8081".parse().unwrap());
        assert_eq!(address.to_string(), "127.0.0.1:8081");
    }
}
