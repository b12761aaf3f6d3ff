//! RTCP: consumed, answered and mapped, never passed on as it came (protocol.md §2.5). Part of
//! `Shard`.

use std::time::{Duration, Instant};

use crate::{
    egress::{Egress, Path},
    id::Ssrc,
    metrics::DropReason,
    rtp::{
        feedback::write_pli,
        rtcp::{
            BLOCK_BYTES, BLOCKS_MAX, Blocks, ReceiverReport, Report, ReportBlock, SenderReport,
            reports,
        },
    },
    sfu::{
        Shard,
        reception::to_65536ths,
        session::{Role, SessionIndex},
    },
};

/// Reports read of one compound datagram; a full datagram of the shortest has hundreds.
const REPORTS_MAX: usize = 32;

/// Sender reports of one stream are passed on no closer than this: each goes to every hearer that
/// takes RTCP, and clients send one about every five seconds (protocol.md §2.5).
const SENDER_REPORT_INTERVAL: Duration = Duration::from_millis(400);

/// Room for a report with all blocks.
const COMPOUND_BYTES_MAX: usize = 8 + BLOCKS_MAX * BLOCK_BYTES;

impl Shard {
    pub(super) fn handle_rtcp(
        &mut self,
        now: Instant,
        path: Path,
        bytes: &mut [u8],
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let ssrc = bytes.get(4..8).and_then(|word| word.first_chunk().copied());
        let ssrc = Ssrc(u32::from_be_bytes(ssrc.ok_or(DropReason::Malformed)?));
        let index = match self.by_source.get(&path.remote) {
            Some(&index) => index,
            None => {
                let index = *self.by_ssrc.get(&ssrc).ok_or(DropReason::UnknownSource)?;
                if self.sessions[index.index()].peer.is_some() {
                    return Err(DropReason::UnknownSource);
                }
                if !self.stranger_opens.take(now) {
                    return Err(DropReason::UnknownSourceFlood);
                }
                index
            }
        };
        let transport = self.transports[index.index()].as_mut().ok_or(DropReason::NoKey)?;
        let carriage = transport.carriage();
        let range = match transport.srtp() {
            Some(srtp) => srtp.open_rtcp(bytes)?,
            // RTCP has no replay window here, so it proves a key but not that its sender is there
            // now: the address does not follow it.
            None => {
                let opened = transport.open(bytes)?;
                transport.observe_rtcp(&opened);
                opened.range
            }
        };
        let session = &mut self.sessions[index.index()];
        if !session.reports.take(now) {
            return Err(DropReason::RtcpFlood);
        }
        session.sent_rtcp = true;
        let takes_rtcp = session.takes_rtcp(carriage);
        if let Some(transport) = &mut self.transports[index.index()] {
            transport.takes_rtcp = takes_rtcp;
        }
        for report in reports(&bytes[range]).take(REPORTS_MAX) {
            self.handle_report(now, index, report, egress);
        }
        Err(DropReason::RtcpConsumed)
    }

    fn handle_report(
        &mut self,
        now: Instant,
        index: SessionIndex,
        report: Report<'_>,
        egress: &mut Egress,
    ) {
        match report {
            Report::SenderReport(report) => {
                self.note_round_trip(now, index, report.blocks);
                self.handle_sender_report(now, index, &report, egress);
            }
            Report::ReceiverReport(report) => self.note_round_trip(now, index, report.blocks),
            Report::Pli(pli) => self.ask_keyframe(now, index, pli.media, egress),
            Report::Fir(fir) => {
                for (media, _) in fir.requests().take(BLOCKS_MAX) {
                    self.ask_keyframe(now, index, media, egress);
                }
            }
            Report::Nack(nack) => self.answer_nack(now, index, nack, egress),
            Report::TransportCc(report) => self.note_path(index, report),
            Report::Sdes(_) | Report::Bye(_) | Report::Remb(_) | Report::Other { .. } => {}
        }
    }

    /// Our reports carry our own clock, so their echo tells the round trip (RFC 3550 §6.4.1).
    fn note_round_trip(&mut self, now: Instant, index: SessionIndex, blocks: Blocks<'_>) {
        let own = (self.ntp(now) >> 16) as u32;
        let echo = blocks.iter().find(|block| block.last_sr != 0);
        let Some(ReportBlock { last_sr, delay_since_sr, .. }) = echo else { return };
        let round_trip = own.wrapping_sub(last_sr).wrapping_sub(delay_since_sr);
        // A clock of the client's own would give nonsense; nobody is a minute away.
        if round_trip < 60 << 16 {
            let micros = (u64::from(round_trip) * 1_000_000) >> 16;
            self.sessions[index.index()].rtt = Some(Duration::from_micros(micros));
        }
    }

    /// Answers a sender report with our view of all the sender's streams, and gives it on, mapped
    /// to what hearers see.
    fn handle_sender_report(
        &mut self,
        now: Instant,
        index: SessionIndex,
        report: &SenderReport<'_>,
        egress: &mut Egress,
    ) {
        let ntp = self.ntp(now);
        let session = &mut self.sessions[index.index()];
        let Some(stream_index) = session.sent_stream(report.ssrc) else { return };
        let stream = &mut session.streams[stream_index];
        let recently = stream
            .reported
            .is_some_and(|at| now.saturating_duration_since(at) < SENDER_REPORT_INTERVAL);
        if recently {
            return;
        }
        stream.reported = Some(now);
        stream.reception.sender_report(now, report.ntp);
        let mapped = stream.source.timestamp_offset().map(|offset| SenderReport {
            ssrc: stream.ssrc,
            ntp,
            rtp_timestamp: report.rtp_timestamp.wrapping_add(offset),
            packets: report.packets,
            octets: report.octets,
            blocks: Blocks::default(),
        });
        let mut blocks = [[0; BLOCK_BYTES]; BLOCKS_MAX];
        let mut count = 0;
        for stream in 0..session.streams.len().min(BLOCKS_MAX) {
            let Some(ssrc) = session.sent_ssrc(stream) else { continue };
            if let Some(block) = session.streams[stream].reception.report(now, ssrc) {
                blocks[count] = block.to_bytes();
                count += 1;
            }
        }
        let mut compound = [0; COMPOUND_BYTES_MAX];
        let answer = ReceiverReport { ssrc: self.own_ssrc, blocks: Blocks(&blocks[..count]) };
        if let Some(len) = answer.write(&mut compound) {
            self.send_rtcp(index, &compound[..len], egress);
        }
        // Retransmissions are not passed on, so neither is what they report. Nor is what is said of
        // a stream that the others may not have.
        let session = &self.sessions[index.index()];
        let heard =
            Role::of(stream_index) != Role::Retransmission && session.is_heard(stream_index);
        if let Some(mapped) = mapped.filter(|_| heard) {
            self.report_to_hearers(index, &mapped, egress);
        }
    }

    /// A hearer needs a keyframe: the sender is asked, unless it was just now.
    fn ask_keyframe(
        &mut self,
        now: Instant,
        hearer: SessionIndex,
        media: Ssrc,
        egress: &mut Egress,
    ) {
        let Some((sender, stream_index)) = self.fellow_video(hearer, media) else { return };
        let session = &mut self.sessions[sender.index()];
        let Some(theirs) = session.sent_ssrc(stream_index) else { return };
        let stream = &mut session.streams[stream_index];
        if stream.keyframes.pass_on(now) {
            self.send_feedback(sender, egress, |out, own| write_pli(out, own, theirs));
        }
    }

    /// Sends a report to whom it is of use. One that cannot be sent now is followed by another, so
    /// it counts as no drop.
    pub(super) fn send_rtcp(&mut self, to: SessionIndex, compound: &[u8], egress: &mut Egress) {
        let Some(transport) = &mut self.transports[to.index()] else { return };
        if transport.takes_rtcp {
            let _ = transport.seal_rtcp(compound, egress);
        }
    }

    /// The shard's clock as an NTP time stamp; only differences mean anything.
    pub(super) fn ntp(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.epoch);
        // One second ahead, so that no report of ours has the time stamp 0, which means none.
        let fraction = u64::from(to_65536ths(Duration::from_nanos(elapsed.subsec_nanos().into())));
        (elapsed.as_secs() + 1) << 32 | fraction << 16
    }
}
