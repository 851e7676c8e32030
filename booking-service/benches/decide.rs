//! Guards what every call pays for: the token path, and the rules. Says nothing about the machine's I/O.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use booking_service::domain::command::{Action, Actor, ActorRole, Command, Register, RequestKey, WhenFull};
use booking_service::domain::decide::decide;
use booking_service::domain::event::{Event, EventState, QueueDiscipline, WaitlistPolicy};
use booking_service::domain::facts::Facts;
use booking_service::domain::registration::Labels;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use service_core::auth::Role;
use service_core::clock::SystemClock;
use service_core::ids::UuidV7;
use service_core::test_support::TokenMint;
use time::macros::datetime;
use uuid::Uuid;

/// A full batch (`seating/inbox.rs`).
const BATCH: u32 = 128;

/// A known token costs a digest and a look-up. The bar is 5 µs.
fn tokens(c: &mut Criterion) {
    let mint = TokenMint::new();
    let tokens: Vec<String> = (0..1000).map(|n| mint.token(Uuid::from_u128(n), Role::Attendee)).collect();
    let verifier = mint.verifier();
    let known =
        || tokens.iter().map(|token| verifier.verify(black_box(token)).is_ok()).filter(|ok| *ok).count();
    assert_eq!(known(), tokens.len());
    let mut group = c.benchmark_group("token");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1000 known", |b| b.iter(known));
    group.throughput(Throughput::Elements(1));
    let token = mint.token(Uuid::nil(), Role::Attendee);
    let fresh = || mint.verifier();
    group.bench_function("new", |b| {
        b.iter_batched(fresh, |verifier| verifier.verify(black_box(&token)).is_ok(), BatchSize::SmallInput);
    });
    group.finish();
}

/// A full batch: for one hot event, for as many events as commands, and for an event that is full.
fn rules(c: &mut Criterion) {
    let ids = UuidV7::new(Arc::new(SystemClock));
    let mut group = c.benchmark_group("decide, 128 Register");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (name, events, seats) in
        [("one event", 1, 1_000_000), ("128 events", BATCH, 1_000_000), ("full", 1, 0)]
    {
        let (commands, facts) = batch(events, seats);
        group.bench_function(name, |b| {
            b.iter_batched(|| facts.clone(), |facts| decide(facts, &commands, &ids), BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn batch(events: u32, seats_remaining: i32) -> (Vec<Command>, Facts) {
    let event_id = |n: u32| Uuid::from_u128(0xE000 + u128::from(n % events));
    let command = |n: u32| {
        let user_id = Uuid::from_u128(0xA000 + u128::from(n));
        let actor = Actor { id: user_id, role: ActorRole::Attendee };
        let request = Some(RequestKey { actor_id: user_id, id: user_id, fingerprint: [7; 32] });
        let (when_full, labels) = (WhenFull::Reject, Labels::new());
        let register = Register { user_id, seats: 1, when_full, hold: None, labels, request };
        Command { event_id: event_id(n), actor, action: Action::Register(register) }
    };
    let events = (0..events).map(|n| event(event_id(n), seats_remaining)).collect();
    ((0..BATCH).map(command).collect(), Facts::new(datetime!(2030-06-01 12:00 UTC), events))
}

fn event(id: Uuid, seats_remaining: i32) -> Event {
    Event {
        id,
        organizer_id: Uuid::from_u128(0xB0),
        start_time: datetime!(2030-06-02 12:00 UTC),
        end_time: datetime!(2030-06-02 14:00 UTC),
        registration_open_time: None,
        registration_close_time: None,
        capacity: 1_000_000,
        seats_remaining,
        waitlist_size: 0,
        largest_party: 1,
        next_position: 1,
        max_seats_per_registration: 1,
        waitlist_policy: WaitlistPolicy::Promote,
        offer_ttl: Duration::from_secs(900),
        queue_discipline: QueueDiscipline::Strict,
        state: EventState::Published,
        cancel_reason: String::new(),
        revision: 1,
        version: 1,
        create_time: datetime!(2030-06-01 12:00 UTC),
        update_time: datetime!(2030-06-01 12:00 UTC),
    }
}

criterion_group!(benches, tokens, rules);
criterion_main!(benches);
