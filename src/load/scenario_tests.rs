//! Scenarios as they are written, and what is refused. Part of `scenario`.

use super::*;

fn parse(text: &str) -> Result<Scenario, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

#[test]
fn what_is_left_out_has_a_default() {
    let scenario = parse("name = \"x\"\n[[channels]]\nspeakers = 1\nlisteners = 200\n").unwrap();
    assert_eq!(scenario.clients(), 201);
    assert_eq!(scenario.mode(), Mode::Aes256GcmRtpsize);
    assert_eq!(scenario.channels[0].packets_per_second, 50);
    assert!(scenario.phases().is_empty());
    let channels = scenario.channels.clone();
    assert_eq!(Scenario::simple(1, 200).unwrap().channels, channels);
}

#[test]
fn a_scenario_survives_the_way_into_a_result_and_back() {
    let text = "name = \"x\"\nheartbeat_s = 9\n[[channels]]\nspeakers = 1\nlisteners = 2\njoin_at_s = 3\n\
                [channels.video]\nbits_per_second = 2500000\n";
    let scenario = parse(text).unwrap();
    let json = serde_json::to_string(&scenario).unwrap();
    assert_eq!(serde_json::from_str::<Scenario>(&json).unwrap(), scenario);
}

#[test]
fn nonsense_is_refused_with_its_name() {
    for (more, word) in [
        ("speakers = 0", "members"),
        ("speakers = 1\npayload_bytes = 3", "payload_bytes"),
        ("speakers = 1\npackets_per_second = 0", "packets_per_second"),
        ("speakers = 1\nspeeches = 1", "speeches"),
        ("speakers = 1\ncount = 60001", "clients"),
        ("speakers = 5000", "members"),
        ("speakers = 1\nchurn_per_second = 1.0", "listeners"),
        (
            "speakers = 1\nlisteners = 1\nchurn_per_second = 1.0\n\
             video = { cameras = 2, bits_per_second = 1 }",
            "without a camera",
        ),
        ("speakers = 1\njoin_at_s = 20", "join_at_s"),
        ("speakers = 1\nvideo = { cameras = 2, bits_per_second = 1 }", "cameras"),
        ("speakers = 1\ntransport = \"tcp\"", "tcp"),
        ("speakers = 1\nvideo = { bits_per_second = 0 }", "bits_per_second"),
    ] {
        let problem = parse(&format!("name = \"x\"\n[[channels]]\n{more}\n")).unwrap_err();
        assert!(problem.contains(word), "{more}: {problem}");
    }
    for (more, word) in [
        ("mode = \"plain\"", "plain"),
        ("duration_s = 0", "duration_s"),
        ("heartbeat_s = 0", "heartbeat_s"),
        ("heartbeat_s = 81", "heartbeat_s"),
        ("x = 1", "`x`"),
        ("srtp_profile = \"null\"", "`null`"),
    ] {
        let text = format!("name = \"x\"\n{more}\n[[channels]]\nspeakers = 2\n");
        assert!(parse(&text).unwrap_err().contains(word), "{more}");
    }
    assert!(parse("name = \"x\"\nchannels = []\n").is_err());
}

#[test]
fn members_may_carry_media_in_either_way_and_senders_in_another() {
    let web = |scenario: &Scenario| -> Vec<bool> {
        let cast = crate::load::schedule::Cast::new(scenario);
        cast.clients.iter().map(|client| client.over_webrtc).collect()
    };
    let of = |more: &str| {
        parse(&format!("name = \"x\"\n[[channels]]\nspeakers = 1\nlisteners = 3\n{more}")).unwrap()
    };
    let udp = of("");
    assert_eq!(web(&udp), [false; 4]);
    assert_eq!(udp.carriage(), "plain UDP with aead_aes256_gcm_rtpsize");
    let browsers = of("transport = \"webrtc\"");
    assert_eq!(web(&browsers), [true; 4]);
    assert_eq!(browsers.carriage(), "WebRTC with SRTP_AEAD_AES_256_GCM");
    let bot = of("transport = \"webrtc\"\nsender_transport = \"udp\"");
    assert_eq!(web(&bot), [false, true, true, true]);
    assert!(bot.carriage().contains("gcm_rtpsize, WebRTC with"), "{}", bot.carriage());
    assert_eq!(web(&of("transport = \"mixed\"")), [false, true, false, true]);
    let camera = of("sender_transport = \"webrtc\"\nvideo = { cameras = 2, bits_per_second = 9 }");
    assert_eq!(web(&camera), [true, true, false, false]);
}

#[test]
fn every_scenario_of_ours_can_be_played() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("perf/scenarios");
    let mut read = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let scenario = Scenario::read(&entry.unwrap().path()).unwrap();
        assert!(!scenario.about.is_empty(), "{}", scenario.name);
        read += 1;
    }
    assert!(read >= 12, "{read} scenarios");
}

#[test]
fn late_joins_divide_the_time() {
    let mut scenario = Scenario::simple(1, 10).unwrap();
    let late = Channels { join_at_s: Some(5), join_over_s: 5, ..scenario.channels[0].clone() };
    scenario.channels.push(late);
    assert_eq!(scenario.phases(), [("before", 0, 5), ("storm", 5, 10), ("after", 10, 20)]);
}

#[test]
fn a_frame_is_cut_into_packets() {
    let video = |bits_per_second| Video {
        cameras: 1,
        bits_per_second,
        frames_per_second: 30,
        payload_bytes: 1_150,
    };
    assert_eq!(video(2_500_000).packets_per_frame(), 10);
    assert_eq!(video(30 * 8 * 1_150).packets_per_frame(), 1);
    assert_eq!(video(1).packets_per_frame(), 1);
}
