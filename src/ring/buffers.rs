//! The receive buffers lent to the kernel, and the ring of descriptors through which they are lent
//! (`IORING_REGISTER_PBUF_RING`). A buffer is the kernel's from `publish` until a completion names
//! it, and ours from then until its `Filled` is dropped.
//!
//! ```text
//! descriptors: count × { address: u64, len: u32, id: u16, (first one only) tail: u16 }
//! buffers:     count × size bytes, a mapping of their own
//! ```

use std::{
    io, ptr,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{Submitter, types::BufRingEntry};

/// The group that requests name; a ring has one.
pub(super) const GROUP: u16 = 0;

/// All receive buffers of one ring.
#[derive(Debug)]
pub(super) struct Buffers {
    descriptors: Pages,
    pool: Pages,
    count: u16,
    /// Bytes of each.
    size: u32,
    tail: u16,
}

impl Buffers {
    /// Maps `count` buffers, a power of two up to 32,768, of `size` bytes, all of them lent.
    pub(super) fn new(count: u16, size: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 32_768, "the kernel takes no such buffer ring");
        let mut buffers = Self {
            descriptors: Pages::map(usize::from(count) * size_of::<BufRingEntry>())?,
            pool: Pages::map(usize::from(count) * size as usize)?,
            count,
            size,
            tail: 0,
        };
        for id in 0..count {
            buffers.publish(id);
        }
        Ok(buffers)
    }

    /// Tells the kernel where the buffers are.
    pub(super) fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.descriptors.base.as_ptr() as u64;
        // SAFETY: the descriptors are page-aligned, `count` long, and stay mapped until
        // `Ring::drop` has unregistered the group.
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, GROUP, 0) }
    }

    /// Takes the buffer a completion named, with `len` bytes filled.
    ///
    /// # Safety
    /// A completion gave `id`, and this is the only call for that completion.
    #[inline]
    pub(super) unsafe fn take(&mut self, id: u16, len: usize) -> Filled<'_> {
        assert!(id < self.count && len <= self.size as usize, "the kernel named a foreign buffer");
        Filled { buffers: self, id, len }
    }

    /// Gives up the memory without unmapping it: the kernel may still write there.
    pub(super) fn leak(&mut self) {
        self.descriptors.len = 0;
        self.pool.len = 0;
    }

    #[inline]
    fn buffer(&self, id: u16) -> NonNull<u8> {
        // SAFETY: `id < count`, so the offset is inside the mapping of `count` buffers.
        unsafe { self.pool.base.add(usize::from(id) * self.size as usize) }
    }

    /// Lends a buffer to the kernel.
    #[inline]
    fn publish(&mut self, id: u16) {
        let address = self.buffer(id).as_ptr() as u64;
        let slot = usize::from(self.tail & (self.count - 1));
        let base = self.descriptors.base.cast::<BufRingEntry>();
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `slot < count`, inside the mapping. The kernel reads a descriptor only below the
        // tail, and at most `count` buffers are lent, so it does not read this one yet. The tail is
        // stored last, with release, so that it sees the whole descriptor; no reference to the
        // first descriptor is alive then, which matters because the tail lies in it.
        unsafe {
            let entry = &mut *base.add(slot).as_ptr();
            entry.set_addr(address);
            entry.set_len(self.size);
            entry.set_bid(id);
            let tail = BufRingEntry::tail(base.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

/// A buffer with a datagram in it. Dropping it lends it to the kernel again, also when whoever
/// looks at it panics.
#[derive(Debug)]
pub(super) struct Filled<'a> {
    buffers: &'a mut Buffers,
    id: u16,
    len: usize,
}

impl Filled<'_> {
    /// What the kernel wrote.
    #[inline]
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let start = self.buffers.buffer(self.id).as_ptr();
        // SAFETY: `take` checked id and length. The kernel gave the buffer up with its completion
        // and gets it back in `drop`, which the borrow of `self` keeps off; nobody else has it.
        unsafe { slice::from_raw_parts_mut(start, self.len) }
    }
}

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        self.buffers.publish(self.id);
    }
}

/// Zeroed pages of our own, which never move. Only raw pointers lead into them.
#[derive(Debug)]
struct Pages {
    base: NonNull<u8>,
    len: usize,
}

impl Pages {
    fn map(len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address the kernel chooses touches no existing memory.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("mmap maps nothing at address zero");
        Ok(Self { base, len })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping is ours and whole. `Ring::drop` lets it come to this only when no
            // request can write there any more.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}
