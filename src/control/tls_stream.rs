//! TLS over a tokio socket: the adapter between rustls, which does no I/O, and hyper, which does.
//! Holds only what rustls does not: when to read and write the socket. Called by `webhook`; whom
//! to trust is here for `spacebar` too.

use std::{
    io::{self, Read, Write},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Where Linux distributions keep the certificates they trust, as one file.
const ROOT_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A client that trusts what this machine trusts: the file that SSL_CERT_FILE names, which is how
/// a private authority is added, else the distribution's.
pub(super) fn client_config() -> io::Result<Arc<ClientConfig>> {
    let named = std::env::var("SSL_CERT_FILE").ok().filter(|path| !path.is_empty());
    let known = || ROOT_FILES.into_iter().find(|path| std::fs::exists(path).unwrap_or(false));
    let path = named.or_else(|| known().map(str::to_owned)).ok_or_else(|| {
        io::Error::other("no file of trusted certificates found; name one in SSL_CERT_FILE")
    })?;
    client_config_trusting(read_roots(&path)?)
}

/// A client that trusts what this file names and nothing else.
pub(super) fn client_config_from(path: &Path) -> io::Result<Arc<ClientConfig>> {
    client_config_trusting(read_roots(&path.to_string_lossy())?)
}

fn read_roots(path: &str) -> io::Result<RootCertStore> {
    let unreadable = |error| io::Error::other(format!("{path}: {error}"));
    let certificates = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(unreadable)?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(io::Error::other(format!("{path}: no certificate in it can be used")));
    }
    Ok(roots)
}

fn client_config_trusting(roots: RootCertStore) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// One TLS connection.
pub(super) struct TlsStream {
    socket: TcpStream,
    tls: Connection,
}

impl TlsStream {
    /// Shakes hands as client; `name` must be in the server's certificate.
    pub(super) async fn connect(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Self::shake_hands(socket, tls.into()).await
    }

    async fn shake_hands(socket: TcpStream, tls: Connection) -> io::Result<Self> {
        let mut stream = Self { socket, tls };
        std::future::poll_fn(|cx| {
            while stream.tls.is_handshaking() {
                ready!(stream.poll_send(cx))?;
                if stream.tls.is_handshaking() && ready!(stream.poll_receive(cx))? == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            stream.poll_send(cx)
        })
        .await?;
        Ok(stream)
    }

    /// Writes what TLS wants written.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            let mut socket = Polled { socket: &mut self.socket, cx };
            ready!(would_block_is_pending(self.tls.write_tls(&mut socket)))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads some more of what the peer sent and opens it; 0 at the end.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut socket = Polled { socket: &mut self.socket, cx };
        let read = ready!(would_block_is_pending(self.tls.read_tls(&mut socket)))?;
        if let Err(error) = self.tls.process_new_packets() {
            // An alert tells the peer why; if it cannot leave at once it does not matter.
            let _ = self.poll_send(cx);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(read))
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.tls.reader().read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            // At the end the reader above says whether the peer ended it properly.
            ready!(self.poll_receive(cx))?;
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // What was taken before goes first, so that no more than one piece is ever held.
        ready!(self.poll_send(cx))?;
        let written = self.tls.writer().write(bytes)?;
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls.send_close_notify();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The socket as rustls wants it: blocking calls that say `WouldBlock` instead.
struct Polled<'a, 'b> {
    socket: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Read for Polled<'_, '_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        match Pin::new(&mut *self.socket).poll_read(self.cx, &mut buffer) {
            Poll::Ready(Ok(())) => Ok(buffer.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Polled<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.socket).poll_write(self.cx, bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn would_block_is_pending<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

#[cfg(test)]
mod tests {
    use rustls::{ServerConfig, ServerConnection};
    use rustls_pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// More than both sockets' buffers hold, so that reads and writes must wait.
    const BYTES: usize = 8 * 1_024 * 1_024;

    struct Server {
        config: Arc<ServerConfig>,
        roots: RootCertStore,
    }

    fn server() -> Server {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Server { config: Arc::new(config), roots }
    }

    /// A client's attempt to connect as `name`, and the server's view of it.
    async fn pair(name: &'static str) -> (io::Result<TlsStream>, io::Result<TlsStream>) {
        let Server { config, roots } = server();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accept = async {
            let (socket, _) = listener.accept().await.unwrap();
            TlsStream::shake_hands(socket, ServerConnection::new(config).unwrap().into()).await
        };
        let connect = async {
            let socket = TcpStream::connect(address).await.unwrap();
            let config = client_config_trusting(roots).unwrap();
            TlsStream::connect(socket, config, ServerName::try_from(name).unwrap()).await
        };
        tokio::join!(connect, accept)
    }

    #[tokio::test]
    async fn megabytes_pass_both_ways_and_the_end_is_seen() {
        let (client, server) = pair("localhost").await;
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        let echo = async {
            let mut received = Vec::new();
            server.read_to_end(&mut received).await.unwrap();
            server.write_all(&received).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let sent: Vec<u8> = (0..BYTES).map(|index| (index % 251) as u8).collect();
        let talk = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.unwrap();
            assert!(received == sent);
        };
        tokio::join!(echo, talk);
    }

    #[tokio::test]
    async fn a_certificate_for_another_name_is_refused() {
        let (client, _) = pair("example.org").await;
        assert_eq!(client.err().unwrap().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn trusted_certificates_are_read_and_an_empty_file_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        assert!(read_roots(&path).unwrap_err().to_string().contains("no certificate"));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        io::Write::write_all(&mut file, pem.as_bytes()).unwrap();
        assert_eq!(read_roots(&path).unwrap().len(), 1);
        assert!(read_roots("/nonexistent").is_err());
    }

    #[tokio::test]
    async fn a_connection_cut_without_goodbye_is_an_error() {
        let (client, server) = pair("localhost").await;
        drop(server);
        let error = client.unwrap().read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
