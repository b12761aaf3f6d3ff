//! `stentor load`: virtual clients that speak the real protocol to a server, packets that leave on
//! schedule whether or not it keeps up, and an account of what came of them. `scenario` says what
//! is played, `result` what was found; reports are made from the latter and from nothing else.
//! Called by `main`.

pub mod account;
pub mod args;
pub mod bootstrap;
pub mod bound;
pub mod checks;
pub mod client;
pub mod clock;
pub mod compare;
pub mod control_client;
pub mod dtls;
pub mod endpoint;
pub mod find_max;
pub mod gateway;
pub mod grants;
pub mod histogram;
pub mod machine;
pub mod media;
pub mod offer;
pub mod payload;
pub mod peer;
pub mod players;
pub mod ports;
pub mod progress;
pub mod report;
pub mod result;
pub mod run;
#[cfg(test)]
pub mod sample;
pub mod scenario;
pub mod schedule;
pub mod searches;
pub mod server_cost;
pub mod server_share;
pub mod stage;
pub mod summary;
pub mod tally;
pub mod verdict;
pub mod voice;
pub mod wire;

use std::{fs, io, path::Path, process::ExitCode};

pub use args::LoadArgs;
pub use result::RunResult;
pub use scenario::Scenario;

use args::ArgsError;
use find_max::{Dimension, Search, ServiceLevel};
use progress::Progress;
use run::Played;
use stage::{RunError, Stage};

/// Exit code of a run whose numbers may not be believed.
const INVALID: u8 = 3;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The command line.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// The run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The result could not be written.
    #[error("{path}: {source}")]
    Write {
        /// Where to.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

/// Plays, prints, writes. The exit code is 0 for a valid run, whatever it found, and 3 for one that
/// is not.
///
/// # Errors
/// The run did not come to its end, or its result could not be written.
pub fn load(args: &LoadArgs) -> Result<ExitCode, LoadError> {
    let scenario = args.scenario()?;
    let stage = args.stage()?;
    let played = match args.search() {
        Some((dimension, level)) => search(scenario, &stage, dimension, level)?,
        None => run::play(&scenario, &stage)?,
    };
    if let Some(directory) = &args.out {
        write(directory, &played)?;
    }
    print!("{}", summary::summary(&played.result));
    let valid = played.result.verdict.valid;
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::from(INVALID) })
}

/// Plays one step after the other. The last one that held is the result, or the first if none did.
fn search(
    scenario: Scenario,
    stage: &Stage,
    dimension: Dimension,
    level: ServiceLevel,
) -> Result<Played, RunError> {
    let mut search = Search::new(scenario, dimension, level);
    let mut best: Option<(bool, Played)> = None;
    while let Some((value, scenario)) = search.next() {
        Progress::new(stage.quiet).note(&format!("trying {value}"));
        let drops = machine::card_drops();
        match run::play(&scenario, stage) {
            Ok(played) => {
                let drops = machine::card_drops().saturating_sub(drops);
                let held = search.played(value, &played.result, drops);
                if held || best.is_none() {
                    best = Some((held, played));
                }
            }
            // At first it is no finding but a mistake.
            Err(error) if best.is_none() => return Err(error),
            Err(error) => search.failed(value, &error),
        }
    }
    let (_, mut played) = best.expect("the first step was played or was an error");
    played.result.find_max = Some(search.found());
    Ok(played)
}

/// Writes `result.json`, `latency.hgrm`, `latency.hlog` and the report.
fn write(directory: &Path, played: &Played) -> Result<(), LoadError> {
    let Played { result, seconds } = played;
    let whole = histogram::sum(seconds.values().map(|tally| &tally.latency));
    let files = [
        ("result.json", result.to_json()),
        ("latency.hgrm", histogram::hgrm(&whole)),
        ("latency.hlog", histogram::hlog(seconds, run::unix_s(&result.about.started_at))),
    ];
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| LoadError::Write { path, source }
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text).map_err(failed(&path))?;
    }
    report::write(result, directory).map_err(failed(&directory.join(report::REPORT_FILE)))?;
    Ok(())
}
