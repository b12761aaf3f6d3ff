//! Figures of time: the percentile curve, latency over the run with its losses, and its phases side
//! by side. Called by `run` and `comparison`.

use super::{
    axis::Axis,
    figure::{Figure, Table},
    picture::{Ink, Plane, Rows},
    unit,
};
use crate::load::result::{Latency, Phase, RunResult, Second};

/// The latency that so many of all copies stayed below, as a curve over the percentiles.
pub fn percentiles(result: &RunResult) -> Option<Figure> {
    let server = &result.overall.latency;
    let bound = result.bound.as_ref().map(|bound| &bound.overall.latency);
    if server.count == 0 {
        return None;
    }
    let samples = server.count.max(bound.map_or(0, |latency| latency.count));
    let both = std::iter::once(server).chain(bound);
    let values = both.flat_map(|latency| latency.histogram.iter().map(|(ns, _)| *ns as f64));
    let y = Axis::durations("latency", values);
    let mut plane = Plane::new(Axis::percentiles(samples), y);
    let mut legend = vec![(Ink::Server, "server".to_owned())];
    if let Some(bound) = bound {
        plane.curve(Ink::Bound, steps(bound));
        legend.push((Ink::Bound, "bare loop".to_owned()));
    }
    plane.curve(Ink::Server, steps(server));

    let mut finding = format!(
        "Half of all copies arrived within {}, 99 of 100 within {}, 9,999 of 10,000 within {}.",
        unit::nanoseconds(server.p50_ns),
        unit::nanoseconds(server.p99_ns),
        unit::nanoseconds(server.p99_99_ns),
    );
    if let Some(ratio) = result.bound.as_ref().and_then(|bound| bound.ratios.p99) {
        finding += &format!(" At the 99th percentile that is {} the bare loop's.", times(ratio));
    }
    Some(Figure {
        id: "percentiles",
        title: "Latency by percentile".to_owned(),
        finding,
        legend,
        solid: false,
        picture: plane.finish(),
        tables: vec![percentile_table(result)],
    })
}

fn percentile_table(result: &RunResult) -> Table {
    type Row = (&'static str, fn(&Latency) -> f64);
    let rows: [Row; 8] = [
        ("least", |latency| latency.min_ns as f64),
        ("mean", |latency| latency.mean_ns),
        ("p50", |latency| latency.p50_ns as f64),
        ("p90", |latency| latency.p90_ns as f64),
        ("p99", |latency| latency.p99_ns as f64),
        ("p99.9", |latency| latency.p99_9_ns as f64),
        ("p99.99", |latency| latency.p99_99_ns as f64),
        ("most", |latency| latency.max_ns as f64),
    ];
    let server = &result.overall.latency;
    let Some(bound) = result.bound.as_ref().map(|bound| &bound.overall.latency) else {
        let mut table = Table::new("Latency by percentile", &["", "server"]);
        rows.iter().for_each(|(name, of)| {
            table.row([(*name).to_owned(), unit::duration(of(server))]);
        });
        return table;
    };
    let head = ["", "server", "bare loop", "ratio"];
    let mut table = Table::new("Latency by percentile", &head);
    for (name, of) in rows {
        let (ours, theirs) = (of(server), of(bound));
        let ratio = if bound.count == 0 { f64::NAN } else { ours / theirs };
        let ratio = if ratio.is_finite() { unit::ratio(ratio) } else { unit::NONE.to_owned() };
        table.row([name.to_owned(), unit::duration(ours), unit::duration(theirs), ratio]);
    }
    table
}

/// The distribution as a curve: a step for each bucket, from the fraction below it to the fraction
/// up to its end.
fn steps(latency: &Latency) -> impl Iterator<Item = Option<(f64, f64)>> {
    let whole: u128 = latency.histogram.iter().map(|(_, count)| u128::from(*count)).sum();
    let whole = whole.max(1) as f64;
    let mut below = 0.0;
    latency.histogram.iter().flat_map(move |(ns, count)| {
        let from = below / whole;
        below += *count as f64;
        [Some((from, *ns as f64)), Some((below / whole, *ns as f64))]
    })
}

/// Latency of every second, and what was lost in it.
pub fn over_time(result: &RunResult) -> Option<Figure> {
    let seconds = &result.seconds;
    let heard = |second: &Second| second.p99_ns.is_some() || second.p50_ns.is_some();
    if !seconds.iter().any(heard) && seconds.iter().all(|second| second.lost == 0) {
        return None;
    }
    let values = seconds.iter().flat_map(|second| [second.p50_ns, second.p99_ns]);
    let y = Axis::durations("latency", values.flatten().map(|ns| ns as f64));
    let mut plane = Plane::new(seconds_axis(seconds), y);
    let has_bound = seconds.iter().any(|second| second.bound);
    if has_bound {
        for turn in seconds.chunk_by(|a, b| a.bound == b.bound).filter(|turn| turn[0].bound) {
            plane.shade(turn[0].second.into(), f64::from(turn[turn.len() - 1].second) + 1.0);
        }
    }
    let mut legend = vec![
        (Ink::Server, "p99, server".to_owned()),
        (Ink::ServerFaint, "median, server".to_owned()),
    ];
    let p50 = |second: &Second| second.p50_ns.map(|ns| ns as f64);
    let p99 = |second: &Second| second.p99_ns.map(|ns| ns as f64);
    if has_bound {
        plane.curve(Ink::BoundFaint, curve(seconds, true, p50));
        plane.curve(Ink::Bound, curve(seconds, true, p99));
        legend.push((Ink::Bound, "p99, bare loop (shaded seconds)".to_owned()));
        legend.push((Ink::BoundFaint, "median, bare loop".to_owned()));
    }
    plane.curve(Ink::ServerFaint, curve(seconds, false, p50));
    plane.curve(Ink::Server, curve(seconds, false, p99));

    let loss = |second: &Second| match second.expected {
        0 => 0.0,
        expected => second.lost as f64 / expected as f64,
    };
    let worst = seconds.iter().map(loss).fold(0.0, f64::max);
    let bars = seconds.iter().filter(|second| second.lost > 0).map(|second| {
        let (from, lost) = (f64::from(second.second), unit::count(second.lost));
        let share = unit::percent(loss(second));
        let title = format!("second {}: {lost} lost, {share}", second.second);
        (from, from + 1.0, if worst > 0.0 { loss(second) / worst } else { 0.0 }, title)
    });
    let name = match worst {
        0.0 => "nothing lost".to_owned(),
        worst => format!("lost, up to {} of a second's copies", unit::percent(worst)),
    };
    plane.lane(Ink::Loss, name, bars);
    if worst > 0.0 {
        legend.push((Ink::Loss, "lost copies".to_owned()));
    }

    Some(Figure {
        id: "seconds",
        title: "Latency over time".to_owned(),
        finding: worst_second(seconds),
        legend,
        solid: false,
        picture: plane.finish(),
        tables: vec![second_table(seconds)],
    })
}

/// What the server's seconds say in a sentence.
fn worst_second(seconds: &[Second]) -> String {
    let server = || seconds.iter().filter(|second| !second.bound);
    let worst = server().filter_map(|second| Some((second.p99_ns?, second.second))).max();
    let lossy = server().filter(|second| second.lost > 0).count();
    let losses = match lossy {
        0 => "No second lost anything.".to_owned(),
        1 => "One second lost copies.".to_owned(),
        lossy => format!("{lossy} of {} seconds lost copies.", server().count()),
    };
    let Some((ns, at)) = worst else { return format!("Nothing was heard. {losses}") };
    format!("The worst second, {at}, had a p99 of {}. {losses}", unit::nanoseconds(ns))
}

fn second_table(seconds: &[Second]) -> Table {
    let head = ["second", "carried by", "sent", "heard", "lost", "p50", "p99", "most", "cores"];
    let mut table = Table::new("Every second", &head);
    for second in seconds {
        let ns = |ns: Option<u64>| ns.map_or(unit::NONE.to_owned(), unit::nanoseconds);
        table.row([
            second.second.to_string(),
            if second.bound { "bare loop" } else { "server" }.to_owned(),
            unit::count(second.sent),
            unit::count(second.heard),
            unit::count(second.lost),
            ns(second.p50_ns),
            ns(second.p99_ns),
            ns(second.max_ns),
            second.server_cores.map_or(unit::NONE.to_owned(), unit::number),
        ]);
    }
    table
}

/// The run's seconds as a scale.
pub fn seconds_axis(seconds: &[Second]) -> Axis {
    let first = seconds.first().map_or(0, |second| second.second);
    let last = seconds.last().map_or(0, |second| second.second);
    Axis::span("second of the run", first.into(), f64::from(last) + 1.0, |second| {
        unit::short(&unit::number(second))
    })
}

/// One number of each second of the server, or of the bare loop, in the middle of it; interrupted
/// where it is the other's turn.
pub fn curve(
    seconds: &[Second],
    bound: bool,
    of: impl Fn(&Second) -> Option<f64>,
) -> impl Iterator<Item = Option<(f64, f64)>> {
    seconds.iter().map(move |second| {
        let value = of(second).filter(|_| second.bound == bound)?;
        Some((f64::from(second.second) + 0.5, value))
    })
}

/// The stretches of a run that its scenario tells apart.
pub fn phases(result: &RunResult) -> Option<Figure> {
    if result.phases.is_empty() {
        return None;
    }
    let phases = &result.phases;
    let (first, last) = (phases.first()?, phases.last()?);
    let mut finding = String::new();
    let busiest = phases.iter().max_by_key(|phase| phase.latency.p99_ns)?;
    if first.latency.count > 0 && phases.len() > 1 && first.latency.p99_ns > 0 {
        let ratio = |phase: &Phase| phase.latency.p99_ns as f64 / first.latency.p99_ns as f64;
        finding = format!(
            "Compared with “{}”, the 99th percentile is {} at its worst (“{}”) and {} at the end.",
            first.name,
            times(ratio(busiest)),
            busiest.name,
            times(ratio(last)),
        );
    }
    let rows: Vec<(String, &Phase)> = phases
        .iter()
        .map(|phase| (format!("{}, second {} to {}", phase.name, phase.from_s, phase.to_s), phase))
        .collect();
    Some(ranges("phases", "Phases compared", finding, &rows))
}

/// Distributions side by side: median, p99, p99.9 and p99.99 of each.
pub fn ranges(
    id: &'static str,
    title: &str,
    finding: String,
    phases: &[(String, &Phase)],
) -> Figure {
    let marks = |latency: &Latency| {
        let marks = [
            ("median", latency.p50_ns),
            ("p99", latency.p99_ns),
            ("p99.9", latency.p99_9_ns),
            ("p99.99", latency.p99_99_ns),
        ];
        marks.map(|(name, ns)| (ns as f64, format!("{name}: {}", unit::nanoseconds(ns))))
    };
    let values = phases.iter().flat_map(|(_, phase)| marks(&phase.latency)).map(|(ns, _)| ns);
    let mut rows = Rows::new(Axis::durations("latency", values));
    let mut table = Table::new(
        "Latency and loss",
        &["", "heard", "lost", "p50", "p99", "p99.9", "p99.99", "most"],
    );
    for (name, phase) in phases {
        let latency = &phase.latency;
        if latency.count == 0 {
            rows.range(Ink::Server, name, "nothing heard", &[]);
        } else {
            let value = format!("p99 {}", unit::nanoseconds(latency.p99_ns));
            rows.range(Ink::Server, name, &value, &marks(latency));
        }
        let ns = |ns| if latency.count == 0 { unit::NONE.into() } else { unit::nanoseconds(ns) };
        table.row([
            name.clone(),
            unit::count(phase.hearing.heard),
            format!("{} ({})", unit::count(phase.hearing.lost), {
                unit::percent(phase.hearing.loss())
            }),
            ns(latency.p50_ns),
            ns(latency.p99_ns),
            ns(latency.p99_9_ns),
            ns(latency.p99_99_ns),
            ns(latency.max_ns),
        ]);
    }
    let reading = "Ring: median; dot: 99th percentile; strokes: 99.9th and 99.99th.";
    let finding = if finding.is_empty() { reading.into() } else { format!("{finding} {reading}") };
    Figure {
        id,
        title: title.to_owned(),
        finding,
        legend: vec![],
        solid: false,
        picture: rows.finish(),
        tables: vec![table],
    }
}

/// `1.20 times`.
pub fn times(ratio: f64) -> String {
    format!("{} times", unit::number(ratio))
}
