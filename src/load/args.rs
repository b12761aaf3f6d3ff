//! The command line of `stentor load`: which scenario, changed how, against which server, with what
//! besides. Parsed and checked here; nothing is played.

use std::{collections::BTreeSet, ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{
    control_client::Metrics,
    endpoint::Trust,
    find_max::{Dimension, ServiceLevel},
    grants::{self, Grants},
    scenario::{Scenario, ScenarioError, Transport, Video},
    stage::Stage,
};
use crate::{
    config::{Config, ConfigError, ControlAccess, Flags, KEY_BYTES_MIN, Secret},
    crypto::{Mode, Profile},
};

/// Flags whose values are not to be seen in results.
const SECRET_FLAGS: [&str; 2] = ["--token-key", "--control-secret"];

/// Play a scenario against a server and measure it
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// What to play, TOML; or say it with --speakers and --listeners
    #[arg(value_name = "SCENARIO.toml", required_unless_present_any = ["speakers", "listeners"])]
    scenario: Option<PathBuf>,

    /// Members that speak, of each channel (the first kind of channels of a scenario)
    #[arg(long, value_name = "COUNT")]
    speakers: Option<u32>,
    /// Members that only listen
    #[arg(long, value_name = "COUNT")]
    listeners: Option<u32>,
    /// How many such channels
    #[arg(long, value_name = "COUNT")]
    channels: Option<u32>,
    /// Payload of an audio packet
    #[arg(long, value_name = "BYTES")]
    payload_bytes: Option<u16>,
    /// Audio packets a second of each speaker
    #[arg(long, value_name = "COUNT")]
    packets_per_second: Option<u32>,
    /// One camera in each channel, with so many bits a second
    #[arg(long, value_name = "BITS")]
    video: Option<u64>,
    /// How long to measure
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u32>,
    /// How long to play before
    #[arg(long, value_name = "SECONDS")]
    warmup: Option<u32>,
    /// How many join each second
    #[arg(long, value_name = "COUNT")]
    joins_per_second: Option<u32>,
    /// Encryption mode: aes, xchacha, or a mode's full name
    #[arg(long, value_name = "NAME")]
    mode: Option<String>,
    /// How members of all channels carry media [default: udp]
    #[arg(long, value_name = "NAME")]
    transport: Option<Transport>,
    /// The same for members who speak or have a camera [default: as --transport]
    #[arg(long, value_name = "NAME")]
    sender_transport: Option<Transport>,
    /// SRTP profile that browsers offer: aead-128, aead-256, aes-cm, or a profile's full name
    #[arg(long, value_name = "NAME")]
    srtp_profile: Option<String>,

    /// Take the grants from a file that `stentor grant` has printed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token_key", "token_key_file"])]
    grants: Option<PathBuf>,
    /// Sign tokens with the server's token.key, in hexadecimal; needs --endpoint
    #[arg(long, value_name = "HEX", requires = "endpoint")]
    token_key: Option<String>,
    /// The same from a file
    #[arg(long, value_name = "FILE", requires = "endpoint", conflicts_with = "token_key")]
    token_key_file: Option<PathBuf>,
    /// The server's gateway [default: the one that the grants name]
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Option<String>,
    /// Trust the certificates in this file [default: the system's, and a development server's]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["insecure", "plaintext"])]
    ca: Option<PathBuf>,
    /// Trust any certificate
    #[arg(long, conflicts_with = "plaintext")]
    insecure: bool,
    /// Connect without TLS
    #[arg(long)]
    plaintext: bool,

    /// The server's process [default: the one that listens on the gateway's port, if it is here]
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// The server's metrics [default: at its control address]
    #[arg(long, value_name = "URL")]
    server_metrics: Option<String>,
    /// Cores to stay on, such as 1 or 2,3 [default: those the server's threads are not pinned to]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cores: Vec<usize>,
    /// Threads that send and hear
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    threads: usize,
    /// Let a bare receive-and-send loop take turns with the server, of so many seconds each, and
    /// give the server's numbers as ratios to it
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    bound: Option<u32>,

    /// Raise this until the service level breaks
    #[arg(long, value_name = "WHAT", conflicts_with = "bound")]
    find_max: Option<Dimension>,
    /// Service level: 99th percentile of latency, such as 5ms or 800us
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = parse_time)]
    max_p99: u64,
    /// Service level: lost copies, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.1)]
    max_loss: f64,

    /// Where to write result.json, latency.hgrm and latency.hlog
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) out: Option<PathBuf>,
    /// Say nothing while it runs
    #[arg(long)]
    pub(super) quiet: bool,

    /// The server's settings file, to find its control API [env: STENTOR_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where its control API answers [default: from its settings]
    #[arg(long, value_name = "ADDRESS:PORT")]
    control_listen: Option<String>,
    /// Bearer secret of its control API; prefer the file: flags show in process lists
    #[arg(long, value_name = "TEXT")]
    control_secret: Option<String>,
    /// File holding it
    #[arg(long, value_name = "FILE")]
    control_secret_file: Option<String>,
    /// Where a development server keeps its secrets and its certificate
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<String>,
}

/// Why the command line cannot be obeyed.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// The scenario.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The grants' file.
    #[error(transparent)]
    Grants(#[from] grants::GrantsError),
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// One flag.
    #[error("{flag}: {problem}")]
    Flag {
        /// Which.
        flag: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl LoadArgs {
    /// The scenario, as the flags change it.
    ///
    /// # Errors
    /// It cannot be read or makes no sense.
    pub fn scenario(&self) -> Result<Scenario, ArgsError> {
        let mut scenario = match &self.scenario {
            Some(path) => Scenario::read(path)?,
            None => Scenario::simple(
                self.speakers.unwrap_or(1),
                self.listeners.unwrap_or(if self.speakers == Some(1) { 1 } else { 0 }),
            )?,
        };
        let first = &mut scenario.channels[0];
        set(&mut first.speakers, self.speakers);
        set(&mut first.listeners, self.listeners);
        set(&mut first.count, self.channels);
        set(&mut first.payload_bytes, self.payload_bytes);
        set(&mut first.packets_per_second, self.packets_per_second);
        if let Some(bits_per_second) = self.video {
            first.video = Some(Video::at(bits_per_second));
        }
        set(&mut scenario.duration_s, self.duration);
        set(&mut scenario.warmup_s, self.warmup);
        set(&mut scenario.joins_per_second, self.joins_per_second);
        let mode = self.mode.as_deref().map(|mode| match mode {
            "aes" => Mode::Aes256GcmRtpsize.name().to_owned(),
            "xchacha" => Mode::XChaCha20Poly1305Rtpsize.name().to_owned(),
            mode => mode.to_owned(),
        });
        set(&mut scenario.mode, mode);
        for channels in &mut scenario.channels {
            if let Some(transport) = self.transport {
                (channels.transport, channels.sender_transport) = (transport, None);
            }
            channels.sender_transport = self.sender_transport.or(channels.sender_transport);
        }
        let profile = self.srtp_profile.as_deref().map(|profile| match profile {
            "aead-128" => Profile::AeadAes128Gcm.name().to_owned(),
            "aead-256" => Profile::AeadAes256Gcm.name().to_owned(),
            "aes-cm" => Profile::Aes128CmSha1_80.name().to_owned(),
            profile => profile.to_owned(),
        });
        set(&mut scenario.srtp_profile, profile);
        if self.scenario.is_none() {
            // What is searched for changes from step to step.
            let first = &scenario.channels[0];
            match self.find_max {
                Some(Dimension::Listeners) => {
                    scenario.name = format!("{} speaking", first.speakers)
                }
                Some(Dimension::Speakers) => {
                    scenario.name = format!("{} listening", first.listeners)
                }
                Some(Dimension::Channels) | None => {}
            }
        }
        let changes = self.changes();
        if !changes.is_empty() {
            // A file's name speaks of what is in the file, and without one of members alone.
            scenario.name += &format!(" (with {changes})");
        }
        let scenario = scenario.checked()?;
        let has = |webrtc| scenario.channels.iter().any(|it| it.has_members_over(webrtc));
        for (flag, given, has, other) in [
            ("--srtp-profile", self.srtp_profile.is_some(), has(true), "webrtc"),
            ("--mode", self.mode.is_some(), has(false), "udp"),
        ] {
            if given && !has {
                let problem = format!("nobody is measured with it; add --transport {other}");
                return Err(ArgsError::Flag { flag, problem });
            }
        }
        if let Some(slice) = self.bound
            && (slice == 0 || !scenario.duration_s.is_multiple_of(2 * slice))
        {
            let problem = format!(
                "{} s cannot be divided into turns of {slice} s for both",
                scenario.duration_s
            );
            return Err(ArgsError::Flag { flag: "--bound", problem });
        }
        Ok(scenario)
    }

    /// Which flags change what is played and are not in its name, as they are given.
    fn changes(&self) -> String {
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        let members = |count: Option<u32>| number(count.filter(|_| self.scenario.is_some()));
        let transport = |transport: Option<Transport>| {
            transport?.to_possible_value().map(|value| value.get_name().to_owned())
        };
        let flags = [
            ("--speakers", members(self.speakers)),
            ("--listeners", members(self.listeners)),
            ("--channels", number(self.channels)),
            ("--payload-bytes", number(self.payload_bytes.map(u32::from))),
            ("--packets-per-second", number(self.packets_per_second)),
            ("--video", self.video.map(|bits| bits.to_string())),
            ("--joins-per-second", number(self.joins_per_second)),
            ("--mode", self.mode.clone()),
            ("--transport", transport(self.transport)),
            ("--sender-transport", transport(self.sender_transport)),
            ("--srtp-profile", self.srtp_profile.clone()),
        ];
        let searched = self.find_max.map(|dimension| format!("--{}", dimension.name()));
        let flags = flags.into_iter().filter(|(flag, _)| Some(*flag) != searched.as_deref());
        let given = flags.filter_map(|(flag, value)| Some(format!("{flag} {}", value?)));
        given.collect::<Vec<_>>().join(" ")
    }

    /// What a run needs besides.
    ///
    /// # Errors
    /// A file cannot be read, or the server's settings are not to be found.
    pub fn stage(&self) -> Result<Stage, ArgsError> {
        let flags = self.flags();
        let asks =
            self.grants.is_none() && self.token_key.is_none() && self.token_key_file.is_none();
        let control = match ControlAccess::load(&flags) {
            Ok(control) => Some(control),
            Err(error) if asks || self.control_secret_file.is_some() => return Err(error.into()),
            Err(_) => None,
        };
        let grants = self.ways_in(control.as_ref())?;
        let metrics = match &self.server_metrics {
            Some(url) => {
                let metrics = parse_url(url)?;
                // It goes to control, and nowhere else unless control is not asked for grants.
                let given = self.control_secret.is_some() || self.control_secret_file.is_some();
                let known = control.as_ref();
                let secret = known.filter(|it| it.address == metrics.address || (given && !asks));
                Some(Metrics { secret: secret.map(|it| it.secret.clone()), ..metrics })
            }
            None => control.as_ref().map(|control| Metrics {
                address: control.address,
                path: "/metrics".to_owned(),
                secret: Some(control.secret.clone()),
            }),
        };
        Ok(Stage {
            grants,
            endpoint: self.endpoint.clone(),
            trust: self.trust(&flags),
            metrics,
            control,
            server_pid: self.server_pid,
            cores: (!self.cores.is_empty()).then(|| BTreeSet::from_iter(self.cores.clone())),
            threads: self.threads,
            bound_slice_s: self.bound,
            quiet: self.quiet,
            command: without_secrets(std::env::args_os()),
        })
    }

    /// What to search for, and what must hold.
    pub fn search(&self) -> Option<(Dimension, ServiceLevel)> {
        let level = ServiceLevel { p99_max_ns: self.max_p99, loss_max: self.max_loss / 100.0 };
        self.find_max.map(|dimension| (dimension, level))
    }

    fn flags(&self) -> Flags {
        let given = [
            ("control.listen", &self.control_listen),
            ("control.secret", &self.control_secret),
            ("control.secret_file", &self.control_secret_file),
            ("state_dir", &self.state_dir),
        ];
        let given: Vec<_> =
            given.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?))).collect();
        Flags::of(self.config.clone(), &given)
    }

    fn ways_in(&self, control: Option<&ControlAccess>) -> Result<Grants, ArgsError> {
        if let Some(path) = &self.grants {
            return Ok(Grants::Tickets(grants::read(path)?));
        }
        let (flag, text) = match (&self.token_key, &self.token_key_file) {
            (Some(text), _) => ("--token-key", text.clone()),
            (None, Some(path)) => {
                let flag = "--token-key-file";
                let problem = |error: std::io::Error| format!("{}: {error}", path.display());
                let text = std::fs::read_to_string(path);
                (flag, text.map_err(|error| ArgsError::Flag { flag, problem: problem(error) })?)
            }
            (None, None) => {
                let control = control.expect("without another way in its absence is an error");
                return Ok(Grants::Control(control.clone()));
            }
        };
        let key = Secret::from_hex(text.trim()).filter(|key| key.reveal().len() >= KEY_BYTES_MIN);
        let key = key.ok_or_else(|| ArgsError::Flag {
            flag,
            problem: format!("expected {KEY_BYTES_MIN} bytes or more in hexadecimal"),
        })?;
        // Clap has seen to it that there is one.
        Ok(Grants::Key { key, endpoint: self.endpoint.clone().unwrap_or_default() })
    }

    fn trust(&self, flags: &Flags) -> Trust {
        if self.plaintext {
            return Trust::Plaintext;
        }
        if self.insecure {
            return Trust::Anyone;
        }
        match &self.ca {
            Some(path) => Trust::File(path.clone()),
            None => {
                let tls = Config::inspect(flags).ok().and_then(|config| config.gateway.tls);
                Trust::System(tls.map(|files| files.certificate))
            }
        }
    }
}

fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *field = given;
    }
}

/// A duration in nanoseconds: a number and `us`, `ms` or `s`.
fn parse_time(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no time; write 800us, 5ms or 1s");
    let units = [("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))
        .ok_or_else(wrong)?;
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    if number > 0.0 && number * unit < 1e15 { Ok((number * unit) as u64) } else { Err(wrong()) }
}

/// `http://ADDRESS:PORT/path`.
fn parse_url(url: &str) -> Result<Metrics, ArgsError> {
    let wrong = || ArgsError::Flag {
        flag: "--server-metrics",
        problem: format!("`{url}` is not of the form http://ADDRESS:PORT/metrics"),
    };
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, "metrics"));
    let address: SocketAddr = authority.parse().map_err(|_| wrong())?;
    Ok(Metrics { address, path: format!("/{path}"), secret: None })
}

/// A command line without the values of secret flags. Names of files need not be UTF-8: what
/// cannot be shown is replaced.
fn without_secrets(arguments: impl Iterator<Item = OsString>) -> Vec<String> {
    let mut hide = false;
    let shown = arguments.map(|argument| {
        let argument = argument.to_string_lossy().into_owned();
        if std::mem::take(&mut hide) {
            return "…".to_owned();
        }
        let (name, value) =
            argument.split_once('=').map_or((argument.as_str(), None), |(n, v)| (n, Some(v)));
        if !SECRET_FLAGS.contains(&name) {
            return argument;
        }
        hide = value.is_none();
        if value.is_some() { format!("{name}=…") } else { argument }
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn parse(arguments: &[&str]) -> Result<LoadArgs, clap::Error> {
        let line = Line::try_parse_from([&["load"], arguments].concat());
        line.map(|line| line.load)
    }

    #[test]
    fn flags_alone_make_a_scenario() {
        let scenario = parse(&[
            "--speakers",
            "2",
            "--listeners",
            "5",
            "--channels",
            "3",
            "--mode",
            "xchacha",
            "--video",
            "2500000",
            "--duration",
            "4",
            "--bound",
        ]);
        let scenario = scenario.unwrap().scenario().unwrap();
        assert_eq!((scenario.clients(), scenario.duration_s), (21, 4));
        assert_eq!(scenario.mode(), Mode::XChaCha20Poly1305Rtpsize);
        assert_eq!(scenario.channels[0].video.as_ref().unwrap().bits_per_second, 2_500_000);
        assert!(parse(&[]).is_err(), "nothing to play");
    }

    #[test]
    fn flags_that_change_what_is_played_are_in_its_name() {
        let name = |arguments: &[&str]| parse(arguments).unwrap().scenario().unwrap().name;
        let plain = ["--speakers", "1", "--listeners", "4"];
        assert_eq!(name(&plain), "1 speaking, 4 listening");
        let changed = [&plain[..], &["--channels", "200", "--mode", "xchacha"]].concat();
        assert_eq!(name(&changed), "1 speaking, 4 listening (with --channels 200 --mode xchacha)");
        let raised = [&changed[..], &["--find-max", "channels"]].concat();
        assert_eq!(name(&raised), "1 speaking, 4 listening (with --mode xchacha)");
        assert_eq!(name(&[&plain[..], &["--find-max", "listeners"]].concat()), "1 speaking");
        assert_eq!(name(&[&plain[..], &["--find-max", "speakers"]].concat()), "4 listening");
    }

    #[test]
    fn transports_are_chosen_by_flags() {
        let load = |arguments: &[&str]| {
            parse(&[&["--speakers", "1", "--listeners", "2"], arguments].concat()).unwrap()
        };
        let scenario = load(&["--transport", "webrtc", "--sender-transport", "udp"]).scenario();
        let channels = &scenario.unwrap().channels[0];
        assert_eq!(channels.transport, Transport::WebRtc);
        assert_eq!(channels.sender_transport, Some(Transport::Udp));
        for (short, name) in [
            ("aead-128", "SRTP_AEAD_AES_128_GCM"),
            ("aead-256", "SRTP_AEAD_AES_256_GCM"),
            ("aes-cm", "SRTP_AES128_CM_HMAC_SHA1_80"),
            ("SRTP_AEAD_AES_128_GCM", "SRTP_AEAD_AES_128_GCM"),
        ] {
            let scenario = load(&["--transport", "mixed", "--srtp-profile", short]).scenario();
            assert_eq!(scenario.unwrap().srtp_profile().name(), name);
        }
        assert!(load(&["--transport", "mixed", "--srtp-profile", "none"]).scenario().is_err());
        for without in
            [&["--srtp-profile", "aes-cm"][..], &["--transport", "webrtc", "--mode", "aes"]]
        {
            let error = load(without).scenario().unwrap_err().to_string();
            assert!(error.contains("nobody is measured with it"), "{error}");
        }
    }

    #[test]
    fn turns_must_fit_the_time() {
        let load = parse(&["--speakers", "2", "--duration", "5", "--bound"]).unwrap();
        assert!(load.scenario().unwrap_err().to_string().contains("turns of 2 s"));
    }

    #[test]
    fn flags_change_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "name = \"x\"\n[[channels]]\nspeakers = 1\n").unwrap();
        let path = file.path().to_str().unwrap();
        let load = parse(&[path, "--listeners", "7", "--warmup", "0"]).unwrap();
        let scenario = load.scenario().unwrap();
        assert_eq!((scenario.channels[0].listeners, scenario.warmup_s), (7, 0));
        assert_eq!(scenario.name, "x (with --listeners 7)");
        let raised = parse(&[path, "--listeners", "7", "--find-max", "listeners"]).unwrap();
        assert_eq!(raised.scenario().unwrap().name, "x");
        assert_eq!(parse(&[path, "--duration", "9"]).unwrap().scenario().unwrap().name, "x");
        assert!(parse(&[path, "--mode", "plain"]).unwrap().scenario().is_err());
    }

    #[test]
    fn a_token_key_needs_an_endpoint_and_its_length() {
        assert!(parse(&["--speakers", "2", "--token-key", "00"]).is_err());
        let load = parse(&["--speakers", "2", "--token-key", "00", "--endpoint", "h:1"]).unwrap();
        let problem = load.stage().unwrap_err().to_string();
        assert!(problem.contains("--token-key: expected 32 bytes"), "{problem}");
        let key = "07".repeat(32);
        let load = parse(&[
            "--speakers",
            "2",
            "--token-key",
            &key,
            "--endpoint",
            "h:1",
            "--insecure",
            "--server-metrics",
            "http://127.0.0.1:9/metrics",
            "--cores",
            "1,3",
        ]);
        let stage = load.unwrap().stage().unwrap();
        assert!(matches!(stage.grants, Grants::Key { .. }));
        assert_eq!(stage.trust, Trust::Anyone);
        assert_eq!(stage.cores, Some(BTreeSet::from([1, 3])));
        assert_eq!(stage.metrics.unwrap().path, "/metrics");
    }

    #[test]
    fn secrets_do_not_reach_results() {
        let line = ["stentor", "load", "--token-key", "s1", "--control-secret=s2", "--quiet"];
        let shown = without_secrets(line.into_iter().map(OsString::from));
        assert_eq!(shown.join(" "), "stentor load --token-key … --control-secret=… --quiet");
    }

    #[test]
    fn a_name_that_is_not_utf8_is_shown_as_far_as_it_is() {
        let line = [OsString::from("load"), OsString::from_vec(b"caf\xe9.toml".to_vec())];
        assert_eq!(without_secrets(line.into_iter()), ["load", "caf\u{fffd}.toml"]);
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("800us"), Ok(800_000));
        assert_eq!(parse_time("5 ms"), Ok(5_000_000));
        assert_eq!(parse_time("1.5s"), Ok(1_500_000_000));
        for wrong in ["", "5", "ms", "-1ms", "nans", "1e99s"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
