//! The way to Spacebar's clients: events of ours that its gateways pass on. Over unix sockets they
//! are handed over at once; for RabbitMQ they wait, bounded, until the broker is there.

use std::{path::PathBuf, time::Instant};

use async_channel::{Receiver, Sender};

use super::{
    event::Notice,
    tally::{Tally, count},
    unix_bus,
};
use crate::config::SpacebarEvents;

/// Events that may wait for the broker: as many as leave in a bad minute.
const NOTICES_MAX: usize = 4_096;

/// Where events of ours go.
#[derive(Debug)]
pub(super) enum Bus {
    Unix(PathBuf),
    RabbitMq(Sender<Unsaid>),
    /// There is none; clients learn from Spacebar alone.
    None,
}

/// An event of ours that waits for the broker, and since when.
#[derive(Debug)]
pub(super) struct Unsaid {
    pub(super) notice: Notice,
    pub(super) since: Instant,
}

impl Bus {
    /// The bus and, for RabbitMQ, what its task takes from.
    pub(super) fn new(events: &SpacebarEvents) -> (Self, Option<Receiver<Unsaid>>) {
        match events {
            SpacebarEvents::Unix(directory) => (Bus::Unix(directory.clone()), None),
            SpacebarEvents::RabbitMq { .. } => {
                let (sender, receiver) = async_channel::bounded(NOTICES_MAX);
                (Bus::RabbitMq(sender), Some(receiver))
            }
            SpacebarEvents::Notify | SpacebarEvents::Poll => (Bus::None, None),
        }
    }

    /// Says it, if there is anybody to say it to.
    pub(super) async fn say(&self, tally: &Tally, notice: Notice) {
        let is_said = match self {
            Bus::Unix(directory) => unix_bus::say(directory, &notice).await > 0,
            // Its task counts what it hands over.
            Bus::RabbitMq(queue) => {
                match queue.try_send(Unsaid { notice, since: Instant::now() }) {
                    Ok(()) => return,
                    Err(_) => false,
                }
            }
            Bus::None => return,
        };
        count(if is_said { &tally.said } else { &tally.unsaid });
    }

    /// Whether anything waits.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Bus::RabbitMq(queue) => queue.is_empty(),
            Bus::Unix(_) | Bus::None => true,
        }
    }

    /// Whether there are listeners at all.
    pub(super) fn has_voice(&self) -> bool {
        !matches!(self, Bus::None)
    }
}
