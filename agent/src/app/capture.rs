//! Keeps this node's pods captured: listeners in their namespaces, inlets of the proxy, entries in the kernel's maps.
//!
//! One pass brings all three to what [`enrolment`](super::enrolment) asks for, in an order in which no connection is lost:
//! listeners open before the kernel redirects to them, and close after it has stopped.

mod place;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use serde_json::{Value, json};
use socket2::{Domain, Socket};
use undermesh_core::api::meta::Key;
use undermesh_core::client::Client;
use undermesh_core::cluster::Workload;
use undermesh_core::snapshot::Snapshot;
use undermesh_proxy::inlet::{Caller, Entrance, Inlet, Origin, Origins, Sockets};
use undermesh_proxy::{InletHandle, Proxy};
use undermesh_redirect::Redirect;
use undermesh_redirect::netns::{Netns, NetnsCookie, NetnsError};
use undermesh_redirect::plan::{self, LocalWorkload};

pub use place::Surroundings;

use super::enrolment::LocalPod;
use crate::probe;
use place::{Found, Ground, Missing};

/// Where the proxy listens in each pod, as Istio's sidecars do.
pub const DEFAULT_LISTENER_PORT: NonZeroU16 = NonZeroU16::new(15001).expect("is not zero");
const BACKLOG: i32 = 4096;
/// How long connections are accepted under the number of a pod that is another now, or in the mesh no more: those that were
/// on their way.
const KEEP_RETIRED: Duration = Duration::from_secs(5);

/// Callers by the number that the kernel knows them by.
type Callers = Arc<ArcSwap<HashMap<u32, Arc<Caller>>>>;

/// The pods of this node, as they are captured.
pub struct Capture {
    redirect: Arc<Mutex<Redirect>>,
    settings: Settings,
    ground: Ground,
    callers: Callers,
    pods: BTreeMap<Key, Captured>,
    /// Inlets by namespace: pods in the node's own share one.
    inlets: HashMap<NetnsCookie, Shared>,
    next_id: u32,
    /// Numbers no pod has any more, and since when.
    retired: HashMap<u32, Instant>,
    /// The namespace of each caller.
    homes: HashMap<u32, NetnsCookie>,
    /// Callers in whose place the same pod has another, while they have connections.
    former: Vec<(u32, Weak<Caller>)>,
    /// What the kernel was told last; `None` before the first time, and after a failure.
    written: Option<Written>,
}

/// How to capture.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The port of the listeners in the pods.
    pub listener_port: NonZeroU16,
    /// One of so many kernel decisions becomes an event; 0: none.
    pub event_sample: u32,
    /// The node's `/proc`.
    pub proc: PathBuf,
}

/// A pod and what there is of it.
struct Captured {
    wanted: Arc<LocalPod>,
    id: u32,
    /// None if it was not found.
    found: Option<Found>,
    /// Why its connections are not captured. With a place, its fail mode is in force.
    failure: Option<Failure>,
}

impl Captured {
    /// Whether both are in the same place.
    fn is_where(&self, other: &Self) -> bool {
        let place = |it: &Self| it.found.as_ref().map(|found| (found.place, found.netns.cookie()));
        place(self).is_some() && place(self) == place(other)
    }
}

/// Why a pod is not captured.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// It is not there yet.
    Waiting(String),
    /// Somebody has to do something.
    Failed(String),
}

/// What the kernel was told.
struct Written {
    snapshot: Snapshot,
    workloads: Vec<LocalWorkload>,
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
    /// Enrolled pods that are not there yet.
    pub waiting: usize,
    /// Numbers of pods that changed, which are still known.
    pub retired: usize,
    /// Whether any pod is another than after the last pass, or in another state.
    pub has_changed: bool,
}

impl Capture {
    /// Nothing captured yet.
    ///
    /// # Errors
    /// The kernel half has panicked.
    pub fn new(redirect: Arc<Mutex<Redirect>>, settings: Settings) -> anyhow::Result<Self> {
        let netns = lock(&redirect)?.node_netns().clone();
        Ok(Self {
            redirect,
            ground: Ground { proc: settings.proc.clone(), netns },
            settings,
            callers: Arc::default(),
            pods: BTreeMap::new(),
            inlets: HashMap::new(),
            next_id: 0,
            retired: HashMap::new(),
            homes: HashMap::new(),
            former: Vec::new(),
            written: None,
        })
    }

    /// Brings everything to `wanted` and the destinations of `snapshot`. Pods that cannot be captured do not stop the others;
    /// they are tried again by the next pass. Blocks for some system calls for each pod that is new or was touched.
    ///
    /// # Errors
    /// The maps could not be written; what was captured before still is.
    pub fn pass(
        &mut self,
        wanted: Vec<Arc<LocalPod>>,
        around: &Surroundings<'_>,
        snapshot: &Snapshot,
        proxy: &Proxy,
    ) -> anyhow::Result<Pass> {
        let mut before = std::mem::take(&mut self.pods);
        let (mut gone, mut let_go) = (Vec::new(), Vec::new());
        let mut has_changed = false;
        for pod in wanted {
            let captured = match before.remove(&pod.key) {
                Some(kept) if self.may_stay(&kept, &pod, around) => {
                    if Arc::ptr_eq(&kept.wanted, &pod) || kept.wanted == pod {
                        kept
                    } else {
                        has_changed = true;
                        self.renew(kept, pod)
                    }
                }
                other => {
                    let known = other.as_ref().and_then(|it| it.failure.clone());
                    let captured = self.capture(pod, around, proxy, known.as_ref());
                    has_changed |= known.is_none() || captured.failure != known;
                    match other {
                        // Another client to the rules, or none, where it was: what has begun ends well.
                        Some(other) if other.is_where(&captured) => let_go.push(other.id),
                        Some(other) => gone.push(other.id),
                        None => {}
                    }
                    captured
                }
            };
            self.pods.insert(captured.wanted.key.clone(), captured);
        }
        gone.extend(before.values().map(|pod| pod.id));
        has_changed |= !before.is_empty();
        self.write(snapshot, self.pods.values().filter_map(|pod| self.workload(pod)).collect())?;
        // Only now does nothing lead to the listeners of those that are gone.
        if has_changed || !self.retired.is_empty() {
            self.retire(&gone, &let_go, proxy);
        }
        drop(before);
        Ok(self.tally(has_changed))
    }

    fn tally(&self, has_changed: bool) -> Pass {
        let mut pass = Pass { has_changed, retired: self.retired.len(), ..Pass::default() };
        for pod in self.pods.values().filter(|pod| pod.wanted.enrolment.is_enrolled()) {
            match pod.failure {
                None => pass.captured += 1,
                Some(Failure::Waiting(_)) => pass.waiting += 1,
                Some(Failure::Failed(_)) => pass.failed += 1,
            }
        }
        pass
    }

    /// New connections go where they are dialled from here on; what was redirected before can still be accepted, until this
    /// is dropped.
    ///
    /// # Errors
    /// The maps could not be written.
    pub fn stop_redirecting(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        self.write(snapshot, Vec::new())
    }

    /// Whether a pod is captured where it is, and as the client that it is.
    fn may_stay(&self, kept: &Captured, pod: &Arc<LocalPod>, around: &Surroundings<'_>) -> bool {
        let Some(found) = kept.found.as_ref().filter(|_| kept.failure.is_none()) else { return false };
        let is_touched = pod.uid.is_some_and(|uid| around.touched.contains(&uid));
        (Arc::ptr_eq(&kept.wanted, pod) || kept.wanted.differs_in_addresses_only(pod))
            && (!is_touched || self.ground.is_still(found, pod, around))
    }

    fn capture(
        &mut self,
        pod: Arc<LocalPod>,
        around: &Surroundings<'_>,
        proxy: &Proxy,
        known: Option<&Failure>,
    ) -> Captured {
        self.next_id += 1;
        let id = self.next_id;
        let (found, failure) = match self.ground.find(&pod, around) {
            Ok(found) => {
                let entered = self.enter(&pod, id, &found, proxy);
                (Some(found), entered.err().map(|error| Failure::Failed(format!("{error:#}"))))
            }
            Err(Missing::Yet(why)) => (None, Some(Failure::Waiting(why))),
            Err(Missing::Wrong(error)) => (None, Some(Failure::Failed(format!("{error:#}")))),
        };
        if failure.as_ref() != known && pod.enrolment.is_enrolled() {
            match &failure {
                Some(Failure::Failed(why)) => {
                    tracing::warn!(pod = %caller_id(&pod.key), why, "cannot capture the pod's connections");
                }
                Some(Failure::Waiting(why)) => {
                    tracing::debug!(pod = %caller_id(&pod.key), why, "the pod is not there yet");
                }
                None => tracing::debug!(pod = %caller_id(&pod.key), "captured"),
            }
        }
        if known.is_none() {
            for complaint in &pod.complaints {
                tracing::warn!(pod = %caller_id(&pod.key), complaint, "annotation");
            }
        }
        Captured { wanted: pod, id, found, failure }
    }

    /// The same pod has other addresses: it goes on as it is, known by them.
    fn renew(&mut self, kept: Captured, pod: Arc<LocalPod>) -> Captured {
        if let (true, Some(found)) = (pod.enrolment.is_enrolled(), &kept.found) {
            self.admit(&pod, kept.id, &found.netns);
        }
        Captured { wanted: pod, ..kept }
    }

    /// Opens its listeners if it is enrolled, and makes it known to the proxy as a client.
    fn enter(&mut self, pod: &LocalPod, id: u32, found: &Found, proxy: &Proxy) -> anyhow::Result<()> {
        if !pod.enrolment.is_enrolled() {
            return Ok(());
        }
        self.open(pod, &found.netns, proxy)?;
        self.admit(pod, id, &found.netns);
        Ok(())
    }

    /// Makes it known to the proxy as a client, or anew.
    fn admit(&mut self, pod: &LocalPod, id: u32, netns: &Arc<Netns>) {
        let Key { name, namespace } = &pod.key;
        let Client { labels, service_account, node, .. } = &pod.client;
        let caller = Arc::new(Caller {
            id: caller_id(&pod.key),
            client: pod.client.clone(),
            workload: Arc::new(Workload::new(name, namespace, labels, service_account, node)),
            sockets: Arc::new(PodSockets {
                netns: netns.clone(),
                listener_port: self.settings.listener_port,
            }),
        });
        self.homes.insert(id, netns.cookie());
        let mut callers = HashMap::clone(&self.callers.load());
        self.former.retain(|(_, caller)| caller.strong_count() > 0);
        self.former.extend(callers.insert(id, caller).map(|former| (id, Arc::downgrade(&former))));
        self.callers.store(Arc::new(callers));
    }

    fn open(&mut self, pod: &LocalPod, netns: &Arc<Netns>, proxy: &Proxy) -> anyhow::Result<()> {
        let cookie = netns.cookie();
        if self.inlets.get(&cookie).is_some_and(|inlet| !inlet.inlet.has_failed()) {
            return Ok(());
        }
        let port = self.settings.listener_port.get();
        let listener4 = listen(netns, Ipv4Addr::LOCALHOST.into(), port)?;
        let listener6 = listen(netns, Ipv6Addr::LOCALHOST.into(), port)?;
        anyhow::ensure!(
            listener4.is_some() || listener6.is_some(),
            "the namespace has neither 127.0.0.1 nor ::1 (is `lo` up?)"
        );
        let (has4, has6) = (listener4.is_some(), listener6.is_some());
        let origins = {
            let redirect = lock(&self.redirect)?;
            KernelOrigins { origins: redirect.origins(), netns: cookie, callers: self.callers.clone() }
        };
        // Those in the node's namespace have one listener for all: the kernel tells them apart.
        let is_shared = cookie == self.ground.netns.cookie();
        let inlet = proxy.open(Inlet {
            name: if is_shared { "node".into() } else { caller_id(&pod.key) },
            listeners: listener4.into_iter().chain(listener6).collect(),
            entrance: Entrance::Mesh(Arc::new(origins)),
        });
        let port = |there: bool| there.then_some(self.settings.listener_port);
        self.inlets.insert(cookie, Shared { listener4: port(has4), listener6: port(has6), inlet });
        Ok(())
    }

    /// Forgets the callers of pods that are `gone`, and closes the listeners that nobody needs. Those of pods that were let go of
    /// stay a little longer: what the kernel redirected under the old number is accepted now.
    fn retire(&mut self, gone: &[u32], let_go: &[u32], proxy: &Proxy) {
        let now = Instant::now();
        let known = self.callers.load_full();
        for id in gone {
            known.get(id).into_iter().for_each(|caller| proxy.forget(caller));
            let former = self.former.iter().filter(|(of, _)| of == id);
            former.filter_map(|(_, caller)| caller.upgrade()).for_each(|caller| proxy.forget(&caller));
            // With it all that it was before.
            if let Some(home) = self.homes.get(id) {
                let homes = &self.homes;
                self.retired.retain(|id, _| homes.get(id) != Some(home));
            }
        }
        for id in let_go {
            known.get(id).into_iter().for_each(|caller| proxy.let_go(caller));
            let former = self.former.iter().filter(|(of, _)| of == id);
            former.filter_map(|(_, caller)| caller.upgrade()).for_each(|caller| proxy.let_go(&caller));
            self.retired.insert(*id, now);
        }
        self.retired.retain(|_, since| now.duration_since(*since) < KEEP_RETIRED);
        let live = self.pods.values().filter(|pod| pod.wanted.enrolment.is_enrolled()).map(|pod| pod.id);
        let kept: HashSet<u32> = live.chain(self.retired.keys().copied()).collect();
        self.homes.retain(|id, _| kept.contains(id));
        let used: HashSet<NetnsCookie> = self.homes.values().copied().collect();
        self.inlets.retain(|netns, _| used.contains(netns));
        let mut callers = HashMap::clone(&known);
        callers.retain(|id, _| kept.contains(id));
        self.callers.store(Arc::new(callers));
    }

    fn workload(&self, pod: &Captured) -> Option<LocalWorkload> {
        let found = pod.found.as_ref()?;
        let wanted = &pod.wanted;
        // Without a listener the kernel knows the pod all the same, and its fail mode: a program that takes the
        // listener's port first does not get out of a mesh that is closed.
        let is_served = wanted.enrolment.is_enrolled() && pod.failure.is_none();
        let inlet = self.inlets.get(&found.netns.cookie()).filter(|_| is_served);
        Some(LocalWorkload {
            id: pod.id,
            place: found.place,
            is_enrolled: wanted.enrolment.is_enrolled(),
            listener4: inlet.and_then(|inlet| inlet.listener4),
            listener6: inlet.and_then(|inlet| inlet.listener6),
            address4: wanted.address4,
            address6: wanted.address6,
            fail_mode: wanted.fail_mode,
            excluded_ports: wanted.excluded_ports,
        })
    }

    /// Destinations are looked at only if they may be others than the last time: there are many, and what changes all the time
    /// is what is behind them.
    fn write(&mut self, snapshot: &Snapshot, workloads: Vec<LocalWorkload>) -> anyhow::Result<()> {
        let last = self.written.take();
        let has_same_captures = last.as_ref().is_some_and(|last| last.snapshot.captures_same(snapshot));
        let is_same = last.as_ref().is_some_and(|last| {
            last.workloads == workloads && last.snapshot.generation() == snapshot.generation()
        });
        if !(has_same_captures && is_same) {
            let mut redirect = lock(&self.redirect)?;
            let node = plan::Node { event_sample: self.settings.event_sample, ..redirect.node() };
            let generation = snapshot.generation();
            let (desired, applied) = if has_same_captures {
                let desired = plan::workloads(&workloads, &node, generation);
                let applied = redirect.apply_workloads(&desired);
                (desired, applied)
            } else {
                let desired =
                    plan::plan(snapshot.captures().chain(probe::captures()), &workloads, &node, generation);
                let applied = redirect.apply(&desired);
                (desired, applied)
            };
            for skipped in &desired.skipped {
                tracing::debug!(%skipped, "not captured");
            }
            let applied = applied.context("the kernel's maps could not be brought up to date")?;
            tracing::debug!(?applied, generation, "kernel maps in step");
        }
        self.written = Some(Written { snapshot: snapshot.clone(), workloads });
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
                Some(Failure::Waiting(why)) => ("waiting", why.clone()),
                Some(Failure::Failed(why)) => ("failed", why.clone()),
            };
            let found = pod.found.as_ref();
            let inlet = found.and_then(|found| self.inlets.get(&found.netns.cookie()));
            json!({
                "pod": &*caller_id(&wanted.key),
                "id": pod.id,
                "state": state,
                "capture": capture,
                "reason": reason,
                "addresses": wanted.client.addresses,
                "labels": wanted.client.labels,
                "service_account": &*wanted.client.service_account,
                "uid": wanted.uid.map(|uid| uid.to_string()),
                "host_network": wanted.is_host_network,
                "netns": found.map(|found| found.netns.path()).or(wanted.netns.as_deref()),
                "cgroup": found.and_then(|found| found.cgroup.as_deref()).or(wanted.cgroup.as_deref()),
                "netns_cookie": found.map(|found| found.netns.cookie().0),
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

fn lock(redirect: &Mutex<Redirect>) -> anyhow::Result<std::sync::MutexGuard<'_, Redirect>> {
    redirect.lock().map_err(|_| anyhow::anyhow!("the kernel half has panicked"))
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
