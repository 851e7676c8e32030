//! What clients were told, written down before they go on.

use std::collections::HashMap;
use std::sync::Mutex;

use rowlock_proto::booking::v1 as pb;
use tonic::Status;
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::proof::id;

/// Somebody asks for seats, or for a place in the queue if there are none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) event: Uuid,
    pub(crate) user: Uuid,
    pub(crate) request_id: Uuid,
    pub(crate) seats: i32,
    pub(crate) hold: bool,
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

/// A row that the service says there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) id: Uuid,
    pub(crate) entry: bool,
    pub(crate) state: &'static str,
    pub(crate) seats: i32,
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
    unknown: Mutex<HashMap<String, usize>>,
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
        self.count(answer);
        self.asks.lock().unwrap()[line].1 = answer.clone();
    }

    /// Opens a line for a move with what was made.
    pub(crate) fn make_move(&self, user: Uuid, action: Move, made: &Made) -> usize {
        let mut moves = self.moves.lock().unwrap();
        moves.push((user, action, made.clone(), Answer::Unknown("no answer".to_owned())));
        moves.len() - 1
    }

    pub(crate) fn moved(&self, line: usize, answer: &Answer) {
        self.count(answer);
        self.moves.lock().unwrap()[line].3 = answer.clone();
    }

    pub(crate) fn accepted(&self, user: Uuid, made: Made) {
        self.accepted.lock().unwrap().push((user, made));
    }

    /// Something that can never be told.
    pub(crate) fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    fn count(&self, answer: &Answer) {
        if let Answer::Unknown(why) = answer {
            *self.unknown.lock().unwrap().entry(why.clone()).or_default() += 1;
        }
    }

    pub(crate) fn asks(&self) -> Vec<(Ask, Answer)> {
        self.asks.lock().unwrap().clone()
    }

    pub(crate) fn moves(&self) -> Vec<(Uuid, Move, Made, Answer)> {
        self.moves.lock().unwrap().clone()
    }

    pub(crate) fn all_wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    /// How often which answer was none.
    pub(crate) fn unknown(&self) -> Vec<(String, usize)> {
        let mut unknown: Vec<_> = self.unknown.lock().unwrap().clone().into_iter().collect();
        unknown.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        unknown
    }

    /// Every row that was acknowledged, as it has to be by now.
    pub(crate) fn expected(&self) -> HashMap<Uuid, Expected> {
        let mut rows = HashMap::new();
        for (ask, answer) in self.asks() {
            if let Answer::Made(made) = answer {
                let states = later_states(made.state);
                rows.insert(made.id, Expected { made, user: ask.user, states });
            }
        }
        for (_, _, before, answer) in self.moves() {
            let Some(row) = rows.get_mut(&before.id) else { continue };
            match answer {
                Answer::Made(made) => row.states = later_states(made.state),
                Answer::Refused(_) => {}
                // Complained about on its own account.
                Answer::Unknown(_) => row.states.extend(["CANCELLED", "CONFIRMED", "LEFT", "ACCEPTED"]),
            }
        }
        for (user, made) in self.accepted.lock().unwrap().clone() {
            rows.insert(made.id, Expected { states: later_states(made.state), made, user });
        }
        rows
    }
}

/// What a state becomes without its user's doing. Holds and offers of these tests outlive them.
fn later_states(state: &'static str) -> Vec<&'static str> {
    match state {
        "WAITING" => vec!["WAITING", "PROMOTED", "OFFERED"],
        other => vec![other],
    }
}

impl Made {
    pub(crate) fn registration(row: &pb::Registration) -> Self {
        let state = row.state().as_str_name().trim_start_matches("REGISTRATION_STATE_");
        Self { id: id(&row.registration_id), entry: false, state, seats: row.seats }
    }

    pub(crate) fn entry(row: &pb::WaitlistEntry) -> Self {
        let state = row.state().as_str_name().trim_start_matches("WAITLIST_ENTRY_STATE_");
        Self { id: id(&row.entry_id), entry: true, state, seats: row.seats }
    }
}

impl Answer {
    /// What a failed call says of its effect, as the contract has it: nothing was changed, but for three reasons and a
    /// connection that broke.
    pub(crate) fn failed(status: &Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == "booking.rowlock");
        match info.map(|info| info.reason) {
            Some(reason)
                if ["DEADLINE_EXCEEDED", "DATABASE_UNAVAILABLE", "INTERNAL_ERROR"]
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
}
