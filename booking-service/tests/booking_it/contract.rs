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

/// The names of all rpcs.
pub(crate) fn rpc_names() -> BTreeSet<String> {
    rpcs().into_keys().collect()
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

fn set() -> FileDescriptorSet {
    FileDescriptorSet::decode(rowlock_proto::FILE_DESCRIPTOR_SET).unwrap()
}
