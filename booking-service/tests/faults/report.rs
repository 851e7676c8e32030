//! What is said of each fault: a line, and a row for the table that `deploy/local/test faults` prints in the end.

use std::io::Write;

/// What a fault was tried on, and what came of it; `None` where it was not a matter of that.
#[derive(Default)]
pub(crate) struct Counts {
    /// Calls that changed or could have changed something.
    pub(crate) operations: Option<usize>,
    /// Those of them that got no answer.
    pub(crate) unknown: Option<usize>,
    /// Those whose outcome a repetition told.
    pub(crate) resolved: Option<usize>,
    pub(crate) violations: Option<usize>,
}

/// Says that this machine does not allow it.
///
/// # Panics
/// Where nothing may be skipped: with `CI`.
pub(crate) fn skipped(fault: &str, why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{fault}: {why}, and with CI nothing is skipped");
    tell(fault, 0, &Counts::default(), &format!("SKIPPED, {why}"));
}

/// Prints the line. The row goes to the file that `ROWLOCK_FAULTS_REPORT` names, if it names one: fault, injected and the
/// counts, between tabs.
pub(crate) fn tell(fault: &str, injected: usize, counts: &Counts, text: &str) {
    println!("fault: {fault}: injected {injected}, {text}");
    let Some(report) = std::env::var_os("ROWLOCK_FAULTS_REPORT") else { return };
    let counts = [counts.operations, counts.unknown, counts.resolved, counts.violations];
    let counts = counts.map(|count| count.map_or_else(|| "-".to_owned(), |count| count.to_string()));
    let mut report = std::fs::OpenOptions::new().append(true).create(true).open(report).unwrap();
    writeln!(report, "{fault}\t{injected}\t{}", counts.join("\t")).unwrap();
}
