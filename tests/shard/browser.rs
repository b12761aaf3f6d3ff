//! A browser of foreign make beside a rig: its connectivity checks are written here from RFC 8489
//! and 8445, its DTLS is `rtc-dtls`, its SRTP `webrtc-srtp`. It chooses its own SSRCs and numbers.

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use aws_lc_rs::hmac;
use serde_json::{Value, json};
use stentor::{
    id::Ssrc,
    metrics::DropReason,
    rtp::Packet,
    signalling::Frame,
    webrtc::{Fingerprint, fingerprint::Algorithm},
};
use webrtc_srtp::{context::Context, protection_profile::ProtectionProfile};

use crate::{
    client::{Grant, Heard, Profile, Rtp, codec, message, rtp},
    dtls_client::{Client as _, Rtc, RtcClient},
    rig::Rig,
};

/// Numbers of the SRTP profiles.
pub const AEAD_128: u16 = 7;
pub const AEAD_256: u16 = 8;
pub const CM_SHA1: u16 = 1;

/// What a browser chooses for itself.
#[derive(Clone)]
pub struct Choices {
    pub profile: u16,
    /// Its microphone, its camera and the camera's retransmissions.
    pub ssrcs: [u32; 3],
    pub codecs: Value,
    /// Lines of its offer after fingerprint and credentials.
    pub extensions: &'static str,
    pub version: Option<u8>,
    /// Layers it asks for at Identify.
    pub layers: usize,
}

/// The numbers that Chromium gives Opus and VP8.
pub const OPUS: u8 = 111;
pub const VP8: u8 = 96;
pub const VP8_RTX: u8 = 97;

/// Chromium's extensions.
pub const CHROMIUM: &str = "a=extmap-allow-mixed\n\
    a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\n\
    a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\n\
    a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\n\
    a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\n\
    a=extmap:14 urn:ietf:params:rtp-hdrext:toffset\n\
    a=extmap:13 urn:3gpp:video-orientation\n\
    a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay\n\
    a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\n\
    a=extmap:11 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";

/// Firefox's numbers, of those extensions that it has.
pub const FIREFOX: &str = "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\n\
    a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid\n\
    a=extmap:4 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\n\
    a=extmap:5 urn:ietf:params:rtp-hdrext:toffset\n\
    a=extmap:7 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

impl Default for Choices {
    fn default() -> Self {
        Self {
            profile: AEAD_128,
            ssrcs: [0x1111_1111, 0x2222_2222, 0x3333_3333],
            codecs: chromium_codecs(),
            extensions: CHROMIUM,
            version: Some(8),
            layers: 1,
        }
    }
}

/// `codecs` as a web client of Chromium's lists them.
pub fn chromium_codecs() -> Value {
    let opus = json!({"name": "opus", "type": "audio", "priority": 1000, "payload_type": OPUS});
    json!([opus, codec("VP8", 1000, VP8, Some(VP8_RTX)), codec("H264", 2000, 103, Some(104))])
}

/// A browser's transport. Its WebSocket is a client of the rig.
pub struct Browser {
    /// Its place among the rig's clients.
    pub who: usize,
    pub choices: Choices,
    pub address: SocketAddr,
    pub dtls: RtcClient,
    keys: Option<Keys>,
    /// The server's credentials and fingerprint, from op 4.
    pub ufrag: String,
    pub pwd: String,
    fingerprint: String,
    transactions: u64,
    next: [(u16, u32); 3],
}

struct Keys {
    ours: Context,
    theirs: Context,
}

impl Rig {
    /// A browser in `channel` whose media path is up and which has said what it sends.
    pub fn browser(&mut self, channel: u64, user: u64, choices: Choices) -> Browser {
        let mut browser = self.selected(channel, user, choices);
        browser.connect(self);
        browser.say_hello(self);
        self.forget();
        browser
    }

    /// A browser that has been told Session Description.
    pub fn selected(&mut self, channel: u64, user: u64, choices: Choices) -> Browser {
        let profile = Profile {
            version: choices.version,
            layers: choices.layers,
            codecs: Some(choices.codecs.clone()),
            ..Profile::default()
        };
        let who = self.client(Grant::new(channel, user), profile);
        self.identify(who);
        Browser::select(self, who, choices)
    }
}

impl Browser {
    /// One that has said nothing yet; `transactions` is where those of its checks begin.
    pub fn new(
        who: usize,
        address: SocketAddr,
        transactions: u64,
        choices: Choices,
        now: Instant,
    ) -> Self {
        let rtc = Rtc { profiles: vec![choices.profile], ..Rtc::default() };
        Self {
            who,
            address,
            dtls: rtc.start(now),
            keys: None,
            ufrag: String::new(),
            pwd: String::new(),
            fingerprint: String::new(),
            transactions,
            next: [(100, 1_000), (200, 2_000), (300, 3_000)],
            choices,
        }
    }

    /// Selects webrtc, and reads what comes back.
    pub fn select(rig: &mut Rig, who: usize, choices: Choices) -> Self {
        let client = &rig.clients[who];
        let transactions = u64::from(client.user().0 as u32) << 32;
        let mut browser = Self::new(who, client.address, transactions, choices, rig.now);
        let frame = browser.select_protocol();
        rig.say(who, |_| frame);
        browser.read_answer(rig);
        browser
    }

    /// op 1 as the official web client says it: the fragment twice.
    pub fn select_protocol(&self) -> Frame {
        let offer = self.offer(&self.dtls.fingerprint());
        message(
            1,
            json!({"protocol": "webrtc", "data": offer, "sdp": offer, "codecs": self.choices.codecs,
                "rtc_connection_id": "8f2c8a2e-0000-4000-8000-000000000000"}),
        )
    }

    /// The lines that a web client cuts out of its offer.
    pub fn offer(&self, fingerprint: &Fingerprint) -> String {
        format!(
            "{}\na=ice-ufrag:{}\na=ice-pwd:{}\na=ice-options:trickle\na=fingerprint:{fingerprint}\n\
             a=rtpmap:{OPUS} opus/48000/2\na=rtpmap:{VP8} VP8/90000\na=rtpmap:{VP8_RTX} rtx/90000",
            self.choices.extensions, "remote+u", "remotepasswordremotepass",
        )
    }

    /// Takes what it needs from op 4.
    pub fn read_answer(&mut self, rig: &mut Rig) {
        let sdp = rig.clients[self.who].sdp.clone().expect("op 4 has an sdp");
        self.read(&sdp);
    }

    /// Takes what it needs from an answer, as clients do: line by line, by prefix.
    pub fn read(&mut self, sdp: &str) {
        let value = |prefix: &str| {
            let line = sdp.lines().find_map(|line| line.strip_prefix(prefix));
            line.unwrap_or_else(|| panic!("{prefix} in {sdp}")).to_owned()
        };
        self.ufrag = value("a=ice-ufrag:");
        self.pwd = value("a=ice-pwd:");
        self.fingerprint = value("a=fingerprint:");
    }

    /// Checks a pair, nominates it, and shakes hands.
    pub fn connect(&mut self, rig: &mut Rig) {
        self.check(rig, true);
        self.shake_hands(rig);
        assert!(self.is_connected(), "{:?}", self.dtls.gave_up());
    }

    pub fn is_connected(&self) -> bool {
        self.keys.is_some()
    }

    /// Camera and microphone by op 12 and op 5, as the web client does.
    pub fn say_hello(&self, rig: &mut Rig) {
        let frame = self.announcement(false);
        rig.say(self.who, |_| frame);
        let ssrc = self.choices.ssrcs[0];
        rig.say(self.who, |_| message(5, json!({"speaking": 1, "delay": 0, "ssrc": ssrc})));
    }

    /// op 12.
    pub fn announcement(&self, camera: bool) -> Frame {
        let [audio, video, rtx] = self.choices.ssrcs;
        let layer = json!({"type": "video", "rid": "100", "ssrc": video, "rtx_ssrc": rtx,
            "active": camera, "quality": 100, "max_bitrate": 2_500_000, "max_framerate": 30,
            "max_resolution": {"type": "fixed", "width": 1280, "height": 720}});
        let [video, rtx] = if camera { [video, rtx] } else { [0, 0] };
        let streams = if camera { json!([layer]) } else { json!([]) };
        message(
            12,
            json!({"audio_ssrc": audio, "video_ssrc": video, "rtx_ssrc": rtx, "streams": streams}),
        )
    }

    // Connectivity.

    /// A signed check, with what is asked for.
    pub fn check_bytes(&mut self, pwd: &str, nominate: bool) -> Vec<u8> {
        self.transactions += 1;
        let mut bytes = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0];
        bytes.extend(self.transactions.to_be_bytes());
        let name = format!("{}:remote+u", self.ufrag);
        attribute(&mut bytes, 0x0006, name.as_bytes());
        attribute(&mut bytes, 0x802A, &7_u64.to_be_bytes());
        if nominate {
            attribute(&mut bytes, 0x0025, &[]);
        }
        attribute(&mut bytes, 0x0024, &0x6E7F_1EFF_u32.to_be_bytes());
        sign(&mut bytes, pwd);
        bytes
    }

    /// Checks the pair from its present address; the answer must be a good one.
    pub fn check(&mut self, rig: &mut Rig, nominate: bool) {
        let pwd = self.pwd.clone();
        let check = self.check_bytes(&pwd, nominate);
        rig.datagram(self.address, &check);
        let answers = self.take_strays(rig);
        self.judge(&check, &answers);
    }

    /// The answer to a check must be one, and a good one.
    pub fn judge(&self, check: &[u8], answers: &[Vec<u8>]) {
        let [answer] = answers else { panic!("{} answers to a check", answers.len()) };
        assert_eq!(answer[..2], [1, 1], "a success");
        assert_eq!(answer[8..20], check[8..20], "of this transaction");
        assert!(is_signed(answer, &self.pwd), "signed with the server's password");
        assert_eq!(mapped_address(answer), Some(self.address));
    }

    /// Carries DTLS to and fro until neither side has anything to say.
    pub fn shake_hands(&mut self, rig: &mut Rig) {
        loop {
            let flight: Vec<_> = std::iter::from_fn(|| self.dtls.poll_output()).collect();
            for datagram in &flight {
                rig.datagram(self.address, datagram);
            }
            let answers = self.take_strays(rig);
            for answer in &answers {
                self.dtls.handle(rig.now, answer);
            }
            if flight.is_empty() && answers.is_empty() {
                break;
            }
        }
        self.take_keys();
    }

    /// As before, but some datagrams, counted over both sides, are lost, so that time has to pass.
    pub fn shake_hands_losing(&mut self, rig: &mut Rig, lost: &[usize]) {
        let mut carried = 0;
        let mut arrives = || {
            carried += 1;
            !lost.contains(&carried)
        };
        for _ in 0..100 {
            while let Some(datagram) = self.dtls.poll_output() {
                if arrives() {
                    rig.datagram(self.address, &datagram);
                }
            }
            for answer in self.take_strays(rig) {
                if arrives() {
                    self.dtls.handle(rig.now, &answer);
                }
            }
            if self.dtls.agreed().is_some() {
                break;
            }
            rig.advance(std::time::Duration::from_millis(50));
            if self.dtls.poll_timeout().is_some_and(|at| at <= rig.now) {
                self.dtls.handle_timeout(rig.now);
            }
        }
        self.take_keys();
    }

    /// Takes the keys of a finished handshake.
    pub fn take_keys(&mut self) {
        let Some(agreed) = self.dtls.agreed() else { return };
        assert_eq!(agreed.profile, self.choices.profile);
        let (profile, key, salt) = match agreed.profile {
            AEAD_128 => (ProtectionProfile::AeadAes128Gcm, 16, 12),
            AEAD_256 => (ProtectionProfile::AeadAes256Gcm, 32, 12),
            _ => (ProtectionProfile::Aes128CmHmacSha1_80, 16, 14),
        };
        let (keys, salts) = agreed.material.split_at(2 * key);
        let context = |half: usize| {
            let (key, salt) = (&keys[half * key..][..key], &salts[half * salt..][..salt]);
            Context::new(key, salt, profile, None, None).expect("keys of the right length")
        };
        self.keys = Some(Keys { ours: context(0), theirs: context(1) });
    }

    /// What has come to its address and is no media.
    pub fn take_strays(&self, rig: &mut Rig) -> Vec<Vec<u8>> {
        let (own, others) = rig.strays.drain(..).partition(|(to, _)| *to == self.address);
        rig.strays = others;
        let own: Vec<(SocketAddr, Vec<u8>)> = own;
        own.into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// It has another address from now on, and its mail goes there.
    pub fn move_to(&mut self, rig: &mut Rig, address: SocketAddr) {
        self.address = address;
        rig.clients[self.who].address = address;
    }

    // Media.

    /// Seals a plain packet.
    pub fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let keys = self.keys.as_mut().expect("a finished handshake");
        keys.ours.encrypt_rtp(plain).expect("a packet").to_vec()
    }

    /// Seals a plain report.
    pub fn seal_rtcp(&mut self, plain: &[u8]) -> Vec<u8> {
        let keys = self.keys.as_mut().expect("a finished handshake");
        keys.ours.encrypt_rtcp(plain).expect("a report").to_vec()
    }

    /// The next packet of one of its streams: 0 microphone, 1 camera, 2 its retransmissions.
    pub fn packet(&mut self, stream: usize, payload_type: u8, payload: &[u8]) -> Vec<u8> {
        let (seq, timestamp) = self.next[stream];
        self.next[stream] = (seq.wrapping_add(1), timestamp.wrapping_add(960));
        let ssrc = Ssrc(self.choices.ssrcs[stream]);
        let packet = Rtp { payload_type, seq, timestamp, payload, ..rtp(ssrc) };
        self.seal(&packet.plain())
    }

    /// The numbers with which a stream goes on.
    pub fn continue_at(&mut self, stream: usize, seq: u16) {
        self.next[stream].0 = seq;
    }

    /// Some numbers of a stream are not sent.
    pub fn skip(&mut self, stream: usize, count: u16) {
        self.next[stream].0 = self.next[stream].0.wrapping_add(count);
    }

    /// Says the next 20 ms.
    pub fn speak(&mut self, rig: &mut Rig, payload: &[u8]) {
        let packet = self.packet(0, OPUS, payload);
        rig.datagram(self.address, &packet);
    }

    /// Why a datagram from its address is dropped.
    pub fn dropped(&self, rig: &mut Rig, datagram: &[u8]) -> DropReason {
        rig.dropped(self.address, datagram)
    }

    /// Opens everything that has come. Each datagram must open.
    pub fn hear(&mut self, rig: &mut Rig) -> Vec<Heard> {
        let mail: VecDeque<Vec<u8>> = std::mem::take(&mut rig.clients[self.who].mail);
        let keys = self.keys.as_mut().expect("a finished handshake");
        mail.iter().map(|datagram| keys.open(datagram)).collect()
    }

    /// Opens one datagram.
    pub fn open(&mut self, datagram: &[u8]) -> Heard {
        self.keys.as_mut().expect("a finished handshake").open(datagram)
    }

    /// The payloads of the media that has come.
    pub fn hear_payloads(&mut self, rig: &mut Rig) -> Vec<Vec<u8>> {
        self.hear(rig).iter().map(|heard| heard.payload().to_vec()).collect()
    }
}

impl Keys {
    fn open(&mut self, datagram: &[u8]) -> Heard {
        if (192..=223).contains(&datagram[1]) {
            return Heard::Rtcp(self.theirs.decrypt_rtcp(datagram).expect("a report").to_vec());
        }
        let plain = self.theirs.decrypt_rtp(datagram).expect("sealed for it");
        let packet = Packet::new(&plain).expect("RTP");
        Heard::Rtp {
            ssrc: packet.ssrc(),
            payload_type: packet.payload_type(),
            marker: packet.marker(),
            seq: packet.seq(),
            timestamp: packet.timestamp(),
            extension: packet.extension().map(|(profile, bytes)| (profile, bytes.to_vec())),
            payload: packet.payload().expect("without padding").to_vec(),
            csrcs: packet.csrc_count(),
            padded: packet.has_padding(),
        }
    }
}

/// Appends an attribute and its padding (RFC 8489 §14).
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(kind.to_be_bytes());
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let length = (bytes.len() - 20) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
}

/// MESSAGE-INTEGRITY, then FINGERPRINT.
fn sign(bytes: &mut Vec<u8>, pwd: &str) {
    let length = (bytes.len() - 20 + 24) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let tag = hmac_sha1(pwd, bytes);
    attribute(bytes, 0x0008, &tag);
    let length = (bytes.len() - 20 + 8) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let check = crc32(bytes) ^ 0x5354_554E;
    attribute(bytes, 0x8028, &check.to_be_bytes());
}

/// Whether an answer's MESSAGE-INTEGRITY is right.
fn is_signed(answer: &[u8], pwd: &str) -> bool {
    let Some(at) = find(answer, 0x0008) else { return false };
    let mut signed = answer[..at - 4].to_vec();
    let length = (at - 4 - 20 + 24) as u16;
    signed[2..4].copy_from_slice(&length.to_be_bytes());
    hmac_sha1(pwd, &signed) == answer[at..at + 20]
}

fn hmac_sha1(pwd: &str, bytes: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, pwd.as_bytes());
    hmac::sign(&key, bytes).as_ref().to_vec()
}

/// The address in XOR-MAPPED-ADDRESS, IPv4.
fn mapped_address(answer: &[u8]) -> Option<SocketAddr> {
    let value = &answer[find(answer, 0x0020)?..];
    let port = u16::from_be_bytes([value[2] ^ 0x21, value[3] ^ 0x12]);
    let ip = [value[4] ^ 0x21, value[5] ^ 0x12, value[6] ^ 0xA4, value[7] ^ 0x42];
    (value[1] == 1).then(|| (ip, port).into())
}

/// Where an attribute's value begins.
fn find(message: &[u8], wanted: u16) -> Option<usize> {
    let mut at = 20;
    while at + 4 <= message.len() {
        let kind = u16::from_be_bytes([message[at], message[at + 1]]);
        let length = usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
        if kind == wanted {
            return Some(at + 4);
        }
        at += 4 + length.next_multiple_of(4);
    }
    None
}

/// CRC-32 of ISO 3309, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0xEDB8_8320 }
        })
    })
}

/// The fingerprint of somebody else's certificate.
pub fn foreign_fingerprint() -> Fingerprint {
    Fingerprint::of(Algorithm::Sha256, b"another certificate")
}

/// SSRC, payload type, number and payload of media.
pub fn media(heard: &Heard) -> (Ssrc, u8, u16, &[u8]) {
    match heard {
        Heard::Rtp { ssrc, payload_type, seq, payload, .. } => {
            (*ssrc, *payload_type, *seq, payload)
        }
        Heard::Rtcp(_) => panic!("media"),
    }
}

/// What was said with one opcode, in order.
pub fn told(rig: &mut Rig, who: usize, op: u64) -> Vec<Value> {
    let told = rig.clients[who].take_told();
    told.into_iter().filter(|message| message["op"] == op).map(|it| it["d"].clone()).collect()
}
