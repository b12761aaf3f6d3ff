//! Comparisons of runs that never were: what is worse is called so, what is only noise is not, and
//! what cannot be compared is refused. Part of `compare`.

use super::*;
use crate::load::{result::Failure, sample::Sample};

fn run(sample: Sample) -> RunResult {
    sample.result()
}

fn answer(a: &[RunResult], b: &[RunResult]) -> Comparison {
    compare(a, b, Tolerance::default()).expect("comparable")
}

fn worse(comparison: &Comparison) -> Vec<&str> {
    let rows = comparison.rows.iter().filter(|row| row.finding == Finding::Worse);
    rows.map(|row| row.name).collect()
}

#[test]
fn a_run_is_not_worse_than_itself() {
    let a = run(Sample::default());
    let comparison = answer(std::slice::from_ref(&a), std::slice::from_ref(&a));
    assert_eq!(comparison.rows.len(), 4);
    assert!(comparison.rows.iter().all(|row| row.effect.estimate == 0.0));
    assert!(!comparison.is_worse() && comparison.text().ends_with("B is not worse than A.\n"));
}

#[test]
fn two_hundred_microseconds_are_seen() {
    let a = run(Sample::default());
    let b = run(Sample { seed: 2, median_ns: 350_000.0, ..Sample::default() });
    let comparison = answer(std::slice::from_ref(&a), std::slice::from_ref(&b));
    assert_eq!(worse(&comparison), ["median latency", "p99 of latency"]);
    assert!((comparison.rows[1].effect.estimate - 1.333).abs() < 0.05);
    let back = answer(&[b], &[a]);
    assert!(!back.is_worse());
    assert_eq!(back.rows[1].finding, Finding::Better);
}

#[test]
fn one_lost_of_a_hundred_is_seen() {
    let a = run(Sample::default());
    let b = run(Sample { seed: 3, loss: 0.01, ..Sample::default() });
    let comparison = answer(&[a], &[b]);
    assert_eq!(worse(&comparison), ["lost"]);
    let row = comparison.rows.iter().find(|row| row.name == "lost").unwrap();
    assert!((row.effect.estimate - 0.01).abs() < 0.002 && row.effect.low > 0.005);
}

#[test]
fn a_dearer_server_is_seen() {
    let a = run(Sample::default());
    let b = run(Sample { seed: 4, cpu_ns: 3_200.0, ..Sample::default() });
    assert_eq!(worse(&answer(&[a], &[b])), ["processor time per copy"]);
}

#[test]
fn noise_is_not_called_a_difference() {
    for seed in 0..8 {
        let noisy = |seed| Sample { seed, unrest: 1.4, loss: 0.002, ..Sample::default() };
        let (a, b) = (run(noisy(2 * seed + 1)), run(noisy(2 * seed + 2)));
        let comparison = answer(&[a], &[b]);
        assert!(!comparison.is_worse(), "seed {seed}:\n{}", comparison.text());
        let unseen = comparison.notes.iter().filter(|note| note.contains("told from chance"));
        assert!(unseen.count() >= 2, "and how little was to be seen is said");
    }
}

#[test]
fn what_is_sure_and_does_not_matter_is_the_same() {
    let a = run(Sample { unrest: 1.001, ..Sample::default() });
    let b =
        run(Sample { unrest: 1.001, cpu_ns: 2_960.0, median_ns: 154_000.0, ..Sample::default() });
    let comparison = answer(std::slice::from_ref(&a), std::slice::from_ref(&b));
    assert!(comparison.rows[1].effect.low > 0.0 && !comparison.is_worse());
    let strict = Tolerance { relative: 0.01, loss: 0.001 };
    let comparison = compare(&[a], &[b], strict).unwrap();
    assert_eq!(worse(&comparison), ["processor time per copy"], "4 µs never matter");
}

#[test]
fn several_runs_tell_how_much_runs_differ() {
    let runs = |seeds: [u64; 3], medians: [f64; 3]| {
        let run = |(seed, median_ns)| run(Sample { seed, median_ns, ..Sample::default() });
        seeds.into_iter().zip(medians).map(run).collect::<Vec<_>>()
    };
    let a = runs([1, 2, 3], [140_000.0, 170_000.0, 200_000.0]);
    let b = runs([4, 5, 6], [150_000.0, 180_000.0, 220_000.0]);
    let comparison = answer(&a, &b);
    assert!(!comparison.is_worse(), "{}", comparison.text());
    assert!(comparison.notes.iter().all(|note| !note.contains("several runs")));
    assert!(answer(&a[..1], &b[1..2]).is_worse(), "and one of each would have been called worse");
}

#[test]
fn what_the_bare_loop_lost_is_not_the_servers() {
    let a = run(Sample { bound: true, ..Sample::default() });
    let mut b = a.clone();
    b.seconds.iter_mut().filter(|it| it.bound).for_each(|second| second.lost = second.expected);
    assert!(!answer(&[a], &[b]).is_worse());
}

#[test]
fn a_slower_machine_is_no_slower_server() {
    let fast = Sample { bound: true, ..Sample::default() };
    let slow = Sample { median_ns: 300_000.0, cpu_ns: 5_800.0, seed: 9, ..fast.clone() };
    let comparison = answer(&[run(fast)], &[run(slow)]);
    assert!(!comparison.is_worse(), "{}", comparison.text());
    assert!(comparison.rows[1].a.contains("= 1.2"), "{}", comparison.text());
}

#[test]
fn a_packet_in_the_wrong_channel_is_worse_whatever_the_spread() {
    let a = run(Sample::default());
    let mut b = a.clone();
    b.overall.hearing.wrong_channel = 1;
    b.joins.succeeded -= 1;
    let comparison = answer(&[a], &[b]);
    assert_eq!(comparison.faults.len(), 2, "{:?}", comparison.faults);
    assert!(comparison.text().ends_with("B is worse than A: faults.\n"));
}

#[test]
fn a_fault_that_grows_is_seen_and_one_that_comes_now_and_then_is_not() {
    type Field = fn(&mut Hearing) -> &mut u64;
    let wrong_channel: Field = |it| &mut it.wrong_channel;
    let undecryptable: Field = |it| &mut it.undecryptable;
    let duplicated: Field = |it| &mut it.duplicated;
    let reordered: Field = |it| &mut it.reordered;
    let foreign: Field = |it| &mut it.foreign;
    let base = run(Sample::default());
    assert_eq!(base.overall.hearing.expected, 40_000);
    for (field, of_a, of_b, is_fault) in [
        (wrong_channel, 7, 8, true),
        (wrong_channel, 7, 7, false),
        (undecryptable, 0, 1, true),
        (undecryptable, 1, 100_000, true),
        (undecryptable, 10, 13, false),
        (duplicated, 0, 40_000, true),
        // A packet has forty copies.
        (duplicated, 0, 3 * 40, false),
        (reordered, 0, 40, false),
        (reordered, 100, 300, true),
        (reordered, 400, 500, false),
        (foreign, 0, 400, true),
    ] {
        let [a, b] = [of_a, of_b].map(|count| {
            let mut result = base.clone();
            *field(&mut result.overall.hearing) = count;
            result
        });
        // Three runs of A are no more of a fault than one.
        let found = faults(&[a.clone(), a.clone(), a], &[b], Tolerance::default());
        assert_eq!(found.len(), usize::from(is_fault), "{of_a} and {of_b}: {found:?}");
    }
}

#[test]
fn sessions_that_are_cut_off_are_a_fault_though_nothing_is_lost() {
    let a = run(Sample::default());
    let mut b = a.clone();
    let reset = |count| Failure { close_code: None, reason: "reset".to_owned(), count };
    b.joins.broken = vec![reset(19), reset(1)];
    let comparison = answer(std::slice::from_ref(&a), std::slice::from_ref(&b));
    assert!(comparison.rows.iter().all(|row| row.finding == Finding::Same));
    assert_eq!(comparison.faults, ["46.5 % of sessions were cut off, and 0 % of A's"]);
    assert!(!answer(std::slice::from_ref(&b), &[a]).is_worse());
    assert!(!answer(std::slice::from_ref(&b), std::slice::from_ref(&b)).is_worse());
}

#[test]
fn a_server_that_ends_on_the_way_is_worse() {
    let a = run(Sample { bound: true, ..Sample::default() });
    let mut b = a.clone();
    // Ten seconds of each, then neither has any.
    for second in b.seconds.iter_mut().skip(20) {
        *second = Second { second: second.second, bound: second.bound, ..Second::default() };
    }
    let comparison = answer(std::slice::from_ref(&a), std::slice::from_ref(&b));
    assert_eq!(comparison.faults.len(), 1, "{:?}", comparison.faults);
    assert!(comparison.faults[0].starts_with("in 10 of its seconds"), "{:?}", comparison.faults);
    let found = |a: &[&RunResult], b: &RunResult| {
        let a: Vec<_> = a.iter().map(|run| (*run).clone()).collect();
        faults(&a, std::slice::from_ref(b), Tolerance::default())
    };
    assert!(found(&[&b], &a).is_empty());
    assert!(found(&[&a, &b], &b).is_empty(), "it ended in a run of A as well");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let a = run(Sample::default());
    let refused = |change: fn(&mut RunResult)| {
        let mut b = a.clone();
        change(&mut b);
        compare(std::slice::from_ref(&a), &[b], Tolerance::default()).unwrap_err().to_string()
    };
    let invalid = refused(|run| {
        run.verdict.valid = false;
        run.verdict.reasons = vec!["late".to_owned()];
    });
    assert!(invalid.contains("not valid: late"), "{invalid}");
    let other = refused(|run| run.scenario.channels[0].listeners += 1);
    assert!(other.contains("channels differs"), "{other}");
    assert!(refused(|run| run.seconds.truncate(3)).contains("3 seconds"));
    assert!(refused(|run| run.scenario.mode = "x".to_owned()).contains("mode"));
    let mut renamed = a.clone();
    renamed.scenario.name = "another name".to_owned();
    renamed.about.kernel = "7.0".to_owned();
    let comparison = answer(&[a], &[renamed]);
    assert!(comparison.notes.iter().any(|note| note.contains("kernels")));
}

#[test]
fn the_exit_code_is_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, sample: Sample| {
        let path = dir.path().join(name);
        std::fs::write(&path, run(sample).to_json()).unwrap();
        path.display().to_string()
    };
    let a = write("a.json", Sample::default());
    let b = write("b.json", Sample { seed: 2, median_ns: 350_000.0, ..Sample::default() });
    let code = |files: [&str; 2]| super::run(&files.map(str::to_owned), Tolerance::default());
    assert_eq!(code([&a, &a]), ExitCode::SUCCESS);
    assert_eq!(code([&a, &b]), ExitCode::from(WORSE));
    assert_eq!(code([&format!("{a},{a}"), &format!("{b},{b}")]), ExitCode::from(WORSE));
    assert_eq!(code([&a, "/nonexistent.json"]), ExitCode::from(INCOMPARABLE));
    let newer = std::fs::read_to_string(&a).unwrap().replacen("\"format\": 1", "\"format\": 9", 1);
    let other = dir.path().join("c.json");
    std::fs::write(&other, newer).unwrap();
    assert_eq!(code([&a, other.to_str().unwrap()]), ExitCode::from(INCOMPARABLE));
}

#[test]
fn a_page_shows_every_result_and_is_not_written_if_one_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (name, scenario) in [("a.json", "one & all"), ("b.json", "another")] {
        let mut result = run(Sample::default());
        result.scenario.name = scenario.to_owned();
        std::fs::write(path(name), result.to_json()).unwrap();
    }
    let page = path("page.html");
    assert!(super::draw(&[page.clone(), path("a.json"), path("none.json")]).is_err());
    assert!(!page.exists());
    super::draw(&[page.clone(), path("a.json"), path("b.json")]).unwrap();
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.contains("one &amp; all") && text.contains("another"), "{text}");
}
