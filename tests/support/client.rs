//! A whole client: WebSocket and UDP, joined as protocol.md §1.5 says.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::{
    cipher::Mode,
    gateway::{Door, Gateway, Message},
    media::Media,
    server::{Grant, Server},
};

/// One joined client.
pub struct Client {
    pub gateway: Gateway,
    pub media: Media,
    pub grant: Grant,
    /// op 2.
    pub ready: Message,
    /// op 4.
    pub description: Message,
}

impl Client {
    /// Joins over plaintext, version 8, AES.
    pub fn join(server: &Server, channel: u64, user: u64) -> Self {
        let grant = server.grant(channel, user);
        Self::enter(server, &grant, Door::plain(8), Mode::AesRtpsize, json!({}))
    }

    /// Joins in this mode.
    pub fn join_in(server: &Server, channel: u64, user: u64, mode: Mode) -> Self {
        let grant = server.grant(channel, user);
        Self::enter(server, &grant, Door::plain(8), mode, json!({}))
    }

    /// Joins through this door.
    pub fn join_by(server: &Server, channel: u64, user: u64, door: Door) -> Self {
        let grant = server.grant(channel, user);
        Self::enter(server, &grant, door, Mode::AesRtpsize, json!({}))
    }

    /// Joins with this grant and more fields in Identify.
    pub fn enter(server: &Server, grant: &Grant, door: Door, mode: Mode, identify: Value) -> Self {
        let mut gateway = Gateway::open(server, door);
        gateway.identify_with(grant, identify);
        Self::negotiate(gateway, grant, mode)
    }

    /// Everything after Identify.
    pub fn negotiate(mut gateway: Gateway, grant: &Grant, mode: Mode) -> Self {
        let ready = gateway.expect(2);
        Self::negotiate_after(ready, gateway, grant, mode)
    }

    /// Everything after Ready.
    pub fn negotiate_after(
        ready: Message,
        mut gateway: Gateway,
        grant: &Grant,
        mode: Mode,
    ) -> Self {
        let mut media = Media::new(shard(&ready), u32_of(&ready.d["ssrc"]));
        let seen = media.discover();
        let description = select(&mut gateway, &mut media, mode, &seen.text, seen.port);
        Self { gateway, media, grant: grant.clone(), ready, description }
    }

    /// Says that it speaks, waits until the server has taken note.
    pub fn start_speaking(&mut self) {
        self.speaking(1);
    }

    /// Sends op 5 and waits until the server has taken note.
    pub fn speaking(&mut self, flags: u8) {
        let d = json!({ "speaking": flags, "delay": 0, "ssrc": self.media.ssrc });
        self.gateway.send(5, d);
        let heard = self.gateway.drain();
        self.gateway.keep(heard);
    }
}

/// Where Ready says media goes.
pub fn shard(ready: &Message) -> SocketAddr {
    let ip: IpAddr =
        ready.d["ip"].as_str().and_then(|ip| ip.parse().ok()).expect("Ready.ip is an address");
    let port = ready.d["port"].as_u64().and_then(|port| port.try_into().ok()).expect("Ready.port");
    (ip, port).into()
}

/// op 1, op 4, and the key into the media.
pub fn select(
    gateway: &mut Gateway,
    media: &mut Media,
    mode: Mode,
    address: &str,
    port: u16,
) -> Message {
    let data = json!({ "address": address, "port": port, "mode": mode.name() });
    gateway.send(1, json!({ "protocol": "udp", "data": data }));
    let description = gateway.expect(4);
    assert_eq!(description.d["mode"], mode.name());
    media.set_key(mode, key(&description));
    description
}

/// The key of a Session Description: an array of exactly 32 bytes.
pub fn key(description: &Message) -> [u8; 32] {
    let key: Vec<u8> = serde_json::from_value(description.d["secret_key"].clone()).expect("bytes");
    key.try_into().expect("32 bytes of key")
}

/// A number of a message, as an SSRC.
pub fn u32_of(value: &Value) -> u32 {
    value.as_u64().and_then(|number| number.try_into().ok()).expect("an SSRC")
}
