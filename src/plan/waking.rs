//! What it takes a shard to wake up: how often it does, given what comes for it and how busy it is,
//! and what that costs. Arithmetic only; called by `answer` and `calibration`.

use serde::Serialize;

use super::model::{CHECKS_S, Model, Rates, Term};

/// How long a shard that has slept stays warm, seconds: of packets that come so soon after others
/// most find its memory in the caches. Least squares cannot find it, for costs hang on it in no
/// straight line; chosen from what a first calibration predicted best (docs/decisions.md).
pub const WARM_S: f64 = 0.01;

/// How long a core without work stays at hand, seconds, before it halts: a thread that wakes up
/// sooner is there at once. Chosen likewise.
pub const HALT_S: f64 = 0.000_1;

/// Steps to find how busy a shard is: each halves what is not known.
const STEPS: u32 = 50;

/// What waking up takes a shard.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Waking {
    /// The part of its time that it is busy, this included, cores.
    pub busy: f64,
    /// What comes while it is not.
    pub at_rest: f64,
    /// Wake-ups of a core that had halted.
    pub halts: Term,
    /// Of what comes while it is not busy, what wakes it dearest after a pause.
    pub pausing: f64,
    /// How many hearers that has, on average.
    pub hearers: f64,
    /// Wake-ups after a pause, with caches that have forgotten; the hearers of what wakes it
    /// included.
    pub pauses: Term,
    /// Of both, in cores.
    pub cores: f64,
}

/// Of arrivals, how many find asleep what stays awake for so long after each: of what comes more
/// often less does, as a counter misses particles while it is dead.
fn asleep(arrivals: f64, awake_s: f64) -> f64 {
    arrivals / (1.0 + arrivals * awake_s)
}

impl Rates {
    /// What comes for a shard that may be asleep: bursts, heartbeats, browsers' checks.
    pub fn arrivals(&self) -> f64 {
        self.bursts + self.heartbeats + self.browsers / f64::from(CHECKS_S)
    }

    /// How many of these come while a shard has nothing to do that is busy for this part of its
    /// time.
    pub fn at_rest(&self, busy: f64) -> f64 {
        self.arrivals() * (1.0 - busy).max(0.0)
    }

    /// How many of these find its core halted.
    pub fn halts(&self, busy: f64) -> f64 {
        asleep(self.at_rest(busy), HALT_S)
    }

    /// How many of these find its caches cold.
    pub fn pauses(&self, busy: f64) -> f64 {
        asleep(self.at_rest(busy), WARM_S)
    }

    /// Hearers of what wakes it, on average: bursts have some, all else has none.
    pub fn hearers(&self) -> f64 {
        self.burst_hearers / self.arrivals().max(f64::MIN_POSITIVE)
    }
}

/// Sums of the first, the first two and so on of these kinds of channels, those with most hearers
/// first: among all sets of them the one that wakes a shard dearest after a pause.
pub fn sums_by_hearers(mut kinds: Vec<Rates>) -> Vec<Rates> {
    kinds.sort_by(|a, b| b.hearers().total_cmp(&a.hearers()));
    let mut so_far = Rates::default();
    let sum = |kind| {
        so_far = so_far.plus(kind);
        so_far
    };
    kinds.into_iter().map(sum).collect()
}

impl Model {
    /// Wake-ups of a halted core, of a shard for which all of this comes and that is busy for this
    /// part of its time.
    pub fn halts(&self, rates: &Rates, busy: f64) -> Term {
        Term::of("wake-ups of a halted core", rates.halts(busy), self.halt_ns)
    }

    fn pauses(&self, rates: &Rates, busy: f64) -> Term {
        let each_ns = self.wake_ns + self.cold_ns * rates.hearers();
        Term::of("wake-ups after a pause", rates.pauses(busy), each_ns)
    }

    /// What waking up takes a shard for which all of this comes, and which is busy for this part
    /// of its time, whatever with. The busier it is, the less.
    ///
    /// `among`: parts of it that may wake it dearer after a pause by themselves, having more
    /// hearers: what comes for others warms no key of theirs.
    pub fn waking_of_busy(&self, all: &Rates, among: &[Rates], busy: f64) -> Waking {
        let halts = self.halts(all, busy);
        let cost = |rates: &&Rates| self.pauses(rates, busy).cores;
        let parts = among.iter().chain([all]);
        let dearest = parts.max_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(all);
        let pauses = self.pauses(dearest, busy);
        let cores = halts.cores + pauses.cores;
        Waking {
            busy,
            at_rest: all.at_rest(busy),
            halts,
            pausing: dearest.at_rest(busy),
            hearers: dearest.hearers(),
            pauses,
            cores,
        }
    }

    /// The same of one that is busy with it for `rest` of its time besides, cores: with waking up
    /// it is busier, and wakes up less.
    pub fn waking(&self, all: &Rates, among: &[Rates], rest: f64) -> Waking {
        let at = |busy| self.waking_of_busy(all, among, busy);
        let (mut low, mut high) = (rest, rest + at(rest).cores);
        for _ in 0..STEPS {
            let busy = low.midpoint(high);
            match rest + at(busy).cores > busy {
                true => low = busy,
                false => high = busy,
            }
        }
        at(low.midpoint(high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{model::tests::round_model, profile::Channels};

    fn bursts(bursts: f64) -> Rates {
        Rates { bursts, ..Rates::default() }
    }

    #[test]
    fn who_is_busy_seldom_wakes_up() {
        let model = Model { halt_ns: 0.0, ..round_model() };
        let waking = |rate| model.waking_of_busy(&bursts(rate), &[], 0.0).cores;
        // 100 bursts, of which half find it asleep: 50 × 100 µs.
        assert!((waking(100.0) - 0.005).abs() < 1e-12);
        assert!(waking(1e9) < 0.01 && waking(1e9) > 0.0099);
        assert_eq!(waking(0.0), 0.0);
        // Half of 200 come while it is busy.
        assert!((model.waking_of_busy(&bursts(200.0), &[], 0.5).cores - 0.005).abs() < 1e-12);
        assert_eq!(model.waking_of_busy(&bursts(200.0), &[], 1.5).cores, 0.0);
    }

    #[test]
    fn a_core_halts_sooner_than_caches_forget() {
        let model = Model { wake_ns: 0.0, ..round_model() };
        let waking = |rate| model.waking_of_busy(&bursts(rate), &[], 0.0).halts;
        // Of 10,000 half: 5,000 × 10 µs.
        assert!((waking(10_000.0).cores - 0.05).abs() < 1e-12);
        assert!((waking(100.0).amount - 100.0 / 1.01).abs() < 1e-9);
    }

    #[test]
    fn waking_up_makes_busy_and_whoever_is_busy_wakes_up_less() {
        let model = Model { halt_ns: 50_000.0, ..round_model() };
        for rate in [1.0, 100.0, 10_000.0, 1e6] {
            for rest in [0.0, 0.3, 0.9, 1.2] {
                let found = model.waking(&bursts(rate), &[], rest);
                let again = model.waking_of_busy(&bursts(rate), &[], rest + found.cores);
                assert!((found.cores - again.cores).abs() < 1e-9, "{rate} {rest}: {found:?}");
                assert!((found.busy - rest - found.cores).abs() < 1e-9);
                assert!(rest >= 1.0 || rest + found.cores < 1.0);
                assert!(found.cores <= model.waking_of_busy(&bursts(rate), &[], rest).cores);
            }
        }
    }

    #[test]
    fn a_packet_that_wakes_a_shard_costs_more_for_each_hearer() {
        let model = Model { halt_ns: 0.0, cold_ns: 2_000.0, ..round_model() };
        let channel = Channels { speaking: 2.0, ..Channels::of(101) };
        let packets = Rates { heartbeats: 0.0, ..Rates::of_channel(&channel, 0.0) };
        // 100 packets, of which half find it asleep: 50 × (100 + 100 × 2) µs.
        let waking = model.waking_of_busy(&packets, &[], 0.0);
        assert!((waking.cores - 0.015).abs() < 1e-12, "{waking:?}");
        // As many heartbeats: 200 things, of which a third do, and half of these have hearers.
        let both = Rates { heartbeats: 100.0, ..packets };
        let waking = model.waking_of_busy(&both, &[], 0.0);
        assert!((waking.cores - 200.0 / 3.0 * (100.0 + 50.0 * 2.0) * 1e-6).abs() < 1e-12);
    }

    #[test]
    fn channels_with_many_hearers_wake_a_shard_as_if_there_were_no_others() {
        let model = Model { cold_ns: 2_000.0, ..round_model() };
        let stage = Rates { burst_hearers: 50_000.0, ..bursts(50.0) };
        let pairs = Rates { burst_hearers: 1_000.0, ..bursts(1_000.0) };
        let all = stage.plus(pairs);
        let sums = sums_by_hearers(vec![pairs, stage]);
        assert_eq!(sums, [stage, all]);
        let of_all = model.waking(&all, &[], 0.3);
        let dearest = model.waking(&all, &sums, 0.3);
        assert!(dearest.pauses.cores > 1.1 * of_all.pauses.cores, "{dearest:?} {of_all:?}");
        // Others halt its core less, and keep it as busy as it is.
        assert_eq!(dearest.pauses, model.pauses(&stage, dearest.busy));
        assert_eq!(dearest.halts, model.halts(&all, dearest.busy));
    }
}
