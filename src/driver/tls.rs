//! The certificate that the gateway shows. Read at start and again when the operator says so; every
//! shard shares it.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::config::TlsFiles;

/// Why the certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or no PEM.
    #[error("cannot read {what} from {path}: {source}; set {setting} to a readable PEM file")]
    Unreadable {
        /// Certificate or key.
        what: &'static str,
        /// Which file.
        path: String,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
        /// The setting that names it.
        setting: &'static str,
    },
    /// Certificate and key do not fit, or are of a kind that cannot be used.
    #[error("cannot use the certificate {path}: {source}; the key must belong to its first entry")]
    Unusable {
        /// The certificate's file.
        path: String,
        /// What is wrong.
        source: rustls::Error,
    },
}

/// The certificate as it is now. Handshakes take a copy of the pointer; who is connected keeps what
/// he was shown.
#[derive(Debug)]
pub struct Certificate {
    files: TlsFiles,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// The files are missing, no PEM, or do not belong together.
    pub fn load(files: &TlsFiles) -> Result<Arc<Self>, TlsError> {
        let current = RwLock::new(read(files)?);
        Ok(Arc::new(Self { files: files.clone(), current }))
    }

    /// Reads them again. On an error the old ones stay in use.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = read(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What handshakes go by: whichever certificate is the present one.
    ///
    /// # Errors
    /// None that a certificate which has been read can cause.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let path = self.files.certificate.display().to_string();
        let unusable = |source| TlsError::Unusable { path, source };
        let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        // Voice connections live for hours: resumption would save little, and its cache is a lock
        // that all shards share.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn read(files: &TlsFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let unreadable = |what, path: &Path, setting| {
        let path = path.display().to_string();
        move |source| TlsError::Unreadable { what, path, source, setting }
    };
    let certificate = &files.certificate;
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .map_err(unreadable("the certificate", certificate, "gateway.tls_cert"))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unreadable(
        "the private key",
        &files.key,
        "gateway.tls_key",
    ))?;
    let unusable = |source| TlsError::Unusable { path: certificate.display().to_string(), source };
    let provider = aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map(Arc::new).map_err(unusable)
}
