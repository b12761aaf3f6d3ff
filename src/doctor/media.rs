//! What the media ring needs of the kernel, as its own probe found it by trying. Called by
//! `observe`.

use crate::ring::{RingError, probe::Support};

/// What came of trying.
#[derive(Debug, Default)]
pub struct MediaSupport {
    /// Why no io_uring could be made; `None` if one could.
    pub ring_error: Option<RingError>,
    /// What the ring is built on and this kernel does not do, each with the release that brought
    /// it.
    pub missing: Vec<&'static str>,
    /// Whether the kernel notes when a datagram arrived.
    pub receive_timestamps: bool,
    /// Whether a UDP socket takes `UDP_SEGMENT`.
    pub gso: bool,
}

/// Tries everything the server uses, over loopback.
pub fn media_support() -> MediaSupport {
    let found = Support::probe();
    let needed = [
        (found.defer_taskrun, "completions on demand (6.1)"),
        (found.provided_buffer_ring, "provided buffers (5.19)"),
        (found.multishot_recvmsg, "multishot recvmsg (6.0)"),
    ];
    MediaSupport {
        ring_error: found.io_uring.err(),
        missing: needed.into_iter().filter(|(works, _)| !works).map(|(_, name)| name).collect(),
        receive_timestamps: found.receive_timestamps,
        gso: found.gso,
    }
}
