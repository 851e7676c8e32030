//! The deadline of a call: the caller's `grpc-timeout`, or the server's default.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{Middleware, Next, Request, Response, held_until_end, refuse};
use crate::status::{Failure, reason};

/// Until when the response must have begun. In the extensions of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(pub Instant);

/// Until when the response to this request must have begun: work that cannot be done by then need not be started. A stream
/// may go on after it.
///
/// Without the deadline layer, as in a unit test, that is 30 seconds from now.
#[must_use]
pub fn deadline<T>(request: &tonic::Request<T>) -> Instant {
    request.extensions().get::<Deadline>().map_or_else(|| Instant::now() + Duration::from_secs(30), |d| d.0)
}

/// Answers DEADLINE_EXCEEDED in time. Tonic's own timer, which sits outside of all layers, would answer CANCELLED without
/// details, so this one fires a little earlier.
#[derive(Clone)]
pub(crate) struct DeadlineLayer {
    pub(crate) domain: &'static str,
    /// For calls that bring no timeout; and whatever they bring, for their message to arrive: until then a call takes a
    /// place and does nothing.
    pub(crate) default: Duration,
    /// No call waits for longer, whatever its caller would.
    pub(crate) longest: Duration,
}

impl Middleware for DeadlineLayer {
    async fn handle(&self, mut request: Request, next: &impl Next) -> Response {
        let allowed =
            timeout(request.headers()).map_or(self.default, |given| given.saturating_sub(head_start(given)));
        let allowed = allowed.min(self.longest);
        let began = Instant::now();
        request.extensions_mut().insert(Deadline(began + allowed));
        let late = |message| {
            refuse(Failure::new(Code::DeadlineExceeded, self.domain, reason::DEADLINE_EXCEEDED, message))
        };
        // Whoever is no more patient than that is told by its own deadline.
        let arrived = (allowed > self.default).then(CancellationToken::new);
        if let Some(arrived) = &arrived {
            // Whoever reads the message lets go of the body then.
            let reading = arrived.clone().drop_guard();
            request = request.map(|body| held_until_end(body, reading));
        }
        let mut answering = std::pin::pin!(next.run(request));
        if let Some(arrived) = arrived {
            match timeout_at(began + self.default, &mut answering).await {
                Ok(response) => return response,
                Err(_) if !arrived.is_cancelled() => {
                    return late("the call's message did not arrive in time");
                }
                Err(_) => {}
            }
        }
        match timeout_at(began + allowed, answering).await {
            Ok(response) => response,
            Err(_) => late("the deadline passed before the answer was ready"),
        }
    }
}

/// By how much we are earlier than tonic's timer: 2 %, but from 1 ms, which is the timer's grain, to 10 ms.
fn head_start(timeout: Duration) -> Duration {
    (timeout / 50).clamp(Duration::from_millis(1), Duration::from_millis(10))
}

/// The `grpc-timeout`: up to eight digits and a unit. Like tonic, one that is malformed is ignored.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3_600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().ok()?);
        timeout(&headers)
    }

    #[test]
    fn every_unit_of_grpc_timeout_is_read() {
        for (text, expected) in [
            ("2H", Duration::from_secs(7_200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("7n", Duration::from_nanos(7)),
            ("99999999H", Duration::from_secs(99_999_999 * 3_600)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(parsed(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_malformed_grpc_timeout_is_no_timeout() {
        for text in ["", "S", "5", "5s", "123456789S", "-1S", "+1S", "1.5S", " 1S", "1 S", "S1", "1ü", "ü"]
        {
            assert_eq!(parsed(text), None, "{text:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn the_answer_comes_a_little_before_the_callers_patience_ends() {
        assert_eq!(head_start(Duration::from_millis(10)), Duration::from_millis(1));
        assert_eq!(head_start(Duration::from_millis(200)), Duration::from_millis(4));
        assert_eq!(head_start(Duration::from_secs(60)), Duration::from_millis(10));
    }
}
