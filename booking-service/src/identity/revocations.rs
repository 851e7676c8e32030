//! Following identity-service's revocations: one stream per replica, opened again whenever it ends.
//!
//! What is known stays known while there is no stream, and the snapshot of the next one brings what was missed. So a short
//! outage of identity delays revocations and does nothing else; how long one may last before it counts is configured.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use rowlock_proto::identity::v1 as pb;
use rowlock_proto::identity::v1::revocation_service_client::RevocationServiceClient;
use rowlock_proto::identity::v1::watch_revocations_response::Update;
use service_core::clock::Clock;
use service_core::lifecycle::ReadinessHandle;
use service_core::status::reason;
use service_core::token::{KnownRevocation, KnownRevocations, RevocationTarget};
use service_core::upstream::Upstream;
use time::OffsetDateTime;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::ServiceAccount;
use super::service_account::ServiceToken;
use crate::config::{RevocationConfig, WhenStale};

/// identity says something every second. Whoever says nothing for so long is gone, whatever the connection looks like.
const SILENCE: Duration = Duration::from_secs(3);
/// Pauses after failures: the first, doubled up to the longest. A stream that ended in good order is opened again at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked how old the knowledge is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often expired revocations are forgotten, in looks.
const FORGET_EVERY: u32 = 40;

/// Keeps what is known of revocations up to date.
pub struct RevocationWatch {
    /// identity-service.
    pub identity: Upstream,
    /// As whom to ask, and what to do when there is no answer.
    pub config: RevocationConfig,
    /// What is known.
    pub known: Arc<KnownRevocations>,
    /// Tells when revocations and tokens expire.
    pub clock: Arc<dyn Clock>,
    /// Readiness check `revocations`.
    pub check: ReadinessHandle,
}

/// When identity-service last vouched that everything is known.
#[derive(Default)]
struct Heard(Mutex<Option<Instant>>);

impl Heard {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("{} ({:?})", .0.message(), .0.code())]
    Refused(#[from] Status),
    #[error("it fell silent")]
    Silent,
    #[error("it said something that cannot be understood: {0}")]
    Garbled(&'static str),
}

impl Over {
    /// For metrics.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Refused(_) if self.in_good_order() => "ended",
            Self::Refused(status) => match status.code() {
                Code::Unauthenticated | Code::PermissionDenied => "refused",
                _ => "failed",
            },
            Self::Silent => "silent",
            Self::Garbled(_) => "garbled",
        }
    }

    fn is_unauthenticated(&self) -> bool {
        matches!(self, Self::Refused(status) if [Code::Unauthenticated, Code::PermissionDenied].contains(&status.code()))
    }

    /// Every stream ends with its token or its replica.
    fn in_good_order(&self) -> bool {
        let Self::Refused(status) = self else { return false };
        let info = status.get_details_error_info();
        info.is_some_and(|info| {
            [reason::TOKEN_EXPIRED, reason::SHUTTING_DOWN].contains(&info.reason.as_str())
        })
    }
}

impl RevocationWatch {
    /// Follows until `stop`. Without a service account there is nothing to follow: revoked tokens are good until they
    /// expire, and the readiness says so.
    pub async fn run(self, stop: CancellationToken) {
        let Some(account) = &self.config.account else {
            metrics::gauge!("revocations_stream_up").set(0);
            self.check
                .set_degraded("no service account is given: a revoked access token is good until it expires");
            return;
        };
        let heard = Heard::default();
        let follow = async { tokio::join!(self.follow(account, &heard), self.look_after(&heard)) };
        stop.run_until_cancelled(follow).await;
    }

    /// Opens one stream after the other.
    async fn follow(&self, account: &ServiceAccount, heard: &Heard) {
        let mut token = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let before = heard.last();
            let Err(over) = self.stream(account, &mut token, heard).await;
            metrics::gauge!("revocations_stream_up").set(0);
            metrics::counter!("revocations_streams_total", "outcome" => over.outcome()).increment(1);
            if over.is_unauthenticated() {
                // Expired, too: by this clock, which may have gone back, it may seem fresh for hours.
                token = None;
            }
            let worked = heard.last() != before;
            if over.in_good_order() {
                tracing::debug!(%over, "the stream of revocations ended");
            } else if worked || before.is_none() && pause == FIRST_PAUSE {
                tracing::warn!(%over, "there is no stream of revocations; it is tried again");
            } else {
                tracing::debug!(%over, "there is no stream of revocations still");
            }
            if worked {
                pause = FIRST_PAUSE;
                if over.in_good_order() {
                    continue;
                }
            }
            // Bound first: the generator is not `Send` and must not live across the await.
            let wait = rand::rng().random_range(pause / 2..=pause);
            sleep(wait).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Follows one stream to its end. Each has a connection of its own: an old one may be dead and not know it.
    async fn stream(
        &self,
        account: &ServiceAccount,
        token: &mut Option<ServiceToken>,
        heard: &Heard,
    ) -> Result<std::convert::Infallible, Over> {
        let channel = self.identity.traced_channel();
        let now = self.clock.now();
        let token = match token.take().filter(|token| token.is_fresh(now)) {
            Some(fresh) => token.insert(fresh),
            None => token.insert(in_time(account.sign_in(channel.clone(), now)).await?),
        };
        let mut client = RevocationServiceClient::new(channel);
        let open = client.watch_revocations(token.sign(pb::WatchRevocationsRequest {}));
        let mut stream = in_time(open).await?.into_inner();
        let mut complete = false;
        loop {
            let message = in_time(stream.message()).await?.ok_or(Over::Garbled("an end without a status"))?;
            match message.update.ok_or(Over::Garbled("an empty message"))? {
                Update::Snapshot(part) => {
                    self.add(part.revocations)?;
                    complete |= part.complete;
                }
                Update::Revocation(revocation) => self.add([revocation])?,
                Update::Heartbeat(_) if complete => {}
                Update::Heartbeat(_) => {
                    return Err(Over::Garbled("a heartbeat before the end of the snapshot"));
                }
            }
            if complete {
                heard.now();
                metrics::gauge!("revocations_stream_up").set(1);
            }
        }
    }

    fn add(&self, revocations: impl IntoIterator<Item = pb::Revocation>) -> Result<(), Over> {
        let known: Result<Vec<_>, _> = revocations.into_iter().map(understood).collect();
        self.known.add(known?);
        Ok(())
    }

    /// Looks how old the knowledge is, and draws the consequences.
    async fn look_after(&self, heard: &Heard) {
        let began = Instant::now();
        let mut looks = interval(LOOK_EVERY);
        let mut forget_in = FORGET_EVERY;
        loop {
            looks.tick().await;
            let last = heard.last();
            let age = last.unwrap_or(began).elapsed();
            self.judge(last.is_some(), age > self.config.max_age);
            metrics::gauge!("revocations_age_seconds").set(age.as_secs_f64());
            forget_in -= 1;
            if forget_in == 0 {
                self.known.forget_expired(self.clock.now());
                forget_in = FORGET_EVERY;
            }
            metrics::gauge!("revocations_known").set(u32::try_from(self.known.len()).unwrap_or(u32::MAX));
        }
    }

    fn judge(&self, ever_heard: bool, stale: bool) {
        let refuse = self.config.when_stale == WhenStale::Refuse;
        self.known.distrust(refuse && (stale || !ever_heard));
        match (ever_heard, stale) {
            (true, false) => self.check.set_ready(),
            // A new replica takes no calls before it knows what the others know.
            (false, false) => self.check.set_unready("identity-service has not told its revocations yet"),
            (_, true) if refuse => self.check.set_unready("revocations are not known: calls are refused"),
            (_, true) => {
                self.check.set_degraded("revocations are not known: a revoked access token may pass");
            }
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Over> {
    Ok(timeout(SILENCE, answer).await.map_err(|_| Over::Silent)??)
}

fn understood(revocation: pb::Revocation) -> Result<KnownRevocation, Over> {
    let uuid = |text: &str| Uuid::try_parse(text).map_err(|_| Over::Garbled("an id that is none"));
    let target = match revocation.target.ok_or(Over::Garbled("a revocation of nothing that is known here"))? {
        pb::revocation::Target::SessionId(id) => RevocationTarget::Session(uuid(&id)?),
        pb::revocation::Target::User(user) => RevocationTarget::User {
            user_id: uuid(&user.user_id)?,
            minimum_session_version: user.minimum_session_version,
        },
    };
    let expires = revocation.expire_time.ok_or(Over::Garbled("a revocation without expire_time"))?;
    // Up to the next second: never forgotten too early.
    let expire_time = OffsetDateTime::from_unix_timestamp(expires.seconds.saturating_add(1))
        .map_err(|_| Over::Garbled("a time that is none"))?;
    Ok(KnownRevocation { target, expire_time })
}
