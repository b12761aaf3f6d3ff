//! The answer of `stentor plan` as a page: what it takes, what ends first, how it changes, the
//! arithmetic, and how good the costs are. Drawn with the parts of `load`'s reports.

use super::{
    answer::{Answer, Change, growth},
    calibration::{Calibration, ERROR_MAX, Residual},
    host::Resources,
    profile::Profile,
    text,
};
use crate::load::report::{
    axis::Axis,
    figure::{self, Figure, Table},
    markup::Markup,
    picture::{Ink, Part, Plane, Rows},
    unit,
};

/// Points of the curve of growth, from a quarter of all members to four times as many.
const GROWTH_POINTS: u32 = 48;

/// The page.
pub fn page(
    answer: &Answer,
    changes: &[Change],
    profile: Option<&Profile>,
    calibration: &Calibration,
    resources: &Resources,
) -> String {
    let mut body = Markup::new();
    body.raw("<main><h1>").text(&answer.name).raw("</h1><p class=\"quiet\">");
    body.raw("What it takes, by what things were measured to cost.</p>");
    let word = if answer.fits() { "It fits." } else { "It does not fit." };
    let notes = text::notes(answer, calibration);
    body.append(&figure::judgement(answer.fits(), word, &text::verdict(answer), &notes));
    body.append(&figure::numbers(&[
        (text::shards(answer.shards), "shards".to_owned()),
        (unit::number(answer.cores_busy), "cores busy".to_owned()),
        (unit::per_second(answer.rates.copies), "packets out".to_owned()),
        (unit::per_second(answer.rates.received), "packets in".to_owned()),
        (unit::bits_per_second(answer.traffic.bits_out), "out".to_owned()),
        (unit::bits_per_second(answer.traffic.bits_in), "in".to_owned()),
        (unit::bytes(answer.memory_bytes), "memory".to_owned()),
        (unit::number(answer.rates.sessions), "sessions".to_owned()),
    ]));
    let mut figures = vec![uses(answer), costs(answer)];
    figures.extend(profile.map(|profile| members(answer, profile, calibration, resources)));
    figures.extend((!changes.is_empty()).then(|| sensitivity(changes)));
    body.append(&figure::chapter("What it takes", &figures));
    body.raw("<section><h2>The arithmetic</h2><pre>");
    body.text(text::steps(answer).join("\n")).raw("</pre></section>");
    let residuals: Vec<_> = calibration.fitted.iter().chain(&calibration.checked).collect();
    if !residuals.is_empty() {
        body.append(&figure::chapter("How good the costs are", &[errors(&residuals, calibration)]));
    }
    body.raw("<section><h2>Circumstances</h2>");
    let host = &calibration.host;
    body.append(&figure::facts(&[
        ("Costs of", calibration.made_at.clone()),
        ("Commit", host.commit.clone().unwrap_or_else(|| unit::NONE.to_owned())),
        ("Kernel", host.kernel.clone()),
        ("Processor", host.cpu.clone()),
    ]));
    body.raw("</section></main>");
    figure::page(format_args!("{} – stentor plan", answer.name), &body)
}

/// Resources, each by how much of it is taken.
fn uses(answer: &Answer) -> Figure {
    let most = answer.uses.iter().map(|it| it.share()).filter(|share| share.is_finite());
    let axis = Axis::linear("of what there is", most.fold(1.0, f64::max), |share| {
        unit::short(&unit::percent(share))
    });
    let mut rows = Rows::new(axis);
    let mut table = Table::new("Resources", &["", "taken", "share"]);
    for it in &answer.uses {
        let ink = if it.share() > 1.0 { Ink::Loss } else { Ink::Server };
        let share = unit::percent(it.share());
        let part = Part { ink, to: it.share(), title: text::of(it) };
        rows.bar(it.resource, &share, &[part]);
        table.row([it.resource.to_owned(), text::of(it), share.clone()]);
    }
    Figure {
        id: "uses",
        title: "What ends first".to_owned(),
        finding: text::verdict(answer),
        legend: vec![],
        solid: true,
        picture: rows.finish(),
        tables: vec![table],
    }
}

/// Where processor time goes.
fn costs(answer: &Answer) -> Figure {
    let mut sums: Vec<(&str, f64)> = Vec::new();
    let all = answer.terms.iter().flat_map(|(_, terms)| terms);
    for (name, cores) in all.map(|term| (term.name, term.cores)).chain([
        ("waking up", answer.placement.waking_cores),
        ("with nobody there", answer.base_cores),
    ]) {
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += cores,
            None => sums.push((name, cores)),
        }
    }
    let most = sums.iter().map(|(_, cores)| *cores).fold(0.0, f64::max);
    let axis = Axis::linear("cores", most, |cores| unit::short(&unit::number(cores)));
    let mut rows = Rows::new(axis);
    for (name, cores) in &sums {
        let title = format!("{} cores", unit::number(*cores));
        rows.bar(name, &title.clone(), &[Part { ink: Ink::Server, to: *cores, title }]);
    }
    let first = sums.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let finding = first.map_or(String::new(), |(name, cores)| {
        let part = if answer.cores_busy > 0.0 { cores / answer.cores_busy } else { 0.0 };
        format!("Most of it, {}, goes to {name}.", unit::percent(part))
    });
    Figure {
        id: "costs",
        title: "Where processor time goes".to_owned(),
        finding,
        legend: vec![],
        solid: true,
        picture: rows.finish(),
        tables: vec![],
    }
}

/// How processor time grows with the members of every channel.
fn members(
    answer: &Answer,
    profile: &Profile,
    calibration: &Calibration,
    resources: &Resources,
) -> Figure {
    let factor = |point: u32| 0.25 * 16f64.powf(f64::from(point) / f64::from(GROWTH_POINTS));
    let factors: Vec<_> = (0..=GROWTH_POINTS).map(factor).collect();
    let curve = growth(profile, &calibration.model, answer.headroom, resources, &factors);
    let usable = resources.cores.map(|cores| cores * (1.0 - answer.headroom));
    let most = curve.iter().map(|(_, cores)| *cores).chain(usable).fold(0.0, f64::max);
    let mut plane = Plane::new(
        Axis::logarithmic("times the members, logarithmic", 0.25, 4.0, |factor| {
            unit::short(&unit::number(factor))
        }),
        Axis::linear("cores busy", most, |cores| unit::short(&unit::number(cores))),
    );
    if let Some(usable) = usable {
        plane.level(Ink::Limit, usable, "this host's, less the headroom");
    }
    plane.curve(Ink::Server, curve.iter().copied().map(Some));
    plane.curve(Ink::Bound, [Some((1.0, answer.cores_busy))]);
    Figure {
        id: "members",
        title: "If channels grow".to_owned(),
        finding: "Every channel with so many times its members, as many of them talking."
            .to_owned(),
        legend: vec![(Ink::Server, "cores busy".to_owned()), (Ink::Bound, "as asked".to_owned())],
        solid: false,
        picture: plane.finish(),
        tables: vec![],
    }
}

/// The answer to other questions nearby.
fn sensitivity(changes: &[Change]) -> Figure {
    let most = changes.iter().map(|it| it.cores_busy).fold(0.0, f64::max);
    let axis = Axis::linear("cores busy", most, |cores| unit::short(&unit::number(cores)));
    let mut rows = Rows::new(axis);
    let head = ["", "packets out", "out", "cores busy", "shards"];
    let mut table = Table::new("If it changes", &head);
    for (place, it) in changes.iter().enumerate() {
        let (ink, cores) = (if place == 0 { Ink::Bound } else { Ink::Server }, it.cores_busy);
        let title = format!("{} cores", unit::number(cores));
        rows.bar(it.input, &unit::number(cores), &[Part { ink, to: cores, title }]);
        table.row([
            it.input.to_owned(),
            unit::per_second(it.copies),
            unit::bits_per_second(it.bits_out),
            unit::number(cores),
            text::shards(it.shards),
        ]);
    }
    Figure {
        id: "changes",
        title: "If it changes".to_owned(),
        finding: "One input at a time, all else as asked.".to_owned(),
        legend: vec![],
        solid: true,
        picture: rows.finish(),
        tables: vec![table],
    }
}

/// How far predictions were off.
fn errors(residuals: &[&Residual], calibration: &Calibration) -> Figure {
    let most = residuals.iter().map(|it| it.error().abs()).filter(|it| it.is_finite());
    let axis = Axis::linear("error", most.fold(ERROR_MAX, f64::max), |error| {
        unit::short(&unit::percent(error))
    });
    let mut rows = Rows::new(axis);
    let head = ["", "measured, cores", "predicted", "error", "part in the fit"];
    let mut table = Table::new("Runs that the costs were made of and checked on", &head);
    for (place, it) in residuals.iter().enumerate() {
        let is_fitted = place < calibration.fitted.len();
        let ink = match it.is_good() {
            false => Ink::Loss,
            true if is_fitted => Ink::ServerFaint,
            true => Ink::Server,
        };
        let error = format!("{:+.1} %", 100.0 * it.error());
        let part = Part { ink, to: it.error().abs(), title: error.clone() };
        rows.bar(&it.observation.name, &error, &[part]);
        table.row([
            it.observation.name.clone(),
            unit::number(it.observation.cores),
            unit::number(it.predicted),
            error,
            if is_fitted { "yes" } else { "no" }.to_owned(),
        ]);
    }
    let word = if calibration.is_good() { "all within" } else { "NOT all within" };
    Figure {
        id: "errors",
        title: "Predicted and measured".to_owned(),
        finding: format!(
            "Predictions of runs that had no part in the fit: {word} {} of what was measured.",
            unit::percent(ERROR_MAX)
        ),
        legend: vec![
            (Ink::ServerFaint, "fitted".to_owned()),
            (Ink::Server, "not fitted".to_owned()),
            (Ink::Loss, "too far off".to_owned()),
        ],
        solid: true,
        picture: rows.finish(),
        tables: vec![table],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{
        answer::sensitivity,
        calibration::{FORMAT, Host, Observation},
        model::tests::round_model,
        profile::Channels,
    };

    fn page_of(name: &str, members: u32) -> String {
        let observation = Observation {
            name: name.to_owned(),
            mode: String::new(),
            rates: Default::default(),
            cores: 0.2,
            separate: None,
            memory: None,
        };
        let calibration = Calibration {
            format: FORMAT,
            host: Host { kernel: name.into(), cpu: name.into(), commit: Some(name.into()) },
            made_at: "2026-11-22T12:00:00Z".to_owned(),
            model: round_model(),
            fitted: vec![Residual { observation: observation.clone(), predicted: 0.19 }],
            checked: vec![Residual { observation, predicted: 0.25 }],
        };
        let profile = Profile {
            name: name.to_owned(),
            channels: vec![Channels { count: 60, ..Channels::of(members) }],
        };
        let resources = Resources { cores: Some(4.0), ..Resources::default() };
        let (model, headroom) = (&calibration.model, 0.5);
        let answer = Answer::of(&profile, model, headroom, &resources).unwrap();
        let changes = sensitivity(&profile, model, headroom, &resources);
        page(&answer, &changes, Some(&profile), &calibration, &resources)
    }

    fn pictures(page: &str) -> usize {
        let options =
            roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
        let document = roxmltree::Document::parse_with_options(page, options).unwrap();
        document.descendants().filter(|node| node.tag_name().name() == "figure").count()
    }

    #[test]
    fn the_page_is_well_formed_whatever_the_names_and_sizes() {
        for members in [1, 101, 4_000] {
            let page = page_of("</title><script>x</script>&\"", members);
            assert_eq!(pictures(&page), 5);
            assert!(!page.contains("<script") && !page.contains("NaN"));
        }
    }

    #[test]
    fn the_page_says_what_the_text_says() {
        let page = page_of("a guild", 101);
        assert!(page.contains("It fits.") && page.contains("It takes 3 shards"));
        assert!(page.contains("+25.0 %") && page.contains("NOT all within"));
        assert!(page.contains("rounded up: 3 shards"));
    }
}
