//! The crowd: everybody asks once, all at the same moment, and nobody takes "perhaps" for an answer.

use std::sync::Arc;
use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::register_response::Outcome;
use rowlock_proto::booking::v1::registration_service_client::RegistrationServiceClient;
use service_core::ids::IdSource;
use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::screen::Screen;
use super::{Bearer, authorized};

/// How often somebody asks again, with the same request id, when the answer says to.
const TRIES: u32 = 5;
/// The pause before the second try; doubled before each further one.
const PAUSE: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(30);
/// How often the progress is drawn.
const FRAME: Duration = Duration::from_millis(50);

pub(super) struct Crowd {
    pub(super) users: u32,
    pub(super) event_id: String,
    pub(super) token: Bearer,
    pub(super) channels: Vec<Channel>,
    pub(super) ids: Arc<dyn IdSource>,
}

/// What everybody got.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) users: u32,
    pub(super) confirmed: u32,
    pub(super) waitlisted: u32,
    pub(super) failed: u32,
    /// One failure, as an example.
    pub(super) failure: Option<String>,
    /// From the first call to the last answer.
    pub(super) elapsed: Duration,
    /// Sorted.
    pub(super) latencies: Vec<Duration>,
}

impl Tally {
    pub(super) fn answered(&self) -> u32 {
        self.confirmed + self.waitlisted + self.failed
    }

    /// Exactly as many as there are seats have one, and everybody else waits.
    pub(super) fn check(&self, seats: u32) -> anyhow::Result<()> {
        let seated = seats.min(self.users);
        let right = self.confirmed == seated && self.waitlisted == self.users - seated && self.failed == 0;
        anyhow::ensure!(
            right,
            "expected {seated} confirmed and {} in the queue, got {self:?}",
            self.users - seated
        );
        Ok(())
    }
}

type Answer = (Result<Outcome, Status>, Duration);

impl Crowd {
    /// Everybody registers.
    pub(super) async fn rush(&self, screen: &mut Screen) -> anyhow::Result<Tally> {
        let (answers, mut inbox) = mpsc::unbounded_channel::<Answer>();
        let gate = Arc::new(Barrier::new(usize::try_from(self.users)? + 1));
        let mut people = JoinSet::new();
        for channel in self.channels.iter().cycle().take(usize::try_from(self.users)?) {
            let (client, gate, answers) =
                (RegistrationServiceClient::new(channel.clone()), Arc::clone(&gate), answers.clone());
            let request = pb::RegisterRequest {
                event_id: self.event_id.clone(),
                user_id: self.ids.new_id().to_string(),
                request_id: self.ids.new_id().to_string(),
                when_full: pb::WhenFull::JoinWaitlist.into(),
                ..pb::RegisterRequest::default()
            };
            let token = self.token.clone();
            people.spawn(async move {
                gate.wait().await;
                let asked = Instant::now();
                let answer = register(client, request, &token).await;
                // The rush may have been given up.
                let _ = answers.send((answer, asked.elapsed()));
            });
        }
        drop(answers);

        gate.wait().await;
        let began = Instant::now();
        let mut tally = Tally { users: self.users, ..Tally::default() };
        let mut frames = tokio::time::interval(FRAME);
        loop {
            tokio::select! {
                answer = inbox.recv() => match answer {
                    Some((answer, latency)) => tally.add(answer, latency),
                    None => break,
                },
                _ = frames.tick() => {
                    tally.elapsed = began.elapsed();
                    screen.progress(&tally)?;
                }
            }
        }
        tally.elapsed = began.elapsed();
        tally.latencies.sort_unstable();
        screen.progress(&tally)?;
        Ok(tally)
    }
}

impl Tally {
    fn add(&mut self, answer: Result<Outcome, Status>, latency: Duration) {
        self.latencies.push(latency);
        match answer {
            Ok(Outcome::Registration(_)) => self.confirmed += 1,
            Ok(Outcome::WaitlistEntry(_)) => self.waitlisted += 1,
            Err(status) => {
                self.failed += 1;
                self.failure = Some(format!("{}: {}", status.code(), status.message()));
            }
        }
    }
}

/// Asks until there is a definite answer. The request id makes asking again safe: it is the same seat, not another one.
async fn register(
    mut client: RegistrationServiceClient<Channel>,
    request: pb::RegisterRequest,
    token: &Bearer,
) -> Result<Outcome, Status> {
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match once(&mut client, request.clone(), token).await {
            Err(status) if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) => {
                sleep(pause).await;
                pause *= 2;
            }
            answer => return answer,
        }
    }
    once(&mut client, request, token).await
}

async fn once(
    client: &mut RegistrationServiceClient<Channel>,
    request: pb::RegisterRequest,
    token: &Bearer,
) -> Result<Outcome, Status> {
    let mut request = authorized(request, token);
    request.set_timeout(DEADLINE);
    let response = client.register(request).await?.into_inner();
    response.outcome.ok_or_else(|| Status::internal("Register answered without an outcome"))
}
