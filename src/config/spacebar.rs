//! Settings of the Spacebar backend: where its database is, how its events are heard. Owns how the
//! texts fit together; what a text means by itself is `parse.rs`. Called by `check.rs`.

use std::{path::PathBuf, str::FromStr};

use zeroize::Zeroizing;

use super::{
    BackendName, ConfigError, Secret,
    check::{Given, Reader},
    parse::{self, EventsChoice},
};

/// An unmodified Spacebar to work for.
#[derive(Debug, Clone)]
pub struct SpacebarSettings {
    /// Its tables.
    pub database: SpacebarDatabase,
    /// How changes are learnt.
    pub events: SpacebarEvents,
    /// Its own settings file, where its regions are not in the database.
    pub config_file: Option<PathBuf>,
}

/// Where the tables are.
#[derive(Debug, Clone)]
pub struct SpacebarDatabase {
    /// `postgres://…`, with a password in it.
    pub url: Secret,
    /// The certificate authority of its server; the machine's own if none is given.
    pub ca: Option<PathBuf>,
}

impl SpacebarDatabase {
    /// The URL in the words of our client, which knows fewer ways to be careful: a certificate is
    /// checked, name and all, wherever there is one.
    pub(crate) fn understood_url(&self) -> Zeroizing<String> {
        understood(&String::from_utf8_lossy(self.url.reveal()))
    }
}

fn understood(url: &str) -> Zeroizing<String> {
    let mut understood = Zeroizing::new(String::with_capacity(url.len()));
    // A password may read like a parameter.
    let (head, query) = url.split_at(url.rfind('?').unwrap_or(url.len()));
    understood.push_str(head);
    for parameter in query.split_inclusive(['?', '&']) {
        let (value, end) = match parameter.strip_suffix('&') {
            Some(value) => (value, "&"),
            None => (parameter, ""),
        };
        let is_careful = matches!(value, "sslmode=verify-full" | "sslmode=verify-ca");
        understood.push_str(if is_careful { "sslmode=require" } else { value });
        understood.push_str(end);
    }
    understood
}

/// Where the message broker is.
#[derive(Debug, Clone)]
pub struct SpacebarBroker {
    /// `amqp://…` or `amqps://…`, with a password in it.
    pub url: Secret,
    /// The certificate authority of its server, beside those that the machine trusts.
    pub ca: Option<PathBuf>,
}

/// How changes are learnt, and what we have to say is said.
#[derive(Debug, Clone)]
pub enum SpacebarEvents {
    /// Spacebar's bus over unix sockets, in this directory.
    Unix(PathBuf),
    /// Spacebar's bus over RabbitMQ.
    RabbitMq {
        /// Where it is.
        broker: SpacebarBroker,
        /// How events are filed there.
        exchanges: Exchanges,
    },
    /// Notifications of the database.
    Notify,
    /// Nothing: the tables are read again and again.
    Poll,
}

/// How events are filed at RabbitMQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchanges {
    /// One exchange for all (`rabbitmq-single`).
    Single,
    /// One for each id (`rabbitmq-legacy`).
    PerId,
}

impl SpacebarEvents {
    /// Whether every event comes by, not only those about people who are here.
    pub fn hears_everything(&self) -> bool {
        match self {
            SpacebarEvents::Unix(_) => true,
            SpacebarEvents::RabbitMq { exchanges, .. } => *exchanges == Exchanges::Single,
            SpacebarEvents::Notify | SpacebarEvents::Poll => false,
        }
    }
}

/// Who is asked about an Identify: the setting, else whoever has settings.
pub(super) fn backends(
    reader: &Reader<'_>,
    spacebar: Option<&SpacebarSettings>,
) -> Result<Vec<BackendName>, ConfigError> {
    let mut default = vec![BackendName::Grants, BackendName::Tokens];
    default.extend(spacebar.map(|_| BackendName::Spacebar));
    let chosen = reader.get("backends", default, parse::backends)?.value;
    match (chosen.contains(&BackendName::Spacebar), spacebar) {
        (true, None) => reader.object(
            "spacebar.database_file",
            "required because backends names spacebar",
            "write Spacebar's DATABASE, such as postgres://user:password@host/spacebar, into a \
             file and name it here",
        ),
        (false, Some(_)) => reader.object(
            "backends",
            "does not name spacebar, whose database is given",
            "add it, or leave the database out",
        ),
        _ => Ok(chosen),
    }
}

/// The backend's settings; `None` if it has no database.
pub(super) fn spacebar(reader: &Reader<'_>) -> Result<Option<SpacebarSettings>, ConfigError> {
    let database = reader.secret_text("spacebar.database", "spacebar.database_file")?;
    let events = reader.find("spacebar.events", parse::spacebar_events)?;
    let Some(Given { value: (key, text), .. }) = database else {
        return match events {
            None => Ok(None),
            Some(_) => reader.object(
                "spacebar.database_file",
                "required with spacebar.events",
                "write Spacebar's DATABASE into a file and name it here",
            ),
        };
    };
    // Its parser's own words may quote the password.
    let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    if !is_url || tokio_postgres::Config::from_str(&understood(&text)).is_err() {
        return reader.object(
            key,
            "not a PostgreSQL URL",
            "take Spacebar's DATABASE: postgres://user:password@host:5432/spacebar; of its \
             parameters, sslmode may be disable, require or verify-full, and an authority of your \
             own goes into spacebar.database_ca",
        );
    }
    let ca = reader.find("spacebar.database_ca", parse::file)?.map(|given| given.value);
    let config_file = reader.find("spacebar.config_file", parse::file)?.map(|given| given.value);
    let events = match events.map(|given| given.value).unwrap_or(EventsChoice::Poll) {
        EventsChoice::Unix => SpacebarEvents::Unix(socket_path(reader)?),
        EventsChoice::RabbitMqSingle => rabbitmq(reader, Exchanges::Single)?,
        EventsChoice::RabbitMqLegacy => rabbitmq(reader, Exchanges::PerId)?,
        EventsChoice::Notify => SpacebarEvents::Notify,
        EventsChoice::Poll => SpacebarEvents::Poll,
    };
    let database = SpacebarDatabase { url: Secret::new(text), ca };
    Ok(Some(SpacebarSettings { database, events, config_file }))
}

fn socket_path(reader: &Reader<'_>) -> Result<PathBuf, ConfigError> {
    match reader.find("spacebar.socket_path", parse::file)? {
        Some(given) => Ok(given.value),
        None => reader.object(
            "spacebar.socket_path",
            "required with spacebar.events=unix",
            "give the directory that Spacebar has as EVENT_SOCKET_PATH",
        ),
    }
}

fn rabbitmq(reader: &Reader<'_>, exchanges: Exchanges) -> Result<SpacebarEvents, ConfigError> {
    let given = reader.secret_text("spacebar.rabbitmq", "spacebar.rabbitmq_file")?;
    let remedy = "give the URL that Spacebar has as rabbitmq.host, such as \
                  amqp://user:password@host:5672/";
    match given {
        Some(Given { value: (key, text), .. }) => {
            if !text.starts_with("amqp://") && !text.starts_with("amqps://") {
                return reader.object(key, "not an AMQP URL", remedy);
            }
            let ca = reader.find("spacebar.rabbitmq_ca", parse::file)?.map(|given| given.value);
            if ca.is_some() && text.starts_with("amqp://") {
                let problem = "of no use with amqp://, which is not encrypted";
                let remedy = "write amqps://, or leave it out";
                return reader.object("spacebar.rabbitmq_ca", problem, remedy);
            }
            let broker = SpacebarBroker { url: Secret::new(text), ca };
            Ok(SpacebarEvents::RabbitMq { broker, exchanges })
        }
        None => {
            let problem = "required with spacebar.events=rabbitmq-…";
            reader.object("spacebar.rabbitmq_file", problem, remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_careful_mode_is_put_into_our_clients_words_and_a_password_is_left_alone() {
        for (given, expected) in [
            ("postgres://u:p@h/d?sslmode=verify-full", "postgres://u:p@h/d?sslmode=require"),
            ("postgres://h/d?a=b&sslmode=verify-ca&c=d", "postgres://h/d?a=b&sslmode=require&c=d"),
            ("postgres://u:sslmode=verify-ca@h/d", "postgres://u:sslmode=verify-ca@h/d"),
            ("postgres://h/d?sslmode=disable", "postgres://h/d?sslmode=disable"),
        ] {
            assert_eq!(*understood(given), expected);
        }
    }
}
