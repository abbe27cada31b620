//! The disk of a machine with Kubernetes in it, made at this machine's speed, and the initramfs that finds it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use undermesh_cluster::run::output;

use super::guest;
use super::initramfs;
use super::kubernetes::Distribution;
use super::packages::Unpacked;
use crate::cargo::succeed;

/// Sparse; a third of it is written.
const SIZE: &str = "6G";
/// What the disk is found and read with, and whatever those need. A module may be built in.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// Makes `disk.img` and `initrd` in `folder`, and what an administrator needs, out of Debian's file system `debian`.
pub(super) fn make(
    debian: &Path,
    kernel: &Unpacked,
    distribution: &Distribution,
    folder: &Path,
) -> anyhow::Result<()> {
    let root = folder.join("root");
    succeed(Command::new("cp").arg("--archive").arg(debian).arg(&root))?;
    let modules = root.join("usr/lib/modules");
    fs::create_dir_all(&modules)?;
    succeed(Command::new("cp").arg("--archive").arg(&kernel.folder).arg(&modules))?;
    succeed(Command::new("chroot").arg(&root).args(["depmod", "--all", &kernel.release]))?;
    initrd(&root, &kernel.release, folder)?;
    guest::write(&root, distribution, folder)?;
    // Its own tool makes the file system and fills it: nothing is mounted.
    let mut command = Command::new("mke2fs");
    command.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-O",
        "^has_journal",
        "-E",
        "lazy_itable_init=1,nodiscard",
        "-m",
        "0",
    ]);
    output(command.arg("-d").arg(&root).arg(folder.join("disk.img")).arg(SIZE))?;
    fs::remove_dir_all(root)?;
    Ok(())
}

/// busybox, modules, and a script.
fn initrd(root: &Path, release: &str, folder: &Path) -> anyhow::Result<()> {
    let tree = folder.join("initrd.tree");
    for path in ["bin", "dev", "modules", "root"] {
        fs::create_dir_all(tree.join(path))?;
    }
    fs::copy(root.join("bin/busybox"), tree.join("bin/busybox")).context("busybox-static")?;
    let mut list: Vec<String> = Vec::new();
    for module in MODULES {
        let mut command = Command::new("chroot");
        command.arg(root).args(["modprobe", "--set-version", release, "--show-depends", module]);
        list.extend(named(&output(&mut command)?).filter(|path| !list.contains(path)).collect::<Vec<_>>());
    }
    ensure!(!list.is_empty(), "modprobe names no modules of {release}");
    let mut names = String::new();
    for (index, path) in list.iter().enumerate() {
        let name = format!("{index}.ko");
        let from = root.join(path.trim_start_matches('/'));
        initramfs::put_module(&from, &tree.join("modules").join(&name))?;
        names.push_str(&format!("{name}\n"));
    }
    fs::write(tree.join("modules/list"), names)?;
    let init = tree.join("init");
    fs::write(&init, guest::LOADER)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    initramfs::pack(&tree, &folder.join("initrd"))?;
    fs::remove_dir_all(tree)?;
    Ok(())
}

/// The paths in lines such as `insmod /lib/modules/.../ext4.ko `; others say that a module is built in.
fn named(said: &str) -> impl Iterator<Item = String> {
    said.lines().filter_map(|line| Some(line.strip_prefix("insmod ")?.split_whitespace().next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_not_loaded() {
        let said = "builtin virtio_pci\ninsmod /lib/modules/6.1/a.ko.xz \ninsmod /lib/modules/6.1/b.ko x=1\n";
        let want = ["/lib/modules/6.1/a.ko.xz", "/lib/modules/6.1/b.ko"];
        assert_eq!(named(said).collect::<Vec<_>>(), want);
    }
}
