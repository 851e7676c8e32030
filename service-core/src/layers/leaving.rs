//! Bounds what answers hold that nobody takes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as _, SizeHint};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::{Methods, Middleware, Next, Peer, PolledFrame, Request, Response, poll_body};

/// How long an answer may lie, however much does.
const TIME_TO_GO: Duration = Duration::from_secs(5);
/// Of what may lie here, the part that may for longer: one in so many.
const SHARE: usize = 8;
/// The longest answer that is counted by number. Most are far smaller.
const SMALL: usize = 16 << 10;

/// Bounds the answers that lie here since their client opens no window for them (HTTP/2's flow control). A call has left its
/// place and its deadline behind when its answer begins, and a caller who never reads could have as many pages of the largest
/// kind held here as a connection has room for. Where too much lies, what has lain longest goes: others' answers are on their way
/// within moments. The stream of a large answer is reset. Whose large answers do not go even so, since the library waits for a
/// window before it looks, or who leaves too many small ones, is cut.
///
/// Streams pass: their messages are made when the one before is taken.
#[derive(Clone)]
pub(crate) struct LeavingLayer {
    methods: Methods,
    lying: Arc<Lying>,
}

impl LeavingLayer {
    /// At most so many bytes of large answers, as many again of those that were told to go, and so many small answers.
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
                response.map(|inner| Body::new(Leaving { inner, lying, connection, large: None }))
            }
            _ => response,
        }
    }
}

struct Lying {
    /// The most bytes of large answers.
    bytes: usize,
    /// The most small answers.
    answers: usize,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    next: u64,
    /// By when they were made, as all of these.
    small: BTreeMap<u64, (Instant, Arc<Cut>)>,
    large: Large,
    /// Those that were told to go.
    going: Large,
}

#[derive(Default)]
struct Large {
    bytes: usize,
    answers: BTreeMap<u64, Answer>,
}

/// A large answer.
struct Answer {
    since: Instant,
    bytes: usize,
    way: Arc<Way>,
}

impl Large {
    fn insert(&mut self, number: u64, answer: Answer) {
        self.bytes += answer.bytes;
        self.answers.insert(number, answer);
    }

    fn remove(&mut self, number: u64) -> Option<Answer> {
        let answer = self.answers.remove(&number)?;
        self.bytes -= answer.bytes;
        Some(answer)
    }
}

/// Whether what has come before `number`, and lies since `since`, is to go now, where so much of `most` lies.
fn is_to_go(lies: usize, most: usize, since: Instant, now: Instant) -> bool {
    let is_old = now.saturating_duration_since(since) >= TIME_TO_GO;
    lies > if is_old { most / SHARE } else { most }
}

impl Lying {
    /// One more answer lies here, until the place is dropped.
    fn lay(self: &Arc<Self>, bytes: usize, way: &Arc<Way>, since: Instant) -> Place {
        let mut now = self.now();
        let number = now.next;
        now.next += 1;
        let (mut told, mut cut) = (Vec::new(), Vec::new());
        if bytes <= SMALL {
            now.small.insert(number, (since, way.connection.clone()));
            while let Some(oldest) = now.small.first_entry()
                && let began = oldest.get().0
                && *oldest.key() != number
                && is_to_go(now.small.len(), self.answers, began, since)
            {
                cut.extend(now.small.pop_first().map(|(_, (_, connection))| connection));
            }
        } else {
            now.large.insert(number, Answer { since, bytes, way: way.clone() });
            while let Some((&oldest, answer)) = now.large.answers.first_key_value()
                && oldest != number
                && is_to_go(now.large.bytes, self.bytes, answer.since, since)
                && let Some(answer) = now.large.remove(oldest)
            {
                told.push(answer.way.clone());
                now.going.insert(oldest, answer);
            }
            while now.going.bytes > self.bytes
                && let Some((&oldest, _)) = now.going.answers.first_key_value()
                && let Some(answer) = now.going.remove(oldest)
            {
                cut.push(answer.way.connection.clone());
            }
        }
        // Whom it wakes is not to wait for this.
        drop(now);
        told.iter().for_each(|way| way.tell_to_go());
        cut.iter().for_each(|connection| connection.cut());
        Place { number, of: self.clone() }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of an answer.
struct Place {
    number: u64,
    of: Arc<Lying>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut now = self.of.now();
        let Now { small, large, going, .. } = &mut *now;
        let _gone = (small.remove(&self.number), large.remove(self.number), going.remove(self.number));
    }
}

/// What becomes of an answer.
#[derive(Default)]
struct Way {
    is_gone: AtomicBool,
    is_to_go: AtomicBool,
    /// Waits for either.
    body: AtomicWaker,
    connection: Arc<Cut>,
}

impl Way {
    fn of(connection: &Arc<Cut>) -> Arc<Self> {
        Arc::new(Self { connection: connection.clone(), ..Self::default() })
    }

    fn tell_to_go(&self) {
        metrics::counter!("grpc_calls_shed_total", "limit" => "leaving_bytes").increment(1);
        self.is_to_go.store(true, Ordering::Release);
        self.body.wake();
    }

    /// Ready when the answer is gone.
    ///
    /// # Errors
    /// It is to go.
    fn poll_gone(&self, cx: &Context<'_>) -> Poll<Result<(), Status>> {
        self.body.register(cx.waker());
        if self.is_gone.load(Ordering::Acquire) {
            Poll::Ready(Ok(()))
        } else if self.is_to_go.load(Ordering::Acquire) {
            // The library resets the stream, and lets go of the data.
            Poll::Ready(Err(Status::resource_exhausted("too many answers lie unread")))
        } else {
            Poll::Pending
        }
    }
}

/// Data of an answer. The library lets go of them when they are with the socket.
struct Data {
    bytes: Bytes,
    way: Arc<Way>,
    _place: Place,
}

impl AsRef<[u8]> for Data {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        self.way.is_gone.store(true, Ordering::Release);
        self.way.body.wake();
    }
}

/// The body of an answer.
struct Leaving {
    inner: Body,
    lying: Arc<Lying>,
    connection: Arc<Cut>,
    /// Large data that were given away. The body stays until they are gone: only so can their stream be reset.
    large: Option<Arc<Way>>,
}

impl http_body::Body for Leaving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let this = &mut *self;
        if let Some(way) = &this.large {
            match way.poll_gone(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(to_go)) => return Poll::Ready(Some(Err(to_go))),
                Poll::Ready(Ok(())) => this.large = None,
            }
        }
        let lay = |bytes: Bytes| {
            let way = Way::of(&this.connection);
            let place = this.lying.lay(bytes.len(), &way, Instant::now());
            this.large = (bytes.len() > SMALL).then(|| way.clone());
            Bytes::from_owner(Data { bytes, way, _place: place })
        };
        poll_body(&mut this.inner, cx).map_ok(|frame| frame.map_data(lay))
    }

    fn is_end_stream(&self) -> bool {
        self.large.is_none() && self.inner.is_end_stream()
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

    const LARGE: usize = SMALL + 1;

    fn lying(bytes: usize, answers: usize) -> Arc<Lying> {
        Arc::new(Lying { bytes, answers, now: Mutex::default() })
    }

    fn ways<const N: usize>() -> [Arc<Way>; N] {
        std::array::from_fn(|_| Arc::default())
    }

    fn is_cut(way: &Way) -> bool {
        way.connection.is_cut(&Context::from_waker(std::task::Waker::noop()))
    }

    fn is_told(way: &Way) -> bool {
        matches!(way.poll_gone(&Context::from_waker(std::task::Waker::noop())), Poll::Ready(Err(_)))
    }

    #[test]
    fn beyond_an_eighth_goes_what_has_had_its_time() {
        let (lying, begin) = (lying(16 * LARGE, 16), Instant::now());
        for size in [SMALL, LARGE] {
            let goes = |way| if size == SMALL { is_cut(way) } else { is_told(way) };
            let [first, second, third] = ways();
            let lay = |way, after| lying.lay(size, way, begin + after);
            let _first = lay(&first, Duration::ZERO);
            let read = lay(&second, Duration::ZERO);
            let _second = lay(&second, TIME_TO_GO);
            assert!(goes(&first) && !goes(&second), "the third is one too many");
            drop(read);
            let soon = 2 * TIME_TO_GO - Duration::from_nanos(1);
            let _third = [(); 4].map(|()| lay(&third, soon));
            assert!(!goes(&second) && !goes(&third), "there is time");
            let _fourth = lay(&third, 2 * TIME_TO_GO);
            assert!(goes(&second) && !goes(&third));
        }
    }

    #[test]
    fn no_more_lies_here_than_may_however_short_a_time_and_what_has_come_last_stays() {
        let (lying, begin) = (lying(2 * LARGE, 2), Instant::now());
        for size in [SMALL, LARGE] {
            let goes = |way| if size == SMALL { is_cut(way) } else { is_told(way) };
            let [first, second] = ways();
            let _first = lying.lay(size, &first, begin);
            let more = [(); 2].map(|()| lying.lay(size, &second, begin));
            assert!(goes(&first) && !goes(&second));
            drop(more);
        }
        let [huge] = ways();
        let _huge = lying.lay(100 * LARGE, &huge, begin);
        assert!(!is_told(&huge), "alone");
    }

    #[test]
    fn who_does_not_go_is_cut() {
        let (lying, begin) = (lying(2 * LARGE, 2), Instant::now());
        let [first, second] = ways();
        let _first = [(); 4].map(|()| lying.lay(LARGE, &first, begin));
        assert!(is_told(&first) && !is_cut(&first), "no more than may lie has been told to go");
        let _second = lying.lay(LARGE, &second, begin);
        assert!(is_cut(&first) && !is_cut(&second) && !is_told(&second));
    }

    #[test]
    fn what_is_gone_counts_no_more() {
        let (lying, begin) = (lying(2 * LARGE, 2), Instant::now());
        let way = Arc::default();
        drop([(); 3].map(|()| [lying.lay(LARGE, &way, begin), lying.lay(SMALL, &way, begin)]));
        let now = lying.now();
        assert_eq!((now.small.len(), now.large.answers.len(), now.going.answers.len()), (0, 0, 0));
        assert_eq!((now.large.bytes, now.going.bytes), (0, 0));
    }
}
