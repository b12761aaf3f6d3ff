//! What `stentor plan` prints: a calibration with its residuals, an answer as a table, and its
//! arithmetic step by step. Text only.

use std::fmt::Write;

use serde::Serialize;

use super::{
    answer::{Answer, Change, Demand, Unit, Use},
    calibration::{Calibration, ERROR_MAX, Host, Residual},
    encryption::Encryption,
    model::{ETHERNET_BYTES, Rates, Term, bytes_around, on_the_wire},
    placement::{Bound, Placement},
    waking::{HALT_S, WARM_S, Waking},
};
use crate::load::report::unit;

/// Costs, residuals, and whether they may be relied on.
pub fn calibration(calibration: &Calibration) -> String {
    let model = &calibration.model;
    let mut lines = vec![
        ("nobody there".to_owned(), format!("{} cores", unit::number(model.base_cores))),
        ("a media packet received".to_owned(), unit::duration(model.received_ns)),
        ("waking up on a halted core".to_owned(), unit::duration(model.halt_ns)),
        ("waking up after a pause, besides".to_owned(), unit::duration(model.wake_ns)),
        ("each hearer of what wakes".to_owned(), unit::duration(model.cold_ns)),
        ("a pass through the UDP stack".to_owned(), unit::duration(model.traversal_ns)),
        ("a heartbeat".to_owned(), unit::duration(model.heartbeat_ns)),
        ("a join and leaving".to_owned(), unit::duration(model.join_ns)),
    ];
    lines.extend([
        ("a browser for a second, besides".to_owned(), unit::duration(model.browser_ns)),
        ("its join, besides".to_owned(), unit::duration(model.browser_join_ns)),
    ]);
    for (name, mode) in &model.modes {
        lines.push((format!("a copy, {name}"), unit::duration(mode.copy_ns)));
        let kilobyte = unit::duration(1_000.0 * mode.byte_ns);
        lines.push((format!("1,000 bytes, {name}"), kilobyte));
    }
    let apart = unit::percent(model.separate);
    lines.push(("of a burst, what leaves by itself".to_owned(), apart));
    lines.push(("memory, nobody there".to_owned(), unit::bytes(model.memory_base_bytes)));
    lines.push(("memory of a session".to_owned(), unit::bytes(model.memory_session_bytes)));
    lines.push(("memory of a browser's".to_owned(), unit::bytes(model.memory_browser_bytes)));
    let told = unit::bytes(model.memory_told_bytes);
    lines.push(("memory of what one is told of another".to_owned(), told));
    let mut text = String::from("costs on this host, processor time of the server:\n");
    text += &pairs(&lines);
    text += "fitted to:\n";
    text += &residuals(&calibration.fitted);
    text += "checked on:\n";
    text += &residuals(&calibration.checked);
    let (most, limit) = (worst(&calibration.checked), unit::percent(ERROR_MAX));
    text += &match calibration.is_good() {
        true => format!("the model is good: at most {most} off what it had not seen\n"),
        false => format!("the model is NOT good: {most} off what it had not seen, above {limit}\n"),
    };
    text
}

/// Two columns.
pub fn pairs(lines: &[(String, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in lines {
        let _ = writeln!(text, "  {name:<width$}  {value:>10}");
    }
    text
}

fn residuals(residuals: &[Residual]) -> String {
    let width = residuals.iter().map(|it| it.observation.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for residual in residuals {
        let name = &residual.observation.name;
        let _ = writeln!(
            text,
            "  {name:<width$}  measured {:.4} cores, predicted {:.4}, {:>+6.1} %",
            residual.observation.cores,
            residual.predicted,
            100.0 * residual.error()
        );
    }
    text
}

fn worst(residuals: &[Residual]) -> String {
    unit::percent(residuals.iter().map(|it| it.error().abs()).fold(0.0, f64::max))
}

/// The answer in a dozen lines, and how it changes.
pub fn answer(answer: &Answer, changes: &[Change], calibration: &Calibration) -> String {
    let mut text = format!("{}\n", answer.name);
    let mut lines: Vec<(String, String)> =
        vec![("sessions".to_owned(), unit::number(answer.rates.sessions))];
    lines.extend([
        ("packets in".to_owned(), unit::per_second(answer.rates.received)),
        ("packets out".to_owned(), unit::per_second(answer.rates.copies)),
        ("bits in".to_owned(), unit::bits_per_second(answer.traffic.bits_in)),
        ("bits out".to_owned(), unit::bits_per_second(answer.traffic.bits_out)),
        ("cores busy".to_owned(), unit::number(answer.cores_busy)),
        ("shards".to_owned(), shards(answer.shards)),
        ("memory".to_owned(), unit::bytes(answer.memory_bytes)),
    ]);
    text += &pairs(&lines);
    text += &format!("{}\n", verdict(answer));
    text += "of what there is:\n";
    let uses: Vec<_> = answer
        .uses
        .iter()
        .map(|it| (it.resource.to_owned(), format!("{} ({})", unit::percent(it.share()), of(it))))
        .collect();
    text += &pairs(&uses);
    if !changes.is_empty() {
        text += "if it changes:\n";
        text += &changes_table(changes);
    }
    for note in notes(answer, calibration) {
        text += &format!("note: {note}\n");
    }
    text
}

/// Shards in words.
pub fn shards(shards: Option<u32>) -> String {
    shards.map_or("none suffice".to_owned(), |shards| unit::count(shards.into()))
}

/// Whether it fits, and what ends first.
pub fn verdict(answer: &Answer) -> String {
    let left = unit::percent(answer.headroom);
    let Some(shards) = answer.shards else {
        return format!(
            "The costliest channel takes {} cores, which no shard has with {left} left free: a \
             channel cannot be shared by cores.",
            unit::number(answer.placement.costliest_alone)
        );
    };
    let (word, each) = if shards == 1 { ("shard", "") } else { ("shards", "each ") };
    let mut sentence = format!(
        "It takes {} {word}, {each}on a core of its own and with {left} of it left free.",
        unit::count(shards.into())
    );
    if let Some(first) = answer.uses.first() {
        sentence += &match first.share() {
            share if share > 1.0 => format!(
                " This host is too small: {} would be used to {}.",
                first.resource,
                unit::percent(share)
            ),
            share => format!(
                " What ends first is {}, at {} times as much.",
                first.resource,
                unit::number(1.0 / share)
            ),
        };
    }
    sentence
}

/// An amount of its whole.
pub fn of(it: &Use) -> String {
    let text = |amount: f64| match it.unit {
        Unit::Cores => unit::short(&unit::number(amount)),
        Unit::Sessions => unit::count(amount.ceil() as u64),
        Unit::BitsPerSecond => unit::bits_per_second(amount),
        Unit::Bytes => unit::bytes(amount),
    };
    format!("{} of {}", text(it.needed), text(it.available))
}

/// What the answer rests on and leaves out.
pub fn notes(answer: &Answer, calibration: &Calibration) -> Vec<String> {
    let mut notes = Vec::new();
    let Host { kernel, cpu, commit } = &calibration.host;
    if !calibration.is_good() {
        notes.push(format!(
            "the costs were {} off what they had not been fitted to: take this answer as a guess",
            worst(&calibration.checked)
        ));
    }
    let (ours, theirs) = (crate::load::machine::commit(), commit.as_deref());
    if ours.as_deref() != theirs {
        let theirs = theirs.unwrap_or("an unknown commit");
        notes.push(format!("costs are those of {theirs}, not of this program"));
    }
    notes.push(format!(
        "costs were measured on loopback ({cpu}, Linux {kernel}): what a network card's interrupts \
         take is not in them; leave a core to those and to control"
    ));
    let known = |name: &str| answer.uses.iter().any(|it| it.resource.contains(name));
    if !known("network") {
        notes.push("how fast the network card is could not be read: give --nic".to_owned());
    }
    notes
}

fn changes_table(changes: &[Change]) -> String {
    let head = ["", "packets out", "bits out", "cores busy", "shards"].map(str::to_owned);
    let rows = changes.iter().map(|it| {
        [
            it.input.to_owned(),
            unit::per_second(it.copies),
            unit::bits_per_second(it.bits_out),
            unit::number(it.cores_busy),
            shards(it.shards),
        ]
    });
    let mut text = String::new();
    for [input, copies, bits, cores, shards] in std::iter::once(head).chain(rows) {
        let _ = writeln!(text, "  {input:<24}{copies:>12}{bits:>14}{cores:>12}{shards:>14}");
    }
    text
}

/// The arithmetic.
pub fn explain(answer: &Answer) -> String {
    let mut text = String::from("\narithmetic:\n");
    for line in steps(answer) {
        text += &format!("  {line}\n");
    }
    text
}

/// The arithmetic, a step a line.
pub fn steps(answer: &Answer) -> Vec<String> {
    let n = |number: f64| unit::short(&unit::number(number));
    let mut steps = Vec::new();
    for (demand, (name, terms)) in answer.demands.iter().zip(&answer.terms) {
        let each = &demand.each;
        steps.push(format!("{} {name} ({}); in one of them, each second:", n(demand.count), {
            &demand.mode
        }));
        steps.push(format!(
            "  {} packets come, each goes to {} others: {} copies in {} passes through the stack",
            n(each.received),
            n(demand.members - 1.0),
            n(each.copies),
            n(each.traversals)
        ));
        steps.extend(traffic(demand));
        for term in terms {
            steps.push(format!(
                "  {:<30} {:>12}/s × {:>9} = {:>9} cores",
                term.name,
                n(term.amount),
                unit::duration(term.each_ns),
                n(term.cores)
            ));
        }
    }
    let Placement { shards, counted, bound, costliest, costliest_alone, .. } = &answer.placement;
    let Placement { full, each, dearest, waking_cores, .. } = &answer.placement;
    let linear = |terms: &[Term]| terms.iter().map(|term| term.cores).sum::<f64>();
    let total: f64 = answer.terms.iter().map(|(_, terms)| linear(terms)).sum();
    let usable = 1.0 - answer.headroom;
    steps.push(format!(
        "all channels: {} cores; the costliest of them {}, and alone on a shard, with waking up, {}",
        n(total),
        n(*costliest),
        n(*costliest_alone)
    ));
    steps.push(format!(
        "a shard as busy as it may be, for which all of it comes, {}/s packets of speech, frames of \
         video, heartbeats and browsers' checks,",
        n(answer.rates.arrivals())
    ));
    steps.extend(waking(full, answer));
    steps.push(match (shards, bound) {
        (None, _) => format!("{} > {}: it fits no shard", n(*costliest_alone), n(usable)),
        (Some(shards), None) => {
            format!("each channel fits a shard alone: no more than {shards} shards")
        }
        (Some(shards), Some(bound)) => placing(*shards, bound, usable),
    });
    let is_one = *counted == 1.0;
    steps.push(match shards {
        None => {
            format!("if they had shards all the same, {} with equal parts of all,", n(*counted))
        }
        Some(_) if is_one => "on it".to_owned(),
        Some(_) => "with equal parts of all each shard".to_owned(),
    });
    steps.extend(waking(each, answer));
    if dearest.cores > each.cores {
        steps.push("the one with the channel that wakes it for most".to_owned());
        steps.extend(waking(dearest, answer));
    }
    if !is_one {
        steps.push(format!(
            "waking all of them: {} × {} + {} = {} cores",
            n(counted - 1.0),
            n(each.cores),
            n(dearest.cores),
            n(*waking_cores)
        ));
    }
    steps.push(format!(
        "cores busy: {} for channels + {} for waking {} + {} with nobody there = {}",
        n(total),
        n(*waking_cores),
        if is_one { "the shard" } else { "all shards" },
        n(answer.base_cores),
        n(answer.cores_busy)
    ));
    for (direction, packets, bits) in [
        ("in", answer.rates.received, answer.traffic.bits_in),
        ("out", answer.rates.copies, answer.traffic.bits_out),
    ] {
        steps.push(format!(
            "the network card, {direction}: {} + {} × {ETHERNET_BYTES} B of Ethernet × 8 = {}",
            unit::bits_per_second(bits),
            unit::per_second(packets),
            unit::bits_per_second(on_the_wire(packets, bits))
        ));
    }
    let Rates { sessions, browsers, told_of, .. } = answer.rates;
    let [session, browser, told] = answer.memory_each_bytes.map(unit::bytes);
    steps.push(format!(
        "memory: {} with nobody there + {} sessions × {session} + {} browsers × {browser} + {} others \
         that they were told of when all joined × {told} = {}",
        unit::bytes(answer.memory_base_bytes),
        n(sessions - browsers),
        n(browsers),
        n(told_of),
        unit::bytes(answer.memory_bytes)
    ));
    steps
}

/// How many shards suffice for channels in any order.
fn placing(shards: u32, bound: &Bound, usable: f64) -> String {
    let n = |number: f64| unit::short(&unit::number(number));
    let Bound { with_own_halts, total, largest, reserve } = *bound;
    let mut text = format!("{} − {} for waking up: {}", n(usable), n(reserve), n(usable - reserve));
    if with_own_halts {
        text += &format!(
            " for channels, each with its own wake-ups of a halted core; all {}, the costliest {}",
            n(total),
            n(largest)
        );
    } else {
        text += " for channels";
    }
    let (total, largest, usable) = (n(total), n(largest), n(usable - reserve));
    text + &match shards {
        1 => format!("; {total} ≤ {usable}: one shard is enough"),
        _ => format!(
            "; in any order, each to the shard with the least to do: ({total} − {largest}) / \
             ({usable} − {largest}), rounded up: {shards} shards"
        ),
    }
}

/// How often a shard wakes up, and what that takes.
fn waking(waking: &Waking, answer: &Answer) -> Vec<String> {
    let n = |number: f64| unit::short(&unit::number(number));
    let Waking { busy, at_rest, halts, pausing, hearers, pauses, cores } = waking;
    let asleep = |at_rest: f64, term: &Term, awake_s: f64| {
        let (at_rest, awake) = (n(at_rest), unit::duration(1e9 * awake_s));
        format!("{at_rest} / (1 + {at_rest} × {awake}) = {}/s", n(term.amount))
    };
    let (wake_ns, cold_ns) = answer.wake_ns;
    vec![
        format!("  is {} busy; {}/s come while it is not", unit::percent(*busy), n(*at_rest)),
        format!(
            "  on a halted core: {} × {}",
            asleep(*at_rest, halts, HALT_S),
            unit::duration(halts.each_ns)
        ),
        format!(
            "  after a pause: {} × ({} + {} hearers × {})",
            asleep(*pausing, pauses, WARM_S),
            unit::duration(wake_ns),
            n(*hearers),
            unit::duration(cold_ns)
        ),
        format!("  waking up: {} + {} = {} cores", n(halts.cores), n(pauses.cores), n(*cores)),
    ]
}

/// Bits in and out of a channel.
fn traffic(demand: &Demand) -> Vec<String> {
    let n = |number: f64| unit::short(&unit::number(number));
    let Some(encryption) = Encryption::from_name(&demand.mode) else { return Vec::new() };
    let (around_theirs, around_ours) = bytes_around(encryption);
    let Rates { received, copies, payload_bytes, .. } = demand.each;
    let payload = payload_bytes / (received + copies).max(f64::MIN_POSITIVE);
    let bits = |direction, packets: f64, around: f64| {
        let bits = unit::bits_per_second(8.0 * packets * (payload + around));
        let (packets, payload) = (n(packets), n(payload));
        let bytes = format!("({payload} B of payload + {around} around it)");
        format!("  {packets}/s × {bytes} × 8 = {bits} {direction}")
    };
    vec![bits("in", received, around_theirs), bits("out", copies, around_ours)]
}

/// `{"answer": …, "fits": …, "sensitivity": […], "calibration": …}`.
pub fn json(answer: &Answer, changes: &[Change], calibration: &Calibration) -> String {
    #[derive(Serialize)]
    struct Costs<'a> {
        host: &'a Host,
        made_at: &'a str,
        is_good: bool,
        worst_error: Option<f64>,
    }
    #[derive(Serialize)]
    struct All<'a> {
        answer: &'a Answer,
        fits: bool,
        sensitivity: &'a [Change],
        calibration: Costs<'a>,
        notes: Vec<String>,
    }
    let errors = calibration.checked.iter().map(|residual| residual.error().abs());
    let calibrated = Costs {
        host: &calibration.host,
        made_at: &calibration.made_at,
        is_good: calibration.is_good(),
        worst_error: errors.reduce(f64::max),
    };
    let all = All {
        answer,
        fits: answer.fits(),
        sensitivity: changes,
        calibration: calibrated,
        notes: notes(answer, calibration),
    };
    serde_json::to_string_pretty(&all).expect("an answer is plain values") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{
        answer::sensitivity,
        calibration::FORMAT,
        host::Resources,
        model::{Model, tests::round_model},
        profile::{Channels, Profile},
    };

    fn calibrated() -> Calibration {
        let host = Host { kernel: "6.18".into(), cpu: "a processor".into(), commit: None };
        let made_at = "2026-11-22T12:00:00Z".to_owned();
        let model = round_model();
        Calibration { format: FORMAT, host, made_at, model, fitted: vec![], checked: vec![] }
    }

    fn guild(members: u32) -> Profile {
        Profile {
            name: "a guild".to_owned(),
            channels: vec![Channels { count: 60, ..Channels::of(members) }],
        }
    }

    fn answered(profile: &Profile) -> Answer {
        let resources = Resources { cores: Some(2.0), memory_bytes: Some(1e9), network_bits: None };
        Answer::of(profile, &round_model(), 0.5, &resources).unwrap()
    }

    #[test]
    fn an_answer_says_what_it_takes_and_what_is_not_known() {
        let profile = guild(101);
        let found = answered(&profile);
        let changes = sensitivity(&profile, &round_model(), 0.5, &Resources::default());
        let text = answer(&found, &changes, &calibrated());
        for part in [
            "packets out     300 k/s",
            "bits out     557 Mbit/s",
            "It takes 3 shards, each on a core of its own and with 50.0 % of it left free.",
            "This host is too small: cores for shards would be used to 150 %.",
            "twice the members",
            "give --nic",
            "take this answer as a guess",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn the_arithmetic_can_be_followed() {
        let text = explain(&answered(&guild(101)));
        for part in [
            "60 channels of 101 (aead_aes256_gcm_rtpsize)",
            "50 packets come, each goes to 100 others: 5,000 copies",
            "300,000/s ×   1.00 µs =       0.3 cores",
            "on a halted core: 1,570 / (1 + 1,570 × 100 µs) = 1,360/s × 10.0 µs",
            "after a pause: 1,570 / (1 + 1,570 × 10.0 ms) = 94/s × (100 µs + 95.3 hearers × 0 ns)",
            "(0.978 − 0.0163) / (0.477 − 0.0163), rounded up: 3 shards",
            "  is 34.1 % busy; 691/s come while it is not",
            "waking all of them: 2 × 0.0152 + 0.0152 = 0.0456 cores",
            "0.978 for channels + 0.0456 for waking all shards + 0.001 with nobody there = 1.02",
            "5,000/s × (160 B of payload + 72 around it) × 8 = 9.28 Mbit/s out",
            "9.54 MiB with nobody there + 6,060 sessions × 48.8 KiB + 0 browsers",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let large = explain(&answered(&guild(4_000)));
        assert!(large.contains("fits no shard") && large.contains("cores busy: "), "{large}");
        // A stage keeps nearly half of a core busy, and pairs whose halts many shards share.
        let pairs = Channels { count: 1_000, ..Channels::of(2) };
        let channels = vec![Channels::of(2_000), pairs];
        let mixed = Profile { name: String::new(), channels };
        let model = Model { cold_ns: 1_500.0, ..round_model() };
        let mixed = explain(&Answer::of(&mixed, &model, 0.5, &Resources::default()).unwrap());
        for part in [
            "for channels, each with its own wake-ups of a halted core; all ",
            "the one with the channel that wakes it for most",
            "× (100 µs + 1,010 hearers × 1.50 µs)",
        ] {
            assert!(mixed.contains(part), "{part}\n{mixed}");
        }
        let channels = vec![Channels::of(3_000), Channels::of(3_000)];
        let apart = explain(&answered(&Profile { name: String::new(), channels }));
        assert!(
            apart.contains("each channel fits a shard alone: no more than 2 shards"),
            "{apart}"
        );
    }

    #[test]
    fn json_has_the_same_numbers() {
        let found = answered(&guild(101));
        let text = json(&found, &[], &calibrated());
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["answer"]["shards"], 3);
        assert_eq!(json["answer"]["rates"]["copies"], 300_000.0);
        assert_eq!(json["fits"], false);
        assert_eq!(json["calibration"]["is_good"], false, "nothing was checked");
        assert!(json["notes"][0].as_str().unwrap().contains("guess"));
    }

    #[test]
    fn residuals_and_their_verdict_are_shown() {
        let mut calibrated = calibrated();
        let text = calibration(&calibrated);
        assert!(text.contains("a pass through the UDP stack") && text.contains("2.00 µs"));
        assert!(text.contains("NOT good"), "nothing was checked");
        let observation = crate::plan::calibration::Observation {
            name: "check".to_owned(),
            mode: String::new(),
            rates: Default::default(),
            cores: 0.2,
            separate: None,
            memory: None,
        };
        calibrated.checked = vec![Residual { observation, predicted: 0.21 }];
        let text = calibration(&calibrated);
        assert!(text.contains("measured 0.2000 cores, predicted 0.2100,   +5.0 %"), "{text}");
        assert!(text.contains("the model is good: at most 5.00 % off"), "{text}");
    }
}
