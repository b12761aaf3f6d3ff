//! Deterministic simulation: shards on a virtual clock, clients that speak the real gateway and
//! sealed RTP, a network that misbehaves, and everything that may happen at once, drawn from a
//! seed. After each step the checkers say whether what must hold still does.
//!
//! `SIM_SEED=42 cargo test --test sim` replays one run, `SIM_RUNS=5000` tries more of them.

use std::{
    panic::catch_unwind,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use stentor::{metrics::DropReason, signalling::CloseCode};

use crate::settling::Outcome;

mod actions;
#[allow(dead_code, reason = "shared with the tests of the shard")]
#[path = "../shard/browser.rs"]
mod browser;
mod browsers;
mod checkers;
#[allow(dead_code, reason = "shared with the tests of the shard, which use what this does not")]
mod client;
mod control;
mod dice;
#[allow(dead_code, reason = "shared with the tests of DTLS")]
#[path = "../dtls/client.rs"]
mod dtls_client;
mod filming;
mod mending;
mod network;
#[allow(dead_code, reason = "shared with the tests of the shard")]
#[path = "../shard/rig.rs"]
mod rig;
mod settling;
mod surfing;
mod world;

/// Runs without `SIM_RUNS`: under a minute on two cores without optimisation.
const RUNS: u64 = 1_000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

#[test]
fn what_must_hold_holds_in_every_run() {
    if let Some(seed) = number("SIM_SEED") {
        world::run(seed);
        return;
    }
    let runs = number("SIM_RUNS").unwrap_or(RUNS);
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let all = Mutex::new(Outcome::default());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= runs || failed.load(Ordering::Relaxed) != u64::MAX {
                        return;
                    }
                    match catch_unwind(|| world::run(seed)) {
                        Ok(outcome) => all.lock().unwrap().add(outcome),
                        Err(_) => {
                            failed.fetch_min(seed, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert_eq!(failed, u64::MAX, "replay with: SIM_SEED={failed} cargo test --test sim");
    if runs >= RUNS {
        check_reach(&all.into_inner().unwrap());
    }
}

/// The runs together must have been everywhere, or the checkers had nothing to check.
fn check_reach(all: &Outcome) {
    // What it takes more than a few clients and a roomy egress to reach.
    let beyond = [
        DropReason::Oversize,
        DropReason::UnknownSourceFlood,
        DropReason::RtcpFlood,
        DropReason::NonceExhausted,
        DropReason::EgressFull,
        DropReason::SocketFull,
        DropReason::SendFailed,
        // Checks and handshakes are not tampered with here (`tests/shard`, `tests/dtls`).
        DropReason::BadStun,
        DropReason::UnknownUfrag,
        DropReason::BadIntegrity,
        DropReason::HandshakeFlood,
        DropReason::Unannounced,
        DropReason::DtlsUseless,
        DropReason::DtlsOver,
    ];
    // Reached in some thousands of runs; `tests/shard` has it in any case.
    let rare = DropReason::TooOld;
    for reason in DropReason::ALL.iter().filter(|reason| **reason != rare) {
        let reached = all.counters.drops_for(*reason) > 0;
        assert_ne!(reached, beyond.contains(reason), "{reason:?}");
    }
    // Nobody here requires encryption between the ends, and 4011 and 4013 are not sent yet.
    let codes = (4001..5000).filter(|code| CloseCode::from_code(*code).is_some());
    let codes = codes.filter(|code| ![4011, 4013, 4017].contains(code));
    assert!(all.closed.iter().copied().eq(codes), "close codes: {:?}", all.closed);
    assert!(
        all.told.iter().copied().eq([2, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 18]),
        "{:?}",
        all.told
    );
    assert!(all.moved > 0);
}

#[test]
fn a_run_is_the_same_every_time() {
    let digests = [7, 7, 8].map(|seed| world::run(seed).digest);
    assert_eq!(digests[0], digests[1]);
    assert_ne!(digests[0], digests[2]);
}
