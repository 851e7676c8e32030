//! A crate's own sources, for tests that hold the arrows between its modules.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file below `src`, by its path there, without the lines that are comments.
#[derive(Clone, Debug)]
pub struct SourceTree(Vec<(String, String)>);

impl SourceTree {
    /// Reads the sources of a crate: `SourceTree::of(env!("CARGO_MANIFEST_DIR"))`.
    ///
    /// # Panics
    /// If they cannot be read.
    #[must_use]
    pub fn of(manifest_dir: &str) -> Self {
        let root = Path::new(manifest_dir).join("src");
        let mut folders = vec![root.clone()];
        let mut files: Vec<PathBuf> = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("the sources can be listed") {
                let path = entry.expect("the sources can be listed").path();
                match path.extension() {
                    None => folders.push(path),
                    Some(extension) if extension == "rs" => files.push(path),
                    Some(_) => {}
                }
            }
        }
        let without_comments = |path: PathBuf| {
            let text = fs::read_to_string(&path).expect("the sources can be read");
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let name = path.strip_prefix(&root).expect("the file is below its root");
            (name.to_string_lossy().into_owned(), code.join("\n"))
        };
        Self(files.into_iter().map(without_comments).collect())
    }

    /// Asserts that `words` stand in no file outside of `homes`, and somewhere at all.
    ///
    /// # Panics
    /// If one does, or if none is anywhere: then the test has lost its subject.
    pub fn only_in(&self, homes: &[&str], words: &[&str]) {
        let mut seen = 0;
        for (file, code) in &self.0 {
            for word in words.iter().filter(|word| code.contains(**word)) {
                seen += 1;
                assert!(homes.iter().any(|home| file.starts_with(home)), "{word} in {file}");
            }
        }
        assert!(seen > 0, "none of {words:?} is anywhere");
    }

    /// Asserts that `words` stand in no file of `folder`.
    ///
    /// # Panics
    /// If one does, or if the folder is empty.
    pub fn never_in(&self, folder: &str, words: &[&str]) {
        let mut seen = 0;
        for (file, code) in self.0.iter().filter(|(file, _)| file.starts_with(folder)) {
            seen += 1;
            for word in words {
                assert!(!code.contains(word), "{word} in {file}");
            }
        }
        assert!(seen > 0, "there is nothing in {folder}");
    }
}
