//! Black box over `stentor load`: the real generator against the real server, whose every packet it
//! must account for, and against servers with known faults, every one of which it must find.

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

use serde_json::Value;
use support::{
    faulty::{Fate, Faulty},
    server::Server,
    wait_until,
};
use tempfile::TempDir;

/// The generator's own schedule is a matter of how busy the machine is: these runs may be judged
/// invalid, and their accounts are exact all the same.
const DONE: [Option<i32>; 2] = [Some(0), Some(3)];

/// Runs a scenario; the result.
fn play(command: &mut Command, scenario: &str, out: &Path) -> Value {
    let path = out.join("scenario.toml");
    fs::write(&path, scenario).expect("a file");
    let output = command.arg(&path).arg("--out").arg(out).output().expect("the binary starts");
    assert!(DONE.contains(&output.status.code()), "{}", said(&output));
    let text = fs::read_to_string(out.join("result.json")).expect("a result");
    serde_json::from_str(&text).expect("a result is JSON")
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

fn load(server: &Server) -> Command {
    let mut command = server.command();
    command.arg("load");
    command
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number expected: {value}"))
}

/// Nothing but what was due, and all of it.
fn assert_flawless(hearing: &Value) {
    assert_eq!(hearing["heard"], hearing["expected"], "{hearing}");
    for fault in ["lost", "duplicated", "reordered", "wrong_channel", "undecryptable", "foreign"] {
        assert_eq!(hearing[fault], 0, "{hearing}");
    }
}

#[test]
fn every_copy_of_a_good_server_is_heard_once() {
    let server = Server::start();
    let out = TempDir::new().expect("a directory");
    let scenario = "name = \"three channels\"\nwarmup_s = 0\nduration_s = 2\n\
                    [[channels]]\ncount = 3\nspeakers = 2\nlisteners = 4\n";
    let result = play(&mut load(&server), scenario, out.path());
    let (sending, hearing) = (&result["overall"]["sending"], &result["overall"]["hearing"]);
    // Three channels with two speakers of 100 packets, each heard by five.
    assert_eq!(sending["sent"], 600);
    assert_eq!(hearing["expected"], 600 * 5);
    assert_flawless(hearing);
    assert_eq!(result["joins"]["succeeded"], 18);
    let hearers = result["hearers"].as_array().expect("hearers");
    assert_eq!(hearers.len(), 18);
    hearers.iter().for_each(|hearer| assert_flawless(&hearer["hearing"]));
    assert_eq!(result["overall"]["latency"]["count"], 3_000);
    let seconds = result["seconds"].as_array().expect("seconds");
    let heard: u64 = seconds.iter().map(|second| number(&second["heard"])).sum();
    assert_eq!((seconds.len(), heard), (2, 3_000));
    let cost = &result["cost"];
    assert!(cost["cpu_ns_per_packet"].as_f64().is_some_and(|ns| ns > 0.0), "{cost}");
    assert!(cost["traversals_per_packet"].as_f64().is_some_and(|each| each > 0.0), "{cost}");
    let hgrm = fs::read_to_string(out.path().join("latency.hgrm")).expect("latency.hgrm");
    assert!(hgrm.contains("1.000000000000       3000"), "{hgrm}");
    let page = fs::read_to_string(out.path().join("report.html")).expect("report.html");
    assert!(page.contains("<svg") && page.contains("3,000"), "the copies heard, and pictures");
    let hlog = fs::read_to_string(out.path().join("latency.hlog")).expect("latency.hlog");
    assert_eq!(hlog.lines().count(), 3 + 2, "{hlog}");
    wait_until("nobody is left", || {
        let (_, rooms) = server.api("GET", "/v1/rooms", None);
        rooms["rooms"].as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn video_late_joins_and_churn_lose_nothing() {
    let server = Server::start();
    let out = TempDir::new().expect("a directory");
    let scenario = "name = \"mixed\"\nwarmup_s = 0\nduration_s = 4\n\
                    mode = \"aead_xchacha20_poly1305_rtpsize\"\ngateway_version = 9\n\
                    [[channels]]\nspeakers = 1\nlisteners = 3\nchurn_per_second = 1.0\n\
                    video = { bits_per_second = 500000 }\n\
                    [[channels]]\nspeakers = 1\nlisteners = 4\njoin_at_s = 1\n";
    let result = play(&mut load(&server), scenario, out.path());
    assert_flawless(&result["overall"]["hearing"]);
    // Five come late, and four come back; the run may end before the last of them has.
    let joins = &result["joins"];
    assert_eq!(joins["attempted"], joins["succeeded"], "{joins}");
    assert!((12..=13).contains(&number(&joins["succeeded"])), "{joins}");
    // Four seconds of a camera with 30 frames of two packets, and of a voice; the late voice.
    let intended = number(&result["overall"]["sending"]["intended"]);
    assert!((4 * 110..=4 * 110 + 150).contains(&intended), "{intended}");
    let phases = result["phases"].as_array().expect("phases");
    let names: Vec<_> = phases.iter().filter_map(|phase| phase["name"].as_str()).collect();
    assert_eq!(names, ["before", "storm", "after"]);
    phases.iter().for_each(|phase| assert_flawless(&phase["hearing"]));
}

#[test]
fn browsers_and_bots_hear_every_copy_of_each_other_with_every_profile() {
    let server = Server::start();
    for profile in ["SRTP_AEAD_AES_128_GCM", "SRTP_AEAD_AES_256_GCM", "SRTP_AES128_CM_HMAC_SHA1_80"]
    {
        let out = TempDir::new().expect("a directory");
        let scenario = format!(
            "name = \"browsers\"\nwarmup_s = 0\nduration_s = 2\nsrtp_profile = \"{profile}\"\n\
             [[channels]]\ncount = 2\nspeakers = 2\nlisteners = 4\ntransport = \"mixed\"\n\
             [[channels]]\nlisteners = 4\ntransport = \"webrtc\"\n\
             video = {{ bits_per_second = 500000 }}\n\
             [[channels]]\nlisteners = 4\ntransport = \"webrtc\"\nsender_transport = \"udp\"\n\
             video = {{ bits_per_second = 500000 }}\n"
        );
        let (result, browsers) = thread::scope(|scope| {
            let run = scope.spawn(|| play(&mut load(&server), &scenario, out.path()));
            let mut most = 0;
            while !run.is_finished() {
                most = most.max(browsers(&server));
                thread::sleep(Duration::from_millis(50));
            }
            (run.join().expect("a run"), most)
        });
        assert_eq!(browsers, 2 * 3 + 4 + 3, "as the server sees them");
        let (sending, hearing) = (&result["overall"]["sending"], &result["overall"]["hearing"]);
        // Two channels with two voices each, of which one is a browser's, each heard by five; a
        // camera among browsers and a bot's, of 30 frames in two packets, each seen by three.
        assert_eq!(sending["sent"], 2 * 2 * 100 + 2 * 120, "{profile}: {sending}");
        assert_eq!(hearing["expected"], 2 * 2 * 100 * 5 + 2 * 120 * 3, "{profile}: {hearing}");
        assert_flawless(hearing);
        let hearers = result["hearers"].as_array().expect("hearers");
        hearers.iter().for_each(|hearer| assert_flawless(&hearer["hearing"]));
        assert_eq!(result["joins"]["succeeded"], 20, "{}", result["joins"]);
        let page = fs::read_to_string(out.path().join("report.html")).expect("report.html");
        assert!(page.contains(&format!("WebRTC with {profile}")), "the report says how");
    }
}

/// Sessions that have a browser's transport, by the server's account.
fn browsers(server: &Server) -> usize {
    let (_, rooms) = server.api("GET", "/v1/rooms", None);
    let rooms = rooms["rooms"].as_array().cloned().unwrap_or_default();
    let sessions = rooms.iter().filter_map(|room| room["sessions"].as_array()).flatten();
    sessions.filter(|it| it["transport"] == "webrtc" && it["state"] == "ready").count()
}

#[test]
fn browsers_come_late_go_and_come_back() {
    let server = Server::start();
    let out = TempDir::new().expect("a directory");
    let scenario = "name = \"churn\"\nwarmup_s = 0\nduration_s = 4\n\
                    [[channels]]\nspeakers = 1\nlisteners = 3\nchurn_per_second = 1.0\n\
                    transport = \"webrtc\"\n\
                    [[channels]]\nspeakers = 1\nlisteners = 4\njoin_at_s = 1\n\
                    transport = \"webrtc\"\nsender_transport = \"udp\"\n";
    let result = play(&mut load(&server), scenario, out.path());
    assert_flawless(&result["overall"]["hearing"]);
    let joins = &result["joins"];
    assert_eq!(joins["attempted"], joins["succeeded"], "{joins}");
    assert!((12..=13).contains(&number(&joins["succeeded"])), "{joins}");
    assert_eq!(joins["broken"].as_array().map(Vec::len), Some(0), "{joins}");
}

#[test]
fn the_bare_loop_takes_turns_with_the_server() {
    let key = "07".repeat(32);
    let server = Server::with(&[("TOKEN_KEY", &key)]);
    let out = TempDir::new().expect("a directory");
    let scenario = "name = \"bound\"\nwarmup_s = 0\nduration_s = 4\n\
                    [[channels]]\nspeakers = 1\nlisteners = 3\ntransport = \"mixed\"\n\
                    sender_transport = \"webrtc\"\n";
    let mut command = load(&server);
    let endpoint = server.gateway().to_string();
    command.args(["--bound=1", "--plaintext", "--token-key", &key, "--endpoint", &endpoint]);
    let result = play(&mut command, scenario, out.path());
    assert_flawless(&result["overall"]["hearing"]);
    assert_flawless(&result["bound"]["overall"]["hearing"]);
    assert_eq!(result["overall"]["hearing"]["heard"], 2 * 50 * 3);
    assert_eq!(result["bound"]["overall"]["hearing"]["heard"], 2 * 50 * 3);
    assert!(result["bound"]["ratios"]["cpu_per_packet"].as_f64().is_some(), "{}", result["bound"]);
    assert!(!result.to_string().contains(&key), "the key is nobody's business");
    let command = result["about"]["command"].to_string();
    assert!(command.contains("--token-key\",\"…\""), "{command}");
}

/// By the last digit of a packet's number.
fn mischief(number: u32) -> Fate {
    match number % 10 {
        0 => Fate::Dropped,
        3 => Fate::Doubled,
        5 => Fate::Garbled,
        7 => Fate::Delayed,
        9 => Fate::Strayed,
        _ => Fate::Forwarded,
    }
}

#[test]
fn every_fault_of_a_bad_server_is_found() {
    find_every_fault("udp");
}

#[test]
fn browsers_find_every_fault_of_a_bad_server_too() {
    find_every_fault("webrtc");
}

fn find_every_fault(transport: &str) {
    const PAUSE: Duration = Duration::from_millis(3);
    let server = Faulty::start(mischief, PAUSE);
    let out = TempDir::new().expect("a directory");
    let grants = out.path().join("grants.json");
    fs::write(&grants, server.grants(2, 3).to_string()).expect("a file");
    let scenario = format!(
        "name = \"faults\"\nwarmup_s = 1\nduration_s = 2\n\
         [[channels]]\ncount = 2\nspeakers = 1\nlisteners = 2\ntransport = \"{transport}\"\n"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_stentor"));
    command.args(["load", "--plaintext", "--grants"]).arg(&grants);
    let result = play(&mut command, &scenario, out.path());
    let hearing = &result["overall"]["hearing"];
    // Two seconds are a hundred numbers, ten of each fate, for two hearers in two channels.
    assert_eq!(hearing["expected"], 400, "{hearing}");
    assert_eq!(hearing["duplicated"], 10 * 4, "{hearing}");
    // A channel's last one may wait for one that is never sent: then both its hearers lose it.
    let reordered = number(&hearing["reordered"]);
    assert!([36, 38, 40].contains(&reordered), "{hearing}");
    let lost = (10 + 10) * 4 + 40 - reordered;
    assert_eq!(hearing["lost"], lost, "dropped and garbled: {hearing}");
    // These have no time of their own: they count by when they came, so the edges may differ.
    let undecryptable = number(&hearing["undecryptable"]);
    assert!((1..=60).contains(&undecryptable), "{hearing}");
    let wrong_channel = number(&hearing["wrong_channel"]);
    assert!((1..=90).contains(&wrong_channel), "to all three of the other channel: {hearing}");
    assert_eq!(hearing["foreign"], 0, "{hearing}");
    let latency = &result["overall"]["latency"];
    assert!(number(&latency["min_ns"]) >= PAUSE.as_nanos() as u64, "the pause shows: {latency}");
}

#[test]
fn a_server_that_is_slowed_on_purpose_or_loses_one_in_a_hundred_is_called_worse() {
    /// Played against a server that does this to each packet, after this time.
    fn played(fate: fn(u32) -> Fate, pause: Duration, out: &Path) -> String {
        let server = Faulty::start(fate, pause);
        let grants = out.join("grants.json");
        fs::write(&grants, server.grants(1, 3).to_string()).expect("a file");
        let scenario = "name = \"compared\"\nwarmup_s = 1\nduration_s = 6\n\
                        [[channels]]\nspeakers = 1\nlisteners = 2\n";
        let mut command = Command::new(env!("CARGO_BIN_EXE_stentor"));
        command.args(["load", "--plaintext", "--grants"]).arg(&grants);
        let mut result = play(&mut command, scenario, out);
        // Lateness of a generator that shares the machine is not what is asked here.
        result["verdict"]["valid"] = true.into();
        let path = out.join("result.json");
        fs::write(&path, result.to_string()).expect("a file");
        path.display().to_string()
    }
    let all_well = |_| Fate::Forwarded;
    let one_lost = |number| if number % 100 == 7 { Fate::Dropped } else { Fate::Forwarded };
    let directories = [(); 3].map(|()| TempDir::new().expect("a directory"));
    let [good, slow, lossy] = directories.each_ref().map(TempDir::path);
    let good = played(all_well, Duration::ZERO, good);
    // Far more than what else a machine has to do may make of a good server.
    let slow = played(all_well, Duration::from_millis(15), slow);
    let lossy = played(one_lost, Duration::ZERO, lossy);
    let compared = |other: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stentor"));
        // Latencies of two good runs differ by more than a little while tests share the machine.
        command.args(["load", "--compare", &good, other, "--tolerance", "1000"]);
        let output = command.output().expect("the binary starts");
        let said = said(&output);
        // The table has every row whatever is found; what is worse is named in this line.
        let verdict = said.lines().find(|line| line.starts_with("B is ")).unwrap_or_default();
        (output.status.code(), verdict.to_owned(), said)
    };
    let (code, verdict, said) = compared(&good);
    assert!(code == Some(0) && verdict == "B is not worse than A.", "{said}");
    let (code, verdict, said) = compared(&slow);
    assert!(code == Some(1) && verdict.contains("median latency"), "{said}");
    let (code, verdict, said) = compared(&lossy);
    assert!(code == Some(1) && verdict.contains("lost"), "{said}");
}

#[test]
fn clients_that_are_not_let_in_are_counted_and_told() {
    let server = Server::start();
    let run = |arguments: &[&str]| {
        let output = load(&server).args(arguments).output().expect("the binary starts");
        (output.status.code(), said(&output))
    };
    let scenario = ["--speakers", "1", "--listeners", "1", "--duration", "1", "--warmup", "0"];
    let key = "09".repeat(32);
    let endpoint = server.gateway().to_string();
    let foreign = [&scenario[..], &["--token-key", &key, "--endpoint", &endpoint]].concat();
    let (code, text) = run(&foreign);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("closed 4004"), "{text}");
    let (code, text) = run(&[&scenario[..], &["--ca", "/etc/hostname"]].concat());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--insecure"), "{text}");
    let (code, text) = run(&[&scenario[..], &["--endpoint", "127.0.0.1:1"]].concat());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("connecting to 127.0.0.1:1"), "{text}");
    let (code, text) = run(&["--speakers", "0", "--listeners", "0"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("members"), "{text}");
}

#[test]
fn a_search_ends_with_what_held_and_with_what_broke() {
    let server = Server::start();
    let out = TempDir::new().expect("a directory");
    let scenario = "name = \"most\"\nwarmup_s = 0\nduration_s = 1\n\
                    [[channels]]\ncount = 2\nspeakers = 1\nlisteners = 1\n";
    let mut command = load(&server);
    // No server forwards within a microsecond, and none is asked to lose nothing.
    command.args(["--find-max", "channels", "--max-p99", "1us", "--max-loss", "100"]);
    let result = play(&mut command, scenario, out.path());
    let found = &result["find_max"];
    assert_eq!(found["dimension"], "channels");
    let steps = found["steps"].as_array().expect("steps");
    let values: Vec<_> = steps.iter().map(|step| number(&step["value"])).collect();
    assert_eq!((values, &found["held"]), (vec![2, 1], &Value::Null), "{found}");
    let what = found["broke"]["what"].as_str().expect("something broke");
    assert!(["p99", "generator"].contains(&what), "{found}");
    assert!(found["broke"]["why"].as_str().is_some_and(|why| !why.is_empty()), "{found}");
}
