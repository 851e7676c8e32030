//! What a refusal has to carry, as `error_reason.proto` promises it.

use std::collections::HashMap;
use std::fmt::Debug;

use service_core::status::PUSHBACK;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A reason of the contract: its code, its metadata (alternatives), and whom it tells when to try again.
pub(crate) type Promise = (&'static str, Code, &'static [&'static [&'static str]], Again);

/// Whether a refusal says when to try again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Not at all.
    No,
    /// In RetryInfo.
    Told,
    /// In RetryInfo, and to the client's library: nothing was begun.
    PushedBack,
}
use Again::{No, PushedBack, Told};

/// Said here a second time, apart from the code that keeps it.
pub(crate) const PROMISES: [Promise; 34] = [
    ("VALIDATION_FAILED", Code::InvalidArgument, &[&[]], No),
    ("PAGE_TOKEN_INVALID", Code::InvalidArgument, &[&[]], No),
    ("TOKEN_MISSING", Code::Unauthenticated, &[&[]], No),
    ("TOKEN_INVALID", Code::Unauthenticated, &[&[]], No),
    ("TOKEN_EXPIRED", Code::Unauthenticated, &[&[]], No),
    ("TOKEN_REVOKED", Code::Unauthenticated, &[&[]], No),
    ("ROLE_REQUIRED", Code::PermissionDenied, &[&["needed"]], No),
    ("EVENT_NOT_FOUND", Code::NotFound, &[&["event_id"]], No),
    ("REGISTRATION_NOT_FOUND", Code::NotFound, &[&["registration_id"]], No),
    ("WAITLIST_ENTRY_NOT_FOUND", Code::NotFound, &[&["entry_id"]], No),
    ("ALREADY_REGISTERED", Code::AlreadyExists, &[&["event_id", "registration_id", "user_id"]], No),
    ("ALREADY_WAITLISTED", Code::AlreadyExists, &[&["entry_id", "event_id", "user_id"]], No),
    ("REQUEST_ID_REUSED", Code::AlreadyExists, &[&["request_id"]], No),
    (
        "EVENT_FULL",
        Code::FailedPrecondition,
        &[&["event_id", "seats", "seats_remaining", "waitlist_size"]],
        No,
    ),
    ("EVENT_NOT_PUBLISHED", Code::FailedPrecondition, &[&["event_id"]], No),
    ("EVENT_CANCELLED", Code::FailedPrecondition, &[&["event_id"]], No),
    (
        "REGISTRATION_CLOSED",
        Code::FailedPrecondition,
        &[&["close_time", "event_id"], &["close_time", "event_id", "open_time"]],
        No,
    ),
    ("SEATS_AVAILABLE", Code::FailedPrecondition, &[&["event_id", "seats_remaining"]], No),
    ("HOLD_EXPIRED", Code::FailedPrecondition, &[&["registration_id"]], No),
    ("OFFER_EXPIRED", Code::FailedPrecondition, &[&["entry_id"]], No),
    (
        "STATE_CONFLICT",
        Code::FailedPrecondition,
        &[&["event_id"], &["registration_id", "state"], &["entry_id", "state"]],
        No,
    ),
    ("CAPACITY_BELOW_TAKEN", Code::FailedPrecondition, &[&["capacity", "event_id", "taken"]], No),
    ("SIMULATION_RUNNING", Code::FailedPrecondition, &[&[]], No),
    ("ETAG_MISMATCH", Code::Aborted, &[&["etag", "event_id"]], No),
    ("RESUME_TOKEN_EXPIRED", Code::OutOfRange, &[&[]], No),
    ("MESSAGE_TOO_LARGE", Code::OutOfRange, &[&["max_bytes"]], No),
    ("OVERLOADED", Code::ResourceExhausted, &[&[]], PushedBack),
    ("RATE_LIMITED", Code::ResourceExhausted, &[&[]], PushedBack),
    ("DATABASE_UNAVAILABLE", Code::Unavailable, &[&[]], Told),
    ("SHUTTING_DOWN", Code::Unavailable, &[&[]], Told),
    ("DEADLINE_EXCEEDED", Code::DeadlineExceeded, &[&[]], No),
    ("IDENTITY_UNAVAILABLE", Code::Unavailable, &[&[]], PushedBack),
    ("METHOD_UNIMPLEMENTED", Code::Unimplemented, &[&["method"]], No),
    ("INTERNAL_ERROR", Code::Internal, &[&[]], No),
];

/// Asserts that the answer is this refusal with everything that the contract promises of it, and gives its metadata.
#[track_caller]
pub(crate) fn refused<T: Debug>(answer: Result<T, Status>, reason: &str) -> HashMap<String, String> {
    let status = answer.expect_err(reason);
    assert_refused(&status, reason)
}

/// See [`refused`].
#[track_caller]
pub(crate) fn assert_refused(status: &Status, reason: &str) -> HashMap<String, String> {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("booking.rowlock", reason), "{status:?}");
    let promise = PROMISES.iter().find(|(name, ..)| *name == reason);
    let (_, code, keys, again) = promise.unwrap_or_else(|| panic!("{reason} is not in the contract"));
    assert_eq!(status.code(), *code, "{status:?}");
    let mut given: Vec<&str> = info.metadata.keys().map(String::as_str).collect();
    given.sort_unstable();
    assert!(keys.contains(&given.as_slice()), "{reason} carries {given:?}, not one of {keys:?}");
    assert_eq!(details.retry_info().is_some(), *again != No, "RetryInfo in {status:?}");
    assert_eq!(status.metadata().get(PUSHBACK).is_some(), *again == PushedBack, "{PUSHBACK} in {status:?}");
    assert!(!status.message().is_empty(), "{status:?}");
    assert_no_leak(status);
    info.metadata.clone()
}

/// Asserts that the answer is VALIDATION_FAILED for exactly these fields.
#[track_caller]
pub(crate) fn invalid<T: Debug>(answer: Result<T, Status>, fields: &[&str]) {
    let status = answer.expect_err("an invalid request is refused");
    assert_refused(&status, "VALIDATION_FAILED");
    let mut named = violated(&status);
    named.dedup();
    assert_eq!(named, fields, "{status:?}");
}

/// The fields that a refused request is told about, in order of their names.
pub(crate) fn violated(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map_or(&[][..], |bad| bad.field_violations.as_slice());
    let mut fields: Vec<String> = violations.iter().map(|v| v.field.clone()).collect();
    fields.sort();
    fields
}

/// Asserts that the status tells nothing of what is behind the service.
#[track_caller]
pub(crate) fn assert_no_leak(status: &Status) {
    let text = format!("{status:?}").to_lowercase();
    for word in ["select ", "insert ", "constraint", "sqlx", "postgres", "prost", "utf-8 ", "/src/", "panick"]
    {
        assert!(!text.contains(word), "{word:?} in {status:?}");
    }
}
