//! What a run found: plain values that are written as JSON, read back by `--compare` and drawn by
//! the report. Numbers only, with their units in their names; who made them is the rest of `load`.
//! What could not be measured is `None`, never zero.

use serde::{Deserialize, Serialize};

use super::{scenario::Scenario, server_share::ServerShare};

/// Version of this format. A reader refuses any other: fields may then mean something else.
pub const FORMAT: u32 = 1;

/// One run of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// [`FORMAT`].
    pub format: u32,
    /// When, where and by what.
    pub about: About,
    /// What was played, flags included.
    pub scenario: Scenario,
    /// Whether the numbers below may be believed.
    pub verdict: Verdict,
    /// The whole measured time, warm-up excluded.
    pub overall: Phase,
    /// Its parts, where the scenario has any: before, during and after a storm of joins. Else
    /// empty.
    pub phases: Vec<Phase>,
    /// One for every client that was due a packet, in the order of channels.
    pub hearers: Vec<Hearer>,
    /// One row for every second of the measured time, the first being 0.
    pub seconds: Vec<Second>,
    /// How the clients got in.
    pub joins: Joins,
    /// What it cost the server; `None` if its process cannot be read.
    pub cost: Option<Cost>,
    /// The same schedule through a bare loop; `None` without `--bound`.
    pub bound: Option<Bound>,
    /// The way up to the limit; `None` without `--find-max`. The rest of the result is then that
    /// of the last step which held the service level.
    pub find_max: Option<FindMax>,
}

/// The circumstances of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Start of the measured time, RFC 3339, UTC.
    pub started_at: String,
    /// Version of the generator's crate.
    pub version: String,
    /// Git commit of the generator, if its build or its working directory told.
    pub commit: Option<String>,
    /// `uname -r`.
    pub kernel: String,
    /// Model name of the processor.
    pub cpu: String,
    /// Processors of the generator's machine.
    pub cores: u32,
    /// The command line, secrets left out.
    pub command: Vec<String>,
    /// The server's gateway, `host:port`.
    pub endpoint: String,
    /// Where receive times come from.
    pub receive_time: ReceiveTime,
}

/// The clock by which packets are taken to have arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "source")]
pub enum ReceiveTime {
    /// The kernel's stamp at arrival. `CLOCK_REALTIME` was converted by its distance from
    /// `CLOCK_MONOTONIC` at the start; at the end the distance had changed by `drift_ns`.
    Kernel {
        /// Nanoseconds.
        drift_ns: i64,
    },
    /// When the generator looked: later than arrival by up to one turn of its loop.
    Turn,
}

/// Whether a run counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the generator kept to its own schedule and heard all there was to hear.
    pub valid: bool,
    /// Why not. Sentences, one for each failing.
    pub reasons: Vec<String>,
    /// What a reader should know all the same.
    pub warnings: Vec<String>,
}

/// A stretch of the measured time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Such as `whole`, `before`, `storm`, `after`.
    pub name: String,
    /// Its first second.
    pub from_s: u32,
    /// The second after its last.
    pub to_s: u32,
    /// What the generator did.
    pub sending: Sending,
    /// What came of it.
    pub hearing: Hearing,
    /// From the intended send time to the arrival at a hearer, all copies of all packets.
    pub latency: Latency,
}

/// The generator's own work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sending {
    /// Packets that the schedule wanted sent.
    pub intended: u64,
    /// Packets that the kernel took.
    pub sent: u64,
    /// Packets that it refused. They are among those expected, hence among those lost.
    pub unsent: u64,
    /// Packets that left more than [`LATE_NS`](super::verdict::LATE_NS) after their time.
    pub late: u64,
    /// The longest delay, nanoseconds.
    pub late_max_ns: u64,
}

/// Copies of packets at their hearers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hearing {
    /// Copies that were due: for each packet one to everyone else in the channel who was there.
    pub expected: u64,
    /// Copies of those that came, each counted once.
    pub heard: u64,
    /// `expected - heard`.
    pub lost: u64,
    /// Copies beyond the first.
    pub duplicated: u64,
    /// Copies that came after a later packet of the same source.
    pub reordered: u64,
    /// Packets of another channel.
    pub wrong_channel: u64,
    /// Datagrams that did not open with the hearer's key.
    pub undecryptable: u64,
    /// Datagrams that opened and were none of this run's packets, RTCP excepted.
    pub foreign: u64,
}

/// A distribution of latencies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// The least, nanoseconds.
    pub min_ns: u64,
    /// The mean, nanoseconds.
    pub mean_ns: f64,
    /// 50th percentile, nanoseconds, as are all below.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p99_9_ns: u64,
    /// 99.99th percentile.
    pub p99_99_ns: u64,
    /// The most.
    pub max_ns: u64,
    /// The whole of it: upper end of each bucket that is not empty, nanoseconds, and its samples;
    /// ascending. Three significant digits.
    pub histogram: Vec<(u64, u64)>,
}

/// One client's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hearer {
    /// Its channel's number in the scenario.
    pub channel: u32,
    /// Its number among all clients.
    pub client: u32,
    /// What it heard.
    pub hearing: Hearing,
}

/// One second of the measured time. Packets belong to the second in which they were to leave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Which.
    pub second: u32,
    /// Whether the bare loop had this second rather than the server.
    pub bound: bool,
    /// Packets sent.
    pub sent: u64,
    /// Copies due.
    pub expected: u64,
    /// Copies heard.
    pub heard: u64,
    /// Copies that never came.
    pub lost: u64,
    /// Median latency, nanoseconds; `None` if nothing was heard, as with the others.
    pub p50_ns: Option<u64>,
    /// 99th percentile, nanoseconds.
    pub p99_ns: Option<u64>,
    /// The most, nanoseconds.
    pub max_ns: Option<u64>,
    /// Processor time of the server (or of the bare loop) in this second, in cores: 1.0 is one core
    /// for the whole second.
    pub server_cores: Option<f64>,
}

/// How clients got in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Joins {
    /// Attempts, comings back included.
    pub attempted: u64,
    /// Those whose media could flow.
    pub succeeded: u64,
    /// From when the TCP connection was due to where media may flow: Session Description, discovery
    /// included; of a browser the end of its DTLS handshake.
    pub time: Latency,
    /// The same of browsers alone, where others joined as well: they have handshakes to make.
    #[serde(default)]
    pub of_browsers: Option<Latency>,
    /// Why the others did not, most frequent first.
    pub failures: Vec<Failure>,
    /// Sessions that ended before their time, most frequent first.
    pub broken: Vec<Failure>,
}

/// One sort of failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The close code, where there was one.
    pub close_code: Option<u16>,
    /// The server's reason, or what went wrong.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// What the measured time cost a process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The process.
    pub pid: Option<u32>,
    /// Copies forwarded that the costs are divided by: as the server counts them, else as heard.
    pub forwarded: u64,
    /// Processor time of one forwarded copy, nanoseconds.
    pub cpu_ns_per_packet: Option<f64>,
    /// The part of it spent in user mode. The kernel estimates the split by its timer tick.
    pub user_ns_per_packet: Option<f64>,
    /// The part of it spent in the kernel.
    pub kernel_ns_per_packet: Option<f64>,
    /// Passes through the kernel's UDP stack for one forwarded copy.
    pub traversals_per_packet: Option<f64>,
    /// How long datagrams stayed with it, by its own account.
    pub share: Option<ServerShare>,
    /// Processor time over the measured time, in cores.
    pub cores: Option<f64>,
    /// The busiest thread's share of one core, 0 to 1.
    pub busiest_thread: Option<f64>,
    /// Its name.
    pub busiest_thread_name: Option<String>,
    /// Memory of the process before the first client came, bytes.
    pub memory_before_bytes: Option<u64>,
    /// And with all of them there.
    pub memory_joined_bytes: Option<u64>,
    /// The difference divided by the sessions; meaningful for a freshly started server.
    pub memory_per_session_bytes: Option<f64>,
    /// Times a second that its threads gave the core up.
    pub voluntary_switches_per_s: Option<f64>,
    /// Times a second that the core was taken from them.
    pub involuntary_switches_per_s: Option<f64>,
    /// Datagrams the kernel dropped because the server's UDP sockets were full.
    pub socket_drops: Option<u64>,
}

/// A bare receive-and-send loop, which took turns with the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// Seconds that each had before it was the other's turn.
    pub slice_s: u32,
    /// Its account, as the server's `overall`.
    pub overall: Phase,
    /// Its cost.
    pub cost: Cost,
    /// The server's numbers divided by its.
    pub ratios: Ratios,
}

/// The server's numbers as multiples of the bare loop's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratios {
    /// Processor time of one forwarded copy.
    pub cpu_per_packet: Option<f64>,
    /// Median latency.
    pub p50: Option<f64>,
    /// 99th percentile of latency.
    pub p99: Option<f64>,
    /// 99.9th percentile of latency.
    pub p99_9: Option<f64>,
}

/// The search for the most that a server carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FindMax {
    /// What was raised: `listeners`, `speakers` or `channels`.
    pub dimension: String,
    /// The service level: 99th percentile, nanoseconds.
    pub p99_max_ns: u64,
    /// The service level: lost copies as a fraction of those expected.
    pub loss_max: f64,
    /// Every step, in the order they were made.
    pub steps: Vec<Step>,
    /// The most that held, `None` if nothing did.
    pub held: Option<u32>,
    /// What broke first beyond that.
    pub broke: Option<Breakage>,
}

/// One step of the search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// How many of the dimension.
    pub value: u32,
    /// Whether the service level held, with a generator that kept up.
    pub held: bool,
    /// Copies forwarded a second.
    pub forwarded_per_s: f64,
    /// 99th percentile of latency, nanoseconds.
    pub p99_ns: u64,
    /// Lost copies as a fraction of those expected.
    pub loss: f64,
    /// The server's busiest thread, 0 to 1.
    pub busiest_thread: Option<f64>,
    /// What ended it, if it did not hold.
    pub broke: Option<Breakage>,
}

/// What broke, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breakage {
    /// `p99`, `loss`, `joins` or `generator`.
    pub what: String,
    /// What ran out.
    pub resource: Resource,
    /// The finding in a sentence, with its numbers.
    pub why: String,
}

/// What can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A thread of the server had its core to the full.
    Core,
    /// A UDP socket's buffer overflowed.
    SocketBuffer,
    /// A network card dropped.
    NetworkCard,
    /// The generator could not keep its schedule.
    Generator,
    /// A limit of the server: it refused clients.
    Limit,
    /// None of these.
    Unknown,
}

/// Why a result cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// The file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its text.
    #[error("{path} is no result of `stentor load`: {problem}")]
    Malformed {
        /// Which.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl RunResult {
    /// Reads a `result.json`.
    ///
    /// # Errors
    /// The file cannot be read, is no result, or one of another [`FORMAT`].
    pub fn read(path: &std::path::Path) -> Result<Self, ResultError> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let name = || path.display().to_string();
        let malformed = |problem| ResultError::Malformed { path: name(), problem };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ResultError::File { path: name(), source })?;
        let versioned: Versioned =
            serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if versioned.format != FORMAT {
            let problem = format!("its format is {}, this is {FORMAT}", versioned.format);
            return Err(malformed(problem));
        }
        serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))
    }

    /// Its JSON text.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a result is plain values");
        text.push('\n');
        text
    }
}

impl Hearing {
    /// Lost copies as a fraction of those expected; 0 if none were.
    pub fn loss(&self) -> f64 {
        if self.expected == 0 { 0.0 } else { self.lost as f64 / self.expected as f64 }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::load::scenario::Scenario;

    /// A result of nothing, to be varied.
    pub(crate) fn sample() -> RunResult {
        let phase = Phase {
            name: "whole".to_owned(),
            from_s: 0,
            to_s: 20,
            sending: Sending::default(),
            hearing: Hearing::default(),
            latency: Latency::default(),
        };
        RunResult {
            format: FORMAT,
            about: About {
                started_at: "2026-11-22T12:00:00Z".to_owned(),
                version: "0.1.0".to_owned(),
                commit: None,
                kernel: "6.18.0".to_owned(),
                cpu: "a processor".to_owned(),
                cores: 2,
                command: vec!["stentor".to_owned(), "load".to_owned()],
                endpoint: "localhost:8443".to_owned(),
                receive_time: ReceiveTime::Kernel { drift_ns: 5 },
            },
            scenario: Scenario::simple(1, 2).expect("a speaker and two listeners are a scenario"),
            verdict: Verdict { valid: true, reasons: Vec::new(), warnings: Vec::new() },
            overall: phase,
            phases: Vec::new(),
            hearers: Vec::new(),
            seconds: vec![Second::default()],
            joins: Joins::default(),
            cost: Some(Cost::default()),
            bound: None,
            find_max: None,
        }
    }

    #[test]
    fn a_result_is_read_back_as_it_was_written() {
        let mut result = sample();
        result.overall.latency.histogram = vec![(10, 3), (20, 1)];
        result.about.receive_time = ReceiveTime::Turn;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), result.to_json()).unwrap();
        assert_eq!(RunResult::read(file.path()).unwrap(), result);
    }

    #[test]
    fn another_format_and_other_files_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let newer = sample().to_json().replacen("\"format\": 1", "\"format\": 2", 1);
        for (text, word) in
            [(newer.as_str(), "format is 2"), ("{}", "format"), ("rubbish", "no result")]
        {
            std::fs::write(file.path(), text).unwrap();
            let problem = RunResult::read(file.path()).unwrap_err().to_string();
            assert!(problem.contains(word), "{problem}");
        }
        assert!(RunResult::read(std::path::Path::new("/nonexistent")).is_err());
    }
}
