//! What a backend knows that has heard of nothing but the changes.

use std::collections::{BTreeMap, HashMap};

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::ChangeAction;
use sqlx::PgPool;

/// What the consumer knows: each registration and entry as (event, user, seats, state).
#[derive(Debug, Default)]
pub(crate) struct Copy {
    rows: BTreeMap<String, (String, String, i64, &'static str)>,
    pub(crate) versions: HashMap<String, i64>,
    pub(crate) token: String,
}

impl Copy {
    pub(crate) fn apply(&mut self, told: pb::StreamChangesResponse) {
        let change = told.change.as_ref().unwrap();
        let before = self.versions.insert(change.event_id.clone(), change.version).unwrap_or_default();
        assert_eq!(change.version, before + 1, "of event {}", change.event_id);
        let state = match change.action() {
            ChangeAction::RegistrationCreated | ChangeAction::RegistrationConfirmed => Some("CONFIRMED"),
            ChangeAction::RegistrationHeld => Some("HELD"),
            ChangeAction::RegistrationCancelled | ChangeAction::WaitlistCancelled => Some("CANCELLED"),
            ChangeAction::RegistrationExpired | ChangeAction::OfferExpired => Some("EXPIRED"),
            ChangeAction::RegistrationCheckedIn => Some("CHECKED_IN"),
            ChangeAction::WaitlistJoined => Some("WAITING"),
            ChangeAction::WaitlistLeft => Some("LEFT"),
            ChangeAction::WaitlistPromoted => Some("PROMOTED"),
            ChangeAction::WaitlistOffered => Some("OFFERED"),
            ChangeAction::OfferAccepted => Some("ACCEPTED"),
            ChangeAction::OfferDeclined => Some("DECLINED"),
            _ => None,
        };
        if let Some(state) = state {
            let details: serde_json::Value = serde_json::from_str(&change.details_json).unwrap();
            let seats = details["seats"].as_i64().expect("every change of a row tells its seats");
            self.rows.insert(
                change.entity_id.clone(),
                (change.event_id.clone(), change.subject_id.clone(), seats, state),
            );
        }
        self.token = told.resume_token;
    }

    /// Every row as (id, event, user, seats, state), in order of ids.
    pub(crate) fn rows(&self) -> Vec<(String, String, String, i64, String)> {
        let rows = self.rows.iter().map(|(id, (event, user, seats, state))| {
            (id.clone(), event.clone(), user.clone(), *seats, (*state).to_owned())
        });
        rows.collect()
    }
}

/// The same from the tables.
pub(crate) async fn tables(pool: &PgPool) -> Vec<(String, String, String, i64, String)> {
    sqlx::query_as(
        "SELECT id::text, event_id::text, user_id::text, seats::int8, state FROM registrations
         UNION ALL SELECT id::text, event_id::text, user_id::text, seats::int8, state FROM waitlist_entries
         ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}
