//! What the Spacebar backend has counted, for the metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters and states; read by `exposition`.
#[derive(Debug, Default)]
pub(in crate::control) struct Tally {
    /// Identifies that the tables knew.
    pub(in crate::control) found: AtomicU64,
    /// Identifies that they did not.
    pub(in crate::control) absent: AtomicU64,
    /// Identifies that got no answer in time.
    pub(in crate::control) silent: AtomicU64,
    /// Departures that were written.
    pub(in crate::control) written: AtomicU64,
    /// Departures that were none: he is back, or the row says otherwise by now.
    pub(in crate::control) overtaken: AtomicU64,
    /// Queries that failed or took too long.
    pub(in crate::control) database_failures: AtomicU64,
    /// Events that were read.
    pub(in crate::control) heard: AtomicU64,
    /// Events of ours that were handed to the bus.
    pub(in crate::control) said: AtomicU64,
    /// Events of ours that were not.
    pub(in crate::control) unsaid: AtomicU64,
    /// Whether the last query was answered.
    pub(in crate::control) database_up: AtomicBool,
    /// Whether the bus, or the database's notifications, can be heard.
    pub(in crate::control) watching: AtomicBool,
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
