//! How one session's media is carried over plain UDP: its key, its nonces, where it goes. What
//! sealing one packet touches lives here and nowhere else; the rest of a session lies apart.

use std::net::SocketAddr;

use crate::{
    crypto::{Cipher, Mode, NonceCounter, Opened, SecretKey},
    egress::{Egress, Flow, Path},
    metrics::DropReason,
    sfu::codec::PayloadTypes,
};

/// The media side of one session, from its Session Description on.
#[derive(Debug)]
pub struct Transport {
    cipher: Cipher,
    nonces: NonceCounter,
    path: Option<Path>,
    flow: Flow,
    /// Whether a datagram from `path` has authenticated; until then discovery may move it.
    verified: bool,
    /// The session hears nothing.
    pub deaf: bool,
    /// What this hearer calls each video codec; `None` if it takes no video at all.
    pub video: Option<PayloadTypes>,
    /// Whether RTCP is of use to it (protocol.md §2.5).
    pub takes_rtcp: bool,
    mode: Mode,
}

/// What an authenticated datagram told about its sender's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighting {
    /// Where it always is.
    Known,
    /// The first authenticated datagram, from where discovery said.
    Confirmed,
    /// It has moved; the old address, if there was one, is no longer its own.
    Moved(Option<SocketAddr>),
}

impl Transport {
    /// A transport with a fresh key. `random` seeds nonces; `path` is where discovery saw the
    /// client.
    pub fn new(
        mode: Mode,
        key: &SecretKey,
        random: [u8; 23],
        flow: Flow,
        path: Option<Path>,
    ) -> Self {
        let [a, b, c, suffix @ ..] = random;
        Self {
            cipher: Cipher::new(mode, key, suffix),
            nonces: NonceCounter::new([a, b, c]),
            path,
            flow,
            verified: false,
            deaf: false,
            video: None,
            takes_rtcp: false,
            mode,
        }
    }

    /// The encryption mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where media for this session goes.
    pub fn path(&self) -> Option<Path> {
        self.path
    }

    /// Follows a discovery request, which proves nothing but the SSRC; only until a datagram has
    /// authenticated. Returns whether the path is now `path`.
    pub fn discovered(&mut self, path: Path) -> bool {
        if !self.verified {
            self.path = Some(path);
        }
        self.path == Some(path)
    }

    /// Decrypts a datagram in place.
    #[inline]
    pub fn open(&self, datagram: &mut [u8]) -> Result<Opened, DropReason> {
        self.cipher.open(datagram)
    }

    /// Keeps our nonces away from those of an authenticated datagram.
    #[inline]
    pub fn observe(&mut self, opened: &Opened) {
        if let Some(suffix) = opened.suffix {
            self.nonces.observe(suffix);
        }
    }

    /// Notes where an authenticated datagram came from.
    #[inline]
    pub fn sighted(&mut self, path: Path) -> Sighting {
        if self.verified && self.path == Some(path) {
            return Sighting::Known;
        }
        self.verified = true;
        match self.path.replace(path) {
            Some(old) if old == path => Sighting::Confirmed,
            old => Sighting::Moved(old.map(|old| old.remote)),
        }
    }

    /// Seals a plain packet into the egress; `adjust` sees the header bytes before they are sealed.
    #[inline]
    pub fn seal(
        &mut self,
        plain: &[u8],
        egress: &mut Egress,
        adjust: impl FnOnce(&mut [u8]),
    ) -> Result<(), DropReason> {
        let path = self.path.ok_or(DropReason::NotConnected)?;
        let len_max = plain.len() + self.mode.overhead();
        let mut slot = egress.slot(self.flow, path, len_max).ok_or(DropReason::EgressFull)?;
        let suffix = self.nonces.next().ok_or(DropReason::NonceExhausted)?;
        let bytes = slot.bytes();
        bytes[..plain.len()].copy_from_slice(plain);
        adjust(bytes);
        let len = self.cipher.seal(bytes, plain.len(), suffix).ok_or(DropReason::Malformed)?;
        slot.commit(len);
        Ok(())
    }
}
