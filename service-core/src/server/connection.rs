//! Accepting connections, with TLS or without, and cutting those that say nothing or stay for too long.
//!
//! Tonic sends GOAWAY when a connection reaches `max_connection_age`, and then waits for its calls without end. With its
//! `max_connection_age_grace` it would only cut, after both times and without GOAWAY. So the cut is made here. Once it speaks
//! HTTP/2 a connection is checked by keepalive pings; until then it has the `handshake_timeout`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use rustls::server::Acceptor as Hello;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use crate::config::ServerConfig;
use crate::layers::{Peer, Unread};
use crate::tls::Acceptor;

use super::goaway::{Farewell, Frames};

/// How long to wait when the system gives no more connections, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How many TLS handshakes go on at once: each costs about a signature. Others wait, and who has not said hello is not among
/// them.
const MAX_HANDSHAKES: usize = 512;
/// How long a client may take for the rest of its handshake: a round trip or two, from anywhere.
const TURN: Duration = Duration::from_secs(3);
/// The client's preface of HTTP/2 and its settings, without which nothing begins.
const HTTP2_BEGINS: usize = 24 + 9;

/// The connections that arrive. At most `max_connections` are open; each is cut when it is silent at first, or too old.
pub(super) fn accept(
    listener: TcpListener,
    config: &ServerConfig,
    tls: Option<Acceptor>,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let door = Door {
        listener,
        tls,
        places: Arc::new(Semaphore::new(config.max_connections)),
        handshakes: JoinSet::new(),
        slots: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
        handshake_timeout: config.handshake_timeout,
        max_age: config.max_connection_age,
        grace: config.max_connection_age_grace,
    };
    unfold(door, async |mut door| Some((Ok(door.next().await), door)))
}

struct Door {
    listener: TcpListener,
    tls: Option<Acceptor>,
    places: Arc<Semaphore>,
    /// Those that speak TLS one day. Dropped with the door.
    handshakes: JoinSet<Option<Connection>>,
    slots: Arc<Semaphore>,
    handshake_timeout: Duration,
    max_age: Duration,
    grace: Duration,
}

impl Door {
    async fn next(&mut self) -> Connection {
        loop {
            let arrived = tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Some(connection)) => return connection,
                    _ => continue,
                },
                arrived = self.listener.accept() => arrived,
            };
            let stream = match arrived {
                Ok((stream, _)) => stream,
                Err(error) if is_of_the_client(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "connections cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                // Closed rather than left to wait: the client should look for another replica.
                refused("limit");
                continue;
            };
            // Small messages must not wait for the acknowledgement of earlier ones.
            let _ = stream.set_nodelay(true);
            let place = Place::taken(place);
            let begin_by = Instant::now() + self.handshake_timeout;
            let (max_age, grace) = (self.max_age, self.grace);
            // The library counts the age from here, too.
            let times = move || {
                let old_at = Instant::now() + max_age;
                Times { begin_by, old_at, end: old_at + grace }
            };
            match &self.tls {
                None => return Connection::new(Either::Left(stream), place, times()),
                Some(tls) => {
                    let (tls, slots) = (tls.get(), Arc::clone(&self.slots));
                    let handshake = async move {
                        // However slowly it comes.
                        let hello = LazyConfigAcceptor::new(Hello::default(), stream).await?;
                        // It is never closed.
                        let _slot = slots.acquire().await;
                        timeout(TURN, hello.into_stream(tls)).await?
                    };
                    self.handshakes.spawn(async move {
                        match timeout_at(begin_by, handshake).await {
                            Ok(Ok(stream)) => {
                                Some(Connection::new(Either::Right(Box::new(stream)), place, times()))
                            }
                            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                                refused("timeout");
                                None
                            }
                            Ok(Err(error)) => {
                                refused("tls");
                                tracing::debug!(%error, "a client does not get through TLS");
                                None
                            }
                            Err(_) => {
                                refused("timeout");
                                None
                            }
                        }
                    });
                }
            }
        }
    }
}

fn is_of_the_client(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Of a connection.
#[derive(Clone, Copy)]
struct Times {
    /// By then HTTP/2 must have begun.
    begin_by: Instant,
    /// Not before then it is asked to close for its age.
    old_at: Instant,
    /// Then it is cut.
    end: Instant,
}

fn cut(reason: &'static str) {
    metrics::counter!("grpc_connections_cut_total", "reason" => reason).increment(1);
}

/// Lets what is counted be seen from the start on.
pub(super) fn begin_to_count() {
    for reason in ["age", "grace", "keepalive", "flood", "unread"] {
        metrics::counter!("grpc_connections_cut_total", "reason" => reason).increment(0);
    }
    for reason in ["limit", "timeout", "tls"] {
        metrics::counter!("grpc_connections_refused_total", "reason" => reason).increment(0);
    }
    for outcome in ["ok", "failed"] {
        metrics::counter!("tls_reloads_total", "outcome" => outcome).increment(0);
    }
    metrics::gauge!("tls_files_in_use").set(1);
}

fn refused(reason: &'static str) {
    metrics::counter!("grpc_connections_refused_total", "reason" => reason).increment(1);
}

/// One of the connections that may be open.
struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn taken(permit: OwnedSemaphorePermit) -> Self {
        metrics::gauge!("grpc_connections").increment(1.0);
        Self { _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!("grpc_connections").decrement(1.0);
    }
}

/// A connection with an end.
pub(super) struct Connection {
    io: Io,
    _place: Place,
    end: Pin<Box<Sleep>>,
    /// How much of HTTP/2's beginning is still to come.
    to_begin: usize,
    /// `end` is first the time by which HTTP/2 must have begun, and then that of these.
    times: Times,
    /// What was sent, for the library tells nobody why it ends a connection but the client.
    sent: Frames,
    is_cut: bool,
    /// Ends it from elsewhere, where too much lies unread.
    unread: Arc<Unread>,
}

/// In the open, or with TLS.
type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

impl Connection {
    fn new(io: Io, place: Place, times: Times) -> Self {
        let first = Box::pin(sleep_until(times.begin_by.min(times.end)));
        Self {
            io,
            _place: place,
            end: first,
            to_begin: HTTP2_BEGINS,
            times,
            sent: Frames::default(),
            is_cut: false,
            unread: Arc::default(),
        }
    }

    /// Ends the connection if it is time.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.unread.poll_cut(cx) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.end.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        match (std::mem::replace(&mut self.is_cut, true), self.to_begin) {
            (true, _) => {}
            (false, 0) => cut("grace"),
            (false, _) => refused("timeout"),
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    fn has_sent(&mut self, bytes: &[u8]) {
        match self.sent.pass(bytes) {
            // At the end of the process connections are asked, too.
            Some(Farewell::Asked) if Instant::now() >= self.times.old_at => cut("age"),
            Some(Farewell::Asked) | None => {}
            Some(Farewell::Silent) => cut("keepalive"),
            Some(Farewell::Flood) => cut("flood"),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let tcp = match &self.io {
            Either::Left(stream) => stream.connect_info(),
            Either::Right(stream) => stream.get_ref().0.connect_info(),
        };
        Peer::new(tcp, self.unread.clone())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/2 is always about to read, unless it waits for the client to read.
        self.poll_end(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if self.to_begin > 0 && read.is_ready() {
            self.to_begin = self.to_begin.saturating_sub(buf.filled().len() - before);
            if self.to_begin == 0 {
                let end = self.times.end;
                self.end.as_mut().reset(end);
                // A timer that nobody has polled wakes nobody.
                if self.end.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_end(cx)?;
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = written {
            self.has_sent(buf.get(..count).unwrap_or(buf));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // As the connection ends nothing is written any more: what TLS has not sent yet is flushed, for ever if nobody reads it.
        self.poll_end(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_end(cx)?;
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut count)) = written {
            for buf in bufs {
                let sent = buf.get(..count).unwrap_or(buf);
                count -= sent.len();
                self.has_sent(sent);
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
