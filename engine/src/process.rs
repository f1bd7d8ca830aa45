//! What the operating system says of this process: CPU time, memory, how many files it may have open.
//!
//! For figures that operators and `millpond bench` print, and for how many connections are served. Where the system
//! does not tell (it is asked through `/proc`), a figure is `None`, never a guess.

use std::time::Duration;

/// Kernel ticks in which `/proc` counts CPU time; fixed on Linux, whatever the kernel's own rate.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of all threads since the process started.
#[must_use]
pub fn cpu_time() -> Option<Duration> {
    parse_cpu_time(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// Resident memory.
#[must_use]
pub fn memory_bytes() -> Option<u64> {
    parse_memory(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// How many files it may have open at once, connections included.
#[must_use]
pub fn files_max() -> Option<u64> {
    parse_files(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

fn parse_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

fn parse_cpu_time(stat: &str) -> Option<Duration> {
    // The program's name stands in brackets and may hold blanks; what follows it does not.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + system) * 1000 / TICKS_PER_SECOND,
    ))
}

fn parse_memory(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (mill) pond) S 1 7 7 0 -1 4 10 0 0 0 250 150 0 0 20 0 9 0 5 6 7";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_secs(4)));
        assert_eq!(parse_cpu_time("7 (millpond"), None);
    }

    #[test]
    fn the_limit_of_open_files_is_the_one_that_holds_now() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             63204                63204                processes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(parse_files(limits), Some(1024));
        let unlimited = limits.replace("1024  ", "unlimited");
        assert_eq!(parse_files(&unlimited), Some(u64::MAX));
        assert_eq!(parse_files("Max processes 1 1 processes\n"), None);
    }

    #[test]
    fn memory_is_told_in_bytes() {
        let status = "Name:\tmillpond\nVmRSS:\t    2048 kB\nThreads:\t9\n";
        assert_eq!(parse_memory(status), Some(2 * 1024 * 1024));
        assert_eq!(parse_memory("Name:\tmillpond\n"), None);
    }
}
