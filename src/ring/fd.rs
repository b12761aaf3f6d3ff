//! File descriptors handed between owners: what the standard library only offers as unsafe, for the
//! driver, which stays free of it. Called when a shard starts and when a connection moves.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
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
    // SAFETY: the call takes integers and makes a descriptor of its own, which is taken here and
    // nowhere else; the kernel refuses a number that is no descriptor.
    unsafe { returned(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0)) }
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
    // All of them before any is duplicated: a listing that goes on while descriptors are added
    // lists those as well, and the number that the listing itself had is free afterwards.
    let mut numbers: Vec<RawFd> = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    numbers.retain(|fd| is_io_uring(*fd));
    let mut found = Vec::new();
    for fd in numbers {
        // SAFETY: the call takes integers and makes a descriptor of its own, which is taken here
        // and nowhere else. Another thread may have closed `fd` meanwhile, which the kernel says,
        // or opened another file in its place: such a one is not kept.
        match unsafe { returned(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0)) } {
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

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, UdpSocket},
        time::Duration,
    };

    use super::*;

    #[test]
    fn duplicates_outlive_their_original_and_adopt_changes_the_type() {
        let original = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = original.local_addr().unwrap();
        let copy: UdpSocket = adopt(duplicate(&original).unwrap());
        drop(original);
        assert_eq!(copy.local_addr().unwrap(), address);
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        peer.send_to(b"still here", address).unwrap();
        copy.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut bytes = [0; 16];
        let len = copy.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], b"still here");
        drop(copy);
        assert!(UdpSocket::bind(address).is_ok(), "the last descriptor closed the socket");
    }

    #[test]
    fn what_is_no_descriptor_is_an_error_of_the_system() {
        struct Closed;
        impl AsRawFd for Closed {
            fn as_raw_fd(&self) -> RawFd {
                RawFd::MAX
            }
        }
        assert_eq!(duplicate(&Closed).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn the_rings_of_the_process_are_found_and_nothing_else() {
        // Under cargo's runner others' rings come and go meanwhile: again, until none did. So many
        // that what is found outgrows the table of descriptors while it is being read.
        for _ in 0..1_000 {
            let before = io_urings().unwrap().len();
            let ring = io_uring::IoUring::new(2).unwrap();
            let duplicates: Vec<_> = (0..400).map(|_| duplicate(&ring).unwrap()).collect();
            let with_them = io_urings().unwrap().len();
            drop((ring, duplicates));
            if io_urings().unwrap().len() == before {
                return assert_eq!(with_them, before + 401);
            }
        }
        panic!("never left alone");
    }
}
