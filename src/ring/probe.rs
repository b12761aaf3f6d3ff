//! What this machine offers a ring, found by trying it, for `stentor doctor` and the log at
//! startup. Version numbers prove little: distributions backport, sandboxes forbid. Judges nothing;
//! `doctor` does. Uses loopback only, and waits no longer than 200 ms for a datagram.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use io_uring::IoUring;

use crate::{
    limits::RECEIVE_BUFFER_BYTES,
    ring::{Ring, RingConfig, RingError, buffers::Buffers, socket, uring::set_up},
};

/// Loopback delivers before `sendto` returns; this is for a machine that is very busy.
const ARRIVAL_WAIT: Duration = Duration::from_millis(200);

/// What was found.
#[derive(Debug)]
pub struct Support {
    /// Major and minor number of the running kernel.
    pub kernel: (u32, u32),
    /// Its whole release, as `uname -r` prints it.
    pub release: String,
    /// Whether this process may create an io_uring at all, and if not, why.
    pub io_uring: Result<(), RingError>,
    /// Completions only when asked for, `IORING_SETUP_DEFER_TASKRUN` (Linux 6.1). Required.
    pub defer_taskrun: bool,
    /// Receive buffers lent through shared memory, `IORING_REGISTER_PBUF_RING` (5.19). Required.
    pub provided_buffer_ring: bool,
    /// One request for all datagrams (6.0). Required.
    pub multishot_recvmsg: bool,
    /// Kernel receive timestamps. Without them latency is measured from the first look.
    pub receive_timestamps: bool,
    /// Segmented sends, `UDP_SEGMENT` (4.18), on loopback. A device may still not do them, which a
    /// ring finds out by itself.
    pub gso: bool,
    /// Memory this process may lock, RLIMIT_MEMLOCK, bytes; `None`: unlimited.
    pub locked_memory_bytes_max: Option<u64>,
    /// Descriptors this process may have open, RLIMIT_NOFILE; `None`: unlimited.
    pub open_files_max: Option<u64>,
    /// What an unprivileged socket may ask for, `net.core.rmem_max`.
    pub receive_buffer_bytes_max: Option<u64>,
    /// What an unprivileged socket may ask for, `net.core.wmem_max`.
    pub send_buffer_bytes_max: Option<u64>,
}

impl Support {
    /// Tries everything, a few milliseconds' work.
    pub fn probe() -> Self {
        let release = kernel_release();
        let io_uring = IoUring::new(2).map(drop).map_err(RingError::from_io_uring_setup);
        let defer_taskrun = set_up(2, 4);
        let provided_buffer_ring = defer_taskrun.as_ref().is_ok_and(|uring| {
            Buffers::new(2, RECEIVE_BUFFER_BYTES as u32).is_ok_and(|buffers| {
                let submitter = uring.submitter();
                let registered = buffers.register(&submitter).is_ok();
                registered && submitter.unregister_buf_ring(super::buffers::GROUP).is_ok()
            })
        });
        let arrival = try_to_receive().unwrap_or_default();
        Self {
            kernel: version(&release),
            release,
            io_uring,
            defer_taskrun: defer_taskrun.is_ok(),
            provided_buffer_ring,
            multishot_recvmsg: arrival.multishot,
            receive_timestamps: arrival.timestamp,
            gso: try_to_segment().unwrap_or(false),
            locked_memory_bytes_max: limit(libc::RLIMIT_MEMLOCK),
            open_files_max: limit(libc::RLIMIT_NOFILE),
            receive_buffer_bytes_max: sysctl("net/core/rmem_max"),
            send_buffer_bytes_max: sysctl("net/core/wmem_max"),
        }
    }
}

#[derive(Debug, Default)]
struct Arrival {
    multishot: bool,
    timestamp: bool,
}

/// Two datagrams through a real ring.
fn try_to_receive() -> Result<Arrival, RingError> {
    let refused = |source| RingError::from_setup("a loopback socket", source);
    let socket = socket::open(loopback(), socket::SocketBuffers::default())?;
    let address = socket.local_addr().map_err(refused)?;
    let mut ring =
        Ring::new(&RingConfig { receive_buffers: 4, gso: false, ..RingConfig::default() }, socket)?;
    let peer = UdpSocket::bind(loopback()).map_err(refused)?;
    let mut arrival = Arrival::default();
    for round in 0..2 {
        peer.send_to(b"probe", address).map_err(refused)?;
        let mut arrived = 0;
        for _ in 0..ARRIVAL_WAIT.as_millis() {
            arrived += ring.receive(1, |received| {
                arrival.timestamp = received.received_at_ns.is_some();
            });
            if arrived > 0 {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        arrival.multishot = arrived == 1 && (round == 0 || arrival.multishot) && ring.armed;
    }
    Ok(arrival)
}

/// One send that must arrive as two datagrams.
fn try_to_segment() -> io::Result<bool> {
    let receiver = UdpSocket::bind(loopback())?;
    receiver.set_read_timeout(Some(ARRIVAL_WAIT))?;
    let sender = UdpSocket::bind(loopback())?;
    socket::set(&sender, libc::SOL_UDP, libc::UDP_SEGMENT, 100)?;
    sender.send_to(&[7; 150], receiver.local_addr()?)?;
    let mut buffer = [0; 200];
    Ok(receiver.recv(&mut buffer)? == 100 && receiver.recv(&mut buffer)? == 50)
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// The kernel's release, as `uname -r` prints it.
pub(super) fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// RLIMIT_MEMLOCK in words.
pub(super) fn locked_memory() -> String {
    limit(libc::RLIMIT_MEMLOCK).map_or("unlimited".into(), |bytes| format!("{} KiB", bytes / 1_024))
}

/// RLIMIT_NOFILE in words.
pub(super) fn open_files() -> String {
    limit(libc::RLIMIT_NOFILE).map_or("unlimited".into(), |count| count.to_string())
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn sysctl(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}

fn limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one `rlimit` into `limit` before the call returns.
    let result = unsafe { libc::getrlimit(resource, &mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_whatever_follows_the_numbers() {
        assert_eq!(version("6.18.44-generic"), (6, 18));
        assert_eq!(version("6.1-rc3"), (6, 1));
        assert_eq!(version(""), (0, 0));
    }

    #[test]
    fn where_a_ring_starts_the_probe_finds_all_it_needs() {
        let support = Support::probe();
        let socket = socket::open(loopback(), socket::SocketBuffers::default()).unwrap();
        let works = Ring::new(&RingConfig::default(), socket).is_ok();
        assert_eq!(support.io_uring.is_ok() && support.defer_taskrun, works, "{support:?}");
        assert_eq!(support.provided_buffer_ring && support.multishot_recvmsg, works, "{support:?}");
        assert!(support.open_files_max.is_none_or(|files| files > 0));
    }
}
