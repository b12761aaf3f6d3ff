//! File descriptors handed between owners: what the standard library only offers as unsafe, for the
//! driver, which stays free of it. Called when a shard starts and when a connection moves.

use std::{
    fs, io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    path::Path,
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

/// Second descriptors of all io_urings that the process has at the moment.
///
/// # Errors
/// `/proc` is not there, or the process has no descriptor left.
pub fn io_urings() -> io::Result<Vec<OwnedFd>> {
    let is_io_uring = |fd: RawFd| {
        fs::read_link(Path::new("/proc/self/fd").join(fd.to_string()))
            .is_ok_and(|file| file == Path::new("anon_inode:[io_uring]"))
    };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if !is_io_uring(fd) {
            continue;
        }
        // SAFETY: it is only duplicated, and the kernel answers for a number that another thread
        // has closed meanwhile, or given to another file: such a one is not kept.
        let duplicate = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned();
        match duplicate {
            Ok(duplicate) if is_io_uring(duplicate.as_raw_fd()) => found.push(duplicate),
            Err(error) if error.raw_os_error() != Some(libc::EBADF) => return Err(error),
            _ => {}
        }
    }
    Ok(found)
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
