//! The outside world, assembled for a real server: local disk, TCP, the machine's clock and chance.
//!
//! Tests and the simulation put other parts into [`Parts`]; nothing below here asks the machine itself.

use std::io;
use std::path::Path;
use std::sync::Arc;

use millpond_proto::chance::Entropy;
use millpond_proto::task::{Runtimes, Spawn, stand_back};
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

/// The runtimes of what is not to delay calls, apart from the one that serves them.
#[derive(Debug)]
pub struct Background(Option<Apart>);

#[derive(Debug)]
struct Apart {
    /// Tiering and continuous queries.
    background: Runtime,
    /// Statements and reads of the cold tier.
    reading: Runtime,
}

impl Background {
    /// Starts their threads.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn start() -> io::Result<Self> {
        let named = |name| {
            let mut builder = Builder::new_multi_thread();
            builder.enable_all().thread_name(name);
            builder
        };
        Ok(Self(Some(Apart {
            background: named("millpond-background").build()?,
            reading: named("millpond-reading")
                .on_thread_start(stand_back)
                .build()?,
        })))
    }

    /// Lanes with services on the runtime that calls this, the rest here.
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    #[must_use]
    pub fn lanes(&self) -> Arc<dyn Spawn> {
        let apart = self.0.as_ref().expect("it is taken when dropped alone");
        Arc::new(Runtimes::new(
            Handle::current(),
            apart.background.handle().clone(),
            apart.reading.handle().clone(),
        ))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // A runtime must not be waited for inside another one. Work that matters has ended: the
        // server awaits its own before it returns.
        if let Some(apart) = self.0.take() {
            apart.background.shutdown_background();
            apart.reading.shutdown_background();
        }
    }
}
