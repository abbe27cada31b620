//! Which files there are, and whether they changed: names, sizes, times, inodes. Reads no content.
//!
//! Symbolic links are followed, so the layout of a mounted ConfigMap works: `a.yaml -> ..data/a.yaml`, where `..data` is a
//! link that is swapped as a whole. Names that begin with a dot are skipped, `..data` among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Folders in folders; more is a loop of links that does not repeat an inode, or no folder of configuration.
const MAX_DEPTH: usize = 32;

/// What a look at the folders found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Scan {
    /// By the name that diagnostics use.
    pub(super) files: BTreeMap<String, Found>,
    /// Folders (and roots) that cannot be read: what names of files below them begin with, empty for a single root.
    pub(super) unreadable: BTreeMap<String, Unreadable>,
}

/// A folder that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) path: PathBuf,
    pub(super) error: String,
}

/// A file with a name that asks to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) stamp: Result<Stamp, StatError>,
}

/// What changes when a file does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    /// A write within the same instant and size still moves it; so does `chmod`.
    changed: (i64, i64),
}

/// A comparable `io::Error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StatError {
    pub(super) kind: io::ErrorKind,
    pub(super) text: String,
}

/// Looks at all of the roots.
pub(super) fn scan(roots: &[PathBuf]) -> Scan {
    let mut scan = Scan::default();
    for root in roots {
        // With one root its files are named relative to it.
        let prefix = if roots.len() == 1 { String::new() } else { root.display().to_string() };
        match fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => scan.folder(root, &prefix, &mut Vec::new()),
            Ok(_) => {
                let name = if prefix.is_empty() { file_name(root) } else { prefix };
                scan.file(root.clone(), name);
            }
            Err(error) => {
                scan.unreadable.insert(prefix, Unreadable { path: root.clone(), error: error.to_string() });
            }
        }
    }
    // A root that is a file, or inside another root, must not count twice.
    let mut paths = BTreeSet::new();
    scan.files.retain(|_, found| paths.insert(found.path.clone()));
    scan
}

/// Whether the file `name` is in `folder`, a key of [`Scan::unreadable`].
pub(super) fn is_below(name: &str, folder: &str) -> bool {
    folder.is_empty()
        || name.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Reads a file of at most `limit` bytes, even if it grows meanwhile.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

impl Scan {
    fn folder(&mut self, path: &Path, name: &str, above: &mut Vec<(u64, u64)>) {
        if let Err(error) = self.try_folder(path, name, above) {
            let error = error.to_string();
            self.unreadable.insert(name.to_owned(), Unreadable { path: path.to_owned(), error });
        }
    }

    fn try_folder(&mut self, path: &Path, name: &str, above: &mut Vec<(u64, u64)>) -> io::Result<()> {
        let metadata = fs::metadata(path)?;
        let identity = (metadata.dev(), metadata.ino());
        if above.contains(&identity) || above.len() >= MAX_DEPTH {
            return Ok(());
        }
        let entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
        above.push(identity);
        for entry in entries {
            let path = entry.path();
            let entry_name = file_name(&path);
            if entry_name.starts_with('.') {
                continue;
            }
            let name = if name.is_empty() { entry_name } else { format!("{name}/{entry_name}") };
            // Follows links. One that leads nowhere is reported if its name asks to be read.
            if fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                self.folder(&path, &name, above);
            } else if is_wanted(&path) {
                self.file(path, name);
            }
        }
        above.pop();
        Ok(())
    }

    fn file(&mut self, path: PathBuf, name: String) {
        let stamp = fs::metadata(&path)
            .and_then(|metadata| {
                if metadata.is_file() {
                    Ok(Stamp {
                        size: metadata.len(),
                        device: metadata.dev(),
                        inode: metadata.ino(),
                        modified: (metadata.mtime(), metadata.mtime_nsec()),
                        changed: (metadata.ctime(), metadata.ctime_nsec()),
                    })
                } else {
                    // Opening a pipe would block.
                    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
                }
            })
            .map_err(|error| StatError { kind: error.kind(), text: error.to_string() });
        self.files.insert(name, Found { path, stamp });
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn is_wanted(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|wanted| extension == *wanted))
}
