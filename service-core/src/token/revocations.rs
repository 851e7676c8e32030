//! What is known of revoked tokens, and who waits to hear of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::sleep;
use uuid::Uuid;

use super::TokenError;
use crate::auth::Principal;

/// The least time between two looks of one waiter, so that thousands of streams make no storm of many revocations.
const LOOK_GAP: Duration = Duration::from_millis(100);

/// Which tokens to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RevocationTarget {
    /// Those of the session with this id: claim `sid`.
    Session(Uuid),
    /// Those of a user or service account whose claim `sv` is below a number.
    User {
        /// Claim `sub`.
        user_id: Uuid,
        /// The lowest `sv` that is still good.
        minimum_session_version: i64,
    },
}

/// Tokens to refuse, and until when that must be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownRevocation {
    /// Which tokens.
    pub target: RevocationTarget,
    /// By then every one of them has expired.
    pub expire_time: OffsetDateTime,
}

/// The revocations that are known to this process. Asked for every call, so it answers from memory. What is added is never
/// taken back before it expires, in whatever order it comes and however often.
#[derive(Debug)]
pub struct KnownRevocations {
    users: RwLock<HashMap<Uuid, (i64, OffsetDateTime)>>,
    sessions: RwLock<HashMap<Uuid, OffsetDateTime>>,
    distrusted: AtomicBool,
    changed: watch::Sender<()>,
}

impl Default for KnownRevocations {
    fn default() -> Self {
        Self::new()
    }
}

impl KnownRevocations {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            users: RwLock::default(),
            sessions: RwLock::default(),
            distrusted: AtomicBool::new(false),
            changed: watch::Sender::new(()),
        }
    }

    /// Adds what is new among these.
    pub fn add(&self, revocations: impl IntoIterator<Item = KnownRevocation>) {
        let mut news = false;
        {
            let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
            let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
            for KnownRevocation { target, expire_time } in revocations {
                news = true;
                match target {
                    RevocationTarget::Session(id) => {
                        let known = sessions.entry(id).or_insert(expire_time);
                        *known = expire_time.max(*known);
                    }
                    RevocationTarget::User { user_id, minimum_session_version } => {
                        let (minimum, known) =
                            users.entry(user_id).or_insert((minimum_session_version, expire_time));
                        *minimum = minimum_session_version.max(*minimum);
                        *known = expire_time.max(*known);
                    }
                }
            }
        }
        if news {
            self.changed.send_replace(());
        }
    }

    /// Forgets what has expired by `now`.
    pub fn forget_expired(&self, now: OffsetDateTime) {
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, (_, expire_time)| *expire_time > now);
        drop(users);
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, expire_time| *expire_time > now);
    }

    /// How many users and sessions it knows something of.
    #[must_use]
    pub fn len(&self) -> usize {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner).len();
        users + self.sessions.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether what is known is too old to vouch for a token: all are refused then, with
    /// [`TokenError::RevocationsUnknown`]. False at first.
    pub fn distrust(&self, distrusted: bool) {
        if self.distrusted.swap(distrusted, Ordering::AcqRel) != distrusted {
            self.changed.send_replace(());
        }
    }

    /// Whether the token of `principal` is still good.
    ///
    /// # Errors
    /// [`TokenError::Revoked`], or [`TokenError::RevocationsUnknown`] if it cannot be told.
    pub fn judge(&self, principal: &Principal) -> Result<(), TokenError> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        let too_old =
            users.get(&principal.user_id).is_some_and(|(minimum, _)| principal.session_version < *minimum);
        drop(users);
        let ended = principal.session_id.is_some_and(|session| {
            self.sessions.read().unwrap_or_else(PoisonError::into_inner).contains_key(&session)
        });
        if too_old || ended {
            return Err(TokenError::Revoked);
        }
        if self.distrusted.load(Ordering::Acquire) {
            return Err(TokenError::RevocationsUnknown);
        }
        Ok(())
    }

    /// Waits until the token of `principal` is good no longer, and says why.
    pub async fn refused(&self, principal: &Principal) -> TokenError {
        let mut changed = self.changed.subscribe();
        loop {
            if let Err(error) = self.judge(principal) {
                return error;
            }
            // The sender lives as long as this borrow.
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(LOOK_GAP).await;
            changed.mark_unchanged();
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::auth::Role;

    const NOW: OffsetDateTime = datetime!(2026-01-01 12:00 UTC);
    const LATER: OffsetDateTime = datetime!(2026-01-01 13:00 UTC);
    const ADA: Uuid = Uuid::from_u128(1);
    const SESSION: Uuid = Uuid::from_u128(9);

    fn ada(session_version: i64) -> Principal {
        Principal {
            user_id: ADA,
            role: Role::Attendee,
            session_id: Some(SESSION),
            session_version,
            expires: LATER,
        }
    }

    fn below(minimum_session_version: i64, expire_time: OffsetDateTime) -> KnownRevocation {
        let target = RevocationTarget::User { user_id: ADA, minimum_session_version };
        KnownRevocation { target, expire_time }
    }

    #[test]
    fn a_users_tokens_of_a_lower_version_are_refused_whatever_the_order_of_the_news() {
        for order in [[2, 5, 3], [5, 3, 2], [3, 5, 5]] {
            let known = KnownRevocations::new();
            assert_eq!(known.judge(&ada(1)), Ok(()));
            known.add(order.map(|minimum| below(minimum, LATER)));
            assert_eq!(known.judge(&ada(4)), Err(TokenError::Revoked), "{order:?}");
            assert_eq!(known.judge(&ada(5)), Ok(()), "{order:?}");
            assert_eq!(known.judge(&Principal { user_id: SESSION, ..ada(1) }), Ok(()), "somebody else");
            assert_eq!(known.len(), 1);
        }
    }

    #[test]
    fn a_sessions_tokens_are_refused_and_those_of_no_session_are_not() {
        let known = KnownRevocations::new();
        known.add([KnownRevocation { target: RevocationTarget::Session(SESSION), expire_time: LATER }]);
        assert_eq!(known.judge(&ada(1)), Err(TokenError::Revoked));
        assert_eq!(known.judge(&Principal { session_id: None, ..ada(1) }), Ok(()));
        assert_eq!(known.judge(&Principal { session_id: Some(ADA), ..ada(1) }), Ok(()));
    }

    #[test]
    fn a_revocation_is_forgotten_when_it_expires_and_not_before() {
        let known = KnownRevocations::new();
        known.add([below(5, LATER), below(3, NOW)]);
        known.add([KnownRevocation { target: RevocationTarget::Session(SESSION), expire_time: NOW }]);
        known.forget_expired(NOW);
        assert_eq!(known.len(), 1);
        assert_eq!(known.judge(&ada(4)), Err(TokenError::Revoked));
        known.forget_expired(LATER);
        assert!(known.is_empty());
    }

    #[tokio::test]
    async fn who_waits_is_told_of_the_own_token_and_of_no_other() {
        let known = KnownRevocations::new();
        let ada = ada(1);
        let mut waiting = std::pin::pin!(known.refused(&ada));
        let other = Uuid::from_u128(2);
        known.add([KnownRevocation { target: RevocationTarget::Session(other), expire_time: LATER }]);
        tokio::time::timeout(LOOK_GAP * 3, &mut waiting).await.unwrap_err();
        known.add([below(2, LATER)]);
        assert_eq!(waiting.await, TokenError::Revoked);
    }

    #[tokio::test]
    async fn what_is_distrusted_vouches_for_nobody_and_still_knows_who_is_revoked() {
        let known = KnownRevocations::new();
        known.add([below(2, LATER)]);
        known.distrust(true);
        assert_eq!(known.judge(&ada(1)), Err(TokenError::Revoked));
        assert_eq!(known.judge(&ada(2)), Err(TokenError::RevocationsUnknown));
        assert_eq!(known.refused(&ada(2)).await, TokenError::RevocationsUnknown);
        known.distrust(false);
        assert_eq!(known.judge(&ada(2)), Ok(()));
    }
}
