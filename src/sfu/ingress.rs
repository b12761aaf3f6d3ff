//! What arrives over UDP: whose it is, whether it may be heard, and on to the hearers. Part of
//! `Shard`. Nothing a datagram claims has an effect before its tag has verified, but for discovery,
//! which proves its SSRC alone.

use std::{net::SocketAddr, time::Instant};

use crate::{
    egress::{Egress, Flow, Path},
    id::Ssrc,
    limits::DATAGRAM_BYTES_MAX,
    metrics::DropReason,
    rtp::{
        Header, Kind, Packet, classify,
        discovery::{DISCOVERY_BYTES, parse_request, ping_reply, write_response},
        extension::{
            AUDIO_EXTENSION_WORDS, ElementWriter, abs_send_time, audio_extension, elements, id,
            push_hop_elements, speaker_byte,
        },
    },
    sfu::{
        Shard,
        codec::{Media, OPUS_PAYLOAD_TYPE},
        cursor::Cursor,
        forward::{Fanout, forward},
        repair::CATCH_UP_MAX,
        session::{Role, Session, SessionIndex, Stream},
        source::Place,
        transport::Sighting,
    },
};

/// The Opus frame that ends a talk spurt; five of them do (protocol.md §2.3).
const SILENCE: [u8; 3] = [0xF8, 0xFF, 0xFE];
const SILENCE_FRAMES: usize = 5;
/// RTP ticks of a 20 ms frame of Opus.
const FRAME_TICKS: u32 = 960;

/// Audio levels for senders that give none (RFC 6464: a voice bit, then −dBov): silence is known by
/// its bytes, anything else is given an ordinary speaking level, since the payload may be
/// encrypted.
const LEVEL_SILENT: u8 = 127;
const LEVEL_VOICE: u8 = 0x80 | 30;

/// Bytes of rebuilt video extension elements: those passed on need less than 32.
const VIDEO_EXTENSION_BYTES_MAX: usize = 48;

/// Header extensions of video that are true of the packet wherever it goes. Transport-wide numbers,
/// mid and rid are the sender's transport's own, the send time is stamped anew.
const VIDEO_EXTENSIONS_KEPT: [u8; 5] = [
    id::TRANSMISSION_OFFSET,
    id::VIDEO_ORIENTATION,
    id::PLAYOUT_DELAY,
    id::VIDEO_CONTENT_TYPE,
    id::VIDEO_TIMING,
];

impl Shard {
    /// A datagram has arrived. Its bytes are decrypted in place; what is to be sent because of it
    /// is in `egress` when this returns.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        path: Path,
        bytes: &mut [u8],
        egress: &mut Egress,
    ) {
        self.counters.packets_in += 1;
        self.counters.bytes_in += bytes.len() as u64;
        let handled = match classify(bytes) {
            _ if bytes.len() > DATAGRAM_BYTES_MAX => Err(DropReason::Oversize),
            Kind::Rtp => self.handle_rtp(now, path, bytes, egress),
            Kind::Rtcp => self.handle_rtcp(now, path, bytes, egress),
            Kind::Discovery => self.handle_discovery(now, path, bytes, egress),
            Kind::Ping => self.handle_ping(now, path, bytes, egress),
            Kind::Stun | Kind::Dtls => Err(DropReason::NoWebRtc),
            Kind::Noise if self.by_source.contains_key(&path.remote) => Err(DropReason::Keepalive),
            Kind::Noise => Err(DropReason::Noise),
        };
        if let Err(reason) = handled {
            self.counters.dropped(reason);
        }
    }

    fn handle_rtp(
        &mut self,
        now: Instant,
        path: Path,
        bytes: &mut [u8],
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let header = Packet::new(bytes).ok_or(DropReason::Malformed)?;
        let (ssrc, seq) = (header.ssrc(), header.seq());
        let (index, stranger) = self.find_owner(now, path.remote, ssrc)?;
        let session = &mut self.sessions[index.index()];
        let stream_index = session.stream(ssrc).ok_or(DropReason::ForeignSsrc)?;
        let stream = &mut session.streams[stream_index];
        let source = &mut stream.source;
        let transport = self.transports[index.index()].as_mut().ok_or(DropReason::NoKey)?;
        let accepted = match source.check(seq) {
            Err(DropReason::Replayed) => return Err(DropReason::Replayed),
            accepted => accepted,
        };
        let opened = transport.open(bytes).map_err(|reason| stranger.unwrap_or(reason))?;
        let restarted;
        match accepted {
            // A source that starts again looks like two old packets sent again by somebody else,
            // who can only do it from another address.
            Ok(accept) if accept.restarted() && transport.path() != Some(path) => {
                source.note_jump(seq);
                return Err(DropReason::SequenceJump);
            }
            Ok(accept) => {
                restarted = source.commit(accept);
                if restarted {
                    stream.restart();
                }
            }
            // Authentic, but far off: if the next one is beside it, the source has restarted. It
            // may be an old one sent again by somebody else, so it moves nothing.
            Err(reason) => {
                source.note_jump(seq);
                return Err(reason);
            }
        }
        if !restarted {
            transport.observe(&opened);
        }
        let sighting = transport.sighted(path);
        if sighting != Sighting::Known || stranger.is_some() {
            self.bind(index, path, sighting);
        }
        self.handle_media(now, index, stream_index, seq, &bytes[opened.range], egress)
    }

    /// An authenticated packet of a session's own stream, number `seq`.
    fn handle_media(
        &mut self,
        now: Instant,
        index: SessionIndex,
        stream_index: usize,
        seq: u16,
        plain: &[u8],
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let packet = Packet::new(plain);
        let role = Role::of(stream_index);
        if let Some(packet) = packet.filter(|_| role != Role::Voice) {
            self.note_arrival(now, index, &packet);
        }
        let session = &mut self.sessions[index.index()];
        let Some(packet) = packet else {
            session.streams[stream_index].source.withhold(seq);
            return Err(DropReason::Malformed);
        };
        let media = media(session, stream_index, packet.payload_type());
        let payload = packet.payload().ok_or(DropReason::Malformed);
        let payload = payload.and_then(|bytes| match bytes {
            [] => Err(DropReason::EmptyPayload),
            bytes => Ok(bytes),
        });
        let flags = session.shown_speaking().unwrap_or(0) as u8;
        let stream = &mut session.streams[stream_index];
        let timestamp = packet.timestamp();
        stream.reception.received(now, seq, timestamp);
        let (media, payload) = match media.and_then(|media| Ok((media, payload?))) {
            Ok(heard) => heard,
            Err(reason) => {
                stream.source.withhold(seq);
                stream.cut |= reason == DropReason::VideoNotAllowed;
                return Err(reason);
            }
        };
        let (stream_index, seq, payload) = match role {
            Role::Voice | Role::Video => (stream_index, seq, payload),
            Role::Retransmission => {
                let primary = &mut session.streams[stream_index - 1];
                let (seq, payload) = unwrap_retransmission(primary, payload)?;
                (stream_index - 1, seq, payload)
            }
        };
        let stream = &mut session.streams[stream_index];
        let place = stream.source.place(now, seq, timestamp).ok_or(DropReason::LateAfterCut)?;
        stream.media = Some(media);
        if role != Role::Voice {
            self.note_came(now, index, stream_index, seq);
        }
        let sent = abs_send_time(now.saturating_duration_since(self.epoch));
        let mut room = [0; VIDEO_EXTENSION_BYTES_MAX];
        let words = match media {
            Media::Audio => {
                let extension = audio_extension(sent, level(&packet, payload), speaker_byte(flags));
                room[..extension.len()].copy_from_slice(&extension);
                AUDIO_EXTENSION_WORDS
            }
            Media::Video { .. } => video_extension(&packet, sent, &mut room),
        };
        let extension = &room[..usize::from(words) * 4];
        let marker = packet.marker();
        let given = self.fan_out(
            now,
            index,
            stream_index,
            media,
            marker,
            place,
            extension,
            payload,
            egress,
        );
        if role != Role::Voice {
            self.give_feedback(now, index, egress);
        }
        given?;
        self.counters.opened += 1;
        Ok(())
    }

    /// Ends a session's speech for its hearers, who would else wait for the rest of it.
    pub(super) fn end_speech(&mut self, now: Instant, index: SessionIndex, egress: &mut Egress) {
        let sent = abs_send_time(now.saturating_duration_since(self.epoch));
        let extension = audio_extension(sent, LEVEL_SILENT, speaker_byte(0));
        for _ in 0..SILENCE_FRAMES {
            let source = &mut self.sessions[index.index()].streams[0].source;
            let Some(place) = source.insert(now, FRAME_TICKS) else { return };
            // Nobody sent this packet, so if nobody can hear it none was dropped.
            let (media, payload) = (Media::Audio, &SILENCE);
            let _ = self.fan_out(now, index, 0, media, false, place, &extension, payload, egress);
        }
    }

    /// Gives everyone else in the channel a packet of a session's stream.
    #[expect(clippy::too_many_arguments, reason = "the parts of one packet, each used once")]
    fn fan_out(
        &mut self,
        now: Instant,
        index: SessionIndex,
        stream_index: usize,
        media: Media,
        marker: bool,
        place: Place,
        extension: &[u8],
        payload: &[u8],
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let session = &mut self.sessions[index.index()];
        let members = &self.channels[session.channel].members;
        let stream = &mut session.streams[stream_index];
        // Whoever is there when a stream begins hears it from its beginning.
        stream.cursors.resize(members.len(), Cursor::default());
        if members.len() < 2 {
            return Err(DropReason::NoHearer);
        }
        let header = Header {
            marker,
            payload_type: OPUS_PAYLOAD_TYPE,
            seq: place.seq,
            timestamp: place.timestamp,
            ssrc: stream.ssrc,
            extension_words: (!extension.is_empty()).then_some((extension.len() / 4) as u16),
        };
        let head = header.write(&mut self.scratch[..]);
        let body = head + extension.len();
        let len = body + payload.len();
        let out = self.scratch.get_mut(..len).ok_or(DropReason::Oversize)?;
        out[head..body].copy_from_slice(extension);
        out[body..].copy_from_slice(payload);
        stream.sent.count(payload.len());
        let keyframe = media.begins_keyframe(payload);
        if keyframe == Some(true) {
            stream.keyframes.seen();
        }
        let behind = stream.source.newest().map_or(0, |newest| newest.wrapping_sub(place.seq));
        // Where keyframes cannot be told, hearers begin anywhere.
        let begins = media != Media::Audio
            && (keyframe != Some(false) || stream.keyframes.is_illegible())
            && behind <= CATCH_UP_MAX;
        if std::mem::take(&mut stream.cut) {
            stream.cursors.iter_mut().for_each(Cursor::wait);
        }
        if let Some(cache) = stream.repair.as_mut().and_then(|repair| repair.cache.as_mut()) {
            cache.store(place.seq, media, out);
        }
        let waited = self.counters.drops_for(DropReason::AwaitingKeyframe);
        forward(
            &Fanout { packet: out, seq: place.seq, media, begins },
            index,
            members,
            &mut stream.cursors,
            &mut self.transports,
            egress,
            &mut self.counters,
        );
        if self.counters.drops_for(DropReason::AwaitingKeyframe) > waited {
            stream.keyframes.pass_by();
            if let Some(due) = stream.keyframes.due(now) {
                self.expect_feedback(index, due);
            }
        }
        if begins && behind > 0 {
            self.catch_up(index, stream_index, place.seq, egress);
        }
        self.expect_reports(now, index);
        Ok(())
    }

    /// The session that sends `ssrc`, by its address or, where the address is a stranger's, by the
    /// SSRC; then a second value says what it means if the packet does not open.
    fn find_owner(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        ssrc: Ssrc,
    ) -> Result<(SessionIndex, Option<DropReason>), DropReason> {
        let bound = self.by_source.get(&remote).copied();
        if let Some(index) = bound
            && self.sessions[index.index()].stream(ssrc).is_some()
        {
            return Ok((index, None));
        }
        let stranger = match bound {
            Some(_) => DropReason::ForeignSsrc,
            None => DropReason::UnknownSource,
        };
        let index = *self.by_ssrc.get(&ssrc).ok_or(stranger)?;
        if !self.stranger_opens.take(now) {
            return Err(DropReason::UnknownSourceFlood);
        }
        Ok((index, Some(if bound.is_some() { stranger } else { DropReason::BadTag })))
    }

    /// An authenticated packet has shown where a session is.
    fn bind(&mut self, index: SessionIndex, path: Path, sighting: Sighting) {
        if let Sighting::Moved(old) = sighting {
            self.counters.rebound += u64::from(old.is_some());
        }
        self.sessions[index.index()].candidate = Some(path);
        self.expect_from(index, path.remote);
        self.note_connected(index);
    }

    /// Expects a session's media from `remote` and from nowhere else.
    pub(super) fn expect_from(&mut self, index: SessionIndex, remote: SocketAddr) {
        let old = self.sessions[index.index()].bound.replace(remote);
        if let Some(old) = old.filter(|&old| old != remote) {
            self.unbind(old, index);
        }
        self.by_source.insert(remote, index);
    }

    /// Forgets that `remote` is this session's.
    pub(super) fn unbind(&mut self, remote: SocketAddr, index: SessionIndex) {
        if self.by_source.get(&remote) == Some(&index) {
            self.by_source.remove(&remote);
        }
    }

    fn handle_discovery(
        &mut self,
        now: Instant,
        path: Path,
        bytes: &[u8],
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let ssrc = parse_request(bytes).ok_or(DropReason::Malformed)?;
        let index = *self.by_ssrc.get(&ssrc).ok_or(DropReason::UnknownDiscovery)?;
        let session = &mut self.sessions[index.index()];
        if !session.discoveries.take(now) {
            return Err(DropReason::RequestFlood);
        }
        let transport = self.transports[index.index()].as_mut();
        let bound = transport.as_ref().and_then(|transport| transport.path()).or(session.candidate);
        if session.is_plausible(path, bound) {
            session.candidate = Some(path);
            if transport.is_none_or(|transport| transport.discovered(path)) {
                self.expect_from(index, path.remote);
                self.note_connected(index);
            }
        }
        let slot = egress.slot(Flow::NONE, path, DISCOVERY_BYTES);
        let mut slot = slot.ok_or(DropReason::RequestFlood)?;
        let out = slot.bytes().first_chunk_mut().ok_or(DropReason::RequestFlood)?;
        write_response(ssrc, path.remote, out);
        slot.commit(DISCOVERY_BYTES);
        self.counters.answered += 1;
        Ok(())
    }

    fn handle_ping(
        &mut self,
        now: Instant,
        path: Path,
        bytes: &[u8],
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let reply = ping_reply(bytes).ok_or(DropReason::Malformed)?;
        if !self.by_source.contains_key(&path.remote) && !self.stranger_requests.take(now) {
            return Err(DropReason::RequestFlood);
        }
        let slot = egress.slot(Flow::NONE, path, reply.len());
        let mut slot = slot.ok_or(DropReason::RequestFlood)?;
        slot.bytes().copy_from_slice(&reply);
        slot.commit(reply.len());
        self.counters.answered += 1;
        Ok(())
    }
}

/// What a packet of this stream and payload type carries, if others may have it.
fn media(session: &Session, stream_index: usize, payload_type: u8) -> Result<Media, DropReason> {
    let media = match Role::of(stream_index) {
        Role::Voice => {
            return audible(session.may_speak(), payload_type, session.opus_payload_type);
        }
        _ if !session.shows_video() => return Err(DropReason::VideoNotAllowed),
        Role::Video => Media::video(session.codecs(), payload_type),
        Role::Retransmission => {
            let newest = session.streams[stream_index - 1].media;
            Media::retransmitted(session.codecs(), payload_type, newest)
        }
    };
    media.ok_or(DropReason::UnknownPayloadType)
}

/// The number and the payload of what a retransmission repeats (RFC 4588 §4), taken into its stream
/// as if it had just come; if it is of any use there.
fn unwrap_retransmission<'a>(
    primary: &mut Stream,
    payload: &'a [u8],
) -> Result<(u16, &'a [u8]), DropReason> {
    let (seq, payload) = match payload.split_first_chunk() {
        Some((seq, payload)) if !payload.is_empty() => (u16::from_be_bytes(*seq), payload),
        // A probe of what the path carries.
        _ => return Err(DropReason::EmptyPayload),
    };
    let source = &mut primary.source;
    if !source.lacks(seq) {
        return Err(DropReason::UselessRetransmission);
    }
    let accept = source.check(seq).map_err(|_| DropReason::UselessRetransmission)?;
    source.commit(accept);
    Ok((seq, payload))
}

fn audible(may_speak: bool, payload_type: u8, opus: u8) -> Result<Media, DropReason> {
    if !may_speak {
        return Err(DropReason::Muted);
    }
    // Whatever it listed, 120 is Opus on UDP (protocol.md §2.3).
    if payload_type != opus && payload_type != OPUS_PAYLOAD_TYPE {
        return Err(DropReason::UnknownPayloadType);
    }
    Ok(Media::Audio)
}

fn level(packet: &Packet<'_>, payload: &[u8]) -> u8 {
    let extension = packet.extension();
    let mut all = extension.into_iter().flat_map(|(profile, block)| elements(profile, block));
    let given = all.find_map(|(element, bytes)| match bytes {
        [level, ..] if element == id::AUDIO_LEVEL => Some(*level),
        _ => None,
    });
    given.unwrap_or(if payload == SILENCE { LEVEL_SILENT } else { LEVEL_VOICE })
}

/// Writes the hop's own elements of a video packet, and those of its sender that stay true, into
/// `out`; returns how many words.
fn video_extension(packet: &Packet<'_>, sent: [u8; 3], out: &mut [u8]) -> u16 {
    let mut writer = ElementWriter::new(out);
    // There is room for these.
    let _ = push_hop_elements(&mut writer, sent);
    let (profile, block) = packet.extension().unwrap_or_default();
    for (element, bytes) in elements(profile, block) {
        if VIDEO_EXTENSIONS_KEPT.contains(&element) {
            // What does not fit is optional to every receiver, so it is left out.
            let _ = writer.push(element, bytes);
        }
    }
    writer.finish()
}
