//! Made-up machines and what must be said of them.

use std::io;

use super::*;
use crate::doctor::{Clock, MediaSupport, Quota};

/// A machine with nothing to mend.
fn fit() -> Observations {
    Observations {
        kernel: Some("6.12.41+deb13-amd64".into()),
        io_uring_disabled: Some(0),
        media: MediaSupport { gso: true, receive_timestamps: true, ..MediaSupport::default() },
        memlock: Some(Limit { soft: Some(8 << 20), hard: Some(8 << 20) }),
        nofile: Some(Limit { soft: Some(1 << 20), hard: Some(1 << 20) }),
        rmem_max: Some(SOCKET_BUFFER_BYTES as u64),
        wmem_max: Some(SOCKET_BUFFER_BYTES as u64),
        cores: Cores { online: (0..4).collect(), allowed: (0..4).collect(), ..Cores::default() },
        clock: Some(Clock { current: "tsc".into(), available: vec!["tsc".into()] }),
        interfaces: vec![ethernet()],
    }
}

fn ethernet() -> Interface {
    Interface {
        name: "eth0".into(),
        driver: "ixgbe".into(),
        mtu: Some(1_500),
        receive_queues: 4,
        spread_in_software: false,
    }
}

/// The one finding that is not a pass on a machine that is fit but for `damage`.
fn only_complaint(damage: impl FnOnce(&mut Observations)) -> Finding {
    let mut machine = fit();
    damage(&mut machine);
    let mut complaints = judge(&machine);
    complaints.retain(|finding| finding.status != Status::Pass);
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    complaints.remove(0)
}

fn assert_complaint(finding: Finding, name: &str, status: Status, remedy: &str) {
    assert_eq!((finding.name.as_str(), finding.status), (name, status), "{finding:?}");
    let given = finding.remedy.expect("what is not a pass has a remedy");
    assert!(given.contains(remedy), "{given}");
}

#[test]
fn a_fit_machine_has_nothing_to_mend() {
    for finding in judge(&fit()) {
        assert_eq!((finding.status, &finding.remedy), (Status::Pass, &None), "{finding:?}");
        assert!(!finding.found.is_empty() && !finding.why.is_empty(), "{finding:?}");
    }
}

#[test]
fn a_machine_that_cannot_be_read_is_warned_about_not_failed() {
    let silent = Observations {
        kernel: None,
        io_uring_disabled: None,
        media: MediaSupport::default(),
        memlock: None,
        nofile: None,
        rmem_max: None,
        wmem_max: None,
        cores: Cores::default(),
        clock: None,
        interfaces: Vec::new(),
    };
    let worst = judge(&silent).iter().map(|finding| finding.status).max();
    assert_eq!(worst, Some(Status::Warn));
}

#[test]
fn an_old_kernel_fails_unless_its_ring_is_new() {
    let old = |machine: &mut Observations| machine.kernel = Some("5.14.0-503.el9".into());
    let mut backported = fit();
    old(&mut backported);
    assert!(judge(&backported).iter().all(|finding| finding.status == Status::Pass));

    let mut machine = fit();
    old(&mut machine);
    machine.media.missing.push("multishot recvmsg (6.0)");
    let failed: Vec<_> =
        judge(&machine).into_iter().filter(|it| it.status == Status::Fail).collect();
    let names: Vec<_> = failed.iter().map(|finding| finding.name.as_str()).collect();
    assert_eq!(names, ["kernel", "io_uring"]);
    assert!(failed[1].found.contains("multishot recvmsg (6.0)"));
}

#[test]
fn kernel_releases_are_compared_as_numbers() {
    assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
    assert_eq!(version("10.0-rc1"), Some((10, 0)));
    assert_eq!(version("6"), None);
    assert!(version("6.0.9") < Some(KERNEL_MIN) && version("10.1") > Some(KERNEL_MIN));
}

#[test]
fn a_switched_off_io_uring_is_switched_on_by_sysctl() {
    for value in [1, 2] {
        let mut machine = fit();
        machine.io_uring_disabled = Some(value);
        machine.media.ring_error = Some(RingError::Disabled { setting: value.to_string() });
        let failed: Vec<_> =
            judge(&machine).into_iter().filter(|it| it.status == Status::Fail).collect();
        assert_eq!(failed.len(), 2);
        for finding in failed {
            assert!(finding.remedy.unwrap().contains("kernel.io_uring_disabled = 0"));
        }
    }
    let mut in_the_group = fit();
    in_the_group.io_uring_disabled = Some(1);
    assert!(judge(&in_the_group).iter().all(|finding| finding.status == Status::Pass));
}

#[test]
fn the_reason_no_ring_was_made_chooses_the_remedy() {
    let forbidden = || RingError::Forbidden { source: io::ErrorKind::PermissionDenied.into() };
    let limit = || "512 KiB".to_owned();
    let errors: [(&dyn Fn() -> RingError, &str); 4] = [
        (&forbidden, "seccomp"),
        (&|| RingError::Absent, "CONFIG_IO_URING"),
        (&|| RingError::LockedMemory { what: "io_uring", limit: limit() }, "memlock"),
        (&|| RingError::OpenFiles { what: "io_uring", limit: limit() }, "ulimit -n"),
    ];
    for (error, remedy) in errors {
        let complaint = only_complaint(|machine| {
            machine.memlock = Some(Limit { soft: Some(1 << 20), hard: Some(1 << 20) });
            machine.media.ring_error = Some(error());
        });
        assert_complaint(complaint, "io_uring", Status::Fail, remedy);
    }
}

#[test]
fn what_only_costs_speed_or_sight_is_a_warning() {
    let gso = only_complaint(|machine| machine.media.gso = false);
    assert_complaint(gso, "UDP GSO", Status::Warn, "linux-image");
    let times = only_complaint(|machine| machine.media.receive_timestamps = false);
    assert_complaint(times, "arrival times", Status::Warn, "linux-image");
}

#[test]
fn locked_memory_fails_only_below_what_the_executor_needs() {
    let with =
        |soft, hard| move |machine: &mut Observations| machine.memlock = Some(Limit { soft, hard });
    let low = Some(MEMLOCK_BYTES_MIN - 1);
    assert_complaint(
        only_complaint(with(low, None)),
        "locked memory",
        Status::Fail,
        "ulimit -l 8192",
    );
    assert_complaint(only_complaint(with(low, low)), "locked memory", Status::Fail, "sudo prlimit");
    let mut enough = fit();
    with(Some(MEMLOCK_BYTES_MIN), Some(MEMLOCK_BYTES_MIN))(&mut enough);
    assert!(judge(&enough).iter().all(|finding| finding.status == Status::Pass));
}

#[test]
fn open_files_are_weighed_against_the_cores() {
    let with = |soft, hard| {
        move |machine: &mut Observations| machine.nofile = Some(Limit { soft: Some(soft), hard })
    };
    let complaint = only_complaint(with(1_024, Some(524_288)));
    assert!(complaint.found.contains("room for 896 clients"), "{}", complaint.found);
    assert_complaint(complaint, "open files", Status::Warn, "ulimit -n 26624 ");
    assert_complaint(
        only_complaint(with(1_024, Some(4_096))),
        "open files",
        Status::Warn,
        "prlimit --pid $$ --nofile=26624:26624",
    );
    assert_complaint(only_complaint(with(100, None)), "open files", Status::Fail, "ulimit -n");
}

#[test]
fn small_socket_buffers_are_warned_about_with_their_sysctl() {
    assert_complaint(
        only_complaint(|machine| machine.rmem_max = Some(212_992)),
        "receive buffer",
        Status::Warn,
        "'net.core.rmem_max = 4194304'",
    );
    assert_complaint(
        only_complaint(|machine| machine.wmem_max = Some(212_992)),
        "send buffer",
        Status::Warn,
        "'net.core.wmem_max = 4194304'",
    );
}

#[test]
fn a_quota_below_the_cores_is_warned_about_where_it_is_set() {
    let with = |quota_us, file: &str| {
        let quota = Quota { quota_us, period_us: 100_000, file: file.into() };
        move |machine: &mut Observations| machine.cores.quota = Some(quota)
    };
    assert_complaint(
        only_complaint(with(150_000, "/sys/fs/cgroup/a/cpu.max")),
        "processor quota",
        Status::Warn,
        "echo max | sudo tee /sys/fs/cgroup/a/cpu.max",
    );
    assert_complaint(
        only_complaint(with(150_000, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us")),
        "processor quota",
        Status::Warn,
        "echo -1 | sudo tee /sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    );
    let mut generous = fit();
    with(400_000, "/sys/fs/cgroup/cpu.max")(&mut generous);
    assert!(judge(&generous).iter().all(|finding| finding.status == Status::Pass));
}

#[test]
fn isolation_that_leaves_nothing_for_the_rest_is_warned_about() {
    let complaint = only_complaint(|machine| machine.cores.isolated = (0..4).collect());
    assert_complaint(complaint, "isolation", Status::Warn, "isolcpus");

    let mut half = fit();
    half.cores.isolated = (2..4).collect();
    let found = |machine: &Observations| {
        judge(machine).into_iter().find(|it| it.name == "isolation").unwrap().found
    };
    assert!(found(&half).contains("2,3, with timer tick"));
    half.cores.nohz_full = (2..4).collect();
    assert!(found(&half).contains("2,3, without timer tick"));
}

#[test]
fn a_slow_clock_is_exchanged_when_a_fast_one_is_there() {
    let slow = |available: &[&str]| {
        let available = available.iter().map(|name| name.to_string()).collect();
        let clock = Clock { current: "hpet".into(), available };
        move |machine: &mut Observations| machine.clock = Some(clock)
    };
    let complaint = only_complaint(slow(&["tsc", "hpet"]));
    assert_complaint(complaint, "clock", Status::Warn, "echo tsc | sudo tee");
    assert_complaint(only_complaint(slow(&["hpet"])), "clock", Status::Warn, "dmesg");
}

#[test]
fn a_card_with_too_few_queues_is_spread_over_the_allowed_cores() {
    let complaint = only_complaint(|machine| machine.interfaces[0].receive_queues = 1);
    assert_complaint(
        complaint,
        "network eth0",
        Status::Warn,
        "echo 0000000f | sudo tee /sys/class/net/eth0/queues/rx-*/rps_cpus",
    );
    let mut spread = fit();
    spread.interfaces[0].receive_queues = 1;
    spread.interfaces[0].spread_in_software = true;
    assert!(judge(&spread).iter().all(|finding| finding.status == Status::Pass));
}

#[test]
fn a_card_that_cuts_datagrams_is_warned_about() {
    let complaint = only_complaint(|machine| machine.interfaces[0].mtu = Some(1_299));
    assert_complaint(complaint, "network eth0", Status::Warn, "mtu 1500");
}

#[test]
fn core_masks_are_words_of_32_bits_highest_first() {
    assert_eq!(cpu_mask(&BTreeSet::from([0, 33])), "00000002,00000001");
    assert_eq!(cpu_mask(&BTreeSet::new()), "00000000");
}
