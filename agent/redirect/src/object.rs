//! The BPF object: embedded in the binary, or named by the environment while one works on the programs.

use std::path::PathBuf;

use aya::{Ebpf, EbpfLoader};
use undermesh_common::names;

use crate::error::Error;

/// Names a file to load in place of the embedded object.
pub const OBJECT_VARIABLE: &str = "UNDERMESH_BPF_OBJECT";

/// The committed object, aligned as its ELF structs need it. `cargo xtask bpf --check` proves that it is what the source
/// builds.
pub static EMBEDDED: &[u8] = aya::include_bytes_aligned!("../bpf/undermesh.o");

/// How many entries the maps hold at most. Except for `origins` and `events_bytes`, memory is taken only as entries come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Address and port pairs of services.
    pub services: u32,
    /// Pods on this node.
    pub workloads: u32,
    /// Connections between connect and accept, on the whole node; 144 bytes each, taken at start.
    pub origins: u32,
    /// Size of the ring buffer of sampled events in bytes: a power of two and a multiple of the page size.
    pub events_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { services: 262_144, workloads: 4_096, origins: 16_384, events_bytes: 256 * 1024 }
    }
}

/// Loads the object's maps into the kernel; its programs come later, one by one.
pub(crate) fn load(limits: &Limits) -> Result<Ebpf, Error> {
    match std::env::var_os(OBJECT_VARIABLE) {
        None => load_bytes(EMBEDDED, limits),
        Some(path) => {
            let path = PathBuf::from(path);
            tracing::warn!(path = %path.display(), "loading a BPF object other than the embedded one");
            let bytes = std::fs::read(&path).map_err(|cause| Error::ObjectUnreadable {
                path,
                variable: OBJECT_VARIABLE,
                cause,
            })?;
            load_bytes(&bytes, limits)
        }
    }
}

fn load_bytes(bytes: &[u8], limits: &Limits) -> Result<Ebpf, Error> {
    EbpfLoader::new()
        .map_max_entries(names::SERVICES, limits.services)
        .map_max_entries(names::WORKLOADS, limits.workloads)
        .map_max_entries(names::WORKLOADS_BY_CGROUP, limits.workloads)
        .map_max_entries(names::ORIGINS, limits.origins)
        .map_max_entries(names::EVENTS, limits.events_bytes)
        .load(bytes)
        .map_err(|error| Error::ObjectRejected(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use aya_obj::Object;
    use undermesh_common::{
        Config, Counter, LAYOUT_VERSION, Origin, OriginKey, PortKey, Service, ServiceKey, SocketOrigin,
        Workload,
    };

    use super::*;
    use crate::attach::PROGRAMS;

    #[test]
    fn the_embedded_object_has_the_maps_of_the_shared_structs() {
        let object = Object::parse(EMBEDDED).expect("the committed object parses");
        for (name, key, value) in [
            (names::CONFIG, 4, size_of::<Config>()),
            (names::WORKLOADS, 8, size_of::<Workload>()),
            (names::WORKLOADS_BY_CGROUP, 8, size_of::<Workload>()),
            (names::SERVICES, size_of::<ServiceKey>(), size_of::<Service>()),
            (names::PORTS, size_of::<PortKey>(), size_of::<Service>()),
            (names::SOCKETS, 4, size_of::<SocketOrigin>()),
            (names::ORIGINS, size_of::<OriginKey>(), size_of::<Origin>()),
            (names::CONNECTING, 4, 8),
            (names::COUNTERS, 4, 8),
            (names::EVENTS, 0, 0),
        ] {
            let map = object.maps.get(name).unwrap_or_else(|| panic!("no map {name}"));
            assert_eq!((map.key_size() as usize, map.value_size() as usize), (key, value), "{name}");
        }
        assert_eq!(object.maps.len(), 10, "a map that nobody knows: {:?}", object.maps.keys());
        assert_eq!(object.maps[names::COUNTERS].max_entries() as usize, Counter::COUNT);
        assert_eq!(LAYOUT_VERSION, 2, "a new layout needs a new row here and a new object");
    }

    #[test]
    fn the_embedded_object_has_the_programs_that_are_attached() {
        let object = Object::parse(EMBEDDED).expect("the committed object parses");
        let mut have: Vec<_> = object.programs.keys().map(String::as_str).collect();
        let mut want = PROGRAMS.to_vec();
        have.sort_unstable();
        want.sort_unstable();
        assert_eq!(have, want);
    }

    #[test]
    fn no_path_of_the_machine_that_built_it_is_in_the_embedded_object() {
        for path in [&b"/root/"[..], b"/home/", b"/work", b"/tmp/", b".cargo"] {
            assert!(
                !EMBEDDED.windows(path.len()).any(|window| window == path),
                "{}",
                String::from_utf8_lossy(path)
            );
        }
    }
}
