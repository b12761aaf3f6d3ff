//! Figures of processor time: what one forwarded copy costs the server and the bare loop, how busy
//! the server was, and what else it used. Called by `run` and `comparison`.

use super::{
    axis::Axis,
    figure::{Figure, Table},
    latency,
    picture::{Ink, Part, Plane, Rows},
    unit,
};
use crate::load::result::{Cost, RunResult};

/// Processor time of one forwarded copy, in user mode and in the kernel.
pub fn per_packet(result: &RunResult) -> Option<Figure> {
    let server = result.cost.as_ref()?;
    let ns = server.cpu_ns_per_packet?;
    let bound = result.bound.as_ref().map(|bound| &bound.cost);
    let entries: Vec<_> = std::iter::once(("server", Ink::Server, Ink::ServerFaint, server))
        .chain(bound.map(|cost| ("bare loop", Ink::Bound, Ink::BoundFaint, cost)))
        .collect();
    let mut finding =
        format!("Forwarding one copy takes {} of the server's processor time", unit::duration(ns));
    finding += &match result.bound.as_ref().map(|bound| bound.ratios.cpu_per_packet) {
        Some(Some(ratio)) => format!(
            ", {} what a loop takes that only receives and sends.{}",
            latency::times(ratio),
            if ratio < 1.0 { " It sends several at once." } else { "" }
        ),
        Some(None) => "; the bare loop's could not be measured.".to_owned(),
        None => ".".to_owned(),
    };
    Some(Figure {
        id: "cpu",
        title: "Processor time per forwarded copy".to_owned(),
        finding,
        legend: vec![
            (Ink::Server, "in the kernel".to_owned()),
            (Ink::ServerFaint, "in user mode".to_owned()),
        ],
        solid: true,
        picture: bars(&entries).finish(),
        tables: vec![table(&entries)],
    })
}

type Entry<'a> = (&'a str, Ink, Ink, &'a Cost);

fn bars(entries: &[Entry<'_>]) -> Rows {
    let high = entries.iter().filter_map(|(.., cost)| cost.cpu_ns_per_packet).fold(0.0, f64::max);
    let axis = Axis::linear("processor time", high, |ns| unit::short(&unit::duration(ns)));
    let mut rows = Rows::new(axis);
    for (name, kernel_ink, user_ink, cost) in entries {
        let Some(whole) = cost.cpu_ns_per_packet else {
            rows.bar(name, "not measured", &[]);
            continue;
        };
        let part = |ink, to, name: &str, ns| {
            let title = format!("{name}: {}", unit::duration(ns));
            Part { ink, to, title }
        };
        let parts = match (cost.kernel_ns_per_packet, cost.user_ns_per_packet) {
            (Some(kernel), Some(user)) => vec![
                part(*kernel_ink, kernel, "in the kernel", kernel),
                part(*user_ink, kernel + user, "in user mode", user),
            ],
            _ => vec![part(*kernel_ink, whole, "user mode and kernel", whole)],
        };
        rows.bar(name, &unit::duration(whole), &parts);
    }
    rows
}

/// Every number of a cost, beside the bare loop's.
fn table(entries: &[Entry<'_>]) -> Table {
    type Row = (&'static str, fn(&Cost) -> Option<String>);
    const ROWS: [Row; 14] = [
        ("copies forwarded", |cost| Some(unit::count(cost.forwarded))),
        ("per copy", |cost| cost.cpu_ns_per_packet.map(unit::duration)),
        ("in the kernel", |cost| cost.kernel_ns_per_packet.map(unit::duration)),
        ("in user mode", |cost| cost.user_ns_per_packet.map(unit::duration)),
        ("passes through the UDP stack per copy", |cost| {
            cost.traversals_per_packet.map(unit::number)
        }),
        ("cores busy", |cost| cost.cores.map(unit::number)),
        ("busiest thread, of one core", |cost| cost.busiest_thread.map(unit::percent)),
        ("its name", |cost| cost.busiest_thread_name.clone()),
        ("memory before anyone came", |cost| cost.memory_before_bytes.map(|it| memory(it as f64))),
        ("memory with everyone there", |cost| cost.memory_joined_bytes.map(|it| memory(it as f64))),
        ("memory per session", |cost| cost.memory_per_session_bytes.map(memory)),
        ("times a thread gave up its core", |cost| {
            cost.voluntary_switches_per_s.map(unit::per_second)
        }),
        ("times a core was taken from one", |cost| {
            cost.involuntary_switches_per_s.map(unit::per_second)
        }),
        ("datagrams its sockets dropped", |cost| cost.socket_drops.map(unit::count)),
    ];
    let mut table = Table::new("What it cost", &[]);
    table.head =
        std::iter::once("").chain(entries.iter().map(|entry| entry.0)).map(str::to_owned).collect();
    for (name, of) in ROWS {
        let cells: Vec<_> = entries.iter().map(|(.., cost)| of(cost)).collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| unit::NONE.to_owned()));
            table.rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
        }
    }
    table
}

fn memory(bytes: f64) -> String {
    unit::bytes(bytes)
}

/// Cores busy in every second.
pub fn over_time(result: &RunResult) -> Option<Figure> {
    let seconds = &result.seconds;
    let server = || seconds.iter().filter(|second| !second.bound);
    let busiest = server().filter_map(|second| second.server_cores).fold(None, max)?;
    let all = seconds.iter().filter_map(|second| second.server_cores).fold(0.0, f64::max);
    let y = Axis::linear("cores busy", all, |cores| unit::short(&unit::number(cores)));
    let mut plane = Plane::new(latency::seconds_axis(seconds), y);
    let mut legend = Vec::new();
    if seconds.iter().any(|second| second.bound && second.server_cores.is_some()) {
        plane.curve(Ink::Bound, latency::curve(seconds, true, |second| second.server_cores));
        legend = vec![(Ink::Server, "server".to_owned()), (Ink::Bound, "bare loop".to_owned())];
    }
    plane.curve(Ink::Server, latency::curve(seconds, false, |second| second.server_cores));
    Some(Figure {
        id: "cores",
        title: "Cores busy over time".to_owned(),
        finding: format!("At its busiest the server used {} cores.", unit::number(busiest)),
        legend,
        solid: false,
        picture: plane.finish(),
        tables: vec![],
    })
}

fn max(most: Option<f64>, value: f64) -> Option<f64> {
    Some(most.map_or(value, |most| most.max(value)))
}
