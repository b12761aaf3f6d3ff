//! What a result says of the machine and the build it was made on, and how the generator makes the
//! machine ready: descriptors, cores. Reads `/proc` and asks git, once.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// Descriptors that are not a client's: rings, eventfds, the standard streams.
const DESCRIPTORS_BESIDES: u64 = 64;

/// `uname -r`.
pub fn kernel() -> String {
    text("/proc/sys/kernel/osrelease")
}

/// Model name of the first processor.
pub fn cpu() -> String {
    let info = text("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Processors that are switched on, whether we may use them or not.
pub fn processors() -> u32 {
    let info = text("/proc/cpuinfo");
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Cores this process may use.
pub fn cores() -> BTreeSet<usize> {
    let allowed = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect()
}

/// Keeps the calling thread, and those it starts from now on, on these cores.
pub fn stay_on(cores: &BTreeSet<usize>) {
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    // Without it the kernel chooses, which is slower and not wrong.
    let _ = sched_setaffinity(None, &set);
}

/// The commit that this program was built from: as the build was told in `STENTOR_COMMIT`, else
/// that of the work tree it lies in.
pub fn commit() -> Option<String> {
    if let Some(commit) = option_env!("STENTOR_COMMIT") {
        return Some(commit.to_owned());
    }
    let program = std::env::current_exe().ok()?;
    let git = Command::new("git")
        .arg("-C")
        .arg(program.parent()?)
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .output()
        .ok()?;
    let commit = String::from_utf8(git.stdout).ok()?;
    (git.status.success() && !commit.trim().is_empty()).then(|| commit.trim().to_owned())
}

/// Raises the limit of open files, if that is needed and allowed, to what so many clients take.
/// What the limit is then, if it is too low.
pub fn allow_descriptors(clients: u64) -> Result<(), u64> {
    let wanted = clients + DESCRIPTORS_BESIDES;
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < wanted) else { return Ok(()) };
    let maximum = Some(limit.maximum.map_or(wanted, |maximum| maximum.max(wanted)));
    // Only root may raise the maximum; anybody may go up to it.
    for maximum in [limit.maximum, maximum] {
        let enough = maximum.is_none_or(|maximum| maximum >= wanted);
        let raised = Rlimit { current: Some(wanted), maximum };
        if enough && setrlimit(Resource::Nofile, raised).is_ok() {
            return Ok(());
        }
    }
    Err(current)
}

/// Packets that network cards have dropped, in and out, for want of room.
pub fn card_drops() -> u64 {
    let cards = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    // Interfaces of software have no device.
    let cards = cards.map(|card| card.path()).filter(|card| card.join("device").exists());
    let count = |card: &Path, name: &str| {
        fs::read_to_string(card.join("statistics").join(name)).ok()?.trim().parse::<u64>().ok()
    };
    let names = ["rx_dropped", "rx_missed_errors", "tx_dropped"];
    cards.flat_map(|card| names.map(|name| count(&card, name).unwrap_or(0))).sum()
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_a_core() {
        assert!(!kernel().is_empty() && !cpu().is_empty());
        assert!(!cores().is_empty());
        assert_eq!(allow_descriptors(1), Ok(()));
    }
}
