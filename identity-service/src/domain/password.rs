//! Passwords.

use std::collections::HashSet;
use std::sync::LazyLock;

use service_core::validation::Violations;
use unicode_normalization::UnicodeNormalization;

use super::Email;

/// Passwords that everybody tries first, one a line, in lower case. Shorter ones than 8 characters are
/// refused anyway.
static COMMON: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| include_str!("common_passwords.txt").lines().collect());

const TOO_LONG: &str = "must have at most 256 characters";

/// A password as somebody typed it, in Unicode normalization form NFKC, so that it is the same from every
/// keyboard. It does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The fewest characters of a new password, after normalization.
    pub const MIN_CHARS: usize = 8;
    /// The most characters of a password, before and after normalization. More cannot be right and costs time
    /// to look at.
    pub const MAX_CHARS: usize = 256;

    /// Takes a password that is to be compared with a stored one. No rule applies but the upper limit: an
    /// account keeps its password when the rules for new ones change. `None` if it is too long to be
    /// anybody's.
    #[must_use]
    pub fn presented(value: &str) -> Option<Self> {
        if value.chars().nth(Self::MAX_CHARS).is_some() {
            return None;
        }
        Some(Self(value.nfkc().collect()))
    }

    /// Reads a password that is to be compared with a stored one. What cannot be anybody's is a violation of
    /// `field`.
    pub fn read(violations: &mut Violations, field: &str, value: &str) -> Self {
        if value.is_empty() {
            violations.add(field, "is required");
        }
        Self::presented(value).unwrap_or_else(|| {
            violations.add(field, TOO_LONG);
            Self(String::new())
        })
    }

    /// The bytes that are hashed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[password]")
    }
}

/// A password that keeps the rules for new ones.
#[derive(Clone, Debug)]
pub struct NewPassword(Password);

impl NewPassword {
    /// Reads the password of a new account, or a new password of one. What is wrong becomes a violation of
    /// `field`.
    ///
    /// The rules: 8 to 256 characters, any characters, none of the common ones, not the e-mail
    /// address or what stands before its `@`. Nothing about digits or signs: such rules make passwords worse.
    pub fn read(violations: &mut Violations, field: &str, value: &str, email: &Email) -> Self {
        match Self::parse(value, email) {
            Ok(password) => password,
            Err(description) => {
                violations.add(field, description);
                Self(Password(String::new()))
            }
        }
    }

    /// The password, or what is wrong with it.
    ///
    /// # Errors
    /// A description that continues the sentence "password …".
    pub fn parse(value: &str, email: &Email) -> Result<Self, &'static str> {
        if value.is_empty() {
            return Err("is required");
        }
        let Some(password) = Password::presented(value) else {
            return Err(TOO_LONG);
        };
        let chars = password.0.chars().count();
        if chars > Password::MAX_CHARS {
            return Err(TOO_LONG);
        }
        if chars < Password::MIN_CHARS {
            return Err("must have at least 8 characters");
        }
        let folded = password.0.to_lowercase();
        if COMMON.contains(folded.as_str()) {
            return Err("is one of the most common passwords; choose another");
        }
        if folded == email.as_str() || folded == email.local_part() {
            return Err("must not be the e-mail address");
        }
        Ok(Self(password))
    }

    /// The password itself.
    #[must_use]
    pub fn into_inner(self) -> Password {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(value: &str) -> Result<(), &'static str> {
        let email = Email::parse("ada.lovelace@example.org").unwrap();
        NewPassword::parse(value, &email).map(|_| ())
    }

    #[test]
    fn a_password_needs_8_to_256_characters_of_any_kind() {
        assert_eq!(judge(""), Err("is required"));
        assert_eq!(judge("vjq7x2w"), Err("must have at least 8 characters"));
        assert_eq!(judge("vjq7x2wz"), Ok(()));
        assert_eq!(judge("ключ от двери"), Ok(()));
        assert_eq!(judge("🐴🔋📎✅🐎🔌📐❎"), Ok(()));
        assert_eq!(judge(&"vq7 ".repeat(64)), Ok(()));
        assert_eq!(judge(&format!("{}x", "vq7 ".repeat(64))), Err("must have at most 256 characters"));
        assert_eq!(judge("vjq7\0x2wz"), Ok(()));
    }

    #[test]
    fn a_password_that_grows_beyond_the_limit_by_normalization_is_refused() {
        assert_eq!(judge(&"\u{FDFA}".repeat(256)), Err("must have at most 256 characters"));
    }

    #[test]
    fn common_passwords_are_refused_in_any_case_and_any_form() {
        let refused = Err("is one of the most common passwords; choose another");
        assert_eq!(judge("password1"), refused);
        assert_eq!(judge("PassWord1"), refused);
        assert_eq!(judge("ｐａｓｓｗｏｒｄ１"), refused);
        assert_eq!(judge("correcthorsebatterystaple"), refused);
    }

    #[test]
    fn the_address_is_no_password() {
        assert_eq!(judge("Ada.Lovelace@example.org"), Err("must not be the e-mail address"));
        assert_eq!(judge("ada.lovelace"), Err("must not be the e-mail address"));
    }

    #[test]
    fn two_spellings_of_the_same_characters_are_one_password() {
        assert_eq!(Password::presented("cafe\u{301} noir"), Password::presented("caf\u{e9} noir"));
        assert_ne!(Password::presented("cafe noir"), Password::presented("caf\u{e9} noir"));
        assert_eq!(Password::presented(&"x".repeat(257)), None);
    }

    #[test]
    fn the_list_of_common_passwords_is_long_sorted_and_of_use() {
        let lines: Vec<&str> = include_str!("common_passwords.txt").lines().collect();
        assert!(lines.len() >= 1_000);
        assert!(lines.is_sorted_by(|a, b| a < b), "sorted, each once");
        for line in lines {
            assert_eq!(line.to_lowercase().nfkc().collect::<String>(), line, "as it is looked up");
            assert!(line.chars().count() >= Password::MIN_CHARS, "{line} is refused anyway");
        }
    }

    #[test]
    fn a_password_does_not_print() {
        assert_eq!(format!("{:?}", Password::presented("vjq7x2wz")), "Some([password])");
    }
}
