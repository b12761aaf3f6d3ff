//! The io_uring that a ring works, before anything is asked of it, and what its failures mean.

use std::{io, process};

use io_uring::IoUring;

use super::RingError;

/// Ends the process unless trying again is right.
pub(super) fn survive(entered: io::Result<usize>) {
    let Err(error) = entered else { return };
    match error.raw_os_error() {
        // A signal; memory for a request; completions to take first.
        Some(libc::EINTR | libc::EAGAIN | libc::ENOMEM | libc::EBUSY) => {}
        _ => {
            tracing::error!(%error, "io_uring_enter failed, and what it left in flight is unknown");
            process::abort();
        }
    }
}

/// An io_uring as the ring needs it: one thread submits, and completions are made only when that
/// thread asks for them, so that receiving never interrupts it.
pub(super) fn set_up(submissions: u32, completions: u32) -> Result<IoUring, RingError> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions.next_power_of_two())
        .build(submissions)
        .map_err(RingError::from_io_uring_setup)
}
