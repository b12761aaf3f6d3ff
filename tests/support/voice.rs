//! songbird 0.6, unmodified, as a client that speaks a tone of its own and says by Goertzel filter
//! which tones it heard under which SSRC, and which RTP packets. What songbird does when it is
//! short of time is turned off or left out (see `scheduler` and `Heard::runs`).

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU8, NonZeroU64},
    sync::{Arc, LazyLock, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use songbird::{
    Config, ConnectionInfo, CoreEvent, Driver, Event, EventContext, EventHandler,
    driver::{DecodeConfig, DecodeMode, Scheduler, SchedulerConfig, retry::Retry},
    id::{ChannelId, GuildId, UserId},
    input::RawAdapter,
};

use crate::support::{
    WAIT,
    server::{Grant, Server},
    tone::{self, SAMPLE_RATE, Sine},
};

/// Ticks of one tone that count as having heard it: a second.
pub const ENOUGH: usize = 50;

/// A tick's samples, and its timestamps' step.
const TICK: u32 = 960;

/// A songbird driver with a tone of its own and all it has heard.
pub struct Voice {
    pub driver: Driver,
    pub user: u64,
    pub tone: f64,
    heard: Arc<Mutex<Heard>>,
}

/// Where a packet stands among its sender's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub sequence: u16,
    pub timestamp: u32,
}

/// One packet played.
#[derive(Debug)]
pub struct Tick {
    pub sequence: u16,
    /// Left channel.
    pub samples: Vec<i16>,
}

/// What one driver reported.
#[derive(Debug, Default)]
pub struct Heard {
    /// From Speaking messages.
    pub users: BTreeMap<u32, u64>,
    /// Every packet as it arrived, by SSRC.
    pub packets: BTreeMap<u32, Vec<Stamp>>,
    /// Every packet as it was played, by SSRC.
    pub ticks: BTreeMap<u32, Vec<Tick>>,
    /// Packets that did not open.
    pub sealed: Vec<(u32, u16)>,
    /// From Client Disconnect messages.
    pub gone: BTreeSet<u64>,
    /// Its own SSRC at each reconnection.
    pub reconnected: Vec<u32>,
    /// Why it gave up.
    pub lost: Option<String>,
}

impl Voice {
    pub async fn join(server: &Server, channel: u64, user: u64, tone: f64) -> Self {
        let grant = server.grant(channel, user);
        Self::join_at(&grant, &grant.endpoint, tone).await
    }

    pub async fn join_at(grant: &Grant, endpoint: &str, tone: f64) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let mut driver = Driver::new(config());
        for event in [
            CoreEvent::SpeakingStateUpdate,
            CoreEvent::VoiceTick,
            CoreEvent::RtpPacket,
            CoreEvent::ClientDisconnect,
            CoreEvent::DriverReconnect,
            CoreEvent::DriverDisconnect,
        ] {
            driver.add_global_event(event.into(), Ear(heard.clone()));
        }
        driver.connect(info(grant, endpoint)).await.expect("songbird joins");
        Self { driver, user: grant.user, tone, heard }
    }

    pub fn speak(&mut self) {
        let source = RawAdapter::new(Sine::new(self.tone), SAMPLE_RATE, 2);
        let _ = self.driver.play_input(source.into());
    }

    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no holder panics")
    }

    pub async fn until_hears(&self, speaker: &Voice) {
        let what = format!("{} hears {}: {:?}", self.user, speaker.user, self.heard().users);
        until(&what, || self.heard().ticks(speaker.user) >= ENOUGH).await;
    }

    /// All that was heard of this user is this tone, every packet opened, and none is missing,
    /// doubled or out of order.
    pub fn assert_hears_tone(&self, user: u64, tone: f64) {
        let heard = self.heard();
        let ssrc = heard.ssrc_of(user).expect("it was heard");
        assert!(heard.sealed.is_empty(), "{} could not open {:?}", self.user, heard.sealed);
        let gaps = heard.gaps(ssrc);
        assert!(gaps.is_empty(), "{} heard SSRC {ssrc} with gaps {gaps:?}", self.user);
        for run in heard.runs(ssrc) {
            assert_eq!(tone::voice(&run.concat()), Some(tone), "of {} packets", run.len());
        }
    }

    /// Every SSRC heard belongs to one of `speakers` and carries its tone and no other in every
    /// packet; not one packet is missing, doubled, out of order or sealed with another key.
    pub fn assert_heard_exactly(&self, speakers: &[&Voice]) {
        let heard = self.heard();
        let users: BTreeSet<u64> = heard
            .packets
            .keys()
            .map(|ssrc| *heard.users.get(ssrc).unwrap_or_else(|| panic!("SSRC {ssrc} is nobody's")))
            .collect();
        let expected: BTreeSet<u64> = speakers.iter().map(|speaker| speaker.user).collect();
        assert_eq!(users, expected, "{} heard the wrong users", self.user);
        assert!(heard.sealed.is_empty(), "{} could not open {:?}", self.user, heard.sealed);
        for ssrc in heard.packets.keys() {
            let gaps = heard.gaps(*ssrc);
            assert!(gaps.is_empty(), "{} heard SSRC {ssrc} with gaps {gaps:?}", self.user);
        }
        for speaker in speakers {
            let ssrc = heard.ssrc_of(speaker.user).expect("it was heard");
            for run in heard.runs(ssrc) {
                // Each packet for itself, and all of them as the one tone they were cut from.
                let whole = run.concat();
                for samples in run.into_iter().chain([&whole[..]]) {
                    assert_eq!(
                        tone::voice(samples),
                        Some(speaker.tone),
                        "{} heard {} with another tone",
                        self.user,
                        speaker.user
                    );
                }
            }
        }
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let heard = self.heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            eprintln!(
                "{}: gone {:?}, reconnected {:?}, lost {:?}, sealed {:?}",
                self.user, heard.gone, heard.reconnected, heard.lost, heard.sealed
            );
            for (ssrc, packets) in &heard.packets {
                let runs: Vec<_> = heard.runs(*ssrc).iter().map(Vec::len).collect();
                let (user, gaps) = (heard.users.get(ssrc), heard.gaps(*ssrc));
                let ends = (packets.first(), packets.last());
                eprintln!(
                    "  {ssrc} of {user:?}: {} packets, {ends:?}, gaps {gaps:?}, played {runs:?}",
                    packets.len()
                );
            }
        }
    }
}

impl Heard {
    pub fn ssrc_of(&self, user: u64) -> Option<u32> {
        self.users.iter().find(|(_, owner)| **owner == user).map(|(ssrc, _)| *ssrc)
    }

    /// Ticks in [`Heard::runs`] of this user.
    pub fn ticks(&self, user: u64) -> usize {
        self.ssrc_of(user).map_or(0, |ssrc| self.runs(ssrc).iter().map(Vec::len).sum())
    }

    /// Packets that do not follow the one before: the place, and both.
    pub fn gaps(&self, ssrc: u32) -> Vec<(usize, Stamp, Stamp)> {
        let follows = |a: Stamp, b: Stamp| {
            b.sequence == a.sequence.wrapping_add(1)
                && b.timestamp == a.timestamp.wrapping_add(TICK)
        };
        let pairs = self.packets[&ssrc].windows(2).enumerate();
        pairs
            .filter(|(_, pair)| !follows(pair[0], pair[1]))
            .map(|(place, pair)| (place + 1, pair[0], pair[1]))
            .collect()
    }

    /// The samples of packets that were played one after the other. songbird plays only a part of
    /// what piled up while it was kept waiting, so a run ends where a packet does not follow the
    /// one before. The very first ticks, which fade in, and the first of each run are left out.
    pub fn runs(&self, ssrc: u32) -> Vec<Vec<&[i16]>> {
        let ticks = self.ticks.get(&ssrc).and_then(|ticks| ticks.get(5..)).unwrap_or_default();
        ticks
            .chunk_by(|a, b| b.sequence == a.sequence.wrapping_add(1))
            .map(|run| run[1..].iter().map(|tick| &tick.samples[..]).collect::<Vec<_>>())
            .filter(|run| !run.is_empty())
            .collect()
    }
}

/// Writes down what happens.
struct Ear(Arc<Mutex<Heard>>);

#[async_trait::async_trait]
impl EventHandler for Ear {
    async fn act(&self, context: &EventContext<'_>) -> Option<Event> {
        let mut heard = self.0.lock().expect("no holder panics");
        match context {
            EventContext::SpeakingStateUpdate(speaking) => {
                if let Some(user) = speaking.user_id {
                    heard.users.insert(speaking.ssrc, user.0);
                }
            }
            EventContext::VoiceTick(tick) => {
                #[expect(clippy::iter_over_hash_type, reason = "each speaker has its own list")]
                for (ssrc, voice) in &tick.speaking {
                    // Without a packet songbird made the sound up.
                    let Some(packet) = &voice.packet else { continue };
                    let sequence = u16::from(packet.rtp().get_sequence());
                    if let Some(samples) = &voice.decoded_voice {
                        let samples = samples.iter().step_by(2).copied().collect();
                        heard.ticks.entry(*ssrc).or_default().push(Tick { sequence, samples });
                    } else {
                        heard.sealed.push((*ssrc, sequence));
                    }
                }
            }
            EventContext::RtpPacket(packet) => {
                let rtp = packet.rtp();
                let stamp = Stamp {
                    sequence: rtp.get_sequence().into(),
                    timestamp: rtp.get_timestamp().into(),
                };
                heard.packets.entry(rtp.get_ssrc()).or_default().push(stamp);
            }
            EventContext::ClientDisconnect(gone) => {
                heard.gone.insert(gone.user_id.0);
            }
            EventContext::DriverReconnect(connection) => heard.reconnected.push(connection.ssrc),
            EventContext::DriverDisconnect(lost) => heard.lost = Some(format!("{lost:?}")),
            _ => {}
        }
        None
    }
}

pub fn config() -> Config {
    Config::default()
        .scheduler(scheduler())
        .decode_mode(DecodeMode::Decode(DecodeConfig::default()))
        .driver_retry(Retry { retry_limit: NonZeroU8::new(1), ..Retry::default() })
}

/// One for all voices, as songbird's own. That one moves a voice to another thread when a turn took
/// 18 ms, and by then the turn's packets are sealed: the moved voice's packet is never sent, and
/// the last voice of the thread puts its header before another's ciphertext, which cannot open.
fn scheduler() -> Scheduler {
    static SCHEDULER: LazyLock<Scheduler> = LazyLock::new(|| {
        let mut config = SchedulerConfig::default();
        config.move_expensive_tasks = false;
        Scheduler::new(config)
    });
    SCHEDULER.clone()
}

pub fn info(grant: &Grant, endpoint: &str) -> ConnectionInfo {
    let id = |id| NonZeroU64::new(id).expect("no id is 0");
    ConnectionInfo {
        channel_id: ChannelId(id(grant.channel)),
        endpoint: endpoint.to_owned(),
        guild_id: GuildId(id(grant.server)),
        session_id: grant.session.clone(),
        token: grant.token.clone(),
        user_id: UserId(id(grant.user)),
    }
}

/// songbird's tasks need a runtime; its mixers bring threads of their own.
pub fn on_one_thread(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime starts").block_on(scenario);
}

pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !done() {
        assert!(Instant::now() < deadline, "waited {WAIT:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
