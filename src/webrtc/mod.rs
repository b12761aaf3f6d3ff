//! A browser's transport, sans-IO: STUN, ICE-lite, DTLS, certificates with their fingerprints, and
//! what of SDP crosses the wire (protocol.md §3). Takes datagrams, text and the time, gives answers
//! and events; random bytes are given, but for those of DTLS. Called by `sfu`.

pub mod credentials;
pub mod dtls;
pub mod extmap;
pub mod fingerprint;
pub mod ice;
pub mod identity;
pub mod sdp;
pub mod stun;

pub use credentials::Credentials;
pub use dtls::{Dtls, DtlsEvent, DtlsFailure, ProfileId};
pub use extmap::{Extension, ExtensionMap};
pub use fingerprint::Fingerprint;
pub use ice::Ice;
pub use identity::Identity;
pub use sdp::{Answer, Offer, OfferError};
