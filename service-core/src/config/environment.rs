//! Variables of the environment that look like options and are none.

use std::collections::BTreeSet;

/// The names in `environment` that begin with `ROWLOCK_` and that no option of `command` or its subcommands reads: most
/// likely misspelt. Variables for tools (`ROWLOCK_LOCAL_…`, `ROWLOCK_TEST_…`, `…_CHECK_DATABASE_URL`) and those that
/// Kubernetes makes for services are left out.
pub fn unknown_variables(command: &clap::Command, environment: impl Iterator<Item = String>) -> Vec<String> {
    let mut known = BTreeSet::new();
    collect(command, &mut known);
    let mut unknown: Vec<String> = environment
        .filter(|name| name.starts_with("ROWLOCK_") && !known.contains(name.as_str()) && !is_of_a_tool(name))
        .collect();
    unknown.sort();
    unknown
}

fn collect<'a>(command: &'a clap::Command, known: &mut BTreeSet<&'a str>) {
    known.extend(command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()));
    command.get_subcommands().for_each(|subcommand| collect(subcommand, known));
}

fn is_of_a_tool(name: &str) -> bool {
    let kubernetes =
        ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT", "_TCP", "_TCP_ADDR", "_TCP_PORT", "_TCP_PROTO"];
    name.starts_with("ROWLOCK_LOCAL_")
        || name.starts_with("ROWLOCK_TEST_")
        || name == "ROWLOCK_PG_BIN"
        || name.ends_with("_CHECK_DATABASE_URL")
        || name.contains("_SERVICE_PORT_")
        || kubernetes.iter().any(|suffix| name.ends_with(suffix))
}
