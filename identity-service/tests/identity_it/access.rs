//! Who may call what: every rpc of the contract, as the server itself lists them, with every kind of caller.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use service_core::auth::Role;
use tonic::{Code, Request};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use uuid::Uuid;

use crate::raw;
use crate::server::{TestServer, refusal, with_token};

/// Who is let through. Said here a second time, apart from the table in the service.
const CASES: [(&str, &[Role]); 26] = [
    ("AuthService/SignUp", ANYONE),
    ("AuthService/SignIn", ANYONE),
    ("AuthService/RefreshTokens", ANYONE),
    ("AuthService/SignOut", ANYONE),
    ("AuthService/ResetPassword", ANYONE),
    ("AuthService/IssueServiceToken", ANYONE),
    ("AuthService/IntrospectToken", &[Role::Service, Role::Admin]),
    ("AuthService/GetJwks", ANYONE),
    ("UserService/GetMe", PEOPLE),
    ("UserService/UpdateMe", PEOPLE),
    ("UserService/ChangePassword", PEOPLE),
    ("UserService/DeleteMe", PEOPLE),
    ("UserService/ListMySessions", PEOPLE),
    ("UserService/RevokeMySession", PEOPLE),
    ("UserService/GetUser", &[Role::Admin]),
    ("UserService/ListUsers", &[Role::Admin]),
    ("UserService/BatchGetUsers", &[Role::Service, Role::Admin]),
    ("UserService/UpdateUser", &[Role::Admin]),
    ("UserService/RevokeUserSessions", &[Role::Admin]),
    ("UserService/CreatePasswordReset", &[Role::Admin]),
    ("UserService/DeleteUser", &[Role::Admin]),
    ("ServiceAccountService/CreateServiceAccount", &[Role::Admin]),
    ("ServiceAccountService/ListServiceAccounts", &[Role::Admin]),
    ("ServiceAccountService/RotateServiceAccountSecret", &[Role::Admin]),
    ("ServiceAccountService/DeleteServiceAccount", &[Role::Admin]),
    ("RevocationService/WatchRevocations", &[Role::Service]),
];
/// Also without a token.
const ANYONE: &[Role] = &Role::ALL;
const PEOPLE: &[Role] = &[Role::Attendee, Role::Organizer, Role::Admin];

/// The rpcs that the server's reflection lists, as `AuthService/SignUp`.
async fn listed(server: &TestServer) -> BTreeSet<String> {
    let mut reflection = ServerReflectionClient::new(server.channel.clone());
    let mut ask = async |request: MessageRequest| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let mut answers =
            reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap().message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(services) =
        ask(MessageRequest::ListServices(String::new())).await
    else {
        panic!("not a list");
    };
    let mut rpcs = BTreeSet::new();
    for service in services.service {
        let Some(name) = service.name.strip_prefix("rowlock.identity.v1.") else {
            let infrastructure = service.name.starts_with("grpc.");
            assert!(infrastructure || service.name.starts_with("rowlock.booking."), "{}", service.name);
            continue;
        };
        let symbol = MessageRequest::FileContainingSymbol(service.name.clone());
        let MessageResponse::FileDescriptorResponse(files) = ask(symbol).await else {
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

#[tokio::test]
async fn every_rpc_that_the_server_lists_has_a_case_here() {
    let server = TestServer::start().await;
    let cases: BTreeSet<String> = CASES.iter().map(|(rpc, _)| (*rpc).to_owned()).collect();
    assert_eq!(listed(&server).await, cases);
    let set = FileDescriptorSet::decode(rowlock_proto::FILE_DESCRIPTOR_SET).unwrap();
    let contract: BTreeSet<String> = set
        .file
        .iter()
        .filter(|file| file.package() == "rowlock.identity.v1")
        .flat_map(|file| &file.service)
        .flat_map(|s| s.method.iter().map(|rpc| format!("{}/{}", s.name(), rpc.name())))
        .collect();
    assert_eq!(contract, cases);
}

#[tokio::test]
async fn every_rpc_lets_its_callers_through_and_nobody_else() {
    let server = TestServer::start().await;
    let user: Uuid = server.sign_up("ada@example.org").await.user_id.parse().unwrap();
    for (rpc, allowed) in CASES {
        let path = format!("/rowlock.identity.v1.{rpc}");
        // A stream of its own kind: see `revocations`.
        let endless = rpc == "RevocationService/WatchRevocations";
        let anonymous = raw::call(&server.channel, &path, Request::new(Bytes::new())).await;
        if allowed == ANYONE {
            assert!(through(anonymous.map(|_| ())), "{rpc} without a token");
        } else {
            let refused = refusal(&anonymous.unwrap_err());
            assert_eq!(refused, (Code::Unauthenticated, "TOKEN_MISSING".into()), "{rpc}");
        }
        for role in Role::ALL {
            if endless && allowed.contains(&role) {
                continue;
            }
            let token = server.token(user, role);
            let answer =
                raw::call(&server.channel, &path, with_token(Bytes::new(), &token)).await.map(|_| ());
            if allowed.contains(&role) {
                assert!(through(answer), "{rpc} as {role}");
            } else {
                let refused = refusal(&answer.unwrap_err());
                assert_eq!(refused, (Code::PermissionDenied, "ROLE_REQUIRED".into()), "{rpc} as {role}");
            }
        }
    }
}

/// Whether the answer is the handler's: an empty request is answered, or invalid.
fn through(answer: Result<(), tonic::Status>) -> bool {
    match answer {
        Ok(()) => true,
        Err(status) => refusal(&status) == (Code::InvalidArgument, "VALIDATION_FAILED".into()),
    }
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_unimplemented() {
    let server = TestServer::start().await;
    for path in ["/rowlock.identity.v1.UserService/Gett", "/rowlock.identity.v2.UserService/GetMe", "/x/y"] {
        let status = raw::call(&server.channel, path, Request::new(Bytes::new())).await.unwrap_err();
        assert_eq!(refusal(&status), (Code::Unimplemented, "METHOD_UNIMPLEMENTED".into()), "{path}");
    }
}
