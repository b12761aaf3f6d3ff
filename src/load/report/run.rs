//! The page of one run: verdict and circumstances first, then its figures. Called by `mod`.

use super::{
    clients, cost,
    figure::{self, Figure},
    latency, limit,
    markup::Markup,
    unit,
};
use crate::load::{
    result::{About, ReceiveTime, RunResult},
    scenario::{Scenario, Transport},
};

/// The page.
pub fn page(result: &RunResult) -> String {
    let mut body = Markup::new();
    body.raw("<main><h1>").text(&result.scenario.name).raw("</h1>");
    if !result.scenario.about.is_empty() {
        body.raw("<p>").text(&result.scenario.about).raw("</p>");
    }
    body.raw("<p class=\"quiet\">").text(summary(&result.scenario)).raw("</p>");
    body.append(&verdict(result)).append(&figure::numbers(&main_numbers(result)));
    let search = result.find_max.as_ref().map(limit::search);
    body.append(&figure::chapter("Limit", &some([search])));
    let figures =
        [latency::percentiles(result), latency::over_time(result), latency::phases(result)];
    body.append(&figure::chapter("Latency", &some(figures)));
    let figures = [cost::per_packet(result), cost::over_time(result)];
    body.append(&figure::chapter("Cost", &some(figures)));
    let figures = [clients::joins(result), clients::losses(result)];
    body.append(&figure::chapter("Clients", &some(figures)));
    body.raw("<section><h2>Circumstances</h2>");
    body.append(&figure::facts(&circumstances(result))).raw("</section>");
    body.raw("<section><h2>How to read this</h2>");
    body.raw(READING).raw("</section></main>");
    figure::page(format_args!("{} – stentor load", result.scenario.name), &body)
}

/// What the numbers mean, for who was not there.
const READING: &str = "<p>Packets left on a schedule that did not wait for the server. A copy's \
latency counts from the moment its packet was meant to leave to its arrival at a hearer, so a \
delay of the generator or of the server is never left out of it. A copy is lost if it never came \
to a hearer who was due it. The bare loop receives and sends the same packets without encryption \
and without a protocol: what it takes is the kernel's share, which no server on these sockets can \
do without. Ratios to it, measured in one run, say more than numbers of one machine.</p>";

fn some<const N: usize>(figures: [Option<Figure>; N]) -> Vec<Figure> {
    figures.into_iter().flatten().collect()
}

/// A scenario in a line.
pub fn summary(scenario: &Scenario) -> String {
    let mut parts = Vec::new();
    for channels in &scenario.channels {
        let mut part = match channels.count {
            1 => "one channel: ".to_owned(),
            count => format!("{} channels, each: ", unit::count(count.into())),
        };
        part += &format!(
            "{} speaking, {} listening, {} packets a second of {} bytes",
            unit::count(channels.speakers.into()),
            unit::count(channels.listeners.into()),
            channels.packets_per_second,
            channels.payload_bytes
        );
        if let Some(video) = &channels.video {
            let rate = unit::bits_per_second(video.bits_per_second as f64);
            part += &format!(", {} with video of {rate}", unit::count(video.cameras.into()));
        }
        match (channels.transport, channels.sender_transport) {
            (Transport::Udp, None) => {}
            (all, None) => part += &format!(", {}", over(all)),
            (all, Some(senders)) => {
                part += &format!(", {}, those who send {}", over(all), over(senders));
            }
        }
        if let Some(at) = channels.join_at_s {
            part += &format!(", joining from second {at} over {} s", channels.join_over_s);
        }
        if channels.churn_per_second > 0.0 {
            let churn = unit::number(channels.churn_per_second);
            part += &format!(", {churn} leaving and coming back each second");
        }
        parts.push(part);
    }
    let carriage = scenario.carriage();
    format!("{}. {} s measured; {carriage}.", parts.join("; "), scenario.duration_s)
}

fn over(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "over plain UDP",
        Transport::WebRtc => "over WebRTC",
        Transport::Mixed => "over WebRTC every second one",
    }
}

fn verdict(result: &RunResult) -> Markup {
    let verdict = &result.verdict;
    let (word, mut sentence) = match verdict.valid {
        true => (
            "Valid.",
            "The generator kept its schedule and heard all there was to hear.".to_owned(),
        ),
        false => (
            "Not valid.",
            "The generator itself failed, so these numbers do not tell what \
             the server does:"
                .to_owned(),
        ),
    };
    if verdict.valid && !verdict.warnings.is_empty() {
        sentence += " To be known all the same:";
    }
    let reasons: Vec<_> = verdict.reasons.iter().chain(&verdict.warnings).cloned().collect();
    figure::judgement(verdict.valid, word, &sentence, &reasons)
}

fn main_numbers(result: &RunResult) -> Vec<(String, String)> {
    let (latency, hearing) = (&result.overall.latency, &result.overall.hearing);
    let sending = &result.overall.sending;
    let ns = |ns| if latency.count == 0 { unit::NONE.into() } else { unit::nanoseconds(ns) };
    let mut numbers = vec![
        (ns(latency.p50_ns), "median latency".to_owned()),
        (ns(latency.p99_ns), "99th percentile".to_owned()),
        (ns(latency.p99_99_ns), "99.99th percentile".to_owned()),
        (
            unit::percent(hearing.loss()),
            format!("lost: {} of {}", unit::count(hearing.lost), unit::count(hearing.expected)),
        ),
    ];
    if let Some(ns) = result.cost.as_ref().and_then(|cost| cost.cpu_ns_per_packet) {
        let ratio = result.bound.as_ref().and_then(|bound| bound.ratios.cpu_per_packet);
        let beside = ratio
            .map_or(String::new(), |ratio| format!(", {} the bare loop's", unit::ratio(ratio)));
        numbers.push((unit::duration(ns), format!("processor time per copy{beside}")));
    }
    if let Some(bytes) = result.cost.as_ref().and_then(|cost| cost.memory_per_session_bytes) {
        numbers.push((unit::bytes(bytes), "server memory per session".to_owned()));
    }
    numbers.push((unit::count(sending.sent), {
        let late = unit::count(sending.late);
        format!(
            "packets sent, {late} late (the worst by {})",
            unit::nanoseconds(sending.late_max_ns)
        )
    }));
    let wrongs = [
        (hearing.duplicated, "came twice"),
        (hearing.reordered, "came out of order"),
        (hearing.wrong_channel, "came from another channel"),
        (hearing.undecryptable, "could not be decrypted"),
        (hearing.foreign, "were none of this run's"),
    ];
    for (count, wrong) in wrongs {
        if count > 0 {
            numbers.push((unit::count(count), format!("copies {wrong}")));
        }
    }
    numbers
}

fn circumstances(result: &RunResult) -> Vec<(&'static str, String)> {
    let About { started_at, version, commit, kernel, cpu, cores, command, endpoint, receive_time } =
        &result.about;
    let commit = commit.as_ref().map_or(String::new(), |commit| format!(", commit {commit}"));
    let clock = match receive_time {
        ReceiveTime::Kernel { drift_ns } => format!(
            "the kernel's stamp (the clocks came {} apart during the run)",
            unit::duration(drift_ns.unsigned_abs() as f64)
        ),
        ReceiveTime::Turn => "when the generator looked, up to a turn of its loop late".to_owned(),
    };
    vec![
        ("Started", started_at.clone()),
        ("Command", command.join(" ")),
        ("Server", endpoint.clone()),
        ("Generator", format!("stentor {version}{commit}")),
        ("Kernel", kernel.clone()),
        ("Processor", format!("{cpu}, {cores} cores")),
        ("Arrival is", clock),
        ("Joined at", format!("{} a second", result.scenario.joins_per_second)),
        ("Warm-up", format!("{} s", result.scenario.warmup_s)),
    ]
}
