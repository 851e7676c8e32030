//! Events as this replica's last batch left them, a moment ago: most likely they are still so, and need not be read
//! again before the next batch is written. Whether they are, the statement that writes finds out.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::bounded::remember;
use crate::domain::event::Event;
use crate::domain::facts::Facts;
use crate::store::seating::{EventVersion, Moment};

/// For how long an event is remembered.
const MEMORY: Duration = Duration::from_secs(1);
/// For how long an event is not relied upon after that was in vain for the first time; doubled from then on, until it is
/// not in vain. Where replicas take turns at many events, each of them finds what another has left.
const FIRST_DOUBT: Duration = Duration::from_secs(1);
const LONGEST_DOUBT: Duration = Duration::from_secs(16);
/// Whatever took longer to write is not remembered. The server's clock is known as it was before it committed: what is
/// decided by it is decided so much in the past, at most.
const PROMPT: Duration = Duration::from_millis(100);

/// The events, by id. All runners of a replica share them.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<HashMap<Uuid, Known>>);

#[derive(Debug)]
struct Known {
    state: State,
    /// For how long it will be doubtful when it is found to be wrong.
    doubt: Duration,
}

#[derive(Debug)]
enum State {
    /// Left so by a batch that was written at `moment` and answered at `at`.
    Left { event: Box<Event>, fence: i64, moment: Moment, at: Instant },
    /// Not to be relied upon until then.
    Doubtful { until: Instant },
}

/// What is known of some events without reading them.
#[derive(Debug)]
pub(super) struct Remembered {
    /// The events, and nobody in them, at this moment by the server's clock or a little earlier.
    pub(super) facts: Facts,
    pub(super) versions: Vec<EventVersion>,
    /// Which server it is from, see [`Moment`].
    pub(super) server_start: OffsetDateTime,
}

impl Recent {
    /// A batch that was decided by `versions`, sent at `sent`, written at `moment` and answered at `at`, has left these
    /// events so.
    pub(super) fn learn(
        &self,
        events: &[Event],
        versions: &[EventVersion],
        moment: Moment,
        sent: Instant,
        at: Instant,
    ) {
        if at.saturating_duration_since(sent) > PROMPT {
            self.forget(events.iter().map(|event| event.id), at);
            return;
        }
        let mut known = self.known();
        for event in events {
            let Some(version) = versions.iter().find(|version| version.id == event.id) else { continue };
            let doubt = match known.get(&event.id) {
                Some(Known { state: State::Doubtful { until }, .. }) if at < *until => continue,
                // What was remembered was true: the next doubt is short again.
                Some(Known { state: State::Left { event, .. }, .. }) if event.version == version.version => {
                    FIRST_DOUBT
                }
                // Nobody has tried since whether it would have been: the next doubt is as long as it was to be.
                Some(Known { doubt, .. }) => *doubt,
                None => FIRST_DOUBT,
            };
            let state = State::Left { event: Box::new(event.clone()), fence: version.fence, moment, at };
            remember(&mut known, event.id, Known { state, doubt });
        }
    }

    /// These are about to change, or have, and nobody says here how. That is no doubt about them: what is learned next is
    /// remembered at once.
    pub(super) fn forget(&self, events: impl Iterator<Item = Uuid>, now: Instant) {
        let mut known = self.known();
        for event_id in events {
            if let Some(Known { state: state @ State::Left { .. }, .. }) = known.get_mut(&event_id) {
                *state = State::Doubtful { until: now };
            }
        }
    }

    /// One of these was not as it was left, or somebody was known to it; or it is not known whether.
    pub(super) fn doubt(&self, events: &[Uuid], now: Instant) {
        let mut known = self.known();
        for &event_id in events {
            let doubt = known.get(&event_id).map_or(FIRST_DOUBT, |known| known.doubt);
            let state = State::Doubtful { until: now + doubt };
            remember(&mut known, event_id, Known { state, doubt: (doubt * 2).min(LONGEST_DOUBT) });
        }
    }

    /// What is known of these events, if all of them are remembered from one server.
    pub(super) fn recall(&self, events: &[Uuid], now: Instant) -> Option<Remembered> {
        let known = self.known();
        let mut last: Option<Moment> = None;
        let mut versions = Vec::with_capacity(events.len());
        let mut recalled = Vec::with_capacity(events.len());
        for event_id in events {
            let State::Left { event, fence, moment, at } = &known.get(event_id)?.state else { return None };
            let age = now.saturating_duration_since(*at);
            if age >= MEMORY || last.is_some_and(|last| last.server_start != moment.server_start) {
                return None;
            }
            // The server showed that time before `at`, and both clocks run at one speed. That it is not ahead of the
            // server's is made sure of when it is written.
            let time = (moment.time + age).truncate_to_microsecond();
            let time = last.map_or(time, |last| last.time.max(time));
            last = Some(Moment { time, server_start: moment.server_start });
            versions.push(EventVersion { id: event.id, version: event.version, fence: *fence });
            recalled.push(Event::clone(event));
        }
        let Moment { time, server_start } = last?;
        Some(Remembered { facts: Facts::new(time, recalled), versions, server_start })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Uuid, Known>> {
        // Whatever a panic left behind is checked before it is written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::bounded::MOST;
    use super::*;
    use crate::domain::event::{EventState, QueueDiscipline, WaitlistPolicy};

    const START: OffsetDateTime = time::macros::datetime!(2030-01-01 0:00 UTC);

    fn event(number: u128) -> Event {
        Event {
            id: Uuid::from_u128(number),
            organizer_id: Uuid::nil(),
            start_time: START,
            end_time: START,
            registration_open_time: None,
            registration_close_time: None,
            capacity: 5,
            seats_remaining: 5,
            waitlist_size: 0,
            largest_party: 1,
            next_position: 1,
            max_seats_per_registration: 1,
            waitlist_policy: WaitlistPolicy::Promote,
            offer_ttl: Duration::ZERO,
            queue_discipline: QueueDiscipline::Strict,
            state: EventState::Published,
            cancel_reason: String::new(),
            revision: 1,
            version: 7,
            create_time: START,
            update_time: START,
        }
    }

    fn learn_from(recent: &Recent, server_start: OffsetDateTime, event: Event, sent: Instant, at: Instant) {
        let versions = [EventVersion { id: event.id, version: 6, fence: 3 }];
        recent.learn(&[event], &versions, Moment { time: START, server_start }, sent, at);
    }

    fn learn(recent: &Recent, event: Event, at: Instant) {
        learn_from(recent, OffsetDateTime::UNIX_EPOCH, event, at, at);
    }

    #[test]
    fn what_a_batch_left_is_recalled_for_a_second_with_its_version_and_the_clock_gone_on() {
        let (recent, at, id) = (Recent::default(), Instant::now(), event(1).id);
        learn(&recent, event(1), at);
        let remembered = recent.recall(&[id], at + Duration::from_nanos(999_999_999)).unwrap();
        assert_eq!(remembered.facts.now, START + Duration::from_micros(999_999), "never ahead");
        assert_eq!(remembered.versions, [EventVersion { id, version: 7, fence: 3 }]);
        assert!(recent.recall(&[id], at + MEMORY).is_none());
    }

    #[test]
    fn what_took_long_to_commit_is_not_remembered() {
        let (recent, at, id) = (Recent::default(), Instant::now(), event(1).id);
        learn(&recent, event(1), at);
        let answered = at + PROMPT + Duration::from_nanos(1);
        learn_from(&recent, OffsetDateTime::UNIX_EPOCH, event(1), at, answered);
        assert!(recent.recall(&[id], answered).is_none(), "nor what was before it");
        learn(&recent, event(1), answered);
        recent.forget([id].into_iter(), answered);
        assert!(recent.recall(&[id], answered).is_none());
    }

    #[test]
    fn all_of_the_events_are_remembered_from_one_server_or_none_is_recalled() {
        let (recent, at) = (Recent::default(), Instant::now());
        let events = [event(1).id, event(2).id];
        learn(&recent, event(1), at);
        assert!(recent.recall(&events, at).is_none());
        learn_from(&recent, START, event(2), at, at);
        assert!(recent.recall(&events, at).is_none(), "neither may have heard of the other's");
        learn(&recent, event(2), at);
        assert_eq!(recent.recall(&events, at).unwrap().versions.len(), 2);
    }

    #[test]
    fn what_is_doubtful_is_not_learned_for_a_second_and_then_for_twice_as_long_until_it_proves_true() {
        let (recent, id) = (Recent::default(), event(1).id);
        let mut at = Instant::now();
        learn(&recent, event(1), at);
        for seconds in [1, 2, 4, 8, 16, 16] {
            recent.doubt(&[id], at);
            let soon = at + Duration::from_secs(seconds) - Duration::from_nanos(1);
            learn(&recent, event(1), soon);
            assert!(recent.recall(&[id], soon).is_none());
            at = soon + Duration::from_nanos(1);
            learn(&recent, event(1), at);
            assert!(recent.recall(&[id], at).is_some());
            // By somebody who was decided by something else.
            learn(&recent, event(1), at);
        }
        // The next batch was decided by what this one had left.
        learn(&recent, Event { version: 6, ..event(1) }, at);
        learn(&recent, event(1), at);
        recent.doubt(&[id], at);
        learn(&recent, event(1), at + FIRST_DOUBT);
        assert!(recent.recall(&[id], at + FIRST_DOUBT).is_some());
    }

    #[test]
    fn no_more_events_are_remembered_than_there_is_room_for() {
        let (recent, at) = (Recent::default(), Instant::now());
        for number in 0..25_000 {
            learn(&recent, event(number), at);
            assert!(recent.known().len() <= MOST && recent.recall(&[event(number).id], at).is_some());
            recent.doubt(&[event(number + 1_000_000).id], at);
            assert!(recent.known().len() <= MOST);
        }
    }
}
