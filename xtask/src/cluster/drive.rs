//! The story, in its order. What comes after a failed installation would only repeat it.

use crate::cluster::stage::Stage;
use crate::cluster::{checks, doctor, dual_stack, egress, leaving, life, restarts, rolls};
use crate::demo::report::{Finding, Report, progress};

type Check = fn(&mut Stage) -> anyhow::Result<Finding>;

/// Title for people, and what finds it out.
const STORY: [(&str, Check); 22] = [
    ("Before the mesh", checks::before),
    ("helm install, and a label on three namespaces", checks::install),
    ("kubectl apply of the article's YAML", checks::configuration),
    ("The page through the gateway", checks::page),
    ("200 readers of the reviews", checks::split),
    ("Jason's requests", checks::jason),
    ("The delay that service1 sees, and a visitor does not", checks::delay),
    ("Why did that request go there", checks::explain),
    ("The same by kubectl undermesh", doctor::explain),
    ("Is every pod captured", doctor::doctor),
    ("Metrics", checks::metrics),
    ("kubectl apply of new weights, under load", checks::live_change),
    ("A service by IPv6", dual_stack::by_ipv6),
    ("Out by the egress gateway", egress::gateway),
    ("A Job, its init container, probes, a StatefulSet", life::pods),
    ("A namespace leaves the mesh under load", leaving::leave),
    ("And comes back", leaving::come_back),
    // Before those: a kubelet that starts calls pods unready whose containers started within ten seconds before it.
    ("Kubelet and containerd are restarted, under load", restarts::node_programs),
    ("A service's pods are replaced, under load", rolls::pods),
    ("An agent's pod is deleted, under load", rolls::agent),
    ("helm upgrade under load", checks::upgrade),
    ("helm uninstall", checks::uninstall),
];

/// Checks without which there is nothing to look at.
const NEEDED: usize = 2;

/// Runs it all, or all but the end if the mesh is to stay.
pub(crate) fn all(stage: &mut Stage, report: &mut Report, keep: bool) -> anyhow::Result<()> {
    let story = if keep { STORY.split_last().map_or(&STORY[..], |(_, rest)| rest) } else { &STORY[..] };
    for (number, (title, check)) in story.iter().enumerate() {
        progress(title);
        stage.cluster.must_run()?;
        let outcome = check(stage);
        let failed = outcome.is_err();
        report.add(title, outcome);
        if failed && number < NEEDED {
            progress("not installed: the rest is left out");
            break;
        }
    }
    Ok(())
}
