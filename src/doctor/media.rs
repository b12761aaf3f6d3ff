//! What the media ring needs of the kernel, found out by trying it. Called by `observe`.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// What came of trying.
#[derive(Debug, Default)]
pub struct MediaSupport {
    /// Why no ring could be made; `None` if one could.
    pub ring_error: Option<io::Error>,
    /// Features the kernel turned out not to have.
    pub missing: Vec<&'static str>,
    /// Whether a UDP socket takes `UDP_SEGMENT`; `None` if that was not tried.
    pub gso: Option<bool>,
}

/// Makes a small ring and asks it for everything the server uses.
pub fn media_support() -> MediaSupport {
    let mut support = MediaSupport::default();
    match IoUring::new(8) {
        Err(error) => support.ring_error = Some(error),
        Ok(ring) => {
            let mut probe = Probe::new();
            let probed = ring.submitter().register_probe(&mut probe).is_ok();
            // Linux 6.0 brought multishot recvmsg, which no probe reports, together with SendZc.
            if !probed || !probe.is_supported(opcode::SendZc::CODE) {
                support.missing.push("multishot recvmsg");
            }
            if !ring.params().is_feature_ext_arg() {
                support.missing.push("waiting with a timeout");
            }
        }
    }
    support
}
