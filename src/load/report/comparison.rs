//! The page that sets several runs side by side, one row for each: latency, cost, loss. Called by
//! `mod`.

use super::{
    axis::Axis,
    figure::{self, Figure, Table},
    latency,
    markup::Markup,
    picture::{Ink, Part, Rows},
    run, unit,
};
use crate::load::result::RunResult;

/// The page.
pub fn page(results: &[RunResult]) -> String {
    let mut body = Markup::new();
    body.raw("<main><h1>Runs compared</h1><p class=\"quiet\">");
    body.text(results.len()).raw(" runs of stentor load, in the order given.</p>");
    let invalid: Vec<String> = results
        .iter()
        .filter(|result| !result.verdict.valid)
        .map(|result| format!("{}: {}", result.scenario.name, result.verdict.reasons.join("; ")))
        .collect();
    if !invalid.is_empty() {
        let sentence = "The generator itself failed in some of these runs:";
        body.append(&figure::judgement(false, "Not all valid.", sentence, &invalid));
    }
    let named: Vec<_> = results.iter().map(|it| (it.scenario.name.clone(), &it.overall)).collect();
    if !named.is_empty() {
        let finding = String::new();
        let ranges = latency::ranges("latencies", "Latency of each run", finding, &named);
        let figures: Vec<_> = [Some(ranges), costs(results)].into_iter().flatten().collect();
        body.append(&figure::chapter("Side by side", &figures));
    }
    body.raw("<section><h2>What was run</h2>").append(&runs(results).markup());
    body.raw("</section></main>");
    figure::page("Runs compared – stentor load", &body)
}

/// Processor time of a copy in each run, and the bare loop's where there is one.
fn costs(results: &[RunResult]) -> Option<Figure> {
    let ns = |result: &RunResult| result.cost.as_ref().and_then(|cost| cost.cpu_ns_per_packet);
    let bound = |it: &RunResult| it.bound.as_ref().and_then(|bound| bound.cost.cpu_ns_per_packet);
    let all = results.iter().flat_map(|result| [ns(result), bound(result)]).flatten();
    let high = all.fold(None, |most: Option<f64>, ns| Some(most.map_or(ns, |it| it.max(ns))))?;
    let axis = Axis::linear("processor time", high, |ns| unit::short(&unit::duration(ns)));
    let mut rows = Rows::new(axis);
    let head = ["", "per copy", "bare loop", "ratio", "passes per copy", "busiest thread"];
    let mut table = Table::new("Processor time per forwarded copy", &head);
    for result in results {
        let name = &result.scenario.name;
        let ratio = result.bound.as_ref().and_then(|bound| bound.ratios.cpu_per_packet);
        let part = |ink, what: &str, ns: f64| {
            [Part { ink, to: ns, title: format!("{what}: {}", unit::duration(ns)) }]
        };
        let text = |ns: Option<f64>| ns.map_or(unit::NONE.to_owned(), unit::duration);
        let value = match ratio {
            Some(ratio) => format!("{}, {}", text(ns(result)), unit::ratio(ratio)),
            None => text(ns(result)),
        };
        match ns(result) {
            Some(ns) => rows.bar(name, &value, &part(Ink::Server, "server", ns)),
            None => rows.bar(name, "not measured", &[]),
        }
        if let Some(ns) = bound(result) {
            rows.bar(
                "bare loop beside it",
                &unit::duration(ns),
                &part(Ink::Bound, "bare loop", ns),
            );
        }
        let cost = result.cost.as_ref();
        let or_none = |text: Option<String>| text.unwrap_or_else(|| unit::NONE.to_owned());
        table.row([
            name.clone(),
            text(ns(result)),
            text(bound(result)),
            or_none(ratio.map(unit::ratio)),
            or_none(cost.and_then(|cost| cost.traversals_per_packet).map(unit::number)),
            or_none(cost.and_then(|cost| cost.busiest_thread).map(unit::percent)),
        ]);
    }
    Some(Figure {
        id: "costs",
        title: "Processor time per forwarded copy".to_owned(),
        finding: "The whole of the server's processor time, divided by the copies it forwarded."
            .to_owned(),
        legend: vec![(Ink::Server, "server".to_owned()), (Ink::Bound, "bare loop".to_owned())],
        solid: true,
        picture: rows.finish(),
        tables: vec![table],
    })
}

fn runs(results: &[RunResult]) -> Table {
    let mut table = Table::new("Scenarios and circumstances", &["", "valid", "commit", "scenario"]);
    table.ends_in_words = true;
    for result in results {
        let commit = result.about.commit.clone().unwrap_or_else(|| unit::NONE.to_owned());
        table.row([
            result.scenario.name.clone(),
            if result.verdict.valid { "yes" } else { "no" }.to_owned(),
            // As much of it as tells commits apart.
            commit.chars().take(12).collect(),
            run::summary(&result.scenario),
        ]);
    }
    table
}
