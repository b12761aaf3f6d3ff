//! The one clock of a run: nanoseconds of `CLOCK_MONOTONIC` since the process's start of it, shared
//! by all threads; and the kernel's arrival stamps, which are of `CLOCK_REALTIME`, brought to it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Readings of both clocks from which the closest pair is taken: one between whose halves nothing
/// came.
const READINGS: usize = 32;

/// A clock that starts at zero.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Starts it.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since then.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The moment at which it showed, or will show, so much.
    pub fn instant(&self, ns: u64) -> Instant {
        self.0 + std::time::Duration::from_nanos(ns)
    }

    /// What `CLOCK_REALTIME` showed when it started, nanoseconds since 1970, by the two clocks as
    /// they are now. Changes when the wall clock is set, and not when it is merely slewed: that is
    /// done to both.
    pub fn realtime_start_ns(&self) -> u64 {
        let reading = |_| {
            let before = self.now_ns();
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let after = self.now_ns();
            let wall = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
            (after - before, wall.saturating_sub(before.midpoint(after)))
        };
        (0..READINGS).map(reading).min().map_or(0, |(_, start)| start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_agree_on_the_start_and_time_goes_on() {
        let clock = Clock::start();
        let before = clock.now_ns();
        let start = clock.realtime_start_ns();
        assert!(clock.now_ns() >= before);
        assert!(start > 1_700_000_000 * 1_000_000_000, "since 1970: {start}");
        assert!(clock.instant(before) <= Instant::now());
    }
}
