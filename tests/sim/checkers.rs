//! What must hold whatever happens: who hears what, in which numbers, under which nonces. Told of
//! every packet that is sealed, of every one that a shard sends, and of sessions as they come and
//! go.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use stentor::{
    crypto::Mode,
    id::{ChannelId, Serial, Ssrc, UserId},
    rtp::{
        Kind, classify,
        rtcp::{Report, reports},
    },
    sfu::Policy,
};

use crate::{
    browser::OPUS,
    client::{Agreed, Heard, Profile},
};

/// Bytes before what tells a packet of video from all others: what tells its codec's keyframes.
pub const VIDEO_HEAD: usize = 2;

/// The Opus frame that ends a talk spurt.
const SILENCE: [u8; 3] = [0xF8, 0xFF, 0xFE];

/// A session that lives, as whoever watches control and the shard's events knows it.
#[derive(Debug)]
pub struct Stay {
    pub user: UserId,
    pub channel: ChannelId,
    pub shard: usize,
    /// Whose it is, in the world's table.
    pub client: usize,
    pub policy: Policy,
    /// By its last op 5.
    pub said: Option<u32>,
    /// By its last op 12.
    pub camera: bool,
    /// Control was told that its media is up.
    pub connected: bool,
    /// Its SSRCs, once Ready has told them.
    pub ssrcs: Vec<Ssrc>,
    pub takes: Takes,
    pub sent_rtcp: bool,
    /// It comes by browser: the SSRCs under which it sends, once it has selected.
    pub own: Option<Vec<Ssrc>>,
    /// Video that had begun before it came and that it has not seen yet.
    pub missed: BTreeSet<Ssrc>,
}

/// What video a session sends and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    /// Whatever comes, under the sender's payload types.
    Anything,
    /// One codec, under its own payload types.
    Listed {
        codec: &'static str,
        media: u8,
        retransmission: u8,
    },
}

impl Takes {
    pub fn of(profile: &Profile) -> Self {
        let number = |codec: &serde_json::Value, key: &str| codec[key].as_u64().unwrap() as u8;
        match &profile.codecs {
            Some(codecs) if codecs[1].is_null() => Takes::Nothing,
            Some(codecs) => Takes::Listed {
                codec: "H264",
                media: number(&codecs[1], "payload_type"),
                retransmission: number(&codecs[1], "rtx_payload_type"),
            },
            None if profile.layers > 0 => Takes::Anything,
            None => Takes::Nothing,
        }
    }

    /// The payload types of what such a session sends: those it listed, or any.
    pub fn numbers(self) -> (u8, u8) {
        match self {
            Takes::Listed { media, retransmission, .. } => (media, retransmission),
            Takes::Anything | Takes::Nothing => (103, 104),
        }
    }

    /// Whether it takes what such a sender sends.
    fn takes_from(self, sender: Takes) -> bool {
        match (self, sender) {
            (Takes::Nothing, _) => false,
            (Takes::Anything, _) => true,
            (Takes::Listed { codec, .. }, Takes::Listed { codec: sent, .. }) => codec == sent,
            // What no one has named cannot be translated.
            (Takes::Listed { .. }, _) => false,
        }
    }
}

impl Stay {
    pub fn may_speak(&self) -> bool {
        let Policy { permissions, state, .. } = &self.policy;
        permissions.speak && !state.mute && !state.suppress
    }

    /// Whether others see its camera.
    pub fn shows(&self) -> bool {
        self.camera && self.policy.permissions.video
    }

    /// What others are shown of what it said.
    pub fn shown(&self) -> Option<u32> {
        let flags = self.said?;
        let priority = if self.policy.permissions.priority_speaker { 0 } else { 4 };
        Some(if self.may_speak() { flags & !priority } else { 0 })
    }
}

/// A packet of media that a client has sealed.
#[derive(Debug)]
struct Sent {
    by: Serial,
    ssrc: Ssrc,
    payload: Vec<u8>,
    keyframe: bool,
}

/// A datagram as its sender sealed it.
#[derive(Debug, Clone, Copy)]
pub struct Sealed {
    /// None of a browser's, whose nonces are its own affair.
    key: Option<[u8; 32]>,
    /// Which of the sender's stays in one half of the nonces.
    half: usize,
    /// Where a changed byte is noticed: the removed secretbox modes do not authenticate the header.
    pub bound_from: usize,
}

impl Sealed {
    /// As a browser does: all of a packet is bound.
    pub const BY_BROWSER: Self = Self { key: None, half: 0, bound_from: 0 };
}

/// Why a shard sends something.
#[derive(Debug, Clone, Copy)]
pub enum Cause {
    /// A datagram has come.
    Datagram,
    /// A session has got new rules.
    Update(Serial),
    /// Something that should send nothing.
    Other,
}

/// One stream as one hearer hears it.
#[derive(Debug)]
struct Ear {
    first: u16,
    last: u16,
    /// By distance from the first number.
    timestamps: BTreeMap<i16, u32>,
}

/// Every nonce used with one key, and what each side knew.
#[derive(Debug, Default)]
struct KeyUse {
    /// The server's, with how many it had used before.
    ours: HashMap<Vec<u8>, usize>,
    /// The client's, each with the half it was in.
    theirs: HashMap<Vec<u8>, usize>,
    /// For each stay of the client in one half: how many the server had used when it first saw it.
    seen_at: Vec<Option<usize>>,
    last_counter: u32,
}

#[derive(Debug, Default)]
pub struct Checkers {
    flawless: bool,
    pub stays: BTreeMap<Serial, Stay>,
    sent: HashMap<u64, Sent>,
    /// What each has got, and under which number.
    got: HashMap<(Serial, u64), u16>,
    /// Numbers of retransmissions.
    retransmissions: HashSet<(Serial, Ssrc, u16)>,
    /// Streams of video of which something was heard.
    pub begun: BTreeSet<Ssrc>,
    ears: HashMap<(Serial, Ssrc), Ear>,
    keys: HashMap<[u8; 32], KeyUse>,
    /// What each browser has got under its present keys: by SSRC its newest number, counted on over
    /// its laps, and all of them; of reports, their indices.
    sealed_for: HashMap<(Serial, Ssrc), (i64, HashSet<i64>)>,
    reports_for: HashSet<(Serial, u32)>,
    /// Copies of media in the present step, by hearer; of silence, too.
    pub copies: Vec<Serial>,
    pub silences: usize,
    /// Copies in the present step of what their hearers had before.
    pub again: u64,
}

impl Checkers {
    pub fn new(flawless: bool) -> Self {
        Self { flawless, ..Self::default() }
    }

    pub fn ended(&mut self, serial: Serial) {
        self.stays.remove(&serial);
    }

    /// The live sessions of a channel.
    pub fn members(&self, channel: ChannelId) -> impl Iterator<Item = (Serial, &Stay)> {
        let members = self.stays.iter().filter(move |(_, stay)| stay.channel == channel);
        members.map(|(serial, stay)| (*serial, stay))
    }

    /// Whose this stream is, and whether it is video.
    pub fn sender(&self, ssrc: Ssrc) -> (Serial, bool) {
        let mut stays = self.stays.iter();
        let (serial, stay) =
            stays.find(|(_, stay)| stay.ssrcs.contains(&ssrc)).expect("a live session's stream");
        (*serial, stay.ssrcs[0] != ssrc)
    }

    /// Who is due a packet of this sender's.
    pub fn hearers(&self, sender: Serial, video: bool) -> BTreeSet<Serial> {
        let from = &self.stays[&sender];
        let due = |stay: &Stay| {
            let takes = !video || stay.takes.takes_from(from.takes);
            stay.connected && !stay.policy.state.deaf && takes
        };
        let members = self.members(from.channel);
        let hearers = members.filter(|(serial, stay)| *serial != sender && due(stay));
        hearers.map(|(serial, _)| serial).collect()
    }

    /// A client is about to send media: gives it a payload like no other.
    pub fn payload(&mut self, by: Serial, ssrc: Ssrc, noise: Vec<u8>) -> Vec<u8> {
        self.payload_after(&[], by, ssrc, noise, false)
    }

    /// As before, for a payload that has to begin with something, perhaps with a keyframe.
    pub fn payload_after(
        &mut self,
        head: &[u8],
        by: Serial,
        ssrc: Ssrc,
        noise: Vec<u8>,
        keyframe: bool,
    ) -> Vec<u8> {
        let id = self.sent.len() as u64;
        let payload = [head, &id.to_be_bytes(), &noise].concat();
        self.sent.insert(id, Sent { by, ssrc, payload: payload.clone(), keyframe });
        payload
    }

    pub fn are_flawless(&self) -> bool {
        self.flawless
    }

    /// A client has sealed something, with this counter.
    pub fn sealed(&mut self, agreed: &Agreed, counter: u32, datagram: &[u8]) -> Sealed {
        let usage = self.keys.entry(agreed.key).or_default();
        if usage.seen_at.is_empty() || (counter ^ usage.last_counter) >> 31 != 0 {
            usage.seen_at.push(None);
        }
        usage.last_counter = counter;
        let half = usage.seen_at.len() - 1;
        let nonce = nonce_of(agreed.mode, datagram);
        if let Some(&index) = usage.ours.get(&nonce) {
            let residual = usage.seen_at[half].is_none_or(|seen_at| index < seen_at);
            assert!(residual, "a client meets a nonce that we used after we had seen it");
        }
        usage.theirs.insert(nonce, half);
        let aead = [Mode::Aes256GcmRtpsize, Mode::XChaCha20Poly1305Rtpsize, Mode::Aes256Gcm];
        let bound_from = if aead.contains(&agreed.mode) { 0 } else { datagram.len() - 4 };
        Sealed { key: Some(agreed.key), half, bound_from }
    }

    /// A shard has opened something authentic.
    pub fn opened(&mut self, sealed: Sealed) {
        let Some(key) = sealed.key else { return };
        let usage = self.keys.get_mut(&key).expect("a key in use");
        usage.seen_at[sealed.half].get_or_insert(usage.ours.len());
    }

    /// Where the next nonce of the server is to be met, if the client has used none yet.
    pub fn ambush(&self, agreed: &Agreed) -> Option<[u8; 4]> {
        let usage = self.keys.get(&agreed.key).filter(|usage| usage.theirs.is_empty())?;
        #[expect(clippy::disallowed_methods, reason = "there is one greatest, whatever the order")]
        let (last, _) = usage.ours.iter().max_by_key(|(_, index)| **index)?;
        last.last_chunk().copied()
    }

    /// A shard has sent something to a session, and its client has opened it.
    pub fn emitted(
        &mut self,
        cause: Cause,
        to: Serial,
        agreed: &Agreed,
        datagram: &[u8],
        heard: &Heard,
    ) {
        let usage = self.keys.entry(agreed.key).or_default();
        let nonce = nonce_of(agreed.mode, datagram);
        let index = usage.ours.len();
        if let Some(&half) = usage.theirs.get(&nonce) {
            let residual = usage.seen_at[half].is_none_or(|seen_at| index < seen_at);
            assert!(residual, "we use a nonce of a client's after we had seen it");
        }
        assert_eq!(usage.ours.insert(nonce, index), None, "we use a nonce twice");
        match heard {
            Heard::Rtp { .. } => self.media(cause, to, heard),
            Heard::Rtcp(compound) => self.reported(to, compound),
        }
    }

    /// A browser has selected: what is sealed for it from now on has another key.
    pub fn starts_again(&mut self, serial: Serial, own: Vec<Ssrc>) {
        let stay = self.stays.get_mut(&serial).expect("a live session");
        (stay.own, stay.connected) = (Some(own), false);
        self.ears.retain(|(to, _), _| *to != serial);
        self.sealed_for.retain(|(to, _), _| *to != serial);
        self.reports_for.retain(|(to, _)| *to != serial);
    }

    /// As [`Self::emitted`], to a browser, whose nonces are made of the numbers.
    pub fn emitted_to_browser(
        &mut self,
        cause: Cause,
        to: Serial,
        datagram: &[u8],
        heard: &Heard,
        tag_is_last: bool,
    ) {
        match heard {
            Heard::Rtp { ssrc, seq, .. } => {
                let first = (i64::from(*seq), HashSet::new());
                let (newest, numbers) = self.sealed_for.entry((to, *ssrc)).or_insert(first);
                let number = *newest + i64::from(seq.wrapping_sub(*newest as u16) as i16);
                *newest = number.max(*newest);
                assert!(numbers.insert(number), "we use a nonce twice: {seq} of {ssrc}");
                self.media(cause, to, heard);
            }
            Heard::Rtcp(compound) => {
                let end = datagram.len() - if tag_is_last { 10 } else { 0 };
                let word = datagram[end - 4..end].try_into().expect("four bytes");
                let word = u32::from_be_bytes(word);
                assert!(word >> 31 == 1 && self.reports_for.insert((to, word)), "a nonce twice");
                self.reported(to, compound);
            }
        }
    }

    fn media(&mut self, cause: Cause, to: Serial, heard: &Heard) {
        let Heard::Rtp {
            ssrc,
            payload_type,
            seq,
            timestamp,
            extension,
            payload,
            csrcs,
            padded,
            ..
        } = heard
        else {
            return;
        };
        let hearer = &self.stays[&to];
        let (by, _) = self.sender(*ssrc);
        let sender = &self.stays[&by];
        assert_ne!(by, to, "an echo");
        assert_eq!((sender.channel, sender.shard), (hearer.channel, hearer.shard), "a leak");
        assert!(!hearer.policy.state.deaf, "media for the deaf");
        assert!(!padded && *csrcs == 0);
        let stream = ssrc.0 - sender.ssrcs[0].0;
        let browser = hearer.own.is_some();
        if stream == 0 && browser {
            assert_eq!(*payload_type, OPUS);
        } else if stream == 0 {
            let elements = extension.as_ref().map(|(profile, elements)| (*profile, elements.len()));
            assert_eq!((*payload_type, elements), (120, Some((0xBEDE, 8))));
        } else {
            assert!(hearer.takes.takes_from(sender.takes), "video for who takes none");
            let named_by = if hearer.takes == Takes::Anything { sender } else { hearer };
            let (media, retransmission) = named_by.takes.numbers();
            let expected = if stream == 1 { media } else { retransmission };
            assert_eq!(*payload_type, expected);
            let block = extension.as_ref().map_or(&[][..], |(_, block)| block);
            let fitting = match browser {
                // Its own number for transport-wide numbers, Chromium's or Firefox's.
                true => matches!(block, [0x31 | 0x71, _, _, 0x22 | 0x42, ..]),
                false => matches!(block, [0x51, _, _, 0x32, ..]),
            };
            assert!(fitting, "the hop's own extensions: {block:02x?}");
        }
        if stream == 2 {
            assert!(matches!(hearer.takes, Takes::Listed { .. }), "it listed no such type");
            let numbers = &mut self.retransmissions;
            assert!(numbers.insert((to, *ssrc, *seq)), "a retransmission's number twice");
            let (original, payload) = payload.split_first_chunk().expect("a number");
            let original = u16::from_be_bytes(*original);
            return self.repeated(to, by, Ssrc(ssrc.0 - 1), original, payload);
        }
        if stream == 1 && self.has_got(to, payload) {
            return self.repeated(to, by, *ssrc, *seq, payload);
        }
        if payload == &SILENCE {
            assert!(matches!(cause, Cause::Update(serial) if serial == by), "silence of nobody's");
            self.silences += 1;
        } else {
            assert!(matches!(cause, Cause::Datagram));
            let allowed = if stream == 0 { sender.may_speak() } else { sender.shows() };
            assert!(allowed, "media of who may send none");
            let id = self.id_of(stream, payload).expect("a payload somebody sent");
            let sent = &self.sent[&id];
            assert_eq!((sent.by, sent.ssrc), (by, *ssrc));
            assert!(sent.payload == *payload, "not bit-exact");
            let named = matches!(sender.takes, Takes::Listed { .. });
            let missed = self.stays.get_mut(&to).expect("a live session").missed.remove(ssrc);
            assert!(
                !(missed && named && self.flawless) || self.sent[&id].keyframe,
                "video that begins without a keyframe"
            );
            assert_eq!(self.got.insert((to, id), *seq), None, "heard twice");
        }
        self.copies.push(to);
        self.numbered(to, *ssrc, *seq, *timestamp);
    }

    /// Which of all packets has this payload.
    fn id_of(&self, stream: u32, payload: &[u8]) -> Option<u64> {
        let head = if stream == 0 { 0 } else { VIDEO_HEAD };
        let id = payload.get(head..)?.first_chunk().map(|id| u64::from_be_bytes(*id))?;
        self.sent.contains_key(&id).then_some(id)
    }

    fn has_got(&self, to: Serial, payload: &[u8]) -> bool {
        self.id_of(1, payload).is_some_and(|id| self.got.contains_key(&(to, id)))
    }

    /// A hearer has got again what it had got as `number`.
    fn repeated(&mut self, to: Serial, by: Serial, ssrc: Ssrc, number: u16, payload: &[u8]) {
        let id = self.id_of(1, payload).expect("a payload somebody sent");
        let sent = &self.sent[&id];
        assert_eq!((sent.by, sent.ssrc), (by, ssrc));
        assert!(sent.payload == *payload, "not bit-exact");
        assert!(self.stays[&by].shows(), "video of who may send none");
        assert_eq!(self.got.get(&(to, id)), Some(&number), "another packet had this number");
        self.again += 1;
    }

    fn numbered(&mut self, to: Serial, ssrc: Ssrc, seq: u16, timestamp: u32) {
        let Some(ear) = self.ears.get_mut(&(to, ssrc)) else {
            let timestamps = BTreeMap::from([(0, timestamp)]);
            self.ears.insert((to, ssrc), Ear { first: seq, last: seq, timestamps });
            return;
        };
        let place = seq.wrapping_sub(ear.first) as i16;
        let repeated = ear.timestamps.insert(place, timestamp);
        assert_eq!(repeated, None, "number {seq} of {ssrc} twice");
        if self.flawless {
            assert_eq!(seq, ear.last.wrapping_add(1), "a hole where nothing was lost");
            let before = ear.timestamps[&(place - 1)];
            assert!(timestamp.wrapping_sub(before) as i32 > 0, "the clock of {ssrc} goes back");
        }
        ear.last = seq;
    }

    fn reported(&self, to: Serial, compound: &[u8]) {
        let hearer = &self.stays[&to];
        let of_use = hearer.sent_rtcp || hearer.takes != Takes::Nothing || hearer.own.is_some();
        let own = hearer.own.as_ref().unwrap_or(&hearer.ssrcs);
        assert!(of_use, "a report for who has no use for it");
        let all: Vec<_> = reports(compound).collect();
        for report in &all {
            match report {
                Report::SenderReport(report) => {
                    let mut members = self.members(hearer.channel);
                    assert!(!hearer.policy.state.deaf, "a sender's report for the deaf");
                    assert!(
                        members.any(|(by, stay)| by != to && stay.ssrcs.contains(&report.ssrc)),
                        "a report on a stranger"
                    );
                }
                Report::ReceiverReport(report) => {
                    let all = report.blocks.iter().all(|block| own.contains(&block.ssrc));
                    assert!(all, "a report on somebody else's stream");
                }
                Report::Pli(pli) => assert!(own.contains(&pli.media)),
                Report::Nack(nack) => assert!(own.contains(&nack.media)),
                Report::TransportCc(feedback) => assert!(own.contains(&feedback.media)),
                Report::Sdes(_) => {}
                other => panic!("we send no {other:?}"),
            }
        }
        let first = all.first().expect("a report");
        assert!(matches!(first, Report::SenderReport(_) | Report::ReceiverReport(_)));
    }
}

/// The nonce that a sealed datagram was sealed with.
fn nonce_of(mode: Mode, datagram: &[u8]) -> Vec<u8> {
    match mode {
        Mode::XSalsa20Poly1305 if classify(datagram) == Kind::Rtcp => datagram[..8].to_vec(),
        Mode::XSalsa20Poly1305 => datagram[..12].to_vec(),
        Mode::XSalsa20Poly1305Suffix => datagram[datagram.len() - 24..].to_vec(),
        _ => datagram[datagram.len() - 4..].to_vec(),
    }
}
