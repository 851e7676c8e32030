//! Opaque page tokens. A token carries the cursor of the last row that was shown and is bound to the method and the
//! arguments of the list call, so that a page of one list cannot continue another.
//!
//! The binding is a checksum, not a signature: a token gives access to nothing that the caller could not list anyway.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::digest::sha256;

/// Longer than any token that is given out; what is longer is not even decoded.
const MAX_TOKEN_CHARS: usize = 1_024;
const CHECKSUM_BYTES: usize = 16;

/// The token is damaged, or was given for another method or other arguments. Both services answer PAGE_TOKEN_INVALID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the page token is not of this list: use the next_page_token of a call with the same arguments")]
pub struct PageTokenInvalid;

/// One list call: its method and its arguments, without the page size and the token.
#[derive(Clone, Copy, Debug)]
pub struct PageBinding([u8; 32]);

impl PageBinding {
    /// Binds tokens to `method` and `arguments`. The order of the arguments counts.
    #[must_use]
    pub fn new(method: &str, arguments: &[&[u8]]) -> Self {
        let mut parts = vec![b"page".as_slice(), method.as_bytes()];
        parts.extend(arguments);
        Self(sha256(&parts))
    }

    /// The token that continues after `cursor`, which may have up to 700 bytes.
    #[must_use]
    pub fn encode(&self, cursor: &[u8]) -> String {
        let mut bytes = self.checksum(cursor).to_vec();
        bytes.extend_from_slice(cursor);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The cursor of `token`. The empty token is the first page, which has none.
    ///
    /// # Errors
    /// [`PageTokenInvalid`] for a damaged token and for one of another method or other arguments.
    pub fn decode(&self, token: &str) -> Result<Option<Vec<u8>>, PageTokenInvalid> {
        if token.is_empty() {
            return Ok(None);
        }
        if token.len() > MAX_TOKEN_CHARS {
            return Err(PageTokenInvalid);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| PageTokenInvalid)?;
        match bytes.split_first_chunk::<CHECKSUM_BYTES>() {
            Some((checksum, cursor)) if *checksum == self.checksum(cursor) => Ok(Some(cursor.to_vec())),
            _ => Err(PageTokenInvalid),
        }
    }

    fn checksum(&self, cursor: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let mut checksum = [0; CHECKSUM_BYTES];
        for (to, from) in checksum.iter_mut().zip(sha256(&[&self.0, cursor])) {
            *to = from;
        }
        checksum
    }
}
