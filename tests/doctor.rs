//! Black box over `stentor doctor` on the machine the tests run on: it reports what the system's
//! own tools report, and a limit lowered for it alone turns into the finding and the exit code it
//! must.

use std::process::{Command, Output};

use serde_json::Value;

/// Runs doctor in a shell, after `preparation`.
fn doctor(preparation: &str, arguments: &str) -> Output {
    Command::new("sh")
        .arg("-c")
        .arg(format!("{preparation}; exec \"$0\" doctor {arguments}"))
        .arg(env!("CARGO_BIN_EXE_stentor"))
        .output()
        .expect("sh starts")
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("doctor --json prints JSON")
}

fn finding<'a>(report: &'a Value, name: &str) -> &'a Value {
    let findings = report["findings"].as_array().expect("findings are a list");
    findings.iter().find(|finding| finding["name"] == name).expect("the finding is there")
}

fn printed_by(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output().expect("the tool starts");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn findings_agree_with_the_systems_own_tools() {
    let report = report(&doctor("ulimit -S -n 777", "--json"));
    let found = |name| finding(&report, name)["found"].as_str().expect("text").to_owned();
    assert!(found("kernel").starts_with(&printed_by("uname", "-r")));
    assert!(found("open files").starts_with("777, "), "{}", found("open files"));
    let cores = found("cores");
    assert_eq!(
        cores.split(' ').next(),
        Some(printed_by("nproc", "--ignore=0").as_str()),
        "{cores}"
    );
}

#[test]
fn too_little_locked_memory_fails_with_its_remedy() {
    let output = doctor("ulimit -S -l 511", "--json");
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    assert_eq!(report["fit"], false);
    let memory = finding(&report, "locked memory");
    assert_eq!((&memory["status"], &memory["found"]), (&"fail".into(), &"511 KiB".into()));
    assert!(memory["remedy"].as_str().expect("a remedy").contains("LimitMEMLOCK"));
}

#[test]
fn the_exit_code_says_whether_anything_failed_and_warnings_do_not() {
    let output = doctor("ulimit -S -n 777", "--json");
    let report = report(&output);
    assert_eq!(finding(&report, "open files")["status"], "warn");
    let fit = report["fit"].as_bool().expect("a verdict");
    let failed = report["findings"].as_array().expect("a list");
    assert_eq!(fit, failed.iter().all(|finding| finding["status"] != "fail"));
    assert_eq!(output.status.code(), Some(if fit { 0 } else { 1 }));
}

#[test]
fn text_through_a_pipe_is_plain_and_ends_with_the_verdict() {
    let output = doctor(":", "");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(!text.contains('\x1b'));
    let verdict = if output.status.success() { "is fit" } else { "is not fit" };
    assert!(text.lines().next_back().expect("lines").contains(verdict), "{text}");
    assert!(text.lines().next().expect("lines").contains("  kernel "), "{text}");
}
