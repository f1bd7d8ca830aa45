//! Words of `millpond serve`.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use millpond_proto::limits;

use crate::cli::keep;

/// `millpond serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  millpond serve --data /var/lib/millpond --grpc 127.0.0.1:8081
  millpond serve --cold s3://bucket/prefix       with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
  AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_ALLOW_HTTP=true millpond serve --cold s3://bucket/prefix

Stores are configured by the variables of their own tools: AWS_… for s3://, GOOGLE_… for gs://, AZURE_… for az://.
An emulator of Google's: GOOGLE_BASE_URL=http://127.0.0.1:4443 and
  GOOGLE_SERVICE_ACCOUNT_KEY='{\"disable_oauth\":true,\"client_email\":\"\",\"private_key\":\"\",\"private_key_id\":\"\"}'
An emulator of Azure's: AZURE_STORAGE_ENDPOINT=http://127.0.0.1:10000/devstoreaccount1, AZURE_ALLOW_HTTP=true,
  AZURE_STORAGE_ACCOUNT_NAME=devstoreaccount1 and its AZURE_STORAGE_ACCOUNT_KEY")]
pub struct ServeArgs {
    /// Data folder; made when it is missing.
    #[arg(
        long,
        env = "MILLPOND_DATA",
        default_value = "data",
        value_name = "DIR"
    )]
    pub data: PathBuf,
    /// Where gRPC listens: an address, or a name of this machine such as localhost:8081.
    #[arg(long, env = "MILLPOND_GRPC", default_value = "127.0.0.1:8081", value_name = "ADDR", value_parser = address)]
    pub grpc: SocketAddr,
    /// Where HTTP listens, as gRPC.
    #[arg(long, env = "MILLPOND_HTTP", default_value = "127.0.0.1:8080", value_name = "ADDR", value_parser = address)]
    pub http: SocketAddr,
    /// Fill the demo if it is not there yet.
    #[arg(long, conflicts_with = "no_demo")]
    pub demo: bool,
    /// Fill no demo; so it is unless --demo says otherwise.
    #[arg(long)]
    pub no_demo: bool,
    /// Let in everyone who can reach the ports, and allow addresses beyond loopback.
    #[arg(long)]
    pub insecure: bool,
    /// Make a topic by its first message and a group by its first poll; so it is on loopback alone.
    #[arg(long, conflicts_with = "no_auto_create")]
    pub auto_create: bool,
    /// Refuse unknown topics and groups by name; so it is beyond loopback.
    #[arg(long)]
    pub no_auto_create: bool,
    /// How the log is written: through the system's cache, past it, or as measured once on this disk.
    #[arg(long, value_enum, default_value_t = WalIo::Auto)]
    pub wal_io: WalIo,
    /// Where what leaves the log is kept as Parquet: file:///folder, s3://bucket/prefix, gs://… or az://…;
    /// in the data folder when nothing is said.
    #[arg(long, value_name = "URL")]
    pub cold: Option<String>,
    /// Bytes that the log may keep before messages are refused, such as 10GiB; what has moved to the cold tier
    /// does not count.
    #[arg(long, value_name = "SIZE", default_value = "none", value_parser = keep::size)]
    pub log_bytes_max: u64,
    /// Free bytes of the disk below which messages are refused, so that acknowledgements have room.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = keep::size)]
    pub disk_reserve: u64,
    /// How long Parquet files that were merged or let go of stay for those who read the tables, such as 2h, at most 24h;
    /// "none" removes them at once.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = keep::time)]
    pub table_grace: u64,
    /// Memory for what was stored last, where consumers that keep up find it, such as 16MiB; "none": they read the log's
    /// files.
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = keep::size)]
    pub tail_cache: u64,
}

/// An address, or the first one that a name stands for.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let wrong = |cause: String| format!("{cause}; write HOST:PORT, like 127.0.0.1:8081");
    let found = text.to_socket_addrs();
    let found: Vec<SocketAddr> = found.map_err(|error| wrong(error.to_string()))?.collect();
    // Clients dial 127.0.0.1 unless they are told otherwise, so of two that a name stands for this is the one.
    let four = found.iter().find(|address| address.is_ipv4());
    let first = four.or(found.first()).copied();
    first.ok_or_else(|| wrong(format!("{text:?} stands for no address")))
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WalIo {
    /// As measured once on this disk, and remembered with the data.
    Auto,
    /// Through the system's cache, then a sync.
    Buffered,
    /// Past the cache, where the file system can.
    Direct,
}

impl From<WalIo> for millpond_storage::log::WalIo {
    fn from(asked: WalIo) -> Self {
        match asked {
            WalIo::Auto => Self::Auto,
            WalIo::Buffered => Self::Buffered,
            WalIo::Direct => Self::Direct,
        }
    }
}

impl Default for ServeArgs {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data"),
            grpc: SocketAddr::from(([127, 0, 0, 1], 8081)),
            http: SocketAddr::from(([127, 0, 0, 1], 8080)),
            demo: false,
            no_demo: false,
            insecure: false,
            auto_create: false,
            no_auto_create: false,
            wal_io: WalIo::Auto,
            cold: None,
            log_bytes_max: 0,
            disk_reserve: 256 * 1024 * 1024,
            table_grace: limits::TABLE_GRACE_MS_DEFAULT.unsigned_abs(),
            tail_cache: 128 * 1024 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_listen_is_an_address_or_a_name() {
        assert_eq!(
            address("[::1]:5"),
            Ok(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 5)))
        );
        let local = address("localhost:9081").unwrap();
        assert!(local.ip().is_loopback() && local.port() == 9081, "{local}");
        for wrong in ["localhost", "9081", ""] {
            let error = address(wrong).unwrap_err();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
    }
}
