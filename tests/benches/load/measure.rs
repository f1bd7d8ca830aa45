//! What is measured with: the clock, the kernel's count of CPU time, raw writes.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use millpond_tests::harness::{Folder, Server};

/// Time and CPU time of a piece of load.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
}

impl Spent {
    /// Of the server while something runs.
    pub(crate) async fn on<T>(
        cpu: impl Fn() -> Duration,
        load: impl Future<Output = T>,
    ) -> (Self, T) {
        let (before, started) = (cpu(), now());
        let done = load.await;
        let spent = Self {
            elapsed: started.elapsed(),
            cpu: cpu() - before,
        };
        (spent, done)
    }

    pub(crate) fn rate(self, count: usize) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds of CPU time each.
    pub(crate) fn us(self, count: usize) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / count as f64
    }
}

/// CPU time that the server's process has used.
pub(crate) fn cpu(server: &Server) -> Duration {
    cpu_of(server.id())
}

/// CPU time that a process has used, by the kernel's count of its user and system ticks.
pub(crate) fn cpu_of(process: u32) -> Duration {
    const TICKS_A_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name stands in brackets and may hold blanks; what follows it does not.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / TICKS_A_SECOND)
}

/// Durable writes of 64 KiB a second, one after the other, on the file system of the data folder.
pub(crate) fn raw_writes(folder: &Folder) -> f64 {
    const COUNT: u32 = 500;
    let path = folder.beside("raw");
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&path)
        .unwrap();
    let block = vec![7_u8; 64 * 1024];
    let started = now();
    for turn in 0..COUNT {
        file.write_all_at(&block, u64::from(turn) * block.len() as u64)
            .unwrap();
        file.sync_data().unwrap();
    }
    let rate = f64::from(COUNT) / started.elapsed().as_secs_f64();
    std::fs::remove_file(path).unwrap();
    rate
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bench measures the real passing of time"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").unwrap();
}
