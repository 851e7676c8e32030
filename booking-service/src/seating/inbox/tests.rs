use futures_util::future::try_join_all;
use tokio::sync::oneshot::{self, Receiver};
use tokio::task::yield_now;

use super::super::Answer;
use super::*;
use crate::domain::command::{Action, Actor, Command, EventPatch};
use service_core::trace::Span;

/// A command for this event, told apart by the registration that it cancels, and where its answer comes.
fn command(event: u128, registration: u128) -> (Pending, Receiver<Answer>) {
    let action = Action::CancelRegistration { registration_id: Uuid::from_u128(registration) };
    pending(event, action)
}

fn end_of(event: u128) -> (Pending, Receiver<Answer>) {
    pending(event, Action::CancelEvent { reason: String::new(), etag: None })
}

fn raise_of(event: u128) -> (Pending, Receiver<Answer>) {
    pending(event, Action::Update(Box::new(EventPatch { capacity: Some(9), ..EventPatch::default() })))
}

fn pending(event: u128, action: Action) -> (Pending, Receiver<Answer>) {
    let (reply, answer) = oneshot::channel();
    let command = Command { event_id: Uuid::from_u128(event), actor: Actor::SYSTEM, action };
    let deadline = Instant::now() + Duration::from_secs(3_600);
    (Pending { command, deadline, reply, span: Span::child("command") }, answer)
}

/// An inbox in which so many commands wait for each of these events, numbered for each from 0.
fn inbox(limit: usize, crowds: &[(u128, usize)]) -> (Arc<Inbox>, Vec<Receiver<Answer>>) {
    let (inbox, mut answers) = (Arc::new(Inbox::new(limit)), Vec::new());
    for &(event, count) in crowds {
        for number in 0..count {
            let (pending, answer) = command(event, number as u128);
            inbox.push(pending).unwrap();
            answers.push(answer);
        }
    }
    (inbox, answers)
}

/// The events of a batch and how many commands it has for each, in order.
fn shape(batch: &Batch) -> Vec<(u128, usize)> {
    let mut shape: Vec<(u128, usize)> = Vec::new();
    for pending in &batch.commands {
        let event = pending.command.event_id.as_u128();
        match shape.last_mut().filter(|(last, _)| *last == event) {
            Some((_, count)) => *count += 1,
            None => shape.push((event, 1)),
        }
    }
    shape
}

fn numbers(batch: &Batch) -> Vec<u128> {
    let number = |pending: &Pending| match pending.command.action {
        Action::CancelRegistration { registration_id } => registration_id.as_u128(),
        _ => u128::MAX,
    };
    batch.commands.iter().map(number).collect()
}

async fn next(inbox: &Arc<Inbox>) -> Batch {
    let next = tokio::time::timeout(Duration::from_secs(20), inbox.next());
    next.await.expect("there is a batch").unwrap()
}

#[tokio::test]
async fn events_with_few_commands_share_a_batch_and_a_crowd_has_its_own() {
    let (inbox, _answers) = inbox(10_000, &[(1, 2), (2, 1_000), (3, 1), (4, 63)]);
    let few = next(&inbox).await;
    assert_eq!(shape(&few), [(1, 2), (3, 1), (4, 63)]);
    assert_eq!(shape(&next(&inbox).await), [(2, BATCH)]);
}

#[tokio::test]
async fn a_crowd_waits_its_turn_behind_its_neighbours_after_each_batch() {
    let (inbox, mut answers) = inbox(10_000, &[(1, 1_000)]);
    for round in 0..3 {
        let crowd = next(&inbox).await;
        assert_eq!(shape(&crowd), [(1, BATCH)]);
        let (neighbour, answer) = command(2, 0);
        inbox.push(neighbour).unwrap();
        answers.push(answer);
        drop(crowd);
        assert_eq!(shape(&next(&inbox).await), [(2, 1)], "round {round}");
    }
}

#[tokio::test]
async fn an_event_is_with_one_runner_at_a_time() {
    let (inbox, mut answers) = inbox(10_000, &[(1, 3)]);
    let first = next(&inbox).await;
    let (late, answer) = command(1, 3);
    inbox.push(late).unwrap();
    answers.push(answer);
    assert!(matches!(inbox.state().take(Instant::now()), Next::Nothing { until: None }));
    drop(first);
    assert_eq!(numbers(&next(&inbox).await), [3]);
}

#[tokio::test]
async fn who_comes_while_the_lock_is_waited_for_is_let_in_as_far_as_there_is_room() {
    let (inbox, mut answers) = inbox(10_000, &[(1, 2), (2, 1)]);
    let mut batch = next(&inbox).await;
    let mut part = std::mem::take(&mut batch.commands);
    for (event, number) in [(1, 2), (3, 0), (2, 1)] {
        let (late, answer) = command(event, number);
        inbox.push(late).unwrap();
        answers.push(answer);
    }
    batch.let_in(&mut part);
    let came = |event: u128| part.iter().filter(|p| p.command.event_id == Uuid::from_u128(event)).count();
    assert_eq!((came(1), came(2), came(3)), (3, 2, 0));
    assert_eq!(inbox.waiting(), 1);
    for number in 3..1_000 {
        let (late, answer) = command(1, number);
        inbox.push(late).unwrap();
        answers.push(answer);
    }
    batch.let_in(&mut part);
    assert_eq!(part.len(), BATCH);
}

#[tokio::test]
async fn nobody_is_let_in_ahead_of_what_was_put_back_or_behind_the_end_of_an_event() {
    let (inbox, mut answers) = inbox(10_000, &[(1, 2), (2, 1)]);
    let mut batch = next(&inbox).await;
    let mut part = std::mem::take(&mut batch.commands);
    let first = part.remove(0);
    batch.put_back([first]);
    let mut push = |pending: (Pending, Receiver<Answer>)| {
        inbox.push(pending.0).unwrap();
        answers.push(pending.1);
    };
    push(command(1, 2));
    batch.let_in(&mut part);
    assert_eq!(part.len(), 2);
    push(end_of(2));
    push(command(2, 2));
    batch.let_in(&mut part);
    assert_eq!(part.len(), 2, "not beside another event");
    drop(batch);
    drop(next(&inbox).await);
    let mut alone = next(&inbox).await;
    let mut part = std::mem::take(&mut alone.commands);
    assert_eq!(part.len(), 1);
    alone.let_in(&mut part);
    assert_eq!(part.len(), 1);
}

#[tokio::test]
async fn nothing_of_its_event_comes_behind_more_capacity_in_a_batch() {
    let (inbox, mut answers) = inbox(10_000, &[(1, 1)]);
    for pending in [raise_of(1), command(1, 7), raise_of(1)] {
        inbox.push(pending.0).unwrap();
        answers.push(pending.1);
    }
    for rest in [2, 2] {
        let mut batch = next(&inbox).await;
        let mut part = std::mem::take(&mut batch.commands);
        batch.let_in(&mut part);
        assert_eq!(part.len(), rest);
    }
    assert_eq!(now(&inbox), None);
}

#[tokio::test]
async fn what_an_organizer_changes_has_a_batch_of_its_own() {
    let (inbox, mut answers) = inbox(10_000, &[(1, 1), (2, 1)]);
    let mut push = |pending: (Pending, Receiver<Answer>)| {
        inbox.push(pending.0).unwrap();
        answers.push(pending.1);
    };
    push(end_of(2));
    push(command(3, 0));
    let (mut others, mut alone) = (next(&inbox).await, next(&inbox).await);
    assert_eq!((shape(&others), shape(&alone)), (vec![(1, 1), (3, 1)], vec![(2, 2)]));
    // Nor is it looked at together with others, when they are busy.
    others.timed_out();
    others.give_up();
    alone.timed_out();
    alone.give_up();
    let mut looks = [next(&inbox).await, next(&inbox).await].map(|look| {
        let mut shape = shape(&look);
        shape.sort_unstable();
        (look.locking, shape)
    });
    looks.sort_by_key(|(_, shape)| shape.len());
    assert_eq!(looks, [(Locking::IfFree, vec![(2, 2)]), (Locking::IfFree, vec![(1, 1), (3, 1)])]);
}

#[tokio::test]
async fn what_an_organizer_changes_behind_callers_who_are_gone_has_a_batch_of_its_own() {
    // Whichever of two busy events is looked at first.
    for _ in 0..20 {
        let (inbox, mut answers) = inbox(10_000, &[(1, BATCH + 20), (2, 5)]);
        let (end, answer) = end_of(1);
        inbox.push(end).unwrap();
        answers.push(answer);
        for mut busy in [next(&inbox).await, next(&inbox).await] {
            busy.timed_out();
            busy.give_up();
        }
        // All calls of one connection, for instance.
        answers.drain(..BATCH + 20);
        let mut looks = [shape(&next(&inbox).await), shape(&next(&inbox).await)];
        looks.sort_unstable();
        assert_eq!(looks, [vec![(1, 1)], vec![(2, 5)]]);
    }
}

/// What a runner would take now.
fn now(inbox: &Arc<Inbox>) -> Option<Vec<(u128, usize)>> {
    next_after(inbox, Duration::ZERO).map(|batch| shape(&batch))
}

#[tokio::test]
async fn of_commands_that_take_long_one_at_a_time_is_with_a_runner_and_others_pass() {
    let (inbox, mut answers) = inbox(10_000, &[]);
    let mut push = |pending: (Pending, Receiver<Answer>)| {
        inbox.push(pending.0).unwrap();
        answers.push(pending.1);
    };
    push(end_of(1));
    push(end_of(2));
    push(command(3, 0));
    let first = next(&inbox).await;
    assert_eq!(shape(&first), [(1, 1)]);
    let mut others = next(&inbox).await;
    assert_eq!(shape(&others), [(3, 1)], "its runner is not kept from the others by the second end");
    push(end_of(3));
    let mut part = std::mem::take(&mut others.commands);
    others.let_in(&mut part);
    assert_eq!(part.len(), 1, "nor let in");
    drop(others);
    assert_eq!(now(&inbox), None);
    // Whoever comes after it does not wait for it, and somebody is woken for them.
    let waits = tokio::spawn({
        let inbox = Arc::clone(&inbox);
        async move { numbers(&next(&inbox).await) }
    });
    yield_now().await;
    push(command(2, 7));
    assert_eq!(waits.await.unwrap(), [7]);
    assert_eq!(now(&inbox), None);
    // Its turn comes with the end of the first one, and somebody is woken for that, too.
    let waits = tokio::spawn({
        let inbox = Arc::clone(&inbox);
        async move { shape(&next(&inbox).await) }
    });
    yield_now().await;
    first.give_up();
    assert_eq!(waits.await.unwrap(), [(3, 1)]);
    assert_eq!(now(&inbox), Some(vec![(2, 1)]));
}

#[tokio::test]
async fn busy_events_have_their_turn_while_what_is_ready_has_to_wait() {
    let (inbox, mut answers) = inbox(10_000, &[(1, 1)]);
    let mut push = |pending: (Pending, Receiver<Answer>)| {
        inbox.push(pending.0).unwrap();
        answers.push(pending.1);
    };
    wait_in_vain(&inbox).await;
    look_in_vain(&inbox).await;
    push(end_of(2));
    let long = next(&inbox).await;
    assert_eq!(shape(&long), [(2, 1)]);
    push(end_of(3));
    let busy = next_after(&inbox, Duration::from_millis(300)).unwrap();
    assert_eq!(shape(&busy), [(1, 1)]);
    busy.give_up();
    // Nor do busy ones begin what takes long.
    push(end_of(1));
    let busy = next_after(&inbox, Duration::from_secs(1)).unwrap();
    assert_eq!(shape(&busy), [(1, 1)], "without its end");
    drop(busy);
    assert!(next_after(&inbox, Duration::from_secs(1)).is_none());
}

#[tokio::test]
async fn what_is_put_back_keeps_its_order_and_is_not_waited_for() {
    let (inbox, mut answers) = inbox(10_000, &[(1, 3), (2, 1)]);
    let mut batch = next(&inbox).await;
    assert_eq!(batch.locking, Locking::Wait);
    let (late, answer) = command(1, 3);
    inbox.push(late).unwrap();
    answers.push(answer);
    let all = std::mem::take(&mut batch.commands);
    batch.timed_out();
    batch.put_back(all);
    drop(batch);
    let mut look = next(&inbox).await;
    assert_eq!(look.locking, Locking::IfFree);
    let mut commands = std::mem::take(&mut look.commands);
    commands.sort_by_key(|pending| pending.command.event_id);
    let (one, two): (Vec<_>, Vec<_>) =
        commands.into_iter().partition(|pending| pending.command.event_id == Uuid::from_u128(1));
    // The second event is free.
    drop(two);
    look.put_back(one);
    drop(look);
    // In the meantime others come and are waited for.
    let (other, answer) = command(2, 9);
    inbox.push(other).unwrap();
    answers.push(answer);
    let other = next(&inbox).await;
    assert_eq!((shape(&other), other.locking), (vec![(2, 1)], Locking::Wait));
    let again = next(&inbox).await;
    assert_eq!((numbers(&again), again.locking), (vec![0, 1, 2, 3], Locking::IfFree));
}

/// What a runner would take after that time.
fn next_after(inbox: &Arc<Inbox>, time: Duration) -> Option<Batch> {
    let next = inbox.state().take(Instant::now() + time);
    match next {
        Next::Batch { commands, events, locking, .. } => Some(inbox.batch(commands, events, locking)),
        Next::Nothing { .. } | Next::Over => None,
    }
}

/// Takes a batch in which waiting was in vain.
async fn wait_in_vain(inbox: &Arc<Inbox>) {
    let mut batch = next(inbox).await;
    assert_eq!(batch.locking, Locking::Wait);
    let all = std::mem::take(&mut batch.commands);
    batch.timed_out();
    batch.put_back(all);
}

/// Takes a batch of which nothing was free.
async fn look_in_vain(inbox: &Arc<Inbox>) {
    let batch = next(inbox).await;
    assert_eq!(batch.locking, Locking::IfFree);
    batch.give_up();
}

impl Batch {
    /// Nothing of it could be decided.
    fn give_up(mut self) {
        let all = std::mem::take(&mut self.commands);
        self.put_back(all);
    }
}

#[tokio::test]
async fn of_many_busy_events_one_is_waited_for_at_a_time_and_others_have_their_turn_between() {
    let busy: Vec<(u128, usize)> = (1..=20).map(|event| (event, 5)).collect();
    let (inbox, mut answers) = inbox(10_000, &busy);
    wait_in_vain(&inbox).await;
    look_in_vain(&inbox).await;
    let waits = next_after(&inbox, Duration::from_millis(300)).unwrap();
    assert_eq!((shape(&waits).len(), waits.locking), (1, Locking::Wait));
    let mut push = |event| {
        let (other, answer) = command(event, 0);
        inbox.push(other).unwrap();
        answers.push(answer);
    };
    push(99);
    let turn = next_after(&inbox, Duration::from_millis(300)).unwrap();
    assert_eq!(shape(&turn), [(99, 1)], "before others had their turn, nobody looks");
    drop(turn);
    let looks = next_after(&inbox, Duration::from_millis(300)).unwrap();
    assert_eq!(
        (shape(&looks).len(), looks.locking),
        (19, Locking::IfFree),
        "a second runner waits for no other"
    );
    push(99);
    looks.give_up();
    waits.give_up();
    let turn = next_after(&inbox, Duration::from_millis(300)).unwrap();
    assert_eq!(shape(&turn), [(99, 1)], "nor does the only one wait, after looking");
    drop(turn);
    push(99);
    let waits = next_after(&inbox, Duration::from_millis(300)).unwrap();
    assert_eq!((shape(&waits).len(), waits.locking), (1, Locking::Wait));
    assert_ne!(shape(&waits), [(99, 1)]);
    waits.give_up();
    let turn = next_after(&inbox, Duration::from_millis(300)).unwrap();
    assert_eq!(shape(&turn), [(99, 1)], "or after waiting");
}

#[tokio::test]
async fn of_busy_events_that_all_may_be_waited_for_each_has_its_turn() {
    let busy: Vec<(u128, usize)> = (1..=9).map(|event| (event, 5)).collect();
    let (inbox, _answers) = inbox(10_000, &busy);
    wait_in_vain(&inbox).await;
    let mut waited_for = Vec::new();
    for _ in 0..9 {
        // So late that even the one that was waited for last may be waited for again.
        let mut batch = next_after(&inbox, Duration::from_secs(10)).unwrap();
        assert_eq!(batch.locking, Locking::Wait);
        waited_for.extend(shape(&batch));
        batch.timed_out();
        batch.give_up();
    }
    waited_for.sort_unstable();
    assert_eq!(waited_for, busy);
}

#[tokio::test]
async fn looking_at_busy_events_takes_no_more_than_a_batch() {
    let busy: Vec<(u128, usize)> = (1..=4).map(|event| (event, 60)).collect();
    let (inbox, mut answers) = inbox(10_000, &busy);
    wait_in_vain(&inbox).await;
    for event in 1..=4 {
        for number in 60..120 {
            let (late, answer) = command(event, number);
            inbox.push(late).unwrap();
            answers.push(answer);
        }
    }
    let first = next(&inbox).await;
    assert_eq!((first.commands.len(), first.locking), (BATCH, Locking::IfFree));
}

#[tokio::test]
async fn that_an_event_was_busy_is_remembered_for_a_while() {
    let (inbox, mut answers) = inbox(10_000, &[(1, 1)]);
    wait_in_vain(&inbox).await;
    assert_eq!(inbox.busy(), 1);
    answers.clear();
    // Nobody waits for it any more.
    let gone = next(&inbox).await;
    assert_eq!((gone.commands.len(), gone.locking), (0, Locking::IfFree));
    drop(gone);
    assert_eq!(inbox.busy(), 0, "nobody wants it");
    let (late, answer) = command(1, 1);
    inbox.push(late).unwrap();
    answers.push(answer);
    look_in_vain(&inbox).await;
    answers.clear();
    drop(next_after(&inbox, BUSY_MEMORY / 2));
    assert!(next_after(&inbox, BUSY_MEMORY / 2).is_none());
    assert!(!inbox.state().events.is_empty());
    assert!(next_after(&inbox, BUSY_MEMORY * 2).is_none());
    assert!(inbox.state().events.is_empty());
}

#[tokio::test]
async fn a_batch_ends_with_the_end_of_an_event() {
    let (inbox, mut answers) = inbox(10_000, &[(1, 1)]);
    let (end, answer) = end_of(1);
    inbox.push(end).unwrap();
    answers.push(answer);
    let (behind, answer) = command(1, 7);
    inbox.push(behind).unwrap();
    answers.push(answer);
    let batch = next(&inbox).await;
    assert_eq!(numbers(&batch), [0, u128::MAX]);
    drop(batch);
    assert_eq!(numbers(&next(&inbox).await), [7]);
}

#[tokio::test]
async fn one_event_takes_half_of_the_room_and_no_more() {
    let (inbox, _answers) = inbox(100, &[(1, 50)]);
    assert_eq!(inbox.push(command(1, 50).0), Err(CommandError::Overloaded));
    let (neighbours, _others): (Vec<_>, Vec<_>) = (0..50).map(|event| command(100 + event, 0)).unzip();
    for neighbour in neighbours {
        assert_eq!(inbox.push(neighbour), Ok(()));
    }
    assert_eq!(inbox.push(command(2, 0).0), Err(CommandError::Overloaded));
    assert_eq!(inbox.waiting(), 100);
}

#[tokio::test]
async fn what_a_runner_has_takes_room_until_it_is_done_with() {
    let (inbox, _answers) = inbox(100, &[(1, 50), (2, 49)]);
    let mut batch = next(&inbox).await;
    assert_eq!(inbox.push(command(1, 50).0), Err(CommandError::Overloaded));
    let all = std::mem::take(&mut batch.commands);
    batch.put_back(all);
    drop(batch);
    assert_eq!(inbox.push(command(1, 50).0), Err(CommandError::Overloaded));
    drop(next(&inbox).await);
    let (neighbours, _others): (Vec<_>, Vec<_>) = (0..100).map(|event| command(100 + event, 0)).unzip();
    for neighbour in neighbours {
        assert_eq!(inbox.push(neighbour), Ok(()));
    }
    assert_eq!(inbox.push(command(300, 0).0), Err(CommandError::Overloaded));
}

#[tokio::test]
async fn commands_that_nobody_waits_for_take_no_room_and_no_place_in_a_batch() {
    let (inbox, answers) = inbox(512, &[(1, 256)]);
    drop(answers);
    let (living, _answer) = command(1, 1_000);
    assert_eq!(inbox.push(living), Ok(()), "the dead make room");
    assert_eq!(inbox.waiting(), 1);
    assert_eq!(inbox.state().ready, [Uuid::from_u128(1)], "its turn is not given twice");
    let (batch_of_living, _answers) = {
        let (inbox, mut answers) = self::inbox(10_000, &[(1, 300)]);
        answers.drain(..299);
        (next(&inbox).await, answers)
    };
    assert_eq!(numbers(&batch_of_living), [299]);
}

#[tokio::test]
async fn a_closed_inbox_is_over_when_nothing_is_left_in_it() {
    let (inbox, _answers) = inbox(10, &[(1, 1)]);
    inbox.close();
    assert_eq!(inbox.push(command(2, 0).0), Err(CommandError::ShuttingDown));
    assert_eq!(shape(&next(&inbox).await), [(1, 1)]);
    assert!(inbox.next().await.is_none());
    assert!(inbox.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_waits_has_a_runner_come_for_it_sooner_or_later() {
    let inbox = Arc::new(Inbox::new(10_000));
    let runners: Vec<_> = (0..3)
        .map(|_| {
            let inbox = Arc::clone(&inbox);
            tokio::spawn(async move {
                while let Some(mut batch) = inbox.next().await {
                    let commands = std::mem::take(&mut batch.commands);
                    if batch.locking == Locking::Wait && rand::random_ratio(1, 200) {
                        batch.timed_out();
                        batch.put_back(commands);
                        continue;
                    }
                    yield_now().await;
                    commands.into_iter().for_each(|pending| pending.answer(Err(CommandError::Internal)));
                    // Who is answered asks again before the batch gives its events back.
                    yield_now().await;
                }
            })
        })
        .collect();
    let all = async {
        // Alone, when all runners sleep; in company, when they come and go.
        for clients in [1, 2, 20] {
            try_join_all((0..clients).map(|client| {
                let inbox = Arc::clone(&inbox);
                tokio::spawn(async move {
                    for number in 0..300 {
                        if clients == 1 {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        let (pending, answer) = command((client + number) % 3, number);
                        inbox.push(pending).unwrap();
                        assert_eq!(answer.await.unwrap(), Err(CommandError::Internal));
                    }
                })
            }))
            .await
            .unwrap();
        }
        inbox.close();
        try_join_all(runners).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("nobody came");
}
