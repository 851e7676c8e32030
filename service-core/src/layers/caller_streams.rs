//! How many streams one caller may keep open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::Code;
use uuid::Uuid;

use super::{Methods, Middleware, Next, Request, Response, hold_until_end, refuse};
use crate::auth::{Principal, Role};
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
    pub(crate) open: OpenStreams,
}

/// How many streams each caller has open; who has none is not there.
#[derive(Clone, Default)]
pub(crate) struct OpenStreams(Arc<Mutex<HashMap<Uuid, usize>>>);

impl OpenStreams {
    /// One more of this caller's, unless there are `most`.
    fn open(&self, caller: Uuid, most: usize) -> Option<OpenStream> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(caller).or_default();
        (*count < most).then(|| {
            *count += 1;
            OpenStream { caller, of: self.clone() }
        })
    }
}

/// A caller's stream, until it ends or its client goes away.
struct OpenStream {
    caller: Uuid,
    of: OpenStreams,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.caller) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.caller);
            }
        }
    }
}

impl Middleware for CallerStreamsLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let streams = self.methods.find(request.uri().path()).is_some_and(|method| method.streams);
        let caller = request.extensions().get::<Principal>();
        let Some(caller) = caller.filter(|caller| streams && COUNTED.contains(&caller.role)) else {
            return next.run(request).await;
        };
        let Some(stream) = self.open.open(caller.user_id, self.most) else {
            metrics::counter!("grpc_calls_shed_total", "limit" => "caller_streams").increment(1);
            let message = "too many open streams of this caller";
            let failure = Failure::new(Code::ResourceExhausted, self.domain, reason::RATE_LIMITED, message);
            return refuse(failure.push_back(RETRY_AFTER));
        };
        hold_until_end(next.run(request).await, stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_who_has_no_stream_left_is_forgotten() {
        let streams = OpenStreams::default();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let held: Vec<_> = (0..2).map(|_| streams.open(one, 2).unwrap()).collect();
        assert!(streams.open(one, 2).is_none());
        let another = streams.open(other, 2).unwrap();
        drop(held);
        assert_eq!(*streams.0.lock().unwrap(), HashMap::from([(other, 1)]));
        drop(another);
        assert!(streams.0.lock().unwrap().is_empty());
    }
}
