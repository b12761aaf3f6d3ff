//! What the black-box tests share: a real server process, grants, and clients written for the tests
//! alone. Nothing here uses the crate under test: layouts and ciphers are built a second time, from
//! protocol.md, so that a mistake in the server cannot hide behind the same mistake in its tests.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod authority;
pub mod broker;
pub mod cipher;
pub mod client;
pub mod faulty;
pub mod gateway;
pub mod http;
pub mod media;
pub mod metrics;
pub mod postgres;
pub mod proxy;
pub mod relay;
pub mod rtp;
pub mod server;
pub mod service;
pub mod spacebar;
pub mod tone;
pub mod trust;

use std::{
    thread,
    time::{Duration, Instant},
};

/// Longest wait for anything that must happen. Never part of a claim: a debug build on a busy
/// machine is slow, a hang is longer than this.
pub const WAIT: Duration = Duration::from_secs(20);

/// Polls until `done` holds, at most [`WAIT`].
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !done() {
        assert!(Instant::now() < deadline, "waited {WAIT:?} in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
