//! Reading requests: every violation is collected, then the request is refused once.

use std::ops::RangeInclusive;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, such as `event.start_time`.
    pub field: String,
    /// What it should have been, for people.
    pub description: String,
}

/// A request that is refused, with everything that is wrong with it. Both services answer VALIDATION_FAILED.
#[derive(Debug, thiserror::Error)]
#[error("the request is invalid: {}", summary(.0))]
pub struct Invalid(pub Vec<Violation>);

fn summary(violations: &[Violation]) -> String {
    let named: Vec<String> = violations.iter().map(|v| format!("{} {}", v.field, v.description)).collect();
    named.join("; ")
}

/// Collects the violations of one request. Its readers answer a stand-in for a value that is wrong, so that reading can
/// go on; [`Violations::finish`] must be called before any value is used.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

/// The earliest time that is accepted: 0001-01-01T00:00:00Z, as `google.protobuf.Timestamp` has it.
const MIN_SECONDS: i64 = -62_135_596_800;
/// The last second that is accepted: 9999-12-31T23:59:59Z.
const MAX_SECONDS: i64 = 253_402_300_799;

impl Violations {
    /// Records that `field` is wrong. The description continues the sentence that the field's name begins.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), description: description.into() });
    }

    /// Reads a required UUID in its hyphenated form, in lower or upper case. A wrong one is [`Uuid::nil`].
    pub fn uuid(&mut self, field: &str, value: &str) -> Uuid {
        if value.is_empty() {
            self.add(field, "is required");
            return Uuid::nil();
        }
        self.optional_uuid(field, value).unwrap_or_default()
    }

    /// Reads a UUID that may be left empty.
    pub fn optional_uuid(&mut self, field: &str, value: &str) -> Option<Uuid> {
        if value.is_empty() {
            return None;
        }
        // `try_parse` also takes simple, braced and URN forms; only the hyphenated one is 36 long.
        let parsed = (value.len() == 36).then(|| Uuid::try_parse(value).ok()).flatten();
        if parsed.is_none() {
            self.add(field, "must be a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057");
        }
        parsed
    }

    /// Reads a text of `min_chars` to `max_chars` characters, as given and not trimmed. Control characters other than
    /// line feed and tab are refused. If `min_chars` is more than 0, a text of white space alone counts as missing.
    pub fn text(&mut self, field: &str, value: &str, min_chars: usize, max_chars: usize) -> String {
        let chars = value.chars().count();
        if min_chars > 0 && value.trim().is_empty() {
            self.add(field, "is required");
        } else if chars < min_chars {
            self.add(field, format!("must have at least {min_chars} characters"));
        } else if chars > max_chars {
            self.add(field, format!("must have at most {max_chars} characters"));
        } else if value.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            self.add(field, "must not contain control characters");
        }
        value.to_owned()
    }

    /// Reads a whole number within `range`. A wrong one is answered as given.
    pub fn int(&mut self, field: &str, value: impl Into<i64>, range: RangeInclusive<i64>) -> i64 {
        let value = value.into();
        if !range.contains(&value) {
            self.add(field, format!("must be from {} to {}", range.start(), range.end()));
        }
        value
    }

    /// Reads a time between the years 1 and 9999, cut to microseconds as PostgreSQL keeps them. A missing one is `None`
    /// and no violation.
    pub fn time(&mut self, field: &str, value: Option<&prost_types::Timestamp>) -> Option<OffsetDateTime> {
        let value = value?;
        let time = micros(value.nanos)
            .filter(|_| (MIN_SECONDS..=MAX_SECONDS).contains(&value.seconds))
            .and_then(|micros| {
                let time = OffsetDateTime::from_unix_timestamp(value.seconds).ok()?;
                time.replace_microsecond(micros).ok()
            });
        if time.is_none() {
            self.add(field, "must be a time between the years 1 and 9999");
        }
        time
    }

    /// Reads a duration within `range`. A missing one is `None` and no violation.
    pub fn duration(
        &mut self,
        field: &str,
        value: Option<&prost_types::Duration>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = value?;
        let seconds = u64::try_from(value.seconds).ok();
        let nanos = u32::try_from(value.nanos).ok().filter(|n| *n < 1_000_000_000);
        let duration = seconds.zip(nanos).map(|(s, n)| Duration::new(s, n)).filter(|d| range.contains(d));
        if duration.is_none() {
            self.add(field, format!("must be from {:?} to {:?}", range.start(), range.end()));
        }
        duration
    }

    /// Reads the size of a page: 0 is 50, more than 1000 is 1000, negative is wrong.
    pub fn page_size(&mut self, value: i32) -> i64 {
        match value {
            0 => 50,
            1.. => i64::from(value.min(1000)),
            _ => {
                self.add("page_size", "must not be negative");
                50
            }
        }
    }

    /// Whether nothing was wrong so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses the request if anything was wrong with it.
    ///
    /// # Errors
    /// [`Invalid`] with every violation, in the order in which they were found.
    pub fn finish(self) -> Result<(), Invalid> {
        if self.0.is_empty() { Ok(()) } else { Err(Invalid(self.0)) }
    }
}

/// The whole microseconds of `nanos`, if it is within a second.
fn micros(nanos: i32) -> Option<u32> {
    u32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000).map(|n| n / 1_000)
}

/// A time as it goes over the wire.
#[must_use]
pub fn timestamp(time: OffsetDateTime) -> prost_types::Timestamp {
    // Nanoseconds of a second are below 10⁹ and fit.
    let nanos = i32::try_from(time.nanosecond()).unwrap_or_default();
    prost_types::Timestamp { seconds: time.unix_timestamp(), nanos }
}

/// A duration as it goes over the wire. Longer than 292 billion years is cut to that.
#[must_use]
pub fn proto_duration(duration: Duration) -> prost_types::Duration {
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or_default();
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos }
}
