//! What a running server does, from two readings of its metrics: the only file of `plan` that asks
//! another process. A reading is one HTTP/1.0 request, so that the answer comes in one piece.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use super::{
    answer::Demand,
    encryption::Encryption,
    model::{HEARTBEATS, Rates},
    profile::EXTENSION_BYTES,
};
use crate::{config::Secret, load::server_cost, rtp::packet::HEADER_BYTES};

/// Time for one request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Largest page worth reading, bytes.
const PAGE_BYTES_MAX: u64 = 4 * 1_024 * 1_024;

/// Why nothing is known of the server.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The address.
    #[error("`{0}` is not of the form http://ADDRESS:PORT/metrics")]
    Url(String),
    /// The connection.
    #[error("{url}: {source}")]
    Request {
        /// Where.
        url: String,
        /// How it failed.
        source: io::Error,
    },
    /// The answer.
    #[error("{url}: {problem}")]
    Answer {
        /// Where.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// One reading.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Reading {
    opened: f64,
    forwarded: f64,
    traversals: f64,
    bytes_in: f64,
    bytes_out: f64,
    sessions: f64,
    channels: f64,
}

/// Reads twice, so many seconds apart. `secret` is control's, which metrics beyond loopback need.
///
/// # Errors
/// The server does not answer, or is no stentor.
pub fn watch(
    url: &str,
    seconds: u32,
    mode: &str,
    secret: Option<&Secret>,
) -> Result<Demand, LiveError> {
    let before = (Instant::now(), read(url, secret)?);
    thread::sleep(Duration::from_secs(seconds.into()));
    let after = (Instant::now(), read(url, secret)?);
    let elapsed = after.0.duration_since(before.0).as_secs_f64();
    demand(before.1, after.1, elapsed, mode).ok_or_else(|| LiveError::Answer {
        url: url.to_owned(),
        problem: "the server was started again meanwhile; watch it once more".to_owned(),
    })
}

/// What happens each second between two readings. Which packets went to which channel metrics do
/// not tell: all channels are taken to be alike.
fn demand(before: Reading, after: Reading, seconds: f64, mode: &str) -> Option<Demand> {
    let rate = |of: fn(&Reading) -> f64| {
        let more = of(&after) - of(&before);
        (more >= 0.0).then_some(more / seconds)
    };
    let channels = after.channels.max(1.0);
    let (received, copies) = (rate(|it| it.opened)?, rate(|it| it.forwarded)?);
    let encryption = Encryption::from_name(mode);
    let around = HEADER_BYTES + encryption.map_or(0, Encryption::overhead);
    let are_browsers = encryption.is_some_and(Encryption::is_browsers);
    let bytes = rate(|it| it.bytes_in)? + rate(|it| it.bytes_out)?;
    let traversals = rate(|it| it.traversals)?;
    // Packets of a burst share passes; as many as do not are bursts at the most.
    let apart = if copies > 0.0 { (traversals / copies).min(1.0) } else { 1.0 };
    let bursts = received * apart;
    let all = Rates {
        received,
        bursts,
        burst_hearers: bursts * copies / received.max(f64::MIN_POSITIVE),
        copies,
        payload_bytes: (bytes
            - (received + copies) * around as f64
            - copies * EXTENSION_BYTES as f64)
            .max(0.0),
        traversals,
        sessions: after.sessions,
        heartbeats: after.sessions * HEARTBEATS,
        // They have been there for a while.
        told_of: 0.0,
        browsers: if are_browsers { after.sessions } else { 0.0 },
        joins: 0.0,
        browser_joins: 0.0,
    };
    Some(Demand {
        name: "channels, taken to be alike".to_owned(),
        count: channels,
        each: all.times(1.0 / channels),
        mode: mode.to_owned(),
        members: after.sessions / channels,
    })
}

fn read(url: &str, secret: Option<&Secret>) -> Result<Reading, LiveError> {
    let wrong = || LiveError::Url(url.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, "metrics"));
    if authority.is_empty() || url.contains(char::is_whitespace) {
        return Err(wrong());
    }
    let failed = |source| LiveError::Request { url: url.to_owned(), source };
    let answer = request(authority, path, secret).map_err(failed)?;
    let problem =
        |problem: &str| LiveError::Answer { url: url.to_owned(), problem: problem.to_owned() };
    let (head, page) = answer.split_once("\r\n\r\n").ok_or_else(|| problem("no HTTP answer"))?;
    let status = head.split_whitespace().nth(1);
    if status == Some("401") {
        return Err(problem("401: give the server's control secret with --control-secret-file"));
    }
    if status != Some("200") {
        return Err(problem(head.lines().next().unwrap_or_default()));
    }
    parse(page).ok_or_else(|| problem("these are not the metrics of a stentor"))
}

fn request(authority: &str, path: &str, secret: Option<&Secret>) -> io::Result<String> {
    let mut socket = TcpStream::connect(authority)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    let mut head = Zeroizing::new(Vec::new());
    write!(head, "GET /{path} HTTP/1.0\r\nHost: {authority}\r\nConnection: close\r\n")?;
    if let Some(secret) = secret {
        head.extend(b"Authorization: Bearer ");
        head.extend(secret.reveal());
        head.extend(b"\r\n");
    }
    head.extend(b"\r\n");
    socket.write_all(&head)?;
    let mut answer = String::new();
    socket.take(PAGE_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

fn parse(page: &str) -> Option<Reading> {
    let sum = |name: &str| server_cost::sum(page, name);
    Some(Reading {
        opened: sum("stentor_packets_opened_total")?,
        forwarded: sum("stentor_packets_forwarded_total")?,
        traversals: sum("stentor_stack_traversals_total")?,
        bytes_in: sum("stentor_received_bytes_total")?,
        bytes_out: sum("stentor_sent_bytes_total")?,
        sessions: sum("stentor_sessions")?,
        channels: sum("stentor_channels")?,
    })
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead, net::TcpListener};

    use super::*;

    const AES: &str = "aead_aes256_gcm_rtpsize";

    fn page(opened: u64, forwarded: u64) -> String {
        format!(
            "# HELP stentor_sessions Live sessions.\nstentor_sessions{{shard=\"0\"}} 30\n\
             stentor_sessions{{shard=\"1\"}} 10\nstentor_channels{{shard=\"0\"}} 4\n\
             stentor_packets_opened_total{{shard=\"0\"}} {opened}\n\
             stentor_packets_forwarded_total{{shard=\"0\"}} {forwarded}\n\
             stentor_stack_traversals_total{{shard=\"0\"}} {forwarded}\n\
             stentor_received_bytes_total{{shard=\"0\"}} {}\n\
             stentor_sent_bytes_total{{shard=\"0\"}} {}\n",
            192 * opened,
            // The server's own header extension.
            204 * forwarded
        )
    }

    #[test]
    fn two_readings_are_rates() {
        let (before, after) = (parse(&page(100, 900)).unwrap(), parse(&page(600, 5_400)).unwrap());
        let demand = demand(before, after, 10.0, AES).unwrap();
        assert_eq!((demand.count, demand.members), (4.0, 10.0));
        let all = demand.each.times(4.0);
        assert_eq!((all.received, all.copies, all.sessions), (50.0, 450.0, 40.0));
        assert_eq!(all.payload_bytes, 500.0 * 160.0);
        assert_eq!(super::demand(after, before, 10.0, AES), None, "started again");
        assert_eq!(parse("up 1\n"), None);
    }

    #[test]
    fn packets_that_share_passes_came_in_bursts() {
        let before = parse(&page(0, 0)).unwrap();
        let after = Reading { traversals: 900.0, ..parse(&page(1_000, 9_000)).unwrap() };
        let all = demand(before, after, 10.0, AES).unwrap().each.times(4.0);
        // Nine hearers each.
        assert_eq!((all.received, all.bursts, all.burst_hearers), (100.0, 10.0, 90.0));
        let silent = demand(before, before, 10.0, AES).unwrap().each;
        assert_eq!((silent.bursts, silent.burst_hearers), (0.0, 0.0));
    }

    #[test]
    fn a_server_is_asked_and_its_mistakes_are_named() {
        let answer = |answer: &'static str| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/metrics", listener.local_addr().unwrap());
            let server = thread::spawn(move || {
                let (mut socket, _) = listener.accept().unwrap();
                let mut request = io::BufReader::new(socket.try_clone().unwrap()).lines();
                assert_eq!(request.next().unwrap().unwrap(), "GET /metrics HTTP/1.0");
                let head: Vec<_> =
                    request.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
                assert_eq!(head.last().unwrap(), "Authorization: Bearer hush");
                socket.write_all(answer.as_bytes()).unwrap();
            });
            let found = read(&url, Some(&Secret::new("hush")));
            server.join().unwrap();
            found
        };
        let refused = answer("HTTP/1.1 401 Unauthorized\r\n\r\n").unwrap_err().to_string();
        assert!(refused.contains("--control-secret-file"), "{refused}");
        let other = answer("HTTP/1.1 200 OK\r\n\r\nup 1\n").unwrap_err().to_string();
        assert!(other.contains("not the metrics of a stentor"), "{other}");
        assert!(matches!(read("ftp://x", None), Err(LiveError::Url(_))));
    }
}
