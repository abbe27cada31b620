//! `--keep`: the cluster stays until Ctrl-C, and the words on how to reach it.

use std::net::SocketAddr;

use undermesh_tests::wait_for_interrupt;

use crate::cluster::stage::{RELEASE, SYSTEM, Stage};

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
    let folders = [&*stage.tools.kubectl, &*stage.tools.helm].map(|p| p.parent());
    let folders = folders.into_iter().flatten().chain([&*stage.plugin]);
    let folders: Vec<_> = folders.map(|folder| folder.display().to_string()).collect();
    println!("  export PATH={}:$PATH", folders.join(":"));
    println!("  kubectl get pods --all-namespaces -o wide");
    if stage.installed.is_some() {
        println!("  kubectl undermesh doctor");
    } else if stage.cluster.cgroup().is_some() {
        let values = stage.values().join(" ");
        println!("  helm install {RELEASE} deploy/chart --namespace {SYSTEM} --create-namespace {values}");
        let existing = format!("--provider existing --kubeconfig {}", stage.cluster.kubeconfig().display());
        println!("  cargo xtask cluster {existing} {values}      # or all of the scenario");
    }
    if let Some(local) = forwarded {
        println!("  curl -H 'Host: istio.k3s.local' http://{local}/productpage");
    }
    if stage.cluster.is_given() {
        println!("\nThe mesh stays on it. To remove it: helm uninstall {RELEASE} --namespace {SYSTEM}");
        return Ok(());
    }
    println!("\nCtrl-C ends it and cleans up.");
    wait_for_interrupt();
    println!();
    Ok(())
}
