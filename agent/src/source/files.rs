//! The `files` source: a folder of the YAML that `kubectl` takes.
//!
//! ```text
//! scan ── paths, stamps ──> read what changed ──> documents ──> first of each object wins ──> Inputs
//!                                                      └─ refused: its last good version stays
//! ```
//!
//! A mistake stays where it is: a broken document does not disturb the others of its file, a broken file not the others of
//! the folder, and an object that was good before stays in force as it was, with a diagnostic that says so. Only an object
//! whose document is gone is gone.
//!
//! A document whose YAML is broken does not say which object it is about. While a file has such a document, every object
//! that the file had and that is nowhere now is kept.

mod document;
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use undermesh_core::api::{Identity, Object};
use undermesh_core::diagnostic::{Code, Diagnostic, Severity};
use undermesh_core::inputs::Inputs;

pub use document::read_text;

use super::Loaded;
use document::{FileDocument, MAX_FILE_BYTES};
use scan::{Found, Scan, Stamp};

/// How often [`FilesSource::changed`] looks.
const POLL: Duration = Duration::from_millis(250);
/// How many polls in a row may differ before a change is reported though the folder does not rest.
const RESTLESS_POLLS: u32 = 3;

/// A folder (or file, or several) of configuration. See the module's text.
#[derive(Debug)]
pub struct FilesSource {
    roots: Vec<PathBuf>,
    files: BTreeMap<String, Cached>,
    /// The last good version of every object in force.
    in_force: BTreeMap<Identity, Object>,
    /// What the last load saw.
    loaded: Scan,
    /// A change seen by `changed`, and for how many polls.
    pending: Option<(Scan, u32)>,
    /// When `changed` looks next: it goes on where it was when it is dropped.
    next_poll: Option<tokio::time::Instant>,
}

#[derive(Debug)]
struct Cached {
    stamp: Option<Stamp>,
    documents: Vec<FileDocument>,
    /// All objects the file had when it was last read: what may be kept.
    objects: BTreeSet<Identity>,
}

/// A folder or file of configuration that is not there.
#[derive(Debug, thiserror::Error)]
#[error("there is no configuration at {}: {cause}", path.display())]
pub struct NoSuchRoot {
    /// As it was given.
    pub path: PathBuf,
    /// What the system said.
    cause: io::Error,
}

/// What one text says, such as standard input. `name` is what diagnostics call it.
pub fn load_text(name: &str, text: &str) -> Loaded {
    let mut source = FilesSource::of(Vec::new());
    let documents = read_text(name, text);
    source.files.insert(name.to_owned(), Cached { stamp: None, documents, objects: BTreeSet::new() });
    source.merge(Vec::new())
}

impl FilesSource {
    /// A source of the files below `root`, or of the file `root`. Files are named relative to it. Nothing is read yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::of(vec![root.into()])
    }

    /// A source of several folders and files. With more than one, files are named as given here.
    pub fn of(roots: Vec<PathBuf>) -> Self {
        Self {
            roots,
            files: BTreeMap::new(),
            in_force: BTreeMap::new(),
            loaded: Scan::default(),
            pending: None,
            next_poll: None,
        }
    }

    /// As [`FilesSource::of`], of folders and files that are there now: a mistyped path is no empty configuration. One that
    /// goes away later leaves what was read from it in force.
    ///
    /// # Errors
    /// One of them is not there, or cannot be looked at.
    pub fn open(roots: Vec<PathBuf>) -> Result<Self, NoSuchRoot> {
        for root in &roots {
            std::fs::metadata(root).map_err(|cause| NoSuchRoot { path: root.clone(), cause })?;
        }
        Ok(Self::of(roots))
    }

    /// How many files were there when it loaded last.
    pub fn files(&self) -> usize {
        self.loaded.files.len()
    }

    /// Reads what changed since the last time. Blocks on the file system.
    pub fn load(&mut self) -> Loaded {
        let scan = scan::scan(&self.roots);
        let mut diagnostics = Vec::new();
        for folder in scan.unreadable.values() {
            let message =
                format!("cannot read: {}; what was read from it before stays in force", folder.error);
            let path = folder.path.display().to_string();
            diagnostics.push(Diagnostic::of_file(Severity::Error, Code::UnreadableFile, path, None, message));
        }
        // What was below a folder that cannot be read now is not gone, only out of sight.
        self.files.retain(|name, _| {
            scan.files.contains_key(name) || scan.unreadable.keys().any(|folder| scan::is_below(name, folder))
        });
        for (name, found) in &scan.files {
            if let Err(error) = self.read(name, found) {
                if let Some(cached) = self.files.get_mut(name) {
                    // Read it again as soon as that works, even if it is what it was.
                    cached.stamp = None;
                }
                let (code, message) = match error {
                    ReadError::Io(error) => (Code::UnreadableFile, format!("cannot read: {error}")),
                    ReadError::TooLarge(size) => {
                        (Code::TooLarge, format!("{size} bytes, more than the limit of {MAX_FILE_BYTES}"))
                    }
                };
                let message = format!("{message}; objects read from it before stay in force");
                diagnostics.push(Diagnostic::of_file(Severity::Error, code, name, None, message));
            }
        }
        self.loaded = scan;
        self.pending = None;
        self.merge(diagnostics)
    }

    /// Waits until the files differ from what was loaded last, and have come to rest (or not for three quarters of a second):
    /// at most a second after the change. May be dropped and called again at any time.
    pub async fn changed(&mut self) {
        loop {
            let now = tokio::time::Instant::now();
            tokio::time::sleep_until(*self.next_poll.get_or_insert(now + POLL)).await;
            let roots = self.roots.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || scan::scan(&roots)).await else {
                // Only when the runtime shuts down.
                self.next_poll = None;
                continue;
            };
            self.next_poll = None;
            if now == self.loaded {
                self.pending = None;
                continue;
            }
            match &mut self.pending {
                Some((pending, _)) if *pending == now => return,
                Some((_, polls)) if *polls + 1 >= RESTLESS_POLLS => return,
                Some((pending, polls)) => {
                    *pending = now;
                    *polls += 1;
                }
                None => self.pending = Some((now, 1)),
            }
        }
    }

    /// Brings the cache of one file up to date.
    fn read(&mut self, name: &str, found: &Found) -> Result<(), ReadError> {
        let stamp = found
            .stamp
            .as_ref()
            .map_err(|error| ReadError::Io(io::Error::new(error.kind, error.text.clone())))?;
        if self.files.get(name).is_some_and(|cached| cached.stamp.as_ref() == Some(stamp)) {
            return Ok(());
        }
        if stamp.size > MAX_FILE_BYTES {
            return Err(ReadError::TooLarge(stamp.size));
        }
        let bytes = scan::read_bounded(&found.path, MAX_FILE_BYTES).map_err(ReadError::Io)?;
        let documents = document::read_bytes(name, &bytes);
        let mut objects: BTreeSet<_> =
            documents.iter().filter_map(|document| document.identity.clone()).collect();
        let before = self.files.remove(name);
        if documents.iter().any(FileDocument::is_unidentified) {
            objects.extend(before.into_iter().flat_map(|before| before.objects));
        }
        self.files.insert(name.to_owned(), Cached { stamp: Some(stamp.clone()), documents, objects });
        Ok(())
    }

    /// From the documents of all files to the objects in force.
    fn merge(&mut self, mut diagnostics: Vec<Diagnostic>) -> Loaded {
        let mut first: BTreeMap<&Identity, (&str, &FileDocument)> = BTreeMap::new();
        let mut in_force: BTreeMap<Identity, Object> = BTreeMap::new();
        for (name, cached) in &self.files {
            for document in &cached.documents {
                diagnostics.extend(document.diagnostics.iter().cloned());
                let Some(identity) = &document.identity else { continue };
                if let Some((first_name, first_document)) = first.get(identity) {
                    diagnostics.push(duplicate(identity, name, document, first_name, first_document));
                    continue;
                }
                first.insert(identity, (name, document));
                if let Some(object) = &document.object {
                    in_force.insert(identity.clone(), object.clone());
                } else if let Some(object) = self.in_force.get(identity) {
                    in_force.insert(identity.clone(), object.clone());
                    diagnostics.push(kept(identity, name, Some(document.line)));
                }
            }
        }
        for (name, cached) in &self.files {
            if !cached.documents.iter().any(FileDocument::is_unidentified) {
                continue;
            }
            for identity in cached.objects.iter().filter(|identity| !first.contains_key(identity)) {
                let Some(object) = self.in_force.get(identity) else { continue };
                if in_force.insert(identity.clone(), object.clone()).is_none() {
                    diagnostics.push(kept(identity, name, None));
                }
            }
        }
        drop(first);
        let mut inputs = Inputs::default();
        for object in in_force.values() {
            inputs.insert(object.clone());
        }
        self.in_force = in_force;
        Loaded { inputs, diagnostics, trusts_annotations: true }
    }
}

enum ReadError {
    Io(io::Error),
    TooLarge(u64),
}

fn duplicate(
    identity: &Identity,
    name: &str,
    document: &FileDocument,
    first_name: &str,
    first: &FileDocument,
) -> Diagnostic {
    let message = format!("exists twice; the one in {first_name}:{} counts", first.line);
    about(identity, Severity::Error, Code::DuplicateObject, name, Some(document.line), message)
        .with_hint("remove one of them, or give it another name")
}

fn kept(identity: &Identity, name: &str, line: Option<u32>) -> Diagnostic {
    let message = "refused as written now; the last good version stays in force";
    about(identity, Severity::Warning, Code::LastGoodKept, name, line, message)
}

fn about(
    identity: &Identity,
    severity: Severity,
    code: Code,
    file: &str,
    line: Option<u32>,
    message: impl Into<String>,
) -> Diagnostic {
    Diagnostic {
        kind: identity.kind.to_owned(),
        namespace: identity.key.namespace.to_string(),
        name: identity.key.name.to_string(),
        ..Diagnostic::of_file(severity, code, file, line, message)
    }
}

#[cfg(test)]
mod tests;
