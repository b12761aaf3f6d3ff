//! Commands on their way to shards. A full shard queue is an answer, not a reason to wait: what
//! does not fit stays here, in order and bounded, and is tried again on the next turn.

use std::collections::VecDeque;

use async_channel::{Sender, TrySendError};

use crate::{
    driver::queues::{SHARD_QUEUE_MAX, ToShard},
    id::ShardId,
    sfu::Command,
};

/// Commands held for one shard before control stops listening to events. As much again as the
/// shard's own queue: a shard that is two queues behind is not going to catch up with answers.
const WAITING_MAX: usize = SHARD_QUEUE_MAX;

/// Commands held for one shard in all. What the API orders beyond the first bound still fits here;
/// past it commands are dropped and counted.
const HELD_MAX: usize = 4 * WAITING_MAX;

/// All shards' commands.
#[derive(Debug)]
pub(crate) struct Backlog {
    lanes: Vec<Lane>,
    dropped: u64,
}

#[derive(Debug)]
struct Lane {
    queue: Sender<ToShard>,
    waiting: VecDeque<Command>,
}

impl Backlog {
    pub(crate) fn new(queues: &[Sender<ToShard>]) -> Self {
        let lanes = queues
            .iter()
            .map(|queue| Lane { queue: queue.clone(), waiting: VecDeque::new() })
            .collect();
        Self { lanes, dropped: 0 }
    }

    /// Adds a command behind those that wait already.
    pub(crate) fn push(&mut self, shard: ShardId, command: Command) {
        match self.lanes.get_mut(shard.index()) {
            Some(lane) if lane.waiting.len() < HELD_MAX => {
                lane.waiting.push_back(command);
            }
            _ => self.dropped += 1,
        }
    }

    /// Moves on what fits.
    pub(crate) fn flush(&mut self) {
        for lane in &mut self.lanes {
            while let Some(command) = lane.waiting.pop_front() {
                match lane.queue.try_send(ToShard::Command(command)) {
                    Ok(()) => {}
                    Err(TrySendError::Full(ToShard::Command(command))) => {
                        lane.waiting.push_front(command);
                        break;
                    }
                    // The shard has stopped, and everyone on it is gone.
                    Err(_) => lane.waiting.clear(),
                }
            }
        }
    }

    /// Commands that wait.
    pub(crate) fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.waiting.len()).sum()
    }

    /// Whether every shard may be asked more.
    pub(crate) fn has_room(&self) -> bool {
        self.lanes.iter().all(|lane| lane.waiting.len() < WAITING_MAX)
    }

    /// Commands that were lost.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::Serial, sfu::DisconnectReason, signalling::CloseCode};

    fn close(serial: u64) -> Command {
        Command::Close {
            serial: Serial(serial),
            code: CloseCode::Disconnected,
            reason: DisconnectReason::Kicked,
        }
    }

    fn serial(message: ToShard) -> u64 {
        match message {
            ToShard::Command(Command::Close { serial, .. }) => serial.0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_does_not_fit_goes_later_and_in_order() {
        let (queue, shard) = async_channel::bounded(2);
        let mut backlog = Backlog::new(&[queue]);
        for number in 0..5 {
            backlog.push(ShardId(0), close(number));
        }
        let mut seen = Vec::new();
        while backlog.len() > 0 || !shard.is_empty() {
            backlog.flush();
            seen.extend(shard.try_recv().map(serial));
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert_eq!(backlog.dropped(), 0);
    }

    #[test]
    fn a_shard_that_never_takes_anything_costs_bounded_memory() {
        let (queue, _shard) = async_channel::bounded(1);
        let mut backlog = Backlog::new(&[queue]);
        for number in 0..WAITING_MAX as u64 + 2 {
            backlog.push(ShardId(0), close(number));
            backlog.flush();
        }
        assert!(!backlog.has_room());
        for number in 0..HELD_MAX as u64 {
            backlog.push(ShardId(0), close(number));
        }
        assert_eq!(backlog.len(), HELD_MAX);
        assert!(backlog.dropped() > 0);
    }

    #[test]
    fn a_shard_that_has_stopped_is_owed_nothing() {
        let (queue, shard) = async_channel::bounded(1);
        let mut backlog = Backlog::new(&[queue]);
        drop(shard);
        backlog.push(ShardId(0), close(1));
        backlog.push(ShardId(7), close(1));
        backlog.flush();
        assert_eq!((backlog.len(), backlog.dropped()), (0, 1), "there is no shard 7");
    }
}
