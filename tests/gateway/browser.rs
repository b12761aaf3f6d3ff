//! A browser over real sockets: str0m speaks ICE, DTLS (by OpenSSL) and SRTP, this file the
//! signalling around it as web clients do (protocol.md §3).

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Once,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use str0m::{
    Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig,
    config::Fingerprint,
    ice::IceCreds,
    media::{MediaKind, Mid},
    net::{Protocol, Receive},
    rtp::{ExtensionValues, RtpPacket, RtpWrite, Ssrc},
};

use crate::support::{
    WAIT,
    client::u32_of,
    gateway::{Door, Gateway, Message},
    server::Server,
};

/// What str0m calls Opus.
pub const OPUS: u8 = 111;

/// A camera's payload types as a browser has them: of H264, and of its retransmissions.
pub type Camera = [u8; 2];

/// One joined browser.
pub struct Browser {
    pub gateway: Gateway,
    pub ready: Message,
    /// op 4.
    pub description: Message,
    pub rtc: Rtc,
    /// The SSRC it chose for its microphone.
    pub ssrc: u32,
    socket: UdpSocket,
    connected: bool,
    voice: Mid,
    sequence: u64,
    timestamp: u32,
    /// The SSRC it chose for its camera; the next is that of the retransmissions.
    pub camera: u32,
    video: Mid,
    pictures: (u64, u32),
    h264: u8,
    /// How often it was asked for a keyframe.
    pub keyframes_asked: usize,
    heard: VecDeque<RtpPacket>,
}

impl Browser {
    /// Joins over plaintext and waits until its transport is up.
    pub fn join(server: &Server, channel: u64, user: u64) -> Self {
        Self::join_by(server, channel, user, Door::plain(8))
    }

    /// Joins through this door.
    pub fn join_by(server: &Server, channel: u64, user: u64, door: Door) -> Self {
        Self::join_as(server, channel, user, door, None)
    }

    /// Joins with a camera that speaks H264 and is off.
    pub fn join_with_camera(server: &Server, channel: u64, user: u64, camera: Camera) -> Self {
        Self::join_as(server, channel, user, Door::plain(9), Some(camera))
    }

    fn join_as(
        server: &Server,
        channel: u64,
        user: u64,
        door: Door,
        camera: Option<Camera>,
    ) -> Self {
        static CRYPTO: Once = Once::new();
        CRYPTO.call_once(|| str0m::crypto::from_feature_flags().install_process_default());
        let grant = server.grant(channel, user);
        let mut gateway = Gateway::open(server, door);
        gateway.identify_with(&grant, json!({ "video": camera.is_some() }));
        let ready = gateway.expect(2);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let mut config = RtcConfig::new()
            .set_rtp_mode(true)
            .set_dtls_version(str0m::config::DtlsVersion::Dtls12)
            .clear_codecs()
            .enable_opus(true, false);
        if let Some([media, again]) = camera {
            config.codec_config().add_h264(media.into(), Some(again.into()), true, 0x42_e01f);
        }
        let mut rtc = config.build(Instant::now());
        let own = socket.local_addr().expect("bound");
        rtc.add_local_candidate(Candidate::host(own, "udp").expect("an address"));
        let voice: Mid = "0".into();
        let ssrc = 0x0BAD_0000 | user as u32;
        let mut api = rtc.direct_api();
        api.set_ice_controlling(true);
        api.declare_media(voice, MediaKind::Audio);
        api.declare_stream_tx(ssrc.into(), None, voice, None);
        let (video, pictures): (Mid, u32) = ("1".into(), 0x0CAD_0000 | (user as u32) << 4);
        if camera.is_some() {
            api.declare_media(video, MediaKind::Video);
            api.declare_stream_tx(pictures.into(), Some((pictures + 1).into()), video, None);
        }
        let offer = offer(&api.local_ice_credentials(), api.local_dtls_fingerprint());
        let mut codecs =
            vec![json!({"name": "opus", "type": "audio", "priority": 1000, "payload_type": OPUS})];
        codecs.extend(camera.map(|[media, again]| {
            json!({"name": "H264", "type": "video", "priority": 2000, "payload_type": media,
                "rtx_payload_type": again, "encode": true, "decode": true})
        }));
        gateway
            .send(1, json!({"protocol": "webrtc", "data": offer, "sdp": offer, "codecs": codecs}));
        let description = gateway.expect(4);
        answer(&mut rtc, &description.d);
        let mut browser = Self {
            gateway,
            ready,
            description,
            rtc,
            ssrc,
            socket,
            connected: false,
            voice,
            sequence: 1_000,
            timestamp: 48_000,
            camera: pictures,
            video,
            pictures: (2_000, 90_000),
            h264: camera.map_or(0, |[media, _]| media),
            keyframes_asked: 0,
            heard: VecDeque::new(),
        };
        browser.run_until("connected", |browser| browser.connected);
        browser
    }

    /// Says that it speaks, waits until the server has taken note.
    pub fn start_speaking(&mut self) {
        let ssrc = self.ssrc;
        self.gateway
            .send(12, json!({"audio_ssrc": ssrc, "video_ssrc": 0, "rtx_ssrc": 0, "streams": []}));
        self.gateway.send(5, json!({ "speaking": 1, "delay": 0, "ssrc": ssrc }));
        let heard = self.gateway.drain();
        self.gateway.keep(heard);
    }

    /// Turns its camera on, waits until the server has taken note.
    pub fn show_camera(&mut self) {
        let (audio, camera) = (self.ssrc, self.camera);
        let layer = json!({"type": "video", "rid": "100", "ssrc": camera, "rtx_ssrc": camera + 1,
            "active": true, "quality": 100, "max_bitrate": 2_500_000, "max_framerate": 30,
            "max_resolution": {"type": "fixed", "width": 1280, "height": 720}});
        self.gateway.send(
            12,
            json!({"audio_ssrc": audio, "video_ssrc": camera, "rtx_ssrc": camera + 1,
                "streams": [layer]}),
        );
        let heard = self.gateway.drain();
        self.gateway.keep(heard);
    }

    /// It is to see somebody of whom op 12 told it.
    pub fn watch(&mut self, ssrc: u32) {
        let again = Some((ssrc + 1).into());
        self.rtc.direct_api().expect_stream_rx(ssrc.into(), again, self.video, None);
    }

    /// Sends a packet of the present picture, the last one with its marker.
    pub fn film(&mut self, payload: &[u8], last: bool) {
        let (sequence, timestamp) = self.pictures;
        let mut api = self.rtc.direct_api();
        let stream = api.stream_tx(&Ssrc::from(self.camera)).expect("declared");
        let packet =
            RtpWrite::new(self.h264.into(), sequence.into(), timestamp, Instant::now(), payload);
        stream.write_rtp(packet.marker(last).nackable(true));
        self.pictures = (sequence + 1, timestamp + if last { 3_000 } else { 0 });
        self.turn(Duration::ZERO);
    }

    /// Whether nothing was heard or seen that was not taken yet.
    pub fn has_heard_all(&self) -> bool {
        self.heard.is_empty()
    }

    /// It is to hear somebody of whom op 12 told it.
    pub fn listen_to(&mut self, ssrc: u32) {
        let voice = self.voice;
        self.rtc.direct_api().expect_stream_rx(Ssrc::from(ssrc), None, voice, None);
    }

    /// Says the next 20 ms.
    pub fn speak(&mut self, payload: &[u8]) {
        let levels = ExtensionValues {
            audio_level: Some(-30),
            voice_activity: Some(true),
            ..Default::default()
        };
        let mut api = self.rtc.direct_api();
        let stream = api.stream_tx(&Ssrc::from(self.ssrc)).expect("declared");
        let packet = RtpWrite::new(
            OPUS.into(),
            self.sequence.into(),
            self.timestamp,
            Instant::now(),
            payload,
        );
        stream.write_rtp(packet.ext_vals(levels));
        self.sequence += 1;
        self.timestamp = self.timestamp.wrapping_add(960);
        self.turn(Duration::ZERO);
    }

    /// The next packet that it hears.
    pub fn hear(&mut self) -> RtpPacket {
        self.run_until("a packet", |browser| !browser.heard.is_empty());
        self.heard.pop_front().expect("one was heard")
    }

    /// Lets str0m work until something is the case.
    pub fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + WAIT;
        while !done(self) {
            assert!(Instant::now() < deadline, "waited {WAIT:?} in vain: {what}");
            self.turn(Duration::from_millis(20));
        }
    }

    /// Sends what there is to send, then takes what arrives within a while.
    fn turn(&mut self, longest: Duration) {
        let wait = self.drain().saturating_duration_since(Instant::now()).min(longest);
        let mut buffer = [0; 2_048];
        self.socket.set_nonblocking(wait.is_zero()).expect("a socket");
        if !wait.is_zero() {
            self.socket.set_read_timeout(Some(wait)).expect("a timeout above zero");
        }
        if let Ok((len, source)) = self.socket.recv_from(&mut buffer) {
            let destination = self.socket.local_addr().expect("bound");
            let now = Instant::now();
            let contents = buffer[..len].try_into().expect("STUN, DTLS, RTP or RTCP");
            let receive = Receive { proto: Protocol::Udp, source, destination, contents };
            self.rtc.handle_input(Input::Receive(now, receive)).expect("str0m takes it");
        } else {
            self.rtc.handle_input(Input::Timeout(Instant::now())).expect("str0m lives");
        }
        self.drain();
    }

    /// Sends what there is to send, and gives when str0m next needs its clock.
    fn drain(&mut self) -> Instant {
        loop {
            match self.rtc.poll_output().expect("str0m lives") {
                Output::Timeout(at) => return at,
                Output::Transmit(transmit) => {
                    // What loopback refuses is lost, as on any network.
                    let _ = self.socket.send_to(&transmit.contents, transmit.destination);
                }
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::IceConnectionStateChange(state)) => {
                    assert_ne!(state, IceConnectionState::Disconnected, "ICE gave up");
                }
                Output::Event(Event::RtpPacket(packet)) => self.heard.push_back(packet),
                Output::Event(Event::KeyframeRequest(_)) => self.keyframes_asked += 1,
                Output::Event(_) => {}
            }
        }
    }
}

/// The lines that a web client cuts out of its offer. Numbers of extensions are str0m's own.
fn offer(own: &IceCreds, fingerprint: &Fingerprint) -> String {
    format!(
        "a=extmap-allow-mixed\n\
         a=ice-ufrag:{}\n\
         a=ice-pwd:{}\n\
         a=fingerprint:{fingerprint}\n\
         a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\n\
         a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\n\
         a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\n\
         a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\n\
         a=rtpmap:{OPUS} opus/48000/2",
        own.ufrag, own.pass,
    )
}

/// Reads op 4 as a web client does: line by line, by prefix.
fn answer(rtc: &mut Rtc, d: &Value) {
    let sdp = d["sdp"].as_str().expect("op 4 has an sdp");
    let value = |prefix: &str| {
        let line = sdp.lines().find_map(|line| line.strip_prefix(prefix));
        line.unwrap_or_else(|| panic!("{prefix} in {sdp}")).to_owned()
    };
    let candidate = value("a=candidate:");
    let words: Vec<&str> = candidate.split(' ').collect();
    let address =
        SocketAddr::new(words[4].parse().expect("an address"), words[5].parse().expect("a port"));
    rtc.add_remote_candidate(Candidate::host(address, "udp").expect("an address"));
    let mut api = rtc.direct_api();
    api.set_remote_ice_credentials(IceCreds {
        ufrag: value("a=ice-ufrag:"),
        pass: value("a=ice-pwd:"),
    });
    api.set_remote_fingerprint(value("a=fingerprint:").parse().expect("a fingerprint"));
    api.start_dtls(true).expect("a client of DTLS");
}

/// By which SSRC a user's camera is seen, from the op 12 that says so.
pub fn video_ssrc(gateway: &mut Gateway, user: u64) -> u32 {
    let user = user.to_string();
    let told = gateway.expect_where("op 12 of a camera", |message| {
        message.op == 12 && message.d["user_id"] == *user && message.d["video_ssrc"] != 0
    });
    u32_of(&told.d["video_ssrc"])
}

/// By which SSRC a user is heard, from the op 12 that says so.
pub fn audio_ssrc(gateway: &mut Gateway, user: u64) -> u32 {
    let user = user.to_string();
    let told = gateway.expect_where("op 12 of a speaker", |message| {
        message.op == 12 && message.d["user_id"] == *user && message.d["audio_ssrc"] != 0
    });
    u32_of(&told.d["audio_ssrc"])
}
