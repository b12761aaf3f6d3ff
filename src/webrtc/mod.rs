//! The transport of browsers, sans-IO: who a peer is and which keys it shares with us (protocol.md
//! §3). Takes datagrams and the time, gives datagrams and events; no sockets and no clocks. Called
//! by `sfu` for whatever of a session's datagrams is no media.

pub mod dtls;
pub mod fingerprint;
pub mod identity;

pub use dtls::{Dtls, DtlsEvent, DtlsFailure, ProfileId};
pub use fingerprint::Fingerprint;
pub use identity::Identity;
