//! Which tokens to refuse before they expire.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

/// The longest that an access token may live, whatever is configured.
pub const LONGEST_ACCESS_TOKEN_LIFETIME: Duration = Duration::from_secs(3_600);

/// How far a verifier may let clocks differ.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

/// Tokens that are refused from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revocation {
    /// The `sub` claim: a user's id or a service account's.
    pub user_id: Uuid,
    /// Which of their tokens.
    pub tokens: RevokedTokens,
}

/// Which tokens of a user are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RevokedTokens {
    /// Those whose `sid` claim this is.
    OfSession(Uuid),
    /// Those whose `sv` claim is lower.
    BelowVersion(i64),
}

impl Revocation {
    /// Of the tokens of these sessions of a user.
    pub fn of_sessions(user_id: Uuid, sessions: impl IntoIterator<Item = Uuid>) -> Vec<Self> {
        let of = |session_id| Self { user_id, tokens: RevokedTokens::OfSession(session_id) };
        sessions.into_iter().map(of).collect()
    }

    /// When a revocation of `now` may be forgotten. It counts with the longest lifetime that can be configured, not
    /// with the present one: a token may be from before the configuration was changed, or from a replica that has
    /// another one.
    #[must_use]
    pub fn expire_time(now: OffsetDateTime) -> OffsetDateTime {
        now + LONGEST_ACCESS_TOKEN_LIFETIME + CLOCK_DIFFERENCE
    }

    /// What a session has to have been used after for one of its access tokens to be out still, at `now`: each of them was
    /// made by a use.
    #[must_use]
    pub fn tokens_may_be_out_since(now: OffsetDateTime) -> OffsetDateTime {
        now - LONGEST_ACCESS_TOKEN_LIFETIME - CLOCK_DIFFERENCE
    }
}
