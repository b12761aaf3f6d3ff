//! How sessions come and go: admission, resume, a WebSocket's end, expulsion. Part of `Shard`.

use std::time::Instant;

use crate::{
    id::{ConnectionId, Serial, Ssrc},
    limits::CHANNEL_SESSIONS_MAX,
    sfu::{
        Admission, AdmissionRequest, DisconnectReason, E2ee, Event, Shard, Verdict,
        channel::Channel,
        cursor::Cursor,
        repair::caches,
        session::{Away, Role, Session, SessionIndex},
        shard::{Arrival, Output, drain_outbox, index_of},
        timer::Timer,
    },
    signalling::{BROKEN, CloseCode, Identify, Resume, ServerMessage},
};

/// What those who stay in a channel need to know of a session's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// Its user has left.
    Left,
    /// Its user stays, with a newer session.
    Stays,
    /// Nothing: they go too.
    ChannelEnds,
}

impl Shard {
    /// Control has answered a connection.
    pub(super) fn decide(&mut self, now: Instant, id: ConnectionId, verdict: Verdict) {
        let asked = self.sockets.get_mut(&id).and_then(|socket| socket.asked.take());
        match (verdict, asked) {
            (Verdict::Join { admission, .. }, None) => self.miss(&admission),
            (_, None) => {}
            (Verdict::Refuse { code, why }, _) => self.close(now, id, code, why),
            (
                verdict @ (Verdict::Join { shard, .. } | Verdict::Resume { shard, .. }),
                Some(asked),
            ) if shard != self.config.id => {
                let Some(socket) = self.sockets.remove(&id) else { return };
                let arrival = Arrival { connection: socket.connection, asked, verdict };
                self.outputs.push_back(Output::Move { to: shard, arrival: Box::new(arrival) });
            }
            (Verdict::Join { admission, .. }, Some(AdmissionRequest::Identify(identify)))
                if (admission.server, admission.user) == (identify.server, identify.user) =>
            {
                self.join(now, id, &identify, *admission);
            }
            // Its session is lost, and its user is known: it gets another one.
            (Verdict::Join { admission, .. }, Some(AdmissionRequest::Resume(resume)))
                if (admission.server, &admission.session) == (resume.server, &resume.session) =>
            {
                let (serial, user) = (admission.serial, admission.user);
                self.join(now, id, &Identify::instead_of(resume, user), *admission);
                if let Some(&index) = self.by_serial.get(&serial) {
                    self.sessions[index.index()].is_revived = true;
                }
            }
            (Verdict::Resume { serial, .. }, Some(AdmissionRequest::Resume(resume))) => {
                self.resume(now, id, serial, &resume);
            }
            (verdict, Some(_)) => {
                if let Verdict::Join { admission, .. } = verdict {
                    self.miss(&admission);
                }
                self.close(now, id, CloseCode::AuthenticationFailed, "answered out of turn");
            }
        }
    }

    /// Control has let in a connection that no longer waits: the session ends before it began,
    /// which control must hear of, for it counts the session from its own answer on.
    fn miss(&mut self, admission: &Admission) {
        let serial = admission.serial;
        if !self.by_serial.contains_key(&serial) {
            let reason = DisconnectReason::ClientLeft;
            self.event(Event::Disconnected { serial, reason, close_code: BROKEN });
        }
    }

    fn join(&mut self, now: Instant, id: ConnectionId, identify: &Identify, admission: Admission) {
        let key = (admission.server, admission.user);
        let replaced = self.by_user.get(&key).copied();
        let returning = replaced
            .is_some_and(|old| self.sessions[old.index()].admission.channel == admission.channel);
        if let Err((code, why)) = self.may_join(&admission, returning) {
            return self.refuse(now, id, admission.serial, code, why);
        }
        let old = replaced.map(|old| &self.sessions[old.index()]);
        let showed = old.is_some_and(Session::shows_video);
        let spoke = old.is_some_and(|old| old.shown_speaking().is_some_and(|flags| flags != 0));
        if let Some(old) = replaced {
            self.replace(now, old, returning);
        }
        let index = self.seat(id, identify, admission);
        let session = &self.sessions[index.index()];
        let serial = session.admission.serial;
        let user = session.admission.user;
        let held = self.welcome(now, id, index);
        self.tell_ready(index);
        self.tell_present(index);
        if !returning {
            self.tell_others(index, &ServerMessage::ClientsConnect { users: &[user] });
        } else {
            // What the old session said and showed went with it.
            if spoke {
                let ssrc = self.sessions[index.index()].audio_ssrc();
                self.tell_others(index, &ServerMessage::Speaking { user, ssrc, flags: 0 });
            }
            if showed {
                self.show_video(index);
            }
        }
        self.tell_flags(index);
        self.event(Event::Identified { serial });
        self.hear_held(now, id, held);
    }

    /// Who is `returning` takes the place of an older session.
    fn may_join(
        &self,
        admission: &Admission,
        returning: bool,
    ) -> Result<(), (CloseCode, &'static str)> {
        if self.draining {
            return Err((CloseCode::ServerCrashed, "the server is stopping"));
        }
        // No DAVE yet, so no client can meet the requirement, whatever version it offers.
        if admission.policy.room.e2ee == E2ee::Required {
            return Err((CloseCode::E2eeRequired, "the channel requires end-to-end encryption"));
        }
        let members = self.by_channel.get(&admission.channel);
        let members = members.map_or(0, |&key| self.channels[key].members.len());
        let full = self.is_full() || members >= CHANNEL_SESSIONS_MAX;
        if full && !returning {
            return Err((CloseCode::Disconnected, "no room for another session"));
        }
        Ok(())
    }

    /// Refuses a connection that control has already let in, and tells control so.
    fn refuse(
        &mut self,
        now: Instant,
        id: ConnectionId,
        serial: Serial,
        code: CloseCode,
        why: &'static str,
    ) {
        let reason = DisconnectReason::ProtocolError;
        self.event(Event::Disconnected { serial, reason, close_code: code.code() });
        self.close(now, id, code, why);
    }

    /// Makes way for the same user's newer session. The others are not told when the user stays in
    /// the channel.
    fn replace(&mut self, now: Instant, old: SessionIndex, returning: bool) {
        let (code, reason) = (CloseCode::Disconnected, DisconnectReason::Replaced);
        if let Some(connection) = self.sessions[old.index()].connection.take() {
            self.sockets.remove(&connection);
            self.push_close(connection, code, "replaced by a newer session");
        }
        let notice = if returning { Notice::Stays } else { Notice::Left };
        self.remove(now, old, reason, code.code(), notice);
    }

    /// Gives a session its place in all tables.
    fn seat(
        &mut self,
        id: ConnectionId,
        identify: &Identify,
        admission: Admission,
    ) -> SessionIndex {
        let version = self.sockets[&id].connection.version();
        let base = self.free_ssrcs(Session::ssrcs(identify.streams.len()));
        let channel = self.channel_for(&admission);
        let position = self.channels[channel].members.len();
        let entry = self.sessions.vacant_entry();
        let index = index_of(entry.key());
        self.by_serial.insert(admission.serial, index);
        self.by_user.insert((admission.server, admission.user), index);
        let session = Session::new(admission, identify, version, channel, position, base);
        for stream in &session.streams {
            self.by_ssrc.insert(stream.ssrc, index);
        }
        entry.insert(session);
        if self.transports.len() <= index.index() {
            self.transports.resize_with(index.index() + 1, || None);
        }
        let channel = &mut self.channels[channel];
        channel.members.push(index);
        for member in &channel.members {
            let streams = self.sessions[member.index()].streams.iter_mut().enumerate();
            for (place, stream) in streams.filter(|(_, stream)| !stream.cursors.is_empty()) {
                stream.cursors.push(match Role::of(place) {
                    Role::Video => Cursor::expecting(),
                    Role::Voice | Role::Retransmission => Cursor::default(),
                });
            }
        }
        index
    }

    fn channel_for(&mut self, admission: &Admission) -> usize {
        let (id, kind) = (admission.channel, admission.kind);
        let channels = &mut self.channels;
        *self.by_channel.entry(id).or_insert_with(|| channels.insert(Channel::new(id, kind)))
    }

    /// The first of `count` consecutive SSRCs that no live session has.
    fn free_ssrcs(&mut self, count: u32) -> Ssrc {
        loop {
            let base = self.random.ssrc();
            if (0..count).all(|offset| !self.by_ssrc.contains_key(&Ssrc(base.0 + offset))) {
                return base;
            }
        }
    }

    /// Joins a connection and a session. Gives what the client said while it waited.
    fn welcome(
        &mut self,
        now: Instant,
        id: ConnectionId,
        index: SessionIndex,
    ) -> Vec<crate::signalling::Request> {
        let session = &mut self.sessions[index.index()];
        session.connection = Some(id);
        session.away = None;
        let Some(socket) = self.sockets.get_mut(&id) else { return Vec::new() };
        socket.session = Some(index);
        session.host = Some(socket.connection.address());
        socket.connection.joined(now)
    }

    fn resume(&mut self, now: Instant, id: ConnectionId, serial: Serial, resume: &Resume) {
        if self.draining {
            return self.close(now, id, CloseCode::ServerCrashed, "the server is stopping");
        }
        let (code, why) = (CloseCode::SessionInvalid, "no such session");
        let Some(&index) = self.by_serial.get(&serial) else {
            return self.close(now, id, code, why);
        };
        let version = self.sockets[&id].connection.version();
        let session = &mut self.sessions[index.index()];
        let admission = &session.admission;
        if admission.token != resume.token || admission.session != resume.session {
            return self.close(now, id, code, why);
        }
        // A session's messages are encoded for the version it identified with.
        if version != session.version {
            return self.close(now, id, code, "resumed with another gateway version");
        }
        if version.numbered() && session.replay.replay_after(resume.seq_ack).is_err() {
            return self.close(now, id, code, "messages were lost while away");
        }
        if !session.resumes.take(now) {
            return self.close(now, id, CloseCode::RateLimited, "resumed again and again");
        }
        if let Some(old) = session.connection.take() {
            self.sockets.remove(&old);
            self.push_close(old, CloseCode::Disconnected, "resumed on another connection");
        }
        let held = self.welcome(now, id, index);
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.connection.send(&ServerMessage::Resumed);
            let session = &self.sessions[index.index()];
            if version.numbered() {
                let missed = session.replay.replay_after(resume.seq_ack);
                missed.into_iter().flatten().for_each(|frame| {
                    socket.connection.queue(frame.clone());
                });
            }
            drain_outbox(&mut socket.connection, &mut self.outputs);
        }
        if !version.numbered() {
            self.tell_left(index);
            self.tell_present(index);
        }
        if std::mem::take(&mut self.sessions[index.index()].repeat_description) {
            self.tell_description(index);
        }
        self.hear_held(now, id, held);
    }

    /// Closes a connection for a reason of ours, and with it the session, unless its client may
    /// resume.
    pub(super) fn close(
        &mut self,
        now: Instant,
        id: ConnectionId,
        code: CloseCode,
        why: &'static str,
    ) {
        let Some(mut socket) = self.sockets.remove(&id) else { return };
        self.drain_outbox(&mut socket.connection);
        self.push_close(id, code, why);
        let Some(index) = socket.session else { return };
        match code {
            CloseCode::SessionTimeout => {
                self.detach(now, index, DisconnectReason::HeartbeatTimeout, code.code());
            }
            _ => self.leave(now, index, DisconnectReason::ProtocolError, code.code()),
        }
    }

    /// A client broke the WebSocket protocol, and its socket is being closed with `close_code`.
    pub fn handle_breach(&mut self, now: Instant, id: ConnectionId, close_code: u16) {
        let Some(socket) = self.sockets.remove(&id) else { return };
        if let Some(index) = socket.session {
            self.leave(now, index, DisconnectReason::ProtocolError, close_code);
        }
    }

    /// A session's WebSocket is gone but may come back; the session stays a member.
    pub(super) fn detach(
        &mut self,
        now: Instant,
        index: SessionIndex,
        reason: DisconnectReason,
        close_code: u16,
    ) {
        let until = now + self.config.resume_window;
        let session = &mut self.sessions[index.index()];
        session.connection = None;
        session.away = Some(Away { until, reason, close_code });
        self.timers.set(until, Timer::Away(session.admission.serial));
    }

    pub(super) fn check_away(&mut self, now: Instant, serial: Serial) {
        let Some(&index) = self.by_serial.get(&serial) else { return };
        let Some(away) = self.sessions[index.index()].away else { return };
        // An entry of an earlier absence comes early; the present one has its own.
        if away.until <= now {
            self.leave(now, index, away.reason, away.close_code);
        }
    }

    /// Control ends a session.
    pub(super) fn expel(
        &mut self,
        now: Instant,
        index: SessionIndex,
        code: CloseCode,
        reason: DisconnectReason,
        notice: Notice,
    ) {
        let Some(session) = self.sessions.get_mut(index.index()) else { return };
        if let Some(connection) = session.connection.take() {
            self.sockets.remove(&connection);
            self.push_close(connection, code, "closed by the backend");
        }
        self.remove(now, index, reason, code.code(), notice);
    }

    /// Closes a session's WebSocket so that the client comes back.
    pub(super) fn call_back(&mut self, now: Instant, index: SessionIndex) {
        let session = &mut self.sessions[index.index()];
        let Some(connection) = session.connection.take() else { return };
        session.repeat_description = true;
        self.sockets.remove(&connection);
        let code = CloseCode::ServerCrashed;
        self.push_close(connection, code, "come back");
        self.detach(now, index, DisconnectReason::ResumeTimeout, code.code());
    }

    /// A session ends and everyone is told.
    pub(super) fn leave(
        &mut self,
        now: Instant,
        index: SessionIndex,
        reason: DisconnectReason,
        close_code: u16,
    ) {
        self.remove(now, index, reason, close_code, Notice::Left);
    }

    fn remove(
        &mut self,
        now: Instant,
        index: SessionIndex,
        reason: DisconnectReason,
        close_code: u16,
        notice: Notice,
    ) {
        let mut session = self.sessions.remove(index.index());
        self.transports[index.index()] = None;
        if let Some(peer) = session.peer.take() {
            self.forget_peer(index, &peer);
        }
        self.caches -= caches(&session);
        let admission = &session.admission;
        self.by_serial.remove(&admission.serial);
        let user = (admission.server, admission.user);
        if self.by_user.get(&user) == Some(&index) {
            self.by_user.remove(&user);
        }
        for stream in &session.streams {
            self.by_ssrc.remove(&stream.ssrc);
        }
        if let Some(remote) = session.bound {
            self.unbind(remote, index);
        }
        self.event(Event::Disconnected { serial: admission.serial, reason, close_code });
        self.unseat(&session);
        if notice == Notice::ChannelEnds {
            return;
        }
        if let Some(&channel) = self.by_channel.get(&admission.channel) {
            if notice == Notice::Left {
                self.tell_leaving(channel, admission.user);
            }
            self.codecs_changed(channel);
            self.wants_lowered(now, channel);
            if session.shows_video() {
                self.settle_cameras(now, channel);
            }
        }
    }

    /// Takes a session out of its channel; the last one's channel goes with it.
    fn unseat(&mut self, session: &Session) {
        let channel = &mut self.channels[session.channel];
        channel.members.swap_remove(session.position);
        if let Some(codecs) = session.codecs() {
            channel.decoders.remove(codecs);
        }
        if let Some(moved) = channel.members.get(session.position) {
            self.sessions[moved.index()].position = session.position;
        }
        for member in &channel.members {
            for stream in &mut self.sessions[member.index()].streams {
                if !stream.cursors.is_empty() {
                    stream.cursors.swap_remove(session.position);
                }
            }
        }
        if channel.members.is_empty() {
            self.by_channel.remove(&session.admission.channel);
            self.channels.remove(session.channel);
        }
    }
}
