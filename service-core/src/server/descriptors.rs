//! Whether the system lets the process have as many file descriptors as its limits promise.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::ServerConfig;

/// What is open besides clients' connections: the database's, identity's, the log, listeners, the runtime's own.
const BESIDES: u64 = 100;

/// Raises the soft limit of open files to the hard one. The soft one is low (1,024 as containers are often started) for the
/// sake of programs that use `select`, and every program that does not is expected to raise it.
///
/// Warns if even that is met before the limits of `config`: then connections wait in the system's queue until their clients
/// give up, instead of being closed at once.
pub(super) fn raise_limit(config: &ServerConfig) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    // Some systems have a lower limit that this one does not tell.
    let allowed = if setrlimit(Resource::Nofile, raised).is_ok() { maximum } else { current };
    let needed = needed(config);
    // None: there is no limit.
    if let Some(allowed) = allowed.filter(|allowed| *allowed < needed) {
        tracing::warn!(
            allowed,
            needed,
            "the system allows fewer open files (ulimit -Hn) than --max-connections and --max-http-connections need"
        );
    }
}

fn needed(config: &ServerConfig) -> u64 {
    let connections = config.max_connections.saturating_add(config.max_http_connections);
    u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(BESIDES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::server_config;

    #[test]
    fn every_connection_needs_a_file_and_the_rest_of_the_process_some_more() {
        let mut config = server_config();
        assert_eq!(needed(&config), 10_000 + 256 + 100);
        config.max_connections = usize::MAX;
        assert_eq!(needed(&config), u64::MAX);
    }
}
