//! File descriptors handed between owners: what the standard library only offers as unsafe, for the
//! driver, which stays free of it. Called when a shard starts and when a connection moves.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
};

/// Wraps a descriptor in a type of another library, which closes it from then on.
pub fn adopt<T: FromRawFd>(fd: OwnedFd) -> T {
    // SAFETY: `into_raw_fd` gives up the only ownership of an open descriptor, and `T` takes it.
    unsafe { T::from_raw_fd(fd.into_raw_fd()) }
}

/// A second descriptor of the same open file, closed on exec (`F_DUPFD_CLOEXEC`).
///
/// # Errors
/// The process has no descriptor left (EMFILE).
pub fn duplicate(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: `fd` is borrowed for the whole call, so its owner cannot close the descriptor in it.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }.try_clone_to_owned()
}

/// A descriptor that a system call has just returned.
///
/// # Safety
/// `result` is what a call returned that yields a new descriptor or -1 with `errno`, and nothing
/// else has taken it.
pub(super) unsafe fn returned(result: libc::c_int) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: not negative, so a descriptor; the caller says that it is new and unowned.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}
