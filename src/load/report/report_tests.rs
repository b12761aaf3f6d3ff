//! Pages of runs that never were, read back as XML: well-formed whatever is in them, with the
//! result's own numbers and nobody else's markup. Part of `report`.

use roxmltree::{Document, Node, ParsingOptions};

use super::*;
use crate::load::{
    result::{Breakage, FindMax, Latency, Phase, Resource, Second, Step},
    sample::Sample,
};

/// A page that uses everything: a bound, phases, losses, a search.
fn rich() -> RunResult {
    let mut result = Sample { bound: true, loss: 0.01, ..Sample::default() }.result();
    let phase = |name: &str, from_s, to_s| Phase {
        name: name.to_owned(),
        from_s,
        to_s,
        ..result.overall.clone()
    };
    result.phases = vec![phase("before", 0, 10), phase("storm", 10, 15), phase("after", 15, 40)];
    result.phases[1].latency.p99_ns *= 3;
    let broke = Breakage {
        what: "p99".to_owned(),
        resource: Resource::Core,
        why: "the thread `shard 0` had its core to 99 %".to_owned(),
    };
    let step = |value, held, p99_ns| Step {
        value,
        held,
        forwarded_per_s: f64::from(value) * 50.0,
        p99_ns,
        loss: 0.0,
        busiest_thread: Some(f64::from(value) / 1_000.0),
        broke: (!held).then(|| broke.clone()),
    };
    result.find_max = Some(FindMax {
        dimension: "listeners".to_owned(),
        p99_max_ns: 1_000_000,
        loss_max: 0.001,
        steps: vec![
            step(200, true, 210_000),
            step(400, true, 420_000),
            step(800, false, 4_000_000),
            step(600, true, 830_000),
        ],
        held: Some(600),
        broke: Some(broke),
    });
    result
}

fn parse<T>(page: &str, look: impl FnOnce(&Document<'_>) -> T) -> T {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    look(&Document::parse_with_options(page, options).expect("the page is well-formed"))
}

fn named<'a>(document: &'a Document<'_>, name: &str) -> Vec<Node<'a, 'a>> {
    document.descendants().filter(|node| node.tag_name().name() == name).collect()
}

fn text_of(node: Node<'_, '_>) -> String {
    node.descendants().filter_map(|node| node.is_text().then(|| node.text()).flatten()).collect()
}

/// Cells of the table with this caption.
fn table(page: &str, caption: &str) -> Vec<Vec<String>> {
    parse(page, |document| {
        let is_it = |table: &Node<'_, '_>| {
            let caption_of = |node: &Node<'_, '_>| node.tag_name().name() == "caption";
            table.children().find(caption_of).is_some_and(|found| text_of(found) == caption)
        };
        let table = named(document, "table").into_iter().find(is_it).expect(caption);
        let rows = table.descendants().filter(|node| node.tag_name().name() == "tr");
        rows.map(|row| row.children().filter(Node::is_element).map(text_of).collect()).collect()
    })
}

#[test]
fn a_report_is_one_well_formed_file_that_asks_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write(&rich(), dir.path()).unwrap();
    let page = fs::read_to_string(dir.path().join(REPORT_FILE)).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    for asking in ["src=", "href=", "url(", "@import", "<script", "<link", "<iframe"] {
        assert!(!page.contains(asking), "{asking}");
    }
    parse(&page, |document| {
        let ids: Vec<_> = document.descendants().filter_map(|it| it.attribute("id")).collect();
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(ids.len(), distinct.len());
        assert_eq!(named(document, "figure").len(), 8);
        for svg in named(document, "svg") {
            if svg.attribute("aria-hidden").is_some() {
                continue;
            }
            let labels = svg.attribute("aria-labelledby").expect("a picture has a name");
            for label in labels.split(' ') {
                let found = document.descendants().find(|it| it.attribute("id") == Some(label));
                assert!(!text_of(found.expect(label)).is_empty());
            }
        }
    });
}

#[test]
fn its_numbers_are_the_results() {
    let result = rich();
    let page = run::page(&result);
    let (latency, bound) = (&result.overall.latency, result.bound.as_ref().unwrap());
    let rows = table(&page, "Latency by percentile");
    let row = |name: &str| rows.iter().find(|row| row[0] == name).unwrap().clone();
    for (name, ours, theirs) in [
        ("p50", latency.p50_ns, bound.overall.latency.p50_ns),
        ("p99", latency.p99_ns, bound.overall.latency.p99_ns),
        ("p99.99", latency.p99_99_ns, bound.overall.latency.p99_99_ns),
    ] {
        let ratio = unit::ratio(ours as f64 / theirs as f64);
        let expected = [name.to_owned(), unit::nanoseconds(ours), unit::nanoseconds(theirs), ratio];
        assert_eq!(row(name), expected);
    }
    let rows = table(&page, "Every second");
    assert_eq!(rows.len(), 1 + result.seconds.len());
    assert_eq!(rows[1][6], unit::nanoseconds(result.seconds[0].p99_ns.unwrap()));
    assert_eq!(rows[2][1], "bare loop");
    let rows = table(&page, "What it cost");
    assert_eq!(rows[2], ["per copy", "2.90 µs", "2.42 µs"]);
    assert!(page.contains("1.20 times what a loop takes"));
    let rows = table(&page, "Why joins failed");
    assert_eq!(rows[1], ["4006", "2", "session no longer valid"]);
    let rows = table(&page, "Every step, in the order they were made");
    assert_eq!(rows[3][..3], ["800", "40.0 k/s", "4.00 ms"]);
    let rows = table(&page, "Hearers with losses or other wrongs, the worst first");
    let lost: u64 = rows[1..].iter().map(|row| row[2].split(' ').next().unwrap()).map(number).sum();
    assert_eq!(lost, result.overall.hearing.lost);
}

fn number(text: &str) -> u64 {
    text.replace(',', "").parse().unwrap()
}

/// The curve is drawn through the point of the 99th percentile: two nines of four.
#[test]
fn a_picture_shows_what_the_table_says() {
    let mut result = Sample::default().result();
    result.overall.latency = Latency {
        count: 10_000,
        p50_ns: 100_000,
        p99_ns: 100_000,
        max_ns: 1_000_000,
        histogram: vec![(100_000, 9_900), (1_000_000, 100)],
        ..Latency::default()
    };
    let page = run::page(&result);
    let path = parse(&page, |document| {
        let svg = named(document, "svg").into_iter().find(|svg| {
            svg.attribute("aria-labelledby").is_some_and(|it| it.starts_with("percentiles"))
        });
        let is_curve = |node: &Node<'_, '_>| node.attribute("class") == Some("curve server");
        svg.unwrap().descendants().find(is_curve).unwrap().attribute("d").unwrap().to_owned()
    });
    // From 0 to half the width at the foot, up to the top, on to the right edge.
    assert_eq!(path, "M66 242L265 242L265 30L464 30");
}

#[test]
fn names_of_users_stay_names() {
    let hostile = "</title></style><script>alert(1)</script><img src=x onerror='a'>&\"\u{0}";
    let mut result = rich();
    result.scenario.name = hostile.to_owned();
    result.scenario.about = hostile.to_owned();
    result.scenario.mode = hostile.to_owned();
    result.about.command = vec![hostile.to_owned()];
    result.about.cpu = hostile.to_owned();
    result.about.endpoint = hostile.to_owned();
    result.about.commit = Some(hostile.to_owned());
    result.verdict.valid = false;
    result.verdict.reasons = vec![hostile.to_owned()];
    result.joins.failures[0].reason = hostile.to_owned();
    result.phases[0].name = hostile.to_owned();
    result.cost.as_mut().unwrap().busiest_thread_name = Some(hostile.to_owned());
    let found = result.find_max.as_mut().unwrap();
    found.dimension = hostile.to_owned();
    found.broke.as_mut().unwrap().why = hostile.to_owned();
    for page in [run::page(&result), comparison::page(&[result.clone(), result.clone()])] {
        parse(&page, |document| {
            assert!(named(document, "script").is_empty() && named(document, "img").is_empty());
            let title = named(document, "title")[0].text().unwrap();
            assert!(title.ends_with("– stentor load"));
        });
        assert!(!page.contains("<script") && !page.contains("<img"));
        assert!(page.contains("&lt;script&gt;"));
    }
}

#[test]
fn the_verdict_is_in_words() {
    let mut result = Sample::default().result();
    assert!(run::page(&result).contains("<strong>Valid.</strong>"));
    result.verdict.valid = false;
    result.verdict.reasons = vec!["the clock was set".to_owned()];
    let page = run::page(&result);
    assert!(page.contains("<strong>Not valid.</strong>") && page.contains("the clock was set"));
    assert!(comparison::page(&[result]).contains("the clock was set"));
}

#[test]
fn what_was_not_measured_is_left_out() {
    let mut result = Sample::default().result();
    result.cost = None;
    result.joins = Default::default();
    result.hearers.clear();
    result.seconds.clear();
    result.overall.latency = Latency::default();
    result.overall.hearing = Default::default();
    let page = run::page(&result);
    parse(&page, |document| assert!(named(document, "figure").is_empty()));
    assert!(page.contains("<b>–</b>"));
    parse(&comparison::page(&[]), |document| assert!(named(document, "figure").is_empty()));
    parse(&comparison::page(&[result]), |document| assert_eq!(named(document, "figure").len(), 1));
}

#[test]
fn no_value_is_too_extreme_to_be_drawn() {
    for value in [0, 1, u64::MAX] {
        let mut result = rich();
        let latency = Latency {
            count: value,
            min_ns: value,
            mean_ns: f64::INFINITY,
            p50_ns: value,
            p90_ns: value,
            p99_ns: value,
            p99_9_ns: value,
            p99_99_ns: value,
            max_ns: value,
            histogram: vec![(value, value)],
        };
        for phase in result.phases.iter_mut().chain([&mut result.overall]) {
            phase.latency = latency.clone();
            phase.hearing.expected = value;
            phase.hearing.lost = value;
        }
        result.joins.time = latency.clone();
        result.joins.attempted = value;
        result.joins.succeeded = value / 2;
        let bound = result.bound.as_mut().unwrap();
        bound.overall.latency = latency;
        bound.ratios.cpu_per_packet = Some(f64::NAN);
        for cost in [result.cost.as_mut().unwrap(), &mut bound.cost] {
            cost.cpu_ns_per_packet = Some(value as f64);
            cost.user_ns_per_packet = Some(f64::INFINITY);
        }
        result.seconds = vec![
            Second {
                second: u32::MAX,
                expected: value,
                lost: value,
                p50_ns: Some(value),
                p99_ns: Some(value),
                server_cores: Some(value as f64),
                ..Second::default()
            };
            2
        ];
        result.hearers[0].hearing.lost = value;
        let found = result.find_max.as_mut().unwrap();
        found.p99_max_ns = value;
        found.steps[0].value = u32::MAX;
        found.steps[1].p99_ns = value;
        for page in [run::page(&result), comparison::page(&[result])] {
            parse(&page, |document| {
                for node in document.descendants() {
                    for name in ["x", "y", "width", "height", "cx", "cy", "d"] {
                        let value = node.attribute(name).unwrap_or("");
                        assert!(!value.contains("NaN") && !value.contains("inf"), "{value}");
                    }
                }
            });
        }
    }
}
