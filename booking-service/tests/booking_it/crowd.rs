//! Many people at once, through a backend that registers them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rowlock_proto::booking::v1 as pb;

use crate::acts::ask;
use crate::caller::Caller;
use crate::system::{System, at_once};

/// How much more than usual the tests of amounts take on: `ROWLOCK_TEST_SCALE`, for figures taken by hand.
pub(crate) fn scale() -> usize {
    std::env::var("ROWLOCK_TEST_SCALE").map_or(1, |scale| scale.parse().expect("a number"))
}

impl Caller {
    /// Registers somebody new with what is asked for.
    pub(crate) async fn register_somebody(&self, request: pb::RegisterRequest) {
        // Ids of version 4, made here: they only have to be new.
        let user_id = uuid::Uuid::from_u128(rand::random()).to_string();
        self.try_register(pb::RegisterRequest { user_id, ..request }).await.unwrap();
    }
}

impl System {
    /// That many new people ask at the same time, 100 calls in flight at each replica, and all of them get something.
    pub(crate) async fn rush(&self, people: usize, request: pb::RegisterRequest) {
        let left = Arc::new(AtomicUsize::new(people));
        let desks: Vec<Caller> = self.replicas.iter().map(|replica| self.service().at(replica)).collect();
        let calls = (0..100 * desks.len()).map(|call| {
            let (desk, left) = (desks[call % desks.len()].clone(), Arc::clone(&left));
            let request = request.clone();
            async move {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    desk.register_somebody(request.clone()).await;
                }
            }
        });
        at_once(calls).await;
    }

    /// That many people get a seat each.
    pub(crate) async fn seat_many(&self, event: &pb::Event, people: usize) {
        self.rush(people, ask(event)).await;
    }

    /// Asserts that a large event is right, by its own account: what `assert_consistent` does grows with the square.
    pub(crate) async fn assert_verified(&self, event: &pb::Event) {
        let proof = self.admin().verify(event).await.unwrap();
        assert!(proof.consistent && proof.findings.is_empty(), "{proof:?}");
    }
}
