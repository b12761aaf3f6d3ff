//! A foreign server process of the tests' own: as an unprivileged user, in a directory and on a
//! port of its own, gone with the value.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Nobody: servers refuse to run as root, and the tests may.
const NOBODY: u32 = 65_534;

/// Below those that the kernel hands out, and apart from those of the servers under test.
const FIRST_PORT: u16 = 10_000;
const LAST_PORT: u16 = 16_000;

/// Longest wait for a foreign server: RabbitMQ takes many seconds on a busy machine.
const START: Duration = Duration::from_secs(90);

/// A port nobody has.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = LAST_PORT - FIRST_PORT;
    let start = (std::process::id() as u16).wrapping_mul(37) % count;
    for _ in 0..count {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        let port = FIRST_PORT + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST_PORT} to {LAST_PORT}");
}

/// A directory that the unprivileged user may write to.
pub fn directory() -> TempDir {
    let directory = TempDir::new().expect("a temporary directory");
    if is_root() {
        chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("root may give it away");
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).expect("it is ours");
    directory
}

/// A file that nobody but the unprivileged user may read.
pub fn give_away(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give it away");
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it is ours");
}

/// This program as the unprivileged user.
pub fn unprivileged(program: &Path, home: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        let nobody = NOBODY.to_string();
        command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"]);
        command.arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir(home).env("HOME", home).stdin(Stdio::null());
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A running server. All that it has started ends with it.
pub struct Service {
    child: Child,
}

impl Service {
    /// Starts it, and waits until its port answers.
    pub fn start(mut command: Command, log: &Path, port: u16) -> Self {
        let output = fs::File::create(log).expect("a log file");
        command.stdout(output.try_clone().expect("a file can be cloned")).stderr(output);
        let child = command.process_group(0).spawn().expect("it is installed: tests/run setup");
        let mut service = Self { child };
        let deadline = Instant::now() + START;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = service.child.try_wait().expect("it is our child");
            let log = || fs::read_to_string(log).unwrap_or_default();
            assert!(ended.is_none(), "the service ended at once, {ended:?}:\n{}", log());
            assert!(Instant::now() < deadline, "the service does not answer:\n{}", log());
            thread::sleep(Duration::from_millis(20));
        }
        service
    }

    /// Asks it to end with this signal, and waits.
    pub fn stop(mut self, signal: &str) {
        self.signal(signal);
        let _ = self.child.wait();
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} -{}", self.child.id());
        let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.signal("KILL");
        let _ = self.child.wait();
    }
}

/// Where a program is: on the path, or in one of the directories that match.
pub fn program(name: &str, elsewhere: &[&str]) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = path.split(':').map(PathBuf::from).collect();
    for pattern in elsewhere {
        match pattern.split_once('*') {
            Some((before, after)) => {
                let entries = fs::read_dir(before).into_iter().flatten().flatten();
                let mut found: Vec<PathBuf> =
                    entries.map(|entry| entry.path().join(after.trim_start_matches('/'))).collect();
                // The newest version first.
                found.sort();
                places.extend(found.into_iter().rev());
            }
            None => places.push(PathBuf::from(pattern)),
        }
    }
    let found = places.into_iter().map(|place| place.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed: tests/run setup"))
}
