//! What is planned for: channels by kind, how many are in them, how many talk at once, who shows a
//! camera. A TOML file or flags become a checked [`Profile`]; a load scenario becomes one too, so
//! that what was measured and what is planned are counted alike.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::encryption::Encryption;
use crate::{
    crypto::Mode,
    limits::{CHANNEL_SESSIONS_MAX, PLAIN_BYTES_MAX},
    load::scenario::{
        Scenario, Transport, frames_per_second, one, packets_per_second, video_payload_bytes,
    },
    rtp::packet::HEADER_BYTES,
};

/// Header extension that the server gives every packet, its preamble included (protocol.md §2.3).
pub const EXTENSION_BYTES: u64 = 12;

/// Most channels of a profile: a node stores a million grants.
const CHANNELS_MAX: u64 = 1_000_000;

/// A checked profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Profile {
    /// Its name in answers.
    pub name: String,
    /// The channels.
    pub channels: Vec<Channels>,
}

/// So many channels alike, as they are at the busiest time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channels {
    /// How many.
    #[serde(default = "one")]
    pub count: u32,
    /// Sessions in each.
    pub members: u32,
    /// How many of them talk at once, on average.
    #[serde(default = "talking")]
    pub speaking: f64,
    /// Bits of audio payload a second of each who talks.
    #[serde(default = "bitrate")]
    pub bitrate: u64,
    /// Audio packets a second of each who talks.
    #[serde(default = "packets_per_second")]
    pub packets_per_second: u32,
    /// Cameras; everyone else takes their pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<Video>,
    /// Joins an hour in each.
    #[serde(default)]
    pub joins_per_hour: f64,
    /// Encryption, by its name ([`Encryption::from_name`]).
    #[serde(default = "mode")]
    pub mode: String,
}

/// Cameras and screens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// How many are on at once, on average.
    #[serde(default = "talking")]
    pub cameras: f64,
    /// Bits of payload a second of each.
    pub bits_per_second: u64,
    /// Frames a second.
    #[serde(default = "frames_per_second")]
    pub frames_per_second: u32,
    /// Payload of a packet, bytes.
    #[serde(default = "video_payload_bytes")]
    pub payload_bytes: u16,
}

fn talking() -> f64 {
    1.0
}

fn bitrate() -> u64 {
    64_000
}

fn mode() -> String {
    Mode::DEFAULT[0].name().to_owned()
}

/// A profile as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    #[serde(default)]
    name: String,
    channels: Vec<Channels>,
}

/// Why a profile cannot be planned for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The file.
    #[error("profile {path}: {problem}")]
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

impl Profile {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// It cannot be read, is not TOML, has a key that no profile has, or makes no sense.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let problem = |problem: String| {
            let path = path.display().to_string();
            ProfileError::File { path, problem: problem.trim_end().to_owned() }
        };
        let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
        let mut profile: Self =
            toml::from_str(&text).map_err(|error| problem(error.to_string()))?;
        if profile.name.is_empty() {
            let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
            profile.name = name.unwrap_or_default();
        }
        Ok(profile)
    }

    /// The same, if it makes sense.
    ///
    /// # Errors
    /// It does not.
    pub fn checked(self) -> Result<Self, ProfileError> {
        if self.channels.is_empty() {
            return Err(ProfileError::Meaning("a profile needs [[channels]]".to_owned()));
        }
        for channels in &self.channels {
            channels.check().map_err(ProfileError::Meaning)?;
        }
        let count: u64 = self.channels.iter().map(|channels| u64::from(channels.count)).sum();
        if count > CHANNELS_MAX {
            let problem = format!("{count} channels, and {CHANNELS_MAX} are the most");
            return Err(ProfileError::Meaning(problem));
        }
        Ok(self)
    }

    /// What a scenario plays, as a profile. Late joins count as joins; of who leaves and comes back
    /// each is one. A channel that is heard by browsers is one of browsers, whoever speaks; where
    /// members take turns it is not.
    pub fn of_scenario(scenario: &Scenario) -> Self {
        let seconds = f64::from(scenario.duration_s);
        let channels = scenario.channels.iter().map(|channels| {
            let members = f64::from(channels.members());
            let late = channels.join_at_s.map_or(0.0, |_| members / seconds);
            let churn = channels.churn_per_second / f64::from(channels.count);
            let packets = u64::from(channels.packets_per_second);
            Channels {
                count: channels.count,
                members: channels.members(),
                speaking: channels.speakers.into(),
                bitrate: 8 * packets * u64::from(channels.payload_bytes),
                packets_per_second: channels.packets_per_second,
                video: channels.video.as_ref().map(|video| Video {
                    cameras: video.cameras.into(),
                    bits_per_second: video.bits_per_second,
                    frames_per_second: video.frames_per_second,
                    payload_bytes: video.payload_bytes,
                }),
                joins_per_hour: 3_600.0 * (late + churn),
                mode: match channels.transport {
                    Transport::WebRtc => scenario.srtp_profile.clone(),
                    Transport::Udp | Transport::Mixed => scenario.mode.clone(),
                },
            }
        });
        Self { name: scenario.name.clone(), channels: channels.collect() }
    }

    /// Sessions in all.
    pub fn sessions(&self) -> u64 {
        let of = |channels: &Channels| u64::from(channels.count) * u64::from(channels.members);
        self.channels.iter().map(of).sum()
    }
}

impl Channels {
    /// Members, all else by default.
    pub fn of(members: u32) -> Self {
        Self {
            count: one(),
            members,
            speaking: talking(),
            bitrate: bitrate(),
            packets_per_second: packets_per_second(),
            video: None,
            joins_per_hour: 0.0,
            mode: mode(),
        }
    }

    /// What its members carry media with.
    pub fn encryption(&self) -> Encryption {
        Encryption::from_name(&self.mode).expect("checked when the profile was made")
    }

    /// Payload of an audio packet, bytes.
    pub fn payload_bytes(&self) -> f64 {
        self.bitrate as f64 / 8.0 / f64::from(self.packets_per_second)
    }

    fn check(&self) -> Result<(), String> {
        let members = f64::from(self.members);
        if self.count == 0 || self.members == 0 {
            return Err("channels need a count and members".to_owned());
        }
        if self.members as usize > CHANNEL_SESSIONS_MAX {
            return Err(format!("a channel has {CHANNEL_SESSIONS_MAX} members at most"));
        }
        if !(0.0..=members).contains(&self.speaking) {
            return Err(format!("speaking must be 0 to the {} members", self.members));
        }
        if !(1..=10_000).contains(&self.packets_per_second) {
            return Err("packets_per_second must be 1 to 10000".to_owned());
        }
        let payload_max = (PLAIN_BYTES_MAX - HEADER_BYTES) as f64 - EXTENSION_BYTES as f64;
        if self.payload_bytes() > payload_max {
            return Err(format!(
                "bitrate {} at {} packets a second makes packets above {payload_max} bytes",
                self.bitrate, self.packets_per_second
            ));
        }
        if !(0.0..=1e9).contains(&self.joins_per_hour) {
            return Err("joins_per_hour must be 0 or more".to_owned());
        }
        if Encryption::from_name(&self.mode).is_none() {
            return Err(format!("unknown mode `{}`; known: {}", self.mode, Encryption::names()));
        }
        let Some(video) = &self.video else { return Ok(()) };
        if !(0.0..=members).contains(&video.cameras) {
            return Err(format!("video.cameras must be 0 to the {} members", self.members));
        }
        if !(1..=1_000).contains(&video.frames_per_second) {
            return Err("video.frames_per_second must be 1 to 1000".to_owned());
        }
        if video.payload_bytes == 0 || f64::from(video.payload_bytes) > payload_max {
            return Err(format!("video.payload_bytes must be 1 to {payload_max}"));
        }
        if !(1..=1_000_000_000).contains(&video.bits_per_second) {
            return Err("video.bits_per_second must be 1 to 1000000000".to_owned());
        }
        Ok(())
    }
}

impl Video {
    /// Packets of a frame.
    pub fn packets_per_frame(&self) -> f64 {
        let frame = self.bits_per_second as f64 / 8.0 / f64::from(self.frames_per_second);
        (frame / f64::from(self.payload_bytes)).ceil().max(1.0)
    }
}

impl TryFrom<Unchecked> for Profile {
    type Error = ProfileError;

    fn try_from(Unchecked { name, channels }: Unchecked) -> Result<Self, ProfileError> {
        Profile { name, channels }.checked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Profile, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let profile = parse("[[channels]]\nmembers = 12\n").unwrap();
        assert_eq!(profile.channels, [Channels::of(12)]);
        assert_eq!(profile.channels[0].payload_bytes(), 160.0);
        assert_eq!(profile.sessions(), 12);
    }

    #[test]
    fn nonsense_is_refused_with_its_name() {
        for (text, word) in [
            ("", "channels"),
            ("channels = []", "[[channels]]"),
            ("[[channels]]\ncount = 2", "members"),
            ("[[channels]]\nmembers = 0", "members"),
            ("[[channels]]\nmembers = 5000", "4096"),
            ("[[channels]]\nmembers = 2\nspeaking = 3.0", "speaking"),
            ("[[channels]]\nmembers = 2\nspeaking = -1.0", "speaking"),
            ("[[channels]]\nmembers = 2\nspeeking = 1.0", "speeking"),
            ("[[channels]]\nmembers = 2\nbitrate = 9000000", "bitrate"),
            ("[[channels]]\nmembers = 2\npackets_per_second = 0", "packets_per_second"),
            ("[[channels]]\nmembers = 2\nmode = \"rot13\"", "rot13"),
            ("[[channels]]\nmembers = 2\njoins_per_hour = -1.0", "joins_per_hour"),
            ("[[channels]]\nmembers = 2\nvideo = { bits_per_second = 0 }", "bits_per_second"),
            (
                "[[channels]]\nmembers = 2\nvideo = { cameras = 3.0, bits_per_second = 1 }",
                "cameras",
            ),
            ("[[channels]]\nmembers = 1\ncount = 1000001", "1000000"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(word), "{text}: {problem}");
        }
        let missing = Profile::read(Path::new("/nonexistent.toml")).unwrap_err().to_string();
        assert!(missing.contains("/nonexistent.toml"), "{missing}");
    }

    #[test]
    fn a_scenario_is_counted_like_a_profile() {
        let text = "name = \"x\"\nduration_s = 10\n[[channels]]\ncount = 4\nspeakers = 1\n\
                    listeners = 9\nchurn_per_second = 2.0\n\
                    [channels.video]\nbits_per_second = 2500000\n\
                    [[channels]]\nlisteners = 5\njoin_at_s = 0\njoin_over_s = 10\n";
        let profile = Profile::of_scenario(&toml::from_str(text).unwrap());
        let [first, late] = &profile.channels[..] else { panic!("two kinds") };
        assert_eq!((first.members, first.speaking, first.bitrate), (10, 1.0, 64_000));
        assert_eq!(first.joins_per_hour, 1_800.0);
        assert_eq!(first.video.as_ref().unwrap().packets_per_frame(), 10.0);
        assert_eq!(late.joins_per_hour, 1_800.0);
        assert!(profile.checked().is_ok());
        let text = "name = \"x\"\n[[channels]]\nspeakers = 1\nlisteners = 9\n\
                    transport = \"webrtc\"\nsender_transport = \"udp\"\n";
        let profile = Profile::of_scenario(&toml::from_str(text).unwrap());
        assert_eq!(profile.channels[0].encryption(), Encryption::BROWSERS);
    }
}
