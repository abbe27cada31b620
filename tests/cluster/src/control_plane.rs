//! etcd, API server, controller manager and scheduler, with real certificates, RBAC and Node authorization.
//!
//! They run in the world's `fabric` namespace, so the API server is a machine on the wire between the nodes. A port of this machine
//! leads to it, too. Whatever needs an API server and no kubelet (CRDs, RBAC, watches, admission) needs no more than this:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let plane = undermesh_cluster::ControlPlane::start(&undermesh_cluster::Programs::cached()?)?;
//! println!("export KUBECONFIG={}", plane.kubeconfig().display());
//! # Ok(())
//! # }
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use undermesh_tests::{
    FABRIC_BRIDGE, Process, SERVICE_CIDR_V4, SERVICE_CIDR_V6, Step, World, configure, wait_until,
};

use crate::authority::{Authority, Identity, token_keys};
use crate::forward::Forward;
use crate::kubeconfig::{self, User};
use crate::programs::Programs;
use crate::run::{apply, output};

/// Its address on the wire between the nodes.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 254);
/// Likewise by IPv6, for what passes through.
pub(crate) const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0xfe);
/// From where nodes are given the addresses of their pods, of both families.
pub const POD_CIDR: &str = "10.244.0.0/16,fd00:10:244::/56";
const PORT: u16 = 6443;
/// The first of the range, by which pods reach the API server.
const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Three seconds on a machine that has nothing else to do.
const START: Duration = Duration::from_secs(90);

/// A running control plane. Dropping it ends it and removes its world.
#[derive(Debug)]
pub struct ControlPlane {
    // Ended in this order: those who watch before the one they watch.
    scheduler: Part,
    controllers: Part,
    api_server: Part,
    etcd: Part,
    forward: Forward,
    authority: Authority,
    kubeconfig: PathBuf,
    kubeconfig_inside: PathBuf,
    programs: Programs,
    folder: PathBuf,
    world: World,
}

/// One of the programs, and how it is started.
#[derive(Debug)]
struct Part {
    name: &'static str,
    command: Command,
    process: Option<Process>,
}

impl ControlPlane {
    /// Starts one in a world of its own and waits until the API server is ready.
    ///
    /// # Errors
    /// What [`World::new`] finds missing, or what one of the programs says.
    pub fn start(programs: &Programs) -> anyhow::Result<Self> {
        Self::start_in(World::new()?, programs)
    }

    /// Likewise in a world that may have nodes already.
    pub fn start_in(world: World, programs: &Programs) -> anyhow::Result<Self> {
        Self::start_with(world, programs, &[])
    }

    /// Likewise, with further flags for the API server.
    pub fn start_with(world: World, programs: &Programs, flags: &[&str]) -> anyhow::Result<Self> {
        let folder = world.folder().join("kubernetes");
        std::fs::create_dir_all(&folder)?;
        let bridge = [
            Step::Address(FABRIC_BRIDGE, (ADDRESS.into(), 24)),
            Step::Address(FABRIC_BRIDGE, (ADDRESS_V6.into(), 64)),
        ];
        configure(world.fabric(), &bridge).context("the API server's address")?;
        let authority = Authority::new(&folder, "kubernetes-ca")?;
        let at = SocketAddr::from((ADDRESS, PORT));
        let forward = Forward::start(world.fabric(), PORT, at)?;
        let trusted = authority.certificate().to_owned();
        let config = |name: &str, user: &str, group: Option<&str>, server| {
            let identity = authority.client(name, user, group)?;
            let path = folder.join(format!("{name}.kubeconfig"));
            kubeconfig::write(path, server, &trusted, User::Certificate(&identity))
        };
        let admins = Some("system:masters");
        let outside = config("admin", "admin", admins, forward.local())?;
        let inside = config("admin-inside", "admin", admins, at)?;
        let controllers = config("controller-manager", "system:kube-controller-manager", None, at)?;
        let scheduler = config("scheduler", "system:kube-scheduler", None, at)?;

        let (token_key, token_public) = token_keys(&folder)?;
        let etcd = etcd(programs, &world.disk()?.join("etcd"));
        let etcd = Part::start("etcd", etcd, &world)?;
        let mut api_server = api_server(programs, &folder, &authority, &token_key, &token_public)?;
        api_server.args(flags);
        let mut api_server = Part::start("kube-apiserver", api_server, &world)?;
        wait_ready(&mut api_server, &programs.kubectl(), &outside)?;
        let controllers = controller_manager(programs, &folder, &controllers, &authority, &token_key);
        let controllers = Part::start("kube-controller-manager", controllers, &world)?;
        let mut command = Command::new(programs.kubernetes("kube-scheduler"));
        command
            .arg(flag("kubeconfig", &scheduler))
            .args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        let scheduler = Part::start("kube-scheduler", command, &world)?;
        Ok(Self {
            scheduler,
            controllers,
            api_server,
            etcd,
            forward,
            authority,
            kubeconfig: outside,
            kubeconfig_inside: inside,
            programs: programs.clone(),
            folder,
            world,
        })
    }

    /// For an administrator anywhere on this machine.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Likewise inside the world's namespaces: of a node or a pod.
    pub fn kubeconfig_inside(&self) -> &Path {
        &self.kubeconfig_inside
    }

    /// A kubeconfig like [`kubeconfig`](Self::kubeconfig), for whoever the token `token` belongs to: what RBAC grants a service
    /// account can be tried with it.
    pub fn kubeconfig_by_token(&self, name: &str, token: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(format!("{name}.kubeconfig"));
        kubeconfig::write(path, self.forward.local(), self.authority.certificate(), User::Token(token))
    }

    /// Likewise for a process in one of the world's namespaces.
    pub fn kubeconfig_by_token_inside(&self, name: &str, token: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(format!("{name}-inside.kubeconfig"));
        let at = SocketAddr::from((ADDRESS, PORT));
        kubeconfig::write(path, at, self.authority.certificate(), User::Token(token))
    }

    /// kubectl as an administrator.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(self.programs.kubectl());
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// `kubectl apply --server-side` of the objects in `text`.
    pub fn apply(&self, text: &str) -> anyhow::Result<()> {
        apply(self.kubectl(), text)
    }

    /// Kills the API server: whoever watches it is cut off. (Asked to end, it would wait a minute for those.) etcd keeps what
    /// there is.
    pub fn stop_api_server(&mut self) -> anyhow::Result<()> {
        self.api_server.process.take().map_or(Ok(()), |process| process.kill().map(drop))
    }

    /// Starts it again and waits until it is ready. It has forgotten what it could have told watchers of the past: who asks for
    /// that is answered `410 Gone`.
    pub fn start_api_server(&mut self) -> anyhow::Result<()> {
        self.api_server.restart(&self.world)?;
        wait_ready(&mut self.api_server, &self.programs.kubectl(), &self.kubeconfig)?;
        // These may have given up meanwhile, for which a real cluster starts them again.
        for part in [&mut self.controllers, &mut self.scheduler] {
            if part.must_run().is_err() {
                part.restart(&self.world)?;
            }
        }
        Ok(())
    }

    /// An error with its last words if one of the programs has ended.
    pub fn must_run(&mut self) -> anyhow::Result<()> {
        let parts = [&mut self.etcd, &mut self.api_server, &mut self.controllers, &mut self.scheduler];
        parts.into_iter().try_for_each(Part::must_run)
    }

    /// Its world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Its world, to add nodes.
    pub fn world_mut(&mut self) -> &mut World {
        &mut self.world
    }

    /// The programs it was started from.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Ends everything in order and gives what is left.
    pub fn end(self) -> anyhow::Result<Vec<PathBuf>> {
        let Self { scheduler, controllers, api_server, etcd, world, .. } = self;
        drop((scheduler, controllers, api_server, etcd));
        world.remove()
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A kubeconfig for a component on a node.
    pub(crate) fn config_for(&self, name: &str, identity: &Identity) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(format!("{name}.kubeconfig"));
        let at = SocketAddr::from((ADDRESS, PORT));
        kubeconfig::write(path, at, self.authority.certificate(), User::Certificate(identity))
    }
}

impl Part {
    fn start(name: &'static str, command: Command, world: &World) -> anyhow::Result<Self> {
        let mut part = Self { name, command, process: None };
        part.restart(world)?;
        Ok(part)
    }

    fn restart(&mut self, world: &World) -> anyhow::Result<()> {
        self.process = None;
        let cgroup = format!("control/{}", self.name);
        self.process = Some(world.spawn(world.fabric(), &cgroup, self.name, &self.command)?);
        Ok(())
    }

    fn must_run(&mut self) -> anyhow::Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::must_run)
    }
}

fn wait_ready(api_server: &mut Part, kubectl: &Path, config: &Path) -> anyhow::Result<()> {
    wait_until(START, "the API server to be ready", || {
        api_server.must_run()?;
        let mut command = Command::new(kubectl);
        command.arg(flag("kubeconfig", config)).args(["get", "--raw", "/readyz", "--request-timeout=5s"]);
        let ready = output(&mut command).is_ok();
        if !ready {
            // Each question is a process.
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(ready.then_some(()))
    })
}

fn etcd(programs: &Programs, folder: &Path) -> Command {
    let mut command = Command::new(programs.etcd());
    command.arg(flag("data-dir", folder));
    command.args([
        // What a crash of the machine would lose is gone with the world anyway.
        "--unsafe-no-fsync",
        "--log-level=warn",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
    ]);
    command
}

fn api_server(
    programs: &Programs,
    folder: &Path,
    authority: &Authority,
    token_key: &Path,
    token_public: &Path,
) -> anyhow::Result<Command> {
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    let addresses = [Ipv4Addr::LOCALHOST, ADDRESS, KUBERNETES_SERVICE].map(IpAddr::V4);
    let server = authority.server("apiserver", "kube-apiserver", None, &names, &addresses)?;
    let to_kubelets = authority.client(
        "apiserver-kubelet-client",
        "kube-apiserver-kubelet-client",
        Some("system:masters"),
    )?;
    let front = Authority::new(folder, "front-proxy-ca")?;
    let to_extensions = front.client("front-proxy-client", "front-proxy-client", None)?;
    let mut command = Command::new(programs.kubernetes("kube-apiserver"));
    for (name, path) in [
        ("tls-cert-file", &server.certificate),
        ("tls-private-key-file", &server.key),
        ("client-ca-file", &authority.certificate().to_owned()),
        ("kubelet-certificate-authority", &authority.certificate().to_owned()),
        ("kubelet-client-certificate", &to_kubelets.certificate),
        ("kubelet-client-key", &to_kubelets.key),
        ("requestheader-client-ca-file", &front.certificate().to_owned()),
        ("proxy-client-cert-file", &to_extensions.certificate),
        ("proxy-client-key-file", &to_extensions.key),
        ("service-account-key-file", &token_public.to_owned()),
        ("service-account-signing-key-file", &token_key.to_owned()),
    ] {
        command.arg(flag(name, path));
    }
    command.args([
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        "--bind-address=0.0.0.0".into(),
        format!("--advertise-address={ADDRESS}"),
        format!("--secure-port={PORT}"),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--requestheader-allowed-names=front-proxy-client".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        format!("--service-cluster-ip-range={}", service_cidr()),
        "--allow-privileged=true".into(),
    ]);
    Ok(command)
}

fn controller_manager(
    programs: &Programs,
    folder: &Path,
    config: &Path,
    authority: &Authority,
    token_key: &Path,
) -> Command {
    let mut command = Command::new(programs.kubernetes("kube-controller-manager"));
    for (name, path) in [
        ("kubeconfig", config),
        ("service-account-private-key-file", token_key),
        ("root-ca-file", authority.certificate()),
        ("cluster-signing-cert-file", authority.certificate()),
        ("cluster-signing-key-file", &authority.key()),
        // It makes the folder, by default in /usr/libexec.
        ("flex-volume-plugin-dir", &folder.join("volume-plugins")),
    ] {
        command.arg(flag(name, path));
    }
    command.args([
        "--use-service-account-credentials".to_owned(),
        "--allocate-node-cidrs".into(),
        format!("--cluster-cidr={POD_CIDR}"),
        format!("--service-cluster-ip-range={}", service_cidr()),
        "--leader-elect=false".into(),
        "--bind-address=127.0.0.1".into(),
        // Tests make Nodes that no kubelet stands for; their pods must not be called unready after 50 s.
        "--node-monitor-grace-period=1h".into(),
    ]);
    command
}

/// IPv4 first: the family of a Service that asks for none.
fn service_cidr() -> String {
    let ((v4, v4_bits), (v6, v6_bits)) = (SERVICE_CIDR_V4, SERVICE_CIDR_V6);
    format!("{v4}/{v4_bits},{v6}/{v6_bits}")
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}
