//! Texts of settings and what each means by itself: addresses, ports, durations, choices. A text
//! that means nothing becomes a complaint that says what to write instead. Called by `check.rs`.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use tracing_subscriber::EnvFilter;

use super::{BackendName, Endpoint, LogFormat, Plaintext};
use crate::sfu::E2ee;

/// Longest resume window: ghosts hold their places in a channel for as long.
const RESUME_WINDOW_MAX: Duration = Duration::from_secs(3_600);

/// Encryption modes known to the protocol (protocol.md §2.4), as offered by default first.
pub(super) const MODES: [&str; 7] = [
    "aead_aes256_gcm_rtpsize",
    XCHACHA,
    "aead_aes256_gcm",
    "xsalsa20_poly1305_lite_rtpsize",
    "xsalsa20_poly1305_lite",
    "xsalsa20_poly1305_suffix",
    "xsalsa20_poly1305",
];
pub(super) const MODES_DEFAULT: usize = 2;
pub(super) const XCHACHA: &str = "aead_xchacha20_poly1305_rtpsize";

/// What is wrong with one text and what to write instead.
pub(super) struct Complaint {
    pub(super) problem: String,
    pub(super) remedy: String,
}

pub(super) fn complain<T>(problem: impl Display, remedy: impl Display) -> Result<T, Complaint> {
    Err(Complaint { problem: problem.to_string(), remedy: remedy.to_string() })
}

fn parse<T: FromStr>(text: &str, what: &str, example: &str) -> Result<T, Complaint> {
    text.parse().or_else(|_| {
        complain(format!("`{text}` is not {what}"), format!("write for example {example}"))
    })
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, Complaint> {
    parse(text, "an IP address with a port", "127.0.0.1:8443 or [::1]:8443")
}

pub(super) fn ip_address(text: &str) -> Result<IpAddr, Complaint> {
    parse(text, "an IP address", "0.0.0.0")
}

pub(super) fn public_ip(text: &str) -> Result<IpAddr, Complaint> {
    let address: IpAddr =
        parse(text, "a literal IP address (clients cannot use names here)", "203.0.113.7")?;
    if address.is_unspecified() || address.is_multicast() {
        return complain(
            format!("clients cannot send to {address}"),
            "give the address clients reach this machine at",
        );
    }
    Ok(address)
}

pub(super) fn switch(text: &str) -> Result<bool, Complaint> {
    parse(text, "true or false", "true")
}

pub(super) fn number<T: FromStr>(text: &str, min: u64, max: u64) -> Result<T, Complaint> {
    let in_range = text.parse().is_ok_and(|value: u64| (min..=max).contains(&value));
    match text.parse() {
        Ok(value) if in_range => Ok(value),
        _ => {
            complain(format!("`{text}` is not a number in range"), format!("write {min} to {max}"))
        }
    }
}

pub(super) fn file(text: &str) -> Result<PathBuf, Complaint> {
    if text.is_empty() { complain("empty", "name a path") } else { Ok(PathBuf::from(text)) }
}

fn choose<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Complaint> {
    match choices.iter().find(|(name, _)| *name == text) {
        Some(&(_, value)) => Ok(value),
        None => {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            complain(
                format!("`{text}` is not a choice"),
                format!("write one of {}", names.join(", ")),
            )
        }
    }
}

pub(super) fn plaintext(text: &str) -> Result<Plaintext, Complaint> {
    let choices = [
        ("loopback", Plaintext::Loopback),
        ("never", Plaintext::Never),
        ("always", Plaintext::Always),
    ];
    choose(text, &choices)
}

pub(super) fn e2ee(text: &str) -> Result<E2ee, Complaint> {
    let choices = [("off", E2ee::Off), ("optional", E2ee::Optional), ("required", E2ee::Required)];
    choose(text, &choices)
}

/// Values of `spacebar.events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventsChoice {
    Unix,
    RabbitMqSingle,
    RabbitMqLegacy,
    Notify,
    Poll,
}

pub(super) fn spacebar_events(text: &str) -> Result<EventsChoice, Complaint> {
    let choices = [
        ("unix", EventsChoice::Unix),
        ("rabbitmq-single", EventsChoice::RabbitMqSingle),
        ("rabbitmq-legacy", EventsChoice::RabbitMqLegacy),
        ("notify", EventsChoice::Notify),
        ("poll", EventsChoice::Poll),
    ];
    choose(text, &choices)
}

pub(super) fn backends(text: &str) -> Result<Vec<BackendName>, Complaint> {
    let choices = [
        ("grants", BackendName::Grants),
        ("tokens", BackendName::Tokens),
        ("spacebar", BackendName::Spacebar),
    ];
    text.split(',').map(|name| choose(name.trim(), &choices)).collect()
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, Complaint> {
    choose(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
}

pub(super) fn log_level(text: &str) -> Result<String, Complaint> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => complain(
            format!("`{text}` is no filter: {error}"),
            "write for example info or stentor=debug",
        ),
    }
}

pub(super) fn endpoint(text: &str) -> Result<Endpoint, Complaint> {
    let remedy = "write host:port alone, such as voice.example.org:443";
    if text.contains("://") {
        return complain(format!("`{text}` has a scheme, and clients add their own"), remedy);
    }
    let Some(colon) = text.rfind(':') else {
        return complain(format!("`{text}` has no port, and some clients need one"), remedy);
    };
    let (host, port) = (&text[..colon], &text[colon + 1..]);
    // A colon inside the host is an IPv6 literal; clients split at the first one.
    let host_is_plain = !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    if !host_is_plain || port.parse::<NonZeroU16>().is_err() || port.starts_with('+') {
        return complain(
            format!("`{text}` is not a host name or IPv4 address with a port"),
            remedy,
        );
    }
    Ok(Endpoint { text: text.to_owned(), colon })
}

pub(super) fn webhook_url(text: &str) -> Result<http::Uri, Complaint> {
    let remedy = "write a URL such as https://backend.example.org/voice-events";
    let Ok(url) = text.parse::<http::Uri>() else {
        return complain(format!("`{text}` is not a URL"), remedy);
    };
    let scheme_is_known = matches!(url.scheme_str(), Some("http" | "https"));
    let host_is_plain = url.authority().is_some_and(|host| !host.as_str().contains('@'));
    if scheme_is_known && host_is_plain {
        Ok(url)
    } else {
        complain(
            "neither an http:// nor an https:// URL with a host and without credentials",
            remedy,
        )
    }
}

pub(super) fn mode_list(text: &str) -> Result<Vec<&'static str>, Complaint> {
    let mut modes = Vec::new();
    for name in text.split(',').map(str::trim) {
        match MODES.iter().find(|mode| **mode == name) {
            Some(mode) if !modes.contains(mode) => modes.push(*mode),
            Some(_) => return complain(format!("`{name}` is listed twice"), "list it once"),
            None => {
                return complain(
                    format!("`{name}` is not an encryption mode"),
                    format!("choose from {}", MODES.join(", ")),
                );
            }
        }
    }
    Ok(modes)
}

pub(super) fn resume_window(text: &str) -> Result<Duration, Complaint> {
    let remedy = "write a number of seconds, or a number with ms, s, m or h, up to 1h";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let ms = match unit.trim_start() {
        "" | "s" => 1_000,
        "ms" => 1,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return complain(format!("`{text}` is not a duration"), remedy),
    };
    match number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(ms))
        .map(Duration::from_millis)
    {
        Some(window) if window <= RESUME_WINDOW_MAX => Ok(window),
        _ => complain(format!("`{text}` is not a duration of at most 1h"), remedy),
    }
}
