//! What the server's process has cost so far, read from `/proc` and from its metrics, and what the
//! difference between two readings comes to. Reads only; a reading that cannot be had is `None`.
//!
//! Processor time is that of the scheduler (`schedstat`, nanoseconds). The kernel keeps no such
//! account of user and kernel mode: `stat` has it in clock ticks, by where the tick found the
//! process, so only its proportion is used.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{result::Cost, server_share::Buckets};

/// Fewest ticks from which a proportion is told: 3 % of a core over ten seconds at the usual 100 a
/// second. Below that it is chance.
const TICKS_MIN: u64 = 30;

/// A process to read, or one thread of it.
#[derive(Debug, Clone)]
pub struct Probe {
    root: PathBuf,
    pid: u32,
    thread: Option<u32>,
    /// Its UDP sockets, by inode.
    sockets: BTreeSet<u64>,
}

/// One reading.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// When, nanoseconds of the run's clock.
    pub at_ns: u64,
    /// Its threads; none, where it cannot be read.
    pub threads: BTreeMap<u32, Thread>,
    /// Memory of its own, bytes.
    pub memory_bytes: Option<u64>,
    /// Datagrams dropped at its UDP sockets.
    pub socket_drops: Option<u64>,
}

/// What one thread has come to. Kept apart from the others': one that ends takes its counts with
/// it, and in a sum of all they would be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// Processor time, nanoseconds.
    pub cpu_ns: u64,
    /// Clock ticks in user and in kernel mode.
    pub ticks: Option<(u64, u64)>,
    /// Context switches, voluntary and involuntary.
    pub switches: Option<(u64, u64)>,
}

/// What the server's metrics count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// When they had come, nanoseconds of the run's clock.
    pub at_ns: u64,
    /// Copies forwarded.
    pub forwarded: u64,
    /// Passes through the kernel's UDP stack.
    pub traversals: u64,
    /// How long datagrams stayed with it.
    pub share: Buckets,
}

impl Probe {
    /// A process.
    pub fn process(pid: u32) -> Self {
        Self::under(Path::new("/proc"), pid)
    }

    /// A thread of this process.
    pub fn own_thread(thread: u32) -> Self {
        let pid = std::process::id();
        let root = PathBuf::from("/proc");
        Self { root, pid, thread: Some(thread), sockets: BTreeSet::new() }
    }

    /// The process that listens on this TCP port of this machine.
    pub fn listening_on(port: u16) -> Option<Self> {
        let root = Path::new("/proc");
        let wanted = listeners(root, port);
        let processes = fs::read_dir(root).ok()?.flatten();
        let pid = processes
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| open_sockets(root, *pid).iter().any(|inode| wanted.contains(inode)))?;
        Some(Self::process(pid))
    }

    fn under(root: &Path, pid: u32) -> Self {
        let mut sockets = open_sockets(root, pid);
        let udp: BTreeSet<u64> = udp_sockets(root).into_iter().map(|socket| socket.inode).collect();
        sockets.retain(|inode| udp.contains(inode));
        Self { root: root.to_owned(), pid, thread: None, sockets }
    }

    /// Which process it is.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it can be read at all.
    pub fn is_alive(&self) -> bool {
        self.root.join(self.pid.to_string()).join("stat").exists()
    }

    /// Cores to which threads of its are pinned. A thread that may run where the first one may is
    /// not, even where that is a single core: it is only kept off the others.
    pub fn pinned_cores(&self) -> BTreeSet<usize> {
        let allowed = |thread: &Path| {
            let status = fs::read_to_string(thread.join("status")).ok()?;
            Some(field(&status, "Cpus_allowed_list:")?.to_owned())
        };
        let first = allowed(&self.directory());
        let lists = self.tasks().into_iter().map(|(_, path)| allowed(&path));
        lists.filter(|list| *list != first).filter_map(|list| list?.parse().ok()).collect()
    }

    /// Reads everything.
    pub fn sample(&self, at_ns: u64) -> Sample {
        let mut sample = Sample { at_ns, ..Sample::default() };
        for (thread, path) in self.tasks() {
            let Some(cpu_ns) = scheduled_ns(&path) else { continue };
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            let reading = Thread {
                name: name.trim_end().to_owned(),
                cpu_ns,
                ticks: ticks(&path),
                switches: switches(&path),
            };
            sample.threads.insert(thread, reading);
        }
        if self.thread.is_none() {
            let status = fs::read_to_string(self.directory().join("status")).ok();
            sample.memory_bytes = status.and_then(|status| own_memory(&status));
            let drops = || {
                let sockets = udp_sockets(&self.root).into_iter();
                let own = sockets.filter(|socket| self.sockets.contains(&socket.inode));
                own.map(|socket| socket.drops).sum()
            };
            sample.socket_drops = (!self.sockets.is_empty()).then(drops);
        }
        sample
    }

    fn directory(&self) -> PathBuf {
        self.root.join(self.pid.to_string())
    }

    fn tasks(&self) -> Vec<(u32, PathBuf)> {
        let tasks = self.directory().join("task");
        if let Some(thread) = self.thread {
            return vec![(thread, tasks.join(thread.to_string()))];
        }
        let entries = fs::read_dir(tasks).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
            .collect()
    }
}

/// Datagrams that the kernel has dropped at these UDP ports of this machine.
pub fn drops_at(ports: &BTreeSet<u16>) -> u64 {
    let sockets = udp_sockets(Path::new("/proc")).into_iter();
    sockets.filter(|socket| ports.contains(&socket.port)).map(|socket| socket.drops).sum()
}

/// The sum of a metric's samples on a page of metrics, over all labels; `None` without any.
pub fn sum(page: &str, name: &str) -> Option<f64> {
    let values = page.lines().filter_map(|line| {
        let (sample, value) = line.rsplit_once(' ')?;
        let of = sample.split('{').next()?;
        (of == name).then(|| value.parse::<f64>().ok()).flatten()
    });
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// Reads what we need of a page of metrics that came at `at_ns`; `None` if it is no stentor's.
pub fn counted(page: &str, at_ns: u64) -> Option<Counted> {
    let sum = |name: &str| sum(page, name).map(|sum| sum as u64);
    Some(Counted {
        at_ns,
        forwarded: sum("stentor_packets_forwarded_total")?,
        traversals: sum("stentor_stack_traversals_total")?,
        share: Buckets::parse(page),
    })
}

/// Processor time from one reading to the next, in cores.
pub fn cores_between(from: &Sample, to: &Sample) -> Option<f64> {
    let elapsed = to.at_ns.checked_sub(from.at_ns).filter(|ns| *ns > 0)?;
    Some(growth(from, to, |thread| Some(thread.cpu_ns))? as f64 / elapsed as f64)
}

/// What the stretches between these pairs of readings cost together, in which `forwarded` copies
/// were forwarded.
pub fn cost(stretches: &[(&Sample, &Sample)], forwarded: u64) -> Cost {
    let sum = |part: &dyn Fn(&Sample, &Sample) -> Option<u64>| {
        let parts = stretches.iter().map(|(from, to)| part(from, to));
        parts.sum::<Option<u64>>().filter(|_| !stretches.is_empty())
    };
    let grown = |count: fn(&Thread) -> Option<u64>| sum(&|from, to| growth(from, to, count));
    let elapsed: u64 = stretches.iter().map(|(from, to)| to.at_ns.saturating_sub(from.at_ns)).sum();
    let per_packet = |ns: f64| (forwarded > 0).then(|| ns / forwarded as f64);
    let per_second = |count: u64| (elapsed > 0).then(|| count as f64 * 1e9 / elapsed as f64);
    let cpu_ns = grown(|thread| Some(thread.cpu_ns)).map(|ns| ns as f64);
    let user = grown(|thread| thread.ticks.map(|ticks| ticks.0));
    let kernel = grown(|thread| thread.ticks.map(|ticks| ticks.1));
    let user_share = user.zip(kernel).and_then(|(user, kernel)| {
        (user + kernel >= TICKS_MIN).then(|| user as f64 / (user + kernel) as f64)
    });
    let busiest = busiest(stretches);
    let share = |(_, ns): &(String, u64)| (elapsed > 0).then(|| *ns as f64 / elapsed as f64);
    Cost {
        forwarded,
        cpu_ns_per_packet: cpu_ns.and_then(per_packet),
        user_ns_per_packet: cpu_ns.zip(user_share).and_then(|(ns, user)| per_packet(ns * user)),
        kernel_ns_per_packet: cpu_ns
            .zip(user_share)
            .and_then(|(ns, user)| per_packet(ns * (1.0 - user))),
        cores: cpu_ns.filter(|_| elapsed > 0).map(|ns| ns / elapsed as f64),
        busiest_thread: busiest.as_ref().and_then(share),
        busiest_thread_name: busiest.map(|(name, _)| name),
        voluntary_switches_per_s: grown(|thread| thread.switches.map(|switches| switches.0))
            .and_then(per_second),
        involuntary_switches_per_s: grown(|thread| thread.switches.map(|switches| switches.1))
            .and_then(per_second),
        socket_drops: sum(&|from, to| to.socket_drops?.checked_sub(from.socket_drops?)),
        ..Cost::default()
    }
}

/// By how much a count of the threads there are has grown from one reading to the next; `None` if
/// there is nothing to compare. One that has ended meanwhile has grown no more.
fn growth(from: &Sample, to: &Sample, count: fn(&Thread) -> Option<u64>) -> Option<u64> {
    if from.threads.is_empty() {
        return None;
    }
    let threads = to.threads.iter();
    let grown = threads.filter_map(|(id, thread)| thread.growth(from.threads.get(id), count));
    grown.reduce(|sum, grown| sum + grown)
}

impl Thread {
    /// By how much a count has grown: by all of it if the thread is new.
    fn growth(&self, before: Option<&Self>, count: fn(&Self) -> Option<u64>) -> Option<u64> {
        let now = count(self)?;
        let Some(before) = before else { return Some(now) };
        // What has become less is another thread's, which was given the number of one that ended.
        Some(now.checked_sub(count(before)?).unwrap_or(now))
    }
}

/// The thread with the most processor time, and how much.
fn busiest(stretches: &[(&Sample, &Sample)]) -> Option<(String, u64)> {
    let mut threads: BTreeMap<u32, (String, u64)> = BTreeMap::new();
    for (from, to) in stretches {
        for (id, thread) in &to.threads {
            let grown = thread.growth(from.threads.get(id), |thread| Some(thread.cpu_ns));
            let sum = threads.entry(*id).or_insert_with(|| (thread.name.clone(), 0));
            sum.1 += grown.unwrap_or(0);
        }
    }
    threads.into_values().max_by_key(|(_, cpu_ns)| *cpu_ns)
}

fn scheduled_ns(task: &Path) -> Option<u64> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// `utime` and `stime`, fields 14 and 15; the second, the name, may have anything in it.
fn ticks(task: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(task.join("stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn switches(task: &Path) -> Option<(u64, u64)> {
    let status = fs::read_to_string(task.join("status")).ok()?;
    let voluntary = field(&status, "voluntary_ctxt_switches:")?.parse().ok()?;
    Some((voluntary, field(&status, "nonvoluntary_ctxt_switches:")?.parse().ok()?))
}

/// Resident memory that no file backs.
fn own_memory(status: &str) -> Option<u64> {
    let kib = |name| field(status, name)?.strip_suffix(" kB")?.trim().parse::<u64>().ok();
    Some((kib("RssAnon:")? + kib("RssShmem:").unwrap_or(0)) * 1_024)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Inodes of all sockets a process has open.
fn open_sockets(root: &Path, pid: u32) -> BTreeSet<u64> {
    let directory = root.join(pid.to_string()).join("fd");
    let descriptors = fs::read_dir(directory).into_iter().flatten().flatten();
    descriptors
        .filter_map(|descriptor| {
            let link = fs::read_link(descriptor.path()).ok()?;
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// Inodes of TCP sockets that listen on a port.
fn listeners(root: &Path, port: u16) -> BTreeSet<u64> {
    let listens = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let listens = *state == "0A" && port_of(local)? == port;
        listens.then(|| inode.parse().ok()).flatten()
    };
    let tables = ["net/tcp", "net/tcp6"].map(|name| fs::read_to_string(root.join(name)));
    tables.iter().flatten().flat_map(|table| table.lines().skip(1).filter_map(listens)).collect()
}

#[derive(Debug)]
struct UdpSocket {
    port: u16,
    inode: u64,
    drops: u64,
}

fn udp_sockets(root: &Path) -> Vec<UdpSocket> {
    let parse = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        Some(UdpSocket {
            port: port_of(fields.get(1)?)?,
            inode: fields.get(9)?.parse().ok()?,
            drops: fields.last()?.parse().ok()?,
        })
    };
    let tables = ["net/udp", "net/udp6"].map(|name| fs::read_to_string(root.join(name)));
    tables.iter().flatten().flat_map(|table| table.lines().skip(1).filter_map(parse)).collect()
}

/// The port of `0100007F:20FB`.
fn port_of(address: &str) -> Option<u16> {
    u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn machine() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let stat = "9 (a (b) c) S 1 9 9 0 -1 4194304 1 0 0 0 30 10 0 0 20 0 2 0 100 0 0";
        for (task, cpu_ns, cores) in [("9", 1_000, "0-7"), ("10", 5_000, "3")] {
            write(root.path(), &format!("9/task/{task}/schedstat"), &format!("{cpu_ns} 7 3\n"));
            write(root.path(), &format!("9/task/{task}/comm"), &format!("task-{task}\n"));
            write(root.path(), &format!("9/task/{task}/stat"), stat);
            let status = format!(
                "Cpus_allowed_list:\t{cores}\nvoluntary_ctxt_switches:\t4\n\
                 nonvoluntary_ctxt_switches:\t1\n"
            );
            write(root.path(), &format!("9/task/{task}/status"), &status);
        }
        let memory = "RssAnon:\t   100 kB\nRssFile:\t 9 kB\nRssShmem:\t 4 kB\n";
        write(root.path(), "9/status", &format!("{memory}Cpus_allowed_list:\t0-7\n"));
        let head = "  sl local_address rem_address st tx rx tr tm retr uid timeout inode\n";
        let udp = "0: 0100007F:C350 00000000:0000 07 0:0 00:0 0 0 0 77 2 0 12\n\
                   1: 0100007F:C351 00000000:0000 07 0:0 00:0 0 0 0 78 2 0 5\n";
        write(root.path(), "net/udp", &format!("{head}{udp}"));
        let tcp = "0: 0100007F:20FB 00000000:0000 0A 0:0 00:0 0 0 0 80 1 0\n\
                   1: 0100007F:20FB 0100007F:9999 01 0:0 00:0 0 0 0 81 1 0\n";
        write(root.path(), "net/tcp", &format!("{head}{tcp}"));
        let fd = root.path().join("9/fd");
        fs::create_dir_all(&fd).unwrap();
        symlink("socket:[77]", fd.join("3")).unwrap();
        symlink("/dev/null", fd.join("4")).unwrap();
        root
    }

    #[test]
    fn a_process_is_read_thread_by_thread() {
        let root = machine();
        let probe = Probe::under(root.path(), 9);
        let sample = probe.sample(5);
        let thread = |id: u32, cpu_ns| {
            let (ticks, switches) = (Some((30, 10)), Some((4, 1)));
            (id, Thread { name: format!("task-{id}"), cpu_ns, ticks, switches })
        };
        assert_eq!(sample.at_ns, 5);
        assert_eq!(sample.threads, BTreeMap::from([thread(9, 1_000), thread(10, 5_000)]));
        assert_eq!(sample.memory_bytes, Some(104 * 1_024));
        assert_eq!(sample.socket_drops, Some(12), "and not the drops of others");
        assert_eq!(probe.pinned_cores(), BTreeSet::from([3]));
        let kept_off = "RssAnon: 1 kB\nCpus_allowed_list:\t3\n";
        write(root.path(), "9/status", kept_off);
        assert_eq!(probe.pinned_cores(), BTreeSet::new(), "as its first thread, so not pinned");
        assert_eq!(listeners(root.path(), 8_443), BTreeSet::from([80]));
    }

    #[test]
    fn what_cannot_be_read_is_none() {
        let root = tempfile::tempdir().unwrap();
        let sample = Probe::under(root.path(), 9).sample(5);
        assert_eq!(sample, Sample { at_ns: 5, ..Sample::default() });
        let cost = cost(&[(&sample, &sample)], 10);
        assert_eq!(cost, Cost { forwarded: 10, ..Cost::default() });
    }

    #[test]
    fn costs_are_differences_divided_by_packets() {
        let sample = |at_ns: u64, cpu_ns: u64, ticks| {
            let shard = Thread {
                name: "shard-0".to_owned(),
                cpu_ns,
                ticks: Some(ticks),
                switches: Some((at_ns / 1_000, 0)),
            };
            let idle = Thread { name: "idle".to_owned(), ..Thread::default() };
            Sample { at_ns, threads: BTreeMap::from([(1, idle), (2, shard)]), ..Sample::default() }
        };
        let samples = [
            sample(0, 0, (0, 0)),
            sample(1_000_000, 400_000, (10, 30)),
            sample(2_000_000, 900_000, (100, 100)),
            sample(3_000_000, 1_000_000, (110, 130)),
        ];
        // The second of the three stretches was somebody else's.
        let cost = cost(&[(&samples[0], &samples[1]), (&samples[2], &samples[3])], 100);
        assert_eq!(cost.cpu_ns_per_packet, Some(5_000.0));
        assert_eq!(cost.user_ns_per_packet, Some(1_250.0));
        assert_eq!(cost.kernel_ns_per_packet, Some(3_750.0));
        assert_eq!(cost.cores, Some(0.25));
        assert_eq!(cost.busiest_thread, Some(0.25));
        assert_eq!(cost.busiest_thread_name.as_deref(), Some("shard-0"));
        assert_eq!(cost.voluntary_switches_per_s, Some(1e6));
        assert_eq!(cores_between(&samples[0], &samples[1]), Some(0.4));
    }

    #[test]
    fn a_thread_that_ends_takes_nothing_back_and_one_that_begins_counts_whole() {
        let sample = |at_ns, threads: &[(u32, u64)]| {
            let thread = |&(id, cpu_ns)| (id, Thread { cpu_ns, ..Thread::default() });
            Sample { at_ns, threads: threads.iter().map(thread).collect(), ..Sample::default() }
        };
        let samples = [
            sample(0, &[(1, 100), (2, 90_000)]),
            sample(1_000, &[(1, 500), (3, 50)]),
            // Another thread has been given the third one's number.
            sample(2_000, &[(1, 900), (3, 20)]),
        ];
        let cost = cost(&[(&samples[0], &samples[1]), (&samples[1], &samples[2])], 10);
        assert_eq!(cost.cpu_ns_per_packet, Some(87.0), "(400 + 50 + 400 + 20) / 10");
        assert_eq!(cost.busiest_thread, Some(0.4));
        assert_eq!(cores_between(&samples[0], &samples[1]), Some(0.45));
    }

    #[test]
    fn metrics_are_summed_over_shards() {
        let page = "# HELP x y\nstentor_packets_forwarded_total{shard=\"0\"} 5\n\
                    stentor_packets_forwarded_total{shard=\"1\"} 7\n\
                    stentor_stack_traversals_total{shard=\"0\"} 4\n";
        assert_eq!(
            counted(page, 5),
            Some(Counted { at_ns: 5, forwarded: 12, traversals: 4, ..Counted::default() })
        );
        assert_eq!(counted("up 1\n", 5), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let probe = Probe::listening_on(port).expect("we listen");
        assert_eq!(probe.pid(), std::process::id());
        assert!(probe.is_alive() && probe.sample(0).memory_bytes.is_some());
    }
}
