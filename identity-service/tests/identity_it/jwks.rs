//! The public keys, over gRPC and HTTP.

use std::sync::Arc;

use identity_service::signing::{KeyDir, SigningAlgorithm};
use jsonwebtoken::Algorithm;
use rowlock_proto::identity::v1::{GetJwksRequest, GetMeRequest};
use service_core::token::{KeySet, TokenError, TokenVerifier, VerifierConfig};

use crate::server::{PASSWORD, TestServer, with_token};

#[tokio::test]
async fn a_verifier_takes_the_tokens_of_every_algorithm_with_the_published_keys() {
    for (algorithm, jwt) in [
        (SigningAlgorithm::Es256, Algorithm::ES256),
        (SigningAlgorithm::Rs256, Algorithm::RS256),
        (SigningAlgorithm::EdDsa, Algorithm::EdDSA),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let keys_dir = KeyDir::new(folder.path(), false);
        keys_dir.generate(algorithm, false).unwrap();
        let server = TestServer::with(|config| config.keys = keys_dir).await;
        let user = server.sign_up("ada@example.org").await;
        let session = server.sign_in("ada@example.org", PASSWORD).await.unwrap();
        // The service takes its own tokens.
        server.users().get_me(with_token(GetMeRequest {}, &session.access_token)).await.unwrap();
        let jwks = server.auth().get_jwks(GetJwksRequest {}).await.unwrap().into_inner().jwks_json;
        for private in ["\"d\"", "\"p\"", "\"q\"", "\"k\""] {
            assert!(!jwks.contains(private), "{jwks}");
        }
        let keys = Arc::new(KeySet::new());
        keys.replace_from_jwks(&jwks).unwrap();
        for accepted in [Algorithm::ES256, Algorithm::RS256, Algorithm::EdDSA] {
            // The defaults, as other services know them.
            let config = VerifierConfig {
                algorithms: vec![accepted],
                ..VerifierConfig::new("identity.rowlock", "rowlock")
            };
            let verifier = TokenVerifier::new(config, keys.clone(), server.clock.clone());
            let verified = verifier.verify(&session.access_token);
            if accepted == jwt {
                let principal = verified.unwrap();
                assert_eq!(principal.user_id.to_string(), user.user_id);
                assert!(principal.session_id.is_some());
            } else {
                assert_eq!(verified, Err(TokenError::Invalid), "{jwt:?} where {accepted:?} is accepted");
            }
        }
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

#[tokio::test]
async fn the_discovery_document_says_where_the_keys_are_and_names_nothing_that_is_not_served() {
    let server = TestServer::start().await;
    let (head, body) = server.get("/.well-known/openid-configuration", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: application/json") && head.contains("cache-control: no-store"),
        "{head}"
    );
    let told: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(told["issuer"], "identity.rowlock");
    assert_eq!(told["jwks_uri"], "http://test/.well-known/jwks.json");
    assert_eq!(told["id_token_signing_alg_values_supported"], serde_json::json!(["ES256"]));
    assert!(!body.contains("_endpoint"), "{body}");

    let url = Some("https://identity.example.org".to_owned());
    let server = TestServer::with(|config| config.tokens.public_url = url).await;
    let (head, body) = server.get("/.well-known/openid-configuration", "").await;
    assert!(head.contains("cache-control: public, max-age=60"), "{head}");
    assert!(body.contains(r#""https://identity.example.org/.well-known/jwks.json""#), "{body}");
}
