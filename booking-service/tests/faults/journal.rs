//! What clients were told, written down before they go on.

use std::collections::HashMap;
use std::sync::Mutex;

use rowlock_proto::booking::v1 as pb;
use tonic::Status;
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::proof::id;

/// Refusals of calls that were not even begun: they pass.
const PASSING: [&str; 2] = ["OVERLOADED", "IDENTITY_UNAVAILABLE"];

/// In seconds: a hold of less may lapse while a test goes on.
pub(crate) const LONG_HOLD: i64 = 600;

/// Somebody asks for seats, or for a place in the queue if there are none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) event: Uuid,
    pub(crate) user: Uuid,
    pub(crate) request_id: Uuid,
    pub(crate) seats: i32,
    /// For how many seconds, if not for good.
    pub(crate) hold: Option<i64>,
    pub(crate) queue: bool,
}

/// What somebody does with what they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    Confirm,
    Cancel,
    Leave,
    Accept,
    Decline,
}

impl Move {
    /// Whether the rules may refuse it for this reason, to somebody who was told of `made` a moment ago. Nobody else
    /// touches it but the queue and the time.
    fn may_be_refused(self, made: &Made, reason: &str) -> bool {
        match self {
            // Served in the meantime.
            Self::Leave => reason == "STATE_CONFLICT",
            Self::Confirm => made.lapses && reason == "HOLD_EXPIRED",
            Self::Cancel => made.lapses && made.state == "HELD" && reason == "STATE_CONFLICT",
            Self::Accept | Self::Decline => false,
        }
    }
}

/// A row that the service says there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) id: Uuid,
    pub(crate) entry: bool,
    pub(crate) state: &'static str,
    pub(crate) seats: i32,
    /// Whether it is held for so short a time that it may lapse.
    pub(crate) lapses: bool,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Made(Made),
    /// Nothing was changed, for this reason.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

/// A client's own books.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    asks: Mutex<Vec<(Ask, Answer)>>,
    moves: Mutex<Vec<(Uuid, Move, Made, Answer)>>,
    /// Registrations that an accepted offer became.
    accepted: Mutex<Vec<(Uuid, Made)>>,
    /// Answers that contradict each other.
    wrong: Mutex<Vec<String>>,
    /// Every answer that was none, or that asks to be repeated, whatever was asked.
    troubles: Mutex<HashMap<String, usize>>,
}

/// A row that was acknowledged, and the states that it may be in by now.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) made: Made,
    pub(crate) user: Uuid,
    pub(crate) states: Vec<&'static str>,
}

impl Journal {
    /// Opens a line. Until an answer is written, it is unknown.
    pub(crate) fn ask(&self, ask: Ask) -> usize {
        let mut asks = self.asks.lock().unwrap();
        asks.push((ask, Answer::Unknown("no answer".to_owned())));
        asks.len() - 1
    }

    pub(crate) fn answered(&self, line: usize, answer: &Answer) {
        self.heard(answer);
        self.asks.lock().unwrap()[line].1 = answer.clone();
    }

    /// Opens a line for a move with what was made.
    pub(crate) fn make_move(&self, user: Uuid, action: Move, made: &Made) -> usize {
        let mut moves = self.moves.lock().unwrap();
        moves.push((user, action, made.clone(), Answer::Unknown("no answer".to_owned())));
        moves.len() - 1
    }

    pub(crate) fn moved(&self, line: usize, answer: &Answer) {
        self.heard(answer);
        self.moves.lock().unwrap()[line].3 = answer.clone();
    }

    pub(crate) fn accepted(&self, user: Uuid, made: Made) {
        self.accepted.lock().unwrap().push((user, made));
    }

    /// Something that can never be told.
    pub(crate) fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    /// An answer that has no line of its own: to a repetition, or to a look.
    pub(crate) fn heard(&self, answer: &Answer) {
        if let Some(why) = answer.trouble() {
            *self.troubles.lock().unwrap().entry(why.to_owned()).or_default() += 1;
        }
    }

    pub(crate) fn asks(&self) -> Vec<(Ask, Answer)> {
        self.asks.lock().unwrap().clone()
    }

    pub(crate) fn moves(&self) -> Vec<(Uuid, Move, Made, Answer)> {
        self.moves.lock().unwrap().clone()
    }

    /// Answers that contradict each other, and moves that were refused for what cannot be.
    pub(crate) fn all_wrong(&self) -> Vec<String> {
        let mut wrong = self.wrong.lock().unwrap().clone();
        for (_, action, made, answer) in self.moves() {
            if let Answer::Refused(reason) = answer
                && !PASSING.contains(&reason.as_str())
                && !action.may_be_refused(&made, &reason)
            {
                wrong.push(format!("a move is refused for what cannot be: {action:?} of {made:?}: {reason}"));
            }
        }
        wrong
    }

    /// How often which answer was none, or asked to be repeated.
    pub(crate) fn troubles(&self) -> Vec<(String, usize)> {
        let mut troubles: Vec<_> = self.troubles.lock().unwrap().clone().into_iter().collect();
        troubles.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        troubles
    }

    /// How often this was the answer, whatever was asked.
    pub(crate) fn times(&self, reason: &str) -> usize {
        self.troubles.lock().unwrap().get(reason).copied().unwrap_or_default()
    }

    /// Every row that was acknowledged, as it has to be by now.
    pub(crate) fn expected(&self) -> HashMap<Uuid, Expected> {
        let mut rows = HashMap::new();
        for (ask, answer) in self.asks() {
            if let Answer::Made(made) = answer {
                let states = later_states(&made);
                rows.insert(made.id, Expected { made, user: ask.user, states });
            }
        }
        for (_, _, before, answer) in self.moves() {
            let Some(row) = rows.get_mut(&before.id) else { continue };
            match answer {
                Answer::Made(made) => row.states = later_states(&made),
                Answer::Refused(_) => {}
                // Complained about on its own account.
                Answer::Unknown(_) => row.states.extend(["CANCELLED", "CONFIRMED", "LEFT", "ACCEPTED"]),
            }
        }
        for (user, made) in self.accepted.lock().unwrap().clone() {
            rows.insert(made.id, Expected { states: later_states(&made), made, user });
        }
        rows
    }
}

/// What a state becomes without its user's doing. Offers of these tests outlive them, and so do most holds.
fn later_states(made: &Made) -> Vec<&'static str> {
    match made.state {
        "WAITING" => vec!["WAITING", "PROMOTED", "OFFERED"],
        "HELD" if made.lapses => vec!["HELD", "EXPIRED"],
        other => vec![other],
    }
}

impl Made {
    pub(crate) fn registration(row: &pb::Registration) -> Self {
        let state = row.state().as_str_name().trim_start_matches("REGISTRATION_STATE_");
        let seconds = |time: &Option<prost_types::Timestamp>| time.map_or(i64::MAX, |time| time.seconds);
        let lapses = seconds(&row.hold_expire_time).saturating_sub(seconds(&row.create_time)) < LONG_HOLD;
        Self { id: id(&row.registration_id), entry: false, state, seats: row.seats, lapses }
    }

    pub(crate) fn entry(row: &pb::WaitlistEntry) -> Self {
        let state = row.state().as_str_name().trim_start_matches("WAITLIST_ENTRY_STATE_");
        Self { id: id(&row.entry_id), entry: true, state, seats: row.seats, lapses: false }
    }
}

impl Answer {
    /// What a failed call says of its effect, as the contract has it: nothing was changed, but for four reasons and a
    /// connection that broke.
    pub(crate) fn failed(status: &Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == "booking.rowlock");
        match info.map(|info| info.reason) {
            Some(reason)
                if ["DEADLINE_EXCEEDED", "DATABASE_UNAVAILABLE", "SHUTTING_DOWN", "INTERNAL_ERROR"]
                    .contains(&reason.as_str()) =>
            {
                Self::Unknown(reason)
            }
            Some(reason) => Self::Refused(reason),
            None => Self::Unknown(format!("{:?} of the connection", status.code())),
        }
    }

    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Why the call has to be repeated, if it has to: what the rules refuse stays refused.
    pub(crate) fn trouble(&self) -> Option<&str> {
        match self {
            Self::Unknown(why) => Some(why),
            Self::Refused(reason) if PASSING.contains(&reason.as_str()) => Some(reason),
            Self::Refused(_) | Self::Made(_) => None,
        }
    }
}
