//! What Spacebar does to its tables and its bus when people join, move and leave, done by hand: a
//! real database, a real bus directory, and a stentor that works for both.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    WAIT,
    postgres::Postgres,
    server::{GUILD, Grant, Server, random_hex},
};

/// What Spacebar's region names.
pub const ENDPOINT: &str = "voice.example.org:443";

/// A guild on another region.
pub const FAR_GUILD: u64 = 41_771_983_423_143_999;

/// Channels of [`GUILD`], and one of [`FAR_GUILD`].
pub const CHANNEL: u64 = 127_121_515_262_115_840;
pub const OTHER_CHANNEL: u64 = 127_121_515_262_115_999;
pub const FAR_CHANNEL: u64 = 127_121_515_262_116_111;

/// A private call.
pub const CALL: u64 = 127_121_515_262_117_777;

/// Users 1 to this exist.
const USERS: u64 = 999;

/// The database, the bus, and what was heard on it.
pub struct Spacebar {
    pub postgres: Postgres,
    bus: TempDir,
    heard: Arc<Mutex<Vec<Value>>>,
    talking: Mutex<HashMap<PathBuf, UnixStream>>,
}

impl Spacebar {
    /// Tables with a guild, its channels and users; a bus with one listener.
    pub fn start() -> Self {
        Self::start_on(Postgres::start())
    }

    /// The same in this database, which has empty tables.
    pub fn start_on(postgres: Postgres) -> Self {
        postgres.sql(&format!(
            "INSERT INTO users SELECT generate_series(1, {USERS});
             INSERT INTO guilds VALUES ({GUILD}, NULL), ({FAR_GUILD}, 'far');
             INSERT INTO channels VALUES ({CHANNEL}, 2, {GUILD}), ({OTHER_CHANNEL}, 2, {GUILD}),
               ({FAR_CHANNEL}, 2, {FAR_GUILD}), ({CALL}, 1, NULL);
             INSERT INTO config VALUES ('regions_default', '\"near\"'),
               ('regions_available_0_id', '\"near\"'),
               ('regions_available_0_endpoint', '\"{ENDPOINT}\"'),
               ('regions_available_1_id', '\"far\"'),
               ('regions_available_1_endpoint', '\"far.example.org:443\"');"
        ));
        let bus = TempDir::new().expect("a temporary directory");
        fs::set_permissions(bus.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = UnixListener::bind(bus.path().join("4711.sock")).expect("a socket");
        let ear = heard.clone();
        thread::spawn(move || listen(&listener, &ear));
        Self { postgres, bus, heard, talking: Mutex::default() }
    }

    /// A stentor that learns of changes this way, with more settings.
    pub fn server(&self, events: &str, more: &[(&str, &str)]) -> Server {
        let settings = self.settings(events);
        let mut all: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        all.extend(more);
        Server::with(&all)
    }

    /// Those settings.
    pub fn settings(&self, events: &str) -> Vec<(&'static str, String)> {
        vec![
            ("SPACEBAR_DATABASE", self.postgres.url()),
            ("SPACEBAR_EVENTS", events.to_owned()),
            ("SPACEBAR_SOCKET_PATH", self.bus.path().display().to_string()),
            ("GATEWAY_PUBLIC_ENDPOINT", ENDPOINT.to_owned()),
            ("LOG_LEVEL", "info,stentor=debug".to_owned()),
        ]
    }

    /// Has the region name this endpoint instead of [`ENDPOINT`].
    pub fn point_at(&self, endpoint: &str) {
        self.postgres.sql(&format!(
            "UPDATE config SET value = '\"{endpoint}\"' WHERE key = 'regions_available_0_endpoint'"
        ));
    }

    /// Main gateway op 4 of a user who was nowhere: the row, the two events, and what the client is
    /// told.
    pub fn join(&self, user: u64, channel: u64) -> Grant {
        let grant = self.enter(user, channel);
        self.emit_state(&grant, Some(channel));
        self.emit_server(&grant);
        grant
    }

    /// The row alone.
    pub fn enter(&self, user: u64, channel: u64) -> Grant {
        let (session, token) = (random_hex()[..10].to_owned(), random_hex()[..16].to_owned());
        let guild = guild_of(channel);
        let guild_text = guild.map_or("NULL".to_owned(), |guild| guild.to_string());
        self.postgres.sql(&format!(
            "DELETE FROM voice_states WHERE user_id = {user};
             INSERT INTO voice_states VALUES ({user}, {guild_text}, {channel}, {user}, '{session}',
               '{token}', false, false, false, false, NULL, false, false, NULL);"
        ));
        let server = guild.unwrap_or(channel);
        Grant { endpoint: ENDPOINT.to_owned(), server, channel, user, session, token }
    }

    /// Main gateway op 4 of a user who is in a channel: session and token stay.
    pub fn move_to(&self, grant: &Grant, channel: u64) -> Grant {
        self.postgres.sql(&format!(
            "UPDATE voice_states SET channel_id = {channel} WHERE user_id = {}",
            grant.user
        ));
        self.emit_state(grant, Some(channel));
        self.emit_server(grant);
        Grant { channel, ..grant.clone() }
    }

    /// Makes a stream of this user in his channel; what its owner is told.
    pub fn stream(&self, owner: &Grant, stream: u64) -> Grant {
        self.postgres.sql(&format!(
            "INSERT INTO streams VALUES ({stream}, {}, {}, '{ENDPOINT}');
             UPDATE voice_states SET self_stream = true WHERE user_id = {};",
            owner.user, owner.channel, owner.user
        ));
        self.watch(owner, stream)
    }

    /// A token for this user and stream.
    pub fn watch(&self, viewer: &Grant, stream: u64) -> Grant {
        let token = random_hex()[..16].to_owned();
        self.postgres.sql(&format!(
            "INSERT INTO stream_sessions VALUES ({stream} * 1000 + {}, {stream}, {}, '{token}',
               '{}', false)",
            viewer.user, viewer.user, viewer.session
        ));
        Grant { server: stream, token, ..viewer.clone() }
    }

    /// A user's row: channel, self_stream, self_video.
    pub fn row(&self, user: u64) -> String {
        self.postgres.sql(&Self::row_query(user))
    }

    /// The query behind it.
    pub fn row_query(user: u64) -> String {
        format!(
            "SELECT channel_id, self_stream, self_video FROM voice_states WHERE user_id = {user}"
        )
    }

    /// VOICE_STATE_UPDATE as the bus carries it.
    pub fn emit_state(&self, grant: &Grant, channel: Option<u64>) {
        self.emit_state_with(grant, channel, json!({}));
    }

    /// The same with some fields set.
    pub fn emit_state_with(&self, grant: &Grant, channel: Option<u64>, fields: Value) {
        self.emit(&state_event(grant, channel, fields));
    }

    /// VOICE_SERVER_UPDATE as the bus carries it.
    pub fn emit_server(&self, grant: &Grant) {
        let user = grant.user.to_string();
        self.emit(&json!({"id": user, "event": {"event": "VOICE_SERVER_UPDATE", "user_id": user,
            "data": {"token": grant.token, "guild_id": grant.server.to_string(),
                     "endpoint": ENDPOINT}}}));
    }

    /// Writes an event to every socket of stentor's in the directory, as each of Spacebar's
    /// processes does: over connections that stay.
    pub fn emit(&self, event: &Value) {
        let text = event.to_string();
        let frame = [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
        let mut talking = self.talking.lock().expect("no holder panics");
        for entry in fs::read_dir(self.bus.path()).expect("the bus directory").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("stentor-") {
                continue;
            }
            let path = entry.path();
            let mut written = talking.get_mut(&path).is_some_and(|it| it.write_all(&frame).is_ok());
            if !written && let Ok(mut socket) = UnixStream::connect(&path) {
                written = socket.write_all(&frame).is_ok();
                talking.insert(path, socket);
            }
            // A socket left by a server that was killed takes nothing.
            let _ = written;
        }
    }

    /// Where the bus is.
    pub fn bus(&self) -> &std::path::Path {
        self.bus.path()
    }

    /// The first event heard on the bus that fits, taken out.
    pub fn hear(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + WAIT;
        loop {
            let mut heard = self.heard.lock().expect("no holder panics");
            if let Some(place) = heard.iter().position(&fits) {
                return heard.remove(place);
            }
            assert!(Instant::now() < deadline, "{what}: heard {heard:?}");
            drop(heard);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// VOICE_STATE_UPDATE that says that this user has left.
    pub fn hear_leave(&self, user: u64) -> Value {
        self.hear(&format!("{user} leaves"), |event| is_leave(event, user))
    }

    /// All that was heard and not taken out.
    pub fn heard(&self) -> Vec<Value> {
        self.heard.lock().expect("no holder panics").clone()
    }
}

/// VOICE_STATE_UPDATE of a grant's holder.
pub fn state_event(grant: &Grant, channel: Option<u64>, fields: Value) -> Value {
    let guild = guild_of(grant.channel);
    let mut data = json!({
        "user_id": grant.user.to_string(), "session_id": grant.session,
        "suppress": false, "self_video": false, "self_mute": false, "self_deaf": false,
        "self_stream": null, "request_to_speak_timestamp": null, "mute": false, "deaf": false,
        "channel_id": channel.map(|channel| channel.to_string()),
        "guild_id": channel.and(guild).map(|guild| guild.to_string()),
        "member": {"roles": [], "user": {"id": grant.user.to_string(), "username": "ü"}},
    });
    data.as_object_mut().expect("an object").extend(fields.as_object().expect("fields").clone());
    let mut event = json!({"event": "VOICE_STATE_UPDATE", "data": data});
    let id = match guild {
        Some(guild) => {
            event["guild_id"] = guild.to_string().into();
            guild
        }
        None => grant.channel,
    };
    event["channel_id"] = grant.channel.to_string().into();
    json!({"id": id.to_string(), "event": event})
}

/// Whether the event says that this user is in no channel any more.
pub fn is_leave(event: &Value, user: u64) -> bool {
    event["event"]["event"] == "VOICE_STATE_UPDATE"
        && event["event"]["data"]["user_id"].as_str() == Some(&*user.to_string())
        && event["event"]["data"]["channel_id"].is_null()
}

fn guild_of(channel: u64) -> Option<u64> {
    match channel {
        CALL => None,
        FAR_CHANNEL => Some(FAR_GUILD),
        _ => Some(GUILD),
    }
}

/// Reads frames from whoever connects, as Spacebar's gateway does.
fn listen(listener: &UnixListener, heard: &Arc<Mutex<Vec<Value>>>) {
    for socket in listener.incoming() {
        let Ok(mut socket) = socket else { return };
        let heard = heard.clone();
        thread::spawn(move || {
            let mut length = [0; 4];
            while socket.read_exact(&mut length).is_ok() {
                let mut content = vec![0; u32::from_be_bytes(length) as usize];
                if socket.read_exact(&mut content).is_err() {
                    return;
                }
                let event = serde_json::from_slice(&content).expect("a frame holds JSON");
                heard.lock().expect("no holder panics").push(event);
            }
        });
    }
}
