//! Where k3s's binary comes from.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::image::sha256;
use crate::programs::cache;
use crate::provider::on_path;
use crate::run::output;

/// The release that is fetched; changed on purpose only, because the settings are written for it. It has not
/// been run, nor could it be looked up where it was written.
pub(crate) const VERSION: &str = "v1.35.2+k3s1";
const RELEASES: &str = "https://github.com/k3s-io/k3s/releases/download";

pub(super) fn find(given: Option<&Path>, download: bool, told: impl Fn(&str)) -> anyhow::Result<PathBuf> {
    let named = given.map(|p| (p.to_owned(), "--k3s"));
    let named = named.or_else(|| Some((PathBuf::from(std::env::var_os("K3S_BIN")?), "K3S_BIN")));
    if let Some((path, by)) = named {
        ensure!(path.is_file(), "{by} names {}, and there is no such file", path.display());
        return Ok(path.canonicalize()?);
    }
    match on_path("k3s") {
        Some(path) => Ok(path.canonicalize()?),
        None if download => fetch(told),
        None => bail!(
            "there is no k3s on the PATH: name one with --k3s PATH or K3S_BIN, or fetch {VERSION} with --download \
             (it needs the internet)"
        ),
    }
}

/// From the cache, or from where it is published.
fn fetch(told: impl Fn(&str)) -> anyhow::Result<PathBuf> {
    let folder = cache()?.join(format!("k3s-{VERSION}"));
    let path = folder.join("k3s");
    if path.is_file() {
        return Ok(path);
    }
    let (asset, sums) = assets(std::env::consts::ARCH)?;
    told(&format!("fetching k3s {VERSION}"));
    fs::create_dir_all(&folder)?;
    let get = |name: &str| {
        let part = folder.join(format!("{name}.part"));
        let mut command = Command::new("curl");
        command.args(["--fail", "--silent", "--show-error", "--location", "--retry", "3", "--output"]);
        output(command.arg(&part).arg(url(name)))
            .with_context(|| format!("cannot fetch {name} of k3s {VERSION}"))?;
        anyhow::Ok(part)
    };
    let (binary, list) = (get(asset)?, get(sums)?);
    check(asset, &fs::read(&binary)?, &fs::read_to_string(&list)?)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    fs::remove_file(list)?;
    fs::rename(binary, &path)?;
    Ok(path)
}

/// Of a release: the binary and the list of digests for an architecture, as Rust calls it.
fn assets(architecture: &str) -> anyhow::Result<(&'static str, &'static str)> {
    match architecture {
        "x86_64" => Ok(("k3s", "sha256sum-amd64.txt")),
        "aarch64" => Ok(("k3s-arm64", "sha256sum-arm64.txt")),
        other => bail!("there is no k3s for {other}"),
    }
}

fn url(asset: &str) -> String {
    format!("{RELEASES}/{}/{asset}", VERSION.replace('+', "%2B"))
}

/// An error unless `content` is what the list says of `asset`.
fn check(asset: &str, content: &[u8], list: &str) -> anyhow::Result<()> {
    let published = list.lines().find_map(|line| {
        let (sum, name) = line.split_once(char::is_whitespace)?;
        (name.trim().trim_start_matches('*') == asset).then_some(sum)
    });
    let published = published.with_context(|| format!("the published list has no line for {asset}"))?;
    let own = sha256(content);
    ensure!(own == published, "{asset} is not what was published: its sha256 is {own}, not {published}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_is_named_must_exist_and_none_at_all_says_what_to_do() {
        let error = find(Some(Path::new("/nowhere/k3s")), false, |_| ()).expect_err("there is none");
        assert_eq!(error.to_string(), "--k3s names /nowhere/k3s, and there is no such file");
        if on_path("k3s").is_none() && std::env::var_os("K3S_BIN").is_none() {
            let error = find(None, false, |_| ()).expect_err("there is none").to_string();
            for way in ["--k3s", "K3S_BIN", "--download", VERSION] {
                assert!(error.contains(way), "{way} in {error}");
            }
        }
    }

    #[test]
    fn what_was_not_published_is_refused() {
        let good = format!("{}  k3s\n{}  k3s-airgap-images-amd64.tar\n", sha256(b"it"), sha256(b"else"));
        assert!(check("k3s", b"it", &good).is_ok());
        let error = check("k3s", b"else", &good).expect_err("other bytes").to_string();
        assert!(error.contains("is not what was published"), "{error}");
        assert!(check("k3s-arm64", b"it", &good).is_err(), "not in the list");
    }

    #[test]
    fn the_address_is_that_of_the_release() {
        assert_eq!(url("k3s"), format!("{RELEASES}/v1.35.2%2Bk3s1/k3s"));
        assert_eq!(assets("aarch64").expect("there is one").0, "k3s-arm64");
        assert!(assets("riscv64").is_err());
    }
}
