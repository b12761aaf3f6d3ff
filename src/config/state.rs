//! The state directory: what a development server makes for itself on first start and finds again
//! later, secrets and a self-signed certificate. Files are 0600, the directory 0700. Called by
//! `check.rs`; reads and writes nothing else.

use std::{
    fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use time::OffsetDateTime;

use super::{ConfigError, Secret, TlsFiles, hex};

/// Length of a secret made here, bytes; written as twice as many hexadecimal digits.
const SECRET_BYTES: usize = 32;

/// Largest secret file worth reading, bytes.
const SECRET_FILE_BYTES_MAX: usize = 4_096;

/// How long a development certificate lasts. A year: long enough that nobody re-imports it often.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3_600);

/// A certificate with less than this left is made anew at start: a server runs for weeks.
const CERTIFICATE_MARGIN: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Which secret of the state directory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kept {
    ControlSecret,
    TokenKey,
}

impl Kept {
    fn file_name(self) -> &'static str {
        match self {
            Kept::ControlSecret => "control.secret",
            Kept::TokenKey => "token.key",
        }
    }
}

/// The directory; made when first written to.
#[derive(Debug)]
pub(super) struct StateDir<'a>(pub(super) &'a Path);

impl StateDir<'_> {
    pub(super) fn path_of(&self, kept: Kept) -> PathBuf {
        self.0.join(kept.file_name())
    }

    /// The secret's text made by an earlier start, if any.
    pub(super) fn find_secret(&self, kept: Kept) -> Result<Option<String>, ConfigError> {
        let path = self.path_of(kept);
        match read_secret_file(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.problem(&path, &error)),
        }
    }

    /// The secret's text, made now if this is the first start.
    pub(super) fn secret(&self, kept: Kept) -> Result<String, ConfigError> {
        if let Some(text) = self.find_secret(kept)? {
            return Ok(text);
        }
        let path = self.path_of(kept);
        let text = random_text();
        let made = self.make().and_then(|()| self.stage(kept.file_name(), text.as_bytes()));
        let staged = made.map_err(|error| self.problem(&path, &error))?;
        // A link, unlike a rename, fails when another server was first: then its secret counts.
        let linked = fs::hard_link(&staged, &path);
        let _ = fs::remove_file(&staged);
        match linked {
            Ok(()) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                read_secret_file(&path).map_err(|error| self.problem(&path, &error))
            }
            Err(error) => Err(self.problem(&path, &error)),
        }
    }

    pub(super) fn tls_files(&self) -> TlsFiles {
        TlsFiles { certificate: self.0.join("gateway.crt"), key: self.0.join("gateway.key") }
    }

    /// A certificate for this machine's loopback names, made now unless the one of an earlier
    /// start is good for a while yet.
    pub(super) fn certificate(&self, now: SystemTime) -> Result<TlsFiles, ConfigError> {
        let files = self.tls_files();
        if !is_good(&files, now + CERTIFICATE_MARGIN) {
            let (certificate, key) = self_signed(now);
            self.make()
                .and_then(|()| self.replace(&files.key, key.as_bytes()))
                .and_then(|()| self.replace(&files.certificate, certificate.as_bytes()))
                .map_err(|error| self.problem(&files.certificate, &error))?;
        }
        Ok(files)
    }

    fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(self.0)
    }

    /// A complete file beside its final place.
    fn stage(&self, name: &str, content: &[u8]) -> io::Result<PathBuf> {
        let path = self.0.join(format!(".{name}.{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(content)?;
        file.sync_all()?;
        Ok(path)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("state");
        fs::rename(self.stage(name, content)?, path)
    }

    fn problem(&self, path: &Path, error: &io::Error) -> ConfigError {
        ConfigError::State {
            path: path.to_owned(),
            problem: error.to_string(),
            remedy:
                "make the state directory writable for this user or choose another with state_dir"
                    .to_owned(),
        }
    }
}

/// The file's text without surrounding white space.
pub(super) fn read_secret_file(path: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(SECRET_FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    let trimmed = text.trim();
    if trimmed.is_empty() || text.len() > SECRET_FILE_BYTES_MAX {
        return Err(io::Error::other(format!("expected 1 to {SECRET_FILE_BYTES_MAX} bytes")));
    }
    Ok(trimmed.to_owned())
}

/// A fresh secret as text.
pub(super) fn random_text() -> String {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    hex(Secret::new(bytes).reveal())
}

fn self_signed(now: SystemTime) -> (String, String) {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names).expect("the names are plain ASCII");
    params.distinguished_name.push(DnType::CommonName, "stentor development certificate");
    // An hour back: the clock of a client in a virtual machine may lag.
    params.not_before = OffsetDateTime::from(now) - Duration::from_secs(3_600);
    params.not_after = OffsetDateTime::from(now) + CERTIFICATE_LIFETIME;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .expect("generating a P-256 key needs random bytes only");
    let certificate = params.self_signed(&key).expect("a fresh key signs its own certificate");
    (certificate.pem(), key.serialize_pem())
}

/// Whether a client that trusts exactly this certificate would still accept it at `then`, for every
/// name of this machine, and the key is its key.
fn is_good(files: &TlsFiles, then: SystemTime) -> bool {
    let check = || {
        let certificate = CertificateDer::from_pem_file(&files.certificate).ok()?;
        let key = PrivateKeyDer::from_pem_file(&files.key).ok()?;
        let key = aws_lc_rs::sign::any_supported_type(&key).ok()?;
        CertifiedKey::new(vec![certificate.clone()], key).keys_match().ok()?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).ok()?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
        let then = UnixTime::since_unix_epoch(then.duration_since(SystemTime::UNIX_EPOCH).ok()?);
        let names: [ServerName<'_>; 3] = [
            ServerName::try_from("localhost").ok()?,
            IpAddr::from(Ipv4Addr::LOCALHOST).into(),
            IpAddr::from(Ipv6Addr::LOCALHOST).into(),
        ];
        names
            .iter()
            .all(|name| verifier.verify_server_cert(&certificate, &[], name, &[], then).is_ok())
            .then_some(())
    };
    check().is_some()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        let state = StateDir(&path);
        assert_eq!(state.find_secret(Kept::TokenKey).unwrap(), None);
        let first = state.secret(Kept::TokenKey).unwrap();
        assert_eq!(first.len(), 64);
        assert_eq!(state.secret(Kept::TokenKey).unwrap(), first);
        assert_ne!(state.secret(Kept::ControlSecret).unwrap(), first);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&state.path_of(Kept::TokenKey)), 0o600);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "no staging file is left");
    }

    #[test]
    fn an_unreadable_secret_is_an_error_and_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path());
        fs::write(state.path_of(Kept::ControlSecret), "\n").unwrap();
        let error = state.secret(Kept::ControlSecret).unwrap_err().to_string();
        assert!(error.contains("control.secret") && error.contains("state_dir"), "{error}");
    }

    #[test]
    fn the_certificate_is_kept_until_it_nears_its_end_or_breaks() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path());
        let now = SystemTime::now();
        let files = state.certificate(now).unwrap();
        let read = || fs::read(&files.certificate).unwrap();
        let first = read();
        assert!(is_good(&files, now) && !is_good(&files, now + 2 * CERTIFICATE_LIFETIME));

        state.certificate(now + CERTIFICATE_LIFETIME / 2).unwrap();
        assert_eq!(read(), first);
        state.certificate(now + CERTIFICATE_LIFETIME - CERTIFICATE_MARGIN / 2).unwrap();
        let second = read();
        assert_ne!(second, first);

        fs::remove_file(&files.key).unwrap();
        state.certificate(now + CERTIFICATE_LIFETIME).unwrap();
        assert_ne!(read(), second);
        let mode = fs::metadata(&files.key).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
}
