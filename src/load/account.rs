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
    verdict::{CostFault, CountFault, Lacking, OwnFailings, judge},
};

/// Furthest that the server's counts may be from the readings of its processor time, as a part of
/// the measured time: half a percent at either end, which is less than two runs differ by.
const APART_PART: u64 = 200;

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
    /// What the server counted at the beginning and at the end, or why that is not known; `None`:
    /// nobody asked.
    pub counted: Option<Result<(Counted, Counted), String>>,
    /// The server's memory before anyone joined.
    pub memory_before_bytes: Option<u64>,
    /// Sessions at the beginning of the measured time.
    pub sessions: u64,
    /// The server's process, or why it is not known; `None`: it is not of this machine.
    pub process: Result<Option<u32>, CostFault>,
    /// The bare loop was not on a core of the server's.
    pub bound_elsewhere: bool,
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
        let copies = self.copies_counted();
        let forwarded = match &copies {
            Some(Ok(copies)) => *copies,
            Some(Err(_)) | None => overall.hearing.heard,
        };
        let cost = self.server_cost(forwarded);
        let lacking = Lacking {
            count: copies.and_then(Result::err),
            cost: self.cost_fault(cost.as_ref()),
            bound_elsewhere: self.bound_elsewhere,
        };
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
            verdict: judge(&sending, &overall.hearing, &receive_time, own, &lacking),
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

    /// Copies the server forwarded by its own account, if anybody asked for it.
    fn copies_counted(&self) -> Option<Result<u64, CountFault>> {
        let counted = self.counted.as_ref()?;
        Some(match counted {
            Ok((from, to)) => self.copies_between(from, to),
            Err(why) => Err(CountFault::Unread(why.clone())),
        })
    }

    fn copies_between(&self, from: &Counted, to: &Counted) -> Result<u64, CountFault> {
        let copies = to.forwarded.checked_sub(from.forwarded).ok_or(CountFault::Backwards)?;
        // Without readings of its processor time there is nothing that they would divide.
        let ends = self.server.first().zip(self.server.last());
        let Some((first, last)) = ends else { return Ok(copies) };
        let apart_ns = from.at_ns.abs_diff(first.at_ns).max(to.at_ns.abs_diff(last.at_ns));
        if apart_ns > last.at_ns.saturating_sub(first.at_ns) / APART_PART {
            return Err(CountFault::Apart { ms: apart_ns / 1_000_000 });
        }
        Ok(copies)
    }

    /// Why there is no cost of a server on this machine.
    fn cost_fault(&self, cost: Option<&Cost>) -> Option<CostFault> {
        match self.process {
            Err(fault) => Some(fault),
            Ok(Some(pid)) if cost.is_some_and(|cost| cost.cores.is_none()) => {
                Some(CostFault::Unreadable(pid))
            }
            Ok(_) => None,
        }
    }

    /// What each of so many copies cost the server.
    fn server_cost(&self, forwarded: u64) -> Option<Cost> {
        let pid = self.process.ok()??;
        // These are of one time, whether or not it is that of the other readings.
        let counted = self.counted.as_ref().and_then(|counted| counted.as_ref().ok());
        let traversals = counted.and_then(|(from, to)| {
            let copies = to.forwarded.checked_sub(from.forwarded).filter(|copies| *copies > 0)?;
            Some(to.traversals.checked_sub(from.traversals)? as f64 / copies as f64)
        });
        let joined = self.server.first().and_then(|sample| sample.memory_bytes);
        // A server that has served before gives memory back meanwhile.
        let grown = self.memory_before_bytes.zip(joined);
        let grown = grown.filter(|(before, after)| after > before && self.sessions > 0);
        Some(Cost {
            pid: Some(pid),
            traversals_per_packet: traversals,
            share: counted.and_then(|(from, to)| to.share.since(&from.share)),
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
    use crate::load::{schedule::SECOND_NS, server_cost::Thread, tally::SecondTally};

    fn tally(sent: u64, heard: u64, ns: u64) -> SecondTally {
        let mut tally = SecondTally::default();
        (tally.sending.intended, tally.sending.sent) = (sent, sent);
        tally.hearing.heard = heard;
        tally.latency.record_n(ns, heard as u32).unwrap();
        tally
    }

    fn samples(cpu_ns_per_second: u64) -> Vec<Sample> {
        let sample = |second: u64| {
            let cpu_ns = second * cpu_ns_per_second;
            let threads = BTreeMap::from([(9, Thread { cpu_ns, ..Thread::default() })]);
            let (at_ns, memory_bytes) = (second * SECOND_NS, Some(5_000));
            Sample { at_ns, threads, memory_bytes, ..Sample::default() }
        };
        (0..5).map(sample).collect()
    }

    /// What the server had counted when.
    fn counted(at_ns: u64, forwarded: u64, traversals: u64) -> Counted {
        Counted { at_ns, forwarded, traversals, ..Counted::default() }
    }

    fn scenario() -> Scenario {
        Scenario { duration_s: 4, ..Scenario::simple(1, 2).unwrap() }
    }

    /// A speaker and two listeners, four seconds of which the bare loop has the odd ones.
    fn ledger<'a>(scenario: &'a Scenario, cast: &'a Cast) -> Ledger<'a> {
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
        Ledger {
            scenario,
            cast,
            window: Window { from_ns: 0, seconds: 4, slice_s: Some(1) },
            seconds: (0..4).map(|second| (second, tallies[second as usize % 2].clone())).collect(),
            accounts: vec![account],
            arrivals: Arrivals::default(),
            server: samples(190_000),
            bound: samples(100_000),
            counted: Some(Ok((counted(0, 10, 10), counted(4 * SECOND_NS, 210, 110)))),
            memory_before_bytes: Some(2_000),
            sessions: 3,
            process: Ok(Some(9)),
            bound_elsewhere: false,
            own_drops: 0,
        }
    }

    #[test]
    fn server_and_bare_loop_are_accounted_for_apart() {
        let scenario = scenario();
        let cast = Cast::new(&scenario);
        let found = ledger(&scenario, &cast).find();
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
        assert!(found.verdict.valid && found.verdict.warnings.is_empty(), "{:?}", found.verdict);
    }

    #[test]
    fn counts_of_another_time_divide_nothing_and_the_verdict_says_so() {
        let scenario = scenario();
        let cast = Cast::new(&scenario);
        let (late, end) = (SECOND_NS, 4 * SECOND_NS);
        for (counted, traversals, words) in [
            (Err("no answer".to_owned()), None, "(no answer)"),
            (Ok((counted(late, 10, 10), counted(end, 160, 85))), Some(0.5), "1000 ms away"),
            (Ok((counted(0, 10, 10), counted(end + late, 410, 10))), Some(0.0), "1000 ms away"),
            (Ok((counted(0, 500, 10), counted(end, 210, 20))), None, "backwards"),
        ] {
            let found = Ledger { counted: Some(counted), ..ledger(&scenario, &cast) }.find();
            let cost = found.cost.unwrap();
            assert_eq!((cost.forwarded, cost.cpu_ns_per_packet), (190, Some(2_000.0)));
            assert_eq!(cost.traversals_per_packet, traversals);
            let warnings = found.verdict.warnings;
            assert!(warnings.len() == 1 && warnings[0].contains(words), "{warnings:?}");
        }
        let unasked = Ledger { counted: None, ..ledger(&scenario, &cast) }.find();
        assert_eq!(unasked.cost.unwrap().forwarded, 190);
        assert_eq!(unasked.verdict.warnings, [""; 0], "who asks for none misses none");
    }

    #[test]
    fn a_cost_that_is_not_known_is_missed_only_where_it_could_be() {
        let scenario = scenario();
        let cast = Cast::new(&scenario);
        let ledger = || ledger(&scenario, &cast);
        let warnings = |ledger: Ledger<'_>| ledger.find().verdict.warnings;
        let unseen = Ledger { process: Err(CostFault::Unseen(8_443)), ..ledger() };
        assert!(warnings(unseen)[0].contains("port 8443"));
        // It ended before the last second.
        let mut gone = ledger();
        gone.server[3..].iter_mut().for_each(|sample| sample.threads.clear());
        assert!(warnings(gone)[0].contains("process 9"));
        let adrift = Ledger { bound_elsewhere: true, ..ledger() };
        assert!(warnings(adrift)[0].contains("bare loop"));
        let elsewhere = Ledger { process: Ok(None), server: Vec::new(), ..ledger() };
        assert_eq!(warnings(elsewhere), [""; 0]);
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
