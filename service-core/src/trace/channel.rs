//! Calls to another service, as spans of which it is told.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::body::Body;
use tonic::transport::{Channel, Error};
use tonic::{Code, Status};
use tower::Service;

use super::{Span, w3c};
use crate::layers::observe::name;

/// A [`Channel`] whose calls carry the trace that they are made in. A call's span ends with the head of its answer: a stream
/// goes on after it.
#[derive(Clone, Debug)]
pub struct TracedChannel(pub Channel);

impl Service<Request<Body>> for TracedChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let span = Span::client(request.uri().path());
        if let Some(context) = &span.0 {
            w3c::tell(context, request.headers_mut());
        }
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = match &answer {
                // A status in the head is one without an answer; what ends an answer comes after it.
                Ok(answer) => answer
                    .headers()
                    .get(Status::GRPC_STATUS)
                    .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes())),
                Err(_) => Code::Unavailable,
            };
            span.set("rpc.grpc.status_code", i64::from(i32::from(code)));
            if code != Code::Ok {
                span.fail(name(code));
            }
            answer
        })
    }
}
