//! A Service that is reached by IPv6 alone, and its rules: what holds for one family holds for the other.

use serde_json::Value;

use crate::cluster::checks::{PAGE, VISITOR, once, reviewers};
use crate::cluster::stage::Stage;
use crate::demo::checks::{listed, reviewer, words};
use crate::demo::report::Finding;

const REVIEWS: &str = "http://reviews-v6:9080/reviews/0";

/// Every request from a pod of the mesh to v2, as its rule says; from outside of it to all three.
pub(crate) fn by_ipv6(stage: &mut Stage) -> anyhow::Result<Finding> {
    let finding = Finding::new("A service by IPv6");
    let pods = stage.json(&["get", "pods", "-n", "default"])?;
    let items = pods.get("items").and_then(Value::as_array).into_iter().flatten();
    let addresses = items.filter_map(|pod| pod.pointer("/status/podIPs")?.as_array()).flatten();
    let mut addresses = addresses.filter_map(|it| it.get("ip")?.as_str());
    if !addresses.any(|address| address.contains(':')) {
        return Ok(finding
            .asked("a cluster of two families")
            .seen("this one has IPv4 alone: not tried")
            .holds(true));
    }
    stage.apply("deploy/kubernetes/reviews-v6.yaml")?;
    // The rule and the Service are in force when the first request obeys them.
    let meshed =
        crate::cluster::stage::wait(std::time::Duration::from_secs(15), "the rule to be in force", || {
            let event = once(stage.http(PAGE, REVIEWS, &["--timeout-ms", "2000"])?)?;
            let by = reviewer(&event);
            anyhow::ensure!(by.is_some_and(|by| by.starts_with("reviews-v2")), "{}", words(&event));
            Ok(Some(stage.http(PAGE, REVIEWS, &["--count", "40", "--new-connections"])?))
        })?;
    let peer = meshed.first().and_then(|event| event.get("peer")?.as_str()).unwrap_or_default().to_owned();
    let visitor = "http://reviews-v6.default:9080/reviews/0";
    let outside = stage.http(VISITOR, visitor, &["--count", "60", "--new-connections"])?;
    let address = ["get", "service", "-n", "default", "reviews-v6", "-o", "jsonpath={.spec.clusterIP}"];
    let address = stage.kubectl(&address)?;
    let (meshed, outside) = (reviewers(&meshed), reviewers(&outside));
    Ok(finding
        .asked(format!(
            "dialled at {address}: from the mesh 40 of 40 to reviews-v2, from outside to all three"
        ))
        .seen(format!("dialled at {peer}: {}; from outside {}", listed(&meshed), listed(&outside)))
        .holds(
            meshed.len() == 1
                && meshed.get("reviews-v2") == Some(&40)
                && peer == format!("[{address}]:9080")
                && outside.len() == 3
                && outside.keys().all(|who| who.starts_with("reviews-v")),
        ))
}
