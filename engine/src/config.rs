//! What a user may set about a server, and the check before anything is opened.
//!
//! [`Config`] is plain data; [`Config::check`] turns it into a [`Checked`] one, which is the only form
//! that the server takes. Environment variables and flags are read by the command line, not here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use millpond_proto::limits;
use millpond_proto::remedy::Remedy;

/// A server, as asked for.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data folder.
    pub data: PathBuf,
    /// Where gRPC listens; port 0 takes a free one.
    pub grpc: SocketAddr,
    /// Where HTTP listens; port 0 takes a free one.
    pub http: SocketAddr,
    /// Lets anyone in who can reach the ports, and allows addresses beyond loopback.
    pub insecure: bool,
    /// Whether a topic is made by its first message and a group by its first poll; none: only where nobody
    /// but this machine can reach the server.
    pub auto_create: Option<bool>,
    /// What the storage may be told.
    pub storage: millpond_storage::log::Settings,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            data: PathBuf::from("data"),
            grpc: SocketAddr::new(loopback, 8081),
            http: SocketAddr::new(loopback, 8080),
            insecure: false,
            auto_create: None,
            storage: millpond_storage::log::Settings::default(),
        }
    }
}

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Others could reach an address, and nothing would ask who they are.
    #[error(
        "{flag} {address} can be reached from other machines and there is no authentication yet; \
         listen on 127.0.0.1, or pass --insecure to let everyone in who can reach it"
    )]
    Public {
        /// The flag that set it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// A bound that would leave no room to work in.
    #[error("--log-bytes-max is {asked} bytes, the least is {least}; give more, or none")]
    LogTooSmall {
        /// As asked for.
        asked: u64,
        /// The least.
        least: u64,
    },
    /// Longer than the server keeps what was replaced.
    #[error("--table-grace is {asked_ms} ms, the most is {most_ms}; give less, or none")]
    GraceTooLong {
        /// As asked for.
        asked_ms: i64,
        /// The most.
        most_ms: i64,
    },
    /// Both want one port.
    #[error("--grpc and --http both ask for {address}; give each its own port")]
    SamePort {
        /// The address.
        address: SocketAddr,
    },
}

impl ConfigError {
    /// What to do next: always change the flags.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        Remedy::FixRequest
    }
}

/// A configuration that may be served.
#[derive(Clone, Debug)]
pub struct Checked(Config);

impl std::ops::Deref for Checked {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.0
    }
}

impl Checked {
    /// Whether topics and groups are made on first use.
    #[must_use]
    pub fn makes_on_first_use(&self) -> bool {
        let unreachable = is_loopback(self.grpc.ip());
        self.auto_create.unwrap_or(unreachable)
    }
}

impl Config {
    /// Refuses what must not be served.
    ///
    /// # Errors
    /// [`ConfigError`] names the flag and the way out.
    pub fn check(self) -> Result<Checked, ConfigError> {
        for (flag, address) in [("--grpc", self.grpc), ("--http", self.http)] {
            if !self.insecure && !is_loopback(address.ip()) {
                return Err(ConfigError::Public { flag, address });
            }
        }
        let least = limits::LOG_BYTES_MAX_MIN;
        if let Some(asked) = self.storage.log_bytes_max.filter(|&asked| asked < least) {
            return Err(ConfigError::LogTooSmall { asked, least });
        }
        let (asked_ms, most_ms) = (self.storage.table_grace_ms, limits::TABLE_GRACE_MS_MAX);
        if asked_ms > most_ms {
            return Err(ConfigError::GraceTooLong { asked_ms, most_ms });
        }
        if self.grpc == self.http && self.grpc.port() != 0 {
            return Err(ConfigError::SamePort { address: self.grpc });
        }
        Ok(Checked(self))
    }
}

/// Whether only this machine can be at the other end.
#[must_use]
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(grpc: &str, insecure: bool) -> Result<Checked, ConfigError> {
        let grpc = grpc.parse().unwrap();
        Config {
            grpc,
            insecure,
            ..Config::default()
        }
        .check()
    }

    #[test]
    fn loopback_is_served_without_asking() {
        for address in [
            "127.0.0.1:8081",
            "[::1]:8081",
            "127.9.9.9:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(with(address, false).is_ok(), "{address}");
        }
    }

    #[test]
    fn a_public_address_needs_insecure_and_the_refusal_says_so() {
        for address in ["0.0.0.0:8081", "[::]:8081", "10.0.0.1:8081"] {
            let error = with(address, false).unwrap_err();
            assert!(matches!(error, ConfigError::Public { flag: "--grpc", .. }));
            assert!(error.to_string().contains("--insecure"), "{error}");
            assert!(with(address, true).is_ok(), "{address}");
        }
    }

    #[test]
    fn a_log_without_room_to_work_in_is_refused() {
        let with = |bytes| {
            let storage = millpond_storage::log::Settings::bounded(bytes);
            let config = Config {
                storage,
                ..Config::default()
            };
            config.check()
        };
        assert!(matches!(with(1000), Err(ConfigError::LogTooSmall { .. })));
        assert!(with(0).is_ok() && with(limits::LOG_BYTES_MAX_MIN).is_ok());
    }

    #[test]
    fn one_port_is_not_given_twice() {
        let error = with("127.0.0.1:8080", false).unwrap_err();
        assert!(matches!(error, ConfigError::SamePort { .. }));
        assert!(with("127.0.0.1:0", false).is_ok());
    }

    #[test]
    fn topics_are_made_on_first_use_on_loopback_only_unless_told_otherwise() {
        let makes = |grpc: &str, told| {
            let grpc = grpc.parse().unwrap();
            let config = Config {
                grpc,
                insecure: true,
                auto_create: told,
                ..Config::default()
            };
            config.check().unwrap().makes_on_first_use()
        };
        assert!(makes("127.0.0.1:1", None) && makes("[::1]:1", None));
        assert!(!makes("0.0.0.0:1", None) && makes("0.0.0.0:1", Some(true)));
        assert!(!makes("127.0.0.1:1", Some(false)));
    }
}
