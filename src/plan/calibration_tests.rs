//! Costs found again from runs that were made from them; runs as they are observed; calibrations as
//! they are kept. Part of `calibration`.

use super::*;
use crate::{
    load::sample::Sample,
    plan::{answer::Answer, host::Resources, model::tests::round_model},
};

const AES: &str = "aead_aes256_gcm_rtpsize";
const BROWSERS: &str = "SRTP_AEAD_AES_256_GCM";

/// The model behind the runs: hearers of what wakes cost something.
fn known() -> Model {
    Model { cold_ns: 1_500.0, ..round_model() }
}

/// A run that costs what the model says, and a little off.
fn observation(name: &str, rates: Rates, off: f64) -> Observation {
    let model = known();
    let mode = if rates.browsers > 0.0 { BROWSERS } else { AES };
    let rest = model.cores(mode, &rates).unwrap();
    let cores = (model.base_cores + model.waking(&rates, &[], rest).busy) * off;
    let memory = model.memory_bytes(&rates);
    Observation {
        name: name.to_owned(),
        mode: mode.to_owned(),
        rates,
        cores,
        separate: None,
        memory: Some((10e6, memory)),
    }
}

fn observations(off: impl Fn(usize) -> f64) -> Vec<Observation> {
    let rates = |received: f64, copies, payload_bytes, traversals, sessions, joins| Rates {
        received,
        // One run is of video, ten packets a burst.
        bursts: if received == 300.0 { 30.0 } else { received },
        burst_hearers: if received == 300.0 { copies / 10.0 } else { copies },
        copies,
        payload_bytes,
        traversals,
        sessions,
        heartbeats: sessions / 41.25,
        // In channels of ten, but for one run.
        told_of: sessions * if sessions == 300.0 { 299.0 } else { 9.0 },
        joins,
        ..Rates::default()
    };
    let browsers =
        |rates: Rates| Rates { browsers: rates.sessions, browser_joins: rates.joins, ..rates };
    [
        rates(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        rates(0.0, 0.0, 0.0, 0.0, 400.0, 0.0),
        rates(0.0, 0.0, 0.0, 0.0, 100.0, 20.0),
        rates(50.0, 10_000.0, 1.6e6, 10_000.0, 201.0, 0.0),
        rates(50.0, 10_000.0, 1e7, 10_000.0, 201.0, 0.0),
        rates(3_000.0, 3_000.0, 9.6e5, 3_000.0, 120.0, 0.0),
        rates(300.0, 6_000.0, 6.6e6, 900.0, 21.0, 0.0),
        rates(2_000.0, 8_000.0, 1.6e6, 8_000.0, 200.0, 0.0),
        rates(50.0, 2_500.0, 4e5, 2_500.0, 51.0, 0.0),
        rates(400.0, 8_000.0, 1.3e6, 8_000.0, 51.0, 0.0),
        rates(0.0, 0.0, 0.0, 0.0, 300.0, 0.0),
        rates(20_000.0, 20_000.0, 3.2e6, 20_000.0, 800.0, 0.0),
        browsers(rates(0.0, 0.0, 0.0, 0.0, 200.0, 0.0)),
        browsers(rates(0.0, 0.0, 0.0, 0.0, 50.0, 10.0)),
        browsers(rates(50.0, 5_000.0, 8e5, 5_000.0, 101.0, 0.0)),
        browsers(rates(50.0, 5_000.0, 5e6, 5_000.0, 101.0, 0.0)),
    ]
    .into_iter()
    .enumerate()
    .map(|(place, rates)| observation(&format!("run {place}"), rates, off(place)))
    .collect()
}

#[test]
fn the_costs_behind_the_runs_are_found() {
    let model = fit(&observations(|_| 1.0)).unwrap();
    let known = known();
    let near = |found: f64, known: f64| assert!((found / known - 1.0).abs() < 1e-3, "{model:?}");
    near(model.base_cores, known.base_cores);
    near(model.received_ns, known.received_ns);
    near(model.halt_ns, known.halt_ns);
    near(model.wake_ns, known.wake_ns);
    near(model.cold_ns, known.cold_ns);
    near(model.traversal_ns, known.traversal_ns);
    near(model.heartbeat_ns, known.heartbeat_ns);
    near(model.join_ns, known.join_ns);
    near(model.modes[AES].copy_ns, 1_000.0);
    near(model.modes[AES].byte_ns, 1.0);
    near(model.browser_ns, known.browser_ns);
    near(model.browser_join_ns, known.browser_join_ns);
    near(model.modes[BROWSERS].copy_ns, 1_000.0);
    near(model.memory_session_bytes, 50e3);
    near(model.memory_browser_bytes, 80e3);
    near(model.memory_told_bytes, 100.0);
    near(model.memory_base_bytes, 10e6);
}

#[test]
fn runs_that_vary_by_a_few_percent_leave_residuals_of_a_few_percent() {
    let model = fit(&observations(|place| 0.96 + 0.02 * (place % 5) as f64)).unwrap();
    for observation in observations(|_| 1.0) {
        let residual = Residual::of_fitted(&model, observation);
        assert!(residual.error().abs() < 0.06, "{residual:?}");
    }
}

#[test]
fn too_few_runs_are_not_fitted() {
    let few = &observations(|_| 1.0)[..4];
    assert!(fit(few).unwrap_err().to_string().contains("4 runs"));
}

#[test]
fn a_run_is_observed_as_it_was_measured() {
    let mut result = Sample::default().result();
    result.seconds.iter_mut().for_each(|second| second.server_cores = Some(0.25));
    result.seconds[3].server_cores = Some(0.9);
    let observation = Observation::of(&result).unwrap();
    assert_eq!((observation.rates.received, observation.rates.bursts), (50.0, 50.0));
    assert_eq!(observation.rates.copies, 2_000.0);
    assert_eq!(observation.rates.payload_bytes, 50.0 * 160.0 * 41.0);
    assert_eq!((observation.rates.traversals, observation.rates.sessions), (2_000.0, 41.0));
    assert_eq!((observation.cores, observation.separate), (0.25, None));

    let late = &mut result.overall.sending.late;
    *late = 100;
    assert!(Observation::of(&result).is_ok(), "latencies of this run would not count");
    result.overall.sending.late = 101;
    let spoilt = Observation::of(&result).unwrap_err().to_string();
    assert!(spoilt.contains("sent 1000 of 1000 packets, 101 of them late"), "{spoilt}");
    result.overall.sending.late = 0;
    assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
    result.seconds.iter_mut().for_each(|second| second.server_cores = None);
    assert!(Observation::of(&result).unwrap_err().to_string().contains("could not be read"));
}

#[test]
fn passes_of_bursts_are_told_from_those_of_speech() {
    let text = "name = \"x\"\nduration_s = 20\n[[channels]]\nspeakers = 1\nlisteners = 40\n\
                [channels.video]\nbits_per_second = 2500000\n";
    let mut result = Sample::default().result();
    result.scenario = toml::from_str(text).unwrap();
    let cost = result.cost.as_mut().unwrap();
    // 50 of speech and 300 of video a second, to 40; each frame in two passes of ten.
    cost.forwarded = 20 * 350 * 40;
    cost.traversals_per_packet = Some((50.0 + 60.0) / 350.0);
    let observation = Observation::of(&result).unwrap();
    let (passes, further) = observation.separate.unwrap();
    assert!((further - 270.0 * 40.0).abs() < 1e-6 && (passes - 30.0 * 40.0).abs() < 1e-6);
    // A plan of the same then has the same passes.
    let planned = total(&Profile::of_scenario(&result.scenario), passes / further);
    assert!((planned.traversals - observation.rates.traversals).abs() < 1e-6);
}

#[test]
fn a_plan_of_a_run_predicts_what_an_answer_does() {
    // A stage that wakes a shard for many, and pairs that keep it busy.
    let text = "name = \"x\"\nduration_s = 60\n\
                [[channels]]\nspeakers = 1\nlisteners = 800\n\
                [[channels]]\ncount = 20\nspeakers = 1\nlisteners = 1\n";
    let scenario: Scenario = toml::from_str(text).unwrap();
    let model = known();
    let profile = Profile::of_scenario(&scenario);
    let answer = Answer::of(&profile, &model, 0.0, &Resources::default()).unwrap();
    assert_eq!(answer.shards, Some(1));
    let waking = &answer.placement.each;
    assert!(waking.hearers > 500.0, "the stage's counts: {waking:?}");
    let mut observation = observations(|_| 1.0).remove(3);
    observation.cores = answer.cores_busy;
    let residual = Residual::of_planned(&model, observation.clone(), &scenario);
    assert!(residual.error().abs() < 1e-9 && residual.is_good(), "{residual:?}");
    observation.cores *= 1.2;
    assert!(!Residual::of_planned(&model, observation, &scenario).is_good());
}

#[test]
fn a_calibration_is_of_one_host_and_one_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/calibration.json");
    let host = Host { kernel: "6.18".into(), cpu: "a processor".into(), commit: None };
    let missing = Calibration::read(&path, None).unwrap_err().to_string();
    assert!(missing.contains("stentor plan calibrate"), "{missing}");
    let mut checked = observations(|_| 1.0).remove(3);
    // A number that JSON keeps to the last bit.
    checked.cores = 0.05;
    let calibration = Calibration {
        format: FORMAT,
        host: host.clone(),
        made_at: "2026-11-22T12:00:00Z".to_owned(),
        model: round_model(),
        fitted: vec![],
        checked: vec![Residual { observation: checked, predicted: 0.1 }],
    };
    calibration.write(&path).unwrap();
    assert_eq!(Calibration::read(&path, Some(&host)).unwrap(), calibration);
    let other = Host { kernel: "7.0".into(), ..host };
    let refused = Calibration::read(&path, Some(&other)).unwrap_err().to_string();
    assert!(refused.contains("Linux 6.18") && refused.contains("Linux 7.0"), "{refused}");
    assert!(Calibration::read(&path, None).is_ok());
    // One that is not good takes the place of no good one.
    assert!(!calibration.is_good());
    let mut good = calibration.clone();
    good.checked[0].predicted = good.checked[0].observation.cores;
    assert_eq!(good.keep(&path).unwrap(), path);
    let beside = calibration.keep(&path).unwrap();
    assert_ne!(beside, path);
    assert_eq!(Calibration::read(&path, None).unwrap(), good);
    assert_eq!(Calibration::read(&beside, None).unwrap(), calibration);
    let newer = fs::read_to_string(&path).unwrap().replacen("\"format\": 5", "\"format\": 6", 1);
    fs::write(&path, newer).unwrap();
    assert!(Calibration::read(&path, None).unwrap_err().to_string().contains("format is 6"));
}
