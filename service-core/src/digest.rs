//! SHA-256 over several parts.

use aws_lc_rs::digest::{Context, SHA256};

/// The SHA-256 of `parts`. Each part is preceded by its length, so that `["ab", "c"]` and `["a", "bc"]` differ.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The first `N` bytes, of 32, of the [`sha256`] of `parts`: enough to tell apart what nobody forges.
#[must_use]
pub fn sha256_start<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let whole = sha256(parts);
    std::array::from_fn(|at| whole.get(at).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_borders_between_parts_count() {
        assert_ne!(sha256(&[b"ab", b"c"]), sha256(&[b"a", b"bc"]));
        assert_ne!(sha256(&[b"ab"]), sha256(&[b"ab", b""]));
        assert_eq!(sha256(&[b"ab", b"c"]), sha256(&[b"ab", b"c"]));
        assert_eq!(sha256_start::<8>(&[b"ab", b"c"]), sha256(&[b"ab", b"c"])[..8]);
    }
}
