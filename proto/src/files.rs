//! How many files the process may have open, connections among them.
//!
//! Most systems give a process 1024 and let it ask for more, many thousands mostly, for the sake of programs that keep sets of
//! files in tables of 1024 places. Ours is none of them, and each client's connection is a file.

/// Asks for as many as the system lets this process have; without effect where it has them or may not ask.
pub fn ask_for_most() {
    #[cfg(unix)]
    {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        #[expect(unsafe_code, reason = "the standard library knows no limits")]
        // SAFETY: both calls get a number and a value of ours that outlives them; the first writes it, the second reads it.
        unsafe {
            if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            }
        }
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_as_many_files_as_it_may_ask_for() {
        ask_for_most();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let mut lines = limits.lines();
        let files = lines.find_map(|line| line.strip_prefix("Max open files"));
        let mut words = files.unwrap().split_whitespace();
        assert_eq!(words.next(), words.next());
    }
}
