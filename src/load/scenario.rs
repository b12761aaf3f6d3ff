//! What is played: channels, who speaks in them and how, when members come and go. Read from TOML
//! or put together from flags, checked once: a [`Scenario`] that exists can be played. Knows no
//! server.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::payload::PAYLOAD_BYTES_MIN;
use crate::{
    crypto::{Mode, Profile},
    limits::{CHANNEL_SESSIONS_MAX, PLAIN_BYTES_MAX},
    rtp::packet::HEADER_BYTES,
};

/// Most virtual clients of one run: each has an address of its own in 127.0.0.0/8, and a WebSocket,
/// hence a descriptor.
pub const CLIENTS_MAX: u64 = 60_000;

/// Longest run, seconds: every second keeps a histogram until the end.
pub const DURATION_S_MAX: u32 = 3_600;

/// Longest payload that can be sealed into one datagram, also after the server has added its eight
/// bytes of extension and their preamble (protocol.md §2.3).
pub const PAYLOAD_BYTES_MAX: u16 = (PLAIN_BYTES_MAX - HEADER_BYTES - 12) as u16;

/// Most packets a second of one source; a camera of 8 Mbit/s sends 900.
const PACKETS_PER_SECOND_MAX: u32 = 10_000;

/// Longest time between heartbeats, seconds: servers end sessions that are silent for longer than
/// two of the intervals that they ask for.
const HEARTBEAT_S_MAX: u32 = 80;

/// A checked scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Scenario {
    /// Its name in reports.
    pub name: String,
    /// What it is for, in a sentence.
    pub about: String,
    /// Seconds of play before anything counts.
    pub warmup_s: u32,
    /// Seconds that count.
    pub duration_s: u32,
    /// How many clients start to join each second, before the warm-up.
    pub joins_per_second: u32,
    /// Seconds between a client's heartbeats; `None` for as many as the server asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_s: Option<u32>,
    /// Name of the encryption mode that all on plain UDP select (protocol.md §2.4).
    pub mode: String,
    /// Name of the SRTP profile that all browsers offer (protocol.md §3.3).
    pub srtp_profile: String,
    /// Voice gateway version, 4 to 9.
    pub gateway_version: u8,
    /// The channels.
    pub channels: Vec<Channels>,
}

/// So many channels alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channels {
    /// How many.
    #[serde(default = "one")]
    pub count: u32,
    /// Members of each that speak.
    #[serde(default)]
    pub speakers: u32,
    /// Members of each that only listen.
    #[serde(default)]
    pub listeners: u32,
    /// Payload of an audio packet, bytes.
    #[serde(default = "payload_bytes")]
    pub payload_bytes: u16,
    /// Audio packets a second of each speaker.
    #[serde(default = "packets_per_second")]
    pub packets_per_second: u32,
    /// How members carry media.
    #[serde(default)]
    pub transport: Transport,
    /// How those do who speak or show something; `None`: as all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_transport: Option<Transport>,
    /// Cameras; every member then declares that it takes video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<Video>,
    /// The second of the measured time at which its members begin to join; `None`: before the
    /// warm-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_at_s: Option<u32>,
    /// Over how many seconds they then join.
    #[serde(default = "one")]
    pub join_over_s: u32,
    /// Members of all these channels together that leave and come back each second of the measured
    /// time: listeners, in turn.
    #[serde(default)]
    pub churn_per_second: f64,
}

/// How media is carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Transport {
    /// Plain UDP in an encryption mode of the protocol's own, as bots and desktop clients do.
    #[default]
    Udp,
    /// ICE, DTLS and SRTP, as browsers do.
    WebRtc,
    /// Members take turns: the first plain UDP, the second WebRTC, and so on.
    Mixed,
}

/// Cameras of a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// How many members show one: speakers first, then listeners.
    #[serde(default = "one")]
    pub cameras: u32,
    /// Bits of payload a second.
    pub bits_per_second: u64,
    /// Frames a second; the packets of a frame leave at once.
    #[serde(default = "frames_per_second")]
    pub frames_per_second: u32,
    /// Payload of a packet, bytes; the last one of a frame is shorter.
    #[serde(default = "video_payload_bytes")]
    pub payload_bytes: u16,
}

pub(crate) fn one() -> u32 {
    1
}

/// 64 kbit/s in frames of 20 ms.
fn payload_bytes() -> u16 {
    160
}

pub(crate) fn packets_per_second() -> u32 {
    50
}

pub(crate) fn frames_per_second() -> u32 {
    30
}

/// Clients keep RTP below 1,200 bytes (protocol.md §2.3).
pub(crate) fn video_payload_bytes() -> u16 {
    1_150
}

/// A scenario as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    name: String,
    #[serde(default)]
    about: String,
    #[serde(default = "warmup_s")]
    warmup_s: u32,
    #[serde(default = "duration_s")]
    duration_s: u32,
    #[serde(default = "joins_per_second")]
    joins_per_second: u32,
    #[serde(default)]
    heartbeat_s: Option<u32>,
    #[serde(default = "mode")]
    mode: String,
    #[serde(default = "srtp_profile")]
    srtp_profile: String,
    #[serde(default = "gateway_version")]
    gateway_version: u8,
    channels: Vec<Channels>,
}

fn warmup_s() -> u32 {
    2
}

fn duration_s() -> u32 {
    20
}

/// A few handshakes on each turn of a core; faster is a storm, which a scenario asks for by name.
fn joins_per_second() -> u32 {
    200
}

fn mode() -> String {
    Mode::DEFAULT[0].name().to_owned()
}

/// What Chromium and this server agree on (docs/media.md).
pub const CHROMIUM_PROFILE: Profile = Profile::AeadAes256Gcm;

fn srtp_profile() -> String {
    CHROMIUM_PROFILE.name().to_owned()
}

fn gateway_version() -> u8 {
    8
}

/// Why a scenario cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("scenario {path}: {problem}")]
    File {
        /// Which.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// It makes no sense.
    #[error("{0}")]
    Meaning(String),
}

impl Scenario {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// It cannot be read, is not TOML, has a key that no scenario has, or makes no sense.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let problem = |problem: String| {
            let path = path.display().to_string();
            ScenarioError::File { path, problem: problem.trim_end().to_owned() }
        };
        let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
        toml::from_str(&text).map_err(|error| problem(error.to_string()))
    }

    /// One channel of speakers and listeners, as flags give it.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn simple(speakers: u32, listeners: u32) -> Result<Self, ScenarioError> {
        Scenario {
            name: format!("{speakers} speaking, {listeners} listening"),
            about: String::new(),
            warmup_s: warmup_s(),
            duration_s: duration_s(),
            joins_per_second: joins_per_second(),
            heartbeat_s: None,
            mode: mode(),
            srtp_profile: srtp_profile(),
            gateway_version: gateway_version(),
            channels: vec![Channels { speakers, listeners, ..Channels::default() }],
        }
        .checked()
    }

    /// The same once more, after flags have changed it.
    ///
    /// # Errors
    /// It makes no sense any more.
    pub fn checked(self) -> Result<Self, ScenarioError> {
        let meaning = |problem: String| Err(ScenarioError::Meaning(problem));
        if self.channels.is_empty() {
            return meaning("a scenario needs [[channels]]".to_owned());
        }
        if self.duration_s == 0 || self.warmup_s.saturating_add(self.duration_s) > DURATION_S_MAX {
            return meaning(format!(
                "warmup_s and duration_s must be 1 to {DURATION_S_MAX} seconds together, and \
                 duration_s at least 1"
            ));
        }
        if self.joins_per_second == 0 {
            return meaning("joins_per_second must be at least 1".to_owned());
        }
        if self.heartbeat_s.is_some_and(|seconds| !(1..=HEARTBEAT_S_MAX).contains(&seconds)) {
            return meaning(format!("heartbeat_s must be 1 to {HEARTBEAT_S_MAX}"));
        }
        if Mode::from_name(&self.mode).is_none() {
            let known: Vec<_> = Mode::ALL.iter().map(|mode| mode.name()).collect();
            return meaning(format!("unknown mode `{}`; known: {}", self.mode, known.join(", ")));
        }
        if profile_named(&self.srtp_profile).is_none() {
            let known = Profile::PREFERRED.map(Profile::name).join(", ");
            return meaning(format!("unknown profile `{}`; known: {known}", self.srtp_profile));
        }
        if !(4..=9).contains(&self.gateway_version) {
            return meaning("gateway_version must be 4 to 9".to_owned());
        }
        for channels in &self.channels {
            channels.check(self.duration_s).map_err(ScenarioError::Meaning)?;
        }
        let clients = self.clients();
        if clients > CLIENTS_MAX {
            return meaning(format!("{clients} clients, and {CLIENTS_MAX} are the most"));
        }
        Ok(self)
    }

    /// The mode that all on plain UDP select.
    pub fn mode(&self) -> Mode {
        Mode::from_name(&self.mode).expect("checked when the scenario was made")
    }

    /// The profile that all browsers offer.
    pub fn srtp_profile(&self) -> Profile {
        profile_named(&self.srtp_profile).expect("checked when the scenario was made")
    }

    /// How media is carried, in words: the encryption of each transport that members have.
    pub fn carriage(&self) -> String {
        let any = |over_webrtc| self.channels.iter().any(|it| it.has_members_over(over_webrtc));
        let udp = any(false).then(|| format!("plain UDP with {}", self.mode));
        let web = any(true).then(|| format!("WebRTC with {}", self.srtp_profile));
        udp.into_iter().chain(web).collect::<Vec<_>>().join(", ")
    }

    /// How many virtual clients it has.
    pub fn clients(&self) -> u64 {
        let of = |channels: &Channels| u64::from(channels.count) * u64::from(channels.members());
        self.channels.iter().map(of).sum()
    }

    /// The stretches of the measured time that are told apart: before, during and after late joins.
    /// Name, first second, second after the last. Empty without late joins.
    pub fn phases(&self) -> Vec<(&'static str, u32, u32)> {
        let storms = || {
            self.channels.iter().filter_map(|channels| {
                let at = channels.join_at_s?;
                Some((at, (at + channels.join_over_s).min(self.duration_s)))
            })
        };
        let Some(from) = storms().map(|(from, _)| from).min() else { return Vec::new() };
        let to = storms().map(|(_, to)| to).max().unwrap_or(from);
        [("before", 0, from), ("storm", from, to), ("after", to, self.duration_s)]
            .into_iter()
            .filter(|(_, from, to)| from < to)
            .collect()
    }
}

impl Channels {
    /// Members of one of them.
    pub fn members(&self) -> u32 {
        self.speakers.saturating_add(self.listeners)
    }

    /// Whether a member, who sends something or only listens, carries media as browsers do.
    pub fn is_over_webrtc(&self, member: u32, sends: bool) -> bool {
        let own = self.sender_transport.filter(|_| sends);
        match own.unwrap_or(self.transport) {
            Transport::Udp => false,
            Transport::WebRtc => true,
            Transport::Mixed => member % 2 == 1,
        }
    }

    /// Members that send something; they come first.
    fn senders(&self) -> u32 {
        self.speakers.max(self.video.as_ref().map_or(0, |video| video.cameras))
    }

    /// Whether any member carries media as browsers do, or does not.
    pub(super) fn has_members_over(&self, webrtc: bool) -> bool {
        let senders = self.senders();
        (0..self.members()).any(|it| self.is_over_webrtc(it, it < senders) == webrtc)
    }

    fn check(&self, duration_s: u32) -> Result<(), String> {
        if self.count == 0 || self.members() == 0 {
            return Err("channels need a count and members: speakers, listeners".to_owned());
        }
        if self.members() as usize > CHANNEL_SESSIONS_MAX {
            return Err(format!("a channel has {CHANNEL_SESSIONS_MAX} members at most"));
        }
        check_payload(self.payload_bytes)?;
        check_rate("packets_per_second", self.packets_per_second)?;
        if let Some(join_at) = self.join_at_s
            && (self.join_over_s == 0 || join_at.saturating_add(self.join_over_s) > duration_s)
        {
            return Err("join_at_s and join_over_s must lie within duration_s".to_owned());
        }
        if !(0.0..=10_000.0).contains(&self.churn_per_second) {
            return Err("churn_per_second must be 0 to 10000".to_owned());
        }
        if self.churn_per_second > 0.0 && self.listeners == 0 {
            return Err("churn_per_second needs listeners: they leave and come back".to_owned());
        }
        if self.churn_per_second > 0.0 && self.members() <= self.senders() {
            return Err("churn_per_second needs listeners without a camera".to_owned());
        }
        self.video.as_ref().map_or(Ok(()), |video| video.check(self.members()))
    }
}

impl Video {
    /// One camera with the usual frames.
    pub fn at(bits_per_second: u64) -> Self {
        Self {
            cameras: one(),
            bits_per_second,
            frames_per_second: frames_per_second(),
            payload_bytes: video_payload_bytes(),
        }
    }

    /// Bytes of payload in a frame.
    pub fn frame_bytes(&self) -> u64 {
        (self.bits_per_second / 8 / u64::from(self.frames_per_second)).max(1)
    }

    /// Packets of a frame.
    pub fn packets_per_frame(&self) -> u32 {
        let packets = self.frame_bytes().div_ceil(u64::from(self.payload_bytes));
        u32::try_from(packets).unwrap_or(u32::MAX)
    }

    fn check(&self, members: u32) -> Result<(), String> {
        if self.cameras == 0 || self.cameras > members {
            return Err("video.cameras must be 1 to the members of the channel".to_owned());
        }
        check_payload(self.payload_bytes)?;
        check_rate("video.frames_per_second", self.frames_per_second)?;
        let packets = u64::from(self.packets_per_frame()) * u64::from(self.frames_per_second);
        if self.bits_per_second == 0 || packets > u64::from(PACKETS_PER_SECOND_MAX) {
            return Err(format!(
                "video.bits_per_second must make 1 to {PACKETS_PER_SECOND_MAX} packets a second"
            ));
        }
        Ok(())
    }
}

impl Default for Channels {
    fn default() -> Self {
        Self {
            count: one(),
            speakers: 0,
            listeners: 0,
            payload_bytes: payload_bytes(),
            packets_per_second: packets_per_second(),
            transport: Transport::Udp,
            sender_transport: None,
            video: None,
            join_at_s: None,
            join_over_s: one(),
            churn_per_second: 0.0,
        }
    }
}

/// The SRTP profile with this name in the registry of DTLS.
pub fn profile_named(name: &str) -> Option<Profile> {
    Profile::PREFERRED.into_iter().find(|profile| profile.name() == name)
}

fn check_payload(bytes: u16) -> Result<(), String> {
    if (PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&bytes) {
        return Ok(());
    }
    Err(format!("payload_bytes must be {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX}"))
}

fn check_rate(what: &str, rate: u32) -> Result<(), String> {
    if (1..=PACKETS_PER_SECOND_MAX).contains(&rate) {
        return Ok(());
    }
    Err(format!("{what} must be 1 to {PACKETS_PER_SECOND_MAX}"))
}

impl TryFrom<Unchecked> for Scenario {
    type Error = ScenarioError;

    fn try_from(unchecked: Unchecked) -> Result<Self, ScenarioError> {
        let Unchecked { name, about, warmup_s, duration_s, joins_per_second, mode, .. } = unchecked;
        let Unchecked { heartbeat_s, srtp_profile, gateway_version, channels, .. } = unchecked;
        Scenario {
            name,
            about,
            warmup_s,
            duration_s,
            joins_per_second,
            heartbeat_s,
            mode,
            srtp_profile,
            gateway_version,
            channels,
        }
        .checked()
    }
}

#[cfg(test)]
#[path = "scenario_tests.rs"]
mod tests;
