//! What a machine says about itself, read from `/proc` and `/sys` without judging any of it. A
//! reading that cannot be had is `None` or empty. Called by `report::run`, and by tests with a
//! made-up file tree.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::doctor::{MediaSupport, media_support};

/// One machine, as far as stentor cares.
#[derive(Debug)]
pub struct Observations {
    /// Release of the running kernel, such as `6.18.4-amd64`.
    pub kernel: Option<String>,
    /// `kernel.io_uring_disabled`: 0 for all, 1 for a group only, 2 for nobody. `None` before
    /// Linux 6.6, which has no such switch.
    pub io_uring_disabled: Option<u8>,
    /// What the media ring needs, tried.
    pub media: MediaSupport,
    /// Memory a process may lock, bytes.
    pub memlock: Option<Limit>,
    /// Files a process may hold open.
    pub nofile: Option<Limit>,
    /// Largest receive buffer a socket may ask for, bytes.
    pub rmem_max: Option<u64>,
    /// Largest send buffer a socket may ask for, bytes.
    pub wmem_max: Option<u64>,
    /// The processors.
    pub cores: Cores,
    /// Where the kernel takes the time from.
    pub clock: Option<Clock>,
    /// Network cards that are up; virtual interfaces without a driver are left out.
    pub interfaces: Vec<Interface>,
}

/// A resource limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What holds.
    pub soft: Option<u64>,
    /// How far an unprivileged process may raise it.
    pub hard: Option<u64>,
}

/// Processors, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cores {
    /// Switched on.
    pub online: BTreeSet<u32>,
    /// Open to this process: affinity and cpuset applied.
    pub allowed: BTreeSet<u32>,
    /// Kept free of other work by `isolcpus`.
    pub isolated: BTreeSet<u32>,
    /// Spared the timer tick by `nohz_full`.
    pub nohz_full: BTreeSet<u32>,
    /// The tightest control-group quota on the way up from this process.
    pub quota: Option<Quota>,
}

/// Processor time a control group may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Microseconds of processor time in each period.
    pub quota_us: u64,
    /// Length of the period, microseconds.
    pub period_us: u64,
    /// The file that says so.
    pub file: PathBuf,
}

/// Clock sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// In use.
    pub current: String,
    /// To choose from.
    pub available: Vec<String>,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Such as `eth0`.
    pub name: String,
    /// Kernel driver, such as `virtio_net`.
    pub driver: String,
    /// Largest IP packet, bytes.
    pub mtu: Option<u32>,
    /// Receive queues, each with an interrupt of its own.
    pub receive_queues: usize,
    /// Whether the first receive queue spreads its packets over cores in software (RPS).
    pub spread_in_software: bool,
}

/// Reads this machine.
pub fn observe() -> Observations {
    observe_under(Path::new("/"), media_support())
}

/// Reads the machine whose `proc` and `sys` lie under `root`.
pub fn observe_under(root: &Path, media: MediaSupport) -> Observations {
    let proc = root.join("proc");
    let limits = text(proc.join("self/limits")).unwrap_or_default();
    Observations {
        kernel: text(proc.join("sys/kernel/osrelease")),
        io_uring_disabled: number(proc.join("sys/kernel/io_uring_disabled")),
        media,
        memlock: limit(&limits, "Max locked memory"),
        nofile: limit(&limits, "Max open files"),
        rmem_max: number(proc.join("sys/net/core/rmem_max")),
        wmem_max: number(proc.join("sys/net/core/wmem_max")),
        cores: cores(root),
        clock: clock(&root.join("sys/devices/system/clocksource/clocksource0")),
        interfaces: interfaces(&root.join("sys/class/net")),
    }
}

fn cores(root: &Path) -> Cores {
    let cpu = root.join("sys/devices/system/cpu");
    let list = |name: &str| text(cpu.join(name)).map(|list| cpu_list(&list)).unwrap_or_default();
    let online = list("online");
    let status = text(root.join("proc/self/status")).unwrap_or_default();
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .map_or_else(|| online.clone(), cpu_list);
    Cores {
        allowed,
        isolated: list("isolated"),
        nohz_full: list("nohz_full"),
        quota: quota(root),
        online,
    }
}

/// Numbers in the kernel's list form: `0-3,8`. What is no number (`(null)`) is left out.
fn cpu_list(list: &str) -> BTreeSet<u32> {
    list.trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        })
        .flatten()
        .collect()
}

/// The quota with the least processor time, of the group this process is in and all above it.
fn quota(root: &Path) -> Option<Quota> {
    let groups = text(root.join("proc/self/cgroup"))?;
    let mount = root.join("sys/fs/cgroup");
    groups
        .lines()
        .filter_map(|line| {
            // hierarchy:controllers:path; version 2 has hierarchy 0 and names no controllers.
            let mut fields = line.splitn(3, ':');
            let (hierarchy, controllers) = (fields.next()?, fields.next()?);
            let path = Path::new(fields.next()?.trim_start_matches('/'));
            if hierarchy == "0" {
                tightest(&mount, path, quota_v2)
            } else if controllers.split(',').any(|name| name == "cpu") {
                tightest(&mount.join(controllers), path, quota_v1)
            } else {
                None
            }
        })
        .min_by(fewer_cores)
}

/// The tightest quota from `mount/path` up to `mount`. A container may see a path from outside; the
/// part of it that does not exist here is passed over.
fn tightest(mount: &Path, path: &Path, read: fn(&Path) -> Option<Quota>) -> Option<Quota> {
    path.ancestors().filter_map(|group| read(&mount.join(group))).min_by(fewer_cores)
}

fn fewer_cores(one: &Quota, other: &Quota) -> std::cmp::Ordering {
    let scaled =
        |mine: &Quota, theirs: &Quota| u128::from(mine.quota_us) * u128::from(theirs.period_us);
    scaled(one, other).cmp(&scaled(other, one))
}

fn quota_v2(group: &Path) -> Option<Quota> {
    let file = group.join("cpu.max");
    let line = text(&file)?;
    let (quota, period) = line.split_once(' ')?;
    Some(Quota { quota_us: quota.parse().ok()?, period_us: period.parse().ok()?, file })
}

fn quota_v1(group: &Path) -> Option<Quota> {
    let file = group.join("cpu.cfs_quota_us");
    // −1, for no quota, is no u64.
    let quota_us = number(&file)?;
    Some(Quota { quota_us, period_us: number(group.join("cpu.cfs_period_us"))?, file })
}

fn clock(source: &Path) -> Option<Clock> {
    let available = text(source.join("available_clocksource")).unwrap_or_default();
    Some(Clock {
        current: text(source.join("current_clocksource"))?,
        available: available.split_whitespace().map(str::to_owned).collect(),
    })
}

fn interfaces(net: &Path) -> Vec<Interface> {
    let mut found: Vec<_> = entries(net).filter_map(|path| interface(&path)).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

fn interface(path: &Path) -> Option<Interface> {
    let driver = fs::read_link(path.join("device/driver")).ok()?;
    if text(path.join("operstate")).as_deref() == Some("down") {
        return None;
    }
    let queues = path.join("queues");
    let receive_queues = entries(&queues)
        .filter(|queue| file_name(queue).is_some_and(|name| name.starts_with("rx-")))
        .count();
    let spread = text(queues.join("rx-0/rps_cpus")).unwrap_or_default();
    Some(Interface {
        name: file_name(path)?.to_owned(),
        driver: file_name(&driver)?.to_owned(),
        mtu: number(path.join("mtu")),
        receive_queues,
        spread_in_software: spread.chars().any(|digit| digit != '0' && digit != ','),
    })
}

/// One line of `/proc/self/limits`: name, soft, hard, unit, in columns.
fn limit(limits: &str, name: &str) -> Option<Limit> {
    let mut columns = limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
    let mut bound = || match columns.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(Limit { soft: bound()?, hard: bound()? })
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

fn number<N: std::str::FromStr>(path: impl AsRef<Path>) -> Option<N> {
    text(path)?.parse().ok()
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A file tree with these files.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, contents) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        root
    }

    fn read(root: &tempfile::TempDir) -> Observations {
        observe_under(root.path(), MediaSupport::default())
    }

    #[test]
    fn an_empty_machine_yields_no_readings_and_no_panic() {
        let seen = read(&machine(&[]));
        assert_eq!((seen.kernel, seen.memlock, seen.clock), (None, None, None));
        assert_eq!(seen.cores, Cores::default());
        assert!(seen.interfaces.is_empty());
    }

    #[test]
    fn limits_are_read_from_their_columns() {
        let seen = read(&machine(&[(
            "proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max open files            1024                 524288               files     \n\
             Max locked memory         unlimited            unlimited            bytes     \n",
        )]));
        assert_eq!(seen.nofile, Some(Limit { soft: Some(1_024), hard: Some(524_288) }));
        assert_eq!(seen.memlock, Some(Limit { soft: None, hard: None }));
    }

    #[test]
    fn cpu_lists_are_expanded_and_rubbish_is_left_out() {
        assert_eq!(cpu_list("0-2,7\n"), BTreeSet::from([0, 1, 2, 7]));
        assert_eq!(cpu_list("(null)"), BTreeSet::new());
        assert_eq!(cpu_list(""), BTreeSet::new());
    }

    #[test]
    fn the_tightest_quota_above_this_process_counts() {
        let seen = read(&machine(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/cpu.max", "400000 100000\n"),
        ]));
        let quota = seen.cores.quota.unwrap();
        assert_eq!((quota.quota_us, quota.period_us), (150_000, 100_000));
        assert!(quota.file.ends_with("sys/fs/cgroup/a/cpu.max"));
    }

    #[test]
    fn version_1_control_groups_count_too() {
        let files = |quota| {
            [
                ("proc/self/cgroup", "3:cpu,cpuacct:/outside/x\n2:memory:/\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", quota),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ]
        };
        let seen = read(&machine(&files("50000\n")));
        assert_eq!(seen.cores.quota.map(|quota| quota.quota_us), Some(50_000));
        assert_eq!(read(&machine(&files("-1\n"))).cores.quota, None);
    }

    #[test]
    fn only_cards_with_a_driver_that_are_up_are_listed() {
        let root = machine(&[
            ("sys/class/net/eth0/mtu", "1500\n"),
            ("sys/class/net/eth0/operstate", "up\n"),
            ("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000003\n"),
            ("sys/class/net/eth0/queues/rx-1/rps_cpus", "00000000,00000000\n"),
            ("sys/class/net/eth0/queues/tx-0/xps_cpus", "1\n"),
            ("sys/class/net/eth1/operstate", "down\n"),
            ("sys/class/net/lo/mtu", "65536\n"),
        ]);
        for name in ["eth0", "eth1"] {
            let device = root.path().join("sys/class/net").join(name).join("device");
            fs::create_dir_all(&device).unwrap();
            symlink("../../../bus/virtio/drivers/virtio_net", device.join("driver")).unwrap();
        }
        let expected = Interface {
            name: "eth0".into(),
            driver: "virtio_net".into(),
            mtu: Some(1_500),
            receive_queues: 2,
            spread_in_software: true,
        };
        assert_eq!(read(&root).interfaces, [expected]);
    }
}
