//! What the kernel programs report: counters of every outcome, and a sample of outcomes as events.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use undermesh_common as common;
use undermesh_common::{Counter, names};

use crate::cgroup::CgroupId;
use crate::error::Error;
use crate::map::{access, data};
use crate::netns::NetnsCookie;
use crate::sys;

/// CLOCK_MONOTONIC in nanoseconds: the clock of `bpf_ktime_get_ns`.
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default())
}

/// The per-CPU counters.
#[derive(Debug)]
pub(crate) struct Counters {
    map: OwnedFd,
    cpus: usize,
}

impl Counters {
    pub(crate) fn open(object: &aya::Ebpf) -> Result<Self, Error> {
        const NAME: &str = names::COUNTERS;
        let missing = Error::NotInObject { what: "map", name: NAME };
        let Some(map) = object.map(NAME).and_then(data) else { return Err(missing) };
        let map = map.fd().as_fd().try_clone_to_owned().map_err(access(NAME, "open"))?;
        let info = sys::map_info(&map).map_err(access(NAME, "examine"))?;
        for (what, object, agent) in
            [("value", info.value_size, 8), ("counters", info.max_entries, Counter::COUNT as u32)]
        {
            if object != agent {
                return Err(Error::LayoutMismatch { map: NAME, what, object, agent });
            }
        }
        let cpus = aya::util::nr_cpus()
            .map_err(|(_, cause)| Error::Environment { what: "the number of CPUs", cause })?;
        Ok(Self { map, cpus })
    }

    /// Each counter's name and its sum over the CPUs, in the order of [`Counter::ALL`].
    pub(crate) fn read(&self) -> Result<Vec<(Counter, u64)>, Error> {
        let mut values = vec![0u64; self.cpus];
        Counter::ALL
            .iter()
            .map(|&counter| {
                sys::lookup_per_cpu(self.map.as_fd(), counter as u32, &mut values)
                    .map_err(access(names::COUNTERS, "read"))?;
                Ok((counter, values.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value))))
            })
            .collect()
    }
}

/// One outcome of a connect, as it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Time since the machine started (CLOCK_MONOTONIC).
    pub at: Duration,
    /// What became of the connect, and why.
    pub outcome: Counter,
    /// Whether the caller got EPERM.
    pub is_refused: bool,
    /// The network namespace of the socket.
    pub netns: NetnsCookie,
    /// The cgroup of the caller.
    pub cgroup: CgroupId,
    /// The process, as the node's root PID namespace numbers it.
    pub pid: u32,
    /// The name of the thread, as `ps` shows it.
    pub command: String,
    /// The `id` of the workload; 0 if the caller is none.
    pub workload: u32,
    /// What it dialled.
    pub destination: SocketAddr,
}

impl Event {
    /// From the ring buffer's bytes; `None` if they are no event of this layout.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let raw: common::Event = bytemuck::try_pod_read_unaligned(bytes).ok()?;
        let name: &[u8] = raw.comm.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Self {
            at: Duration::from_nanos(raw.at_ns),
            outcome: Counter::from_index(raw.outcome.into())?,
            is_refused: raw.refused != 0,
            netns: NetnsCookie(raw.netns_cookie),
            cgroup: CgroupId(raw.cgroup_id),
            pid: raw.pid,
            command: String::from_utf8_lossy(name).into_owned(),
            workload: raw.workload,
            destination: SocketAddr::new(IpAddr::from(raw.destination), raw.port.to_host()),
        })
    }
}

/// The sampled events, in the order in which they happened on each CPU. How many of the outcomes are sampled is
/// [`Node::event_sample`](crate::plan::Node::event_sample); what did not fit the buffer is counted as `event_lost`.
#[derive(Debug)]
pub struct Events {
    ring: AsyncFd<Ring>,
}

struct Ring(RingBuf<MapData>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

impl Events {
    /// Needs a tokio runtime with I/O around it.
    pub(crate) fn open(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its map's descriptor, which stays the same and open for as long as the ring lives.
        let ring = unsafe { AsyncFd::register_with_interest(Ring(ring), Interest::READABLE) }?;
        Ok(Self { ring })
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            while let Some(item) = ready.get_inner_mut().0.next() {
                // Bytes of another layout cannot be: the object was checked when it was loaded.
                if let Some(event) = Event::parse(&item) {
                    return Ok(event);
                }
            }
            ready.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> common::Event {
        common::Event {
            at_ns: 1_500_000_000,
            netns_cookie: 7,
            cgroup_id: 30,
            destination: "10.96.0.10".parse::<IpAddr>().unwrap().into(),
            port: common::NetPort::from_host(80),
            outcome: Counter::NotAService as u16,
            pid: 42,
            workload: 3,
            refused: 0,
            comm: *b"curl\0rubbish\0\0\0\0",
        }
    }

    #[test]
    fn an_event_is_read_from_the_bytes_of_the_ring() {
        let event = Event::parse(bytemuck::bytes_of(&raw())).unwrap();
        assert_eq!(event.at, Duration::from_millis(1500));
        assert_eq!(event.outcome, Counter::NotAService);
        assert_eq!(event.command, "curl");
        assert_eq!(event.destination, "10.96.0.10:80".parse().unwrap());
        assert_eq!((event.netns, event.cgroup, event.pid), (NetnsCookie(7), CgroupId(30), 42));
        assert!(!event.is_refused);
    }

    #[test]
    fn bytes_of_another_layout_are_no_event() {
        assert_eq!(Event::parse(&[0; 8]), None);
        let unknown = common::Event { outcome: u16::MAX, ..raw() };
        assert_eq!(Event::parse(bytemuck::bytes_of(&unknown)), None);
    }
}
