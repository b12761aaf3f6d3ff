//! Between a shard's core and the task that works one WebSocket: what is to be written, and what is
//! to become of the connection. Single-threaded; the core fills it, `websocket` empties it.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::{Context, Waker},
};

use crate::{
    id::ShardId,
    limits::OUTBOX_BYTES_MAX,
    sfu::Arrival,
    signalling::{CloseCode, Frame},
};

/// How a connection leaves this shard.
#[derive(Debug)]
pub enum Departure {
    /// Write what waits, then a close frame.
    Close(CloseCode, &'static str),
    /// Go to another shard.
    Move(ShardId, Box<Arrival>),
    /// The client does not read: drop the socket.
    Drop,
}

/// One connection's line.
#[derive(Debug, Default)]
pub struct Line {
    frames: RefCell<VecDeque<Frame>>,
    bytes: Cell<usize>,
    departure: RefCell<Option<Departure>>,
    waker: RefCell<Option<Waker>>,
    /// Set when a task is woken.
    stirred: Rc<Cell<bool>>,
}

impl Line {
    /// An empty line, which sets `stirred` whenever it wakes its task.
    pub fn new(stirred: Rc<Cell<bool>>) -> Self {
        Self { stirred, ..Self::default() }
    }

    /// Queues a message. Returns whether it fits: if not, the client has stopped reading and the
    /// connection is to be dropped.
    pub fn push(&self, frame: Frame) -> bool {
        let bytes = self.bytes.get() + frame.len();
        if bytes > OUTBOX_BYTES_MAX {
            self.frames.borrow_mut().clear();
            self.depart(Departure::Drop);
            return false;
        }
        self.bytes.set(bytes);
        self.frames.borrow_mut().push_back(frame);
        self.wake();
        true
    }

    /// Takes the next message to write.
    pub fn take_frame(&self) -> Option<Frame> {
        let frame = self.frames.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - frame.len());
        Some(frame)
    }

    /// Ends the connection's time on this shard. The first departure stands.
    pub fn depart(&self, departure: Departure) {
        self.departure.borrow_mut().get_or_insert(departure);
        self.wake();
    }

    /// Takes the departure, once everything has been written.
    pub fn take_departure(&self) -> Option<Departure> {
        self.departure.borrow_mut().take()
    }

    /// Whether there is something to do; else wakes the task when there is.
    pub fn poll_ready(&self, context: &Context<'_>) -> bool {
        if !self.frames.borrow().is_empty() || self.departure.borrow().is_some() {
            return true;
        }
        *self.waker.borrow_mut() = Some(context.waker().clone());
        false
    }

    /// Whether the connection is to leave; else wakes the task when there is something to do.
    pub fn poll_departing(&self, context: &Context<'_>) -> bool {
        let departing = self.departure.borrow().is_some();
        if !departing {
            *self.waker.borrow_mut() = Some(context.waker().clone());
        }
        departing
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            self.stirred.set(true);
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> Frame {
        Frame::Binary(vec![0; bytes])
    }

    #[test]
    fn what_is_never_read_is_bounded_and_then_dropped_with_its_connection() {
        let line = Line::default();
        assert!(line.push(frame(OUTBOX_BYTES_MAX - 1)));
        assert!(line.push(frame(1)), "what fits exactly is kept");
        assert!(!line.push(frame(1)));
        assert!(line.take_frame().is_none(), "nobody is going to read it");
        assert!(matches!(line.take_departure(), Some(Departure::Drop)));
    }

    #[test]
    fn what_has_been_written_makes_room() {
        let line = Line::default();
        for _ in 0..3 {
            assert!(line.push(frame(OUTBOX_BYTES_MAX)));
            assert_eq!(line.take_frame().map(|frame| frame.len()), Some(OUTBOX_BYTES_MAX));
        }
        assert!(line.take_departure().is_none());
    }
}
