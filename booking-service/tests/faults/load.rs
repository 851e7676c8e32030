//! A crowd of clients that ask, queue, change their minds, and keep books.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::register_response::Outcome;
use service_core::auth::Role;
use service_core::test_support::TokenMint;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Status};
use uuid::Uuid;

use crate::acts::update;
use crate::caller::Caller;
use crate::journal::{Answer, Ask, Journal, LONG_HOLD, Made, Move};
use crate::policy::RetryPolicy;
use crate::stage::long_token;
use crate::system::PATIENCE;

/// How long clients go on asking for an answer that they did not get.
const REPLAY: Duration = Duration::from_secs(60);

/// How the crowd behaves.
#[derive(Clone)]
pub(crate) struct Crowd {
    pub(crate) events: Vec<pb::Event>,
    /// Ways to the service; each call takes one at random.
    pub(crate) front: Vec<Channel>,
    pub(crate) mint: Arc<TokenMint>,
    /// People who act at the same time.
    pub(crate) people: usize,
    /// The longest pause of each between two calls.
    pub(crate) pause: Duration,
    pub(crate) deadline: Duration,
    /// Repeats what fails, as it is shipped with the contract.
    pub(crate) policy: Option<RetryPolicy>,
    /// Whether people hang up before their deadline, ask the same again at once, and do nothing with what they get.
    pub(crate) hurried: bool,
    /// Calls for seats that were begun, and that were answered for good.
    pub(crate) begun: Arc<AtomicUsize>,
    pub(crate) answered: Arc<AtomicUsize>,
}

pub(crate) struct Load {
    pub(crate) journal: Arc<Journal>,
    pub(crate) crowd: Crowd,
    stop: CancellationToken,
    people: JoinSet<()>,
    began: Instant,
}

impl Load {
    /// A crowd, and an organizer who changes capacities meanwhile.
    pub(crate) fn start(crowd: Crowd) -> Self {
        let mut load = Self::with_journal(crowd, Arc::new(Journal::default()));
        load.people.spawn(organize(load.crowd.clone(), Arc::clone(&load.journal), load.stop.clone()));
        load
    }

    /// One more crowd, with the same books.
    pub(crate) fn with_journal(crowd: Crowd, journal: Arc<Journal>) -> Self {
        let stop = CancellationToken::new();
        let mut people = JoinSet::new();
        for seed in 0..crowd.people {
            let life = Life {
                crowd: crowd.clone(),
                journal: Arc::clone(&journal),
                stop: stop.clone(),
                dice: SmallRng::seed_from_u64(seed as u64),
            };
            people.spawn(life.live());
        }
        Self { journal, crowd, stop, people, began: Instant::now() }
    }

    /// Lets everybody finish what they do. Gives the time that they were at it.
    pub(crate) async fn end(&mut self) -> Duration {
        self.stop.cancel();
        while let Some(ended) = self.people.join_next().await {
            ended.unwrap();
        }
        self.began.elapsed()
    }

    /// Repeats what has no answer, with the same request ids, until it has. Gives how many there were.
    pub(crate) async fn replay(&self) -> usize {
        let asks = self.journal.asks();
        let asks = asks.into_iter().enumerate().filter(|(_, (_, answer))| answer.is_unknown());
        let moves = self.journal.moves();
        let moves = moves.into_iter().enumerate().filter(|(_, (.., answer))| answer.is_unknown());
        let until = Instant::now() + REPLAY;
        let calm = Crowd { deadline: PATIENCE, hurried: false, ..self.crowd.clone() };
        let places = Arc::new(tokio::sync::Semaphore::new(32));
        let (mut tasks, mut count) = (JoinSet::new(), 0);
        for (line, (ask, _)) in asks {
            count += 1;
            let (crowd, journal, places) = (calm.clone(), Arc::clone(&self.journal), Arc::clone(&places));
            tasks.spawn(async move {
                let _place = places.acquire_owned().await.unwrap();
                let person = crowd.somebody(ask.user);
                loop {
                    let answer = person.ask(&crowd, ask).await;
                    journal.answered(line, &answer);
                    if answer.trouble().is_none() || Instant::now() > until {
                        break;
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            });
        }
        for (line, (user, action, made, _)) in moves {
            count += 1;
            let (crowd, journal, places) = (calm.clone(), Arc::clone(&self.journal), Arc::clone(&places));
            tasks.spawn(async move {
                let _place = places.acquire_owned().await.unwrap();
                let person = crowd.somebody(user);
                loop {
                    let answer = person.make_move(&crowd, &journal, action, &made).await;
                    journal.moved(line, &answer);
                    if answer.trouble().is_none() || Instant::now() > until {
                        break;
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        count
    }
}

/// Makes events larger and smaller again, now and then. What becomes of a call does not matter to anybody's books: the log
/// tells.
async fn organize(crowd: Crowd, journal: Arc<Journal>, stop: CancellationToken) {
    let id = Uuid::from_u128(rand::random());
    let token = long_token(&crowd.mint, id, Role::Admin);
    let pause = || sleep(rand::random_range(Duration::from_millis(100)..Duration::from_millis(500)));
    while stop.run_until_cancelled(pause()).await.is_some() {
        let event = &crowd.events[rand::random_range(0..crowd.events.len())];
        let way = crowd.front[rand::random_range(0..crowd.front.len())].clone();
        let capacity = event.capacity + rand::random_range(0..=event.capacity.min(200) / 5);
        let change = Caller::new(id, &token, way).set_capacity_by(crowd.deadline, event, capacity).await;
        match change.map_err(|status| Answer::failed(&status)) {
            Err(Answer::Refused(reason)) if reason == "CAPACITY_BELOW_TAKEN" => {}
            Err(answer) if answer.trouble() == Some("INTERNAL_ERROR") => journal.heard(&answer),
            Err(answer) if answer.trouble().is_none() => {
                journal.wrong(format!("a capacity of {capacity} is refused: {answer:?}"));
            }
            Ok(()) | Err(_) => {}
        }
    }
}

impl Caller {
    async fn set_capacity_by(
        &self,
        deadline: Duration,
        event: &pb::Event,
        capacity: i32,
    ) -> Result<(), Status> {
        let event = pb::Event { event_id: event.event_id.clone(), capacity, ..pb::Event::default() };
        self.events().update_event(timed(deadline, update(event, &["capacity"]))).await.map(drop)
    }
}

impl Crowd {
    /// People who come by these ways one after the other, and repeat nothing.
    pub(crate) fn of(events: Vec<pb::Event>, front: Vec<Channel>, mint: Arc<TokenMint>) -> Self {
        Self {
            events,
            front,
            mint,
            people: 32,
            pause: Duration::from_millis(40),
            deadline: Duration::from_secs(5),
            policy: None,
            hurried: false,
            begun: Arc::default(),
            answered: Arc::default(),
        }
    }

    pub(crate) fn somebody(&self, user: Uuid) -> Person {
        let token = long_token(&self.mint, user, Role::Attendee);
        Person::new(self, Caller::new(user, &token, self.front[0].clone()))
    }
}

fn timed<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// Somebody with a token.
pub(crate) struct Person {
    front: Vec<Channel>,
    first: Caller,
}

impl Person {
    pub(crate) fn new(crowd: &Crowd, first: Caller) -> Self {
        Self { front: crowd.front.clone(), first }
    }

    fn caller(&self) -> Caller {
        let way = rand::random_range(0..self.front.len());
        Caller { channel: self.front[way].clone(), ..self.first.clone() }
    }

    async fn call<T, F>(&self, crowd: &Crowd, call: impl Fn(Caller) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let Some(policy) = &crowd.policy else { return call(self.caller()).await };
        let mut longest = policy.initial_backoff;
        for _ in 1..policy.max_attempts {
            match call(self.caller()).await {
                Err(status) if policy.repeats(&status) => {
                    sleep(rand::random_range(Duration::ZERO..longest)).await;
                    longest = longest.mul_f64(policy.multiplier).min(policy.max_backoff);
                }
                answer => return answer,
            }
        }
        call(self.caller()).await
    }

    pub(crate) async fn ask(&self, crowd: &Crowd, ask: Ask) -> Answer {
        let hold = |seconds| prost_types::Duration { seconds, nanos: 0 };
        let when_full = if ask.queue { pb::WhenFull::JoinWaitlist } else { pb::WhenFull::Reject };
        let request = pb::RegisterRequest {
            event_id: ask.event.to_string(),
            request_id: ask.request_id.to_string(),
            seats: Some(ask.seats),
            hold_duration: ask.hold.map(hold),
            when_full: when_full.into(),
            ..pb::RegisterRequest::default()
        };
        let deadline = crowd.deadline;
        let call = |caller: Caller| {
            let request = timed(deadline, request.clone());
            async move { caller.registrations().register(request).await.map(tonic::Response::into_inner) }
        };
        match self.call(crowd, call).await {
            Ok(answer) => Answer::Made(match answer.outcome.unwrap() {
                Outcome::Registration(row) => Made::registration(&row),
                Outcome::WaitlistEntry(row) => Made::entry(&row),
            }),
            Err(status) => Answer::failed(&status),
        }
    }

    pub(crate) async fn make_move(
        &self,
        crowd: &Crowd,
        journal: &Journal,
        action: Move,
        made: &Made,
    ) -> Answer {
        let (id, deadline) = (made.id.to_string(), crowd.deadline);
        let call = |caller: Caller| one_move(caller, action, id.clone(), deadline);
        match self.call(crowd, call).await {
            // An accepted offer has become a registration.
            Ok(row) if action == Move::Accept => {
                journal.accepted(self.first.id, row);
                Answer::Made(Made { state: "ACCEPTED", ..made.clone() })
            }
            Ok(row) => Answer::Made(row),
            Err(status) => Answer::failed(&status),
        }
    }

    /// How the entry is now, if that can be learned.
    async fn look(&self, crowd: &Crowd, journal: &Journal, made: &Made) -> Option<Made> {
        let (entry_id, deadline) = (made.id.to_string(), crowd.deadline);
        let call = |caller: Caller| {
            let request = timed(deadline, pb::GetWaitlistEntryRequest { entry_id: entry_id.clone() });
            async move { caller.waitlists().get_waitlist_entry(request).await.map(tonic::Response::into_inner) }
        };
        match self.call(crowd, call).await {
            Ok(answer) => answer.entry.as_ref().map(Made::entry),
            Err(status) => {
                let answer = Answer::failed(&status);
                if answer.trouble().is_none() {
                    journal.wrong(format!("{made:?} is there, and a look at it is {answer:?}"));
                }
                journal.heard(&answer);
                None
            }
        }
    }
}

/// What is there after the move.
async fn one_move(caller: Caller, action: Move, id: String, deadline: Duration) -> Result<Made, Status> {
    let (mut registrations, mut waitlists) = (caller.registrations(), caller.waitlists());
    let (registration_id, entry_id) = (id.clone(), id);
    let registration = match action {
        Move::Confirm => {
            let request = timed(deadline, pb::ConfirmRegistrationRequest { registration_id });
            registrations.confirm_registration(request).await?.into_inner().registration
        }
        Move::Cancel => {
            let request = timed(deadline, pb::CancelRegistrationRequest { registration_id });
            registrations.cancel_registration(request).await?.into_inner().registration
        }
        Move::Accept => {
            let request = timed(deadline, pb::AcceptOfferRequest { entry_id });
            waitlists.accept_offer(request).await?.into_inner().registration
        }
        Move::Leave => {
            let request = timed(deadline, pb::LeaveWaitlistRequest { entry_id });
            let entry = waitlists.leave_waitlist(request).await?.into_inner().entry.unwrap();
            return Ok(Made::entry(&entry));
        }
        Move::Decline => {
            let request = timed(deadline, pb::DeclineOfferRequest { entry_id });
            let entry = waitlists.decline_offer(request).await?.into_inner().entry.unwrap();
            return Ok(Made::entry(&entry));
        }
    };
    Ok(Made::registration(&registration.unwrap()))
}

/// One place in the crowd: one person after the other.
struct Life {
    crowd: Crowd,
    journal: Arc<Journal>,
    stop: CancellationToken,
    dice: SmallRng,
}

impl Life {
    async fn live(mut self) {
        while !self.stop.is_cancelled() {
            let user = Uuid::from_u128(rand::random());
            let person = self.crowd.somebody(user);
            // Who gets what they want gives it back now and then, and asks anew.
            while let Some(made) = self.ask(&person, user).await {
                if !self.change_mind(&person, user, made).await || self.stop.is_cancelled() {
                    break;
                }
            }
        }
    }

    async fn rest(&mut self) {
        let pause = self.dice.random_range(Duration::ZERO..=self.crowd.pause);
        sleep(pause).await;
    }

    async fn ask(&mut self, person: &Person, user: Uuid) -> Option<Made> {
        self.rest().await;
        let event = &self.crowd.events[self.dice.random_range(0..self.crowd.events.len())];
        let largest = event.max_seats_per_registration.unwrap_or(1).max(1);
        let ask = Ask {
            event: crate::proof::id(&event.event_id),
            user,
            request_id: Uuid::from_u128(rand::random()),
            seats: self.dice.random_range(1..=largest),
            hold: match self.dice.random_range(0..20) {
                0 => Some(1),
                1..4 => Some(LONG_HOLD * 6),
                _ => None,
            },
            queue: self.dice.random_bool(0.6),
        };
        let line = self.journal.ask(ask);
        let mut left = if self.crowd.hurried { 20 } else { 1 };
        let answer = loop {
            self.crowd.begun.fetch_add(1, Ordering::Relaxed);
            let patience = if self.crowd.hurried {
                self.dice.random_range(Duration::ZERO..=self.crowd.deadline)
            } else {
                PATIENCE
            };
            let answer = match timeout(patience, person.ask(&self.crowd, ask)).await {
                Ok(answer) => answer,
                Err(_) => Answer::Unknown("hung up".to_owned()),
            };
            self.journal.answered(line, &answer);
            left -= 1;
            if !answer.is_unknown() || left == 0 || self.stop.is_cancelled() {
                break answer;
            }
        };
        if !answer.is_unknown() {
            self.crowd.answered.fetch_add(1, Ordering::Relaxed);
        }
        let Answer::Made(made) = answer else { return None };
        if self.crowd.hurried {
            return None;
        }
        // As clients do that lost the answer, at whatever replica.
        if self.dice.random_bool(0.1) {
            let answer = person.ask(&self.crowd, ask).await;
            self.journal.heard(&answer);
            let is_same = match &answer {
                Answer::Made(repeated) => {
                    (repeated.id, repeated.entry, repeated.seats) == (made.id, made.entry, made.seats)
                }
                // Not begun, or not answered: that says nothing.
                other => other.trouble().is_some(),
            };
            if !is_same {
                self.journal.wrong(format!("{ask:?} was answered with {made:?} and with {answer:?}"));
            }
        }
        Some(made)
    }

    /// Whether they have nothing any more, and know it.
    async fn change_mind(&mut self, person: &Person, user: Uuid, made: Made) -> bool {
        self.rest().await;
        let action = match made.state {
            "HELD" if self.dice.random_bool(0.5) => Move::Confirm,
            "HELD" | "CONFIRMED" if self.dice.random_bool(0.4) => Move::Cancel,
            "WAITING" | "OFFERED" => {
                match person.look(&self.crowd, &self.journal, &made).await.map(|seen| seen.state) {
                    Some("OFFERED") if self.dice.random_bool(0.6) => Move::Accept,
                    Some("OFFERED") => Move::Decline,
                    Some("WAITING") if self.dice.random_bool(0.2) => Move::Leave,
                    _ => return false,
                }
            }
            _ => return false,
        };
        let line = self.journal.make_move(user, action, &made);
        let answer = person.make_move(&self.crowd, &self.journal, action, &made).await;
        self.journal.moved(line, &answer);
        matches!(answer, Answer::Made(_)) && !matches!(action, Move::Confirm | Move::Accept)
    }
}
