//! How one session's media is carried, over plain UDP or as a browser has it: its keys, what it
//! counts, where it goes. What sealing one packet touches lives here and nowhere else; the rest of
//! a session lies apart.

use std::net::SocketAddr;

use crate::{
    crypto::{Cipher, Mode, NonceCounter, Opened, Profile, SecretKey, Srtp},
    egress::{Egress, Flow, Path},
    metrics::DropReason,
    rtp::packet,
    sfu::{
        codec::{OPUS_PAYLOAD_TYPE, PayloadTypes},
        form::Form,
        laps::Number,
        layout::LayoutId,
    },
};

/// The media side of one session: from its Session Description on, or for a browser from the end of
/// its DTLS handshake on.
#[derive(Debug)]
pub struct Transport {
    keys: Keys,
    path: Option<Path>,
    flow: Flow,
    /// Which header extensions this hearer takes, and their numbers.
    layout: LayoutId,
    /// The next transport-wide number.
    transport_cc: u16,
    /// What this hearer calls Opus.
    opus: u8,
    /// The session hears nothing.
    pub deaf: bool,
    /// What this hearer calls each video codec; `None` if it takes no video at all.
    pub video: Option<PayloadTypes>,
    /// Whether RTCP is of use to it (protocol.md §2.5).
    pub takes_rtcp: bool,
    /// UDP: whether a datagram from `path` has authenticated; until then discovery may move it.
    verified: bool,
    /// UDP: whether media has come under this key.
    heard: bool,
}

/// Keys of both directions, and how sealing keeps its nonces apart.
#[derive(Debug)]
enum Keys {
    Udp {
        cipher: Cipher,
        nonces: NonceCounter,
    },
    /// Nonces are made of SSRC, sequence number and its laps, which `Cursor` gives only once.
    WebRtc(Srtp),
}

/// Which of the two ways of carrying media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carriage {
    /// Plain UDP in an encryption mode of the protocol's own.
    Udp(Mode),
    /// ICE, DTLS, SRTP.
    WebRtc(Profile),
}

impl Carriage {
    /// Its name for control.
    pub fn name(self) -> &'static str {
        match self {
            Carriage::Udp(_) => "udp",
            Carriage::WebRtc(_) => "webrtc",
        }
    }

    /// The encryption's name.
    pub fn encryption(self) -> &'static str {
        match self {
            Carriage::Udp(mode) => mode.name(),
            Carriage::WebRtc(profile) => profile.name(),
        }
    }
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
    /// A transport over plain UDP with a fresh key. `random` seeds nonces; `path` is where
    /// discovery saw the client.
    pub fn udp(
        mode: Mode,
        key: &SecretKey,
        random: [u8; 23],
        flow: Flow,
        path: Option<Path>,
    ) -> Self {
        let [a, b, c, suffix @ ..] = random;
        let cipher = Cipher::new(mode, key, suffix);
        let nonces = NonceCounter::new([a, b, c]);
        Self::new(Keys::Udp { cipher, nonces }, flow, path, LayoutId::NATIVE)
    }

    /// A browser's transport with the keys of its handshake. `path` is the pair it checked.
    pub fn web_rtc(srtp: Srtp, flow: Flow, path: Path, layout: LayoutId) -> Self {
        Self::new(Keys::WebRtc(srtp), flow, Some(path), layout)
    }

    fn new(keys: Keys, flow: Flow, path: Option<Path>, layout: LayoutId) -> Self {
        Self {
            keys,
            path,
            flow,
            layout,
            transport_cc: 0,
            opus: OPUS_PAYLOAD_TYPE,
            deaf: false,
            video: None,
            takes_rtcp: false,
            verified: false,
            heard: false,
        }
    }

    /// How it carries media.
    pub fn carriage(&self) -> Carriage {
        match &self.keys {
            Keys::Udp { cipher, .. } => Carriage::Udp(cipher.mode()),
            Keys::WebRtc(srtp) => Carriage::WebRtc(srtp.profile()),
        }
    }

    /// What its hearer calls Opus: on plain UDP always the same.
    pub fn name_opus(&mut self, payload_type: u8) {
        if matches!(self.keys, Keys::WebRtc(_)) {
            self.opus = payload_type;
        }
    }

    /// What its hearer calls Opus.
    #[inline]
    pub fn opus(&self) -> u8 {
        self.opus
    }

    /// Which header extensions it takes.
    #[inline]
    pub fn layout(&self) -> LayoutId {
        self.layout
    }

    /// Whether a packet may be sent again under its own number. Where the number is the nonce it
    /// would be sealed twice under one, and what the two differ in be laid open.
    pub fn may_repeat(&self) -> bool {
        match self.carriage() {
            Carriage::Udp(mode) => mode != Mode::XSalsa20Poly1305,
            Carriage::WebRtc(_) => false,
        }
    }

    /// Where media for this session goes.
    #[inline]
    pub fn path(&self) -> Option<Path> {
        self.path
    }

    /// Whether an authenticated datagram has come from this address and none from another since.
    pub fn is_verified_at(&self, remote: SocketAddr) -> bool {
        self.verified && self.path.is_some_and(|path| path.remote == remote)
    }

    /// Follows a discovery request, which proves nothing but the SSRC; only until a datagram has
    /// authenticated. Returns whether the path is now `path`.
    pub fn discovered(&mut self, path: Path) -> bool {
        if !self.verified {
            self.path = Some(path);
        }
        self.path == Some(path)
    }

    /// A browser has chosen another pair. Returns whether that is news.
    pub fn nominated(&mut self, path: Path) -> bool {
        self.path.replace(path) != Some(path)
    }

    /// Decrypts a datagram of plain UDP in place, RTP or RTCP.
    #[inline]
    pub fn open(&self, datagram: &mut [u8]) -> Result<Opened, DropReason> {
        match &self.keys {
            Keys::Udp { cipher, .. } => cipher.open(datagram),
            Keys::WebRtc(_) => Err(DropReason::ForeignSsrc),
        }
    }

    /// A browser's keys.
    #[inline]
    pub fn srtp(&mut self) -> Option<&mut Srtp> {
        match &mut self.keys {
            Keys::Udp { .. } => None,
            Keys::WebRtc(srtp) => Some(srtp),
        }
    }

    /// Keeps our nonces away from those of an authenticated packet of media, which is no replay.
    #[inline]
    pub fn observe(&mut self, opened: &Opened) {
        self.heard = true;
        if let (Keys::Udp { nonces, .. }, Some(suffix)) = (&mut self.keys, opened.suffix) {
            nonces.observe(suffix);
        }
    }

    /// As before, for a control packet, which may be an old one sent again by somebody else: only
    /// who merely listens is known by these, and sends so few that it never counts as far as the
    /// other half of the number space.
    pub fn observe_rtcp(&mut self, opened: &Opened) {
        if let (false, Keys::Udp { nonces, .. }, Some(suffix)) =
            (self.heard, &mut self.keys, opened.suffix)
        {
            nonces.observe(suffix);
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

    /// Seals a packet of media into the egress, under this hearer's number and payload type.
    #[inline]
    pub fn seal(
        &mut self,
        form: &Form,
        number: Number,
        payload_type: u8,
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let path = self.path.ok_or(DropReason::NotConnected)?;
        let plain = form.plain();
        let overhead = match &self.keys {
            Keys::Udp { cipher, .. } => cipher.mode().overhead(),
            Keys::WebRtc(srtp) => srtp.profile().overhead(),
        };
        let slot = egress.slot(self.flow, path, plain.len() + overhead);
        let mut slot = slot.ok_or(DropReason::EgressFull)?;
        let bytes = slot.bytes();
        bytes[..plain.len()].copy_from_slice(plain);
        packet::set_payload_type(bytes, payload_type);
        packet::set_seq(bytes, number.seq);
        let numbered = form.set_transport_cc(bytes, self.transport_cc);
        let len = match &mut self.keys {
            Keys::Udp { cipher, nonces } => {
                let suffix = nonces.next().ok_or(DropReason::NonceExhausted)?;
                cipher.seal(bytes, plain.len(), suffix)
            }
            Keys::WebRtc(srtp) => srtp.seal(bytes, plain.len(), number.laps),
        };
        slot.commit(len.ok_or(DropReason::Malformed)?);
        // What was not sent has no number: it would read as lost on the way.
        self.transport_cc = self.transport_cc.wrapping_add(u16::from(numbered));
        Ok(())
    }

    /// Seals a compound report into the egress.
    pub fn seal_rtcp(&mut self, compound: &[u8], egress: &mut Egress) -> Result<(), DropReason> {
        let path = self.path.ok_or(DropReason::NotConnected)?;
        let overhead = match &self.keys {
            Keys::Udp { cipher, .. } => cipher.mode().overhead(),
            Keys::WebRtc(srtp) => srtp.profile().rtcp_overhead(),
        };
        let slot = egress.slot(self.flow, path, compound.len() + overhead);
        let mut slot = slot.ok_or(DropReason::EgressFull)?;
        let bytes = slot.bytes();
        bytes[..compound.len()].copy_from_slice(compound);
        let len = match &mut self.keys {
            Keys::Udp { cipher, nonces } => {
                let suffix = nonces.next().ok_or(DropReason::NonceExhausted)?;
                cipher.seal(bytes, compound.len(), suffix)
            }
            Keys::WebRtc(srtp) => srtp.seal_rtcp(bytes, compound.len()),
        };
        slot.commit(len.ok_or(DropReason::NonceExhausted)?);
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
        Transport::udp(mode, &SecretKey::new(KEY), [0; 23], Flow(0), Some(path))
    }

    fn opened(suffix: [u8; 4]) -> Opened {
        Opened { range: 0..0, suffix: Some(suffix) }
    }

    /// Whether the next packet's suffix is in the upper half, counted in big-endian order.
    fn seals_in_upper_half(transport: &mut Transport) -> bool {
        let mut egress = Egress::new(4, 8_192);
        let mut packet = [0; 24];
        packet[0] = 0x80;
        transport.seal_rtcp(&packet, &mut egress).expect("room enough");
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
