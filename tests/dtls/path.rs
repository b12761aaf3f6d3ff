//! A client, our server, and what lies between them: a virtual clock, and a path that loses,
//! repeats, delays and reorders by the dice it is given.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use stentor::{
    limits::DTLS_DATAGRAM_BYTES_MAX,
    metrics::DropReason,
    webrtc::{Dtls, DtlsEvent, Fingerprint, Identity},
};

use crate::{
    client::{Agreed, Client},
    dice::Dice,
};

/// What the path does to a datagram, chances in percent.
#[derive(Clone, Copy)]
pub struct Faults {
    pub lost: u8,
    pub repeated: u8,
    pub delay_ms: (usize, usize),
}

/// A path that does nothing but take 10 ms.
pub const PERFECT: Faults = Faults { lost: 0, repeated: 0, delay_ms: (10, 11) };

/// Which way a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    Server,
    Client,
}

/// Changes a datagram on its way: none, one or several come of it.
pub type Meddler<'a> = Box<dyn FnMut(To, Vec<u8>) -> Vec<Vec<u8>> + 'a>;

/// One session from both ends.
pub struct World<'a, C> {
    pub now: Instant,
    pub client: C,
    pub server: Dtls,
    pub events: Vec<DtlsEvent>,
    pub drops: Vec<DropReason>,
    /// All that arrived, in order.
    pub arrived: Vec<(To, Vec<u8>)>,
    pub meddler: Meddler<'a>,
    faults: Faults,
    dice: Dice,
    under_way: BTreeMap<(Instant, u64), (To, Vec<u8>)>,
    sent: u64,
}

impl<'a, C: Client> World<'a, C> {
    /// A server that expects this client, and a perfect path.
    pub fn new(now: Instant, client: C) -> Self {
        let expected = vec![client.fingerprint()];
        Self::expecting(now, client, expected)
    }

    /// A server that expects these fingerprints.
    pub fn expecting(now: Instant, client: C, expected: Vec<Fingerprint>) -> Self {
        let identity = Identity::generate().unwrap().seeded(0).unwrap();
        Self {
            now,
            client,
            server: Dtls::new(&identity, expected, now),
            events: Vec::new(),
            drops: Vec::new(),
            arrived: Vec::new(),
            meddler: Box::new(|_, datagram| vec![datagram]),
            faults: PERFECT,
            dice: Dice::new(0),
            under_way: BTreeMap::new(),
            sent: 0,
        }
    }

    pub fn with_faults(mut self, faults: Faults, seed: u64) -> Self {
        (self.faults, self.dice) = (faults, Dice::new(seed));
        self
    }

    pub fn with_meddler(mut self, meddler: impl FnMut(To, Vec<u8>) -> Vec<Vec<u8>> + 'a) -> Self {
        self.meddler = Box::new(meddler);
        self
    }

    /// Goes on until nothing is under way and nobody waits, at most this long.
    pub fn run(&mut self, longest: Duration) {
        let end = self.now + longest;
        loop {
            self.collect();
            let next = [
                self.under_way.first_key_value().map(|((at, _), _)| *at),
                self.server.poll_timeout(),
                self.client.poll_timeout(),
            ];
            let Some(next) = next.into_iter().flatten().min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            self.step();
        }
    }

    fn step(&mut self) {
        if self.server.poll_timeout().is_some_and(|at| at <= self.now) {
            self.server.handle_timeout(self.now);
        }
        if self.client.poll_timeout().is_some_and(|at| at <= self.now) {
            self.client.handle_timeout(self.now);
        }
        while let Some(first) = self.under_way.first_entry().filter(|it| it.key().0 <= self.now) {
            let (to, datagram) = first.remove();
            match to {
                To::Server => self.arrive(&datagram),
                To::Client => self.client.handle(self.now, &datagram),
            }
            self.arrived.push((to, datagram));
            self.collect();
        }
    }

    /// Hands the server a datagram now, past the path.
    pub fn arrive(&mut self, datagram: &[u8]) {
        self.drops.extend(self.server.handle(self.now, datagram).err());
    }

    fn collect(&mut self) {
        while let Some(datagram) = self.client.poll_output() {
            self.send(To::Server, datagram);
        }
        for datagram in self.answers() {
            self.send(To::Client, datagram);
        }
        while let Some(event) = self.server.poll_event() {
            self.events.push(event);
        }
    }

    /// What the server wants to send, taken away from the path.
    pub fn answers(&mut self) -> Vec<Vec<u8>> {
        let mut out = [0; DTLS_DATAGRAM_BYTES_MAX];
        std::iter::from_fn(|| self.server.poll_output(&mut out).map(|len| out[..len].to_vec()))
            .collect()
    }

    fn send(&mut self, to: To, datagram: Vec<u8>) {
        for datagram in (self.meddler)(to, datagram) {
            if self.dice.percent(self.faults.lost) {
                continue;
            }
            let copies = 1 + usize::from(self.dice.percent(self.faults.repeated));
            for _ in 0..copies {
                let (shortest, longest) = self.faults.delay_ms;
                let at = self.now + self.dice.millis(shortest..longest);
                self.sent += 1;
                self.under_way.insert((at, self.sent), (to, datagram.clone()));
            }
        }
    }

    /// What the server connected with, if it has.
    pub fn agreed(&self) -> Option<Agreed> {
        let mut connected = self.events.iter().filter_map(|event| match event {
            DtlsEvent::Connected { profile, material } => {
                Some(Agreed { profile: profile.0, material: material.to_vec() })
            }
            _ => None,
        });
        let agreed = connected.next();
        assert!(connected.next().is_none(), "connected twice");
        agreed
    }

    /// Runs until both are connected, and checks that they have the same.
    pub fn connect(&mut self) -> Agreed {
        self.run(Duration::from_secs(5));
        let agreed = self.agreed().unwrap_or_else(|| panic!("{:?}", self.events));
        assert_eq!(self.client.agreed(), Some(&agreed));
        assert_eq!(self.events.len(), 1);
        agreed
    }
}
