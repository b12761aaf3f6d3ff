//! Findings on paper: aligned text for people, JSON for programs, and the exit code. Called by
//! `main`.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use serde::Serialize;

use crate::{
    config::Config,
    control::spacebar::checkup,
    doctor::{Finding, Status, judge, judge_spacebar, observe},
};

/// Looks at this machine, and at the Spacebar of these settings if there are any, and prints what
/// it finds. The exit code is 1 when something fails and 0 otherwise; warnings do not fail.
pub fn run(json: bool, with_spacebar: Option<&Config>) -> ExitCode {
    let mut findings = judge(&observe());
    if let Some(config) = with_spacebar {
        findings.extend(judge_spacebar(&checkup::look(config)));
    }
    let stdout = io::stdout();
    let coloured = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let report = if json { as_json(&findings) } else { as_text(&findings, coloured) };
    // Whoever closed the pipe early still gets the exit code.
    let _ = stdout.lock().write_all(report.as_bytes());
    if is_fit(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One line per finding; below what is not a pass, why it matters and what mends it.
pub fn as_text(findings: &[Finding], coloured: bool) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { name, status, found, why, remedy } in findings {
        let word = word(*status, coloured);
        text += &format!("{word}  {name:width$}  {found}\n");
        if let Some(remedy) = remedy {
            text += &format!("      {:width$}  why:  {why}\n", "");
            text += &format!("      {:width$}  mend: {remedy}\n", "");
        }
    }
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let verdict = if is_fit(findings) { "fit" } else { "not fit" };
    text += &format!(
        "\n{} passed, {} to improve, {} failed: this machine is {verdict} to run stentor.\n",
        count(Status::Pass),
        count(Status::Warn),
        count(Status::Fail),
    );
    text
}

/// `{"fit": bool, "findings": [{name, status, found, why, remedy}]}`.
pub fn as_json(findings: &[Finding]) -> String {
    #[derive(Serialize)]
    struct Report<'a> {
        fit: bool,
        findings: &'a [Finding],
    }
    let report = Report { fit: is_fit(findings), findings };
    let text = serde_json::to_string_pretty(&report).expect("findings are plain text and flags");
    text + "\n"
}

fn is_fit(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.status != Status::Fail)
}

fn word(status: Status, coloured: bool) -> String {
    let (word, colour) = match status {
        Status::Pass => ("pass", 32),
        Status::Warn => ("warn", 33),
        Status::Fail => ("FAIL", 31),
    };
    if coloured { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(status: Status) -> Vec<Finding> {
        let finding = |name: &str, status, remedy: Option<&str>| Finding {
            name: name.into(),
            status,
            found: "so".into(),
            why: "Because.",
            remedy: remedy.map(str::to_owned),
        };
        vec![finding("a", Status::Pass, None), finding("long", status, Some("mend --it"))]
    }

    #[test]
    fn text_is_aligned_and_plain() {
        let expected = "pass  a     so\n\
                        warn  long  so\n\
                        \x20           why:  Because.\n\
                        \x20           mend: mend --it\n\
                        \n\
                        1 passed, 1 to improve, 0 failed: this machine is fit to run stentor.\n";
        assert_eq!(as_text(&findings(Status::Warn), false), expected);
        assert!(as_text(&findings(Status::Warn), true).contains("\x1b[33mwarn\x1b[0m  long"));
    }

    #[test]
    fn one_failure_makes_the_machine_unfit() {
        for (status, fit) in [(Status::Pass, true), (Status::Warn, true), (Status::Fail, false)] {
            let json: serde_json::Value =
                serde_json::from_str(&as_json(&findings(status))).unwrap();
            assert_eq!(json["fit"], fit);
            assert_eq!(json["findings"][1]["remedy"], "mend --it");
            let text = as_text(&findings(status), false);
            assert_eq!(text.contains("is fit to run"), fit);
        }
    }
}
