//! `stentor load --compare A.json B.json`: is B slower, lossier or dearer than A? Compares what the
//! server did in each second of the runs, says how sure it is, and answers with its exit code.
//! Refuses what cannot be compared. Plays nothing. Called by `main`.

use std::{
    fmt::Write,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{
    bootstrap::{Effect, weigh},
    report::{self, unit},
    result::{Hearing, Joins, ResultError, RunResult, Second},
    scenario::Scenario,
};

/// Exit code when B is worse than A.
pub const WORSE: u8 = 1;

/// Exit code when no answer can be given.
pub const INCOMPARABLE: u8 = 2;

/// Fewest seconds of a run that tell how much seconds differ.
const SECONDS_MIN: usize = 5;

/// Least difference in time that matters however large a part of the whole it is, nanoseconds: what
/// one wake-up of a thread more or less makes.
const LATENCY_MATTERS_NS: f64 = 10_000.0;

/// Packets of whose copies as much is forgiven.
const PACKETS_FORGIVEN: f64 = 3.0;

/// Least growth of a fault that matters, as a part of all copies: a network that doubles a packet
/// or lets it be overtaken now and then does so less often.
const FAULTS_MATTER: f64 = 0.000_1;

/// So many times A's part it must be besides: such copies come in bursts, of which a run has few.
const FAULTS_FACTOR: f64 = 1.5;

/// Runs of each side from which on they tell how much runs differ.
const RUNS_WANTED: usize = 3;

/// Tells whether one result is worse than another
#[derive(Debug, Clone, clap::Args)]
pub struct CompareArgs {
    /// Play nothing; compare results (several of each side: A1.json,A2.json B1.json,B2.json). Exits
    /// with 0 if B is not worse, with 1 if it is, with 2 if they cannot be compared
    #[arg(long, value_names = ["A.json", "B.json"], num_args = 2)]
    pub compare: Option<Vec<String>>,
    /// Play nothing; draw results beside each other, of one scenario or of several, on a page
    #[arg(long, value_names = ["PAGE.html", "RESULT.json"], num_args = 2.., conflicts_with = "compare")]
    pub page: Option<Vec<PathBuf>>,
    /// With --compare: the least change of latency or processor time that matters
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, requires = "compare")]
    pub tolerance: f64,
    /// With --compare: the least change of the part lost that matters, percent of all copies
    #[arg(long, value_name = "PERCENT", default_value_t = 0.1, requires = "compare")]
    pub tolerance_loss: f64,
}

/// The least changes that matter, as fractions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Of latencies and of processor time, relative to A.
    pub relative: f64,
    /// Of the part lost, absolute.
    pub loss: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { relative: 0.05, loss: 0.001 }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A file.
    #[error(transparent)]
    File(#[from] ResultError),
    /// What is in them.
    #[error("{0}")]
    Incomparable(String),
    /// The page.
    #[error("{path}: {source}")]
    Page {
        /// Where to.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

/// One number of both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Which.
    pub name: &'static str,
    /// What it is at A, for people.
    pub a: String,
    /// And at B.
    pub b: String,
    /// The change: a fraction of A, for loss a fraction of all copies.
    pub effect: Effect,
    /// What it amounts to.
    pub finding: Finding,
}

/// What a change amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// B is better, surely and by enough to matter.
    Better,
    /// There is no difference that is both sure and large enough to matter.
    Same,
    /// B is worse, surely and by enough to matter.
    Worse,
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The numbers compared.
    pub rows: Vec<Row>,
    /// What makes B worse besides, in sentences.
    pub faults: Vec<String>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Reads, compares, prints; the exit code is the answer.
pub fn run(files: &[String], tolerance: Tolerance) -> ExitCode {
    let answer = || {
        let [a, b] = files else {
            return Err(CompareError::Incomparable("two sides are compared".to_owned()));
        };
        compare(&read_all(a)?, &read_all(b)?, tolerance)
    };
    match answer() {
        Ok(comparison) => {
            print!("{}", comparison.text());
            if comparison.is_worse() { ExitCode::from(WORSE) } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("stentor: cannot compare: {error}");
            ExitCode::from(INCOMPARABLE)
        }
    }
}

/// Writes a page, the first of `files`, on which the results of the others stand side by side.
///
/// # Errors
/// One of them cannot be read, or the page cannot be written.
pub fn draw(files: &[PathBuf]) -> Result<(), CompareError> {
    let Some((page, results)) = files.split_first() else { return Ok(()) };
    let results = results.iter().map(|file| RunResult::read(file));
    let results = results.collect::<Result<Vec<_>, _>>()?;
    report::write_comparison(&results, page).map_err(|source| {
        let path = page.display().to_string();
        CompareError::Page { path, source }
    })
}

impl CompareArgs {
    /// The flags as fractions.
    pub fn tolerance(&self) -> Tolerance {
        let fraction = |percent: f64| if percent > 0.0 { percent / 100.0 } else { 0.0 };
        Tolerance { relative: fraction(self.tolerance), loss: fraction(self.tolerance_loss) }
    }
}

fn read_all(files: &str) -> Result<Vec<RunResult>, ResultError> {
    files.split(',').map(|file| RunResult::read(Path::new(file))).collect()
}

/// Compares two sides, each of one run or several of the same scenario.
///
/// # Errors
/// A run is not valid, too short, or of another scenario than the rest.
pub fn compare(
    a: &[RunResult],
    b: &[RunResult],
    tolerance: Tolerance,
) -> Result<Comparison, CompareError> {
    refuse(a, b).map_err(CompareError::Incomparable)?;
    let median = Measure {
        name: "median latency",
        of: |second| Some(second.p50_ns?.max(1) as f64),
        matters_ns: LATENCY_MATTERS_NS,
    };
    let p99 = Measure {
        name: "p99 of latency",
        of: |second| Some(second.p99_ns?.max(1) as f64),
        matters_ns: LATENCY_MATTERS_NS,
    };
    let cpu = Measure {
        name: "processor time per copy",
        of: |second| {
            let heard = (second.heard > 0).then_some(second.heard as f64)?;
            second.server_cores.map(|cores| 1e9 * cores / heard)
        },
        matters_ns: 0.0,
    };
    let mut notes = notes(a, b);
    let mut rows = vec![loss_row(a, b, tolerance)];
    for measure in [median, p99, cpu] {
        match measure.row(a, b, tolerance) {
            Some(row) => rows.push(row),
            None => notes.push(format!("{} is not known of both", measure.name)),
        }
    }
    notes.extend(rows.iter().skip(1).filter_map(|row| unseen(row, tolerance)));
    Ok(Comparison { rows, faults: faults(a, b, tolerance), notes })
}

/// What a row that found nothing would not have found either: its interval is wider than what
/// matters.
fn unseen(row: &Row, tolerance: Tolerance) -> Option<String> {
    let Effect { estimate, low, .. } = row.effect;
    let reach = estimate - low;
    (row.finding == Finding::Same && reach > tolerance.relative).then(|| {
        let reach = unit::percent(reach);
        let name = row.name;
        format!("{name}: a change of less than {reach} could not be told from chance; run longer")
    })
}

/// Why these cannot be compared.
fn refuse(a: &[RunResult], b: &[RunResult]) -> Result<(), String> {
    let (Some(first), Some(_)) = (a.first(), b.first()) else {
        return Err("each side needs a result".to_owned());
    };
    for (side, runs) in [("A", a), ("B", b)] {
        for run in runs {
            if !run.verdict.valid {
                let reasons = run.verdict.reasons.join("; ");
                return Err(format!("a run of {side} is not valid: {reasons}"));
            }
            if let Some(what) = difference(&first.scenario, &run.scenario) {
                return Err(format!(
                    "a run of {side} (“{}”) played another scenario than the first of A (“{}”): \
                     {what} differs",
                    run.scenario.name, first.scenario.name
                ));
            }
            let heard = run.seconds.iter().filter(|second| is_servers(second) && second.heard > 0);
            let heard = heard.count();
            if heard < SECONDS_MIN {
                return Err(format!(
                    "a run of {side} has {heard} seconds in which anything was heard; \
                     {SECONDS_MIN} are the least that tell how much seconds differ"
                ));
            }
        }
    }
    Ok(())
}

/// What is played differently. Names and descriptions may change.
fn difference(a: &Scenario, b: &Scenario) -> Option<&'static str> {
    let differences = [
        ("channels", a.channels != b.channels),
        ("mode", a.mode != b.mode),
        ("srtp_profile", a.srtp_profile != b.srtp_profile),
        ("duration_s", a.duration_s != b.duration_s),
        ("warmup_s", a.warmup_s != b.warmup_s),
        ("gateway_version", a.gateway_version != b.gateway_version),
        ("joins_per_second", a.joins_per_second != b.joins_per_second),
        ("heartbeat_s", a.heartbeat_s != b.heartbeat_s),
    ];
    differences.into_iter().find_map(|(what, differs)| differs.then_some(what))
}

fn is_servers(second: &Second) -> bool {
    !second.bound && second.expected > 0
}

/// A duration that every second has.
struct Measure {
    name: &'static str,
    of: fn(&Second) -> Option<f64>,
    /// Least difference that matters, nanoseconds.
    matters_ns: f64,
}

impl Measure {
    /// Compares geometric means: durations differ by factors, and a second ten times worse than
    /// the others should count, but not as much as ten. Where every run had the bare loop beside
    /// it, each is measured by its own loop: a machine that was slower that day then slows nobody.
    fn row(&self, a: &[RunResult], b: &[RunResult], tolerance: Tolerance) -> Option<Row> {
        let own = |runs| Self::enough(self.values(runs, |second| !second.bound));
        let loops = |runs| Self::enough(self.values(runs, |second| second.bound));
        let (own_a, own_b) = (own(a)?, own(b)?);
        let (mean_a, mean_b) = (mean(&own_a.concat()), mean(&own_b.concat()));
        let relative = loops(a).zip(loops(b));
        let effect = match &relative {
            Some((loops_a, loops_b)) => {
                let (a, b) = (by_loop(&own_a, loops_a), by_loop(&own_b, loops_b));
                weigh(&a, &b, mean, |a, b| b / a - 1.0)
            }
            None => weigh(&own_a, &own_b, mean, |a, b| b / a - 1.0),
        };
        let matters = effect.estimate.abs() >= tolerance.relative
            && (effect.estimate * mean_a).abs() >= self.matters_ns;
        let (a, b) = match relative {
            Some((loops_a, loops_b)) => {
                let text = |own: f64, loops: &[Vec<f64>]| {
                    let ratio = unit::ratio(own / mean(&loops.concat()));
                    format!("{} = {ratio}", unit::duration(own))
                };
                (text(mean_a, &loops_a), text(mean_b, &loops_b))
            }
            None => (unit::duration(mean_a), unit::duration(mean_b)),
        };
        Some(Row { name: self.name, a, b, effect, finding: finding(effect, matters) })
    }

    fn values(&self, runs: &[RunResult], whose: impl Fn(&Second) -> bool) -> Vec<Vec<f64>> {
        let of = |run: &RunResult| {
            let seconds = run.seconds.iter().filter(|second| whose(second));
            seconds.filter_map(self.of).collect()
        };
        runs.iter().map(of).collect()
    }

    fn enough(runs: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
        runs.iter().all(|run| run.len() >= SECONDS_MIN).then_some(runs)
    }
}

/// Geometric.
fn mean(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().map(|value| value.max(f64::MIN_POSITIVE).ln()).sum();
    (sum / values.len() as f64).exp()
}

/// Each run's seconds as multiples of its own bare loop's, which took turns with them: in the order
/// they came, so that one is measured by the other of about the same time.
fn by_loop(runs: &[Vec<f64>], loops: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let ratios = |(run, its_loop): (&Vec<f64>, &Vec<f64>)| {
        run.iter().zip(its_loop).map(|(own, bare)| own / bare).collect()
    };
    runs.iter().zip(loops).map(ratios).collect()
}

/// Compares the part of all copies that were lost.
fn loss_row(a: &[RunResult], b: &[RunResult], tolerance: Tolerance) -> Row {
    let pairs = |runs: &[RunResult]| -> Vec<Vec<(f64, f64)>> {
        let pair = |second: &Second| (second.lost as f64, second.expected as f64);
        let of = |run: &RunResult| {
            run.seconds.iter().filter(|second| is_servers(second)).map(pair).collect()
        };
        runs.iter().map(of).collect()
    };
    let part = |seconds: &[(f64, f64)]| {
        let sum = |sum: (f64, f64), second: &(f64, f64)| (sum.0 + second.0, sum.1 + second.1);
        let (lost, expected) = seconds.iter().fold((0.0, 0.0), sum);
        lost / f64::max(expected, 1.0)
    };
    let (a, b) = (pairs(a), pairs(b));
    let effect = weigh(&a, &b, part, |a, b| b - a);
    let matters = effect.estimate.abs() >= tolerance.loss;
    let (a, b) = (unit::percent(part(&a.concat())), unit::percent(part(&b.concat())));
    Row { name: "lost", a, b, effect, finding: finding(effect, matters) }
}

fn finding(effect: Effect, matters: bool) -> Finding {
    match effect {
        _ if !matters => Finding::Same,
        Effect { low, .. } if low > 0.0 => Finding::Worse,
        Effect { high, .. } if high < 0.0 => Finding::Better,
        _ => Finding::Same,
    }
}

/// What is wrong with B whatever the spread is.
fn faults(a: &[RunResult], b: &[RunResult], tolerance: Tolerance) -> Vec<String> {
    let mut faults = faults_of_copies(a, b);
    faults.extend(faults_of_sessions(a, b, tolerance));
    let deserted = deserted(a, b);
    if deserted > 0 {
        faults.push(format!(
            "in {deserted} of its seconds nothing was due to anybody, and in every run of A \
             something was"
        ));
    }
    faults
}

/// Copies that should not have come, or not like this.
fn faults_of_copies(a: &[RunResult], b: &[RunResult]) -> Vec<String> {
    // One packet overtaken on its way in is so to each of its hearers.
    let sent = sum(b, |run| run.overall.sending.sent);
    let few = FAULTS_MATTER.max(PACKETS_FORGIVEN / sent.max(1) as f64);
    type Fault = (&'static str, fn(&Hearing) -> u64, fn(f64, f64, f64) -> bool);
    let known: [Fault; 5] = [
        ("reached hearers of another channel", |it| it.wrong_channel, |a, b, _| b > a),
        ("could not be decrypted", |it| it.undecryptable, is_new_or_has_grown),
        ("came once more", |it| it.duplicated, has_grown),
        ("came after a later one", |it| it.reordered, has_grown),
        ("were none of the run's", |it| it.foreign, has_grown),
    ];
    let mut faults = Vec::new();
    for (what, of, is_worse) in known {
        let side = |runs: &[RunResult]| {
            let count = sum(runs, |run| of(&run.overall.hearing));
            let due = sum(runs, |run| run.overall.hearing.expected);
            (count, count as f64 / due.max(1) as f64)
        };
        let ((count_a, part_a), (count_b, part_b)) = (side(a), side(b));
        if is_worse(part_a, part_b, few) {
            let (count_a, count_b) = (unit::count(count_a), unit::count(count_b));
            let (part_a, part_b) = (unit::percent(part_a), unit::percent(part_b));
            faults.push(format!(
                "{count_b} copies ({part_b}) {what}, and {count_a} ({part_a}) of A's"
            ));
        }
    }
    faults
}

fn has_grown(a: f64, b: f64, few: f64) -> bool {
    b - a > few && b > FAULTS_FACTOR * a
}

fn is_new_or_has_grown(a: f64, b: f64, few: f64) -> bool {
    (a == 0.0 && b > 0.0) || has_grown(a, b, few)
}

/// Those who did not get in, and those who did not stay: what is due to nobody is not lost.
fn faults_of_sessions(a: &[RunResult], b: &[RunResult], tolerance: Tolerance) -> Vec<String> {
    type Fault = (&'static str, fn(&Joins) -> u64);
    let known: [Fault; 2] = [
        ("joins failed", |it| it.attempted.saturating_sub(it.succeeded)),
        ("sessions were cut off", |it| {
            it.broken.iter().map(|failure| failure.count).fold(0, u64::saturating_add)
        }),
    ];
    let mut faults = Vec::new();
    for (what, of) in known {
        let part = |runs: &[RunResult]| {
            let attempted = sum(runs, |run| run.joins.attempted);
            sum(runs, |run| of(&run.joins)) as f64 / attempted.max(1) as f64
        };
        let (part_a, part_b) = (part(a), part(b));
        if part_b - part_a >= tolerance.loss.max(f64::MIN_POSITIVE) {
            let (part_a, part_b) = (unit::percent(part_a), unit::percent(part_b));
            faults.push(format!("{part_b} of {what}, and {part_a} of A's"));
        }
    }
    faults
}

/// Seconds of B's runs in which the server had nothing to do, though in every run of A it had:
/// nobody spoke any more, or nobody was left to hear. A single one may be who joined a little
/// later, or left.
fn deserted(a: &[RunResult], b: &[RunResult]) -> usize {
    let had_work = |run: &RunResult, second: u32| {
        run.seconds.iter().any(|it| it.second == second && is_servers(it))
    };
    let seconds = b.iter().flat_map(|run| &run.seconds);
    let idle = seconds.filter(|second| !second.bound && second.expected == 0);
    let count = idle.filter(|second| a.iter().all(|run| had_work(run, second.second))).count();
    if count > 1 { count } else { 0 }
}

fn sum(runs: &[RunResult], of: impl Fn(&RunResult) -> u64) -> u64 {
    runs.iter().map(of).fold(0, u64::saturating_add)
}

/// What else may be behind a difference.
fn notes(a: &[RunResult], b: &[RunResult]) -> Vec<String> {
    let mut notes = Vec::new();
    type Circumstance = (&'static str, fn(&RunResult) -> &str);
    let about: [Circumstance; 2] =
        [("kernels", |run| &run.about.kernel), ("processors", |run| &run.about.cpu)];
    for (what, of) in about {
        let first = of(&a[0]);
        if a.iter().chain(b).any(|run| of(run) != first) {
            notes.push(format!("the runs had different {what}: a difference may be theirs"));
        }
    }
    let kind = |run: &RunResult| std::mem::discriminant(&run.about.receive_time);
    if a.iter().chain(b).any(|run| kind(run) != kind(&a[0])) {
        notes.push("arrival was not told by the same clock in all runs".to_owned());
    }
    if a.len().min(b.len()) < RUNS_WANTED {
        notes.push(format!(
            "what differs from one run to the next is only in the interval with several runs of \
             each side; {RUNS_WANTED} are good"
        ));
    }
    notes
}

impl Comparison {
    /// Whether B is worse in anything.
    pub fn is_worse(&self) -> bool {
        !self.faults.is_empty() || self.rows.iter().any(|row| row.finding == Finding::Worse)
    }

    /// A table and a verdict.
    pub fn text(&self) -> String {
        let head = ["", "A", "B", "change", "99 % interval", ""].map(str::to_owned);
        let rows = self.rows.iter().map(|row| {
            let change = |value: f64| {
                let sign = if value < 0.0 { "-" } else { "+" };
                format!("{sign}{}", unit::percent(value.abs()))
            };
            let word = match row.finding {
                Finding::Better => "better",
                Finding::Same => "same",
                Finding::Worse => "WORSE",
            };
            let Effect { estimate, low, high } = row.effect;
            let interval = format!("{} to {}", change(low), change(high));
            let (a, b) = (row.a.clone(), row.b.clone());
            [row.name.to_owned(), a, b, change(estimate), interval, word.to_owned()]
        });
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<_> = (0..6).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &rows {
            let mut line = format!("{:<width$}", row[0], width = widths[0]);
            for column in 1..6 {
                let _ = write!(line, "  {:>width$}", row[column], width = widths[column]);
            }
            text += line.trim_end();
            text.push('\n');
        }
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        for fault in &self.faults {
            text += &format!("FAULT: {fault}\n");
        }
        text + self.verdict().as_str()
    }

    fn verdict(&self) -> String {
        if !self.is_worse() {
            return "B is not worse than A.\n".to_owned();
        }
        let names = self.rows.iter().filter(|row| row.finding == Finding::Worse);
        let mut names: Vec<_> = names.map(|row| row.name).collect();
        if !self.faults.is_empty() {
            names.push("faults");
        }
        format!("B is worse than A: {}.\n", names.join(", "))
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
