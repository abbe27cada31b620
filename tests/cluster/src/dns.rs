//! CoreDNS, as a Deployment and the Service that every pod's resolv.conf names.

use std::path::Path;

use anyhow::Context as _;

use crate::image::Image;

/// Of the Service; that of the examples' productpage is .10, which elsewhere is DNS' own.
pub const ADDRESS: &str = "10.96.0.2";
const IMAGE: &str = "docker.io/undermesh/coredns:1";
const MANIFEST: &str = include_str!("dns.yaml");

/// Its image, from the static binary at `program`.
pub fn image(program: &Path) -> anyhow::Result<Image> {
    let content = std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    Ok(Image {
        name: IMAGE.to_owned(),
        programs: vec![("coredns".into(), content)],
        folders: vec!["tmp".into()],
        entry_point: vec!["/coredns".into()],
        ..Image::default()
    })
}

/// Its objects, the Service at `address`.
pub fn manifest(address: &str) -> String {
    MANIFEST.replace("IMAGE", IMAGE).replace("ADDRESS", address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_in_the_range_of_services() {
        let (base, bits) = undermesh_tests::SERVICE_CIDR_V4;
        let address: std::net::Ipv4Addr = ADDRESS.parse().expect("an address");
        let mask = u32::MAX << (32 - u32::from(bits));
        assert_eq!(u32::from(address) & mask, u32::from(base));
        assert!(manifest(ADDRESS).contains("clusterIP: 10.96.0.2"));
    }
}
