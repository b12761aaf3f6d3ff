//! songbird 0.6, unmodified, as a foreign client over real TLS: each voice speaks a sine tone of
//! its own, each hearer says by Goertzel filter which tones it heard under which SSRC, and which
//! RTP sequence numbers. Claims are about media heard, never about time; every wait is bounded.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU8, NonZeroU64},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use songbird::{
    Config, ConnectionInfo, CoreEvent, Driver, Event, EventContext, EventHandler,
    driver::{DecodeConfig, DecodeMode, retry::Retry},
    id::{ChannelId, GuildId, UserId},
    input::RawAdapter,
};
use support::{
    WAIT,
    client::{Client, shard},
    proxy::Proxy,
    server::{Grant, Server},
    tone::{self, SAMPLE_RATE, Sine, VOICES},
    trust::{trusting, trusting_nobody},
};

const CHANNEL: u64 = 127_121_515_262_115_840;
const OTHER_CHANNEL: u64 = 127_121_515_262_115_999;

/// Ticks of one tone that count as having heard it: a second.
const ENOUGH: usize = 50;

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
            let heard_before = stays.heard().sequences[&ssrc].len();

            let late = Voice::join(&server, CHANNEL, 12, VOICES[2]).await;
            late.until_hears(&stays).await;
            late.assert_heard_exactly(&[&stays]);
            assert_eq!(stays.heard().sequences[&ssrc].len(), heard_before);
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

/// What one driver reported.
#[derive(Debug, Default)]
struct Heard {
    /// From Speaking messages.
    users: BTreeMap<u32, u64>,
    /// Left channel of every decoded tick, by SSRC.
    ticks: BTreeMap<u32, Vec<Vec<i16>>>,
    /// Sequence numbers as they arrived, by SSRC.
    sequences: BTreeMap<u32, Vec<u16>>,
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

    /// Every SSRC heard belongs to one of `speakers`, carries its tone and no other, and not one
    /// packet is missing, doubled or out of order.
    fn assert_heard_exactly(&self, speakers: &[&Voice]) {
        let heard = self.heard();
        let users: BTreeSet<u64> = heard
            .sequences
            .keys()
            .map(|ssrc| *heard.users.get(ssrc).unwrap_or_else(|| panic!("SSRC {ssrc} is nobody's")))
            .collect();
        let expected: BTreeSet<u64> = speakers.iter().map(|speaker| speaker.user).collect();
        assert_eq!(users, expected, "{} heard the wrong users", self.user);
        for (ssrc, sequences) in &heard.sequences {
            let steps = sequences.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
            let gaps: Vec<_> = steps.enumerate().filter(|(_, step)| *step != 1).collect();
            assert!(gaps.is_empty(), "{} heard SSRC {ssrc} with gaps {gaps:?}", self.user);
        }
        for speaker in speakers {
            let ssrc = heard.ssrc_of(speaker.user).expect("it was heard");
            // The first ticks fade in; whole seconds follow.
            let samples = heard.ticks[&ssrc][5..].concat();
            assert_eq!(
                tone::voice(&samples),
                Some(speaker.tone),
                "{} heard {} with another tone",
                self.user,
                speaker.user
            );
        }
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let heard = self.heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let ticks: BTreeMap<_, _> =
                heard.ticks.iter().map(|(ssrc, ticks)| (ssrc, ticks.len())).collect();
            eprintln!(
                "{}: users {:?}, ticks {ticks:?}, gone {:?}, reconnected {:?}, lost {:?}",
                self.user, heard.users, heard.gone, heard.reconnected, heard.lost
            );
        }
    }
}

impl Heard {
    fn ssrc_of(&self, user: u64) -> Option<u32> {
        self.users.iter().find(|(_, owner)| **owner == user).map(|(ssrc, _)| *ssrc)
    }

    /// Ticks heard of this user.
    fn ticks(&self, user: u64) -> usize {
        self.ssrc_of(user).and_then(|ssrc| self.ticks.get(&ssrc)).map_or(0, Vec::len)
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
            EventContext::VoiceTick(tick) =>
            {
                #[expect(clippy::iter_over_hash_type, reason = "each speaker has its own list")]
                for (ssrc, voice) in &tick.speaking {
                    if let Some(samples) = &voice.decoded_voice {
                        let left = samples.iter().step_by(2).copied().collect();
                        heard.ticks.entry(*ssrc).or_default().push(left);
                    }
                }
            }
            EventContext::RtpPacket(packet) => {
                let rtp = packet.rtp();
                let sequence = u16::from(rtp.get_sequence());
                heard.sequences.entry(rtp.get_ssrc()).or_default().push(sequence);
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
        .decode_mode(DecodeMode::Decode(DecodeConfig::default()))
        .driver_retry(Retry { retry_limit: NonZeroU8::new(1), ..Retry::default() })
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
