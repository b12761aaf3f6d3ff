//! `stentor plan`: how many cores, bits and bytes a guild takes on this host, from what things were
//! measured to cost here. `calibrate` makes the costs with runs of `load`; everything else is
//! arithmetic on them, which `--explain` shows. Called by `main`.

pub mod answer;
pub mod args;
pub mod calibrate;
pub mod calibration;
pub mod encryption;
pub mod fit;
pub mod host;
pub mod live;
pub mod model;
pub mod page;
pub mod placement;
pub mod profile;
pub mod text;
pub mod waking;

use std::{fs, io, path::PathBuf, process::ExitCode};

pub use args::PlanArgs;

use answer::{Answer, AnswerError};
use args::{ArgsError, Asked, PlanCommand};
use calibrate::CalibrateError;
use calibration::{Calibration, CalibrationError, Host};
use host::Resources;
use live::LiveError;

/// Exit code of a calibration whose model does not predict what it has not seen, and of a plan that
/// does not fit this host.
const UNFIT: u8 = 3;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The command line.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// The costs.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// Measuring them.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// The arithmetic.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The live server.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// The page could not be written.
    #[error("{}: {source}", path.display())]
    Page {
        /// Where to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Calibrates or plans, and prints. The exit code is 0 for a good model or a plan that fits, 3
/// otherwise.
///
/// # Errors
/// There is no answer.
pub fn plan(args: &PlanArgs) -> Result<ExitCode, PlanError> {
    let code = |is_good| if is_good { ExitCode::SUCCESS } else { ExitCode::from(UNFIT) };
    let path = args.calibration_path()?;
    if let Some(PlanCommand::Calibrate { seconds, .. }) = &args.command {
        let calibration = calibrate::calibrate(&path, *seconds)?;
        return Ok(code(calibration.is_good()));
    }
    // A file that was named is used wherever it was made.
    let host = args.calibration.is_none().then(Host::here);
    let calibration = Calibration::read(&path, host.as_ref())?;
    let resources = args.resources(Resources::here());
    let (headroom, model) = (args.headroom(), &calibration.model);
    let (answer, profile) = match args.asked()? {
        Asked::Profile(profile) => {
            (Answer::of(&profile, model, headroom, &resources)?, Some(profile))
        }
        Asked::Live { url, seconds, secret } => {
            let mode = args.mode_name();
            // Not after ten seconds of watching.
            answer::usable(headroom)?;
            answer::encryption(&mode, model)?;
            let demand = live::watch(&url, seconds, &mode, secret.as_ref())?;
            let name = format!("what {url} does");
            (Answer::of_demands(name, vec![demand], model, headroom, &resources)?, None)
        }
    };
    let changes = profile
        .as_ref()
        .map(|profile| answer::sensitivity(profile, model, headroom, &resources))
        .unwrap_or_default();
    if args.json {
        print!("{}", text::json(&answer, &changes, &calibration));
    } else {
        print!("{}", text::answer(&answer, &changes, &calibration));
        if args.explain {
            print!("{}", text::explain(&answer));
        }
    }
    if let Some(path) = &args.html {
        let page = page::page(&answer, &changes, profile.as_ref(), &calibration, &resources);
        fs::write(path, page).map_err(|source| PlanError::Page { path: path.clone(), source })?;
    }
    Ok(code(answer.fits()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use args::tests::parse;
    use calibration::FORMAT;
    use model::tests::round_model;

    #[test]
    fn what_can_have_no_answer_is_refused_before_a_server_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calibration.json");
        let calibration = Calibration {
            format: FORMAT,
            host: Host::here(),
            made_at: "2026-11-29T12:00:00Z".to_owned(),
            model: round_model(),
            fitted: vec![],
            checked: vec![],
        };
        calibration.write(&path).unwrap();
        let calibration = path.to_str().unwrap();
        // Nobody listens there.
        let live = ["--from-metrics", "http://127.0.0.1:1/", "--calibration", calibration];
        let refused = |arguments: &[&str]| {
            let args = parse(&[&live, arguments].concat()).unwrap();
            plan(&args).unwrap_err().to_string()
        };
        assert!(refused(&["--mode", "xchacha"]).contains("was never measured"));
        assert!(refused(&["--headroom", "100"]).contains("--headroom"));
        assert!(refused(&[]).contains("127.0.0.1:1"));
    }
}
