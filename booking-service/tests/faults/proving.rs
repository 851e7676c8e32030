//! The course of every test: a crowd, faults, the crowd's last questions, and the proof.

use std::time::Duration;

use rowlock_proto::booking::v1::Event;
use service_core::auth::Role;

use crate::checks::violations;
use crate::follow::{Follower, Watcher};
use crate::journal::{Answer, Journal};
use crate::load::{Crowd, Load};
use crate::report::{self, Counts};
use crate::stage::Stage;
use crate::system::PATIENCE;

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
        verdict
    }

    /// Ends it, and finds everything that is wrong.
    pub(crate) async fn judge(mut self, stage: &Stage) -> (Verdict, String) {
        let took = self.load.end().await;
        stage.ready().await;
        let replayed = self.load.replay().await;
        let front = self.load.crowd.front.clone();
        let admin = stage.caller(Role::Admin, front[0].clone());
        let (mut wrong, streams) = self.follower.end(&admin, &stage.pool, PATIENCE).await;
        for watcher in self.watchers {
            wrong.extend(watcher.end(&stage.pool, PATIENCE).await);
        }
        wrong.extend(unproven(&admin, &self.load.crowd.events).await);
        wrong.extend(unforeseen(&self.load.journal));
        // A session that is on its way out may hold a lock for a moment yet.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        wrong.extend(violations(&stage.database, &stage.pool, &self.load.journal).await);

        let (asks, moves) = (self.load.journal.asks(), self.load.journal.moves());
        let operations = asks.len() + moves.len();
        let made = asks.iter().filter(|(_, answer)| matches!(answer, Answer::Made(_))).count();
        let refused = asks.iter().filter(|(_, answer)| matches!(answer, Answer::Refused(_))).count();
        let left = asks.iter().filter(|(_, answer)| answer.is_unknown()).count()
            + moves.iter().filter(|(.., answer)| answer.is_unknown()).count();
        let resolved = replayed.saturating_sub(left);
        let line = format!(
            "operations {operations} in {:.1} s ({made} made, {refused} refused, {} moves), unknown {replayed}, resolved {resolved}, \
             streams of changes {streams}, violations {}, unknown for {:?}",
            took.as_secs_f64(),
            moves.len(),
            wrong.len(),
            self.load.journal.unknown(),
        );
        (Verdict { operations, made, unknown: replayed, resolved, violations: wrong }, line)
    }
}

/// A client may be told that nobody knows, but never that something broke.
pub(crate) fn unforeseen(journal: &Journal) -> Vec<String> {
    let answers = journal.unknown().into_iter().filter(|(why, _)| why == "INTERNAL_ERROR");
    answers.map(|(why, count)| format!("{count} answers are {why}")).collect()
}

/// Events that are wrong by the service's own account.
pub(crate) async fn unproven(admin: &crate::caller::Caller, events: &[Event]) -> Vec<String> {
    let mut wrong = Vec::new();
    for event in events {
        match admin.verify(event).await {
            Ok(proof) if proof.consistent && proof.findings.is_empty() => {}
            answer => wrong.push(format!("VerifyEvent of {}: {answer:?}", event.event_id)),
        }
    }
    wrong
}
