//! A query that does nothing for a while: between two turns, after trouble, and when it is told to stop.
//!
//! **Invariant.** Whoever asks it for something has an answer meanwhile, and a query that stands still for long stands on saved state: what
//! retention deletes then, it does not need again. After a crash it needs the rows of the cuts since its last save, which are those of some
//! seconds.

use std::time::Duration;

use futures::future::BoxFuture;
use millpond_proto::time::within;

use crate::job::error::JobError;
use crate::job::runner::{Runner, Turns};

/// How long a query that stops may take to save its state; else it goes on from the last one, and computes what came since again.
const SAVE_LIMIT: Duration = Duration::from_secs(5);

impl Runner {
    /// Waits after trouble; answers whether it is time to stop.
    pub(super) async fn pause(&self, duration: Duration, trouble: String) -> bool {
        let mut asks = self.asks.lock().await;
        let mut stopping = self.stopping.clone();
        let mut slept = std::pin::pin!(self.clock.sleep(duration));
        loop {
            let ask = tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return true,
                () = &mut slept => return false,
                Some(ask) = asks.recv() => ask,
            };
            let why = trouble.clone();
            // Who asked may have gone.
            let _ = ask.reply.send(Err(JobError::StartsOver { why }));
        }
    }

    /// Waits between two turns, or until `other` is over; answers whether it is time to stop.
    pub(super) async fn pause_or(&self, duration: Duration, other: BoxFuture<'static, ()>) -> bool {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            biased;
            // A dropped sender means that nobody is left to ask for more.
            _ = stopping.wait_for(|stop| *stop) => true,
            () = other => false,
            () = self.clock.sleep(duration) => false,
        }
    }
}

impl Turns<'_> {
    /// Saves what was computed since it was saved before.
    pub(super) async fn save_what_is_new(&mut self) -> Result<(), JobError> {
        match self.epoch > self.saved.epoch {
            true => self.save(self.runner.clock.now()).await,
            false => Ok(()),
        }
    }

    /// Comes to rest.
    pub(super) async fn rest(&mut self) -> Result<(), JobError> {
        let clock = self.runner.clock.as_ref();
        let saved = within(clock, SAVE_LIMIT, Box::pin(self.save_what_is_new())).await;
        saved.unwrap_or(Ok(()))
    }
}
