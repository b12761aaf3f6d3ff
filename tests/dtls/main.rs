//! Black-box tests of `webrtc::Dtls`: others' DTLS clients against our server, over a path that
//! loses, repeats and reorders on a virtual clock, and over none. One file per claim's subject.

mod client;
#[allow(dead_code, reason = "shared with the simulation, which throws them more ways")]
#[path = "../sim/dice.rs"]
mod dice;
mod openssl;
mod path;

mod fragments;
mod handshake;
mod hostile;
mod loss;
