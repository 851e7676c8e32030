//! The rules, without any I/O: what an e-mail address, a password and a user are, how failures slow sign-ins
//! down, how long sessions live, how users change, and everything that can go wrong.

mod audit;
mod backoff;
mod email;
mod error;
mod password;
mod revocation;
mod service_account;
mod session;
mod user;
mod user_update;

pub use audit::{Act, AuditAction};
pub use backoff::{Backoff, Failures};
pub use email::Email;
pub use error::{Cause, Error, Result};
pub use password::{NewPassword, Password};
pub use revocation::{LONGEST_ACCESS_TOKEN_LIFETIME, Revocation, RevokedTokens};
pub use service_account::{LONGEST_OVERLAP, NewServiceAccount, SecretDigests, ServiceAccount, WhichSecret};
pub use session::{MOST_SESSIONS, Session, SessionLifetimes, TOKENS_AT_ONCE, TOKENS_PER_SECOND};
pub use user::{NewUser, User, display_name, sign_up_role};
pub use user_update::{UpdatedUser, UserUpdate};
