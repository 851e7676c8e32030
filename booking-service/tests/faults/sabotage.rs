//! Those who look on, and what the service says of itself: each is shown something wrong, and has to say so. For the checks
//! of rows and books see `planted`.

use std::sync::Arc;
use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;

use crate::checks::violations;
use crate::follow::{Follower, Watcher};
use crate::journal::{Answer, Ask, Journal, Made, Move};
use crate::load::Crowd;
use crate::proof::id;
use crate::proving::{unforeseen, unproven};
use crate::system::{PATIENCE, System, eventually};

/// A replica, and a client's books of some honest calls.
pub(crate) struct Honest {
    pub(crate) system: System,
    pub(crate) event: pb::Event,
    pub(crate) journal: Journal,
}

impl Honest {
    /// An event with two seats: two have one, three wait, two are refused.
    pub(crate) async fn calls() -> Self {
        let system = System::with_replicas(1).await;
        let event = system.event(2).await;
        let journal = Journal::default();
        let mint = Arc::new(service_core::test_support::TokenMint::new());
        let front = vec![system.replicas[0].channel.clone()];
        let crowd = Crowd { deadline: PATIENCE, ..Crowd::of(vec![event.clone()], front, mint) };
        for n in 0..7 {
            let ask = Ask {
                event: id(&event.event_id),
                user: system.new_id(),
                request_id: system.new_id(),
                seats: 1,
                hold: None,
                queue: n < 5,
            };
            let line = journal.ask(ask);
            let caller = system.caller_with_id(Role::Attendee, ask.user);
            let answer = crate::load::Person::new(&crowd, caller).ask(&crowd, ask).await;
            assert!(!answer.is_unknown(), "{answer:?}");
            journal.answered(line, &answer);
        }
        Self { system, event, journal }
    }

    pub(crate) async fn violations(&self) -> Vec<String> {
        violations(&self.system.database, &self.system.pool, &self.journal).await
    }

    async fn sql(&self, sql: &'static str) {
        let done = sqlx::raw_sql(sql).execute(&self.system.pool).await.unwrap();
        assert!(done.rows_affected() > 0, "{sql}");
    }
}

pub(crate) fn assert_named(words: &str, complaints: &[String]) {
    assert!(complaints.iter().any(|complaint| complaint.contains(words)), "{words}: {complaints:#?}");
}

const SOON: Duration = Duration::from_secs(30);
/// Enough for what never comes.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_tells_something_else_than_the_tables_is_found() {
    let honest = Honest::calls().await;
    let (admin, pool) = (honest.system.admin(), &honest.system.pool);
    let follow = async |patience| {
        let follower = Follower::start(vec![admin.clone()]);
        follower.end(&admin, pool, patience).await.0
    };
    assert_eq!(follow(SOON).await, Vec::<String>::new());
    honest.sql("UPDATE waitlist_entries SET state = 'LEFT' WHERE position = 1").await;
    let wrong = follow(SOON).await;
    assert_named("the table says", &wrong);
    assert_named("the feed says", &wrong);
    honest.sql("UPDATE events SET version = version + 1").await;
    assert_named("the change stream does not reach the end", &follow(SHORT).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_with_a_gap_is_found() {
    let honest = Honest::calls().await;
    let admin = honest.system.admin();
    honest.sql("DELETE FROM changes WHERE version = 4").await;
    let follower = Follower::start(vec![admin.clone()]);
    eventually(async || follower.has_ended()).await;
    assert_named("the change stream: ", &follower.end(&admin, &honest.system.pool, SHORT).await.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_told_nothing_or_nonsense_or_the_past_is_found() {
    let mut honest = Honest::calls().await;
    honest.system.add_replica(|_| {}).await;
    honest.system.replicas[1].ready().await;
    let admin = honest.system.admin();
    let ways: Vec<_> = honest.system.replicas.iter().map(|replica| admin.clone().at(replica)).collect();
    let pool = &honest.system.pool.clone();
    let watcher = Watcher::start(&honest.event, ways.clone());
    assert_eq!(watcher.end(pool, SOON).await.0, Vec::<String>::new());

    sqlx::raw_sql("ALTER TABLE events DROP CONSTRAINT events_seats_in_range").execute(pool).await.unwrap();
    honest.sql("UPDATE events SET seats_remaining = 3").await;
    let watcher = Watcher::start(&honest.event, ways.clone());
    eventually(async || watcher.version() > 0).await;
    // The replica that it watches ends, and the other one knows less.
    let present = watcher.version();
    honest.sql("UPDATE events SET version = version - 2").await;
    honest.system.replicas[0].stop.cancel();
    eventually(async || watcher.version() < present).await;
    // And then there is nobody left to tell it the present.
    honest.system.stop().await;
    honest.sql("UPDATE events SET version = version + 10").await;
    let wrong = watcher.end(pool, SHORT).await.0;
    assert_named("a watch tells", &wrong);
    assert_named("a watch goes back", &wrong);
    assert_named("never tells", &wrong);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_service_says_against_itself_is_heard() {
    let honest = Honest::calls().await;
    let (admin, events) = (honest.system.admin(), [honest.event.clone()]);
    assert_eq!(unproven(&admin, &events).await, Vec::<String>::new());
    assert_eq!(unforeseen(&honest.journal), Vec::<String>::new());
    honest.sql("UPDATE events SET waitlist_size = waitlist_size + 1").await;
    assert_named("VerifyEvent", &unproven(&admin, &events).await);
    honest.journal.answered(0, &Answer::Unknown("INTERNAL_ERROR".to_owned()));
    assert_named("1 answers are INTERNAL_ERROR", &unforeseen(&honest.journal));
    honest.journal.wrong("two answers to one request".to_owned());
    assert_named("two answers to one request", &honest.violations().await);
}

#[test]
fn a_move_that_nobody_can_refuse_is_found_when_it_is_refused() {
    let made = |lapses| {
        let id = uuid::Uuid::from_u128(1);
        Made { id, entry: false, state: "HELD", seats: 1, lapses }
    };
    let refused = |action, made, reason: &str| {
        let journal = Journal::default();
        let line = journal.make_move(uuid::Uuid::from_u128(2), action, &made);
        journal.moved(line, &Answer::Refused(reason.to_owned()));
        journal.all_wrong()
    };
    for (action, reason) in [(Move::Confirm, "HOLD_EXPIRED"), (Move::Cancel, "STATE_CONFLICT")] {
        assert_named("a move is refused for what cannot be", &refused(action, made(false), reason));
        assert_eq!(refused(action, made(true), reason), Vec::<String>::new());
    }
    for action in [Move::Confirm, Move::Cancel, Move::Leave, Move::Accept, Move::Decline] {
        assert_named("a move is refused for what cannot be", &refused(action, made(true), "EVENT_FULL"));
        assert_eq!(refused(action, made(false), "OVERLOADED"), Vec::<String>::new());
    }
}
