//! Forwarding does not touch Rust's heap: from a voice packet's arrival to fifty sealed copies of it
//! nothing is allocated. (aws-lc sets up ChaCha20-Poly1305 keys in memory of its own, which is C's.)
#![expect(unsafe_code, reason = "a global allocator is unsafe to implement")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use stentor::crypto::Mode;

#[allow(dead_code, reason = "shared with the simulation, of which this needs a part")]
#[path = "sim/client.rs"]
mod client;
#[path = "sim/stage.rs"]
mod stage;

use stage::Stage;

/// Counts what the current thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract; the
// counter has neither a destructor nor a lazy initialiser, so counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HEARERS: usize = 50;

/// Allocations while so many packets are forwarded to everyone.
fn allocations(stage: &mut Stage, packets: usize) -> usize {
    let mut packets: Vec<_> = (0..packets).map(|_| stage.packet(&[0x5A; 160])).collect();
    let before = ALLOCATIONS.get();
    for packet in &mut packets {
        assert_eq!(stage.forward(packet), HEARERS);
    }
    ALLOCATIONS.get() - before
}

#[test]
fn a_forwarded_packet_allocates_nothing() {
    for mode in Mode::ALL {
        let mut stage = Stage::new(HEARERS, mode);
        // The first packet of a stream makes room for its hearers.
        assert!(allocations(&mut stage, 1) > 0, "the counter counts");
        assert_eq!(allocations(&mut stage, 200), 0, "{}", mode.name());
    }
}
