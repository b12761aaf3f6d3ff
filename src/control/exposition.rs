//! `GET /metrics`: every counter of every shard, and control's own, in the Prometheus text format
//! (version 0.0.4). Reads copies; counts nothing itself.

use std::{
    fmt::{Display, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::node::{Node, NodeReport};
use crate::{
    driver::queues::{Rooms, ShardReport},
    metrics::{Counters, DropReason, LATENCY_BOUNDS_NS, Latency},
};

pub(super) async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let shards = node.inspect_all(Rooms::None).await;
    let control = ControlNumbers {
        node: node.report(),
        shard_queues: node.shard_queues().collect(),
        next_seq: node.log.next_seq(),
        delivered: node.deliveries.delivered.load(Ordering::Relaxed),
        failures: node.deliveries.failures.load(Ordering::Relaxed),
        lost: node.deliveries.lost.load(Ordering::Relaxed),
        spacebar: node.config.spacebar.is_some().then(|| SpacebarNumbers::of(&node)),
    };
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, render(&shards, &control)).into_response()
}

/// What control itself has counted.
#[derive(Debug, Default)]
struct ControlNumbers {
    node: NodeReport,
    shard_queues: Vec<usize>,
    next_seq: u64,
    delivered: u64,
    failures: u64,
    lost: u64,
    spacebar: Option<SpacebarNumbers>,
}

/// What the Spacebar backend has counted, where there is one.
#[derive(Debug, Default)]
struct SpacebarNumbers {
    gauges: [u64; 3],
    lookups: [u64; 3],
    departures: [u64; 3],
    counters: [u64; 4],
}

impl SpacebarNumbers {
    fn of(node: &Node) -> Self {
        let tally = &node.spacebar;
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (waiting, dropped) = node.report().departures;
        let is = |flag: &AtomicBool| u64::from(flag.load(Ordering::Relaxed));
        Self {
            gauges: [is(&tally.database_up), is(&tally.watching), waiting as u64],
            lookups: [&tally.found, &tally.absent, &tally.silent].map(number),
            departures: [number(&tally.written), number(&tally.overtaken), dropped],
            counters: [&tally.database_failures, &tally.heard, &tally.said, &tally.unsaid]
                .map(number),
        }
    }
}

/// Names of [`SpacebarNumbers`], in their order.
const SPACEBAR_GAUGES: [(&str, &str); 3] = [
    ("stentor_spacebar_database_up", "Whether the database answered the last query."),
    ("stentor_spacebar_watching", "Whether the event bus, or notifications, can be heard."),
    ("stentor_spacebar_departures_waiting", "Ends of sessions that are not written back yet."),
];
const SPACEBAR_LOOKUPS: [&str; 3] = ["found", "absent", "timeout"];
const SPACEBAR_DEPARTURES: [&str; 3] = ["written", "overtaken", "dropped"];
const SPACEBAR_COUNTERS: [(&str, &str); 4] = [
    ("stentor_spacebar_database_failures_total", "Queries that failed or took too long."),
    ("stentor_spacebar_events_heard_total", "Events of the bus that were of interest."),
    ("stentor_spacebar_events_said_total", "Events of ours that the bus took."),
    ("stentor_spacebar_events_unsaid_total", "Events of ours that it did not take."),
];

type PerShard = (&'static str, Kind, &'static str, fn(&ShardReport) -> u64);
type PerCounter = (&'static str, &'static str, fn(&Counters) -> u64);

const SHARD_NUMBERS: [PerShard; 4] = [
    ("stentor_sessions", Kind::Gauge, "Live sessions.", |shard| shard.sessions),
    ("stentor_channels", Kind::Gauge, "Live channels.", |shard| shard.channels),
    ("stentor_connections", Kind::Gauge, "Open WebSockets.", |shard| shard.connections),
    (
        "stentor_shard_restarts_total",
        Kind::Counter,
        "Times the shard lost its state to a defect.",
        |shard| shard.restarts,
    ),
];

const COUNTERS: [PerCounter; 17] = [
    ("stentor_packets_received_total", "Datagrams received.", |c| c.packets_in),
    ("stentor_received_bytes_total", "Bytes of UDP payload received.", |c| c.bytes_in),
    ("stentor_packets_sent_total", "Datagrams sent.", |c| c.packets_out),
    ("stentor_sent_bytes_total", "Bytes of UDP payload sent.", |c| c.bytes_out),
    ("stentor_packets_opened_total", "Media packets opened and accepted for forwarding.", |c| {
        c.opened
    }),
    ("stentor_packets_forwarded_total", "Copies sealed for a hearer.", |c| c.forwarded),
    ("stentor_packets_retransmitted_total", "Copies sealed for a hearer that lacked them.", |c| {
        c.retransmitted
    }),
    (
        "stentor_packets_mended_total",
        "Packets lost on the way here that their sender sent again when asked.",
        |c| c.mended,
    ),
    (
        "stentor_path_packets_reported_total",
        "Packets that hearers' transport-wide feedback reported on.",
        |c| c.path_reported,
    ),
    ("stentor_path_packets_lost_total", "Those of them that had not arrived.", |c| c.path_lost),
    (
        "stentor_stack_traversals_total",
        "Passes through the kernel's UDP stack to send: a send of many datagrams is one.",
        |c| c.stack_traversals,
    ),
    ("stentor_requests_answered_total", "Discovery and ping requests answered.", |c| c.answered),
    (
        "stentor_receive_buffers_exhausted_total",
        "Times the receive buffers were all taken when the kernel wanted one.",
        |c| c.receive_buffers_exhausted,
    ),
    ("stentor_addresses_rebound_total", "Addresses moved by an authenticated packet.", |c| {
        c.rebound
    }),
    ("stentor_handshakes_total", "Handshakes with browsers that agreed on keys.", |c| c.handshakes),
    (
        "stentor_handshakes_failed_total",
        "Handshakes with browsers that failed: wrong certificate, nothing in common, no answer.",
        |c| c.handshakes_failed,
    ),
    (
        "stentor_consent_expired_total",
        "Browsers' transports that ended because nobody confirmed that media was wanted.",
        |c| c.consent_expired,
    ),
];

fn render(shards: &[Option<ShardReport>], control: &ControlNumbers) -> String {
    let mut page = Page(String::with_capacity(16 * 1_024));
    let answering: Vec<&ShardReport> = shards.iter().flatten().collect();

    page.family("stentor_build_info", Kind::Gauge, "Always 1; the version is a label.");
    page.sample("stentor_build_info", &[("version", &env!("CARGO_PKG_VERSION"))], 1);
    page.family("stentor_shard_up", Kind::Gauge, "Whether the shard answered for this page.");
    for (index, shard) in shards.iter().enumerate() {
        page.sample("stentor_shard_up", &[("shard", &index)], shard.is_some().into());
    }
    page.family("stentor_shard_info", Kind::Gauge, "Always 1; the shard's UDP port is a label.");
    for shard in &answering {
        let labels: [Label<'_>; 2] = [("shard", &shard.shard), ("udp_port", &shard.port)];
        page.sample("stentor_shard_info", &labels, 1);
    }
    for (name, kind, help, number) in SHARD_NUMBERS {
        page.family(name, kind, help);
        for shard in &answering {
            page.sample(name, &[("shard", &shard.shard)], number(shard));
        }
    }
    for (name, help, number) in COUNTERS {
        page.family(name, Kind::Counter, help);
        for shard in &answering {
            page.sample(name, &[("shard", &shard.shard)], number(&shard.counters));
        }
    }
    let name = "stentor_drops_total";
    page.family(name, Kind::Counter, "Datagrams, or hearers' copies, that went no further.");
    for shard in &answering {
        for reason in DropReason::ALL {
            let labels: [Label<'_>; 2] = [("shard", &shard.shard), ("reason", &reason.label())];
            page.sample(name, &labels, shard.counters.drops_for(*reason));
        }
    }
    let name = "stentor_limited_total";
    let help = "Connections refused or cut, and reports dropped, by the limit that did it.";
    page.family(name, Kind::Counter, help);
    for shard in &answering {
        for (limit, count) in &shard.limited {
            page.sample(name, &[("shard", &shard.shard), ("limit", limit)], *count);
        }
    }
    let name = "stentor_closes_total";
    page.family(name, Kind::Counter, "WebSockets that the server closed, by close code.");
    for shard in &answering {
        for (code, count) in &shard.closes {
            page.sample(name, &[("shard", &shard.shard), ("code", code)], *count);
        }
    }
    let name = "stentor_loop_seconds";
    page.family(name, Kind::Histogram, "Time spent in one turn of the media loop.");
    for shard in &answering {
        page.histogram(name, shard, &shard.loop_time);
    }
    let name = "stentor_forwarding_seconds";
    let help = "From the kernel's receive timestamp to the end of the send, sampled.";
    page.family(name, Kind::Histogram, help);
    for shard in &answering {
        page.histogram(name, shard, &shard.forwarding);
    }
    page.control(control);
    page.0
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

type Label<'a> = (&'a str, &'a dyn Display);

/// The text so far.
struct Page(String);

impl Page {
    fn control(&mut self, control: &ControlNumbers) {
        let ControlNumbers { node, shard_queues, next_seq, delivered, failures, lost, spacebar } =
            control;
        let gauges = [
            ("stentor_grants", "Grants stored.", node.grants),
            ("stentor_control_sessions", "Sessions live or on their way.", node.sessions),
            ("stentor_control_rooms", "Channels live or about to be.", node.rooms),
            ("stentor_draining", "Whether the server is stopping.", node.is_draining.into()),
            ("stentor_control_backlog", "Commands that did not fit a queue yet.", node.backlog),
            (
                "stentor_control_events_waiting",
                "Shards' events not looked at yet.",
                node.events_waiting,
            ),
        ];
        for (name, help, value) in gauges {
            self.family(name, Kind::Gauge, help);
            self.sample(name, &[], value as u64);
        }
        let name = "stentor_shard_queue";
        self.family(name, Kind::Gauge, "Messages waiting for the shard.");
        for (index, length) in shard_queues.iter().enumerate() {
            self.sample(name, &[("shard", &index)], *length as u64);
        }
        let counters = [
            (
                "stentor_commands_dropped_total",
                "Commands a shard was too far behind to take.",
                node.commands_dropped,
            ),
            ("stentor_webhook_delivered_total", "Events the webhook accepted.", *delivered),
            ("stentor_webhook_failures_total", "Requests the webhook did not accept.", *failures),
            ("stentor_webhook_lost_total", "Events that were never delivered.", *lost),
        ];
        for (name, help, value) in counters {
            self.family(name, Kind::Counter, help);
            self.sample(name, &[], value);
        }
        let name = "stentor_event_next_seq";
        self.family(name, Kind::Gauge, "Number the next public event will have.");
        self.sample(name, &[], *next_seq);
        if let Some(spacebar) = spacebar {
            self.spacebar(spacebar);
        }
    }

    fn spacebar(&mut self, numbers: &SpacebarNumbers) {
        for ((name, help), value) in SPACEBAR_GAUGES.into_iter().zip(numbers.gauges) {
            self.family(name, Kind::Gauge, help);
            self.sample(name, &[], value);
        }
        let name = "stentor_spacebar_lookups_total";
        self.family(name, Kind::Counter, "Identifies looked up, by what came of it.");
        for (outcome, value) in SPACEBAR_LOOKUPS.into_iter().zip(numbers.lookups) {
            self.sample(name, &[("outcome", &outcome)], value);
        }
        let name = "stentor_spacebar_departures_total";
        self.family(
            name,
            Kind::Counter,
            "Ends of sessions to be written back, by what came of it.",
        );
        for (outcome, value) in SPACEBAR_DEPARTURES.into_iter().zip(numbers.departures) {
            self.sample(name, &[("outcome", &outcome)], value);
        }
        for ((name, help), value) in SPACEBAR_COUNTERS.into_iter().zip(numbers.counters) {
            self.family(name, Kind::Counter, help);
            self.sample(name, &[], value);
        }
    }

    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[Label<'_>], value: u64) {
        let labels = Labels(labels);
        self.line(format_args!("{name}{labels} {value}"));
    }

    fn histogram(&mut self, name: &str, shard: &ShardReport, latency: &Latency) {
        let shard: Label<'_> = ("shard", &shard.shard);
        let mut cumulated = 0;
        for (count, bound) in latency.counts.iter().zip(&LATENCY_BOUNDS_NS) {
            cumulated += count;
            let labels = [shard, ("le", &Seconds(*bound))];
            self.line(format_args!("{name}_bucket{} {cumulated}", Labels(&labels)));
        }
        let count = latency.count();
        self.line(format_args!("{name}_bucket{} {count}", Labels(&[shard, ("le", &"+Inf")])));
        let labels = [shard];
        self.line(format_args!("{name}_sum{} {}", Labels(&labels), Seconds(latency.sum_ns)));
        self.line(format_args!("{name}_count{} {count}", Labels(&labels)));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string does not fail");
    }
}

/// `{name="value",…}`, or nothing. Values are ours and need no escapes.
struct Labels<'a>(&'a [Label<'a>]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            write!(f, "{open}{name}=\"{value}\"")?;
        }
        if self.0.is_empty() { Ok(()) } else { f.write_char('}') }
    }
}

/// Nanoseconds, written as seconds without loss.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        match format!("{rest:09}").trim_end_matches('0') {
            "" => write!(f, "{whole}"),
            digits => write!(f, "{whole}.{digits}"),
        }
    }
}

#[cfg(test)]
#[path = "exposition_tests.rs"]
mod tests;
