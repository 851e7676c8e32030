//! Reading requests: violations are collected, as many as a client can read, then the request is refused once.

use std::collections::HashSet;
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

/// A request that is refused, with what is wrong with it. Both services answer VALIDATION_FAILED.
#[derive(Debug, thiserror::Error)]
#[error("the request is invalid: {}", summary(.0))]
pub struct Invalid(pub Vec<Violation>);

/// How many of the violations that are told the message names. The details have all of those.
const NAMED: usize = 3;

fn summary(violations: &[Violation]) -> String {
    let (named, others) = violations.split_at(violations.len().min(NAMED));
    let named: Vec<String> = named.iter().map(|v| format!("{} {}", v.field, v.description)).collect();
    let more = if others.is_empty() { String::new() } else { format!("; and {} more", others.len()) };
    named.join("; ") + &more
}

/// Collects the violations of one request. Its readers answer a stand-in for a value that is wrong, so that reading can
/// go on; [`Violations::finish`] must be called before any value is used.
#[derive(Debug, Default)]
pub struct Violations {
    told: Vec<Violation>,
    /// How long they are together, names and descriptions.
    bytes: usize,
}

/// The earliest time that is accepted: 0001-01-01T00:00:00Z, as `google.protobuf.Timestamp` has it.
const MIN_SECONDS: i64 = -62_135_596_800;
/// The last second that is accepted: 9999-12-31T23:59:59Z.
const MAX_SECONDS: i64 = 253_402_300_799;

/// How many bytes of violations are told: a list may be wrong in each of a million places, and a status travels in headers, of
/// which clients take 8 KiB by default (gRPC core's soft limit, gRPC Java's hard one).
const MOST_BYTES: usize = 3_000;
/// How many characters of a field's name or of a description are told: there may be something of the request in them.
const MOST_CHARS: usize = 100;

fn cut(text: String) -> String {
    match text.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl Violations {
    /// Records that `field` is wrong, if not too much was before. The description continues the sentence that the field's
    /// name begins.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        let violation = Violation { field: cut(field.into()), description: cut(description.into()) };
        let bytes = self.bytes + violation.field.len() + violation.description.len();
        if bytes <= MOST_BYTES {
            self.bytes = bytes;
            self.told.push(violation);
        }
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

    /// Reads 1 to `most` required UUIDs, as [`Self::uuid`] does. If there are more, none is read.
    pub fn uuids(&mut self, field: &str, values: &[String], most: usize) -> Vec<Uuid> {
        if values.is_empty() {
            self.add(field, "is required");
        } else if values.len() > most {
            self.add(field, format!("must be at most {most}"));
            return Vec::new();
        }
        let read = |(index, value): (usize, &String)| self.uuid(&format!("{field}[{index}]"), value);
        values.iter().enumerate().map(read).collect()
    }

    /// Reads a text of `min_chars` to `max_chars` characters, as given and not trimmed. Control characters other than
    /// those that end lines (LF, CR LF) and tab are refused. If `min_chars` is more than 0, a text of white space alone counts as missing.
    pub fn text(&mut self, field: &str, value: &str, min_chars: usize, max_chars: usize) -> String {
        let chars = value.chars().count();
        if min_chars > 0 && value.trim().is_empty() {
            self.add(field, "is required");
        } else if chars < min_chars {
            self.add(field, format!("must have at least {min_chars} characters"));
        } else if chars > max_chars {
            self.add(field, format!("must have at most {max_chars} characters"));
        } else if value.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
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
        self.told.is_empty()
    }

    /// Refuses the request if anything was wrong with it.
    ///
    /// # Errors
    /// [`Invalid`] with the violations, in the order in which they were found.
    pub fn finish(self) -> Result<(), Invalid> {
        if self.told.is_empty() { Ok(()) } else { Err(Invalid(self.told)) }
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

/// Reads the only field of a request, a UUID.
///
/// # Errors
/// It is missing, or none.
pub fn required_id(field: &str, value: &str) -> Result<Uuid, Invalid> {
    let mut violations = Violations::default();
    let id = violations.uuid(field, value);
    violations.finish()?;
    Ok(id)
}

/// The paths of a field mask, each once: what is named ten thousand times is read once.
pub fn paths(mask: &[String]) -> impl Iterator<Item = &str> {
    let mut seen = HashSet::new();
    mask.iter().map(String::as_str).filter(move |path| seen.insert(*path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The descriptions that `read` leaves behind.
    fn complaints<T>(read: impl FnOnce(&mut Violations) -> T) -> (T, Vec<String>) {
        let mut violations = Violations::default();
        let value = read(&mut violations);
        (value, violations.told.into_iter().map(|v| v.description).collect())
    }

    fn is_fine<T>(read: impl FnOnce(&mut Violations) -> T) -> bool {
        complaints(read).1.is_empty()
    }

    #[test]
    fn no_more_is_told_than_a_client_reads_and_the_request_is_refused_all_the_same() {
        for name in ["states".to_owned(), "ü ".repeat(100_000)] {
            let mut violations = Violations::default();
            for n in 0..100_000 {
                violations.add(format!("{name}[{n}]"), "must be a value that exists");
            }
            let Err(invalid) = violations.finish() else { panic!("it is wrong") };
            assert!(invalid.0.len() > 5 && invalid.0[0].field.starts_with(&name[..6]));
            let message = invalid.to_string();
            let status: tonic::Status = crate::status::Failure::new(
                tonic::Code::InvalidArgument,
                "test",
                crate::status::reason::VALIDATION_FAILED,
                message,
            )
            .violations(invalid.0)
            .into();
            let mut headers = http::HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            let bytes: usize =
                headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(bytes < 8_192, "{bytes}");
        }
    }

    #[test]
    fn a_mask_names_each_path_once_in_its_order() {
        let mask = ["b", "a", "b", "b", "c", "a"].map(str::to_owned);
        assert_eq!(paths(&mask).collect::<Vec<_>>(), ["b", "a", "c"]);
    }

    #[test]
    fn every_violation_is_reported_in_the_order_of_reading() {
        let mut violations = Violations::default();
        violations.uuid("event_id", "");
        violations.text("title", "", 1, 200);
        violations.int("capacity", 0, 1..=1_000_000);
        assert!(!violations.is_empty());
        let invalid = violations.finish().unwrap_err();
        assert_eq!(
            invalid.0.iter().map(|v| v.field.as_str()).collect::<Vec<_>>(),
            ["event_id", "title", "capacity"]
        );
        assert_eq!(
            invalid.to_string(),
            "the request is invalid: event_id is required; title is required; capacity must be from 1 to 1000000"
        );
        let many = vec![Violation { field: "a".to_owned(), description: "is b".to_owned() }; 7];
        assert_eq!(summary(&many), "a is b; a is b; a is b; and 4 more");
        assert!(Violations::default().finish().is_ok());
    }

    #[test]
    fn only_the_hyphenated_form_of_a_uuid_is_read() {
        let canonical = "01890a5d-ac96-774b-bcce-b302099a8057";
        for text in [canonical, &canonical.to_uppercase()] {
            let (id, none) = complaints(|v| v.uuid("id", text));
            assert_eq!((id.to_string().as_str(), none.len()), (canonical, 0));
        }
        let simple = canonical.replace('-', "");
        let (braced, urn) = (format!("{{{canonical}}}"), format!("urn:uuid:{canonical}"));
        let odd = "01890a5dac-96-774b-bcce-b302099a8057";
        for text in [simple.as_str(), &braced, &urn, odd, "x", " ", "01890a5d-ac96-774b-bcce-b302099a805ü"] {
            assert_eq!(complaints(|v| v.uuid("id", text)).0, Uuid::nil(), "{text}");
            assert!(!is_fine(|v| v.uuid("id", text)), "{text}");
            assert!(!is_fine(|v| v.optional_uuid("id", text)), "{text}");
        }
        assert_eq!(complaints(|v| v.uuid("id", "")).1, ["is required"]);
        assert_eq!(complaints(|v| v.optional_uuid("id", "")), (None, vec![]));
    }

    #[test]
    fn a_text_is_measured_in_characters_and_kept_as_given() {
        assert_eq!(complaints(|v| v.text("t", "  ä\n\tö ", 1, 7)), ("  ä\n\tö ".to_owned(), vec![]));
        assert!(is_fine(|v| v.text("t", "äöü", 3, 3)));
        assert!(!is_fine(|v| v.text("t", "äöü", 1, 2)));
        assert!(!is_fine(|v| v.text("t", "äöü", 4, 9)));
        assert!(is_fine(|v| v.text("t", "", 0, 2)));
        assert_eq!(complaints(|v| v.text("t", " \n ", 1, 9)).1, ["is required"]);
        for control in ['\0', '\u{b}', '\u{1b}', '\u{7f}', '\u{85}'] {
            assert_eq!(
                complaints(|v| v.text("t", &format!("a{control}b"), 0, 9)).1,
                ["must not contain control characters"]
            );
        }
    }

    #[test]
    fn a_number_outside_its_range_is_refused() {
        assert_eq!(complaints(|v| v.int("n", 7_i32, 1..=7)), (7, vec![]));
        assert_eq!(complaints(|v| v.int("n", 8_i64, 1..=7)).1, ["must be from 1 to 7"]);
        assert!(!is_fine(|v| v.int("n", i32::MIN, 0..=7)));
    }

    #[test]
    fn times_that_no_calendar_has_are_refused() {
        let stamp = |seconds, nanos| prost_types::Timestamp { seconds, nanos };
        for good in
            [stamp(0, 0), stamp(MIN_SECONDS, 0), stamp(MAX_SECONDS, 999_999_999), stamp(-1, 999_999_999)]
        {
            assert!(is_fine(|v| v.time("t", Some(&good))), "{good:?}");
        }
        for bad in [
            stamp(MIN_SECONDS - 1, 0),
            stamp(MAX_SECONDS + 1, 0),
            stamp(i64::MIN, 0),
            stamp(i64::MAX, 0),
            stamp(0, -1),
            stamp(0, 1_000_000_000),
        ] {
            assert_eq!(complaints(|v| v.time("t", Some(&bad))).0, None);
            assert!(!is_fine(|v| v.time("t", Some(&bad))), "{bad:?}");
        }
        assert_eq!(complaints(|v| v.time("t", None)), (None, vec![]));
    }

    #[test]
    fn a_duration_that_is_negative_or_out_of_range_is_refused() {
        let span = |seconds, nanos| prost_types::Duration { seconds, nanos };
        let range = Duration::from_secs(1)..=Duration::from_secs(60);
        let read = |d: prost_types::Duration| complaints(|v| v.duration("d", Some(&d), range.clone()));
        assert_eq!(read(span(1, 0)), (Some(Duration::from_secs(1)), vec![]));
        assert_eq!(read(span(59, 500_000_000)).0, Some(Duration::from_millis(59_500)));
        for bad in [
            span(0, 999_999_999),
            span(60, 1),
            span(-5, 0),
            span(5, -1),
            span(5, 1_000_000_000),
            span(i64::MIN, 0),
        ] {
            assert_eq!(read(bad), (None, vec!["must be from 1s to 60s".to_owned()]), "{bad:?}");
        }
        assert_eq!(complaints(|v| v.duration("d", None, range.clone())), (None, vec![]));
    }

    #[test]
    fn a_page_has_50_rows_unless_asked_and_1000_at_most() {
        for (asked, given) in [(0, 50), (1, 1), (1_000, 1_000), (1_001, 1_000), (i32::MAX, 1_000)] {
            assert_eq!(complaints(|v| v.page_size(asked)), (given, vec![]));
        }
        assert_eq!(complaints(|v| v.page_size(-1)).1, ["must not be negative"]);
    }

    proptest! {
        #[test]
        fn a_time_survives_the_wire_to_the_microsecond(seconds in MIN_SECONDS..=MAX_SECONDS, nanos in 0..1_000_000_000_i32) {
            let sent = prost_types::Timestamp { seconds, nanos };
            let (time, none) = complaints(|v| v.time("t", Some(&sent)));
            prop_assert!(none.is_empty());
            let back = timestamp(time.unwrap());
            prop_assert_eq!((back.seconds, back.nanos), (seconds, nanos / 1_000 * 1_000));
        }

        #[test]
        fn a_duration_survives_the_wire(seconds in 0..=u32::MAX, nanos in 0..1_000_000_000_u32) {
            let duration = Duration::new(seconds.into(), nanos);
            let sent = proto_duration(duration);
            let (back, _) = complaints(|v| v.duration("d", Some(&sent), Duration::ZERO..=Duration::MAX));
            prop_assert_eq!(back, Some(duration));
        }

        #[test]
        fn no_text_that_is_accepted_has_a_nul(text in ".*") {
            let (_, complaints) = complaints(|v| v.text("t", &text, 0, 10_000));
            prop_assert_eq!(complaints.is_empty(), !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')));
        }
    }
}
