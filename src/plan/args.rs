//! The command line of `stentor plan`: what to plan for, with how much headroom, on which host, and
//! where the costs are. Parsed and checked here; nothing is computed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    calibration::CALIBRATION_FILE,
    encryption::Encryption,
    host::Resources,
    profile::{Channels, Profile, ProfileError, Video},
};
use crate::{
    config::{Config, ConfigError, ControlAccess, Flags, Secret},
    crypto::Mode,
};

/// Plan the capacity of this host
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct PlanArgs {
    /// What to do instead of planning
    #[command(subcommand)]
    pub command: Option<PlanCommand>,

    /// What to plan for, TOML; or say it with --members, or watch a server with --from-metrics
    #[arg(value_name = "PROFILE.toml",
          required_unless_present_any = ["members", "from_metrics"])]
    profile: Option<PathBuf>,
    /// Sessions of a channel (every kind of channels of a profile)
    #[arg(long, value_name = "COUNT")]
    members: Option<u32>,
    /// Channels alike
    #[arg(long, value_name = "COUNT")]
    channels: Option<u32>,
    /// How many of a channel talk at once, on average at the busiest time
    #[arg(long, value_name = "NUMBER")]
    speaking: Option<f64>,
    /// Audio of each who talks
    #[arg(long, value_name = "BITS")]
    bitrate: Option<u64>,
    /// One camera in every channel, with so many bits a second
    #[arg(long, value_name = "BITS")]
    video: Option<u64>,
    /// Joins an hour in every channel
    #[arg(long, value_name = "NUMBER")]
    joins_per_hour: Option<f64>,
    /// Encryption: aes, xchacha, webrtc for browsers, or the full name of a mode or SRTP profile
    #[arg(long, value_name = "NAME")]
    mode: Option<String>,

    /// Plan for what a running server does: http://ADDRESS:PORT/metrics
    #[arg(long, value_name = "URL", conflicts_with_all = ["profile", "members", "channels",
          "speaking", "bitrate", "video", "joins_per_hour"])]
    from_metrics: Option<String>,
    /// With --from-metrics: a file with the control secret, which metrics beyond loopback need
    #[arg(long, value_name = "FILE", requires = "from_metrics")]
    control_secret_file: Option<String>,
    /// With --from-metrics: how long to watch
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "from_metrics",
          value_parser = clap::value_parser!(u32).range(1..=3_600))]
    over: u32,

    /// Part of every core that is to be left free
    #[arg(long, value_name = "PERCENT", default_value_t = 50.0)]
    headroom: f64,
    /// Cores there are [default: this host's]
    #[arg(long, value_name = "COUNT")]
    cores: Option<u32>,
    /// Speed of the network card, such as 1G or 2.5G [default: this host's, if it tells]
    #[arg(long, value_name = "BITS", value_parser = parse_size)]
    nic: Option<f64>,
    /// Memory there is, such as 16G [default: this host's]
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    memory: Option<f64>,

    /// Costs to plan with, wherever they were measured [default: those of this host]
    #[arg(long, value_name = "FILE")]
    pub(super) calibration: Option<PathBuf>,
    /// Where costs are kept [default: the user's state directory]
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<String>,

    /// Show the arithmetic
    #[arg(long, conflicts_with = "json")]
    pub(super) explain: bool,
    /// Print the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Write the answer as a page with pictures
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
}

/// What else `stentor plan` does.
#[derive(Debug, Clone, Subcommand)]
pub enum PlanCommand {
    /// Measure what things cost on this host; takes some minutes and two free cores
    Calibrate {
        /// How long each run is measured, three times
        #[arg(long, value_name = "SECONDS", default_value_t = 5,
              value_parser = clap::value_parser!(u32).range(2..=600))]
        seconds: u32,
        /// Where to keep the costs [default: the user's state directory]
        #[arg(long, value_name = "DIRECTORY")]
        state_dir: Option<String>,
    },
}

/// What is planned for.
#[derive(Debug, Clone)]
pub enum Asked {
    /// A profile.
    Profile(Profile),
    /// A running server's metrics.
    Live {
        /// Where they are.
        url: String,
        /// How long to watch them.
        seconds: u32,
        /// What opens them.
        secret: Option<Secret>,
    },
}

/// Why the command line cannot be obeyed.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// The profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl PlanArgs {
    /// What to plan for.
    ///
    /// # Errors
    /// The profile cannot be read or makes no sense.
    pub fn asked(&self) -> Result<Asked, ArgsError> {
        if let Some(url) = &self.from_metrics {
            let secret = self.control_secret_file.as_deref().map(|path| {
                ControlAccess::load(&Flags::of(None, &[("control.secret_file", path)]))
            });
            let secret = secret.transpose()?.map(|access| access.secret);
            return Ok(Asked::Live { url: url.clone(), seconds: self.over, secret });
        }
        let mut profile = match &self.profile {
            Some(path) => Profile::read(path)?,
            None => Profile { name: String::new(), channels: vec![Channels::of(1)] },
        };
        for channels in &mut profile.channels {
            set(&mut channels.count, self.channels);
            set(&mut channels.members, self.members);
            set(&mut channels.speaking, self.speaking);
            set(&mut channels.bitrate, self.bitrate);
            set(&mut channels.joins_per_hour, self.joins_per_hour);
            if self.mode.is_some() {
                channels.mode = self.mode_name();
            }
            if let Some(bits_per_second) = self.video {
                let (cameras, frames_per_second, payload_bytes) = (1.0, 30, 1_150);
                let video = Video { cameras, bits_per_second, frames_per_second, payload_bytes };
                channels.video = Some(video);
            }
        }
        if profile.name.is_empty() {
            let first = &profile.channels[0];
            profile.name = format!("{} channels of {}", first.count, first.members);
        }
        Ok(Asked::Profile(profile.checked()?))
    }

    /// The mode asked for, or the one that most clients choose.
    pub fn mode_name(&self) -> String {
        match self.mode.as_deref() {
            Some("aes") => Mode::Aes256GcmRtpsize.name().to_owned(),
            Some("xchacha") => Mode::XChaCha20Poly1305Rtpsize.name().to_owned(),
            Some("webrtc") => Encryption::BROWSERS.name().to_owned(),
            Some(mode) => mode.to_owned(),
            None => Mode::DEFAULT[0].name().to_owned(),
        }
    }

    /// As a fraction.
    pub fn headroom(&self) -> f64 {
        self.headroom / 100.0
    }

    /// Where the costs are.
    ///
    /// # Errors
    /// The settings make no sense.
    pub fn calibration_path(&self) -> Result<PathBuf, ArgsError> {
        if let Some(path) = &self.calibration {
            return Ok(path.clone());
        }
        let state_dir = match &self.command {
            Some(PlanCommand::Calibrate { state_dir, .. }) => state_dir,
            None => &self.state_dir,
        };
        let given: Vec<_> =
            state_dir.iter().map(|directory| ("state_dir", directory.as_str())).collect();
        Ok(Config::inspect(&Flags::of(None, &given))?.state_dir.join(CALIBRATION_FILE))
    }

    /// What there is, as the flags have it.
    pub fn resources(&self, here: Resources) -> Resources {
        Resources {
            cores: self.cores.map(f64::from).or(here.cores),
            memory_bytes: self.memory.or(here.memory_bytes),
            network_bits: self.nic.or(here.network_bits),
        }
    }
}

fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *field = given;
    }
}

/// A number with k, M, G or T behind it, powers of a thousand.
fn parse_size(text: &str) -> Result<f64, String> {
    let factors = [('k', 1e3), ('M', 1e6), ('G', 1e9), ('T', 1e12)];
    let found = factors.iter().find_map(|(name, factor)| Some((text.strip_suffix(*name)?, factor)));
    let (number, factor) = found.unwrap_or((text, &1.0));
    match number.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number * factor),
        _ => Err(format!("`{text}` is no amount; write 500M, 1G or 2.5G")),
    }
}

#[cfg(test)]
pub(in crate::plan) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        plan: PlanArgs,
    }

    pub(in crate::plan) fn parse(arguments: &[&str]) -> Result<PlanArgs, clap::Error> {
        let line = Line::try_parse_from([&["plan"], arguments].concat());
        line.map(|line| line.plan)
    }

    fn profile(arguments: &[&str]) -> Profile {
        match parse(arguments).unwrap().asked().unwrap() {
            Asked::Profile(profile) => profile,
            Asked::Live { .. } => panic!("a profile was asked for"),
        }
    }

    #[test]
    fn flags_alone_make_a_profile() {
        let profile = profile(&[
            "--channels",
            "100",
            "--members",
            "15",
            "--speaking",
            "1.5",
            "--bitrate",
            "96000",
            "--video",
            "2500000",
            "--mode",
            "xchacha",
        ]);
        let channels = &profile.channels[0];
        assert_eq!((channels.count, channels.members, channels.speaking), (100, 15, 1.5));
        assert_eq!(channels.encryption(), Encryption::Udp(Mode::XChaCha20Poly1305Rtpsize));
        let browsers = self::profile(&["--members", "9", "--mode", "webrtc"]);
        assert_eq!(browsers.channels[0].encryption(), Encryption::BROWSERS);
        assert_eq!((channels.bitrate, profile.name.as_str()), (96_000, "100 channels of 15"));
        assert!(parse(&[]).is_err(), "nothing to plan for");
        let nonsense = parse(&["--members", "2", "--speaking", "9"]).unwrap();
        assert!(nonsense.asked().unwrap_err().to_string().contains("speaking"));
    }

    #[test]
    fn flags_change_every_kind_of_channels_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guild.toml");
        std::fs::write(&path, "[[channels]]\nmembers = 5\n[[channels]]\nmembers = 50\n").unwrap();
        let profile = profile(&[path.to_str().unwrap(), "--bitrate", "32000"]);
        assert!(profile.channels.iter().all(|channels| channels.bitrate == 32_000));
        assert_eq!((profile.channels[1].members, profile.name.as_str()), (50, "guild"));
    }

    #[test]
    fn calibrating_is_a_command_of_its_own() {
        let calibrate = parse(&["calibrate", "--seconds", "4", "--state-dir", "/x"]).unwrap();
        assert!(matches!(calibrate.command, Some(PlanCommand::Calibrate { seconds: 4, .. })));
        let path = calibrate.calibration_path().unwrap();
        assert_eq!(path, PathBuf::from("/x/calibration.json"));
        assert!(parse(&["calibrate", "--seconds", "0"]).is_err());
    }

    #[test]
    fn amounts_have_their_powers_of_a_thousand() {
        let line = parse(&["--members", "2", "--nic", "2.5G", "--memory", "16G", "--cores", "8"]);
        let resources = line.unwrap().resources(Resources::default());
        assert_eq!((resources.network_bits, resources.memory_bytes), (Some(2.5e9), Some(16e9)));
        assert_eq!(resources.cores, Some(8.0));
        assert!(parse(&["--members", "2", "--nic", "fast"]).is_err());
        assert!(parse(&["--from-metrics", "http://x/", "--members", "2"]).is_err());
        assert!(parse(&["--from-metrics", "http://x/", "--bitrate", "64000"]).is_err());
    }
}
