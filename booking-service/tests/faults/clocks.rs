//! Fault 13: replicas whose clocks are wrong.

use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use tokio::time::sleep;

use crate::acts::{ask, draft};
use crate::caller::Caller;
use crate::proving::Ordeal;
use crate::refusal::refused;
use crate::stage::Stage;
use crate::system::now;

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
        let user_id = || uuid::Uuid::from_u128(rand::random()).to_string();
        let asked = pb::RegisterRequest { user_id: user_id(), ..ask(&later) };
        refused(caller.try_register(asked).await, "REGISTRATION_CLOSED");
        caller.seats(pb::RegisterRequest { user_id: user_id(), ..ask(&already) }).await;
    }
    // A hold of two seconds can be confirmed at once, and not after three, wherever.
    let ways = stage.ways();
    for (one, other) in [(0, 2), (2, 0), (0, 1)] {
        let person = stage.caller(Role::Attendee, ways[one].clone());
        let elsewhere = Caller { channel: ways[other].clone(), ..person.clone() };
        let kept = person.hold(&already, 2).await;
        elsewhere.confirm(&kept.registration_id).await.unwrap();
        person.cancel(&kept.registration_id).await.unwrap();
        let lapsed = person.hold(&already, 2).await;
        sleep(Duration::from_secs(3)).await;
        refused(elsewhere.confirm(&lapsed.registration_id).await, "HOLD_EXPIRED");
    }
    ordeal.prove(&stage, "13, clocks five minutes behind and ahead", 2).await;
    stage.end();
}
