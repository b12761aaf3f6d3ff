//! A host's cost model with what it was made of: runs observed, costs fitted to them, how far off
//! these are on the same runs and on others, and on which machine. Made from [`RunResult`] values
//! alone; written as JSON into the state directory. Starts no run.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    fit::{self, Equation},
    model::{HEARTBEATS, ModeCost, Model, Rates},
    profile::{Channels, Profile},
    waking::sums_by_hearers,
};
use crate::load::{RunResult, Scenario, machine, result::Sending};

/// Version of this format. A reader refuses any other.
pub const FORMAT: u32 = 5;

/// Its file in the state directory.
pub const CALIBRATION_FILE: &str = "calibration.json";

/// How far a prediction may be from a measurement, as a fraction of the latter, for the model to be
/// called good.
pub const ERROR_MAX: f64 = 0.15;

/// Most packets that the generator may have sent more than a millisecond late in a run that tells
/// costs, as a fraction; and the least it must have sent at all. Latencies would be spoilt by far
/// less (`load::verdict`), but processor time does not hang on a millisecond, only on packets not
/// coming in heaps.
const LATE_MAX: f64 = 0.1;
/// See [`LATE_MAX`].
const SENT_MIN: f64 = 0.999;

/// Unknowns that every mode shares: base, received, traversal, heartbeat, join, wake-up of a halted
/// core, wake-up after a pause, hearer of what wakes, browser, its join.
pub(super) const SHARED: usize = 10;

/// Unknowns of a mode: copy, byte.
pub(super) const PER_MODE: usize = 2;

/// What a host's server costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// [`FORMAT`].
    pub format: u32,
    /// On what it was made.
    pub host: Host,
    /// When, RFC 3339.
    pub made_at: String,
    /// The costs.
    pub model: Model,
    /// The runs that they were fitted to.
    pub fitted: Vec<Residual>,
    /// Runs that had no part in it.
    pub checked: Vec<Residual>,
}

/// What makes costs differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `uname -r`.
    pub kernel: String,
    /// Model name of the processor.
    pub cpu: String,
    /// Commit of the server, if it is known.
    pub commit: Option<String>,
}

/// A run as the model sees it: what happened in a second of it, and what that cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Its scenario's name.
    pub name: String,
    /// The encryption.
    pub mode: String,
    /// What happened.
    pub rates: Rates,
    /// What it cost, cores.
    pub cores: f64,
    /// Passes of a burst's packets after the first, and how many there were of these packets.
    pub separate: Option<(f64, f64)>,
    /// Memory without and with all clients, bytes.
    pub memory: Option<(f64, f64)>,
}

/// How far off the model is on a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Residual {
    /// The run.
    pub observation: Observation,
    /// What the model says that it costs, cores.
    pub predicted: f64,
}

/// Why a run says nothing about costs, or a calibration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// A run in which the generator fell behind.
    #[error(
        "in the run “{name}” the generator sent {sent} of {intended} packets, {late} of them late: \
         the machine has other work to do, or too few cores"
    )]
    Spoilt {
        /// Which.
        name: String,
        /// Packets that the schedule wanted.
        intended: u64,
        /// Packets sent.
        sent: u64,
        /// Packets more than a millisecond late.
        late: u64,
    },
    /// The server could not be read.
    #[error("what the run “{0}” cost the server could not be read")]
    NoCost(String),
    /// Too little to fit.
    #[error("{0} runs are too few to tell {1} costs apart")]
    TooFew(usize, usize),
    /// There is none.
    #[error(
        "no calibration of this host in {0}; make one with `stentor plan calibrate` (some minutes, \
         two free cores)"
    )]
    Missing(String),
    /// It is another host's.
    #[error(
        "{path} was made on {theirs}, and this is {ours}: costs there say nothing about here; make \
         one with `stentor plan calibrate`, or name a file with --calibration to use it all the same"
    )]
    OtherHost {
        /// The file.
        path: String,
        /// Where it was made.
        theirs: String,
        /// Where we are.
        ours: String,
    },
    /// The file.
    #[error("{path}: {problem}")]
    File {
        /// Which.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

impl Host {
    /// This one.
    pub fn here() -> Self {
        Self { kernel: machine::kernel(), cpu: machine::cpu(), commit: machine::commit() }
    }

    fn describe(&self) -> String {
        format!("{} with Linux {}", self.cpu, self.kernel)
    }
}

impl Observation {
    /// What a run tells: counts as measured, bytes and bursts as its scenario has them.
    ///
    /// # Errors
    /// The generator fell behind, or there are no costs.
    pub fn of(result: &RunResult) -> Result<Self, CalibrationError> {
        let name = &result.scenario.name;
        let Sending { intended, sent, late, .. } = result.overall.sending;
        let of_intended = |part: f64| part * intended as f64;
        if (sent as f64) < of_intended(SENT_MIN) || late as f64 > of_intended(LATE_MAX) {
            return Err(CalibrationError::Spoilt { name: name.clone(), intended, sent, late });
        }
        let missing = || CalibrationError::NoCost(name.clone());
        let cost = result.cost.as_ref().ok_or_else(missing)?;
        let seconds = result.seconds.iter().filter(|second| !second.bound);
        let cores = median(seconds.clone().filter_map(|second| second.server_cores));
        let cores = cores.filter(|cores| *cores > 0.0).ok_or_else(missing)?;
        let seconds = seconds.count().max(1) as f64;
        let profile = Profile::of_scenario(&result.scenario);
        let planned = |separate| total(&profile, separate);
        let (grouped, alone) = (planned(0.0), planned(1.0));
        let received = result.overall.sending.sent as f64 / seconds;
        let copies = cost.forwarded as f64 / seconds;
        let traversals = cost.traversals_per_packet.unwrap_or(1.0) * copies;
        let of_planned = if alone.copies > 0.0 { copies / alone.copies } else { 0.0 };
        // What bursts left on their own: passes beyond one for each burst and hearer.
        let further = (alone.traversals - grouped.traversals) * of_planned;
        let separate = (further > 0.0).then(|| {
            let passes = traversals - grouped.traversals * of_planned;
            (passes.clamp(0.0, further), further)
        });
        let of_sent = received / alone.received.max(f64::MIN_POSITIVE);
        let present = present(&result.scenario);
        let browsers = profile.channels[0].encryption().is_browsers();
        let of_browsers = |number: f64| if browsers { number } else { 0.0 };
        Ok(Self {
            name: name.clone(),
            mode: profile.channels[0].mode.clone(),
            rates: Rates {
                received,
                bursts: alone.bursts * of_sent,
                burst_hearers: alone.burst_hearers * of_sent,
                copies,
                payload_bytes: alone.payload_bytes * of_planned,
                traversals,
                sessions: present,
                heartbeats: heartbeats(&result.scenario, present),
                browsers: of_browsers(present),
                told_of: alone.told_of,
                joins: alone.joins,
                browser_joins: of_browsers(alone.joins),
            },
            cores,
            separate,
            memory: cost
                .memory_before_bytes
                .zip(cost.memory_joined_bytes)
                .map(|(before, joined)| (before as f64, joined as f64)),
        })
    }

    /// `base`: cores busy when nobody is there. What the process takes beyond that is its shard's,
    /// as good as all of it.
    fn equation(&self, modes: &[String], base: f64) -> Equation {
        let Rates { received, copies, payload_bytes, traversals, joins, .. } = self.rates;
        let busy = self.cores - base;
        let (halts, pauses) = (self.rates.halts(busy), self.rates.pauses(busy));
        let cold = pauses * self.rates.hearers();
        let Rates { heartbeats, browsers, browser_joins, .. } = self.rates;
        let mut amounts = vec![1.0, received, traversals, heartbeats, joins, halts, pauses, cold];
        amounts.extend([browsers, browser_joins]);
        for mode in modes {
            let is_ours = f64::from(u8::from(*mode == self.mode));
            amounts.extend([copies * is_ours, payload_bytes * is_ours]);
        }
        Equation { amounts, cost: self.cores }
    }
}

/// The middle one: a second in which something else had the machine's caches does not count.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) =
        (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

/// All channels of a profile together.
pub fn total(profile: &Profile, separate: f64) -> Rates {
    let of =
        |channels: &Channels| Rates::of_channel(channels, separate).times(channels.count.into());
    profile.channels.iter().map(of).fold(Rates::default(), Rates::plus)
}

/// Sessions there in the middle of the measured time: of those who join meanwhile, half.
fn present(scenario: &Scenario) -> f64 {
    let of = |channels: &crate::load::scenario::Channels| {
        let members = f64::from(channels.count) * f64::from(channels.members());
        if channels.join_at_s.is_some() { members / 2.0 } else { members }
    };
    scenario.channels.iter().map(of).sum()
}

/// Heartbeats a second of so many. In a run that is over before the first are due there are none.
fn heartbeats(scenario: &Scenario, sessions: f64) -> f64 {
    let seconds = f64::from(scenario.warmup_s.saturating_add(scenario.duration_s));
    match scenario.heartbeat_s {
        Some(interval) => sessions / f64::from(interval),
        None if seconds * HEARTBEATS < 1.0 => 0.0,
        None => sessions * HEARTBEATS,
    }
}

/// Costs that explain all observations best.
///
/// # Errors
/// There are fewer observations than costs.
pub fn fit(observations: &[Observation]) -> Result<Model, CalibrationError> {
    let mut modes: Vec<String> = observations.iter().map(|it| it.mode.clone()).collect();
    modes.sort();
    modes.dedup();
    let unknowns = SHARED + PER_MODE * modes.len();
    if observations.len() < unknowns {
        return Err(CalibrationError::TooFew(observations.len(), unknowns));
    }
    let base = observations.iter().map(|it| it.cores).reduce(f64::min).unwrap_or(0.0);
    let equations: Vec<_> = observations.iter().map(|it| it.equation(&modes, base)).collect();
    let costs = fit::costs(&equations, unknowns);
    let ns = |place: usize| costs[place] * 1e9;
    let bursts = observations.iter().filter_map(|it| it.separate);
    let (passes, packets) = bursts.fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    let memory = Memory::of(observations);
    Ok(Model {
        base_cores: costs[0],
        received_ns: ns(1),
        traversal_ns: ns(2),
        heartbeat_ns: ns(3),
        join_ns: ns(4),
        halt_ns: ns(5),
        wake_ns: ns(6),
        cold_ns: ns(7),
        browser_ns: ns(8),
        browser_join_ns: ns(9),
        modes: modes
            .iter()
            .enumerate()
            .map(|(place, mode)| {
                let first = SHARED + PER_MODE * place;
                (mode.clone(), ModeCost { copy_ns: ns(first), byte_ns: ns(first + 1) })
            })
            .collect(),
        separate: if packets > 0.0 { passes / packets } else { 1.0 },
        memory_base_bytes: memory.base,
        memory_session_bytes: memory.session,
        memory_browser_bytes: memory.browser,
        memory_told_bytes: memory.told,
    })
}

/// What a process has, bytes.
struct Memory {
    base: f64,
    session: f64,
    browser: f64,
    told: f64,
}

impl Memory {
    /// Without anyone, and what each of those adds who are only there. The server is not started
    /// afresh for each run and keeps what it once had, so these come first, each larger than the
    /// one before.
    fn of(observations: &[Observation]) -> Self {
        let known = observations.iter().filter_map(|it| Some((it.rates, it.memory?)));
        let base = known.clone().map(|(_, (before, _))| before).reduce(f64::min).unwrap_or(0.0);
        let are_only_there =
            |rates: &Rates| rates.received == 0.0 && rates.joins == 0.0 && rates.told_of > 0.0;
        let equations = known.filter(|(rates, _)| are_only_there(rates)).map(|(rates, memory)| {
            let plain = rates.sessions - rates.browsers;
            let amounts = vec![plain, rates.browsers, rates.told_of];
            Equation { amounts, cost: memory.1 - base }
        });
        let [session, browser, told] = fit::costs(&equations.collect::<Vec<_>>(), 3)[..] else {
            unreachable!("as many costs as unknowns");
        };
        Self { base, session, browser, told }
    }
}

impl Residual {
    /// What the model says about a run, from what happened in it.
    pub fn of_fitted(model: &Model, observation: Observation) -> Self {
        let rates = observation.rates;
        Self::with(model, observation, &rates, &[])
    }

    /// What the model says about a run, from nothing but its scenario, as a plan would for the one
    /// shard there is.
    pub fn of_planned(model: &Model, observation: Observation, scenario: &Scenario) -> Self {
        let profile = Profile::of_scenario(scenario);
        let with_heartbeats = |rates: Rates, sessions| {
            let heartbeats = heartbeats(scenario, sessions);
            Rates { heartbeats, ..rates }
        };
        let all = total(&profile, model.separate);
        let sessions = present(scenario);
        let browsers = if all.browsers > 0.0 { sessions } else { 0.0 };
        let all = with_heartbeats(Rates { sessions, browsers, ..all }, sessions);
        let kind = |channels: &Channels| {
            let kind = Rates::of_channel(channels, model.separate).times(channels.count.into());
            with_heartbeats(kind, kind.sessions)
        };
        let among = sums_by_hearers(profile.channels.iter().map(kind).collect());
        Self::with(model, observation, &all, &among)
    }

    fn with(model: &Model, observation: Observation, all: &Rates, among: &[Rates]) -> Self {
        let rest = model.cores(&observation.mode, all).unwrap_or(f64::NAN);
        let predicted = model.base_cores + model.waking(all, among, rest).busy;
        Self { predicted, observation }
    }

    /// The prediction's distance from the measurement, as a fraction of it.
    pub fn error(&self) -> f64 {
        self.predicted / self.observation.cores - 1.0
    }

    /// Whether that is near enough.
    pub fn is_good(&self) -> bool {
        self.error().abs() <= ERROR_MAX
    }
}

impl Calibration {
    /// Whether it predicts what it was not made of.
    pub fn is_good(&self) -> bool {
        !self.checked.is_empty() && self.checked.iter().all(Residual::is_good)
    }

    /// Reads a file. `host`: refuse it if it was made on another one.
    ///
    /// # Errors
    /// There is no file, it is no calibration, or another host's.
    pub fn read(path: &Path, host: Option<&Host>) -> Result<Self, CalibrationError> {
        let name = || path.display().to_string();
        let problem = |problem: String| CalibrationError::File { path: name(), problem };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CalibrationError::Missing(name()));
            }
            Err(error) => return Err(problem(error.to_string())),
        };
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let versioned: Versioned =
            serde_json::from_str(&text).map_err(|error| problem(error.to_string()))?;
        if versioned.format != FORMAT {
            return Err(problem(format!("its format is {}, this is {FORMAT}", versioned.format)));
        }
        let found: Self =
            serde_json::from_str(&text).map_err(|error| problem(error.to_string()))?;
        match host {
            Some(host) if (&host.kernel, &host.cpu) != (&found.host.kernel, &found.host.cpu) => {
                let (theirs, ours) = (found.host.describe(), host.describe());
                Err(CalibrationError::OtherHost { path: name(), theirs, ours })
            }
            _ => Ok(found),
        }
    }

    /// Writes the file, unless this one is not good and the one there is: it goes beside that then.
    /// Returns where it is.
    ///
    /// # Errors
    /// The system refuses.
    pub fn keep(&self, path: &Path) -> io::Result<PathBuf> {
        let is_good = |path| Self::read(path, Some(&self.host)).is_ok_and(|it| it.is_good());
        let path = match !self.is_good() && is_good(path) {
            true => path.with_extension("not-good.json"),
            false => path.to_owned(),
        };
        self.write(&path)?;
        Ok(path)
    }

    /// Writes the file whole or not at all, and its directory if need be.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let staged = path.with_extension("json.new");
        let text = serde_json::to_string_pretty(self).expect("a calibration is plain values");
        fs::write(&staged, text + "\n")?;
        fs::rename(staged, path)
    }
}

#[cfg(test)]
#[path = "calibration_tests.rs"]
mod tests;
