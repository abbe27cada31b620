//! Keeps this node's pods captured: listeners in their namespaces, inlets of the proxy, entries in the kernel's maps.
//!
//! One pass brings all three to what [`enrolment`](super::enrolment) asks for, in an order in which no connection is lost:
//! listeners open before the kernel redirects to them, and close after it has stopped.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use serde_json::{Value, json};
use socket2::{Domain, Socket};
use undermesh_core::api::meta::Key;
use undermesh_core::cluster::Workload;
use undermesh_core::snapshot::Snapshot;
use undermesh_proxy::inlet::{Caller, Entrance, Inlet, Origin, Origins, Sockets};
use undermesh_proxy::{InletHandle, Proxy};
use undermesh_redirect::netns::{Netns, NetnsCookie, NetnsError};
use undermesh_redirect::plan::{self, LocalWorkload, Place};
use undermesh_redirect::{CgroupId, Redirect};

use super::enrolment::LocalPod;
use crate::probe;

/// Where the proxy listens in each pod, as Istio's sidecars do.
pub const DEFAULT_LISTENER_PORT: NonZeroU16 = NonZeroU16::new(15001).expect("is not zero");
const BACKLOG: i32 = 4096;
/// How long connections are served under the number of a pod that changed or went.
const KEEP_RETIRED: Duration = Duration::from_secs(60);

/// Callers by the number that the kernel knows them by.
type Callers = Arc<ArcSwap<HashMap<u32, Arc<Caller>>>>;

/// The pods of this node, as they are captured.
pub struct Capture {
    redirect: Arc<Mutex<Redirect>>,
    listener_port: NonZeroU16,
    event_sample: u32,
    callers: Callers,
    pods: BTreeMap<Key, Captured>,
    /// Inlets by namespace: pods in the node's own share one.
    inlets: HashMap<NetnsCookie, Shared>,
    next_id: u32,
    /// Numbers no pod has any more, and since when.
    retired: HashMap<u32, Instant>,
}

/// A pod and what there is of it.
struct Captured {
    wanted: LocalPod,
    id: u32,
    /// None if it was not found.
    place: Option<Place_>,
    /// Why its connections cannot be captured. With a place, its fail mode is in force.
    failure: Option<String>,
}

/// Where a pod is in the kernel.
struct Place_ {
    place: Place,
    netns: NetnsCookie,
}

/// The listeners of a namespace.
struct Shared {
    listener4: Option<NonZeroU16>,
    listener6: Option<NonZeroU16>,
    inlet: InletHandle,
}

/// What one pass did, for the log and the status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pass {
    /// Pods that are captured.
    pub captured: usize,
    /// Enrolled pods that are not, for a reason in their row.
    pub failed: usize,
}

impl Capture {
    /// Nothing captured yet.
    pub fn new(redirect: Arc<Mutex<Redirect>>, listener_port: NonZeroU16, event_sample: u32) -> Self {
        Self {
            redirect,
            listener_port,
            event_sample,
            callers: Arc::default(),
            pods: BTreeMap::new(),
            inlets: HashMap::new(),
            next_id: 0,
            retired: HashMap::new(),
        }
    }

    /// Brings everything to `wanted` and the destinations of `snapshot`. Pods that cannot be captured do not stop the others;
    /// they are tried again by the next pass. Blocks for some system calls a pod.
    ///
    /// # Errors
    /// The maps could not be written; what was captured before still is.
    pub fn pass(
        &mut self,
        wanted: Vec<LocalPod>,
        snapshot: &Snapshot,
        proxy: &Proxy,
    ) -> anyhow::Result<Pass> {
        let mut before = std::mem::take(&mut self.pods);
        let mut gone: Vec<Arc<str>> = Vec::new();
        for pod in wanted {
            let kept = before.remove(&pod.key);
            let captured = match kept {
                Some(kept) if kept.wanted == pod && kept.failure.is_none() => kept,
                other => {
                    // A changed pod is a new client to the rules: its pools start afresh.
                    if other.is_some() {
                        gone.push(caller_id(&pod.key));
                    }
                    self.capture(pod, proxy)
                }
            };
            self.pods.insert(captured.wanted.key.clone(), captured);
        }
        gone.extend(before.keys().map(caller_id));
        self.publish_callers();
        let workloads: Vec<LocalWorkload> = self.pods.values().filter_map(|pod| self.workload(pod)).collect();
        self.write(snapshot, &workloads)?;
        // Only now does nothing lead to the listeners of those that are gone.
        let used: Vec<NetnsCookie> =
            self.pods.values().filter_map(|pod| Some(pod.place.as_ref()?.netns)).collect();
        self.inlets.retain(|netns, _| used.contains(netns));
        drop(before);
        for id in &gone {
            proxy.forget(id);
        }
        let enrolled = self.pods.values().filter(|pod| pod.wanted.enrolment.is_enrolled());
        let (captured, failed): (Vec<_>, Vec<_>) = enrolled.partition(|pod| pod.failure.is_none());
        Ok(Pass { captured: captured.len(), failed: failed.len() })
    }

    /// New connections go where they are dialled from here on; what was redirected before can still be accepted, until this
    /// is dropped.
    ///
    /// # Errors
    /// The maps could not be written.
    pub fn stop_redirecting(&self, snapshot: &Snapshot) -> anyhow::Result<()> {
        self.write(snapshot, &[])
    }

    fn capture(&mut self, pod: LocalPod, proxy: &Proxy) -> Captured {
        self.next_id += 1;
        let id = self.next_id;
        let (place, opened) = match Self::place(&self.redirect, &pod) {
            Ok((place, netns)) => (Some(place), self.enter(&pod, id, netns, proxy)),
            Err(error) => (None, Err(error)),
        };
        let failure = opened.err().map(|error| format!("{error:#}"));
        if let (Some(why), true) = (&failure, pod.enrolment.is_enrolled()) {
            tracing::warn!(pod = %caller_id(&pod.key), why, "cannot capture the pod's connections");
        }
        for complaint in &pod.complaints {
            tracing::warn!(pod = %caller_id(&pod.key), complaint, "annotation");
        }
        Captured { wanted: pod, id, place, failure }
    }

    /// Finds the pod.
    fn place(redirect: &Mutex<Redirect>, pod: &LocalPod) -> anyhow::Result<(Place_, Netns)> {
        let netns = find_netns(pod)?;
        let cookie = netns.cookie();
        let place = if pod.is_host_network || is_host(redirect, cookie)? {
            let cgroup = pod.cgroup.as_deref().context(
                "a pod in the node's network namespace is told apart by its cgroup: annotation undermesh.io/cgroup is missing",
            )?;
            let id = CgroupId::of_path(cgroup).with_context(|| format!("its cgroup {}", cgroup.display()))?;
            Place::Cgroup(id)
        } else {
            Place::Netns(cookie)
        };
        Ok((Place_ { place, netns: cookie }, netns))
    }

    /// Opens its listeners if it is enrolled, and makes it known to the proxy as a client.
    fn enter(&mut self, pod: &LocalPod, id: u32, netns: Netns, proxy: &Proxy) -> anyhow::Result<()> {
        if !pod.enrolment.is_enrolled() {
            return Ok(());
        }
        let netns = Arc::new(netns);
        self.open(pod, &netns, proxy)?;
        let caller = Arc::new(Caller {
            id: caller_id(&pod.key),
            client: pod.client.clone(),
            workload: Arc::new(Workload::new(
                &pod.pod.meta.name,
                &pod.pod.meta.namespace,
                &pod.pod.meta.labels,
                &pod.pod.spec.service_account,
                &pod.pod.spec.node,
            )),
            sockets: Arc::new(PodSockets { netns, listener_port: self.listener_port }),
        });
        let mut callers = HashMap::clone(&self.callers.load());
        callers.insert(id, caller);
        self.callers.store(Arc::new(callers));
        Ok(())
    }

    fn open(&mut self, pod: &LocalPod, netns: &Arc<Netns>, proxy: &Proxy) -> anyhow::Result<()> {
        let cookie = netns.cookie();
        if self.inlets.get(&cookie).is_some_and(|inlet| !inlet.inlet.has_failed()) {
            return Ok(());
        }
        let port = self.listener_port.get();
        let listener4 = listen(netns, Ipv4Addr::LOCALHOST.into(), port)?;
        let listener6 = listen(netns, Ipv6Addr::LOCALHOST.into(), port)?;
        anyhow::ensure!(
            listener4.is_some() || listener6.is_some(),
            "the namespace has neither 127.0.0.1 nor ::1 (is `lo` up?)"
        );
        let (has4, has6) = (listener4.is_some(), listener6.is_some());
        let origins = {
            let redirect =
                self.redirect.lock().map_err(|_| anyhow::anyhow!("the kernel half has panicked"))?;
            KernelOrigins { origins: redirect.origins(), netns: cookie, callers: self.callers.clone() }
        };
        let inlet = proxy.open(Inlet {
            name: caller_id(&pod.key),
            listeners: listener4.into_iter().chain(listener6).collect(),
            entrance: Entrance::Mesh(Arc::new(origins)),
        });
        let port = |there: bool| there.then_some(self.listener_port);
        self.inlets.insert(cookie, Shared { listener4: port(has4), listener6: port(has6), inlet });
        Ok(())
    }

    /// Forgets the callers of pods that are gone, but not at once: the kernel redirects under the old number until its maps
    /// are written, and what it redirected then is accepted a little later.
    fn publish_callers(&mut self) {
        let now = Instant::now();
        let live: HashSet<u32> = self.pods.values().map(|pod| pod.id).collect();
        let mut callers = HashMap::clone(&self.callers.load());
        for &id in callers.keys().filter(|id| !live.contains(id)) {
            self.retired.entry(id).or_insert(now);
        }
        self.retired.retain(|_, since| now.duration_since(*since) < KEEP_RETIRED);
        callers.retain(|id, _| live.contains(id) || self.retired.contains_key(id));
        self.callers.store(Arc::new(callers));
    }

    fn workload(&self, pod: &Captured) -> Option<LocalWorkload> {
        let place = pod.place.as_ref()?;
        let wanted = &pod.wanted;
        // Without a listener the kernel knows the pod all the same, and its fail mode: a program that takes the
        // listener's port first does not get out of a mesh that is closed.
        let is_served = wanted.enrolment.is_enrolled() && pod.failure.is_none();
        let inlet = self.inlets.get(&place.netns).filter(|_| is_served);
        Some(LocalWorkload {
            id: pod.id,
            place: place.place,
            is_enrolled: wanted.enrolment.is_enrolled(),
            listener4: inlet.and_then(|inlet| inlet.listener4),
            listener6: inlet.and_then(|inlet| inlet.listener6),
            address4: wanted.address4,
            address6: wanted.address6,
            fail_mode: wanted.fail_mode,
            excluded_ports: wanted.excluded_ports,
        })
    }

    fn write(&self, snapshot: &Snapshot, workloads: &[LocalWorkload]) -> anyhow::Result<()> {
        let mut redirect =
            self.redirect.lock().map_err(|_| anyhow::anyhow!("the kernel half has panicked"))?;
        let node = plan::Node { event_sample: self.event_sample, ..redirect.node() };
        let desired =
            plan::plan(snapshot.captures().chain(probe::captures()), workloads, &node, snapshot.generation());
        for skipped in &desired.skipped {
            tracing::debug!(%skipped, "not captured");
        }
        let applied =
            redirect.apply(&desired).context("the kernel's maps could not be brought up to date")?;
        tracing::debug!(?applied, generation = snapshot.generation(), "kernel maps in step");
        Ok(())
    }

    /// A row for each pod, for `undermesh workloads`.
    pub fn rows(&self) -> Value {
        let row = |pod: &Captured| {
            let wanted = &pod.wanted;
            let state = if wanted.enrolment.is_enrolled() { "enrolled" } else { "not enrolled" };
            let reason = || wanted.enrolment.reason().to_owned();
            let (capture, reason) = match &pod.failure {
                _ if !wanted.enrolment.is_enrolled() => ("no", reason()),
                None => ("yes", reason()),
                Some(why) => ("failed", why.clone()),
            };
            let inlet = pod.place.as_ref().and_then(|place| self.inlets.get(&place.netns));
            json!({
                "pod": &*caller_id(&wanted.key),
                "id": pod.id,
                "state": state,
                "capture": capture,
                "reason": reason,
                "addresses": wanted.client.addresses,
                "labels": wanted.client.labels,
                "service_account": &*wanted.client.service_account,
                "host_network": wanted.is_host_network,
                "netns": wanted.netns,
                "cgroup": wanted.cgroup,
                "netns_cookie": pod.place.as_ref().map(|place| place.netns.0),
                "listener4": inlet.and_then(|inlet| inlet.listener4).map(NonZeroU16::get),
                "listener6": inlet.and_then(|inlet| inlet.listener6).map(NonZeroU16::get),
                "complaints": wanted.complaints,
            })
        };
        self.pods.values().map(row).collect()
    }
}

fn caller_id(key: &Key) -> Arc<str> {
    format!("{}/{}", key.namespace, key.name).into()
}

/// By the netns annotation, else by a process of its cgroup; a host-network pod is where we are.
fn find_netns(pod: &LocalPod) -> anyhow::Result<Netns> {
    if let Some(path) = &pod.netns {
        return Ok(Netns::open(path)?);
    }
    if pod.is_host_network {
        return Ok(Netns::current()?);
    }
    let cgroup = pod.cgroup.as_deref().context(
        "nothing says where it is: give annotation undermesh.io/netns (path of its network namespace) or undermesh.io/cgroup",
    )?;
    let pid = first_process(cgroup)
        .with_context(|| format!("looking for a process in its cgroup {}", cgroup.display()))?;
    Ok(Netns::of_pid(pid)?)
}

/// A process in the cgroup or below it.
fn first_process(cgroup: &Path) -> anyhow::Result<u32> {
    let mut folders = vec![cgroup.to_owned()];
    while let Some(folder) = folders.pop() {
        let list = std::fs::read_to_string(folder.join("cgroup.procs"))?;
        if let Some(pid) = list.lines().find_map(|line| line.parse().ok()) {
            return Ok(pid);
        }
        for entry in std::fs::read_dir(&folder)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    anyhow::bail!("it has no process yet")
}

fn is_host(redirect: &Mutex<Redirect>, cookie: NetnsCookie) -> anyhow::Result<bool> {
    let redirect = redirect.lock().map_err(|_| anyhow::anyhow!("the kernel half has panicked"))?;
    Ok(redirect.node().host_netns == cookie)
}

/// `None` if the namespace does not have the address (no IPv6, `lo` down).
fn listen(netns: &Netns, ip: IpAddr, port: u16) -> anyhow::Result<Option<TcpListener>> {
    match netns.listen(SocketAddr::new(ip, port), BACKLOG) {
        Ok(listener) => Ok(Some(listener)),
        Err(NetnsError::NoSuchAddress { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sockets in a pod's namespace, for upstream connections (DESIGN D2).
struct PodSockets {
    netns: Arc<Netns>,
    /// Of our listeners in it.
    listener_port: NonZeroU16,
}

impl Sockets for PodSockets {
    fn stream(&self, domain: Domain) -> std::io::Result<Socket> {
        self.netns.socket(domain).map_err(std::io::Error::other)
    }

    fn is_own_listener(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        (ip.is_loopback() || ip.is_unspecified()) && address.port() == self.listener_port.get()
    }
}

/// The kernel's records of captured connections (DESIGN D3).
struct KernelOrigins {
    origins: undermesh_redirect::origin::Origins,
    netns: NetnsCookie,
    callers: Callers,
}

impl Origins for KernelOrigins {
    fn take(&self, peer: SocketAddr) -> Option<Origin> {
        let origin = self.origins.take(self.netns, peer)?;
        let caller = self.callers.load().get(&origin.workload)?.clone();
        Some(Origin { destination: origin.destination, caller })
    }
}
