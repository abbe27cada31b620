//! What is in the kernel, for `undermesh bpf`: read from the kernel, not from what we believe we wrote.

use std::net::{IpAddr, SocketAddr};

use undermesh_common::{
    PortKey, Service, ServiceKey, WORKLOAD_ENROLLED, WORKLOAD_FAIL_CLOSED, Workload, names,
};

use crate::error::{BoxedError, Error};
use crate::map::{access, data};
use crate::{Redirect, sys};

/// Everything that this agent has in the kernel.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Where the programs are attached.
    pub cgroup: String,
    /// The generation of the last complete update.
    pub generation: u64,
    /// The programs and their links.
    pub programs: Vec<ProgramInfo>,
    /// The maps.
    pub maps: Vec<MapInfo>,
    /// Entries of the service map, as `address:port`.
    pub services: Vec<SocketAddr>,
    /// Ports captured on any address.
    pub ports: Vec<u16>,
    /// The workloads.
    pub workloads: Vec<WorkloadInfo>,
    /// Connections that are connected and not yet accepted.
    pub origins: Vec<OriginInfo>,
}

/// An attached program.
#[derive(Debug, Clone)]
pub struct ProgramInfo {
    /// Its name in the object; the kernel keeps 15 characters of it.
    pub name: &'static str,
    /// The kernel's number.
    pub id: u32,
    /// The hash of its instructions, in hexadecimal.
    pub tag: String,
    /// The number of the link that attaches it.
    pub link_id: u32,
    /// How often it ran; `None` if the kernel does not count (sysctl kernel.bpf_stats_enabled is off).
    pub runs: Option<u64>,
    /// For how long in total, in nanoseconds; as `runs`.
    pub run_time_ns: Option<u64>,
}

/// A map.
#[derive(Debug, Clone)]
pub struct MapInfo {
    /// Its name.
    pub name: String,
    /// The kernel's number.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// The most entries it holds; for the ring buffer, bytes.
    pub max_entries: u32,
    /// Entries now, of the maps that have any.
    pub entries: Option<usize>,
}

/// A decoded entry of the workload maps.
#[derive(Debug, Clone)]
pub struct WorkloadInfo {
    /// The caller's number for it.
    pub id: u32,
    /// `netns` or `cgroup`.
    pub place: &'static str,
    /// The cookie or the id.
    pub key: u64,
    /// Whether it is in the mesh.
    pub is_enrolled: bool,
    /// Whether connections that cannot be captured are refused.
    pub is_fail_closed: bool,
    /// 0 for none.
    pub listener4: u16,
    /// 0 for none.
    pub listener6: u16,
    /// What getsockname answers.
    pub address4: Option<IpAddr>,
    /// What getsockname answers.
    pub address6: Option<IpAddr>,
    /// Destination ports left alone.
    pub excluded_ports: Vec<u16>,
    /// The generation that last changed it.
    pub generation: u64,
}

/// A connection on its way to the proxy.
#[derive(Debug, Clone)]
pub struct OriginInfo {
    /// The namespace.
    pub netns_cookie: u64,
    /// As the listener sees it.
    pub source: SocketAddr,
    /// As the application dialled it.
    pub destination: SocketAddr,
    /// The workload's `id`.
    pub workload: u32,
    /// How long ago it connected, in nanoseconds.
    pub age_ns: u64,
}

impl Redirect {
    /// Reads everything. Takes time in proportion to the number of entries.
    pub fn inspect(&self) -> Result<Inspection, Error> {
        let sync = &self.sync;
        let config = sync.read_config()?;
        let services: Vec<(ServiceKey, Service)> = sync.read_services()?;
        let ports: Vec<(PortKey, Service)> = sync.read_ports()?;
        let by_netns = sync.read_workloads()?;
        let by_cgroup = sync.read_workloads_by_cgroup()?;
        let now = crate::events::monotonic_ns();
        let origins = self
            .origins
            .entries()
            .map(|entry| {
                entry.map(|(key, origin)| OriginInfo {
                    netns_cookie: key.netns_cookie,
                    source: SocketAddr::new(key.source.into(), key.port.to_host()),
                    destination: SocketAddr::new(origin.destination.into(), origin.port.to_host()),
                    workload: origin.workload,
                    age_ns: now.saturating_sub(origin.connected_ns),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;

        let entries = |name: &str| match name {
            names::SERVICES => Some(services.len()),
            names::PORTS => Some(ports.len()),
            names::WORKLOADS => Some(by_netns.len()),
            names::WORKLOADS_BY_CGROUP => Some(by_cgroup.len()),
            names::ORIGINS => Some(origins.len()),
            _ => None,
        };
        let mut maps = Vec::new();
        for (name, map) in self.object.maps() {
            let Some(data) = data(map) else { continue };
            let info = sys::map_info(data.fd()).map_err(access(names::CONFIG, "examine"))?;
            maps.push(MapInfo {
                name: name.to_owned(),
                id: info.id,
                key_size: info.key_size,
                value_size: info.value_size,
                max_entries: info.max_entries,
                entries: entries(name),
            });
        }
        maps.sort_by(|a, b| a.name.cmp(&b.name));

        Ok(Inspection {
            cgroup: self.point.path.display().to_string(),
            generation: config.generation,
            programs: self.programs()?,
            maps,
            services: services
                .iter()
                .map(|(key, _)| SocketAddr::new(key.address.into(), key.port.to_host()))
                .collect(),
            ports: ports.iter().map(|(key, _)| key.port.to_host()).collect(),
            workloads: by_netns
                .iter()
                .map(|entry| workload("netns", entry))
                .chain(by_cgroup.iter().map(|entry| workload("cgroup", entry)))
                .collect(),
            origins,
        })
    }

    fn programs(&self) -> Result<Vec<ProgramInfo>, Error> {
        let is_counting = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")
            .is_ok_and(|text| text.trim() != "0");
        self.attached
            .iter()
            .map(|attached| {
                let name = attached.program;
                let unreadable = |source: BoxedError| Error::ProgramUnreadable { program: name, source };
                let program =
                    self.object.program(name).ok_or(Error::NotInObject { what: "program", name })?;
                let fd = program.fd().map_err(|error| unreadable(error.into()))?;
                let info = sys::program_info(fd).map_err(|error| unreadable(error.into()))?;
                let link = attached.link.info().map_err(|error| unreadable(error.into()))?;
                Ok(ProgramInfo {
                    name,
                    id: info.id,
                    tag: info.tag.iter().map(|byte| format!("{byte:02x}")).collect(),
                    link_id: link.id(),
                    // Somebody may have turned it on by another way than the sysctl.
                    runs: (is_counting || info.run_cnt > 0).then_some(info.run_cnt),
                    run_time_ns: (is_counting || info.run_cnt > 0).then_some(info.run_time_ns),
                })
            })
            .collect()
    }
}

fn workload(place: &'static str, (key, entry): &(u64, Workload)) -> WorkloadInfo {
    let address = |address: undermesh_common::NetAddr| (!address.is_unspecified()).then(|| address.into());
    WorkloadInfo {
        id: entry.id,
        place,
        key: *key,
        is_enrolled: entry.flags & WORKLOAD_ENROLLED != 0,
        is_fail_closed: entry.flags & WORKLOAD_FAIL_CLOSED != 0,
        listener4: entry.listener4.to_host(),
        listener6: entry.listener6.to_host(),
        address4: address(entry.address4),
        address6: address(entry.address6),
        excluded_ports: entry
            .excluded_ports
            .iter()
            .filter(|port| !port.is_none())
            .map(|port| port.to_host())
            .collect(),
        generation: entry.generation,
    }
}
