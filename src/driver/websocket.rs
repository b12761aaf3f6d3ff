//! One client's WebSocket: a task that moves bytes between its socket, its `Wire` and the shard's
//! core. Decides nothing. The socket is glommio's; everything else can move to another shard.

use std::{
    future::{Future, poll_fn},
    net::IpAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::{
    core::{Core, Limit},
    handoff::Handoff,
    line::{Departure, Line},
    tasks::Deadline,
    turnstile::Permit,
    wire::{Fault, Received, Wire},
};
use crate::{
    id::{ConnectionId, ShardId},
    limits::{CLOSE_TIMEOUT, IDENTIFY_TIMEOUT, VISIT_TIMEOUT, WRITE_TIMEOUT},
    ring::fd,
    sfu::Arrival,
    signalling::{BROKEN, CloseCode, Version},
};

/// Bytes read from a socket at once: two TLS records of ordinary size.
const READ_BYTES: usize = 4_096;

/// Bytes read from a socket whose client was told to go, in hope of its farewell.
const FAREWELL_BYTES_MAX: usize = 1_024 * 1_024;

/// One connection at work.
pub struct Conversation {
    core: Rc<Core>,
    stream: TcpStream,
    wire: Wire,
    id: ConnectionId,
    line: Rc<Line>,
    address: IpAddr,
    permit: Permit,
    out: Vec<u8>,
}

/// Why a conversation waits no longer.
enum Wake {
    /// There is something in the line, or control has decided.
    Line,
    /// Bytes came and were fed to the wire.
    Fed(Result<(), Fault>),
    /// The client's side is closed, or the connection broke.
    Ended,
    /// The time to open is over.
    Late,
}

/// Why not everything that waits could be written. What is left waits on.
enum Unwritten {
    /// The connection is over.
    Broken,
    /// The client does not read.
    Slow,
    /// The shard has let go of the connection meanwhile.
    Departing,
}

/// How a conversation ends.
enum End {
    /// The WebSocket is over; the code is the client's, or [`BROKEN`].
    Closed(u16),
    /// The connection broke: nothing more can be said.
    Lost,
    /// The core has already let go of it: say this, then close.
    Dismissed(u16, &'static str),
    /// As before, without a word.
    Dropped,
    /// It goes on elsewhere.
    Moved,
}

impl Conversation {
    /// A connection that has just been accepted.
    pub fn new(
        core: Rc<Core>,
        stream: TcpStream,
        wire: Wire,
        address: IpAddr,
        permit: Permit,
    ) -> Self {
        let id = core.name_connection();
        // The core has nothing to say to it before its WebSocket is open.
        let line = Rc::default();
        Self { core, stream, wire, id, line, address, permit, out: Vec::new() }
    }

    /// A connection that comes from another shard.
    pub fn arrived(core: Rc<Core>, handoff: Handoff) -> Self {
        let Handoff { socket, wire, arrival, address, permit } = handoff;
        let id = arrival.connection.id();
        let line = core.connect(id);
        let stream = fd::adopt(socket);
        core.enter(|shard, now, _| shard.handle_arrival(now, *arrival));
        Self { core, stream, wire, id, line, address, permit, out: Vec::new() }
    }

    /// Opens the WebSocket; then converses until the end. `handshake` is held until it is open.
    pub async fn accept(mut self, handshake: Rc<()>) {
        let accepted = Instant::now();
        match self.open(accepted).await {
            Ok(()) => {
                drop(handshake);
                self.run().await;
            }
            Err(limit) => {
                if let Some(limit) = limit {
                    self.core.limit(limit);
                }
                // An alert or an HTTP answer may wait.
                self.wire.drain(&mut self.out);
                if self.write(CLOSE_TIMEOUT).await.is_ok() {
                    self.part().await;
                }
            }
        }
    }

    /// Whoever only came for the page's files has broken no limit, and has no longer for all of
    /// them than others have for their handshake.
    async fn open(&mut self, accepted: Instant) -> Result<(), Option<Limit>> {
        let mut deadline = self.core.tasks().deadline(IDENTIFY_TIMEOUT);
        let mut since = accepted;
        let mut visited = false;
        let over = |visited: bool, limit| if visited { None } else { Some(limit) };
        loop {
            match self.wire.receive() {
                Ok(Some(Received::Opened(query))) => {
                    let version = Version::from_query(query.as_deref());
                    let (id, address) = (self.id, self.address);
                    self.line = self.core.connect(id);
                    self.core.enter(|shard, _, _| shard.handle_open(since, id, version, address));
                    return Ok(());
                }
                Ok(Some(Received::Visited)) => {
                    visited = true;
                    since = Instant::now();
                    let left = IDENTIFY_TIMEOUT.saturating_sub(accepted.elapsed());
                    if left.is_zero() {
                        return Err(None);
                    }
                    self.flush(left).await?;
                    let left = IDENTIFY_TIMEOUT.saturating_sub(accepted.elapsed());
                    deadline = self.core.tasks().deadline(VISIT_TIMEOUT.min(left));
                    self.rest().await;
                    continue;
                }
                Ok(_) => {}
                Err(Fault::Finished) => return Err(None),
                Err(Fault::Ended) => return Err(over(visited, Limit::HandshakeFailed)),
                Err(_) => return Err(Some(Limit::HandshakeFailed)),
            }
            // There may always be something to read.
            if accepted.elapsed() > IDENTIFY_TIMEOUT {
                return Err(over(visited, Limit::HandshakeTimeout));
            }
            self.flush(WRITE_TIMEOUT).await?;
            match self.wait(true, Some(&mut deadline)).await {
                Wake::Fed(Ok(())) | Wake::Line => {}
                Wake::Fed(Err(_)) => return Err(Some(Limit::HandshakeFailed)),
                Wake::Ended => return Err(over(visited, Limit::HandshakeFailed)),
                Wake::Late => return Err(over(visited, Limit::HandshakeTimeout)),
            }
            // The arithmetic of a handshake takes as long as forwarding a hundred packets.
            self.rest().await;
        }
    }

    /// Writes what an opening connection has to say.
    async fn flush(&mut self, timeout: Duration) -> Result<(), Option<Limit>> {
        self.wire.drain(&mut self.out);
        self.write(timeout).await.map_err(|_| Some(Limit::HandshakeFailed))
    }

    /// Converses until the end.
    pub async fn run(mut self) {
        let end = self.converse().await;
        self.core.disconnect(self.id);
        match end {
            End::Closed(code) => {
                let id = self.id;
                self.core.enter(|shard, now, _| shard.handle_closed(now, id, code));
                self.say_goodbye().await;
            }
            End::Dismissed(code, why) => {
                self.core.closing(code);
                self.wire.close(code, why);
                self.say_goodbye().await;
            }
            End::Lost => {
                let id = self.id;
                self.core.enter(|shard, now, _| shard.handle_closed(now, id, BROKEN));
            }
            End::Dropped | End::Moved => {}
        }
    }

    async fn converse(&mut self) -> End {
        let mut fed = false;
        loop {
            while let Some(frame) = self.line.take_frame() {
                self.wire.send(frame);
            }
            match self.line.take_departure() {
                Some(Departure::Close(code, why)) => return End::Dismissed(code.code(), why),
                Some(Departure::Drop) => return End::Dropped,
                Some(Departure::Move(to, arrival)) => return self.depart(to, arrival).await,
                None => {}
            }
            self.wire.drain(&mut self.out);
            match self.write(WRITE_TIMEOUT).await {
                Ok(()) => {}
                Err(Unwritten::Departing) => continue,
                Err(Unwritten::Broken) => return End::Lost,
                Err(Unwritten::Slow) => {
                    self.core.limit(Limit::SlowReader);
                    return End::Lost;
                }
            }
            let reading = !self.core.is_undecided(self.id);
            if reading {
                match self.wire.receive() {
                    Ok(Some(received)) => {
                        if let Some(end) = self.handle(received) {
                            return end;
                        }
                        continue;
                    }
                    Ok(None) => {}
                    Err(fault) => return self.fail(fault),
                }
            }
            // Once what has come is dealt with: a speaker's op 5 goes before its first packet.
            if fed {
                // What is to be said meanwhile does not wait for the next round; reading does.
                fed = !self.rest().await;
                continue;
            }
            match self.wait(reading, None).await {
                Wake::Line => {}
                Wake::Fed(Ok(())) => fed = true,
                Wake::Fed(Err(fault)) => return self.fail(fault),
                Wake::Ended | Wake::Late => return End::Closed(BROKEN),
            }
        }
    }

    fn handle(&mut self, received: Received) -> Option<End> {
        let id = self.id;
        match received {
            Received::Frame(frame) => {
                self.core.enter(|shard, now, _| shard.handle_frame(now, id, frame));
            }
            Received::SignOfLife => {
                self.core.enter(|shard, now, _| shard.handle_sign_of_life(now, id));
            }
            Received::Closed(code) => return Some(End::Closed(code)),
            Received::Opened(_) | Received::Visited => {}
        }
        None
    }

    /// The client broke the WebSocket protocol, and its session ends as after any other breach; or
    /// it broke TLS, which anybody on the way can do to it, so that it may resume.
    fn fail(&mut self, fault: Fault) -> End {
        if let Fault::WebSocket(code, why) = fault {
            self.core.closing(code);
            self.wire.close(code, why);
            let id = self.id;
            self.core.enter(|shard, now, _| shard.handle_breach(now, id, code));
        }
        End::Closed(BROKEN)
    }

    async fn depart(&mut self, to: ShardId, arrival: Box<Arrival>) -> End {
        self.wire.drain(&mut self.out);
        let written = self.write(WRITE_TIMEOUT).await;
        match (written, fd::duplicate(&self.stream)) {
            (Ok(()), Ok(socket)) => {
                let wire = std::mem::replace(&mut self.wire, Wire::spent());
                let permit = std::mem::replace(&mut self.permit, Permit::none());
                let handoff = Handoff { socket, wire, arrival, address: self.address, permit };
                match handoff.send(&self.core, to) {
                    Ok(()) => End::Moved,
                    Err(handoff) => {
                        self.core.lost_on_the_way(&handoff.arrival);
                        self.wire = handoff.wire;
                        End::Dismissed(
                            CloseCode::ServerCrashed.code(),
                            "too many at once; come back",
                        )
                    }
                }
            }
            _ => {
                self.core.lost_on_the_way(&arrival);
                End::Dropped
            }
        }
    }

    /// Lets media have its turn if it has waited for long, and the other connections: a socket that
    /// always has more to read would never wait. Whether that took until the next round, and not
    /// only until there was something in the line.
    async fn rest(&self) -> bool {
        self.core.relieve();
        let mut rest = pin!(self.core.tasks().rest());
        poll_fn(|context| match rest.as_mut().poll(context) {
            Poll::Pending if self.line.poll_ready(context) => Poll::Ready(false),
            rested => rested,
        })
        .await
    }

    /// Waits for the line, for bytes (if `reading`), or for the deadline.
    async fn wait(&mut self, reading: bool, mut deadline: Option<&mut Deadline>) -> Wake {
        self.core.relieve();
        let Self { stream, wire, line, core, id, .. } = self;
        poll_fn(|context| {
            if line.poll_ready(context) || (!reading && !core.is_undecided(*id)) {
                return Poll::Ready(Wake::Line);
            }
            if reading {
                let mut bytes = [0; READ_BYTES];
                match Pin::new(&mut *stream).poll_read(context, &mut bytes) {
                    Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Wake::Ended),
                    Poll::Ready(Ok(len)) => {
                        return Poll::Ready(Wake::Fed(wire.feed(&bytes[..len])));
                    }
                    Poll::Pending => {}
                }
            }
            match deadline.as_deref_mut() {
                Some(deadline) => Pin::new(deadline).poll(context).map(|()| Wake::Late),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Writes everything that waits, within `timeout` of the first time the socket does not take it
    /// at once; a client that reads a byte now and then gains nothing by it.
    async fn write(&mut self, timeout: Duration) -> Result<(), Unwritten> {
        let Self { stream, out, line, core, .. } = self;
        let mut written = 0;
        let mut deadline: Option<Deadline> = None;
        let result = poll_fn(|context: &mut Context<'_>| {
            while written < out.len() {
                match Pin::new(&mut *stream).poll_write(context, &out[written..]) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Unwritten::Broken)),
                    Poll::Ready(Ok(len)) => {
                        written += len;
                        continue;
                    }
                    Poll::Pending => {}
                }
                if line.poll_departing(context) {
                    return Poll::Ready(Err(Unwritten::Departing));
                }
                let deadline = deadline.get_or_insert_with(|| core.tasks().deadline(timeout));
                ready!(Pin::new(deadline).poll(context));
                return Poll::Ready(Err(Unwritten::Slow));
            }
            Poll::Ready(Ok(()))
        })
        .await;
        out.drain(..written);
        // A replay or a burst needs much, an idle connection nothing.
        out.shrink_to(READ_BYTES);
        result
    }

    /// Writes the close frame and closes.
    async fn say_goodbye(&mut self) {
        self.wire.drain(&mut self.out);
        self.wire.finish();
        self.wire.drain(&mut self.out);
        if self.write(CLOSE_TIMEOUT).await.is_ok() {
            self.part().await;
        }
    }

    /// Closes our side and reads the client's away: a socket closed with unread bytes is reset, and
    /// a reset overtakes the close frame.
    async fn part(&mut self) {
        if self.stream.shutdown(std::net::Shutdown::Write).await.is_err() {
            return;
        }
        let mut deadline = self.core.tasks().deadline(CLOSE_TIMEOUT);
        let mut read = 0;
        while read < FAREWELL_BYTES_MAX {
            let stream = &mut self.stream;
            let more = poll_fn(|context| {
                let mut bytes = [0; READ_BYTES];
                if let Poll::Ready(result) = Pin::new(&mut *stream).poll_read(context, &mut bytes) {
                    return Poll::Ready(result.unwrap_or(0));
                }
                Pin::new(&mut deadline).poll(context).map(|()| 0)
            });
            match more.await {
                0 => return,
                len => read += len,
            }
            self.core.relieve();
        }
    }
}
