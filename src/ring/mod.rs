//! The media ring: one UDP socket on a raw io_uring, and the only unsafe code of the crate.
//! Receives through a multishot `recvmsg` into provided buffers, sends an [`Egress`] in batches of
//! `sendmsg`. Knows nothing of sessions or executors; a shard's driver calls it, on the thread that
//! made it.
//!
//! # Memory the kernel reads and writes
//!
//! **Sending.** The kernel reads an egress's bytes, and the batch's headers and addresses, from the
//! submission of a send until its completion. [`Ring::send`] holds the egress's `Flight`, hence its
//! exclusive borrow, and does not return (nor unwind) before every completion of what it submitted
//! has been reaped. So a slot goes Free → Filled → InFlight → Free, `Egress::slot` can only hand
//! out a free one, and no memory moves meanwhile: egress and batch are boxed slices that are never
//! resized. `MSG_DONTWAIT` makes the wait short, since such a send completes while it is submitted;
//! that it always does is not relied on.
//!
//! **Receiving.** A buffer is the kernel's from the moment its descriptor is published until a
//! completion names it, then ours until its `Filled` is dropped. There is one `&mut` to it at most,
//! made from the `Filled`. The request's `msghdr` is boxed and lives as long as the ring.
//!
//! **Ending.** `Ring::drop` cancels the receive request and waits for its last completion; only
//! then are the buffers unregistered, the ring closed and the memory unmapped. Should the kernel
//! not confirm the cancellation, the memory is leaked.
//!
//! A failure of `io_uring_enter` that is not transient leaves it unknown what the kernel still
//! reads, so it ends the process.

#![allow(unsafe_code)]

use std::{
    collections::VecDeque,
    fmt, io,
    net::{SocketAddr, UdpSocket},
    ops::ControlFlow,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::{Ordering, fence},
    time::Duration,
};

use io_uring::{
    IoUring, cqueue, opcode,
    types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec},
};

use crate::{
    egress::Egress,
    limits::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, SEND_BATCH_MAX},
};

mod address;
mod batch;
mod buffers;
mod control;
mod datagram;
mod error;
pub mod fd;
pub mod probe;
pub mod socket;
mod uring;
mod watches;

pub use self::{batch::Sent, datagram::Received, error::RingError, watches::Watch};

use self::{
    address::Family,
    batch::Batch,
    buffers::Buffers,
    uring::{set_up, survive},
    watches::Watches,
};

/// Where the socket is in the ring's table of files.
const SOCKET: u32 = 0;

/// `user_data` of the receive request; a send's is its index in the batch.
const RECEIVE: u64 = u64::MAX;
/// `user_data` of a cancellation.
const CANCEL: u64 = u64::MAX - 1;

/// Submission queue: a batch of sends, a receive request, one for each watch, and a cancellation,
/// to a power of two.
const SUBMISSIONS: u32 = (SEND_BATCH_MAX + 2 + watches::MAX).next_power_of_two() as u32;

/// Bytes of a receive buffer that holds whatever the kernel has in one piece: the longest datagram
/// of IP, and the room before it, to whole pages.
const GRO_BUFFER_BYTES: usize = 68 * 1_024;

const _: () = assert!(GRO_BUFFER_BYTES > u16::MAX as usize + 192);

/// How long one wait for the cancelled requests lasts, and how many are waited. A request
/// that only polls a socket is cancelled at once; this is for a machine that is out of memory.
const CANCEL_WAIT: Duration = Duration::from_millis(100);
const CANCEL_WAITS_MAX: usize = 20;

/// What an operator, or a test, may choose.
#[derive(Debug, Clone)]
pub struct RingConfig {
    /// Receive buffers, a power of two up to 32,768; 2 KiB each, or 68 KiB with `gro`.
    pub receive_buffers: u16,
    /// Whether equal-sized datagrams to one destination are sent in one piece that the kernel cuts
    /// (UDP GSO, `UDP_SEGMENT`). The ring switches it off by itself where the device cannot.
    pub gso: bool,
    /// Whether datagrams that the kernel has in one piece are received so, and cut here (UDP GRO).
    /// For a generator of load, which receives what one sender has sent in such pieces.
    pub gro: bool,
    /// Whether the [`eventfd`](Ring::eventfd) is signalled, for who sleeps elsewhere than in
    /// [`wait`](Ring::wait). Each turn takes a little longer for it.
    pub eventfd: bool,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { receive_buffers: RECEIVE_BUFFERS, gso: true, gro: false, eventfd: true }
    }
}

/// A socket and the ring that works it. Bound to the thread that made it: the kernel takes
/// submissions from that one alone, and the type is not `Send`.
///
/// The driver's turn is: [`receive`](Ring::receive) up to so many, fill an egress,
/// [`send`](Ring::send) it; when `receive` gave fewer than it was allowed, [`wait`](Ring::wait). A
/// driver with several rings sleeps elsewhere, until an [`eventfd`](Ring::eventfd) is readable.
pub struct Ring {
    // Dropped first: the kernel lets go of everything below before it is freed.
    uring: IoUring,
    buffers: Buffers,
    /// What the receive request points to: how much room address and control messages have.
    header: Box<libc::msghdr>,
    control_room: usize,
    batch: Batch,
    socket: UdpSocket,
    eventfd: OwnedFd,
    /// Receive completions not delivered yet. Never grows: each but the last of a request holds a
    /// buffer.
    arrived: VecDeque<Arrived>,
    /// Whether the receive request is in the kernel.
    armed: bool,
    /// Whether anybody sleeps on the eventfd.
    eventfd_heeded: bool,
    /// Whether completions write to the eventfd.
    listening: bool,
    watches: Watches,
    buffers_exhausted: u64,
    receive_errors: u64,
}

/// What one turn of receiving came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// Datagrams delivered.
    pub delivered: usize,
    /// Whether there were no more: only then may the caller sleep.
    pub drained: bool,
}

/// A completion of the receive request.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    result: i32,
    flags: u32,
}

impl Ring {
    /// Sets a ring up on a socket from [`socket::open`] and starts to receive.
    ///
    /// # Errors
    /// The kernel is too old, forbids io_uring, or grants too little; the error says what to do.
    pub fn new(config: &RingConfig, socket: UdpSocket) -> Result<Self, RingError> {
        let refused = |what| move |source| RingError::from_setup(what, source);
        let count = config.receive_buffers;
        if !count.is_power_of_two() || count > 32_768 {
            return Err(RingError::ReceiveBuffers { count });
        }
        let local = socket.local_addr().map_err(refused("the socket's address"))?;
        let uring = set_up(SUBMISSIONS, u32::from(count) + SUBMISSIONS)?;
        let (size, control_room) = if config.gro {
            socket::set(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).map_err(refused("UDP_GRO"))?;
            (GRO_BUFFER_BYTES, datagram::CONTROL_ROOM_GRO)
        } else {
            (RECEIVE_BUFFER_BYTES, datagram::CONTROL_ROOM)
        };
        let buffers = Buffers::new(count, size as u32).map_err(refused("receive buffers"))?;
        let eventfd = new_eventfd().map_err(refused("an eventfd"))?;
        let submitter = uring.submitter();
        buffers.register(&submitter).map_err(refused("receive buffers"))?;
        submitter.register_files(&[socket.as_raw_fd()]).map_err(refused("a table of files"))?;
        submitter.register_eventfd(eventfd.as_raw_fd()).map_err(refused("an eventfd"))?;

        let mut header = Box::new(batch::empty_header());
        header.msg_namelen = datagram::NAME_ROOM as u32;
        header.msg_controllen = control_room;
        let mut ring = Self {
            uring,
            buffers,
            header,
            control_room,
            batch: Batch::new(Family::of(local), config.gso),
            socket,
            eventfd,
            arrived: VecDeque::with_capacity(usize::from(count) + 2),
            armed: false,
            eventfd_heeded: config.eventfd,
            listening: true,
            watches: Watches::default(),
            buffers_exhausted: 0,
            receive_errors: 0,
        };
        ring.silence();
        ring.arm();
        ring.enter(0);
        ring.listen();
        ring.harvest();
        match ring.arrived.front() {
            Some(first) if first.result == -libc::EINVAL => {
                Err(RingError::too_old("multishot recvmsg (Linux 6.0)"))
            }
            Some(first) if first.result < 0 => Err(RingError::from_setup(
                "to receive",
                io::Error::from_raw_os_error(-first.result),
            )),
            _ => Ok(ring),
        }
    }

    /// Where the socket is bound.
    ///
    /// # Errors
    /// As `getsockname`; a bound socket gives none.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Readable, if the configuration has it so, when datagrams have arrived since
    /// [`receive`](Ring::receive) last gave fewer than it was allowed; then `receive`. Reading its
    /// eight bytes makes it unreadable again. It blocks, as an executor's own io_uring needs: it
    /// would answer EAGAIN for a nonblocking one.
    pub fn eventfd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    /// Has [`wait`](Ring::wait) return when `fd` is readable too. A ring can watch a few.
    ///
    /// # Panics
    /// It watches too many already.
    pub fn watch(&mut self, fd: OwnedFd) -> Watch {
        self.watches.add(fd)
    }

    /// Whether what is watched was found readable since this was last asked. It is looked at again
    /// from now on, and found again if it still is.
    pub fn take_readable(&mut self, watch: Watch) -> bool {
        self.watches.take_readable(watch)
    }

    /// Stops looking at what is watched, or begins again.
    pub fn pause(&mut self, watch: Watch, paused: bool) {
        self.watches.pause(watch, paused);
    }

    /// Sleeps until a datagram arrives, something watched is readable, or `timeout` has passed; may
    /// return early. To be called when [`receive`](Ring::receive) has given fewer than it was
    /// allowed. The thread enters the kernel once, to sleep, and need not be told by an eventfd.
    pub fn wait(&mut self, timeout: Duration) {
        self.silence();
        if !self.armed && self.arrived.is_empty() {
            self.arm();
        }
        self.arm_watches();
        self.harvest();
        if !self.arrived.is_empty() || self.watches.any_readable() {
            return;
        }
        let timeout = Timespec::from(timeout);
        let submitter = self.uring.submitter();
        match submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timeout)) {
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {}
            result => survive(result),
        }
        self.look();
    }

    /// Fetches what has arrived and what of the watched is readable, for
    /// [`take_readable`](Ring::take_readable) to tell. Enters the kernel only when it has work.
    pub fn look(&mut self) {
        if !self.armed && self.arrived.is_empty() {
            self.arm();
        }
        self.arm_watches();
        let submissions = self.uring.submission();
        let must_enter = !submissions.is_empty() || submissions.taskrun();
        drop(submissions);
        if must_enter {
            self.enter(0);
        }
        self.harvest();
    }

    /// Whether segmented sends are in use: set so, and not given up because the device cannot.
    pub fn gso(&self) -> bool {
        self.batch.gso()
    }

    /// Times the kernel wanted a receive buffer and all were taken. The datagrams wait in the
    /// socket.
    pub fn receive_buffers_exhausted(&self) -> u64 {
        self.buffers_exhausted
    }

    /// Receives that failed for any other reason.
    pub fn receive_errors(&self) -> u64 {
        self.receive_errors
    }

    /// How much has been fetched that `receive` has not delivered: datagrams, and ends of requests.
    pub fn fetched(&self) -> usize {
        self.arrived.len()
    }

    /// Whether `receive` has something to do. Costs a few loads.
    pub fn has_received(&mut self) -> bool {
        let (_, submissions, completions) = self.uring.split();
        !self.arrived.is_empty()
            || !completions.is_empty()
            || submissions.taskrun()
            || submissions.cq_overflow()
    }

    /// Delivers up to `max` datagrams and returns how many; more if some came in one piece. Only
    /// after fewer than `max` may the caller sleep. A datagram's buffer is the kernel's again when
    /// `deliver` returns.
    pub fn receive(&mut self, max: usize, mut deliver: impl FnMut(Received<'_>)) -> usize {
        self.receive_while(max, |received| {
            deliver(received);
            ControlFlow::Continue(())
        })
        .delivered
    }

    /// Delivers up to `max` datagrams, or until `deliver` breaks off, say because there is enough
    /// to send first.
    pub fn receive_while(
        &mut self,
        max: usize,
        mut deliver: impl FnMut(Received<'_>) -> ControlFlow<()>,
    ) -> Delivered {
        self.silence();
        let mut delivered = 0;
        // Ends of the request since the last datagram. One is ordinary; two say that a new request
        // brings nothing, so another waits for the next turn.
        let mut ends = 0;
        while delivered < max {
            if self.arrived.is_empty() && (ends > 1 || !self.replenish()) {
                self.listen();
                return Delivered { delivered, drained: true };
            }
            let Some(Arrived { result, flags }) = self.arrived.pop_front() else { continue };
            let Some(id) = cqueue::buffer_select(flags) else {
                ends += 1;
                match -result {
                    libc::ENOBUFS => self.buffers_exhausted += 1,
                    _ => self.receive_errors += 1,
                }
                continue;
            };
            ends = 0;
            let len = usize::try_from(result).unwrap_or(0);
            // SAFETY: a completion of our only receive request names `id`, and was just removed.
            let mut filled = unsafe { self.buffers.take(id, len) };
            let Some(filling) = datagram::parse(filled.bytes(), self.control_room) else {
                self.receive_errors += 1;
                continue;
            };
            let mut enough = false;
            for received in filling.datagrams() {
                delivered += 1;
                enough |= deliver(received).is_break();
            }
            if enough {
                return Delivered { delivered, drained: false };
            }
        }
        Delivered { delivered, drained: false }
    }

    /// Sends everything in `egress` and empties it. What the kernel does not take at once is
    /// counted and dropped: voice that waits is worth nothing.
    ///
    /// Datagrams of one flow stay in order, but for those that follow one which had to be sent
    /// again because the kernel would not cut it.
    pub fn send(&mut self, egress: &mut Egress) -> Sent {
        if egress.is_empty() {
            return Sent::default();
        }
        // Its own completions are no reason to wake the executor.
        let listening = self.listening;
        self.silence();
        self.batch.clear();
        let flight = egress.flight();
        for chain in flight.chains() {
            for datagram in chain {
                while !self.batch.add(datagram) {
                    self.flush();
                }
            }
            self.batch.close();
        }
        self.flush();
        drop(flight);
        if listening {
            self.listen();
        }
        self.batch.take_sent()
    }

    /// Sends the batch and waits until the kernel is done with it.
    fn flush(&mut self) {
        // SAFETY: the bytes belong to the flight that `send` holds, and this function neither
        // returns nor unwinds before nothing is in flight.
        unsafe { self.batch.submit(&mut self.uring.submission()) };
        self.enter(0);
        self.harvest();
        while self.batch.in_flight() > 0 {
            self.enter(1);
            self.harvest();
        }
        self.batch.finish(&self.socket);
    }

    /// Moves completions out of the kernel's queue. Runs nobody's code, so nothing recurses.
    fn harvest(&mut self) {
        for completion in self.uring.completion() {
            match completion.user_data() {
                RECEIVE => {
                    let flags = completion.flags();
                    self.armed = cqueue::more(flags);
                    self.arrived.push_back(Arrived { result: completion.result(), flags });
                }
                CANCEL => {}
                watch if watches::is(watch) => self.watches.complete(watch),
                index => self.batch.complete(index as usize, completion.result()),
            }
        }
    }

    /// Fetches what has arrived; whether there is anything. Enters the kernel only when it has
    /// work.
    fn replenish(&mut self) -> bool {
        if !self.armed {
            self.arm();
        }
        let (_, submissions, completions) = self.uring.split();
        let work = !submissions.is_empty() || submissions.taskrun() || submissions.cq_overflow();
        let must_enter = work && completions.is_empty();
        drop((submissions, completions));
        if must_enter {
            self.enter(0);
        }
        self.harvest();
        !self.arrived.is_empty()
    }

    /// Queues a receive request: it lasts until it fails, an empty datagram comes, or buffers run
    /// out.
    fn arm(&mut self) {
        let entry = opcode::RecvMsgMulti::new(Fixed(SOCKET), &*self.header, buffers::GROUP)
            .build()
            .user_data(RECEIVE);
        // SAFETY: the header is boxed and outlives the request, which `drop` cancels first.
        unsafe { self.uring.submission().push(&entry) }.expect("a batch leaves room");
        self.armed = true;
    }

    /// Queues a request for each watch that has none. It lasts until its descriptor is readable.
    fn arm_watches(&mut self) {
        while let Some((fd, user_data)) = self.watches.arm_next() {
            let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).build();
            // SAFETY: the request points to no memory, and its descriptor is open as long as
            // `watches`, which is dropped after the kernel's side of the ring is.
            unsafe { self.uring.submission().push(&entry.user_data(user_data)) }
                .expect("a batch leaves room");
        }
    }

    /// Completions from now on do not write to the eventfd.
    fn silence(&mut self) {
        if self.listening {
            self.uring.completion().disable_eventfd();
            self.listening = false;
        }
    }

    /// Completions from now on write to the eventfd, and what is already there does too.
    fn listen(&mut self) {
        if !self.eventfd_heeded {
            return;
        }
        // With datagrams still here their buffers may be all there are: `receive` arms then.
        if !self.armed && self.arrived.is_empty() {
            self.arm();
        }
        if !self.uring.submission().is_empty() {
            self.enter(0);
        }
        self.uring.completion().enable_eventfd();
        self.listening = true;
        // Either the kernel sees the eventfd enabled or we see its work. It queues the work with
        // a full barrier, then sets the flag we look at, then asks whether the eventfd is enabled.
        fence(Ordering::SeqCst);
        if cfg!(not(target_arch = "x86_64")) {
            // Elsewhere the flag may become visible late, and only the kernel can look at the
            // queue.
            self.enter(0);
        }
        if self.has_received() {
            signal(&self.eventfd);
        }
    }

    /// Submits what is queued, runs the kernel's deferred work if it has any, waits for `want`
    /// completions. Returns early where trying again is right.
    fn enter(&self, want: usize) {
        survive(self.uring.submit_and_wait(want));
    }

    /// Cancels the receive request and the watches; whether the kernel has confirmed that they are
    /// gone.
    fn stop(&mut self) -> bool {
        if !self.armed && !self.watches.any_armed() {
            return true;
        }
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(CANCEL);
        // SAFETY: the request points to no memory.
        unsafe { self.uring.submission().push(&entry) }.expect("a batch leaves room");
        let wait = Timespec::from(CANCEL_WAIT);
        for _ in 0..CANCEL_WAITS_MAX {
            // An error is as good as a completion that has not come: the loop asks again.
            let _ = self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&wait));
            self.harvest();
            if !self.armed && !self.watches.any_armed() {
                return true;
            }
        }
        false
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.stop() {
            tracing::error!("the kernel did not confirm the end of the ring's requests");
            self.buffers.leak();
            Box::leak(std::mem::replace(&mut self.header, Box::new(batch::empty_header())));
        }
        // The kernel tears a closed ring down later, in the background. Taking these back now frees
        // the port for whoever wants it next. Nothing can be done about an error, nor needs to be.
        let submitter = self.uring.submitter();
        let _ = submitter.unregister_buf_ring(buffers::GROUP);
        let _ = submitter.unregister_files();
        let _ = submitter.unregister_eventfd();
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("socket", &self.socket).finish_non_exhaustive()
    }
}

fn new_eventfd() -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers; what it returns is taken here and nowhere else.
    unsafe { fd::returned(libc::eventfd(0, libc::EFD_CLOEXEC)) }
}

fn signal(eventfd: &OwnedFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the kernel reads eight bytes of `one` before the call returns. It cannot block: the
    // counter would have to be near 2^64. Nor can it fail on a descriptor that is open.
    unsafe { libc::write(eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
