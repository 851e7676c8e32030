//! How an error looks on the wire: a code, a message for people, and machine-readable details.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use prost::Message;
use prost_types::Any;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::pb;

use crate::validation::Violation;

/// The reasons that layers give, not handlers. Both services' `ErrorReason` enums have the same names.
pub mod reason {
    /// UNAUTHENTICATED: the call carries no access token, and the method needs one.
    pub const TOKEN_MISSING: &str = "TOKEN_MISSING";
    /// UNAUTHENTICATED: the access token is malformed, badly signed, or for somebody else.
    pub const TOKEN_INVALID: &str = "TOKEN_INVALID";
    /// UNAUTHENTICATED: the access token was good once.
    pub const TOKEN_EXPIRED: &str = "TOKEN_EXPIRED";
    /// UNAUTHENTICATED: the access token was withdrawn before its time.
    pub const TOKEN_REVOKED: &str = "TOKEN_REVOKED";
    /// PERMISSION_DENIED: the caller's role may not call this method.
    pub const ROLE_REQUIRED: &str = "ROLE_REQUIRED";
    /// INVALID_ARGUMENT: the request, or a field of it, is malformed.
    pub const VALIDATION_FAILED: &str = "VALIDATION_FAILED";
    /// INVALID_ARGUMENT: the page token is not of this list.
    pub const PAGE_TOKEN_INVALID: &str = "PAGE_TOKEN_INVALID";
    /// UNIMPLEMENTED: there is no such method.
    pub const METHOD_UNIMPLEMENTED: &str = "METHOD_UNIMPLEMENTED";
    /// OUT_OF_RANGE: the message is larger than the server takes.
    pub const MESSAGE_TOO_LARGE: &str = "MESSAGE_TOO_LARGE";
    /// INTERNAL: a bug or an unforeseen failure; the log has the cause under the request id.
    pub const INTERNAL_ERROR: &str = "INTERNAL_ERROR";
    /// DEADLINE_EXCEEDED: the answer was not ready in time.
    pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";
    /// RESOURCE_EXHAUSTED: too many calls at once.
    pub const OVERLOADED: &str = "OVERLOADED";
    /// RESOURCE_EXHAUSTED: too many calls by this caller.
    pub const RATE_LIMITED: &str = "RATE_LIMITED";
    /// UNAVAILABLE: the database cannot be reached.
    pub const DATABASE_UNAVAILABLE: &str = "DATABASE_UNAVAILABLE";
    /// UNAVAILABLE: the keys that tokens are verified with have not been fetched yet, or whether tokens were revoked is
    /// not known.
    pub const IDENTITY_UNAVAILABLE: &str = "IDENTITY_UNAVAILABLE";
    /// UNAVAILABLE: this replica is going away; another one will answer.
    pub const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
}

/// In how many milliseconds a client's gRPC library is to repeat the call (gRFC A6), or -1: it is not to.
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// An error as a client sees it. Turn it into a [`Status`] with `into()`.
///
/// Neither the message nor the metadata may hold SQL, paths or the text of a driver.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The gRPC code.
    pub code: Code,
    /// The domain of the reason, such as `booking.rowlock`.
    pub domain: &'static str,
    /// The name of the reason, without the enum's prefix.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The values that the message names.
    pub metadata: Vec<(&'static str, String)>,
    /// What is wrong with the request, field by field.
    pub violations: Vec<Violation>,
    /// When to try again, if trying again makes sense.
    pub retry_after: Option<Duration>,
    /// What the client's gRPC library is told of it.
    pub pushback: Pushback,
}

/// What a client's gRPC library is told besides the code (gRFC A6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing: its retry policy decides.
    None,
    /// To repeat the call after [`Failure::retry_after`].
    Repeat,
    /// Not to repeat it by itself, whatever its policy says of the code.
    Stop,
}

impl Failure {
    /// A failure without metadata, violations or a time to try again.
    #[must_use]
    pub fn new(code: Code, domain: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            domain,
            reason,
            message: message.into(),
            metadata: Vec::new(),
            violations: Vec::new(),
            retry_after: None,
            pushback: Pushback::None,
        }
    }

    /// Adds a value that the message names.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "numbers and ids are written without `&` at the call")]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    /// Names the fields that are wrong.
    #[must_use]
    pub fn violations(mut self, violations: Vec<Violation>) -> Self {
        self.violations = violations;
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Says when to try again, also to the client's gRPC library. Only where nothing was begun: the libraries of Java and
    /// .NET then repeat whatever the call and its code are, also where the service config says that a second one does harm.
    #[must_use]
    pub fn push_back(mut self, delay: Duration) -> Self {
        self.pushback = Pushback::Repeat;
        self.retry_after(delay)
    }

    /// Says when to try again, and that the client's gRPC library is not to: a person has to know first.
    #[must_use]
    pub fn stop(mut self, delay: Duration) -> Self {
        self.pushback = Pushback::Stop;
        self.retry_after(delay)
    }
}

/// `google.rpc.ErrorInfo` with its metadata in order: equal errors are equal bytes then, which a connection sends once and
/// refers to afterwards (HPACK), and a rush is refused with equal errors.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// The longest that a `google.protobuf.Duration` may be.
const LONGEST_DELAY: Duration = Duration::from_secs(315_576_000_000);

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut details = Vec::with_capacity(3);
        if let Some(delay) = failure.retry_after {
            let retry_delay = prost_types::Duration::try_from(delay.min(LONGEST_DELAY)).ok();
            details.push(any("google.rpc.RetryInfo", &pb::RetryInfo { retry_delay }));
        }
        let info = ErrorInfo {
            reason: failure.reason.to_owned(),
            domain: failure.domain.to_owned(),
            metadata: failure.metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        };
        details.push(any("google.rpc.ErrorInfo", &info));
        if !failure.violations.is_empty() {
            let violation = |Violation { field, description }| pb::bad_request::FieldViolation {
                field,
                description,
                ..Default::default()
            };
            let field_violations = failure.violations.into_iter().map(violation).collect();
            details.push(any("google.rpc.BadRequest", &pb::BadRequest { field_violations }));
        }
        let details = pb::Status { code: failure.code.into(), message: failure.message.clone(), details };
        let mut trailers = MetadataMap::new();
        let pause = |delay| i32::try_from(spread(delay).as_millis()).unwrap_or(i32::MAX);
        let pushback = match failure.pushback {
            Pushback::None => None,
            Pushback::Repeat => failure.retry_after.map(pause),
            Pushback::Stop => Some(-1),
        };
        if let Some(pushback) = pushback {
            trailers.insert(PUSHBACK, pushback.into());
        }
        let details = details.encode_to_vec().into();
        Status::with_details_and_metadata(failure.code, failure.message, details, trailers)
    }
}

/// The delay and up to a second more: libraries wait exactly as long as they are told, and those that were refused together
/// would come back together. Multiples of the golden ratio share the second out evenly, however many there are.
fn spread(delay: Duration) -> Duration {
    const GOLDEN: u32 = 0x9E37_79B9;
    static SHARE: AtomicU32 = AtomicU32::new(0);
    let share = u64::from(SHARE.fetch_add(GOLDEN, Ordering::Relaxed));
    delay.saturating_add(Duration::from_millis((share * 1_000) >> 32))
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;

    #[test]
    fn equal_failures_are_equal_bytes() {
        let failure = || {
            let failure = Failure::new(Code::FailedPrecondition, "test.rowlock", "THING_FULL", "it is full");
            Status::from(failure.with("one", 1).with("two", 2).with("three", 3).with("four", 4))
        };
        for _ in 0..20 {
            assert_eq!(failure().details(), failure().details());
        }
    }

    #[test]
    fn a_status_carries_reason_violations_and_the_time_to_retry() {
        let status: Status =
            Failure::new(Code::InvalidArgument, "test.rowlock", reason::VALIDATION_FAILED, "seats is wrong")
                .with("seats", 7)
                .violations(vec![Violation { field: "seats".into(), description: "must be 1".into() }])
                .retry_after(Duration::from_millis(1_500))
                .into();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "seats is wrong"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("test.rowlock", "VALIDATION_FAILED"));
        assert_eq!(info.metadata.get("seats").map(String::as_str), Some("7"));
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "seats");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(1_500)));
    }

    #[test]
    fn a_plain_failure_has_error_info_alone() {
        let status: Status =
            Failure::new(Code::NotFound, "test.rowlock", "THING_NOT_FOUND", "no such thing").into();
        let details = status.get_error_details();
        assert!(details.error_info().is_some());
        assert!(details.bad_request().is_none() && details.retry_info().is_none());
        assert!(status.metadata().is_empty());
    }

    #[test]
    fn a_library_is_pushed_back_for_the_delay_and_a_share_of_a_second_that_others_do_not_have() {
        let refused =
            || Failure::new(Code::ResourceExhausted, "test.rowlock", reason::OVERLOADED, "too many");
        let delay = Duration::from_millis(200);
        let told: Status = refused().retry_after(delay).into();
        assert!(
            told.metadata().get(PUSHBACK).is_none(),
            "what may have been begun is for the client to decide"
        );

        let mut pauses: Vec<u64> = (0..10)
            .map(|_| {
                let status = Status::from(refused().push_back(delay));
                assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(delay));
                status.metadata().get(PUSHBACK).unwrap().to_str().unwrap().parse().unwrap()
            })
            .collect();
        pauses.sort_unstable();
        assert!(pauses.iter().all(|pause| (200..1_200).contains(pause)), "{pauses:?}");
        assert!(pauses.windows(2).all(|pair| pair[1] - pair[0] >= 30), "{pauses:?}");

        let longest: Status = refused().push_back(Duration::MAX).into();
        assert_eq!(longest.get_details_retry_info().unwrap().retry_delay, Some(LONGEST_DELAY));
        assert_eq!(longest.metadata().get(PUSHBACK).unwrap(), "2147483647");

        let stopped: Status = refused().stop(delay).into();
        assert_eq!(stopped.get_details_retry_info().unwrap().retry_delay, Some(delay));
        assert_eq!(stopped.metadata().get(PUSHBACK).unwrap(), "-1");
    }
}
