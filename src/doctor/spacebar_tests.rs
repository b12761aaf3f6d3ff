//! Checkups as they come out, and what is said of them.

use super::*;
use crate::{control::spacebar::checkup::Regions, doctor::Status};

fn checkup(regions: &str) -> Checkup {
    Checkup {
        database: Ok("15.18".to_owned()),
        schema: Some(Ok(Vec::new())),
        regions: Some(Ok(Regions::from_json(regions).expect("settings"))),
        endpoint: "voice.example.org:443".to_owned(),
        events: ("unix", Ok("2 of Spacebar's processes listen there".to_owned())),
        gateway: Ok("it answers".to_owned()),
        media: Ok("it answers".to_owned()),
        media_address: "203.0.113.7:50000".parse().unwrap(),
    }
}

fn regions(endpoints: &[&str]) -> String {
    let available: Vec<_> = endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| serde_json::json!({"id": index.to_string(), "endpoint": endpoint}))
        .collect();
    serde_json::json!({"regions": {"default": "0", "available": available}}).to_string()
}

fn status(checkup: &Checkup, name: &str) -> Status {
    let findings = judge_spacebar(checkup);
    let finding = findings.iter().find(|finding| finding.name == name).expect(name);
    assert_eq!(finding.remedy.is_none(), finding.status == Status::Pass, "{finding:?}");
    finding.status
}

#[test]
fn a_spacebar_that_fits_passes_in_all() {
    let checkup = checkup(&regions(&["voice.example.org:443"]));
    assert!(judge_spacebar(&checkup).iter().all(|finding| finding.status == Status::Pass));
}

#[test]
fn a_region_must_point_here_and_be_a_plain_host_and_port() {
    for (endpoints, expected) in [
        (&["voice.example.org:443", "other.example.org:443"][..], Status::Pass),
        (&["other.example.org:443", "voice.example.org:443"], Status::Pass),
        (&["127.0.0.1:3004"], Status::Fail),
        (&["wss://voice.example.org:443"], Status::Fail),
        (&["voice.example.org:443", "wss://other.example.org"], Status::Warn),
        (&["voice.example.org:443", "other.example.org"], Status::Warn),
        (&[], Status::Warn),
    ] {
        let checkup = checkup(&regions(endpoints));
        assert_eq!(status(&checkup, "spacebar region"), expected, "{endpoints:?}");
    }
}

#[test]
fn what_is_missing_fails_and_what_is_worse_is_warned_of() {
    let mut checkup = checkup(&regions(&["voice.example.org:443"]));
    checkup.schema = Some(Ok(vec!["streams.id is not there".to_owned()]));
    checkup.events = ("poll", Ok("every second".to_owned()));
    checkup.media = Err("no answer".to_owned());
    assert_eq!(status(&checkup, "spacebar schema"), Status::Fail);
    assert_eq!(status(&checkup, "spacebar events"), Status::Warn);
    assert_eq!(status(&checkup, "public media"), Status::Warn);
    checkup.database = Err("refused".to_owned());
    (checkup.schema, checkup.regions) = (None, None);
    assert_eq!(status(&checkup, "spacebar database"), Status::Fail);
    assert_eq!(judge_spacebar(&checkup).len(), 4, "what could not be looked at is not judged");
}
