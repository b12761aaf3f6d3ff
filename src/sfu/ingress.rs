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
        Kind, Packet, classify,
        discovery::ping_reply,
        extension::{abs_send_time, speaker_byte},
    },
    sfu::{
        Shard,
        codec::{Media, OPUS_PAYLOAD_TYPE},
        cursor::Cursor,
        form::Parts,
        forward::{Hearers, forward},
        layout::Facts,
        publish::VOICE,
        repair::CATCH_UP_MAX,
        session::{Role, Session, SessionIndex, Stream},
        transport::{Sighting, Transport},
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
            Kind::Stun => self.handle_stun(now, path, bytes, egress),
            Kind::Dtls => self.queue_handshake(path, bytes),
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
        if session.peer.is_some() {
            return self.handle_srtp(now, index, ssrc, seq, bytes, egress);
        }
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
            self.bind(now, index, path, sighting);
        }
        self.handle_media(now, index, stream_index, seq, &bytes[opened.range], egress)
    }

    /// A packet from a browser's address: of one of its streams, or of one that is not known yet.
    fn handle_srtp(
        &mut self,
        now: Instant,
        index: SessionIndex,
        ssrc: Ssrc,
        seq: u16,
        bytes: &mut [u8],
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let transport = self.transports[index.index()].as_mut();
        let srtp = transport.and_then(Transport::srtp).ok_or(DropReason::NoKey)?;
        let session = &mut self.sessions[index.index()];
        let peer = session.peer.as_mut().ok_or(DropReason::NoKey)?;
        let accept = peer.inbound.check(ssrc, seq)?;
        let range = srtp.open(bytes, accept.laps())?;
        peer.inbound.commit(ssrc, accept);
        let plain = &bytes[range];
        // Whatever becomes of it: what is not reported counts as lost with its sender. Chromium
        // probes the path with padding under an SSRC that it announces with the first picture.
        if let Some(packet) = Packet::new(plain) {
            self.note_arrival(now, index, &packet);
        }
        let peer = self.sessions[index.index()].peer.as_mut().ok_or(DropReason::NoKey)?;
        let Some(stream) = peer.inbound.stream(ssrc) else {
            return self.keep_early(now, index, ssrc, plain);
        };
        if peer.inbound.holds_early() {
            self.release_early(now, index, egress);
        }
        self.handle_sent(now, index, stream, seq, plain, egress)
    }

    /// An authenticated packet of one of a browser's streams. It may have come already, as a
    /// retransmission.
    pub(super) fn handle_sent(
        &mut self,
        now: Instant,
        index: SessionIndex,
        stream: usize,
        seq: u16,
        plain: &[u8],
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let source = &mut self.sessions[index.index()].streams[stream].source;
        let accept = source.check_lasting(seq)?;
        source.commit(accept);
        self.handle_media(now, index, stream, seq, plain, egress)
    }

    /// An authenticated packet of a session's own stream, number `seq`.
    pub(super) fn handle_media(
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
        // Those of browsers are noted as they come, before they are known to be media.
        let is_new = role != Role::Voice && self.sessions[index.index()].peer.is_none();
        if let Some(packet) = packet.filter(|_| is_new) {
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
        } else if !session.announced {
            self.announce(index);
        }
        let session = &self.sessions[index.index()];
        let facts = Facts::read(&packet, session.numbers());
        let parts = Parts {
            media,
            marker: packet.marker(),
            place,
            ssrc: session.streams[stream_index].ssrc,
            sent: abs_send_time(now.saturating_duration_since(self.epoch)),
            level: facts.audio_level().unwrap_or_else(|| usual_level(payload)),
            speaker: speaker_byte(flags),
            facts,
            begins: false,
            payload,
        };
        let given = self.fan_out(now, index, stream_index, parts, egress);
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
        for _ in 0..SILENCE_FRAMES {
            let stream = &mut self.sessions[index.index()].streams[VOICE];
            let Some(place) = stream.source.insert(now, FRAME_TICKS) else { return };
            let parts = Parts {
                media: Media::Audio,
                marker: false,
                place,
                ssrc: stream.ssrc,
                sent,
                level: LEVEL_SILENT,
                speaker: speaker_byte(0),
                facts: Facts::default(),
                begins: false,
                payload: &SILENCE,
            };
            // Nobody sent this packet, so if nobody can hear it none was dropped.
            let _ = self.fan_out(now, index, VOICE, parts, egress);
        }
    }

    /// Gives everyone else in the channel a packet of a session's stream.
    fn fan_out(
        &mut self,
        now: Instant,
        index: SessionIndex,
        stream_index: usize,
        parts: Parts<'_>,
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        if parts.is_video() && self.sessions[index.index()].streams[stream_index].cursors.is_empty()
        {
            self.begin_wanted(index, stream_index);
        }
        let session = &mut self.sessions[index.index()];
        let members = &self.channels[session.channel].members;
        let stream = &mut session.streams[stream_index];
        // Whoever is there when a stream begins hears it from its beginning.
        stream.cursors.resize(members.len(), Cursor::default());
        if members.len() < 2 {
            return Err(DropReason::NoHearer);
        }
        if self.forms.begin(&parts).is_none() {
            // Every cursor has to hear of every packet, or it takes the stream to have gone back.
            stream.cursors.iter_mut().for_each(|cursor| cursor.lose(parts.place.seq));
            return Err(DropReason::Oversize);
        }
        let Parts { media, place, payload, .. } = parts;
        stream.sent.count(payload.len());
        let keyframe = media.begins_keyframe(payload);
        if keyframe == Some(true) {
            stream.keyframes.seen();
        }
        let behind = stream.source.newest().map_or(0, |newest| newest.wrapping_sub(place.seq));
        // Where keyframes cannot be told, hearers begin anywhere.
        let begins = parts.is_video()
            && (keyframe != Some(false) || stream.keyframes.is_illegible())
            && behind <= CATCH_UP_MAX;
        if std::mem::take(&mut stream.cut) {
            stream.cursors.iter_mut().for_each(Cursor::wait);
        }
        if let Some(cache) = stream.repair.as_mut().and_then(|repair| repair.cache.as_mut()) {
            cache.store(place.seq, media, self.forms.native().plain());
        }
        let waited = self.counters.drops_for(DropReason::AwaitingKeyframe);
        let parts = Parts { begins, ..parts };
        let hearers = Hearers {
            members,
            cursors: &mut stream.cursors,
            transports: &mut self.transports,
            layouts: &self.layouts,
        };
        forward(&parts, &mut self.forms, index, hearers, egress, &mut self.counters);
        if self.counters.drops_for(DropReason::AwaitingKeyframe) > waited {
            stream.keyframes.pass_by();
            if let Some(due) = stream.keyframes.due(now) {
                self.expect_feedback(index, due);
            }
        }
        if begins && behind > 0 {
            self.catch_up(now, index, stream_index, place.seq, egress);
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
        if let Some(index) = bound {
            let session = &self.sessions[index.index()];
            // A browser sends under SSRCs of its own, from addresses that it has checked.
            if session.peer.is_some() || session.stream(ssrc).is_some() {
                return Ok((index, None));
            }
        }
        let stranger = match bound {
            Some(_) => DropReason::ForeignSsrc,
            None => DropReason::UnknownSource,
        };
        let index = *self.by_ssrc.get(&ssrc).ok_or(stranger)?;
        if self.sessions[index.index()].peer.is_some() {
            return Err(stranger);
        }
        if !self.stranger_opens.take(now) {
            return Err(DropReason::UnknownSourceFlood);
        }
        Ok((index, Some(if bound.is_some() { stranger } else { DropReason::BadTag })))
    }

    /// An authenticated packet has shown where a session is.
    fn bind(&mut self, now: Instant, index: SessionIndex, path: Path, sighting: Sighting) {
        if let Sighting::Moved(old) = sighting {
            self.counters.rebound += u64::from(old.is_some());
        }
        self.sessions[index.index()].candidate = Some(path);
        self.expect_from(now, index, path.remote);
        self.note_connected(index);
    }

    /// Expects a session's media from `remote` and from nowhere else.
    pub(super) fn expect_from(&mut self, now: Instant, index: SessionIndex, remote: SocketAddr) {
        // Discovery proves little, and a browser is known by its address alone.
        let holder = self.by_source.get(&remote).filter(|holder| **holder != index);
        if holder.is_some_and(|holder| self.sessions[holder.index()].peer.is_some())
            && self.is_in_use(now, remote, index)
        {
            return;
        }
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
            // Whatever it listed, 120 is Opus on plain UDP (protocol.md §2.3).
            let named = [session.opus_payload_type, OPUS_PAYLOAD_TYPE];
            let named = if session.peer.is_some() { &named[..1] } else { &named };
            return audible(session.may_speak(), payload_type, named);
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

fn audible(may_speak: bool, payload_type: u8, opus: &[u8]) -> Result<Media, DropReason> {
    if !may_speak {
        return Err(DropReason::Muted);
    }
    if !opus.contains(&payload_type) {
        return Err(DropReason::UnknownPayloadType);
    }
    Ok(Media::Audio)
}

/// The level of a packet whose sender gives none.
fn usual_level(payload: &[u8]) -> u8 {
    if payload == SILENCE { LEVEL_SILENT } else { LEVEL_VOICE }
}
