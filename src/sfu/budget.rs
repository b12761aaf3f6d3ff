//! A token bucket over the shard's clock: how often something may cost us work. Used by the shard
//! for packets from strangers, and for what one session may ask of it.

use std::time::{Duration, Instant};

/// So many at once, so many a second after that.
#[derive(Debug)]
pub struct Budget {
    interval: Duration,
    burst: u32,
    /// The moment at which the bucket is full again.
    full_at: Option<Instant>,
}

impl Budget {
    /// `burst` at once, `per_second` after that.
    pub fn new(burst: u32, per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second, burst, full_at: None }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.interval;
        if full_at.saturating_duration_since(now) > self.interval * self.burst {
            return false;
        }
        self.full_at = Some(full_at);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_steady_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(3, 10);
        assert_eq!((0..5).filter(|_| budget.take(start)).count(), 3);
        assert!(!budget.take(start + Duration::from_millis(99)));
        assert!(budget.take(start + Duration::from_millis(100)));
        assert!(!budget.take(start + Duration::from_millis(100)));
        assert_eq!((0..9).filter(|_| budget.take(start + Duration::from_secs(9))).count(), 3);
    }
}
