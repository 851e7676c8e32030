use std::collections::{HashMap, HashSet};

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

use crate::identity::v1::{SignInRequest, User};
use crate::{FILE_DESCRIPTOR_SET, booking, identity};

// Field numbers of descriptor.proto, which is how source info names what a comment belongs to.
const FILE_MESSAGES: i32 = 4;
const FILE_ENUMS: i32 = 5;
const FILE_SERVICES: i32 = 6;
const MESSAGE_FIELDS: i32 = 2;
const MESSAGE_NESTED: i32 = 3;
const MESSAGE_ENUMS: i32 = 4;
const MESSAGE_ONEOFS: i32 = 8;
const ENUM_VALUES: i32 = 2;
const SERVICE_METHODS: i32 = 2;

fn our_files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    set.file.into_iter().filter(|file| file.package().starts_with("rowlock.")).collect()
}

/// Everything in a file that deserves a comment: its path in the source info, and its name.
#[derive(Default)]
struct Elements(Vec<(Vec<i32>, String)>);

impl Elements {
    fn of(file: &FileDescriptorProto) -> Self {
        let mut elements = Self::default();
        for (i, message) in file.message_type.iter().enumerate() {
            elements.message(&at(&[], FILE_MESSAGES, i), file.package(), message);
        }
        for (i, r#enum) in file.enum_type.iter().enumerate() {
            elements.r#enum(&at(&[], FILE_ENUMS, i), file.package(), r#enum);
        }
        for (i, service) in file.service.iter().enumerate() {
            let path = at(&[], FILE_SERVICES, i);
            for (i, method) in service.method.iter().enumerate() {
                elements.add(at(&path, SERVICE_METHODS, i), service.name(), method.name());
            }
            elements.add(path, file.package(), service.name());
        }
        elements
    }

    fn message(&mut self, path: &[i32], parent: &str, message: &DescriptorProto) {
        // The entries of a map field are made by the compiler.
        if message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry) {
            return;
        }
        self.add(path.to_vec(), parent, message.name());
        for (i, field) in message.field.iter().enumerate() {
            self.add(at(path, MESSAGE_FIELDS, i), message.name(), field.name());
        }
        for (i, oneof) in message.oneof_decl.iter().enumerate() {
            // `optional` fields bring a oneof that the compiler made.
            if !message.field.iter().any(|f| f.proto3_optional() && f.oneof_index == i32::try_from(i).ok()) {
                self.add(at(path, MESSAGE_ONEOFS, i), message.name(), oneof.name());
            }
        }
        for (i, nested) in message.nested_type.iter().enumerate() {
            self.message(&at(path, MESSAGE_NESTED, i), message.name(), nested);
        }
        for (i, nested) in message.enum_type.iter().enumerate() {
            self.r#enum(&at(path, MESSAGE_ENUMS, i), message.name(), nested);
        }
    }

    fn r#enum(&mut self, path: &[i32], parent: &str, r#enum: &EnumDescriptorProto) {
        self.add(path.to_vec(), parent, r#enum.name());
        for (i, value) in r#enum.value.iter().enumerate() {
            self.add(at(path, ENUM_VALUES, i), r#enum.name(), value.name());
        }
    }

    fn add(&mut self, path: Vec<i32>, parent: &str, name: &str) {
        self.0.push((path, format!("{parent}.{name}")));
    }
}

fn at(path: &[i32], kind: i32, index: usize) -> Vec<i32> {
    [path, &[kind, i32::try_from(index).unwrap()]].concat()
}

#[test]
fn everything_in_the_contract_has_a_comment() {
    let mut seen = 0;
    let mut bare = Vec::new();
    for file in our_files() {
        let source = file.source_code_info.as_ref().unwrap();
        let commented: HashSet<&[i32]> = source
            .location
            .iter()
            .filter(|location| !location.leading_comments().trim().is_empty())
            .map(|location| location.path.as_slice())
            .collect();
        for (path, name) in Elements::of(&file).0 {
            seen += 1;
            if !commented.contains(path.as_slice()) {
                bare.push(format!("{}: {name}", file.name()));
            }
        }
    }
    assert!(bare.is_empty(), "without a comment: {bare:#?}");
    assert!(seen > 400, "only {seen} elements were looked at");
}

#[test]
fn every_rpc_says_who_may_call_it() {
    let mut seen = 0;
    for file in our_files() {
        let source = file.source_code_info.as_ref().unwrap();
        for location in &source.location {
            if matches!(location.path.as_slice(), [FILE_SERVICES, _, SERVICE_METHODS, _]) {
                seen += 1;
                assert!(location.leading_comments().contains("Callers: "), "{}", location.leading_comments());
            }
        }
    }
    assert_eq!(seen, file_methods());
}

fn file_methods() -> usize {
    our_files().iter().flat_map(|file| &file.service).map(|service| service.method.len()).sum()
}

#[test]
fn every_reason_loses_its_prefix_on_the_wire() {
    assert_eq!(booking::v1::ErrorReason::EventFull.reason(), "EVENT_FULL");
    assert_eq!(identity::v1::ErrorReason::EmailTaken.reason(), "EMAIL_TAKEN");
    let mut seen = 0;
    for file in our_files() {
        for reason in file.enum_type.iter().filter(|e| e.name() == "ErrorReason").flat_map(|e| &e.value) {
            assert!(reason.name().starts_with(crate::REASON_PREFIX), "{}", reason.name());
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} reasons were looked at");
}

#[test]
fn a_message_with_secrets_does_not_print_them() {
    let request = SignInRequest { email: "ada@example.com".into(), password: "correct horse".into() };
    assert_eq!(format!("{request:?}"), r#"SignInRequest { email: "[redacted]", password: "[redacted]" }"#);
    let user = User { email: "ada@example.com".into(), display_name: "Ada".into(), ..User::default() };
    let printed = format!("{user:?}");
    assert!(printed.contains("Ada") && !printed.contains("ada@example.com"), "{printed}");
}

#[test]
fn every_field_that_sounds_secret_is_redacted() {
    // The field option `debug_redact` has the number 16; prost_types drops it, so this looks at the generated `Debug`.
    let generated = include_str!(concat!(env!("OUT_DIR"), "/redacted_debug.rs"));
    for file in our_files() {
        for message in &file.message_type {
            for field in message.field.iter().map(prost_types::FieldDescriptorProto::name) {
                let paging = ["page_token", "next_page_token", "resume_token"].contains(&field);
                let secret =
                    ["token", "password", "secret", "email"].iter().any(|word| field.ends_with(word));
                if secret && !paging {
                    let path = format!("{}.{}", file.package(), message.name());
                    let path = path.trim_start_matches("rowlock.").replace('.', "::");
                    let (_, body) = generated
                        .split_once(&format!("for {path} {{"))
                        .unwrap_or_else(|| panic!("{path} has a derived Debug"));
                    let (body, _) = body.split_once("finish()").unwrap();
                    assert!(body.contains(&format!(".field({field:?}, &\"[redacted]\")")), "{path}.{field}");
                }
            }
        }
    }
}

/// The codes after which service-config.json repeats a call, by what it is given for: `service` or `service/method`.
fn retried_codes() -> HashMap<String, Vec<String>> {
    let config: serde_json::Value = serde_json::from_str(include_str!("../service-config.json")).unwrap();
    let mut codes = HashMap::new();
    for part in config["methodConfig"].as_array().unwrap() {
        let retried = part["retryPolicy"]["retryableStatusCodes"].as_array().cloned().unwrap_or_default();
        let retried: Vec<String> = retried.iter().map(|code| code.as_str().unwrap().to_owned()).collect();
        for name in part["name"].as_array().unwrap() {
            let service = name["service"].as_str().unwrap();
            let scope =
                name["method"].as_str().map_or(service.to_owned(), |method| format!("{service}/{method}"));
            assert!(codes.insert(scope.clone(), retried.clone()).is_none(), "{scope} is there twice");
        }
    }
    codes
}

#[test]
fn the_service_config_speaks_of_every_rpc_and_of_no_other() {
    let mut codes = retried_codes();
    let mut services = HashSet::new();
    for file in our_files() {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            for method in &service.method {
                let own = codes.remove(&format!("{name}/{}", method.name())).is_some();
                assert!(own || codes.contains_key(&name), "{name}/{} is missing", method.name());
            }
            services.insert(name);
        }
    }
    codes.retain(|scope, _| !services.contains(scope));
    assert!(codes.is_empty(), "not in the contract: {codes:?}");
}

#[test]
fn what_a_second_call_would_harm_is_not_repeated_when_the_first_may_have_been_done() {
    let codes = retried_codes();
    for method in [
        "rowlock.identity.v1.AuthService/RefreshTokens",
        "rowlock.identity.v1.AuthService/SignUp",
        "rowlock.identity.v1.AuthService/ResetPassword",
        "rowlock.identity.v1.UserService/ChangePassword",
        "rowlock.identity.v1.UserService/DeleteMe",
        "rowlock.identity.v1.UserService/DeleteUser",
        "rowlock.identity.v1.ServiceAccountService",
        "rowlock.booking.v1.EventService/UpdateEvent",
        "rowlock.booking.v1.EventService/DeleteEvent",
        "rowlock.booking.v1.SimulationService",
    ] {
        assert!(!codes[method].contains(&"UNAVAILABLE".to_owned()), "{method}");
    }
    assert!(codes["rowlock.booking.v1.RegistrationService"].contains(&"UNAVAILABLE".to_owned()));
}

/// After RESOURCE_EXHAUSTED nothing was begun, and where that is not all a repetition needs, the server says so (`-1`).
#[test]
fn what_was_not_begun_is_repeated_but_for_rehearsals() {
    for (scope, codes) in retried_codes() {
        let is_repeated = codes.contains(&"RESOURCE_EXHAUSTED".to_owned());
        assert_eq!(is_repeated, scope != "rowlock.booking.v1.SimulationService", "{scope}");
    }
}

#[test]
fn the_page_of_grpcurl_lines_has_one_for_every_rpc() {
    let page = include_str!("../../docs/grpcurl.md");
    for file in our_files() {
        for service in &file.service {
            for method in &service.method {
                let rpc = format!(" {}.{}/{}", file.package(), service.name(), method.name());
                let called = page.lines().any(|line| match line.find(&rpc) {
                    Some(at) => !line[at + rpc.len()..].starts_with(char::is_alphanumeric),
                    None => false,
                });
                assert!(called, "docs/grpcurl.md has no line for{rpc}");
            }
        }
    }
}
