//! What may happen in a run: each step is one of these, drawn by weight.

use std::time::Duration;

use serde_json::json;
use stentor::{
    id::{ChannelId, Ssrc},
    rtp::{
        feedback::{write_nack, write_pli},
        rtcp::{Blocks, ReceiverReport, SenderReport},
    },
    sfu::{DisconnectReason, Policy},
    signalling::{CloseCode, Frame},
};

use crate::{
    browser::OPUS,
    client::{Client, Grant, Outgoing, Rtp, discovery, message, rtp},
    network::Datagram,
    surfing,
    world::World,
};

type Action = fn(&mut World);

/// Weights of the actions.
const ACTIONS: &[(usize, Action)] = &[
    (22, World::get_on),
    (3, World::loiter),
    (26, World::talk),
    (8, World::film),
    (5, World::change_flags),
    (5, World::turn_camera),
    (3, World::list_codecs),
    (3, World::want),
    (6, World::report),
    (3, World::move_address),
    (2, World::select_again),
    (1, World::start_streams_anew),
    (4, World::lose_socket),
    (2, World::say_goodbye),
    (1, World::freeze),
    (2, World::come_again),
    (1, World::blunder),
    (1, World::flood),
    (8, World::change_policy),
    (1, World::kick),
    (1, World::close_channel),
    (1, World::call_back),
    (2, World::move_channel),
    (3, World::make_noise),
    (3, World::tamper),
    (3, World::replay),
    (2, World::usurp),
    (2, World::send_nonsense),
    (8, |world| world.wait(0..40)),
    (2, |world| world.wait(300..4_000)),
    (1, |world| world.wait(20_000..110_000)),
];

/// Addresses that no client has.
const STRANGERS: [u8; 3] = [7, 8, 9];

impl World {
    /// One step.
    pub fn act(&mut self) {
        let total = ACTIONS.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.dice.within(0..total);
        for (weight, action) in ACTIONS {
            match drawn.checked_sub(*weight) {
                Some(left) => drawn = left,
                None => return action(self),
            }
        }
    }

    pub fn wait(&mut self, millis: std::ops::Range<usize>) {
        let by = self.dice.millis(millis);
        self.advance(by);
    }

    /// Attempts whose session lives.
    fn staying(&self) -> Vec<usize> {
        let stays = self.checkers.stays.values();
        stays.map(|stay| stay.client).collect()
    }

    pub fn someone(&mut self, is: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let those: Vec<_> = self.staying().into_iter().filter(|who| is(self, *who)).collect();
        self.dice.pick(&those)
    }

    pub fn someone_in(&mut self) -> Option<usize> {
        self.someone(Self::is_in)
    }

    fn someone_with_key(&mut self) -> Option<usize> {
        self.someone(|world, who| surfing::has_keys(&world.attempts[who]))
    }

    /// As before, but of those who speak plain UDP.
    fn someone_by_udp(&mut self) -> Option<usize> {
        self.someone(|world, who| !world.is_browser(who) && surfing::has_keys(&world.attempts[who]))
    }

    // Coming and going.

    /// Some persons take the next step towards being heard.
    fn get_on(&mut self) {
        for _ in 0..self.dice.within(1..5) {
            let person = self.dice.within(0..self.persons.len());
            self.step_on(person);
        }
    }

    fn step_on(&mut self, person: usize) {
        if self.persons[person].attempt.is_none() {
            self.come(person);
            self.wait(20..80);
        }
        let Some(who) = self.persons[person].attempt else { return };
        let attempt = &self.attempts[who];
        if attempt.client.connection.is_some() {
            if !self.is_in(who) {
                // It need not wait for Ready; what it says waits.
                if self.dice.percent(10) && !self.is_browser(who) {
                    self.say(who, Client::select_protocol);
                }
                return self.wait(1..60);
            }
            if !surfing::has_keys(attempt) || self.dice.percent(5) {
                if self.is_browser(who) {
                    return self.surf(who);
                }
                if self.dice.percent(90) {
                    let request = self.attempts[who].client.discovery();
                    self.send(who, request, None);
                }
                self.wait(0..50);
                self.say(who, Client::select_protocol);
                if self.is_in(who) {
                    self.speaking(who, 0);
                }
            }
        } else if attempt.stay.is_some() && self.dice.percent(70) {
            self.open(who);
            self.say(who, Client::resume);
        } else {
            // As if for the first time.
            self.persons[person].attempt = None;
        }
    }

    /// Somebody opens a WebSocket and does not say who it is.
    fn loiter(&mut self) {
        let person = self.dice.within(0..self.persons.len());
        let who = self.attempt(person);
        self.open(who);
        self.attempts[who].frozen = self.dice.percent(50);
    }

    fn come_again(&mut self) {
        let person = self.dice.within(0..self.persons.len());
        self.come(person);
    }

    fn lose_socket(&mut self) {
        if let Some(who) =
            self.someone(|world, who| world.attempts[who].client.connection.is_some())
        {
            let code = self.dice.pick(&[1006, 1006, 1005, 4_900]).expect("codes");
            self.hang_up(who, code);
        }
    }

    fn say_goodbye(&mut self) {
        if let Some(who) =
            self.someone(|world, who| world.attempts[who].client.connection.is_some())
        {
            let code = self.dice.pick(&[1000, 1001, 4014]).expect("codes");
            self.hang_up(who, code);
        }
    }

    /// A client is cut off, and neither side notices at once.
    fn freeze(&mut self) {
        if let Some(who) = self.someone_in() {
            self.attempts[who].frozen = true;
        }
    }

    /// A client says more than anyone can have to say.
    fn flood(&mut self) {
        if let Some(who) = self.someone_in() {
            (0..130).for_each(|_| self.say(who, Client::heartbeat));
        }
    }

    /// A client says what it must not.
    fn blunder(&mut self) {
        let Some(who) = self.someone_in() else { return };
        let foreign = json!({"audio_ssrc": 1, "video_ssrc": 2, "streams": []});
        let wrong = [
            Frame::Text("{\"op\":5".into()),
            message(77, json!(null)),
            message(12, foreign),
            message(1, json!({"protocol": "carrier pigeon", "data": {}})),
            message(1, json!({"protocol": "udp", "data": {"mode": "plain"}})),
            Frame::Binary(vec![]),
            self.attempts[who].client.identify(),
        ];
        let chosen = self.dice.within(0..wrong.len());
        // A browser's SSRCs are what it says they are.
        if chosen != 2 || !self.is_browser(who) {
            self.say(who, |_| wrong[chosen].clone());
        }
    }

    // Speaking.

    /// A payload like no other, sealed and sent.
    pub fn send_media(&mut self, who: usize, stream: usize, payload_type: u8) {
        let attempt = &mut self.attempts[who];
        let Some(by) = attempt.stay else { return };
        let Outgoing { ssrc, seq, timestamp } = attempt.client.streams[stream];
        let outgoing = &mut attempt.client.streams[stream];
        outgoing.seq = seq.wrapping_add(1);
        outgoing.timestamp = timestamp.wrapping_add(960);
        let length = self.dice.within(0..120);
        let noise = self.dice.bytes(length);
        let payload = match stream {
            0 => self.checkers.payload(by, ssrc, noise),
            _ => self.picture(who, by, ssrc, noise),
        };
        // What differs between clients must not differ for hearers.
        let [high, low] = self.attempts[who].transport_seq.to_be_bytes();
        let browser = self.attempts[who].browser.as_deref();
        let transport_cc = browser.map_or(5, surfing::transport_cc);
        let payload_type = if browser.is_some() && stream == 0 { OPUS } else { payload_type };
        let elements = match stream {
            0 => [0x10, 0x55, 0, 0],
            _ => [transport_cc << 4 | 1, high, low, 0],
        };
        let extension = self.dice.percent(30).then_some((0xBEDE, &elements[..]));
        self.attempts[who].transport_seq += u16::from(stream > 0 && extension.is_some());
        let csrcs: &[u32] = if self.dice.percent(5) { &[1, 2] } else { &[] };
        let padding = if self.dice.percent(10) { self.dice.within(1..20) as u8 } else { 0 };
        let marker = stream > 0 && self.dice.percent(50);
        let packet = Rtp {
            ssrc,
            payload_type,
            marker,
            seq,
            timestamp,
            csrcs,
            extension,
            payload: &payload,
            padding,
        };
        let plain = packet.plain();
        if stream > 0 {
            let attempt = &mut self.attempts[who];
            // Under a new key old packets would be new ones.
            let keys = surfing::keys(attempt);
            if std::mem::replace(&mut attempt.filmed_under, keys) != keys {
                attempt.filmed.clear();
            }
            attempt.filmed.push((seq, timestamp, payload));
            // It is lost on its way, whatever the network does.
            if !self.checkers.are_flawless() && self.dice.percent(10) {
                return;
            }
        }
        self.send_sealed(who, &plain);
    }

    /// Up to three speak at once, frame by frame, while a moderator may hesitate about a fourth.
    fn talk(&mut self) {
        let users: Vec<_> = self.control.grants.keys().copied().collect();
        let moderated = self.dice.pick(&users).filter(|_| self.dice.percent(30));
        let deafens = self.dice.percent(60);
        let talkers: Vec<_> =
            (0..self.dice.within(1..4)).filter_map(|_| self.someone_with_key()).collect();
        for _ in 0..self.dice.within(1..9) {
            for &who in &talkers {
                self.send_media(who, 0, 120);
            }
            if let Some(user) = moderated.filter(|_| self.dice.percent(40)) {
                self.control.patch(user, |policy| {
                    let state = &mut policy.state;
                    let flag = if deafens { &mut state.deaf } else { &mut state.mute };
                    *flag = !*flag;
                });
                self.dispatch();
            }
            self.advance(Duration::from_millis(20));
        }
    }

    fn change_flags(&mut self) {
        if let Some(who) = self.someone_in() {
            let flags = self.dice.within(0..8) as u32;
            self.speaking(who, flags);
        }
    }

    /// A report, with feedback on a stream that may or may not be there.
    fn report(&mut self) {
        let Some(who) = self.someone_with_key() else { return };
        let Some(serial) = self.attempts[who].stay else { return };
        self.checkers.stays.get_mut(&serial).expect("a live session").sent_rtcp = true;
        let all: Vec<Ssrc> =
            self.checkers.stays.values().flat_map(|stay| stay.ssrcs.clone()).collect();
        let media = self.dice.pick(&all).expect("its own at least");
        let own = self.dice.pick(&self.attempts[who].client.streams).expect("a voice");
        let mut out = [0; 400];
        let (blocks, ntp, ssrc) = (Blocks::default(), self.dice.next(), own.ssrc);
        let head = if self.dice.percent(50) {
            let rtp_timestamp = own.timestamp;
            SenderReport { ssrc, ntp, rtp_timestamp, packets: 1, octets: 2, blocks }.write(&mut out)
        } else {
            ReceiverReport { ssrc, blocks }.write(&mut out)
        };
        let head = head.expect("room enough");
        let lost = self.dice.next() as u16;
        let tail = match self.dice.within(0..3) {
            0 => write_pli(&mut out[head..], ssrc, media),
            1 => write_nack(&mut out[head..], ssrc, media, (0..40).map(|n| lost.wrapping_add(n))),
            _ => Some(0),
        };
        let len = head + tail.expect("room enough");
        self.send_sealed(who, &out[..len]);
        self.wait(0..20);
    }

    fn move_address(&mut self) {
        if let Some(who) = self.someone_with_key() {
            self.rebind(who);
            // A browser is known by its address.
            self.check(who);
        }
    }

    /// A second Select Protocol; some clients count from the beginning then, some from anywhere.
    fn select_again(&mut self) {
        let Some(who) = self.someone_in() else { return };
        if self.is_browser(who) {
            self.surf(who);
        } else {
            self.say(who, Client::select_protocol);
        }
        if self.dice.percent(60) {
            let (seq, timestamp) = (self.dice.next() as u16, self.dice.next() as u32);
            for stream in &mut self.attempts[who].client.streams {
                (stream.seq, stream.timestamp) = (seq, timestamp);
            }
        }
    }

    /// A source starts again under its old key. Only where no old packet can come after it: two of
    /// them in a row would be taken for another restart, which 16 bits cannot tell.
    fn start_streams_anew(&mut self) {
        if !self.restarts {
            return;
        }
        // Once for each key: two jumps may add up to a small one.
        let fresh = |world: &Self, who: usize| {
            let attempt = &world.attempts[who];
            // Not a browser, whose key goes with its numbers.
            attempt.client.agreed.len() > attempt.restarted_under
        };
        if let Some(who) = self.someone(fresh) {
            let (jump, timestamp) = (self.dice.within(4_000..60_000), self.dice.next() as u32);
            let attempt = &mut self.attempts[who];
            attempt.restarted_under = attempt.client.agreed.len();
            for stream in &mut attempt.client.streams {
                stream.seq = stream.seq.wrapping_add(jump as u16);
                stream.timestamp = timestamp;
            }
        }
    }

    // Control.

    fn change_policy(&mut self) {
        let users: Vec<_> = self.control.grants.keys().copied().collect();
        let user = self.dice.pick(&users).expect("users");
        let (what, on) = (self.dice.within(0..8), self.dice.percent(35));
        if self.dice.percent(25) {
            self.control.patch(user, |policy| *policy = Policy::default());
        }
        self.control.patch(user, |policy| match what {
            0 => policy.state.mute = on,
            1 | 2 => policy.state.deaf = on,
            3 => policy.state.suppress = on,
            4 => policy.permissions.speak = !on,
            5 => policy.permissions.video = !on,
            6 => policy.flags = 2 + u32::from(on),
            _ => policy.permissions.priority_speaker = on,
        });
        self.dispatch();
        // Short mutes among them.
        self.wait(0..120);
    }

    fn kick(&mut self) {
        let live: Vec<_> = self.checkers.stays.keys().copied().collect();
        if let Some(serial) = self.dice.pick(&live) {
            let code = self.dice.pick(&[CloseCode::Disconnected, CloseCode::ServerCrashed]);
            self.control.close(serial, code.expect("codes"), DisconnectReason::Kicked);
            self.dispatch();
        }
    }

    fn close_channel(&mut self) {
        let channel = ChannelId(self.dice.within(1..5) as u64);
        let code = self.dice.pick(&[CloseCode::RoomClosed, CloseCode::ServerCrashed]);
        self.control.close_channel(channel, code.expect("codes"));
        self.dispatch();
    }

    /// A channel's members are to come back by themselves.
    fn call_back(&mut self) {
        let channel = ChannelId(self.dice.within(1..5) as u64);
        self.control.call_back(channel);
        self.dispatch();
    }

    /// A moderator moves a person: a new grant, and the client comes with it or is kicked.
    fn move_channel(&mut self) {
        let person = self.dice.within(0..self.persons.len());
        let user = self.persons[person].grant.user;
        let Some(granted) = self.control.grants.get_mut(&user) else { return };
        let grant = Grant::new(self.dice.within(1..5) as u64, user.0);
        granted.grant = grant.clone();
        self.persons[person].grant = grant;
        if let Some(who) = self.persons[person].attempt.filter(|_| self.dice.percent(50)) {
            self.hang_up(who, 4014);
        }
        self.come(person);
    }

    // Hostility.

    fn strange(&mut self, bytes: Vec<u8>) {
        let host = self.dice.pick(&STRANGERS).expect("strangers");
        let to = self.dice.within(0..self.shards.len());
        self.deliver(Datagram { from: ([203, 0, 113, host], 9).into(), to, bytes, sealed: None });
    }

    fn make_noise(&mut self) {
        if self.dice.percent(20) {
            // More questions than one session may ask.
            let Some(who) = self.someone_with_key() else { return };
            let request = self.attempts[who].client.discovery();
            (0..12).for_each(|_| self.send(who, request.clone(), None));
        }
        for _ in 0..self.dice.within(1..10) {
            let length = self.dice.within(0..90);
            let mut bytes = self.dice.bytes(length);
            let starts: [&[u8]; 6] = [
                &[0x80, 120],
                &[0x90, 120],
                &[0x81, 200],
                &[22, 254],
                &[0x13, 0x37, 0xCA, 0xFE],
                &[],
            ];
            let start = self.dice.pick(&starts).expect("starts");
            bytes.splice(..start.len().min(bytes.len()), start.iter().copied());
            let guess = discovery(Ssrc(self.dice.next() as u32));
            match (self.dice.within(0..4), self.someone_in()) {
                (0, Some(who)) => self.send(who, bytes, None),
                (1, Some(who)) => {
                    let ssrc = self.attempts[who].client.ssrc();
                    self.strange(Rtp { payload: &bytes, ..rtp(ssrc) }.plain());
                }
                (2, _) => self.strange(guess),
                _ => self.strange(bytes),
            }
        }
    }

    /// Something that passed by comes again, changed.
    fn tamper(&mut self) {
        if self.overheard.is_empty() {
            return;
        }
        let chosen = self.dice.within(0..self.overheard.len());
        let mut datagram = self.overheard[chosen].clone();
        let length = datagram.bytes.len();
        match self.dice.within(0..3) {
            0 if length > 1 => datagram.bytes.truncate(self.dice.within(1..length)),
            1 => datagram.bytes.push(self.dice.next() as u8),
            // A discovery proves itself by what it asks about.
            2 if datagram.sealed.is_some() => datagram.corrupt(&mut self.dice),
            _ => return,
        }
        datagram.sealed = None;
        if self.dice.percent(50) {
            datagram.from = ([203, 0, 113, 7], 9).into();
        }
        self.deliver(datagram);
    }

    /// Media that passed by comes again, from there or from elsewhere.
    fn replay(&mut self) {
        if self.restarts {
            return;
        }
        for _ in 0..self.dice.within(1..6) {
            let media: Vec<_> =
                self.overheard.iter().filter(|d| d.sealed.is_some()).cloned().collect();
            if media.is_empty() {
                return;
            }
            let chosen = self.dice.within(0..media.len());
            let mut datagram = media[chosen].clone();
            if self.dice.percent(50) {
                datagram.from = ([203, 0, 113, 8], 9).into();
            }
            self.deliver(datagram);
        }
    }

    /// A member sends as if it were another.
    fn usurp(&mut self) {
        let (Some(who), Some(victim)) = (self.someone_by_udp(), self.someone_with_key()) else {
            return;
        };
        if who != victim {
            let ssrc = self.attempts[victim].client.ssrc();
            let seq = self.attempts[victim].client.streams[0].seq;
            self.send_sealed(who, &Rtp { seq, payload: b"usurped", ..rtp(ssrc) }.plain());
        }
    }

    /// A member sends what is authentic and makes no sense.
    fn send_nonsense(&mut self) {
        let Some(who) = self.someone_by_udp() else { return };
        let Outgoing { ssrc, seq, timestamp } = self.attempts[who].client.streams[0];
        let plain = Rtp { seq, timestamp, ..rtp(ssrc) };
        let Some(by) = self.attempts[who].stay else { return };
        let payload = self.checkers.payload(by, ssrc, Vec::new());
        let mut bytes = match self.dice.within(0..6) {
            0 => Rtp { payload_type: 96, payload: b"a probe", ..plain }.plain(),
            1 => Rtp { padding: 200, ..plain }.plain(),
            2 => Rtp { csrcs: &[0; 15], ..plain }.plain(),
            3 => Rtp { extension: Some((0xBEDE, &[0xFF; 8])), payload: &payload, ..plain }.plain(),
            4 => Rtp { payload: &[200], ..plain }.plain(),
            _ => [&[0x9F, 201, 0xFF, 0xFF][..], &ssrc.0.to_be_bytes(), &[0xFF; 30]].concat(),
        };
        if bytes.len() == 13 {
            // Padding longer than the packet.
            bytes[0] |= 0x20;
        }
        if bytes[0] & 0x0F == 15 && bytes.len() == 72 && self.dice.percent(50) {
            // A header longer than the packet, where CSRCs are encrypted and so nobody can tell.
            bytes.truncate(60);
        }
        let mode = self.attempts[who].client.agreed.last().expect("a key").mode;
        if mode.clear_len(&bytes).is_none() {
            return;
        }
        if bytes[1] < 192 {
            let outgoing = &mut self.attempts[who].client.streams[0];
            outgoing.seq = seq.wrapping_add(1);
            outgoing.timestamp = timestamp.wrapping_add(960);
        } else if let Some(stay) = self.checkers.stays.get_mut(&by) {
            stay.sent_rtcp = true;
        }
        self.send_sealed(who, &bytes);
    }
}
