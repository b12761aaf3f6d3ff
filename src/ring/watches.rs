//! Descriptors that a ring looks at beside its socket, so that one sleep is enough for all.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// How many a ring can watch.
pub(super) const MAX: usize = 4;

/// `user_data` of the first watch's request; the others follow.
const FIRST: u64 = u64::MAX - 1 - MAX as u64;

/// Whether a completion with this `user_data` is a watch's.
pub(super) fn is(user_data: u64) -> bool {
    (FIRST..FIRST + MAX as u64).contains(&user_data)
}

/// Names one of a ring's watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch(usize);

/// All watches of a ring.
#[derive(Debug, Default)]
pub(super) struct Watches(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    fd: OwnedFd,
    /// Whether its request is in the kernel.
    armed: bool,
    readable: bool,
    paused: bool,
}

impl Watches {
    pub(super) fn add(&mut self, fd: OwnedFd) -> Watch {
        assert!(self.0.len() < MAX, "a ring watches {MAX} descriptors at most");
        self.0.push(Watched { fd, armed: false, readable: false, paused: false });
        Watch(self.0.len() - 1)
    }

    pub(super) fn take_readable(&mut self, watch: Watch) -> bool {
        std::mem::take(&mut self.0[watch.0].readable)
    }

    pub(super) fn pause(&mut self, watch: Watch, paused: bool) {
        self.0[watch.0].paused = paused;
    }

    pub(super) fn any_readable(&self) -> bool {
        self.0.iter().any(|it| it.readable && !it.paused)
    }

    pub(super) fn any_armed(&self) -> bool {
        self.0.iter().any(|it| it.armed)
    }

    /// The next one to make a request for, which then counts as made: its descriptor and the
    /// request's `user_data`. What was found readable and not yet taken is known well enough.
    pub(super) fn arm_next(&mut self) -> Option<(RawFd, u64)> {
        let wanting = |it: &Watched| !it.armed && !it.readable && !it.paused;
        let index = self.0.iter().position(wanting)?;
        let watched = &mut self.0[index];
        watched.armed = true;
        Some((watched.fd.as_raw_fd(), FIRST + index as u64))
    }

    /// Its request has ended: the descriptor is readable, or an error made it so.
    pub(super) fn complete(&mut self, user_data: u64) {
        let index = usize::try_from(user_data - FIRST).unwrap_or(MAX);
        if let Some(watched) = self.0.get_mut(index) {
            watched.armed = false;
            watched.readable = true;
        }
    }
}
