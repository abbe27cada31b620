//! The file system of the machine: busybox, the programs with the libraries they want, modules, and the first process.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::packages;
use crate::cargo::{line, root, succeed};

/// What goes into it.
pub(super) struct Content<'a> {
    pub(super) modules: &'a [PathBuf],
    /// What is run, under this path.
    pub(super) program: &'a Path,
    pub(super) arguments: &'a [String],
    pub(super) undermesh: &'a Path,
    pub(super) bookinfo: &'a Path,
}

/// A finished initramfs, removed on drop.
pub(super) struct Initrd {
    folder: PathBuf,
}

impl Initrd {
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join("initrd.gz")
    }

    pub(super) fn size(&self) -> u64 {
        fs::metadata(self.path()).map_or(0, |metadata| metadata.len())
    }
}

impl Drop for Initrd {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The line by which the outside knows how it went.
pub(super) const ENDED: &str = "undermesh-vm: ended with ";

pub(super) fn build(content: &Content<'_>) -> anyhow::Result<Initrd> {
    packages::tools()?;
    let folder = super::folder().join(std::process::id().to_string());
    let initrd = Initrd { folder: folder.clone() };
    let tree = folder.join("tree");
    for path in ["bin", "dev", "proc", "sys", "tmp", "run", "etc", "modules", "var/tmp"] {
        fs::create_dir_all(tree.join(path))?;
    }
    fs::copy("/usr/bin/busybox", tree.join("bin/busybox")).context("busybox-static")?;
    let programs = [content.program, content.undermesh, content.bookinfo];
    for (program, name) in programs.iter().zip(["program", "undermesh", "bookinfo"]) {
        // Nine tenths of a test program are for debuggers.
        succeed(Command::new("strip").arg("-o").arg(tree.join("bin").join(name)).arg(program))?;
    }
    for library in libraries(&programs)? {
        let to = tree.join(library.strip_prefix("/").unwrap_or(&library));
        fs::create_dir_all(to.parent().unwrap_or(&tree))?;
        fs::copy(&library, &to).with_context(|| library.display().to_string())?;
    }
    for (index, module) in content.modules.iter().enumerate() {
        put_module(module, &tree.join(format!("modules/{index}.ko")))?;
    }
    // The programs know the workspace by the path it was built in.
    let examples = tree.join(root().strip_prefix("/").unwrap_or(Path::new(""))).join("deploy/examples");
    copy(&root().join("deploy/examples"), &examples)?;
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    fs::write(tree.join("etc/resolv.conf"), "nameserver 127.0.0.1\n")?;
    let init = tree.join("init");
    fs::write(&init, first_process(content.arguments))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    pack(&tree, &initrd.path())?;
    fs::remove_dir_all(tree)?;
    Ok(initrd)
}

/// The shared libraries of programs, and what loads them, as ldd names them.
fn libraries(programs: &[&Path]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for program in programs {
        let mut ldd = Command::new("ldd");
        ldd.arg(program);
        let output = ldd.output().with_context(|| format!("cannot run {}", line(&ldd)))?;
        found.extend(named(&String::from_utf8_lossy(&output.stdout)));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Of lines such as `libc.so.6 => /lib/libc.so.6 (0x7f..)` and `/lib64/ld-linux-x86-64.so.2 (0x7f..)`.
fn named(said: &str) -> Vec<PathBuf> {
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    said.lines().filter_map(path).collect()
}

/// Copies a module, unpacked: busybox's insmod wants it so.
pub(super) fn put_module(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.extension().is_some_and(|it| it == "xz") {
        let file = fs::File::create(to)?;
        succeed(Command::new("xz").args(["-dc"]).arg(from).stdout(file))
    } else {
        fs::copy(from, to).map(drop).with_context(|| from.display().to_string())
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Makes an initramfs of a folder.
pub(super) fn pack(tree: &Path, to: &Path) -> anyhow::Result<()> {
    let file = fs::File::create(to)?;
    let mut pack = Command::new("sh");
    pack.args(["-c", "find . | busybox cpio -o -H newc | gzip -1"]).current_dir(tree);
    let status = pack.stdout(file).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "the initramfs could not be packed");
    Ok(())
}

/// A shell script as process 1.
fn first_process(arguments: &[String]) -> String {
    let arguments: Vec<_> =
        arguments.iter().map(|argument| format!("'{}'", argument.replace('\'', "'\\''"))).collect();
    format!(
        "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ CI=true RUST_BACKTRACE=1 UNDERMESH_BIN=/bin/undermesh BOOKINFO_BIN=/bin/bookinfo
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf none /sys/fs/bpf
for module in /modules/*.ko; do insmod $module || echo \"cannot load $module\"; done
ip link set lo up
cd {}
program {}
echo \"{ENDED}$?\"
sync
poweroff -f
",
        root().display(),
        arguments.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_ldd_names_by_path() {
        let said = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld.so (0x7f)\n\tstatically linked\n";
        assert_eq!(named(said), [PathBuf::from("/lib/x/libc.so.6"), PathBuf::from("/lib64/ld.so")]);
    }

    #[test]
    fn arguments_reach_the_program_as_they_are() {
        let script = first_process(&["a b".to_owned(), "it's".to_owned()]);
        assert!(script.contains("program 'a b' 'it'\\''s'\n"), "{script}");
    }
}
