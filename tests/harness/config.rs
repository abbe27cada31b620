//! A folder of configuration that changes as users change it: whole files, each in one step.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A folder that agents watch.
#[derive(Debug, Clone)]
pub struct Config {
    folder: PathBuf,
}

impl Config {
    /// A new, empty folder.
    pub fn create(folder: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file or replaces it. A reader sees the old or the new text, never a part.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let unfinished = self.folder.join(format!(".{name}.tmp"));
        let path = self.folder.join(name);
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Copies every YAML file of a folder.
    pub fn copy_from(&self, folder: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).filter(|n| n.ends_with(".yaml"));
            if let Some(name) = name {
                // Two folders may have files of the same name.
                let prefix = folder.file_name().unwrap_or_default().to_string_lossy();
                self.write(&format!("{prefix}-{name}"), &fs::read_to_string(&path)?)?;
            }
        }
        Ok(())
    }
}
