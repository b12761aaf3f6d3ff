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
    /// Whether media has come under this key.
    heard: bool,
    /// The session hears nothing.
    pub deaf: bool,
    /// What this hearer calls each video codec; `None` if it takes no video at all.
    pub video: Option<PayloadTypes>,
    /// Whether RTCP is of use to it (protocol.md §2.5).
    pub takes_rtcp: bool,
    /// The next number among all packets with a transport-wide number that it is sent.
    transport_seq: u16,
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
            heard: false,
            deaf: false,
            video: None,
            takes_rtcp: false,
            transport_seq: 0,
            mode,
        }
    }

    /// The encryption mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether a packet may be sent again under its own number. Where the header is the nonce it
    /// would be sealed twice under one, and what the two differ in be laid open.
    pub fn may_repeat(&self) -> bool {
        self.mode != Mode::XSalsa20Poly1305
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

    /// Keeps our nonces away from those of an authenticated packet of media, which is no replay.
    #[inline]
    pub fn observe(&mut self, opened: &Opened) {
        self.heard = true;
        if let Some(suffix) = opened.suffix {
            self.nonces.observe(suffix);
        }
    }

    /// As before, for a control packet, which may be an old one sent again by somebody else: only
    /// who merely listens is known by these, and sends so few that it never counts as far as the
    /// other half of the number space.
    pub fn observe_rtcp(&mut self, opened: &Opened) {
        if let (false, Some(suffix)) = (self.heard, opened.suffix) {
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

    /// As [`Self::seal`], for a packet with a transport-wide number, which `adjust` is given too.
    #[inline]
    pub fn seal_numbered(
        &mut self,
        plain: &[u8],
        egress: &mut Egress,
        adjust: impl FnOnce(&mut [u8], u16),
    ) -> Result<(), DropReason> {
        let number = self.transport_seq;
        self.seal(plain, egress, |bytes| adjust(bytes, number))?;
        // What was not sent has no number: it would read as lost on the way.
        self.transport_seq = number.wrapping_add(1);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn transport() -> Transport {
        let path = Path::to(([192, 0, 2, 1], 5_000).into());
        let mode = Mode::Aes256GcmRtpsize;
        Transport::new(mode, &SecretKey::new(KEY), [0; 23], Flow(0), Some(path))
    }

    fn opened(suffix: [u8; 4]) -> Opened {
        Opened { range: 0..0, suffix: Some(suffix) }
    }

    /// Whether the next packet's suffix is in the upper half, counted in big-endian order.
    fn seals_in_upper_half(transport: &mut Transport) -> bool {
        let mut egress = Egress::new(4, 8_192);
        let mut packet = [0; 24];
        packet[0] = 0x80;
        transport.seal(&packet, &mut egress, |_| {}).expect("room enough");
        let flight = egress.flight();
        let datagram = flight.chains().flatten().next().expect("one was sealed").bytes;
        datagram[datagram.len() - 4] & 0x80 != 0
    }

    #[test]
    fn an_old_report_sent_again_does_not_move_the_nonces_of_who_speaks() {
        let mut transport = transport();
        transport.observe_rtcp(&opened([0x80, 0, 0, 1]));
        assert!(!seals_in_upper_half(&mut transport), "a listener's reports count");
        transport.observe(&opened([0x80, 0, 0, 2]));
        transport.observe_rtcp(&opened([0, 0, 0, 1]));
        assert!(!seals_in_upper_half(&mut transport), "a speaker's do not");
        transport.observe(&opened([0, 0, 0, 3]));
        assert!(seals_in_upper_half(&mut transport));
    }
}
