//! The retry policy that is shipped with the contract, done by hand: tonic's client does not read service configs.

use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};

const SERVICE_CONFIG: &str = include_str!("../../../proto/service-config.json");

/// The `retryPolicy` of Register.
#[derive(Clone, Debug)]
pub(crate) struct RetryPolicy {
    pub(crate) max_attempts: u64,
    pub(crate) initial_backoff: Duration,
    pub(crate) max_backoff: Duration,
    pub(crate) multiplier: f64,
    retried: Vec<serde_json::Value>,
}

impl RetryPolicy {
    pub(crate) fn shipped() -> Self {
        let config: serde_json::Value = serde_json::from_str(SERVICE_CONFIG).unwrap();
        let covers = |part: &&serde_json::Value| {
            let names = part["name"].as_array().unwrap();
            names.iter().any(|name| name["service"] == "rowlock.booking.v1.RegistrationService")
        };
        let policy = &config["methodConfig"].as_array().unwrap().iter().find(covers).unwrap()["retryPolicy"];
        let retried = policy["retryableStatusCodes"].as_array().unwrap().clone();
        let seconds = |name: &str| {
            let text = policy[name].as_str().unwrap().strip_suffix('s').unwrap();
            Duration::from_secs_f64(text.parse().unwrap())
        };
        Self {
            max_attempts: policy["maxAttempts"].as_u64().unwrap(),
            initial_backoff: seconds("initialBackoff"),
            max_backoff: seconds("maxBackoff"),
            multiplier: policy["backoffMultiplier"].as_f64().unwrap(),
            retried,
        }
    }

    /// What clients of every language call UNAVAILABLE; a connection that breaks is something else to tonic alone.
    pub(crate) fn repeats(&self, status: &Status) -> bool {
        let name = match status.code() {
            Code::Unavailable => "UNAVAILABLE",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            _ if status.source().is_some_and(<dyn Error>::is::<tonic::transport::Error>) => "UNAVAILABLE",
            _ => return false,
        };
        self.retried.iter().any(|retried| retried == name)
    }
}
