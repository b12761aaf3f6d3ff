//! The bare loop that a server is compared with: receives a datagram and sends it on to everyone
//! else in its channel, as it is. No crypto, no protocol, no grouping: a `recvfrom` and a `sendto`
//! each, which costs what batched system calls do (the kernel's UDP stack is the cost). A thread of
//! the generator, on the server's core.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::SockRef;

use super::{media::pin, payload::Mark, schedule::Cast};
use crate::{
    limits::{DATAGRAM_BYTES_MAX, SOCKET_BUFFER_BYTES},
    rtp::Packet,
};

/// How often the loop looks whether it is to stop, while nothing comes.
const IDLE: Duration = Duration::from_millis(100);

/// A running loop. Stops when dropped.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    thread_id: u32,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bound {
    /// Starts the loop on `core`. `hearers` are the addresses of the cast's clients, in their
    /// order.
    ///
    /// # Errors
    /// No socket or no thread is to be had.
    pub fn start(
        cast: Arc<Cast>,
        hearers: Vec<SocketAddr>,
        core: Option<usize>,
    ) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        // As large as the server's, as far as the kernel allows.
        SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_read_timeout(Some(IDLE))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::sync_channel(1);
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("load-bound".to_owned()).spawn(move || {
            let id = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
            // The starter waits for it.
            let _ = tell.send(id);
            if let Some(core) = core {
                pin(core);
            }
            while !stopped.load(Ordering::Relaxed) {
                forward(&socket, &cast, &hearers);
            }
        })?;
        let thread_id = told.recv().map_err(io::Error::other)?;
        Ok(Self { address, thread_id, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its thread, for its cost.
    pub fn thread_id(&self) -> u32 {
        self.thread_id
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only panics on a defect, which has been printed then.
            let _ = thread.join();
        }
    }
}

/// Receives one datagram, if one comes, and sends it on. What the kernel refuses is lost, as a
/// server's would be.
fn forward(socket: &UdpSocket, cast: &Cast, hearers: &[SocketAddr]) {
    let mut bytes = [0; DATAGRAM_BYTES_MAX];
    let Ok(len) = socket.recv(&mut bytes) else { return };
    let datagram = &bytes[..len];
    let payload = Packet::new(datagram).and_then(|packet| packet.payload());
    let Some(mark) = payload.and_then(Mark::parse) else { return };
    let Some(source) = cast.sources.get(mark.source as usize) else { return };
    for client in cast.channels[source.channel as usize].clients.clone() {
        if client != source.client {
            let _ = socket.send_to(datagram, hearers[client as usize]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        load::{payload::Kind, scenario::Scenario},
        rtp::packet::HEADER_BYTES,
    };

    #[test]
    fn everyone_else_in_the_channel_gets_the_same_bytes() {
        let cast = Arc::new(Cast::new(&Scenario::simple(1, 2).unwrap()));
        let bind = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket
        };
        let clients = [bind(), bind(), bind()];
        let hearers = clients.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let bound = Bound::start(cast, hearers, None).unwrap();
        let mark =
            Mark { kind: Kind::Audio, run: 1, channel: 0, source: 0, number: 7, intended_ns: 9 };
        let mut packet = [0; 100];
        packet[0] = 0x80;
        mark.write(&mut packet[HEADER_BYTES..]);
        clients[0].send_to(b"rubbish", bound.address()).unwrap();
        clients[0].send_to(&packet, bound.address()).unwrap();
        for hearer in &clients[1..] {
            let mut heard = [0; 200];
            let len = hearer.recv(&mut heard).unwrap();
            assert_eq!(heard[..len], packet);
        }
        clients[0].set_nonblocking(true).unwrap();
        assert!(clients[0].recv(&mut packet).is_err(), "nobody hears itself");
        assert!(bound.thread_id() > 0);
    }
}
