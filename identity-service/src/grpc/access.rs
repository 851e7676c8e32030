//! Who may call what. A method that is not here is refused.

use service_core::auth::{Access, AccessTable, Role};

/// Those who have an account of their own.
const PEOPLE: Access = Access::AnyOf(&[Role::Attendee, Role::Organizer, Role::Admin]);
const ADMIN: Access = Access::AnyOf(&[Role::Admin]);
const SERVICE: Access = Access::AnyOf(&[Role::Service]);
const SERVICE_OR_ADMIN: Access = Access::AnyOf(&[Role::Service, Role::Admin]);

/// Every rpc of `rowlock.identity.v1`, as the contract's `Callers:` lines say. RefreshTokens, SignOut,
/// ResetPassword and IssueServiceToken are public because what they are given is the proof.
pub const ACCESS: AccessTable = &[
    ("/rowlock.identity.v1.AuthService/SignUp", Access::Public),
    ("/rowlock.identity.v1.AuthService/SignIn", Access::Public),
    ("/rowlock.identity.v1.AuthService/RefreshTokens", Access::Public),
    ("/rowlock.identity.v1.AuthService/SignOut", Access::Public),
    ("/rowlock.identity.v1.AuthService/ResetPassword", Access::Public),
    ("/rowlock.identity.v1.AuthService/IssueServiceToken", Access::Public),
    ("/rowlock.identity.v1.AuthService/IntrospectToken", SERVICE_OR_ADMIN),
    ("/rowlock.identity.v1.AuthService/GetJwks", Access::Public),
    ("/rowlock.identity.v1.UserService/GetMe", PEOPLE),
    ("/rowlock.identity.v1.UserService/UpdateMe", PEOPLE),
    ("/rowlock.identity.v1.UserService/ChangePassword", PEOPLE),
    ("/rowlock.identity.v1.UserService/DeleteMe", PEOPLE),
    ("/rowlock.identity.v1.UserService/ListMySessions", PEOPLE),
    ("/rowlock.identity.v1.UserService/RevokeMySession", PEOPLE),
    ("/rowlock.identity.v1.UserService/GetUser", ADMIN),
    ("/rowlock.identity.v1.UserService/ListUsers", ADMIN),
    ("/rowlock.identity.v1.UserService/BatchGetUsers", SERVICE_OR_ADMIN),
    ("/rowlock.identity.v1.UserService/UpdateUser", ADMIN),
    ("/rowlock.identity.v1.UserService/RevokeUserSessions", ADMIN),
    ("/rowlock.identity.v1.UserService/CreatePasswordReset", ADMIN),
    ("/rowlock.identity.v1.UserService/DeleteUser", ADMIN),
    ("/rowlock.identity.v1.ServiceAccountService/CreateServiceAccount", ADMIN),
    ("/rowlock.identity.v1.ServiceAccountService/ListServiceAccounts", ADMIN),
    ("/rowlock.identity.v1.ServiceAccountService/RotateServiceAccountSecret", ADMIN),
    ("/rowlock.identity.v1.ServiceAccountService/DeleteServiceAccount", ADMIN),
    ("/rowlock.identity.v1.RevocationService/WatchRevocations", SERVICE),
];

/// Those that answer with a stream.
pub const STREAMS: [&str; 1] = ["/rowlock.identity.v1.RevocationService/WatchRevocations"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::grpc::SERVICE_NAMES;

    #[test]
    fn the_table_has_every_rpc_of_the_contract_and_no_other() {
        let set = FileDescriptorSet::decode(rowlock_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut rpcs = BTreeSet::new();
        let mut services = BTreeSet::new();
        let mut streams = BTreeSet::new();
        for file in set.file.iter().filter(|file| file.package() == "rowlock.identity.v1") {
            for service in &file.service {
                services.insert(format!("{}.{}", file.package(), service.name()));
                rpcs.extend(
                    service
                        .method
                        .iter()
                        .map(|rpc| format!("/{}.{}/{}", file.package(), service.name(), rpc.name())),
                );
                let streaming = service.method.iter().filter(|rpc| rpc.server_streaming());
                streams.extend(
                    streaming.map(|rpc| format!("/{}.{}/{}", file.package(), service.name(), rpc.name())),
                );
            }
        }
        let table: BTreeSet<String> = ACCESS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(table, rpcs);
        assert_eq!(table.len(), ACCESS.len(), "each once");
        assert_eq!(streams, STREAMS.iter().map(|path| (*path).to_owned()).collect());
        assert_eq!(services, SERVICE_NAMES.iter().map(|name| (*name).to_owned()).collect());
    }
}
