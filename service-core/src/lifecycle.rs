//! The end and the beginning of serving: signals that ask to stop, and what must be there before traffic may come.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Says when to stop.
#[derive(Clone, Debug)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Stops on SIGTERM or SIGINT. The first one asks to finish what is accepted; the second ends the process at once
    /// with 143 or 130.
    ///
    /// # Errors
    /// If the signals cannot be listened to.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::manual();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = shutdown.token();
        tokio::spawn(async move {
            loop {
                let (name, exit_code) = tokio::select! {
                    _ = terminate.recv() => ("SIGTERM", 143),
                    _ = interrupt.recv() => ("SIGINT", 130),
                };
                if token.is_cancelled() {
                    tracing::warn!(signal = name, "second signal: exit at once");
                    std::process::exit(exit_code);
                }
                tracing::info!(signal = name, "shutting down: finishing what is accepted");
                token.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Stops when [`Shutdown::trigger`] is called. For tests and tools.
    #[must_use]
    pub fn manual() -> Self {
        Self(CancellationToken::new())
    }

    /// Is cancelled when the shutdown begins.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }

    /// Begins the shutdown.
    pub fn trigger(&self) {
        self.0.cancel();
    }
}

/// Whether one thing that serving needs is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckState {
    /// It is.
    Ready,
    /// It is, but not as it should be, for this reason. Traffic may come.
    Degraded(String),
    /// It is not, for this reason. The reason is shown to operators: no secrets, no driver text.
    Unready(String),
}

impl CheckState {
    fn lets_traffic_come(&self) -> bool {
        !matches!(self, Self::Unready(_))
    }
}

/// What [`Readiness`] knows at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadinessSnapshot {
    /// Every check by its name.
    pub checks: BTreeMap<&'static str, CheckState>,
    /// Whether the shutdown has begun.
    pub draining: bool,
}

impl ReadinessSnapshot {
    /// Whether traffic may come: every check is ready and the shutdown has not begun.
    #[must_use]
    pub fn all_ready(&self) -> bool {
        !self.draining && self.checks.values().all(CheckState::lets_traffic_come)
    }

    /// For `/readyz`: `{"ready":false,"draining":false,"checks":{"database":"unreachable"}}`; a check that is ready says
    /// `"ready"`, and one that is so only just says `"ready, but …"`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let checks: BTreeMap<_, _> = self
            .checks
            .iter()
            .map(|(name, state)| match state {
                CheckState::Ready => (*name, "ready".to_owned()),
                CheckState::Degraded(reason) => (*name, format!("ready, but {reason}")),
                CheckState::Unready(reason) => (*name, reason.clone()),
            })
            .collect();
        serde_json::json!({ "ready": self.all_ready(), "draining": self.draining, "checks": checks })
            .to_string()
    }
}

/// The named checks that must all be ready before traffic may come. Clones share them.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<ReadinessSnapshot>>);

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Without checks: ready.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(ReadinessSnapshot::default())))
    }

    /// Adds a check, which is not ready yet.
    #[must_use]
    pub fn register(&self, name: &'static str) -> ReadinessHandle {
        let handle = ReadinessHandle { readiness: self.clone(), name };
        handle.set_unready("starting");
        handle
    }

    /// Whether traffic may come.
    #[must_use]
    pub fn all_ready(&self) -> bool {
        self.0.borrow().all_ready()
    }

    /// Every check and its state.
    #[must_use]
    pub fn snapshot(&self) -> ReadinessSnapshot {
        self.0.borrow().clone()
    }

    /// Tells of every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<ReadinessSnapshot> {
        self.0.subscribe()
    }

    /// Says that the shutdown has begun: from now on nothing is ready.
    pub fn drain(&self) {
        self.0.send_if_modified(|snapshot| !std::mem::replace(&mut snapshot.draining, true));
    }

    fn set(&self, name: &'static str, state: CheckState) {
        metrics::gauge!("ready", "check" => name).set(f64::from(u8::from(state.lets_traffic_come())));
        let changed = self.0.send_if_modified(|snapshot| {
            if snapshot.checks.get(name) == Some(&state) {
                return false;
            }
            snapshot.checks.insert(name, state.clone());
            true
        });
        if changed {
            match state {
                CheckState::Ready => tracing::info!(check = name, "ready"),
                CheckState::Degraded(reason) => tracing::warn!(check = name, reason, "ready, but"),
                CheckState::Unready(reason) => tracing::warn!(check = name, reason, "not ready"),
            }
        }
    }
}

/// Sets one check of a [`Readiness`].
#[derive(Clone, Debug)]
pub struct ReadinessHandle {
    readiness: Readiness,
    name: &'static str,
}

impl ReadinessHandle {
    /// It is there.
    pub fn set_ready(&self) {
        self.readiness.set(self.name, CheckState::Ready);
    }

    /// It is, but not as it should be. Operators see the reason, which continues "ready, but".
    pub fn set_degraded(&self, reason: &str) {
        self.readiness.set(self.name, CheckState::Degraded(reason.to_owned()));
    }

    /// It is not. Operators see the reason: no secrets, no driver text.
    pub fn set_unready(&self, reason: &str) {
        self.readiness.set(self.name, CheckState::Unready(reason.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn traffic_may_come_when_every_check_is_ready_and_until_the_shutdown() {
        let readiness = Readiness::new();
        let (database, keys) = (readiness.register("database"), readiness.register("keys"));
        assert!(!readiness.all_ready());
        database.set_ready();
        assert!(!readiness.all_ready());
        keys.set_ready();
        assert!(readiness.all_ready());
        database.set_unready("unreachable");
        assert!(!readiness.all_ready());
        assert_eq!(
            readiness.snapshot().to_json(),
            r#"{"checks":{"database":"unreachable","keys":"ready"},"draining":false,"ready":false}"#
        );
        database.set_degraded("slow");
        assert!(readiness.all_ready());
        assert!(readiness.snapshot().to_json().contains(r#""database":"ready, but slow""#));
        database.set_ready();
        readiness.drain();
        assert!(!readiness.all_ready());
    }

    #[test]
    fn the_metric_is_0_only_where_traffic_may_not_come() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = |expected: &str| recorder.handle().render().contains(expected);
        metrics::with_local_recorder(&recorder, || {
            let check = Readiness::new().register("revocations");
            assert!(shown("ready{check=\"revocations\"} 0\n"));
            check.set_degraded("they are not known");
            assert!(shown("ready{check=\"revocations\"} 1\n"));
            check.set_unready("they are not known");
            assert!(shown("ready{check=\"revocations\"} 0\n"));
            check.set_ready();
            assert!(shown("ready{check=\"revocations\"} 1\n"));
        });
    }

    #[tokio::test]
    async fn only_changes_are_told() {
        let readiness = Readiness::new();
        let check = readiness.register("database");
        let mut watch = readiness.watch();
        watch.mark_unchanged();
        check.set_unready("starting");
        assert!(!watch.has_changed().unwrap());
        check.set_ready();
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        check.set_ready();
        assert!(!watch.has_changed().unwrap());
        readiness.drain();
        assert!(watch.has_changed().unwrap());
    }
}
