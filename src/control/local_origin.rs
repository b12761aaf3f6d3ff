//! Who may use what a development server has without a secret: this machine's own browser, on the
//! page that this server gave it. Any other page in the same browser is kept out, whether it asks
//! across origins or under a name of its own that it has pointed at loopback (DNS rebinding). Owns
//! these two checks; called for each request to `page` and `visitors`.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::api::ApiError;
use crate::config::names_loopback;

/// What proxies add. One that leads to a development server leads the world to it.
const FORWARDED: [HeaderName; 4] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
];

/// Lets requests pass that came to this machine under a name for loopback, and through no proxy.
pub(super) async fn loopback_host(request: Request, next: Next) -> Response {
    match check_host(request.headers()) {
        Ok(_) => next.run(request).await,
        Err(why) => forbidden("foreign_host", why),
    }
}

/// Lets requests pass that the page itself makes. Goes behind [`loopback_host`].
pub(super) async fn same_origin(request: Request, next: Next) -> Response {
    match check_origin(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(why) => forbidden("foreign_origin", why),
    }
}

fn forbidden(code: &'static str, why: &'static str) -> Response {
    ApiError::new(StatusCode::FORBIDDEN, code, why).into_response()
}

/// The request's `Host`, if it names loopback.
fn check_host(headers: &HeaderMap) -> Result<&str, &'static str> {
    if FORWARDED.iter().any(|name| headers.contains_key(name)) {
        return Err("a development server is not for proxies; see docs/operating.md");
    }
    let host = single(headers, &header::HOST).ok_or("send one Host header")?;
    // The brackets of an IPv6 address have colons of their own.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if !names_loopback(name) {
        return Err("open this page as localhost or 127.0.0.1: other names may be anybody's");
    }
    Ok(host)
}

/// Whether the page that asks has the origin of the server that is asked. Browsers name it with
/// every request that could change something, and no page can make them name another.
fn check_origin(method: &Method, headers: &HeaderMap) -> Result<(), &'static str> {
    const FOREIGN: &str = "only this server's own page may ask for this";
    let host = check_host(headers)?;
    match single(headers, &HeaderName::from_static("sec-fetch-site")) {
        None | Some("same-origin" | "none") => {}
        Some(_) => return Err(FOREIGN),
    }
    match headers.get_all(header::ORIGIN).iter().count() {
        0 if method.is_safe() => Ok(()),
        0 => Err("send the Origin header, as browsers do"),
        _ => {
            let origin = single(headers, &header::ORIGIN).ok_or(FOREIGN)?;
            let authority = origin.strip_prefix("http://").ok_or(FOREIGN)?;
            if authority.eq_ignore_ascii_case(host) { Ok(()) } else { Err(FOREIGN) }
        }
    }
}

/// The header's only value; `None` if there are none or several.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = list.iter();
        pairs
            .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_host_that_is_not_loopback_is_somebody_elses_name() {
        for host in
            ["localhost:8080", "LOCALHOST:1", "127.0.0.1:8080", "127.0.0.9", "[::1]:8080", "[::1]"]
        {
            assert_eq!(check_host(&headers(&[("host", host)])), Ok(host));
        }
        for host in [
            "",
            "evil.example:8080",
            "127.0.0.1.evil.example:8080",
            "localhost.evil.example",
            "192.168.1.7:8080",
            "[2001:db8::1]:8080",
            "::1",
            "user@localhost",
        ] {
            assert!(check_host(&headers(&[("host", host)])).is_err(), "{host}");
        }
        assert!(check_host(&headers(&[])).is_err());
        assert!(check_host(&headers(&[("host", "localhost"), ("host", "localhost")])).is_err());
    }

    #[test]
    fn what_a_proxy_passes_on_is_refused() {
        for name in ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"] {
            let sent = [("host", "127.0.0.1:8080"), (name, "203.0.113.7")];
            assert!(check_host(&headers(&sent)).is_err(), "{name}");
        }
    }

    #[test]
    fn only_the_same_origin_may_change_something() {
        const HOST: (&str, &str) = ("host", "127.0.0.1:8080");
        let check = |method: Method, more: &[(&'static str, &'static str)]| {
            check_origin(&method, &headers(&[&[HOST], more].concat())).is_ok()
        };
        assert!(check(Method::POST, &[("origin", "http://127.0.0.1:8080")]));
        assert!(check(
            Method::POST,
            &[("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")]
        ));
        assert!(check(Method::GET, &[]) && check(Method::GET, &[("sec-fetch-site", "none")]));
        assert!(!check(Method::POST, &[]), "a browser would have sent it");
        for origin in [
            "null",
            "",
            "http://evil.example",
            "http://127.0.0.1:8081",
            "http://localhost:8080",
            "https://127.0.0.1:8080",
            "http://127.0.0.1:8080.evil.example",
        ] {
            assert!(!check(Method::POST, &[("origin", origin)]), "{origin}");
            assert!(!check(Method::GET, &[("origin", origin)]), "{origin}");
        }
        let twice = ("origin", "http://127.0.0.1:8080");
        assert!(!check(Method::POST, &[twice, twice]));
        for site in ["cross-site", "same-site", "other"] {
            assert!(!check(Method::GET, &[("sec-fetch-site", site)]), "{site}");
            assert!(!check(Method::POST, &[twice, ("sec-fetch-site", site)]), "{site}");
        }
    }
}
