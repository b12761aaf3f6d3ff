//! What a shard wants sent: datagrams with their destinations, in plain memory of fixed size.
//! The forwarder fills it, a backend (`ring`) sends it; neither knows the other. Sends are chained
//! by destination as they are filled, so that a backend can hand equal-sized datagrams of one
//! destination to the kernel in one piece.
//!
//! The memory never moves and is either being filled (`slot`) or in flight (`Flight`, which borrows
//! the whole of it): the borrow checker keeps a backend's buffers from being written while the
//! kernel may read them.

use std::net::{IpAddr, SocketAddr};

use crate::limits::DATAGRAM_BYTES_MAX;

/// Both ends of a datagram's way: the peer, and which of our addresses it talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// The peer. IPv4-mapped IPv6 addresses are always given as plain IPv4.
    pub remote: SocketAddr,
    /// Our address the peer sent to, where the socket is bound to all of them; replies must leave
    /// from it, because clients use connected sockets (protocol.md §8, trap 11). `None`: the
    /// socket has one address.
    pub local: Option<IpAddr>,
}

impl Path {
    /// A path over a socket that is bound to one address.
    pub fn to(remote: SocketAddr) -> Self {
        Self { remote, local: None }
    }
}

/// Which datagrams may be sent in one piece: those of one flow, in order. Small and dense (a
/// session's index), or [`Flow::NONE`] for one that goes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow(pub u32);

impl Flow {
    /// A datagram outside every flow: discovery and ping replies.
    pub const NONE: Flow = Flow(u32::MAX);
}

/// Fixed memory for the datagrams of one batch.
#[derive(Debug)]
pub struct Egress {
    bytes: Box<[u8]>,
    used: usize,
    entries: Vec<Entry>,
    entries_max: usize,
    heads: Vec<u32>,
    tails: Vec<Tail>,
    batch: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    path: Path,
    offset: u32,
    len: u16,
    next: u32,
}

/// The last entry of a flow's chain in batch `batch`; stale when the batch has gone.
#[derive(Debug, Clone, Copy, Default)]
struct Tail {
    batch: u32,
    entry: u32,
}

const END: u32 = u32::MAX;

impl Egress {
    /// Reserves room for `datagrams_max` datagrams of together `bytes_max` bytes.
    pub fn new(datagrams_max: usize, bytes_max: usize) -> Self {
        assert!(bytes_max >= DATAGRAM_BYTES_MAX && bytes_max <= u32::MAX as usize);
        assert!(datagrams_max > 0 && datagrams_max < END as usize);
        Self {
            bytes: vec![0; bytes_max].into_boxed_slice(),
            used: 0,
            entries: Vec::with_capacity(datagrams_max),
            entries_max: datagrams_max,
            heads: Vec::with_capacity(datagrams_max),
            tails: Vec::new(),
            batch: 1,
        }
    }

    /// Hands out a free slot with room for `len_max` bytes, or `None` when the batch is full.
    /// Nothing is sent unless the slot is committed.
    #[inline]
    pub fn slot(&mut self, flow: Flow, path: Path, len_max: usize) -> Option<Slot<'_>> {
        let end = self.used.checked_add(len_max)?;
        if self.entries.len() == self.entries_max
            || end > self.bytes.len()
            || len_max > DATAGRAM_BYTES_MAX
        {
            return None;
        }
        Some(Slot { egress: self, flow, path, end })
    }

    /// Datagrams waiting to be sent.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lends the filled datagrams to a backend. When the flight is dropped every slot is free
    /// again, so a backend keeps it until the kernel no longer reads any of its bytes.
    pub fn flight(&mut self) -> Flight<'_> {
        Flight { egress: self }
    }

    /// Makes room in the flow table for sessions up to `flows`, so that filling never allocates.
    pub fn reserve_flows(&mut self, flows: usize) {
        if flows > self.tails.len() {
            self.tails.resize(flows.next_power_of_two(), Tail::default());
        }
    }

    fn commit(&mut self, flow: Flow, path: Path, len: usize) {
        let entry = self.entries.len() as u32;
        let offset = self.used as u32;
        self.entries.push(Entry { path, offset, len: len as u16, next: END });
        self.used += len;
        match self.tails.get_mut(flow.0 as usize) {
            Some(tail) if tail.batch == self.batch => {
                self.entries[tail.entry as usize].next = entry;
                tail.entry = entry;
            }
            Some(tail) => {
                *tail = Tail { batch: self.batch, entry };
                self.heads.push(entry);
            }
            None => self.heads.push(entry),
        }
    }

    fn clear(&mut self) {
        self.used = 0;
        self.entries.clear();
        self.heads.clear();
        self.batch = self.batch.wrapping_add(1);
        if self.batch == 0 {
            self.tails.fill(Tail::default());
            self.batch = 1;
        }
    }
}

/// Room for one datagram.
#[derive(Debug)]
pub struct Slot<'a> {
    egress: &'a mut Egress,
    flow: Flow,
    path: Path,
    end: usize,
}

impl Slot<'_> {
    /// The bytes the kernel will send; old contents are meaningless.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.egress.bytes[self.egress.used..self.end]
    }

    /// Queues the first `len` bytes for sending.
    #[inline]
    pub fn commit(self, len: usize) {
        assert!(len <= self.end - self.egress.used, "committed more than the slot holds");
        self.egress.commit(self.flow, self.path, len);
    }
}

/// A batch on its way to the kernel. Dropping it frees every slot.
#[derive(Debug)]
pub struct Flight<'a> {
    egress: &'a mut Egress,
}

impl Flight<'_> {
    /// One iterator per chain; all datagrams of a chain go to one path, in the order they were
    /// filled.
    pub fn chains(&self) -> impl Iterator<Item = Chain<'_>> {
        self.egress.heads.iter().map(|&head| Chain { egress: self.egress, next: head })
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.egress.clear();
    }
}

/// The datagrams of one flow, in order. A flow whose path changed within the batch yields datagrams
/// of both paths: a backend groups only equal neighbours.
#[derive(Debug, Clone)]
pub struct Chain<'a> {
    egress: &'a Egress,
    next: u32,
}

/// One datagram to send.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Where it goes.
    pub path: Path,
    /// What is sent.
    pub bytes: &'a [u8],
}

impl<'a> Iterator for Chain<'a> {
    type Item = Outgoing<'a>;

    #[inline]
    fn next(&mut self) -> Option<Outgoing<'a>> {
        let entry = *self.egress.entries.get(self.next as usize)?;
        self.next = entry.next;
        let start = entry.offset as usize;
        let bytes = &self.egress.bytes[start..start + usize::from(entry.len)];
        Some(Outgoing { path: entry.path, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Path {
        Path::to(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn put(egress: &mut Egress, flow: u32, port: u16, byte: u8, len: usize) -> bool {
        let Some(mut slot) = egress.slot(Flow(flow), path(port), len) else { return false };
        slot.bytes().fill(byte);
        slot.commit(len);
        true
    }

    #[test]
    fn datagrams_of_one_flow_are_chained_in_order() {
        let mut egress = Egress::new(8, 4096);
        egress.reserve_flows(4);
        for (flow, byte) in [(0, 1), (1, 2), (0, 3), (1, 4), (0, 5)] {
            assert!(put(&mut egress, flow, 9 + flow as u16, byte, 10));
        }
        let flight = egress.flight();
        let chains: Vec<Vec<u8>> =
            flight.chains().map(|chain| chain.map(|out| out.bytes[0]).collect()).collect();
        assert_eq!(chains, [vec![1, 3, 5], vec![2, 4]]);
        drop(flight);
        assert!(egress.is_empty());
        put(&mut egress, 0, 9, 7, 10);
        assert_eq!(egress.flight().chains().count(), 1);
    }

    #[test]
    fn a_full_batch_hands_out_nothing_until_it_has_flown() {
        let mut egress = Egress::new(2, DATAGRAM_BYTES_MAX);
        assert!(put(&mut egress, 0, 1, 0, 10) && put(&mut egress, 0, 1, 0, 10));
        assert!(!put(&mut egress, 0, 1, 0, 10));
        drop(egress.flight());
        assert!(put(&mut egress, 0, 1, 0, DATAGRAM_BYTES_MAX));
        assert!(!put(&mut egress, 0, 1, 0, 1));
    }

    #[test]
    fn an_uncommitted_slot_sends_nothing() {
        let mut egress = Egress::new(2, 4096);
        egress.slot(Flow::NONE, path(1), 100).unwrap().bytes()[0] = 1;
        assert!(egress.is_empty());
    }
}
