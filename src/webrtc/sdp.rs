//! What of SDP crosses the wire (protocol.md §3.1–§3.2): a browser's offer, whole or in fragments,
//! and our answer. Payload types come with op 1's `codecs` and are not read here.

use std::{fmt, net::IpAddr};

use crate::limits::{FINGERPRINTS_MAX, OFFER_BYTES_MAX};

use super::{
    Credentials, Extension, ExtensionMap, Fingerprint,
    credentials::{is_pwd, is_ufrag},
};

/// What a client offers.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Its side of ICE.
    pub credentials: Credentials,
    /// Of the certificate it will show: one of these must match. At least one, each once.
    pub fingerprints: Vec<Fingerprint>,
    /// What it means by the numbers of header extensions.
    pub extensions: ExtensionMap,
    /// Whether it takes one-byte and two-byte extensions in one stream (`extmap-allow-mixed`).
    pub mixed: bool,
    /// Whether it was a whole SDP and not the lines that browsers' clients cut out of one.
    pub full: bool,
}

/// Why an offer cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Longer than [`OFFER_BYTES_MAX`].
    #[error("the SDP is too long")]
    TooLong,
    /// No `ice-ufrag`, or one that RFC 8839 does not allow.
    #[error("the SDP lacks a=ice-ufrag with 4 to 256 letters, digits, + or /")]
    Ufrag,
    /// No `ice-pwd`, or one that RFC 8839 does not allow.
    #[error("the SDP lacks a=ice-pwd with 22 to 256 letters, digits, + or /")]
    Pwd,
    /// No fingerprint by a hash function we verify with.
    #[error("the SDP lacks a=fingerprint by sha-256, sha-384 or sha-512")]
    Fingerprint,
    /// The client wants to be the server of DTLS, which we are.
    #[error("the SDP says a=setup:passive, and the server is passive itself")]
    Passive,
}

impl Offer {
    /// Reads an offer line by line, which may end in LF or CRLF. Of what may be said once the first
    /// counts, and what is unknown is passed over.
    pub fn parse(text: &str) -> Result<Self, OfferError> {
        if text.len() > OFFER_BYTES_MAX {
            return Err(OfferError::TooLong);
        }
        let (mut ufrag, mut pwd, mut setup) = (None, None, None);
        let mut fingerprints = Vec::new();
        let mut extensions = ExtensionMap::default();
        let mut mixed = false;
        for line in text.lines() {
            let Some(attribute) = line.trim().strip_prefix("a=") else { continue };
            let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
            match name {
                "ice-ufrag" => ufrag = ufrag.or(Some(value)),
                "ice-pwd" => pwd = pwd.or(Some(value)),
                "setup" => setup = setup.or(Some(value)),
                "extmap-allow-mixed" => mixed = true,
                "extmap" => read_extmap(value, &mut extensions),
                "fingerprint" if fingerprints.len() < FINGERPRINTS_MAX => {
                    let fingerprint = value.parse().ok();
                    fingerprints.extend(fingerprint.filter(|it| !fingerprints.contains(it)));
                }
                _ => {}
            }
        }
        if !mixed {
            extensions.forget_two_byte();
        }
        let ufrag = ufrag.filter(|text| is_ufrag(text)).ok_or(OfferError::Ufrag)?;
        let pwd = pwd.filter(|text| is_pwd(text)).ok_or(OfferError::Pwd)?;
        if fingerprints.is_empty() {
            return Err(OfferError::Fingerprint);
        }
        if setup == Some("passive") {
            return Err(OfferError::Passive);
        }
        Ok(Self {
            credentials: Credentials::parse(ufrag, pwd).expect("both were checked"),
            fingerprints,
            extensions,
            mixed,
            full: text.trim_start().starts_with("v=0"),
        })
    }
}

/// `4/recvonly urn:… attributes` (RFC 8285 §5). 15 is nobody's: in the one-byte form it ends the
/// block.
fn read_extmap(value: &str, extensions: &mut ExtensionMap) {
    let mut words = value.split_ascii_whitespace();
    let (Some(number), Some(uri)) = (words.next(), words.next()) else { return };
    let (number, direction) = number.split_once('/').unwrap_or((number, "sendrecv"));
    let id = number.parse().ok().filter(|id| *id != 15);
    let (Some(id), Some(extension)) = (id, Extension::by_uri(uri)) else { return };
    if direction == "inactive" || extensions.insert(extension, id).is_none() {
        return;
    }
    if direction == "sendonly" {
        extensions.set_send_only(extension);
    }
}

/// What we answer in op 4: not SDP, but the lines that clients make theirs of. Its form is the real
/// service's, to the byte (protocol.md §3.2).
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    /// The shard's address as clients reach it.
    pub ip: IpAddr,
    /// The shard's port as clients reach it.
    pub port: u16,
    /// Of our certificate.
    pub fingerprint: &'a Fingerprint,
    /// Our side of ICE.
    pub credentials: &'a Credentials,
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answer { ip, port, fingerprint, credentials } = self;
        let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
        writeln!(f, "m=audio {port} ICE/SDP")?;
        writeln!(f, "a=fingerprint:{fingerprint}")?;
        writeln!(f, "c=IN {family} {ip}")?;
        writeln!(f, "a=rtcp:{port}")?;
        writeln!(f, "a=ice-ufrag:{}", credentials.ufrag())?;
        writeln!(f, "a=ice-pwd:{}", credentials.pwd())?;
        writeln!(f, "a=fingerprint:{fingerprint}")?;
        writeln!(f, "a=candidate:1 1 UDP 4261412862 {ip} {port} typ host")
    }
}

/// Leaves the password out.
impl fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({}:{}, {:?}, …)", self.ip, self.port, self.credentials)
    }
}

#[cfg(test)]
#[path = "sdp_tests.rs"]
mod tests;
