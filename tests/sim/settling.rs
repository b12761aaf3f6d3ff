//! What shards want done: frames to clients, questions and news to control, datagrams to the
//! checkers; and what everyone must know once it is. Part of `World`.

use std::collections::BTreeSet;

use serde_json::Value;
use stentor::{
    metrics::Counters,
    rtp::rtcp::{Report, reports},
    sfu::{Event, Output},
    signalling::Frame,
};

use crate::{
    browser::CM_SHA1,
    checkers::{Cause, Stay, Takes},
    client::Heard,
    world::{Deed, World},
};

/// What came of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Everything that was said, told and sent, mixed into one number.
    pub digest: u64,
    /// Of all shards.
    pub counters: Counters,
    /// Close codes that were sent.
    pub closed: BTreeSet<u16>,
    /// Opcodes that were told.
    pub told: BTreeSet<u64>,
    /// Connections that moved between shards.
    pub moved: u64,
}

impl Outcome {
    /// Takes another run's into this one.
    pub fn add(&mut self, other: Outcome) {
        self.counters += &other.counters;
        self.closed.extend(other.closed);
        self.told.extend(other.told);
        self.moved += other.moved;
    }
}

impl World {
    /// Carries everything a shard wants done, and checks what may be seen of it.
    pub fn settle(&mut self, index: usize, cause: Cause) {
        while let Some(output) = self.shards[index].poll_output() {
            self.carry(index, output);
        }
        self.emit(index, cause);
        self.dispatch();
        self.check_rosters();
    }

    fn carry(&mut self, index: usize, output: Output) {
        match output {
            Output::Frame { connection, frame } => {
                if let Frame::Text(text) = &frame {
                    self.mix(text.as_bytes());
                }
                let attempt = &mut self.attempts[self.connections[&connection]];
                if attempt.client.connection == Some(connection) {
                    attempt.client.hear(frame);
                    self.outcome.told.extend(attempt.client.told.last().map(op));
                    assert_eq!(attempt.client.misnumbered, 0, "numbers follow one another");
                    self.learn_ssrcs(self.connections[&connection]);
                }
            }
            Output::Close { connection, code, .. } => {
                self.outcome.closed.insert(code.code());
                let attempt = &mut self.attempts[self.connections[&connection]];
                if attempt.client.connection == Some(connection) {
                    attempt.client.connection = None;
                    attempt.client.closed = Some(code.code());
                }
            }
            Output::Move { to, arrival } => {
                self.outcome.moved += 1;
                let id = arrival.connection.id();
                let attempt = &mut self.attempts[self.connections[&id]];
                if attempt.client.connection == Some(id) {
                    attempt.shard = None;
                }
                self.queue(to.index(), Deed::Arrival(arrival));
            }
            Output::Event(Event::Admission { connection, request, .. }) => {
                if let Some(serial) = self.control.admit(index, connection, request) {
                    self.admitted.insert(serial, self.connections[&connection]);
                }
            }
            Output::Event(event) => self.note(event),
        }
    }

    fn note(&mut self, event: Event) {
        self.mix(format!("{event:?}").as_bytes());
        match &event {
            Event::Identified { serial } => {
                let who = self.admitted[serial];
                let live = &self.control.live[serial];
                let attempt = &mut self.attempts[who];
                attempt.stay = Some(*serial);
                let stay = Stay {
                    user: live.grant.user,
                    channel: live.grant.channel,
                    shard: live.shard,
                    client: who,
                    policy: live.told.clone(),
                    said: None,
                    camera: false,
                    connected: false,
                    ssrcs: Vec::new(),
                    takes: Takes::of(&attempt.client.profile),
                    sent_rtcp: false,
                    own: None,
                    missed: self.checkers.begun.clone(),
                };
                self.checkers.stays.insert(*serial, stay);
                self.learn_ssrcs(who);
            }
            Event::Connected { serial, .. } => {
                let stay = self.checkers.stays.get_mut(serial).expect("a live session");
                assert!(!stay.connected, "connected twice");
                stay.connected = true;
            }
            Event::Disconnected { serial, .. } => {
                let who = self.admitted[serial];
                self.checkers.ended(*serial);
                let attempt = &mut self.attempts[who];
                attempt.stay = attempt.stay.filter(|stay| stay != serial);
                if attempt.stay.is_none() {
                    (attempt.browser, attempt.client.own) = (None, None);
                }
            }
            _ => {}
        }
        self.control.hear(&event);
    }

    /// A session's SSRCs are those that its client was told.
    fn learn_ssrcs(&mut self, who: usize) {
        let attempt = &self.attempts[who];
        if let Some(stay) = attempt.stay.and_then(|serial| self.checkers.stays.get_mut(&serial)) {
            stay.ssrcs = attempt.client.streams.iter().map(|stream| stream.ssrc).collect();
        }
    }

    fn emit(&mut self, index: usize, cause: Cause) {
        let flight = self.egresses[index].flight();
        let sent: Vec<_> = flight
            .chains()
            .flatten()
            .map(|outgoing| (outgoing.path.remote, outgoing.bytes.to_vec()))
            .collect();
        drop(flight);
        for (to, bytes) in sent {
            let surfer = self.owners.get(&to).copied().filter(|who| self.is_browser(*who));
            // Browsers' keys are drawn anew in each run, and with them the bytes sealed.
            if surfer.is_none() {
                self.mix(&bytes);
            }
            // Answers to discovery and pings go to whoever asks, and so do those to checks and
            // handshakes.
            if matches!(bytes[0], 1 | 20..64)
                && let Some(who) = surfer
                && self.attempts[who].browser.is_some()
            {
                self.attempts[who].post.push(bytes);
                continue;
            }
            if bytes[0] < 128 {
                assert!(matches!(bytes.len(), 8 | 74) && matches!(cause, Cause::Datagram));
                continue;
            }
            let who = *self.owners.get(&to).expect("media goes to members alone");
            let attempt = &mut self.attempts[who];
            let serial = attempt.stay.expect("nothing is sent to who has left");
            let heard = if let Some(browser) = &mut attempt.browser {
                let heard = browser.open(&bytes);
                let tag_is_last = browser.choices.profile == CM_SHA1;
                self.checkers.emitted_to_browser(cause, serial, &bytes, &heard, tag_is_last);
                self.mix(format!("{heard:?}").as_bytes());
                heard
            } else {
                let (heard, agreed) = attempt.client.open(&bytes).expect("sealed for this client");
                self.checkers.emitted(cause, serial, agreed, &bytes, &heard);
                heard
            };
            if let Heard::Rtcp(compound) = &heard {
                let asked = reports(compound).any(|report| matches!(report, Report::Pli(_)));
                self.attempts[who].keyframe_wanted |= asked;
            }
        }
    }

    /// Everyone who is connected knows exactly who is there, how they speak and whether they show
    /// video.
    fn check_rosters(&self) {
        for (serial, stay) in &self.checkers.stays {
            if !self.is_in(stay.client) {
                continue;
            }
            let client = &self.attempts[stay.client].client;
            let others: Vec<_> = self
                .checkers
                .members(stay.channel)
                .filter(|(other, _)| other != serial)
                .map(|(_, other)| other)
                .collect();
            let users = others.iter().map(|other| other.user);
            let users: BTreeSet<_> = users.collect();
            let known = client.roster.keys().copied().collect();
            assert_eq!(users, known, "who is there, by {serial:?}");
            for other in others {
                let seen = &client.roster[&other.user];
                assert_eq!(seen.video, other.shows(), "the camera of {:?}", other.user);
                if let Some(shown) = other.shown() {
                    let legacy = client.profile.version().boolean_speaking();
                    let shown = if legacy { u32::from(shown != 0) } else { shown };
                    assert_eq!(seen.speaking, Some((other.ssrcs[0], shown)), "{:?}", other.user);
                }
            }
        }
    }

    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let digest = &mut self.outcome.digest;
            *digest = (*digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
}

/// The opcode of a message.
pub fn op(told: &Value) -> u64 {
    told["op"].as_u64().expect("an opcode")
}
