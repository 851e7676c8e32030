//! The algorithms that tokens may be signed with, as an option names them.

use std::str::FromStr;

use jsonwebtoken::Algorithm;

/// One or more of `ES256`, `RS256` and `EdDSA`, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAlgorithms(pub Vec<Algorithm>);

/// The text is not a list of [`TokenAlgorithms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a list of algorithms: expected one or more of ES256, RS256 and EdDSA, separated by commas")]
pub struct NotAlgorithms;

impl FromStr for TokenAlgorithms {
    type Err = NotAlgorithms;

    fn from_str(text: &str) -> Result<Self, NotAlgorithms> {
        let algorithm = |name: &str| match name.trim() {
            "ES256" => Ok(Algorithm::ES256),
            "RS256" => Ok(Algorithm::RS256),
            "EdDSA" => Ok(Algorithm::EdDSA),
            _ => Err(NotAlgorithms),
        };
        text.split(',').map(algorithm).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_three_are_named_and_never_a_symmetric_one_or_none() {
        let all = vec![Algorithm::ES256, Algorithm::RS256, Algorithm::EdDSA];
        assert_eq!("ES256, RS256,EdDSA".parse(), Ok(TokenAlgorithms(all)));
        for wrong in ["", "none", "HS256", "es256", "ES256,", "ES256;RS256", "ES256,HS256"] {
            assert_eq!(wrong.parse::<TokenAlgorithms>(), Err(NotAlgorithms), "{wrong}");
        }
    }
}
