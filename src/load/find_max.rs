//! The most that a server carries: a search that doubles until a service level breaks and then
//! halves the distance, and the judgement of what broke. Values in, the next step out; playing the
//! steps is the caller's.

use super::{
    grants::GrantsError,
    result::{Breakage, FindMax, Resource, RunResult, Step},
    scenario::{Scenario, ScenarioError},
    stage::RunError,
};

/// Steps of a search at the most: ten doublings and six halvings.
const STEPS_MAX: usize = 16;

/// The search ends when what broke is less than this much more than what held: what a run of a few
/// seconds cannot tell apart.
const FINE_ENOUGH: f64 = 1.08;

/// A thread with this share of a core has all of it: the rest is the kernel's own work on it.
const SATURATED: f64 = 0.95;

/// What breaks by itself, whatever threads, sockets and cards were at.
const GENERATOR: &str = "generator";
const JOINS: &str = "joins";

/// What is raised, in the scenario's first channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dimension {
    /// Those who only listen, of each channel.
    Listeners,
    /// Those who speak, of each channel.
    Speakers,
    /// How many channels there are.
    Channels,
}

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServiceLevel {
    /// 99th percentile of latency, nanoseconds.
    pub p99_max_ns: u64,
    /// Lost copies as a fraction of those expected.
    pub loss_max: f64,
}

/// A search.
#[derive(Debug)]
pub struct Search {
    scenario: Scenario,
    dimension: Dimension,
    level: ServiceLevel,
    /// What ran out is not said before all of them are known.
    steps: Vec<(Step, Option<Failing>)>,
    held: Option<u32>,
    broken: Option<u32>,
}

/// What is known of a step that did not hold. A thread that spins (`media.busy_poll`) has all of
/// its core whatever it carries, so only lesser steps tell what having it means.
#[derive(Debug, Default)]
struct Failing {
    what: &'static str,
    finding: String,
    /// The server's busiest thread and its share of a core, if that is all of it.
    full: Option<(String, f64)>,
    socket_drops: u64,
    card_drops: u64,
}

impl Dimension {
    /// Its name, in results and as a flag.
    pub fn name(self) -> &'static str {
        match self {
            Dimension::Listeners => "listeners",
            Dimension::Speakers => "speakers",
            Dimension::Channels => "channels",
        }
    }

    fn of(self, scenario: &mut Scenario) -> &mut u32 {
        let channels = &mut scenario.channels[0];
        match self {
            Dimension::Listeners => &mut channels.listeners,
            Dimension::Speakers => &mut channels.speakers,
            Dimension::Channels => &mut channels.count,
        }
    }
}

impl Search {
    /// Begins with what the scenario has.
    pub fn new(scenario: Scenario, dimension: Dimension, level: ServiceLevel) -> Self {
        Self { scenario, dimension, level, steps: Vec::new(), held: None, broken: None }
    }

    /// The next step's value and scenario; `None` when the search has come to its end.
    pub fn next(&self) -> Option<(u32, Scenario)> {
        if self.steps.len() == STEPS_MAX {
            return None;
        }
        let value = match (self.held, self.broken) {
            (None, None) => (*self.dimension.of(&mut self.scenario.clone())).max(1),
            (Some(held), None) => self.at_most(held, held.saturating_mul(2))?,
            (None, Some(broken)) => Some(broken / 2).filter(|value| *value > 0)?,
            (Some(held), Some(broken)) => {
                let fine = f64::from(broken) <= f64::from(held) * FINE_ENOUGH;
                Some(held.midpoint(broken)).filter(|value| !fine && *value > held)?
            }
        };
        Some((value, self.with(value).ok()?))
    }

    /// The largest value up to `wanted` that makes a scenario, if it is more than `held`.
    fn at_most(&self, held: u32, wanted: u32) -> Option<u32> {
        let (mut good, mut bad) = (held, wanted);
        if self.with(wanted).is_ok() {
            return Some(wanted).filter(|value| *value > held);
        }
        while bad - good > 1 {
            let middle = good.midpoint(bad);
            if self.with(middle).is_ok() { good = middle } else { bad = middle }
        }
        Some(good).filter(|value| *value > held)
    }

    fn with(&self, value: u32) -> Result<Scenario, ScenarioError> {
        let mut scenario = self.scenario.clone();
        *self.dimension.of(&mut scenario) = value;
        scenario.checked()
    }

    /// A step has been played; `card_drops` is what network cards dropped meanwhile. Whether the
    /// service level held.
    pub fn played(&mut self, value: u32, result: &RunResult, card_drops: u64) -> bool {
        let failing = self.failing(result, card_drops);
        let held = failing.is_none();
        if held {
            self.held = self.held.max(Some(value));
        } else {
            self.broken = Some(self.broken.map_or(value, |broken| broken.min(value)));
        }
        let overall = &result.overall;
        let step = Step {
            value,
            held,
            forwarded_per_s: overall.hearing.heard as f64 / f64::from(result.scenario.duration_s),
            p99_ns: overall.latency.p99_ns,
            loss: overall.hearing.loss(),
            busiest_thread: busiest(result),
            broke: None,
        };
        self.steps.push((step, failing));
        held
    }

    /// A step could not even be played.
    pub fn failed(&mut self, value: u32, error: &RunError) {
        let finding = error.to_string();
        let failing = Failing { what: unable(error), finding, ..Failing::default() };
        self.broken = Some(self.broken.map_or(value, |broken| broken.min(value)));
        let step = Step {
            value,
            held: false,
            forwarded_per_s: 0.0,
            p99_ns: 0,
            loss: 1.0,
            busiest_thread: None,
            broke: None,
        };
        self.steps.push((step, Some(failing)));
    }

    /// What was found.
    pub fn found(self) -> FindMax {
        let had_time_below = |value: u32| {
            let lesser = self.steps.iter().filter(|(step, _)| step.value < value);
            let mut busiest = lesser.filter_map(|(step, _)| step.busiest_thread);
            busiest.any(|share| share < SATURATED)
        };
        let judged = self.steps.iter().map(|(step, failing)| {
            let broke = failing.as_ref().map(|it| it.breakage(had_time_below(step.value)));
            Step { broke, ..step.clone() }
        });
        let steps: Vec<_> = judged.collect();
        let lowest_broken = steps.iter().filter(|step| !step.held).min_by_key(|it| it.value);
        FindMax {
            dimension: self.dimension.name().to_owned(),
            p99_max_ns: self.level.p99_max_ns,
            loss_max: self.level.loss_max,
            held: self.held,
            broke: lowest_broken.and_then(|step| step.broke.clone()),
            steps,
        }
    }

    /// What broke; `None` if all held.
    fn failing(&self, result: &RunResult, card_drops: u64) -> Option<Failing> {
        let (hearing, latency) = (&result.overall.hearing, &result.overall.latency);
        let absent = result.joins.attempted - result.joins.succeeded;
        let broken: u64 = result.joins.broken.iter().map(|failure| failure.count).sum();
        let (what, finding) = if !result.verdict.valid {
            (GENERATOR, result.verdict.reasons.join("; "))
        } else if absent + broken > 0 {
            let all = result.joins.failures.iter().chain(&result.joins.broken);
            let first = all.max_by_key(|failure| failure.count);
            let why = first.map_or("", |failure| failure.reason.as_str());
            (JOINS, format!("{absent} clients were refused and {broken} cut off ({why})"))
        } else if hearing.loss() > self.level.loss_max {
            let loss = 100.0 * hearing.loss();
            ("loss", format!("{loss:.3} % of copies were lost"))
        } else if latency.p99_ns > self.level.p99_max_ns {
            ("p99", format!("the 99th percentile was {:.3} ms", latency.p99_ns as f64 / 1e6))
        } else {
            return None;
        };
        let cost = result.cost.as_ref();
        let name = cost.and_then(|cost| cost.busiest_thread_name.clone()).unwrap_or_default();
        let full = busiest(result).filter(|share| *share >= SATURATED).map(|share| (name, share));
        let socket_drops = cost.and_then(|cost| cost.socket_drops).unwrap_or(0);
        Some(Failing { what, finding, full, socket_drops, card_drops })
    }
}

impl Failing {
    /// What ran out; `had_time_below` says whether in a lesser step every thread had time to spare.
    fn breakage(&self, had_time_below: bool) -> Breakage {
        let Self { what, finding, full, socket_drops, card_drops } = self;
        let (resource, why) = match full {
            _ if *what == GENERATOR => (Resource::Generator, finding.clone()),
            _ if *what == JOINS => (Resource::Limit, finding.clone()),
            Some((name, share)) if had_time_below => {
                let overflow = if *socket_drops > 0 {
                    format!(", and {socket_drops} datagrams overflowed its socket")
                } else {
                    String::new()
                };
                let busy = 100.0 * share;
                let why = format!("{finding}: thread {name} had {busy:.0} % of its core{overflow}");
                (Resource::Core, why)
            }
            _ if *socket_drops > 0 => {
                let drops = socket_drops;
                let why = format!("{finding}: {drops} datagrams overflowed the server's socket");
                (Resource::SocketBuffer, why)
            }
            _ if *card_drops > 0 => {
                let why = format!("{finding}: network cards dropped {card_drops} packets");
                (Resource::NetworkCard, why)
            }
            Some((name, share)) => {
                let busy = 100.0 * share;
                let why = format!(
                    "{finding}: thread {name} had {busy:.0} % of its core, and no lesser step \
                     left it any: perhaps it always spins"
                );
                (Resource::Unknown, why)
            }
            None => (Resource::Unknown, finding.clone()),
        };
        Breakage { what: (*what).to_owned(), resource, why }
    }
}

/// Which side could not play a step.
fn unable(error: &RunError) -> &'static str {
    match error {
        RunError::NobodyJoined(_) | RunError::Grants(GrantsError::Control(_)) => JOINS,
        RunError::Grants(_)
        | RunError::Endpoint(_)
        | RunError::Ring(_)
        | RunError::System { .. }
        | RunError::Certificate(_)
        | RunError::OpenFiles { .. }
        | RunError::BoundElsewhere(_)
        | RunError::Died => GENERATOR,
    }
}

fn busiest(result: &RunResult) -> Option<f64> {
    result.cost.as_ref().and_then(|cost| cost.busiest_thread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        load::result::{Cost, Failure, Hearing, Latency, tests::sample},
        ring::RingError,
    };

    const LEVEL: ServiceLevel = ServiceLevel { p99_max_ns: 5_000_000, loss_max: 0.001 };

    fn search(listeners: u32) -> Search {
        let scenario = Scenario::simple(1, listeners).unwrap();
        Search::new(scenario, Dimension::Listeners, LEVEL)
    }

    /// A server that carries `limit` listeners and has a core to the full beyond.
    fn result(value: u32, limit: u32) -> RunResult {
        let mut result = sample();
        let holds = value <= limit;
        result.overall.hearing = Hearing { expected: 1_000, heard: 1_000, ..Hearing::default() };
        result.overall.latency =
            Latency { p99_ns: if holds { 1_000_000 } else { 9_000_000 }, ..Latency::default() };
        let busiest_thread = Some(if holds { 0.5 } else { 0.99 });
        let busiest_thread_name = Some("shard-0".to_owned());
        result.cost = Some(Cost { busiest_thread, busiest_thread_name, ..Cost::default() });
        result
    }

    fn run(mut search: Search, limit: u32) -> FindMax {
        while let Some((value, scenario)) = search.next() {
            assert_eq!(scenario.channels[0].listeners, value);
            search.played(value, &result(value, limit), 0);
        }
        search.found()
    }

    #[test]
    fn the_limit_is_found_from_below_and_from_above() {
        for start in [1, 100, 704, 3_000] {
            let found = run(search(start), 700);
            let held = found.held.unwrap();
            assert!((648..=700).contains(&held), "from {start}: {held}");
            let broke = found.broke.unwrap();
            assert_eq!((broke.what.as_str(), broke.resource), ("p99", Resource::Core));
            assert!(broke.why.contains("9.000 ms: thread shard-0 had 99 %"), "{}", broke.why);
            assert!(found.steps.len() <= STEPS_MAX);
        }
    }

    #[test]
    fn a_server_that_never_breaks_ends_at_what_can_be_played() {
        let found = run(search(1_000), u32::MAX);
        assert_eq!((found.held, found.broke), (Some(4_095), None));
        let found = run(search(8), 0);
        assert_eq!(found.held, None);
        assert_eq!(found.steps.last().unwrap().value, 1);
    }

    #[test]
    fn what_broke_first_is_named_with_its_reason() {
        let base = result(1, 1);
        let mut generator = base.clone();
        generator.verdict.valid = false;
        generator.verdict.reasons = vec!["it was late".to_owned()];
        let mut joins = base.clone();
        joins.joins.broken =
            vec![Failure { close_code: Some(4_015), reason: "crashed".to_owned(), count: 2 }];
        let mut lossy = base.clone();
        lossy.overall.hearing = Hearing { expected: 1_000, lost: 2, ..Hearing::default() };
        let mut overflowed = lossy.clone();
        overflowed.cost.as_mut().unwrap().socket_drops = Some(7);
        for (result, card_drops, resource, word) in [
            (generator, 0, Resource::Generator, "it was late"),
            (joins, 0, Resource::Limit, "2 cut off (crashed)"),
            (overflowed, 3, Resource::SocketBuffer, "7 datagrams"),
            (lossy.clone(), 3, Resource::NetworkCard, "dropped 3"),
            (lossy, 0, Resource::Unknown, "0.200 %"),
        ] {
            let broke = search(1).failing(&result, card_drops).unwrap().breakage(true);
            assert_eq!(broke.resource, resource, "{broke:?}");
            assert!(broke.why.contains(word), "{broke:?}");
        }
        assert!(search(1).failing(&base, 9).is_none());
    }

    #[test]
    fn a_thread_that_has_its_core_whatever_it_carries_is_not_the_cause() {
        let mut search = search(100);
        while let Some((value, _)) = search.next() {
            let mut result = result(value, 700);
            result.cost.as_mut().unwrap().busiest_thread = Some(1.0);
            search.played(value, &result, 0);
        }
        let broke = search.found().broke.unwrap();
        assert_eq!((broke.what.as_str(), broke.resource), ("p99", Resource::Unknown));
        assert!(broke.why.contains("100 % of its core, and no lesser step"), "{}", broke.why);
        let full = Some(("shard-0".to_owned(), 1.0));
        let failing = Failing { what: "loss", full, socket_drops: 7, ..Failing::default() };
        assert_eq!(failing.breakage(false).resource, Resource::SocketBuffer);
        assert_eq!(failing.breakage(true).resource, Resource::Core);
    }

    #[test]
    fn what_the_generator_cannot_do_is_no_limit_of_the_server() {
        let ring = RingError::Disabled { setting: "2".to_owned() };
        let source = std::io::ErrorKind::OutOfMemory.into();
        for (error, what, resource) in [
            (
                RunError::OpenFiles { clients: 9_000, limit: 1_024, wanted: 9_100 },
                GENERATOR,
                Resource::Generator,
            ),
            (RunError::Ring(ring), GENERATOR, Resource::Generator),
            (RunError::System { what: "a thread", source }, GENERATOR, Resource::Generator),
            (RunError::Grants(GrantsError::Nobody), GENERATOR, Resource::Generator),
            (RunError::Died, GENERATOR, Resource::Generator),
            (RunError::NobodyJoined("closed 4004".to_owned()), JOINS, Resource::Limit),
        ] {
            let mut search = search(8);
            search.failed(8, &error);
            let broke = search.found().broke.unwrap();
            assert_eq!((broke.what.as_str(), broke.resource), (what, resource), "{error}");
            assert_eq!(broke.why, error.to_string());
        }
    }
}
