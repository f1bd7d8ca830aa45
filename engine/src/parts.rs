//! The outside world, assembled for a real server: local disk, TCP, the machine's clock and chance.
//!
//! Tests and the simulation put other parts into [`Parts`]; nothing below here asks the machine itself.

use std::io;
use std::path::Path;
use std::sync::Arc;

use millpond_proto::chance::Entropy;
use millpond_proto::task::{Runtimes, Spawn};
use millpond_proto::time::SystemClock;
use millpond_storage::disk::Disk;
use millpond_storage::disk::local::LocalDisk;
use millpond_storage::error::OpenError;
use millpond_storage::log::COLD_DEFAULT;
use millpond_storage::tier::objects::DiskObjectStore;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::net::{Network, TcpNetwork};

/// The outside world, passed in.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Disk, objects, time, chance, threads.
    pub storage: millpond_storage::log::Parts,
    /// Where connections come from.
    pub network: Arc<dyn Network>,
}

impl Parts {
    /// The machine's own: `data` is made when it does not exist, and locked. The cold tier lies in it.
    ///
    /// # Errors
    /// [`OpenError`] when the folder is not ours or in use.
    pub fn local(data: &Path, spawn: Arc<dyn Spawn>) -> Result<Self, OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(LocalDisk::open(data)?);
        let objects = Arc::new(DiskObjectStore::new(Arc::clone(&disk), COLD_DEFAULT));
        Ok(Self {
            storage: millpond_storage::log::Parts {
                disk,
                objects,
                clock: Arc::new(SystemClock),
                chance: Arc::new(Entropy),
                spawn,
            },
            network: Arc::new(TcpNetwork),
        })
    }
}

/// The runtime of SQL and tiering, apart from the one that serves calls.
#[derive(Debug)]
pub struct Background(Option<Runtime>);

impl Background {
    /// Starts its threads.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .thread_name("millpond-background")
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Lanes with services on the runtime that calls this, the rest here.
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    #[must_use]
    pub fn lanes(&self) -> Arc<dyn Spawn> {
        let runtime = self.0.as_ref().expect("it is taken when dropped alone");
        Arc::new(Runtimes::new(Handle::current(), runtime.handle().clone()))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // A runtime must not be waited for inside another one. Work that matters has ended: the
        // server awaits its own before it returns.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
