//! The certificate that the gateway shows. Read once at start; every shard shares it.

use std::{path::Path, sync::Arc};

use rustls::{ServerConfig, crypto::aws_lc_rs, server::NoServerSessionStorage};
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

/// Reads certificate and key.
///
/// # Errors
/// The files are missing, no PEM, or do not belong together.
pub fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
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
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    // Voice connections live for hours: resumption would save little, and its cache is a lock that
    // all shards share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
