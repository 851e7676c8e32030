//! The standard health service, driven by the readiness.

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::lifecycle::ReadinessSnapshot;

/// What liveness probes ask for: serving as long as it can answer. What is missing shows elsewhere; a restart would not
/// bring it.
const LIVENESS: &str = "liveness";

/// Says that the server is alive.
pub(super) async fn report_alive(reporter: &HealthReporter) {
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
}

/// Says of the server as a whole (the empty name) and of every service whether it serves.
pub(super) async fn report(reporter: &HealthReporter, services: &[&'static str], serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in [""].iter().chain(services) {
        reporter.set_service_status(*name, status).await;
    }
}

/// Reports every change of the readiness.
pub(super) async fn follow(
    reporter: HealthReporter,
    services: Vec<&'static str>,
    mut readiness: watch::Receiver<ReadinessSnapshot>,
) {
    loop {
        let serving = readiness.borrow_and_update().all_ready();
        report(&reporter, &services, serving).await;
        if readiness.changed().await.is_err() {
            return;
        }
    }
}
