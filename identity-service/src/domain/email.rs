//! E-mail addresses.

use service_core::validation::Violations;

/// An e-mail address in lower case, so that two spellings of one address are one address.
///
/// The rule is loose on purpose, because only a message that arrives proves an address: printable ASCII
/// without spaces, exactly one `@` with something on both sides, at most 254 characters. An internationalised
/// domain is written in its `xn--` form; other letters than ASCII are refused, because look-alikes would be
/// different accounts.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Email(String);

impl Email {
    /// The longest address that a mail server takes, in characters.
    pub const MAX_CHARS: usize = 254;

    /// Reads the address of a new account. A wrong one is a violation of `field`, and empty.
    pub fn read(violations: &mut Violations, field: &str, value: &str) -> Self {
        match Self::parse(value) {
            Ok(email) => email,
            Err(description) => {
                violations.add(field, description);
                Self(String::new())
            }
        }
    }

    /// The address in lower case, or what is wrong with it.
    ///
    /// # Errors
    /// A description that continues the sentence "email …".
    pub fn parse(value: &str) -> Result<Self, &'static str> {
        if value.is_empty() {
            return Err("is required");
        }
        if value.chars().count() > Self::MAX_CHARS {
            return Err("must have at most 254 characters");
        }
        if !value.chars().all(|c| c.is_ascii_graphic()) {
            return Err("must be of printable ASCII characters without spaces");
        }
        match value.split_once('@') {
            Some((local, domain)) if !local.is_empty() && !domain.is_empty() && !domain.contains('@') => {
                Ok(Self(value.to_ascii_lowercase()))
            }
            _ => Err("must be an e-mail address such as ada@example.org"),
        }
    }

    /// The address in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the `@`.
    #[must_use]
    pub fn local_part(&self) -> &str {
        self.0.split_once('@').map_or("", |(local, _)| local)
    }
}

impl std::fmt::Debug for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Addresses must not end up in logs.
        f.write_str("[e-mail]")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_kept_in_lower_case() {
        let email = Email::parse("Ada.Lovelace@Example.ORG").unwrap();
        assert_eq!(email.as_str(), "ada.lovelace@example.org");
        assert_eq!(email.local_part(), "ada.lovelace");
        assert_eq!(format!("{email:?}"), "[e-mail]");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.org", "a".repeat(243));
        for wrong in [
            "",
            "ada",
            "@",
            "ada@",
            "@example.org",
            "a@b@c",
            "a da@example.org",
            "ada@exam\0ple.org",
            " a@b",
            &long,
        ] {
            assert!(Email::parse(wrong).is_err(), "{wrong:?} was accepted");
        }
        assert!(Email::parse(&format!("{}@example.org", "a".repeat(242))).is_ok());
        assert_eq!(
            Email::parse("аda@example.org"),
            Err("must be of printable ASCII characters without spaces")
        );
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_is_idempotent(value in ".*") {
            if let Ok(email) = Email::parse(&value) {
                prop_assert_eq!(Email::parse(email.as_str()).unwrap(), email);
            }
        }
    }
}
