//! From what was tallied, read and told to a result. Plain values in and out; `run` collects them.

use std::collections::BTreeMap;

use super::{
    gateway::Ending,
    histogram::{empty, sum},
    media::Account,
    result::{
        Bound, Cost, Failure, Hearer, Hearing, Joins, Latency, Phase, Ratios, ReceiveTime, Second,
        Sending, Verdict,
    },
    scenario::Scenario,
    schedule::Cast,
    server_cost::{Counted, Sample, cores_between, cost},
    tally::{Due, Seconds, Stay, Target, Window},
    verdict::{OwnFailings, judge},
};

/// How clients got in, as it goes on.
#[derive(Debug)]
pub struct Arrivals {
    times: hdrhistogram::Histogram<u32>,
    of_browsers: hdrhistogram::Histogram<u32>,
    refused: BTreeMap<Ending, u64>,
    broken: BTreeMap<Ending, u64>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            times: empty(),
            of_browsers: empty(),
            refused: BTreeMap::new(),
            broken: BTreeMap::new(),
        }
    }
}

impl Arrivals {
    /// One has joined: it can hear.
    pub fn joined(&mut self, ns: u64, is_browser: bool) {
        let browsers = is_browser.then_some(&mut self.of_browsers);
        for times in [&mut self.times].into_iter().chain(browsers) {
            times.record(ns.max(1)).expect("the histogram grows as needed");
        }
    }

    /// One did not get in.
    pub fn refused(&mut self, ending: Ending) {
        *self.refused.entry(ending).or_default() += 1;
    }

    /// One's session ended before its time.
    pub fn broken(&mut self, ending: Ending) {
        *self.broken.entry(ending).or_default() += 1;
    }

    /// How many did not get in.
    pub fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }

    /// The account.
    pub fn joins(&self) -> Joins {
        let succeeded = self.times.len();
        Joins {
            attempted: succeeded + self.refusals(),
            succeeded,
            time: Latency::of(&self.times),
            of_browsers: (1..succeeded)
                .contains(&self.of_browsers.len())
                .then(|| Latency::of(&self.of_browsers)),
            failures: failures(&self.refused),
            broken: failures(&self.broken),
        }
    }
}

fn failures(endings: &BTreeMap<Ending, u64>) -> Vec<Failure> {
    let mut failures: Vec<_> = endings
        .iter()
        .map(|(Ending { close_code, reason }, count)| Failure {
            close_code: *close_code,
            reason: reason.clone(),
            count: *count,
        })
        .collect();
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    failures
}

/// What a run has collected.
#[derive(Debug)]
pub struct Ledger<'a> {
    /// What was played.
    pub scenario: &'a Scenario,
    /// By whom.
    pub cast: &'a Cast,
    /// When it counted.
    pub window: Window,
    /// What was sent and heard.
    pub seconds: Seconds,
    /// What the media threads said at the end.
    pub accounts: Vec<Account>,
    /// How clients got in.
    pub arrivals: Arrivals,
    /// Readings of the server at each second's beginning, and at the end of the last.
    pub server: Vec<Sample>,
    /// Of the bare loop.
    pub bound: Vec<Sample>,
    /// What the server counted at the beginning and at the end.
    pub counted: Option<(Counted, Counted)>,
    /// The server's memory before anyone joined.
    pub memory_before_bytes: Option<u64>,
    /// Sessions at the beginning of the measured time.
    pub sessions: u64,
    /// The server's process.
    pub pid: Option<u32>,
    /// Datagrams dropped at the generator's own sockets.
    pub own_drops: u64,
}

/// The parts of a result that come from a ledger.
#[derive(Debug)]
pub struct Findings {
    /// As in the result, as are all others.
    pub verdict: Verdict,
    /// The whole.
    pub overall: Phase,
    /// Its parts.
    pub phases: Vec<Phase>,
    /// By hearer.
    pub hearers: Vec<Hearer>,
    /// By second.
    pub seconds: Vec<Second>,
    /// How clients got in.
    pub joins: Joins,
    /// The server's cost.
    pub cost: Option<Cost>,
    /// The bare loop.
    pub bound: Option<Bound>,
    /// The clock of arrivals.
    pub receive_time: ReceiveTime,
}

impl Ledger<'_> {
    /// Sums it all up.
    pub fn find(&self) -> Findings {
        let due = self.due();
        let seconds = self.window.seconds;
        let overall = self.phase("whole", 0, seconds, Target::Server, &due);
        let phases = self
            .scenario
            .phases()
            .into_iter()
            .map(|(name, from_s, to_s)| self.phase(name, from_s, to_s, Target::Server, &due));
        let receive_time = self.receive_time();
        let joins = self.arrivals.joins();
        let own = OwnFailings {
            socket_drops: self.own_drops,
            absent: self.arrivals.refusals(),
            broken: joins.broken.iter().map(|failure| failure.count).sum(),
        };
        // Lateness is the generator's whichever way its packets went.
        let mut sending = overall.sending;
        let cost = self.server_cost(&overall);
        let bound = self.window.slice_s.map(|slice_s| {
            let theirs = self.phase("whole", 0, seconds, Target::Bound, &due);
            sending.add(&theirs.sending);
            let bound_cost = super::server_cost::cost(
                &self.stretches(&self.bound, Target::Bound),
                theirs.hearing.heard,
            );
            let ratios = ratios(&overall, cost.as_ref(), &theirs, &bound_cost);
            Bound { slice_s, overall: theirs, cost: bound_cost, ratios }
        });
        Findings {
            verdict: judge(&sending, &overall.hearing, &receive_time, own),
            phases: phases.collect(),
            hearers: self.hearers(&due),
            seconds: (0..seconds).map(|second| self.second(second, &due)).collect(),
            joins,
            cost,
            bound,
            receive_time,
            overall,
        }
    }

    fn due(&self) -> Due {
        let all = |stays: fn(&Account) -> &Vec<Stay>| -> Vec<Stay> {
            self.accounts.iter().flat_map(stays).copied().collect()
        };
        let present = all(|account| &account.present);
        Due::count(self.cast, &self.window, &present, &all(|account| &account.speaking))
    }

    /// The worst of the threads' clocks.
    fn receive_time(&self) -> ReceiveTime {
        let mut worst = 0_i64;
        for account in &self.accounts {
            match account.receive_time {
                ReceiveTime::Kernel { drift_ns } if drift_ns.abs() > worst.abs() => {
                    worst = drift_ns;
                }
                ReceiveTime::Kernel { .. } => {}
                ReceiveTime::Turn => return ReceiveTime::Turn,
            }
        }
        ReceiveTime::Kernel { drift_ns: worst }
    }

    fn phase(&self, name: &str, from_s: u32, to_s: u32, target: Target, due: &Due) -> Phase {
        let theirs = || {
            let seconds = self.seconds.range(from_s..to_s);
            seconds.filter(|(second, _)| self.window.target_of(**second) == target)
        };
        let (mut sending, mut hearing) = (Sending::default(), Hearing::default());
        for (_, tally) in theirs() {
            sending.add(&tally.sending);
            hearing.add(&tally.hearing);
        }
        let expected = (from_s..to_s)
            .filter(|second| self.window.target_of(*second) == target)
            .map(|second| due.by_second[second as usize])
            .sum();
        Phase {
            name: name.to_owned(),
            from_s,
            to_s,
            sending,
            hearing: hearing.due(expected),
            latency: Latency::of(&sum(theirs().map(|(_, tally)| &tally.latency))),
        }
    }

    fn hearers(&self, due: &Due) -> Vec<Hearer> {
        let mut hearers: Vec<_> = self
            .accounts
            .iter()
            .flat_map(|account| &account.hearing)
            .map(|&(client, [with_server, _])| Hearer {
                channel: self.cast.clients[client as usize].channel,
                client,
                hearing: with_server.due(due.by_client[client as usize][Target::Server as usize]),
            })
            .filter(|hearer| hearer.hearing != Hearing::default())
            .collect();
        hearers.sort_unstable_by_key(|hearer| hearer.client);
        hearers
    }

    fn second(&self, second: u32, due: &Due) -> Second {
        let bound = self.window.target_of(second) == Target::Bound;
        let tally = self.seconds.get(&second);
        let expected = due.by_second[second as usize];
        let hearing = tally.map(|tally| tally.hearing).unwrap_or_default().due(expected);
        let latency = tally.map(|tally| &tally.latency).filter(|latency| !latency.is_empty());
        let at = |quantile| latency.map(|latency| latency.value_at_quantile(quantile));
        let samples = if bound { &self.bound } else { &self.server };
        let ends = samples.get(second as usize).zip(samples.get(second as usize + 1));
        Second {
            second,
            bound,
            sent: tally.map_or(0, |tally| tally.sending.sent),
            expected,
            heard: hearing.heard,
            lost: hearing.lost,
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            max_ns: latency.map(|latency| latency.max()),
            server_cores: ends.and_then(|(from, to)| cores_between(from, to)),
        }
    }

    fn server_cost(&self, overall: &Phase) -> Option<Cost> {
        let pid = self.pid?;
        let forwarded = self.counted.as_ref();
        let forwarded = forwarded.map(|(from, to)| to.forwarded.saturating_sub(from.forwarded));
        let forwarded = forwarded.unwrap_or(overall.hearing.heard);
        let traversals = self.counted.as_ref().and_then(|(from, to)| {
            let traversals = to.traversals.checked_sub(from.traversals)?;
            (forwarded > 0).then(|| traversals as f64 / forwarded as f64)
        });
        let joined = self.server.first().and_then(|sample| sample.memory_bytes);
        // A server that has served before gives memory back meanwhile.
        let grown = self.memory_before_bytes.zip(joined);
        let grown = grown.filter(|(before, after)| after > before && self.sessions > 0);
        Some(Cost {
            pid: Some(pid),
            traversals_per_packet: traversals,
            share: self.counted.as_ref().and_then(|(from, to)| to.share.since(&from.share)),
            memory_before_bytes: self.memory_before_bytes,
            memory_joined_bytes: joined,
            memory_per_session_bytes: grown
                .map(|(before, after)| (after as f64 - before as f64) / self.sessions as f64),
            ..cost(&self.stretches(&self.server, Target::Server), forwarded)
        })
    }

    /// The seconds that were this one's, each from one reading to the next.
    fn stretches<'s>(
        &self,
        samples: &'s [Sample],
        target: Target,
    ) -> Vec<(&'s Sample, &'s Sample)> {
        let seconds = samples.iter().zip(samples.iter().skip(1)).enumerate();
        let theirs = seconds.filter(|(second, _)| self.window.target_of(*second as u32) == target);
        theirs.map(|(_, ends)| ends).collect()
    }
}

fn ratios(server: &Phase, cost: Option<&Cost>, bound: &Phase, bound_cost: &Cost) -> Ratios {
    let of = |server: f64, bound: f64| (bound > 0.0).then(|| server / bound);
    let latency = |at: fn(&Latency) -> u64| {
        let heard = server.latency.count > 0;
        of(at(&server.latency) as f64, at(&bound.latency) as f64).filter(|_| heard)
    };
    let cpu = |cost: &Cost| cost.cpu_ns_per_packet;
    Ratios {
        cpu_per_packet: cost
            .and_then(cpu)
            .zip(cpu(bound_cost))
            .and_then(|(server, bound)| of(server, bound)),
        p50: latency(|latency| latency.p50_ns),
        p99: latency(|latency| latency.p99_ns),
        p99_9: latency(|latency| latency.p99_9_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{schedule::SECOND_NS, tally::SecondTally};

    fn tally(sent: u64, heard: u64, ns: u64) -> SecondTally {
        let mut tally = SecondTally::default();
        (tally.sending.intended, tally.sending.sent) = (sent, sent);
        tally.hearing.heard = heard;
        tally.latency.record_n(ns, heard as u32).unwrap();
        tally
    }

    fn samples(cpu_ns_per_second: u64) -> Vec<Sample> {
        let sample = |second: u64| Sample {
            at_ns: second * SECOND_NS,
            cpu_ns: Some(second * cpu_ns_per_second),
            memory_bytes: Some(5_000),
            ..Sample::default()
        };
        (0..5).map(sample).collect()
    }

    /// A speaker and two listeners, four seconds of which the bare loop has the odd ones.
    #[test]
    fn server_and_bare_loop_are_accounted_for_apart() {
        let scenario = Scenario { duration_s: 4, ..Scenario::simple(1, 2).unwrap() };
        let cast = Cast::new(&scenario);
        let always = |who| Stay { who, from_ns: 0, to_ns: u64::MAX };
        let heard = |heard| Hearing { heard, ..Hearing::default() };
        let account = Account {
            present: (0..3).map(always).collect(),
            speaking: vec![always(0)],
            hearing: vec![
                (2, [heard(90), heard(100)]),
                (1, [heard(100), heard(100)]),
                (0, Default::default()),
            ],
            receive_time: ReceiveTime::Kernel { drift_ns: -3 },
        };
        let tallies = [tally(50, 95, 40_000), tally(50, 100, 20_000)];
        let ledger = Ledger {
            scenario: &scenario,
            cast: &cast,
            window: Window { from_ns: 0, seconds: 4, slice_s: Some(1) },
            seconds: (0..4).map(|second| (second, tallies[second as usize % 2].clone())).collect(),
            accounts: vec![account],
            arrivals: Arrivals::default(),
            server: samples(190_000),
            bound: samples(100_000),
            counted: Some((
                Counted { forwarded: 10, traversals: 10, ..Counted::default() },
                Counted { forwarded: 210, traversals: 110, ..Counted::default() },
            )),
            memory_before_bytes: Some(2_000),
            sessions: 3,
            pid: Some(9),
            own_drops: 0,
        };
        let found = ledger.find();
        let hearing = found.overall.hearing;
        assert_eq!((hearing.expected, hearing.heard, hearing.lost), (200, 190, 10));
        let bound = found.bound.unwrap();
        assert_eq!((bound.overall.hearing.heard, bound.overall.hearing.lost), (200, 0));
        let cost = found.cost.unwrap();
        assert_eq!((cost.forwarded, cost.cpu_ns_per_packet), (200, Some(1_900.0)));
        assert_eq!(cost.traversals_per_packet, Some(0.5));
        assert_eq!(cost.memory_per_session_bytes, Some(1_000.0));
        assert_eq!(bound.cost.cpu_ns_per_packet, Some(1_000.0));
        assert_eq!(bound.ratios.cpu_per_packet, Some(1.9));
        assert!((bound.ratios.p50.unwrap() - 2.0).abs() < 0.01);
        let hearers: Vec<_> = found
            .hearers
            .iter()
            .map(|it| (it.client, it.hearing.expected, it.hearing.lost))
            .collect();
        assert_eq!(hearers, [(1, 100, 0), (2, 100, 10)]);
        assert_eq!(found.seconds.len(), 4);
        assert_eq!((found.seconds[0].lost, found.seconds[1].bound), (5, true));
        assert_eq!(found.receive_time, ReceiveTime::Kernel { drift_ns: -3 });
        assert!(found.verdict.valid, "{:?}", found.verdict);
    }

    #[test]
    fn the_most_frequent_failure_comes_first() {
        let ending = |code, reason: &str| Ending { close_code: code, reason: reason.to_owned() };
        let mut arrivals = Arrivals::default();
        arrivals.joined(5, false);
        arrivals.refused(ending(None, "refused"));
        arrivals.refused(ending(Some(4004), "no"));
        arrivals.refused(ending(Some(4004), "no"));
        arrivals.broken(ending(Some(4015), "gone"));
        let joins = arrivals.joins();
        assert_eq!((joins.attempted, joins.succeeded, joins.time.count), (4, 1, 1));
        assert_eq!((joins.failures[0].close_code, joins.failures[0].count), (Some(4004), 2));
        assert_eq!((joins.failures.len(), joins.broken.len()), (2, 1));
    }

    #[test]
    fn joins_of_browsers_are_told_apart_where_others_join_as_well() {
        let mut arrivals = Arrivals::default();
        arrivals.joined(40_000_000, true);
        assert_eq!(arrivals.joins().of_browsers, None, "all of them are");
        arrivals.joined(1_000_000, false);
        let joins = arrivals.joins();
        let browsers = joins.of_browsers.unwrap();
        assert_eq!((joins.time.count, browsers.count), (2, 1));
        assert!(joins.time.min_ns < 2_000_000 && browsers.min_ns > 30_000_000);
    }
}
