//! How many calls one caller may make.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tonic::Code;
use uuid::Uuid;

use super::{Middleware, Next, Request, Response, refuse};
use crate::auth::{Principal, Role};
use crate::pace::Pace;
use crate::status::{Failure, reason};

/// Calls per second. In a burst, twice as many are let through; then they have to be earned again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: NonZeroU32,
}

impl Rate {
    /// So many a second.
    #[must_use]
    pub const fn per_second(per_second: NonZeroU32) -> Self {
        Self { per_second }
    }

    fn pace(self) -> Pace<Uuid> {
        Pace::new(self.per_second.saturating_mul(TWO), self.per_second)
    }
}

const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

/// A [`Rate`] as an option has it, or none: `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateOption(pub Option<Rate>);

/// The text is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected calls per second from 1 to 1000000, such as 20/s, or off")]
pub struct NotARate;

impl FromStr for RateOption {
    type Err = NotARate;

    fn from_str(text: &str) -> Result<Self, NotARate> {
        if text == "off" {
            return Ok(Self(None));
        }
        let number = text.strip_suffix("/s").unwrap_or(text);
        let per_second: NonZeroU32 = number.parse().map_err(|_| NotARate)?;
        if per_second.get() > 1_000_000 { Err(NotARate) } else { Ok(Self(Some(Rate { per_second }))) }
    }
}

impl fmt::Display for RateOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) => write!(f, "{}/s", rate.per_second),
            None => f.write_str("off"),
        }
    }
}

/// One limit. Of several, the first that fits a call counts it, and the others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Whose calls.
    pub roles: &'static [Role],
    /// Which methods, by full path; `None`: all.
    pub methods: Option<&'static [&'static str]>,
    /// How many, for each caller.
    pub rate: Rate,
}

/// The limits with what has been used of them. Callers come from verified tokens: nobody can make them up.
#[derive(Clone)]
pub(crate) struct RateLimitLayer {
    domain: &'static str,
    limits: Arc<[(RateLimit, Pace<Uuid>)]>,
}

impl RateLimitLayer {
    pub(crate) fn new(domain: &'static str, limits: &[RateLimit]) -> Self {
        let counted = |limit: &RateLimit| (*limit, limit.rate.pace());
        Self { domain, limits: limits.iter().map(counted).collect() }
    }

    /// How long the caller has to wait before this call, if at all.
    fn wait(&self, request: &Request) -> Option<Duration> {
        let caller = request.extensions().get::<Principal>()?;
        let path = request.uri().path();
        let fits = |limit: &RateLimit| {
            limit.roles.contains(&caller.role) && limit.methods.is_none_or(|methods| methods.contains(&path))
        };
        let (_, pace) = self.limits.iter().find(|(limit, _)| fits(limit))?;
        pace.take(&caller.user_id).err()
    }
}

impl Middleware for RateLimitLayer {
    async fn handle(&self, request: Request, next: &impl Next) -> Response {
        let Some(wait) = self.wait(&request) else { return next.run(request).await };
        metrics::counter!("grpc_rate_limited_total").increment(1);
        let failure = Failure::new(
            Code::ResourceExhausted,
            self.domain,
            reason::RATE_LIMITED,
            "too many calls by this caller",
        );
        refuse(failure.push_back(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_a_second_or_off() {
        let rate = |n| RateOption(NonZeroU32::new(n).map(Rate::per_second));
        assert_eq!("20/s".parse(), Ok(rate(20)));
        assert_eq!("7".parse(), Ok(rate(7)));
        assert_eq!("off".parse(), Ok(RateOption(None)));
        for wrong in ["", "0", "0/s", "-1", "20/m", "1000001", "on"] {
            assert_eq!(wrong.parse::<RateOption>(), Err(NotARate), "{wrong}");
        }
    }

    fn call(layer: &RateLimitLayer, user: u128, role: Role, path: &str) -> Option<Duration> {
        let mut request = Request::new(tonic::body::Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        request.extensions_mut().insert(Principal {
            user_id: Uuid::from_u128(user),
            role,
            session_id: None,
            session_version: 1,
            expires: time::OffsetDateTime::UNIX_EPOCH,
        });
        layer.wait(&request)
    }

    #[test]
    fn each_caller_has_a_burst_of_twice_the_rate_and_methods_apart_are_counted_apart() {
        let limit = |methods, n| RateLimit {
            roles: &[Role::Attendee],
            methods,
            rate: Rate::per_second(NonZeroU32::new(n).unwrap()),
        };
        let layer = RateLimitLayer::new("test", &[limit(Some(&["/s/Register"]), 1), limit(None, 2)]);
        for _ in 0..2 {
            assert_eq!(call(&layer, 1, Role::Attendee, "/s/Register"), None);
        }
        let wait = call(&layer, 1, Role::Attendee, "/s/Register").unwrap();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        for _ in 0..4 {
            assert_eq!(call(&layer, 1, Role::Attendee, "/s/Get"), None, "not spent by Register");
        }
        assert!(call(&layer, 1, Role::Attendee, "/s/Get").is_some());
        assert_eq!(call(&layer, 2, Role::Attendee, "/s/Register"), None, "another caller");
        for _ in 0..100 {
            assert_eq!(call(&layer, 3, Role::Service, "/s/Register"), None, "another role");
        }
    }
}
