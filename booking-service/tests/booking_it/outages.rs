//! A database or an identity-service that is late, or gone for a while.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use booking_service::config::ServeConfig;
use rowlock_proto::booking::v1 as pb;
use service_core::config::{ConfigErrors, DatabaseConfig};
use service_core::test_support::TokenMint;
use service_core::upstream::UpstreamOptions;
use tokio::net::TcpListener;

use crate::acts::draft;
use crate::identity::Identity;
use crate::proxy::behind_a_proxy;
use crate::refusal::refused;
use crate::system::{System, at_once, eventually, get};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_identity_it_is_not_ready_and_says_so_until_the_keys_are_there() {
    let mut system = System::with_replicas(0).await;
    let late = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = late.local_addr().unwrap();
    system
        .add_replica(|config| {
            let options = UpstreamOptions { url: format!("http://{address}"), ..UpstreamOptions::default() };
            config.tokens.identity = options.check("identity", &mut ConfigErrors::default());
        })
        .await;
    let organizer = system.organizer();
    refused(organizer.create(draft(1)).await, "IDENTITY_UNAVAILABLE");
    let (head, body) = get(system.replicas[0].http, "/readyz").await;
    assert!(head.contains(" 503") && body.contains("identity_keys"), "{head} {body}");
    assert!(get(system.replicas[0].http, "/livez").await.0.contains(" 200"));

    let identity = Identity::start_on(late, &system.mint);
    system.replicas[0].ready().await;
    let event = organizer.publish_new(draft(1)).await;
    // Once it has the keys, it needs identity no more.
    drop(identity);
    system.attendee().seat(&event).await;
    let stranger = TokenMint::new().token(organizer.id, service_core::auth::Role::Admin);
    let stranger = crate::caller::Caller::new(organizer.id, &stranger, organizer.channel.clone());
    refused(stranger.get_event(&event).await, "TOKEN_INVALID");
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_database_it_starts_is_not_ready_and_answers_unavailable() {
    let mut system = System::with_replicas(0).await;
    let gone = |config: &mut ServeConfig| {
        // Nobody listens on port 1.
        let url = "postgres://nobody:secret-of-nobody@127.0.0.1:1/nothing";
        config.database = DatabaseConfig::from_url(url).unwrap();
        config.database.connect_timeout = Duration::from_millis(100);
        config.seating.retry_window = Duration::from_millis(50);
    };
    system.add_replica(gone).await;
    let (organizer, replica) = (system.organizer(), &system.replicas[0]);
    eventually(async || get(replica.http, "/readyz").await.1.contains("\"identity_keys\":\"ready\"")).await;
    let (head, body) = get(replica.http, "/readyz").await;
    assert!(head.contains(" 503"), "{head}");
    assert!(!body.contains("secret") && !body.contains("127.0.0.1"), "{body}");
    assert!(get(replica.http, "/livez").await.0.contains(" 200"));
    let event = pb::Event { event_id: system.new_id().to_string(), ..draft(1) };
    for answer in [
        organizer.create(draft(1)).await.map(|_| ()),
        organizer.get_event(&event).await.map(|_| ()),
        organizer.publish(&event).await.map(|_| ()),
        organizer.verify(&event).await.map(|_| ()),
        organizer.register(&event).await.map(|_| ()),
        organizer.join(&event).await.map(|_| ()),
        organizer.cancel(&event.event_id).await.map(|_| ()),
        organizer.entry(&event.event_id).await.map(|_| ()),
    ] {
        let status = answer.unwrap_err();
        assert!(!format!("{status:?}").contains("127.0.0.1"), "{status:?}");
        refused(Err::<(), _>(status), "DATABASE_UNAVAILABLE");
    }
    assert!(!replica.task.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_for_a_while_is_found_again() {
    let (system, proxy) = behind_a_proxy(|config| {
        config.seating.retry_window = Duration::from_millis(100);
    })
    .await;
    let event = system.event(5).await;
    let (ada, http) = (system.attendee(), system.replicas[0].http);
    let registration = ada.seat(&event).await;
    proxy.faults.down.send_replace(true);
    let retried = async || {
        let page = get(http, "/metrics").await.1;
        let counts = page.lines().filter(|line| line.starts_with("booking_batch_retries_total"));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    // What was on its way to be written is looked for; what comes later has nothing to be looked for.
    refused(ada.register(&event).await, "DATABASE_UNAVAILABLE");
    let (before, began) = (retried().await, Instant::now());
    refused(ada.register(&event).await, "DATABASE_UNAVAILABLE");
    assert!(
        began.elapsed() >= Duration::from_millis(100),
        "it was not tried again for as long as it is to be"
    );
    assert!(retried().await > before);
    refused(ada.cancel(&registration.registration_id).await, "DATABASE_UNAVAILABLE");
    refused(ada.get_event(&event).await, "DATABASE_UNAVAILABLE");
    eventually(async || get(http, "/readyz").await.0.contains(" 503")).await;
    // From here on nobody waits for a connection that cannot be had.
    let began = Instant::now();
    for _ in 0..20 {
        refused(ada.get_event(&event).await, "DATABASE_UNAVAILABLE");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    proxy.faults.down.send_replace(false);
    eventually(async || get(http, "/readyz").await.0.contains(" 200")).await;
    // As many reads as there are connections: none meets one from before.
    at_once((0..8).map(|_| {
        let (admin, event) = (system.admin(), event.clone());
        async move { admin.verify(&event).await.unwrap() }
    }))
    .await;
    ada.cancel(&registration.registration_id).await.unwrap();
    ada.seat(&event).await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_a_short_outage_wait_for_its_end() {
    let (system, proxy) = behind_a_proxy(|_| {}).await;
    let event = system.event(30).await;
    proxy.faults.down.send_replace(true);
    let calls: Vec<_> = system
        .attendees(20)
        .into_iter()
        .map(|attendee| {
            let event = event.clone();
            async move { attendee.seat(&event).await }
        })
        .collect();
    let rush = tokio::spawn(at_once(calls));
    eventually(async || proxy.faults.refused.load(Ordering::SeqCst) > 2).await;
    proxy.faults.down.send_replace(false);
    assert_eq!(rush.await.unwrap().len(), 20);
    system.assert_consistent(&event).await;
}
