//! Values that are checked after parsing, and the list of what was wrong.

use std::convert::Infallible;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::secret::Secret;

/// Everything that is wrong with the configuration. `Display` has one line for each.
#[derive(Debug, Default, thiserror::Error)]
pub struct ConfigErrors(Vec<(String, String)>);

impl ConfigErrors {
    /// Records that the option `name` is wrong. The message continues the sentence that the name begins.
    pub fn add(&mut self, name: impl Into<String>, message: impl Into<String>) {
        self.0.push((name.into(), message.into()));
    }

    /// Whether nothing was wrong so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the check.
    ///
    /// # Errors
    /// All that was recorded.
    pub fn finish(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} error(s):", self.0.len())?;
        self.0.iter().try_for_each(|(name, message)| write!(f, "\n  {name} {message}"))
    }
}

/// An option's value, good or bad. Clap never fails on it, so that all bad values are found before any is reported.
#[derive(Clone, Debug)]
pub struct Checked<T>(Result<T, String>);

impl<T: FromStr<Err: fmt::Display>> FromStr for Checked<T> {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        // The text itself is left out: it may be a secret that went into the wrong variable.
        Ok(Self(text.trim().parse().map_err(|error: T::Err| error.to_string())))
    }
}

impl<T> Checked<T> {
    /// The value, or `None` and an error under `name`, such as `--grpc-addr (ROWLOCK_GRPC_ADDR)`.
    pub fn take(self, name: &str, errors: &mut ConfigErrors) -> Option<T> {
        self.0.map_err(|message| errors.add(name, format!("is wrong: {message}"))).ok()
    }

    /// Like [`Checked::take`], for a value that must be within `range`.
    pub fn take_within(self, name: &str, range: RangeInclusive<T>, errors: &mut ConfigErrors) -> Option<T>
    where
        T: PartialOrd + fmt::Display,
    {
        let value = self.take(name, errors)?;
        if range.contains(&value) {
            return Some(value);
        }
        errors.add(name, format!("is {value}, but must be from {} to {}", range.start(), range.end()));
        None
    }
}

/// A duration as an option has it: `250ms`, `5s`, `30m`, `12h`, `7d`; a number alone is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// The text is not a [`Period`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration: expected a whole number and a unit, such as 250ms, 5s, 30m, 12h or 7d")]
pub struct NotAPeriod;

impl FromStr for Period {
    type Err = NotAPeriod;

    fn from_str(text: &str) -> Result<Self, NotAPeriod> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| NotAPeriod)?;
        let seconds_each = match unit {
            "ms" => return Ok(Self(Duration::from_millis(number))),
            "" | "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(NotAPeriod),
        };
        number.checked_mul(seconds_each).map(|s| Self(Duration::from_secs(s))).ok_or(NotAPeriod)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (millis, seconds) = (self.0.as_millis(), self.0.as_secs());
        match seconds {
            _ if !millis.is_multiple_of(1_000) => write!(f, "{millis}ms"),
            0 => f.write_str("0s"),
            _ if seconds.is_multiple_of(86_400) => write!(f, "{}d", seconds / 86_400),
            _ if seconds.is_multiple_of(3_600) => write!(f, "{}h", seconds / 3_600),
            _ if seconds.is_multiple_of(60) => write!(f, "{}m", seconds / 60),
            _ => write!(f, "{seconds}s"),
        }
    }
}

/// Reads a secret that is given either itself or as the path of a file that holds it; the file's last line end is
/// dropped. `None` if it is given in neither way, or was wrong.
pub fn secret(
    name: &str,
    value: Option<Secret>,
    file: Option<&Path>,
    errors: &mut ConfigErrors,
) -> Option<Secret> {
    let text = match (value, file) {
        (Some(_), Some(_)) => {
            errors.add(name, "and its _FILE are both set: give only one");
            return None;
        }
        (Some(value), None) => value.expose().to_owned(),
        (None, Some(path)) => match std::fs::read_to_string(path) {
            Ok(text) => {
                text.strip_suffix('\n').map_or(text.as_str(), |t| t.trim_end_matches('\r')).to_owned()
            }
            Err(error) => {
                errors.add(name, format!("cannot be read from {}: {error}", path.display()));
                return None;
            }
        },
        (None, None) => return None,
    };
    if text.is_empty() {
        errors.add(name, "is set but empty");
        return None;
    }
    Some(Secret::new(text))
}
