//! The page to talk on: its files, which are part of the program, and the headers that keep a
//! browser to them. What the page does is in `page/`. A development server has it at its control
//! address, any other answers 404 there. Who may ask is `local_origin`'s, the page's way into a
//! channel `visitors`'. What every server's gateway gives of it is `link_page`.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    middleware,
    response::IntoResponse,
    routing::{any, get},
};

use super::{api::ApiError, local_origin, node::Node, visitors};
const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// One file of the page.
pub(super) struct File {
    path: &'static str,
    pub(super) media_type: &'static str,
    pub(super) text: &'static str,
}

macro_rules! files {
    ($($path:literal $media_type:ident $name:literal,)*) => {
        /// Every file of the page.
        const FILES: &[File] = &[$(File {
            path: $path,
            media_type: $media_type,
            text: include_str!(concat!("page/", $name)),
        },)*];
    };
}

files! {
    "/" HTML "index.html",
    "/page/style.css" STYLE "style.css",
    "/page/icon.svg" PICTURE "icon.svg",
    "/page/main.js" SCRIPT "main.js",
    "/page/backoff.js" SCRIPT "backoff.js",
    "/page/call.js" SCRIPT "call.js",
    "/page/codecs.js" SCRIPT "codecs.js",
    "/page/gateway.js" SCRIPT "gateway.js",
    "/page/level.js" SCRIPT "level.js",
    "/page/link.js" SCRIPT "link.js",
    "/page/media.js" SCRIPT "media.js",
    "/page/peer.js" SCRIPT "peer.js",
    "/page/playback.js" SCRIPT "playback.js",
    "/page/roster.js" SCRIPT "roster.js",
    "/page/sdp.js" SCRIPT "sdp.js",
    "/page/stats.js" SCRIPT "stats.js",
    "/page/tiles.js" SCRIPT "tiles.js",
    "/page/ui.js" SCRIPT "ui.js",
    "/page/visitor.js" SCRIPT "visitor.js",
}

/// The file at this path.
pub(super) fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

/// The page and what lets its visitors in.
pub(super) fn router(node: Arc<Node>) -> Router {
    let headers = Arc::new(headers(&visitors::gateway_origin(&node.config)));
    let mut files = Router::new();
    for file in FILES {
        let headers = headers.clone();
        files = files.route(
            file.path,
            get(async move || {
                let media_type = HeaderValue::from_static(file.media_type);
                let mut response =
                    ([(header::CONTENT_TYPE, media_type)], file.text).into_response();
                response.headers_mut().extend(headers.iter().cloned());
                response
            }),
        );
    }
    let dev = visitors::router(node).layer(middleware::from_fn(local_origin::same_origin));
    files.merge(dev).layer(middleware::from_fn(local_origin::loopback_host))
}

/// What stands in their place on a server that is for more than development.
pub(super) fn absent() -> Router<Arc<Node>> {
    let refuse = async |State(_): State<Arc<Node>>| {
        ApiError::not_found(
            "the page to talk on is here on a development server alone: one without a \
             certificate, a control secret and addresses other than loopback; elsewhere the \
             gateway's address has it, for links that `stentor grant --link` prints",
        )
    };
    Router::new()
        .route("/", any(refuse))
        .route("/page/{file}", any(refuse))
        .route("/dev/{*rest}", any(refuse))
}

/// Keeps the browser to the page's own files and this gateway, and everybody else's pages from
/// using any of it.
pub(super) fn headers(gateway: &str) -> Vec<(HeaderName, HeaderValue)> {
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         media-src 'self' mediastream:; connect-src 'self' {gateway}; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    let policy = HeaderValue::try_from(policy).expect("an endpoint is printable ASCII");
    let fixed = |name: &'static str, value: &'static str| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    vec![
        (header::CONTENT_SECURITY_POLICY, policy),
        fixed("cache-control", "no-cache"),
        fixed("cross-origin-opener-policy", "same-origin"),
        fixed("cross-origin-resource-policy", "same-origin"),
        fixed("permissions-policy", "microphone=(self), camera=(self), autoplay=(self)"),
        fixed("referrer-policy", "no-referrer"),
        fixed("x-content-type-options", "nosniff"),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_beside_the_page_is_served() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/control/page");
        let there: BTreeSet<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let name = |file: &File| match file.path.rsplit('/').next() {
            None | Some("") => "index.html".to_owned(),
            Some(name) => name.to_owned(),
        };
        assert_eq!(FILES.iter().map(name).collect::<BTreeSet<_>>(), there);
    }

    #[test]
    fn what_a_file_imports_is_a_file_and_no_code_stands_in_the_html() {
        let paths: BTreeSet<_> = FILES.iter().map(|file| file.path).collect();
        for file in FILES {
            for import in file.text.split("from \"./").skip(1) {
                let name = import.split('"').next().unwrap();
                let path = format!("/page/{name}");
                assert!(paths.contains(path.as_str()), "{} imports {name}", file.path);
            }
        }
        let html = FILES[0].text;
        for forbidden in ["style=", "onclick", "<style", "javascript:", "http://", "https://"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        assert_eq!(
            html.matches("<script").count(),
            html.matches("<script type=\"module\" src=").count()
        );
    }
}
