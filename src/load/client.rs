//! One virtual client's side of the voice gateway (protocol.md §1): what it is told and what it
//! says to get in, to be allowed to speak and to stay. Sans-IO: messages come in, steps come out;
//! the WebSocket, the UDP socket and the clock are the caller's.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    crypto::{Mode, SecretKey},
    grant::Ticket,
    id::Ssrc,
};

/// Heartbeats without an answer after which a client gives up, as the common libraries do
/// (protocol.md §1.6).
const UNANSWERED_MAX: u32 = 3;

/// Payload types of a video client on UDP (protocol.md §2.3).
pub const VIDEO_PAYLOAD_TYPE: u8 = 103;
const RTX_PAYLOAD_TYPE: u8 = 104;
/// Opus on UDP.
pub const AUDIO_PAYLOAD_TYPE: u8 = 120;

/// What sort of client it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Gateway version.
    pub version: u8,
    /// The mode it selects.
    pub mode: Mode,
    /// Whether it takes video.
    pub video: bool,
    /// Whether it shows any.
    pub camera: bool,
}

/// What its WebSocket and its socket shall do.
#[derive(Debug)]
pub enum Step {
    /// Say this.
    Say(String),
    /// Find out our address by IP discovery at the server's media port, then call
    /// [`Client::discovered`].
    Discover {
        /// Our SSRC.
        ssrc: Ssrc,
        /// Where media goes.
        server: SocketAddr,
    },
    /// Session Description has come: media may flow.
    Agreed(Agreed),
    /// The server has taken note that we speak: what is sent from now on may be heard.
    Speak,
}

/// What media needs.
#[derive(Debug, Clone)]
pub struct Agreed {
    /// Where it goes.
    pub server: SocketAddr,
    /// How it is sealed.
    pub mode: Mode,
    /// With what.
    pub key: SecretKey,
    /// SSRC of the microphone.
    pub audio: Ssrc,
    /// SSRC of the camera.
    pub video: Option<Ssrc>,
}

/// Why a client gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message that no voice server sends.
    #[error("the server's {what} is not as the protocol has it: {problem}")]
    Malformed {
        /// Which message.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The mode is not on offer.
    #[error("the server does not offer {0}")]
    ModeNotOffered(&'static str),
    /// No acknowledgement for several heartbeats.
    #[error("the server does not answer heartbeats")]
    Unresponsive,
}

/// A client in conversation.
#[derive(Debug)]
pub struct Client {
    profile: Profile,
    ticket: Ticket,
    steps: VecDeque<Step>,
    stage: Stage,
    last_seq: Option<u16>,
    interval: Option<Duration>,
    beats: u64,
    unanswered: u32,
    server: Option<SocketAddr>,
    audio: Ssrc,
    video: Option<Layer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waiting for Hello, Ready, discovery or Session Description.
    Joining,
    /// Waiting for the answer to this heartbeat, before which the server has read op 5.
    Announcing(u64),
    Joined,
}

#[derive(Debug, Clone, Deserialize)]
struct Layer {
    rid: Option<String>,
    ssrc: Ssrc,
    rtx_ssrc: Option<Ssrc>,
}

impl Client {
    /// A client whose WebSocket has just been opened.
    pub fn new(profile: Profile, ticket: Ticket) -> Self {
        Self {
            profile,
            ticket,
            steps: VecDeque::new(),
            stage: Stage::Joining,
            last_seq: None,
            interval: None,
            beats: 0,
            unanswered: 0,
            server: None,
            audio: Ssrc(0),
            video: None,
        }
    }

    /// What to do next.
    pub fn poll_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Time between heartbeats, once Hello has come.
    pub fn heartbeat_interval(&self) -> Option<Duration> {
        self.interval
    }

    /// Takes a message of the server.
    ///
    /// # Errors
    /// It is not what the protocol has there; the client cannot go on.
    pub fn hear(&mut self, text: &str) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            op: u8,
            #[serde(borrow)]
            d: Option<&'a RawValue>,
            seq: Option<u16>,
        }
        let envelope: Envelope<'_> = parse("message", text)?;
        self.last_seq = envelope.seq.or(self.last_seq);
        let d = envelope.d.map_or("null", RawValue::get);
        match envelope.op {
            2 => self.hear_ready(d),
            3 => {
                self.beat();
                Ok(())
            }
            4 => self.hear_description(d),
            6 => {
                self.hear_acknowledgement(d);
                Ok(())
            }
            8 => self.hear_hello(d),
            _ => Ok(()),
        }
    }

    /// Our address as the server sees it.
    pub fn discovered(&mut self, address: SocketAddr) {
        let data = json!({
            "address": address.ip().to_string(),
            "port": address.port(),
            "mode": self.profile.mode.name(),
        });
        let opus = json!({"name": "opus", "type": "audio", "priority": 1000,
            "payload_type": AUDIO_PAYLOAD_TYPE});
        let h264 = json!({"name": "H264", "type": "video", "priority": 1000,
            "payload_type": VIDEO_PAYLOAD_TYPE, "rtx_payload_type": RTX_PAYLOAD_TYPE,
            "encode": true, "decode": true});
        let codecs = if self.profile.video { vec![opus, h264] } else { vec![opus] };
        self.say(1, json!({"protocol": "udp", "data": data, "codecs": codecs}));
    }

    /// It is time for a heartbeat.
    ///
    /// # Errors
    /// The server has not answered the last ones.
    pub fn handle_heartbeat_due(&mut self) -> Result<(), Fault> {
        if self.unanswered >= UNANSWERED_MAX {
            return Err(Fault::Unresponsive);
        }
        self.beat();
        Ok(())
    }

    fn beat(&mut self) -> u64 {
        self.beats += 1;
        self.unanswered += 1;
        let d = if self.profile.version >= 8 {
            json!({"t": self.beats, "seq_ack": self.last_seq.map_or(-1, i64::from)})
        } else {
            json!(self.beats)
        };
        self.say(3, d);
        self.beats
    }

    fn hear_hello(&mut self, d: &str) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Hello {
            heartbeat_interval: f64,
        }
        let hello: Hello = parse("Hello (op 8)", d)?;
        let seconds = hello.heartbeat_interval / 1_000.0;
        let interval = Duration::try_from_secs_f64(seconds).ok().filter(|it| !it.is_zero());
        let again = self.interval.is_some();
        self.interval = Some(interval.ok_or_else(|| Fault::Malformed {
            what: "Hello (op 8)",
            problem: format!("a heartbeat interval of {} ms", hello.heartbeat_interval),
        })?);
        if !again {
            self.identify();
        }
        Ok(())
    }

    fn identify(&mut self) {
        let layers = if self.profile.camera {
            json!([{"type": "video", "rid": "100", "quality": 100}])
        } else {
            json!([])
        };
        let Ticket { guild_id, channel_id, user_id, session_id, token, .. } = &self.ticket;
        let mut d = json!({
            "server_id": guild_id,
            "user_id": user_id,
            "session_id": session_id,
            "token": token,
            "video": self.profile.video,
            "streams": layers,
            "max_dave_protocol_version": 0,
        });
        if self.profile.version >= 9 {
            d["channel_id"] = json!(channel_id);
        }
        self.say(0, d);
    }

    fn hear_ready(&mut self, d: &str) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Ready {
            ssrc: Ssrc,
            ip: IpAddr,
            port: u16,
            modes: Vec<String>,
            #[serde(default)]
            streams: Vec<Layer>,
        }
        let ready: Ready = parse("Ready (op 2)", d)?;
        let mode = self.profile.mode.name();
        if !ready.modes.iter().any(|offered| offered == mode) {
            return Err(Fault::ModeNotOffered(mode));
        }
        self.audio = ready.ssrc;
        self.video = ready.streams.into_iter().next();
        if self.profile.camera && self.video.is_none() {
            let problem = "no stream for the layer we asked for".to_owned();
            return Err(Fault::Malformed { what: "Ready (op 2)", problem });
        }
        let server = SocketAddr::new(ready.ip, ready.port);
        self.server = Some(server);
        self.steps.push_back(Step::Discover { ssrc: ready.ssrc, server });
        Ok(())
    }

    fn hear_description(&mut self, d: &str) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Description {
            mode: String,
            secret_key: [u8; 32],
        }
        let description: Description = parse("Session Description (op 4)", d)?;
        let malformed = |problem| Fault::Malformed { what: "Session Description (op 4)", problem };
        let mode = self.profile.mode;
        if description.mode != mode.name() {
            return Err(malformed(format!("the mode is {}", description.mode)));
        }
        let server = self.server.ok_or_else(|| malformed("it came before Ready".to_owned()))?;
        let camera = self.video.clone().filter(|_| self.profile.camera);
        self.steps.push_back(Step::Agreed(Agreed {
            server,
            mode,
            key: SecretKey::new(description.secret_key),
            audio: self.audio,
            video: camera.as_ref().map(|layer| layer.ssrc),
        }));
        if self.stage != Stage::Joining {
            return Ok(());
        }
        self.say(5, json!({"speaking": 1, "delay": 0, "ssrc": self.audio}));
        if let Some(Layer { rid, ssrc, rtx_ssrc }) = camera {
            let rtx = rtx_ssrc.unwrap_or(Ssrc(ssrc.0.wrapping_add(1)));
            let layer = json!({"type": "video", "rid": rid, "quality": 100, "active": true,
                "ssrc": ssrc, "rtx_ssrc": rtx});
            self.say(
                12,
                json!({"audio_ssrc": self.audio, "video_ssrc": ssrc, "rtx_ssrc": rtx,
                    "streams": [layer]}),
            );
        }
        // Its answer says that what was said before it has been read.
        self.stage = Stage::Announcing(self.beat());
        Ok(())
    }

    fn hear_acknowledgement(&mut self, d: &str) {
        self.unanswered = 0;
        let d: Value = serde_json::from_str(d).unwrap_or(Value::Null);
        let nonce = d.get("t").unwrap_or(&d).as_u64();
        if let Stage::Announcing(beat) = self.stage
            && nonce.is_none_or(|nonce| nonce >= beat)
        {
            self.stage = Stage::Joined;
            self.steps.push_back(Step::Speak);
        }
    }

    fn say(&mut self, op: u8, d: Value) {
        self.steps.push_back(Step::Say(json!({"op": op, "d": d}).to_string()));
    }
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, text: &'a str) -> Result<T, Fault> {
    serde_json::from_str(text)
        .map_err(|error| Fault::Malformed { what, problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ChannelId, ServerId, UserId};

    const HELLO: &str = r#"{"op":8,"d":{"v":8,"heartbeat_interval":41250}}"#;

    fn client(camera: bool, version: u8) -> Client {
        let ticket = Ticket {
            endpoint: "localhost:8443".into(),
            guild_id: ServerId(1),
            channel_id: ChannelId(2),
            user_id: UserId(10),
            session_id: "s".into(),
            token: "t".into(),
        };
        let mode = Mode::Aes256GcmRtpsize;
        Client::new(Profile { version, mode, video: camera, camera }, ticket)
    }

    fn ready(streams: &str) -> String {
        format!(
            r#"{{"op":2,"d":{{"ssrc":7,"ip":"127.0.0.1","port":50000,"streams":{streams},
            "experiments":[],"modes":["aead_aes256_gcm_rtpsize"]}},"seq":1}}"#
        )
    }

    fn description(mode: &str) -> String {
        let key = vec!["9"; 32].join(",");
        format!(r#"{{"op":4,"d":{{"mode":"{mode}","secret_key":[{key}]}},"seq":2}}"#)
    }

    fn said(client: &mut Client) -> Value {
        match client.poll_step() {
            Some(Step::Say(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("expected it to say something, got {other:?}"),
        }
    }

    #[test]
    fn a_listener_joins_in_the_order_of_the_protocol() {
        let mut client = client(false, 8);
        assert!(client.poll_step().is_none());
        client.hear(HELLO).unwrap();
        assert_eq!(client.heartbeat_interval(), Some(Duration::from_millis(41_250)));
        let identify = said(&mut client);
        assert_eq!((&identify["op"], &identify["d"]["user_id"]), (&json!(0), &json!("10")));
        assert_eq!(identify["d"].get("channel_id"), None, "a field of version 9");
        client.hear(&ready("[]")).unwrap();
        let Some(Step::Discover { ssrc, server }) = client.poll_step() else { panic!() };
        assert_eq!((ssrc, server.port()), (Ssrc(7), 50_000));
        client.discovered("127.16.0.1:4000".parse().unwrap());
        let select = said(&mut client);
        assert_eq!(select["d"]["data"]["address"], "127.16.0.1");
        client.hear(&description("aead_aes256_gcm_rtpsize")).unwrap();
        let Some(Step::Agreed(agreed)) = client.poll_step() else { panic!() };
        assert_eq!((agreed.key.bytes(), agreed.audio, agreed.video), (&[9; 32], Ssrc(7), None));
        assert_eq!(said(&mut client)["op"], 5);
        let beat = said(&mut client);
        assert_eq!(beat, json!({"op": 3, "d": {"t": 1, "seq_ack": 2}}));
        client.hear(r#"{"op":6,"d":{"t":1}}"#).unwrap();
        assert!(matches!(client.poll_step(), Some(Step::Speak)));
        client.hear(r#"{"op":6,"d":{"t":1}}"#).unwrap();
        assert!(client.poll_step().is_none());
    }

    #[test]
    fn a_camera_is_announced_before_its_first_packet() {
        let mut client = client(true, 9);
        client.hear(HELLO).unwrap();
        let identify = said(&mut client);
        assert_eq!(identify["d"]["streams"][0]["rid"], "100");
        assert_eq!(identify["d"]["channel_id"], "2");
        let streams = r#"[{"type":"video","rid":"100","quality":100,"ssrc":8,"rtx_ssrc":9}]"#;
        client.hear(&ready(streams)).unwrap();
        client.poll_step();
        client.discovered("127.16.0.1:4000".parse().unwrap());
        assert_eq!(said(&mut client)["d"]["codecs"][1]["name"], "H264");
        client.hear(&description("aead_aes256_gcm_rtpsize")).unwrap();
        let Some(Step::Agreed(agreed)) = client.poll_step() else { panic!() };
        assert_eq!(agreed.video, Some(Ssrc(8)));
        assert_eq!(said(&mut client)["op"], 5);
        let video = said(&mut client);
        assert_eq!((&video["op"], &video["d"]["video_ssrc"]), (&json!(12), &json!(8)));
        assert_eq!(said(&mut client)["op"], 3);
    }

    #[test]
    fn before_version_8_heartbeats_are_numbers() {
        let mut client = client(false, 4);
        client.hear(HELLO).unwrap();
        said(&mut client);
        client.handle_heartbeat_due().unwrap();
        assert_eq!(said(&mut client), json!({"op": 3, "d": 1}));
        client.hear(r#"{"op":3,"d":null}"#).unwrap();
        assert_eq!(said(&mut client), json!({"op": 3, "d": 2}), "asked for one");
    }

    #[test]
    fn a_server_that_breaks_the_protocol_is_named_as_such() {
        for (messages, word) in [
            (&["{}"][..], "missing field `op`"),
            (&[r#"{"op":8,"d":{"heartbeat_interval":0}}"#], "interval of 0"),
            (&[r#"{"op":8,"d":{"heartbeat_interval":-1e300}}"#], "interval"),
            (&[HELLO, r#"{"op":2,"d":{"ssrc":7}}"#], "missing field `ip`"),
            (&[r#"{"op":4,"d":{"mode":"aead_aes256_gcm_rtpsize","secret_key":[1]}}"#], "length"),
            (&[description("aead_aes256_gcm_rtpsize").as_str()], "before Ready"),
            (&[ready("[]").as_str(), description("plain").as_str()], "the mode is plain"),
        ] {
            let mut client = client(false, 8);
            let fault = messages.iter().find_map(|text| client.hear(text).err()).unwrap();
            assert!(fault.to_string().contains(word), "{fault}");
        }
        let mut client = client(true, 8);
        assert!(client.hear(&ready("[]")).is_err(), "no SSRC for the camera");
    }

    #[test]
    fn a_mode_that_is_not_offered_and_silence_are_faults() {
        let mut client = client(false, 8);
        client.profile.mode = Mode::XChaCha20Poly1305Rtpsize;
        let fault = client.hear(&ready("[]")).unwrap_err();
        assert_eq!(fault, Fault::ModeNotOffered("aead_xchacha20_poly1305_rtpsize"));
        for _ in 0..UNANSWERED_MAX {
            client.handle_heartbeat_due().unwrap();
        }
        assert_eq!(client.handle_heartbeat_due(), Err(Fault::Unresponsive));
        client.hear(r#"{"op":6,"d":{"t":3}}"#).unwrap();
        client.handle_heartbeat_due().unwrap();
    }
}
