//! How a browser's media path comes about and ends: connectivity checks, the DTLS handshake, keys,
//! consent (protocol.md §3.3). Part of `Shard`. Checks are answered as they come, for they are
//! cheap; what a handshake costs is not, so its datagrams wait in a queue of their own and are
//! dealt with one at a time, between media.

use std::{net::SocketAddr, time::Instant};

use zeroize::Zeroizing;

use crate::{
    crypto::{Profile, Role, Srtp},
    egress::{Egress, Flow, Path},
    id::Serial,
    limits::{DTLS_DATAGRAM_BYTES_MAX, HANDSHAKE_DATAGRAMS_MAX, SESSION_HANDSHAKE_DATAGRAMS_MAX},
    metrics::DropReason,
    sfu::{
        Shard,
        peer::Peer,
        session::{Session, SessionIndex},
        timer::Timer,
        transport::Transport,
    },
    webrtc::{
        DtlsEvent,
        ice::{ANSWER_BYTES_MAX, local_ufrag},
    },
};

/// A datagram of a handshake that waits its turn.
#[derive(Debug)]
pub(super) struct Waiting {
    serial: Serial,
    path: Path,
    datagram: Box<[u8]>,
}

impl Shard {
    /// A connectivity check: finds its session by our half of the user name.
    pub(super) fn handle_stun(
        &mut self,
        now: Instant,
        path: Path,
        bytes: &[u8],
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let ufrag = local_ufrag(bytes).and_then(|ufrag| std::str::from_utf8(ufrag).ok());
        let ufrag = ufrag.ok_or(DropReason::BadStun)?;
        let index = *self.by_ufrag.get(ufrag).ok_or(DropReason::UnknownUfrag)?;
        let session = &mut self.sessions[index.index()];
        let peer = session.peer.as_mut().ok_or(DropReason::UnknownUfrag)?;
        if !peer.checks.take(now) {
            return Err(DropReason::RequestFlood);
        }
        let slot = egress.slot(Flow::NONE, path, ANSWER_BYTES_MAX);
        let mut slot = slot.ok_or(DropReason::RequestFlood)?;
        let answered = peer.ice.handle(now, path, bytes, slot.bytes())?;
        slot.commit(answered.len);
        self.counters.answered += 1;
        if !peer.ice.is_valid(path) {
            return Ok(());
        }
        let forgotten = peer.checked(path);
        if !self.is_in_use(now, path.remote, index) {
            self.by_source.insert(path.remote, index);
        }
        for remote in forgotten {
            self.unbind(remote, index);
        }
        if answered.nominated.is_some()
            && let Some(transport) = &mut self.transports[index.index()]
            && transport.nominated(path)
        {
            self.counters.rebound += 1;
        }
        Ok(())
    }

    /// Whether another session lives at this address, as far as its own datagrams have shown: a
    /// check may come from an address that was borrowed, so that one of a browser counts only once
    /// it has keys, and for as long as it goes on checking.
    pub(super) fn is_in_use(&self, now: Instant, remote: SocketAddr, index: SessionIndex) -> bool {
        let Some(&other) = self.by_source.get(&remote).filter(|other| **other != index) else {
            return false;
        };
        let Some(transport) = &self.transports[other.index()] else { return false };
        match &self.sessions[other.index()].peer {
            Some(peer) => peer.ice.is_alive_at(now, remote),
            None => transport.is_verified_at(remote),
        }
    }

    /// A datagram of a handshake, from a pair that has passed a check: it waits its turn.
    pub(super) fn queue_handshake(&mut self, path: Path, bytes: &[u8]) -> Result<(), DropReason> {
        let index = *self.by_source.get(&path.remote).ok_or(DropReason::UnknownSource)?;
        let session = &mut self.sessions[index.index()];
        let peer = session.peer.as_mut().ok_or(DropReason::UnknownSource)?;
        if !peer.ice.is_valid(path) {
            return Err(DropReason::UnknownSource);
        }
        if self.handshakes.len() >= HANDSHAKE_DATAGRAMS_MAX
            || peer.waiting >= SESSION_HANDSHAKE_DATAGRAMS_MAX
        {
            return Err(DropReason::HandshakeFlood);
        }
        peer.waiting += 1;
        let serial = session.admission.serial;
        self.handshakes.push_back(Waiting { serial, path, datagram: bytes.into() });
        Ok(())
    }

    /// Whether handshakes wait for [`Self::handle_handshake`].
    pub fn has_handshakes(&self) -> bool {
        !self.handshakes.is_empty()
    }

    /// Deals with one datagram of a handshake. This is where a browser's join costs processor time,
    /// up to some hundred microseconds: a driver calls it between batches of media.
    pub fn handle_handshake(&mut self, now: Instant, egress: &mut Egress) {
        let Some(Waiting { serial, path, datagram }) = self.handshakes.pop_front() else { return };
        let handled = self.take_handshake(now, serial, path, &datagram, egress);
        match handled {
            Ok(()) => self.counters.answered += 1,
            Err(reason) => self.counters.dropped(reason),
        }
    }

    fn take_handshake(
        &mut self,
        now: Instant,
        serial: Serial,
        path: Path,
        datagram: &[u8],
        egress: &mut Egress,
    ) -> Result<(), DropReason> {
        let index = *self.by_serial.get(&serial).ok_or(DropReason::UnknownSource)?;
        let peer = self.sessions[index.index()].peer.as_mut().ok_or(DropReason::UnknownSource)?;
        // A session that has selected again since has another peer, which has counted nothing.
        peer.waiting = peer.waiting.saturating_sub(1);
        if !peer.ice.is_valid(path) {
            return Err(DropReason::UnknownSource);
        }
        let handled = peer.dtls.handle(now, datagram);
        self.settle_handshake(now, index, path, egress);
        handled
    }

    /// A flight of the handshake was lost, perhaps, or it has taken too long.
    pub(super) fn check_handshake(&mut self, now: Instant, serial: Serial, egress: &mut Egress) {
        let Some(&index) = self.by_serial.get(&serial) else { return };
        let Some(peer) = self.sessions[index.index()].peer.as_mut() else { return };
        if !peer.flight.ring(now) {
            return;
        }
        peer.dtls.handle_timeout(now);
        let path = peer.ice.selected().or(peer.paths.last().copied());
        // A handshake has begun, so a pair has passed a check.
        if let Some(path) = path {
            self.settle_handshake(now, index, path, egress);
        }
    }

    /// Sends what DTLS has to say, and does what has come of it.
    fn settle_handshake(
        &mut self,
        now: Instant,
        index: SessionIndex,
        path: Path,
        egress: &mut Egress,
    ) {
        let session = &mut self.sessions[index.index()];
        let serial = session.admission.serial;
        let Some(peer) = session.peer.as_mut() else { return };
        // What finds no room is sent again, as if the network had lost it.
        while let Some(mut slot) = egress.slot(Flow::NONE, path, DTLS_DATAGRAM_BYTES_MAX) {
            let Some(len) = peer.dtls.poll_output(slot.bytes()) else { break };
            slot.commit(len);
        }
        if let Some(due) = peer.dtls.poll_timeout().filter(|due| peer.flight.set(*due)) {
            self.timers.set(due, Timer::Handshake(serial));
        }
        while let Some(peer) = self.sessions[index.index()].peer.as_mut()
            && let Some(event) = peer.dtls.poll_event()
        {
            match event {
                DtlsEvent::Connected { profile, material } => {
                    self.agree(now, index, path, profile.0, material);
                }
                DtlsEvent::Failed(why) => {
                    // Its browser is told by an alert, or has heard nothing for as long as we have,
                    // and selects again; its WebSocket has nothing to say about this, and a close
                    // would end more than is broken.
                    tracing::debug!(?serial, %why, "DTLS failed");
                    self.counters.handshakes_failed += 1;
                    self.part(index);
                }
                DtlsEvent::Closed => self.part(index),
            }
        }
    }

    /// The handshake is over: there are keys, and media may flow.
    fn agree(
        &mut self,
        now: Instant,
        index: SessionIndex,
        path: Path,
        profile: u16,
        material: Zeroizing<Vec<u8>>,
    ) {
        let session = &mut self.sessions[index.index()];
        let Some(peer) = &session.peer else { return };
        let profile = Profile::from_id(profile);
        let srtp = profile.and_then(|it| Srtp::new(it, &material, Role::Server));
        let srtp = srtp.expect("DTLS agrees on our profiles alone, and gives the keys they need");
        // Who has not chosen yet is answered where the handshake came from.
        let path = peer.ice.selected().unwrap_or(path);
        let transport = Transport::web_rtc(srtp, Flow(index.0), path, peer.layout);
        self.transports[index.index()] = Some(transport);
        self.counters.handshakes += 1;
        self.configure_transport(index);
        self.restart_laps(index);
        self.note_connected(index);
        self.wants_changed(now, index);
        self.restart_viewer(now, index);
        self.hasten_reports(now, index);
    }

    /// A hearer has a new key: what it is sent of every stream begins a first lap.
    fn restart_laps(&mut self, hearer: SessionIndex) {
        let Session { channel, position, .. } = self.sessions[hearer.index()];
        for member in &self.channels[channel].members {
            for stream in &mut self.sessions[member.index()].streams {
                if let Some(cursor) = stream.cursors.get_mut(position) {
                    cursor.rekeyed();
                }
            }
        }
    }

    /// Nobody has confirmed that media is wanted for as long as may be (RFC 7675): the transport is
    /// dead. The client keeps its WebSocket and may select again.
    pub(super) fn check_consent(&mut self, now: Instant, serial: Serial) {
        let Some(&index) = self.by_serial.get(&serial) else { return };
        let Some(peer) = &mut self.sessions[index.index()].peer else { return };
        if !peer.consent.ring(now) {
            return;
        }
        let until = peer.ice.consent_until();
        if until > now {
            peer.consent.set(until);
            return self.timers.set(until, Timer::Consent(serial));
        }
        tracing::debug!(?serial, "consent expired");
        self.counters.consent_expired += 1;
        self.part(index);
    }

    /// A browser's transport ends; its session does not.
    pub(super) fn part(&mut self, index: SessionIndex) {
        let Some(peer) = self.sessions[index.index()].peer.take() else { return };
        self.forget_peer(index, &peer);
        self.transports[index.index()] = None;
        self.sessions[index.index()].connected = false;
    }

    /// Takes a browser out of the shard's tables.
    pub(super) fn forget_peer(&mut self, index: SessionIndex, peer: &Peer) {
        self.by_ufrag.remove(&peer.ufrag);
        self.layouts.leave(peer.layout);
        for path in &peer.paths {
            self.unbind(path.remote, index);
        }
        for _ in 0..peer.inbound.early() {
            self.counters.dropped(DropReason::Unannounced);
        }
    }
}
