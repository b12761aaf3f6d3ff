//! The list of settings and the three places each can come from: a flag, an environment variable,
//! a key of the TOML file; the first of these wins. Gives texts with their origin; what a text
//! means is `check.rs`.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::ConfigError;

/// One setting as operators see it.
#[derive(Debug)]
pub struct Setting {
    /// Path in the TOML file: `section.name`, or just `name`.
    pub key: &'static str,
    /// What its value is called in help texts.
    value: &'static str,
    /// What it affects and what it is when nobody gives it.
    help: &'static str,
}

macro_rules! settings {
    ($($key:literal $value:literal $help:literal,)*) => {
        /// Every setting, in the order of help texts.
        pub const SETTINGS: &[Setting] = &[$(Setting { key: $key, value: $value, help: $help },)*];
    };
}

settings! {
    "gateway.listen" "ADDRESS:PORT" "Where clients' WebSockets arrive [default: 127.0.0.1:8443]",
    "gateway.tls_cert" "FILE" "Certificate chain, PEM [default on loopback: one made on first start]",
    "gateway.tls_key" "FILE" "Private key of the certificate, PEM",
    "gateway.plaintext" "loopback|never|always" "Who may connect without TLS; `always` only behind a proxy that terminates TLS [default: loopback]",
    "gateway.public_endpoint" "HOST:PORT" "What clients are told to connect to [default: from gateway.listen]",
    "gateway.connections_per_address" "COUNT" "WebSockets from one address [default: 256, loopback exempt; a value given applies to all]",
    "media.listen" "ADDRESS" "Where UDP arrives [default: 0.0.0.0; 127.0.0.1 while gateway.listen is loopback]",
    "media.base_port" "PORT" "UDP port of shard 0; shard n has this plus n [default: 50000]",
    "media.public_ip" "ADDRESS" "The address clients send media to [default: media.listen]",
    "media.public_base_port" "PORT" "media.base_port as seen from outside [default: media.base_port]",
    "media.gso" "true|false" "Send equal packets to one client in one piece [default: true]",
    "media.busy_poll" "true|false" "Spin instead of sleeping: burns the cores, saves wake-ups [default: false]",
    "shards" "COUNT" "Threads that carry channels [default: one per core]",
    "control.listen" "ADDRESS:PORT" "Where the control API and metrics answer [default: 127.0.0.1:8080]",
    "control.secret" "TEXT" "Bearer secret of the control API; prefer control.secret_file: flags show in process lists",
    "control.secret_file" "FILE" "File holding control.secret [default on loopback: one made on first start]",
    "control.webhook_url" "URL" "Where events are posted [default: nowhere]",
    "control.webhook_secret" "TEXT" "Signs posted events; required with control.webhook_url",
    "control.speaking_events" "true|false" "Report who speaks [default: false]",
    "backends" "NAME,…" "Who is asked whether somebody may join: grants, tokens, spacebar [default: grants,tokens, and spacebar if its database is given]",
    "spacebar.database" "URL" "Spacebar's database, postgres://…; prefer spacebar.database_file: it has a password in it",
    "spacebar.database_file" "FILE" "File holding spacebar.database",
    "spacebar.database_ca" "FILE" "Certificate authority of the database's server, PEM [default: those the machine trusts]",
    "spacebar.events" "unix|rabbitmq-single|rabbitmq-legacy|notify|poll" "How moves, mutes and kicks are learnt: Spacebar's EVENT_TRANSMISSION, or from the database [default: poll]",
    "spacebar.socket_path" "DIRECTORY" "Spacebar's EVENT_SOCKET_PATH, with spacebar.events=unix",
    "spacebar.rabbitmq" "URL" "Spacebar's message broker, amqp://…; prefer spacebar.rabbitmq_file",
    "spacebar.rabbitmq_file" "FILE" "File holding spacebar.rabbitmq",
    "spacebar.rabbitmq_ca" "FILE" "Certificate authority of the broker's server, PEM, for amqps:// [default: those the machine trusts]",
    "spacebar.config_file" "FILE" "Spacebar's CONFIG_PATH, where its regions are [default: its database]",
    "token.key" "HEX" "Key of signed tokens, 32 bytes or more [default on loopback: one made on first start]",
    "token.key_file" "FILE" "File holding token.key",
    "modes" "NAME,…" "Encryption modes offered, best first [default: aead_aes256_gcm_rtpsize,aead_xchacha20_poly1305_rtpsize]",
    "e2ee" "off|optional|required" "End-to-end encryption where a grant does not say [default: optional]",
    "resume_window" "DURATION" "How long a lost client keeps its place, such as 60s or 1m [default: 60s]",
    "log.format" "text|json" "Form of log lines [default: text]",
    "log.level" "FILTER" "What is logged, such as info or stentor=debug [default: info]",
    "state_dir" "DIRECTORY" "Where secrets and certificates made on first start are kept [default: the user's state directory]",
}

impl Setting {
    fn is_switch(&self) -> bool {
        self.value == "true|false"
    }

    /// The flag, without its dashes.
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("STENTOR_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }
}

/// Flags live as long as the process because clap borrows their names.
static FLAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| SETTINGS.iter().map(Setting::flag).collect());

/// What the command line said about settings.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    config: Option<PathBuf>,
    given: Vec<(&'static str, String)>,
}

impl Flags {
    /// Flags as if they had been typed: key and value.
    pub fn of(config: Option<PathBuf>, given: &[(&'static str, &str)]) -> Self {
        let given = given.iter().map(|&(key, value)| (key, value.to_owned())).collect();
        Self { config, given }
    }

    /// The same, and this one besides.
    pub fn with(mut self, key: &'static str, text: &str) -> Self {
        self.given.push((key, text.to_owned()));
        self
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Settings file, TOML [env: STENTOR_CONFIG] [default: none]");
        let args = SETTINGS.iter().zip(FLAGS.iter()).map(|(setting, flag)| {
            let arg = Arg::new(setting.key)
                .long(flag.as_str())
                .value_name(setting.value)
                .help(setting.help)
                .help_heading("Settings (flag, else environment, else file)");
            if setting.is_switch() {
                arg.num_args(0..=1).default_missing_value("true")
            } else {
                arg
            }
        });
        command.arg(config).args(args)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = SETTINGS.iter().filter_map(|setting| {
            matches.get_one::<String>(setting.key).map(|value| (setting.key, value.clone()))
        });
        Ok(Self { config: matches.get_one("config").cloned(), given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Where a setting's text was found, strongest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A flag of the command line.
    Flag(String),
    /// An environment variable.
    Environment(String),
    /// The settings file.
    File(PathBuf),
    /// Nobody gave it.
    Default,
}

impl Origin {
    /// 0 for the strongest kind of origin.
    pub fn rank(&self) -> u8 {
        match self {
            Origin::Flag(_) => 0,
            Origin::Environment(_) => 1,
            Origin::File(_) => 2,
            Origin::Default => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "flag --{flag}"),
            Origin::Environment(variable) => write!(f, "environment variable {variable}"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Default => f.write_str("not given"),
        }
    }
}

/// The process environment, or a test's idea of one.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// All three sources, ready to be asked.
pub struct Layers<'a> {
    flags: &'a Flags,
    environment: Environment<'a>,
    file: Option<(PathBuf, toml::Table)>,
}

impl<'a> Layers<'a> {
    /// Reads the settings file, if there is one, and refuses keys that are no settings.
    pub fn read(flags: &'a Flags, environment: Environment<'a>) -> Result<Self, ConfigError> {
        let named = || environment("STENTOR_CONFIG").filter(|path| !path.is_empty());
        let path = flags.config.clone().or_else(|| named().map(PathBuf::from));
        let file = path.map(read_file).transpose()?;
        Ok(Self { flags, environment, file })
    }

    /// The setting's text from the strongest source that has it. An empty environment variable
    /// counts as absent: service managers cannot unset one. Variables that only look like
    /// settings are ignored: Kubernetes sets STENTOR_PORT beside a service of that name.
    pub fn get(&self, key: &str) -> Option<(String, Origin)> {
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.key == key)
            .unwrap_or_else(|| panic!("{key} is not in the list of settings"));
        if let Some((_, text)) = self.flags.given.iter().rev().find(|(flag, _)| *flag == key) {
            return Some((text.clone(), Origin::Flag(setting.flag())));
        }
        if let Some(text) = (self.environment)(&setting.variable()).filter(|text| !text.is_empty())
        {
            return Some((text, Origin::Environment(setting.variable())));
        }
        let (path, table) = self.file.as_ref()?;
        let value = match key.split_once('.') {
            Some((section, name)) => table.get(section)?.get(name)?,
            None => table.get(key)?,
        };
        Some((text_of(value)?, Origin::File(path.clone())))
    }

    /// The environment, for directories that its conventions name.
    pub fn environment(&self) -> Environment<'a> {
        self.environment
    }
}

fn read_file(path: PathBuf) -> Result<(PathBuf, toml::Table), ConfigError> {
    let text = std::fs::read_to_string(&path)
        .map_err(|error| ConfigError::File { path: path.clone(), problem: error.to_string() })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::File {
        path: path.clone(),
        problem: error.to_string().trim_end().to_owned(),
    })?;
    refuse_unknown(&path, &table)?;
    Ok((path, table))
}

fn refuse_unknown(path: &Path, table: &toml::Table) -> Result<(), ConfigError> {
    let leaves = table.iter().flat_map(|(name, value)| match value {
        toml::Value::Table(section) => {
            section.iter().map(|(leaf, value)| (format!("{name}.{leaf}"), value)).collect()
        }
        _ => vec![(name.clone(), value)],
    });
    for (key, value) in leaves {
        let problem = if !SETTINGS.iter().any(|setting| setting.key == key) {
            let leaf = key.rsplit('.').next().unwrap_or(&key);
            match SETTINGS.iter().find(|setting| setting.key.ends_with(leaf)) {
                Some(near) => format!("`{key}` is not a setting; did you mean `{}`?", near.key),
                None => format!("`{key}` is not a setting; `stentor serve --help` lists them"),
            }
        } else if text_of(value).is_none() {
            format!(
                "`{key}` has a value of type {}; write text, a number, true or false, or a list of texts",
                value.type_str()
            )
        } else {
            continue;
        };
        return Err(ConfigError::File { path: path.to_owned(), problem });
    }
    Ok(())
}

/// The value as one would type it behind a flag.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(switch) => Some(switch.to_string()),
        toml::Value::Array(items) => {
            items.iter().map(toml::Value::as_str).collect::<Option<Vec<_>>>().map(|t| t.join(","))
        }
        _ => None,
    }
}
