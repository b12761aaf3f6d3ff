//! One packet as hearers get it: header, extension and payload, made once for each layout of header
//! extensions that its hearers have and not once for each hearer. Called by the shard's ingress for
//! every packet, and by `forward` for every hearer.

use crate::{
    id::Ssrc,
    limits::PLAIN_BYTES_MAX,
    rtp::{
        Header, Packet,
        extension::{AUDIO_EXTENSION_WORDS, ElementWriter, audio_extension},
        packet::HEADER_BYTES,
    },
    sfu::{
        codec::{Media, OPUS_PAYLOAD_TYPE},
        layout::{Facts, LayoutId, Layouts},
        source::Place,
    },
    webrtc::{Extension, ExtensionMap},
};

/// Layouts of one channel's hearers whose forms are kept beside each other: plain UDP, and a few
/// makes of browser. With more, forms are made again.
const FORMS_MAX: usize = 4;

/// Bytes of extension elements we write: 4 of preamble are apart; the longest set, native video
/// with timing, needs less than 40.
const EXTENSION_BYTES_MAX: usize = 48;

/// What a native hearer of video is passed on: what is true of the packet wherever it goes.
/// Transport-wide numbers, mid and rid are the sender's transport's own, the send time is ours.
const NATIVE_VIDEO: [Extension; 5] = [
    Extension::TransmissionOffset,
    Extension::VideoOrientation,
    Extension::PlayoutDelay,
    Extension::VideoContentType,
    Extension::VideoTiming,
];

/// What a browser keeps of its offer on video that it is sent, but for what we stamp ourselves
/// (protocol.md §3.4).
const BROWSER_VIDEO: [Extension; 3] =
    [Extension::TransmissionOffset, Extension::VideoOrientation, Extension::PlayoutDelay];

/// A packet before it has any form.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Which sort of media.
    pub media: Media,
    /// The marker bit.
    pub marker: bool,
    /// Where it stands in the stream that the channel hears.
    pub place: Place,
    /// The stream's SSRC.
    pub ssrc: Ssrc,
    /// When it is sent, for `abs-send-time`.
    pub sent: [u8; 3],
    /// Audio: its level.
    pub level: u8,
    /// Audio: who speaks, for `speaker`.
    pub speaker: u8,
    /// Video: what its sender's header extensions said.
    pub facts: Facts<'a>,
    /// Video: whether hearers who wait for a keyframe go on with this packet.
    pub begins: bool,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Parts<'a> {
    /// The parts of a packet that had its native form once.
    pub fn of(packet: &Packet<'a>, media: Media, sent: [u8; 3]) -> Option<Self> {
        Some(Self {
            media,
            marker: packet.marker(),
            place: Place { seq: packet.seq(), timestamp: packet.timestamp() },
            ssrc: packet.ssrc(),
            sent,
            level: 0,
            speaker: 0,
            facts: Facts::read(packet, &ExtensionMap::NATIVE),
            begins: false,
            payload: packet.payload()?,
        })
    }

    /// Whether it is video.
    #[inline]
    pub fn is_video(&self) -> bool {
        self.media != Media::Audio
    }
}

/// A packet in one layout, with what differs from hearer to hearer yet to be filled in.
#[derive(Debug)]
pub struct Form {
    layout: LayoutId,
    bytes: [u8; PLAIN_BYTES_MAX],
    len: usize,
    /// Where the transport-wide number goes; 0 for nowhere.
    transport_cc: usize,
}

impl Form {
    /// The plain packet.
    #[inline]
    pub fn plain(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Writes a transport-wide number into a copy, if it has a place for one. Returns whether it
    /// has.
    #[inline]
    pub fn set_transport_cc(&self, copy: &mut [u8], number: u16) -> bool {
        let at = self.transport_cc;
        if at == 0 {
            return false;
        }
        copy[at..at + 2].copy_from_slice(&number.to_be_bytes());
        true
    }
}

/// The forms of the packet that is being forwarded.
#[derive(Debug)]
pub struct Forms {
    forms: Vec<Form>,
    made: usize,
}

impl Forms {
    /// Room for the forms of one packet at a time.
    pub fn new() -> Self {
        let blank = || Form {
            layout: LayoutId::NATIVE,
            bytes: [0; PLAIN_BYTES_MAX],
            len: 0,
            transport_cc: 0,
        };
        Self { forms: std::iter::repeat_with(blank).take(FORMS_MAX).collect(), made: 0 }
    }

    /// Begins a packet: makes its native form. `None` if that is too long to be sealed; no other
    /// form is longer.
    pub fn begin(&mut self, parts: &Parts<'_>) -> Option<()> {
        self.made = 0;
        write(&mut self.forms[0], LayoutId::NATIVE, &ExtensionMap::NATIVE, parts)?;
        self.made = 1;
        Some(())
    }

    /// The packet's native form.
    pub fn native(&self) -> &Form {
        &self.forms[0]
    }

    /// The packet's form in a layout.
    #[inline]
    pub fn of(&mut self, id: LayoutId, layouts: &Layouts, parts: &Parts<'_>) -> &Form {
        let known = self.forms[..self.made].iter().position(|form| form.layout == id);
        let place = known.unwrap_or_else(|| self.make(id, layouts, parts));
        &self.forms[place]
    }

    #[cold]
    fn make(&mut self, id: LayoutId, layouts: &Layouts, parts: &Parts<'_>) -> usize {
        // Native hearers keep their form; the others' places go round.
        let place = if self.made < FORMS_MAX { self.made } else { FORMS_MAX - 1 };
        self.made = place + 1;
        let form = &mut self.forms[place];
        let bare = ExtensionMap::default();
        // `begin` has found that the packet fits with a native header, so it does without
        // extensions.
        let written =
            write(form, id, layouts.get(id), parts).or_else(|| write(form, id, &bare, parts));
        debug_assert!(written.is_some(), "no form is longer than the native one must be");
        place
    }
}

/// Puts a packet together. `None` if it is too long.
fn write(form: &mut Form, id: LayoutId, layout: &ExtensionMap, parts: &Parts<'_>) -> Option<()> {
    let mut room = [0; EXTENSION_BYTES_MAX];
    let (words, transport_cc) = extension(&mut room, id, layout, parts);
    let extension = &room[..usize::from(words) * 4];
    let header = Header {
        marker: parts.marker,
        payload_type: OPUS_PAYLOAD_TYPE,
        seq: parts.place.seq,
        timestamp: parts.place.timestamp,
        ssrc: parts.ssrc,
        extension_words: (words > 0).then_some(words),
    };
    let head = if words > 0 { Header::BYTES_MAX } else { HEADER_BYTES };
    let body = head + extension.len();
    let len = body + parts.payload.len();
    let out = form.bytes.get_mut(..len)?;
    header.write(out);
    out[head..body].copy_from_slice(extension);
    out[body..].copy_from_slice(parts.payload);
    form.layout = id;
    form.len = len;
    form.transport_cc = transport_cc.map_or(0, |at| head + at);
    Some(())
}

/// Writes the extension elements. Returns how many words they are, and where among their bytes the
/// transport-wide number goes.
#[inline]
fn extension(
    out: &mut [u8; EXTENSION_BYTES_MAX],
    id: LayoutId,
    layout: &ExtensionMap,
    parts: &Parts<'_>,
) -> (u16, Option<usize>) {
    let native = id == LayoutId::NATIVE;
    if native && parts.media == Media::Audio {
        let elements = audio_extension(parts.sent, parts.level, parts.speaker);
        out[..elements.len()].copy_from_slice(&elements);
        return (AUDIO_EXTENSION_WORDS, None);
    }
    let mut to = ElementWriter::new(out);
    // What does not fit, or the hearer has no number for, is optional to every receiver, so it is
    // left out.
    let mut push = |extension, bytes: &[u8]| to.push(layout.id(extension)?, bytes);
    let mut transport_cc = None;
    if push(Extension::TransportCc, &[0; 2]).is_some() {
        // First, so that its number stands behind one byte of element header.
        transport_cc = Some(1);
    }
    if parts.media == Media::Audio {
        let _ = push(Extension::AudioLevel, &[parts.level]);
    } else {
        let _ = push(Extension::AbsSendTime, &parts.sent);
        for kept in if native { &NATIVE_VIDEO[..] } else { &BROWSER_VIDEO } {
            let _ = push(*kept, parts.facts.get(*kept));
        }
    }
    (to.finish(), transport_cc)
}
