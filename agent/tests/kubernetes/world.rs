//! A fake API server and a source that reads it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use undermesh::source::Loaded;
use undermesh::source::kubernetes::{Access, KubernetesSource, Timing};
use undermesh_fake_api::{Definition, FakeApi};

/// Longer than anything takes, so that what does not happen fails the test and does not hang it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Times for tests.
pub(crate) const TIMING: Timing = Timing {
    watch: Duration::from_secs(60),
    silence: Duration::from_secs(30),
    first_list: Duration::from_millis(700),
    discovery: Duration::from_millis(200),
};

pub(crate) struct World {
    pub(crate) api: FakeApi,
    pub(crate) source: KubernetesSource,
    runtime: tokio::runtime::Runtime,
    kubeconfig: PathBuf,
}

/// A server with Istio's kinds in v1.
pub(crate) fn api() -> FakeApi {
    let api = FakeApi::start().unwrap();
    api.define(Definition::istio(&["v1", "v1beta1", "v1alpha3"]));
    api
}

/// A kubeconfig in a file, removed by who asks for it.
pub(crate) fn kubeconfig(api: &FakeApi) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name =
        format!("undermesh-kubeconfig-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, api.kubeconfig()).unwrap();
    path
}

impl World {
    pub(crate) fn start(api: FakeApi) -> Self {
        Self::start_with(api, TIMING)
    }

    pub(crate) fn start_with(api: FakeApi, timing: Timing) -> Self {
        let kubeconfig = kubeconfig(&api);
        let access = Access { kubeconfig: Some(kubeconfig.clone()), context: None };
        let source = KubernetesSource::start_with(&access, timing).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { api, source, runtime, kubeconfig }
    }

    /// What there is now.
    pub(crate) fn load(&mut self) -> Loaded {
        let load = self.source.load();
        let loaded = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, load).await });
        loaded.expect("everything is read in time")
    }

    /// Whether the first load is done within `time`.
    pub(crate) fn loads_within(&mut self, time: Duration) -> bool {
        let load = self.source.load();
        self.runtime.block_on(async { tokio::time::timeout(time, load).await }).is_ok()
    }

    /// Whether there is news within `time`.
    pub(crate) fn has_news_within(&mut self, time: Duration) -> bool {
        let changed = self.source.changed();
        self.runtime.block_on(async { tokio::time::timeout(time, changed).await }).is_ok()
    }

    /// Follows the news until they are what is wanted.
    pub(crate) fn until(&mut self, what: &str, is_it: impl Fn(&Loaded) -> bool) -> Loaded {
        let end = Instant::now() + PATIENCE;
        loop {
            let loaded = self.load();
            if is_it(&loaded) {
                return loaded;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(self.has_news_within(left), "{what}: {:?}", self.source.link().status().to_string());
        }
    }

    /// Waits until the connection is what is wanted.
    pub(crate) fn until_status(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.source.link().status();
            if is_it(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{what}: {status}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A number of a kind's row in `status`.
    pub(crate) fn count(&self, kind: &str, field: &str) -> u64 {
        row(&self.source.link().status(), kind)[field].as_u64().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

/// A kind's row in `status`.
pub(crate) fn row(status: &Value, kind: &str) -> Value {
    status["kinds"].as_array().unwrap().iter().find(|row| row["kind"] == kind).unwrap().clone()
}

pub(crate) fn service(name: &str, port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "ns1"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": port}]}})
}

pub(crate) fn pod(name: &str, phase: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns1"},
        "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": phase, "podIPs": [{"ip": "10.244.0.9"}]}})
}

pub(crate) fn rule(name: &str, version: &str, timeout: &str) -> Value {
    json!({"apiVersion": format!("networking.istio.io/{version}"), "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "ns1"},
        "spec": {"hosts": [format!("{name}.example")], "http": [{"timeout": timeout, "directResponse": {"status": 200}}]}})
}
