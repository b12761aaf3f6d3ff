//! The way from clients to shards: loses, delays, reorders, duplicates and corrupts. The way back needs
//! none, since what a shard sends is judged as it leaves.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use crate::{checkers::Sealed, dice::Dice};

/// Chances in percent, delays in milliseconds.
#[derive(Debug, Clone)]
pub struct Conditions {
    pub loss: u8,
    pub duplicates: u8,
    pub corruption: u8,
    pub delay: Range<usize>,
}

impl Conditions {
    pub const FLAWLESS: Self = Self { loss: 0, duplicates: 0, corruption: 0, delay: 7..8 };

    pub fn are_flawless(&self) -> bool {
        self.loss == 0 && self.duplicates == 0 && self.corruption == 0 && self.delay.len() == 1
    }

    /// A third of the runs see none of it, so that what must not be lost is seen to be there.
    pub fn draw(dice: &mut Dice) -> Self {
        if dice.percent(33) {
            return Self::FLAWLESS;
        }
        let mut chance = |most| if dice.percent(60) { dice.within(0..most) as u8 } else { 0 };
        let (loss, duplicates, corruption) = (chance(20), chance(20), chance(10));
        // Up to eight packets of voice overtake one another.
        let spread = if dice.percent(70) { dice.within(1..160) } else { 1 };
        let least = dice.within(1..40);
        Self { loss, duplicates, corruption, delay: least..least + spread }
    }
}

/// A datagram under way.
#[derive(Debug, Clone)]
pub struct Datagram {
    pub from: SocketAddr,
    /// Index of the shard.
    pub to: usize,
    pub bytes: Vec<u8>,
    /// What it is, unless the network or somebody else has tampered with it.
    pub sealed: Option<Sealed>,
}

impl Datagram {
    /// Changes a bit.
    pub fn corrupt(&mut self, dice: &mut Dice) {
        let from = self.sealed.map_or(0, |sealed| sealed.bound_from);
        let at = dice.within(from..self.bytes.len());
        self.bytes[at] ^= 1 << dice.within(0..8);
        self.sealed = None;
    }
}

#[derive(Debug)]
pub struct Network {
    pub conditions: Conditions,
    wire: BTreeMap<(Instant, u64), Datagram>,
    order: u64,
}

impl Network {
    pub fn new(conditions: Conditions) -> Self {
        Self { conditions, wire: BTreeMap::new(), order: 0 }
    }

    pub fn send(&mut self, now: Instant, dice: &mut Dice, mut datagram: Datagram) {
        let Conditions { loss, duplicates, corruption, delay } = self.conditions.clone();
        if dice.percent(loss) {
            return;
        }
        if dice.percent(corruption) && !datagram.bytes.is_empty() {
            datagram.corrupt(dice);
        }
        let copies = 1 + usize::from(dice.percent(duplicates));
        for _ in 0..copies {
            let at = now + dice.millis(delay.clone());
            self.order += 1;
            self.wire.insert((at, self.order), datagram.clone());
        }
    }

    /// When the next datagram arrives.
    pub fn next(&self) -> Option<Instant> {
        self.wire.keys().next().map(|(at, _)| *at)
    }

    pub fn take(&mut self) -> Option<Datagram> {
        self.wire.pop_first().map(|(_, datagram)| datagram)
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.conditions =
            Conditions { delay: self.conditions.delay.clone(), ..Conditions::FLAWLESS };
    }
}

/// The longest a datagram is under way.
pub const UNDER_WAY_MAX: Duration = Duration::from_millis(200);
