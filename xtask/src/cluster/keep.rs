//! `--keep`: the cluster stays until Ctrl-C, and the words on how to reach it.

use std::net::SocketAddr;

use undermesh_tests::wait_for_interrupt;

use crate::cluster::stage::{SYSTEM, Stage};

/// Taken if it is free, or any other.
const PORT: u16 = 8080;

/// Says how to use what runs and returns after Ctrl-C.
pub(crate) fn until_interrupted(stage: &mut Stage) -> anyhow::Result<()> {
    let address =
        ["get", "service", "-n", SYSTEM, "istio-ingressgateway", "-o", "jsonpath={.spec.clusterIP}"];
    // Without an installed mesh there is no gateway to lead to.
    let gateway = stage.kubectl(&address).ok().and_then(|a| a.parse().ok()).map(|ip| SocketAddr::new(ip, 80));
    let forwarded = match gateway {
        Some(gateway) => stage.cluster.forward(PORT, gateway)?,
        None => None,
    };
    println!("\n{} keeps running. In another terminal:\n", stage.cluster.description());
    println!("  export KUBECONFIG={}", stage.cluster.kubeconfig().display());
    let folders =
        [&stage.tools.kubectl, &stage.tools.helm].map(|p| p.parent().map(|f| f.display().to_string()));
    println!("  export PATH={}:$PATH", folders.into_iter().flatten().collect::<Vec<_>>().join(":"));
    println!("  kubectl get pods --all-namespaces -o wide");
    println!("  kubectl exec -n {SYSTEM} daemonset/undermesh-agent -- /undermesh status");
    if let Some(local) = forwarded {
        println!("  curl -H 'Host: istio.k3s.local' http://{local}/productpage");
    }
    println!("\nCtrl-C ends it and cleans up.");
    wait_for_interrupt();
    println!();
    Ok(())
}
