//! The DTLS server of one WebRTC session, whose handshake gives the keys of SRTP (RFC 6347, RFC
//! 5764). `dimpl` speaks the protocol; this file decides whom to believe, what is an error, how
//! long it may take, and what the peer is told when it fails. It knows no SRTP and no addresses:
//! datagrams come from pairs that ICE has checked. Called by `sfu`.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use dimpl::{CertificateError, Error, Output, SecurityError, crypto::SrtpProfile};
use zeroize::Zeroizing;

use super::{Fingerprint, Identity};
use crate::{
    limits::{
        DATAGRAM_BYTES_MAX, DTLS_DATAGRAM_BYTES_MAX, DTLS_HANDSHAKE_TIMEOUT,
        DTLS_HELD_DATAGRAMS_MAX, DTLS_RECORDS_MAX, DTLS_UNSENT_DATAGRAMS_MAX,
    },
    metrics::DropReason,
};

/// Bytes of a record's header (RFC 6347 §4.1): type, version, epoch, sequence number, length.
const HEADER_BYTES: usize = 13;

/// The largest thing the library ever writes out: a peer's certificate, which was in the datagrams
/// it held. It panics where that does not fit.
const OUTPUT_BYTES_MAX: usize = DTLS_HELD_DATAGRAMS_MAX * DATAGRAM_BYTES_MAX;

/// What the library answers when it waits for nothing is years away.
const NO_TIMER: Duration = Duration::from_secs(24 * 60 * 60);

/// An SRTP protection profile by its number (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProfileId(pub u16);

impl ProfileId {
    /// `SRTP_AES128_CM_HMAC_SHA1_80`.
    pub const AES128_CM_SHA1_80: Self = Self(0x0001);
    /// `SRTP_AEAD_AES_128_GCM`.
    pub const AEAD_AES_128_GCM: Self = Self(0x0007);
    /// `SRTP_AEAD_AES_256_GCM`.
    pub const AEAD_AES_256_GCM: Self = Self(0x0008);
}

/// What a session has to know.
pub enum DtlsEvent {
    /// The peer is who its SDP said, and both sides have the same keys. Happens once.
    Connected {
        /// The SRTP profile agreed on.
        profile: ProfileId,
        /// The keys of both directions: client's key, server's key, client's salt, server's salt
        /// (RFC 5764 §4.2).
        material: Zeroizing<Vec<u8>>,
    },
    /// There will be no connection. The peer has been told, where telling it makes sense.
    Failed(DtlsFailure),
    /// The peer has ended the connection.
    Closed,
}

impl fmt::Debug for DtlsEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DtlsEvent::Connected { profile, .. } => {
                f.debug_struct("Connected").field("profile", profile).finish_non_exhaustive()
            }
            DtlsEvent::Failed(why) => f.debug_tuple("Failed").field(why).finish(),
            DtlsEvent::Closed => f.write_str("Closed"),
        }
    }
}

/// Why a handshake came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DtlsFailure {
    /// The certificate is not one that the SDP named.
    #[error("the peer's certificate is not the one in its SDP")]
    WrongFingerprint,
    /// The peer has no certificate.
    #[error("the peer has no certificate")]
    NoCertificate,
    /// The peer offers no SRTP, or no profile that we know.
    #[error("no SRTP profile in common")]
    NoProfile,
    /// Version, cipher suite, group or extended master secret: nothing in common.
    #[error("nothing in common in DTLS")]
    NothingInCommon,
    /// A signature, a key or a Finished is wrong, or a message is not where it belongs.
    #[error("the peer breaks the protocol")]
    Protocol,
    /// The peer gave up, with this alert (RFC 5246 §7.2).
    #[error("the peer gave up with alert {0}")]
    PeerAlert(u8),
    /// The handshake took too long, or the peer fell silent.
    #[error("the handshake took too long")]
    TimedOut,
    /// More was waiting than a handshake can need.
    #[error("more messages than a handshake has")]
    Flooded,
}

/// One session's DTLS, from its first ClientHello to its end.
///
/// After each call of [`Dtls::handle`] and [`Dtls::handle_timeout`] take what there is of
/// [`Dtls::poll_output`] and [`Dtls::poll_event`], then ask [`Dtls::poll_timeout`] anew.
pub struct Dtls {
    /// `None` once it has failed or was closed.
    library: Option<Box<dimpl::Dtls>>,
    expected: Vec<Fingerprint>,
    /// The fingerprint was right.
    verified: bool,
    connected: bool,
    unsent: VecDeque<Vec<u8>>,
    events: VecDeque<DtlsEvent>,
    timeout: Option<Instant>,
    /// Until when it waits for the cookie it has asked for.
    cookie_until: Option<Instant>,
    /// Number of the next unprotected record, should an alert of our own have to be one.
    sequence: u64,
}

impl Dtls {
    /// Waits for a client whose certificate has one of the expected fingerprints.
    ///
    /// Costs no cryptography. Time runs from the first ClientHello.
    pub fn new(identity: &Identity, expected: Vec<Fingerprint>, now: Instant) -> Self {
        let mut library = dimpl::Dtls::new_12(identity.config(), identity.for_library(), now);
        // The library makes its hello random at the first tick, and panics without.
        let ticked = library.handle_timeout(now);
        let mut dtls = Self {
            library: Some(Box::new(library)),
            expected,
            verified: false,
            connected: false,
            unsent: VecDeque::new(),
            events: VecDeque::new(),
            timeout: None,
            cookie_until: None,
            sequence: 0,
        };
        dtls.settle(now, ticked);
        dtls
    }

    /// Takes one datagram of the peer: an error says that it was dropped, and that nothing came of
    /// it. While a handshake lasts a replayed record is none, for it asks for a flight again.
    ///
    /// The cryptography of a handshake happens in here, in two calls of it. The library by itself,
    /// a release build on one core of a virtual machine that had other work, took 3 µs (median of
    /// 300) for a hello without a cookie, 33 µs for one with it (a key, a signature), and 119 µs
    /// for a client's last flight (an exchange, a verification, keys), 0.3 ms at the 99th
    /// percentile. A P-384 certificate takes longer to verify and was not measured.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DropReason> {
        check_records(datagram)?;
        let Some(library) = &mut self.library else { return Err(DropReason::DtlsOver) };
        let was_connected = self.connected;
        let result = match self.cookie_until {
            None => library.handle_timeout(now).and_then(|()| library.handle_packet(datagram)),
            // The library's timer, which has been kept from it, may be due. A cookie must come
            // before it, and a hello without one is answered by it at the latest.
            Some(_) => library.handle_packet(datagram).and_then(|()| library.handle_timeout(now)),
        };
        let changed = self.settle(now, result);
        if was_connected && !changed {
            return Err(DropReason::DtlsUseless);
        }
        Ok(())
    }

    /// Writes one datagram to send and gives its length.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than [`DTLS_DATAGRAM_BYTES_MAX`].
    pub fn poll_output(&mut self, out: &mut [u8]) -> Option<usize> {
        assert!(out.len() >= DTLS_DATAGRAM_BYTES_MAX, "a datagram of ours may not fit");
        let datagram = self.unsent.pop_front()?;
        out[..datagram.len()].copy_from_slice(&datagram);
        Some(datagram.len())
    }

    /// When [`Dtls::handle_timeout`] is due, to send a lost flight again or to give up.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.cookie_until.or(self.timeout)
    }

    /// Does what is due by now. Earlier than due is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        // Who has not answered with our cookie may not be where it says it is, and gets an answer
        // to each hello and no more (RFC 6347 §4.2.4: no timer for this flight).
        if self.cookie_until.is_some_and(|until| now < until) {
            return;
        }
        let Some(library) = &mut self.library else { return };
        let result = library.handle_timeout(now);
        self.settle(now, result);
    }

    /// Ends a connection and tells the peer. One that is not made yet is forgotten in silence.
    pub fn close(&mut self, now: Instant) {
        let Some(library) = &mut self.library else { return };
        let result = library.close();
        self.settle(now, result);
        self.forget();
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    /// Takes what the library has to say after a step, and gives whether anything came of it.
    fn settle(&mut self, now: Instant, result: Result<(), Error>) -> bool {
        let before = (self.unsent.len(), self.events.len());
        match result {
            Ok(()) => self.drain(now),
            Err(_) if self.connected => {
                // Only what carries a right tag can end a connection: alerts, renegotiation.
                self.end(DtlsEvent::Closed);
            }
            Err(error) => {
                let (why, alert) = failure(&error);
                self.fail(why, alert);
            }
        }
        before != (self.unsent.len(), self.events.len())
    }

    fn drain(&mut self, now: Instant) {
        let Some(mut library) = self.library.take() else { return };
        let mut buffer =
            vec![0; if self.connected { DATAGRAM_BYTES_MAX } else { OUTPUT_BYTES_MAX }];
        let mut agreed = None;
        let mut finished = false;
        loop {
            match library.poll_output(&mut buffer) {
                Output::Packet(datagram) => self.send(now, datagram),
                Output::PeerCert(certificate) => {
                    self.verified = self.expected.iter().any(|it| it.verify(certificate));
                    if !self.verified {
                        return self.fail(DtlsFailure::WrongFingerprint, Some(BAD_CERTIFICATE));
                    }
                }
                Output::Connected => finished = true,
                Output::KeyingMaterial(material, profile) => {
                    agreed = profile_id(profile).map(|id| (id, Zeroizing::new(material.to_vec())));
                }
                Output::CloseNotify => {
                    // Its answer has been taken above: packets come before this.
                    return self.end(DtlsEvent::Closed);
                }
                Output::Timeout(at) => {
                    let waits = at.saturating_duration_since(now) < NO_TIMER;
                    self.timeout = waits.then_some(at);
                    break;
                }
                // Nobody speaks anything but SRTP here: there is no data channel.
                Output::ApplicationData(_) => {}
                other => {
                    unreachable!("the library said {other:?} to a buffer as large as it takes")
                }
            }
        }
        if finished {
            match agreed {
                Some((profile, material)) if self.verified => {
                    self.connected = true;
                    self.events.push_back(DtlsEvent::Connected { profile, material });
                }
                _ => return self.fail(DtlsFailure::NoProfile, Some(HANDSHAKE_FAILURE)),
            }
        }
        self.library = Some(library);
    }

    fn send(&mut self, now: Instant, datagram: &[u8]) {
        self.sequence = self.sequence.max(next_sequence(datagram));
        if asks_for_cookie(datagram) {
            self.cookie_until.get_or_insert(now + DTLS_HANDSHAKE_TIMEOUT);
        } else {
            self.cookie_until = None;
        }
        if self.unsent.len() == DTLS_UNSENT_DATAGRAMS_MAX {
            self.unsent.pop_front();
        }
        self.unsent.push_back(datagram.to_vec());
    }

    /// Ends a handshake. The peer's keys are not ours yet or not to be used, so that an alert goes
    /// out unprotected; it is taken as long as we have sent no Finished, which is never sent here.
    fn fail(&mut self, why: DtlsFailure, alert: Option<u8>) {
        self.unsent.clear();
        if let Some(description) = alert {
            self.unsent.push_back(fatal_alert(self.sequence, description).to_vec());
        }
        self.end(DtlsEvent::Failed(why));
    }

    fn end(&mut self, event: DtlsEvent) {
        self.forget();
        self.events.push_back(event);
    }

    fn forget(&mut self) {
        self.library = None;
        self.timeout = None;
        self.cookie_until = None;
    }
}

impl fmt::Debug for Dtls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dtls")
            .field("connected", &self.connected)
            .field("over", &self.library.is_none())
            .finish_non_exhaustive()
    }
}

/// Alert descriptions (RFC 5246 §7.2).
const HANDSHAKE_FAILURE: u8 = 40;
const BAD_CERTIFICATE: u8 = 42;
const DECRYPT_ERROR: u8 = 51;
const PROTOCOL_VERSION: u8 = 70;

/// What the session is told and what the peer is told.
fn failure(error: &Error) -> (DtlsFailure, Option<u8>) {
    match error {
        Error::Timeout(_) => (DtlsFailure::TimedOut, None),
        Error::SecurityError(SecurityError::FatalAlert { description }) => {
            (DtlsFailure::PeerAlert(*description), None)
        }
        Error::CertificateError(CertificateError::NoClientCertificateReceived) => {
            (DtlsFailure::NoCertificate, Some(HANDSHAKE_FAILURE))
        }
        Error::SecurityError(SecurityError::UnsupportedClientVersion(_)) => {
            (DtlsFailure::NothingInCommon, Some(PROTOCOL_VERSION))
        }
        Error::SecurityError(
            SecurityError::UnsupportedClientCompression
            | SecurityError::NoMutuallyAcceptableCipherSuite
            | SecurityError::ExtendedMasterSecretNotNegotiated
            | SecurityError::NoCommonKeyExchangeGroup,
        ) => (DtlsFailure::NothingInCommon, Some(HANDSHAKE_FAILURE)),
        Error::CertificateError(_) => (DtlsFailure::Protocol, Some(BAD_CERTIFICATE)),
        Error::ReceiveQueueFull => (DtlsFailure::Flooded, Some(HANDSHAKE_FAILURE)),
        _ => (DtlsFailure::Protocol, Some(DECRYPT_ERROR)),
    }
}

fn profile_id(profile: SrtpProfile) -> Option<ProfileId> {
    match profile {
        SrtpProfile::AES128_CM_SHA1_80 => Some(ProfileId::AES128_CM_SHA1_80),
        SrtpProfile::AEAD_AES_128_GCM => Some(ProfileId::AEAD_AES_128_GCM),
        SrtpProfile::AEAD_AES_256_GCM => Some(ProfileId::AEAD_AES_256_GCM),
        _ => None,
    }
}

/// Whether it is a datagram of whole records that DTLS 1.2 could have sent. The library forgives
/// what is not, in silence; here it is counted.
fn check_records(datagram: &[u8]) -> Result<(), DropReason> {
    if datagram.len() > DATAGRAM_BYTES_MAX {
        return Err(DropReason::Oversize);
    }
    let mut count = 0;
    for record in records(datagram) {
        let record = record.ok_or(DropReason::Malformed)?;
        count += 1;
        // Change cipher spec, alert, handshake, application data. The first ClientHello may say
        // version 1.0, whatever it goes on to offer.
        let known = (20..=23).contains(&record[0]) && matches!(record[1..3], [254, 253 | 255]);
        if !known || record.len() == HEADER_BYTES || count > DTLS_RECORDS_MAX {
            return Err(DropReason::Malformed);
        }
    }
    if count == 0 { Err(DropReason::Malformed) } else { Ok(()) }
}

/// A datagram's records with their headers; `None`, and no more, where one is not whole.
fn records(mut datagram: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let record = datagram.get(..HEADER_BYTES).and_then(|header| {
            let length = u16::from_be_bytes([header[11], header[12]]);
            datagram.split_at_checked(HEADER_BYTES + usize::from(length))
        });
        datagram = record.map_or(&[][..], |(_, rest)| rest);
        Some(record.map(|(record, _)| record))
    })
}

/// One more than the largest number among a datagram's unprotected records.
fn next_sequence(datagram: &[u8]) -> u64 {
    let numbers = records(datagram).flatten().filter_map(|record| match record {
        [_, _, _, 0, 0, number @ ..] => number.first_chunk::<6>(),
        _ => None,
    });
    let number = |bytes: &[u8; 6]| bytes.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    numbers.map(|bytes| number(bytes) + 1).max().unwrap_or(0)
}

/// Whether it is a HelloVerifyRequest (RFC 6347 §4.3.2), which travels alone.
fn asks_for_cookie(datagram: &[u8]) -> bool {
    matches!(datagram, [22, _, _, 0, 0, rest @ ..] if rest.get(HEADER_BYTES - 5) == Some(&3))
}

/// An alert that ends an unfinished handshake, in a record of epoch 0.
///
/// ```text
///  type version epoch  sequence number   length level description
/// | 21 | 254 253 | 0 0 | 6 bytes        |  0 2  |  2  |    d    |
/// ```
fn fatal_alert(sequence: u64, description: u8) -> [u8; 15] {
    let mut record = [21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, description];
    record[5..11].copy_from_slice(&sequence.to_be_bytes()[2..]);
    record
}

#[cfg(test)]
#[path = "dtls_tests.rs"]
mod tests;
