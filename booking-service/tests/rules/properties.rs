//! Random sequences, in random batches, against the naive model.

use std::collections::HashSet;

use booking_service::domain::change::ChangeAction;
use booking_service::domain::command::{Action, Actor, Command};
use booking_service::domain::decide::{Decision, Outcome};
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use uuid::Uuid;

use crate::scenario::{Bustle, Step, Story};
use crate::snapshot::Answer;
use crate::store::Store;

#[test]
fn any_sequence_at_a_small_event_ends_as_the_model_says_however_it_is_batched() {
    sequences_agree(Bustle { people: 4, events: 2, seats: 4, rush: false }, 100);
}

#[test]
fn any_sequence_over_several_events_ends_as_the_model_says_however_it_is_batched() {
    sequences_agree(Bustle { people: 8, events: 3, seats: 8, rush: false }, 120);
}

#[test]
fn any_sequence_before_a_long_queue_ends_as_the_model_says_however_it_is_batched() {
    sequences_agree(Bustle { people: 20, events: 1, seats: 6, rush: true }, 80);
}

/// How many sequences each property plays; all three together more than 10,000.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3_500)
}

fn sequences_agree(bustle: Bustle, length: usize) {
    // A failure prints the story and the numbers that it takes to play it again; it needs no file.
    let config =
        Config { cases: cases(), failure_persistence: None, max_shrink_iters: 4_000, ..Config::default() };
    let sequences = (any::<u64>(), vec(any::<u64>(), 1..=length), vec(1..=40_usize, 1..=6));
    let outcome = TestRunner::new(config).run(&sequences, |(setting, numbers, sizes)| {
        let story = Story::new(bustle, setting, &numbers);
        play(&story, &[1], 1_000)
            .map_err(|difference| TestCaseError::fail(format!("one at a time: {difference}")))?;
        // An organizer's seats are given away one to four at a time.
        let portion = i32::try_from(1 + setting % 4).unwrap_or(1);
        play(&story, &sizes, portion)
            .map_err(|difference| TestCaseError::fail(format!("in batches: {difference}")))
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, (setting, numbers, sizes))) => panic!(
            "{}\n\n{why}\n\nsetting {setting}, numbers {numbers:?}, sizes {sizes:?}",
            Story::new(bustle, setting, &numbers).read()
        ),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// Plays the story through the rules in batches of these sizes, over and over, with queues served in portions, and tells where
/// it differs from the model.
fn play(story: &Story, sizes: &[usize], portion: i32) -> Result<(), String> {
    let mut stage = Stage { story, store: Store::new(story.events.clone()), batch: Vec::new(), played: 0 };
    stage.store.portion = portion;
    let mut sizes = sizes.iter().copied().cycle();
    let mut size = sizes.next().unwrap_or(1);
    let mut ended: HashSet<Uuid> = HashSet::new();
    for step in &story.steps {
        let command = match step {
            Step::Wait(time) => {
                stage.decide()?;
                ended.clear();
                stage.store.now = *time;
                continue;
            }
            Step::Do(command) => command,
        };
        let mut addressed = stage.store.address(command);
        // Nobody can name what is still to be decided; and some commands come last for their event.
        if addressed.is_none() || stage.batch.len() >= size || ended.contains(&command.event_id) {
            stage.decide()?;
            ended.clear();
            size = sizes.next().unwrap_or(1);
            addressed = stage.store.address(command);
        }
        if command.may_take_long() {
            ended.insert(command.event_id);
        }
        let names_follow = command.may_take_long() && matches!(command.action, Action::Update(_));
        stage.batch.push(addressed.expect("the model made what is named here"));
        // Things are named in the order in which they were made: before those of other events come, all of a queue has to be
        // served.
        if names_follow {
            stage.decide()?;
            ended.clear();
        }
    }
    stage.decide()?;
    let ending = stage.store.snapshot();
    if ending == story.ending {
        return Ok(());
    }
    Err(format!("the rows in the end:\n{ending:?}\nand the model's:\n{:?}", story.ending))
}

struct Stage<'a> {
    story: &'a Story,
    store: Store,
    batch: Vec<Command>,
    /// Commands decided so far.
    played: usize,
}

impl Stage<'_> {
    /// Decides what has gathered, and holds the answers against the model's.
    fn decide(&mut self) -> Result<(), String> {
        let batch = std::mem::take(&mut self.batch);
        let decision = self.store.run(&batch);
        self.store.audit();
        if let [command] = batch.as_slice() {
            refusals_leave_nothing(command, &decision);
        }
        for (command, verdict) in batch.iter().zip(decision.verdicts) {
            let answer = whole(command, self.store.answer(verdict));
            let expected = whole(command, self.story.answers[self.played].clone());
            self.played += 1;
            if answer != expected {
                return Err(format!("{command:?}\nhears {answer:?}\nand from the model {expected:?}"));
            }
        }
        Ok(())
    }
}

/// What ends with a cancelled event is logged after the decision, so its answer cannot know the last version.
fn whole(command: &Command, mut answer: Answer) -> Answer {
    if let (Action::CancelEvent { .. }, Ok(Outcome::Event(record))) = (&command.action, &mut answer) {
        record.event.version = 0;
    }
    answer
}

/// A refused command changes nothing. Only the newcomer's own hold or offer, whose time has passed, may have ended on
/// the way, and its seats have then moved on.
fn refusals_leave_nothing(command: &Command, decision: &Decision) {
    if decision.verdicts[0].is_ok() {
        return;
    }
    let user_id = match &command.action {
        Action::Register(register) => Some(register.user_id),
        Action::Join(join) => Some(join.user_id),
        _ => None,
    };
    let mut changes = decision.effects.changes.iter();
    let Some(first) = changes.next() else { return };
    let lapsed = matches!(first.action, ChangeAction::RegistrationExpired | ChangeAction::OfferExpired);
    assert!(user_id.is_some() && lapsed && first.subject_id == user_id, "{command:?}: {decision:?}");
    for change in changes {
        let served = matches!(
            change.action,
            ChangeAction::WaitlistPromoted
                | ChangeAction::WaitlistOffered
                | ChangeAction::RegistrationCreated
        );
        assert!(served && change.actor == Actor::SYSTEM, "{command:?}: {decision:?}");
    }
    assert!(decision.effects.new_entries.is_empty(), "{command:?}: {decision:?}");
}
