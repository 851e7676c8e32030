//! What the HTTP port serves beside operations: the public keys.

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::signing::KeyRing;

/// Verifiers fetch the keys about once a minute; a cache in between must not make that longer.
const CACHE: &str = "public, max-age=60";

/// `GET /.well-known/jwks.json`.
pub(crate) fn router(ring: Arc<KeyRing>) -> Router {
    Router::new().route("/.well-known/jwks.json", get(async move |headers: HeaderMap| jwks(&ring, &headers)))
}

fn jwks(ring: &KeyRing, headers: &HeaderMap) -> Response {
    let caching = [(CACHE_CONTROL, CACHE.to_owned()), (ETAG, ring.etag().to_owned())];
    if headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .any(|value| value.to_str().is_ok_and(|tags| names(tags, ring.etag())))
    {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(CONTENT_TYPE, "application/jwk-set+json")], ring.jwks_json().to_owned()).into_response()
}

/// Whether a list of entity tags names this one, weak or strong (RFC 9110, section 13.1.2).
fn names(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_is_found_in_a_list_weak_or_strong() {
        for (tags, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(names(tags, "\"a\""), expected, "{tags}");
        }
    }
}
