//! The text that a browser and a server exchange (protocol.md §3.1–§3.2): the lines that web
//! clients cut out of their offer, and what they read in the answer, line by line, by prefix.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::webrtc::{Credentials, Extension, Fingerprint};

/// Payload types of Opus and H264 in Chromium, which are its own and not those of plain UDP.
pub const AUDIO_PAYLOAD_TYPE: u8 = 111;
/// See [`AUDIO_PAYLOAD_TYPE`].
pub const VIDEO_PAYLOAD_TYPE: u8 = 103;
const RTX_PAYLOAD_TYPE: u8 = 104;

/// Numbers of header extensions in [`offer`].
pub const AUDIO_LEVEL: u8 = 1;
/// See [`AUDIO_LEVEL`].
pub const TRANSPORT_CC: u8 = 3;
/// See [`AUDIO_LEVEL`].
pub const MID: u8 = 4;

/// All header extensions of the offer: Chromium's, under its numbers.
const EXTENSIONS: [(u8, Extension); 7] = [
    (AUDIO_LEVEL, Extension::AudioLevel),
    (2, Extension::AbsSendTime),
    (TRANSPORT_CC, Extension::TransportCc),
    (MID, Extension::Mid),
    (14, Extension::TransmissionOffset),
    (13, Extension::VideoOrientation),
    (5, Extension::PlayoutDelay),
];

/// The lines of an offer, as Chromium's web clients send them.
pub fn offer(own: &Credentials, fingerprint: &Fingerprint) -> String {
    let (ufrag, pwd) = (own.ufrag(), own.pwd());
    let mut lines = format!(
        "a=extmap-allow-mixed\n\
         a=ice-ufrag:{ufrag}\n\
         a=ice-pwd:{pwd}\n\
         a=ice-options:trickle\n\
         a=fingerprint:{fingerprint}\n\
         a=rtpmap:{AUDIO_PAYLOAD_TYPE} opus/48000/2"
    );
    for (number, extension) in EXTENSIONS {
        lines += &format!("\na=extmap:{number} {}", extension.uri());
    }
    lines
}

/// `codecs` of op 1.
pub fn codecs(video: bool) -> Value {
    let opus = json!({"name": "opus", "type": "audio", "priority": 1000,
        "payload_type": AUDIO_PAYLOAD_TYPE});
    let h264 = json!({"name": "H264", "type": "video", "priority": 1000,
        "payload_type": VIDEO_PAYLOAD_TYPE, "rtx_payload_type": RTX_PAYLOAD_TYPE,
        "encode": true, "decode": true});
    if video { json!([opus, h264]) } else { json!([opus]) }
}

/// The server as its answer describes it.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Where it takes checks, handshakes and media.
    pub address: SocketAddr,
    /// Its side of ICE.
    pub credentials: Credentials,
    /// Of its certificate.
    pub fingerprint: Fingerprint,
}

impl Remote {
    /// Reads the text of op 4.
    ///
    /// # Errors
    /// The name of the line that is missing or cannot be read.
    pub fn read(sdp: &str) -> Result<Self, &'static str> {
        let value = |prefix: &'static str| {
            sdp.lines().find_map(|line| line.strip_prefix(prefix)).ok_or(prefix)
        };
        let (ufrag, pwd) = (value("a=ice-ufrag:")?, value("a=ice-pwd:")?);
        let fingerprint = value("a=fingerprint:")?.parse().map_err(|_| "a=fingerprint:")?;
        let candidate = "a=candidate:";
        let mut words = value(candidate)?.split(' ').skip(4);
        let address: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
        let port: Option<u16> = words.next().and_then(|word| word.parse().ok());
        let address = address.zip(port).ok_or(candidate)?;
        let credentials = Credentials::parse(ufrag, pwd).ok_or("a=ice-ufrag:")?;
        Ok(Self { address: address.into(), credentials, fingerprint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webrtc::{Answer, Offer, credentials::RANDOM_BYTES, fingerprint::Algorithm};

    #[test]
    fn the_server_reads_the_offer_and_the_browser_the_answer() {
        let own = Credentials::generate([3; RANDOM_BYTES]);
        let fingerprint = Fingerprint::of(Algorithm::Sha256, b"certificate");
        let offer = Offer::parse(&offer(&own, &fingerprint)).unwrap();
        assert_eq!(
            (offer.credentials.ufrag(), offer.fingerprints),
            (own.ufrag(), vec![fingerprint])
        );
        for (number, extension) in EXTENSIONS {
            assert_eq!(offer.extensions.id(extension), Some(number));
        }
        let ip = "2001:db8::7".parse().unwrap();
        let answer = Answer { ip, port: 50_000, fingerprint: &fingerprint, credentials: &own };
        let remote = Remote::read(&answer.to_string()).unwrap();
        assert_eq!(remote.address, (ip, 50_000).into());
        assert_eq!((remote.credentials.pwd(), remote.fingerprint), (own.pwd(), fingerprint));
    }

    #[test]
    fn an_answer_that_lacks_a_line_is_named_by_it() {
        let own = Credentials::generate([3; RANDOM_BYTES]);
        let fingerprint = Fingerprint::of(Algorithm::Sha256, b"certificate");
        let ip = "127.0.0.1".parse().unwrap();
        let answer = Answer { ip, port: 1, fingerprint: &fingerprint, credentials: &own };
        let answer = answer.to_string();
        for prefix in ["a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:", "a=candidate:"] {
            let without: Vec<_> = answer.lines().filter(|it| !it.starts_with(prefix)).collect();
            assert_eq!(Remote::read(&without.join("\n")).unwrap_err(), prefix);
        }
        let wrong = answer.replace("127.0.0.1 1 typ", "localhost 1 typ");
        assert_eq!(Remote::read(&wrong).unwrap_err(), "a=candidate:");
    }
}
