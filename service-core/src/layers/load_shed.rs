//! Refuses calls beyond what the process can hold, at once and cheaply.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::Code;

use super::{Methods, Middleware, Next, Request, Response, refuse};
use crate::status::{Failure, reason};

/// Long enough for a queue to move on, short enough for a person to wait.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Lets a number of calls in at a time. A stream counts until its response begins. Health and reflection always pass: an
/// overloaded replica is not a dead one.
#[derive(Clone)]
pub(crate) struct LoadShedLayer {
    pub(crate) domain: &'static str,
    pub(crate) methods: Methods,
    pub(crate) places: Arc<Semaphore>,
}

impl Middleware for LoadShedLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        if self.methods.find(request.uri().path()).is_some_and(|method| method.infrastructure) {
            return next.run(request).await;
        }
        let Ok(_place) = self.places.try_acquire() else {
            let failure = Failure::new(
                Code::ResourceExhausted,
                self.domain,
                reason::OVERLOADED,
                "too many calls at once",
            );
            return refuse(failure.push_back(RETRY_AFTER));
        };
        metrics::gauge!("grpc_calls_in_flight").increment(1.0);
        let _leaves = Leaves;
        next.run(request).await
    }
}

/// Counts down also when the client goes away in between.
struct Leaves;

impl Drop for Leaves {
    fn drop(&mut self) {
        metrics::gauge!("grpc_calls_in_flight").decrement(1.0);
    }
}
