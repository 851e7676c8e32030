//! Fault 13: replicas whose clocks are wrong.

use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use service_core::token::Claims;
use tokio::time::sleep;
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::acts::draft;
use crate::caller::Caller;
use crate::proving::Ordeal;
use crate::refusal::refused;
use crate::stage::{Stage, ask_for_somebody};
use crate::system::now;

/// How each replica's clock goes: tokens, which it judges by its own, tell.
async fn clocks(stage: &Stage) -> Vec<&'static str> {
    let id = Uuid::from_u128(rand::random());
    let token = |valid_in: i64, expires_in: i64| {
        let now = now().unix_timestamp();
        let claims = |claims: &mut Claims| {
            (claims.iat, claims.nbf, claims.exp) = (now + valid_in, now + valid_in, now + expires_in);
        };
        stage.mint.token_with(id, Role::Attendee, claims, |_| {})
    };
    let mut clocks = Vec::new();
    for way in stage.ways() {
        let look = async |token: String| {
            let events = Caller::new(id, &token, way.clone())
                .events()
                .list_events(pb::ListEventsRequest::default())
                .await;
            events.map(drop).map_err(|status| reason(&status))
        };
        let minutes = (look(token(-120, 600)).await, look(token(-600, 120)).await);
        clocks.push(match minutes {
            (Ok(()), Ok(())) => "right",
            (Ok(()), Err(why)) if why == "TOKEN_EXPIRED" => "ahead",
            (Err(why), Ok(())) if why == "TOKEN_INVALID" => "behind",
            other => panic!("{other:?}"),
        });
    }
    clocks
}

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn replicas_whose_clocks_are_five_minutes_off_seat_by_the_databases_clock() {
    let library = std::env::var_os("ROWLOCK_LIBFAKETIME")
        .expect("ROWLOCK_LIBFAKETIME names libfaketime: deploy/local/test faults unpacks it");
    let mut stage = Stage::with_replicas(0).await;
    stage.started_with(move |number, command| {
        command
            .env("LD_PRELOAD", &library)
            .env("FAKETIME", ["-300s", "+0s", "+300s"][number])
            .env("DONT_FAKE_MONOTONIC", "1");
    });
    stage.add_replicas(3).await;
    assert_eq!(clocks(&stage).await, ["behind", "right", "ahead"]);
    let ordeal = Ordeal::begin(&stage, stage.crowd(stage.ways()).await);
    let callers: Vec<_> = stage.ways().into_iter().map(|way| stage.caller(Role::Service, way)).collect();
    let organizer = stage.caller(Role::Organizer, stage.ways()[2].clone());

    // A window that opens in a minute is closed for the replica that is five minutes ahead, and one that opened a
    // minute ago is open for the one that is behind.
    let minute = Duration::from_secs(60);
    let opens = |time| pb::Event {
        registration_open_time: Some(service_core::validation::timestamp(time)),
        ..draft(100)
    };
    let later = organizer.publish_new(opens(now() + minute)).await;
    let already = organizer.publish_new(opens(now() - minute)).await;
    for caller in &callers {
        refused(caller.try_register(ask_for_somebody(&later)).await, "REGISTRATION_CLOSED");
        caller.seats(ask_for_somebody(&already)).await;
    }
    // A hold can be confirmed while it stands, and not a second after, wherever.
    let ways = stage.ways();
    for (one, other) in [(0, 2), (2, 0), (0, 1)] {
        let person = stage.caller(Role::Attendee, ways[one].clone());
        let elsewhere = Caller { channel: ways[other].clone(), ..person.clone() };
        let kept = person.hold(&already, 60).await;
        elsewhere.confirm(&kept.registration_id).await.unwrap();
        person.cancel(&kept.registration_id).await.unwrap();
        let lapsed = person.hold(&already, 2).await;
        sleep(Duration::from_secs(3)).await;
        refused(elsewhere.confirm(&lapsed.registration_id).await, "HOLD_EXPIRED");
    }
    ordeal.prove(&stage, "13, clocks five minutes behind and ahead", 2).await;
    stage.end();
}
