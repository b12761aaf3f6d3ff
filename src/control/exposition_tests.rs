//! The metrics page, read back by a strict little parser of the exposition format.

use std::collections::{BTreeMap, HashSet};

use super::*;
use crate::id::ShardId;

#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

#[derive(Debug)]
struct Family {
    kind: String,
    samples: Vec<Sample>,
}

/// A strict reader of the text format: anything out of order or unescaped is an error.
fn read(page: &str) -> Result<BTreeMap<String, Family>, String> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current: Option<String> = None;
    let mut seen = HashSet::new();
    if !page.ends_with('\n') {
        return Err("no line feed at the end".to_owned());
    }
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, _) = help.split_once(' ').ok_or("help without text")?;
            let kind =
                lines.next().and_then(|line| line.strip_prefix("# TYPE ")).ok_or("no type")?;
            let (again, kind) = kind.split_once(' ').ok_or("type without kind")?;
            if again != name || !["counter", "gauge", "histogram"].contains(&kind) {
                return Err(format!("bad type of {name}"));
            }
            if (kind == "counter") != name.ends_with("_total") {
                return Err(format!("{name} is named like another kind"));
            }
            let family = Family { kind: kind.to_owned(), samples: Vec::new() };
            if families.insert(name.to_owned(), family).is_some() {
                return Err(format!("{name} comes twice"));
            }
            current = Some(name.to_owned());
            continue;
        }
        if !seen.insert(line.rsplit_once(' ').ok_or("no value")?.0.to_owned()) {
            return Err(format!("{line} comes twice"));
        }
        let sample = read_sample(line).ok_or_else(|| format!("not a sample: {line}"))?;
        let name = current.as_ref().ok_or("a sample before any family")?;
        let family = families.get_mut(name).ok_or("no family")?;
        let suffix = sample.name.strip_prefix(name.as_str()).ok_or("a sample of another family")?;
        let is_known = match family.kind.as_str() {
            "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
            _ => suffix.is_empty(),
        };
        if !is_known {
            return Err(format!("{} does not belong to {name}", sample.name));
        }
        family.samples.push(sample);
    }
    Ok(families)
}

fn read_sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let is_name = |text: &str| {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let mut map = BTreeMap::new();
    for label in labels.split(',').filter(|label| !label.is_empty()) {
        let (key, value) = label.split_once('=')?;
        let value = value.strip_prefix('"')?.strip_suffix('"')?;
        if !is_name(key) || value.contains(['"', '\\', '\n', ' ']) {
            return None;
        }
        if map.insert(key.to_owned(), value.to_owned()).is_some() {
            return None;
        }
    }
    is_name(name).then_some(())?;
    Some(Sample { name: name.to_owned(), labels: map, value: value.parse().ok()? })
}

fn report(shard: u16) -> ShardReport {
    let mut counters = Counters { packets_in: 5, stack_traversals: 3, ..Counters::default() };
    counters.dropped(DropReason::BadTag);
    let mut loop_time = Latency::default();
    for ns in [1, 2_000, 2_001, 999_999_999] {
        loop_time.record(ns);
    }
    ShardReport {
        shard: ShardId(shard),
        port: 50_000 + shard,
        counters,
        sessions: 7,
        channels: 2,
        connections: 9,
        limited: vec![("connections_per_address", 4), ("handshake", 0)],
        closes: vec![(4004, 6)],
        restarts: 1,
        loop_time,
        forwarding: Latency::default(),
        rooms: Vec::new(),
    }
}

fn page() -> BTreeMap<String, Family> {
    let control = ControlNumbers { shard_queues: vec![1, 2, 3], ..ControlNumbers::default() };
    read(&render(&[Some(report(0)), None, Some(report(2))], &control)).unwrap()
}

fn value(page: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let family =
        name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count");
    let samples = &page[family].samples;
    let is_wanted = |sample: &&Sample| {
        sample.name == name && labels.iter().all(|(key, value)| sample.labels[*key] == *value)
    };
    samples.iter().find(is_wanted).unwrap_or_else(|| panic!("{name} {labels:?}")).value
}

#[test]
fn every_number_of_a_report_is_on_the_page() {
    let page = page();
    let of = |name, label| value(&page, name, &[("shard", label)]);
    assert_eq!(of("stentor_packets_received_total", "2"), 5.0);
    assert_eq!(of("stentor_stack_traversals_total", "0"), 3.0);
    assert_eq!(of("stentor_sessions", "0"), 7.0);
    assert_eq!(of("stentor_shard_restarts_total", "2"), 1.0);
    assert_eq!(value(&page, "stentor_shard_info", &[("shard", "2"), ("udp_port", "50002")]), 1.0);
    assert_eq!(value(&page, "stentor_limited_total", &[("limit", "connections_per_address")]), 4.0);
    assert_eq!(value(&page, "stentor_closes_total", &[("shard", "2"), ("code", "4004")]), 6.0);
    assert_eq!(of("stentor_shard_queue", "1"), 2.0);
}

#[test]
fn every_drop_reason_is_there_even_at_zero() {
    let page = page();
    for reason in DropReason::ALL {
        let expected = if *reason == DropReason::BadTag { 1.0 } else { 0.0 };
        for shard in ["0", "2"] {
            let labels = [("shard", shard), ("reason", reason.label())];
            assert_eq!(value(&page, "stentor_drops_total", &labels), expected, "{reason:?}");
        }
    }
}

#[test]
fn a_shard_that_does_not_answer_is_down_and_says_nothing_else() {
    let page = page();
    let up: Vec<f64> = page["stentor_shard_up"].samples.iter().map(|sample| sample.value).collect();
    assert_eq!(up, [1.0, 0.0, 1.0]);
    let channels = &page["stentor_channels"].samples;
    assert!(channels.iter().all(|sample| sample.labels["shard"] != "1"));
}

#[test]
fn histograms_are_cumulative_and_in_seconds() {
    let page = page();
    let samples = &page["stentor_loop_seconds"].samples;
    let buckets: Vec<(f64, f64)> = samples
        .iter()
        .filter(|sample| sample.name.ends_with("_bucket") && sample.labels["shard"] == "0")
        .map(|sample| (sample.labels["le"].parse().unwrap(), sample.value))
        .collect();
    assert_eq!(buckets.len(), LATENCY_BOUNDS_NS.len() + 1);
    assert_eq!(buckets[0], (0.000002, 2.0));
    assert_eq!(buckets[1], (0.000005, 3.0));
    assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, 4.0));
    assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    assert_eq!(value(&page, "stentor_loop_seconds_count", &[("shard", "0")]), 4.0);
    assert_eq!(value(&page, "stentor_loop_seconds_sum", &[("shard", "0")]), 1.000004001);
}

#[test]
fn the_reader_of_these_tests_is_strict() {
    let head = "# HELP a b\n# TYPE a gauge\n";
    assert!(read(&format!("{head}a 1\n")).is_ok());
    for wrong in ["a 1", "a 1\na 1\n", "b 1\n", "a{x=1} 1\n", "a{x=\"1\" 1\n", "a x\n", "a\n"] {
        assert!(read(&format!("{head}{wrong}")).is_err(), "{wrong}");
    }
    assert!(read("# HELP a b\n# TYPE a counter\na 1\n").is_err());
}
