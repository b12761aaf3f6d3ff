//! Black box over the control plane: a real listener on loopback, shards played by a thread that
//! answers questions and keeps commands. One file per claim's subject.

mod api;
mod events;
mod grant;
mod http;
mod node;
mod webhook;

use std::{
    thread,
    time::{Duration, Instant},
};

const SECRET: &str = "0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(10);

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
