//! The contract as its own description has it.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};

const PACKAGE: &str = "rowlock.booking.v1";

/// Every rpc (`EventService/GetEvent`) with the full name of its request.
pub(crate) fn rpcs() -> BTreeMap<String, String> {
    let mut rpcs = BTreeMap::new();
    for file in &set().file {
        for service in file.service.iter().filter(|_| file.package() == PACKAGE) {
            for method in &service.method {
                let name = format!("{}/{}", service.name(), method.name());
                rpcs.insert(name, method.input_type().trim_start_matches('.').to_owned());
            }
        }
    }
    rpcs
}

/// The rpcs that answer with a stream.
pub(crate) fn streams() -> BTreeSet<String> {
    let set = set();
    let services = set.file.iter().filter(|file| file.package() == PACKAGE).flat_map(|file| &file.service);
    services
        .flat_map(|service| {
            let streams = service.method.iter().filter(|method| method.server_streaming());
            streams.map(|method| format!("{}/{}", service.name(), method.name()))
        })
        .collect()
}

/// The names of all rpcs.
pub(crate) fn rpc_names() -> BTreeSet<String> {
    rpcs().into_keys().collect()
}

/// Every reason of an error, as `ErrorInfo` has it.
pub(crate) fn reasons() -> BTreeSet<String> {
    let files = set().file;
    let mut enums = files.iter().filter(|file| file.package() == PACKAGE).flat_map(|file| &file.enum_type);
    let reasons = enums.find(|found| found.name() == "ErrorReason").unwrap();
    let names = reasons.value.iter().filter(|value| value.number() != 0);
    names.map(|value| value.name().strip_prefix("ERROR_REASON_").unwrap().to_owned()).collect()
}

/// Every message by its full name.
pub(crate) fn messages() -> BTreeMap<String, DescriptorProto> {
    let mut messages = BTreeMap::new();
    for file in set().file {
        let package = file.package().to_owned();
        for message in file.message_type {
            for nested in &message.nested_type {
                messages.insert(format!("{package}.{}.{}", message.name(), nested.name()), nested.clone());
            }
            messages.insert(format!("{package}.{}", message.name()), message);
        }
    }
    messages
}

pub(crate) fn set() -> FileDescriptorSet {
    FileDescriptorSet::decode(rowlock_proto::FILE_DESCRIPTOR_SET).unwrap()
}
