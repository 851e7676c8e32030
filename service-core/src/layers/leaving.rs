//! Bounds what answers hold that nobody takes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::{Methods, Middleware, Next, Peer, PolledFrame, Request, Response, poll_body};

/// How long a connection may let none of its answers go, however much lies.
const TIME_TO_MOVE: Duration = Duration::from_secs(5);
/// And while more lies here than may. Not less, for the answers of a crowd that has waited together are made together, and
/// lie until their connection is looked after.
const TIME_UNDER_PRESSURE: Duration = Duration::from_millis(500);
/// How long a large answer may lie, however much does: a page of the longest goes over a way of a hundred kilobytes a second.
const TIME_TO_GO: Duration = Duration::from_secs(30);
/// Of what may lie here, the part that may for longer: one in so many.
const SHARE: usize = 8;
/// From so many bytes on an answer is large: it has a stream that can be reset, which costs a look when its data are gone. The
/// others are only counted.
const LARGE: usize = 128 << 10;
/// How often connections are looked through for one that is to be cut; ten times as often while more lies here than may.
const LOOK: Duration = Duration::from_millis(100);
/// However few calls may be in flight: answers have left their call's place, and so many may lie for a moment.
const LEAST_ANSWERS: usize = 256;
/// What the shortest answer holds: a buffer to begin with.
const LEAST_BYTES: usize = 8 << 10;

/// What an answer of so many bytes holds: buffers grow by doubling.
fn held(bytes: usize) -> usize {
    bytes.max(LEAST_BYTES).checked_next_power_of_two().unwrap_or(bytes)
}

/// Bounds the answers that lie here since their client opens no window for them (HTTP/2's flow control). A call has left its
/// place and its deadline behind when its answer begins, and a caller who never reads could have as many pages of the largest
/// kind held here as a connection has room for. Where too much lies, what does not go has to: others' answers are on their way
/// within moments. The stream of the large answer is reset that has lain longest. Whose large answers do not go even so, since the
/// library waits for a window before it looks, is cut, and so is who lets none of the others go, or has most of twice as many.
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
        let answers = answers.max(LEAST_ANSWERS);
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
                response.map(|inner| Body::new(Leaving { inner, lying, connection, large: None, next: None }))
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
    connections: Mutex<Connections>,
    large: Mutex<LargeOnes>,
}

#[derive(Default)]
struct Small {
    answers: AtomicUsize,
    bytes: AtomicUsize,
}

impl Small {
    /// How much there is then.
    fn add(&self, bytes: usize) -> (usize, usize) {
        let answers = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
        (answers, self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes))
    }

    fn remove(&self, bytes: usize) {
        self.answers.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Connections {
    /// Those that have had any of what is not large.
    known: Vec<Weak<Unread>>,
    /// How many were there when those were last taken out that are gone.
    were: usize,
    /// When they were last looked through.
    looked: Option<Instant>,
}

impl Connections {
    fn add(&mut self, connection: &Arc<Unread>) {
        if self.known.len() >= 64.max(self.were * 2) {
            self.forget_the_gone();
        }
        self.known.push(Arc::downgrade(connection));
    }

    fn forget_the_gone(&mut self) {
        self.known.retain(|connection| connection.strong_count() > 0);
        self.were = self.known.len();
    }
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
        if !connection.is_known.swap(true, Ordering::AcqRel) {
            connection.moved_at(now, self.began);
            self.connections().add(connection);
        }
        connection.lying.add(bytes);
        let (answers, all) = self.small.add(bytes);
        if answers > self.answers / SHARE || all > self.bytes / SHARE {
            self.look(answers > self.answers || all > self.bytes, now);
        }
        SmallPlace { bytes, connection: connection.clone(), of: self.clone() }
    }

    /// Cuts the connection with the most of those that have let nothing go for long; of all, where twice as much lies as may: whoever
    /// takes one answer now and then has not stood still. What lies for those that were cut already is about to go.
    fn look(&self, is_urgent: bool, now: Instant) {
        let mut connections = self.connections();
        let pause = if is_urgent { LOOK / 10 } else { LOOK };
        if connections.looked.is_some_and(|last| now.saturating_duration_since(last) < pause) {
            return;
        }
        connections.looked = Some(now);
        connections.forget_the_gone();
        let here = connections.known.iter().filter_map(Weak::upgrade);
        let unread: Vec<_> = here.filter(|one| one.lying.answers() > 0 && !one.is_cut()).collect();
        drop(connections);
        for connection in &unread {
            if connection.has_moved.swap(false, Ordering::AcqRel) {
                connection.moved_at(now, self.began);
            }
        }
        let answers: usize = unread.iter().map(|one| one.lying.answers()).sum();
        let bytes: usize = unread.iter().map(|one| one.lying.bytes()).sum();
        let is_beyond = |most: fn(usize) -> usize| answers > most(self.answers) || bytes > most(self.bytes);
        let time = if is_beyond(|most| most.saturating_mul(2)) {
            Duration::ZERO
        } else if is_beyond(|most| most) {
            TIME_UNDER_PRESSURE
        } else if is_beyond(|most| most / SHARE) {
            TIME_TO_MOVE
        } else {
            return;
        };
        let stands_still = |one: &&Arc<Unread>| now.saturating_duration_since(one.since(self.began)) >= time;
        let still = unread.iter().filter(stands_still);
        if let Some(most) = still.max_by_key(|one| (one.lying.bytes(), one.lying.answers())) {
            most.cut();
        }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
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
        self.connection.lying.remove(self.bytes);
        self.connection.has_moved.store(true, Ordering::Release);
        self.of.small.remove(self.bytes);
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
            // The library resets the stream for the reason of the cause, which clients take for RESOURCE_EXHAUSTED, and lets go of the data.
            Poll::Ready(Err(Status::from(h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM))))
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
    /// What comes after them. It was taken at once, for with the last frame a call is over.
    next: Option<Frames>,
}

type Frames = Option<Result<Frame<Bytes>, Status>>;

impl Leaving {
    /// Counts data until the library lets go of them.
    fn lay(
        lying: &Arc<Lying>,
        connection: &Arc<Unread>,
        bytes: Bytes,
        large: &mut Option<Arc<Way>>,
    ) -> Bytes {
        if bytes.len() < LARGE {
            let place = lying.lay_small(held(bytes.len()), connection, Instant::now());
            return Bytes::from_owner(Data { bytes, _place: place });
        }
        let way = Arc::new(Way { connection: connection.clone(), ..Way::default() });
        let place = lying.lay_large(held(bytes.len()), &way, Instant::now());
        *large = Some(way.clone());
        Bytes::from_owner(Data { bytes, _place: Gone { way, _place: place } })
    }
}

impl http_body::Body for Leaving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame {
        let Self { inner, lying, connection, large, next } = &mut *self;
        if let Some(way) = large {
            if next.is_none()
                && let Poll::Ready(frame) = poll_body(inner, cx)
            {
                *next = Some(frame);
            }
            match way.poll_gone(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(to_go)) => return Poll::Ready(Some(Err(to_go))),
                Poll::Ready(Ok(())) => *large = None,
            }
        }
        let polled = next.take().map_or_else(|| poll_body(inner, cx), Poll::Ready);
        polled.map_ok(|frame| frame.map_data(|bytes| Self::lay(lying, connection, bytes, large)))
    }

    fn is_end_stream(&self) -> bool {
        self.large.is_none() && self.next.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a connection leaves unread; and its end, from afar.
#[derive(Default)]
pub(crate) struct Unread {
    /// What lies for it that is not large.
    lying: Small,
    /// Whether something of that has gone since that was last asked.
    has_moved: AtomicBool,
    /// When it was last known that something had, or had come first, in milliseconds.
    since: AtomicU64,
    is_known: AtomicBool,
    is_cut: AtomicBool,
    connection: AtomicWaker,
}

impl Unread {
    fn moved_at(&self, now: Instant, began: Instant) {
        let since = now.saturating_duration_since(began).as_millis();
        self.since.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn since(&self, began: Instant) -> Instant {
        began + Duration::from_millis(self.since.load(Ordering::Acquire))
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
    fn beyond_an_eighth_of_all_a_connection_is_cut_that_has_let_nothing_go_for_long() {
        let begin = Instant::now();
        for (lying, size) in
            [(lying(usize::MAX, 16, begin), 1), (lying(16 << 10, usize::MAX, begin), 1 << 10)]
        {
            let [deaf, busy, third] = some();
            let lay = |connection, after| lying.lay_small(size, connection, begin + after);
            let _deaf = lay(&deaf, Duration::ZERO);
            // There is always one, and never one for long.
            let mut last = lay(&busy, Duration::ZERO);
            for tenths in 1..49 {
                last = lay(&busy, Duration::from_millis(100) * tenths);
            }
            let soon = lay(&third, TIME_TO_MOVE - Duration::from_millis(1));
            assert!(!deaf.is_cut(), "there is time");
            drop(soon);
            let _third = lay(&third, TIME_TO_MOVE + LOOK);
            assert!(deaf.is_cut() && !busy.is_cut() && !third.is_cut());
            drop(last);
        }
    }

    #[test]
    fn beyond_all_the_connection_is_cut_that_has_most_and_lets_none_go_and_one_is_enough() {
        let begin = Instant::now();
        for (lying, size) in [(lying(usize::MAX, 4, begin), 1), (lying(4 << 10, usize::MAX, begin), 1 << 10)]
        {
            let [deaf, less, crowd] = some();
            let lay = |connection, after| lying.lay_small(size, connection, begin + after);
            let _less = lay(&less, Duration::ZERO);
            let _deaf = [(); 2].map(|()| lay(&deaf, Duration::ZERO));
            drop(lay(&crowd, Duration::ZERO));
            let _crowd = [(); 4].map(|()| lay(&crowd, TIME_UNDER_PRESSURE - Duration::from_millis(1)));
            assert!(!deaf.is_cut() && !crowd.is_cut(), "there is time");
            let _more = lay(&crowd, TIME_UNDER_PRESSURE + LOOK);
            assert!(deaf.is_cut() && !less.is_cut() && !crowd.is_cut());
        }
    }

    #[test]
    fn beyond_twice_of_all_the_connection_is_cut_that_has_most_however_it_moves() {
        let begin = Instant::now();
        for (lying, size) in [(lying(usize::MAX, 4, begin), 1), (lying(4 << 10, usize::MAX, begin), 1 << 10)]
        {
            let [sly, other] = some();
            let lay = |connection, after| lying.lay_small(size, connection, begin + after);
            let _other = lay(&other, Duration::ZERO);
            let mut hers: Vec<_> = (0..7).map(|_| lay(&sly, Duration::ZERO)).collect();
            hers.pop();
            hers.push(lay(&sly, LOOK));
            assert!(!sly.is_cut());
            hers.push(lay(&sly, 2 * LOOK));
            assert!(sly.is_cut() && !other.is_cut());
        }
    }

    #[test]
    fn connections_that_are_gone_leave_nothing_behind() {
        let lying = lying(usize::MAX, usize::MAX, Instant::now());
        for _ in 0..10_000 {
            lying.lay_small(1, &Arc::default(), Instant::now());
        }
        assert!(lying.connections().known.len() <= 64);
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
        for small in [&lying.small, &way.connection.lying] {
            assert_eq!((small.answers(), small.bytes()), (0, 0));
        }
    }
}
