//! A run that never was, for tests of what reads results: latencies drawn from a seed, everything
//! else following from them. Compiled for tests only.

use super::{
    result::{
        About, Bound, Cost, FORMAT, Failure, Hearer, Hearing, Joins, Latency, Phase, Ratios,
        ReceiveTime, RunResult, Second, Sending, Verdict,
    },
    scenario::Scenario,
};

/// What the server of the run is like.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Where chance begins.
    pub seed: u64,
    /// Seconds of the server.
    pub seconds: u32,
    /// Whether the bare loop had as many.
    pub bound: bool,
    /// Median latency, nanoseconds.
    pub median_ns: f64,
    /// How far latencies lie apart: the 84th percentile is so many times the median.
    pub spread: f64,
    /// How far the medians of seconds lie apart, likewise.
    pub unrest: f64,
    /// Fraction of copies lost.
    pub loss: f64,
    /// Processor time of a copy, nanoseconds.
    pub cpu_ns: f64,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            seed: 1,
            seconds: 20,
            bound: false,
            median_ns: 150_000.0,
            spread: 1.4,
            unrest: 1.03,
            loss: 0.0,
            cpu_ns: 2_900.0,
        }
    }
}

/// Hearers of the run; one speaker speaks to them.
pub const HEARERS: u64 = 40;

/// Its packets a second.
const RATE: u64 = 50;

impl Sample {
    /// The result of the run.
    pub fn result(&self) -> RunResult {
        let mut chance = Chance(self.seed);
        let mut seconds = Vec::new();
        let (mut server, mut loop_) = (Account::default(), Account::default());
        for number in 0..if self.bound { 2 * self.seconds } else { self.seconds } {
            let bound = self.bound && number % 2 == 1;
            let median = if bound { self.median_ns / 1.3 } else { self.median_ns };
            let median = median * self.unrest.powf(chance.normal());
            let loss = if bound { 0.0 } else { self.loss };
            let mut account = Account::default();
            for _ in 0..RATE * HEARERS {
                account.expected += 1;
                if chance.fraction() >= loss {
                    account.record(median * self.spread.powf(chance.normal()));
                }
            }
            let cpu_ns = if bound { self.cpu_ns / 1.2 } else { self.cpu_ns };
            let cpu_ns = cpu_ns * self.unrest.powf(chance.normal());
            let latency = account.latency();
            seconds.push(Second {
                second: number,
                bound,
                sent: RATE,
                expected: account.expected,
                heard: account.latencies.len() as u64,
                lost: account.expected - account.latencies.len() as u64,
                p50_ns: (latency.count > 0).then_some(latency.p50_ns),
                p99_ns: (latency.count > 0).then_some(latency.p99_ns),
                max_ns: (latency.count > 0).then_some(latency.max_ns),
                server_cores: Some(cpu_ns * account.latencies.len() as f64 / 1e9),
            });
            if bound { &mut loop_ } else { &mut server }.add(account);
        }
        let overall = server.phase("whole", seconds.len() as u32);
        let cost = Self::cost(self.cpu_ns, &overall.hearing);
        let bound = self.bound.then(|| {
            let theirs = loop_.phase("whole", seconds.len() as u32);
            let cost = Self::cost(self.cpu_ns / 1.2, &theirs.hearing);
            let of = |a: u64, b: u64| Some(a as f64 / b as f64);
            let ratios = Ratios {
                cpu_per_packet: Some(1.2),
                p50: of(overall.latency.p50_ns, theirs.latency.p50_ns),
                p99: of(overall.latency.p99_ns, theirs.latency.p99_ns),
                p99_9: of(overall.latency.p99_9_ns, theirs.latency.p99_9_ns),
            };
            Bound { slice_s: 1, overall: theirs, cost, ratios }
        });
        let mut joins = Account::default();
        (0..=HEARERS).for_each(|_| joins.record(6e6 * 1.5f64.powf(chance.normal())));
        RunResult {
            format: FORMAT,
            about: Self::about(),
            scenario: Scenario::simple(1, HEARERS as u32).expect("a sound scenario"),
            verdict: Verdict { valid: true, reasons: vec![], warnings: vec![] },
            hearers: Self::hearers(&overall.hearing),
            overall,
            phases: vec![],
            seconds,
            joins: Joins {
                attempted: HEARERS + 3,
                succeeded: HEARERS + 1,
                time: joins.latency(),
                of_browsers: None,
                failures: vec![Failure {
                    close_code: Some(4_006),
                    reason: "session no longer valid".to_owned(),
                    count: 2,
                }],
                broken: vec![],
            },
            cost: Some(cost),
            bound,
            find_max: None,
        }
    }

    /// Losses spread evenly, what does not divide on the first.
    fn hearers(hearing: &Hearing) -> Vec<Hearer> {
        let share =
            |whole: u64, place: u64| whole / HEARERS + if place == 0 { whole % HEARERS } else { 0 };
        (0..HEARERS)
            .map(|place| {
                let (expected, lost) = (share(hearing.expected, place), share(hearing.lost, place));
                let heard = expected - lost;
                let hearing = Hearing { expected, heard, lost, ..Hearing::default() };
                Hearer { channel: 0, client: place as u32 + 1, hearing }
            })
            .collect()
    }

    fn about() -> About {
        About {
            started_at: "2026-11-22T12:00:00Z".to_owned(),
            version: "0.1.0".to_owned(),
            commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            kernel: "6.18.5".to_owned(),
            cpu: "A Processor".to_owned(),
            cores: 2,
            command: vec!["stentor".into(), "load".into(), "one_speaker.toml".into()],
            endpoint: "127.0.0.1:8443".to_owned(),
            receive_time: ReceiveTime::Kernel { drift_ns: 120 },
        }
    }

    fn cost(cpu_ns: f64, hearing: &Hearing) -> Cost {
        Cost {
            pid: Some(4_242),
            forwarded: hearing.heard,
            cpu_ns_per_packet: Some(cpu_ns),
            user_ns_per_packet: Some(0.2 * cpu_ns),
            kernel_ns_per_packet: Some(0.8 * cpu_ns),
            traversals_per_packet: Some(1.0),
            share: None,
            cores: Some(0.006),
            busiest_thread: Some(0.005),
            busiest_thread_name: Some("shard 0".to_owned()),
            memory_before_bytes: Some(14 << 20),
            memory_joined_bytes: Some(16 << 20),
            memory_per_session_bytes: Some(49_152.0),
            voluntary_switches_per_s: Some(51.0),
            involuntary_switches_per_s: Some(0.4),
            socket_drops: Some(0),
        }
    }
}

/// What came of the packets of some stretch.
#[derive(Default)]
struct Account {
    expected: u64,
    latencies: Vec<u64>,
}

impl Account {
    fn record(&mut self, ns: f64) {
        self.latencies.push(ns as u64);
    }

    fn add(&mut self, other: Account) {
        self.expected += other.expected;
        self.latencies.extend(other.latencies);
    }

    fn phase(&self, name: &str, seconds: u32) -> Phase {
        let heard = self.latencies.len() as u64;
        let sent = self.expected / HEARERS;
        Phase {
            name: name.to_owned(),
            from_s: 0,
            to_s: seconds,
            sending: Sending { intended: sent, sent, ..Sending::default() },
            hearing: Hearing {
                expected: self.expected,
                heard,
                lost: self.expected - heard,
                ..Hearing::default()
            },
            latency: self.latency(),
        }
    }

    fn latency(&self) -> Latency {
        let mut histogram = hdrhistogram::Histogram::<u64>::new_with_max(60_000_000_000, 3)
            .expect("a minute, three digits");
        self.latencies.iter().for_each(|ns| histogram.saturating_record(*ns));
        if histogram.is_empty() {
            return Latency::default();
        }
        let at = |percentile| histogram.value_at_percentile(percentile);
        Latency {
            count: histogram.len(),
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            p50_ns: at(50.0),
            p90_ns: at(90.0),
            p99_ns: at(99.0),
            p99_9_ns: at(99.9),
            p99_99_ns: at(99.99),
            max_ns: histogram.max(),
            histogram: histogram
                .iter_recorded()
                .map(|step| (step.value_iterated_to(), step.count_at_value()))
                .collect(),
        }
    }
}

/// Repeatable chance: SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// 0 to 1, evenly.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal, of variance 1, by the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.fraction()).sum::<f64>() - 6.0
    }
}
