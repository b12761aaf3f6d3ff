//! A virtual client's end of the encryption and of RTP, over plain UDP and as browsers have it:
//! writes and seals what it sends, opens what it hears. Touched for every packet by the media
//! thread; no socket and no clock.

use std::{collections::HashMap, net::SocketAddr, ops::Range};

use foldhash::fast::RandomState;

use super::{
    client::{AUDIO_PAYLOAD_TYPE, VIDEO_PAYLOAD_TYPE},
    offer,
    payload::{Kind, Mark},
};
use crate::{
    crypto::{Cipher, Mode, SecretKey, Srtp},
    id::Ssrc,
    rtp::{
        Header, Packet,
        extension::ElementWriter,
        packet::{HEADER_BYTES, set_seq},
    },
};

/// Bytes of the header extension of what browsers send: level, transport-wide number, mid.
const EXTENSION_BYTES: usize = 8;
const EXTENSION_WORDS: u16 = (EXTENSION_BYTES / 4) as u16;

/// −30 dBov, and a voice (RFC 6464): what a microphone that is spoken into says.
const LEVEL: u8 = 0x80 | 30;

/// How many sequence numbers a lap has.
const LAP: u64 = 1 << 16;

/// What media needs.
#[derive(Debug)]
pub struct Agreed {
    /// Where it goes.
    pub server: SocketAddr,
    /// How it is sealed.
    pub keys: Keys,
    /// SSRC of the microphone.
    pub audio: Ssrc,
    /// SSRC of the camera.
    pub video: Option<Ssrc>,
}

/// How media is sealed, and with what.
#[derive(Debug)]
pub enum Keys {
    /// Plain UDP.
    Udp(Mode, SecretKey),
    /// A browser's transport.
    WebRtc(Srtp),
}

/// A packet to send.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing {
    /// What it says of itself.
    pub mark: Mark,
    /// Whether a frame ends with it.
    pub marker: bool,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Payload, bytes.
    pub payload_bytes: u16,
}

/// One client's.
#[derive(Debug)]
pub struct Voice {
    /// Where media goes.
    pub server: SocketAddr,
    audio: Ssrc,
    video: Option<Ssrc>,
    seal: Seal,
}

#[derive(Debug)]
enum Seal {
    Udp {
        cipher: Cipher,
        /// Counts in the half that servers leave to clients (protocol.md §2.4).
        nonce: u32,
    },
    WebRtc(Box<Browser>),
}

#[derive(Debug)]
struct Browser {
    srtp: Srtp,
    /// The next transport-wide number.
    transport_cc: u16,
    /// Packets sealed of each of its own streams, microphone and camera: their numbers. What went
    /// to the bare loop is none of the server's, and would be a hole to it.
    sealed: [u32; 2],
    heard: Laps,
}

/// In which lap of its sequence each stream is that a browser hears (RFC 3711 §3.3.1). By SSRC the
/// newest number that opened, with its laps above 16 bits; the first is of lap 1, so that a late
/// one has somewhere to be.
#[derive(Debug, Default)]
struct Laps(HashMap<Ssrc, u64, RandomState>);

impl Laps {
    /// The number of a packet, with its laps.
    fn index(&self, ssrc: Ssrc, seq: u16) -> u64 {
        let Some(&newest) = self.0.get(&ssrc) else { return LAP + u64::from(seq) };
        let ahead = seq.wrapping_sub(newest as u16) as i16;
        newest.saturating_add_signed(ahead.into())
    }

    /// It opened.
    fn note(&mut self, ssrc: Ssrc, index: u64) {
        let newest = self.0.entry(ssrc).or_insert(index);
        *newest = index.max(*newest);
    }
}

impl Voice {
    /// Begins with fresh keys.
    pub fn new(agreed: Agreed) -> Self {
        let Agreed { server, keys, audio, video } = agreed;
        let seal = match keys {
            // Every client seals few packets compared with 2^160 nonces of the one mode that needs
            // this; its key is fresh.
            Keys::Udp(mode, key) => {
                Seal::Udp { cipher: Cipher::new(mode, &key, [0x5A; 20]), nonce: 0 }
            }
            Keys::WebRtc(srtp) => Seal::WebRtc(Box::new(Browser {
                srtp,
                transport_cc: 0,
                sealed: [0; 2],
                heard: Laps::default(),
            })),
        };
        Self { server, audio, video, seal }
    }

    /// The SSRC of a stream; `None` if it has none of that kind.
    pub fn ssrc(&self, kind: Kind) -> Option<Ssrc> {
        match kind {
            Kind::Audio => Some(self.audio),
            Kind::Video => self.video,
        }
    }

    /// Bytes of a sealed packet with so much payload.
    pub fn sealed_bytes(&self, payload_bytes: u16) -> usize {
        let overhead = match &self.seal {
            Seal::Udp { cipher, .. } => cipher.mode().overhead(),
            Seal::WebRtc(browser) => browser.srtp.profile().overhead(),
        };
        self.plain_bytes(payload_bytes) + overhead
    }

    fn plain_bytes(&self, payload_bytes: u16) -> usize {
        let head = match &self.seal {
            Seal::Udp { .. } => HEADER_BYTES,
            Seal::WebRtc(_) => Header::BYTES_MAX + EXTENSION_BYTES,
        };
        head + usize::from(payload_bytes)
    }

    /// Writes a packet, plain, into a slot of [`Voice::sealed_bytes`].
    pub fn write(&mut self, packet: &Outgoing, ssrc: Ssrc, slot: &mut [u8]) {
        let Outgoing { mark, marker, timestamp, payload_bytes } = *packet;
        let plain = self.plain_bytes(payload_bytes);
        let audio = mark.kind == Kind::Audio;
        let (payload_type, extension_words) = match (&self.seal, audio) {
            (Seal::Udp { .. }, true) => (AUDIO_PAYLOAD_TYPE, None),
            (Seal::Udp { .. }, false) => (VIDEO_PAYLOAD_TYPE, None),
            (Seal::WebRtc(_), true) => (offer::AUDIO_PAYLOAD_TYPE, Some(EXTENSION_WORDS)),
            (Seal::WebRtc(_), false) => (offer::VIDEO_PAYLOAD_TYPE, Some(EXTENSION_WORDS)),
        };
        let seq = mark.number as u16;
        let header = Header { marker, payload_type, seq, timestamp, ssrc, extension_words };
        let head = header.write(slot);
        let payload = plain - usize::from(payload_bytes);
        if let Seal::WebRtc(browser) = &mut self.seal {
            slot[head..payload].fill(0);
            let mut elements = ElementWriter::new(&mut slot[head..payload]);
            let number = browser.transport_cc.to_be_bytes();
            browser.transport_cc = browser.transport_cc.wrapping_add(1);
            let level = if audio { elements.push(offer::AUDIO_LEVEL, &[LEVEL]) } else { Some(()) };
            let written = level
                .and_then(|()| elements.push(offer::TRANSPORT_CC, &number))
                .and_then(|()| elements.push(offer::MID, if audio { b"0" } else { b"1" }));
            assert!(written.is_some(), "the extension has room for them");
        }
        mark.write(&mut slot[payload..plain]);
    }

    /// Seals what [`Voice::write`] has written.
    pub fn seal(&mut self, packet: &Outgoing, slot: &mut [u8]) {
        let plain = self.plain_bytes(packet.payload_bytes);
        let sealed = match &mut self.seal {
            Seal::Udp { cipher, nonce } => {
                *nonce = nonce.wrapping_add(1);
                cipher.seal(slot, plain, nonce.to_be_bytes())
            }
            Seal::WebRtc(browser) => {
                let count = &mut browser.sealed[packet.mark.kind as usize];
                set_seq(slot, *count as u16);
                let laps = *count >> 16;
                *count += 1;
                browser.srtp.seal(slot, plain, laps)
            }
        };
        assert_eq!(sealed, Some(slot.len()), "the slot has room for the seal");
    }

    /// Opens a datagram of media in place: where in it the plain packet is. `None` if it was not
    /// sealed for this client.
    pub fn open(&mut self, datagram: &mut [u8]) -> Option<Range<usize>> {
        match &mut self.seal {
            Seal::Udp { cipher, .. } => Some(cipher.open(datagram).ok()?.range),
            Seal::WebRtc(browser) => {
                let packet = Packet::new(datagram)?;
                let ssrc = packet.ssrc();
                let index = browser.heard.index(ssrc, packet.seq());
                let laps = u32::try_from((index / LAP).checked_sub(1)?).ok()?;
                let range = browser.srtp.open(datagram, laps).ok()?;
                browser.heard.note(ssrc, index);
                Some(range)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Profile, Role};

    fn agreed(keys: Keys) -> Agreed {
        let server = "127.0.0.1:50000".parse().unwrap();
        Agreed { server, keys, audio: Ssrc(7), video: Some(Ssrc(8)) }
    }

    fn srtp(profile: Profile, role: Role) -> Srtp {
        Srtp::new(profile, &vec![9; profile.material_len()], role).unwrap()
    }

    fn outgoing(kind: Kind, number: u32) -> Outgoing {
        let mark = Mark { kind, run: 1, channel: 2, source: 3, number, intended_ns: 4 };
        Outgoing { mark, marker: kind == Kind::Video, timestamp: 5, payload_bytes: 60 }
    }

    fn sealed(voice: &mut Voice, packet: &Outgoing) -> Vec<u8> {
        let mut slot = vec![0xEE; voice.sealed_bytes(packet.payload_bytes)];
        let ssrc = voice.ssrc(packet.mark.kind).unwrap();
        voice.write(packet, ssrc, &mut slot);
        voice.seal(packet, &mut slot);
        slot
    }

    #[test]
    fn a_bots_packet_opens_at_the_server_and_says_what_was_written() {
        let (mode, key) = (Mode::Aes256GcmRtpsize, SecretKey::new([3; 32]));
        let server = Cipher::new(mode, &key, [0; 20]);
        let mut voice = Voice::new(agreed(Keys::Udp(mode, key)));
        let packet = outgoing(Kind::Audio, 70_000);
        let mut datagram = sealed(&mut voice, &packet);
        let range = server.open(&mut datagram).unwrap().range;
        let plain = Packet::new(&datagram[range]).unwrap();
        assert_eq!((plain.payload_type(), plain.ssrc(), plain.seq()), (120, Ssrc(7), 4_464));
        assert_eq!(plain.payload().and_then(Mark::parse), Some(packet.mark));
    }

    #[test]
    fn a_browsers_packets_open_at_the_server_over_the_end_of_a_lap() {
        for profile in Profile::PREFERRED {
            let server = srtp(profile, Role::Server);
            let mut voice = Voice::new(agreed(Keys::WebRtc(srtp(profile, Role::Client))));
            let Seal::WebRtc(browser) = &mut voice.seal else { unreachable!("it was given SRTP") };
            browser.sealed = [u32::from(u16::MAX); 2];
            for (number, laps) in [(7, 0), (9, 1)] {
                for (kind, payload_type, ids) in
                    [(Kind::Audio, 111, &[1, 3, 4][..]), (Kind::Video, 103, &[3, 4])]
                {
                    let packet = outgoing(kind, number);
                    let mut datagram = sealed(&mut voice, &packet);
                    let range = server.open(&mut datagram, laps).unwrap();
                    let plain = Packet::new(&datagram[range]).unwrap();
                    assert_eq!(plain.payload_type(), payload_type);
                    assert_eq!(plain.marker(), kind == Kind::Video);
                    let (profile, elements) = plain.extension().unwrap();
                    let elements = crate::rtp::extension::elements(profile, elements);
                    assert_eq!(elements.map(|it| it.0).collect::<Vec<_>>(), ids);
                    assert_eq!(plain.payload().and_then(Mark::parse), Some(packet.mark));
                }
            }
        }
    }

    #[test]
    fn a_browser_hears_over_the_end_of_a_lap_late_ones_too_and_nothing_forged() {
        let profile = Profile::AeadAes128Gcm;
        let server = srtp(profile, Role::Server);
        let mut voice = Voice::new(agreed(Keys::WebRtc(srtp(profile, Role::Client))));
        let mut hear = |seq: u16, laps: u32, forged: bool| {
            let header = Header {
                marker: false,
                payload_type: 111,
                seq,
                timestamp: 0,
                ssrc: Ssrc(1),
                extension_words: None,
            };
            let mut datagram = vec![0; HEADER_BYTES + 40 + profile.overhead()];
            header.write(&mut datagram);
            server.seal(&mut datagram, HEADER_BYTES + 40, laps).unwrap();
            datagram[20] ^= u8::from(forged);
            voice.open(&mut datagram).is_some()
        };
        assert!(hear(65_534, 0, false));
        assert!(!hear(1, 1, true), "forged, and of no effect");
        assert!(hear(0, 1, false));
        assert!(hear(65_535, 0, false), "late");
        assert!(hear(0, 1, false), "twice is for the tally to tell");
        assert!(hear(30_000, 1, false) && hear(60_000, 1, false) && hear(5, 2, false));
        assert!(!hear(6, 1, false), "sealed in another lap");
    }
}
