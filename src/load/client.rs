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

use super::{
    offer::{self, Remote},
    voice::{Agreed, Keys},
};
use crate::{
    crypto::{Mode, SecretKey, Srtp},
    grant::Ticket,
    id::Ssrc,
    webrtc::{Credentials, Fingerprint},
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
    /// Whether it takes video.
    pub video: bool,
    /// Whether it shows any.
    pub camera: bool,
}

/// How it carries media.
#[derive(Debug)]
pub enum Carriage {
    /// Over plain UDP, in this mode.
    Udp(Mode),
    /// As browsers do.
    WebRtc(Box<Browser>),
}

/// What a browser brings along.
#[derive(Debug, Clone)]
pub struct Browser {
    /// Its side of ICE.
    pub credentials: Credentials,
    /// Of its certificate.
    pub fingerprint: Fingerprint,
    /// The SSRCs it has chosen: its microphone's, its camera's, and of the camera's
    /// retransmissions.
    pub ssrcs: [Ssrc; 3],
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
    /// Make a browser's transport to the server, then call [`Client::connected`].
    Connect(Remote),
    /// There are keys: media may flow.
    Agreed(Agreed),
    /// The server has taken note that we speak: what is sent from now on may be heard.
    Speak,
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
    carriage: Carriage,
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
    pub fn new(profile: Profile, carriage: Carriage, ticket: Ticket) -> Self {
        Self {
            profile,
            carriage,
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
        let Carriage::Udp(mode) = self.carriage else { return };
        let data = json!({
            "address": address.ip().to_string(),
            "port": address.port(),
            "mode": mode.name(),
        });
        let opus = json!({"name": "opus", "type": "audio", "priority": 1000,
            "payload_type": AUDIO_PAYLOAD_TYPE});
        let h264 = json!({"name": "H264", "type": "video", "priority": 1000,
            "payload_type": VIDEO_PAYLOAD_TYPE, "rtx_payload_type": RTX_PAYLOAD_TYPE,
            "encode": true, "decode": true});
        let codecs = if self.profile.video { vec![opus, h264] } else { vec![opus] };
        self.say(1, json!({"protocol": "udp", "data": data, "codecs": codecs}));
    }

    /// A browser's transport is made.
    pub fn connected(&mut self, srtp: Srtp) {
        let Carriage::WebRtc(browser) = &self.carriage else { return };
        let Some(server) = self.server else { return };
        let [audio, video, rtx] = browser.ssrcs;
        let rid = self.video.as_ref().and_then(|layer| layer.rid.clone());
        let camera = Layer { rid, ssrc: video, rtx_ssrc: Some(rtx) };
        let camera = Some(camera).filter(|_| self.profile.camera);
        self.agree(server, Keys::WebRtc(srtp), audio, camera);
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
        if let Carriage::Udp(mode) = self.carriage
            && !ready.modes.iter().any(|offered| offered == mode.name())
        {
            return Err(Fault::ModeNotOffered(mode.name()));
        }
        self.audio = ready.ssrc;
        self.video = ready.streams.into_iter().next();
        if self.profile.camera && self.video.is_none() {
            let problem = "no stream for the layer we asked for".to_owned();
            return Err(Fault::Malformed { what: "Ready (op 2)", problem });
        }
        let server = SocketAddr::new(ready.ip, ready.port);
        self.server = Some(server);
        match &self.carriage {
            Carriage::Udp(_) => {
                self.steps.push_back(Step::Discover { ssrc: ready.ssrc, server });
            }
            Carriage::WebRtc(browser) => {
                let offer = offer::offer(&browser.credentials, &browser.fingerprint);
                let codecs = offer::codecs(self.profile.video);
                self.say(
                    1,
                    json!({"protocol": "webrtc", "data": offer, "sdp": offer, "codecs": codecs}),
                );
            }
        }
        Ok(())
    }

    fn hear_description(&mut self, d: &str) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Udp {
            mode: String,
            secret_key: [u8; 32],
        }
        #[derive(Deserialize)]
        struct WebRtc {
            sdp: String,
        }
        const WHAT: &str = "Session Description (op 4)";
        let malformed = |problem| Fault::Malformed { what: WHAT, problem };
        let Carriage::Udp(mode) = self.carriage else {
            let WebRtc { sdp } = parse(WHAT, d)?;
            let remote = Remote::read(&sdp);
            let remote = remote.map_err(|line| malformed(format!("its SDP lacks {line}")))?;
            self.server = Some(remote.address);
            self.steps.push_back(Step::Connect(remote));
            return Ok(());
        };
        let description: Udp = parse(WHAT, d)?;
        if description.mode != mode.name() {
            return Err(malformed(format!("the mode is {}", description.mode)));
        }
        let server = self.server.ok_or_else(|| malformed("it came before Ready".to_owned()))?;
        let camera = self.video.clone().filter(|_| self.profile.camera);
        let keys = Keys::Udp(mode, SecretKey::new(description.secret_key));
        self.agree(server, keys, self.audio, camera);
        Ok(())
    }

    /// Media may flow; the server is told of what, if it has not been told.
    fn agree(&mut self, server: SocketAddr, keys: Keys, audio: Ssrc, camera: Option<Layer>) {
        let video = camera.as_ref().map(|layer| layer.ssrc);
        self.steps.push_back(Step::Agreed(Agreed { server, keys, audio, video }));
        if self.stage != Stage::Joining {
            return;
        }
        self.say(5, json!({"speaking": 1, "delay": 0, "ssrc": audio}));
        if let Some(Layer { rid, ssrc, rtx_ssrc }) = camera {
            let rtx = rtx_ssrc.unwrap_or(Ssrc(ssrc.0.wrapping_add(1)));
            let layer = json!({"type": "video", "rid": rid, "quality": 100, "active": true,
                "ssrc": ssrc, "rtx_ssrc": rtx});
            self.say(
                12,
                json!({"audio_ssrc": audio, "video_ssrc": ssrc, "rtx_ssrc": rtx,
                    "streams": [layer]}),
            );
        } else if matches!(self.carriage, Carriage::WebRtc(_)) {
            // Browsers say it without a camera too: by it others of their kind learn of them.
            self.say(
                12,
                json!({"audio_ssrc": audio, "video_ssrc": 0, "rtx_ssrc": 0, "streams": []}),
            );
        }
        // Its answer says that what was said before it has been read.
        self.stage = Stage::Announcing(self.beat());
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
#[path = "client_tests.rs"]
mod tests;
