//! What is shown and kept: progress, the table, JSON for machines, and one page for people.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::row::Row;

/// Rows of one run, and where they come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// When it began, RFC 3339.
    pub(crate) time: String,
    /// Which build was measured, see [`crate::server::build`].
    pub(crate) build: String,
    pub(crate) machine: String,
    pub(crate) settings: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) quick: bool,
    pub(crate) row: Row,
}

/// Where results are kept: `target/rush`.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    // The program stands in target/PROFILE/deps.
    let program = std::env::current_exe()?;
    let target = program.ancestors().find(|folder| folder.ends_with("target")).unwrap_or(Path::new("target"));
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or(target.to_owned(), PathBuf::from).join("rush");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Shows what is going on, on standard error: the results alone are on standard output.
pub(crate) fn progress(what: &str) -> anyhow::Result<()> {
    let mut screen = std::io::stderr().lock();
    if screen.is_terminal() {
        write!(screen, "\r\x1b[K{what}")?;
    } else {
        writeln!(screen, "{what}")?;
    }
    screen.flush()?;
    Ok(())
}

/// Prints.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    if std::io::stderr().is_terminal() {
        progress("")?;
    }
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// Keeps a row beside those of earlier runs, so that a table can be gathered in portions.
pub(crate) fn keep(run: &Run) -> anyhow::Result<()> {
    let folder = folder()?.join("rows");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("{}.json", run.row.name)), serde_json::to_vec_pretty(run)?)?;
    Ok(())
}

/// The rows that were kept of this build, in this order. What another build reached says nothing about this one.
pub(crate) fn kept(names: &[&str], build: &str) -> anyhow::Result<Vec<Run>> {
    let folder = folder()?.join("rows");
    let files = names.iter().map(|name| folder.join(format!("{name}.json"))).filter(|file| file.is_file());
    let mut runs = Vec::new();
    for file in files {
        // One of an older form of this benchmark is of another build too.
        if let Ok(run) = serde_json::from_slice::<Run>(&std::fs::read(file)?)
            && run.build == build
        {
            runs.push(run);
        }
    }
    Ok(runs)
}

/// The last word on a row: what it reached of what it has to.
pub(crate) fn verdict(row: &Row) -> &'static str {
    match row.is_met() {
        Some(true) => "met",
        Some(false) => "NOT MET",
        None => "no bar",
    }
}

/// A row as text: its bars, then every figure with its rounds.
pub(crate) fn text(row: &Row) -> anyhow::Result<String> {
    let mut text = String::new();
    writeln!(text, "{:<16} {:<8} {}", row.name, verdict(row), row.what)?;
    for check in &row.checks {
        let (sign, met) =
            (if check.at_least { "≥" } else { "≤" }, if check.is_met() { "met" } else { "NOT MET" });
        writeln!(
            text,
            "    {} {}   (bar: {sign} {})   {met}",
            number(check.value),
            check.what,
            number(check.bar)
        )?;
    }
    for figure in &row.figures {
        let rounds: Vec<String> = figure.rounds.iter().map(|value| number(*value)).collect();
        writeln!(
            text,
            "      {:<44} {:>9} {:<8} {}",
            figure.what,
            number(figure.median()),
            figure.unit,
            rounds.join(" ")
        )?;
    }
    for note in &row.notes {
        writeln!(text, "      {note}")?;
    }
    Ok(text)
}

/// One line for each bar.
pub(crate) fn table(runs: &[Run]) -> anyhow::Result<String> {
    let mut text = String::new();
    writeln!(text, "{:<16} {:<46} {:>10} {:>10}", "row", "bar", "reached", "")?;
    for run in runs {
        for check in &run.row.checks {
            let sign = if check.at_least { "≥" } else { "≤" };
            let bar = format!("{sign} {} {}", number(check.bar), check.what);
            let met = if check.is_met() { "met" } else { "NOT MET" };
            writeln!(text, "{:<16} {:<46} {:>10} {:>10}", run.row.name, bar, number(check.value), met)?;
        }
    }
    Ok(text)
}

/// Three digits or so.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
