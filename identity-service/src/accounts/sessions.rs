//! Sessions: refreshing, listing and ending them.

use service_core::auth::Principal;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Accounts, RefreshToken};
use crate::domain::{Error, Result, Session, User};
use crate::signing::AccessToken;
use crate::store::{self, Rotated, Rotation};

/// The newest tokens of a session.
#[derive(Clone, Debug)]
pub struct SessionTokens {
    /// The access token.
    pub access: AccessToken,
    /// The refresh token.
    pub refresh: RefreshToken,
    /// When the refresh token lapses.
    pub refresh_expire_time: OffsetDateTime,
    /// Whose session it is.
    pub user: User,
}

impl Accounts {
    /// Exchanges a refresh token for the next tokens of its session. One that comes a second time ends the
    /// session.
    ///
    /// # Errors
    /// [`Error::RefreshTokenInvalid`]; [`Error::RateLimited`], and the token is still good.
    pub async fn refresh_tokens(&self, presented: &RefreshToken) -> Result<SessionTokens> {
        let presented = presented.digest();
        // A session that has ended never goes on, and its tokens lock nobody.
        let owner = store::owner(&self.pool, presented).await?.filter(|owner| !owner.ended);
        let owner = owner.ok_or(Error::RefreshTokenInvalid)?;
        // Whoever refreshes without a pause does not keep it unseen that a token came a second time.
        if !owner.used {
            self.at_their_pace(owner.user_id)?;
        }
        let act = self.act(None);
        let refresh = RefreshToken::generate(self.sources.entropy.as_ref())?;
        let rotation = Rotation { presented, owner, next: refresh.digest(), lifetimes: self.sessions, act };
        match store::rotate_refresh_token(&self.pool, rotation).await? {
            Rotated::Next { user, session_id, expire_time } => {
                let access = self
                    .tokens
                    .issue(user.id, user.role, Some(session_id), user.session_version, act.time)
                    .map_err(Error::internal)?;
                Ok(SessionTokens { access, refresh, refresh_expire_time: expire_time, user })
            }
            Rotated::Reused { user_id, session_id } => {
                tracing::warn!(%user_id, %session_id, "a refresh token came a second time: its session was ended");
                Err(Error::RefreshTokenInvalid)
            }
            Rotated::Refused => Err(Error::RefreshTokenInvalid),
        }
    }

    /// Ends the session of a refresh token, be it used or not.
    ///
    /// # Errors
    /// [`Error::RefreshTokenInvalid`] if there is no such token.
    pub async fn sign_out(&self, presented: &RefreshToken) -> Result<()> {
        let found = store::sign_out(&self.pool, presented.digest(), self.act(None)).await?;
        if found { Ok(()) } else { Err(Error::RefreshTokenInvalid) }
    }

    /// At most `limit` sessions of the caller that are alive, newest first, from below `before` on.
    ///
    /// # Errors
    /// [`Error::TokenRevoked`]: where somebody else is signed in is nothing for who was signed out.
    pub async fn my_sessions(
        &self,
        caller: &Principal,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Session>> {
        self.must_stand(caller).await?;
        store::live_sessions(&self.pool, caller.user_id, self.now(), before, limit).await
    }

    /// Ends a session of the caller.
    ///
    /// # Errors
    /// [`Error::SessionNotFound`]; [`Error::TokenRevoked`].
    pub async fn revoke_my_session(&self, caller: &Principal, session_id: Uuid) -> Result<()> {
        self.must_stand(caller).await?;
        store::revoke_session(&self.pool, caller.user_id, session_id, self.act(Some(caller.user_id))).await
    }

    /// Ends all sessions of a user: how many were alive.
    ///
    /// # Errors
    /// [`Error::UserNotFound`]; [`Error::TokenRevoked`].
    pub async fn revoke_user_sessions(&self, caller: &Principal, user_id: Uuid) -> Result<usize> {
        self.must_stand(caller).await?;
        let ended = store::revoke_user_sessions(&self.pool, user_id, self.act(Some(caller.user_id))).await?;
        tracing::info!(%user_id, by = %caller.user_id, ended, "all sessions of a user were ended");
        Ok(ended)
    }
}
