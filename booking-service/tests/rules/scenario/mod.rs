//! Random sequences of commands that are worth playing: most of them can succeed, many of them collide.
//!
//! A step is read from one random number against the model as it stands at that moment, so that it can name what is
//! there: "cancel one of the holds" instead of "cancel 8f3a…". Numbers shrink towards 0 and lists towards short ones, so
//! a failure shrinks to a short story.

mod dice;
mod teller;

use booking_service::domain::command::{Action, Command, Register, WhenFull};
use booking_service::domain::event::{Event, EventState, EventText, QueueDiscipline, WaitlistPolicy};
use booking_service::domain::registration::Labels;
use time::OffsetDateTime;

use self::dice::Dice;
use self::teller::Teller;
use crate::model::Model;
use crate::snapshot::{Answer, Snapshot};
use crate::world::{self, NOON, OWNER, RIVAL, attendee, seconds};

/// How busy it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bustle {
    /// Attendees.
    pub(crate) people: u32,
    /// At most so many events.
    pub(crate) events: u64,
    /// At most so many seats at each.
    pub(crate) seats: u64,
    /// Whether everybody asks for seats of the first event before anything else happens.
    pub(crate) rush: bool,
}

/// One step of a story.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The clock moves on to this time.
    Wait(OffsetDateTime),
    /// Somebody does something; things have the names of [`crate::snapshot`].
    Do(Command),
}

/// A sequence, and what the model made of it.
pub(crate) struct Story {
    pub(crate) events: Vec<(Event, EventText)>,
    pub(crate) steps: Vec<Step>,
    /// One per command.
    pub(crate) answers: Vec<Answer>,
    pub(crate) ending: Snapshot,
}

impl Story {
    pub(crate) fn new(bustle: Bustle, setting: u64, numbers: &[u64]) -> Self {
        let events = events(bustle, Dice(setting));
        let mut teller = Teller {
            bustle,
            model: Model::new(events.clone()),
            event_ids: events.iter().map(|(event, _)| event.id).collect(),
            steps: Vec::new(),
            answers: Vec::new(),
        };
        if bustle.rush {
            for n in 0..bustle.people {
                let mut dice = Dice(setting.rotate_left(n).wrapping_mul(31));
                let event = teller.model.event(teller.event_ids[0]).expect("there is one event");
                let largest = u64::try_from(event.max_seats_per_registration).expect("positive");
                let action = Action::Register(Register {
                    user_id: world::user(n),
                    seats: dice.small(largest) + 1,
                    when_full: WhenFull::JoinWaitlist,
                    hold: dice.once_in(3).then(|| seconds(1 + dice.roll(40))),
                    labels: Labels::new(),
                    request: None,
                });
                teller.perform(Command { event_id: event.id, actor: attendee(n), action });
            }
        }
        numbers.iter().for_each(|&number| teller.go_on(Dice(number)));
        let Teller { model, steps, answers, .. } = teller;
        Self { events, steps, answers, ending: model.snapshot() }
    }

    /// The story in words, for whoever has to find out why it ended badly.
    pub(crate) fn read(&self) -> String {
        let mut lines: Vec<String> = self.events.iter().map(|(event, _)| format!("{event:?}")).collect();
        let mut answers = self.answers.iter();
        for step in &self.steps {
            lines.push(match step {
                Step::Wait(time) => format!("at {time}"),
                Step::Do(command) => format!("{command:?}\n    model: {:?}", answers.next()),
            });
        }
        // The ids of the tests are small numbers.
        lines.join("\n").replace("00000000-0000-0000-0000-000000", "#")
    }
}

fn events(bustle: Bustle, mut dice: Dice) -> Vec<(Event, EventText)> {
    let count = if bustle.events == 1 { 0 } else { dice.roll(bustle.events) } + 1;
    (0..u32::try_from(count).expect("few"))
        .map(|n| {
            let capacity = dice.small(bustle.seats) + 1;
            let start_time = NOON + seconds(120 + 60 * dice.roll(7));
            let event = Event {
                organizer_id: if dice.once_in(3) { RIVAL.id } else { OWNER.id },
                state: if n > 0 && dice.once_in(3) { EventState::Draft } else { EventState::Published },
                waitlist_policy: dice.one_of(&[WaitlistPolicy::Promote, WaitlistPolicy::Offer]),
                queue_discipline: dice.one_of(&[QueueDiscipline::Strict, QueueDiscipline::SkipAhead]),
                max_seats_per_registration: (dice.small(4) + 1).min(capacity),
                offer_ttl: seconds(1 + dice.roll(40)),
                start_time,
                end_time: start_time + seconds(30 + 30 * dice.roll(4)),
                registration_open_time: (n > 0 && dice.once_in(4)).then(|| NOON + seconds(20)),
                registration_close_time: dice.once_in(3).then(|| start_time + seconds(30)),
                ..world::event(n, capacity)
            };
            (event, world::text())
        })
        .collect()
}
