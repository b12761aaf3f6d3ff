//! Sender reports towards hearers: those of clients that send any are passed on, mapped to what
//! hearers see, and for the streams of all others they are made from our own clock, so that every
//! hearer can play what belongs together at one time (protocol.md §2.5, §3.5). Part of `Shard`.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use crate::{
    egress::Egress,
    id::Serial,
    rtp::rtcp::{Blocks, SenderReport, write_cname},
    sfu::{
        Shard,
        session::{Role, SessionIndex, Stream},
        timer::Timer,
        transport::Transport,
    },
};

/// The first report on a stream that begins to send.
const FIRST_REPORT_AFTER: Duration = Duration::from_millis(200);
/// Reports while hearers are new, and how many of them.
const EARLY_INTERVAL: Duration = Duration::from_secs(1);
const EARLY_REPORTS: u8 = 5;
/// Reports after that: as often as clients send their own (protocol.md §2.5).
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a client's own report keeps us from making one: it has missed the next one by then.
const OWN_REPORTS_LAST: Duration = Duration::from_secs(12);

/// A report and a name: 28 bytes, and 12 with a user's id of at most 20 digits and padding.
const COMPOUND_BYTES_MAX: usize = 28 + 12 + 24;

/// What was given on of one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    packets: u32,
    octets: u32,
    /// `packets` at the last report.
    reported: u32,
}

impl Sent {
    /// A packet with so many bytes of payload.
    #[inline]
    pub fn count(&mut self, payload_bytes: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload_bytes as u32);
    }
}

/// When hearers are next due reports on a session's streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reporting {
    /// None while nothing is sent.
    at: Option<Instant>,
    last: Option<Instant>,
    early: u8,
}

impl Shard {
    /// A session has sent something: reports on it begin, unless they have.
    #[inline]
    pub(super) fn expect_reports(&mut self, now: Instant, index: SessionIndex) {
        if self.sessions[index.index()].reporting.at.is_none() {
            self.set_reports(now, index);
        }
    }

    #[cold]
    fn set_reports(&mut self, now: Instant, index: SessionIndex) {
        let session = &mut self.sessions[index.index()];
        let reporting = &mut session.reporting;
        let rested = reporting.last.map_or(now, |last| last + EARLY_INTERVAL);
        let at = rested.max(now + FIRST_REPORT_AFTER);
        if reporting.at.is_none_or(|set| at < set) {
            reporting.at = Some(at);
            self.timers.set(at, Timer::Reports(session.admission.serial));
        }
    }

    /// A hearer has come: it is told of everyone's clocks soon.
    pub(super) fn hasten_reports(&mut self, now: Instant, hearer: SessionIndex) {
        let takes_rtcp = |transport: &Transport| transport.takes_rtcp;
        if !self.transports[hearer.index()].as_ref().is_some_and(takes_rtcp) {
            return;
        }
        let channel = self.sessions[hearer.index()].channel;
        for place in 0..self.channels[channel].members.len() {
            let sender = self.channels[channel].members[place];
            let reporting = &mut self.sessions[sender.index()].reporting;
            reporting.early = 0;
            if sender != hearer && reporting.at.is_some() {
                self.set_reports(now, sender);
            }
        }
    }

    /// Reports on a session's streams may be due.
    pub(super) fn check_reports(&mut self, now: Instant, serial: Serial, egress: &mut Egress) {
        let Some(&index) = self.by_serial.get(&serial) else { return };
        let session = &mut self.sessions[index.index()];
        if session.reporting.at.is_none_or(|at| at > now) {
            return;
        }
        session.reporting.at = None;
        let mut sending = false;
        for place in 0..session.streams.len() {
            let stream = &mut self.sessions[index.index()].streams[place];
            let sent = &mut stream.sent;
            if sent.packets == sent.reported || Role::of(place) == Role::Retransmission {
                continue;
            }
            sent.reported = sent.packets;
            sending = true;
            if let Some((timestamp, sent)) = due_report(stream, now) {
                let report = SenderReport {
                    ssrc: stream.ssrc,
                    ntp: self.ntp(now),
                    rtp_timestamp: timestamp,
                    packets: sent.packets,
                    octets: sent.octets,
                    blocks: Blocks::default(),
                };
                self.report_to_hearers(index, &report, egress);
            }
        }
        // Who sends nothing is reported on again when it does.
        if !sending {
            return;
        }
        let reporting = &mut self.sessions[index.index()].reporting;
        let interval = if reporting.early < EARLY_REPORTS { EARLY_INTERVAL } else { INTERVAL };
        reporting.early = (reporting.early + 1).min(EARLY_REPORTS);
        reporting.last = Some(now);
        reporting.at = Some(now + interval);
        self.timers.set(now + interval, Timer::Reports(serial));
    }

    /// Gives a sender's report to all its hearers that take any.
    pub(super) fn report_to_hearers(
        &mut self,
        index: SessionIndex,
        report: &SenderReport<'_>,
        egress: &mut Egress,
    ) {
        let session = &self.sessions[index.index()];
        let (channel, user) = (session.channel, session.admission.user);
        let mut compound = [0; COMPOUND_BYTES_MAX];
        let Some(head) = report.write(&mut compound) else { return };
        let mut digits = [0; 20];
        let mut rest = &mut digits[..];
        // As many digits as 64 bits can have.
        let _ = write!(rest, "{user}");
        let unused = rest.len();
        let name = str::from_utf8(&digits[..digits.len() - unused]).unwrap_or_default();
        let named = write_cname(&mut compound[head..], report.ssrc, name);
        let len = head + named.unwrap_or(0);
        for position in 0..self.channels[channel].members.len() {
            let hearer = self.channels[channel].members[position];
            let deaf = |transport: &Transport| transport.deaf;
            if hearer != index && !self.transports[hearer.index()].as_ref().is_some_and(deaf) {
                self.send_rtcp(hearer, &compound[..len], egress);
            }
        }
    }
}

/// What a report of ours on a stream would say, if its sender does not report by itself.
fn due_report(stream: &Stream, now: Instant) -> Option<(u32, Sent)> {
    let own =
        stream.reported.is_some_and(|at| now.saturating_duration_since(at) < OWN_REPORTS_LAST);
    let timestamp = stream.source.timestamp_at(now)?;
    (!own).then_some((timestamp, stream.sent))
}
