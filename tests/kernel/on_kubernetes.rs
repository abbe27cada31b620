//! The mesh of [`Mesh`], with an agent that reads it from an API server: objects are deleted, and the server goes away.

use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize as _;
use serde_json::{Value, json};
use undermesh_fake_api::{Definition, FakeApi};
use undermesh_tests::{Agent, Binaries, Pod, PodSpec, Process, wait_until};

use crate::mesh::{LIMIT, Mesh};

pub(crate) struct OnKubernetes {
    pub(crate) api: FakeApi,
    pub(crate) mesh: Mesh,
    /// What keeps pods in being that run nothing else.
    pauses: Vec<Process>,
}

impl OnKubernetes {
    /// `None` if `test` cannot run here, which is said.
    pub(crate) fn set(test: &str) -> anyhow::Result<Option<Self>> {
        let Some(mut mesh) = Mesh::set(test)? else { return Ok(None) };
        mesh.agent.take().expect("it runs").terminate(LIMIT)?.success("agent")?;
        // In the node's network, where the agent is.
        let api = mesh.node.netns().run(|| Ok(FakeApi::start()?))?;
        api.define(Definition::istio(&["v1"]));
        for file in ["mesh.yaml", "pods.yaml"] {
            for object in objects(&std::fs::read_to_string(mesh.config.folder().join(file))?)? {
                api.apply(object);
            }
        }
        let mut this = Self { api, mesh, pauses: Vec::new() };
        this.endpoints("web", 8080, &[&this.mesh.web]);
        this.pauses.push(this.mesh.b.spawn("pause", &pause())?);
        let kubeconfig = this.kubeconfig()?;
        let program = &Binaries::for_tests()?.undermesh;
        let mut agent =
            Agent::start_on_kubernetes(&this.mesh.node, program, &kubeconfig, &this.mesh.world.folder())?;
        agent.wait_captured(5)?;
        this.mesh.agent = Some(agent);
        Ok(Some(this))
    }

    fn kubeconfig(&self) -> anyhow::Result<PathBuf> {
        let path = self.mesh.world.folder().join("kubeconfig");
        std::fs::write(&path, self.api.kubeconfig())?;
        Ok(path)
    }

    /// Writes the slice of a service of namespace `mesh`.
    pub(crate) fn endpoints(&self, service: &str, port: u16, pods: &[&Pod]) {
        let endpoint = |pod: &&Pod| json!({"addresses": [pod.addresses()[0]], "conditions": {"ready": true}});
        self.api.apply(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{service}-1"), "namespace": "mesh",
                "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "http", "port": port}],
            "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
        }));
    }

    /// An object of the mesh's, to be put back or changed.
    pub(crate) fn object(&self, group: &str, plural: &str, name: &str) -> Value {
        self.api.object(group, plural, "mesh", name).expect("it is of the mesh")
    }

    /// Another pod of namespace `mesh`, captured.
    pub(crate) fn pod(&mut self, name: &str) -> anyhow::Result<Pod> {
        let captured = self.mesh.status("/workloads/captured")?;
        let pod = self.mesh.node.pod("mesh", name)?;
        let pause = pod.spawn("pause", &pause())?;
        self.pauses.push(pause);
        let manifest = pod.manifest(&PodSpec::labelled([("app", name)]).unannotated());
        for object in objects(&manifest)? {
            self.api.apply(object);
        }
        self.mesh.agent.as_mut().expect("it runs").wait_captured(captured + 1)?;
        Ok(pod)
    }

    /// Waits until what was applied or deleted is in force.
    pub(crate) fn after<T>(&self, change: impl FnOnce(&FakeApi) -> T) -> anyhow::Result<T> {
        let before = self.mesh.status("/configuration/generation")?;
        let done = change(&self.api);
        wait_until(LIMIT, "the change to be in force", || {
            Ok((self.mesh.status("/configuration/generation")? > before).then_some(()))
        })?;
        Ok(done)
    }
}

fn pause() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000000");
    command
}

fn objects(text: &str) -> anyhow::Result<Vec<Value>> {
    let all = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    Ok(all.collect::<Result<Vec<_>, _>>()?.into_iter().filter(|object| !object.is_null()).collect())
}

/// What a talker has printed; the last line may be half written.
pub(crate) fn events(talker: &Process) -> Vec<Value> {
    talker.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
