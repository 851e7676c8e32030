//! How many streams one caller may keep open.

use std::time::Duration;

use tonic::Code;
use uuid::Uuid;

use super::{Methods, Middleware, Next, Request, Response, hold_until_end, refuse};
use crate::auth::{Principal, Role};
use crate::shares::Shares;
use crate::status::{Failure, reason};

/// Long enough to notice that a stream too many is open.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Whose streams are counted: anybody can sign up as either. Services and admins are trusted with more.
const COUNTED: [Role; 2] = [Role::Attendee, Role::Organizer];

/// Refuses the streams of a caller who has `most` open. Callers come from verified tokens: nobody can make them up.
#[derive(Clone)]
pub(crate) struct CallerStreamsLayer {
    pub(crate) domain: &'static str,
    pub(crate) methods: Methods,
    pub(crate) most: usize,
    /// What each caller has open.
    pub(crate) open: Shares<Uuid>,
}

impl Middleware for CallerStreamsLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let streams = self.methods.find(request.uri().path()).is_some_and(|method| method.streams);
        let caller = request.extensions().get::<Principal>();
        let Some(caller) = caller.filter(|caller| streams && COUNTED.contains(&caller.role)) else {
            return next.run(request).await;
        };
        let Some(stream) = self.open.take(caller.user_id, self.most) else {
            metrics::counter!("grpc_calls_shed_total", "limit" => "caller_streams").increment(1);
            let message = "too many open streams of this caller";
            let failure = Failure::new(Code::ResourceExhausted, self.domain, reason::RATE_LIMITED, message);
            return refuse(failure.push_back(RETRY_AFTER));
        };
        hold_until_end(next.run(request).await, stream)
    }
}
