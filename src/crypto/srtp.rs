//! One session's SRTP and SRTCP (RFC 3711, RFC 7714) with the keys of its DTLS handshake (RFC
//! 5764): opens what its client sent, seals what it is to hear, in place, without allocating on
//! Rust's heap. Of RTP it knows how long the clear header is. Which RTP packets were seen before,
//! and how often their sequence numbers have wrapped, is for `replay`; RTCP carries its own index,
//! so that its replays are refused here. Called by the session for every packet over DTLS.

use std::{fmt, ops::Range};

use zeroize::Zeroizing;

use crate::{
    crypto::{
        aes_cm::AesCm,
        aes_gcm::AesGcm,
        derivation::{Label, Master},
        packet_index::PacketIndex,
        profile::{Profile, RTCP_CLEAR_BYTES},
        rtcp_window::RtcpWindows,
    },
    id::Ssrc,
    metrics::DropReason,
    rtp::packet::{Packet, header_bytes},
};

/// Which end of the DTLS handshake we were: it says which half of the material we write with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We answered, as the server does (protocol.md §3.3).
    Server,
    /// We began, as browsers do.
    Client,
}

/// Both directions of one transport. Keys and salts are zeroed on drop.
pub struct Srtp {
    profile: Profile,
    seal: Key,
    rest: Box<Rest>,
}

/// Sealing RTP for a hearer touches what stands in `Srtp`, cold, and the key schedule: one cache
/// line, as with the modes of plain UDP.
const _: () = assert!(size_of::<Srtp>() <= 64);

/// What a hearer's copy of a packet has no use for.
struct Rest {
    open: Key,
    open_rtcp: Key,
    seal_rtcp: Key,
    windows: RtcpWindows,
    /// The index of the next packet of RTCP we seal. One count for all our SSRCs: an index may skip
    /// numbers, and must not come twice with one SSRC.
    next_index: u32,
}

/// One direction's session key for RTP or for RTCP.
enum Key {
    Gcm(AesGcm),
    Cm(AesCm),
}

/// The flag E of an SRTCP packet's word: it is encrypted.
const ENCRYPTED: u32 = 1 << 31;

/// The last index of RTCP under one key (RFC 3711 §9.2).
const INDEX_MAX: u32 = ENCRYPTED - 1;

impl Srtp {
    /// Derives the session keys from what DTLS exported (RFC 5764 §4.2): the client's master key,
    /// the server's, the client's salt, the server's. `None` unless it is [`Profile::material_len`]
    /// bytes.
    pub fn new(profile: Profile, material: &[u8], role: Role) -> Option<Self> {
        if material.len() != profile.material_len() {
            return None;
        }
        let (keys, salts) = material.split_at(2 * profile.key_len());
        let (client_key, server_key) = keys.split_at(profile.key_len());
        let (client_salt, server_salt) = salts.split_at(profile.salt_len());
        let client = Master::new(client_key, client_salt);
        let server = Master::new(server_key, server_salt);
        let (ours, theirs) = match role {
            Role::Server => (server, client),
            Role::Client => (client, server),
        };
        Some(Self {
            profile,
            seal: Key::rtp(profile, ours),
            rest: Box::new(Rest {
                open: Key::rtp(profile, theirs),
                open_rtcp: Key::rtcp(profile, theirs),
                seal_rtcp: Key::rtcp(profile, ours),
                windows: RtcpWindows::default(),
                next_index: 0,
            }),
        })
    }

    /// The agreed profile.
    #[inline]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Verifies and decrypts a client's RTP in place and returns where in the datagram the plain
    /// packet is. `roc` is how often its sequence numbers have wrapped, as estimated; with the
    /// wrong one no packet opens.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] if it is not version 2 or has no room for header, extension and
    /// tag; [`DropReason::BadTag`] if it is not what the client sealed. The datagram is spent then:
    /// it holds no plaintext and may no longer hold the ciphertext.
    #[inline]
    pub fn open(&self, datagram: &mut [u8], roc: u32) -> Result<Range<usize>, DropReason> {
        let plain_len = datagram.len().checked_sub(self.profile.overhead());
        let plain = plain_len.and_then(|len| datagram.get(..len)).ok_or(DropReason::Malformed)?;
        let (plain, range) = (Packet::new(plain).ok_or(DropReason::Malformed)?, 0..plain.len());
        let clear = clear_len(&plain).ok_or(DropReason::Malformed)?;
        let index = PacketIndex::rtp(plain.ssrc(), roc, plain.seq());
        match &self.rest.open {
            Key::Gcm(key) => key.open(index, datagram, clear),
            Key::Cm(key) => key.open(index, datagram, clear, roc),
        }
        .ok_or(DropReason::BadTag)?;
        Ok(range)
    }

    /// Encrypts and tags the plain RTP packet in the first `plain_len` bytes of `buffer`, in place.
    /// No two packets may have the same SSRC, `roc` and sequence number. Returns the sealed
    /// packet's length, or `None` if `buffer` is too short for [`Profile::overhead`] or the packet
    /// is not version 2 and as long as its header and extension.
    #[inline]
    pub fn seal(&self, buffer: &mut [u8], plain_len: usize, roc: u32) -> Option<usize> {
        let plain = Packet::new(buffer.get(..plain_len)?)?;
        let clear = clear_len(&plain)?;
        let index = PacketIndex::rtp(plain.ssrc(), roc, plain.seq());
        let packet = buffer.get_mut(..plain_len + self.profile.overhead())?;
        match &self.seal {
            Key::Gcm(key) => key.seal(index, packet, clear),
            Key::Cm(key) => key.seal(index, packet, clear, roc),
        }?;
        Some(packet.len())
    }

    /// Verifies and decrypts a client's RTCP in place and returns where in the datagram the plain
    /// packet is.
    ///
    /// A packet that says of itself that it is not encrypted (E = 0) is refused unseen. RFC 3711
    /// §3.4 lets a sender choose, but none that agreed on its keys by DTLS may: the profiles of RFC
    /// 5764 and RFC 7714 encrypt RTCP, and browsers must not send it in the clear (RFC 8827 §6.5).
    /// libsrtp, which they use, refuses it under AES-CM as well.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] if it is not version 2, has no room for header, index and tag, or
    /// is not encrypted; [`DropReason::Replayed`] or [`DropReason::TooOld`] if its sender has
    /// counted on past it; [`DropReason::BadTag`] if it is not what the client sealed. The datagram
    /// is spent then.
    pub fn open_rtcp(&mut self, datagram: &mut [u8]) -> Result<Range<usize>, DropReason> {
        let plain_len = datagram.len().checked_sub(self.profile.rtcp_overhead());
        let plain = plain_len.and_then(|len| datagram.get(..len)).ok_or(DropReason::Malformed)?;
        let ssrc = rtcp_sender(plain).ok_or(DropReason::Malformed)?;
        let range = 0..plain.len();
        let word = self.profile.rtcp_word(range.end);
        let word = datagram.get(word).and_then(<[u8]>::first_chunk).ok_or(DropReason::Malformed)?;
        let word = u32::from_be_bytes(*word);
        if word & ENCRYPTED == 0 {
            return Err(DropReason::Malformed);
        }
        let index = word & INDEX_MAX;
        let Rest { windows, open_rtcp, .. } = &mut *self.rest;
        windows.check(ssrc, index)?;
        match open_rtcp {
            Key::Gcm(key) => key.open_rtcp(PacketIndex::rtcp(ssrc, index), datagram),
            Key::Cm(key) => key.open_rtcp(PacketIndex::rtcp(ssrc, index), datagram),
        }
        .ok_or(DropReason::BadTag)?;
        windows.commit(ssrc, index);
        Ok(range)
    }

    /// Encrypts and tags the plain RTCP packet, which may be compound, in the first `plain_len`
    /// bytes of `buffer`, in place. Returns the sealed packet's length, or `None` if `buffer` is
    /// too short for [`Profile::rtcp_overhead`], the packet is not version 2 and as long as its
    /// header, or the key has sealed 2^31 packets and may seal no more.
    pub fn seal_rtcp(&mut self, buffer: &mut [u8], plain_len: usize) -> Option<usize> {
        let ssrc = rtcp_sender(buffer.get(..plain_len)?)?;
        let packet = buffer.get_mut(..plain_len + self.profile.rtcp_overhead())?;
        let Rest { next_index, seal_rtcp, .. } = &mut *self.rest;
        let index = *next_index;
        if index > INDEX_MAX {
            return None;
        }
        *next_index = index + 1;
        let word = (ENCRYPTED | index).to_be_bytes();
        packet[self.profile.rtcp_word(plain_len)].copy_from_slice(&word);
        match seal_rtcp {
            Key::Gcm(key) => key.seal_rtcp(PacketIndex::rtcp(ssrc, index), packet),
            Key::Cm(key) => key.seal_rtcp(PacketIndex::rtcp(ssrc, index), packet),
        }?;
        Some(packet.len())
    }
}

impl fmt::Debug for Srtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Srtp").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl Key {
    fn rtp(profile: Profile, master: Master<'_>) -> Self {
        Self::new(profile, master, [Label::RtpKey, Label::RtpAuthentication, Label::RtpSalt])
    }

    fn rtcp(profile: Profile, master: Master<'_>) -> Self {
        Self::new(profile, master, [Label::RtcpKey, Label::RtcpAuthentication, Label::RtcpSalt])
    }

    fn new(profile: Profile, master: Master<'_>, labels: [Label; 3]) -> Self {
        let [key, authentication, salt] = labels;
        match profile {
            Profile::AeadAes128Gcm => {
                Key::Gcm(AesGcm::new(&*secret::<16>(master, key), *secret(master, salt)))
            }
            Profile::AeadAes256Gcm => {
                Key::Gcm(AesGcm::new(&*secret::<32>(master, key), *secret(master, salt)))
            }
            Profile::Aes128CmSha1_80 => Key::Cm(AesCm::new(
                &secret(master, key),
                &secret(master, authentication),
                *secret(master, salt),
            )),
        }
    }
}

fn secret<const N: usize>(master: Master<'_>, label: Label) -> Zeroizing<[u8; N]> {
    let mut secret = Zeroizing::new([0; N]);
    master.derive(label, &mut *secret);
    secret
}

/// How many bytes at the start of an RTP packet stay clear: the header, CSRCs and the extension
/// whole (RFC 3711 §3.1). `None` if the extension is longer than the packet.
#[inline]
fn clear_len(packet: &Packet<'_>) -> Option<usize> {
    let header = header_bytes(packet.bytes()[0]);
    if !packet.has_extension() {
        return Some(header);
    }
    packet.extension().map(|(_, elements)| header + elements.len())
}

/// The sender SSRC of an RTCP packet. `None` if it is not version 2 or shorter than its header.
#[inline]
fn rtcp_sender(packet: &[u8]) -> Option<Ssrc> {
    let header = packet.first_chunk::<RTCP_CLEAR_BYTES>()?;
    let [.., a, b, c, d] = *header;
    (header[0] >> 6 == 2).then_some(Ssrc(u32::from_be_bytes([a, b, c, d])))
}

#[cfg(test)]
#[path = "srtp_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "srtp_oracle_tests.rs"]
mod oracle;
