//! What a sender of video is owed, and when: requests for packets that never came, requests for
//! keyframes, transport-wide feedback on what has arrived. Part of `Shard`.

use std::time::{Duration, Instant};

use crate::{
    egress::Egress,
    id::{Serial, Ssrc},
    rtp::{
        Packet,
        extension::elements,
        feedback::{TransportCc, write_nack, write_pli},
        rtcp::{Blocks, ReceiverReport},
        transport_cc::FEEDBACK_BYTES_MAX,
    },
    sfu::{
        Shard,
        arrivals::Arrivals,
        missing::MISSING_MAX,
        session::{Role, SessionIndex, Stream},
        timer::Timer,
    },
    webrtc::Extension,
};

/// Arrivals are reported this often while there are any. More often costs a small sender's uplink
/// nothing but us a packet for each sender; less often makes estimates slow.
const ARRIVALS_INTERVAL: Duration = Duration::from_millis(100);

/// A packet is not asked for again sooner than this, however near its sender: our own clock is not
/// much finer.
const RETRY_MIN: Duration = Duration::from_millis(50);

/// Packets that one report of a hearer may tell of; it may claim to tell of 65,535 in a few bytes.
const STATUSES_MAX: usize = 1_024;

/// The longest feedback: an empty receiver report, and the transport-wide feedback behind it.
const COMPOUND_BYTES_MAX: usize = 8 + FEEDBACK_BYTES_MAX;

impl Shard {
    /// A packet has come, of video or of a browser; if it has a transport-wide number, a report on
    /// that is due soon.
    pub(super) fn note_arrival(&mut self, now: Instant, index: SessionIndex, packet: &Packet<'_>) {
        let session = &mut self.sessions[index.index()];
        let Some((profile, block)) = packet.extension() else { return };
        let numbers = session.numbers();
        let mut all = elements(profile, block);
        let number =
            all.find(|(element, _)| numbers.extension(*element) == Some(Extension::TransportCc));
        let Some(&[high, low]) = number.and_then(|(_, bytes)| bytes.first_chunk()) else { return };
        let arrivals = session.arrivals.get_or_insert_with(|| Box::new(Arrivals::new()));
        let since = now.saturating_duration_since(self.epoch);
        let owed = arrivals.note(since, u16::from_be_bytes([high, low]));
        if owed && session.arrivals_due.is_none() {
            let due = now + ARRIVALS_INTERVAL;
            session.arrivals_due = Some(due);
            self.expect_feedback(index, due);
        }
    }

    /// A hearer tells what has arrived of what it was sent.
    pub(super) fn note_path(&mut self, hearer: SessionIndex, report: TransportCc<'_>) {
        let path = &mut self.sessions[hearer.index()].path;
        for (_, arrival) in report.statuses().take(STATUSES_MAX) {
            let lost = u64::from(arrival.is_none());
            path.lost += lost;
            path.arrived += 1 - lost;
            self.counters.path_lost += lost;
            self.counters.path_reported += 1;
        }
    }

    /// Asks the senders of what a viewer cannot begin to see yet for keyframes.
    pub(super) fn want_keyframes(&mut self, now: Instant, viewer: SessionIndex) {
        let session = &self.sessions[viewer.index()];
        let (channel, position) = (session.channel, session.position);
        if session.payload_types().is_none() {
            return;
        }
        for place in 0..self.channels[channel].members.len() {
            let sender = self.channels[channel].members[place];
            let session = &mut self.sessions[sender.index()];
            if sender == viewer || !session.shows_video() {
                continue;
            }
            let mut due = None;
            for stream in videos(&mut session.streams) {
                if stream.cursors.get(position).is_some_and(|cursor| cursor.is_waiting()) {
                    stream.keyframes.want();
                    due = due.into_iter().chain(stream.keyframes.due(now)).min();
                }
            }
            if let Some(due) = due {
                self.expect_feedback(sender, due);
            }
        }
    }

    /// A viewer starts again: it can make nothing of any video up to a keyframe.
    pub(super) fn restart_viewer(&mut self, now: Instant, viewer: SessionIndex) {
        let session = &self.sessions[viewer.index()];
        let (channel, position) = (session.channel, session.position);
        for place in 0..self.channels[channel].members.len() {
            let sender = self.channels[channel].members[place];
            for stream in videos(&mut self.sessions[sender.index()].streams) {
                if let Some(cursor) = stream.cursors.get_mut(position) {
                    cursor.wait();
                }
            }
        }
        self.want_keyframes(now, viewer);
    }

    /// Wakes the shard at `at` to give a session feedback, if it does not wake earlier.
    pub(super) fn expect_feedback(&mut self, index: SessionIndex, at: Instant) {
        let session = &mut self.sessions[index.index()];
        if session.feedback_at.is_none_or(|set| at < set) {
            session.feedback_at = Some(at);
            self.timers.set(at, Timer::Feedback(session.admission.serial));
        }
    }

    /// A session's feedback may be due.
    pub(super) fn check_feedback(&mut self, now: Instant, serial: Serial, egress: &mut Egress) {
        if let Some(&index) = self.by_serial.get(&serial) {
            self.give_feedback(now, index, egress);
        }
    }

    /// Gives a session the feedback that is due, if any is.
    pub(super) fn give_feedback(&mut self, now: Instant, index: SessionIndex, egress: &mut Egress) {
        let session = &mut self.sessions[index.index()];
        if session.feedback_at.is_none_or(|at| at > now) {
            return;
        }
        session.feedback_at = None;
        let round_trip = session.round_trip().max(RETRY_MIN);
        for place in 0..session.streams.len() {
            let session = &mut self.sessions[index.index()];
            // What a browser has not named, or names no longer, it cannot be asked for.
            let Some(media) = session.sent_ssrc(place) else { continue };
            let stream = &mut session.streams[place];
            let mut lost = [0; MISSING_MAX];
            let missing = stream.repair.as_mut().map(|repair| &mut repair.missing);
            let count = missing.map_or(0, |missing| missing.ask(now, round_trip, &mut lost));
            let keyframe = stream.keyframes.ask(now);
            if count > 0 {
                self.send_feedback(index, egress, |out, own| {
                    write_nack(out, own, media, lost[..count].iter().copied())
                });
            }
            if keyframe {
                self.send_feedback(index, egress, |out, own| write_pli(out, own, media));
            }
        }
        self.report_arrivals(now, index, egress);
        let session = &self.sessions[index.index()];
        let mut due = session.arrivals_due;
        for (place, stream) in session.streams.iter().enumerate() {
            // Of a stream without a name nothing was asked, so that what is due of it would be due
            // again at once, for ever. `learn` looks again.
            if session.sent_ssrc(place).is_none() {
                continue;
            }
            let missing = stream.repair.as_ref().and_then(|repair| repair.missing.due());
            due = due.into_iter().chain(missing).chain(stream.keyframes.due(now)).min();
        }
        if let Some(due) = due {
            self.expect_feedback(index, due);
        }
    }

    fn report_arrivals(&mut self, now: Instant, index: SessionIndex, egress: &mut Egress) {
        let session = &mut self.sessions[index.index()];
        if session.arrivals_due.is_none_or(|due| due > now) {
            return;
        }
        session.arrivals_due = None;
        // It is on all that the session sends; one of its SSRCs has to stand for them.
        let media = session.sent_ssrc(1).or(session.sent_ssrc(0)).unwrap_or(session.audio_ssrc());
        let Some(mut arrivals) = session.arrivals.take() else { return };
        while arrivals.is_owed() {
            self.send_feedback(index, egress, |out, own| arrivals.write(out, own, media));
        }
        self.sessions[index.index()].arrivals = Some(arrivals);
    }

    /// Sends feedback behind the empty report that every compound begins with.
    pub(super) fn send_feedback(
        &mut self,
        to: SessionIndex,
        egress: &mut Egress,
        write: impl FnOnce(&mut [u8], Ssrc) -> Option<usize>,
    ) {
        let mut compound = [0; COMPOUND_BYTES_MAX];
        let head = ReceiverReport { ssrc: self.own_ssrc, blocks: Blocks::default() };
        let Some(head) = head.write(&mut compound) else { return };
        if let Some(len) = write(&mut compound[head..], self.own_ssrc) {
            self.send_rtcp(to, &compound[..head + len], egress);
        }
    }
}

/// The streams of a session that are video and no retransmissions.
fn videos(streams: &mut [Stream]) -> impl Iterator<Item = &mut Stream> {
    let all = streams.iter_mut().enumerate();
    all.filter(|(place, _)| Role::of(*place) == Role::Video).map(|(_, stream)| stream)
}
