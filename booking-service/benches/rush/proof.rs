//! The proof at the end of every round: not one seat too many, not one too few.

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::iter;
use rowlock_proto::booking::v1 as pb;
use sqlx::PgPool;

use crate::bench::Host;

/// VerifyEvents at once.
const AT_ONCE: usize = 8;

/// What the answers say there has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Books {
    /// Active registrations, of one seat each.
    pub(crate) seated: u64,
    /// Entries that wait.
    pub(crate) waiting: u64,
}

/// Counts the events' rows in two ways: the service by VerifyEvent, and this by SQL.
///
/// # Errors
/// If anything is not exactly as `expected`.
pub(crate) async fn prove(
    host: &Host,
    pool: &PgPool,
    events: &[String],
    expected: Books,
) -> anyhow::Result<()> {
    let verified = iter(events).map(|event_id| host.verify(event_id)).buffer_unordered(AT_ONCE);
    let verified: Vec<anyhow::Result<pb::VerifyEventResponse>> = verified.collect().await;
    let mut books = Books { seated: 0, waiting: 0 };
    for proof in verified {
        let proof = proof.context("VerifyEvent failed")?;
        anyhow::ensure!(proof.consistent, "WRONG: an event is not consistent: {:?}", proof.findings);
        books.seated += u64::try_from(proof.seats_confirmed)?;
        books.waiting += u64::try_from(proof.waiting_entries)?;
    }
    anyhow::ensure!(books == expected, "WRONG: VerifyEvent counts {books:?}, the answers were {expected:?}");

    let (seated, sold, oversold, waiting): (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM registrations WHERE event_id = ANY($1::text[]::uuid[]) AND state = 'CONFIRMED'),
                (SELECT sum(capacity - seats_remaining) FROM events WHERE id = ANY($1::text[]::uuid[])),
                (SELECT count(*) FROM events e WHERE id = ANY($1::text[]::uuid[]) AND capacity - seats_remaining <>
                    (SELECT COALESCE(sum(seats), 0) FROM registrations r WHERE r.event_id = e.id AND r.state = 'CONFIRMED')),
                (SELECT count(*) FROM waitlist_entries WHERE event_id = ANY($1::text[]::uuid[]) AND state = 'WAITING')",
    )
    .bind(events)
    .fetch_one(pool)
    .await?;
    let (counted, sold) =
        (Books { seated: u64::try_from(seated)?, waiting: u64::try_from(waiting)? }, u64::try_from(sold)?);
    anyhow::ensure!(
        counted == expected && sold == expected.seated && oversold == 0,
        "WRONG: SQL counts {counted:?} and {sold} seats sold, the answers were {expected:?}; {oversold} events differ"
    );
    Ok(())
}
