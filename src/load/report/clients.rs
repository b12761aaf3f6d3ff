//! Figures of clients: how long they took to get in, why some did not, and who lost what. Called by
//! `run`.

use super::{
    axis::Axis,
    figure::{Figure, Table},
    picture::{Ink, Plane},
    unit,
};
use crate::load::result::{Failure, Hearer, Latency, RunResult};

/// Columns of the distribution of joins.
const COLUMNS: usize = 28;

/// Hearers listed by name: those who lost most.
const HEARERS_LISTED: usize = 50;

/// How long joining took, as a distribution.
pub fn joins(result: &RunResult) -> Option<Figure> {
    let joins = &result.joins;
    if joins.attempted == 0 {
        return None;
    }
    let time = &joins.time;
    let failed = joins.attempted.saturating_sub(joins.succeeded);
    let mut finding = match failed {
        0 => format!("All {} joins succeeded.", unit::count(joins.attempted)),
        _ => format!("{} of {} joins failed.", unit::count(failed), unit::count(joins.attempted)),
    };
    if time.count > 0 {
        finding += &format!(
            " A join took {} at the median and {} at the 99th percentile.",
            unit::nanoseconds(time.p50_ns),
            unit::nanoseconds(time.p99_ns)
        );
    }
    let mut table = Table::new(
        "From when the connection was due to where media may flow",
        &["joins", "least", "p50", "p90", "p99", "most"],
    );
    table.row(times(unit::count(joins.succeeded), time));
    if let Some(browsers) = &joins.of_browsers {
        finding += &format!(
            " Browsers, with handshakes to make, took {} and {}.",
            unit::nanoseconds(browsers.p50_ns),
            unit::nanoseconds(browsers.p99_ns)
        );
        table.row(times(format!("{} of them browsers", unit::count(browsers.count)), browsers));
    }
    let mut tables = vec![table];
    tables.extend(failures("Why joins failed", &joins.failures));
    tables.extend(failures("Sessions that ended before their time", &joins.broken));
    Some(Figure {
        id: "joins",
        title: "Time to join".to_owned(),
        finding,
        legend: vec![],
        solid: false,
        picture: distribution(time).finish(),
        tables,
    })
}

/// A row of the table of times.
fn times(whose: String, time: &Latency) -> [String; 6] {
    let ns = |ns| if time.count == 0 { unit::NONE.into() } else { unit::nanoseconds(ns) };
    [whose, ns(time.min_ns), ns(time.p50_ns), ns(time.p90_ns), ns(time.p99_ns), ns(time.max_ns)]
}

/// Columns of equal ratio.
fn distribution(latency: &Latency) -> Plane {
    let low = latency.histogram.first().map_or(1_000_000.0, |(ns, _)| (*ns).max(1) as f64);
    let high = latency.histogram.last().map_or(low, |(ns, _)| (*ns).max(1) as f64);
    // A single value still has a column with room at its sides.
    let (low, high) = (low / 1.3, high * 1.3);
    let width = (high / low).ln() / COLUMNS as f64;
    let mut counts = [0u64; COLUMNS];
    for (ns, count) in &latency.histogram {
        let column = ((*ns).max(1) as f64 / low).ln() / width;
        let count_there = &mut counts[(column as usize).min(COLUMNS - 1)];
        *count_there = count_there.saturating_add(*count);
    }
    let most = counts.iter().copied().max().unwrap_or(0);
    let text = |ns: f64| unit::short(&unit::duration(ns));
    let mut plane = Plane::new(
        Axis::logarithmic("time to join, logarithmic", low, high, text),
        Axis::linear("joins", most as f64, |joins| unit::short(&unit::number(joins))),
    );
    let edge = |column: usize| low * (width * column as f64).exp();
    for (column, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
        let (from, to) = (edge(column), edge(column + 1));
        let title = format!("{} to {}: {}", text(from), text(to), unit::count(count));
        plane.column(Ink::Server, from, to, count as f64, title);
    }
    plane
}

fn failures(caption: &str, failures: &[Failure]) -> Option<Table> {
    if failures.is_empty() {
        return None;
    }
    let mut table = Table::new(caption, &["close code", "count", "reason"]);
    table.ends_in_words = true;
    for failure in failures {
        let code = failure.close_code.map_or(unit::NONE.to_owned(), |code| code.to_string());
        table.row([code, unit::count(failure.count), failure.reason.clone()]);
    }
    Some(table)
}

/// Whether something was wrong with what a hearer heard.
fn is_wronged(hearer: &Hearer) -> bool {
    let hearing = &hearer.hearing;
    let wrongs = [
        hearing.lost,
        hearing.duplicated,
        hearing.reordered,
        hearing.wrong_channel,
        hearing.undecryptable,
        hearing.foreign,
    ];
    wrongs.iter().any(|wrong| *wrong > 0)
}

/// Who lost how much; `None` if nobody lost anything.
pub fn losses(result: &RunResult) -> Option<Figure> {
    let mut wronged: Vec<&Hearer> =
        result.hearers.iter().filter(|hearer| is_wronged(hearer)).collect();
    if wronged.is_empty() {
        return None;
    }
    wronged.sort_by(|a, b| b.hearing.loss().total_cmp(&a.hearing.loss()));
    let worst = wronged[0].hearing.loss();
    let lossy = wronged.iter().filter(|hearer| hearer.hearing.lost > 0).count();
    let share = |loss: f64| unit::short(&unit::percent(loss));
    let mut plane = Plane::new(
        Axis::span(
            "hearers, those who lost most first",
            0.0,
            result.hearers.len() as f64,
            |place| unit::short(&unit::number(place)),
        ),
        Axis::linear("copies lost", worst, share),
    );
    // Two points for each: its loss from its place to the next.
    let points: Vec<_> = wronged
        .iter()
        .enumerate()
        .flat_map(|(place, hearer)| {
            let loss = hearer.hearing.loss();
            [(place as f64, loss), (place as f64 + 1.0, loss)]
        })
        .collect();
    plane.area(Ink::Loss, &points);
    plane.curve(Ink::Loss, points.into_iter().map(Some));

    let mut table = Table::new(
        "Hearers with losses or other wrongs, the worst first",
        &[
            "channel/client",
            "due",
            "lost",
            "twice",
            "out of order",
            "wrong channel",
            "unreadable",
            "foreign",
        ],
    );
    for hearer in wronged.iter().take(HEARERS_LISTED) {
        let hearing = &hearer.hearing;
        table.row([
            format!("{}/{}", hearer.channel, hearer.client),
            unit::count(hearing.expected),
            format!("{} ({})", unit::count(hearing.lost), unit::percent(hearing.loss())),
            unit::count(hearing.duplicated),
            unit::count(hearing.reordered),
            unit::count(hearing.wrong_channel),
            unit::count(hearing.undecryptable),
            unit::count(hearing.foreign),
        ]);
    }
    let unlisted = wronged.len().saturating_sub(HEARERS_LISTED);
    let mut finding = format!(
        "{} of {} hearers lost something, the worst of them {}.",
        unit::count(lossy as u64),
        unit::count(result.hearers.len() as u64),
        unit::percent(worst)
    );
    if unlisted > 0 {
        finding += &format!(" The table leaves out {} with less.", unit::count(unlisted as u64));
    }
    Some(Figure {
        id: "losses",
        title: "Losses of each hearer".to_owned(),
        finding,
        legend: vec![],
        solid: false,
        picture: plane.finish(),
        tables: vec![table],
    })
}
