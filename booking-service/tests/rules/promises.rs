//! docs/promises.md names a test for each promise, docs/limits.md an option, a metric and a test for each limit, docs/metrics.md every
//! metric.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// All Rust in a folder of each crate.
fn sources(of: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<PathBuf> =
        ["booking-service", "identity-service", "service-core"].map(|name| root.join(name).join(of)).into();
    let mut sources = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    sources
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn tests_that_are_missing(page: &str, at_least: usize) -> Vec<&str> {
    let is_a_test = |name: &&str| {
        name.matches('_').count() >= 4
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let named: Vec<&str> = quoted(page).filter(is_a_test).collect();
    assert!(named.len() > at_least, "{named:?}");
    let sources = sources("tests");
    // With what stands above it: a test, and one that runs, be it as one of the faults.
    let is_run = |name: &str| {
        let above = sources.split_once(&format!("fn {name}(")).map(|(above, _)| above);
        let attributes = above.and_then(|above| above.rsplit("\n\n").next()).unwrap_or_default();
        let is_ignored =
            attributes.contains("#[ignore") && !attributes.contains(": deploy/local/test faults\"]");
        ["#[test]", "#[tokio::test"].iter().any(|test| attributes.contains(test)) && !is_ignored
    };
    named.into_iter().filter(|name| !is_run(name)).collect()
}

#[test]
fn every_test_that_the_page_of_promises_names_exists() {
    assert_eq!(tests_that_are_missing(include_str!("../../../docs/promises.md"), 40), Vec::<&str>::new());
}

#[test]
fn every_limit_has_the_option_the_default_the_metric_and_the_test_that_its_page_names() {
    let page = include_str!("../../../docs/limits.md");
    assert_eq!(tests_that_are_missing(page, 25), Vec::<&str>::new());
    let options = [
        include_str!("../../../docs/options/booking-service.md"),
        include_str!("../../../docs/options/identity-service.md"),
    ]
    .concat();
    let metrics = include_str!("../../../docs/metrics.md");
    let mut limits = 0;
    for row in page.lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, flags, defaults, _, metric, tests, _] = cells[..] else { panic!("{row}") };
        assert_eq!(quoted(flags).count(), quoted(defaults).count(), "{row}");
        for (flag, default) in quoted(flags).zip(quoted(defaults)) {
            let option = options.lines().find(|line| line.starts_with(&format!("| `{flag} ")));
            let option = option.unwrap_or_else(|| panic!("there is no {flag}"));
            assert!(option.contains(&format!("| `{default}` |")), "{flag}: {option}");
            limits += 1;
        }
        assert!(quoted(metric).count() == 1 || metric.starts_with("none: "), "{row}");
        for metric in quoted(metric) {
            assert!(metrics.contains(&format!("`{metric}`")), "there is no {metric}");
        }
        assert!(quoted(tests).count() > 0, "{row}");
    }
    assert!(limits > 25, "{limits}");
    let server = options.split("### Server\n").nth(1).and_then(|rest| rest.split("###").next()).unwrap();
    let no_limits = ["--grpc-addr", "--http-addr", "--reflection"];
    let flags = server.lines().filter_map(|line| line.strip_prefix("| `")?.split(' ').next());
    let forgotten: Vec<_> =
        flags.filter(|flag| !no_limits.contains(flag) && !page.contains(&format!("`{flag}`"))).collect();
    assert_eq!(forgotten, Vec::<&str>::new());
}

#[test]
fn every_metric_of_the_code_is_on_its_page_and_none_else() {
    let code = sources("src");
    let named = |macro_name: &'static str| {
        code.split(macro_name)
            .skip(1)
            .filter_map(|after| after.trim_start().strip_prefix('"')?.split('"').next())
    };
    let is_one = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let told: BTreeSet<&str> =
        ["counter!(", "gauge!(", "histogram!("].into_iter().flat_map(named).filter(is_one).collect();
    let page = include_str!("../../../docs/metrics.md");
    let first_cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('|').next());
    let explained: BTreeSet<&str> =
        first_cells.flat_map(|cell| cell.split(['`', ',', ' ']).filter(|name| !name.is_empty())).collect();
    assert!(told.len() > 40, "{told:?}");
    assert_eq!(told, explained);
}
