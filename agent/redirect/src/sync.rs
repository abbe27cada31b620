//! Brings the kernel's maps to what is desired, in an order in which every state between is safe.
//!
//! ```text
//! services, ports: add ─▶ workloads: add, change ─▶ workloads: remove ─▶ services, ports: remove ─▶ config
//! ```
//!
//! A workload finds the services it enrols for; what is no service any more goes on being captured, by a proxy that still
//! knows it, a moment longer rather than leaking past the mesh. The generation comes last: who reads it knows that all of
//! it is there. A mirror of what was written stays here, so that an update costs what changed and an update that fails in
//! the middle is taken up by the next.

use std::collections::BTreeMap;

use bytemuck::Pod;
use undermesh_common::{Config, PortKey, Service, ServiceKey, Workload, names};

use crate::error::Error;
use crate::events::monotonic_ns;
use crate::map::TypedMap;
use crate::plan::{DesiredMaps, Generational, TableChanges, diff};

/// What an update wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Entries added or changed.
    pub written: usize,
    /// Entries removed.
    pub removed: usize,
}

/// The maps that user space writes.
#[derive(Debug)]
pub(crate) struct MapSync {
    config_map: TypedMap<u32, Config>,
    config: Config,
    services: Table<ServiceKey, Service>,
    ports: Table<PortKey, Service>,
    workloads: Table<u64, Workload>,
    workloads_by_cgroup: Table<u64, Workload>,
}

impl MapSync {
    /// Of a freshly loaded object: the maps are empty.
    pub(crate) fn open(object: &aya::Ebpf) -> Result<Self, Error> {
        Ok(Self {
            config_map: TypedMap::open(object, names::CONFIG)?,
            config: Config::default(),
            services: Table::open(object, names::SERVICES, "limits.services")?,
            ports: Table::open(object, names::PORTS, "nothing (there are no more ports)")?,
            workloads: Table::open(object, names::WORKLOADS, "limits.workloads")?,
            workloads_by_cgroup: Table::open(object, names::WORKLOADS_BY_CGROUP, "limits.workloads")?,
        })
    }

    pub(crate) fn apply(&mut self, desired: &DesiredMaps) -> Result<Applied, Error> {
        let services = self.services.changes(&desired.services)?;
        let ports = self.ports.changes(&desired.ports)?;
        self.write(desired, &services, &ports)
    }

    /// As [`apply`](Self::apply), with the services and ports that are there.
    pub(crate) fn apply_workloads(&mut self, desired: &DesiredMaps) -> Result<Applied, Error> {
        self.write(desired, &TableChanges::default(), &TableChanges::default())
    }

    fn write(
        &mut self,
        desired: &DesiredMaps,
        services: &TableChanges<ServiceKey, Service>,
        ports: &TableChanges<PortKey, Service>,
    ) -> Result<Applied, Error> {
        let workloads = self.workloads.changes(&desired.workloads)?;
        let by_cgroup = self.workloads_by_cgroup.changes(&desired.workloads_by_cgroup)?;

        let mut applied = Applied::default();
        self.services.make_room(services, &mut applied)?;
        self.ports.make_room(ports, &mut applied)?;
        self.services.write(services, &mut applied)?;
        self.ports.write(ports, &mut applied)?;
        // Before the first workload, so that no program acts on workloads without knowing the agent's own cgroup.
        self.set_config(Config { generation: self.config.generation, ..desired.config })?;
        self.workloads.make_room(&workloads, &mut applied)?;
        self.workloads_by_cgroup.make_room(&by_cgroup, &mut applied)?;
        self.workloads.write(&workloads, &mut applied)?;
        self.workloads_by_cgroup.write(&by_cgroup, &mut applied)?;
        self.workloads.remove(&workloads, &mut applied)?;
        self.workloads_by_cgroup.remove(&by_cgroup, &mut applied)?;
        self.services.remove(services, &mut applied)?;
        self.ports.remove(ports, &mut applied)?;
        self.set_config(desired.config)?;
        Ok(applied)
    }

    /// Says that the proxy serves its listeners now.
    pub(crate) fn heartbeat(&mut self) -> Result<(), Error> {
        self.config.heartbeat_ns = monotonic_ns();
        self.config_map.insert(&0, &self.config)
    }

    /// From the kernel, as the rest below.
    pub(crate) fn read_config(&self) -> Result<Config, Error> {
        Ok(self.config_map.get(&0)?.unwrap_or_default())
    }

    pub(crate) fn read_services(&self) -> Result<Vec<(ServiceKey, Service)>, Error> {
        self.services.map.entries().collect()
    }

    pub(crate) fn read_ports(&self) -> Result<Vec<(PortKey, Service)>, Error> {
        self.ports.map.entries().collect()
    }

    pub(crate) fn read_workloads(&self) -> Result<Vec<(u64, Workload)>, Error> {
        self.workloads.map.entries().collect()
    }

    pub(crate) fn read_workloads_by_cgroup(&self) -> Result<Vec<(u64, Workload)>, Error> {
        self.workloads_by_cgroup.map.entries().collect()
    }

    fn set_config(&mut self, config: Config) -> Result<(), Error> {
        // Whoever writes maps is alive.
        let config = Config { heartbeat_ns: monotonic_ns(), ..config };
        self.config_map.insert(&0, &config)?;
        self.config = config;
        Ok(())
    }
}

/// One map and what was written to it.
#[derive(Debug)]
struct Table<K, V> {
    map: TypedMap<K, V>,
    setting: &'static str,
    current: BTreeMap<K, V>,
}

impl<K: Pod + Ord, V: Pod + Generational> Table<K, V> {
    fn open(object: &aya::Ebpf, name: &'static str, setting: &'static str) -> Result<Self, Error> {
        Ok(Self { map: TypedMap::open(object, name)?, setting, current: BTreeMap::new() })
    }

    /// What has to change; an error if the result would not fit, before anything is written.
    fn changes(&self, desired: &BTreeMap<K, V>) -> Result<TableChanges<K, V>, Error> {
        let (wanted, limit) = (desired.len(), self.map.limit());
        if wanted > limit as usize {
            return Err(Error::MapFull { map: self.map.name(), setting: self.setting, wanted, limit });
        }
        Ok(diff(&self.current, desired))
    }

    /// Removes first when old and new do not fit side by side.
    fn make_room(&mut self, changes: &TableChanges<K, V>, applied: &mut Applied) -> Result<(), Error> {
        if self.current.len() + changes.inserts > self.map.limit() as usize {
            self.remove(changes, applied)?;
        }
        Ok(())
    }

    fn write(&mut self, changes: &TableChanges<K, V>, applied: &mut Applied) -> Result<(), Error> {
        for (key, value) in &changes.upserts {
            self.map.insert(key, value)?;
            self.current.insert(*key, *value);
            applied.written += 1;
        }
        Ok(())
    }

    fn remove(&mut self, changes: &TableChanges<K, V>, applied: &mut Applied) -> Result<(), Error> {
        for key in &changes.removals {
            if self.current.contains_key(key) {
                self.map.remove(key)?;
                self.current.remove(key);
                applied.removed += 1;
            }
        }
        Ok(())
    }
}
