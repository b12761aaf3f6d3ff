//! Keys in, bytes transformed in place: the native transport encryption of UDP clients (protocol.md
//! §2.4), its nonces, and the window that refuses replays. Knows where a packet's clear header ends
//! and nothing else of RTP; no sockets, clocks or randomness. Called by `sfu` for every media
//! packet.

pub mod cipher;
pub mod key;
pub mod mode;
pub mod nonce;
pub mod replay;
mod rtpsize;
mod secretbox;

pub use cipher::{Cipher, Opened};
pub use key::SecretKey;
pub use mode::Mode;
pub use nonce::NonceCounter;
pub use replay::{Accept, ReplayWindow};
