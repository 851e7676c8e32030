//! The request id: one word by which a caller and an operator speak of the same call.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use tracing::Instrument;
use tracing::field::{Empty, display};

use super::methods::UNKNOWN;
use super::{Methods, Middleware, Next, Request, Response};
use crate::ids::IdSource;
use crate::trace;

/// Where the request id stands in requests and responses.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

const MAX_CHARS: usize = 128;

/// The id of this call, in the extensions of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub String);

/// Gives every call an id, its caller's if that is fit to be logged, and a span for the logs that carries it, with the place in a trace if
/// there is one.
#[derive(Clone)]
pub(crate) struct RequestIdLayer {
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) methods: Methods,
}

impl Middleware for RequestIdLayer {
    async fn handle(&self, mut request: Request, next: &impl Next) -> Response {
        let given = request.headers().get(REQUEST_ID_HEADER).and_then(acceptable);
        let id = given.unwrap_or_else(|| self.ids.new_id().to_string());
        let rpc = self.methods.find(request.uri().path()).map_or(UNKNOWN, |method| method.path);
        let position = trace::position(request.headers());
        let (trace_id, span_id) = (
            position.as_ref().map(|at| display(at.trace_id())),
            position.as_ref().map(|at| display(at.span_id())),
        );
        let span = tracing::info_span!("grpc", rpc, request_id = %id, user_id = Empty, trace_id, span_id);
        trace::Span::current().set("rowlock.request_id", id.clone());
        let header = HeaderValue::try_from(&id);
        request.extensions_mut().insert(RequestId(id));
        let mut response = next.run(request).instrument(span).await;
        if let Ok(header) = header {
            response.headers_mut().insert(REQUEST_ID_HEADER, header);
        }
        response
    }
}

fn acceptable(header: &HeaderValue) -> Option<String> {
    let id = header.to_str().ok()?;
    let fits = (1..=MAX_CHARS).contains(&id.len());
    (fits && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_disturb_a_log_is_not_accepted() {
        let long = "x".repeat(129);
        for (id, accepted) in [
            ("a", true),
            ("01890a5d-ac96-774b-bcce-b302099a8057", true),
            ("a_b.C-9", true),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("a/b", false),
            (long.as_str(), false),
            (&long[..128], true),
        ] {
            assert_eq!(acceptable(&HeaderValue::from_str(id).unwrap()).is_some(), accepted, "{id:?}");
        }
        assert!(acceptable(&HeaderValue::from_bytes(b"\xff").unwrap()).is_none());
    }
}
