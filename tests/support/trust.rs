//! Runs a test's body in a process whose OpenSSL trusts the server's development certificate.
//! Foreign libraries read `SSL_CERT_FILE`, a process can only be given its environment from
//! outside, and the certificate does not exist before the server's first start: so the test starts
//! itself once more, alone, with the path at which the certificate will be.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Carries the state directory to the second process.
const STATE: &str = "TEST_TRUSTED_STATE";

/// Longest life of the second process.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs `body` in a process that trusts `gateway.crt` of the directory it is given. `test` is the
/// calling test's full name.
pub fn trusting(test: &str, body: impl FnOnce(&Path)) {
    run(test, "gateway.crt", body);
}

/// The same, but trusting nobody.
pub fn trusting_nobody(test: &str, body: impl FnOnce(&Path)) {
    run(test, "nobody.pem", body);
}

fn run(test: &str, trusted: &str, body: impl FnOnce(&Path)) {
    if let Some(state) = env::var_os(STATE) {
        return body(&PathBuf::from(state));
    }
    let state = TempDir::new().expect("a temporary directory");
    let mut child = Command::new(env::current_exe().expect("a test knows its own path"))
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(STATE, state.path())
        .env("SSL_CERT_FILE", state.path().join(trusted))
        .env("SSL_CERT_DIR", state.path().join("no-directory"))
        .stdin(Stdio::null())
        .spawn()
        .expect("a test can start itself");
    assert!(succeeds(&mut child), "{test} failed in its own process, see above");
}

fn succeeds(child: &mut Child) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return status.success();
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = (child.kill(), child.wait());
    eprintln!("still running after {PATIENCE:?}");
    false
}
