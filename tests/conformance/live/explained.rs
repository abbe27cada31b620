//! `explain` against what happened: for each line of the access log, the rule and the destination that `explain` names for
//! the request are those that the proxy logged. Both run the same functions on one snapshot; this shows that they are given
//! the same question.

use undermesh_core::explain::Explanation;

use crate::case::{Protocol, Request};
use crate::mesh::Logs;
use crate::message::{Checked, same};
use crate::world::text;

/// Whether `explain` can be asked what this group of requests does: not where requests of a group differ, where a second
/// hop decides as well, or where no decision is come to.
pub(crate) fn can_tell(request: &Request) -> bool {
    let hops = request.expect.as_ref().and_then(|it| it.hops.as_ref());
    let differ = request.vary_header.is_some() || request.cookie_jar || request.jwt.is_some();
    // HTTP/1.0 is refused or passed on before, and `explain` has no word for HTTP inside TLS.
    let is_known = !matches!(request.protocol, Protocol::Http10 | Protocol::Https);
    is_known && !differ && hops.is_none()
}

/// Compares with what the group left in the logs: nothing, where a connection never meets a proxy.
pub(crate) fn agrees(explained: &Explanation, logs: &Logs) -> Checked {
    let rule =
        explained.rule.as_ref().map(|it| format!("{}/{}/{}#{}", it.kind, it.namespace, it.name, it.route));
    let clusters: Vec<&str> = explained.destinations.iter().map(|it| it.cluster.as_str()).collect();
    for line in logs.lines() {
        same("the logged rule, and as explained, it", line["rule"].as_str(), rule.as_deref())?;
        let cluster = text(&line["upstream_cluster"]);
        if !cluster.is_empty() && cluster != "PassthroughCluster" && !clusters.contains(&cluster) {
            return Err(format!("the logged destination is {cluster}, explained are {clusters:?}"));
        }
    }
    Ok(())
}
