//! The shard's clock: a thread that wakes it from outside when a deadline has come, and now and
//! then without one. A timer of the executor's would not do: glommio 0.9 may sleep on tasks that
//! could run (docs/decisions.md), and its own timers are among what is then not seen to.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use async_channel::{Sender, TrySendError};

use super::queues::ToShard;

/// How often a shard is woken that has no deadline: it bounds how long an executor sleeps on work,
/// and costs a sleeping shard some 70 µs of processor time each.
const RESCUE: Duration = Duration::from_millis(100);

/// How close together two ticks may be. The shard's deadlines are tens of milliseconds long at the
/// least; a deadline that stays due must not keep a core busy.
const PAUSE: Duration = Duration::from_millis(5);

/// No deadline.
const NEVER: u64 = u64::MAX;

/// What shard and clock know of each other. Times are nanoseconds since `start`.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    /// The shard's next deadline.
    due: AtomicU64,
    /// Until when the clock means to sleep.
    asleep_until: AtomicU64,
    thread: OnceLock<Thread>,
}

impl Clock {
    /// A clock that stands still.
    pub fn new(start: Instant) -> Arc<Self> {
        Arc::new(Self {
            start,
            due: AtomicU64::new(NEVER),
            asleep_until: AtomicU64::new(0),
            thread: OnceLock::new(),
        })
    }

    /// The shard is to be woken at `due` and no longer at what was said before.
    pub fn set(&self, due: Option<Instant>) {
        let due = due.map_or(NEVER, |due| self.since_start(due));
        // Either the clock sees the new deadline before it sleeps or we see until when it sleeps.
        if self.due.swap(due, Ordering::SeqCst) == due {
            return;
        }
        if due < self.asleep_until.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Runs until the shard's inbox is closed. To be called once, on a thread of its own.
    pub fn run(&self, inbox: &Sender<ToShard>) {
        self.thread.get_or_init(thread::current);
        loop {
            self.sleep();
            if matches!(inbox.try_send(ToShard::Tick), Err(TrySendError::Closed(_))) {
                return;
            }
            thread::sleep(PAUSE);
        }
    }

    /// Sleeps until the shard is due, but no longer than [`RESCUE`].
    fn sleep(&self) {
        let rescue = Instant::now() + RESCUE;
        loop {
            self.asleep_until.store(self.since_start(rescue), Ordering::SeqCst);
            let due = self.due.load(Ordering::SeqCst);
            let until = rescue.min(self.start + Duration::from_nanos(due.min(NEVER >> 1)));
            let now = Instant::now();
            if until <= now {
                self.asleep_until.store(0, Ordering::SeqCst);
                return;
            }
            thread::park_timeout(until - now);
        }
    }

    fn since_start(&self, at: Instant) -> u64 {
        let ns = at.saturating_duration_since(self.start).as_nanos();
        u64::try_from(ns).unwrap_or(NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nearer_deadline_wakes_a_clock_that_sleeps_for_a_farther_one() {
        let clock = Clock::new(Instant::now());
        let (inbox, ticks) = async_channel::bounded(1_000);
        let running = clock.clone();
        let thread = thread::spawn(move || running.run(&inbox));
        // One thousand deadlines, each set only when the one before has been kept: with nothing but
        // rescues that would take a hundred seconds.
        let start = Instant::now();
        for _ in 0..1_000 {
            clock.set(Some(Instant::now()));
            ticks.recv_blocking().unwrap();
            clock.set(None);
        }
        assert!(start.elapsed() < Duration::from_secs(50), "{:?}", start.elapsed());
        ticks.close();
        thread.join().unwrap();
    }

    #[test]
    fn a_shard_without_deadlines_is_woken_all_the_same_and_a_closed_inbox_ends_the_clock() {
        let clock = Clock::new(Instant::now());
        let (inbox, ticks) = async_channel::bounded(10);
        let thread = thread::spawn(move || clock.run(&inbox));
        for _ in 0..3 {
            ticks.recv_blocking().unwrap();
        }
        ticks.close();
        thread.join().unwrap();
    }
}
