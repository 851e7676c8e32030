//! The course of every test: a crowd, faults, the crowd's last questions, and the proof.

use std::time::{Duration, Instant};

use rowlock_proto::booking::v1::Event;
use service_core::auth::Role;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::caller::Caller;
use crate::checks::violations;
use crate::follow::{Follower, Watcher};
use crate::journal::{Answer, Journal};
use crate::load::{Crowd, Load};
use crate::refusal::assert_refused;
use crate::report::{self, Counts};
use crate::stage::{Stage, ask_for_somebody};
use crate::system::PATIENCE;

/// Calls below which a fault has met with nobody.
const ENOUGH: usize = 50;

/// How much later than its deadline a call may end.
const GRACE: Duration = Duration::from_millis(500);

/// For how long after a fault those who listen may still wait for what happened: what stands still is looked at again within a
/// second of its end, or of the driver's patience with it.
const HEARING: Duration = Duration::from_secs(20);

/// What [`DEFAULT_DEADLINE`] says.
const DEADLINE: Duration = Duration::from_secs(3);

/// The deadline that replicas give to calls that bring none, where such calls are told in vain of a seat. A client that
/// brings its own ends by its own timer, and proves nothing.
pub(crate) const DEFAULT_DEADLINE: [&str; 2] = ["--default-deadline", "3s"];

/// The ends of calls that nobody can answer before the default deadline, and when they came.
#[derive(Debug, Default)]
pub(crate) struct Ends(Vec<(Duration, Status)>);

impl Ends {
    /// Asks for a seat, and is told by the server that it will not be.
    pub(crate) async fn of_one(service: &Caller, event: &Event) -> Self {
        let began = Instant::now();
        let status =
            service.try_register(ask_for_somebody(event)).await.expect_err("a seat that nobody can give");
        Self(vec![(began.elapsed(), status)])
    }

    pub(crate) fn extend(&mut self, more: impl IntoIterator<Item = Self>) {
        self.0.extend(more.into_iter().flat_map(|ends| ends.0));
    }

    pub(crate) fn tell(&self) -> String {
        let latest =
            self.0.iter().map(|(after, _)| *after).max().unwrap_or_default().saturating_sub(DEADLINE);
        format!("{} calls ended by the server at most {latest:.0?} after their deadlines", self.0.len())
    }

    pub(crate) fn assert_in_time(&self) {
        assert!(!self.0.is_empty(), "nobody called");
        for (after, status) in &self.0 {
            if status.code() == Code::Unavailable {
                // Where the database is found to be gone there is nothing to wait for.
                assert_refused(status, "DATABASE_UNAVAILABLE");
            } else {
                assert_refused(status, "DEADLINE_EXCEEDED");
                assert!(*after + GRACE >= DEADLINE, "{after:?} after it began");
            }
            assert!(*after <= DEADLINE + GRACE, "{after:?} after it began");
        }
    }
}

/// A crowd at work, and those who look on.
pub(crate) struct Ordeal {
    pub(crate) load: Load,
    follower: Follower,
    watchers: Vec<Watcher>,
}

/// What is said of it in the end.
pub(crate) struct Verdict {
    /// Calls that changed or could have changed something.
    pub(crate) operations: usize,
    pub(crate) made: usize,
    pub(crate) unknown: usize,
    /// Of the unknown, those that a repetition told.
    pub(crate) resolved: usize,
    /// How often the one of those who watch that did so least opened a watch.
    pub(crate) watches: usize,
    pub(crate) violations: Vec<String>,
}

impl Ordeal {
    pub(crate) fn begin(stage: &Stage, crowd: Crowd) -> Self {
        let ways = |role| crowd.front.iter().map(|way| stage.caller(role, way.clone())).collect::<Vec<_>>();
        let watchers =
            crowd.events[..2].iter().map(|event| Watcher::start(event, ways(Role::Attendee))).collect();
        let follower = Follower::start(ways(Role::Admin));
        Self { load: Load::start(crowd), follower, watchers }
    }

    /// Ends it, and prints and asserts that nothing was violated.
    pub(crate) async fn prove(self, stage: &Stage, fault: &str, injected: usize) -> Verdict {
        self.prove_with(stage, fault, injected, "").await
    }

    /// The same, with figures of the fault's own.
    pub(crate) async fn prove_with(
        self,
        stage: &Stage,
        fault: &str,
        injected: usize,
        figures: &str,
    ) -> Verdict {
        let (verdict, line) = self.judge(stage).await;
        let counts = Counts {
            operations: Some(verdict.operations),
            unknown: Some(verdict.unknown),
            resolved: Some(verdict.resolved),
            violations: Some(verdict.violations.len()),
        };
        report::tell(fault, injected, &counts, &format!("{line}{figures}"));
        assert!(verdict.violations.is_empty(), "{fault}: {:#?}", verdict.violations);
        // What was never tried holds.
        assert!(injected > 0, "{fault}: nothing was injected");
        assert!(
            verdict.operations >= ENOUGH && verdict.made > 0,
            "{fault}: hardly anything was asked: {line}"
        );
        verdict
    }

    /// Ends it, and finds everything that is wrong.
    pub(crate) async fn judge(mut self, stage: &Stage) -> (Verdict, String) {
        let took = self.load.end().await;
        stage.ready().await;
        let began = Instant::now();
        let replayed = self.load.replay().await;
        let known = began.elapsed();
        let lapsed = no_hold_is_due(stage).await;
        let swept = began.elapsed();
        let front = self.load.crowd.front.clone();
        let admin = stage.caller(Role::Admin, front[0].clone());
        let (mut wrong, streams) = self.follower.end(&admin, &stage.pool, HEARING).await;
        let mut watches = usize::MAX;
        for watcher in self.watchers {
            let (told, opened) = watcher.end(&stage.pool, HEARING).await;
            wrong.extend(told);
            watches = watches.min(opened);
        }
        let told = began.elapsed();
        wrong.extend(unproven(&admin, &self.load.crowd.events).await);
        wrong.extend(unforeseen(&self.load.journal));
        wrong.extend(lapsed);
        // A session that is on its way out may hold a lock for a moment yet.
        let until = Instant::now() + Duration::from_secs(5);
        let mut found = violations(&stage.database, &stage.pool, &self.load.journal).await;
        while !found.is_empty() && Instant::now() < until {
            sleep(Duration::from_millis(100)).await;
            found = violations(&stage.database, &stage.pool, &self.load.journal).await;
        }
        wrong.extend(found);

        let (asks, moves) = (self.load.journal.asks(), self.load.journal.moves());
        let operations = asks.len() + moves.len();
        let made = asks.iter().filter(|(_, answer)| matches!(answer, Answer::Made(_))).count();
        let refused = asks.iter().filter(|(_, answer)| matches!(answer, Answer::Refused(_))).count();
        let left = asks.iter().filter(|(_, answer)| answer.is_unknown()).count()
            + moves.iter().filter(|(.., answer)| answer.is_unknown()).count();
        let resolved = replayed.saturating_sub(left);
        let line = format!(
            "operations {operations} in {:.1} s ({made} made, {refused} refused, {} moves), unknown {replayed}, resolved {resolved}, \
             all known {known:.1?}, swept {swept:.1?} and told {told:.1?} later, streams of changes {streams}, watches {watches}, \
             violations {}, no answer or none yet {:?}",
            took.as_secs_f64(),
            moves.len(),
            wrong.len(),
            self.load.journal.troubles(),
        );
        (Verdict { operations, made, unknown: replayed, resolved, watches, violations: wrong }, line)
    }
}

/// Short holds lapse while nobody asks for anything: what is compared afterwards has to stand still.
async fn no_hold_is_due(stage: &Stage) -> Option<String> {
    let due = "SELECT count(*) FROM registrations
                WHERE state = 'HELD' AND hold_expire_time < clock_timestamp() + interval '1 minute'";
    let until = Instant::now() + PATIENCE;
    loop {
        let left: i64 = sqlx::query_scalar(due).fetch_one(&stage.pool).await.unwrap();
        if left == 0 || Instant::now() > until {
            return (left > 0).then(|| format!("{left} holds have lapsed and are still there"));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// A client may be told that nobody knows, but never that something broke.
pub(crate) fn unforeseen(journal: &Journal) -> Vec<String> {
    let answers = journal.troubles().into_iter().filter(|(why, _)| why == "INTERNAL_ERROR");
    answers.map(|(why, count)| format!("{count} answers are {why}")).collect()
}

/// Events that are wrong by the service's own account.
pub(crate) async fn unproven(admin: &Caller, events: &[Event]) -> Vec<String> {
    let mut wrong = Vec::new();
    for event in events {
        match admin.verify(event).await {
            Ok(proof) if proof.consistent && proof.findings.is_empty() => {}
            answer => wrong.push(format!("VerifyEvent of {}: {answer:?}", event.event_id)),
        }
    }
    wrong
}
