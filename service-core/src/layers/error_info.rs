//! Sees to it that every error carries `ErrorInfo`, also those that tonic makes by itself: unknown methods, malformed and
//! oversized messages. Their texts, which come from libraries, are replaced.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

use super::observe::name;
use super::{
    INFRASTRUCTURE_MESSAGE_BYTES, Methods, Middleware, Next, PolledFrame, Request, Response, poll_body,
};
use crate::status::{Failure, reason};

/// Completes errors.
#[derive(Clone)]
pub(crate) struct ErrorInfoLayer {
    pub(crate) domain: &'static str,
    pub(crate) methods: Methods,
    pub(crate) max_message_bytes: usize,
}

impl Middleware for ErrorInfoLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let method = self.methods.find(request.uri().path());
        let (exists, own) = (method.is_some(), method.is_some_and(|method| !method.infrastructure));
        let response = next.run(request).await;
        let (mut parts, body) = response.into_parts();
        if parts.headers.contains_key(Status::GRPC_STATUS) {
            if let Some(code) = bare_error(&parts.headers) {
                complete(&mut parts.headers, self.before_handler(code, exists, own));
            }
            return Response::from_parts(parts, body);
        }
        Response::from_parts(parts, Body::new(CompletedBody { inner: body, domain: self.domain }))
    }
}

impl ErrorInfoLayer {
    /// What an error without `ErrorInfo` means that came instead of a response. Handlers of our own give `ErrorInfo`, and those
    /// of health and reflection do not fail so, so it came from reading the request.
    fn before_handler(&self, code: Code, method_exists: bool, own_method: bool) -> Failure {
        let max_bytes = if own_method { self.max_message_bytes } else { INFRASTRUCTURE_MESSAGE_BYTES };
        match code {
            // The connection broke, or was cut, within the message. Nobody reads this.
            Code::Unknown if method_exists => by_code(self.domain, Code::Cancelled),
            Code::Internal if method_exists => Failure::new(
                Code::InvalidArgument,
                self.domain,
                reason::VALIDATION_FAILED,
                "the message is malformed: it is not the Protocol Buffers encoding of this method's request",
            ),
            Code::OutOfRange => Failure::new(
                code,
                self.domain,
                reason::MESSAGE_TOO_LARGE,
                format!("the request is larger than {max_bytes} bytes"),
            )
            .with("max_bytes", max_bytes),
            // Reflection is not there where it is turned off.
            Code::Unimplemented if own_method => Failure::new(
                code,
                self.domain,
                reason::METHOD_UNIMPLEMENTED,
                "compressed requests are not supported: send the message as it is",
            ),
            _ => by_code(self.domain, code),
        }
    }
}

/// The code, if this is an error without details.
fn bare_error(headers: &HeaderMap) -> Option<Code> {
    let code = Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes());
    (code != Code::Ok && !headers.contains_key(Status::GRPC_STATUS_DETAILS)).then_some(code)
}

fn complete(headers: &mut HeaderMap, failure: Failure) {
    let original = headers.get(Status::GRPC_MESSAGE).and_then(|m| m.to_str().ok()).unwrap_or_default();
    tracing::debug!(original, reason = failure.reason, "an error without details was completed");
    headers.remove(Status::GRPC_MESSAGE);
    // Without characters that a header cannot hold it does not fail; if it did, the bare code would go out.
    let _ = Status::from(failure).add_header(headers);
}

/// What an error without `ErrorInfo` is called. Codes that no layer gives are their own reason.
fn by_code(domain: &'static str, code: Code) -> Failure {
    let (reason, message) = match code {
        Code::Unimplemented => (reason::METHOD_UNIMPLEMENTED, "there is no such method"),
        Code::InvalidArgument => (reason::VALIDATION_FAILED, "the request is invalid"),
        Code::DeadlineExceeded => (reason::DEADLINE_EXCEEDED, "the answer was not ready in time"),
        Code::Internal | Code::Unknown | Code::DataLoss => {
            (reason::INTERNAL_ERROR, "something went wrong on our side")
        }
        Code::NotFound => (name(code), "there is no such thing"),
        Code::Cancelled => (name(code), "the call was cancelled"),
        _ => (name(code), "the call was refused"),
    };
    Failure::new(code, domain, reason, message)
}

/// Completes the error that a response ends with.
struct CompletedBody {
    inner: Body,
    domain: &'static str,
}

impl http_body::Body for CompletedBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let this = &mut *self;
        match poll_body(&mut this.inner, cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(match frame.into_trailers() {
                Ok(mut trailers) => {
                    if let Some(code) = bare_error(&trailers) {
                        complete(&mut trailers, by_code(this.domain, code));
                    }
                    Frame::trailers(trailers)
                }
                Err(data) => data,
            }))),
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
