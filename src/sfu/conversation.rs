//! What sessions say over their WebSockets and what they are told. Part of `Shard`.

use std::time::Instant;

use zeroize::Zeroizing;

use crate::{
    crypto::{Mode, SecretKey},
    egress::{Egress, Flow, Path},
    id::{ConnectionId, Serial, UserId},
    sfu::{
        AdmissionRequest, Event, Policy, Shard,
        peer::Peer,
        publish::VOICE,
        session::{Agreed, Description, SessionIndex},
        shard::drain_outbox,
        timer::Timer,
        transport::Transport,
    },
    signalling::{
        ClientMessage, CloseCode, Codec, CodecName, Described, Frame, Protocol, Refusal, Request,
        SelectProtocol, ServerMessage, Speaking,
    },
    webrtc::{Answer, Credentials, Offer, OfferError},
};

impl Shard {
    /// A connection's message.
    pub(super) fn hear(&mut self, now: Instant, id: ConnectionId, frame: Frame) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let heard = socket.connection.handle_frame(now, frame);
        drain_outbox(&mut socket.connection, &mut self.outputs);
        if let Some(index) = socket.session {
            self.sessions[index.index()].left.clear();
        }
        match heard {
            Ok(None) => {}
            Ok(Some(Request::Identify(identify))) => {
                self.ask(id, AdmissionRequest::Identify(identify));
            }
            Ok(Some(Request::Resume(resume))) => self.ask(id, AdmissionRequest::Resume(resume)),
            Ok(Some(request)) => self.hear_request(now, id, request),
            Err(refusal) => self.close(now, id, refusal.code, refusal.why),
        }
    }

    /// What a client said while control decided about it.
    pub(super) fn hear_held(&mut self, now: Instant, id: ConnectionId, held: Vec<Request>) {
        for request in held {
            self.hear_request(now, id, request);
        }
    }

    fn ask(&mut self, id: ConnectionId, request: AdmissionRequest) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.asked = Some(request.clone());
        let address = socket.connection.address();
        self.event(Event::Admission { connection: id, address, request });
    }

    fn hear_request(&mut self, now: Instant, id: ConnectionId, request: Request) {
        let Some(index) = self.sockets.get(&id).and_then(|socket| socket.session) else { return };
        let message = match request {
            Request::Acknowledge(seq) => {
                return self.sessions[index.index()].replay.acknowledge(seq);
            }
            Request::Message(message) => message,
            Request::Identify(_) | Request::Resume(_) => return,
        };
        let heard = match message {
            ClientMessage::SelectProtocol(select) => self.select_protocol(now, index, select),
            ClientMessage::Speaking(speaking) => {
                self.speaking(now, index, speaking);
                Ok(())
            }
            ClientMessage::Video(video) => self.video(now, index, video),
            // Without codecs it says nothing about them (protocol.md §1.4, op 14).
            ClientMessage::SessionUpdate { codecs: None } => Ok(()),
            ClientMessage::SessionUpdate { codecs } => self.update_codecs(now, index, codecs),
            ClientMessage::SinkWants(wants) => {
                self.want(now, index, wants);
                Ok(())
            }
            // No DAVE group exists yet for these to be about.
            ClientMessage::Dave(_) => Ok(()),
            // The client keeps its WebSocket and may select again (protocol.md §1.4, op 32).
            ClientMessage::NoRoute => Ok(()),
            ClientMessage::Identify(_)
            | ClientMessage::Resume(_)
            | ClientMessage::Heartbeat(_)
            | ClientMessage::BackendVersion
            | ClientMessage::Ignored(_)
            | ClientMessage::ServerOnly(_) => Ok(()),
        };
        if let Err(Refusal { code, why }) = heard {
            self.close(now, id, code, why);
        }
    }

    fn select_protocol(
        &mut self,
        now: Instant,
        index: SessionIndex,
        select: SelectProtocol,
    ) -> Result<(), Refusal> {
        self.take_selection(now, index)?;
        let agreed = match select.protocol {
            Protocol::Udp { mode } => self.select_udp(now, index, &mode)?,
            Protocol::WebRtc { sdp } => self.select_web_rtc(now, index, &sdp)?,
            Protocol::Unknown => {
                let why = "protocol is neither udp nor webrtc";
                return Err(Refusal { code: CloseCode::UnknownProtocol, why });
            }
        };
        let media_session = hex(self.random.bytes());
        let session = &mut self.sessions[index.index()];
        session.forget_arrivals();
        for stream in &mut session.streams {
            stream.source.rekeyed();
            stream.restart();
        }
        session.description = None;
        self.list_codecs(index, select.codecs);
        let session = &mut self.sessions[index.index()];
        let video_codec = self.channels[session.channel].decoders.choose(session.codecs());
        session.description = Some(Description { agreed, video_codec, media_session });
        self.tell_description(index);
        self.tell_publishers(index);
        self.note_connected(index);
        self.wants_changed(now, index);
        self.restart_viewer(now, index);
        self.hasten_reports(now, index);
        Ok(())
    }

    /// op 14: a client lists its codecs anew.
    fn update_codecs(
        &mut self,
        now: Instant,
        index: SessionIndex,
        codecs: Option<Vec<Codec>>,
    ) -> Result<(), Refusal> {
        self.take_selection(now, index)?;
        self.list_codecs(index, codecs);
        self.wants_changed(now, index);
        self.want_keyframes(now, index);
        Ok(())
    }

    /// Whether a session may select again, or list codecs again.
    fn take_selection(&mut self, now: Instant, index: SessionIndex) -> Result<(), Refusal> {
        let may = self.sessions[index.index()].selections.take(now);
        let why = "selected a protocol or codecs again and again";
        if may { Ok(()) } else { Err(Refusal { code: CloseCode::RateLimited, why }) }
    }

    /// A session is to have plain UDP, with a new key.
    fn select_udp(
        &mut self,
        now: Instant,
        index: SessionIndex,
        mode: &str,
    ) -> Result<Agreed, Refusal> {
        let why = "a mode that Ready did not offer";
        let mode = Mode::from_name(mode)
            .filter(|mode| self.config.modes.contains(mode))
            .ok_or(Refusal { code: CloseCode::UnknownEncryptionMode, why })?;
        self.part(index);
        let key = SecretKey::new(self.random.bytes());
        let random = self.random.bytes();
        let path = self.sessions[index.index()].candidate;
        let transport = Transport::udp(mode, &key, random, Flow(index.0), path);
        self.transports[index.index()] = Some(transport);
        if let Some(Path { remote, .. }) = path {
            self.expect_from(now, index, remote);
        }
        Ok(Agreed::Udp(mode, key))
    }

    /// A session is to have a browser's transport: it gets one once the handshake is over, and has
    /// none until then.
    fn select_web_rtc(
        &mut self,
        now: Instant,
        index: SessionIndex,
        sdp: &str,
    ) -> Result<Agreed, Refusal> {
        let offer = Offer::parse(sdp)
            .map_err(|error| Refusal { code: CloseCode::BadRequest, why: shortcoming(error) })?;
        self.part(index);
        let local = Credentials::generate(self.random.bytes());
        let answer = Answer {
            ip: self.config.public_ip,
            port: self.config.public_port,
            fingerprint: self.config.identity.fingerprint(),
            credentials: &local,
        };
        let answer = Zeroizing::new(answer.to_string());
        let layout = self.layouts.enter(offer.extensions);
        let mut peer = Peer::new(&self.config.identity, local, offer, layout, now);
        self.by_ufrag.insert(peer.ufrag.clone(), index);
        let session = &mut self.sessions[index.index()];
        let serial = session.admission.serial;
        let until = peer.ice.consent_until();
        peer.consent.set(until);
        self.timers.set(until, Timer::Consent(serial));
        session.peer = Some(Box::new(peer));
        session.candidate = None;
        session.connected = false;
        if let Some(remote) = session.bound.take() {
            self.unbind(remote, index);
        }
        self.transports[index.index()] = None;
        Ok(Agreed::WebRtc(answer))
    }

    /// A session lists its codecs, or lists none.
    fn list_codecs(&mut self, index: SessionIndex, codecs: Option<Vec<Codec>>) {
        let session = &mut self.sessions[index.index()];
        let channel = session.channel;
        let decoders = &mut self.channels[channel].decoders;
        if let Some(old) = session.codecs() {
            decoders.remove(old);
        }
        if let Some(new) = &codecs {
            decoders.add(new);
        }
        session.list_codecs(codecs);
        self.configure_transport(index);
        self.codecs_changed(channel);
    }

    /// Gives a session's transport what it has to know of the session.
    pub(super) fn configure_transport(&mut self, index: SessionIndex) {
        let session = &self.sessions[index.index()];
        let Some(transport) = &mut self.transports[index.index()] else { return };
        transport.deaf = session.admission.policy.state.deaf;
        transport.video = session.payload_types();
        transport.takes_rtcp = session.takes_rtcp(transport.carriage());
        transport.name_opus(session.opus_payload_type);
    }

    /// Tells members whose codec is another one now (protocol.md §1.9).
    pub(super) fn codecs_changed(&mut self, channel: usize) {
        for position in 0..self.channels[channel].members.len() {
            let channel = &self.channels[channel];
            let member = channel.members[position];
            let session = &mut self.sessions[member.index()];
            let Some(codecs) = session.codecs() else { continue };
            let chosen = channel.decoders.choose(Some(codecs));
            let Some(description) = &mut session.description else { continue };
            if description.video_codec != chosen {
                description.video_codec = chosen;
                self.tell(
                    member,
                    &ServerMessage::SessionUpdate {
                        audio_codec: None,
                        video_codec: Some(chosen),
                        media_session_id: None,
                    },
                );
            }
        }
    }

    fn speaking(&mut self, now: Instant, index: SessionIndex, speaking: Speaking) {
        if let Some(ssrc) = speaking.ssrc {
            self.learn(now, index, ssrc, VOICE);
        }
        let session = &mut self.sessions[index.index()];
        let shown = session.shown_speaking();
        session.speaking = Some(speaking.flags);
        let changed = shown != session.shown_speaking();
        // Said again it is told again, but not of somebody who is muted, and not for ever.
        if changed || (session.may_speak() && session.speaking_repeats.take(now)) {
            self.show_speaking(index);
        }
        // A browser's SSRC may not be known yet.
        if self.sessions[index.index()].peer.is_none() {
            self.announce(index);
        }
    }

    /// Tells the others, and control, how a session speaks.
    pub(super) fn show_speaking(&mut self, index: SessionIndex) {
        let session = &self.sessions[index.index()];
        let Some(flags) = session.shown_speaking() else { return };
        let (user, ssrc) = (session.admission.user, session.audio_ssrc());
        let serial = session.admission.serial;
        self.tell_others(index, &ServerMessage::Speaking { user, ssrc, flags });
        if self.config.speaking_events {
            self.event(Event::Speaking { serial, flags });
        }
    }

    /// New rules for a live session.
    pub(super) fn update(
        &mut self,
        now: Instant,
        serial: Serial,
        policy: Policy,
        egress: &mut Egress,
    ) {
        let Some(&index) = self.by_serial.get(&serial) else { return };
        let session = &mut self.sessions[index.index()];
        let spoke = session.may_speak();
        let was_deaf = session.admission.policy.state.deaf;
        let shown = session.shown_speaking();
        let flags = session.admission.policy.flags;
        let camera = (session.may_show(), session.admission.policy.room.video_limit);
        session.admission.policy = policy;
        let camera_changed =
            camera != (session.may_show(), session.admission.policy.room.video_limit);
        let silenced = spoke && !session.may_speak();
        let speaking_changed = shown != session.shown_speaking();
        let flags_changed = flags != session.admission.policy.flags;
        if let Some(transport) = &mut self.transports[index.index()] {
            transport.deaf = session.admission.policy.state.deaf;
        }
        if !self.sessions[index.index()].admission.policy.state.deaf && was_deaf {
            self.want_keyframes(now, index);
        }
        if silenced {
            self.end_speech(now, index, egress);
        }
        if speaking_changed {
            self.show_speaking(index);
        }
        if flags_changed {
            self.tell_flags(index);
        }
        if camera_changed {
            self.settle_cameras(now, self.sessions[index.index()].channel);
        }
    }

    pub(super) fn tell_ready(&mut self, index: SessionIndex) {
        let session = &self.sessions[index.index()];
        let modes: Vec<_> = self.config.modes.iter().map(|mode| mode.name()).collect();
        let streams = session.layers.clone();
        let message = ServerMessage::Ready {
            ssrc: session.audio_ssrc(),
            ip: self.config.public_ip,
            port: self.config.public_port,
            modes: &modes,
            streams: &streams,
        };
        self.tell(index, &message);
    }

    /// Tells a channel's members that somebody has left.
    pub(super) fn tell_leaving(&mut self, channel: usize, user: UserId) {
        for position in 0..self.channels[channel].members.len() {
            let member = self.channels[channel].members[position];
            self.sessions[member.index()].note_leaving(user);
            self.tell(member, &ServerMessage::ClientDisconnect { user });
        }
    }

    /// Tells a session that was away who has left meanwhile, and whose camera is off now; again at
    /// the next resume, unless it is heard of in between.
    pub(super) fn tell_left(&mut self, index: SessionIndex) {
        let left = self.sessions[index.index()].left.clone();
        let server = self.sessions[index.index()].admission.server;
        let channel = self.sessions[index.index()].channel;
        for user in left {
            let back = self.by_user.get(&(server, user));
            let back = back.is_some_and(|it| self.sessions[it.index()].channel == channel);
            if !back {
                self.tell(index, &ServerMessage::ClientDisconnect { user });
            }
        }
        for position in 0..self.channels[channel].members.len() {
            let other = self.channels[channel].members[position];
            let session = &self.sessions[other.index()];
            if other != index && !session.layers.is_empty() && !session.shows_video() {
                self.tell_camera(index, other);
            }
        }
    }

    /// Tells a session who else is there, who speaks and who shows video.
    pub(super) fn tell_present(&mut self, index: SessionIndex) {
        let channel = self.sessions[index.index()].channel;
        let others = self.channels[channel].members.iter().filter(|member| **member != index);
        let others: Vec<SessionIndex> = others.copied().collect();
        if others.is_empty() {
            return;
        }
        let user = |member: &SessionIndex| self.sessions[member.index()].admission.user;
        let users: Vec<_> = others.iter().map(user).collect();
        self.tell(index, &ServerMessage::ClientsConnect { users: &users });
        for &other in &others {
            let session = &self.sessions[other.index()];
            let user = session.admission.user;
            let (ssrc, flags) = (session.audio_ssrc(), session.shown_speaking());
            let client_flags = session.admission.policy.flags;
            let shows_video = session.shows_video();
            let browser = self.sessions[index.index()].peer.is_some();
            let publishes = shows_video || (browser && session.announced);
            if client_flags != 0 {
                self.tell(index, &ServerMessage::ClientFlags { user, flags: Some(client_flags) });
            }
            if let Some(flags) = flags {
                self.tell(index, &ServerMessage::Speaking { user, ssrc, flags });
            }
            if publishes {
                self.tell_camera(index, other);
            }
        }
    }

    /// Tells the others a session's client flags, where there are any.
    pub(super) fn tell_flags(&mut self, index: SessionIndex) {
        let admission = &self.sessions[index.index()].admission;
        let (user, flags) = (admission.user, admission.policy.flags);
        if flags != 0 {
            self.tell_others(index, &ServerMessage::ClientFlags { user, flags: Some(flags) });
        }
    }

    /// Says Session Description, if there is one to say.
    pub(super) fn tell_description(&mut self, index: SessionIndex) {
        let session = &self.sessions[index.index()];
        let Some(description) = &session.description else { return };
        let Description { agreed, media_session, .. } = description;
        let media_session = media_session.clone();
        let agreed = agreed.clone();
        let message = ServerMessage::SessionDescription {
            media: match &agreed {
                Agreed::Udp(mode, key) => {
                    Described::Udp { mode: mode.name(), secret_key: key.bytes() }
                }
                Agreed::WebRtc(sdp) => Described::WebRtc { sdp },
            },
            audio_codec: CodecName::Opus,
            video_codec: description.video_codec,
            media_session_id: &media_session,
            dave_protocol_version: 0,
        };
        self.tell(index, &message);
    }

    /// The media path is up: an authenticated datagram has come, a client that only listens has
    /// both a key and a place to send to, or a browser has finished its handshake.
    pub(super) fn note_connected(&mut self, index: SessionIndex) {
        let session = &mut self.sessions[index.index()];
        let transport = self.transports[index.index()].as_ref();
        let transport = transport.filter(|transport| transport.path().is_some());
        if let Some(transport) = transport.filter(|_| !session.connected) {
            session.connected = true;
            let (serial, transport) = (session.admission.serial, transport.carriage().name());
            self.event(Event::Connected { serial, transport });
        }
    }
}

/// What is wrong with an offer, for the close frame.
fn shortcoming(error: OfferError) -> &'static str {
    match error {
        OfferError::TooLong => "the SDP is too long",
        OfferError::Ufrag => "the SDP has no valid ice-ufrag",
        OfferError::Pwd => "the SDP has no valid ice-pwd",
        OfferError::Fingerprint => "the SDP has no fingerprint by sha-256, sha-384 or sha-512",
        OfferError::Passive => "the SDP is passive, and so is the server",
    }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
