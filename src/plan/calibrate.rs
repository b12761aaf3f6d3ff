//! `stentor plan calibrate`: starts a server of its own on loopback, with one shard and a state
//! directory of its own, has `load` play short scenarios against it, fits costs to what they took
//! and checks them on scenarios that had no part in it. Decides nothing about costs.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    calibration::{Calibration, CalibrationError, FORMAT, Host, Observation, Residual, fit},
    model::CHECKS_S,
    text,
};
use crate::{
    config::{ControlAccess, Flags},
    crypto::Mode,
    load::{
        Scenario,
        control_client::Metrics,
        endpoint::Trust,
        grants::Grants,
        run,
        scenario::{Channels, Transport, Video},
        stage::{RunError, Stage},
    },
};

/// Time a server has to come up.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Times that a run is played before it is given up: other work on the machine may spoil one.
const TRIES: u32 = 6;

/// Time between two tries, for each that has failed: such work ends.
const TRY_AFTER: Duration = Duration::from_secs(3);

/// Times that every run is played, all of them in turn, so that minutes in which somebody else has
/// the machine's caches spoil one of each and not all of one. The middle one counts.
const ROUNDS: usize = 3;

/// Seconds of play before anything counts.
const WARMUP_S: u32 = 1;

/// Why there is no calibration.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The server did not start.
    #[error("the server to measure did not start: {0}")]
    Server(String),
    /// A run did not come to its end.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A run, or all of them, say too little.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl CalibrateError {
    /// Whether it may go well the next time: other work on the machine spoils runs, and joins.
    fn may_pass(&self) -> bool {
        match self {
            Self::Run(error) => error.may_pass(),
            Self::Calibration(error) => matches!(error, CalibrationError::Spoilt { .. }),
            Self::Server(_) | Self::File { .. } => false,
        }
    }
}

/// Measures, fits, checks, prints and writes `path`. Runs last `seconds` each, and each is played
/// three times.
///
/// # Errors
/// A run fails or says nothing of costs, or the file cannot be written.
pub fn calibrate(path: &Path, seconds: u32) -> Result<Calibration, CalibrateError> {
    if cfg!(debug_assertions) {
        eprintln!("note: this is a debug build; its costs are not those of a release build");
    }
    let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
    let (fitting, checking) = (fitting(seconds), checking(seconds));
    let scenarios: Vec<_> = fitting.iter().chain(&checking).collect();
    let mut plays: Vec<Vec<Play>> = vec![Vec::new(); scenarios.len()];
    for round in 1..=ROUNDS {
        // One that many have just left is still busy with that.
        let state = directory.join(format!(".calibration.{}", std::process::id()));
        let server = Server::start(&state)?;
        let stage = server.stage()?;
        for (number, scenario) in scenarios.iter().enumerate() {
            let all = scenarios.len();
            eprintln!("round {round} of {ROUNDS}, {:>2} of {all}: {}", number + 1, scenario.name);
            plays[number].push(play(scenario, &stage)?);
        }
    }
    let mut middles = plays.into_iter().map(middle);
    let observations: Vec<_> =
        middles.by_ref().take(fitting.len()).map(|play| play.observation).collect();
    let model = fit(&observations)?;
    let checked = middles
        .map(|play| Residual::of_planned(&model, play.observation, &play.scenario))
        .collect();
    let fitted = observations.into_iter().map(|it| Residual::of_fitted(&model, it)).collect();
    let made_at = OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap_or_default();
    let calibration =
        Calibration { format: FORMAT, host: Host::here(), made_at, model, fitted, checked };
    let written = calibration.keep(path).map_err(|source| {
        let path = path.display().to_string();
        CalibrateError::File { path, source }
    })?;
    print!("{}", text::calibration(&calibration));
    if written != path {
        println!("a good one is kept in {}; this is {}", path.display(), written.display());
    }
    Ok(calibration)
}

/// A run that tells costs.
#[derive(Debug, Clone)]
struct Play {
    observation: Observation,
    /// As it was played.
    scenario: Scenario,
}

/// Plays until a run tells costs.
fn play(scenario: &Scenario, stage: &Stage) -> Result<Play, CalibrateError> {
    let mut tries = 1;
    loop {
        let played = run::play(scenario, stage).map_err(CalibrateError::Run).and_then(|played| {
            let observation = Observation::of(&played.result)?;
            Ok(Play { observation, scenario: played.result.scenario })
        });
        match played {
            Err(error) if error.may_pass() && tries < TRIES => {
                eprintln!("      once more: {error}");
                thread::sleep(TRY_AFTER * tries);
                tries += 1;
            }
            played => return played,
        }
    }
}

/// The one in the middle by what it cost.
fn middle(mut plays: Vec<Play>) -> Play {
    plays.sort_by(|a, b| a.observation.cores.total_cmp(&b.observation.cores));
    plays.swap_remove(plays.len() / 2)
}

/// Scenarios that tell one cost from the others.
fn fitting(seconds: u32) -> Vec<Scenario> {
    let aes = Mode::Aes256GcmRtpsize;
    let silent = |count, listeners| Channels { count, listeners, ..Channels::default() };
    let speech = |count, speakers, listeners, payload_bytes| Channels {
        count,
        speakers,
        listeners,
        payload_bytes,
        ..Channels::default()
    };
    let late = |channels| Channels { join_at_s: Some(0), join_over_s: seconds, ..channels };
    let browsers = |channels| Channels { transport: Transport::WebRtc, ..channels };
    let camera = |listeners, bits_per_second| Channels {
        video: Some(video(bits_per_second)),
        ..speech(1, 1, listeners, 160)
    };
    let mut scenarios = vec![
        // First, since a server that many have just left is still busy with that, and keeps what
        // memory it had for them.
        scenario("idle, one session", seconds, aes, silent(1, 1)),
        idle(scenario("idle, 200 browsers", seconds, aes, browsers(silent(20, 10)))),
        idle(scenario("idle, 200 sessions in one channel", seconds, aes, silent(1, 200))),
        idle(scenario("idle, 1,000 sessions", seconds, aes, silent(100, 10))),
        scenario("joins", seconds, aes, late(silent(20, 10))),
        scenario("joins of browsers", seconds, aes, late(browsers(silent(10, 10)))),
        scenario("one voice to 25", seconds, aes, speech(1, 1, 25, 160)),
        scenario("one voice to 10", seconds, aes, speech(1, 1, 10, 160)),
        scenario("ten voices to 30", seconds, aes, speech(1, 10, 30, 160)),
        scenario("one voice to 100", seconds, aes, speech(1, 1, 100, 160)),
        scenario("one voice to 300", seconds, aes, speech(1, 1, 300, 160)),
        scenario("four voices to 100", seconds, aes, speech(1, 4, 100, 160)),
        scenario("one voice to 100, long packets", seconds, aes, speech(1, 1, 100, 1_000)),
        scenario("pairs", seconds, aes, speech(20, 2, 0, 160)),
        scenario("channels of five", seconds, aes, speech(20, 1, 4, 160)),
        // A shard that is busy wakes up less, which few packets a second cannot tell.
        scenario("120 pairs", seconds, aes, speech(120, 2, 0, 160)),
        scenario("150 channels of five", seconds, aes, speech(150, 1, 4, 160)),
        scenario("sixteen voices to 60", seconds, aes, speech(1, 16, 60, 160)),
        scenario("a camera of 1 Mbit/s to 20", seconds, aes, camera(20, 1_000_000)),
        scenario("a camera of 2.5 Mbit/s to 30", seconds, aes, camera(30, 2_500_000)),
    ];
    let xchacha = Mode::XChaCha20Poly1305Rtpsize;
    scenarios.extend([
        scenario("one voice to 50, xchacha", seconds, xchacha, speech(1, 1, 50, 160)),
        scenario("four voices to 100, xchacha", seconds, xchacha, speech(1, 4, 100, 160)),
        scenario("one voice to 100, long, xchacha", seconds, xchacha, speech(1, 1, 100, 1_000)),
    ]);
    let heard_by_browsers = [
        ("one voice to 50 browsers", speech(1, 1, 50, 160)),
        ("four voices to 100 browsers", speech(1, 4, 100, 160)),
        ("the same, long packets", speech(1, 4, 100, 1_000)),
    ];
    scenarios.extend(
        heard_by_browsers
            .map(|(name, channels)| evenly(scenario(name, seconds, aes, browsers(channels)))),
    );
    scenarios
}

/// With joins as far apart as lets browsers' checks come in all seconds alike: the median of
/// seconds would not see them else.
fn evenly(scenario: Scenario) -> Scenario {
    let clients = u32::try_from(scenario.clients()).unwrap_or(u32::MAX);
    Scenario { joins_per_second: clients.div_ceil(CHECKS_S), ..scenario }
}

/// With heartbeats as often as browsers check that they are still heard: those that a server asks
/// for would come once in a run ten times as long.
fn idle(scenario: Scenario) -> Scenario {
    Scenario { heartbeat_s: Some(CHECKS_S), ..evenly(scenario) }
}

/// Scenarios that resemble none of the others.
fn checking(seconds: u32) -> Vec<Scenario> {
    let aes = Mode::Aes256GcmRtpsize;
    let speech =
        |count, speakers, listeners| Channels { count, speakers, listeners, ..Channels::default() };
    let mut mixed = scenario("check: channels of all sorts", seconds, aes, speech(10, 1, 7));
    mixed.channels.push(speech(5, 2, 18));
    mixed.channels.push(Channels { video: Some(video(1_500_000)), ..speech(1, 1, 15) });
    let mut guild = scenario("check: a guild", seconds, aes, speech(90, 1, 5));
    guild.channels.push(speech(1, 1, 250));
    guild.channels.push(speech(8, 2, 7));
    guild.channels.push(Channels { video: Some(video(2_000_000)), ..speech(2, 1, 9) });
    let web = Channels { transport: Transport::WebRtc, ..speech(6, 1, 15) };
    vec![
        scenario("check: one voice to 200", seconds, aes, speech(1, 1, 200)),
        scenario("check: twelve channels where three of ten talk", seconds, aes, speech(12, 3, 7)),
        mixed,
        guild,
        evenly(scenario("check: six channels of browsers", seconds, aes, web)),
    ]
}

fn scenario(name: &str, duration_s: u32, mode: Mode, channels: Channels) -> Scenario {
    let base = Scenario::simple(1, 1).expect("two members are a scenario");
    Scenario {
        name: name.to_owned(),
        warmup_s: WARMUP_S,
        duration_s,
        mode: mode.name().to_owned(),
        channels: vec![channels],
        ..base
    }
}

fn video(bits_per_second: u64) -> Video {
    Video::at(bits_per_second)
}

/// The server that is measured. Ends when dropped, and leaves nothing.
struct Server {
    child: Child,
    state: PathBuf,
    control: SocketAddr,
}

impl Server {
    fn start(state: &Path) -> Result<Self, CalibrateError> {
        let failed = |error: io::Error| CalibrateError::Server(error.to_string());
        fs::create_dir_all(state).map_err(failed)?;
        let (gateway, control) = (free_tcp().map_err(failed)?, free_tcp().map_err(failed)?);
        let media = free_udp().map_err(failed)?;
        let log = fs::File::create(state.join("log")).map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STENTOR_") {
                command.env_remove(name);
            }
        }
        let loopback = Ipv4Addr::LOCALHOST.to_string();
        let child = command
            .arg("serve")
            .env("STENTOR_STATE_DIR", state)
            .env("STENTOR_GATEWAY_LISTEN", gateway.to_string())
            .env("STENTOR_CONTROL_LISTEN", control.to_string())
            .env("STENTOR_MEDIA_LISTEN", loopback)
            .env("STENTOR_MEDIA_BASE_PORT", media.to_string())
            .env("STENTOR_SHARDS", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let mut server = Self { child, state: state.to_owned(), control };
        server.wait(gateway)?;
        Ok(server)
    }

    /// Until gateway and control answer.
    fn wait(&mut self, gateway: SocketAddr) -> Result<(), CalibrateError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let log = |server: &Self| {
            let log = fs::read_to_string(server.state.join("log")).unwrap_or_default();
            CalibrateError::Server(log.trim_end().to_owned())
        };
        loop {
            if matches!(self.child.try_wait(), Ok(Some(_))) || Instant::now() > deadline {
                return Err(log(self));
            }
            if [gateway, self.control].iter().all(|address| TcpStream::connect(address).is_ok()) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The way to it.
    fn stage(&self) -> Result<Stage, CalibrateError> {
        let (listen, state) = (self.control.to_string(), self.state.display().to_string());
        let flags = Flags::of(None, &[("control.listen", &listen), ("state_dir", &state)]);
        let control = ControlAccess::load(&flags)
            .map_err(|error| CalibrateError::Server(error.to_string()))?;
        Ok(Stage {
            grants: Grants::Control(control.clone()),
            endpoint: None,
            trust: Trust::System(Some(self.state.join("gateway.crt"))),
            metrics: Some(Metrics {
                address: control.address,
                path: "/metrics".to_owned(),
                secret: Some(control.secret.clone()),
            }),
            control: Some(control),
            server_pid: Some(self.child.id()),
            cores: None,
            threads: 1,
            bound_slice_s: None,
            quiet: true,
            command: std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect(),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.state);
    }
}

/// An address nobody listens on at present.
fn free_tcp() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn free_udp() -> io::Result<u16> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::calibration::{PER_MODE, SHARED};

    #[test]
    fn every_run_can_be_played_and_they_suffice_for_a_fit() {
        let (fitting, checking) = (fitting(10), checking(10));
        let modes: std::collections::BTreeSet<_> =
            fitting.iter().map(|scenario| &scenario.mode).collect();
        // Browsers have a mode of their own.
        assert!(fitting.len() >= SHARED + PER_MODE * (modes.len() + 1));
        for scenario in fitting.iter().chain(&checking) {
            assert!(scenario.clone().checked().is_ok(), "{}", scenario.name);
        }
        for check in &checking {
            assert!(fitting.iter().all(|scenario| scenario.channels != check.channels));
        }
    }
}
