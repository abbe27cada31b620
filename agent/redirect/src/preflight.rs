//! What the kernel and the process must have, checked before anything is loaded: the kernel's own answers to a missing
//! piece are EPERM and EINVAL.

use std::path::Path;

use rustix::thread::CapabilitySet;

use crate::error::Error;

const BTF: &str = "/sys/kernel/btf/vmlinux";
/// ORIGINS is read by "look up and delete" of a hash map (5.14), SO_NETNS_COOKIE came with 5.14: 5.15 is the first
/// long-term kernel with both.
const OLDEST: (u32, u32) = (5, 15);

/// Fails with the first thing that is missing.
pub(crate) fn check() -> Result<(), Error> {
    kernel(rustix::system::uname().release().to_string_lossy().as_ref())?;
    if !Path::new(BTF).exists() {
        return Err(Error::NoBtf(BTF.into()));
    }
    let sets = rustix::thread::capabilities(None)
        .map_err(|error| Error::Environment { what: "the agent's capabilities", cause: error.into() })?;
    capabilities(sets.effective)
}

fn kernel(release: &str) -> Result<(), Error> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < OLDEST => {
            Err(Error::KernelTooOld { found: release.to_owned() })
        }
        // What does not read as a version is given a try.
        _ => Ok(()),
    }
}

fn capabilities(effective: CapabilitySet) -> Result<(), Error> {
    // Needed for setns into the pods; it includes what the kernel asks for BPF, CAP_BPF and CAP_NET_ADMIN.
    if effective.contains(CapabilitySet::SYS_ADMIN) { Ok(()) } else { Err(Error::MissingCapability) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_5_15_are_refused() {
        for (release, old) in [
            ("4.19.0-27-amd64", true),
            ("5.14.21", true),
            ("5.15.0-101-generic", false),
            ("6.1.0-56-cloud-amd64", false),
            ("10.0", false),
            ("custom", false),
        ] {
            assert_eq!(kernel(release).is_err(), old, "{release}");
        }
    }

    #[test]
    fn a_missing_capability_is_named() {
        let error = capabilities(CapabilitySet::NET_ADMIN | CapabilitySet::BPF).unwrap_err().to_string();
        assert!(error.contains("lacks CAP_SYS_ADMIN:"), "{error}");
        assert!(capabilities(CapabilitySet::SYS_ADMIN).is_ok());
    }
}
