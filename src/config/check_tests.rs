//! What settings are accepted, what is refused and what the refusal says.

use std::{collections::HashMap, io::Write};

use super::*;
use crate::config::{SETTINGS, names_loopback};

/// Settings from three texts: flags, environment, file content.
struct Sources<'a> {
    flags: &'a [(&'static str, &'a str)],
    environment: &'a [(&'a str, &'a str)],
    file: &'a str,
}

const NOTHING: Sources<'static> = Sources { flags: &[], environment: &[], file: "" };

impl Sources<'_> {
    fn read<T>(
        &self,
        read: impl FnOnce(&Flags, Environment<'_>) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        file.write_all(self.file.as_bytes()).unwrap();
        let flags = Flags::of(Some(file.path().to_owned()), self.flags);
        let mut environment: HashMap<_, _> = self.environment.iter().copied().collect();
        environment.entry("HOME").or_insert("/home/nobody");
        read(&flags, &|name| environment.get(name).map(|text| (*text).to_owned()))
    }

    fn config(&self) -> Result<Config, ConfigError> {
        self.read(|flags, environment| config(flags, environment, Development::Imagine))
    }

    fn error(&self) -> String {
        self.config().expect_err("these settings must be refused").to_string()
    }
}

fn flags(flags: &[(&'static str, &str)]) -> Result<Config, ConfigError> {
    Sources { flags, ..NOTHING }.config()
}

fn flags_error(given: &[(&'static str, &str)]) -> String {
    Sources { flags: given, ..NOTHING }.error()
}

#[test]
fn without_any_setting_everything_stays_on_loopback() {
    let config = NOTHING.config().unwrap();
    assert_eq!(config.gateway.listen.to_string(), "127.0.0.1:8443");
    assert_eq!(config.gateway.public_endpoint.as_str(), "localhost:8443");
    assert_eq!(config.gateway.public_endpoint.host(), "localhost");
    assert_eq!(config.gateway.plaintext, Plaintext::Loopback);
    assert!(config.development);
    let limit = config.gateway.connections_per_address;
    assert_eq!((limit.max.get(), limit.loopback_exempt), (256, true));
    assert_eq!(
        config.media,
        Media {
            listen: Ipv4Addr::LOCALHOST.into(),
            base_port: 50_000,
            public_ip: Ipv4Addr::LOCALHOST.into(),
            public_base_port: 50_000,
            gso: true,
            busy_poll: false,
        }
    );
    assert_eq!(config.control.listen.to_string(), "127.0.0.1:8080");
    assert!(config.control.webhook.is_none() && !config.control.speaking_events);
    assert_eq!(config.modes, ["aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize"]);
    assert_eq!(config.e2ee, E2ee::Optional);
    assert_eq!(config.resume_window, Duration::from_secs(60));
    assert_eq!(config.state_dir, Path::new("/home/nobody/.local/state/stentor"));
    let tls = config.gateway.tls.unwrap();
    assert_eq!(tls.certificate, config.state_dir.join("gateway.crt"));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let file = "[media]\nbase_port = 40000\n";
    let environment = [("STENTOR_MEDIA_BASE_PORT", "41000")];
    let flag = [("media.base_port", "42000")];
    let port = |flags: &[_], environment: &[_], file| {
        Sources { flags, environment, file }.config().unwrap().media.base_port
    };
    assert_eq!(port(&flag, &environment, file), 42_000);
    assert_eq!(port(&[], &environment, file), 41_000);
    assert_eq!(port(&[], &[("STENTOR_MEDIA_BASE_PORT", "")], file), 40_000);
    assert_eq!(port(&[], &[], ""), 50_000);
}

#[test]
fn every_setting_is_read_from_all_three_places() {
    let secret = "00".repeat(32);
    let mut secret_file = tempfile::NamedTempFile::new().unwrap();
    writeln!(secret_file, "{secret}").unwrap();
    let secret_file = secret_file.path().to_str().unwrap();
    let (database, broker) = ("postgres://u:p@127.0.0.1/d", "amqp://u:p@127.0.0.1/");
    let [database_file, broker_file] = [database, broker].map(|text| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{text}").unwrap();
        file
    });
    for setting in SETTINGS {
        let text = match setting.key {
            "gateway.listen" | "control.listen" => "127.0.0.1:9000",
            "gateway.tls_cert" | "gateway.tls_key" => "/x.pem",
            "gateway.plaintext" => "never",
            "gateway.public_endpoint" => "voice.example.org:443",
            "gateway.connections_per_address" | "shards" => "3",
            "media.listen" | "media.public_ip" => "127.0.0.2",
            "media.base_port" | "media.public_base_port" => "3000",
            "media.gso" | "media.busy_poll" | "control.speaking_events" => "false",
            "control.webhook_url" => "http://127.0.0.1/x",
            "control.secret_file" | "token.key_file" => secret_file,
            "token.key" => &secret,
            "modes" => "aead_xchacha20_poly1305_rtpsize",
            "e2ee" => "off",
            "resume_window" => "5",
            "log.format" => "json",
            "log.level" => "debug",
            "state_dir" => "/tmp/x",
            "backends" => "grants,tokens",
            "spacebar.database" => database,
            "spacebar.database_file" => database_file.path().to_str().unwrap(),
            "spacebar.rabbitmq" => broker,
            "spacebar.rabbitmq_file" => broker_file.path().to_str().unwrap(),
            "spacebar.events" => "notify",
            "spacebar.database_ca"
            | "spacebar.rabbitmq_ca"
            | "spacebar.socket_path"
            | "spacebar.config_file" => "/x",
            _ => "a-long-enough-secret",
        };
        // What only goes together with another setting.
        let beside: &[(&'static str, &str)] = match setting.key {
            "gateway.tls_cert" => &[("gateway.tls_key", "/y.pem")],
            "gateway.tls_key" => &[("gateway.tls_cert", "/y.pem")],
            "control.webhook_url" => &[("control.webhook_secret", "s")],
            "spacebar.rabbitmq" | "spacebar.rabbitmq_file" => {
                &[("spacebar.database", database), ("spacebar.events", "rabbitmq-single")]
            }
            "spacebar.rabbitmq_ca" => &[
                ("spacebar.database", database),
                ("spacebar.events", "rabbitmq-single"),
                ("spacebar.rabbitmq", "amqps://user:password@host:5671/"),
            ],
            "spacebar.socket_path" => {
                &[("spacebar.database", database), ("spacebar.events", "unix")]
            }
            "spacebar.events" | "spacebar.database_ca" | "spacebar.config_file" => {
                &[("spacebar.database", database)]
            }
            _ => &[],
        };
        let variable = setting.variable();
        let file = match setting.key.split_once('.') {
            Some((section, name)) => format!("[{section}]\n{name} = {text:?}"),
            None => format!("{} = {text:?}", setting.key),
        };
        let by_flag = [beside, &[(setting.key, text)]].concat();
        let bad_flag = [beside, &[(setting.key, "")]].concat();
        for sources in [
            Sources { flags: &by_flag, ..NOTHING },
            Sources { flags: beside, environment: &[(variable.as_str(), text)], file: "" },
            Sources { flags: beside, environment: &[], file: &file },
        ] {
            sources.config().unwrap_or_else(|error| panic!("{}: {error}", setting.key));
        }
        // The webhook secret alone means nothing, and any text will do.
        if !matches!(setting.key, "control.webhook_secret" | "log.level") {
            let error = flags_error(&bad_flag);
            assert!(error.contains(&format!("--{}", setting.flag())), "{}: {error}", setting.key);
        }
    }
}

#[test]
fn an_error_names_the_key_its_source_and_the_remedy() {
    assert_eq!(
        flags_error(&[("gateway.listen", "8443")]),
        "gateway.listen (flag --gateway-listen): `8443` is not an IP address with a port; \
         write for example 127.0.0.1:8443 or [::1]:8443"
    );
    let environment = [("STENTOR_E2EE", "maybe")];
    assert_eq!(
        Sources { environment: &environment, ..NOTHING }.error(),
        "e2ee (environment variable STENTOR_E2EE): `maybe` is not a choice; \
         write one of off, optional, required"
    );
    let error = Sources { file: "[media]\nbase_port = 0", ..NOTHING }.error();
    assert!(error.starts_with("media.base_port (file /"), "{error}");
}

#[test]
fn a_key_that_is_no_setting_is_refused_with_its_neighbour() {
    let error = |file| Sources { file, ..NOTHING }.error();
    assert!(error("listen = '127.0.0.1:1'").contains("did you mean `gateway.listen`?"));
    assert!(error("[gateway]\ntls_crt = 'x'").contains("`gateway.tls_crt` is not a setting"));
    assert!(error("shards = 1.5").contains("value of type float"));
    assert!(error("[gateway").contains("settings file /"));
    let missing = Flags::of(Some("/nonexistent/stentor.toml".into()), &[]);
    let error = config(&missing, &|_| None, Development::Imagine).unwrap_err().to_string();
    assert!(error.starts_with("settings file /nonexistent/stentor.toml: "), "{error}");
}

#[test]
fn a_list_may_be_written_as_a_toml_array() {
    let file = "modes = ['aead_xchacha20_poly1305_rtpsize', 'xsalsa20_poly1305']\nshards = 2";
    let config = Sources { file, ..NOTHING }.config().unwrap();
    assert_eq!(config.modes, ["aead_xchacha20_poly1305_rtpsize", "xsalsa20_poly1305"]);
    assert_eq!(config.shards.get(), 2);
}

const SECRET: (&str, &str) = ("control.secret", "0123456789abcdef");
const CERTIFICATE: (&str, &str) = ("gateway.tls_cert", "/c.pem");
const KEY: (&str, &str) = ("gateway.tls_key", "/k.pem");
const PUBLIC: (&str, &str) = ("gateway.listen", "0.0.0.0:443");
const IP: (&str, &str) = ("media.public_ip", "203.0.113.7");
const ENDPOINT: (&str, &str) = ("gateway.public_endpoint", "voice.example.org:443");

#[test]
fn leaving_loopback_takes_a_certificate_and_a_secret() {
    let config = flags(&[PUBLIC, CERTIFICATE, KEY, SECRET, IP, ENDPOINT]).unwrap();
    assert!(config.media.listen.is_unspecified());
    assert_eq!(config.media.public_ip.to_string(), "203.0.113.7");

    let error = flags_error(&[PUBLIC, SECRET, IP, ENDPOINT]);
    assert!(
        error.contains("gateway.tls_cert (not given): required because gateway.listen is 0.0.0.0"),
        "{error}"
    );
    let error = flags_error(&[PUBLIC, CERTIFICATE, KEY, IP, ENDPOINT]);
    assert!(error.contains("control.secret_file (not given): required because"), "{error}");
    let error = flags_error(&[PUBLIC, CERTIFICATE, KEY, ("control.secret", "short"), IP, ENDPOINT]);
    assert!(error.contains("control.secret (flag --control-secret)") && !error.contains("short"));
    for listener in [("media.listen", "0.0.0.0"), ("control.listen", "10.0.0.1:8080")] {
        assert!(flags_error(&[listener]).contains("required because"), "{listener:?}");
    }
}

#[test]
fn a_public_server_with_its_own_files_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let given = [PUBLIC, CERTIFICATE, KEY, SECRET, IP, ENDPOINT];
    let given = [&given[..], &[("state_dir", state.to_str().unwrap())]].concat();
    let sources = Sources { flags: &given, ..NOTHING };
    sources.read(|flags, environment| config(flags, environment, Development::Persist)).unwrap();
    assert!(!state.exists());
}

#[test]
fn behind_a_proxy_no_certificate_is_needed_but_the_secret_is() {
    let proxy = ("gateway.plaintext", "always");
    assert!(flags(&[PUBLIC, proxy, SECRET, IP, ENDPOINT]).unwrap().gateway.tls.is_none());
    assert!(flags_error(&[PUBLIC, proxy, IP, ENDPOINT]).contains("control.secret"));
    assert!(flags(&[proxy]).unwrap().gateway.tls.is_some(), "on loopback TLS stays on offer");
}

#[test]
fn clients_are_never_told_an_address_they_cannot_use() {
    let given = [PUBLIC, CERTIFICATE, KEY, SECRET];
    let with = |more: &[(&'static str, &'static str)]| flags(&[&given, more].concat());
    let refused = |more: &[(&'static str, &'static str)], what: &str| {
        let error = with(more).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    refused(&[ENDPOINT], "media.public_ip (not given): required");
    refused(&[IP], "gateway.public_endpoint (not given): required");
    refused(&[ENDPOINT, ("media.public_ip", "0.0.0.0")], "cannot send to 0.0.0.0");
    refused(&[ENDPOINT, ("media.public_ip", "voice.example.org")], "not a literal IP address");
    for endpoint in ["wss://a:1", "a", "a:0", ":443", "a:b", "a:443/x", "[::1]:443", "a:+1"] {
        refused(&[IP, ("gateway.public_endpoint", endpoint)], "gateway.public_endpoint (flag");
    }
    let specific = with(&[("gateway.listen", "203.0.113.7:443"), ("media.listen", "203.0.113.7")]);
    let specific = specific.unwrap();
    assert_eq!(specific.gateway.public_endpoint.as_str(), "203.0.113.7:443");
    assert_eq!(specific.media.public_ip.to_string(), "203.0.113.7");
    let ports = flags_error(&[("media.base_port", "65535"), ("shards", "2")]);
    assert!(ports.contains("no room for the ports of 2 shards"), "{ports}");
}

#[test]
fn an_explicit_connection_limit_applies_to_loopback_too() {
    let limit = flags(&[("gateway.connections_per_address", "256")]).unwrap().gateway;
    assert!(!limit.connections_per_address.loopback_exempt);
}

#[test]
fn durations_are_read_with_and_without_unit() {
    for (text, ms) in
        [("60", 60_000), ("90s", 90_000), ("1m", 60_000), ("250ms", 250), ("1h", 3_600_000)]
    {
        let config = flags(&[("resume_window", text)]).unwrap();
        assert_eq!(config.resume_window, Duration::from_millis(ms), "{text}");
    }
    for text in ["", "s", "-1", "1.5s", "2h", "1 day", "99999999999999999999h"] {
        assert!(flags(&[("resume_window", text)]).is_err(), "{text}");
    }
}

#[test]
fn secrets_come_from_files_and_a_contradiction_is_refused() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "from-the-file-0123456789").unwrap();
    let path = file.path().to_str().unwrap();
    let config = flags(&[("control.secret_file", path)]).unwrap();
    assert!(config.control.secret.matches(b"from-the-file-0123456789"));

    let mut huge = tempfile::NamedTempFile::new().unwrap();
    write!(huge, "{}", "x".repeat(4_097)).unwrap();
    let huge = huge.path().to_str().unwrap();
    assert!(flags_error(&[("control.secret_file", huge)]).contains("1 to 4096 bytes"));

    let both = [("control.secret_file", path), ("control.secret", "x")];
    assert!(flags_error(&both).contains("control.secret_file is given too"));
    let environment = [("STENTOR_CONTROL_SECRET", "from-the-environment")];
    let stronger =
        Sources { flags: &[("control.secret_file", path)], environment: &environment, file: "" };
    assert!(stronger.config().unwrap().control.secret.matches(b"from-the-file-0123456789"));
    assert!(flags_error(&[("control.secret_file", "/nonexistent")]).contains("cannot read"));
    let key = flags_error(&[("token.key", "abcd")]);
    assert!(key.contains("32 or more bytes") && !key.contains("abcd"), "{key}");
}

#[test]
fn a_webhook_needs_a_secret_and_a_plain_url() {
    let url = ("control.webhook_url", "https://backend.example.org/events");
    assert!(flags_error(&[url]).contains("control.webhook_secret (not given)"));
    let secret = ("control.webhook_secret", "s");
    assert!(flags(&[url, secret]).unwrap().control.webhook.is_some());
    for wrong in ["ftp://x/", "/path", "http://user:password@x/", "not a url"] {
        let error = flags_error(&[("control.webhook_url", wrong), secret]);
        assert!(error.contains("control.webhook_url") && !error.contains("password"), "{error}");
    }
}

#[test]
fn what_a_development_server_makes_is_found_by_its_clients() {
    let dir = tempfile::tempdir().unwrap();
    let state = [("state_dir", dir.path().to_str().unwrap())];
    let sources = Sources { flags: &state, ..NOTHING };
    let error = sources.read(control_access).unwrap_err().to_string();
    assert!(error.contains("no server has made a control secret here yet"), "{error}");

    let server = sources
        .read(|flags, environment| config(flags, environment, Development::Persist))
        .unwrap();
    let client = sources.read(control_access).unwrap();
    assert_eq!(client.address, server.control.listen);
    assert!(client.secret.matches(server.control.secret.reveal()));
    assert!(server.gateway.tls.unwrap().certificate.exists());
    assert!(server.notices.iter().any(|notice| notice.contains("gateway.crt")));
    assert!(server.notices.iter().any(|notice| notice.contains("control.secret")));

    let everywhere = [("control.listen", "0.0.0.0:8080"), SECRET];
    let client = Sources { flags: &everywhere, ..NOTHING }.read(control_access).unwrap();
    assert_eq!(client.address.to_string(), "127.0.0.1:8080");
}

#[test]
fn the_state_directory_follows_systemd_then_xdg_then_home() {
    let state_dir = |environment: &[(&str, &str)]| {
        Sources { environment, ..NOTHING }.config().unwrap().state_dir.display().to_string()
    };
    let systemd = ("STATE_DIRECTORY", "/var/lib/stentor:/var/lib/other");
    let xdg = ("XDG_STATE_HOME", "/state");
    assert_eq!(state_dir(&[systemd, xdg, ("STENTOR_STATE_DIR", "/mine")]), "/mine");
    assert_eq!(state_dir(&[systemd, xdg]), "/var/lib/stentor");
    assert_eq!(state_dir(&[xdg]), "/state/stentor");
    assert_eq!(state_dir(&[("XDG_STATE_HOME", "relative")]), "/home/nobody/.local/state/stentor");
    assert_eq!(state_dir(&[("HOME", "")]), "/var/lib/stentor");
}

#[test]
fn backends_follow_from_what_is_given_unless_they_are_named() {
    use crate::config::{BackendName as Name, SpacebarEvents};
    let url = ("spacebar.database", "postgres://u:p@db.example/d");
    assert_eq!(flags(&[]).unwrap().backends, [Name::Grants, Name::Tokens]);
    let config = flags(&[url]).unwrap();
    assert_eq!(config.backends, [Name::Grants, Name::Tokens, Name::Spacebar]);
    assert!(matches!(config.spacebar.unwrap().events, SpacebarEvents::Poll));
    let alone = flags(&[url, ("backends", "spacebar")]).unwrap();
    assert_eq!(alone.backends, [Name::Spacebar]);
    for (given, complaint) in [
        (&[("backends", "spacebar")][..], "spacebar.database_file"),
        (&[url, ("backends", "grants")], "does not name spacebar"),
        (&[("backends", "grants,magic")], "`magic` is not a choice"),
        (&[("spacebar.events", "unix")], "spacebar.database_file"),
        (&[url, ("spacebar.events", "unix")], "EVENT_SOCKET_PATH"),
        (&[url, ("spacebar.events", "rabbitmq-single")], "spacebar.rabbitmq_file"),
        (&[("spacebar.database", "sqlite:x")], "not a PostgreSQL URL"),
        (&[("spacebar.database", "postgres://h/d?sslmode=no-verify")], "verify-full"),
        (
            &[
                url,
                ("spacebar.events", "rabbitmq-single"),
                ("spacebar.rabbitmq", "amqp://user:password@host:5672/"),
                ("spacebar.rabbitmq_ca", "/x"),
            ],
            "not encrypted",
        ),
    ] {
        let error = flags_error(given);
        assert!(error.contains(complaint), "{given:?}: {error}");
    }
    let error = flags_error(&[("spacebar.database", "postgres://u:hunter2@h:port/d")]);
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_server_is_for_development_only_while_its_operator_gives_nothing_that_exposure_takes() {
    let is_development = |given: &[(&'static str, &str)]| flags(given).unwrap().development;
    for harmless in [
        ("gateway.listen", "[::1]:8443"),
        ("gateway.plaintext", "never"),
        ("gateway.public_endpoint", "127.0.0.1:9000"),
        ("control.listen", "127.0.0.2:8080"),
        ("shards", "1"),
    ] {
        assert!(is_development(&[harmless]), "{harmless:?}");
    }
    for exposing in [
        &[("gateway.tls_cert", "/crt"), ("gateway.tls_key", "/key")][..],
        &[("gateway.plaintext", "always")],
        &[("control.secret", "backend")],
        &[("gateway.public_endpoint", "voice.example.org:443")],
        &[("gateway.public_endpoint", "localhost.example.org:443")],
        &[("gateway.public_endpoint", "192.168.1.7:8443")],
    ] {
        assert!(!exposing.is_empty() && !is_development(exposing), "{exposing:?}");
    }
}

#[test]
fn a_host_is_loopback_by_its_whole_name_or_its_address() {
    for host in ["localhost", "LocalHost", "127.0.0.1", "127.9.9.9", "[::1]"] {
        assert!(names_loopback(host), "{host}");
    }
    for host in ["", "localhost.", "xlocalhost", "127.0.0.1.example.org", "127.1", "::1", "[::2]"] {
        assert!(!names_loopback(host), "{host}");
    }
}
