//! The page to talk on as a browser gets it, and the grants that come with it: served by a
//! development server to its own machine, and to nobody else. What the page does is tested with a
//! real browser in `tests/browser`, what it computes in `tests/page`.

mod support;

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
};

use serde_json::{Value, json};
use support::{
    WAIT,
    client::Client,
    gateway::{Door, Gateway},
    server::{GUILD, Grant, Server},
};

const CHANNEL: u64 = 127_121_515_262_115_840;

/// One answer: status, head in lower case, body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

fn send(address: SocketAddr, request: &str) -> Answer {
    let mut socket = TcpStream::connect(address).expect("control listens");
    socket.set_read_timeout(Some(WAIT)).expect("a time that is not zero");
    socket.write_all(request.as_bytes()).expect("control reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("control answers and hangs up");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn get(address: SocketAddr, path: &str, headers: &str) -> Answer {
    send(address, &format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"))
}

/// A request for a grant with these headers.
fn post(address: SocketAddr, headers: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let length = body.len();
    send(
        address,
        &format!(
            "POST /dev/grants HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}"
        ),
    )
}

/// The headers of the page's own requests.
fn own(address: SocketAddr) -> String {
    format!("Host: {address}\r\nOrigin: http://{address}\r\nSec-Fetch-Site: same-origin\r\n")
}

/// Asks for a grant as the page does.
fn visit(server: &Server, body: &Value) -> Value {
    let answer = post(server.control(), &own(server.control()), body);
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.json()
}

/// The grant that a visitor was given, in the tests' form.
fn ticket(server: &Server, invitation: &Value) -> Grant {
    let text = |key: &str| invitation[key].as_str().expect("text").to_owned();
    let id = |key: &str| text(key).parse().expect("a snowflake");
    Grant {
        endpoint: server.gateway().to_string(),
        server: id("server_id"),
        channel: id("channel_id"),
        user: id("user_id"),
        session: text("session_id"),
        token: text("token"),
    }
}

#[test]
fn a_visitor_is_let_in_and_is_heard_of_by_name() {
    let server = Server::start();
    let mut bot = Client::join(&server, CHANNEL, 10);
    let body = json!({
        "name": " Ann ", "server_id": GUILD.to_string(), "channel_id": CHANNEL.to_string()
    });
    let invitation = visit(&server, &body);
    let port = server.gateway().port();
    assert_eq!(invitation["url"], format!("ws://localhost:{port}/?v=9"));
    let grant = ticket(&server, &invitation);
    let mut gateway = Gateway::open(&server, Door::plain(9));
    gateway.identify(&grant);
    gateway.expect(2);
    assert_eq!(bot.gateway.expect(11).d["user_ids"], json!([grant.user.to_string()]));

    let path = format!("/dev/names?channel_id={CHANNEL}");
    let names = get(server.control(), &path, &own(server.control()));
    assert_eq!(names.json(), json!({"names": {grant.user.to_string(): "Ann"}}));
    let other = get(server.control(), "/dev/names?channel_id=7", &own(server.control()));
    assert_eq!(other.json(), json!({"names": {}}));
    // A grant is good for one Identify.
    let mut again = Gateway::open(&server, Door::plain(9));
    again.identify(&grant);
    assert_eq!(again.closed(), 4004);
}

#[test]
fn a_visitor_who_shows_its_last_grant_stays_the_same_user() {
    let server = Server::start();
    let body = json!({"name": "Ann", "channel_id": "2"});
    let first = visit(&server, &body);
    assert_eq!(first["server_id"], "1");
    let previous = |token: &Value| {
        json!({"name": "Ann", "channel_id": "2",
               "previous": {"user_id": first["user_id"], "token": token}})
    };
    let second = visit(&server, &previous(&first["token"]));
    assert_eq!(second["user_id"], first["user_id"]);
    assert_ne!(second["token"], first["token"]);
    let stranger = visit(&server, &previous(&first["token"]));
    assert_ne!(stranger["user_id"], first["user_id"], "that token was used up");
}

#[test]
fn no_other_page_gets_a_grant() {
    let server = Server::start();
    let address = server.control();
    let body = json!({"name": "Eve", "channel_id": "2"});
    let port = address.port();
    for (headers, code) in [
        // A page elsewhere.
        (format!("Host: {address}\r\nOrigin: http://evil.example\r\n"), "foreign_origin"),
        (format!("Host: {address}\r\nOrigin: null\r\n"), "foreign_origin"),
        (format!("Host: {address}\r\nOrigin: https://{address}\r\n"), "foreign_origin"),
        (
            format!(
                "Host: {address}\r\nOrigin: http://{address}\r\nSec-Fetch-Site: cross-site\r\n"
            ),
            "foreign_origin",
        ),
        // Another server on this machine.
        (format!("Host: {address}\r\nOrigin: http://127.0.0.1:{}\r\n", port + 1), "foreign_origin"),
        // No page.
        (format!("Host: {address}\r\n"), "foreign_origin"),
        // A page that has pointed its own name here.
        (
            format!("Host: evil.example:{port}\r\nOrigin: http://evil.example:{port}\r\n"),
            "foreign_host",
        ),
        // Through a proxy.
        (format!("{}X-Forwarded-For: 203.0.113.7\r\n", own(address)), "foreign_host"),
    ] {
        let answer = post(address, &headers, &body);
        assert_eq!((answer.status, answer.code().as_str()), (403, code), "{headers}");
        assert!(!answer.head.contains("access-control-allow"), "{}", answer.head);
    }
    let rebound = format!("Host: evil.example:{port}\r\n");
    assert_eq!(get(address, "/", &rebound).status, 403);
    assert_eq!(get(address, "/page/main.js", &rebound).status, 403);
    let foreign = format!("Host: {address}\r\nSec-Fetch-Site: cross-site\r\n");
    assert_eq!(get(address, "/dev/names?channel_id=2", &foreign).status, 403);
    // A link to the page from elsewhere is no harm.
    assert_eq!(get(address, "/", &foreign).status, 200);

    // Without JSON a form elsewhere could send it; and preflights get no leave.
    let form = format!(
        "POST /dev/grants HTTP/1.1\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: 2\r\n{}\r\n{{}}",
        own(address)
    );
    assert_eq!(send(address, &form).status, 415);
    let preflight = format!(
        "OPTIONS /dev/grants HTTP/1.1\r\nConnection: close\r\nHost: {address}\r\n\
         Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n"
    );
    let answer = send(address, &preflight);
    assert_eq!(answer.status, 405);
    assert!(!answer.head.contains("access-control-allow"), "{}", answer.head);
    assert_eq!(server.api("GET", "/v1/healthz", None).1["grants"], 0);
}

#[test]
fn what_a_visitor_may_not_be_called_is_refused() {
    let server = Server::start();
    let address = server.control();
    for body in [
        json!({"channel_id": "2"}),
        json!({"name": "Ann"}),
        json!({"name": "", "channel_id": "2"}),
        json!({"name": "x".repeat(33), "channel_id": "2"}),
        json!({"name": "a\nb", "channel_id": "2"}),
        json!({"name": 7, "channel_id": "2"}),
        json!({"name": "Ann", "channel_id": "two"}),
        json!({"name": "Ann", "channel_id": "2", "previous": {"user_id": "1"}}),
        json!(["Ann", "2"]),
    ] {
        let answer = post(address, &own(address), &body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
    }
    for path in ["/dev/names", "/dev/names?channel_id=x"] {
        let answer = get(address, path, &own(address));
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid"), "{path}");
    }
    let answer = get(address, "/dev/grants", &own(address));
    assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"));
}

#[test]
fn a_server_that_is_for_more_than_development_has_no_page() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let secret = directory.path().join("control.secret");
    std::fs::write(&secret, "0123456789abcdef").expect("a file can be written");
    let secret = secret.display().to_string();
    for setting in [
        ("CONTROL_SECRET_FILE", secret.as_str()),
        ("GATEWAY_PLAINTEXT", "always"),
        ("GATEWAY_PUBLIC_ENDPOINT", "voice.example.org:443"),
    ] {
        let server = Server::within(directory.path(), &[setting]);
        let address = server.control();
        for path in ["/", "/page/main.js", "/dev/names?channel_id=2", "/dev/grants"] {
            let answer = get(address, path, &own(address));
            assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{path}");
            assert!(answer.body.contains("development server"), "{}", answer.body);
        }
        let body = json!({"name": "Ann", "channel_id": "2"});
        assert_eq!(post(address, &own(address), &body).status, 404, "{setting:?}");
        assert!(!server.log().contains("in two tabs"), "{}", server.log());
    }
    let server = Server::start();
    let url = format!("http://{}/ in two tabs", server.control());
    support::wait_until("the page's address is printed", || server.log().contains(&url));
}

#[test]
fn an_exposed_server_has_the_page_at_its_gateway_for_whoever_brings_a_link() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let secret = directory.path().join("control.secret");
    std::fs::write(&secret, "0123456789abcdef").expect("a file can be written");
    let secret = secret.display().to_string();
    let server = Server::within(directory.path(), &[("CONTROL_SECRET_FILE", secret.as_str())]);
    let gateway = server.gateway();
    let headers = format!("Host: {gateway}\r\n");
    // The connection stays open for the next file, so nobody waits for its end.
    let first = |path: &str| {
        let mut socket = TcpStream::connect(gateway).expect("the gateway listens");
        socket.set_read_timeout(Some(WAIT)).expect("a time that is not zero");
        socket
            .write_all(format!("GET {path} HTTP/1.1\r\n{headers}\r\n").as_bytes())
            .expect("the gateway reads");
        let (mut answer, mut bytes) = (Vec::new(), [0; 4_096]);
        loop {
            let len = socket.read(&mut bytes).expect("the gateway answers");
            answer.extend_from_slice(&bytes[..len]);
            // A character may be cut in two.
            let Ok(answer) = str::from_utf8(&answer) else { continue };
            let Some((head, body)) = answer.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|it| it.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |it| it.parse().expect("a number"));
            if body.len() == length {
                return (head.to_owned(), body.to_owned());
            }
        }
    };
    let (head, body) = first("/");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(body.contains("data-door=\"link\""), "{body}");
    assert!(head.contains("content-security-policy: default-src 'none';"), "{head}");
    assert!(first("/page/link.js").0.contains("content-type: text/javascript"));
    for other in ["/page/none.js", "/dev/grants", "/dev/names?channel_id=2", "/v1/rooms"] {
        assert!(first(other).0.starts_with("HTTP/1.1 426"), "{other}");
    }
    assert_eq!(server.metrics().sum(&["limit=\"handshake_timeout\""]), 0.0);

    let output = Command::new(env!("CARGO_BIN_EXE_stentor"))
        .args(["grant", "--server-id", "1", "--channel", "2", "--user", "10", "--link"])
        .arg(format!("--control-listen={}", server.control()))
        .arg(format!("--control-secret-file={secret}"))
        .output()
        .expect("the program starts");
    let link = String::from_utf8(output.stdout).expect("text");
    let (page, fragment) = link.trim_end().split_once("/#").expect("a fragment");
    assert_eq!(page, format!("https://localhost:{}", gateway.port()));
    let part = |name: &str| {
        let part = fragment.split('&').find_map(|it| it.strip_prefix(&format!("{name}=")));
        part.unwrap_or_else(|| panic!("{name} in {link}")).to_owned()
    };
    let grant = Grant {
        endpoint: gateway.to_string(),
        server: part("server").parse().expect("a snowflake"),
        channel: part("channel").parse().expect("a snowflake"),
        user: part("user").parse().expect("a snowflake"),
        session: part("session"),
        token: part("token"),
    };
    assert_eq!((grant.server, grant.channel, grant.user), (1, 2, 10));
    // A link opened again is the same user's.
    for _ in 0..2 {
        let mut gateway = Gateway::open(&server, Door::plain(9));
        gateway.identify(&grant);
        gateway.expect(2);
    }
}

#[test]
fn the_page_is_kept_to_its_own_files_and_its_own_gateway() {
    for (setting, gateway) in [(None, "ws"), (Some(("GATEWAY_PLAINTEXT", "never")), "wss")] {
        let server = Server::with(setting.as_slice());
        let answer = get(server.control(), "/", &own(server.control()));
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("content-type: text/html; charset=utf-8"), "{}", answer.head);
        let policy = answer
            .head
            .lines()
            .find_map(|line| line.strip_prefix("content-security-policy: "))
            .expect("there is a policy");
        let endpoint = format!("{gateway}://localhost:{}", server.gateway().port());
        let connect = format!("connect-src 'self' {endpoint};");
        for directive in
            ["default-src 'none';", "script-src 'self';", "frame-ancestors 'none'", &connect]
        {
            assert!(policy.contains(directive), "{directive} in {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        let body = json!({"name": "Ann", "channel_id": "2"});
        let url = visit(&server, &body)["url"].as_str().expect("text").to_owned();
        assert!(url.starts_with(&endpoint), "{url}");
        let script = get(server.control(), "/page/main.js", &own(server.control()));
        assert!(script.head.contains("content-type: text/javascript"), "{}", script.head);
        assert!(script.head.contains("x-content-type-options: nosniff"), "{}", script.head);
        assert_eq!(get(server.control(), "/page/none.js", &own(server.control())).status, 404);
    }
}

/// The parts of the page that need no browser run in Node as they are, against `tests/page`.
#[test]
fn what_the_page_computes_is_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    // In the page scripts are modules because the HTML says so; Node wants to read it here.
    fs::write(directory.path().join("package.json"), r#"{"type":"module"}"#).expect("a file");
    for source in ["src/control/page", "tests/page"] {
        for entry in fs::read_dir(root.join(source)).expect("the directory is there") {
            let entry = entry.expect("it can be read");
            fs::copy(entry.path(), directory.path().join(entry.file_name())).expect("a copy");
        }
    }
    match Command::new("node").arg("--test").current_dir(&directory).output() {
        Ok(output) => {
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{out}{err}");
            assert!(!out.contains("tests 0"), "{out}");
        }
        Err(error) => {
            let insists =
                env::var_os("STENTOR_TESTS_FOREIGN").is_some_and(|value| value == "required");
            assert!(!insists, "no node: {error}");
            eprintln!("SKIPPED: no node ({error}); `tests/run setup` installs it");
        }
    }
}
