//! A UDP relay in front of a server that changes ports, as when a network is left for another one:
//! each client has a port of its own towards the server, and after [`Relay::move_clients`] a new
//! one.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How often a way back looks whether it is still one.
const LOOK: Duration = Duration::from_millis(50);

/// Listens on a loopback port of its own until the process ends.
pub struct Relay {
    front: UdpSocket,
    upstream: Arc<OnceLock<SocketAddr>>,
    routes: Arc<Mutex<BTreeMap<SocketAddr, Route>>>,
}

/// One client's port towards the server.
struct Route {
    socket: UdpSocket,
    is_open: Arc<AtomicBool>,
}

impl Relay {
    /// For servers that must be told of the relay before they start.
    pub fn open() -> Self {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let upstream = Arc::new(OnceLock::new());
        let routes = Arc::new(Mutex::new(BTreeMap::new()));
        let relay = Self { front, upstream, routes };
        let (front, upstream, routes) =
            (clone(&relay.front), relay.upstream.clone(), relay.routes.clone());
        thread::spawn(move || {
            let mut buffer = [0; 2_048];
            // A client that is gone shows as an error of the next receive.
            while let Ok((length, client)) =
                front.recv_from(&mut buffer).or_else(|_| front.recv_from(&mut buffer))
            {
                let Some(&upstream) = upstream.get() else { continue };
                let mut routes = routes.lock().expect("no holder panics");
                let route =
                    routes.entry(client).or_insert_with(|| Route::to(upstream, &front, client));
                let _ = route.socket.send(&buffer[..length]);
            }
        });
        relay
    }

    /// Where clients send instead of to the server.
    pub fn port(&self) -> u16 {
        self.front.local_addr().expect("a bound socket has an address").port()
    }

    /// Where it leads from now on.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.upstream.set(upstream).expect("a relay leads to one place");
    }

    /// Gives every client a new port towards the server, and closes the old one.
    pub fn move_clients(&self) {
        let routes = std::mem::take(&mut *self.routes.lock().expect("no holder panics"));
        for route in routes.into_values() {
            route.is_open.store(false, Ordering::Relaxed);
        }
    }
}

impl Route {
    fn to(upstream: SocketAddr, front: &UdpSocket, client: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        socket.connect(upstream).expect("loopback is there");
        socket.set_read_timeout(Some(LOOK)).expect("a time that is not zero");
        let is_open = Arc::new(AtomicBool::new(true));
        let (back, front, open) = (clone(&socket), clone(front), is_open.clone());
        thread::spawn(move || {
            let mut buffer = [0; 2_048];
            while open.load(Ordering::Relaxed) {
                if let Ok(length) = back.recv(&mut buffer) {
                    let _ = front.send_to(&buffer[..length], client);
                }
            }
        });
        Self { socket, is_open }
    }
}

fn clone(socket: &UdpSocket) -> UdpSocket {
    socket.try_clone().expect("a socket can be cloned")
}
