//! Files that are written whole or not at all: a reader, or a crash, never meets half a key or half a secret.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Makes the folder, and those above it, for the owner alone. Folders that are there are left as they are.
///
/// # Errors
/// What the system says.
pub(crate) fn make_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes the file `name` in `folder` with these permissions, in place of one that is there.
///
/// # Errors
/// What the system says; the file is then as it was.
pub(crate) fn write(folder: &Path, name: &str, contents: &[u8], mode: u32) -> io::Result<()> {
    let partial = folder.join(format!(".{name}.{}.partial", std::process::id()));
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&partial, folder.join(name))?;
        fs::File::open(folder)?.sync_all()
    };
    written().inspect_err(|_| {
        // Whether or not it was made; the first error is the one to tell.
        let _ = fs::remove_file(&partial);
    })
}
