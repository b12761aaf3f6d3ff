//! IP discovery: a client asks under which address it is seen (protocol.md §2.1). Part of `Shard`.

use std::time::{Duration, Instant};

use crate::{
    egress::{Egress, Flow, Path},
    id::{Serial, Ssrc},
    metrics::DropReason,
    rtp::discovery::{DISCOVERY_BYTES, parse_request, write_response},
    sfu::{Shard, timer::Timer},
};

/// Pause before the answer to a client that meant to resume. It has its socket from before, and
/// discord.py a thread that reads it: an answer from the same machine can be there before the rest
/// of the library listens, and is thrown away; the library does not ask again.
const PAUSE: Duration = Duration::from_millis(50);

impl Shard {
    pub(super) fn handle_discovery(
        &mut self,
        now: Instant,
        path: Path,
        bytes: &[u8],
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let ssrc = parse_request(bytes).ok_or(DropReason::Malformed)?;
        let index = *self.by_ssrc.get(&ssrc).ok_or(DropReason::UnknownDiscovery)?;
        let session = &mut self.sessions[index.index()];
        if session.peer.is_some() {
            return Err(DropReason::UnknownDiscovery);
        }
        if !session.discoveries.take(now) {
            return Err(DropReason::RequestFlood);
        }
        let transport = self.transports[index.index()].as_mut();
        let bound = transport.as_ref().and_then(|transport| transport.path()).or(session.candidate);
        let is_deferred = session.is_revived;
        let is_plausible = session.is_plausible(path, bound);
        // Somebody else who knows the SSRC does not take the answer away.
        if is_deferred && (is_plausible || session.discovery_owed.is_none()) {
            session.discovery_owed = Some((ssrc, path));
            self.timers.set(now + PAUSE, Timer::Discovery(session.admission.serial));
        }
        if is_plausible {
            session.candidate = Some(path);
            if transport.is_none_or(|transport| transport.discovered(path)) {
                self.expect_from(now, index, path.remote);
                self.note_connected(index);
            }
        }
        if is_deferred { Ok(()) } else { self.answer_discovery(ssrc, path, egress) }
    }

    /// A client has had the time to listen for its answer.
    pub(super) fn check_discovery(&mut self, serial: Serial, egress: &mut Egress) {
        let Some(&index) = self.by_serial.get(&serial) else { return };
        let owed = self.sessions[index.index()].discovery_owed.take();
        let answered =
            owed.map_or(Ok(()), |(ssrc, path)| self.answer_discovery(ssrc, path, egress));
        if let Err(reason) = answered {
            self.counters.dropped(reason);
        }
    }

    fn answer_discovery(
        &mut self,
        ssrc: Ssrc,
        path: Path,
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let slot = egress.slot(Flow::NONE, path, DISCOVERY_BYTES);
        let mut slot = slot.ok_or(DropReason::RequestFlood)?;
        let out = slot.bytes().first_chunk_mut().ok_or(DropReason::RequestFlood)?;
        write_response(ssrc, path.remote, out);
        slot.commit(DISCOVERY_BYTES);
        self.counters.answered += 1;
        Ok(())
    }
}
