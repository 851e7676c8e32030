//! Opaque page tokens. A token carries the cursor of the last row that was shown and is bound to the method and the
//! arguments of the list call, so that a page of one list cannot continue another.
//!
//! The binding is a checksum, not a signature: a token gives access to nothing that the caller could not list anyway.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::digest::{sha256, sha256_start};

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
        sha256_start(&[&self.0, cursor])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_empty_token_is_the_first_page() {
        assert_eq!(PageBinding::new("ListEvents", &[]).decode(""), Ok(None));
    }

    #[test]
    fn a_token_of_another_method_or_other_arguments_is_refused() {
        let token = PageBinding::new("ListEvents", &[b"organizer", b"text"]).encode(b"cursor");
        for other in [
            PageBinding::new("ListUsers", &[b"organizer", b"text"]),
            PageBinding::new("ListEvents", &[b"organizer"]),
            PageBinding::new("ListEvents", &[b"organizert", b"ext"]),
            PageBinding::new("ListEvents", &[b"text", b"organizer"]),
        ] {
            assert_eq!(other.decode(&token), Err(PageTokenInvalid));
        }
    }

    #[test]
    fn a_token_that_is_too_long_is_refused() {
        assert_eq!(PageBinding::new("ListEvents", &[]).decode(&"A".repeat(1_025)), Err(PageTokenInvalid));
    }

    proptest! {
        #[test]
        fn a_token_gives_its_cursor_back(cursor in prop::collection::vec(any::<u8>(), 0..=700), argument in any::<Vec<u8>>()) {
            let binding = PageBinding::new("ListEvents", &[&argument]);
            prop_assert_eq!(binding.decode(&binding.encode(&cursor)), Ok(Some(cursor)));
        }

        #[test]
        fn a_token_with_any_other_letter_is_refused(cursor in any::<[u8; 24]>(), at in 0..54_usize, letter in "[A-Za-z0-9_-]") {
            let binding = PageBinding::new("ListEvents", &[]);
            let token = binding.encode(&cursor);
            let mut damaged = token.clone();
            damaged.replace_range(at..=at, &letter);
            prop_assert_eq!(binding.decode(&damaged).is_ok(), damaged == token);
        }

        #[test]
        fn made_up_tokens_are_refused(token in ".+") {
            prop_assert_eq!(PageBinding::new("ListEvents", &[]).decode(&token), Err(PageTokenInvalid));
        }
    }
}
