//! Looks whether a Spacebar can be worked for: tries everything the backend needs, changes nothing.
//! What comes of it is judged by `doctor`, which calls this.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use tokio_postgres::types::Type;

pub use super::region::Regions;
use super::{
    database::{Database, DatabaseError},
    errands::read_regions,
    rabbitmq, unix_bus,
};
use crate::{
    config::{Config, SpacebarEvents, SpacebarSettings},
    control::tls_stream,
};

/// Time for each step towards an address.
const REACH_TIMEOUT: Duration = Duration::from_secs(3);

/// What the official client sends to see whether media gets through, and the first half of the
/// answer (protocol.md §2.2).
const PING: [u8; 8] = [0x13, 0x37, 0xca, 0xfe, 0, 0, 0, 7];
const PONG: [u8; 4] = [0x13, 0x37, 0xf0, 0x0d];

/// Columns that are read or written, and the types they may have.
const COLUMNS: &[(&str, &str, &[&str])] = &[
    ("voice_states", "user_id", ID),
    ("voice_states", "session_id", TEXT),
    ("voice_states", "token", TEXT),
    ("voice_states", "guild_id", ID),
    ("voice_states", "channel_id", ID),
    ("voice_states", "mute", FLAG),
    ("voice_states", "deaf", FLAG),
    ("voice_states", "suppress", FLAG),
    ("voice_states", "self_mute", FLAG),
    ("voice_states", "self_deaf", FLAG),
    ("voice_states", "self_video", FLAG),
    ("voice_states", "self_stream", FLAG),
    ("voice_states", "request_to_speak_timestamp", TIME),
    ("streams", "id", ID),
    ("streams", "owner_id", ID),
    ("streams", "channel_id", ID),
    ("streams", "endpoint", TEXT),
    ("stream_sessions", "stream_id", ID),
    ("stream_sessions", "user_id", ID),
    ("stream_sessions", "session_id", TEXT),
    ("stream_sessions", "token", TEXT),
    ("stream_sessions", "used", FLAG),
    ("channels", "id", ID),
    ("channels", "guild_id", ID),
    ("guilds", "id", ID),
    ("guilds", "region", TEXT),
    ("config", "key", TEXT),
    ("config", "value", ANY),
];
const ID: &[&str] = &["int8"];
const TEXT: &[&str] = &["varchar", "text"];
const FLAG: &[&str] = &["bool"];
const TIME: &[&str] = &["timestamp", "timestamptz"];
const ANY: &[&str] = &["varchar", "text", "json", "jsonb"];

/// Tables and what must be allowed with them.
const RIGHTS: &[(&str, &[&str])] = &[
    ("voice_states", &["SELECT", "UPDATE"]),
    ("streams", &["SELECT", "DELETE"]),
    ("stream_sessions", &["SELECT", "UPDATE", "DELETE"]),
    ("channels", &["SELECT"]),
    ("guilds", &["SELECT"]),
    ("config", &["SELECT"]),
];

/// What was seen.
#[derive(Debug)]
pub struct Checkup {
    /// The database's version, or why there is no connection.
    pub database: Result<String, String>,
    /// What the tables lack; empty if they fit. `None` where there is no database.
    pub schema: Option<Result<Vec<String>, String>>,
    /// Spacebar's regions.
    pub regions: Option<Result<Regions, String>>,
    /// Where its regions should point.
    pub endpoint: String,
    /// How changes are learnt, and whether that way is open.
    pub events: (&'static str, Result<String, String>),
    /// Whether clients get through to the gateway.
    pub gateway: Result<String, String>,
    /// Whether their media does.
    pub media: Result<String, String>,
    /// Where that is.
    pub media_address: SocketAddr,
}

/// Tries everything, one after the other. Needs a Spacebar in the settings.
pub fn look(config: &Config) -> Checkup {
    let media_address = SocketAddr::new(config.media.public_ip, config.media.public_base_port);
    let endpoint = config.gateway.public_endpoint.as_str().to_owned();
    let mut checkup = Checkup {
        database: Err("no spacebar.database is given".to_owned()),
        schema: None,
        regions: None,
        events: ("poll", Err("not tried".to_owned())),
        gateway: reach_gateway(config),
        media: ping(media_address),
        endpoint,
        media_address,
    };
    let Some(settings) = &config.spacebar else { return checkup };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(look_at(settings, &mut checkup)),
        Err(error) => checkup.database = Err(error.to_string()),
    }
    checkup
}

async fn look_at(settings: &SpacebarSettings, checkup: &mut Checkup) {
    let said = |error: DatabaseError| error.to_string();
    let database = match Database::new(&settings.database) {
        Ok(database) => database,
        Err(error) => {
            checkup.database = Err(error.to_string());
            return;
        }
    };
    checkup.database = version(&database).await.map_err(said);
    if checkup.database.is_ok() {
        checkup.schema = Some(schema(&database).await.map_err(said));
        checkup.regions = Some(read_regions(settings, &database).await.map_err(said));
    }
    checkup.events = match &settings.events {
        SpacebarEvents::Unix(directory) => ("unix", unix_bus(directory).await),
        SpacebarEvents::RabbitMq { broker, .. } => {
            let tried = rabbitmq::try_connect(broker).await;
            ("rabbitmq", tried.map(|()| "connected, and may make a queue of its own".to_owned()))
        }
        SpacebarEvents::Notify => ("notify", may_notify(&database).await),
        SpacebarEvents::Poll => ("poll", Ok("the tables are read every second".to_owned())),
    };
}

async fn version(database: &Database) -> Result<String, DatabaseError> {
    let rows = database.ask("SELECT current_setting('server_version')", &[]).await?;
    let version = rows.first().and_then(|row| row.try_get::<_, String>(0).ok());
    Ok(version.unwrap_or_else(|| "of unknown version".to_owned()))
}

/// What is missing, in words.
async fn schema(database: &Database) -> Result<Vec<String>, DatabaseError> {
    const ASK: &str = "SELECT c.table_name::text, c.column_name::text, c.udt_name::text \
                       FROM information_schema.columns c WHERE c.table_schema = ANY \
                       (current_schemas(false)) AND c.table_name = ANY($1)";
    const MAY: &str = "SELECT has_table_privilege($1, $2)";
    let tables: Vec<&str> = RIGHTS.iter().map(|(table, _)| *table).collect();
    let rows = database.ask(ASK, &[(&tables, Type::TEXT_ARRAY)]).await?;
    let found: Vec<(String, String, String)> = rows
        .iter()
        .filter_map(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?, row.try_get(2).ok()?)))
        .collect();
    let mut missing = Vec::new();
    for (table, column, types) in COLUMNS {
        match found.iter().find(|(at, name, _)| at == table && name == column) {
            None => missing.push(format!("{table}.{column} is not there")),
            Some((_, _, kind)) if !types.contains(&kind.as_str()) => {
                missing.push(format!("{table}.{column} is {kind}, not {}", types[0]));
            }
            Some(_) => {}
        }
    }
    for (table, rights) in RIGHTS {
        if !found.iter().any(|(at, _, _)| at == table) {
            continue;
        }
        for right in *rights {
            let rows = database.ask(MAY, &[(table, Type::TEXT), (right, Type::TEXT)]).await?;
            if !rows.first().is_some_and(|row| row.try_get(0).unwrap_or(false)) {
                missing.push(format!("{table}: this user may not {right}"));
            }
        }
    }
    Ok(missing)
}

async fn may_notify(database: &Database) -> Result<String, String> {
    const MAY: &str = "SELECT has_table_privilege('voice_states', 'TRIGGER') \
                       AND has_table_privilege('streams', 'TRIGGER') \
                       AND has_schema_privilege(current_schema(), 'CREATE')";
    let rows = database.ask(MAY, &[]).await.map_err(|error| error.to_string())?;
    match rows.first().is_some_and(|row| row.try_get(0).unwrap_or(false)) {
        true => Ok("triggers may be made".to_owned()),
        false => Err("this user may not make the triggers".to_owned()),
    }
}

/// Whether the directory takes a socket of ours, and who listens there.
async fn unix_bus(directory: &Path) -> Result<String, String> {
    let sockets = unix_bus::sockets(directory).map_err(|error| error.to_string())?;
    let trial = directory.join(format!("stentor-{}.trial", std::process::id()));
    let made = tokio::net::UnixListener::bind(&trial);
    let _ = std::fs::remove_file(&trial);
    made.map_err(|error| format!("no socket can be made there: {error}"))?;
    let mut listeners = 0;
    for socket in &sockets {
        match tokio::net::UnixStream::connect(socket).await {
            Ok(_) => listeners += 1,
            // Left behind by a process that has ended.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(format!("{}: {error}", socket.display())),
        }
    }
    match listeners {
        0 => {
            Err("nobody listens there: Spacebar is not running, or not with this directory".into())
        }
        count => Ok(format!("{count} of Spacebar's processes listen there")),
    }
}

/// Connects as a client does, to the address that clients are told.
fn reach_gateway(config: &Config) -> Result<String, String> {
    use std::io::{Read, Write};
    use std::net::{TcpStream, ToSocketAddrs};
    let endpoint = &config.gateway.public_endpoint;
    let host = endpoint.host();
    let mut addresses = endpoint
        .as_str()
        .to_socket_addrs()
        .map_err(|error| format!("{host} has no address: {error}"))?;
    let connected = addresses
        .find_map(|address| TcpStream::connect_timeout(&address, REACH_TIMEOUT).ok())
        .ok_or_else(|| format!("nothing answers at {endpoint}"))?;
    let told = |error: std::io::Error| error.to_string();
    connected.set_read_timeout(Some(REACH_TIMEOUT)).map_err(told)?;
    connected.set_write_timeout(Some(REACH_TIMEOUT)).map_err(told)?;
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::from(address),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?,
    };
    let client = tls_stream::client_config().map_err(told)?;
    let client = ClientConnection::new(client, name).map_err(|error| error.to_string())?;
    let mut stream = StreamOwned::new(client, connected);
    let request = format!(
        "GET /?v=8 HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(|error| format!("no TLS: {error}"))?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).map_err(|error| format!("no WebSocket: {error}"))?;
    match answer.starts_with(b"HTTP/1.1 101") {
        true => Ok(format!("{endpoint} answers as a voice gateway, with a trusted certificate")),
        false => Err(format!("{endpoint} is no WebSocket: does a proxy stand in between?")),
    }
}

/// Sends what clients send to see whether media gets through.
fn ping(address: SocketAddr) -> Result<String, String> {
    let told = |error: std::io::Error| error.to_string();
    let any: IpAddr = match address {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0)).map_err(told)?;
    socket.connect(address).map_err(told)?;
    socket.set_read_timeout(Some(REACH_TIMEOUT / 3)).map_err(told)?;
    let mut answer = [0; 8];
    for _ in 0..3 {
        if socket.send(&PING).is_ok()
            && socket.recv(&mut answer).is_ok_and(|length| answer[..length].starts_with(&PONG))
        {
            return Ok(format!("UDP {address} answers"));
        }
    }
    Err(format!("UDP {address} does not answer"))
}
