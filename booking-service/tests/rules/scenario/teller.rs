//! What happens next: a step read from a number, against the model as it stands.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use booking_service::domain::command::{
    Action, Actor, ActorRole, Command, EventPatch, Join, Register, RequestKey, WhenFull,
};
use booking_service::domain::event::{QueueDiscipline, WaitlistPolicy};
use booking_service::domain::registration::{Labels, RegistrationState};
use booking_service::domain::waitlist::EntryState;
use time::OffsetDateTime;
use uuid::Uuid;

use super::dice::Dice;
use super::{Bustle, Step};
use crate::model::Model;
use crate::snapshot::Answer;
use crate::world::{ADMIN, NOTHING, OWNER, RIVAL, SERVICE, attendee, seconds};

/// Tells one step after the other, and lets the model play it.
pub(super) struct Teller {
    pub(super) bustle: Bustle,
    pub(super) model: Model,
    pub(super) event_ids: Vec<Uuid>,
    pub(super) steps: Vec<Step>,
    pub(super) answers: Vec<Answer>,
}

impl Teller {
    pub(super) fn perform(&mut self, command: Command) {
        self.answers.push(self.model.perform(&command));
        self.steps.push(Step::Do(command));
    }

    pub(super) fn go_on(&mut self, mut dice: Dice) {
        use EntryState::{Offered, Waiting};
        use RegistrationState::{Confirmed, Held};
        let command = match dice.roll(100) {
            0..26 => self.register(dice),
            26..33 => self.join(dice),
            33..40 => self.with_registration(dice, &[Held], |id| Action::Confirm { registration_id: id }),
            40..53 => self.with_registration(dice, &[Confirmed, Held], |id| Action::CancelRegistration {
                registration_id: id,
            }),
            53..57 => {
                self.with_registration(dice, &[Confirmed], |id| Action::CheckIn { registration_id: id })
            }
            57..64 => self.with_entry(dice, &[Waiting], |id| Action::Leave { entry_id: id }),
            64..70 => self.with_entry(dice, &[Offered], |id| Action::AcceptOffer { entry_id: id }),
            70..75 => self.with_entry(dice, &[Offered], |id| Action::DeclineOffer { entry_id: id }),
            75..77 => {
                let command =
                    self.with_registration(dice, &[Held], |id| Action::ExpireHold { registration_id: id });
                Command { actor: Actor::SYSTEM, ..command }
            }
            77..79 => {
                let command = self.with_entry(dice, &[Offered], |id| Action::ExpireOffer { entry_id: id });
                Command { actor: Actor::SYSTEM, ..command }
            }
            79..83 => return self.let_lapse(dice),
            83..90 => self.update(dice),
            90 => self.with_event(dice, |etag, _| Action::Publish { etag }),
            91 if dice.once_in(4) => {
                self.with_event(dice, |etag, n| Action::CancelEvent { reason: format!("reason {n}"), etag })
            }
            91 => self.with_event(dice, |etag, _| Action::DeleteEvent { etag }),
            92..95 => return self.wait(dice),
            _ => match self.lately().as_slice() {
                [] => self.register(dice),
                commands => dice.one_of(commands),
            },
        };
        self.perform(command);
    }

    /// What was asked for last, to be sent again.
    fn lately(&self) -> Vec<Command> {
        let said = |step: &Step| match step {
            Step::Do(command) => Some(command.clone()),
            Step::Wait(_) => None,
        };
        self.steps.iter().rev().filter_map(said).take(12).collect()
    }

    /// Time passes until some hold or offer lapses, or until just before; and then its user or the sweeper comes.
    fn let_lapse(&mut self, mut dice: Dice) {
        let holds = self.model.registrations.iter().filter(|row| row.state == RegistrationState::Held);
        let holds = holds.filter_map(|row| {
            let cancel = Action::CancelRegistration { registration_id: row.id };
            let confirm = Action::Confirm { registration_id: row.id };
            let expire = Action::ExpireHold { registration_id: row.id };
            Some((row.hold_expire_time?, row.event_id, row.user_id, row.seats, [confirm, expire, cancel]))
        });
        let offers = self.model.entries.iter().filter(|row| row.state == EntryState::Offered);
        let offers = offers.filter_map(|row| {
            let accept = Action::AcceptOffer { entry_id: row.id };
            let decline = Action::DeclineOffer { entry_id: row.id };
            let expire = Action::ExpireOffer { entry_id: row.id };
            Some((row.offer_expire_time?, row.event_id, row.user_id, row.seats, [accept, expire, decline]))
        });
        let all: Vec<_> = holds.chain(offers).collect();
        if all.is_empty() {
            return self.wait(dice);
        }
        let (lapses, event_id, user_id, seats, actions) = dice.one_of(&all);
        let early = Duration::from_micros(u64::from(dice.once_in(4)));
        self.pass_time_to(lapses - early);
        let register = Action::Register(Register {
            user_id,
            seats,
            when_full: WhenFull::JoinWaitlist,
            hold: None,
            labels: Labels::new(),
            request: None,
        });
        let join = Join { user_id, seats, labels: Labels::new(), request: None };
        let [answer, expire, other] = actions;
        let action = dice.one_of(&[answer, expire.clone(), expire, other, register, Action::Join(join)]);
        let by_itself = matches!(action, Action::ExpireHold { .. } | Action::ExpireOffer { .. });
        let actor = if by_itself { Actor::SYSTEM } else { ADMIN };
        self.perform(Command { event_id, actor, action });
    }

    fn pass_time_to(&mut self, time: OffsetDateTime) {
        if time > self.model.now {
            self.model.now = time;
            self.steps.push(Step::Wait(time));
        }
    }

    /// The clock moves a little, or to the moment when something lapses, opens, closes, begins or ends, or to just before.
    fn wait(&mut self, mut dice: Dice) {
        let now = self.model.now;
        let holds = self.model.registrations.iter().filter_map(|row| row.hold_expire_time);
        let offers = self.model.entries.iter().filter_map(|row| row.offer_expire_time);
        let events = self.model.events().into_iter().flat_map(|event| {
            let window = [event.registration_open_time, event.registration_close_time];
            [Some(event.start_time), Some(event.end_time)].into_iter().chain(window).flatten()
        });
        let next = holds.chain(offers).chain(events).filter(|&time| time > now).min();
        self.pass_time_to(match (dice.roll(4), next) {
            (0, _) | (_, None) => now + seconds(1 + dice.roll(15)),
            (1, Some(next)) => next - Duration::from_micros(1),
            (_, Some(next)) => next,
        });
    }

    fn person(&self, dice: &mut Dice) -> Actor {
        match u32::try_from(dice.roll(u64::from(self.bustle.people) + 2)).expect("few") {
            n if n < self.bustle.people => attendee(n),
            n if n == self.bustle.people => OWNER,
            _ => RIVAL,
        }
    }

    /// Mostly the user, sometimes those who may act for others, sometimes those who may not.
    fn actor_for(&self, dice: &mut Dice, user: Actor, event_id: Uuid) -> Actor {
        match dice.roll(12) {
            0..9 => user,
            9 => self.owner(event_id),
            10 => dice.one_of(&[ADMIN, SERVICE]),
            _ => self.stranger(dice, event_id),
        }
    }

    fn owner(&self, event_id: Uuid) -> Actor {
        let id = self.model.event(event_id).map_or(OWNER.id, |event| event.organizer_id);
        Actor { id, role: ActorRole::Organizer }
    }

    /// Anybody, the organizer of other events, or who once was this one's organizer.
    fn stranger(&self, dice: &mut Dice, event_id: Uuid) -> Actor {
        match dice.roll(3) {
            0 => self.person(dice),
            1 => RIVAL,
            _ => Actor { role: ActorRole::Attendee, ..self.owner(event_id) },
        }
    }

    /// Mostly one of the events that are left, the first most often.
    fn some_event(&self, dice: &mut Dice) -> Uuid {
        if dice.once_in(60) {
            NOTHING
        } else if dice.roll(2) == 0 {
            self.event_ids[0]
        } else {
            dice.one_of(&self.event_ids)
        }
    }

    fn register(&self, mut dice: Dice) -> Command {
        let user = self.person(&mut dice);
        let event_id = self.some_event(&mut dice);
        let actor = self.actor_for(&mut dice, user, event_id);
        let seats = self.party(&mut dice, event_id);
        let when_full = dice.one_of(&[WhenFull::JoinWaitlist, WhenFull::JoinWaitlist, WhenFull::Reject]);
        let hold = dice.once_in(3).then(|| seconds(1 + dice.roll(40)));
        let labels = dice.once_in(6).then(|| ("seat".to_owned(), "aisle".to_owned()));
        let request =
            request_key(&mut dice, actor, (user.id, seats, when_full == WhenFull::Reject, hold, &labels));
        let labels = labels.into_iter().collect();
        let ask = Register { user_id: user.id, seats, when_full, hold, labels, request };
        Command { event_id, actor, action: Action::Register(ask) }
    }

    fn join(&self, mut dice: Dice) -> Command {
        let user = self.person(&mut dice);
        let event_id = self.some_event(&mut dice);
        let actor = self.actor_for(&mut dice, user, event_id);
        let seats = self.party(&mut dice, event_id);
        let labels = dice.once_in(4).then(|| ("seat".to_owned(), "window".to_owned()));
        let request = request_key(&mut dice, actor, ("join", user.id, seats, &labels));
        let labels = labels.into_iter().collect();
        Command { event_id, actor, action: Action::Join(Join { user_id: user.id, seats, labels, request }) }
    }

    /// A party that may come, and seldom one that is too large.
    fn party(&self, dice: &mut Dice, event_id: Uuid) -> i32 {
        let largest = self.model.event(event_id).map_or(1, |event| event.max_seats_per_registration);
        if dice.once_in(20) { largest + 1 } else { dice.small(u64::try_from(largest).expect("positive")) + 1 }
    }

    fn with_registration(
        &self,
        mut dice: Dice,
        likely: &[RegistrationState],
        action: impl Fn(Uuid) -> Action,
    ) -> Command {
        let rows = self.model.registrations.iter();
        let all = rows.map(|row| (likely.contains(&row.state), (row.event_id, row.user_id, row.id)));
        match dice.one_of_many(all) {
            Some(named) => self.with_thing(dice, named, action),
            None => self.register(dice),
        }
    }

    fn with_entry(&self, mut dice: Dice, likely: &[EntryState], action: impl Fn(Uuid) -> Action) -> Command {
        let rows = self.model.entries.iter();
        let all = rows.map(|row| (likely.contains(&row.state), (row.event_id, row.user_id, row.id)));
        match dice.one_of_many(all) {
            Some(named) => self.with_thing(dice, named, action),
            None => self.register(dice),
        }
    }

    /// The thing, seldom under another event's id.
    fn with_thing(
        &self,
        mut dice: Dice,
        (event_id, user_id, id): (Uuid, Uuid, Uuid),
        action: impl Fn(Uuid) -> Action,
    ) -> Command {
        let event_id = if dice.once_in(40) { self.some_event(&mut dice) } else { event_id };
        let action = action(if dice.once_in(60) { NOTHING } else { id });
        let at_the_door = matches!(action, Action::CheckIn { .. }) && !dice.once_in(4);
        let organizer = user_id == OWNER.id || user_id == RIVAL.id;
        let role = if organizer { ActorRole::Organizer } else { ActorRole::Attendee };
        let user = Actor { id: user_id, role };
        let actor =
            if at_the_door { self.owner(event_id) } else { self.actor_for(&mut dice, user, event_id) };
        Command { event_id, actor, action }
    }

    fn with_event(&self, mut dice: Dice, action: impl Fn(Option<String>, u64) -> Action) -> Command {
        let event_id = self.some_event(&mut dice);
        let owner = self.owner(event_id);
        let actor = match dice.roll(12) {
            0..10 => owner,
            10 => dice.one_of(&[ADMIN, SERVICE]),
            _ => self.stranger(&mut dice, event_id),
        };
        let etag = match dice.roll(8) {
            0..5 => None,
            5 | 6 => self.model.event(event_id).map(|event| format!("\"{}\"", event.revision)),
            _ => Some("\"0\"".to_owned()),
        };
        Command { event_id, actor, action: action(etag, dice.roll(3)) }
    }

    fn update(&self, mut dice: Dice) -> Command {
        let mut patch = EventPatch::default();
        let twice = dice.once_in(4);
        for _ in 0..if twice { 2 } else { 1 } {
            let soon = |dice: &mut Dice| self.model.now + seconds(15 * dice.roll(16)) - seconds(30);
            match dice.roll(12) {
                0..4 => {
                    let now = self.model.event(self.event_ids[0]).map_or(1, |event| event.capacity);
                    patch.capacity = Some((now + dice.small(9) - 3).max(1));
                }
                4 => {
                    let either = [WaitlistPolicy::Promote, WaitlistPolicy::Offer];
                    patch.waitlist_policy = Some(dice.one_of(&either));
                }
                5 | 6 => {
                    let either = [QueueDiscipline::SkipAhead, QueueDiscipline::Strict];
                    patch.queue_discipline = Some(dice.one_of(&either));
                }
                7 => patch.max_seats_per_registration = Some(dice.small(5) + 1),
                8 => patch.offer_ttl = Some(seconds(1 + dice.roll(40))),
                9 => match dice.roll(4) {
                    0 => patch.start_time = Some(soon(&mut dice)),
                    1 => patch.end_time = Some(soon(&mut dice)),
                    2 => patch.registration_open_time = Some((!dice.once_in(3)).then(|| soon(&mut dice))),
                    _ => patch.registration_close_time = Some((!dice.once_in(3)).then(|| soon(&mut dice))),
                },
                10 => patch.title = Some(format!("Title {}", dice.roll(3))),
                _ => patch.location = Some(format!("Place {}", dice.roll(3))),
            }
        }
        self.with_event(dice, |etag, _| Action::Update(Box::new(EventPatch { etag, ..patch.clone() })))
    }
}

/// Sometimes one of few request ids, so that they meet again, with the same request or with another.
fn request_key(dice: &mut Dice, actor: Actor, request: impl Hash) -> Option<RequestKey> {
    dice.once_in(3).then(|| {
        let mut hasher = DefaultHasher::new();
        request.hash(&mut hasher);
        let mut fingerprint = [0; 32];
        fingerprint[..8].copy_from_slice(&hasher.finish().to_be_bytes());
        let id = Uuid::from_u128(0xF000 + u128::from(dice.roll(6)));
        RequestKey { actor_id: actor.id, id, fingerprint }
    })
}
