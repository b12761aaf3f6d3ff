//! The figure of a search for the most a server carries: each step, and what broke. Called by
//! `run`.

use super::{
    axis::Axis,
    figure::{Figure, Table},
    picture::{Ink, Plane},
    unit,
};
use crate::load::result::FindMax;

/// The way up to the limit.
pub fn search(found: &FindMax) -> Figure {
    let mut steps: Vec<_> = found.steps.iter().collect();
    steps.sort_by_key(|step| step.value);
    let limit = found.p99_max_ns as f64;
    let values = steps.iter().map(|step| step.p99_ns as f64).chain([limit]);
    let high = steps.last().map_or(1.0, |step| step.value.into());
    let mut plane = Plane::new(
        Axis::linear(found.dimension.clone(), high, |value| unit::short(&unit::number(value))),
        Axis::durations("99th percentile of latency", values),
    );
    let held = steps.iter().filter(|step| step.held);
    let point = |value: u32, ns: u64| Some((f64::from(value), ns as f64));
    plane.level(Ink::Limit, limit, format!("agreed: {}", unit::duration(limit)));
    plane.curve(Ink::Server, held.map(|step| point(step.value, step.p99_ns)));
    // Each a dot by itself.
    let broken = steps.iter().filter(|step| !step.held);
    plane.curve(Ink::Loss, broken.flat_map(|step| [point(step.value, step.p99_ns), None]));

    let level = format!(
        "the level agreed on (p99 of {}, {} lost)",
        unit::duration(limit),
        unit::percent(found.loss_max)
    );
    let mut finding = match found.held {
        Some(held) => format!("The server holds {level} up to {} {}.", held, found.dimension),
        None => format!("The server did not hold {level} at any step."),
    };
    if let Some(broke) = &found.broke {
        finding += &format!(" Beyond that {} breaks first: {}", broke.what, broke.why);
    }
    let head = [&found.dimension, "forwarded", "p99", "lost", "busiest thread", "outcome"];
    let mut table = Table::new("Every step, in the order they were made", &head);
    table.ends_in_words = true;
    for step in &found.steps {
        let outcome = match &step.broke {
            Some(broke) => format!("{} broke: {}", broke.what, broke.why),
            None if step.held => "held".to_owned(),
            None => "did not hold".to_owned(),
        };
        table.row([
            step.value.to_string(),
            unit::per_second(step.forwarded_per_s),
            unit::nanoseconds(step.p99_ns),
            unit::percent(step.loss),
            step.busiest_thread.map_or(unit::NONE.to_owned(), unit::percent),
            outcome,
        ]);
    }
    Figure {
        id: "limit",
        title: "The most that it carries".to_owned(),
        finding,
        legend: vec![(Ink::Server, "held".to_owned()), (Ink::Loss, "did not hold".to_owned())],
        solid: false,
        picture: plane.finish(),
        tables: vec![table],
    }
}
