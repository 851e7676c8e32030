//! The page that lists a service's options, made from the options themselves.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command};

/// Asserts that the page at `path` is what the options of `command` say; with `ROWLOCK_WRITE_REFERENCE=1` in the
/// environment it is written instead.
///
/// # Panics
/// If the page is not what the options say.
pub fn assert_reference(command: &Command, path: &Path) {
    let page = reference(command);
    if std::env::var_os("ROWLOCK_WRITE_REFERENCE").is_some() {
        std::fs::write(path, page).expect("the page can be written");
        return;
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "{} is not what the options say; ROWLOCK_WRITE_REFERENCE=1 and this test write it anew",
        path.display()
    );
}

fn reference(command: &Command) -> String {
    let mut page = format!(
        "# Options of {}\n\nWritten from the options themselves. Every option can be given as a flag, or by its variable where one stands beside it; a flag wins. \
         `_FILE` names a file that\nholds the value. All errors are reported in one run, and nothing starts.\n",
        command.get_name()
    );
    add(&mut page, command, command.get_name());
    page
}

fn add(page: &mut String, command: &Command, name: &str) {
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        let name = format!("{name} {}", subcommand.get_name());
        if subcommand.has_subcommands() {
            add(page, subcommand, &name);
            continue;
        }
        let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = write!(page, "\n## `{name}`\n\n{about}.\n");
        let mut last = None;
        for option in subcommand.get_arguments().filter(|option| !is_common(option)) {
            let heading = option.get_help_heading().unwrap_or("Options");
            if last.replace(heading) != Some(heading) {
                let _ = write!(
                    page,
                    "\n### {heading}\n\n| option | variable | default | meaning |\n|---|---|---|---|\n"
                );
            }
            let _ = writeln!(page, "{}", row(option));
        }
    }
}

fn is_common(option: &Arg) -> bool {
    ["help", "version"].contains(&option.get_id().as_str())
}

fn row(option: &Arg) -> String {
    let value =
        option.get_value_names().and_then(<[_]>::first).filter(|_| option.get_action().takes_values());
    let flag = match (option.get_long(), value) {
        (Some(long), Some(value)) => format!("`--{long} {value}`"),
        (Some(long), None) => format!("`--{long}`"),
        (None, _) => format!("`{}`", value.map_or("", |value| value.as_str())),
    };
    let variable = option.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
    let help = option.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
    let defaults: Vec<_> = option.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    // A default that no text can give stands in the help: "… [default: for ever]".
    let (meaning, default) = match help.split_once(" [default: ") {
        Some((meaning, default)) => (meaning.to_owned(), default.trim_end_matches(']').to_owned()),
        None if defaults.is_empty() || !option.get_action().takes_values() => (help, String::new()),
        None => (help, format!("`{}`", defaults.join(","))),
    };
    format!("| {flag} | {variable} | {default} | {meaning} |")
}
