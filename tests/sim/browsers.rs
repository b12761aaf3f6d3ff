//! Browsers and bots in one channel, over a way that loses, repeats and reorders: they come and go,
//! speak, move, select again, are muted. What anyone hears is what somebody said, once and bit for
//! bit, under the SSRC that was announced for it; where nothing is lost, everyone hears everything.
//! Handshakes are carried at once, so that the course of a run depends on its seed alone and not on
//! the keys, which are drawn anew each time; how handshakes fare on bad ways is shown elsewhere
//! (`tests/dtls`, `tests/shard/web.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use stentor::id::Ssrc;

use crate::{
    browser::{AEAD_128, AEAD_256, Browser, CHROMIUM, CM_SHA1, Choices, FIREFOX, OPUS},
    client::{Client, Heard, Profile},
    dice::Dice,
    rig::Rig,
};

/// Runs; each some dozens of steps.
const RUNS: u64 = 40;
const STEPS: std::ops::Range<usize> = 40..120;
/// Members at once; each costs a handshake.
const MEMBERS_MAX: usize = 6;
/// Packets that may overtake one another.
const UNDER_WAY_MAX: usize = 8;
const CHANNEL: u64 = 1;

enum Kind {
    Bot,
    Browser(Box<Browser>),
}

struct Member {
    who: usize,
    kind: Kind,
    muted: bool,
    /// The newest number of each stream it has heard, counted on over its laps.
    newest: BTreeMap<Ssrc, i64>,
    numbers: BTreeSet<(Ssrc, i64)>,
    heard: BTreeSet<u64>,
}

struct UnderWay {
    from: SocketAddr,
    bytes: Vec<u8>,
    /// What is in it, and whose it is.
    id: u64,
}

struct Scene {
    rig: Rig,
    dice: Dice,
    flawless: bool,
    members: Vec<Member>,
    under_way: Vec<UnderWay>,
    /// Everything said: by whom, under which SSRC others know it, and how it sounds.
    said: BTreeMap<u64, (usize, Ssrc, Vec<u8>)>,
    users: u64,
    spoken: u64,
    heard: u64,
}

#[test]
fn browsers_and_bots_hear_what_was_said_and_nothing_else() {
    let one = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = one.map_or(0..RUNS, |seed: u64| seed..seed + 1);
    let (mut spoken, mut heard) = (0, 0);
    for seed in seeds {
        println!("replay with: SIM_SEED={seed} cargo test --test sim browsers");
        let scene = Scene::play(seed);
        (spoken, heard) = (spoken + scene.spoken, heard + scene.heard);
    }
    assert!(heard > spoken, "with so few heard ({heard} of {spoken}) nothing was checked");
}

#[test]
fn a_run_is_the_same_whatever_the_keys() {
    let [first, second] = [0, 0].map(|_| {
        let Scene { spoken, heard, rig, .. } = Scene::play(3);
        (spoken, heard, rig.shard.counters().clone())
    });
    assert_eq!((first.0, first.1), (second.0, second.1));
    // Signatures differ in length, and with them the handshakes' bytes.
    let counts = |counters: &stentor::metrics::Counters| (counters.opened, counters.forwarded);
    assert_eq!(counts(&first.2), counts(&second.2));
    assert_eq!(first.2.drops, second.2.drops);
}

impl Scene {
    fn play(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0xB0);
        let flawless = dice.percent(40);
        let mut scene = Self {
            rig: Rig::new(),
            dice,
            flawless,
            members: Vec::new(),
            under_way: Vec::new(),
            said: BTreeMap::new(),
            users: 100,
            spoken: 0,
            heard: 0,
        };
        scene.join();
        scene.join();
        for _ in 0..scene.dice.within(STEPS) {
            scene.act();
        }
        while !scene.under_way.is_empty() {
            scene.arrive(0);
        }
        while !scene.members.is_empty() {
            scene.leave(0);
        }
        let shard = &mut scene.rig.shard;
        assert_eq!((shard.sessions(), shard.channels()), (0, 0));
        scene.rig.advance(Duration::from_secs(300));
        assert!(scene.rig.shard.poll_timeout().is_none(), "nothing is left to wait for");
        let counters = scene.rig.shard.counters();
        let drops: u64 = counters.drops.iter().sum();
        let hearers: u64 = stentor::metrics::DropReason::ALL
            .iter()
            .filter(|reason| reason.is_hearers())
            .map(|reason| counters.drops_for(*reason))
            .sum();
        let accounted = counters.opened + counters.answered + drops - hearers;
        assert_eq!(counters.packets_in, accounted, "every datagram has one fate");
        scene
    }

    fn act(&mut self) {
        match self.dice.within(0..100) {
            0..60 => self.talk(),
            60..68 if self.members.len() < MEMBERS_MAX => self.join(),
            68..72 if self.members.len() > 2 => {
                let place = self.dice.within(0..self.members.len());
                self.leave(place);
            }
            72..78 => self.move_someone(),
            78..81 => self.select_again(),
            81..86 => self.turn_policy(),
            86..90 => self.resume(),
            _ => self.wait(),
        }
    }

    fn join(&mut self) {
        self.users += 1;
        let user = self.users;
        let version = self.dice.pick(&[None, Some(4), Some(8), Some(9)]).flatten();
        let (who, kind) = if self.dice.percent(40) {
            let who = self.rig.joined(CHANNEL, user, Profile { version, ..Profile::default() });
            (who, Kind::Bot)
        } else {
            let choices = self.choices(version);
            let browser = self.rig.browser(CHANNEL, user, choices);
            (browser.who, Kind::Browser(Box::new(browser)))
        };
        let member = Member {
            who,
            kind,
            muted: false,
            newest: BTreeMap::new(),
            numbers: BTreeSet::new(),
            heard: BTreeSet::new(),
        };
        self.members.push(member);
        self.collect();
    }

    fn choices(&mut self, version: Option<u8>) -> Choices {
        let ssrc = 1_000 + self.dice.within(0..3) as u32;
        Choices {
            profile: self.dice.pick(&[AEAD_128, AEAD_256, CM_SHA1]).expect("three"),
            extensions: self.dice.pick(&[CHROMIUM, FIREFOX, ""]).expect("three"),
            // Few to choose from, so that browsers choose the same.
            ssrcs: [ssrc, ssrc + 100, ssrc + 200],
            version,
            ..Choices::default()
        }
    }

    fn leave(&mut self, place: usize) {
        let who = self.members[place].who;
        // What was under way from it meets nobody.
        self.rig.hang_up(who, 1000);
        self.members.remove(place);
        self.collect();
    }

    /// Somebody says some packets.
    fn talk(&mut self) {
        let place = self.dice.within(0..self.members.len());
        if self.dice.percent(10)
            && let Kind::Browser(browser) = &mut self.members[place].kind
        {
            // So that laps come to their end. Some may be lost, and never half a lap.
            let ahead = self.dice.within(1..8_000) as u16;
            browser.skip(0, ahead);
        }
        for _ in 0..self.dice.within(1..12) {
            let length = self.dice.within(0..300);
            let id = self.spoken;
            self.spoken += 1;
            let mut payload = id.to_be_bytes().to_vec();
            payload.extend(self.dice.bytes(length));
            let member = &mut self.members[place];
            let ssrc = self.rig.clients[member.who].ssrc();
            let from = self.rig.clients[member.who].address;
            let bytes = match &mut member.kind {
                Kind::Bot => self.rig.clients[member.who].voice(&payload),
                Kind::Browser(browser) => browser.packet(0, OPUS, &payload),
            };
            self.said.insert(id, (member.who, ssrc, payload));
            self.transmit(UnderWay { from, bytes, id });
        }
    }

    fn transmit(&mut self, packet: UnderWay) {
        if self.flawless {
            self.under_way.push(packet);
            return self.arrive(0);
        }
        let copies = match self.dice.within(0..10) {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let UnderWay { from, bytes, id } = &packet;
            self.under_way.push(UnderWay { from: *from, bytes: bytes.clone(), id: *id });
        }
        while self.under_way.len() > self.dice.within(1..UNDER_WAY_MAX) {
            let next = self.dice.within(0..self.under_way.len().min(UNDER_WAY_MAX));
            self.arrive(next);
        }
    }

    fn arrive(&mut self, place: usize) {
        let UnderWay { from, bytes, id } = self.under_way.remove(place);
        self.rig.datagram(from, &bytes);
        self.collect();
        let (who, ..) = self.said[&id];
        let allowed = self.members.iter().any(|member| member.who == who && !member.muted);
        if self.flawless && allowed {
            for member in self.members.iter().filter(|member| member.who != who) {
                assert!(member.heard.contains(&id), "{} did not hear {id}", member.who);
            }
        }
    }

    /// Everyone hears what has come.
    fn collect(&mut self) {
        for member in &mut self.members {
            let (heard, opus) = match &mut member.kind {
                Kind::Bot => (self.rig.clients[member.who].take_heard(), 120),
                Kind::Browser(browser) if browser.is_connected() => {
                    (browser.hear(&mut self.rig), OPUS)
                }
                Kind::Browser(_) => continue,
            };
            for heard in heard {
                let Heard::Rtp { ssrc, payload_type, seq, payload, .. } = heard else { continue };
                let newest = member.newest.entry(ssrc).or_insert(seq.into());
                let number = *newest + i64::from(seq.wrapping_sub(*newest as u16) as i16);
                *newest = number.max(*newest);
                assert!(member.numbers.insert((ssrc, number)), "number {seq} of {ssrc} twice");
                assert_eq!(payload_type, opus);
                // Silence that the server puts in the place of who is muted.
                if payload == [0xF8, 0xFF, 0xFE] {
                    continue;
                }
                let id = payload.first_chunk().map(|id| u64::from_be_bytes(*id));
                let id = id.expect("somebody said it");
                let (who, announced, said) = &self.said[&id];
                assert_ne!(*who, member.who, "an echo");
                assert_eq!((*announced, said), (ssrc, &payload), "as it was said");
                assert!(member.heard.insert(id), "heard twice");
                self.heard += 1;
            }
        }
    }

    /// A browser's network changes, or a bot's port.
    fn move_someone(&mut self) {
        let place = self.dice.within(0..self.members.len());
        let port = 20_000 + self.dice.within(0..10_000) as u16;
        let member = &mut self.members[place];
        let address = SocketAddr::from(([10, 1, (member.who % 250) as u8, 1], port));
        match &mut member.kind {
            // It follows the next packet.
            Kind::Bot => {}
            Kind::Browser(browser) => {
                browser.move_to(&mut self.rig, address);
                browser.check(&mut self.rig, true);
            }
        }
        self.collect();
    }

    fn select_again(&mut self) {
        let place = self.dice.within(0..self.members.len());
        let Kind::Browser(browser) = &self.members[place].kind else { return };
        let (who, version) = (browser.who, browser.choices.version);
        let choices = self.choices(version);
        // What is under way was sealed with the old keys.
        let address = self.rig.clients[who].address;
        self.under_way.retain(|packet| packet.from != address);
        let mut browser = Browser::select(&mut self.rig, who, choices);
        browser.connect(&mut self.rig);
        browser.say_hello(&mut self.rig);
        self.members[place].kind = Kind::Browser(Box::new(browser));
        self.collect();
    }

    fn turn_policy(&mut self) {
        let place = self.dice.within(0..self.members.len());
        let muted = !self.members[place].muted;
        self.members[place].muted = muted;
        let who = self.members[place].who;
        self.rig.update(who, |policy| policy.state.mute = muted);
        self.collect();
    }

    /// A WebSocket breaks and comes back.
    fn resume(&mut self) {
        let place = self.dice.within(0..self.members.len());
        let who = self.members[place].who;
        self.rig.hang_up(who, 1006);
        if self.dice.percent(50) {
            self.talk();
        }
        self.rig.resume(who);
        assert!(self.rig.clients[who].connection.is_some(), "a resume in time succeeds");
        self.collect();
    }

    /// Time passes; those who have a path confirm it, and everyone says that it lives.
    fn wait(&mut self) {
        let by = self.dice.millis(1..15_000);
        self.rig.advance(by);
        self.collect();
        for place in 0..self.members.len() {
            let who = self.members[place].who;
            self.rig.say(who, Client::heartbeat);
            if let Kind::Browser(browser) = &mut self.members[place].kind {
                browser.check(&mut self.rig, true);
            }
        }
        self.collect();
    }
}
