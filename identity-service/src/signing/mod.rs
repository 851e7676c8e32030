//! The keys that access tokens are signed with: files in a directory, such as a mounted Kubernetes Secret.
//!
//! Every `*.pem` of the directory is a private key (PKCS#8) and is published in the JWKS, so that tokens
//! which it signed stay good. One key signs: the one that the file `signing` names by its kid, or the only
//! one. To change keys: `keys generate` a second one, restart all replicas, wait until the verifiers have
//! fetched the JWKS (two minutes by default), `keys activate` it, restart, and remove the old file when its last
//! token has expired.

mod access_token;
mod key;
mod key_dir;
mod key_ring;

pub use access_token::{AccessToken, AccessTokens};
pub use key::{KeyInvalid, SigningAlgorithm, SigningKey};
pub use key_dir::{KeyDir, KeyDirError};
pub use key_ring::KeyRing;
