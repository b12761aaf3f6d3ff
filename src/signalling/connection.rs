//! One WebSocket's conversation (protocol.md §1.5, §1.6): its order, its deadlines, its pace, and
//! what waits to be written. Answers heartbeats itself, so that they never queue behind room work.
//! Owned by the shard, fed by the driver; moves to another shard as one value.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    ClientMessage, CloseCode, Frame, Identify, Refusal, Resume, ServerMessage, Version,
    envelope::Envelope, opcode,
};
use crate::{
    id::ConnectionId,
    limits::{
        HEARTBEAT_TIMEOUT, HELD_BYTES_MAX, HELD_MESSAGES_MAX, IDENTIFY_TIMEOUT, MESSAGE_BURST_MAX,
        MESSAGE_BYTES_MAX, MESSAGES_PER_SECOND, SERVER_ONLY_OPCODES_MAX,
        STRANGER_MESSAGE_BYTES_MAX,
    },
};

/// One WebSocket.
#[derive(Debug)]
pub struct Connection {
    id: ConnectionId,
    version: Version,
    address: IpAddr,
    state: State,
    identify_by: Instant,
    heard: Instant,
    pace: Pace,
    server_only_opcodes: u32,
    outbox: VecDeque<Frame>,
    outbox_bytes: usize,
}

/// Where the conversation is.
#[derive(Debug)]
enum State {
    /// Neither Identify nor Resume has come.
    Fresh,
    /// One of them has; whether it is good is not known yet. What else came waits.
    Asked { held: Vec<ClientMessage>, bytes: usize },
    /// The client is in.
    Joined,
}

/// What a frame asks of the shard.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// op 0, the first time.
    Identify(Identify),
    /// op 7, the first time.
    Resume(Resume),
    /// The client has every numbered message up to this one. Never 0.
    Acknowledge(u16),
    /// Anything else, from a client that is in. Never Identify, Resume, Heartbeat, BackendVersion,
    /// Ignored or ServerOnly.
    Message(ClientMessage),
}

impl Connection {
    /// A WebSocket has opened; Hello waits to be written. The time to identify runs from `now`.
    pub fn open(id: ConnectionId, version: Version, address: IpAddr, now: Instant) -> Self {
        let mut connection = Self {
            id,
            version,
            address,
            state: State::Fresh,
            identify_by: now + IDENTIFY_TIMEOUT,
            heard: now,
            pace: Pace { due: now },
            server_only_opcodes: 0,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
        };
        connection.send(&ServerMessage::Hello);
        connection
    }

    /// Its name.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The version it asked for.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where it came from.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether the client has been let in.
    pub fn is_joined(&self) -> bool {
        matches!(self.state, State::Joined)
    }

    /// A message arrived. Gives what it asks of the shard, if anything; a refusal means that the
    /// WebSocket is to be closed.
    pub fn handle_frame(&mut self, now: Instant, frame: Frame) -> Result<Option<Request>, Refusal> {
        self.heard = now;
        self.pace.step(now)?;
        let bytes = frame.len();
        let most = match self.state {
            State::Fresh => STRANGER_MESSAGE_BYTES_MAX,
            State::Asked { .. } | State::Joined => MESSAGE_BYTES_MAX,
        };
        if bytes > most {
            return Err(Refusal::decode("message too long"));
        }
        let message = match frame {
            Frame::Text(text) => {
                let envelope = Envelope::open(&text)?;
                // Who has not identified is told so, whatever is wrong with the rest.
                if matches!(self.state, State::Fresh) && !opcode::is_for_strangers(envelope.op) {
                    return Err(IDENTIFY_FIRST);
                }
                ClientMessage::decode(envelope)?
            }
            Frame::Binary(bytes) => ClientMessage::parse_binary(&bytes)?,
        };
        self.handle_message(message, bytes)
    }

    fn handle_message(
        &mut self,
        message: ClientMessage,
        bytes: usize,
    ) -> Result<Option<Request>, Refusal> {
        use ClientMessage as M;
        if let M::Heartbeat(heartbeat) = message {
            self.send(&ServerMessage::HeartbeatAck(&heartbeat));
            let seq = heartbeat.seq_ack.and_then(|seq| u16::try_from(seq).ok());
            let seq = seq.filter(|seq| *seq != 0 && self.is_joined());
            return Ok(seq.map(Request::Acknowledge));
        }
        match (&mut self.state, message) {
            (State::Fresh, message @ (M::Identify(_) | M::Resume(_))) => {
                self.state = State::Asked { held: Vec::new(), bytes: 0 };
                Ok(match message {
                    M::Identify(identify) => Some(Request::Identify(identify)),
                    M::Resume(resume) => Some(Request::Resume(resume)),
                    _ => None,
                })
            }
            (State::Fresh, _) => Err(IDENTIFY_FIRST),
            (_, M::Identify(_) | M::Resume(_)) => Err(Refusal {
                code: CloseCode::AlreadyAuthenticated,
                why: "identified or resumed before",
            }),
            (_, M::BackendVersion) => {
                self.send(&ServerMessage::BackendVersion);
                Ok(None)
            }
            (_, M::Ignored(_)) => Ok(None),
            (_, M::ServerOnly(_)) => {
                self.server_only_opcodes += 1;
                if self.server_only_opcodes > SERVER_ONLY_OPCODES_MAX {
                    let why = "opcodes that only the server sends";
                    return Err(Refusal { code: CloseCode::UnknownOpcode, why });
                }
                Ok(None)
            }
            (State::Asked { held, bytes: held_bytes }, message) => {
                *held_bytes += bytes;
                if held.len() == HELD_MESSAGES_MAX || *held_bytes > HELD_BYTES_MAX {
                    return Err(Refusal {
                        code: CloseCode::RateLimited,
                        why: "too much before Ready or Resumed",
                    });
                }
                held.push(message);
                Ok(None)
            }
            (State::Joined, message) => Ok(Some(Request::Message(message))),
        }
    }

    /// The client has been let in: gives what it said since it asked, in order. Liveness counts
    /// from `now`, so that a slow answer is not held against the client.
    pub fn joined(&mut self, now: Instant) -> Vec<Request> {
        debug_assert!(matches!(self.state, State::Asked { .. }), "only who asks is let in");
        self.heard = now;
        match std::mem::replace(&mut self.state, State::Joined) {
            State::Asked { held, .. } => held.into_iter().map(Request::Message).collect(),
            State::Fresh | State::Joined => Vec::new(),
        }
    }

    /// Something arrived that is no message, such as a WebSocket ping: the client lives.
    /// Pings keep the same pace as messages: 4021 beyond it.
    pub fn handle_sign_of_life(&mut self, now: Instant) -> Result<(), Refusal> {
        self.heard = now;
        self.pace.step(now)
    }

    /// When [`Self::handle_timeout`] is next due.
    pub fn deadline(&self) -> Instant {
        match self.state {
            State::Fresh => self.identify_by,
            State::Asked { .. } | State::Joined => self.heard + HEARTBEAT_TIMEOUT,
        }
    }

    /// Time has passed: 4003 if nobody identified in time, 4009 if nothing was heard for too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Refusal> {
        if now < self.deadline() {
            return None;
        }
        Some(match self.state {
            State::Fresh => {
                Refusal { code: CloseCode::NotAuthenticated, why: "no Identify in time" }
            }
            State::Asked { .. } | State::Joined => {
                Refusal { code: CloseCode::SessionTimeout, why: "no heartbeat in time" }
            }
        })
    }

    /// Queues a message that takes no number, or any message where the version has no numbers.
    pub fn send(&mut self, message: &ServerMessage<'_>) {
        debug_assert!(!(message.numbered() && self.version.numbered()), "{message:?} has a number");
        self.queue(message.encode(self.version, None));
    }

    /// Queues an encoded message: a numbered one, or one of a replay.
    pub fn queue(&mut self, frame: Frame) {
        self.outbox_bytes += frame.len();
        self.outbox.push_back(frame);
    }

    /// Takes the next message to write.
    pub fn poll_output(&mut self) -> Option<Frame> {
        let frame = self.outbox.pop_front()?;
        self.outbox_bytes -= frame.len();
        Some(frame)
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.outbox_bytes
    }
}

const IDENTIFY_FIRST: Refusal =
    Refusal { code: CloseCode::NotAuthenticated, why: "identify or resume first" };

/// Time that one message stands for at the steady rate.
const MESSAGE_INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / MESSAGES_PER_SECOND as u64);

/// A token bucket, kept as the moment at which it would be full again.
#[derive(Debug)]
struct Pace {
    due: Instant,
}

impl Pace {
    /// Takes one token; 4021 if there is none.
    fn step(&mut self, now: Instant) -> Result<(), Refusal> {
        let due = self.due.max(now) + MESSAGE_INTERVAL;
        if due - now > MESSAGE_INTERVAL * MESSAGE_BURST_MAX {
            return Err(Refusal { code: CloseCode::RateLimited, why: "too many messages" });
        }
        self.due = due;
        Ok(())
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
