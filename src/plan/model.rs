//! What a server does each second, and what that costs it: rates from a profile, processor time
//! from rates and costs. Arithmetic only; where the costs come from is `calibration`'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    encryption::Encryption,
    profile::{Channels, EXTENSION_BYTES},
};
use crate::{limits::HEARTBEAT_INTERVAL_MS, rtp::packet::HEADER_BYTES};

/// Bytes around a UDP payload that a network counts as traffic: IPv4 and UDP headers.
pub const IP_BYTES: f64 = 28.0;

/// Bytes around an IP packet that take time on an Ethernet: header, checksum, preamble and the gap
/// after it (IEEE 802.3 §3.1, §4.4).
pub const ETHERNET_BYTES: f64 = 38.0;

/// Heartbeats a second of a session.
pub const HEARTBEATS: f64 = 1_000.0 / HEARTBEAT_INTERVAL_MS as f64;

/// Seconds between two of a browser's checks that it is still heard, on average (docs/load.md).
pub const CHECKS_S: u32 = 5;

/// What happens in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Media packets received.
    pub received: f64,
    /// Bursts that they come in: packets of speech, frames of video.
    pub bursts: f64,
    /// Hearers of each burst, of all together.
    pub burst_hearers: f64,
    /// Copies sent.
    pub copies: f64,
    /// Bytes of payload opened and sealed.
    pub payload_bytes: f64,
    /// Passes through the kernel's UDP stack to send them.
    pub traversals: f64,
    /// Sessions there.
    pub sessions: f64,
    /// Of these, browsers.
    pub browsers: f64,
    /// Others in its channel, of each session together: whom it was told of when they joined.
    pub told_of: f64,
    /// Heartbeats, which are what a session costs that is only there.
    pub heartbeats: f64,
    /// Joins.
    pub joins: f64,
    /// Of these, browsers'.
    pub browser_joins: f64,
}

/// Bits a second as IP packets, without what Ethernet adds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Towards the server.
    pub bits_in: f64,
    /// From it.
    pub bits_out: f64,
}

/// What things cost a server, processor time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Cores busy when nobody is there.
    pub base_cores: f64,
    /// A media packet received, nanoseconds.
    pub received_ns: f64,
    /// Waking up on a core that had nothing to do and halted, nanoseconds.
    pub halt_ns: f64,
    /// Waking up after a pause, with caches that have forgotten, besides that, nanoseconds.
    pub wake_ns: f64,
    /// Each hearer of the packet that has woken it, whose key the caches have forgotten as well,
    /// nanoseconds.
    pub cold_ns: f64,
    /// A pass through the kernel's UDP stack, nanoseconds.
    pub traversal_ns: f64,
    /// A heartbeat, nanoseconds: what a session takes that is only there.
    pub heartbeat_ns: f64,
    /// A join, and the leaving that belongs to it, nanoseconds.
    pub join_ns: f64,
    /// What a browser takes besides for being there, its checks and reports, nanoseconds a second.
    pub browser_ns: f64,
    /// What its join takes besides, above all a DTLS handshake, nanoseconds.
    pub browser_join_ns: f64,
    /// By name of the encryption ([`Encryption::from_name`]).
    pub modes: BTreeMap<String, ModeCost>,
    /// Of the packets of a burst after its first, the part that leaves in a pass of its own; the
    /// others share one with those before them.
    pub separate: f64,
    /// Memory of the process when nobody is there, bytes.
    pub memory_base_bytes: f64,
    /// Memory of a session, bytes.
    pub memory_session_bytes: f64,
    /// Memory of a browser's, bytes.
    pub memory_browser_bytes: f64,
    /// What a session was told of another, and is kept until its next heartbeat acknowledges it,
    /// bytes.
    pub memory_told_bytes: f64,
}

/// What depends on the encryption.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ModeCost {
    /// A copy, besides its bytes and its pass through the stack; one more segment of a pass,
    /// nanoseconds.
    pub copy_ns: f64,
    /// A byte of payload, opened or sealed, nanoseconds.
    pub byte_ns: f64,
}

/// One term of a sum: how much of what, at what cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Term {
    /// Of what, in words.
    pub name: &'static str,
    /// How much a second.
    pub amount: f64,
    /// What one costs, nanoseconds.
    pub each_ns: f64,
    /// All of it, in cores.
    pub cores: f64,
}

impl Term {
    /// So much a second at so many nanoseconds each.
    pub fn of(name: &'static str, amount: f64, each_ns: f64) -> Self {
        Self { name, amount, each_ns, cores: amount * each_ns / 1e9 }
    }
}

/// Bytes around a payload in an IP packet of a client's, and of ours: IP, UDP and RTP headers, tag
/// and counter; in ours an extension as well, and in browsers' too.
pub fn bytes_around(encryption: Encryption) -> (f64, f64) {
    let bare = IP_BYTES + (HEADER_BYTES + encryption.overhead()) as f64;
    let ours = bare + EXTENSION_BYTES as f64;
    (if encryption.is_browsers() { ours } else { bare }, ours)
}

/// Bits that so many packets take of a network card, which Ethernet adds to.
pub fn on_the_wire(packets: f64, bits: f64) -> f64 {
    bits + 8.0 * packets * ETHERNET_BYTES
}

impl Rates {
    /// Of one channel of a kind. `separate` as in [`Model::separate`].
    pub fn of_channel(channels: &Channels, separate: f64) -> Self {
        let hearers = f64::from(channels.members.saturating_sub(1));
        let audio = channels.speaking * f64::from(channels.packets_per_second);
        let audio_bytes = channels.speaking * channels.bitrate as f64 / 8.0;
        let (mut frames, mut video, mut video_bytes, mut passes) = (0.0, 0.0, 0.0, 0.0);
        if let Some(camera) = &channels.video {
            frames = camera.cameras * f64::from(camera.frames_per_second);
            let packets = camera.packets_per_frame();
            video = frames * packets;
            video_bytes = camera.cameras * camera.bits_per_second as f64 / 8.0;
            passes = frames * (1.0 + (packets - 1.0) * separate);
        }
        let sessions = f64::from(channels.members);
        let joins = channels.joins_per_hour / 3_600.0;
        let browsers = f64::from(u8::from(channels.encryption().is_browsers()));
        Self {
            received: audio + video,
            bursts: audio + frames,
            burst_hearers: (audio + frames) * hearers,
            copies: (audio + video) * hearers,
            payload_bytes: (audio_bytes + video_bytes) * (1.0 + hearers),
            traversals: (audio + passes) * hearers,
            sessions,
            heartbeats: sessions * HEARTBEATS,
            browsers: browsers * sessions,
            told_of: hearers * sessions,
            joins,
            browser_joins: browsers * joins,
        }
    }

    /// So many times as much.
    pub fn times(self, factor: f64) -> Self {
        Self {
            received: self.received * factor,
            bursts: self.bursts * factor,
            burst_hearers: self.burst_hearers * factor,
            copies: self.copies * factor,
            payload_bytes: self.payload_bytes * factor,
            traversals: self.traversals * factor,
            sessions: self.sessions * factor,
            browsers: self.browsers * factor,
            told_of: self.told_of * factor,
            heartbeats: self.heartbeats * factor,
            joins: self.joins * factor,
            browser_joins: self.browser_joins * factor,
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            bursts: self.bursts + other.bursts,
            burst_hearers: self.burst_hearers + other.burst_hearers,
            copies: self.copies + other.copies,
            payload_bytes: self.payload_bytes + other.payload_bytes,
            traversals: self.traversals + other.traversals,
            sessions: self.sessions + other.sessions,
            browsers: self.browsers + other.browsers,
            told_of: self.told_of + other.told_of,
            heartbeats: self.heartbeats + other.heartbeats,
            joins: self.joins + other.joins,
            browser_joins: self.browser_joins + other.browser_joins,
        }
    }

    /// As IP packets.
    pub fn traffic(&self, encryption: Encryption) -> Traffic {
        let (theirs, ours) = bytes_around(encryption);
        let packets = (self.received + self.copies).max(f64::MIN_POSITIVE);
        let payload = self.payload_bytes / packets;
        let bits = |packets: f64, around: f64| 8.0 * packets * (payload + around);
        Traffic { bits_in: bits(self.received, theirs), bits_out: bits(self.copies, ours) }
    }
}

impl Model {
    /// Every cost by itself that more of the same makes so many times as much: neither what the
    /// process takes anyway ([`Model::base_cores`]) nor what waking up takes ([`Model::waking`]).
    /// `None` if the encryption was never measured.
    pub fn terms(&self, mode: &str, rates: &Rates) -> Option<Vec<Term>> {
        let mode = self.modes.get(mode)?;
        let term = Term::of;
        let mut terms = vec![
            term("packets received", rates.received, self.received_ns),
            term("copies sealed", rates.copies, mode.copy_ns),
            term("passes through the UDP stack", rates.traversals, self.traversal_ns),
            term("bytes of payload", rates.payload_bytes, mode.byte_ns),
            term("heartbeats", rates.heartbeats, self.heartbeat_ns),
            term("joins", rates.joins, self.join_ns),
        ];
        if rates.browsers > 0.0 {
            terms.extend([
                term("browsers there", rates.browsers, self.browser_ns),
                term("browsers' joins", rates.browser_joins, self.browser_join_ns),
            ]);
        }
        Some(terms)
    }

    /// Memory that a process with these sessions has when all have just joined, bytes.
    pub fn memory_bytes(&self, rates: &Rates) -> f64 {
        self.memory_base_bytes
            + self.memory_session_bytes * (rates.sessions - rates.browsers)
            + self.memory_browser_bytes * rates.browsers
            + self.memory_told_bytes * rates.told_of
    }

    /// The sum of [`Model::terms`], in cores.
    pub fn cores(&self, mode: &str, rates: &Rates) -> Option<f64> {
        Some(self.terms(mode, rates)?.iter().map(|term| term.cores).sum())
    }
}

/// The fewest shards on which channels of these costs (in cores) fit, if no shard may be busier
/// than `usable`. `None` if the largest does not fit alone.
///
/// Control gives a new channel to the shard with the least to do. Whatever the order in which
/// channels come, the busiest of m shards then has at most (total − largest)/m + largest
/// (R. Graham, "Bounds on multiprocessing timing anomalies", 1969).
pub fn shards(total: f64, largest: f64, usable: f64) -> Option<u32> {
    let rest = (total - largest).max(0.0);
    if total <= usable {
        return Some(1);
    }
    let room = usable - largest;
    if room <= 0.0 {
        return None;
    }
    // What rounding has put a hair above a whole number is that number.
    let shards = (rest / room - 1e-9).ceil().max(1.0);
    (shards <= f64::from(u32::MAX)).then_some(shards as u32)
}

#[cfg(test)]
#[path = "model_tests.rs"]
pub(in crate::plan) mod tests;
