//! Service accounts: what other backends sign in with.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

/// The longest that an old secret may go on working beside a new one.
pub const LONGEST_OVERLAP: Duration = Duration::from_secs(30 * 86_400);

/// A use of a secret so soon after the last one that was written down is not written down: backends without a cache of tokens
/// would have each of their calls wait for a write.
const USE_PRECISION: Duration = Duration::from_secs(60);

/// A service account, as stored. The digests of its secrets are not part of it.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// The id; the `sub` claim.
    pub id: Uuid,
    /// What the backend names itself by.
    pub client_id: String,
    /// What the account is for, 1 to 100 characters.
    pub display_name: String,
    /// The `sv` claim: tokens with a lower number are void.
    pub session_version: i64,
    /// When it was made.
    pub create_time: OffsetDateTime,
    /// When its present secret was made.
    pub secret_create_time: OffsetDateTime,
    /// Until when the secret before works too.
    pub old_secret_expire_time: Option<OffsetDateTime>,
    /// When the present secret was used, to within a minute, as far as is known.
    pub secret_last_use_time: Option<OffsetDateTime>,
    /// The same of the secret before.
    pub old_secret_last_use_time: Option<OffsetDateTime>,
}

impl ServiceAccount {
    /// Whether a use of a secret at `now` is to be written down.
    #[must_use]
    pub fn use_is_news(&self, which: WhichSecret, now: OffsetDateTime) -> bool {
        let last = match which {
            WhichSecret::Present => self.secret_last_use_time,
            WhichSecret::Old => self.old_secret_last_use_time,
        };
        last.is_none_or(|last| now - last >= USE_PRECISION)
    }
}

/// One of the secrets of a service account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhichSecret {
    /// The present one.
    Present,
    /// The one before, while it still works.
    Old,
}

/// The digests of the secrets of a service account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretDigests {
    /// Of the present secret.
    pub present: [u8; 32],
    /// Of the one before, and until when it works.
    pub old: Option<([u8; 32], OffsetDateTime)>,
}

/// A service account that is about to be stored.
#[derive(Clone, Debug)]
pub struct NewServiceAccount {
    /// The id, made by the service.
    pub id: Uuid,
    /// What the backend will name itself by.
    pub client_id: String,
    /// What the account is for.
    pub display_name: String,
    /// The digest of its secret.
    pub secret_hash: [u8; 32],
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_use_is_news_a_minute_after_the_last_of_the_same_secret() {
        let then = datetime!(2026-01-01 12:00 UTC);
        let account = ServiceAccount {
            id: Uuid::nil(),
            client_id: String::new(),
            display_name: "Mailer".into(),
            session_version: 1,
            create_time: then,
            secret_create_time: then,
            old_secret_expire_time: Some(then + LONGEST_OVERLAP),
            secret_last_use_time: None,
            old_secret_last_use_time: Some(then),
        };
        for (seconds, news) in [(0, false), (59, false), (60, true), (-5, false)] {
            let now = then + time::Duration::seconds(seconds);
            assert_eq!(account.use_is_news(WhichSecret::Old, now), news, "{seconds} s");
            assert!(account.use_is_news(WhichSecret::Present, now), "it was never used");
        }
    }
}
