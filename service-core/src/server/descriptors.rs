//! Whether the system lets the process have as many file descriptors as its limits promise.

use crate::config::ServerConfig;

/// What is open besides clients' connections: the database's, identity's, the log, listeners, the runtime's own.
const BESIDES: u64 = 100;

/// Warns if the system's limit is met before those of `config`: then connections wait in the system's queue until their
/// clients give up, instead of being closed at once.
pub(super) fn warn_if_too_few(config: &ServerConfig) {
    // Where there is no such file, nothing is known.
    let Ok(limits) = std::fs::read_to_string("/proc/self/limits") else { return };
    let needed = needed(config);
    if let Some(allowed) = soft_limit(&limits).filter(|allowed| *allowed < needed) {
        tracing::warn!(
            allowed,
            needed,
            "the system allows fewer open files (ulimit -n) than --max-connections and --max-http-connections need"
        );
    }
}

fn needed(config: &ServerConfig) -> u64 {
    let connections = config.max_connections.saturating_add(config.max_http_connections);
    u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(BESIDES)
}

/// The number of files that may be open, as `/proc/self/limits` has it; `None`: there is no limit.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DefaultAddresses;

    #[test]
    fn the_soft_limit_of_open_files_is_read_from_what_the_kernel_says() {
        let head = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             63432                63432                processes \n";
        let files =
            |soft: &str| format!("{head}Max open files            {soft}      1048576     files     \n");
        assert_eq!(soft_limit(&files("1024")), Some(1024));
        assert_eq!(soft_limit(&files("unlimited")), None);
        assert_eq!(soft_limit(head), None);
        let own = std::fs::read_to_string("/proc/self/limits").unwrap();
        assert!(own.contains("unlimited") || soft_limit(&own).is_some(), "{own}");
    }

    #[test]
    fn every_connection_needs_a_file_and_the_rest_of_the_process_some_more() {
        let any = ([127, 0, 0, 1], 0).into();
        let mut config = ServerConfig::at(DefaultAddresses { grpc: any, http: any });
        assert_eq!(needed(&config), 10_000 + 256 + 100);
        config.max_connections = usize::MAX;
        assert_eq!(needed(&config), u64::MAX);
    }
}
