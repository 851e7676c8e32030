//! Looking up by id what many calls ask for at once.
//!
//! To send a statement, plan it and wait for it costs more than to read one row, so the ids that gather while one statement
//! is under way go into the next, as commands do in [`crate::seating`]. Nobody waits for company by the clock, and nothing is kept: what
//! is found was read after it was asked for.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use service_core::trace::Span;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use uuid::Uuid;

use super::StoreError;
use crate::gather::gather;

/// The most ids in one statement.
const MOST: usize = 256;
/// A statement that takes longer goes on by itself: those who came after it do not wait for it any more.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long a connection is kept for the next statement. To take it from the pool and give it back costs three round trips;
/// the pool trusts one that has idled no longer, too.
const KEPT: Duration = Duration::from_millis(100);
/// How many statements it is kept for at most: then the pool may close it for its age.
const STATEMENTS: u32 = 10_000;

/// Finds what there is of these ids.
pub type Find<V> = for<'c> fn(&'c mut PgConnection, Vec<Uuid>) -> Finding<'c, V>;
/// What is found, when it is.
pub type Finding<'c, V> = BoxFuture<'c, Result<HashMap<Uuid, V>, StoreError>>;

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Lookup<V> {
    pool: PgPool,
    find: Find<V>,
    wanted: mpsc::UnboundedSender<Wanted<V>>,
}

struct Wanted<V> {
    id: Uuid,
    reply: oneshot::Sender<Result<Option<V>, StoreError>>,
    /// Of who wants it, until it is there.
    span: Span,
}

impl<V: Clone + Send + 'static> Lookup<V> {
    /// Looks things up with `find`. To be called within a tokio runtime.
    pub fn start(pool: PgPool, find: Find<V>) -> Self {
        // Bounded by the calls in flight: each of them has at most one id here.
        let (wanted, inbox) = mpsc::unbounded_channel();
        tokio::spawn(run(pool.clone(), find, inbox));
        Self { pool, find, wanted }
    }

    /// What has this id, if anything has.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn get(&self, id: Uuid) -> Result<Option<V>, StoreError> {
        let (reply, answer) = oneshot::channel();
        if self.wanted.send(Wanted { id, reply, span: Span::child("lookup") }).is_ok()
            && let Ok(found) = answer.await
        {
            return found;
        }
        // The statement failed. Alone, everybody gets an error, or an answer, of their own.
        let mut connection = self.pool.acquire().await?;
        Ok((self.find)(&mut connection, vec![id]).await?.remove(&id))
    }
}

async fn run<V: Clone + Send + 'static>(
    pool: PgPool,
    find: Find<V>,
    mut inbox: mpsc::UnboundedReceiver<Wanted<V>>,
) {
    let mut kept: Option<PoolConnection<Postgres>> = None;
    let mut statements: u32 = 0;
    loop {
        let first = match timeout(KEPT, inbox.recv()).await {
            Ok(first) => first,
            Err(_) => {
                kept = None;
                inbox.recv().await
            }
        };
        let Some(first) = first else { return };
        let mut wanted = vec![first];
        gather(|| inbox.len()).await;
        while wanted.len() < MOST
            && let Ok(more) = inbox.try_recv()
        {
            wanted.push(more);
        }
        let span = Span::for_many("lookup.batch", wanted.iter().map(|wanted| &wanted.span));
        wanted.iter().for_each(|wanted| wanted.span.joins(&span));
        let answering = tokio::spawn(span.enclose(answer(pool.clone(), kept.take(), find, wanted)));
        kept = timeout(PATIENCE, answering).await.ok().and_then(Result::ok).flatten();
        statements += 1;
        if statements == STATEMENTS || is_exhausted(&pool) {
            (kept, statements) = (None, 0);
        }
    }
}

/// Whether all connections are taken: somebody else may be waiting for one.
fn is_exhausted(pool: &PgPool) -> bool {
    pool.num_idle() == 0 && pool.size() >= pool.options().get_max_connections()
}

/// Answers everybody, on this connection or on one of the pool, and gives it back if it can be used again.
async fn answer<V: Clone>(
    pool: PgPool,
    connection: Option<PoolConnection<Postgres>>,
    find: Find<V>,
    wanted: Vec<Wanted<V>>,
) -> Option<PoolConnection<Postgres>> {
    let mut ids: Vec<Uuid> = wanted.iter().map(|wanted| wanted.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let each_has_its_own = ids.len() == wanted.len();
    let found = async {
        let mut connection = match connection {
            Some(connection) => connection,
            None => pool.acquire().await?,
        };
        let found = find(&mut connection, ids).await?;
        Ok::<_, StoreError>((found, connection))
    };
    match found.await {
        Ok((mut found, connection)) => {
            for Wanted { id, reply, .. } in wanted {
                let value = if each_has_its_own { found.remove(&id) } else { found.get(&id).cloned() };
                // Whoever is gone does not hear it.
                let _ = reply.send(Ok(value));
            }
            Some(connection)
        }
        // Nobody has to wait in vain twice, nor all the others for so many who do.
        Err(error) if error.is_congestion() => {
            for Wanted { reply, .. } in wanted {
                let _ = reply.send(Err(error.clone()));
            }
            None
        }
        Err(error) => {
            tracing::debug!(%error, "a look-up failed");
            None
        }
    }
}
