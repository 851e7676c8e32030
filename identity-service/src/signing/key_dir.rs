//! The directory that the keys lie in.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{KeyInvalid, KeyRing, SigningAlgorithm, SigningKey};
use crate::whole_file;

/// The file that names the key which signs.
const MARKER: &str = "signing";

/// What is wrong with the directory, or with a file in it. Each is one line for an operator.
#[derive(Debug, thiserror::Error)]
pub enum KeyDirError {
    /// It does not exist, or may not be read.
    #[error("the key directory {} cannot be read: {cause}", .path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// There is no `*.pem` in it.
    #[error("the key directory {} holds no *.pem file: make one with `identity-service keys generate --dir {}`", .0.display(), .0.display())]
    Empty(PathBuf),
    /// A file may not be read or written.
    #[error("{} cannot be {action}: {cause}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// "read" or "written".
        action: &'static str,
        /// What the system says.
        cause: io::Error,
    },
    /// Others than its owner may read it.
    #[error("{} is open to others (mode {mode:04o}): make it private with `chmod 600`{hint}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What else may help.
        hint: &'static str,
    },
    /// It is not a key that tokens may be signed with.
    #[error("{} {cause}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: KeyInvalid,
    },
    /// There are several keys and nothing says which one signs.
    #[error("the key directory {} holds several keys and no file `{MARKER}`: say which one signs with `identity-service keys activate --dir {} KID`, KID being one of {}", .path.display(), .path.display(), .kids.join(", "))]
    Undecided {
        /// The directory.
        path: PathBuf,
        /// The keys in it.
        kids: Vec<String>,
    },
    /// The key that should sign is not there.
    #[error("the key {kid} that should sign is not in the key directory {}, which has {}", .path.display(), .kids.join(", "))]
    NotThere {
        /// The directory.
        path: PathBuf,
        /// The key that is missing.
        kid: String,
        /// The keys in it.
        kids: Vec<String>,
    },
    /// The keys cannot be published.
    #[error("the key set cannot be written as JSON: {0}")]
    Jwks(#[from] serde_json::Error),
}

/// A directory of private keys.
#[derive(Clone, Debug)]
pub struct KeyDir {
    path: PathBuf,
    group_may_read: bool,
}

impl KeyDir {
    /// The directory at `path`. It is not touched yet.
    ///
    /// `group_may_read` accepts files that their group may read: Kubernetes makes the files of a Secret so
    /// for a pod that does not run as root (`fsGroup`). Others may never read them.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, group_may_read: bool) -> Self {
        Self { path: path.into(), group_may_read }
    }

    /// Reads all keys. One bad file is an error: a key that is not published makes good tokens invalid.
    ///
    /// # Errors
    /// [`KeyDirError`], naming the file.
    pub fn load(&self) -> Result<KeyRing, KeyDirError> {
        let mut keys = self.keys()?;
        let kids = || keys.iter().map(|key| key.kid().to_owned()).collect();
        let wanted = self.marked()?;
        let position = match &wanted {
            Some(kid) => keys.iter().position(|key| key.kid() == kid).ok_or_else(|| {
                KeyDirError::NotThere { path: self.path.clone(), kid: kid.clone(), kids: kids() }
            })?,
            None if keys.is_empty() => return Err(KeyDirError::Empty(self.path.clone())),
            None if keys.len() == 1 => 0,
            None => return Err(KeyDirError::Undecided { path: self.path.clone(), kids: kids() }),
        };
        let signing = keys.remove(position);
        Ok(KeyRing::new(signing, &keys)?)
    }

    /// Makes a new key in a file of its own, named by its kid, that only its owner may read. It makes the
    /// directory if there is none, and never overwrites a key. The key signs if it is the first one or
    /// `activate` is set; else it is published only.
    ///
    /// # Errors
    /// [`KeyDirError`]; nothing is left behind then.
    pub fn generate(&self, algorithm: SigningAlgorithm, activate: bool) -> Result<SigningKey, KeyDirError> {
        whole_file::make_private_folder(&self.path).map_err(|cause| KeyDirError::File {
            path: self.path.clone(),
            action: "made",
            cause,
        })?;
        let before = self.keys()?;
        let invalid = |cause| KeyDirError::Invalid { path: self.path.join("a new key"), cause };
        let pem = algorithm.generate_pem().map_err(invalid)?;
        let key = SigningKey::from_pem(pem.as_bytes()).map_err(invalid)?;
        // With a second key there must be a word on which one signs. Said before the second is there, so that
        // the directory can be loaded at every moment.
        if let ([only], None) = (before.as_slice(), self.marked()?) {
            self.mark(only.kid())?;
        }
        let file = format!("{}.pem", key.kid());
        self.write(&file, pem.as_bytes(), 0o600)?;
        if activate && let Err(error) = self.mark(key.kid()) {
            // The next start would publish it. If even that fails, the first error says why.
            let _ = fs::remove_file(self.path.join(file));
            return Err(error);
        }
        Ok(key)
    }

    /// Whether there is a key. No directory is no key.
    ///
    /// # Errors
    /// [`KeyDirError`], also if there are keys that cannot be used.
    pub fn has_keys(&self) -> Result<bool, KeyDirError> {
        Ok(self.path.exists() && !self.keys()?.is_empty())
    }

    /// Says that the key `kid` signs, from the next start on.
    ///
    /// # Errors
    /// [`KeyDirError::NotThere`] if there is no such key.
    pub fn activate(&self, kid: &str) -> Result<(), KeyDirError> {
        let kids: Vec<String> = self.keys()?.iter().map(|key| key.kid().to_owned()).collect();
        if kids.iter().any(|known| known == kid) {
            return self.mark(kid);
        }
        Err(KeyDirError::NotThere { path: self.path.clone(), kid: kid.to_owned(), kids })
    }

    /// Every `*.pem`, in the order of their names.
    fn keys(&self) -> Result<Vec<SigningKey>, KeyDirError> {
        let unreadable = |cause| KeyDirError::Unreadable { path: self.path.clone(), cause };
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "pem") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| self.key(path)).collect()
    }

    fn key(&self, path: &Path) -> Result<SigningKey, KeyDirError> {
        let unreadable = |cause| KeyDirError::File { path: path.to_owned(), action: "read", cause };
        // Of what a link leads to: in a Secret volume every file is one.
        let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
        let group_only = mode & 0o037 == 0;
        if mode & 0o077 != 0 && !(group_only && self.group_may_read) {
            let hint = if group_only { ", or allow it with --keys-allow-group-read true" } else { "" };
            return Err(KeyDirError::Open { path: path.to_owned(), mode, hint });
        }
        let pem = fs::read(path).map_err(unreadable)?;
        SigningKey::from_pem(&pem).map_err(|cause| KeyDirError::Invalid { path: path.to_owned(), cause })
    }

    /// The key that should sign, if something says so.
    fn marked(&self) -> Result<Option<String>, KeyDirError> {
        let path = self.path.join(MARKER);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(KeyDirError::File { path, action: "read", cause }),
        }
    }

    fn mark(&self, kid: &str) -> Result<(), KeyDirError> {
        self.write(MARKER, format!("{kid}\n").as_bytes(), 0o644)
    }

    fn write(&self, name: &str, contents: &[u8], mode: u32) -> Result<(), KeyDirError> {
        whole_file::write(&self.path, name, contents, mode).map_err(|cause| KeyDirError::File {
            path: self.path.join(name),
            action: "written",
            cause,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> (tempfile::TempDir, KeyDir) {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyDir::new(folder.path(), false);
        (folder, keys)
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_key_signs_and_a_second_one_waits_until_it_is_activated() {
        let (_folder, keys) = empty();
        let first = keys.generate(SigningAlgorithm::Es256, false).unwrap();
        assert_eq!(keys.load().unwrap().signing_kid(), first.kid());
        let second = keys.generate(SigningAlgorithm::Es256, false).unwrap();
        let ring = keys.load().unwrap();
        assert_eq!(ring.signing_kid(), first.kid());
        assert!(ring.jwks_json().contains(first.kid()) && ring.jwks_json().contains(second.kid()));
        let etag = ring.etag().to_owned();
        keys.activate(second.kid()).unwrap();
        let ring = keys.load().unwrap();
        assert_eq!(ring.signing_kid(), second.kid());
        assert_eq!(ring.etag(), etag, "the published keys are the same");
        let third = keys.generate(SigningAlgorithm::Es256, true).unwrap();
        assert_eq!(keys.load().unwrap().signing_kid(), third.kid());
    }

    #[test]
    fn a_new_key_is_private_and_named_by_its_kid() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("deep").join("keys");
        let key = KeyDir::new(&dir, false).generate(SigningAlgorithm::Es256, false).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.join(format!("{}.pem", key.kid()))), 0o600);
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_missing_or_empty_directory_is_named() {
        let (folder, keys) = empty();
        let text = keys.load().unwrap_err().to_string();
        assert!(text.contains("holds no *.pem") && text.contains("keys generate"), "{text}");
        fs::write(folder.path().join("readme.txt"), "no key").unwrap();
        assert!(matches!(keys.load(), Err(KeyDirError::Empty(_))));
        let text = KeyDir::new(folder.path().join("gone"), false).load().unwrap_err().to_string();
        assert!(text.contains("gone cannot be read"), "{text}");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let (folder, keys) = empty();
        let key = keys.generate(SigningAlgorithm::Es256, false).unwrap();
        let path = folder.path().join(format!("{}.pem", key.kid()));
        let trusting = KeyDir::new(folder.path(), true);
        for (mode, strict, group_allowed) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o440, false, true),
            (0o640, false, true),
            (0o660, false, false),
            (0o604, false, false),
            (0o644, false, false),
        ] {
            chmod(&path, mode);
            assert_eq!(keys.load().is_ok(), strict, "{mode:o}");
            assert_eq!(trusting.load().is_ok(), group_allowed, "{mode:o} with the group allowed");
        }
        let text = keys.load().unwrap_err().to_string();
        assert!(text.contains("open to others (mode 0644)"), "{text}");
    }

    #[test]
    fn one_bad_file_stops_the_load() {
        let (folder, keys) = empty();
        keys.generate(SigningAlgorithm::Es256, false).unwrap();
        let bad = folder.path().join("bad.pem");
        fs::write(&bad, "-----BEGIN NOTHING-----").unwrap();
        chmod(&bad, 0o600);
        let text = keys.load().unwrap_err().to_string();
        assert!(text.contains("bad.pem is not a PEM file"), "{text}");
    }

    #[test]
    fn several_keys_without_a_word_on_which_signs_are_refused() {
        let (folder, keys) = empty();
        let first = keys.generate(SigningAlgorithm::Es256, false).unwrap();
        keys.generate(SigningAlgorithm::Es256, false).unwrap();
        let marker = folder.path().join(MARKER);
        fs::remove_file(&marker).unwrap();
        let text = keys.load().unwrap_err().to_string();
        assert!(text.contains("keys activate") && text.contains(first.kid()), "{text}");
        fs::write(&marker, "another\n").unwrap();
        assert!(matches!(keys.load(), Err(KeyDirError::NotThere { .. })));
        assert!(matches!(keys.activate("another"), Err(KeyDirError::NotThere { .. })));
    }

    #[test]
    fn a_link_is_followed_as_in_a_mounted_secret() {
        let (folder, keys) = empty();
        let key = keys.generate(SigningAlgorithm::Es256, false).unwrap();
        let data = folder.path().join("..data");
        fs::create_dir(&data).unwrap();
        let name = format!("{}.pem", key.kid());
        fs::rename(folder.path().join(&name), data.join(&name)).unwrap();
        std::os::unix::fs::symlink(data.join(&name), folder.path().join(&name)).unwrap();
        assert_eq!(keys.load().unwrap().signing_kid(), key.kid());
    }
}
