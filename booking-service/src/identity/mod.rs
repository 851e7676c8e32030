//! identity-service as far as booking needs it: the keys that tokens are verified with, and which tokens it has revoked.

mod keys;
mod revocations;
mod service_account;

pub use keys::Keys;
pub use revocations::RevocationWatch;
pub use service_account::ServiceAccount;
