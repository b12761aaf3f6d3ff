//! A TCP proxy that can be cut: every connection through it ends at once and without a goodbye, as
//! when a network goes away. New connections pass again.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, OnceLock},
    thread,
};

/// Listens on a loopback port of its own until the process ends.
pub struct Proxy {
    address: SocketAddr,
    upstream: Arc<OnceLock<SocketAddr>>,
    through: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    /// Passes bytes to and from `upstream`.
    pub fn to(upstream: SocketAddr) -> Self {
        let proxy = Self::open();
        proxy.lead_to(upstream);
        proxy
    }

    /// For servers that must be told of the proxy before they start. Hangs up until it leads
    /// somewhere.
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let through = Arc::new(Mutex::new(Vec::new()));
        let opened = through.clone();
        let upstream = Arc::new(OnceLock::<SocketAddr>::new());
        let end = upstream.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Some(upstream) = end.get() else { continue };
                let Ok(server) = TcpStream::connect(upstream) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let clone =
                    |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
                let (from_client, from_server) = (clone(&client), clone(&server));
                opened.lock().expect("no holder panics").push(clone(&client));
                thread::spawn(move || pass(from_client, server));
                thread::spawn(move || pass(from_server, client));
            }
        });
        Self { address, upstream, through }
    }

    /// Where it leads from now on.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.upstream.set(upstream).expect("a proxy leads to one place");
    }

    /// Where clients connect instead of to the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections have been made through it so far.
    pub fn connections(&self) -> usize {
        self.through.lock().expect("no holder panics").len()
    }

    /// Ends every connection made so far.
    pub fn cut(&self) {
        for client in self.through.lock().expect("no holder panics").iter() {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

/// Copies one direction until either end is gone, then ends the other.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1_024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
