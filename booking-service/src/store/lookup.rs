//! Looking up by id what many calls ask for at once.
//!
//! To send a statement, plan it and wait for it costs more than to read one row, so the ids that gather while one statement
//! is under way go into the next, as commands do in [`crate::seating`]. Nobody waits for company, and nothing is kept: what
//! is found was read after it was asked for.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use service_core::trace::Span;
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use uuid::Uuid;

use super::StoreError;

/// The most ids in one statement.
const MOST: usize = 256;
/// A statement that takes longer goes on by itself: those who came after it do not wait for it any more.
const PATIENCE: Duration = Duration::from_millis(20);

/// Finds what there is of these ids.
pub type Find<V> = fn(PgPool, Vec<Uuid>) -> BoxFuture<'static, Result<HashMap<Uuid, V>, StoreError>>;

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
        Ok((self.find)(self.pool.clone(), vec![id]).await?.remove(&id))
    }
}

async fn run<V: Clone + Send + 'static>(
    pool: PgPool,
    find: Find<V>,
    mut inbox: mpsc::UnboundedReceiver<Wanted<V>>,
) {
    loop {
        let mut wanted = Vec::new();
        if inbox.recv_many(&mut wanted, MOST).await == 0 {
            return;
        }
        let mut ids: Vec<Uuid> = wanted.iter().map(|wanted| wanted.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let span = Span::for_many("lookup.batch", wanted.iter().map(|wanted| &wanted.span));
        wanted.iter().for_each(|wanted| wanted.span.joins(&span));
        let finding = span.enclose(find(pool.clone(), ids));
        let answering = tokio::spawn(async move {
            match finding.await {
                Ok(found) => {
                    for Wanted { id, reply, .. } in wanted {
                        // Whoever is gone does not hear it.
                        let _ = reply.send(Ok(found.get(&id).cloned()));
                    }
                }
                // Nobody has to wait for a connection twice.
                Err(StoreError::Database(sqlx::Error::PoolTimedOut)) => {
                    for Wanted { reply, .. } in wanted {
                        let _ = reply.send(Err(sqlx::Error::PoolTimedOut.into()));
                    }
                }
                Err(error) => tracing::debug!(%error, "a look-up failed"),
            }
        });
        let _ = timeout(PATIENCE, answering).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::*;

    fn nowhere() -> PgPool {
        PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/nothing").unwrap()
    }

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    #[tokio::test]
    async fn those_who_ask_at_once_share_statements_and_get_their_own_answers() {
        static ASKED: Mutex<Vec<usize>> = Mutex::new(Vec::new());
        let lookup = Lookup::start(nowhere(), |_, ids| {
            ASKED.lock().unwrap().push(ids.len());
            // Odd ones do not exist.
            let found = ids.into_iter().filter(|id| id.as_u128() % 2 == 0);
            async { Ok(found.map(|id| (id, id.as_u128() * 10)).collect()) }.boxed()
        });
        let answers = join_all((0..1000).map(|n| lookup.get(id(n % 100)))).await;
        for (n, answer) in (0..1000).zip(answers) {
            let n = n % 100;
            assert_eq!(answer.unwrap(), (n % 2 == 0).then_some(n * 10));
        }
        let asked = ASKED.lock().unwrap();
        assert!(asked.len() <= 4 && asked.iter().all(|count| *count <= 100), "{asked:?}");
    }

    #[tokio::test]
    async fn where_a_statement_fails_everybody_asks_alone() {
        let lookup = Lookup::start(nowhere(), |_, ids| {
            let poisoned = ids.contains(&id(3));
            async move {
                if poisoned {
                    return Err(sqlx::Error::WorkerCrashed.into());
                }
                Ok(ids.into_iter().map(|id| (id, ())).collect())
            }
            .boxed()
        });
        let answers = join_all((0..5).map(|n| lookup.get(id(n)))).await;
        let failed: Vec<bool> = answers.iter().map(Result::is_err).collect();
        assert_eq!(failed, [false, false, false, true, false]);
    }

    #[tokio::test]
    async fn a_slow_statement_does_not_hold_up_those_who_come_after_it() {
        static GO_ON: Notify = Notify::const_new();
        let lookup = Lookup::start(nowhere(), |_, ids| {
            async move {
                if ids.contains(&id(0)) {
                    GO_ON.notified().await;
                }
                Ok(ids.into_iter().map(|id| (id, ())).collect())
            }
            .boxed()
        });
        let slow = lookup.get(id(0));
        let after = async {
            // By now the first statement is under way.
            yield_now().await;
            yield_now().await;
            let after = lookup.get(id(1)).await;
            GO_ON.notify_one();
            after
        };
        let (slow, after) = tokio::join!(slow, after);
        assert_eq!((slow.unwrap(), after.unwrap()), (Some(()), Some(())));
    }
}
