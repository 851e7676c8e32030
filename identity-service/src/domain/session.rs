//! Sessions.

use std::num::NonZeroU32;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

/// A session: what began with a sign-in and lives on by its refresh tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The id; the `sid` claim.
    pub id: Uuid,
    /// What the client that signed in called itself, at most 200 characters.
    pub user_agent: String,
    /// When the user signed in.
    pub create_time: OffsetDateTime,
    /// When tokens were last issued to it.
    pub last_use_time: OffsetDateTime,
    /// When it ends unless its tokens are refreshed before.
    pub expire_time: OffsetDateTime,
}

/// How many sessions of one user are alive at most: enough for everything that one person is signed in with, and few enough
/// to be ended in one statement. With another one, the one ends that was used longest ago.
pub const MOST_SESSIONS: i64 = 100;

/// How often each user is given tokens, by signing in or by a refresh: so many times at once, and so many a second from then on.
/// Each time leaves a row for weeks. Who uses every session that there can be refreshes once in three seconds, at most.
pub const TOKENS_AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
/// See [`TOKENS_AT_ONCE`].
pub const TOKENS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN;

/// How long sessions live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLifetimes {
    /// How long a refresh token lives unused.
    pub idle: Duration,
    /// How long a session lives however often it is refreshed.
    pub absolute: Duration,
}

impl SessionLifetimes {
    /// When a refresh token that is issued at `now` lapses, in a session that began at `begin`.
    #[must_use]
    pub fn expire_time(&self, begin: OffsetDateTime, now: OffsetDateTime) -> OffsetDateTime {
        (now + self.idle).min(begin + self.absolute)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_token_lapses_unused_or_with_its_session_whichever_is_first() {
        let lifetimes = SessionLifetimes { idle: Duration::from_secs(10), absolute: Duration::from_secs(25) };
        let begin = datetime!(2026-01-01 12:00 UTC);
        for (now, end) in [(0, 10), (10, 20), (15, 25), (24, 25), (25, 25), (30, 25)] {
            let expire_time = lifetimes.expire_time(begin, begin + Duration::from_secs(now));
            assert_eq!(expire_time, begin + Duration::from_secs(end), "refreshed after {now} s");
        }
    }
}
