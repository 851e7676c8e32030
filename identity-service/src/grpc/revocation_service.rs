//! RevocationService: which tokens to refuse before they expire.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rowlock_proto::identity::v1::revocation_service_server::RevocationService;
use rowlock_proto::identity::v1::watch_revocations_response::Update;
use rowlock_proto::identity::v1::{
    RevocationHeartbeat, RevocationSnapshot, WatchRevocationsRequest, WatchRevocationsResponse,
};
use service_core::auth::principal;
use service_core::clock::Clock;
use service_core::stream_end::StreamEnd;
use service_core::validation::timestamp;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::convert;
use super::error::{ended, no_principal};
use crate::revocations::RevocationFeed;
use crate::store::StoredRevocation;

/// How many revocations one message of a snapshot holds at most.
const PART: usize = 10_000;
/// How often a stream says that it is complete; a little less than the second that is promised.
const HEARTBEAT: Duration = Duration::from_millis(900);

/// What the streams work with.
#[derive(Clone)]
pub struct Revocations {
    /// Revocations as they become known.
    pub feed: Arc<RevocationFeed>,
    /// Tells when tokens end.
    pub clock: Arc<dyn Clock>,
    /// Cancelled when this replica begins to go away.
    pub draining: CancellationToken,
}

pub(super) struct RevocationRpcs(pub(super) Revocations);

type Message = Result<WatchRevocationsResponse, Status>;

#[tonic::async_trait]
impl RevocationService for RevocationRpcs {
    type WatchRevocationsStream = Pin<Box<dyn Stream<Item = Message> + Send>>;

    async fn watch_revocations(
        &self,
        request: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let Revocations { feed, clock, draining } = self.0.clone();
        let caller = principal(&request).map_err(no_principal)?;
        let end = StreamEnd::new(caller, clock.as_ref(), feed.known(), draining);
        let (messages, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let why = tokio::select! {
                why = end.reached() => why,
                _client_is_gone = tell(&feed, &messages) => return,
            };
            // If the client went away, nobody misses it.
            let _ = messages.send(Err(ended(why))).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Tells the snapshot, and then what follows, for as long as the client is there.
async fn tell(feed: &RevocationFeed, messages: &mpsc::Sender<Message>) -> Option<Infallible> {
    let say = async |update| messages.send(Ok(WatchRevocationsResponse { update: Some(update) })).await.ok();
    let mut complete_to = feed.complete_to();
    // Not what was known before: a replica that cannot look any more must not vouch for it to everybody who asks.
    looked(&mut complete_to, messages).await?;
    let as_of = (*complete_to.borrow_and_update())?;
    let (revocations, mut told) = feed.after(0);
    for part in snapshot(&revocations, as_of) {
        say(Update::Snapshot(part)).await?;
    }
    drop(revocations);
    let mut heartbeat_due = Instant::now() + HEARTBEAT;
    loop {
        looked(&mut complete_to, messages).await?;
        let as_of = (*complete_to.borrow_and_update())?;
        let (news, count) = feed.after(told);
        told = count;
        for revocation in &news {
            say(Update::Revocation(convert::revocation(revocation))).await?;
        }
        if Instant::now() >= heartbeat_due {
            heartbeat_due = Instant::now() + HEARTBEAT;
            say(Update::Heartbeat(RevocationHeartbeat { as_of_time: Some(timestamp(as_of)) })).await?;
        }
    }
}

/// The next look; `None` if the client goes away first.
async fn looked(
    complete_to: &mut watch::Receiver<Option<OffsetDateTime>>,
    messages: &mpsc::Sender<Message>,
) -> Option<()> {
    tokio::select! {
        changed = complete_to.changed() => changed.ok(),
        () = messages.closed() => None,
    }
}

/// Everything in parts, of which the last, which may be empty, says so.
fn snapshot(revocations: &[StoredRevocation], as_of: OffsetDateTime) -> Vec<RevocationSnapshot> {
    let part = |part: &[StoredRevocation]| RevocationSnapshot {
        revocations: part.iter().map(convert::revocation).collect(),
        ..RevocationSnapshot::default()
    };
    let mut parts: Vec<_> = revocations.chunks(PART).map(part).collect();
    let last = RevocationSnapshot {
        complete: true,
        as_of_time: Some(timestamp(as_of)),
        ..parts.pop().unwrap_or_default()
    };
    parts.push(last);
    parts
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{Revocation, RevokedTokens};

    #[test]
    fn a_snapshot_has_parts_of_which_the_last_alone_says_that_it_is_complete() {
        let now = datetime!(2026-01-01 12:00 UTC);
        let stored = |id| StoredRevocation {
            id,
            revocation: Revocation { user_id: Uuid::nil(), tokens: RevokedTokens::BelowVersion(id) },
            revoke_time: now,
            expire_time: now,
        };
        let all: Vec<_> = (0..25_000).map(stored).collect();
        for (count, parts) in
            [(0, vec![0]), (1, vec![1]), (10_000, vec![10_000]), (25_000, vec![10_000, 10_000, 5_000])]
        {
            let snapshot = snapshot(&all[..count], now);
            assert_eq!(snapshot.iter().map(|part| part.revocations.len()).collect::<Vec<_>>(), parts);
            for (index, part) in snapshot.iter().enumerate() {
                let last = index + 1 == parts.len();
                assert_eq!((part.complete, part.as_of_time.is_some()), (last, last));
            }
        }
    }
}
