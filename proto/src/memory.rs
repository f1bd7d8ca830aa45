//! How the process gives memory back to the system.
//!
//! A broker takes and frees megabytes all the time: blocks of the log, rows of files, answers. glibc by itself takes the
//! size of each large piece that is freed as the new bound below which pieces come out of its heaps, of which it makes eight
//! for each core. There a small piece that lives on keeps megabytes of freed ones around it, and the process
//! holds twice what it uses. So the bound is set, which also keeps it where it is set, and the heaps are as many as the cores.
//!
//! It is set above what a call of many small messages takes: to map and unmap a piece for each of them costs more than
//! to decode what is in it. For the same reason a heap keeps a little of what is freed at its end; to set the bound would
//! else have it give back each piece at once.
//!
//! Other allocators have nothing to set; there nothing is done.

/// Bytes from which on a piece is taken from the system by itself and goes back when it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ALONE_BYTES: libc::c_int = 256 * 1024;

/// Bytes that a heap may keep free at its end.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SPARE_BYTES: libc::c_int = 1024 * 1024;

/// Has what is freed go back to the system: for a process that runs for long, before it starts threads.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let heaps = libc::c_int::try_from(cores).unwrap_or(libc::c_int::MAX);
        #[expect(
            unsafe_code,
            reason = "the standard library has no settings for its allocator"
        )]
        // SAFETY: each call takes two numbers; they may be made at any time. A bound that is refused stays as it was.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, ALONE_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, SPARE_BYTES);
            libc::mallopt(libc::M_ARENA_MAX, heaps);
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[cfg(test)]
mod tests {
    use super::*;

    /// Resident bytes of this process that are no file's.
    fn resident() -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    }

    #[test]
    fn freed_blocks_go_back_whatever_small_pieces_live_between_them() {
        const BLOCK: usize = 1024 * 1024;
        const BLOCKS: usize = 64;
        give_back();
        let before = resident().unwrap();
        // The bound would rise with the first large piece that is freed.
        drop(vec![1_u8; 8 * BLOCK]);
        let (mut blocks, mut between) = (Vec::new(), Vec::new());
        for number in 0..BLOCKS {
            blocks.push(vec![1_u8; BLOCK]);
            between.push(Box::new(number));
        }
        assert!(resident().unwrap() > before + (BLOCKS * BLOCK / 2) as u64);
        drop(blocks);
        let kept = resident().unwrap().saturating_sub(before);
        assert!(
            kept < (BLOCKS * BLOCK / 4) as u64,
            "{kept} bytes are kept for {between:?}"
        );
    }
}
