//! The arrows between the modules: grpc → accounts → store → domain.

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file, by its path below `src`, without comments.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            (path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), code.join("\n"))
        })
        .collect()
}

/// `words` stand in no file outside of `homes`.
fn only_in(homes: &[&str], words: &[&str]) {
    let mut seen = 0;
    for (file, code) in sources() {
        for word in words.iter().filter(|word| code.contains(**word)) {
            seen += 1;
            assert!(homes.iter().any(|home| file.starts_with(home)), "{word} in {file}");
        }
    }
    assert!(seen > 0, "none of {words:?} is anywhere: this test has lost its subject");
}

#[test]
fn messages_and_status_codes_stay_in_grpc() {
    // `serve` hands the descriptor set to reflection, the command `health` is a client.
    only_in(&["grpc/", "serve.rs", "commands.rs"], &["tonic", "prost", "rowlock_proto"]);
    only_in(&["grpc/"], &["rowlock_proto::identity"]);
}

#[test]
fn sql_stays_in_the_store() {
    only_in(&["store/"], &["sqlx::query", "PgConnection", "PgExecutor", "run_tx"]);
}

#[test]
fn the_domain_is_pure() {
    for (file, code) in sources().into_iter().filter(|(file, _)| file.starts_with("domain/")) {
        for word in
            ["async", "await", "tokio", "sqlx", "Clock", "now()", "std::fs", "std::net", "tracing", "crate::"]
        {
            assert!(!code.contains(word), "{word} in {file}");
        }
    }
}
