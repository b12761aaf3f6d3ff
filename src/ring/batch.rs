//! The send calls of one trip to the kernel: grouping of neighbouring datagrams into segmented
//! sends, the memory the kernel reads them from, and what became of them. Submits through the queue
//! it is given and waits for nothing; `Ring::send` does, and owns the argument why that is sound.

use std::{io, net::UdpSocket, os::fd::AsRawFd, ptr};

use io_uring::{SubmissionQueue, opcode, types::Fixed};

use crate::{
    egress::{Outgoing, Path},
    limits::{GSO_BYTES_MAX, GSO_FAILURES_MAX, GSO_SEGMENTS_MAX, SEND_BATCH_MAX, SEND_PIECES_MAX},
    metrics::{Counters, DropReason},
    ring::{
        address::{ADDRESS_BYTES, Family},
        control::Chain,
    },
};

/// What became of an egress. Every datagram is in exactly one of `packets`, `socket_full`,
/// `failed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams the kernel took.
    pub packets: u64,
    /// Their bytes of UDP payload.
    pub bytes: u64,
    /// Passes through the kernel's UDP stack that took: a segmented send is one.
    pub traversals: u64,
    /// Datagrams refused because the socket's send buffer, or the device's queue, was full.
    pub socket_full: u64,
    /// Datagrams refused for any other reason: no route, a firewall, longer than the device's
    /// frame.
    pub failed: u64,
}

impl Sent {
    /// Adds this to a shard's counters.
    pub fn count(&self, counters: &mut Counters) {
        counters.packets_out += self.packets;
        counters.bytes_out += self.bytes;
        counters.stack_traversals += self.traversals;
        counters.drops[DropReason::SocketFull as usize] += self.socket_full;
        counters.drops[DropReason::SendFailed as usize] += self.failed;
    }
}

/// One `sendmsg`, of one datagram or of several that the kernel cuts apart.
struct Message {
    header: libc::msghdr,
    address: [u8; ADDRESS_BYTES],
    control: Chain,
    path: Path,
    first_piece: usize,
    pieces: usize,
    /// Length of every datagram but the last, which may be shorter.
    segment: usize,
    bytes: usize,
}

impl Message {
    /// Whether a datagram may follow those already here.
    #[inline]
    fn takes(&self, datagram: &Outgoing<'_>) -> bool {
        let len = datagram.bytes.len();
        (1..=self.segment).contains(&len)
            && self.pieces < GSO_SEGMENTS_MAX
            && self.bytes + len <= GSO_BYTES_MAX
            && self.path == datagram.path
    }
}

/// Up to [`SEND_BATCH_MAX`] messages. All of its memory is allocated once.
pub(super) struct Batch {
    family: Family,
    messages: Box<[Message]>,
    used: usize,
    pieces: Box<[libc::iovec]>,
    pieces_used: usize,
    /// Whether the last message may take another datagram.
    open: bool,
    in_flight: usize,
    /// Segmented messages that the kernel would not cut.
    uncut: Vec<usize>,
    gso: bool,
    gso_failures: u32,
    sent: Sent,
}

impl Batch {
    pub(super) fn new(family: Family, gso: bool) -> Self {
        let message = |_| Message {
            header: empty_header(),
            address: [0; ADDRESS_BYTES],
            control: Chain::EMPTY,
            path: Path::to(([0, 0, 0, 0], 0).into()),
            first_piece: 0,
            pieces: 0,
            segment: 0,
            bytes: 0,
        };
        let piece = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self {
            family,
            messages: (0..SEND_BATCH_MAX).map(message).collect(),
            used: 0,
            pieces: vec![piece; SEND_PIECES_MAX].into_boxed_slice(),
            pieces_used: 0,
            open: false,
            in_flight: 0,
            uncut: Vec::with_capacity(SEND_BATCH_MAX),
            gso,
            gso_failures: 0,
            sent: Sent::default(),
        }
    }

    /// Whether segmented sends are tried.
    pub(super) fn gso(&self) -> bool {
        self.gso
    }

    /// Forgets messages that were queued and never submitted, as after a panic in mid-fill: the
    /// bytes they point to may be gone.
    pub(super) fn clear(&mut self) {
        assert!(self.in_flight == 0, "a batch is emptied when the kernel is done with it");
        self.used = 0;
        self.pieces_used = 0;
        self.open = false;
        self.uncut.clear();
    }

    /// Queues a datagram. `false`: no room, flush first.
    #[inline]
    pub(super) fn add(&mut self, datagram: Outgoing<'_>) -> bool {
        if self.open {
            let message = &mut self.messages[self.used - 1];
            if message.takes(&datagram) {
                message.pieces += 1;
                message.bytes += datagram.bytes.len();
                self.open = datagram.bytes.len() == message.segment;
                self.push_piece(datagram.bytes);
                return true;
            }
        }
        self.begin(datagram)
    }

    /// Ends the last message: what follows belongs to another flow.
    #[inline]
    pub(super) fn close(&mut self) {
        self.open = false;
    }

    #[inline]
    fn begin(&mut self, datagram: Outgoing<'_>) -> bool {
        self.open = false;
        // A message's pieces lie side by side, so there must be room for as many as it may get.
        if self.used == SEND_BATCH_MAX || self.pieces_used + GSO_SEGMENTS_MAX > SEND_PIECES_MAX {
            return false;
        }
        let message = &mut self.messages[self.used];
        message.control.clear();
        let Path { remote, local } = datagram.path;
        let addressed = self.family.write(remote, &mut message.address)
            && local.is_none_or(|local| message.control.leave_from(self.family, local));
        if !addressed {
            self.sent.failed += 1;
            return true;
        }
        message.path = datagram.path;
        message.first_piece = self.pieces_used;
        message.pieces = 1;
        message.segment = datagram.bytes.len();
        message.bytes = datagram.bytes.len();
        self.used += 1;
        self.open = self.gso;
        self.push_piece(datagram.bytes);
        true
    }

    #[inline]
    fn push_piece(&mut self, bytes: &[u8]) {
        // The kernel only reads what it sends; iovec has one pointer for both directions.
        let iov_base = bytes.as_ptr().cast_mut().cast();
        self.pieces[self.pieces_used] = libc::iovec { iov_base, iov_len: bytes.len() };
        self.pieces_used += 1;
    }

    /// Queues every message for the kernel, `user_data` being its index.
    ///
    /// # Safety
    /// Until [`Batch::in_flight`] is 0 again the datagrams that were added stay where they are,
    /// unchanged, and of the batch itself nothing but `complete` and `in_flight` is called.
    pub(super) unsafe fn submit(&mut self, queue: &mut SubmissionQueue<'_>) {
        assert!(queue.capacity() - queue.len() >= self.used, "the queue is longer than a batch");
        for (index, message) in self.messages[..self.used].iter_mut().enumerate() {
            if message.pieces > 1 {
                message.control.segment(message.segment as u16);
            }
            let control = message.control.bytes();
            message.header.msg_control = control.as_mut_ptr().cast();
            message.header.msg_controllen = control.len();
            message.header.msg_name = message.address.as_mut_ptr().cast();
            message.header.msg_namelen = self.family.address_bytes() as u32;
            let end = message.first_piece + message.pieces;
            message.header.msg_iov = self.pieces[message.first_piece..end].as_mut_ptr();
            message.header.msg_iovlen = message.pieces;
            let entry = opcode::SendMsg::new(Fixed(super::SOCKET), &message.header)
                .flags(libc::MSG_DONTWAIT as u32)
                .build()
                .user_data(index as u64);
            // SAFETY: header, address, control and pieces lie in this batch's boxes, which never
            // move or shrink; the bytes they point to and the time they must last are the caller's
            // promise.
            unsafe { queue.push(&entry) }.expect("room was checked for the whole batch");
        }
        self.in_flight = self.used;
    }

    /// Messages whose completion is outstanding.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Takes the completion of one message.
    #[inline]
    pub(super) fn complete(&mut self, index: usize, result: i32) {
        self.in_flight -= 1;
        let message = &self.messages[index];
        match -result {
            ..=0 => {
                if message.pieces > 1 {
                    self.gso_failures = 0;
                }
                self.sent.packets += message.pieces as u64;
                self.sent.bytes += message.bytes as u64;
                self.sent.traversals += 1;
            }
            libc::EAGAIN | libc::ENOBUFS => self.sent.socket_full += message.pieces as u64,
            libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::EOPNOTSUPP if message.pieces > 1 => {
                self.uncut.push(index);
            }
            _ => self.sent.failed += message.pieces as u64,
        }
    }

    /// Sends one by one what the kernel would not cut, and empties the batch. Where the device is
    /// at fault this happens [`GSO_FAILURES_MAX`] times, so it does without the ring.
    pub(super) fn finish(&mut self, socket: &UdpSocket) {
        while let Some(index) = self.uncut.pop() {
            if self.send_uncut(socket, index) {
                self.gso_failures += 1;
                self.gso &= self.gso_failures < GSO_FAILURES_MAX;
            }
        }
        self.clear();
    }

    /// Whether all of the message's datagrams pass alone, so that cutting was what failed.
    #[cold]
    fn send_uncut(&mut self, socket: &UdpSocket, index: usize) -> bool {
        let message = &mut self.messages[index];
        message.control.clear();
        if let Some(local) = message.path.local {
            message.control.leave_from(self.family, local);
        }
        let control = message.control.bytes();
        message.header.msg_control = control.as_mut_ptr().cast();
        message.header.msg_controllen = control.len();
        message.header.msg_iovlen = 1;
        let mut all = true;
        for piece in &mut self.pieces[message.first_piece..][..message.pieces] {
            message.header.msg_iov = piece;
            // SAFETY: the header's name and control lie in this message, the piece in the batch's
            // box and its bytes in the egress that is still in flight; the kernel only reads them,
            // and only until the call returns.
            let result =
                unsafe { libc::sendmsg(socket.as_raw_fd(), &message.header, libc::MSG_DONTWAIT) };
            if result >= 0 {
                self.sent.packets += 1;
                self.sent.bytes += piece.iov_len as u64;
                self.sent.traversals += 1;
                continue;
            }
            all = false;
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN | libc::ENOBUFS) => self.sent.socket_full += 1,
                _ => self.sent.failed += 1,
            }
        }
        all
    }

    /// What became of everything since the last call.
    pub(super) fn take_sent(&mut self) -> Sent {
        std::mem::take(&mut self.sent)
    }
}

/// A header of nothing. Filled field by field because libc pads it differently from target to
/// target.
pub(super) fn empty_header() -> libc::msghdr {
    // SAFETY: `msghdr` is integers and raw pointers, for which all zeroes are a value.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch_of(lens: &[usize]) -> Batch {
        let mut batch = Batch::new(Family::V4, true);
        let path = Path::to(([127, 0, 0, 1], 9).into());
        for &len in lens {
            assert!(batch.add(Outgoing { path, bytes: &[7; 2_048][..len] }));
        }
        batch
    }

    fn grouped(lens: &[usize]) -> Vec<usize> {
        let batch = batch_of(lens);
        batch.messages[..batch.used].iter().map(|message| message.pieces).collect()
    }

    #[test]
    fn equal_neighbours_share_a_message_and_a_shorter_one_ends_it() {
        assert_eq!(grouped(&[100, 100, 100]), [3]);
        assert_eq!(grouped(&[100, 100, 40, 100, 100]), [3, 2]);
        assert_eq!(grouped(&[40, 100, 100]), [1, 2]);
        assert_eq!(grouped(&[100, 0, 0, 100]), [1, 1, 1, 1]);
    }

    #[test]
    fn a_message_ends_at_the_most_segments_and_bytes_the_kernel_cuts() {
        assert_eq!(grouped(&[10; GSO_SEGMENTS_MAX + 1]), [GSO_SEGMENTS_MAX, 1]);
        let fitting = GSO_BYTES_MAX / 1_472;
        assert_eq!(grouped(&[1_472; 60]), [fitting, 60 - fitting]);
    }

    #[test]
    fn another_path_is_another_message() {
        let mut batch = batch_of(&[100]);
        let moved = Path::to(([127, 0, 0, 1], 10).into());
        let other = Path { local: Some([127, 0, 0, 2].into()), ..moved };
        for path in [moved, moved, other] {
            assert!(batch.add(Outgoing { path, bytes: &[7; 100] }));
        }
        let pieces = batch.messages[..batch.used].iter().map(|message| message.pieces);
        assert_eq!(pieces.collect::<Vec<_>>(), [1, 2, 1]);
    }

    #[test]
    fn a_full_batch_takes_no_more() {
        let mut batch = Batch::new(Family::V4, false);
        let path = Path::to(([127, 0, 0, 1], 9).into());
        let mut taken = 0;
        while batch.add(Outgoing { path, bytes: b"voice" }) {
            taken += 1;
            assert!(taken <= SEND_BATCH_MAX);
        }
        assert_eq!(taken, SEND_BATCH_MAX);
        batch.clear();
        assert!(batch.add(Outgoing { path, bytes: b"voice" }));
    }

    #[test]
    fn every_datagram_of_a_refused_message_is_counted_once() {
        let mut batch = batch_of(&[100, 100, 40, 100, 100, 60]);
        batch.close();
        assert!(batch.add(Outgoing { path: batch.messages[0].path, bytes: b"alone" }));
        batch.in_flight = batch.used;
        batch.complete(1, -libc::EAGAIN);
        batch.complete(0, 240);
        batch.complete(2, -libc::EPERM);
        assert_eq!(batch.in_flight(), 0);
        let expected = Sent { packets: 3, bytes: 240, traversals: 1, socket_full: 3, failed: 1 };
        assert_eq!(batch.take_sent(), expected);
        let mut counters = Counters::default();
        expected.count(&mut counters);
        assert_eq!((counters.packets_out, counters.bytes_out), (3, 240));
        assert_eq!(counters.stack_traversals, 1);
        assert_eq!(counters.drops_for(DropReason::SocketFull), 3);
        assert_eq!(counters.drops_for(DropReason::SendFailed), 1);
    }

    #[test]
    fn an_unreachable_family_is_a_failure_of_that_datagram_alone() {
        let mut batch = Batch::new(Family::V4, true);
        let v6 = Path::to("[::1]:9".parse().unwrap());
        assert!(batch.add(Outgoing { path: v6, bytes: b"voice" }));
        assert_eq!(batch.used, 0);
        assert_eq!(batch.take_sent(), Sent { failed: 1, ..Sent::default() });
    }
}
