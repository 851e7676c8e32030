//! The methods of a server and what each asks of its caller.

use std::collections::HashMap;
use std::sync::Arc;

use crate::auth::{Access, AccessTable};

/// The methods that every server has beside its own: health and reflection. Anybody may call them.
pub const INFRASTRUCTURE: [&str; 4] = [
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Those of them that answer with a stream.
const INFRASTRUCTURE_STREAMS: [&str; 3] = [
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// What stands in metrics and logs for a method that does not exist: a caller must not create series.
pub(crate) const UNKNOWN: &str = "unknown";

/// A method that exists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method {
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    pub(crate) infrastructure: bool,
    /// Whether it answers with a stream.
    pub(crate) streams: bool,
    /// Whether it is of reflection, whose callers go on to ask.
    pub(crate) reflects: bool,
}

/// All methods that exist, by path.
#[derive(Clone)]
pub(crate) struct Methods(Arc<HashMap<&'static str, Method>>);

impl Methods {
    pub(crate) fn new(table: AccessTable, streams: &[&'static str]) -> Self {
        let own = table.iter().map(|(path, access)| Method {
            path,
            access: *access,
            infrastructure: false,
            streams: streams.contains(path),
            reflects: false,
        });
        let infrastructure = INFRASTRUCTURE.iter().map(|path| Method {
            path,
            access: Access::Public,
            infrastructure: true,
            streams: INFRASTRUCTURE_STREAMS.contains(path),
            reflects: path.starts_with("/grpc.reflection."),
        });
        Self(Arc::new(own.chain(infrastructure).map(|method| (method.path, method)).collect()))
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    pub(crate) fn find(&self, path: &str) -> Option<Method> {
        self.0.get(path).copied()
    }
}
