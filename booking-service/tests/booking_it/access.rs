//! Who may call what, and whose things they are: every rpc of the contract with every kind of caller.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorProto;
use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use service_core::test_support::TokenMint;
use tonic::Status;

use crate::acts::{ask, ask_to_wait, update};
use crate::caller::Caller;
use crate::contract;
use crate::raw::{self, path};
use crate::refusal::{PROMISES, assert_refused};
use crate::scene::Scene;
use crate::system::System;

/// Let through, and answered.
const YES: &str = "";
/// Not for this role, or not for somebody who may only see it.
const ROLE: &str = "ROLE_REQUIRED";
const NO_EVENT: &str = "EVENT_NOT_FOUND";
const NO_REGISTRATION: &str = "REGISTRATION_NOT_FOUND";
const NO_ENTRY: &str = "WAITLIST_ENTRY_NOT_FOUND";

/// What becomes of a request: of a strange attendee, of the user whose thing it is, of another organizer, of the owner, of an
/// admin, of a service.
type Answers = [&'static str; 6];

/// For the requests of [`Scene::requests`]. Said here a second time, apart from the rules in the service.
const CASES: [(&str, Answers); 26] = [
    ("EventService/CreateEvent", [ROLE, ROLE, YES, YES, YES, ROLE]),
    ("EventService/GetEvent", [YES; 6]),
    ("EventService/BatchGetEvents", [YES; 6]),
    ("EventService/ListEvents", [YES; 6]),
    ("EventService/UpdateEvent", [ROLE, ROLE, ROLE, YES, YES, ROLE]),
    ("EventService/PublishEvent", [ROLE, ROLE, ROLE, YES, YES, ROLE]),
    ("EventService/CancelEvent", [ROLE, ROLE, ROLE, YES, YES, ROLE]),
    ("EventService/DeleteEvent", [ROLE, ROLE, ROLE, "STATE_CONFLICT", "STATE_CONFLICT", ROLE]),
    ("EventService/GetEventStats", [ROLE, ROLE, ROLE, YES, YES, ROLE]),
    ("EventService/WatchEvent", [YES; 6]),
    ("EventService/VerifyEvent", [ROLE, ROLE, ROLE, YES, YES, ROLE]),
    ("RegistrationService/Register", someone(ROLE, "ALREADY_REGISTERED")),
    ("RegistrationService/ConfirmRegistration", someone(NO_REGISTRATION, YES)),
    ("RegistrationService/CancelRegistration", someone(NO_REGISTRATION, YES)),
    ("RegistrationService/GetRegistration", someone(NO_REGISTRATION, YES)),
    ("RegistrationService/ListRegistrations", [ROLE, ROLE, ROLE, YES, YES, YES]),
    ("RegistrationService/CheckIn", [NO_REGISTRATION, ROLE, NO_REGISTRATION, YES, YES, YES]),
    ("WaitlistService/JoinWaitlist", someone(ROLE, "ALREADY_WAITLISTED")),
    ("WaitlistService/LeaveWaitlist", someone(NO_ENTRY, YES)),
    ("WaitlistService/GetWaitlistEntry", someone(NO_ENTRY, YES)),
    ("WaitlistService/AcceptOffer", someone(NO_ENTRY, YES)),
    ("WaitlistService/DeclineOffer", someone(NO_ENTRY, YES)),
    ("WaitlistService/ListWaitlistEntries", [ROLE, ROLE, ROLE, YES, YES, YES]),
    ("AuditService/ListAuditEntries", [ROLE, ROLE, ROLE, YES, YES, ROLE]),
    ("ChangeService/StreamChanges", [ROLE, ROLE, ROLE, ROLE, YES, YES]),
    ("SimulationService/SimulateRush", [ROLE, ROLE, ROLE, ROLE, YES, ROLE]),
];

/// Somebody's own: for its user, the owner, admins and services.
const fn someone(stranger: &'static str, others: &'static str) -> Answers {
    [stranger, others, stranger, others, others, others]
}

fn callers(scene: &Scene) -> [(&'static str, Caller); 6] {
    let system = &scene.system;
    [
        ("a stranger", system.attendee()),
        ("its user", scene.user.clone()),
        ("another organizer", system.organizer()),
        ("its owner", scene.owner.clone()),
        ("an admin", system.admin()),
        ("a service", system.service()),
    ]
}

#[track_caller]
fn assert_answer<T: std::fmt::Debug>(answer: Result<T, Status>, expected: &str, what: &str) {
    match answer {
        Ok(_) => assert_eq!(expected, YES, "{what} is answered"),
        Err(status) if expected == YES => panic!("{what}: {status:?}"),
        Err(status) => {
            assert_refused(&status, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rpc_answers_whom_it_is_for_and_nobody_else() {
    let scene = Scene::set(2).await;
    let mut tried = BTreeSet::new();
    for (rpc, message) in scene.requests() {
        let (_, answers) =
            CASES.iter().find(|(name, _)| *name == rpc).unwrap_or_else(|| panic!("no case for {rpc}"));
        for ((who, caller), expected) in callers(&scene).iter().zip(answers) {
            let answer = caller.call(rpc, message.clone()).await;
            assert_answer(answer, expected, &format!("{rpc} by {who}"));
        }
        tried.insert(rpc.to_owned());
    }
    assert_eq!(tried, contract::rpc_names(), "every rpc has its case");
    for event in [&scene.open, &scene.full, &scene.cancelled] {
        scene.system.assert_consistent(event).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_exists_for_its_owner_and_admins_alone() {
    let scene = Scene::set(1).await;
    let event_id = || scene.draft.event_id.clone();
    let owners_only = [NO_EVENT, NO_EVENT, NO_EVENT, YES, YES, NO_EVENT];
    // The role is asked for before the event is looked at.
    let organizers = [ROLE, ROLE, NO_EVENT, YES, YES, ROLE];
    let with_end = |mut answers: Answers, end| {
        answers[3..5].fill(end);
        answers
    };
    let same = pb::Event { etag: String::new(), ..scene.draft.clone() };
    let requests: Vec<(&str, Vec<u8>, Answers)> = vec![
        ("EventService/GetEvent", pb::GetEventRequest { event_id: event_id() }.encode_to_vec(), owners_only),
        (
            "EventService/WatchEvent",
            pb::WatchEventRequest { event_id: event_id() }.encode_to_vec(),
            owners_only,
        ),
        ("EventService/UpdateEvent", update(same, &["title"]).encode_to_vec(), organizers),
        (
            "EventService/GetEventStats",
            pb::GetEventStatsRequest { event_id: event_id() }.encode_to_vec(),
            organizers,
        ),
        (
            "EventService/VerifyEvent",
            pb::VerifyEventRequest { event_id: event_id() }.encode_to_vec(),
            organizers,
        ),
        (
            "EventService/CancelEvent",
            pb::CancelEventRequest { event_id: event_id(), ..Default::default() }.encode_to_vec(),
            with_end(organizers, "EVENT_NOT_PUBLISHED"),
        ),
        (
            "EventService/PublishEvent",
            pb::PublishEventRequest { event_id: event_id(), etag: "stale".into() }.encode_to_vec(),
            with_end(organizers, "ETAG_MISMATCH"),
        ),
        (
            "EventService/DeleteEvent",
            pb::DeleteEventRequest { event_id: event_id(), etag: "stale".into() }.encode_to_vec(),
            with_end(organizers, "ETAG_MISMATCH"),
        ),
        (
            "RegistrationService/Register",
            pb::RegisterRequest { user_id: scene.user.id.to_string(), ..ask(&scene.draft) }.encode_to_vec(),
            with_end(owners_only, "EVENT_NOT_PUBLISHED"),
        ),
        (
            "WaitlistService/JoinWaitlist",
            pb::JoinWaitlistRequest { user_id: scene.user.id.to_string(), ..ask_to_wait(&scene.draft) }
                .encode_to_vec(),
            with_end(owners_only, "EVENT_NOT_PUBLISHED"),
        ),
        (
            "RegistrationService/ListRegistrations",
            pb::ListRegistrationsRequest { event_id: event_id(), ..Default::default() }.encode_to_vec(),
            owners_only,
        ),
        (
            "WaitlistService/ListWaitlistEntries",
            pb::ListWaitlistEntriesRequest { event_id: event_id(), ..Default::default() }.encode_to_vec(),
            owners_only,
        ),
    ];
    let before = scene.system.everything().await;
    for (rpc, message, answers) in requests {
        for ((who, caller), expected) in callers(&scene).iter().zip(answers) {
            let answer = caller.call(rpc, message.clone()).await;
            assert_answer(answer, expected, &format!("{rpc} of a draft by {who}"));
        }
    }
    assert_eq!(scene.system.everything().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_not_found_by_anybody() {
    let scene = Scene::set(1).await;
    let id = scene.system.new_id().to_string();
    let before = scene.system.everything().await;
    let nowhere = pb::Event { event_id: id.clone(), title: "x".into(), ..pb::Event::default() };
    for (who, caller) in callers(&scene) {
        for (answer, reason) in [
            (caller.get_event(&nowhere).await.map(|_| ()), NO_EVENT),
            (
                caller
                    .try_register(pb::RegisterRequest { user_id: caller.id.to_string(), ..ask(&nowhere) })
                    .await
                    .map(|_| ()),
                NO_EVENT,
            ),
            (
                caller
                    .try_join(pb::JoinWaitlistRequest {
                        user_id: caller.id.to_string(),
                        ..ask_to_wait(&nowhere)
                    })
                    .await
                    .map(|_| ()),
                NO_EVENT,
            ),
            (caller.registration(&id).await.map(|_| ()), NO_REGISTRATION),
            (caller.confirm(&id).await.map(|_| ()), NO_REGISTRATION),
            (caller.cancel(&id).await.map(|_| ()), NO_REGISTRATION),
            (caller.check_in(&id).await.map(|_| ()), NO_REGISTRATION),
            (caller.entry(&id).await.map(|_| ()), NO_ENTRY),
            (caller.leave(&id).await.map(|_| ()), NO_ENTRY),
            (caller.accept(&id).await.map(|_| ()), NO_ENTRY),
            (caller.decline(&id).await.map(|_| ()), NO_ENTRY),
        ] {
            assert_answer(answer, reason, who);
        }
    }
    for caller in [&scene.owner, &scene.system.admin()] {
        for answer in [
            caller.update(nowhere.clone(), &["title"]).await.map(|_| ()),
            caller.publish(&nowhere).await.map(|_| ()),
            caller.cancel_event(&nowhere, "").await.map(|_| ()),
            caller.delete_event(&nowhere).await.map(|_| ()),
            caller.stats(&nowhere).await.map(|_| ()),
            caller.verify(&nowhere).await.map(|_| ()),
        ] {
            assert_answer(answer, NO_EVENT, "its organizer");
        }
    }
    assert_eq!(scene.system.everything().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organizer_who_is_none_any_more_does_not_run_the_event() {
    let scene = Scene::set(1).await;
    let demoted = scene.system.caller_with_id(Role::Attendee, scene.owner.id);
    assert_answer(demoted.set_capacity(&scene.open, 9).await, ROLE, "demoted");
    assert_answer(demoted.get_event(&scene.draft).await, NO_EVENT, "demoted");
    let drafts = pb::ListEventsRequest { states: vec![pb::EventState::Draft.into()], ..Default::default() };
    let listed = async |caller: &Caller| {
        caller.events().list_events(drafts.clone()).await.unwrap().into_inner().events
    };
    assert_eq!(listed(&demoted).await, []);
    assert_eq!(listed(&scene.owner).await.len(), 1);
    assert_answer(demoted.registration(&scene.confirmed.registration_id).await, NO_REGISTRATION, "demoted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_good_token_no_rpc_answers_and_nothing_changes() {
    let scene = Scene::set(1).await;
    let system = &scene.system;
    let before = system.everything().await;
    let id = scene.owner.id;
    let expired = system.mint.token_with(id, Role::Admin, |claims| claims.exp = claims.iat - 60, |_| {});
    let forged = TokenMint::new().token(id, Role::Admin);
    for (rpc, message) in scene.requests() {
        for (authorization, reason) in [
            (None, "TOKEN_MISSING"),
            (Some("Bearer x.y.z".to_owned()), "TOKEN_INVALID"),
            (Some(format!("Bearer {expired}")), "TOKEN_EXPIRED"),
            (Some(format!("Bearer {forged}")), "TOKEN_INVALID"),
        ] {
            let value = authorization.map(|text| text.parse().unwrap());
            let answer = raw::call(&scene.owner.channel, &path(rpc), value.as_ref(), message.clone()).await;
            assert_refused(&answer.unwrap_err(), reason);
            // Before anything of the message is read.
            let answer = raw::call(&scene.owner.channel, &path(rpc), value.as_ref(), vec![0xff; 9]).await;
            assert_refused(&answer.unwrap_err(), reason);
        }
    }
    assert_eq!(system.everything().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_of_reflection_list_the_contract() {
    let system = System::start().await;
    let channel = &system.replicas[0].channel;
    assert_eq!(listed_v1(channel).await, contract::rpc_names());
    assert_eq!(listed_v1alpha(channel).await, contract::rpc_names());
    let cases: BTreeSet<String> = CASES.iter().map(|(rpc, _)| (*rpc).to_owned()).collect();
    assert_eq!(cases, contract::rpc_names());
    let promised: BTreeSet<String> = PROMISES.iter().map(|(reason, ..)| (*reason).to_owned()).collect();
    assert_eq!(promised, contract::reasons());
}

macro_rules! listed {
    ($name:ident, $version:ident) => {
        /// The rpcs that reflection lists.
        async fn $name(channel: &tonic::transport::Channel) -> BTreeSet<String> {
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            let mut reflection = ServerReflectionClient::new(channel.clone());
            let mut ask = async |message_request: MessageRequest| {
                let request = tonic_reflection::pb::$version::ServerReflectionRequest {
                    host: String::new(),
                    message_request: Some(message_request),
                };
                let answers = reflection.server_reflection_info(tokio_stream::once(request)).await;
                answers.unwrap().into_inner().message().await.unwrap().unwrap().message_response.unwrap()
            };
            let MessageResponse::ListServicesResponse(services) =
                ask(MessageRequest::ListServices(String::new())).await
            else {
                panic!("not a list");
            };
            let mut rpcs = BTreeSet::new();
            for service in services.service {
                let Some(name) = service.name.strip_prefix("rowlock.booking.v1.") else { continue };
                let MessageResponse::FileDescriptorResponse(files) =
                    ask(MessageRequest::FileContainingSymbol(service.name.clone())).await
                else {
                    panic!("not a file");
                };
                for file in &files.file_descriptor_proto {
                    let file = FileDescriptorProto::decode(file.as_slice()).unwrap();
                    for found in file.service.iter().filter(|found| found.name() == name) {
                        rpcs.extend(found.method.iter().map(|rpc| format!("{name}/{}", rpc.name())));
                    }
                }
            }
            rpcs
        }
    };
}

listed!(listed_v1, v1);
listed!(listed_v1alpha, v1alpha);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_does_not_exist_is_unimplemented() {
    let system = System::start().await;
    let admin = system.admin();
    for path in [
        "/rowlock.booking.v1.EventService/Gett",
        "/rowlock.booking.v1.EventService/",
        "/rowlock.booking.v1.eventservice/GetEvent",
        "/rowlock.booking.v2.EventService/GetEvent",
        "/rowlock.identity.v1.UserService/GetMe",
        "/x/y",
    ] {
        for authorization in [None, Some(&admin.bearer.0)] {
            let status = raw::call(&admin.channel, path, authorization, vec![]).await.unwrap_err();
            assert_eq!(assert_refused(&status, "METHOD_UNIMPLEMENTED")["method"], path);
        }
    }
}

#[test]
fn the_methods_that_are_counted_as_streams_are_those_of_the_contract() {
    let counted: BTreeSet<String> = booking_service::grpc::access::STREAMS
        .iter()
        .map(|path| path.trim_start_matches("/rowlock.booking.v1.").to_owned())
        .collect();
    assert_eq!(counted, contract::streams());
}
