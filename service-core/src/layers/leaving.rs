//! Bounds what answers hold that nobody takes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as _, SizeHint};
use tokio::time::Instant;
use tonic::body::Body;

use super::{Methods, Middleware, Next, Peer, PolledFrame, Request, Response, poll_body};

/// How long an answer may lie, however much does.
const TIME_TO_GO: Duration = Duration::from_secs(5);
/// Of the answers, and of their bytes, the part that may lie for longer: one in so many.
const SHARE: usize = 8;
/// So much of each answer is not counted: most are far smaller.
const FREE: usize = 16 << 10;

/// Bounds the answers that lie here since their client opens no window for them (HTTP/2's flow control). A call has left its
/// place and its deadline behind when its answer begins, and a caller who never reads could have as many pages of the largest
/// kind held here as a connection has room for. So where too much lies, the connections are cut whose answers have lain longest:
/// others' are gone within moments.
///
/// Streams pass: their messages are made when the one before is taken.
#[derive(Clone)]
pub(crate) struct LeavingLayer {
    methods: Methods,
    lying: Arc<Lying>,
}

impl LeavingLayer {
    /// At most so many bytes, without what is free, and so many answers.
    pub(crate) fn new(methods: Methods, bytes: usize, answers: usize) -> Self {
        Self { methods, lying: Arc::new(Lying { bytes, answers, now: Mutex::default() }) }
    }
}

impl Middleware for LeavingLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let streams = self.methods.find(request.uri().path()).is_some_and(|method| method.streams);
        let connection = request.extensions().get::<Peer>().map(|peer| peer.cut.clone());
        let response = next.run(request).await;
        match connection {
            // An answer of headers alone is under no window.
            Some(connection) if !streams && !response.body().is_end_stream() => {
                let lying = self.lying.clone();
                response.map(|inner| Body::new(Leaving { inner, lying, connection }))
            }
            _ => response,
        }
    }
}

struct Lying {
    /// The most bytes.
    bytes: usize,
    /// The most answers.
    answers: usize,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    next: u64,
    bytes: usize,
    /// By when they were made.
    answers: BTreeMap<u64, Answer>,
}

struct Answer {
    since: Instant,
    bytes: usize,
    connection: Arc<Cut>,
}

impl Lying {
    /// One more answer lies here.
    fn lay(self: &Arc<Self>, bytes: usize, connection: &Arc<Cut>, since: Instant) -> Place {
        let bytes = bytes.saturating_sub(FREE);
        let mut now = self.now();
        let number = now.next;
        now.next += 1;
        now.bytes += bytes;
        now.answers.insert(number, Answer { since, bytes, connection: connection.clone() });
        let mut too_long = Vec::new();
        while let Some(oldest) = now.answers.first_entry()
            && *oldest.key() != number
            && let is_old = since.saturating_duration_since(oldest.get().since) >= TIME_TO_GO
            && now.is_beyond(self, if is_old { SHARE } else { 1 })
        {
            too_long.extend(now.remove_first());
        }
        drop(now);
        too_long.iter().for_each(|connection| connection.cut());
        Place { number, of: self.clone() }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    /// Whether it is more than one in `share` of what may lie here.
    fn is_beyond(&self, most: &Lying, share: usize) -> bool {
        self.answers.len() > (most.answers / share).max(1) || self.bytes > most.bytes / share
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Cut>> {
        let answer = self.answers.remove(&number)?;
        self.bytes -= answer.bytes;
        Some(answer.connection)
    }

    fn remove_first(&mut self) -> Option<Arc<Cut>> {
        let number = *self.answers.first_key_value()?.0;
        self.remove(number)
    }
}

/// The place of an answer, until it is with the socket or its connection is over.
struct Place {
    number: u64,
    of: Arc<Lying>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.now().remove(self.number);
    }
}

/// Data of an answer. The library lets go of them, and not of the body that they are from, when they are on their way.
struct Data {
    bytes: Bytes,
    _place: Place,
}

impl AsRef<[u8]> for Data {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of an answer.
struct Leaving {
    inner: Body,
    lying: Arc<Lying>,
    connection: Arc<Cut>,
}

impl http_body::Body for Leaving {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let this = &mut *self;
        let lay = |bytes: Bytes| {
            let place = this.lying.lay(bytes.len(), &this.connection, Instant::now());
            Bytes::from_owner(Data { bytes, _place: place })
        };
        poll_body(&mut this.inner, cx).map_ok(|frame| frame.map_data(lay))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Cuts a connection from afar.
#[derive(Default)]
pub(crate) struct Cut {
    is_cut: AtomicBool,
    connection: AtomicWaker,
}

impl Cut {
    fn cut(&self) {
        if !self.is_cut.swap(true, Ordering::AcqRel) {
            metrics::counter!("grpc_connections_cut_total", "reason" => "unread").increment(1);
            self.connection.wake();
        }
    }

    /// Whether the connection is to end now; or else `cx` is woken when it is.
    pub(crate) fn is_cut(&self, cx: &Context<'_>) -> bool {
        self.connection.register(cx.waker());
        self.is_cut.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lying(bytes: usize, answers: usize) -> Arc<Lying> {
        Arc::new(Lying { bytes, answers, now: Mutex::default() })
    }

    fn is_cut(connection: &Cut) -> bool {
        connection.is_cut(&Context::from_waker(std::task::Waker::noop()))
    }

    fn connections<const N: usize>() -> [Arc<Cut>; N] {
        std::array::from_fn(|_| Arc::default())
    }

    #[test]
    fn beyond_an_eighth_connections_are_cut_whose_answers_have_had_their_time() {
        let begin = Instant::now();
        for (lying, size) in [(lying(usize::MAX, 16), 1), (lying(16 << 10, usize::MAX), FREE + (1 << 10))] {
            let [first, second, third] = connections();
            let lay = |connection, after| lying.lay(size, connection, begin + after);
            let _first = lay(&first, Duration::ZERO);
            let read = lay(&second, Duration::ZERO);
            let _second = lay(&second, TIME_TO_GO);
            assert!(is_cut(&first) && !is_cut(&second), "the third is one too many");
            drop(read);
            let _third = lay(&third, 2 * TIME_TO_GO - Duration::from_nanos(1));
            let more = [(); 3].map(|()| lay(&third, 2 * TIME_TO_GO - Duration::from_nanos(1)));
            assert!(!is_cut(&second) && !is_cut(&third), "there is time");
            drop(more);
            let _third = [(); 2].map(|()| lay(&third, 2 * TIME_TO_GO));
            assert!(is_cut(&second) && !is_cut(&third));
        }
    }

    #[test]
    fn no_more_lies_here_than_may_however_short_a_time_and_what_has_come_last_stays() {
        let begin = Instant::now();
        for (lying, size) in [(lying(usize::MAX, 2), 1), (lying(2 << 10, usize::MAX), FREE + (1 << 10))] {
            let [first, second] = connections();
            let _first = lying.lay(size, &first, begin);
            let second_places = [(); 2].map(|()| lying.lay(size, &second, begin));
            assert!(is_cut(&first) && !is_cut(&second));
            drop(second_places);
            let _large = lying.lay(FREE + (1 << 20), &second, begin);
            assert!(!is_cut(&second), "alone");
        }
    }

    #[test]
    fn what_was_taken_counts_no_more() {
        let (lying, begin) = (lying(1 << 20, 16), Instant::now());
        let connection = Arc::default();
        drop((0..9).map(|_| lying.lay(FREE + 10, &connection, begin)).collect::<Vec<_>>());
        assert!(!is_cut(&connection));
        let now = lying.now();
        assert_eq!((now.bytes, now.answers.len()), (0, 0));
    }
}
