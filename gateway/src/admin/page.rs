//! The page at `/`, the page at `/docs`, and what they are made of: files in the program. They hold no secret and need no
//! token; what they show they ask for, with the token that whoever looks has given them.

use super::routes::answer;
use axum::Router;
use axum::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Nothing from anywhere else, nothing that is written into a page, and nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

macro_rules! files {
    ($($path:literal: $kind:expr, $file:literal;)*) => {
        /// Path, type and content.
        const FILES: &[(&str, &str, &str)] = &[$(($path, $kind, include_str!(concat!("page/", $file)))),*];
    };
}

files! {
    "/": HTML, "index.html";
    "/docs": HTML, "docs.html";
    "/page/page.css": CSS, "page.css";
    "/page/docs.css": CSS, "docs.css";
    "/page/icon.svg": SVG, "icon.svg";
    "/page/api.js": SCRIPT, "api.js";
    "/page/charts.js": SCRIPT, "charts.js";
    "/page/counts.js": SCRIPT, "counts.js";
    "/page/docs.js": SCRIPT, "docs.js";
    "/page/page.js": SCRIPT, "page.js";
    "/page/playground.js": SCRIPT, "playground.js";
    "/page/requests.js": SCRIPT, "requests.js";
    "/page/show.js": SCRIPT, "show.js";
    "/page/tables.js": SCRIPT, "tables.js";
}

pub(super) fn routes() -> Router {
    FILES
        .iter()
        .fold(Router::new(), |router, (path, kind, text)| router.route(path, get(async move || file(kind, text))))
}

/// The paths of those that are pages.
#[cfg(test)]
pub(crate) fn pages() -> impl Iterator<Item = &'static str> {
    FILES.iter().filter(|(_, kind, _)| *kind == HTML).map(|(path, ..)| *path)
}

/// Whether this is one of the files: they are shown to anybody.
pub(super) fn is_file(path: &str) -> bool {
    FILES.iter().any(|(known, ..)| *known == path)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let mut response = answer(StatusCode::OK, kind, text);
    let headers: [(HeaderName, &str); 4] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
