//! Deterministic simulation: shards on a virtual clock, clients that speak the real gateway and
//! sealed RTP, a network that misbehaves, and everything that may happen at once, drawn from a
//! seed. After each step the checkers say whether what must hold still does.
//!
//! `SIM_SEED=42 cargo test --test sim` replays one run, `SIM_RUNS=5000` tries more of them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

mod actions;
mod checkers;
#[allow(dead_code, reason = "shared with the tests of the shard, which use what this does not")]
mod client;
mod control;
mod dice;
mod network;
mod world;

/// Runs without `SIM_RUNS`: under a minute on two cores without optimisation.
const RUNS: u64 = 300;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

#[test]
fn what_must_hold_holds_in_every_run() {
    if let Some(seed) = number("SIM_SEED") {
        return world::run(seed);
    }
    let runs = number("SIM_RUNS").unwrap_or(RUNS);
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(u64::MAX);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= runs || failed.load(Ordering::Relaxed) != u64::MAX {
                        return;
                    }
                    if catch_unwind(AssertUnwindSafe(|| world::run(seed))).is_err() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                        eprintln!("replay with: SIM_SEED={seed} cargo test --test sim");
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert_eq!(failed, u64::MAX, "SIM_SEED={failed} cargo test --test sim");
}

#[test]
fn a_run_is_the_same_every_time() {
    let digests = [7, 7, 8].map(world::digest);
    assert_eq!(digests[0], digests[1]);
    assert_ne!(digests[0], digests[2]);
}
