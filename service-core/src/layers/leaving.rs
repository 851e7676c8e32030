//! Bounds what answers hold that nobody takes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
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
/// From so many bytes on an answer is large: it has a stream that can be reset, which costs a look when its data are gone. The
/// others are only counted.
const LARGE: usize = 128 << 10;
/// How often connections are looked through for one that is to be cut, while no more lies here than may.
const LOOK: Duration = Duration::from_millis(100);

/// Bounds the answers that lie here since their client opens no window for them (HTTP/2's flow control). A call has left its
/// place and its deadline behind when its answer begins, and a caller who never reads could have as many pages of the largest
/// kind held here as a connection has room for. Where too much lies, what has lain longest goes: others' answers are on their way
/// within moments. The stream of a large answer is reset. Whose large answers do not go even so, since the library waits for a
/// window before it looks, or who leaves too many others, is cut.
///
/// Streams pass: their messages are made when the one before is taken.
#[derive(Clone)]
pub(crate) struct LeavingLayer {
    methods: Methods,
    lying: Arc<Lying>,
}

impl LeavingLayer {
    /// At most so many bytes of large answers, as many again of those that were told to go, and as many of others; and so many
    /// others.
    pub(crate) fn new(methods: Methods, bytes: usize, answers: usize) -> Self {
        Self { methods, lying: Arc::new(Lying::new(bytes, answers, Instant::now())) }
    }
}

impl Middleware for LeavingLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let streams = self.methods.find(request.uri().path()).is_some_and(|method| method.streams);
        let connection = request.extensions().get::<Peer>().map(|peer| peer.unread.clone());
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
    /// The most bytes of large answers, and of others.
    bytes: usize,
    /// The most answers that are not large.
    answers: usize,
    began: Instant,
    /// How much lies of what is not large, at all connections.
    small: Small,
    /// Those that have had any, and when they were last looked through.
    connections: Mutex<(Vec<Weak<Unread>>, Option<Instant>)>,
    large: Mutex<LargeOnes>,
}

#[derive(Default)]
struct Small {
    answers: AtomicUsize,
    bytes: AtomicUsize,
}

#[derive(Default)]
struct LargeOnes {
    next: u64,
    staying: Large,
    /// Those that were told to go.
    going: Large,
}

/// Large answers, by when they were made.
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

impl Lying {
    fn new(bytes: usize, answers: usize, began: Instant) -> Self {
        Self {
            bytes,
            answers,
            began,
            small: Small::default(),
            connections: Mutex::default(),
            large: Mutex::default(),
        }
    }

    /// A large answer lies here, until the place is dropped.
    fn lay_large(self: &Arc<Self>, bytes: usize, way: &Arc<Way>, now: Instant) -> LargePlace {
        let (mut told, mut cut) = (Vec::new(), Vec::new());
        let mut large = self.large();
        let number = large.next;
        large.next += 1;
        large.staying.insert(number, Answer { since: now, bytes, way: way.clone() });
        while let Some((&oldest, answer)) = large.staying.answers.first_key_value()
            && oldest != number
            && let is_old = now.saturating_duration_since(answer.since) >= TIME_TO_GO
            && large.staying.bytes > self.bytes / if is_old { SHARE } else { 1 }
            && let Some(answer) = large.staying.remove(oldest)
        {
            told.push(answer.way.clone());
            large.going.insert(oldest, answer);
        }
        while large.going.bytes > self.bytes
            && let Some((&oldest, _)) = large.going.answers.first_key_value()
            && let Some(answer) = large.going.remove(oldest)
        {
            cut.push(answer.way.connection.clone());
        }
        // Whom it wakes is not to wait for this.
        drop(large);
        told.iter().for_each(|way| way.tell_to_go());
        cut.iter().for_each(|connection| connection.cut());
        LargePlace { number, of: self.clone() }
    }

    /// Another answer lies here, until the place is dropped.
    fn lay_small(self: &Arc<Self>, bytes: usize, connection: &Arc<Unread>, now: Instant) -> SmallPlace {
        if !connection.has_any() {
            // Before it has some: nobody shall find an old time beside them.
            let since = now.saturating_duration_since(self.began).as_millis();
            connection.since.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Release);
            if !connection.is_known.swap(true, Ordering::Relaxed) {
                self.connections().0.push(Arc::downgrade(connection));
            }
        }
        connection.answers.fetch_add(1, Ordering::Release);
        let answers = self.small.answers.fetch_add(1, Ordering::Relaxed) + 1;
        let all = self.small.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if answers > self.answers / SHARE || all > self.bytes / SHARE {
            self.look(answers > self.answers || all > self.bytes, now);
        }
        SmallPlace { bytes, connection: connection.clone(), of: self.clone() }
    }

    /// Cuts the connection at which some have lain for longest without a moment of none; but not one at which they have not for long,
    /// unless more lies here than may.
    fn look(&self, is_too_much: bool, now: Instant) {
        let mut connections = self.connections();
        let (all, last) = &mut *connections;
        if !is_too_much && last.is_some_and(|last| now.saturating_duration_since(last) < LOOK) {
            return;
        }
        *last = Some(now);
        all.retain(|connection| connection.strong_count() > 0);
        let unread = all.iter().filter_map(Weak::upgrade).filter(|one| one.has_any() && !one.is_cut());
        let longest = unread.min_by_key(|connection| connection.since.load(Ordering::Relaxed));
        drop(connections);
        if let Some(connection) = longest
            && let since = self.began + Duration::from_millis(connection.since.load(Ordering::Relaxed))
            && (is_too_much || now.saturating_duration_since(since) >= TIME_TO_GO)
        {
            connection.cut();
        }
    }

    fn connections(&self) -> MutexGuard<'_, (Vec<Weak<Unread>>, Option<Instant>)> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn large(&self) -> MutexGuard<'_, LargeOnes> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a large answer.
struct LargePlace {
    number: u64,
    of: Arc<Lying>,
}

impl Drop for LargePlace {
    fn drop(&mut self) {
        let mut large = self.of.large();
        let gone = large.staying.remove(self.number).or_else(|| large.going.remove(self.number));
        drop(large);
        drop(gone);
    }
}

/// The place of another answer.
struct SmallPlace {
    bytes: usize,
    connection: Arc<Unread>,
    of: Arc<Lying>,
}

impl Drop for SmallPlace {
    fn drop(&mut self) {
        self.connection.answers.fetch_sub(1, Ordering::Relaxed);
        self.of.small.answers.fetch_sub(1, Ordering::Relaxed);
        self.of.small.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What becomes of a large answer.
#[derive(Default)]
struct Way {
    is_gone: AtomicBool,
    is_to_go: AtomicBool,
    /// Waits for either.
    body: AtomicWaker,
    connection: Arc<Unread>,
}

impl Way {
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

/// Data of an answer, which the library lets go of when they are with the socket.
struct Data<Place> {
    bytes: Bytes,
    _place: Place,
}

impl<Place> AsRef<[u8]> for Data<Place> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Tells the body of a large answer that its data are gone.
struct Gone {
    way: Arc<Way>,
    _place: LargePlace,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.way.is_gone.store(true, Ordering::Release);
        self.way.body.wake();
    }
}

/// The body of an answer.
struct Leaving {
    inner: Body,
    lying: Arc<Lying>,
    connection: Arc<Unread>,
    /// Large data that were given away. The body stays until they are gone: only so can their stream be reset.
    large: Option<Arc<Way>>,
}

impl Leaving {
    /// Counts data until the library lets go of them.
    fn lay(
        lying: &Arc<Lying>,
        connection: &Arc<Unread>,
        bytes: Bytes,
        large: &mut Option<Arc<Way>>,
    ) -> Bytes {
        if bytes.len() < LARGE {
            let place = lying.lay_small(bytes.len(), connection, Instant::now());
            return Bytes::from_owner(Data { bytes, _place: place });
        }
        let way = Arc::new(Way { connection: connection.clone(), ..Way::default() });
        let place = lying.lay_large(bytes.len(), &way, Instant::now());
        *large = Some(way.clone());
        Bytes::from_owner(Data { bytes, _place: Gone { way, _place: place } })
    }
}

impl http_body::Body for Leaving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let Self { inner, lying, connection, large } = &mut *self;
        if let Some(way) = large {
            match way.poll_gone(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(to_go)) => return Poll::Ready(Some(Err(to_go))),
                Poll::Ready(Ok(())) => *large = None,
            }
        }
        let lay = |bytes| Self::lay(lying, connection, bytes, large);
        poll_body(inner, cx).map_ok(|frame| frame.map_data(lay))
    }

    fn is_end_stream(&self) -> bool {
        self.large.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a connection leaves unread; and its end, from afar.
#[derive(Default)]
pub(crate) struct Unread {
    /// How many answers lie for it that are not large.
    answers: AtomicUsize,
    /// Since when there have been some without a break, in milliseconds.
    since: AtomicU64,
    is_known: AtomicBool,
    is_cut: AtomicBool,
    connection: AtomicWaker,
}

impl Unread {
    fn has_any(&self) -> bool {
        self.answers.load(Ordering::Acquire) > 0
    }

    fn cut(&self) {
        if !self.is_cut.swap(true, Ordering::AcqRel) {
            metrics::counter!("grpc_connections_cut_total", "reason" => "unread").increment(1);
            self.connection.wake();
        }
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Whether the connection is to end now; or else `cx` is woken when it is.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> bool {
        self.connection.register(cx.waker());
        self.is_cut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lying(bytes: usize, answers: usize, began: Instant) -> Arc<Lying> {
        Arc::new(Lying::new(bytes, answers, began))
    }

    fn some<T: Default, const N: usize>() -> [Arc<T>; N] {
        std::array::from_fn(|_| Arc::default())
    }

    fn is_told(way: &Way) -> bool {
        matches!(way.poll_gone(&Context::from_waker(std::task::Waker::noop())), Poll::Ready(Err(_)))
    }

    #[test]
    fn beyond_an_eighth_of_the_bytes_a_large_answer_goes_that_has_had_its_time() {
        let begin = Instant::now();
        let lying = lying(16 * LARGE, 0, begin);
        let [first, second, third] = some();
        let lay = |way, after| lying.lay_large(LARGE, way, begin + after);
        let _first = lay(&first, Duration::ZERO);
        let read = lay(&second, Duration::ZERO);
        let _second = lay(&second, TIME_TO_GO);
        assert!(is_told(&first) && !is_told(&second), "the third is one too many");
        drop(read);
        let soon = 2 * TIME_TO_GO - Duration::from_nanos(1);
        let _third = [(); 4].map(|()| lay(&third, soon));
        assert!(!is_told(&second) && !is_told(&third), "there is time");
        let _fourth = lay(&third, 2 * TIME_TO_GO);
        assert!(is_told(&second) && !is_told(&third));
    }

    #[test]
    fn no_more_large_answers_lie_here_than_may_and_who_does_not_go_is_cut() {
        let begin = Instant::now();
        let lying = lying(2 * LARGE, 0, begin);
        let [first, second, huge] = some::<Way, 3>();
        let _first = [(); 4].map(|()| lying.lay_large(LARGE, &first, begin));
        assert!(is_told(&first) && !first.connection.is_cut(), "no more than may lie has been told to go");
        let _second = lying.lay_large(LARGE, &second, begin);
        assert!(first.connection.is_cut() && !second.connection.is_cut() && !is_told(&second));
        let _huge = lying.lay_large(100 * LARGE, &huge, begin);
        assert!(!is_told(&huge), "what has come last stays");
    }

    #[test]
    fn beyond_an_eighth_of_all_a_connection_is_cut_that_has_not_been_without_for_long() {
        let begin = Instant::now();
        for (lying, size) in
            [(lying(usize::MAX, 16, begin), 1), (lying(16 << 10, usize::MAX, begin), 1 << 10)]
        {
            let [first, second, third] = some();
            let lay = |connection, after| lying.lay_small(size, connection, begin + after);
            let _first = lay(&first, Duration::ZERO);
            drop(lay(&second, Duration::ZERO));
            let _second = lay(&second, TIME_TO_GO - Duration::from_millis(1));
            let soon = lay(&third, TIME_TO_GO - Duration::from_millis(1));
            assert!(!first.is_cut(), "there is time");
            drop(soon);
            let _third = lay(&third, TIME_TO_GO + LOOK);
            assert!(first.is_cut() && !second.is_cut() && !third.is_cut());
        }
    }

    #[test]
    fn beyond_all_the_connection_is_cut_that_has_not_been_without_for_longest() {
        let begin = Instant::now();
        for (lying, size) in [(lying(usize::MAX, 2, begin), 1), (lying(2 << 10, usize::MAX, begin), 1 << 10)]
        {
            let [first, second] = some();
            let _first = lying.lay_small(size, &first, begin);
            let later = begin + Duration::from_millis(1);
            let _second = [(); 2].map(|()| lying.lay_small(size, &second, later));
            assert!(first.is_cut() && !second.is_cut());
        }
    }

    #[test]
    fn what_is_gone_counts_no_more() {
        let begin = Instant::now();
        let lying = lying(2 * LARGE, 2, begin);
        let way = Arc::<Way>::default();
        drop(
            [(); 3]
                .map(|()| (lying.lay_large(LARGE, &way, begin), lying.lay_small(1, &way.connection, begin))),
        );
        let large = lying.large();
        assert_eq!((large.staying.bytes, large.going.bytes), (0, 0));
        assert!(large.staying.answers.is_empty() && large.going.answers.is_empty());
        let small = [&lying.small.answers, &lying.small.bytes, &way.connection.answers];
        assert_eq!(small.map(|left| left.load(Ordering::Relaxed)), [0; 3]);
    }
}
