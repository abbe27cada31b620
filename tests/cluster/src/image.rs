//! Container images without a registry and without Docker: one layer of static programs, as the archive that
//! `ctr images import` and `docker load` take. The same input gives the same bytes.
//!
//! <https://github.com/moby/docker-image-spec>

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use ring::digest::{SHA256, digest};
use serde_json::json;

/// The image of every pod's first container.
pub(crate) const PAUSE: &str = "docker.io/undermesh/pause:1";

/// What an image holds and how it starts.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// `repository:tag`.
    pub name: String,
    /// Path in the image and content, each executable.
    pub programs: Vec<(String, Vec<u8>)>,
    /// Path in the image and target of each link.
    pub links: Vec<(String, String)>,
    /// Folders beside those of the programs.
    pub folders: Vec<String>,
    /// What is run.
    pub entry_point: Vec<String>,
    /// `uid:gid`, or root if empty.
    pub user: String,
    /// Names and values, as `org.opencontainers.image.version`.
    pub labels: Vec<(String, String)>,
}

impl Image {
    /// The archive.
    pub fn archive(&self) -> anyhow::Result<Vec<u8>> {
        let layer = self.layer()?;
        let layer_digest = sha256(&layer);
        let labels: serde_json::Map<_, _> = self.labels.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Entrypoint": self.entry_point, "User": self.user, "WorkingDir": "/", "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image"}],
        })
        .to_string()
        .into_bytes();
        let (config_file, layer_file) = (format!("{}.json", sha256(&config)), format!("{layer_digest}.tar"));
        let manifest =
            json!([{"Config": config_file, "RepoTags": [self.name], "Layers": [layer_file]}]).to_string();
        let mut archive = Archive::default();
        archive.file(&layer_file, &layer, 0o644)?;
        archive.file(&config_file, &config, 0o644)?;
        archive.file("manifest.json", manifest.as_bytes(), 0o644)?;
        Ok(archive.end())
    }

    fn layer(&self) -> anyhow::Result<Vec<u8>> {
        let mut folders: Vec<&str> = self.folders.iter().map(String::as_str).collect();
        for (path, _) in &self.programs {
            folders.extend(Path::new(path).ancestors().skip(1).filter_map(Path::to_str));
        }
        folders.retain(|f| !f.is_empty());
        folders.sort_unstable();
        folders.dedup();
        let mut archive = Archive::default();
        for folder in folders {
            archive.folder(folder, if folder == "tmp" { 0o1777 } else { 0o755 })?;
        }
        for (path, content) in &self.programs {
            archive.file(path, content, 0o755)?;
        }
        for (path, target) in &self.links {
            archive.link(path, target)?;
        }
        Ok(archive.end())
    }

    /// The image of pods' first containers: it does nothing and holds the pod's namespaces.
    pub fn pause() -> Self {
        Self {
            name: PAUSE.to_owned(),
            programs: vec![("pause".into(), pause_program())],
            entry_point: vec!["/pause".into()],
            ..Self::default()
        }
    }
}

/// A whole static program: `for (;;) pause();`. A compiler would add nothing but a C library.
fn pause_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code: &[u8] = if cfg!(target_arch = "aarch64") {
        // mov x8, #73 (ppoll); mov x0..x4, #0; svc #0; b back to the start
        &[
            0x28, 0x09, 0x80, 0xd2, 0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2,
            0x03, 0x00, 0x80, 0xd2, 0x04, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xf9, 0xff, 0xff, 0x17,
        ]
    } else {
        // mov eax, 34 (pause); syscall; jmp back to the start
        &[0xb8, 0x22, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xeb, 0xf7]
    };
    let size = HEADERS + code.len() as u64;
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    // elf(5): a 64-bit little-endian executable with one segment, loaded whole and executable.
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [2, machine] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for half in [1u32, 5] {
        elf.extend(half.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// The digest in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut all, byte| {
        // Writing to a String cannot fail.
        let _ = write!(all, "{byte:02x}");
        all
    })
}

/// A tar file (POSIX ustar), with nothing in it that depends on when or by whom it was made.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
}

const BLOCK: usize = 512;

impl Archive {
    fn folder(&mut self, name: &str, mode: u32) -> anyhow::Result<()> {
        self.header(&format!("{name}/"), mode, 0, b'5', "")
    }

    fn link(&mut self, name: &str, target: &str) -> anyhow::Result<()> {
        self.header(name, 0o777, 0, b'2', target)
    }

    fn file(&mut self, name: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
        self.header(name, mode, content.len(), b'0', "")?;
        self.bytes.extend(content);
        self.pad();
        Ok(())
    }

    fn header(&mut self, name: &str, mode: u32, size: usize, kind: u8, target: &str) -> anyhow::Result<()> {
        // Its form has no place for longer ones.
        ensure!(name.len() < 100 && target.len() < 100, "{name} is too long a name for an archive");
        let size = format!("{size:011o}");
        ensure!(size.len() == 11, "{name} is larger than 8 GiB");
        let fields = [
            (0, name.to_owned()),
            (100, format!("{mode:07o}")),
            (108, format!("{:07o}", 0)),
            (116, format!("{:07o}", 0)),
            (124, size),
            (136, format!("{:011o}", 0)),
            // The sum is taken with blanks in its own place.
            (148, " ".repeat(8)),
            (157, target.to_owned()),
            (257, "ustar\x0000".to_owned()),
        ];
        let mut header = [0u8; BLOCK];
        for (at, text) in &fields {
            place(&mut header, *at, text).context("the header's fields lie within it")?;
        }
        if let Some(byte) = header.get_mut(156) {
            *byte = kind;
        }
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        place(&mut header, 148, &format!("{sum:06o}\0 ")).context("the header's fields lie within it")?;
        self.bytes.extend(header);
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}

fn place(header: &mut [u8], at: usize, text: &str) -> Option<()> {
    header.get_mut(at..at + text.len())?.copy_from_slice(text.as_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    fn image() -> Image {
        Image {
            name: "example.org/a:1".into(),
            programs: vec![("bin/a".into(), b"first".to_vec()), ("b".into(), vec![7; 1000])],
            folders: vec!["tmp".into()],
            links: vec![("bin/c".into(), "a".into())],
            entry_point: vec!["/bin/a".into()],
            ..Image::default()
        }
    }

    fn listed(archive: &[u8], folder: &Path) -> String {
        let path = folder.join("x.tar");
        std::fs::write(&path, archive).expect("written");
        let output = Command::new("tar").arg("-tvf").arg(&path).output().expect("tar");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("um-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    #[test]
    fn tar_reads_what_was_written_and_the_same_input_gives_the_same_bytes() {
        let folder = scratch("image");
        let layer = listed(&image().layer().expect("a layer"), &folder);
        for want in [
            "drwxr-xr-x 0/0",
            "bin/",
            "drwxrwxrwt",
            "tmp/",
            "-rwxr-xr-x 0/0",
            "bin/a",
            " 1000 ",
            "bin/c -> a",
        ] {
            assert!(layer.contains(want), "{want} in {layer}");
        }
        let archive = image().archive().expect("an archive");
        assert!(listed(&archive, &folder).contains("manifest.json"));
        assert_eq!(archive, image().archive().expect("an archive"));
        let mut other = image();
        other.programs[0].1 = b"second".to_vec();
        assert_ne!(archive, other.archive().expect("an archive"));
        std::fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn what_the_form_cannot_hold_is_refused() {
        let long = Image { programs: vec![("x".repeat(100), Vec::new())], ..image() };
        assert!(long.archive().is_err());
    }

    #[test]
    fn the_digest_is_sha256() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn the_pause_program_runs_and_waits() {
        let folder = scratch("pause");
        let path = folder.join("pause");
        std::fs::write(&path, pause_program()).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let mut child = Command::new(&path).stdin(Stdio::null()).spawn().expect("it is a program");
        std::thread::sleep(Duration::from_millis(50));
        assert!(child.try_wait().expect("a child").is_none(), "it waits");
        child.kill().expect("killed");
        child.wait().expect("waited");
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
