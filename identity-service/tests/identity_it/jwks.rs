//! The public keys, over gRPC and HTTP.

use std::sync::Arc;

use rowlock_proto::identity::v1::GetJwksRequest;
use service_core::token::{KeySet, TokenVerifier, VerifierConfig};

use crate::server::{PASSWORD, TestServer};

#[tokio::test]
async fn a_verifier_takes_the_tokens_with_the_published_keys() {
    let server = TestServer::start().await;
    let user = server.sign_up("ada@example.org").await;
    let session = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
    let jwks = server.auth().get_jwks(GetJwksRequest {}).await.unwrap().into_inner().jwks_json;
    let keys = Arc::new(KeySet::new());
    keys.replace_from_jwks(&jwks).unwrap();
    // The defaults, as other services know them.
    let config = VerifierConfig::new("identity.rowlock", "rowlock");
    let principal =
        TokenVerifier::new(config, keys, server.clock.clone()).verify(&session.access_token).unwrap();
    assert_eq!(principal.user_id.to_string(), user.user_id);
    assert!(principal.session_id.is_some());
    for private in ["\"d\"", "\"p\"", "\"q\"", "\"k\""] {
        assert!(!jwks.contains(private), "{jwks}");
    }
}

#[tokio::test]
async fn the_keys_over_http_are_the_same_and_can_be_cached() {
    let server = TestServer::start().await;
    let jwks = server.auth().get_jwks(GetJwksRequest {}).await.unwrap().into_inner().jwks_json;
    let (head, body) = server.get("/.well-known/jwks.json", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(body, jwks);
    assert!(head.contains("content-type: application/jwk-set+json"), "{head}");
    assert!(head.contains("cache-control: public, max-age=60"), "{head}");
    let etag = server.config.keys.load().unwrap().etag().to_owned();

    let (head, body) = server.get("/.well-known/jwks.json", &format!("if-none-match: {etag}\r\n")).await;
    assert!(head.starts_with("http/1.1 304"), "{head}");
    assert_eq!(body, "");
    let (head, _) = server.get("/.well-known/jwks.json", "if-none-match: \"other\"\r\n").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}
