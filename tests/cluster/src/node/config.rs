//! The configuration files of a node's programs. Each setting that looks odd was proved by the failure of a node without it.

use std::net::IpAddr;
use std::path::Path;

use serde_json::json;

use crate::control_plane::POD_CIDR;
use crate::dns;
use crate::image::PAUSE;
use crate::node::layout::Layout;

/// The kubelet's.
pub(crate) struct Kubelet<'a> {
    pub(crate) layout: Layout,
    /// Above its pods, in every hierarchy.
    pub(crate) cgroup: &'a str,
    pub(crate) authority: &'a Path,
    pub(crate) certificate: &'a Path,
    pub(crate) key: &'a Path,
}

impl Kubelet<'_> {
    /// JSON is YAML, too.
    pub(crate) fn text(&self) -> String {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            // Since 1.35 it otherwise refuses hosts with cgroup v1 or both; there is no flag for it.
            "failCgroupV1": false,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup,
            "failSwapOn": false,
            // Without CAP_SYS_RESOURCE, -999 is refused.
            "oomScoreAdj": 0,
            "containerRuntimeEndpoint": format!("unix://{}", self.layout.containerd_socket()),
            "tlsCertFile": self.certificate,
            "tlsPrivateKeyFile": self.key,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.authority},
            },
            "authorization": {"mode": "Webhook"},
            "clusterDomain": "cluster.local",
            "clusterDNS": [dns::ADDRESS],
            "resolvConf": "",
            // The machine's disk is not the node's; nothing is evicted for its sake.
            "evictionHard": {
                "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "registryPullQPS": 0,
            // By default a folder in /usr/libexec, which it makes.
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            "nodeStatusUpdateFrequency": "4s",
        })
        .to_string()
    }
}

/// containerd's.
pub(crate) fn containerd(layout: Layout) -> String {
    let (root, state, socket) =
        (layout.containerd_root(), layout.containerd_state(), layout.containerd_socket());
    let (cni_plugins, cni_config) = (layout.cni_plugins(), layout.cni_config());
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE, a negative oom_score_adj ends runc with "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins}"
    conf_dir = "{cni_config}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#
    )
}

/// kube-proxy's.
pub(crate) fn kube_proxy(node: &str, kubeconfig: &Path) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": node,
        "oomScoreAdj": 0,
        // Anything else makes it write settings of the whole machine.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
    .to_string()
}

/// The pod network: a bridge on the node's shares of the pods' addresses, one of each family.
pub(crate) fn cni(pods: &[&str]) -> String {
    let ranges: Vec<_> = pods.iter().map(|share| json!([{ "subnet": share }])).collect();
    json!({
        "cniVersion": "0.4.0",
        "name": "podnet",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": ranges,
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

/// A share of the pods' addresses such as `10.244.1.0/24`, read.
pub(crate) fn prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.trim().split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    Some((address, bits.parse().ok().filter(|bits| *bits <= longest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_runs_on_hosts_with_cgroup_v1() {
        let kubelet = Kubelet {
            layout: Layout::K3s,
            cgroup: "/um-1-0/n1",
            authority: Path::new("/ca.crt"),
            certificate: Path::new("/n1.crt"),
            key: Path::new("/n1.key"),
        };
        let read: serde_json::Value = serde_json::from_str(&kubelet.text()).expect("JSON");
        for (key, want) in [
            ("/failCgroupV1", json!(false)),
            ("/cgroupDriver", json!("cgroupfs")),
            ("/cgroupRoot", json!("/um-1-0/n1")),
            ("/containerRuntimeEndpoint", json!("unix:///run/k3s/containerd/containerd.sock")),
        ] {
            assert_eq!(read.pointer(key), Some(&want), "{key}");
        }
    }

    #[test]
    fn containerd_never_asks_for_a_negative_score() {
        for layout in [Layout::Upstream, Layout::K3s] {
            let text = containerd(layout);
            assert!(text.contains("restrict_oom_score_adj = true"), "{text}");
            assert!(text.contains(&format!("conf_dir = \"{}\"", layout.cni_config())), "{text}");
        }
    }

    #[test]
    fn a_share_of_addresses_is_read_and_nothing_else() {
        assert_eq!(prefix("10.244.1.0/24"), Some(([10, 244, 1, 0].into(), 24)));
        let v6 = "fd00:10:244:1::".parse::<IpAddr>().expect("an address");
        assert_eq!(prefix("fd00:10:244:1::/64"), Some((v6, 64)));
        for wrong in ["", "10.244.1.0", "10.244.1.0/33", "10.244.1/24", "fd00::/129"] {
            assert_eq!(prefix(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn pods_have_an_address_of_each_share() {
        let network = cni(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
        let network: serde_json::Value = serde_json::from_str(&network).expect("JSON");
        let ranges = &network["plugins"][0]["ipam"]["ranges"];
        assert_eq!(*ranges, json!([[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]]));
    }
}
