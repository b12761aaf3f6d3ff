//! Keys in, bytes transformed in place: the native transport encryption of UDP clients (protocol.md
//! §2.4) with its nonces, SRTP for browsers (§3.3), and the windows that refuse replays. Knows
//! where a packet's clear header ends and nothing else of RTP; no sockets, clocks or randomness.
//! Called by `sfu` for every media packet.

mod aes_cm;
mod aes_gcm;
pub mod cipher;
mod derivation;
pub mod key;
pub mod mode;
pub mod nonce;
mod packet_index;
pub mod profile;
pub mod replay;
mod rtcp_window;
mod rtpsize;
mod secretbox;
pub mod srtp;

pub use cipher::{Cipher, Opened};
pub use key::SecretKey;
pub use mode::Mode;
pub use nonce::NonceCounter;
pub use profile::Profile;
pub use replay::{Accept, ReplayWindow};
pub use srtp::{Role, Srtp};
