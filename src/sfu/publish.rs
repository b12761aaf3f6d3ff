//! What a browser says of its own SSRCs (op 5, op 12) or shows by its packets, and what browsers
//! are told of everyone who can be heard (protocol.md §3.4). Part of `Shard`. Others know a session
//! by the SSRCs that were given to it, whatever it sends under.

use std::time::Instant;

use crate::{
    egress::Egress,
    id::{Serial, Ssrc},
    metrics::DropReason,
    rtp::Packet,
    sfu::{
        Shard,
        camera::Camera,
        codec::Media,
        inbound::{EARLY_TIME_MAX, Early},
        layout::Facts,
        session::{Role, Session, SessionIndex},
        timer::Timer,
    },
    signalling::{Layer, Video},
};

/// A session's voice among its streams.
pub(super) const VOICE: usize = 0;

/// A layer's pictures among a session's streams; its retransmissions come next.
pub(super) fn pictures(layer: usize) -> usize {
    1 + 2 * layer
}

impl Shard {
    /// A browser says, or shows, by which SSRC it sends one of its streams.
    pub(super) fn learn(&mut self, now: Instant, index: SessionIndex, ssrc: Ssrc, stream: usize) {
        let session = &mut self.sessions[index.index()];
        let Some(peer) = &mut session.peer else { return };
        let Some(known) = session.streams.get_mut(stream) else { return };
        if !peer.inbound.assign(ssrc, stream) {
            return;
        }
        known.source.rekeyed();
        known.restart();
        let keyframe = known.keyframes.due(now);
        if peer.inbound.holds_early() && peer.early.set(now) {
            // At the next opportunity and not at once: who is told of it now shall hear of it
            // first.
            self.timers.set(now, Timer::Early(session.admission.serial));
        }
        if let Some(due) = keyframe {
            self.expect_feedback(index, due);
        }
        if stream == VOICE {
            self.announce(index);
        }
    }

    /// A browser declares its camera: learns its SSRCs and gives the declaration as the others are
    /// to see it. Layers that it was given no SSRCs for are left out.
    pub(super) fn learn_video(&mut self, now: Instant, index: SessionIndex, video: Video) -> Video {
        let given = self.sessions[index.index()].layers.clone();
        if let Some(ssrc) = video.audio_ssrc {
            self.learn(now, index, ssrc, VOICE);
        }
        let mut streams: Vec<Layer> = Vec::new();
        for (position, declared) in video.streams.iter().enumerate() {
            let named = given.iter().position(|layer| layer.rid == declared.rid);
            let Some(layer) = named.or((position < given.len()).then_some(position)) else {
                continue;
            };
            let Layer { ssrc, rtx_ssrc, .. } = given[layer];
            if streams.iter().any(|shown| shown.ssrc == ssrc) {
                continue;
            }
            // Who has one layer may name it at the top alone.
            let alone = video.streams.len() == 1;
            let own = declared.ssrc.or(video.video_ssrc.filter(|_| alone));
            let own_rtx = declared.rtx_ssrc.or(video.rtx_ssrc.filter(|_| alone));
            if let Some(own) = own {
                self.learn(now, index, own, pictures(layer));
            }
            if let Some(own) = own_rtx {
                self.learn(now, index, own, pictures(layer) + 1);
            }
            streams.push(Layer { ssrc, rtx_ssrc, ..declared.clone() });
        }
        Video { streams, ..video }
    }

    /// The others can hear a session from now on, and browsers among them are told so, for they
    /// learn of no SSRC but from op 12.
    pub(super) fn announce(&mut self, index: SessionIndex) {
        let session = &mut self.sessions[index.index()];
        if std::mem::replace(&mut session.announced, true) {
            return;
        }
        // Of a browser that has not said op 5 yet, for bots learn of SSRCs from nothing else.
        if session.peer.is_some() && session.speaking.is_none() {
            session.speaking = Some(0);
            self.show_speaking(index);
        }
        let session = &self.sessions[index.index()];
        let camera = Camera::of(session);
        let channel = session.channel;
        for position in 0..self.channels[channel].members.len() {
            let member = self.channels[channel].members[position];
            if member != index && self.sessions[member.index()].peer.is_some() {
                self.tell(member, &camera.message());
            }
        }
    }

    /// Tells a browser by which SSRCs it will hear those who are there.
    pub(super) fn tell_publishers(&mut self, index: SessionIndex) {
        let session = &self.sessions[index.index()];
        if session.peer.is_none() {
            return;
        }
        let channel = session.channel;
        for position in 0..self.channels[channel].members.len() {
            let other = self.channels[channel].members[position];
            let session = &self.sessions[other.index()];
            if other != index && (session.announced || session.shows_video()) {
                self.tell_camera(index, other);
            }
        }
    }

    /// An authenticated packet of a browser under an SSRC of which it has not said what it is. If
    /// it cannot be told from the packet either it is kept for a while.
    pub(super) fn keep_early(
        &mut self,
        now: Instant,
        index: SessionIndex,
        ssrc: Ssrc,
        plain: &[u8],
    ) -> Result<(), DropReason> {
        let packet = Packet::new(plain).ok_or(DropReason::Malformed)?;
        let session = &mut self.sessions[index.index()];
        let stream = recognise(session, &packet);
        let peer = session.peer.as_mut().ok_or(DropReason::NoKey)?;
        let held =
            peer.inbound.hold(Early { ssrc, seq: packet.seq(), plain: plain.into(), at: now });
        if held.is_ok() && peer.early.set(now + EARLY_TIME_MAX) {
            self.timers.set(now + EARLY_TIME_MAX, Timer::Early(session.admission.serial));
        }
        // Also if there is no room for it: else whoever sends much of what nobody knows would not
        // be heard.
        if let Some(stream) = stream {
            self.learn(now, index, ssrc, stream);
        }
        held
    }

    /// Early packets of a browser are known by now, or have been kept for long enough.
    pub(super) fn check_early(&mut self, now: Instant, serial: Serial, egress: &mut Egress) {
        let Some(&index) = self.by_serial.get(&serial) else { return };
        let Some(peer) = &mut self.sessions[index.index()].peer else { return };
        if !peer.early.ring(now) {
            return;
        }
        self.release_early(now, index, egress);
        let Some(peer) = &mut self.sessions[index.index()].peer else { return };
        while peer.inbound.take_stale(now).is_some() {
            self.counters.dropped(DropReason::Unannounced);
        }
        if let Some(until) = peer.inbound.early_until().filter(|until| peer.early.set(*until)) {
            self.timers.set(until, Timer::Early(serial));
        }
    }

    /// Forwards early packets whose stream is known.
    pub(super) fn release_early(&mut self, now: Instant, index: SessionIndex, egress: &mut Egress) {
        while let Some(peer) = &mut self.sessions[index.index()].peer
            && let Some((stream, early)) = peer.inbound.take_known()
        {
            let Early { seq, plain, .. } = early;
            if let Err(reason) = self.handle_sent(now, index, stream, seq, &plain, egress) {
                self.counters.dropped(reason);
            }
        }
    }
}

/// Which stream a packet must be of, by its payload type and the layer it names, if the browser has
/// said of none yet that it is that stream.
fn recognise(session: &Session, packet: &Packet<'_>) -> Option<usize> {
    let peer = session.peer.as_ref()?;
    let stream = if packet.payload_type() == session.opus_payload_type {
        VOICE
    } else {
        let codecs = session.codecs()?;
        let payload_type = packet.payload_type();
        let role = match Media::video(Some(codecs), payload_type) {
            Some(_) => Role::Video,
            None => {
                Media::retransmitted(Some(codecs), payload_type, None)?;
                Role::Retransmission
            }
        };
        // Who sends one layer need not name it.
        let mut active = session.video.iter().filter(|layer| layer.active);
        let only = active.next().filter(|_| active.next().is_none());
        let facts = Facts::read(packet, &peer.numbers);
        let layer = match facts.rid() {
            Some(rid) => session.layers.iter().position(|it| it.rid.as_bytes() == rid)?,
            None => session.layers.iter().position(|it| Some(it.ssrc) == only.map(|it| it.ssrc))?,
        };
        if session.video.is_empty() {
            return None;
        }
        pictures(layer) + usize::from(role == Role::Retransmission)
    };
    peer.inbound.ssrc(stream).is_none().then_some(stream)
}
