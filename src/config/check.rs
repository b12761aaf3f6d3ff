//! From texts to a checked `Config`: what is read from where, what holds when nobody says, and the
//! rules between settings: nothing leaves loopback without a certificate and a secret, and clients
//! are never told an address or port they cannot use. What a text means by itself is `parse.rs`.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    Config, ConfigError, ConnectionsPerAddress, Control, ControlAccess, Development, Endpoint,
    Flags, Gateway, KEY_BYTES_MIN, Log, LogFormat, Media, Origin, Plaintext, Secret, TlsFiles,
    Webhook,
    parse::{self, Complaint, complain},
    settings::{Environment, Layers},
    spacebar::{backends, spacebar},
    state::{self, Kept, StateDir},
};
use crate::sfu::E2ee;

/// Shards a server may have: the UDP ports of more would not fit beside each other.
const SHARDS_MAX: u16 = 1_024;

/// Fewest bytes of a secret that is all that stands between a network and the control API.
const SECRET_BYTES_MIN: usize = 16;

/// A setting's meaning and where it came from.
pub(super) struct Given<T> {
    pub(super) value: T,
    origin: Origin,
}

/// Asks the layers and gives complaints their key and origin.
pub(super) struct Reader<'a>(Layers<'a>);

impl Reader<'_> {
    pub(super) fn find<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Result<Option<Given<T>>, ConfigError> {
        let Some((text, origin)) = self.0.get(key) else { return Ok(None) };
        match parse(text.trim()) {
            Ok(value) => Ok(Some(Given { value, origin })),
            Err(complaint) => Err(refuse(key, origin, complaint)),
        }
    }

    pub(super) fn get<T>(
        &self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Result<Given<T>, ConfigError> {
        let found = self.find(key, parse)?;
        Ok(found.unwrap_or(Given { value: default, origin: Origin::Default }))
    }

    /// A complaint about a setting whose text is fine by itself, or missing.
    pub(super) fn object<T>(
        &self,
        key: &'static str,
        problem: impl Display,
        remedy: impl Display,
    ) -> Result<T, ConfigError> {
        let origin = self.0.get(key).map_or(Origin::Default, |(_, origin)| origin);
        complain(problem, remedy).map_err(|complaint| refuse(key, origin, complaint))
    }

    /// A secret given by text or by file. The stronger source wins; both from one source is a
    /// contradiction.
    pub(super) fn secret_text(
        &self,
        key: &'static str,
        file_key: &'static str,
    ) -> Result<Option<Given<(&'static str, String)>>, ConfigError> {
        let text = self.0.get(key);
        let file = self.0.get(file_key);
        if let (Some((_, a)), Some((_, b))) = (&text, &file)
            && a.rank() == b.rank()
        {
            return self.object(key, format!("{file_key} is given too"), "give one of the two");
        }
        match (text, file) {
            (Some((text, origin)), file)
                if file.as_ref().is_none_or(|(_, other)| origin.rank() < other.rank()) =>
            {
                Ok(Some(Given { value: (key, text), origin }))
            }
            (_, Some((path, origin))) => match state::read_secret_file(Path::new(&path)) {
                Ok(text) => Ok(Some(Given { value: (file_key, text), origin })),
                Err(error) => self.object(
                    file_key,
                    format!("cannot read {path}: {error}"),
                    "name a file that this user can read and that holds the secret alone",
                ),
            },
            _ => Ok(None),
        }
    }
}

fn refuse(key: &'static str, origin: Origin, complaint: Complaint) -> ConfigError {
    ConfigError::Setting { key, origin, problem: complaint.problem, remedy: complaint.remedy }
}

/// All settings. See [`Config::load`].
pub(super) fn config(
    flags: &Flags,
    environment: Environment<'_>,
    made: Development,
) -> Result<Config, ConfigError> {
    let reader = Reader(Layers::read(flags, environment)?);
    let state_dir = state_dir(&reader)?;
    let mut notices = Vec::new();

    let listen = gateway_listen(&reader)?;
    let control_listen = control_listen(&reader)?;
    let shards = shards(&reader)?;
    let media = media(&reader, listen.value, shards)?;
    if media.public_ip.is_ipv6() {
        notices.push(
            "media.public_ip is an IPv6 address: several client libraries only speak IPv4 UDP"
                .to_owned(),
        );
    }
    let exposed = [
        ("gateway.listen", listen.value.ip()),
        ("media.listen", media.listen),
        ("control.listen", control_listen.ip()),
    ]
    .into_iter()
    .find(|(_, address)| !address.to_canonical().is_loopback());
    let because = exposed.map(|(key, address)| format!("{key} is {address}, not loopback"));
    if !control_listen.ip().to_canonical().is_loopback() {
        notices.push("control.listen is not loopback and speaks plain HTTP: keep it inside a trusted network".to_owned());
    }

    let plaintext = reader.get("gateway.plaintext", Plaintext::Loopback, parse::plaintext)?.value;
    let tls = tls(&reader, plaintext, because.as_deref())?;
    let certificate_given = tls.is_some();
    let state = StateDir(&state_dir);
    // A key that only this server knows is of use where its operator tries things out. Elsewhere
    // signed tokens are off until a key is given, and nothing is written.
    let key_made = if because.is_some() { Development::Imagine } else { made };
    let tls = match (tls, &because) {
        (None, None) if made == Development::Persist => {
            let files = state.certificate(SystemTime::now())?;
            notices.push(format!(
                "development certificate: {} (clients must be told to trust it)",
                files.certificate.display()
            ));
            Some(files)
        }
        (None, None) => Some(state.tls_files()),
        (given, _) => given,
    };

    let secret_given = control_secret(&reader, because.is_some())?;
    let keeps_to_itself = because.is_none() && secret_given.is_none();
    let secret = match secret_given {
        Some(secret) => secret,
        None => {
            if let Some(because) = because {
                return reader.object(
                    "control.secret_file",
                    format!("required because {because}"),
                    format!("write a secret of at least {SECRET_BYTES_MIN} bytes into a file and name it here"),
                );
            }
            notices.push(format!(
                "development control secret: {}",
                state.path_of(Kept::ControlSecret).display()
            ));
            Secret::new(development_secret(&state, Kept::ControlSecret, made)?)
        }
    };

    let spacebar = spacebar(&reader)?;
    let backends = backends(&reader, spacebar.as_ref())?;
    let public_endpoint = public_endpoint(&reader, listen.value)?;
    // A proxy that leads the world to a loopback listener needs one of these from its operator.
    let development = keeps_to_itself
        && !certificate_given
        && plaintext != Plaintext::Always
        && public_endpoint.is_loopback();
    Ok(Config {
        backends,
        spacebar,
        gateway: Gateway {
            listen: listen.value,
            tls,
            plaintext,
            public_endpoint,
            connections_per_address: connections_per_address(&reader)?,
        },
        media,
        shards,
        control: Control {
            listen: control_listen,
            secret,
            webhook: webhook(&reader)?,
            speaking_events: reader.get("control.speaking_events", false, parse::switch)?.value,
        },
        token_key: token_key(&reader, &state, key_made)?,
        modes: modes(&reader, &mut notices)?,
        e2ee: reader.get("e2ee", E2ee::Optional, parse::e2ee)?.value,
        resume_window: reader
            .get("resume_window", Duration::from_secs(60), parse::resume_window)?
            .value,
        development,
        log: Log {
            format: reader.get("log.format", LogFormat::Text, parse::log_format)?.value,
            level: reader.get("log.level", "info".to_owned(), parse::log_level)?.value,
        },
        state_dir,
        notices,
    })
}

/// See [`ControlAccess::load`].
pub(super) fn control_access(
    flags: &Flags,
    environment: Environment<'_>,
) -> Result<ControlAccess, ConfigError> {
    let reader = Reader(Layers::read(flags, environment)?);
    let mut address = control_listen(&reader)?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let secret = match control_secret(&reader, false)? {
        Some(secret) => secret,
        None => {
            let path = state_dir(&reader)?;
            let state = StateDir(&path);
            match state.find_secret(Kept::ControlSecret)? {
                Some(text) => Secret::new(text),
                None => {
                    return Err(ConfigError::State {
                        path: state.path_of(Kept::ControlSecret),
                        problem: "no server has made a control secret here yet".to_owned(),
                        remedy: "start `stentor serve` first, or give the server's control.secret_file or state_dir"
                            .to_owned(),
                    });
                }
            }
        }
    };
    Ok(ControlAccess { address, secret })
}

fn gateway_listen(reader: &Reader<'_>) -> Result<Given<SocketAddr>, ConfigError> {
    let listen =
        reader.get("gateway.listen", (Ipv4Addr::LOCALHOST, 8443).into(), parse::socket_address)?;
    if listen.value.port() == 0 {
        return reader.object(
            "gateway.listen",
            "port 0 would be another port for every shard",
            "name the port, such as 127.0.0.1:8443",
        );
    }
    Ok(listen)
}

fn control_listen(reader: &Reader<'_>) -> Result<SocketAddr, ConfigError> {
    Ok(reader
        .get("control.listen", (Ipv4Addr::LOCALHOST, 8080).into(), parse::socket_address)?
        .value)
}

fn shards(reader: &Reader<'_>) -> Result<NonZeroU16, ConfigError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = u16::try_from(cores).unwrap_or(SHARDS_MAX).min(SHARDS_MAX);
    let default = NonZeroU16::new(cores).unwrap_or(NonZeroU16::MIN);
    Ok(reader.get("shards", default, |text| parse::number(text, 1, SHARDS_MAX.into()))?.value)
}

fn media(
    reader: &Reader<'_>,
    gateway: SocketAddr,
    shards: NonZeroU16,
) -> Result<Media, ConfigError> {
    let local = gateway.ip().to_canonical().is_loopback();
    let default = if local { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let listen = reader.get("media.listen", default.into(), parse::ip_address)?.value;
    let public_ip = match reader.find("media.public_ip", parse::public_ip)? {
        Some(given) => given.value,
        None if !listen.is_unspecified() => listen,
        None if local => Ipv4Addr::LOCALHOST.into(),
        None => {
            return reader.object(
                "media.public_ip",
                format!("required because media.listen is {listen}, which clients cannot send to"),
                "give the address clients reach this machine at, such as 203.0.113.7",
            );
        }
    };
    let base_port = base_port(reader, "media.base_port", 50_000, shards)?;
    Ok(Media {
        listen,
        base_port,
        public_ip,
        public_base_port: self::base_port(reader, "media.public_base_port", base_port, shards)?,
        gso: reader.get("media.gso", true, parse::switch)?.value,
        busy_poll: reader.get("media.busy_poll", false, parse::switch)?.value,
    })
}

fn base_port(
    reader: &Reader<'_>,
    key: &'static str,
    default: u16,
    shards: NonZeroU16,
) -> Result<u16, ConfigError> {
    let port = reader.get(key, default, |text| parse::number(text, 1, u16::MAX.into()))?.value;
    if port.checked_add(shards.get() - 1).is_none() {
        return reader.object(
            key,
            format!("{port} leaves no room for the ports of {shards} shards below 65536"),
            "choose a lower port or fewer shards",
        );
    }
    Ok(port)
}

/// The files given; `None` when none are given and none are needed.
fn tls(
    reader: &Reader<'_>,
    plaintext: Plaintext,
    because: Option<&str>,
) -> Result<Option<TlsFiles>, ConfigError> {
    let certificate = reader.find("gateway.tls_cert", parse::file)?;
    let key = reader.find("gateway.tls_key", parse::file)?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Ok(Some(TlsFiles { certificate: certificate.value, key: key.value }))
        }
        (Some(_), None) => reader.object(
            "gateway.tls_key",
            "required with gateway.tls_cert",
            "name the file of the certificate's private key",
        ),
        (None, Some(_)) => reader.object(
            "gateway.tls_cert",
            "required with gateway.tls_key",
            "name the file of the certificate chain",
        ),
        (None, None) => match because {
            Some(because) if plaintext != Plaintext::Always => reader.object(
                "gateway.tls_cert",
                format!("required because {because}"),
                "give gateway.tls_cert and gateway.tls_key, or gateway.plaintext=always behind a proxy that terminates TLS",
            ),
            _ => Ok(None),
        },
    }
}

fn public_endpoint(reader: &Reader<'_>, listen: SocketAddr) -> Result<Endpoint, ConfigError> {
    if let Some(given) = reader.find("gateway.public_endpoint", parse::endpoint)? {
        return Ok(given.value);
    }
    let host = match listen.ip().to_canonical() {
        // A name rather than the literal: it is in the development certificate, and clients that
        // send no server name for a literal address still get one.
        address if address.is_loopback() => "localhost".to_owned(),
        IpAddr::V4(address) if !address.is_unspecified() => address.to_string(),
        address => {
            return reader.object(
                "gateway.public_endpoint",
                format!(
                    "required because gateway.listen is {address}, which clients cannot connect to"
                ),
                "give the host and port clients connect to, such as voice.example.org:443",
            );
        }
    };
    Ok(Endpoint { colon: host.len(), text: format!("{host}:{}", listen.port()) })
}

fn connections_per_address(reader: &Reader<'_>) -> Result<ConnectionsPerAddress, ConfigError> {
    const DEFAULT: NonZeroU32 = NonZeroU32::new(256).expect("256 is not zero");
    let given = reader.get("gateway.connections_per_address", DEFAULT, |text| {
        parse::number(text, 1, u32::MAX.into())
    })?;
    let loopback_exempt = given.origin == Origin::Default;
    Ok(ConnectionsPerAddress { max: given.value, loopback_exempt })
}

fn control_secret(reader: &Reader<'_>, exposed: bool) -> Result<Option<Secret>, ConfigError> {
    let Some(Given { value: (key, text), .. }) =
        reader.secret_text("control.secret", "control.secret_file")?
    else {
        return Ok(None);
    };
    let bytes_min = if exposed { SECRET_BYTES_MIN } else { 1 };
    if text.len() < bytes_min || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return reader.object(
            key,
            format!("not {bytes_min} or more printable ASCII characters without spaces"),
            "take for example the output of `openssl rand -hex 32`",
        );
    }
    Ok(Some(Secret::new(text)))
}

fn webhook(reader: &Reader<'_>) -> Result<Option<Webhook>, ConfigError> {
    let url = reader.find("control.webhook_url", parse::webhook_url)?;
    let secret = reader.find("control.webhook_secret", |text| Ok(Secret::new(text)))?;
    match (url, secret) {
        (Some(url), Some(secret)) => Ok(Some(Webhook { url: url.value, secret: secret.value })),
        (Some(_), None) => reader.object(
            "control.webhook_secret",
            "required with control.webhook_url",
            "give the secret that the receiver checks signatures with",
        ),
        (None, _) => Ok(None),
    }
}

fn token_key(
    reader: &Reader<'_>,
    state: &StateDir<'_>,
    development: Development,
) -> Result<Secret, ConfigError> {
    let parse =
        |text: &str| Secret::from_hex(text).filter(|key| key.reveal().len() >= KEY_BYTES_MIN);
    match reader.secret_text("token.key", "token.key_file")? {
        Some(Given { value: (key, text), .. }) => match parse(&text) {
            Some(secret) => Ok(secret),
            None => reader.object(
                key,
                format!("not {KEY_BYTES_MIN} or more bytes in hexadecimal"),
                "take for example the output of `openssl rand -hex 32`",
            ),
        },
        None => {
            let text = development_secret(state, Kept::TokenKey, development)?;
            parse(&text).ok_or_else(|| ConfigError::State {
                path: state.path_of(Kept::TokenKey),
                problem: format!("not {KEY_BYTES_MIN} or more bytes in hexadecimal"),
                remedy: "remove the file, and it is made anew".to_owned(),
            })
        }
    }
}

fn development_secret(
    state: &StateDir<'_>,
    kept: Kept,
    development: Development,
) -> Result<String, ConfigError> {
    match development {
        Development::Persist => state.secret(kept),
        Development::Imagine => Ok(state::random_text()),
    }
}

fn modes(reader: &Reader<'_>, notices: &mut Vec<String>) -> Result<Vec<&'static str>, ConfigError> {
    let modes =
        reader.get("modes", parse::MODES[..parse::MODES_DEFAULT].to_vec(), parse::mode_list)?.value;
    if !modes.contains(&parse::XCHACHA) {
        notices.push(format!(
            "modes lacks {}: the Python and C++ client libraries know no other",
            parse::XCHACHA
        ));
    }
    Ok(modes)
}

/// The setting, else what systemd, the XDG base directories or the home directory say.
fn state_dir(reader: &Reader<'_>) -> Result<PathBuf, ConfigError> {
    if let Some(given) = reader.find("state_dir", parse::file)? {
        return Ok(given.value);
    }
    let environment = reader.0.environment();
    let variable = |name: &str| environment(name).filter(|text| !text.is_empty());
    // systemd separates several directories by colons; the first is the unit's own.
    let systemd = variable("STATE_DIRECTORY")
        .and_then(|list| list.split(':').next().map(PathBuf::from))
        .filter(|path| path.is_absolute());
    let xdg = || {
        variable("XDG_STATE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .map(|path| path.join("stentor"))
    };
    let home = || variable("HOME").map(|home| Path::new(&home).join(".local/state/stentor"));
    let path = systemd.or_else(xdg).or_else(home);
    Ok(path.unwrap_or_else(|| PathBuf::from("/var/lib/stentor")))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
