//! What a machine with Kubernetes in it has beside Debian's packages: units, settings, certificates, Kubernetes' programs.
//!
//! The kubelet and containerd use systemd's cgroups and cgroup2 is the only hierarchy: as on most users' nodes, and unlike on the
//! nodes that `cargo xtask cluster` makes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;
use undermesh_cluster::{Authority, Identity, User, kubeconfig, token_keys};

use super::kubernetes::Distribution;

/// The machine's name in the cluster.
pub(super) const NODE: &str = "n1";
/// Its address on QEMU's own network.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Of the API server.
pub(super) const PORT: u16 = 6443;
/// The first of the services' addresses, by which pods reach the API server.
const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Brings what is on the second disk into containerd's store.
pub(super) const IMPORT: &str = include_str!("guest/import.sh");
/// In the initramfs.
pub(super) const LOADER: &str = include_str!("guest/loader.sh");
/// Where k3s writes its administrator's kubeconfig, in the machine; under the file's name it is kept outside.
pub(super) const K3S_WRITES: &str = "/etc/rancher/k3s/k3s.yaml";
pub(super) const K3S_KUBECONFIG: &str = "k3s.yaml";
const CONTAINERD: &str = include_str!("guest/containerd.toml");

const SCRIPTS: [(&str, &str); 2] =
    [("netup.sh", include_str!("guest/netup.sh")), ("commands.sh", include_str!("guest/commands.sh"))];

/// What any distribution needs.
const UNITS: [(&str, &str); 2] = [
    ("netup", include_str!("guest/units/netup.service")),
    ("commands", include_str!("guest/units/commands.service")),
];

/// Kubernetes as its project builds it.
const UPSTREAM: [(&str, &str); 6] = [
    ("etcd", include_str!("guest/units/etcd.service")),
    ("kube-apiserver", include_str!("guest/units/kube-apiserver.service")),
    ("kube-controller-manager", include_str!("guest/units/kube-controller-manager.service")),
    ("kube-scheduler", include_str!("guest/units/kube-scheduler.service")),
    ("kubelet", include_str!("guest/units/kubelet.service")),
    ("kube-proxy", include_str!("guest/units/kube-proxy.service")),
];

const K3S: [(&str, &str); 1] = [("k3s", include_str!("guest/units/k3s.service"))];

/// What a machine of its own has and this one has no use for; each would cost emulated seconds.
const MASKED: [&str; 34] = [
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "serial-getty@ttyS1.service",
    "systemd-logind.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "logrotate.timer",
    "systemd-journal-flush.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-timesyncd.service",
    "systemd-hwdb-update.service",
    "systemd-firstboot.service",
    "systemd-random-seed.service",
    "systemd-machine-id-commit.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@dm_mod.service",
    "modprobe@loop.service",
    "modprobe@configfs.service",
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-networkd.service",
    "systemd-resolved.service",
];

/// All that a saved machine depends on of what is written here and in the scripts.
pub(super) fn text() -> String {
    let files = SCRIPTS.iter().chain(&UNITS).chain(&UPSTREAM).chain(&K3S);
    let files = files.fold(String::new(), |all, (name, text)| format!("{all}{name}\n{text}"));
    let settings = [IMPORT.to_owned(), LOADER.into(), CONTAINERD.into(), kubelet(), kube_proxy(), network()];
    format!("{files}{}{}", settings.join("\n"), MASKED.join("\n"))
}

/// Writes an administrator's kubeconfig to `to`, for a port of this machine: of what [`write`], or k3s, left in `outside`.
pub(super) fn kubeconfig(outside: &Path, port: u16, to: PathBuf) -> anyhow::Result<PathBuf> {
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if let Ok(own) = fs::read_to_string(outside.join(K3S_KUBECONFIG)) {
        fs::write(&to, own.replace(&format!("https://127.0.0.1:{PORT}"), &format!("https://{server}")))?;
        return Ok(to);
    }
    let file = |name: &str| outside.join(name);
    let admin = Identity { certificate: file("admin.crt"), key: file("admin.key") };
    kubeconfig::write(to, server, &file("ca.crt"), User::Certificate(&admin))
}

/// Puts all of it into the file system `root`, and into `outside` what its administrator needs.
pub(super) fn write(root: &Path, distribution: &Distribution, outside: &Path) -> anyhow::Result<()> {
    let put = |path: &str, text: &str| put(root, path, text.as_bytes(), 0o644);
    put("etc/hostname", &format!("{NODE}\n"))?;
    put("etc/hosts", &format!("127.0.0.1 localhost {NODE}\n"))?;
    put("etc/machine-id", "0123456789abcdef0123456789abcdef\n")?;
    put("etc/fstab", "")?;
    put("etc/resolv.conf", "nameserver 10.0.2.3\n")?;
    put("etc/systemd/journald.conf.d/machine.conf", "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n")?;
    for (name, text) in SCRIPTS {
        self::put(root, &format!("opt/guest/{name}"), text.as_bytes(), 0o755)?;
    }
    let wanted = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wanted)?;
    let own: &[(&str, &str)] = match distribution {
        Distribution::Upstream(_) => &UPSTREAM,
        Distribution::K3s(_) => &K3S,
    };
    for (name, text) in UNITS.iter().chain(own) {
        put(&format!("etc/systemd/system/{name}.service"), text)?;
        symlink(format!("/etc/systemd/system/{name}.service"), wanted.join(format!("{name}.service")))?;
    }
    for unit in MASKED {
        symlink("/dev/null", root.join("etc/systemd/system").join(unit))
            .with_context(|| format!("cannot mask {unit}"))?;
    }
    match distribution {
        Distribution::Upstream(programs) => {
            put("etc/containerd/config.toml", CONTAINERD)?;
            put("etc/cni/net.d/10-pods.conflist", &network())?;
            put("etc/kubernetes/kubelet.json", &kubelet())?;
            put("etc/kubernetes/kube-proxy.json", &kube_proxy())?;
            let names =
                ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];
            let from = names.map(|name| programs.kubernetes(name));
            for program in from.into_iter().chain([programs.etcd()]) {
                copy_program(&program, root)?;
            }
            identities(root, outside)
        }
        Distribution::K3s(binary) => {
            // Its own comes up instead.
            symlink("/dev/null", root.join("etc/systemd/system/containerd.service"))?;
            copy_program(binary, root)
        }
    }
}

fn put(root: &Path, path: &str, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap_or(root))?;
    // Not through a link that Debian's packages put there.
    let _ = fs::remove_file(&path);
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn copy_program(program: &Path, root: &Path) -> anyhow::Result<()> {
    let folder = root.join("opt/kubernetes");
    fs::create_dir_all(&folder)?;
    let to = folder.join(program.file_name().context("a program has a name")?);
    fs::copy(program, &to).with_context(|| format!("cannot copy {}", program.display()))?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Certificates, and the kubeconfigs of those who are clients.
fn identities(root: &Path, outside: &Path) -> anyhow::Result<()> {
    let folder = root.join("etc/kubernetes/pki");
    fs::create_dir_all(&folder)?;
    let authority = Authority::new(&folder, "ca")?;
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
    let addresses = [Ipv4Addr::LOCALHOST, ADDRESS, KUBERNETES_SERVICE].map(IpAddr::V4);
    authority.server("apiserver", "kube-apiserver", None, &names, &addresses)?;
    let admins = Some("system:masters");
    authority.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", admins)?;
    let node = format!("system:node:{NODE}");
    authority.server("kubelet-server", &node, Some("system:nodes"), &[NODE], &[ADDRESS.into()])?;
    token_keys(&folder)?;
    let inside = |path: &Path| Path::new("/").join(path.strip_prefix(root).unwrap_or(path));
    for (name, user, group) in [
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
        ("kube-proxy", "system:kube-proxy", None),
        ("kubelet", node.as_str(), Some("system:nodes")),
    ] {
        let own = authority.client(name, user, group)?;
        let own = Identity { certificate: inside(&own.certificate), key: inside(&own.key) };
        let path = root.join(format!("etc/kubernetes/{name}.kubeconfig"));
        let server = SocketAddr::from((ADDRESS, PORT));
        kubeconfig::write(path, server, &inside(authority.certificate()), User::Certificate(&own))?;
    }
    authority.client("admin", "admin", admins)?;
    for file in ["ca.crt", "admin.crt", "admin.key"] {
        fs::copy(folder.join(file), outside.join(file))?;
    }
    Ok(())
}

/// JSON is YAML, too.
fn kubelet() -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "systemd",
        "failSwapOn": false,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "tlsCertFile": "/etc/kubernetes/pki/kubelet-server.crt",
        "tlsPrivateKeyFile": "/etc/kubernetes/pki/kubelet-server.key",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDomain": "cluster.local",
        "clusterDNS": [undermesh_cluster::dns::ADDRESS],
        "resolvConf": "",
        "evictionHard": {
            "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "registryPullQPS": 0,
        // Nothing is quick here.
        "runtimeRequestTimeout": "10m",
        "enableProfilingHandler": false,
    })
    .to_string()
}

fn kube_proxy() -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-proxy.kubeconfig"},
        "clusterCIDR": "10.244.0.0/16",
        "hostnameOverride": NODE,
    })
    .to_string()
}

/// The pod network: a bridge on the share of addresses that the first node is given.
fn network() -> String {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.244.0.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_starts_with_the_machine_and_what_it_runs_is_put_there() {
        for (name, text) in UNITS.iter().chain(&UPSTREAM).chain(&K3S) {
            assert!(text.contains("WantedBy=multi-user.target"), "{name}");
            let program = text.lines().find_map(|l| l.strip_prefix("ExecStart=")).unwrap_or_default();
            let program = program.split_whitespace().next().unwrap_or_default();
            let ours = SCRIPTS.iter().any(|(script, _)| program == format!("/opt/guest/{script}"));
            assert!(ours || program == format!("/opt/kubernetes/{name}"), "{name} runs {program}");
        }
    }

    #[test]
    fn the_node_is_as_users_have_them() {
        assert!(kubelet().contains(r#""cgroupDriver":"systemd""#));
        assert!(CONTAINERD.contains("SystemdCgroup = true"));
    }

    #[test]
    fn services_have_the_addresses_of_the_harness() {
        let (base, bits) = undermesh_tests::SERVICE_CIDR_V4;
        let range = format!("--service-cluster-ip-range={base}/{bits}");
        for unit in ["kube-apiserver", "kube-controller-manager"] {
            let text = UPSTREAM.iter().find(|(name, _)| *name == unit).map(|(_, text)| *text);
            assert!(text.is_some_and(|t| t.contains(&range)), "{unit}");
        }
        assert!(K3S[0].1.contains(&format!("--cluster-dns={}", undermesh_cluster::dns::ADDRESS)));
    }
}
