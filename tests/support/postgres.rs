//! A real PostgreSQL with Spacebar's tables, as its migrations make them (protocol.md §6.1). It can
//! be stopped and started again, which keeps what is in it.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    WAIT,
    authority::Authority,
    service::{Service, directory, free_port, program, unprivileged},
};

const BINARIES: &[&str] = &["/usr/lib/postgresql/*/bin"];

/// The columns that a voice server sees, and those that must be filled.
const TABLES: &str = include_str!("spacebar.sql");

/// A database server.
pub struct Postgres {
    directory: TempDir,
    port: u16,
    service: Option<Service>,
    authority: Option<Authority>,
}

impl Postgres {
    /// A fresh one with empty tables.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same, and whoever comes over TCP must speak TLS.
    pub fn start_with_tls() -> Self {
        Self::start_with(Some(Authority::new()))
    }

    fn start_with(authority: Option<Authority>) -> Self {
        let directory = directory();
        let mut initdb = unprivileged(&program("initdb", BINARIES), directory.path());
        initdb.args(["--auth=trust", "--username=spacebar", "--encoding=UTF8", "--no-sync"]);
        initdb.args(["--no-instructions", "--locale=C", "-D"]);
        let output = initdb.arg(directory.path().join("data")).output().expect("initdb starts");
        assert!(output.status.success(), "initdb: {output:?}");
        let mut postgres = Self { directory, port: free_port(), service: None, authority };
        if postgres.authority.is_some() {
            let rules = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";
            fs::write(postgres.directory.path().join("data/pg_hba.conf"), rules).expect("ours");
        }
        postgres.resume();
        postgres.run("CREATE DATABASE voice");
        postgres.sql(TABLES);
        postgres
    }

    /// Starts it again.
    pub fn resume(&mut self) {
        let home = self.directory.path();
        let mut command = unprivileged(&program("postgres", BINARIES), home);
        command.arg("-D").arg(home.join("data")).arg("-k").arg(home);
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        // Nothing here outlives the test.
        command.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        command.args(["-c", "shared_buffers=16MB", "-c", "max_connections=40"]);
        if let Some(authority) = &self.authority {
            let (certificate, key) = authority.server();
            command.args(["-c", "ssl=on"]);
            command.arg("-c").arg(format!("ssl_cert_file={}", certificate.display()));
            command.arg("-c").arg(format!("ssl_key_file={}", key.display()));
        }
        let log = home.join("log");
        self.service = Some(Service::start(command, &log, self.port));
        let deadline = Instant::now() + WAIT;
        while !self.psql("postgres", "SELECT 1").0 {
            assert!(Instant::now() < deadline, "the database takes no queries");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once: connections break.
    pub fn stop(&mut self) {
        self.service.take().expect("it runs").stop("QUIT");
    }

    /// The URL Spacebar would be given.
    pub fn url(&self) -> String {
        format!("postgres://spacebar:hunter2@127.0.0.1:{}/voice", self.port)
    }

    /// The same with this host and this `sslmode`.
    pub fn url_of(&self, host: &str, sslmode: &str) -> String {
        format!("postgres://spacebar:hunter2@{host}:{}/voice?sslmode={sslmode}", self.port)
    }

    /// Whom to trust.
    pub fn root(&self) -> PathBuf {
        self.authority.as_ref().expect("it speaks TLS").root()
    }

    /// Runs statements; gives the rows, one a line, fields apart by `|`.
    pub fn sql(&self, statements: &str) -> String {
        let (succeeded, output) = self.psql("voice", statements);
        assert!(succeeded, "{statements}: {output}");
        output.trim_end().to_owned()
    }

    /// Whether the query gives this, by and by.
    pub fn eventually(&self, query: &str, expected: &str) {
        let deadline = Instant::now() + WAIT;
        loop {
            let found = self.sql(query);
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{query}: {found}, never {expected}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Takes a lock in a session of its own: who wants the table waits until the guard is dropped.
    pub fn lock(&self, table: &str) -> Lock {
        let statement = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        let mut child = self
            .command("voice")
            .args(["-c", &statement, "-c", "SELECT pg_sleep(60)"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("psql starts");
        let held = "SELECT count(*) > 0 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
                    WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND c.relname = ";
        let deadline = Instant::now() + WAIT;
        while self.sql(&format!("{held}'{table}'")) != "t" {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "no lock");
            thread::sleep(Duration::from_millis(20));
        }
        Lock { child, unlock: self.command("voice") }
    }

    fn run(&self, statement: &str) {
        let (succeeded, output) = self.psql("postgres", statement);
        assert!(succeeded, "{statement}: {output}");
    }

    fn command(&self, database: &str) -> Command {
        let mut command = Command::new(program("psql", BINARIES));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "spacebar"]);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database]);
        command.stdin(Stdio::null());
        command
    }

    fn psql(&self, database: &str, statements: &str) -> (bool, String) {
        let output = self.command(database).args(["-c", statements]).output().expect("psql starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }
}

/// A lock that is held.
pub struct Lock {
    child: Child,
    unlock: Command,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A session that sleeps does not notice that its client has gone.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE query = 'SELECT pg_sleep(60)'";
        let _ = self.unlock.args(["-c", end]).output();
        let _ = (self.child.kill(), self.child.wait());
    }
}
