//! The admin socket, taken before anything else: who has it is the agent of this place, and a second one must find that out
//! before it attaches programs or listens in a pod.
//!
//! Questions that arrive while the agent starts wait in the socket's queue.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// A socket that is listened on. Dropped: its file is removed.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: Place,
}

/// The socket's file, removed with it.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

impl Socket {
    /// Listens at `path`, in place of a dead process's socket; only the owner may ask.
    ///
    /// # Errors
    /// Another agent answers there, or the socket cannot be listened on.
    pub fn take(path: &Path) -> anyhow::Result<Self> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let in_folder = || format!("the folder of the admin socket {}", path.display());
        std::fs::create_dir_all(folder).with_context(in_folder)?;
        // Of two that find the same dead socket only one may replace it. Given back with the handle.
        let lock = std::fs::File::open(folder).with_context(in_folder)?;
        flock(&lock, FlockOperation::LockExclusive).with_context(in_folder)?;
        if path.exists() {
            if UnixStream::connect(path).is_ok() {
                bail!("another agent answers at {}; give this one another --admin-socket", path.display());
            }
            std::fs::remove_file(path)
                .with_context(|| format!("the left-over admin socket {}", path.display()))?;
        }
        let listener =
            UnixListener::bind(path).with_context(|| format!("the admin socket {}", path.display()))?;
        let file = Place(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, file })
    }

    pub(super) fn into_parts(self) -> (UnixListener, Place) {
        (self.listener, self.file)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("undermesh-socket-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_socket_has_one_owner_and_goes_with_it() {
        let folder = Folder::new("owner");
        let path = folder.0.join("below").join("admin.sock");
        let first = Socket::take(&path).unwrap();
        let refused = Socket::take(&path).unwrap_err().to_string();
        assert!(refused.contains("another agent answers at"), "{refused}");
        assert!(UnixStream::connect(&path).is_ok(), "whoever was refused leaves it alone");
        drop(first);
        assert!(!path.exists());
        Socket::take(&path).unwrap();
    }

    #[test]
    fn what_a_dead_process_left_is_replaced() {
        let folder = Folder::new("dead");
        let path = folder.0.join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a socket's file outlives its owner");
        let taken = Socket::take(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(taken);
    }
}
