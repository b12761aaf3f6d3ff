//! Video over lossy networks, both ways: a camera that answers requests, viewers that ask for what
//! they lack. As long as a loss can be mended at all, everyone must end up with every packet, bit
//! for bit and in its place; and the asking must stay within bounds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use stentor::rtp::{
    Kind, classify,
    feedback::write_nack,
    rtcp::{Blocks, ReceiverReport, Report, reports},
};

use crate::{
    client::{Heard, Profile, Rtp, codec, opus, rtp},
    dice::Dice,
    number,
    rig::Rig,
};

/// Runs without `SIM_RUNS`; each some seconds of video.
const RUNS: u64 = 24;
const FRAME: Duration = Duration::from_millis(33);
const FILMED: Duration = Duration::from_secs(6);
/// Nothing is lost any more, and what was can still be mended.
const HEALED: Duration = Duration::from_secs(3);
/// And the camera is off for the last part of that.
const TAIL: Duration = Duration::from_secs(1);
/// How often a viewer asks again, and when it first does.
const ASK_AGAIN: Duration = Duration::from_millis(70);
const ASK_AFTER: Duration = Duration::from_millis(15);

/// What happens next.
enum Event {
    Frame,
    ToServer(SocketAddr, Vec<u8>),
    ToClient(usize, Vec<u8>),
    /// A viewer looks what it lacks.
    Look(usize),
    Join,
}

/// One way between a client and the server.
#[derive(Clone)]
struct Way {
    loss: u8,
    duplicates: u8,
    delay: std::ops::Range<usize>,
}

struct Viewer {
    who: usize,
    way: Way,
    /// By its own numbers, counted on from the first.
    got: BTreeMap<i64, Vec<u8>>,
    newest: Option<(i64, u16)>,
    /// Something is on its way to it.
    begun: bool,
    asked: BTreeMap<i64, Instant>,
    requests: u64,
}

struct Scene {
    rig: Rig,
    dice: Dice,
    events: BTreeMap<(Instant, u64), Event>,
    order: u64,
    camera: usize,
    uplink: Way,
    viewers: Vec<Viewer>,
    /// Every packet filmed, and whether a keyframe begins with it.
    filmed: Vec<(Vec<u8>, bool)>,
    /// What the camera can send again: its numbers, clocks and payloads.
    sent: BTreeMap<u16, (u32, Vec<u8>)>,
    as_retransmission: bool,
    keyframe_wanted: bool,
    filmed_until: Instant,
    asked_of_camera: u64,
    lost_upstream: u64,
    healed: bool,
}

#[test]
fn every_loss_that_can_be_mended_is() {
    let runs = number("SIM_RUNS").unwrap_or(RUNS);
    let seeds = number("SIM_SEED").map_or(0..runs, |seed| seed..seed + 1);
    for seed in seeds {
        println!("replay with: SIM_SEED={seed} cargo test --test sim mending");
        Scene::new(seed).play();
    }
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5EED);
        let mut rig = Rig::new();
        let as_retransmission = dice.percent(70);
        let camera = rig.joined(1, 10, Profile::video(103, 104));
        let way = |dice: &mut Dice| {
            let start = dice.within(1..40);
            let spread = if dice.percent(60) { dice.within(1..25) } else { 1 };
            let loss = if dice.percent(80) { dice.within(0..16) as u8 } else { 0 };
            let duplicates = if dice.percent(30) { dice.within(0..10) as u8 } else { 0 };
            Way { loss, duplicates, delay: start..start + spread }
        };
        let uplink = way(&mut dice);
        let filmed_until = rig.now + FILMED + HEALED - TAIL;
        let mut scene = Self {
            rig,
            events: BTreeMap::new(),
            order: 0,
            camera,
            uplink,
            viewers: Vec::new(),
            filmed: Vec::new(),
            sent: BTreeMap::new(),
            as_retransmission,
            keyframe_wanted: true,
            filmed_until,
            asked_of_camera: 0,
            lost_upstream: 0,
            healed: false,
            dice,
        };
        for _ in 0..scene.dice.within(1..4) {
            scene.join(way);
        }
        scene.rig.say(camera, |client| client.camera(true));
        // The camera's numbers wrap within the run.
        let start = 65_536 - scene.dice.within(1..600);
        scene.rig.clients[camera].streams[1].seq = start as u16;
        scene.rig.forget();
        scene
    }

    fn join(&mut self, way: impl Fn(&mut Dice) -> Way) {
        let user = 20 + self.viewers.len() as u64;
        let profile = match self.dice.percent(70) {
            true => Profile::video(126, 127),
            false => {
                let codecs = serde_json::json!([opus(), codec("H264", 1000, 99, None)]);
                Profile { layers: 1, codecs: Some(codecs), ..Profile::default() }
            }
        };
        let who = self.rig.joined(1, user, profile);
        let way = way(&mut self.dice);
        let viewer = Viewer {
            who,
            way,
            got: BTreeMap::new(),
            newest: None,
            begun: false,
            asked: BTreeMap::new(),
            requests: 0,
        };
        self.viewers.push(viewer);
        let viewer = self.viewers.len() - 1;
        self.at(ASK_AFTER, Event::Look(viewer));
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.order += 1;
        self.events.insert((self.rig.now + after, self.order), event);
    }

    fn play(&mut self) {
        let end = self.rig.now + FILMED;
        let over = end + HEALED;
        self.at(Duration::ZERO, Event::Frame);
        let joins = self.dice.millis(500..3_000);
        self.at(joins, Event::Join);
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > over {
                break;
            }
            // Timers of the server come first.
            self.rig.advance(at.saturating_duration_since(self.rig.now));
            self.healed = at > end;
            self.happen(event);
            self.collect();
        }
        self.check();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Frame => {
                self.film();
                if self.rig.now < self.filmed_until {
                    self.at(FRAME, Event::Frame);
                }
            }
            Event::ToServer(from, bytes) => self.rig.datagram(from, &bytes),
            Event::ToClient(viewer, bytes) => self.see(viewer, &bytes),
            Event::Look(viewer) => {
                self.look(viewer);
                self.at(Duration::from_millis(10), Event::Look(viewer));
            }
            Event::Join => {
                let way = self.viewers[0].way.clone();
                self.join(|_| way.clone());
            }
        }
    }

    /// A frame of some packets, each like no other.
    fn film(&mut self) {
        let keyframe = std::mem::take(&mut self.keyframe_wanted) || self.dice.percent(2);
        let packets = self.dice.within(1..7);
        for packet in 0..packets {
            let begins = keyframe && packet == 0;
            let number = self.filmed.len() as u32;
            let head = if begins { 0x65 } else { 0x41 };
            let length = self.dice.within(0..900);
            let noise = self.dice.bytes(length);
            let payload = [&[head][..], &number.to_be_bytes(), &noise].concat();
            self.filmed.push((payload.clone(), begins));
            let outgoing = &mut self.rig.clients[self.camera].streams[1];
            let (ssrc, seq) = (outgoing.ssrc, outgoing.seq);
            let timestamp = outgoing.timestamp;
            outgoing.seq = seq.wrapping_add(1);
            self.sent.insert(seq, (timestamp, payload.clone()));
            let marker = packet + 1 == packets;
            let plain =
                Rtp { payload_type: 103, marker, seq, timestamp, payload: &payload, ..rtp(ssrc) };
            self.send_up(&plain.plain());
        }
        self.rig.clients[self.camera].streams[1].timestamp += 2_970;
    }

    fn send_up(&mut self, plain: &[u8]) {
        let client = &mut self.rig.clients[self.camera];
        let (from, bytes) = (client.address, client.seal(plain));
        let copies = self.copies(&self.uplink.clone());
        self.lost_upstream += u64::from(copies.is_empty());
        for delay in copies {
            self.at(delay, Event::ToServer(from, bytes.clone()));
        }
    }

    /// When the copies of a datagram arrive that takes this way.
    fn copies(&mut self, way: &Way) -> Vec<Duration> {
        let (loss, duplicates) = if self.healed { (0, 0) } else { (way.loss, way.duplicates) };
        let copies = match (self.dice.percent(loss), self.dice.percent(duplicates)) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        };
        (0..copies).map(|_| self.dice.millis(way.delay.clone())).collect()
    }

    /// What the server has sent gets on its way.
    fn collect(&mut self) {
        let mail = std::mem::take(&mut self.rig.clients[self.camera].mail);
        for bytes in mail {
            // Requests are lost like anything else.
            if !self.copies(&self.uplink.clone()).is_empty() {
                self.obey(&bytes);
            }
        }
        for viewer in 0..self.viewers.len() {
            let who = self.viewers[viewer].who;
            let way = self.viewers[viewer].way.clone();
            for bytes in std::mem::take(&mut self.rig.clients[who].mail) {
                // Nobody asks for what came before the first it got, so that is not lost.
                let first = classify(&bytes) == Kind::Rtp
                    && !std::mem::replace(&mut self.viewers[viewer].begun, true);
                let copies = match first {
                    true => vec![self.dice.millis(way.delay.clone())],
                    false => self.copies(&way),
                };
                for delay in copies {
                    self.at(delay, Event::ToClient(viewer, bytes.clone()));
                }
            }
        }
    }

    /// The camera does what it is asked for.
    fn obey(&mut self, bytes: &[u8]) {
        let client = &self.rig.clients[self.camera];
        let Some((Heard::Rtcp(compound), _)) = client.open(bytes) else { return };
        let mut again = Vec::new();
        for report in reports(&compound) {
            match report {
                Report::Pli(_) => self.keyframe_wanted = true,
                Report::Nack(nack) => again.extend(nack.lost()),
                _ => {}
            }
        }
        self.asked_of_camera += again.len() as u64;
        for lost in again {
            let (timestamp, payload) = self.sent[&lost].clone();
            let streams = &mut self.rig.clients[self.camera].streams;
            let plain = if self.as_retransmission {
                let outgoing = &mut streams[2];
                let (ssrc, seq) = (outgoing.ssrc, outgoing.seq);
                outgoing.seq = seq.wrapping_add(1);
                let payload = [&lost.to_be_bytes()[..], &payload].concat();
                Rtp { payload_type: 104, seq, timestamp, payload: &payload, ..rtp(ssrc) }.plain()
            } else {
                let packet = rtp(streams[1].ssrc);
                Rtp { payload_type: 103, seq: lost, timestamp, payload: &payload, ..packet }.plain()
            };
            self.send_up(&plain);
        }
    }

    /// A viewer gets a datagram.
    fn see(&mut self, viewer: usize, bytes: &[u8]) {
        let video = self.rig.clients[self.camera].streams[1].ssrc;
        let Viewer { who, got, newest, .. } = &mut self.viewers[viewer];
        let (heard, _) = self.rig.clients[*who].open(bytes).expect("sealed for it");
        let Heard::Rtp { ssrc, payload_type, seq, payload, .. } = heard else { return };
        let (number, payload) = if ssrc == video {
            assert!(matches!(payload_type, 126 | 99));
            (seq, payload)
        } else {
            assert_eq!((ssrc.0, payload_type), (video.0 + 1, 127), "a retransmission");
            let (number, payload) = payload.split_first_chunk().expect("a number");
            (u16::from_be_bytes(*number), payload.to_vec())
        };
        let place = newest
            .map_or(0, |(place, newest)| place + i64::from(number.wrapping_sub(newest) as i16));
        if newest.is_none_or(|(newest, _)| place > newest) {
            *newest = Some((place, number));
        }
        if let Some(before) = got.insert(place, payload.clone()) {
            assert_eq!(before, payload, "one number is one packet");
        }
    }

    /// A viewer asks for what it lacks.
    fn look(&mut self, viewer: usize) {
        let video = self.rig.clients[self.camera].streams[1].ssrc;
        let now = self.rig.now;
        let Viewer { who, way, got, newest, asked, requests, .. } = &mut self.viewers[viewer];
        let (Some(&(newest, number)), Some((&first, _))) = (newest.as_ref(), got.iter().next())
        else {
            return;
        };
        let mut lacks: Vec<u16> = Vec::new();
        for place in (first..newest).filter(|place| !got.contains_key(place)) {
            let due = asked.entry(place).or_insert(now + ASK_AFTER);
            if *due <= now && lacks.len() < 100 {
                *due = now + ASK_AGAIN;
                lacks.push(number.wrapping_sub((newest - place) as u16));
            }
        }
        *requests += lacks.len() as u64;
        if lacks.is_empty() {
            return;
        }
        let (way, client) = (way.clone(), &mut self.rig.clients[*who]);
        let ssrc = client.ssrc();
        let mut out = [0; 600];
        let head = ReceiverReport { ssrc, blocks: Blocks::default() }.write(&mut out);
        let head = head.expect("room enough");
        let len = head + write_nack(&mut out[head..], ssrc, video, lacks).expect("room enough");
        let (from, bytes) = (client.address, client.seal(&out[..len]));
        for delay in self.copies(&way) {
            self.at(delay, Event::ToServer(from, bytes.clone()));
        }
    }

    fn check(&self) {
        for viewer in &self.viewers {
            let payloads: Vec<&[u8]> = viewer.got.values().map(|it| &it[..]).collect();
            assert!(!payloads.is_empty(), "somebody saw nothing");
            let (first, newest) = (viewer.got.keys().next(), viewer.got.keys().last());
            let span = newest.unwrap() - first.unwrap() + 1;
            assert_eq!(span as usize, payloads.len(), "holes in what was seen");
            let number = |payload: &[u8]| {
                u32::from_be_bytes(payload[1..5].try_into().expect("a number")) as usize
            };
            let start = number(payloads[0]);
            // Who was there from the beginning sees whatever came first.
            assert!(self.filmed[start].1 || start < 20, "it began without a keyframe");
            for (step, payload) in payloads.iter().enumerate() {
                assert_eq!(*payload, &self.filmed[start + step].0[..], "not what was filmed");
            }
            assert_eq!(start + payloads.len(), self.filmed.len(), "it ended early");
        }
        let counters = self.rig.shard.counters();
        // What was overtaken by more than the server waits is asked for too, once.
        let asked_max = 12 * self.lost_upstream + self.filmed.len() as u64;
        assert!(self.asked_of_camera <= asked_max, "asked again and again");
        let requests: u64 = self.viewers.iter().map(|viewer| viewer.requests).sum();
        assert!(counters.retransmitted <= requests + 300, "more than was asked for");
        let numbers: BTreeSet<_> = self.filmed.iter().map(|(payload, _)| payload).collect();
        assert_eq!(numbers.len(), self.filmed.len(), "each packet is like no other");
    }
}
