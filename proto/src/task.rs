//! Where work runs: the third thing, after time and chance, that comes in as an argument.
//!
//! Shard owners and the network share one runtime; tiering and continuous queries have one of their own; so have
//! those who read what is old, statements and consumers that catch up, and its threads stand back when others
//! want the CPU ([`stand_back`]): a heavy query never delays a send, and tiering keeps up beside it. The log's writer
//! has threads to itself because it waits for the disk, and they are let in soon after they wake. In the simulation all are the same single thread.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Work that owns all it needs.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Which kind of thread runs a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Shard owners, services, timers: short steps, never blocking.
    Service,
    /// Tiering, checkpoints, continuous queries: may compute for long and read files.
    Background,
    /// Statements, and reads of the cold tier for whoever catches up: as long as they like, behind all others.
    Reading,
    /// A thread of its own, for work that waits for the disk all the time.
    Dedicated,
}

/// Starts work and hands back its owner's end.
pub trait Spawn: Send + Sync + fmt::Debug {
    /// Starts `work`; dropping the [`Task`] stops it at its next wait.
    fn spawn(&self, lane: Lane, work: Work) -> Task;

    /// How many pieces of work of a lane run at the same time.
    fn workers(&self, _lane: Lane) -> usize {
        1
    }

    /// Whether [`Lane::Dedicated`] is a thread, so that work there may look around for a moment before it waits;
    /// where all lanes share one thread, nothing would ever be seen.
    fn has_threads(&self) -> bool {
        false
    }
}

/// The owner's end of a piece of work: await it to learn that it ended, drop it to stop it.
#[derive(Debug)]
#[must_use = "dropping a task stops it"]
pub struct Task(JoinHandle<()>);

/// The work ended by a panic, and whoever depends on it must stop as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a background task panicked; see the log for its message, and please report it")]
pub struct Panicked;

impl Future for Task {
    type Output = Result<(), Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|ended| match ended {
            Err(error) if error.is_panic() => Err(Panicked),
            Ok(()) | Err(_) => Ok(()),
        })
    }
}

impl Task {
    /// Whether the work has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs each lane on the runtime that it was given.
#[derive(Clone, Debug)]
pub struct Runtimes {
    service: Handle,
    background: Handle,
    reading: Handle,
}

impl Runtimes {
    /// Services on one runtime, background work on another, reads of what is old on a third.
    #[must_use]
    pub fn new(service: Handle, background: Handle, reading: Handle) -> Self {
        Self {
            service,
            background,
            reading,
        }
    }

    /// Everything on the runtime that calls this: for tests and the simulation.
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    #[must_use]
    pub fn single() -> Self {
        Self {
            service: Handle::current(),
            background: Handle::current(),
            reading: Handle::current(),
        }
    }
}

impl Spawn for Runtimes {
    fn has_threads(&self) -> bool {
        self.service.id() != self.background.id()
    }

    fn spawn(&self, lane: Lane, work: Work) -> Task {
        Task(match lane {
            Lane::Service => self.service.spawn(work),
            Lane::Background => self.background.spawn(work),
            Lane::Reading => self.reading.spawn(work),
            Lane::Dedicated if !self.has_threads() => self.background.spawn(work),
            // A blocking thread that drives one future: aborting the handle can not stop it, so
            // dedicated work ends by itself when its channel closes.
            Lane::Dedicated => {
                let handle = self.service.clone();
                self.service.spawn_blocking(move || {
                    work_in_moments(true);
                    handle.block_on(work);
                    // The thread may be given other work later.
                    work_in_moments(false);
                })
            }
        })
    }

    fn workers(&self, lane: Lane) -> usize {
        match lane {
            Lane::Service => self.service.metrics().num_workers(),
            Lane::Background => self.background.metrics().num_workers(),
            Lane::Reading => self.reading.metrics().num_workers(),
            Lane::Dedicated => 1,
        }
    }
}

/// How far behind the others a thread of [`Lane::Reading`] stands: it gets about a tenth of a core that they all want.
#[cfg(target_os = "linux")]
const STANDS_BACK: i32 = 10;
/// How long such a thread may run at a stretch, as the scheduler plans it. A thread that wakes goes before one that
/// planned for longer than itself (most plan for 3 ms); otherwise it would wait until the other's time is up.
#[cfg(target_os = "linux")]
const STRETCH_NS: u64 = 20_000_000;
/// How long a thread of [`Lane::Dedicated`] plans for: it works for moments between two waits for the disk. Planned like the
/// others it would often wait until one of them has had its time, which is longer than a disk takes for a write.
#[cfg(target_os = "linux")]
const MOMENT_NS: u64 = 200_000;

/// Lets all other threads go first that want the CPU which the calling one is on: for the threads of [`Lane::Reading`].
///
/// Where the system has no such thing for a thread, it runs like the others.
pub fn stand_back() {
    #[cfg(target_os = "linux")]
    {
        #[expect(unsafe_code, reason = "the standard library knows no priorities")]
        // SAFETY: the call takes three numbers and touches no memory; 0 is the calling thread.
        // It can not fail: a thread may always lower itself.
        unsafe {
            libc::setpriority(libc::PRIO_PROCESS, 0, STANDS_BACK);
        }
        plan_for(STRETCH_NS, STANDS_BACK);
    }
}

/// Whether the calling thread only ever runs for moments and is let in soon after it wakes: for [`Lane::Dedicated`].
fn work_in_moments(is_so: bool) {
    #[cfg(target_os = "linux")]
    {
        #[expect(unsafe_code, reason = "the standard library knows no priorities")]
        // SAFETY: the call takes two numbers and touches no memory; 0 is the calling thread.
        let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        // 0 is as long as any other.
        plan_for(if is_so { MOMENT_NS } else { 0 }, nice);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = is_so;
}

/// `struct sched_attr` of sched_setattr(2), as it was first.
#[cfg(target_os = "linux")]
#[repr(C)]
struct Plan {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Has the scheduler plan the calling thread, as nice as it is, for so long at a stretch. Linux before 6.12 knows no such plan and
/// leaves it as it is, and whoever forbids the call loses nothing else.
#[cfg(target_os = "linux")]
fn plan_for(runtime: u64, nice: i32) {
    let plan = Plan {
        size: u32::try_from(size_of::<Plan>()).expect("it is small"),
        policy: u32::try_from(libc::SCHED_OTHER).expect("it is 0"),
        flags: 0,
        nice,
        priority: 0,
        runtime,
        deadline: 0,
        period: 0,
    };
    #[expect(unsafe_code, reason = "the standard library knows no schedulers")]
    // SAFETY: the system reads `size` bytes of the plan, which lives until the call has returned; 0 is the
    // calling thread, and no flags.
    unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const plan, 0);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The plan of the calling thread.
    fn known() -> Plan {
        let mut plan = Plan {
            size: 0,
            policy: 0,
            flags: 0,
            nice: 0,
            priority: 0,
            runtime: 0,
            deadline: 0,
            period: 0,
        };
        let size = size_of::<Plan>();
        #[expect(unsafe_code, reason = "the standard library knows no schedulers")]
        // SAFETY: the system writes at most `size` bytes into the plan, which is as long.
        let answer = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut plan, size, 0) };
        assert_eq!(answer, 0);
        plan
    }

    #[test]
    fn a_thread_that_stands_back_is_nicer_and_others_stay_as_they_are() {
        let before = known();
        let standing = std::thread::spawn(|| {
            stand_back();
            known()
        });
        let standing = standing.join().unwrap();
        assert_eq!((standing.policy, standing.nice), (0, STANDS_BACK));
        // An old kernel keeps what it had.
        assert!([before.runtime, STRETCH_NS].contains(&standing.runtime));
        assert_eq!(known().nice, before.nice);
    }

    #[test]
    fn a_thread_that_works_in_moments_is_no_nicer_and_may_stop_doing_so() {
        let before = known();
        let working = std::thread::spawn(|| {
            work_in_moments(true);
            let plan = known();
            work_in_moments(false);
            (plan, known())
        });
        let (in_moments, after) = working.join().unwrap();
        assert_eq!((in_moments.policy, in_moments.nice), (0, before.nice));
        assert!([before.runtime, MOMENT_NS].contains(&in_moments.runtime));
        assert_eq!((after.runtime, after.nice), (before.runtime, before.nice));
    }
}
