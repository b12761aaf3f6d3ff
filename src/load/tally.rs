//! What came to whom: each copy is checked by its hearer against what the packet says of itself.
//! Counts loss by what was due, so that a packet nobody got is missed as well; knows duplicates and
//! order by the packets' own numbers. Sans-IO: arrivals come in, accounts come out.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::{
    payload::Mark,
    result::{Hearing, Sending},
    schedule::{Cast, SECOND_NS},
    verdict::LATE_NS,
};

/// Significant digits of latencies.
pub const DIGITS: u8 = 3;

/// Numbers below the newest of a stream for which duplicates are told from first copies: five
/// seconds of audio, one of video. What is older counts as heard late.
const WINDOW: u32 = 256;

/// The time that counts: seconds from the one to the other, on the process's clock; and whose they
/// are, where the bare loop takes turns with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its beginning.
    pub from_ns: u64,
    /// How many seconds it has.
    pub seconds: u32,
    /// Seconds of each turn; `None`: the server has them all.
    pub slice_s: Option<u32>,
}

/// Who forwards a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The server under load.
    Server,
    /// The bare loop.
    Bound,
}

impl Window {
    /// The second of the measured time to which `ns` belongs.
    pub fn second(&self, ns: u64) -> Option<u32> {
        let since = ns.checked_sub(self.from_ns)?;
        u32::try_from(since / SECOND_NS).ok().filter(|second| *second < self.seconds)
    }

    /// When a second begins.
    pub fn start_of(&self, second: u32) -> u64 {
        self.from_ns + u64::from(second) * SECOND_NS
    }

    /// Its end.
    pub fn to_ns(&self) -> u64 {
        self.start_of(self.seconds)
    }

    /// Whose turn a second is.
    pub fn target_of(&self, second: u32) -> Target {
        match self.slice_s {
            Some(slice) if (second / slice) % 2 == 1 => Target::Bound,
            _ => Target::Server,
        }
    }

    /// Whose a packet is that is due at `ns`.
    pub fn target_at(&self, ns: u64) -> Target {
        self.second(ns).map_or(Target::Server, |second| self.target_of(second))
    }
}

/// One second's account.
#[derive(Debug, Clone)]
pub struct SecondTally {
    /// The generator's work.
    pub sending: Sending,
    /// What its hearers heard; `expected` and `lost` are for [`Due`] to fill in.
    pub hearing: Hearing,
    /// Latencies of the copies heard, nanoseconds.
    pub latency: Histogram<u32>,
}

impl Default for SecondTally {
    fn default() -> Self {
        let latency = Histogram::new(DIGITS).expect("three digits are few enough");
        Self { sending: Sending::default(), hearing: Hearing::default(), latency }
    }
}

impl SecondTally {
    /// Adds another part of the same second.
    pub fn add(&mut self, other: &SecondTally) {
        self.sending.add(&other.sending);
        self.hearing.add(&other.hearing);
        self.latency.add(&other.latency).expect("the histogram grows as needed");
    }
}

impl Sending {
    /// Adds more of the generator's work.
    pub fn add(&mut self, other: &Sending) {
        self.intended += other.intended;
        self.sent += other.sent;
        self.unsent += other.unsent;
        self.late += other.late;
        self.late_max_ns = self.late_max_ns.max(other.late_max_ns);
    }
}

impl Hearing {
    /// Adds what another hearer heard, or the same one at another time.
    pub fn add(&mut self, other: &Hearing) {
        self.expected += other.expected;
        self.heard += other.heard;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.wrong_channel += other.wrong_channel;
        self.undecryptable += other.undecryptable;
        self.foreign += other.foreign;
    }

    /// The same, with so many copies due.
    pub fn due(self, expected: u64) -> Self {
        Self { expected, lost: expected.saturating_sub(self.heard), ..self }
    }
}

/// Accounts by second of the measured time.
pub type Seconds = BTreeMap<u32, SecondTally>;

/// A client was there, or a source spoke, from the one time to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    /// Index of the client, or of the source.
    pub who: u32,
    /// Since when.
    pub from_ns: u64,
    /// Until when, exclusive.
    pub to_ns: u64,
}

/// What the hearers of one media thread have heard.
#[derive(Debug)]
pub struct Tally {
    run: u32,
    window: Option<Window>,
    ears: Vec<Ear>,
    /// Accounts of seconds since they were last taken.
    seconds: Seconds,
}

/// One hearer.
#[derive(Debug, Clone)]
struct Ear {
    channel: u32,
    /// What is due to it: from when, and until when once it has left. What is under way then may
    /// still come.
    stay: Option<(u64, Option<u64>)>,
    streams: Vec<Stream>,
    /// With the server, and with the bare loop.
    hearing: [Hearing; 2],
}

/// One source as one hearer hears it.
#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    newest: Option<u32>,
    /// Bit `n % WINDOW` is set for those heard of the newest [`WINDOW`] numbers.
    heard: [u64; (WINDOW / 64) as usize],
}

/// What a number was to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Novelty {
    Next,
    Late,
    Duplicate,
}

impl Stream {
    fn hear(&mut self, number: u32) -> Novelty {
        let Some(newest) = self.newest else {
            self.newest = Some(number);
            self.set(number);
            return Novelty::Next;
        };
        if number > newest {
            if number - newest >= WINDOW {
                self.heard = Default::default();
            } else {
                (newest + 1..number).for_each(|missing| self.clear(missing));
            }
            self.newest = Some(number);
            self.set(number);
            return Novelty::Next;
        }
        if newest - number >= WINDOW {
            return Novelty::Late;
        }
        let (word, bit) = place(number);
        if self.heard[word] & bit != 0 {
            return Novelty::Duplicate;
        }
        self.set(number);
        Novelty::Late
    }

    fn set(&mut self, number: u32) {
        let (word, bit) = place(number);
        self.heard[word] |= bit;
    }

    fn clear(&mut self, number: u32) {
        let (word, bit) = place(number);
        self.heard[word] &= !bit;
    }
}

fn place(number: u32) -> (usize, u64) {
    let at = number % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

impl Tally {
    /// Nobody has heard anything. Packets of other runs than `run` are foreign.
    pub fn new(cast: &Cast, run: u32) -> Self {
        let ear = |client: &super::schedule::Client| Ear {
            channel: client.channel,
            stay: None,
            // Made when the client joins: a stage of thousands has few speakers, and most threads
            // have a part of the clients.
            streams: Vec::new(),
            hearing: Default::default(),
        };
        let ears = cast.clients.iter().map(ear).collect();
        Self { run, window: None, ears, seconds: Seconds::new() }
    }

    /// Says which time counts; what is due before or after does not.
    pub fn measure(&mut self, window: Window) {
        self.window = Some(window);
    }

    /// The time that counts, once it is known.
    pub fn window(&self) -> Option<&Window> {
        self.window.as_ref()
    }

    /// A client hears from now on.
    pub fn arrive(&mut self, cast: &Cast, client: u32, now_ns: u64) {
        let ear = &mut self.ears[client as usize];
        let sources = cast.channels[ear.channel as usize].sources.len();
        ear.stay = Some((now_ns, None));
        ear.streams = vec![Stream::default(); sources];
    }

    /// A client hears no more of what is due from now on. Its stay, if it was there.
    pub fn leave(&mut self, client: u32, now_ns: u64) -> Option<Stay> {
        let (from_ns, left @ None) = self.ears[client as usize].stay.as_mut()? else { return None };
        *left = Some(now_ns);
        let from_ns = *from_ns;
        Some(Stay { who: client, from_ns, to_ns: now_ns })
    }

    /// A copy has come to `client` at `at_ns`, saying that it is `mark`.
    pub fn hear(&mut self, cast: &Cast, client: u32, mark: &Mark, at_ns: u64) {
        let ear = &mut self.ears[client as usize];
        let source = cast.sources.get(mark.source as usize).filter(|source| {
            source.client != client && source.channel == mark.channel && mark.run == self.run
        });
        let Some(source) = source else { return self.foreign(client, at_ns) };
        if mark.channel != ear.channel {
            return self.count(client, at_ns, |hearing| hearing.wrong_channel += 1);
        }
        let Some(stream) = ear.streams.get_mut(source.slot as usize) else { return };
        let novelty = stream.hear(mark.number);
        // Due before it came or after it left: nobody's loss and nobody's gain.
        let is_due = ear.stay.is_some_and(|(from_ns, left)| {
            mark.intended_ns >= from_ns && left.is_none_or(|to_ns| mark.intended_ns < to_ns)
        });
        if !is_due {
            return;
        }
        self.count(client, mark.intended_ns, |hearing| match novelty {
            Novelty::Duplicate => hearing.duplicated += 1,
            Novelty::Late => {
                hearing.heard += 1;
                hearing.reordered += 1;
            }
            Novelty::Next => hearing.heard += 1,
        });
        if novelty != Novelty::Duplicate
            && let Some(second) = self.window.and_then(|window| window.second(mark.intended_ns))
        {
            let latency = &mut self.seconds.entry(second).or_default().latency;
            let ns = at_ns.saturating_sub(mark.intended_ns).max(1);
            latency.record(ns).expect("the histogram grows as needed");
        }
    }

    /// A datagram that did not open.
    pub fn undecryptable(&mut self, client: u32, at_ns: u64) {
        self.count(client, at_ns, |hearing| hearing.undecryptable += 1);
    }

    /// A datagram that opened and says nothing we know.
    pub fn foreign(&mut self, client: u32, at_ns: u64) {
        self.count(client, at_ns, |hearing| hearing.foreign += 1);
    }

    /// Counts for a hearer and for the second of `ns`, if that counts.
    fn count(&mut self, client: u32, ns: u64, count: impl Fn(&mut Hearing)) {
        let Some(window) = &self.window else { return };
        let Some(second) = window.second(ns) else { return };
        let target = window.target_of(second);
        count(&mut self.ears[client as usize].hearing[target as usize]);
        count(&mut self.seconds.entry(second).or_default().hearing);
    }

    /// A packet left at `left_ns`, or the kernel did not take it.
    pub fn sent(&mut self, due_ns: u64, left_ns: u64) {
        let Some(second) = self.window.and_then(|window| window.second(due_ns)) else { return };
        let sending = &mut self.seconds.entry(second).or_default().sending;
        sending.intended += 1;
        sending.sent += 1;
        let late_ns = left_ns.saturating_sub(due_ns);
        sending.late += u64::from(late_ns > LATE_NS);
        sending.late_max_ns = sending.late_max_ns.max(late_ns);
    }

    /// Of the packets that were said to have left, the kernel refused so many of those due in the
    /// second of `due_ns`.
    pub fn refused(&mut self, due_ns: u64, packets: u64) {
        let Some(second) = self.window.and_then(|window| window.second(due_ns)) else { return };
        let sending = &mut self.seconds.entry(second).or_default().sending;
        sending.unsent += packets;
        sending.sent = sending.sent.saturating_sub(packets);
    }

    /// Takes the accounts so far, by second. The same second may come again, with what came later.
    pub fn take_seconds(&mut self) -> Seconds {
        std::mem::take(&mut self.seconds)
    }

    /// What a client has heard, with the server and with the bare loop; `expected` and `lost` are
    /// for [`Due`] to fill in.
    pub fn hearing(&self, client: u32) -> [Hearing; 2] {
        self.ears[client as usize].hearing
    }
}

/// How many copies were due, by hearer and by second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// For each client, with the server and with the bare loop.
    pub by_client: Vec<[u64; 2]>,
    /// For each second of the measured time.
    pub by_second: Vec<u64>,
}

impl Due {
    /// Counts from who was there when and who spoke when. A source speaks only while its client is
    /// there.
    pub fn count(cast: &Cast, window: &Window, present: &[Stay], speaking: &[Stay]) -> Self {
        let mut by_channel: Vec<Vec<Stay>> = vec![Vec::new(); cast.channels.len()];
        for stay in present {
            let channel = cast.clients[stay.who as usize].channel;
            by_channel[channel as usize].push(*stay);
        }
        let seconds = window.seconds as usize;
        let mut due =
            Self { by_client: vec![[0; 2]; cast.clients.len()], by_second: vec![0; seconds] };
        for speech in speaking {
            let source = &cast.sources[speech.who as usize];
            let stays = &by_channel[source.channel as usize];
            let own = stays.iter().filter(|stay| stay.who == source.client);
            for speaker in own {
                let from_ns = speech.from_ns.max(speaker.from_ns);
                let to_ns = speech.to_ns.min(speaker.to_ns);
                let others = stays.iter().filter(|stay| stay.who != source.client);
                for hearer in others {
                    let (from_ns, to_ns) = (from_ns.max(hearer.from_ns), to_ns.min(hearer.to_ns));
                    due.add(window, &source.pace, hearer.who, from_ns, to_ns);
                }
            }
        }
        due
    }

    fn add(
        &mut self,
        window: &Window,
        pace: &super::schedule::Pace,
        hearer: u32,
        from_ns: u64,
        to_ns: u64,
    ) {
        let (from_ns, to_ns) = (from_ns.max(window.from_ns), to_ns.min(window.to_ns()));
        if from_ns >= to_ns {
            return;
        }
        let first = (from_ns - window.from_ns) / SECOND_NS;
        let last = (to_ns - 1 - window.from_ns) / SECOND_NS;
        for second in first as u32..=last as u32 {
            let begins = window.start_of(second);
            let count = pace.count_between(from_ns.max(begins), to_ns.min(begins + SECOND_NS));
            self.by_second[second as usize] += count;
            self.by_client[hearer as usize][window.target_of(second) as usize] += count;
        }
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
