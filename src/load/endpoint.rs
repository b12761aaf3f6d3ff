//! The server's gateway as a client reaches it: its address, and TLS with whom to trust. Looks
//! names up and reads certificates, once before a run.

use std::{
    fs, io,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

/// Where Linux distributions keep the certificates they trust, as one file.
const ROOT_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whose certificate is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Nobody's is asked for: plaintext.
    Plaintext,
    /// Anybody's.
    Anyone,
    /// Those in this file.
    File(PathBuf),
    /// What this machine trusts, and the certificate in this file if it exists: a development
    /// server's.
    System(Option<PathBuf>),
}

/// A gateway that can be connected to.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host:port`, as the server calls itself.
    pub authority: String,
    /// Where that is.
    pub address: SocketAddr,
    /// How to speak TLS with it, unless in plaintext.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// Why it cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Not `host:port`, or nobody knows the name.
    #[error("the gateway `{authority}` has no address: {source}")]
    NoAddress {
        /// Its name.
        authority: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The trusted certificates.
    #[error("{path}: {problem}; give the server's certificate with --ca, or --insecure")]
    Certificates {
        /// Which file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Not a name that a certificate could be for.
    #[error("`{0}` is no name for a TLS server")]
    Name(String),
}

impl Endpoint {
    /// Finds the gateway at `authority` (`host:port`). IPv4 is preferred: several clients speak
    /// nothing else, so servers listen there.
    ///
    /// # Errors
    /// No address, or certificates that cannot be read.
    pub fn find(authority: &str, trust: &Trust) -> Result<Self, EndpointError> {
        let no_address =
            |source| EndpointError::NoAddress { authority: authority.to_owned(), source };
        let mut addresses: Vec<_> = authority.to_socket_addrs().map_err(no_address)?.collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let address = addresses.first().copied();
        let address = address.ok_or_else(|| no_address(io::ErrorKind::NotFound.into()))?;
        let tls = match client_config(trust)? {
            None => None,
            Some(config) => {
                let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|_| EndpointError::Name(host.to_owned()))?;
                Some((Arc::new(config), name))
            }
        };
        Ok(Self { authority: authority.to_owned(), address, tls })
    }
}

fn client_config(trust: &Trust) -> Result<Option<ClientConfig>, EndpointError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has the ciphers of TLS 1.2 and 1.3");
    let mut roots = RootCertStore::empty();
    match trust {
        Trust::Plaintext => return Ok(None),
        Trust::Anyone => {
            let verifier = Arc::new(NobodyAsked(provider));
            let config = builder.dangerous().with_custom_certificate_verifier(verifier);
            return Ok(Some(without_memory(config.with_no_client_auth())));
        }
        Trust::File(path) => add(&mut roots, path)?,
        Trust::System(development) => {
            let system = ROOT_FILES.iter().map(Path::new).find(|path| path.exists());
            let development = development.as_deref().filter(|path| path.exists());
            for path in system.into_iter().chain(development) {
                add(&mut roots, path)?;
            }
        }
    }
    Ok(Some(without_memory(builder.with_root_certificates(roots).with_no_client_auth())))
}

/// Every client is somebody else: none resumes the TLS session of another.
fn without_memory(mut config: ClientConfig) -> ClientConfig {
    config.resumption = rustls::client::Resumption::disabled();
    config
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), EndpointError> {
    let failed =
        |problem: String| EndpointError::Certificates { path: path.display().to_string(), problem };
    let pem = fs::read(path).map_err(|error| failed(error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| failed(error.to_string()))?;
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(failed("no certificate in it can be used".to_owned()));
    }
    Ok(())
}

/// Takes any certificate, but the handshake must be signed with its key.
#[derive(Debug)]
struct NobodyAsked(Arc<CryptoProvider>);

impl ServerCertVerifier for NobodyAsked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_found_by_address_and_by_name() {
        let found = Endpoint::find("127.0.0.1:8443", &Trust::Plaintext).unwrap();
        assert_eq!((found.address.port(), found.tls.is_none()), (8_443, true));
        assert!(Endpoint::find("[::1]:8443", &Trust::Anyone).unwrap().tls.is_some());
        for wrong in ["localhost", "127.0.0.1:99999", ":"] {
            assert!(Endpoint::find(wrong, &Trust::Plaintext).is_err(), "{wrong}");
        }
    }

    #[test]
    fn certificates_that_cannot_be_read_are_named() {
        let missing = Trust::File("/nonexistent.pem".into());
        let problem = Endpoint::find("127.0.0.1:1", &missing).unwrap_err().to_string();
        assert!(problem.contains("/nonexistent.pem") && problem.contains("--ca"), "{problem}");
        let empty = tempfile::NamedTempFile::new().unwrap();
        let empty = Trust::File(empty.path().to_owned());
        assert!(Endpoint::find("127.0.0.1:1", &empty).is_err());
        let absent = Trust::System(Some("/nonexistent.pem".into()));
        assert!(Endpoint::find("127.0.0.1:1", &absent).is_ok(), "a server need not be local");
    }
}
