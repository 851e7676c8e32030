//! Changing the key that signs, while tokens are issued and verified.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use identity_service::serve::serve;
use identity_service::signing::{KeyDir, SigningAlgorithm};
use identity_service::sources::Sources;
use rowlock_proto::identity::v1::auth_service_client::AuthServiceClient;
use rowlock_proto::identity::v1::{GetJwksRequest, IssueServiceTokenRequest};
use service_core::clock::Clock;
use service_core::server::Listeners;
use service_core::token::{JwksSource, KeySet, TokenError, TokenVerifier, VerifierConfig, refresh_keys};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::server::{PATIENCE, TestServer};
use crate::service_accounts::Backoffice;

/// Two replicas, and where they are at present.
type Replicas = Arc<Mutex<Vec<(Channel, CancellationToken)>>>;

fn some_replica(replicas: &Replicas, turn: u64) -> AuthServiceClient<Channel> {
    let replicas = replicas.lock().unwrap();
    AuthServiceClient::new(replicas[usize::try_from(turn).unwrap() % replicas.len()].0.clone())
}

async fn start(server: &TestServer) -> (Channel, CancellationToken) {
    let config = server.config.clone();
    let listeners = Listeners::bind(&config.server).await.unwrap();
    let address = listeners.grpc.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(Box::pin(serve(config, listeners, Sources::with_clock(server.clock.clone()), stop.clone())));
    (Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy(), stop)
}

/// Restarts one replica after the other: the new one is there before the old one goes.
async fn restart_all(server: &TestServer, replicas: &Replicas) {
    for index in 0..2 {
        let new = start(server).await;
        AuthServiceClient::new(new.0.clone()).get_jwks(GetJwksRequest {}).await.unwrap();
        let old = std::mem::replace(&mut replicas.lock().unwrap()[index], new);
        old.1.cancel();
    }
}

/// The JWKS of whichever replica answers, and word of each fetch.
struct Source {
    replicas: Replicas,
    fetched: Arc<Notify>,
    count: AtomicU64,
}

impl JwksSource for Source {
    fn fetch(
        &self,
    ) -> futures_util::future::BoxFuture<'_, Result<String, Box<dyn std::error::Error + Send + Sync>>> {
        Box::pin(async move {
            let turn = self.count.fetch_add(1, Ordering::Relaxed);
            let answer = some_replica(&self.replicas, turn).get_jwks(GetJwksRequest {}).await;
            self.fetched.notify_one();
            Ok(answer?.into_inner().jwks_json)
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_that_signs_is_changed_under_load_without_a_refused_token() {
    let folder = tempfile::tempdir().unwrap();
    let keys_dir = KeyDir::new(folder.path(), false);
    let old_key = keys_dir.generate(SigningAlgorithm::Es256, false).unwrap();
    let office = Backoffice::of(TestServer::with(|config| config.keys = keys_dir.clone()).await).await;
    let (_, client_id, client_secret) = office.create("Load").await;
    let server = &office.server;
    let replicas: Replicas = Arc::new(Mutex::new(vec![start(server).await, start(server).await]));

    // A verifier as booking-service has it, but for the times.
    let (keys, fetched, stop) = (Arc::new(KeySet::new()), Arc::new(Notify::new()), CancellationToken::new());
    let source = Source { replicas: replicas.clone(), fetched: fetched.clone(), count: AtomicU64::new(0) };
    let gap = Duration::from_secs(3_600);
    tokio::spawn(refresh_keys(keys.clone(), source, Duration::from_millis(100), gap, stop.clone()));
    let mut config = VerifierConfig::new("identity.rowlock", "rowlock");
    config.algorithms.push(jsonwebtoken::Algorithm::EdDSA);
    let verifier = Arc::new(TokenVerifier::new(config, keys.clone(), server.clock.clone()));
    // Twice: a fetch that had begun before may have the keys from before.
    let wait_for_the_keys = async || {
        for _ in 0..3 {
            tokio::time::timeout(PATIENCE, fetched.notified()).await.unwrap();
        }
    };
    wait_for_the_keys().await;

    let (done, issued) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = tokio::spawn({
        let (replicas, done, issued) = (replicas.clone(), done.clone(), issued.clone());
        let (verifier, clock) = (verifier.clone(), server.clock.clone());
        async move {
            let mut alive: Vec<(String, time::OffsetDateTime)> = Vec::new();
            let mut kids = std::collections::BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let turn = issued.load(Ordering::Relaxed);
                let request = IssueServiceTokenRequest {
                    client_id: client_id.clone(),
                    client_secret: client_secret.clone(),
                };
                // A replica that goes away may refuse the call: that is no refused token.
                if let Ok(answer) = some_replica(&replicas, turn).issue_service_token(request).await {
                    let answer = answer.into_inner();
                    let expire = answer.access_token_expire_time.unwrap();
                    let expire = time::OffsetDateTime::from_unix_timestamp(expire.seconds).unwrap();
                    kids.insert(jsonwebtoken::decode_header(&answer.access_token).unwrap().kid.unwrap());
                    alive.push((answer.access_token, expire));
                }
                issued.fetch_add(1, Ordering::Relaxed);
                // The newest ones, and the oldest that has not expired.
                alive.retain(|(_, expire)| clock.now() < *expire);
                let newest = alive.len().saturating_sub(3);
                for (token, expire) in alive.iter().skip(newest).chain(alive.first()) {
                    match verifier.verify(token) {
                        Ok(_) => {}
                        Err(TokenError::Expired) if clock.now() >= *expire => {}
                        Err(error) => panic!("a good token was refused: {error}"),
                    }
                }
            }
            kids
        }
    });
    let some_load = async || {
        let from = issued.load(Ordering::Relaxed);
        let more = async {
            while issued.load(Ordering::Relaxed) < from + 50 && !load.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, more).await.expect("tokens are issued");
    };

    some_load().await;
    // Publish.
    let new_key = keys_dir.generate(SigningAlgorithm::EdDsa, false).unwrap();
    restart_all(server, &replicas).await;
    some_load().await;
    // Wait.
    wait_for_the_keys().await;
    // Switch.
    keys_dir.activate(new_key.kid()).unwrap();
    restart_all(server, &replicas).await;
    some_load().await;
    // Retire, when the last token of the old key has expired.
    server.clock.advance(server.config.tokens.access_lifetime + Duration::from_secs(10));
    some_load().await;
    std::fs::remove_file(folder.path().join(format!("{}.pem", old_key.kid()))).unwrap();
    restart_all(server, &replicas).await;
    wait_for_the_keys().await;
    some_load().await;

    done.store(true, Ordering::Relaxed);
    let kids = load.await.unwrap();
    let expected = [old_key.kid().to_owned(), new_key.kid().to_owned()].into_iter().collect();
    assert_eq!(kids, expected, "both keys have signed");
    stop.cancel();
    for (_, stop) in replicas.lock().unwrap().drain(..) {
        stop.cancel();
    }
}
