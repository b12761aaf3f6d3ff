//! How losses of video are mended: hearers are sent again what they lack, senders are asked for
//! what never came, once for everyone. Part of `Shard`; what is kept for it is part of a stream.

use std::time::Instant;

use crate::{
    egress::Egress,
    id::Ssrc,
    limits::{PLAIN_BYTES_MAX, RETRANSMISSION_STREAMS_MAX},
    rtp::{Packet, extension::abs_send_time, feedback::Nack},
    sfu::{
        Shard,
        cursor::Cursor,
        form::Parts,
        forward::forward_one,
        laps::Number,
        missing::{Came, Missing},
        retransmit::{Answers, Cache},
        session::{Role, Session, SessionIndex},
    },
};

/// Packets that one NACK may name; half a second of video at 2.5 Mbit/s.
const NACKED_MAX: usize = 128;

/// How far a keyframe's first packet may be behind the newest when hearers begin with it. They are
/// sent what overtook it at once, and more than this would be a burst that nobody asked for.
pub(super) const CATCH_UP_MAX: u16 = 64;

/// What mends the losses of one stream of video, from the first packet that has a hearer until the
/// camera is off.
#[derive(Debug)]
pub struct Repair {
    /// None where the shard keeps too many already.
    pub cache: Option<Cache>,
    /// What never came.
    pub missing: Missing,
}

impl Shard {
    /// Packet `seq` of a stream of video has come, for the first time and in whatever way.
    pub(super) fn note_came(
        &mut self,
        now: Instant,
        index: SessionIndex,
        stream_index: usize,
        seq: u16,
    ) {
        let session = &mut self.sessions[index.index()];
        let heard = self.channels[session.channel].members.len() > 1;
        let stream = &mut session.streams[stream_index];
        if !heard {
            // What nobody waits for is not asked for, nor later on.
            stream.repair.iter_mut().for_each(|repair| repair.missing.restart());
            return;
        }
        let repair = stream.repair.get_or_insert_with(|| {
            let cache = (self.caches < RETRANSMISSION_STREAMS_MAX).then(Cache::new);
            self.caches += usize::from(cache.is_some());
            Box::new(Repair { cache, missing: Missing::new() })
        });
        match repair.missing.came(now, seq) {
            Came::Fine => {}
            Came::Mended => self.counters.mended += 1,
            Came::Interrupted => stream.keyframes.want(),
        }
        let due = repair.missing.due().into_iter().chain(stream.keyframes.due(now)).min();
        if let Some(due) = due {
            self.expect_feedback(index, due);
        }
    }

    /// A session's camera is off, or not shown: nobody asks for its packets any more.
    pub(super) fn end_repairs(&mut self, index: SessionIndex) {
        let session = &mut self.sessions[index.index()];
        self.caches -= caches(session);
        for stream in &mut session.streams {
            stream.repair = None;
            stream.keyframes.stop();
        }
    }

    /// Hearers have begun with a keyframe whose first packet, `first`, others had overtaken: they
    /// are given those as well.
    pub(super) fn catch_up(
        &mut self,
        now: Instant,
        index: SessionIndex,
        stream_index: usize,
        first: u16,
        egress: &mut Egress,
    ) {
        let sent = abs_send_time(now.saturating_duration_since(self.epoch));
        let session = &mut self.sessions[index.index()];
        let members = &self.channels[session.channel].members;
        let stream = &mut session.streams[stream_index];
        let cache = stream.repair.as_ref().and_then(|repair| repair.cache.as_ref());
        let (Some(cache), Some(newest)) = (cache, stream.source.newest()) else { return };
        for (hearer, cursor) in members.iter().zip(&mut stream.cursors) {
            let Some(transport) = &mut self.transports[hearer.index()] else { continue };
            if !cursor.has_just_begun_at(first) {
                continue;
            }
            for step in 1..=newest.wrapping_sub(first).min(CATCH_UP_MAX) {
                let seq = first.wrapping_add(step);
                let Some((packet, media)) = cache.get(seq) else { continue };
                let packet = Packet::new(packet);
                let Some(parts) = packet.and_then(|it| Parts::of(&it, media, sent)) else {
                    continue;
                };
                let forms = &mut self.forms;
                if forms.begin(&parts).is_none() {
                    continue;
                }
                let layouts = &self.layouts;
                let forwarded = forward_one(&parts, forms, cursor, transport, layouts, egress);
                self.counters.retransmitted += u64::from(forwarded.is_ok());
            }
        }
    }

    /// A hearer lacks packets of somebody's video. It is sent them again, or, if they never came,
    /// their sender is asked.
    pub(super) fn answer_nack(
        &mut self,
        now: Instant,
        hearer: SessionIndex,
        nack: Nack<'_>,
        egress: &mut Egress,
    ) {
        let Some((sender, stream_index)) = self.fellow_video(hearer, nack.media) else { return };
        let transport = self.transports[hearer.index()].as_ref();
        if transport.is_none_or(|transport| transport.deaf) {
            return;
        }
        let session = &self.sessions[hearer.index()];
        let (position, round_trip) = (session.position, session.round_trip());
        for number in nack.lost().take(NACKED_MAX) {
            let stream = &mut self.sessions[sender.index()].streams[stream_index];
            let Some(cursor) = stream.cursors.get(position) else { return };
            let Some(repair) = &mut stream.repair else { return };
            let Some(seq) = cursor.unpass(number) else { continue };
            let cached = repair.cache.as_ref().is_some_and(|cache| cache.get(seq).is_some());
            if !cached {
                // One that did come would be no news if its sender sent it again.
                let original = stream.source.original(seq);
                if let Some(original) = original.filter(|seq| stream.source.lacks(*seq)) {
                    repair.missing.want(now, original);
                }
                continue;
            }
            let answers = &mut self.sessions[hearer.index()].answers;
            let answers = answers.get_or_insert_with(|| Box::new(Answers::new()));
            if answers.take(now, round_trip, nack.media, seq) {
                let sent = self.send_again(now, sender, stream_index, hearer, seq, number, egress);
                self.counters.retransmitted += u64::from(sent.is_some());
            }
        }
        let repair = &self.sessions[sender.index()].streams[stream_index].repair;
        if let Some(due) = repair.as_ref().and_then(|repair| repair.missing.due()) {
            self.expect_feedback(sender, due);
        }
    }

    /// Sends a hearer packet `seq` of a stream again, which it knows as `number`: as a
    /// retransmission (RFC 4588 §4) if it listed a payload type for those, else as it was.
    #[expect(clippy::too_many_arguments, reason = "what, to whom and as what, each used once")]
    fn send_again(
        &mut self,
        now: Instant,
        sender: SessionIndex,
        stream_index: usize,
        hearer: SessionIndex,
        seq: u16,
        number: u16,
        egress: &mut Egress,
    ) -> Option<()> {
        let position = self.sessions[hearer.index()].position;
        let session = &mut self.sessions[sender.index()];
        let members = self.channels[session.channel].members.len();
        let (before, after) = session.streams.split_at_mut(stream_index + 1);
        let (stream, again) = (before.last()?, after.first_mut()?);
        let (packet, media) = stream.repair.as_ref()?.cache.as_ref()?.get(seq)?;
        let transport = self.transports[hearer.index()].as_mut()?;
        let sent = abs_send_time(now.saturating_duration_since(self.epoch));
        let parts = Parts::of(&Packet::new(packet)?, media, sent)?;
        let Some(payload_type) = media.retransmission_type_for(transport.video.as_ref()) else {
            let opus = transport.opus();
            let payload_type = media.payload_type_for(opus, transport.video.as_ref()).ok()?;
            if !transport.may_repeat() {
                return None;
            }
            self.forms.begin(&parts)?;
            let form = self.forms.of(transport.layout(), &self.layouts, &parts);
            let number = Number { seq: number, laps: 0 };
            return transport.seal(form, number, payload_type, egress).ok();
        };
        let mut payload = [0; PLAIN_BYTES_MAX];
        let (original, rest) = payload.split_first_chunk_mut()?;
        *original = number.to_be_bytes();
        rest.get_mut(..parts.payload.len())?.copy_from_slice(parts.payload);
        let payload = payload.get(..2 + parts.payload.len())?;
        let parts = Parts { ssrc: again.ssrc, payload, ..parts };
        again.cursors.resize(members, Cursor::default());
        let number = again.cursors.get_mut(position)?.count_on()?;
        self.forms.begin(&parts)?;
        let form = self.forms.of(transport.layout(), &self.layouts, &parts);
        transport.seal(form, number, payload_type, egress).ok()
    }

    /// The stream of video `media`, if it is of somebody else in the hearer's channel.
    pub(super) fn fellow_video(
        &self,
        hearer: SessionIndex,
        media: Ssrc,
    ) -> Option<(SessionIndex, usize)> {
        let sender = *self.by_ssrc.get(&media)?;
        let session = &self.sessions[sender.index()];
        let fellow = session.channel == self.sessions[hearer.index()].channel && sender != hearer;
        let stream = session.stream(media)?;
        (fellow && Role::of(stream) == Role::Video).then_some((sender, stream))
    }
}

/// How many streams of a session have their packets kept.
pub(super) fn caches(session: &Session) -> usize {
    let repairs = session.streams.iter().filter_map(|stream| stream.repair.as_ref());
    repairs.filter(|repair| repair.cache.is_some()).count()
}
