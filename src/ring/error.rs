//! Why a ring or its socket could not be had, and what the operator does about it. Every message
//! names cause and remedy; `stentor serve` prints it and exits, `stentor doctor` lists it.

use std::{fs, io, net::SocketAddr};

use super::probe;

/// A start that failed.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel does not know something the ring is built on.
    #[error("Linux {kernel} lacks {missing}; run Linux 6.1 or newer")]
    KernelTooOld {
        /// Its release, as `uname -r` prints it.
        kernel: String,
        /// What it does not know.
        missing: &'static str,
    },
    /// The administrator has switched io_uring off.
    #[error(
        "io_uring is switched off (kernel.io_uring_disabled = {setting}); \
         run `sysctl -w kernel.io_uring_disabled=0`, or with 1 put this user into kernel.io_uring_group"
    )]
    Disabled {
        /// The sysctl's value.
        setting: String,
    },
    /// The kernel has io_uring, and something in front of it says no.
    #[error(
        "io_uring is forbidden to this process ({source}); allow io_uring_setup, io_uring_enter and \
         io_uring_register in the container's seccomp profile or the service's SystemCallFilter"
    )]
    Forbidden {
        /// What the system call returned.
        source: io::Error,
    },
    /// The kernel was built without io_uring, or a sandbox pretends so.
    #[error(
        "this kernel offers no io_uring; run one built with CONFIG_IO_URING, and allow \
         io_uring_setup if a container's seccomp profile hides it"
    )]
    Absent,
    /// Memory shared with the kernel counts against a limit that is too low.
    #[error(
        "the kernel refused memory for {what}; the locked-memory limit is {limit}: \
         raise it (`ulimit -l unlimited`, LimitMEMLOCK=infinity) or free memory"
    )]
    LockedMemory {
        /// What it was for.
        what: &'static str,
        /// RLIMIT_MEMLOCK, as text.
        limit: String,
    },
    /// No file descriptor is left.
    #[error(
        "no file descriptor is left for {what}; the limit is {limit}: \
         raise it (`ulimit -n 1048576`, LimitNOFILE=1048576)"
    )]
    OpenFiles {
        /// What it was for.
        what: &'static str,
        /// RLIMIT_NOFILE, as text.
        limit: String,
    },
    /// The UDP port belongs to another socket.
    #[error(
        "UDP {listen} is taken by another socket; find it with `ss -ulpn` and stop it, \
         or set another media.base_port"
    )]
    AddressTaken {
        /// Where we wanted to listen.
        listen: SocketAddr,
    },
    /// No interface has the address.
    #[error(
        "{listen} is no address of this machine; set media.listen to one that `ip address` shows"
    )]
    AddressUnknown {
        /// Where we wanted to listen.
        listen: SocketAddr,
    },
    /// A setting no kernel accepts.
    #[error("{count} receive buffers are no power of two up to 32,768; use one")]
    ReceiveBuffers {
        /// What was asked for.
        count: u16,
    },
    /// Anything else the kernel refused.
    #[error("the kernel refused {what}: {source}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl RingError {
    /// Reads the error of a call that sets something up.
    pub(super) fn from_setup(what: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOMEM) => RingError::LockedMemory { what, limit: probe::locked_memory() },
            Some(libc::EMFILE | libc::ENFILE) => {
                RingError::OpenFiles { what, limit: probe::open_files() }
            }
            _ => RingError::Refused { what, source },
        }
    }

    /// Reads the error of `io_uring_setup`.
    pub(super) fn from_io_uring_setup(source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOSYS) => RingError::Absent,
            Some(libc::EPERM | libc::EACCES) => {
                let setting = fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
                    .map(|text| text.trim().to_owned())
                    .unwrap_or_default();
                if matches!(setting.as_str(), "1" | "2") {
                    RingError::Disabled { setting }
                } else {
                    RingError::Forbidden { source }
                }
            }
            Some(libc::EINVAL) => RingError::too_old("IORING_SETUP_DEFER_TASKRUN (Linux 6.1)"),
            _ => RingError::from_setup("io_uring", source),
        }
    }

    /// This kernel does not know `missing`.
    pub(super) fn too_old(missing: &'static str) -> Self {
        RingError::KernelTooOld { kernel: probe::kernel_release(), missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_errno_names_cause_and_remedy() {
        for (errno, words) in [
            (libc::ENOSYS, ["no io_uring", "CONFIG_IO_URING"]),
            (libc::EINVAL, ["IORING_SETUP_DEFER_TASKRUN", "6.1 or newer"]),
            (libc::ENOMEM, ["locked-memory limit is", "ulimit -l"]),
            (libc::EMFILE, ["the limit is", "ulimit -n"]),
        ] {
            let text =
                RingError::from_io_uring_setup(io::Error::from_raw_os_error(errno)).to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{errno}: {text}");
        }
        let text =
            RingError::from_io_uring_setup(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(text.contains("seccomp") || text.contains("kernel.io_uring_disabled=0"), "{text}");
    }
}
