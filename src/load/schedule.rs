//! Who sends what when. A scenario becomes clients and their sources; a source's packets have their
//! times once and for all, so that a packet's time follows from its number and how many were due in
//! any stretch can be told without having sent one. Sans-IO: time is nanoseconds of the process's
//! clock, given by the caller.

use std::{cmp::Reverse, collections::BinaryHeap, ops::Range};

use super::{
    payload::Kind,
    scenario::{Channels, Scenario, Video},
};

/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Golden ratio, as a fraction of 2^64: phases a multiple of it apart never bunch, however many.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// RTP clocks, ticks a second (RFC 7587 §4.1, RFC 6184 §8.1).
const AUDIO_CLOCK_HZ: u32 = 48_000;
const VIDEO_CLOCK_HZ: u32 = 90_000;

/// Everyone in a scenario.
#[derive(Debug, Clone)]
pub struct Cast {
    /// All clients, those of one channel side by side.
    pub clients: Vec<Client>,
    /// All sources, in the order of their clients.
    pub sources: Vec<Source>,
    /// For each channel its clients and its sources.
    pub channels: Vec<Channel>,
}

/// One channel's share of the cast.
#[derive(Debug, Clone)]
pub struct Channel {
    /// Its place in [`Scenario::channels`].
    pub group: usize,
    /// Its members, indices of [`Cast::clients`].
    pub clients: Range<u32>,
    /// What they send, indices of [`Cast::sources`].
    pub sources: Range<u32>,
}

/// One virtual client.
#[derive(Debug, Clone)]
pub struct Client {
    /// The number of its channel.
    pub channel: u32,
    /// Its microphone, an index of [`Cast::sources`].
    pub audio: Option<u32>,
    /// Its camera.
    pub video: Option<u32>,
    /// Whether it declares that it takes video.
    pub takes_video: bool,
    /// Whether it carries media as browsers do, and not over plain UDP.
    pub over_webrtc: bool,
    /// When it joins: nanoseconds after the measured time has begun; `None`: before the warm-up.
    pub joins_at_ns: Option<u64>,
    /// When it leaves, to come back at once: nanoseconds after the measured time has begun,
    /// ascending.
    pub leaves_at_ns: Vec<u64>,
}

/// One stream of packets.
#[derive(Debug, Clone)]
pub struct Source {
    /// Who sends it.
    pub client: u32,
    /// The number of its channel.
    pub channel: u32,
    /// Its place among the sources of its channel.
    pub slot: u32,
    /// What it carries.
    pub kind: Kind,
    /// Its packets' times and sizes.
    pub pace: Pace,
}

/// The times and sizes of a source's packets: bursts at a steady rate, each of so many packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bursts a second: audio packets, or frames of video.
    pub bursts_per_second: u32,
    /// Packets of a burst.
    pub packets: u32,
    /// Payload of each, bytes.
    pub payload_bytes: u16,
    /// Payload of a burst's last packet.
    pub last_payload_bytes: u16,
    /// RTP ticks from one burst to the next.
    pub ticks: u32,
    /// When number 0 is due.
    pub phase_ns: u64,
}

impl Cast {
    /// Everyone a scenario needs.
    pub fn new(scenario: &Scenario) -> Self {
        let mut cast = Self { clients: Vec::new(), sources: Vec::new(), channels: Vec::new() };
        for (group, channels) in scenario.channels.iter().enumerate() {
            let members = u64::from(channels.count) * u64::from(channels.members());
            let first = cast.clients.len() as u64;
            for _ in 0..channels.count {
                cast.add_channel(group, channels);
            }
            let clients = &mut cast.clients[first as usize..];
            churn(channels, scenario.duration_s, clients);
            let Some(at_s) = channels.join_at_s else { continue };
            let over_ns = u64::from(channels.join_over_s) * SECOND_NS;
            for (place, client) in clients.iter_mut().enumerate() {
                let offset = place as u64 * over_ns / members;
                client.joins_at_ns = Some(u64::from(at_s) * SECOND_NS + offset);
            }
        }
        cast
    }

    fn add_channel(&mut self, group: usize, channels: &Channels) {
        let channel = self.channels.len() as u32;
        let first_client = self.clients.len() as u32;
        let first_source = self.sources.len() as u32;
        let cameras = channels.video.as_ref().map_or(0, |video| video.cameras);
        for member in 0..channels.members() {
            let audio = (member < channels.speakers).then(|| {
                self.add_source(channel, first_source, Kind::Audio, Pace::audio(channels))
            });
            let camera = channels.video.as_ref().filter(|_| member < cameras);
            let video = camera.map(|video| {
                self.add_source(channel, first_source, Kind::Video, Pace::video(video))
            });
            let takes_video = channels.video.is_some();
            let sends = audio.is_some() || video.is_some();
            self.clients.push(Client {
                channel,
                audio,
                video,
                takes_video,
                over_webrtc: channels.is_over_webrtc(member, sends),
                joins_at_ns: None,
                leaves_at_ns: Vec::new(),
            });
        }
        self.channels.push(Channel {
            group,
            clients: first_client..self.clients.len() as u32,
            sources: first_source..self.sources.len() as u32,
        });
    }

    fn add_source(&mut self, channel: u32, first: u32, kind: Kind, pace: Pace) -> u32 {
        let index = self.sources.len() as u32;
        let turn = u64::from(index).wrapping_mul(GOLDEN);
        let interval = u128::from(SECOND_NS) / u128::from(pace.bursts_per_second);
        let phase_ns = ((u128::from(turn) * interval) >> 64) as u64;
        self.sources.push(Source {
            client: self.clients.len() as u32,
            channel,
            slot: index - first,
            kind,
            pace: Pace { phase_ns, ..pace },
        });
        index
    }
}

/// Spreads leaving over the measured time: one listener after the other, then the first again. Who
/// has a camera stays, as who speaks does: leaving changes who hears and not what is sent.
fn churn(channels: &Channels, duration_s: u32, clients: &mut [Client]) {
    if channels.churn_per_second <= 0.0 {
        return;
    }
    let is_silent = |client: &&mut Client| client.audio.is_none() && client.video.is_none();
    let mut listeners: Vec<_> = clients.iter_mut().filter(is_silent).collect();
    if listeners.is_empty() {
        return;
    }
    let every_ns = SECOND_NS as f64 / channels.churn_per_second;
    let leaves = (f64::from(duration_s) * channels.churn_per_second) as usize;
    let count = listeners.len();
    for leave in 0..leaves {
        // Not at the very beginning, where it would meet the end of the warm-up.
        let at_ns = (leave as f64 + 0.5) * every_ns;
        listeners[leave % count].leaves_at_ns.push(at_ns as u64);
    }
}

impl Pace {
    fn audio(channels: &Channels) -> Self {
        Self {
            bursts_per_second: channels.packets_per_second,
            packets: 1,
            payload_bytes: channels.payload_bytes,
            last_payload_bytes: channels.payload_bytes,
            ticks: AUDIO_CLOCK_HZ / channels.packets_per_second,
            phase_ns: 0,
        }
    }

    fn video(video: &Video) -> Self {
        let packets = video.packets_per_frame();
        let full = u64::from(video.payload_bytes) * u64::from(packets - 1);
        // A rest too short for a mark is filled up to one.
        let rest = (video.frame_bytes() - full).max(super::payload::PAYLOAD_BYTES_MIN.into());
        Self {
            bursts_per_second: video.frames_per_second,
            packets,
            payload_bytes: video.payload_bytes,
            last_payload_bytes: rest as u16,
            ticks: VIDEO_CLOCK_HZ / video.frames_per_second,
            phase_ns: 0,
        }
    }

    /// When packet `number` is due.
    pub fn due_ns(&self, number: u32) -> u64 {
        let burst = u64::from(number / self.packets);
        self.phase_ns + burst * SECOND_NS / u64::from(self.bursts_per_second)
    }

    /// The first packet that is due at `ns` or later.
    pub fn first_from(&self, ns: u64) -> u32 {
        let since = u128::from(ns.saturating_sub(self.phase_ns));
        let bursts =
            (since * u128::from(self.bursts_per_second)).div_ceil(u128::from(SECOND_NS)) as u64;
        u32::try_from(bursts * u64::from(self.packets)).unwrap_or(u32::MAX)
    }

    /// How many packets are due from `from_ns` on and before `to_ns`.
    pub fn count_between(&self, from_ns: u64, to_ns: u64) -> u64 {
        if from_ns >= to_ns {
            return 0;
        }
        u64::from(self.first_from(to_ns) - self.first_from(from_ns))
    }

    /// Whether `number` is the last packet of its burst.
    pub fn is_last(&self, number: u32) -> bool {
        number % self.packets == self.packets - 1
    }

    /// Payload of packet `number`, bytes.
    pub fn payload_bytes(&self, number: u32) -> u16 {
        if self.is_last(number) { self.last_payload_bytes } else { self.payload_bytes }
    }

    /// RTP timestamp of packet `number`.
    pub fn timestamp(&self, number: u32) -> u32 {
        (number / self.packets).wrapping_mul(self.ticks)
    }
}

/// A packet to send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// Whose, an index of [`Cast::sources`].
    pub source: u32,
    /// Its number.
    pub number: u32,
    /// When it was to leave.
    pub due_ns: u64,
}

/// The packets that are to come from the sources that speak at present.
#[derive(Debug, Default)]
pub struct Agenda {
    /// Next departure of each, by time.
    queue: BinaryHeap<Reverse<(u64, u32, u32)>>,
    /// Whether a source speaks, by its index; and how often it has begun, to know a stale entry.
    speaking: Vec<Option<u32>>,
    /// Numbers from which each source goes on, lest one be given twice.
    next: Vec<u32>,
}

impl Agenda {
    /// Nobody speaks.
    pub fn new(sources: usize) -> Self {
        Self { queue: BinaryHeap::new(), speaking: vec![None; sources], next: vec![0; sources] }
    }

    /// From now on this source speaks.
    pub fn start(&mut self, source: u32, pace: &Pace, now_ns: u64) {
        let number = pace.first_from(now_ns).max(self.next[source as usize]);
        if self.speaking[source as usize].replace(number).is_none() {
            self.queue.push(Reverse((pace.due_ns(number), source, number)));
        }
    }

    /// From now on it is silent.
    pub fn stop(&mut self, source: u32) {
        self.speaking[source as usize] = None;
    }

    /// When the next packet is due.
    pub fn next_due_ns(&mut self) -> Option<u64> {
        while let Some(&Reverse((due_ns, source, number))) = self.queue.peek() {
            if self.speaking[source as usize] == Some(number) {
                return Some(due_ns);
            }
            self.queue.pop();
        }
        None
    }

    /// Takes a packet that is due.
    pub fn pop_due(&mut self, cast: &[Source], now_ns: u64) -> Option<Departure> {
        let due_ns = self.next_due_ns().filter(|due_ns| *due_ns <= now_ns)?;
        let Reverse((_, source, number)) = self.queue.pop()?;
        let following = number.checked_add(1)?;
        self.next[source as usize] = following;
        self.speaking[source as usize] = Some(following);
        let pace = &cast[source as usize].pace;
        self.queue.push(Reverse((pace.due_ns(following), source, following)));
        Some(Departure { source, number, due_ns })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(bursts_per_second: u32, packets: u32, phase_ns: u64) -> Pace {
        Pace {
            bursts_per_second,
            packets,
            payload_bytes: 100,
            last_payload_bytes: 40,
            ticks: 960,
            phase_ns,
        }
    }

    fn video_scenario() -> Scenario {
        let mut scenario = Scenario::simple(2, 3).unwrap();
        scenario.channels[0].count = 2;
        scenario.channels[0].video = Some(Video {
            cameras: 3,
            bits_per_second: 2_500_000,
            frames_per_second: 30,
            payload_bytes: 1_150,
        });
        scenario.checked().unwrap()
    }

    #[test]
    fn a_cast_has_every_member_with_its_sources() {
        let cast = Cast::new(&video_scenario());
        assert_eq!((cast.clients.len(), cast.sources.len(), cast.channels.len()), (10, 10, 2));
        let kinds: Vec<_> = cast.sources[..5].iter().map(|source| source.kind).collect();
        use Kind::{Audio, Video};
        assert_eq!(kinds, [Audio, Video, Audio, Video, Video]);
        assert_eq!(cast.channels[1].sources, 5..10);
        assert_eq!(cast.clients[5].audio, Some(5));
        assert_eq!(cast.sources[6].client, 5);
        assert_eq!(cast.sources[6].slot, 1);
        assert_eq!(cast.clients[4].audio, None);
        assert!(cast.clients.iter().all(|client| client.takes_video));
    }

    #[test]
    fn a_frame_has_the_bytes_that_its_rate_wants() {
        let cast = Cast::new(&video_scenario());
        let pace = cast.sources[1].pace;
        let frame: u32 =
            (0..pace.packets).map(|number| u32::from(pace.payload_bytes(number))).sum();
        assert_eq!(frame, 2_500_000 / 8 / 30);
        assert!(pace.is_last(9) && !pace.is_last(8) && pace.is_last(19));
        assert_eq!((pace.timestamp(9), pace.timestamp(10)), (0, 3_000));
    }

    #[test]
    fn late_joins_are_spread_over_their_time() {
        let mut scenario = Scenario::simple(0, 4).unwrap();
        scenario.channels[0].join_at_s = Some(10);
        scenario.channels[0].join_over_s = 2;
        let joins: Vec<_> =
            Cast::new(&scenario).clients.iter().filter_map(|client| client.joins_at_ns).collect();
        assert_eq!(joins, [10_000_000_000, 10_500_000_000, 11_000_000_000, 11_500_000_000]);
    }

    #[test]
    fn listeners_leave_in_turn() {
        let mut scenario = Scenario::simple(1, 3).unwrap();
        scenario.duration_s = 2;
        scenario.channels[0].churn_per_second = 2.0;
        let cast = Cast::new(&scenario.checked().unwrap());
        let leaves = |client: usize| cast.clients[client].leaves_at_ns.as_slice();
        assert_eq!(leaves(0), [0; 0], "who speaks stays");
        assert_eq!(leaves(1), [250_000_000, 1_750_000_000]);
        assert_eq!((leaves(2), leaves(3)), (&[750_000_000][..], &[1_250_000_000][..]));
    }

    #[test]
    fn who_has_a_camera_does_not_leave() {
        let churn = |cameras| {
            let mut scenario = Scenario::simple(0, 3).unwrap();
            scenario.duration_s = 2;
            scenario.channels[0].churn_per_second = 2.0;
            scenario.channels[0].video = Some(Video { cameras, ..Video::at(2_500_000) });
            let cast = Cast::new(&scenario);
            cast.clients.iter().map(|client| client.leaves_at_ns.len()).collect::<Vec<_>>()
        };
        assert_eq!(churn(1), [0, 2, 2]);
        assert_eq!(churn(3), [0, 0, 0], "nobody is left to leave");
    }

    #[test]
    fn phases_of_many_sources_do_not_bunch() {
        let cast = Cast::new(&Scenario::simple(100, 0).unwrap());
        let mut phases: Vec<_> = cast.sources.iter().map(|source| source.pace.phase_ns).collect();
        phases.sort_unstable();
        assert!(phases.iter().all(|phase| *phase < 20_000_000));
        // A hundred over 20 ms: evenly would be 200 µs apart.
        assert!(phases.windows(2).all(|two| two[1] - two[0] >= 50_000), "{phases:?}");
    }

    #[test]
    fn packets_come_in_the_order_of_their_times_and_not_before() {
        let cast = Cast::new(&Scenario::simple(3, 0).unwrap());
        let mut agenda = Agenda::new(3);
        assert_eq!(agenda.next_due_ns(), None);
        for source in 0..3 {
            agenda.start(source, &cast.sources[source as usize].pace, SECOND_NS);
        }
        let first = agenda.next_due_ns().unwrap();
        assert!(first >= SECOND_NS);
        assert_eq!(agenda.pop_due(&cast.sources, first - 1), None);
        let until = 2 * SECOND_NS - 1;
        let all: Vec<_> = std::iter::from_fn(|| agenda.pop_due(&cast.sources, until)).collect();
        assert_eq!(all.len(), 150);
        assert!(all.windows(2).all(|two| two[0].due_ns <= two[1].due_ns));
        assert!(
            all.iter()
                .all(|it| { it.due_ns == cast.sources[it.source as usize].pace.due_ns(it.number) })
        );
    }

    #[test]
    fn who_stops_and_starts_again_gives_no_number_twice() {
        let cast = Cast::new(&Scenario::simple(1, 0).unwrap());
        let mut agenda = Agenda::new(1);
        let pace = &cast.sources[0].pace;
        agenda.start(0, pace, 0);
        agenda.start(0, pace, 0);
        let first = agenda.pop_due(&cast.sources, 0).unwrap();
        agenda.stop(0);
        assert_eq!(agenda.pop_due(&cast.sources, SECOND_NS), None);
        agenda.start(0, pace, 0);
        let next = agenda.pop_due(&cast.sources, SECOND_NS).unwrap();
        assert_eq!((first.number, next.number), (0, 1));
        agenda.stop(0);
        agenda.start(0, pace, SECOND_NS);
        assert_eq!(agenda.pop_due(&cast.sources, 2 * SECOND_NS).unwrap().number, 50);
    }

    proptest! {
        #[test]
        fn counting_agrees_with_the_times(
            rate in 1u32..400,
            packets in 1u32..12,
            phase in 0u64..SECOND_NS,
            from in 0u64..3 * SECOND_NS,
            span in 0u64..SECOND_NS,
        ) {
            let pace = pace(rate, packets, phase);
            let to = from + span;
            let counted = (0..6 * rate * packets)
                .filter(|&number| (from..to).contains(&pace.due_ns(number)))
                .count();
            prop_assert_eq!(pace.count_between(from, to), counted as u64);
            let first = pace.first_from(from);
            prop_assert!(pace.due_ns(first) >= from);
            prop_assert!(first == 0 || pace.due_ns(first - 1) < from);
        }
    }
}
