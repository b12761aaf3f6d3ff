//! One run from the first connection to the last: starts the threads, waits for the clients, says
//! which time counts, reads the server each second and collects what the threads tell. Decides
//! nothing about packets.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;

use super::{
    account::{Arrivals, Ledger},
    client::Profile,
    clock::Clock,
    control_client::{self, Scrape},
    dtls::Setup,
    endpoint::Endpoint,
    gateway::{self, Act, News},
    grants::Grants,
    machine,
    media::Order,
    players::Players,
    ports::Addressing,
    progress::{Glimpse, Progress},
    result::{About, FORMAT, RunResult},
    scenario::Scenario,
    schedule::{Cast, SECOND_NS},
    server_cost::{Counted, Probe, Sample, cores_between, drops_at},
    stage::{END_TIMEOUT, RunError, Stage, system},
    tally::{Seconds, Target, Window},
    verdict::CostFault,
};
use crate::{driver::server::reserve_descriptors, grant::Ticket};

/// How often the run looks at what the threads tell.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Time beyond the pace of joins after which those who have not got in are not waited for: what one
/// join may take, and a margin.
const JOIN_MARGIN: Duration = Duration::from_secs(35);

/// From the announcement of the measured time to its beginning, at the least: all threads must have
/// heard of it.
const LEAD_NS: u64 = 100_000_000;

/// After the last packet copies are waited for at least so long, then while more keep coming, and
/// at the most so long: a server with a long queue is slow, and not lossy.
const DRAIN: Duration = Duration::from_millis(500);
const DRAINS_MIN: u32 = 2;
const DRAINS_MAX: u32 = 20;

/// A run that has come to its end.
#[derive(Debug)]
pub struct Played {
    /// What it found.
    pub result: RunResult,
    /// The server's seconds, with their histograms.
    pub seconds: Seconds,
}

/// What was found out before a run begins.
struct Prepared {
    run: u32,
    cast: Arc<Cast>,
    tickets: Vec<Ticket>,
    endpoint: Endpoint,
    addressing: Addressing,
    probe: Result<Option<Probe>, CostFault>,
}

/// Plays a scenario.
///
/// # Errors
/// It could not begin, nobody got in, or the generator broke.
pub fn play(scenario: &Scenario, stage: &Stage) -> Result<Played, RunError> {
    let prepared = prepare(scenario, stage)?;
    let channels: BTreeSet<_> = prepared.tickets.iter().map(|ticket| ticket.channel_id).collect();
    let played = perform(scenario, stage, prepared);
    if let (Grants::Control(_), Some(access)) = (&stage.grants, &stage.control) {
        control_client::close_rooms(access, &channels);
    }
    played
}

fn prepare(scenario: &Scenario, stage: &Stage) -> Result<Prepared, RunError> {
    let run = u32::from_be_bytes(random());
    let cast = Arc::new(Cast::new(scenario));
    let clients = scenario.clients();
    machine::allow_descriptors(clients).map_err(|limit| RunError::OpenFiles {
        clients,
        limit,
        wanted: clients + 100,
    })?;
    // A media thread that stands still while others join would be late.
    reserve_descriptors();
    let tickets = stage.grants.tickets(&cast, run)?;
    let authority = stage.endpoint.as_ref().unwrap_or(&tickets[0].endpoint);
    let endpoint = Endpoint::find(authority, &stage.trust)?;
    let addressing = Addressing::towards(endpoint.address.ip());
    if stage.bound_slice_s.is_some() && addressing != Addressing::Loopback {
        return Err(RunError::BoundElsewhere(endpoint.address));
    }
    let probe = server_process(stage.server_pid, endpoint.address);
    Ok(Prepared { run, cast, tickets, endpoint, addressing, probe })
}

/// The server's process: the one that was named, else the one that listens there if that is here.
fn server_process(pid: Option<u32>, gateway: SocketAddr) -> Result<Option<Probe>, CostFault> {
    if let Some(pid) = pid {
        let probe = Some(Probe::process(pid)).filter(Probe::is_alive);
        return probe.map(Some).ok_or(CostFault::Unreadable(pid));
    }
    // Only an address of this machine can be bound here.
    if UdpSocket::bind((gateway.ip(), 0)).is_err() {
        return Ok(None);
    }
    let probe = Probe::listening_on(gateway.port()).filter(Probe::is_alive);
    probe.map(Some).ok_or(CostFault::Unseen(gateway.port()))
}

fn perform(scenario: &Scenario, stage: &Stage, prepared: Prepared) -> Result<Played, RunError> {
    let Prepared { run, cast, tickets, endpoint, addressing, probe } = prepared;
    let (process, probe) = match probe {
        Ok(probe) => (Ok(probe.as_ref().map(Probe::pid)), probe),
        Err(fault) => (Err(fault), None),
    };
    let memory_before_bytes = probe.as_ref().and_then(|probe| probe.sample(0).memory_bytes);
    let taken = probe.as_ref().map(Probe::pinned_cores).unwrap_or_default();
    let cores = cores(stage, &taken);
    machine::stay_on(&cores);
    let clock = Clock::start();
    let mut players = Players::start(stage, &cast, run, addressing, clock, &cores, probe.as_ref())?;
    let (act, acts) = watch::channel(Act::Opening);
    let (tell, news) = mpsc::channel();
    let authority = endpoint.authority.clone();
    let part = gateway::Part {
        cast: cast.clone(),
        tickets,
        endpoint,
        addressing,
        profile: Profile { version: scenario.gateway_version, video: false, camera: false },
        mode: scenario.mode(),
        setup: Arc::new(Setup::new(scenario.srtp_profile()).map_err(RunError::Certificate)?),
        joins_per_second: scenario.joins_per_second,
        heartbeat: scenario.heartbeat_s.map(|seconds| Duration::from_secs(seconds.into())),
        clock,
        media: players.orders.clone(),
    };
    let gateway = gateway::start(part, acts, tell).map_err(system("the gateway's thread"))?;
    let mut run = Run {
        scenario,
        cast: &cast,
        clock,
        probe,
        news,
        arrivals: Arrivals::default(),
        ready: vec![false; cast.clients.len()],
        settled: 0,
        progress: Progress::new(stage.quiet),
    };
    run.wait_for_clients(&mut players)?;

    let lead_ns = (u64::from(scenario.warmup_s) * SECOND_NS).max(LEAD_NS);
    let from_ns = clock.now_ns() + lead_ns;
    let window = Window { from_ns, seconds: scenario.duration_s, slice_s: stage.bound_slice_s };
    players.order(|| Order::Measure(window));
    act.send_replace(Act::Measured(window));
    let measured = run.measure(&mut players, &window, stage)?;
    players.order(|| Order::Hush);
    run.drain(&mut players)?;
    let own_drops = drops_at(&players.ports).saturating_sub(players.drops_before);
    players.order(|| Order::Finish);
    players.finish()?;
    act.send_replace(Act::End);
    wait_for_end(&gateway, &clock);
    run.hear_news();
    run.progress.end();

    let mut ledger = Ledger {
        scenario,
        cast: &cast,
        window,
        seconds: players.seconds,
        accounts: players.accounts,
        arrivals: run.arrivals,
        server: measured.server,
        bound: measured.bound,
        counted: measured.counted,
        memory_before_bytes,
        sessions: measured.sessions,
        process,
        bound_elsewhere: stage.bound_slice_s.is_some() && taken.is_empty(),
        own_drops,
    };
    let result = conclude(&ledger, stage, authority, measured.started_at);
    ledger.seconds.retain(|second, _| window.target_of(*second) == Target::Server);
    Ok(Played { result, seconds: ledger.seconds })
}

/// Everyone says goodbye; who takes too long is left behind.
fn wait_for_end(gateway: &JoinHandle<()>, clock: &Clock) {
    let ends_ns = clock.now_ns() + END_TIMEOUT.as_nanos() as u64;
    while !gateway.is_finished() && clock.now_ns() < ends_ns {
        thread::sleep(LOOK_EVERY);
    }
}

fn conclude(
    ledger: &Ledger<'_>,
    stage: &Stage,
    endpoint: String,
    started_at: OffsetDateTime,
) -> RunResult {
    let found = ledger.find();
    RunResult {
        format: FORMAT,
        about: About {
            started_at: started_at.format(&Rfc3339).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: machine::commit(),
            kernel: machine::kernel(),
            cpu: machine::cpu(),
            cores: machine::processors(),
            command: stage.command.clone(),
            endpoint,
            receive_time: found.receive_time,
        },
        scenario: ledger.scenario.clone(),
        verdict: found.verdict,
        overall: found.overall,
        phases: found.phases,
        hearers: found.hearers,
        seconds: found.seconds,
        joins: found.joins,
        cost: found.cost,
        bound: found.bound,
        find_max: None,
    }
}

/// The cores to stay on: as told, else those that no thread of the server is pinned to, else all.
fn cores(stage: &Stage, taken: &BTreeSet<usize>) -> BTreeSet<usize> {
    let allowed = machine::cores();
    if let Some(cores) = &stage.cores {
        return cores.clone();
    }
    let free: BTreeSet<_> = allowed.difference(taken).copied().collect();
    if free.is_empty() { allowed } else { free }
}

/// What was read during the measured time.
struct Measured {
    started_at: OffsetDateTime,
    server: Vec<Sample>,
    bound: Vec<Sample>,
    counted: Option<Result<(Counted, Counted), String>>,
    sessions: u64,
}

struct Run<'a> {
    scenario: &'a Scenario,
    cast: &'a Cast,
    clock: Clock,
    probe: Option<Probe>,
    news: Receiver<(u32, News)>,
    arrivals: Arrivals,
    /// Which clients are there.
    ready: Vec<bool>,
    /// How many of those who join first need not be waited for any more.
    settled: u64,
    progress: Progress,
}

impl Run<'_> {
    fn hear_news(&mut self) {
        while let Ok((client, news)) = self.news.try_recv() {
            let of = &self.cast.clients[client as usize];
            let early = of.joins_at_ns.is_none();
            let ready = &mut self.ready[client as usize];
            match news {
                News::Joined(took) => {
                    let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                    self.arrivals.joined(ns, of.over_webrtc);
                }
                News::Ready => {
                    self.settled += u64::from(early);
                    *ready = true;
                }
                News::Left => *ready = false,
                News::Refused(ending) => {
                    self.settled += u64::from(early);
                    self.arrivals.refused(ending);
                }
                News::Broken(ending) => {
                    self.settled += u64::from(early && !*ready);
                    *ready = false;
                    self.arrivals.broken(ending);
                }
            }
        }
    }

    fn sessions(&self) -> u64 {
        self.ready.iter().filter(|ready| **ready).count() as u64
    }

    /// Waits until then, hearing what the threads tell.
    fn wait(&mut self, players: &mut Players, until_ns: u64) -> Result<(), RunError> {
        loop {
            players.hear()?;
            self.hear_news();
            let left = Duration::from_nanos(until_ns.saturating_sub(self.clock.now_ns()));
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(LOOK_EVERY));
        }
    }

    fn drain(&mut self, players: &mut Players) -> Result<(), RunError> {
        let heard = |players: &Players| -> u64 {
            players.seconds.values().map(|tally| tally.hearing.heard).sum()
        };
        for drain in 1..=DRAINS_MAX {
            let before = heard(players);
            self.wait(players, self.clock.now_ns() + DRAIN.as_nanos() as u64)?;
            if drain >= DRAINS_MIN && heard(players) == before {
                break;
            }
        }
        Ok(())
    }

    fn wait_for_clients(&mut self, players: &mut Players) -> Result<(), RunError> {
        let clients = self.cast.clients.iter();
        let early = clients.filter(|client| client.joins_at_ns.is_none()).count() as u64;
        let paced_ns = early * SECOND_NS / u64::from(self.scenario.joins_per_second);
        let latest_ns = self.clock.now_ns() + paced_ns + JOIN_MARGIN.as_nanos() as u64;
        let mut say_at_ns = self.clock.now_ns() + SECOND_NS;
        while self.settled < early && self.clock.now_ns() < latest_ns {
            let now_ns = self.clock.now_ns();
            self.wait(players, now_ns + LOOK_EVERY.as_nanos() as u64)?;
            if now_ns >= say_at_ns {
                say_at_ns = now_ns + SECOND_NS;
                self.progress.joining(self.sessions(), self.arrivals.refusals(), early);
            }
        }
        if early > 0 && self.sessions() == 0 {
            let joins = self.arrivals.joins();
            let first = joins.failures.first().or(joins.broken.first());
            let why = first.map_or("no answer".to_owned(), |failure| match failure.close_code {
                Some(code) => format!("closed {code}: {}", failure.reason),
                None => failure.reason.clone(),
            });
            return Err(RunError::NobodyJoined(why));
        }
        Ok(())
    }

    fn measure(
        &mut self,
        players: &mut Players,
        window: &Window,
        stage: &Stage,
    ) -> Result<Measured, RunError> {
        let mut before: Option<Sample> = None;
        for left in (1..=self.scenario.warmup_s).rev() {
            self.wait(players, window.from_ns - u64::from(left) * SECOND_NS)?;
            let sample = self.probe.as_ref().map(|probe| probe.sample(self.clock.now_ns()));
            let glimpse = Glimpse {
                server_cores: before
                    .as_ref()
                    .zip(sample.as_ref())
                    .and_then(|(from, to)| cores_between(from, to)),
                ..Glimpse::default()
            };
            self.progress.second(-i64::from(left), &glimpse);
            before = sample;
        }
        self.wait(players, window.from_ns)?;
        let sessions = self.sessions();
        let started_at = OffsetDateTime::now_utc();
        let clock = self.clock;
        let scrape = || Some(Scrape::begin(stage.metrics.clone()?, clock));
        let counted_before = scrape();
        let mut measured =
            Measured { started_at, server: Vec::new(), bound: Vec::new(), counted: None, sessions };
        self.sample(players, &mut measured);
        for second in 0..window.seconds {
            self.wait(players, window.start_of(second + 1))?;
            self.sample(players, &mut measured);
            let glimpse = self.glimpse(players, window, second, &measured);
            self.progress.second(i64::from(second) + 1, &glimpse);
        }
        let scrapes = counted_before.zip(scrape());
        measured.counted = scrapes.map(|(before, after)| told(before, after));
        Ok(measured)
    }

    fn sample(&self, players: &Players, measured: &mut Measured) {
        let now_ns = self.clock.now_ns();
        measured.server.extend(self.probe.as_ref().map(|probe| probe.sample(now_ns)));
        measured.bound.extend(players.bound.as_ref().map(|(_, probe)| probe.sample(now_ns)));
    }

    /// What there is to tell when `second` has passed.
    fn glimpse(
        &self,
        players: &Players,
        window: &Window,
        second: u32,
        measured: &Measured,
    ) -> Glimpse {
        let told = second.saturating_sub(1);
        let tally = players.seconds.get(&told);
        let latency = tally.map(|tally| &tally.latency).filter(|latency| !latency.is_empty());
        let at = |quantile| latency.map(|latency| latency.value_at_quantile(quantile));
        let expected = self.expected(window, told);
        let heard = tally.map_or(0, |tally| tally.hearing.heard);
        let mut ends = measured.server.iter().rev();
        let (to, from) = (ends.next(), ends.next());
        Glimpse {
            sent: players.seconds.values().map(|tally| tally.sending.sent).sum(),
            heard: players.seconds.values().map(|tally| tally.hearing.heard).sum(),
            loss: (expected > 0 && second > 0)
                .then(|| expected.saturating_sub(heard) as f64 / expected as f64),
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            server_cores: from.zip(to).and_then(|(from, to)| cores_between(from, to)),
        }
    }

    /// Copies due in a second, as if those who are there now had been there all along.
    fn expected(&self, window: &Window, second: u32) -> u64 {
        let (from_ns, to_ns) = (window.start_of(second), window.start_of(second + 1));
        let channels = self.cast.channels.iter().map(|channel| {
            let there = channel.clients.clone().filter(|client| self.ready[*client as usize]);
            let hearers = (there.count() as u64).saturating_sub(1);
            let sources =
                &self.cast.sources[channel.sources.start as usize..][..channel.sources.len()];
            let speaking = sources.iter().filter(|source| self.ready[source.client as usize]);
            let packets = speaking.map(|source| source.pace.count_between(from_ns, to_ns));
            hearers * packets.sum::<u64>()
        });
        channels.sum()
    }
}

/// What two readings have told, or why one of them has not.
fn told(before: Scrape, after: Scrape) -> Result<(Counted, Counted), String> {
    let finish = |scrape: Scrape| scrape.finish().map_err(|error| error.to_string());
    Ok((finish(before)?, finish(after)?))
}

fn random() -> [u8; 4] {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    bytes
}

/// Unix time of a moment, seconds.
pub fn unix_s(at: &str) -> f64 {
    let parsed = OffsetDateTime::parse(at, &Rfc3339).ok();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    parsed.map_or_else(now, |at| at.unix_timestamp_nanos() as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn a_process_is_missed_only_of_a_server_on_this_machine() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let gateway = listener.local_addr().unwrap();
        let pid = |named, gateway| -> Result<_, CostFault> {
            let probe = server_process(named, gateway)?;
            Ok(probe.map(|probe| probe.pid()))
        };
        assert_eq!(pid(None, gateway), Ok(Some(std::process::id())));
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        assert_eq!(pid(None, nobody), Err(CostFault::Unseen(1)));
        // An address of documentation (RFC 5737 §3).
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 1));
        assert_eq!(pid(None, elsewhere), Ok(None));
        assert_eq!(pid(Some(u32::MAX), elsewhere), Err(CostFault::Unreadable(u32::MAX)));
    }
}
