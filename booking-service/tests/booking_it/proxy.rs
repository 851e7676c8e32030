//! A network between a replica and its database that fails at the worst moment.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use booking_service::config::ServeConfig;
use service_core::config::DatabaseConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::system::System;

/// How often the connection is to break, and when.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// Nothing goes through, and what was open is cut.
    pub(crate) down: Arc<watch::Sender<bool>>,
    /// How many connections were turned away because of that.
    pub(crate) refused: Arc<AtomicUsize>,
    /// The server never hears of COMMIT, or of the statement that commits itself.
    pub(crate) before_commit: Arc<AtomicUsize>,
    /// The same, but for COMMIT: what became of the statement can be found out.
    pub(crate) before_write: Arc<AtomicUsize>,
    /// The server has committed, and its answer is lost.
    pub(crate) after_commit: Arc<AtomicUsize>,
    /// The server has committed, and its answer is that it cannot go on.
    pub(crate) panic_after_commit: Arc<AtomicUsize>,
    /// The replica's end is closed as with `before_commit`, and the server hears of it when it is all over.
    pub(crate) late_commit: Arc<AtomicUsize>,
    /// How many of the commits that broke were of batches that had read nothing before.
    pub(crate) remembered: Arc<AtomicUsize>,
    /// What the server is still to hear of.
    late: Arc<Mutex<Vec<Late>>>,
}

/// What PostgreSQL says when it fails in the middle of a commit, before it starts anew and finds what was written of it.
/// An `E`, its length, and its fields.
const PANIC: &[u8] = b"E\0\0\0\x33SPANIC\0VPANIC\0C58030\0Mcould not flush the log\0\0";

/// A request that the server has not heard of, and the connection on which it will.
type Late = (Vec<u8>, OwnedWriteHalf, OwnedReadHalf);

impl Faults {
    /// Lets the server hear of what was held back, and gives its answers.
    pub(crate) async fn arrive(&self) -> Vec<Vec<u8>> {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        let mut answers = Vec::new();
        for (request, mut to, mut from) in late {
            to.write_all(&request).await.unwrap();
            // Until it is ready for more: the message is a Z, its length, and where the transaction stands.
            let mut answer = Vec::new();
            while !answer.ends_with(b"Z\0\0\0\x05I") {
                assert!(from.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
            }
            answers.push(answer);
        }
        answers
    }
}

/// Passes everything on until a fault is due. Ends when this is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) faults: Faults,
    /// Where connections are passed on to from now on.
    #[allow(dead_code, reason = "only a failover moves the server")]
    pub(crate) server: Arc<watch::Sender<SocketAddr>>,
    _end: DropGuard,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let server = Arc::new(watch::Sender::new(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (faults, end) = (Faults::default(), CancellationToken::new());
        let accept = {
            let (faults, server) = (faults.clone(), Arc::clone(&server));
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    let to = *server.borrow();
                    if !*faults.down.borrow()
                        && let Ok(server) = TcpStream::connect(to).await
                    {
                        tokio::spawn(pass(client, server, faults.clone()));
                    } else {
                        faults.refused.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        };
        tokio::spawn(end.clone().run_until_cancelled_owned(accept));
        Self { address, faults, server, _end: end.drop_guard() }
    }
}

/// One replica, whose every connection to the database goes through a proxy.
pub(crate) async fn behind_a_proxy(edit: impl Fn(&mut ServeConfig)) -> (System, Proxy) {
    let mut system = System::with_replicas(0).await;
    let proxy = Proxy::start(system.database.address()).await;
    let url = system.database.url_through(proxy.address);
    let through = |config: &mut ServeConfig| {
        config.database = DatabaseConfig::from_url(&url).unwrap();
        edit(config);
    };
    system.add_replica(through).await;
    system.replicas[0].ready().await;
    (system, proxy)
}

/// Takes one of what is left, if anything is.
fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

/// One connection. When it returns, both ends are closed.
async fn pass(client: TcpStream, server: TcpStream, faults: Faults) {
    let (from_client, to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut held_back = None;
    let instead = OnceLock::new();
    let mut down = faults.down.subscribe();
    tokio::select! {
        _ = down.wait_for(|down| *down) => {}
        late = requests(from_client, &mut to_server, &faults, &instead) => held_back = late,
        () = answers(&mut from_server, to_client, &instead) => {}
    }
    if let Some(request) = held_back {
        faults.late.lock().unwrap().push((request, to_server, from_server));
    }
}

/// What a connection to the server is, as far as its requests tell.
#[derive(Default)]
struct Session {
    seats: bool,
    in_transaction: bool,
    /// Whether the request that commits is a statement by itself.
    by_itself: bool,
    /// Whether anything was asked since the last batch was written.
    has_read: bool,
}

impl Session {
    /// Whether this request commits what a batch has written: COMMIT, or, outside of a transaction, rows of the log.
    fn commits(&mut self, request: &[u8]) -> bool {
        let has = |word: &str| request.windows(word.len()).any(|window| window == word.as_bytes());
        self.seats |= has("rowlock-booking-seating");
        self.in_transaction = (self.in_transaction || has("BEGIN")) && !has("ROLLBACK");
        self.by_itself = !self.in_transaction;
        let commits = if self.in_transaction {
            has("COMMIT")
        } else {
            ["REGISTRATION_", "WAITLIST_", "OFFER_"].into_iter().any(has)
        };
        self.in_transaction &= !commits;
        self.seats && commits
    }
}

/// Passes requests on. Gives the one that is to come late, if one is.
async fn requests(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    faults: &Faults,
    instead: &OnceLock<&[u8]>,
) -> Option<Vec<u8>> {
    let mut session = Session::default();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return None };
        let request = &buffer[..read];
        let commit = session.commits(request);
        let has_read = std::mem::replace(&mut session.has_read, !commit);
        let breaks = |left| {
            let breaks = commit && take(left);
            faults.remembered.fetch_add(usize::from(breaks && !has_read), Ordering::SeqCst);
            breaks
        };
        if breaks(&faults.before_commit) || session.by_itself && breaks(&faults.before_write) {
            return None;
        }
        if breaks(&faults.late_commit) {
            return Some(request.to_owned());
        }
        if breaks(&faults.after_commit) {
            let _ = instead.set(b"");
        }
        if breaks(&faults.panic_after_commit) {
            let _ = instead.set(PANIC);
        }
        if to.write_all(request).await.is_err() {
            return None;
        }
    }
}

/// Passes answers on, until one is due `instead` of the server's.
async fn answers(from: &mut OwnedReadHalf, mut to: OwnedWriteHalf, instead: &OnceLock<&[u8]>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        // This is the answer to COMMIT: it is done, and nobody hears of it.
        if let Some(instead) = instead.get() {
            let _ = to.write_all(instead).await;
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
