//! Access tokens: what they say, and for how long.

use std::sync::Arc;
use std::time::Duration;

use service_core::auth::Role;
use service_core::ids::IdSource;
use service_core::secret::Secret;
use service_core::token::Claims;
use time::OffsetDateTime;
use uuid::Uuid;

use super::KeyRing;

/// An access token and when it expires.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// The JWT.
    pub token: Secret,
    /// From when on it is no longer valid; whole seconds.
    pub expire_time: OffsetDateTime,
}

/// Issues access tokens.
pub struct AccessTokens {
    ring: Arc<KeyRing>,
    ids: Arc<dyn IdSource>,
    issuer: String,
    audience: String,
    lifetime: Duration,
}

impl AccessTokens {
    /// Issues tokens of `issuer` for `audience` that live for `lifetime`, signed by `ring`.
    #[must_use]
    pub fn new(
        ring: Arc<KeyRing>,
        ids: Arc<dyn IdSource>,
        issuer: String,
        audience: String,
        lifetime: Duration,
    ) -> Self {
        Self { ring, ids, issuer, audience, lifetime }
    }

    /// A token for `subject`. `session` is the session that it belongs to, if any; `session_version` the
    /// user's at present.
    ///
    /// # Errors
    /// If the cryptography library fails.
    pub fn issue(
        &self,
        subject: Uuid,
        role: Role,
        session: Option<Uuid>,
        session_version: i64,
        now: OffsetDateTime,
    ) -> Result<AccessToken, jsonwebtoken::errors::Error> {
        // A JWT counts whole seconds; the time that is told must be the one that is judged.
        let issued = now.replace_nanosecond(0).unwrap_or(now);
        let expire_time = issued + self.lifetime;
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: subject.to_string(),
            aud: self.audience.clone(),
            exp: expire_time.unix_timestamp(),
            nbf: issued.unix_timestamp(),
            iat: issued.unix_timestamp(),
            jti: self.ids.new_id().to_string(),
            role: role.as_str().to_owned(),
            sid: session.map(|id| id.to_string()),
            sv: session_version,
        };
        Ok(AccessToken { token: self.ring.sign(&claims)?, expire_time })
    }
}

impl std::fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessTokens")
            .field("ring", &self.ring)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use service_core::clock::{Clock, ManualClock};
    use service_core::ids::UuidV7;
    use service_core::token::{KeySet, TokenVerifier, VerifierConfig};
    use time::macros::datetime;

    use super::*;
    use crate::signing::{SigningAlgorithm, SigningKey};

    fn part(token: &str, index: usize) -> serde_json::Value {
        let part = token.split('.').nth(index).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn a_token_says_what_the_contract_promises_and_the_verifier_of_the_services_takes_it() {
        let now = datetime!(2026-01-01 12:00:00.750 UTC);
        let clock = Arc::new(ManualClock::new(now));
        let pem = SigningAlgorithm::Es256.generate_pem().unwrap();
        let ring = Arc::new(KeyRing::new(SigningKey::from_pem(pem.as_bytes()).unwrap(), &[]).unwrap());
        let tokens = AccessTokens::new(
            ring.clone(),
            Arc::new(UuidV7::new(clock.clone())),
            "identity.test".into(),
            "rowlock.test".into(),
            Duration::from_secs(300),
        );
        let (subject, session) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let issued = tokens.issue(subject, Role::Organizer, Some(session), 7, clock.now()).unwrap();
        assert_eq!(issued.expire_time, datetime!(2026-01-01 12:05 UTC));

        let header = part(issued.token.expose(), 0);
        assert_eq!(header, serde_json::json!({"typ": "at+jwt", "alg": "ES256", "kid": ring.signing_kid()}));
        let claims = part(issued.token.expose(), 1);
        let second = datetime!(2026-01-01 12:00 UTC).unix_timestamp();
        assert!(Uuid::parse_str(claims["jti"].as_str().unwrap()).is_ok());
        assert_eq!(
            claims,
            serde_json::json!({
                "iss": "identity.test", "sub": subject.to_string(), "aud": "rowlock.test", "role": "organizer",
                "exp": second + 300, "nbf": second, "iat": second, "jti": claims["jti"], "sid": session.to_string(), "sv": 7
            })
        );

        let keys = Arc::new(KeySet::new());
        keys.replace_from_jwks(ring.jwks_json()).unwrap();
        let config = VerifierConfig::new("identity.test", "rowlock.test");
        let verifier = TokenVerifier::new(config, keys, clock);
        let principal = verifier.verify(issued.token.expose()).unwrap();
        assert_eq!((principal.user_id, principal.role), (subject, Role::Organizer));
        assert_eq!((principal.session_id, principal.expires), (Some(session), issued.expire_time));
        assert!(!format!("{issued:?} {tokens:?}").contains(issued.token.expose()));
    }
}
