//! How to reach Rowlock: channels, who is signed in, which calls to repeat.

use std::num::ParseIntError;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rowlock_proto::identity::v1::auth_service_client::AuthServiceClient;
use rowlock_proto::identity::v1::{RefreshTokensRequest, SignInRequest, SignUpRequest};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// A channel to all of these comma-separated addresses.
pub(crate) fn connect(addresses: &str) -> anyhow::Result<Channel> {
    let endpoints: Result<Vec<Endpoint>, _> = addresses.split(',').map(str::parse).collect();
    Ok(Channel::balance_list(endpoints?.into_iter()))
}

/// Someone who is signed in.
pub(crate) struct Session {
    auth: AuthServiceClient<Channel>,
    access_token: String,
    expire_time: SystemTime,
    pub(crate) refresh_token: String,
}

impl Session {
    pub(crate) async fn sign_in(
        mut auth: AuthServiceClient<Channel>,
        email: String,
        password: String,
    ) -> anyhow::Result<Self> {
        let answer = auth.sign_in(SignInRequest { email, password }).await?.into_inner();
        let expire_time = answer.access_token_expire_time.context("no expire time")?.try_into()?;
        Ok(Self { auth, access_token: answer.access_token, expire_time, refresh_token: answer.refresh_token })
    }

    /// Signs somebody up, who stays as a user of this system.
    pub(crate) async fn newcomer(
        mut auth: AuthServiceClient<Channel>,
        display_name: &str,
    ) -> anyhow::Result<Self> {
        let (email, password) = (format!("{}@rowlock.test", new_id()), new_id());
        let display_name = display_name.to_owned();
        let (address, secret) = (email.clone(), password.clone());
        auth.sign_up(SignUpRequest { email, password, display_name, ..Default::default() }).await?;
        Self::sign_in(auth, address, secret).await
    }

    /// Trades the refresh token, which is good for one use, for the next tokens.
    pub(crate) async fn refresh(&mut self) -> anyhow::Result<()> {
        let request = RefreshTokensRequest { refresh_token: self.refresh_token.clone() };
        let answer = self.auth.refresh_tokens(request).await?.into_inner();
        self.access_token = answer.access_token;
        self.expire_time = answer.access_token_expire_time.context("no expire time")?.try_into()?;
        self.refresh_token = answer.refresh_token;
        Ok(())
    }

    /// A request with an access token that is good for half a minute more.
    pub(crate) async fn request<T>(&mut self, message: T) -> anyhow::Result<Request<T>> {
        if self.expire_time < SystemTime::now() + Duration::from_secs(30) {
            self.refresh().await?;
        }
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.access_token).parse()?);
        Ok(request)
    }
}

/// What the service config says about repeating a call; tonic does not read it by itself.
pub(crate) struct Retries {
    attempts: u64,
    backoff: Duration,
    longest_backoff: Duration,
    multiplier: f64,
    codes: Vec<Code>,
}

impl Retries {
    /// For the methods of a service that are not named one by one.
    pub(crate) fn of(service: &str) -> Option<Self> {
        let config: Value = serde_json::from_str(include_str!("../../service-config.json")).ok()?;
        let named = |part: &&Value| {
            let mut names = part["name"].as_array().into_iter().flatten();
            names.any(|name| name["service"] == service && name["method"].is_null())
        };
        let policy = config.get("methodConfig")?.as_array()?.iter().find(named)?.get("retryPolicy")?;
        let codes =
            policy["retryableStatusCodes"].as_array()?.iter().filter_map(|code| match code.as_str() {
                Some("UNAVAILABLE") => Some(Code::Unavailable),
                Some("RESOURCE_EXHAUSTED") => Some(Code::ResourceExhausted),
                _ => None,
            });
        Some(Self {
            attempts: policy["maxAttempts"].as_u64()?,
            backoff: seconds(&policy["initialBackoff"])?,
            longest_backoff: seconds(&policy["maxBackoff"])?,
            multiplier: policy["backoffMultiplier"].as_f64()?,
            codes: codes.collect(),
        })
    }

    /// Makes the call until it gives something that is not to be repeated.
    pub(crate) async fn call<T>(
        &self,
        mut call: impl AsyncFnMut() -> Result<T, Status>,
    ) -> Result<T, Status> {
        let mut backoff = self.backoff;
        for _ in 1..self.attempts {
            let status = match call().await {
                Err(status) if self.codes.contains(&status.code()) => status,
                outcome => return outcome,
            };
            let pause = match pushback(&status) {
                None => backoff.mul_f64(rand::random_range(0.8..1.2)),
                Some(Ok(pause)) => Duration::from_millis(pause),
                Some(Err(_)) => return Err(status),
            };
            tokio::time::sleep(pause).await;
            backoff = backoff.mul_f64(self.multiplier).min(self.longest_backoff);
        }
        call().await
    }
}

/// How many milliseconds to wait where the server says so; it has spread those that it refused. What is no such number, as -1,
/// says not to repeat (gRFC A6).
fn pushback(status: &Status) -> Option<Result<u64, ParseIntError>> {
    Some(status.metadata().get("grpc-retry-pushback-ms")?.to_str().unwrap_or_default().parse())
}

fn seconds(value: &Value) -> Option<Duration> {
    Some(Duration::from_secs_f64(value.as_str()?.strip_suffix('s')?.parse().ok()?))
}

/// A new UUID.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
