//! A result as a few lines of text, for the end of a run. Everything here is in `result.json` too.

use std::fmt::Write;

use super::{
    progress::time,
    result::{Bound, Cost, FindMax, Joins, Latency, Phase, RunResult},
    server_share::ServerShare,
};

/// The lines.
pub fn summary(result: &RunResult) -> String {
    let mut text = String::new();
    write_all(&mut text, result).expect("text takes all");
    text
}

fn write_all(out: &mut String, result: &RunResult) -> std::fmt::Result {
    let RunResult { scenario, overall, joins, cost, bound, find_max, verdict, .. } = result;
    writeln!(out, "{} ({} s)", scenario.name, scenario.duration_s)?;
    writeln!(out, "  carried    over {}", scenario.carriage())?;
    write_joins(out, joins)?;
    let (sending, hearing) = (overall.sending, overall.hearing);
    writeln!(
        out,
        "  sent       {} of {} packets, {} late (worst {})",
        sending.sent,
        sending.intended,
        sending.late,
        time(sending.late_max_ns)
    )?;
    writeln!(
        out,
        "  heard      {} of {} copies; lost {} ({:.4} %), duplicated {}, reordered {}, \
         wrong channel {}, undecryptable {}, foreign {}",
        hearing.heard,
        hearing.expected,
        hearing.lost,
        100.0 * hearing.loss(),
        hearing.duplicated,
        hearing.reordered,
        hearing.wrong_channel,
        hearing.undecryptable,
        hearing.foreign
    )?;
    if let Some(cost) = cost {
        write_cost(out, "server", cost)?;
        write_share(out, cost.share.as_ref())?;
    }
    if let Some(bound) = bound {
        write_bound(out, bound)?;
    }
    write_percentiles(out, overall, &result.phases, bound.as_ref())?;
    if let Some(found) = find_max {
        write_search(out, found)?;
    }
    for warning in &verdict.warnings {
        writeln!(out, "note: {warning}")?;
    }
    for reason in &verdict.reasons {
        writeln!(out, "INVALID: {reason}")?;
    }
    Ok(())
}

fn join_time(of: &Latency) -> String {
    format!("{} (p99 {}, most {})", time(of.p50_ns), time(of.p99_ns), time(of.max_ns))
}

fn write_joins(out: &mut String, joins: &Joins) -> std::fmt::Result {
    write!(out, "  joined     {} of {}", joins.succeeded, joins.attempted)?;
    if joins.time.count > 0 {
        write!(out, " in {}", join_time(&joins.time))?;
    }
    if let Some(browsers) = &joins.of_browsers {
        write!(out, "; the {} browsers in {}", browsers.count, join_time(browsers))?;
    }
    out.push('\n');
    for (failures, what) in [(&joins.failures, "refused"), (&joins.broken, "cut off")] {
        for failure in failures {
            let code = failure.close_code.map(|code| format!("{code} "));
            let (count, code, reason) = (failure.count, code.unwrap_or_default(), &failure.reason);
            writeln!(out, "    {count} {what}: {code}{reason}")?;
        }
    }
    Ok(())
}

fn write_cost(out: &mut String, who: &str, cost: &Cost) -> std::fmt::Result {
    write!(out, "  {who:<10}")?;
    let Some(cpu) = cost.cpu_ns_per_packet else { return writeln!(out, " cost not known") };
    write!(out, " {cpu:.0} ns of processor for each copy")?;
    if let (Some(user), Some(kernel)) = (cost.user_ns_per_packet, cost.kernel_ns_per_packet) {
        write!(out, " (user {user:.0}, kernel {kernel:.0})")?;
    }
    if let Some(traversals) = cost.traversals_per_packet {
        write!(out, ", {traversals:.2} stack traversals")?;
    }
    if let Some(cores) = cost.cores {
        write!(out, "; {cores:.2} cores")?;
    }
    if let (Some(voluntary), Some(involuntary)) =
        (cost.voluntary_switches_per_s, cost.involuntary_switches_per_s)
    {
        write!(out, "; {voluntary:.0}+{involuntary:.0} context switches a second")?;
    }
    if let Some(memory) = cost.memory_per_session_bytes {
        write!(out, "; {:.1} KiB a session", memory / 1_024.0)?;
    }
    out.push('\n');
    Ok(())
}

fn write_share(out: &mut String, share: Option<&ServerShare>) -> std::fmt::Result {
    let Some(share) = share else { return Ok(()) };
    let at_most = |ns: Option<u64>| ns.map_or("?".to_owned(), |ns| format!("≤ {}", time(ns)));
    writeln!(
        out,
        "  its share  p50 {}, p99 {}, p99.9 {}: receive stamp to send, {} timed",
        at_most(share.p50_max_ns),
        at_most(share.p99_max_ns),
        at_most(share.p99_9_max_ns),
        share.samples
    )
}

fn write_bound(out: &mut String, bound: &Bound) -> std::fmt::Result {
    write_cost(out, "bare loop", &bound.cost)?;
    let ratio = |ratio: Option<f64>| ratio.map_or("?".to_owned(), |ratio| format!("{ratio:.2}"));
    writeln!(
        out,
        "  ratios     processor {} ×, p50 {} ×, p99 {} ×, p99.9 {} ×",
        ratio(bound.ratios.cpu_per_packet),
        ratio(bound.ratios.p50),
        ratio(bound.ratios.p99),
        ratio(bound.ratios.p99_9)
    )
}

/// One column for the whole, one for each phase, one for the bare loop.
fn write_percentiles(
    out: &mut String,
    overall: &Phase,
    phases: &[Phase],
    bound: Option<&Bound>,
) -> std::fmt::Result {
    let mut columns = vec![("latency", &overall.latency)];
    columns.extend(phases.iter().map(|phase| (phase.name.as_str(), &phase.latency)));
    columns.extend(bound.map(|bound| ("bare loop", &bound.overall.latency)));
    write!(out, "  {:<10}", "")?;
    columns.iter().try_for_each(|(name, _)| write!(out, " {name:>10}"))?;
    out.push('\n');
    type At = fn(&Latency) -> u64;
    let rows: [(&str, At); 6] = [
        ("p50", |latency| latency.p50_ns),
        ("p90", |latency| latency.p90_ns),
        ("p99", |latency| latency.p99_ns),
        ("p99.9", |latency| latency.p99_9_ns),
        ("p99.99", |latency| latency.p99_99_ns),
        ("most", |latency| latency.max_ns),
    ];
    for (name, at) in rows {
        write!(out, "  {name:<10}")?;
        for (_, latency) in &columns {
            let value = if latency.count > 0 { time(at(latency)) } else { "–".to_owned() };
            write!(out, " {value:>10}")?;
        }
        out.push('\n');
    }
    Ok(())
}

fn write_search(out: &mut String, found: &FindMax) -> std::fmt::Result {
    for step in &found.steps {
        let held = if step.held { "held" } else { "broke" };
        writeln!(
            out,
            "  {:>6} {}: {held:<5} {:>9.0} copies/s, p99 {}, loss {:.3} %{}",
            step.value,
            found.dimension,
            step.forwarded_per_s,
            time(step.p99_ns),
            100.0 * step.loss,
            step.busiest_thread
                .map(|share| format!(", busiest thread {:.0} %", 100.0 * share))
                .unwrap_or_default()
        )?;
    }
    let level = format!("p99 {}, loss {:.3} %", time(found.p99_max_ns), 100.0 * found.loss_max);
    match found.held {
        Some(held) => writeln!(out, "  most that held ({level}): {held} {}", found.dimension)?,
        None => writeln!(out, "  nothing held ({level})")?,
    }
    match &found.broke {
        Some(broke) => writeln!(
            out,
            "  what broke first: {} ({:?}): {}",
            broke.what, broke.resource, broke.why
        ),
        None => writeln!(out, "  nothing broke up to what can be played"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::result::{Breakage, Failure, Resource, Step, tests::sample};

    #[test]
    fn every_part_has_its_line() {
        let mut result = sample();
        result.verdict.valid = false;
        result.verdict.reasons = vec!["late".to_owned()];
        result.joins.failures =
            vec![Failure { close_code: Some(4_004), reason: "no".to_owned(), count: 3 }];
        result.overall.latency =
            Latency { count: 9, p99_ns: 123_000, p99_99_ns: 456_000, ..Latency::default() };
        let share = ServerShare {
            samples: 77,
            p50_max_ns: Some(20_000),
            p99_max_ns: Some(60_000),
            p99_9_max_ns: None,
        };
        let cpu_ns_per_packet = Some(2_500.0);
        let cost = Cost { cpu_ns_per_packet, share: Some(share), ..Cost::default() };
        result.cost = Some(cost.clone());
        let overall = result.overall.clone();
        let ratios = crate::load::result::Ratios {
            cpu_per_packet: Some(1.19),
            ..crate::load::result::Ratios::default()
        };
        result.bound = Some(Bound { slice_s: 2, overall, cost, ratios });
        let step = Step {
            value: 400,
            held: false,
            forwarded_per_s: 20_000.0,
            p99_ns: 9_000_000,
            loss: 0.0,
            busiest_thread: Some(0.99),
            broke: None,
        };
        let broke = Breakage {
            what: "p99".to_owned(),
            resource: Resource::Core,
            why: "no more".to_owned(),
        };
        result.find_max = Some(FindMax {
            dimension: "listeners".to_owned(),
            p99_max_ns: 5_000_000,
            loss_max: 0.001,
            steps: vec![step],
            held: None,
            broke: Some(broke),
        });
        let text = summary(&result);
        for part in [
            "carried    over plain UDP with aead_aes256_gcm_rtpsize\n",
            "3 refused: 4004 no",
            "2500 ns of processor",
            "its share  p50 ≤ 20.0 µs, p99 ≤ 60.0 µs, p99.9 ?: receive stamp to send, 77 timed",
            "processor 1.19 ×, p50 ? ×",
            "p99            123 µs     123 µs",
            "p99.99         456 µs",
            "INVALID: late",
            "400 listeners: broke     20000 copies/s, p99 9.00 ms",
            "nothing held (p99 5.00 ms, loss 0.100 %)",
            "what broke first: p99 (Core): no more",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
