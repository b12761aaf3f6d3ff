//! Token buckets per key, in bounded memory: how often someone may knock. Takes `now`; called by
//! `authority` for every Identify and Resume (protocol.md §8, trap 31).

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How often something may happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// At once.
    pub(crate) burst: u32,
    /// Time in which one more is allowed again.
    pub(crate) refill: Duration,
}

/// One bucket per key. Remembers the keys of two generations of at most `generation_max` each;
/// when the younger is full the older is forgotten, which costs nothing per key and lets only
/// those off who were silent longest.
#[derive(Debug)]
pub(crate) struct Throttle<K> {
    rate: Rate,
    generation_max: usize,
    young: HashMap<K, Bucket>,
    old: HashMap<K, Bucket>,
}

/// A bucket as the moment at which it is full again.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Instant,
}

impl<K: Hash + Eq> Throttle<K> {
    /// All buckets full; remembers at most `keys_max` keys.
    pub(crate) fn new(rate: Rate, keys_max: usize) -> Self {
        Self {
            rate,
            generation_max: (keys_max / 2).max(1),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Takes one if there is one and tells whether there was.
    pub(crate) fn take(&mut self, now: Instant, key: K) -> bool {
        let known = self.young.get(&key).or_else(|| self.old.get(&key)).copied();
        let full_at = known.map_or(now, |bucket| bucket.full_at.max(now));
        if !self.has_one(now, full_at) {
            return false;
        }
        if self.young.len() >= self.generation_max && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, Bucket { full_at: full_at + self.rate.refill });
        true
    }

    /// Whether there is none left.
    pub(crate) fn is_used_up(&self, now: Instant, key: &K) -> bool {
        let known = self.young.get(key).or_else(|| self.old.get(key));
        known.is_some_and(|bucket| !self.has_one(now, bucket.full_at.max(now)))
    }

    fn has_one(&self, now: Instant, full_at: Instant) -> bool {
        let missing = full_at.saturating_duration_since(now);
        missing + self.rate.refill <= self.rate.refill * self.rate.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, refill: Duration::from_secs(1) };

    #[test]
    fn a_burst_passes_and_then_one_per_refill() {
        let now = Instant::now();
        let mut throttle = Throttle::new(RATE, 100);
        let taken = (0..5).filter(|_| throttle.take(now, "a")).count();
        assert_eq!(taken, 3);
        assert!(throttle.is_used_up(now, &"a") && !throttle.is_used_up(now, &"b"));
        assert!(throttle.take(now, "b"), "another key has its own");
        assert!(!throttle.take(now + Duration::from_millis(999), "a"));
        assert!(throttle.take(now + Duration::from_secs(1), "a"));
        assert!(!throttle.take(now + Duration::from_secs(1), "a"));
    }

    #[test]
    fn a_long_rest_fills_the_bucket_and_no_more() {
        let now = Instant::now();
        let mut throttle = Throttle::new(RATE, 100);
        while throttle.take(now, 1) {}
        let later = now + Duration::from_secs(1_000);
        assert_eq!((0..10).filter(|_| throttle.take(later, 1)).count(), 3);
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_does_not_free_the_busy_one() {
        let now = Instant::now();
        let mut throttle = Throttle::new(RATE, 10);
        while throttle.take(now, 0) {}
        for key in 1..=4 {
            throttle.take(now, key);
        }
        assert!(!throttle.take(now, 0), "one generation later it is still known");
        for key in 5..10_000 {
            throttle.take(now, key);
        }
        assert!(throttle.young.len() + throttle.old.len() <= 10);
    }
}
