//! songbird 0.6, unmodified, as a foreign client over real TLS: each voice speaks a sine tone of
//! its own, each hearer says by Goertzel filter which tones it heard under which SSRC, and which
//! RTP packets. Claims are about media heard, never about time: what songbird does when it is short
//! of time is turned off or left out (see `scheduler` and `Heard::runs`); every wait is bounded.

mod support;

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
use support::{
    WAIT,
    client::{Client, shard},
    proxy::Proxy,
    server::{Grant, Server},
    spacebar::Spacebar,
    tone::{self, SAMPLE_RATE, Sine, VOICES},
    trust::{trusting, trusting_nobody},
};

const CHANNEL: u64 = 127_121_515_262_115_840;
const OTHER_CHANNEL: u64 = 127_121_515_262_115_999;

/// Ticks of one tone that count as having heard it: a second.
const ENOUGH: usize = 50;

/// A tick's samples, and its timestamps' step.
const TICK: u32 = 960;

#[test]
fn two_voices_hear_each_other_with_aes() {
    trusting("two_voices_hear_each_other_with_aes", |state| {
        let server = Server::within(state, &[]);
        everyone_hears_everyone(&server, 2, "aead_aes256_gcm_rtpsize");
    });
}

#[test]
fn two_voices_hear_each_other_with_xchacha() {
    trusting("two_voices_hear_each_other_with_xchacha", |state| {
        let server = Server::within(state, &[("MODES", "aead_xchacha20_poly1305_rtpsize")]);
        // songbird would rather have AES, and takes what is offered.
        everyone_hears_everyone(&server, 2, "aead_xchacha20_poly1305_rtpsize");
    });
}

#[test]
fn five_voices_all_hear_each_other() {
    trusting("five_voices_all_hear_each_other", |state| {
        let server = Server::within(state, &[]);
        everyone_hears_everyone(&server, 5, "aead_aes256_gcm_rtpsize");
    });
}

fn everyone_hears_everyone(server: &Server, count: usize, mode: &str) {
    on_one_thread(async {
        let mut voices = Vec::new();
        for (user, tone) in (10..).zip(VOICES).take(count) {
            voices.push(Voice::join(server, CHANNEL, user, tone).await);
        }
        voices.iter_mut().for_each(Voice::speak);
        for hearer in &voices {
            for speaker in voices.iter().filter(|speaker| speaker.user != hearer.user) {
                hearer.until_hears(speaker).await;
            }
        }
        for hearer in &voices {
            let others: Vec<&Voice> =
                voices.iter().filter(|voice| voice.user != hearer.user).collect();
            hearer.assert_heard_exactly(&others);
        }
        let room = server.api("GET", &format!("/v1/rooms/{CHANNEL}"), None).1;
        let sessions = room["sessions"].as_array().expect("a room has sessions");
        assert_eq!(sessions.len(), count, "{room}");
        assert!(sessions.iter().all(|session| session["mode"] == mode), "{room}");
    });
    assert_eq!(server.metrics().drops("bad_tag"), 0.0, "nothing failed to open");
}

#[test]
fn who_joins_later_hears_those_who_speak_and_is_heard() {
    trusting("who_joins_later_hears_those_who_speak_and_is_heard", |state| {
        let server = Server::within(state, &[]);
        on_one_thread(async {
            let mut first = Voice::join(&server, CHANNEL, 10, VOICES[0]).await;
            let mut second = Voice::join(&server, CHANNEL, 11, VOICES[1]).await;
            first.speak();
            second.speak();
            first.until_hears(&second).await;
            second.until_hears(&first).await;

            let mut late = Voice::join(&server, CHANNEL, 12, VOICES[2]).await;
            late.until_hears(&first).await;
            late.until_hears(&second).await;
            late.speak();
            first.until_hears(&late).await;
            second.until_hears(&late).await;
            first.assert_heard_exactly(&[&second, &late]);
            second.assert_heard_exactly(&[&first, &late]);
            late.assert_heard_exactly(&[&first, &second]);
        });
    });
}

#[test]
fn who_leaves_is_reported_and_heard_no_more() {
    trusting("who_leaves_is_reported_and_heard_no_more", |state| {
        // songbird leaves without a close frame, which holds its place for the resume window.
        let server = Server::within(state, &[("RESUME_WINDOW", "1s")]);
        on_one_thread(async {
            let mut stays = Voice::join(&server, CHANNEL, 10, VOICES[0]).await;
            let mut leaves = Voice::join(&server, CHANNEL, 11, VOICES[1]).await;
            stays.speak();
            leaves.speak();
            stays.until_hears(&leaves).await;
            leaves.until_hears(&stays).await;

            // `leave` would end the media and keep the WebSocket; with the driver both end.
            drop(leaves);
            until("a Client Disconnect", || stays.heard().gone.contains(&11)).await;
            assert_eq!(stays.heard().gone, BTreeSet::from([11]));
            let ssrc = stays.heard().ssrc_of(11).expect("it spoke");
            let heard_before = stays.heard().packets[&ssrc].len();

            let late = Voice::join(&server, CHANNEL, 12, VOICES[2]).await;
            late.until_hears(&stays).await;
            late.assert_heard_exactly(&[&stays]);
            assert_eq!(stays.heard().packets[&ssrc].len(), heard_before);
        });
    });
}

#[test]
fn a_cut_websocket_resumes_and_loses_no_packet() {
    trusting("a_cut_websocket_resumes_and_loses_no_packet", |state| {
        let server = Server::within(state, &[]);
        on_one_thread(async {
            let proxy = Proxy::to(server.gateway());
            let grant = server.grant(CHANNEL, 10);
            let mut cut = Voice::join_at(&grant, &proxy.address().to_string(), VOICES[0]).await;
            let mut other = Voice::join(&server, CHANNEL, 11, VOICES[1]).await;
            cut.speak();
            other.speak();
            cut.until_hears(&other).await;
            other.until_hears(&cut).await;
            let ssrc = other.heard().ssrc_of(10).expect("it spoke");

            proxy.cut();
            until("songbird's reconnection", || cut.heard().reconnected.len() == 1).await;
            assert_eq!(cut.heard().reconnected, [ssrc], "resumed with the SSRC it had");
            assert_eq!(proxy.connections(), 2, "one connection before, one for the resume");
            let mark = (cut.heard().ticks(11), other.heard().ticks(10));
            until("media after the resume", || {
                cut.heard().ticks(11) >= mark.0 + ENOUGH
                    && other.heard().ticks(10) >= mark.1 + ENOUGH
            })
            .await;

            // The resumed socket is alive: news still arrives on it.
            let mut late = Voice::join(&server, CHANNEL, 12, VOICES[2]).await;
            late.speak();
            cut.until_hears(&late).await;

            cut.assert_heard_exactly(&[&other, &late]);
            other.assert_heard_exactly(&[&cut, &late]);
            assert!(other.heard().gone.is_empty(), "a resumed session was never away");
            assert!(cut.heard().lost.is_none() && other.heard().lost.is_none());
        });
    });
}

#[test]
fn channels_on_different_shards_never_hear_each_other() {
    trusting("channels_on_different_shards_never_hear_each_other", |state| {
        let server = Server::within(state, &[("SHARDS", "2")]);
        // Silent members that hold the channels in place; Ready's port tells the shard.
        let here = Client::join(&server, CHANNEL, 100);
        let (_there, there_channel) = (0..32)
            .map(|offset| {
                (
                    Client::join(&server, OTHER_CHANNEL + offset, 101 + offset),
                    OTHER_CHANNEL + offset,
                )
            })
            .find(|(client, _)| shard(&client.ready) != shard(&here.ready))
            .expect("32 channels are not all on one of two shards");
        on_one_thread(async {
            let mut voices = [
                Voice::join(&server, CHANNEL, 10, VOICES[0]).await,
                Voice::join(&server, CHANNEL, 11, VOICES[1]).await,
                Voice::join(&server, there_channel, 12, VOICES[2]).await,
                Voice::join(&server, there_channel, 13, VOICES[3]).await,
            ];
            voices.iter_mut().for_each(Voice::speak);
            let [a, b, c, d] = &voices;
            for (hearer, speaker) in [(a, b), (b, a), (c, d), (d, c)] {
                hearer.until_hears(speaker).await;
            }
            for (hearer, speaker) in [(a, b), (b, a), (c, d), (d, c)] {
                hearer.assert_heard_exactly(&[speaker]);
            }
        });
    });
}

#[test]
fn those_whom_spacebar_lets_in_talk_and_move_and_are_seen_to_leave() {
    trusting("those_whom_spacebar_lets_in_talk_and_move_and_are_seen_to_leave", |state| {
        let spacebar = Spacebar::start();
        let settings = spacebar.settings("unix");
        let mut settings: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        settings.push(("RESUME_WINDOW", "1s"));
        let server = Server::within(state, &settings);
        on_one_thread(async {
            // What Spacebar names does not resolve; the certificate is for this name.
            let endpoint = format!("localhost:{}", server.gateway().port());
            let grants = [(10, CHANNEL), (11, CHANNEL), (12, OTHER_CHANNEL)]
                .map(|(user, channel)| spacebar.join(user, channel));
            let [a, b, c] = &grants;
            let mut alice = Voice::join_at(a, &endpoint, VOICES[0]).await;
            let mut bob = Voice::join_at(b, &endpoint, VOICES[1]).await;
            let mut carol = Voice::join_at(c, &endpoint, VOICES[2]).await;
            [&mut alice, &mut bob, &mut carol].into_iter().for_each(Voice::speak);
            alice.until_hears(&bob).await;
            bob.until_hears(&alice).await;
            alice.assert_heard_exactly(&[&bob]);

            // The main gateway moves her; her library connects anew with the token it had.
            let moved = spacebar.move_to(a, OTHER_CHANNEL);
            alice.driver.connect(info(&moved, &endpoint)).await.expect("songbird moves");
            until("bob sees her go", || bob.heard().gone.contains(&10)).await;
            alice.until_hears(&carol).await;
            carol.until_hears(&alice).await;

            drop(carol);
            until("alice sees carol go", || alice.heard().gone.contains(&12)).await;
        });
        spacebar.hear_leave(12);
        assert_eq!(spacebar.row(12), "|f|f");
        assert_eq!(spacebar.row(10), format!("{OTHER_CHANNEL}||f"));
    });
}

#[test]
fn a_wrong_token_is_an_authentication_failure() {
    trusting("a_wrong_token_is_an_authentication_failure", |state| {
        let server = Server::within(state, &[]);
        on_one_thread(async {
            let mut grant = server.grant(CHANNEL, 10);
            grant.token.push('x');
            // The driver must outlive the attempt: dropped, it abandons it.
            let mut driver = Driver::new(config());
            let joining = driver.connect(info(&grant, &grant.endpoint));
            let error = joining.await.expect_err("a wrong token is refused");
            assert!(format!("{error:?}").contains("4004"), "{error:?}");
        });
    });
}

#[test]
fn a_certificate_nobody_vouches_for_is_refused() {
    trusting_nobody("a_certificate_nobody_vouches_for_is_refused", |state| {
        let server = Server::within(state, &[]);
        on_one_thread(async {
            let grant = server.grant(CHANNEL, 10);
            let mut driver = Driver::new(config());
            let joining = driver.connect(info(&grant, &grant.endpoint));
            let error = joining.await.expect_err("an unknown certificate is refused");
            assert!(format!("{error:?}").contains("certificate verify failed"), "{error:?}");
        });
    });
}

/// A songbird driver with a tone of its own and all it has heard.
struct Voice {
    driver: Driver,
    user: u64,
    tone: f64,
    heard: Arc<Mutex<Heard>>,
}

/// Where a packet stands among its sender's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    sequence: u16,
    timestamp: u32,
}

/// One packet played.
#[derive(Debug)]
struct Tick {
    sequence: u16,
    /// Left channel.
    samples: Vec<i16>,
}

/// What one driver reported.
#[derive(Debug, Default)]
struct Heard {
    /// From Speaking messages.
    users: BTreeMap<u32, u64>,
    /// Every packet as it arrived, by SSRC.
    packets: BTreeMap<u32, Vec<Stamp>>,
    /// Every packet as it was played, by SSRC.
    ticks: BTreeMap<u32, Vec<Tick>>,
    /// Packets that did not open.
    sealed: Vec<(u32, u16)>,
    /// From Client Disconnect messages.
    gone: BTreeSet<u64>,
    /// Its own SSRC at each reconnection.
    reconnected: Vec<u32>,
    /// Why it gave up.
    lost: Option<String>,
}

impl Voice {
    async fn join(server: &Server, channel: u64, user: u64, tone: f64) -> Self {
        let grant = server.grant(channel, user);
        Self::join_at(&grant, &grant.endpoint, tone).await
    }

    async fn join_at(grant: &Grant, endpoint: &str, tone: f64) -> Self {
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

    fn speak(&mut self) {
        let source = RawAdapter::new(Sine::new(self.tone), SAMPLE_RATE, 2);
        let _ = self.driver.play_input(source.into());
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no holder panics")
    }

    async fn until_hears(&self, speaker: &Voice) {
        let what = format!("{} hears {}: {:?}", self.user, speaker.user, self.heard().users);
        until(&what, || self.heard().ticks(speaker.user) >= ENOUGH).await;
    }

    /// Every SSRC heard belongs to one of `speakers` and carries its tone and no other in every
    /// packet; not one packet is missing, doubled, out of order or sealed with another key.
    fn assert_heard_exactly(&self, speakers: &[&Voice]) {
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
    fn ssrc_of(&self, user: u64) -> Option<u32> {
        self.users.iter().find(|(_, owner)| **owner == user).map(|(ssrc, _)| *ssrc)
    }

    /// Ticks in [`Heard::runs`] of this user.
    fn ticks(&self, user: u64) -> usize {
        self.ssrc_of(user).map_or(0, |ssrc| self.runs(ssrc).iter().map(Vec::len).sum())
    }

    /// Packets that do not follow the one before: the place, and both.
    fn gaps(&self, ssrc: u32) -> Vec<(usize, Stamp, Stamp)> {
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
    fn runs(&self, ssrc: u32) -> Vec<Vec<&[i16]>> {
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

fn config() -> Config {
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

fn info(grant: &Grant, endpoint: &str) -> ConnectionInfo {
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
fn on_one_thread(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime starts").block_on(scenario);
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !done() {
        assert!(Instant::now() < deadline, "waited {WAIT:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
