//! Whether what was read of a machine is good enough, why it matters and what mends it. Pure: every
//! machine, real or made up, can be judged anywhere. Called by `report::run`.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    doctor::{Cores, Interface, Limit, Observations},
    limits::{SHARD_SESSIONS_MAX, SOCKET_BUFFER_BYTES},
    ring::RingError,
};

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What depends on it.
    pub why: &'static str,
    /// The command that mends it; `None` when nothing needs mending.
    pub remedy: Option<String>,
}

/// How a finding came out, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Good.
    Pass,
    /// The server runs, but worse than this machine could run it.
    Warn,
    /// The server does not start, or cannot serve.
    Fail,
}

/// The release that completed what the ring is built on: completions only when asked for.
const KERNEL_MIN: (u32, u32) = (6, 1);

const NEWER_KERNEL: &str = "sudo apt-get install linux-image-amd64 && sudo reboot    # or your \
                            distribution's newest kernel";

/// glommio refuses to start an executor below this many bytes of lockable memory.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;

/// Descriptors the server holds before the first client, per core: three rings and their wake-ups,
/// sockets, queues (fewer than 20), with a margin.
const FILES_PER_CORE_MIN: u64 = 32;

/// Descriptors for clients, per core. A connection holds one; a tenth of the sessions a shard has
/// room for is what a core carries when they talk.
const FILES_PER_CORE: u64 = SHARD_SESSIONS_MAX as u64 / 10;

/// Largest IP packet an ordinary datagram makes, bytes: 1,200 of RTP (protocol.md §2.3), 12 of
/// extension and 40 of encryption at most, 48 of IPv6 and UDP headers.
const MTU_MIN: u32 = 1_200 + 12 + 40 + 48;

/// Clock sources that are read without entering the kernel.
const FAST_CLOCKS: [&str; 5] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "riscv_clocksource"];

/// Judges one machine.
pub fn judge(seen: &Observations) -> Vec<Finding> {
    let mut findings = vec![
        kernel(seen),
        io_uring_switch(seen),
        io_uring(seen),
        gso(seen),
        timestamps(seen),
        memlock(seen.memlock),
        nofile(seen.nofile, &seen.cores),
        socket_buffer("receive buffer", "rmem_max", seen.rmem_max),
        socket_buffer("send buffer", "wmem_max", seen.wmem_max),
        cores(&seen.cores),
        quota(&seen.cores),
        isolation(&seen.cores),
        clock(seen),
    ];
    findings.extend(seen.interfaces.iter().map(|interface| card(interface, &seen.cores)));
    findings
}

fn kernel(seen: &Observations) -> Finding {
    let finding = finding(
        "kernel",
        "Linux 6.1 is the first with all of io_uring that the packet path is built on.",
    );
    let Some(release) = &seen.kernel else {
        return finding.warn("release not readable", "uname -r");
    };
    let ring_works = seen.media.ring_error.is_none() && seen.media.missing.is_empty();
    match version(release) {
        Some(version) if version >= KERNEL_MIN => finding.pass(release),
        // Some distributions carry io_uring back to old releases: what was tried outranks the name.
        _ if ring_works => finding.pass(format!("{release}, with a newer io_uring")),
        Some(_) => finding.fail(format!("{release}, older than 6.1"), NEWER_KERNEL),
        None => finding.warn(format!("{release}, of unknown age"), NEWER_KERNEL),
    }
}

/// The first two numbers of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn io_uring_switch(seen: &Observations) -> Finding {
    let finding = finding(
        "io_uring switch",
        "kernel.io_uring_disabled can forbid io_uring, without which no shard starts.",
    );
    let works = seen.media.ring_error.is_none();
    let remedy = sysctl("kernel.io_uring_disabled", 0);
    match seen.io_uring_disabled {
        None => finding.pass("this kernel has none"),
        Some(0) => finding.pass("0, open to everyone"),
        Some(1) if works => finding.pass("1, open to this user"),
        Some(1) => finding.fail("1, closed to this user", remedy),
        Some(value) => finding.fail(format!("{value}, closed to everyone"), remedy),
    }
}

fn io_uring(seen: &Observations) -> Finding {
    let finding = finding(
        "io_uring",
        "Shards wait, accept and move every packet through io_uring; there is no other way in.",
    );
    let media = &seen.media;
    let Some(error) = &media.ring_error else {
        if media.missing.is_empty() {
            return finding.pass("tried; all that the server uses is there");
        }
        let missing = format!("the kernel has no {}", media.missing.join(", no "));
        return finding.fail(missing, NEWER_KERNEL);
    };
    match error {
        RingError::Disabled { .. } => {
            finding.fail("switched off", sysctl("kernel.io_uring_disabled", 0))
        }
        RingError::Forbidden { source } => finding.fail(
            format!("no ring: {source} (a container's seccomp filter does this)"),
            "docker run --security-opt seccomp=unconfined …    # or a profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register",
        ),
        RingError::Absent => finding.fail(
            "this kernel was built without it, or a sandbox hides it",
            "grep CONFIG_IO_URING /boot/config-$(uname -r)    # boot a kernel that says =y",
        ),
        RingError::LockedMemory { .. } => {
            finding.fail("no ring: no memory for it", raise_memlock(seen.memlock))
        }
        RingError::OpenFiles { .. } => {
            finding.fail("no ring: no file descriptor left", "ulimit -n 65536")
        }
        other => finding.fail(format!("no ring: {other}"), NEWER_KERNEL),
    }
}

fn timestamps(seen: &Observations) -> Finding {
    let finding = finding(
        "arrival times",
        "Forwarding latency is measured from the kernel's time of arrival; without it waiting in \
         the socket goes unseen.",
    );
    if seen.media.receive_timestamps {
        finding.pass("noted by the kernel")
    } else {
        finding.warn("not noted by the kernel", NEWER_KERNEL)
    }
}

fn gso(seen: &Observations) -> Finding {
    let finding = finding(
        "UDP GSO",
        "Packets for one client leave in one pass through the kernel instead of one pass each.",
    );
    if seen.media.gso {
        finding.pass("tried on loopback; one send left as two datagrams")
    } else {
        finding.warn("sockets refuse UDP_SEGMENT; packets leave one by one", NEWER_KERNEL)
    }
}

fn memlock(limit: Option<Limit>) -> Finding {
    let finding = finding(
        "locked memory",
        "Each shard's executor refuses to start below 512 KiB of lockable memory.",
    );
    let remedy = raise_memlock(limit);
    match limit {
        None => finding.warn("limit not readable", remedy),
        Some(Limit { soft: None, .. }) => finding.pass("unlimited"),
        Some(Limit { soft: Some(bytes), .. }) if bytes < MEMLOCK_BYTES_MIN => {
            finding.fail(in_kib(bytes), remedy)
        }
        Some(Limit { soft: Some(bytes), .. }) => finding.pass(in_kib(bytes)),
    }
}

fn raise_memlock(limit: Option<Limit>) -> String {
    let within_hard = limit.is_some_and(|limit| limit.hard.is_none_or(|it| it >= 8 << 20));
    let command = if within_hard {
        "ulimit -l 8192"
    } else {
        "sudo prlimit --pid $$ --memlock=8388608:8388608"
    };
    format!("{command}    # in the shell that starts stentor; LimitMEMLOCK=8M in a systemd unit")
}

fn nofile(limit: Option<Limit>, cores: &Cores) -> Finding {
    let finding = finding("open files", "Every connection holds one descriptor.");
    let count = cores.allowed.len().max(1) as u64;
    let least = count * FILES_PER_CORE_MIN;
    let enough = (count * (FILES_PER_CORE_MIN + FILES_PER_CORE)).next_multiple_of(1_024);
    let within_hard = limit.is_some_and(|limit| limit.hard.is_none_or(|it| it >= enough));
    let command = if within_hard {
        format!("ulimit -n {enough}")
    } else {
        format!("sudo prlimit --pid $$ --nofile={enough}:{enough}")
    };
    let remedy = format!(
        "{command}    # in the shell that starts stentor; LimitNOFILE={enough} in a systemd unit"
    );
    match limit {
        None => finding.warn("limit not readable", remedy),
        Some(Limit { soft: None, .. }) => finding.pass("unlimited"),
        Some(Limit { soft: Some(files), .. }) if files < least => finding.fail(
            format!("{files}, fewer than {count} shards need before the first client"),
            remedy,
        ),
        Some(Limit { soft: Some(files), .. }) if files < enough => finding
            .warn(format!("{files}, room for {} clients", files.saturating_sub(least)), remedy),
        Some(Limit { soft: Some(files), .. }) => finding.pass(files),
    }
}

fn socket_buffer(name: &str, setting: &str, bytes: Option<u64>) -> Finding {
    let finding = finding(
        name,
        "Packets wait here while a shard is busy, and are lost when it is full. Without \
         CAP_NET_ADMIN the server gets no larger buffer than this.",
    );
    let wanted = SOCKET_BUFFER_BYTES as u64;
    let remedy = sysctl(&format!("net.core.{setting}"), wanted);
    match bytes {
        None => finding.warn(format!("net.core.{setting} not readable"), remedy),
        Some(bytes) if bytes < wanted => finding.warn(format!("at most {}", in_kib(bytes)), remedy),
        Some(bytes) => finding.pass(format!("up to {}", in_kib(bytes))),
    }
}

fn cores(cores: &Cores) -> Finding {
    let finding = finding("cores", "One shard runs pinned on each core it is given.");
    let (allowed, online) = (cores.allowed.len(), cores.online.len());
    match allowed {
        0 => finding.warn("not readable", "nproc    # then set shards to its answer"),
        _ if allowed < online => {
            finding.pass(format!("{allowed} of {online} (affinity or cpuset)"))
        }
        _ => finding.pass(allowed),
    }
}

fn quota(cores: &Cores) -> Finding {
    let finding = finding(
        "processor quota",
        "A control group that has used up its quota is stopped to the end of the period, in \
         mid-speech.",
    );
    let Some(quota) = &cores.quota else { return finding.pass("none") };
    let granted = quota.quota_us as f64 / quota.period_us.max(1) as f64;
    let found = format!("{granted:.2} cores' worth on {}", cores.allowed.len());
    if granted >= cores.allowed.len() as f64 {
        return finding.pass(found);
    }
    let file = quota.file.display();
    let lift = if quota.file.ends_with("cpu.max") { "max" } else { "-1" };
    finding.warn(
        found,
        format!("echo {lift} | sudo tee {file}    # CPUQuota= in a systemd unit; no --cpus"),
    )
}

fn isolation(cores: &Cores) -> Finding {
    let finding = finding(
        "isolation",
        "Other work on a shard's core delays its packets; it counts when tail latency is measured.",
    );
    if cores.isolated.is_empty() {
        return finding.pass("no core is isolated; shards share theirs with the rest");
    }
    let found = format!("isolated {}", list(&cores.isolated));
    if cores.online.is_subset(&cores.isolated) {
        return finding.warn(
            format!("{found}: no core is left for the rest"),
            "sudo sed -i 's/isolcpus=[^ \"]*//' /etc/default/grub && sudo update-grub && \
             sudo reboot",
        );
    }
    if cores.isolated.is_subset(&cores.nohz_full) {
        finding.pass(format!("{found}, without timer tick"))
    } else {
        finding.pass(format!("{found}, with timer tick (nohz_full does not name them)"))
    }
}

fn clock(seen: &Observations) -> Finding {
    let finding = finding(
        "clock",
        "The time is read once per batch of packets; a slow source makes each reading a system \
         call.",
    );
    let Some(clock) = &seen.clock else {
        return finding
            .warn("source not readable", "cat /sys/devices/system/clocksource/clocksource0/*");
    };
    if FAST_CLOCKS.contains(&clock.current.as_str()) {
        return finding.pass(&clock.current);
    }
    let found = format!("{}, read through the kernel", clock.current);
    match clock.available.iter().find(|name| FAST_CLOCKS.contains(&name.as_str())) {
        Some(better) => finding.warn(
            found,
            format!(
                "echo {better} | sudo tee \
                 /sys/devices/system/clocksource/clocksource0/current_clocksource"
            ),
        ),
        None => finding.warn(
            found,
            "sudo dmesg | grep -i -e tsc -e clocksource    # says why the processor's own counter \
             was given up",
        ),
    }
}

fn card(card: &Interface, cores: &Cores) -> Finding {
    let Interface { name, driver, mtu, receive_queues, spread_in_software } = card;
    let finding = finding(
        &format!("network {name}"),
        "Packets are received on the cores its queues interrupt, and leave only if they fit.",
    );
    let queues = if *receive_queues == 1 { "queue" } else { "queues" };
    let found = format!("{driver}, {receive_queues} receive {queues}");
    if let Some(mtu) = mtu.filter(|&mtu| mtu < MTU_MIN) {
        return finding.warn(
            format!("{found}, packets above {mtu} bytes are lost"),
            format!("sudo ip link set dev {name} mtu 1500"),
        );
    }
    if *receive_queues < cores.allowed.len() && !spread_in_software {
        let mask = cpu_mask(&cores.allowed);
        return finding.warn(
            format!("{found} for {} cores", cores.allowed.len()),
            format!("echo {mask} | sudo tee /sys/class/net/{name}/queues/rx-*/rps_cpus"),
        );
    }
    let spread = if *spread_in_software { ", spread in software" } else { "" };
    finding.pass(format!("{found}{spread}"))
}

/// Cores as the kernel takes them: hexadecimal words of 32 bits, highest first.
fn cpu_mask(cores: &BTreeSet<u32>) -> String {
    let words = cores.last().map_or(1, |last| last / 32 + 1);
    let word = |index| {
        cores
            .iter()
            .filter(|core| *core / 32 == index)
            .fold(0_u32, |bits, core| bits | 1 << (core % 32))
    };
    let words: Vec<_> = (0..words).rev().map(|index| format!("{:08x}", word(index))).collect();
    words.join(",")
}

fn list(cores: &BTreeSet<u32>) -> String {
    let names: Vec<_> = cores.iter().map(u32::to_string).collect();
    names.join(",")
}

fn sysctl(name: &str, value: u64) -> String {
    format!(
        "echo '{name} = {value}' | sudo tee -a /etc/sysctl.d/60-stentor.conf && \
         sudo sysctl --system"
    )
}

fn in_kib(bytes: u64) -> String {
    format!("{} KiB", bytes / 1_024)
}

pub(super) fn finding(name: &str, why: &'static str) -> Finding {
    Finding { name: name.into(), status: Status::Pass, found: String::new(), why, remedy: None }
}

impl Finding {
    pub(super) fn pass(self, found: impl ToString) -> Self {
        Self { found: found.to_string(), ..self }
    }

    pub(super) fn warn(self, found: impl ToString, remedy: impl Into<String>) -> Self {
        let found = found.to_string();
        Self { status: Status::Warn, found, remedy: Some(remedy.into()), ..self }
    }

    pub(super) fn fail(self, found: impl ToString, remedy: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..self.warn(found, remedy) }
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
