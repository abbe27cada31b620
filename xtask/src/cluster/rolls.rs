//! What is replaced while requests go on: a service's pods, and the agent.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::checks::{PAGE, REVIEWS, reviewers};
use crate::cluster::stage::{Load, READY, SYSTEM, Stage};
use crate::demo::checks::{listed, status, words};
use crate::demo::report::Finding;

/// Whoever serves the reviews.
const ROLLED: [&str; 3] = ["deploy/reviews-v1", "deploy/reviews-v2", "deploy/reviews-v3"];

/// `kubectl rollout restart` of a service: its callers notice nothing.
pub(crate) fn pods(stage: &mut Stage) -> anyhow::Result<Finding> {
    let old = names(stage)?;
    let load = stage.load(PAGE, REVIEWS, 10, &[])?;
    std::thread::sleep(Duration::from_secs(1));
    let rolled = stage
        .kubectl(&[&["rollout", "restart", "-n", "default"], &ROLLED[..]].concat())
        .and_then(|_| stage.wait_rolled_out("default"));
    let gone = stage.kubectl(
        &[
            &["wait", "--for=delete", "-n", "default", &stage.timeout(READY)],
            &old.iter().map(String::as_str).collect::<Vec<_>>()[..],
        ]
        .concat(),
    );
    std::thread::sleep(Duration::from_secs(1));
    let events = load.end()?;
    rolled?;
    gone?;
    let new = names(stage)?;
    // They are others than before the mesh came, and that was us.
    stage.pods_before = stage.pods()?;
    let replaced = new.len() == old.len() && !new.iter().any(|name| old.contains(name));
    let failed: Vec<&Value> = events.iter().filter(|e| status(e) != 200).collect();
    Ok(Finding::new("A service's pods are replaced, under load")
        .asked("all pods of reviews replaced, and no failed request")
        .seen(format!(
            "{} of {} pods replaced, {} of {} requests failed",
            if replaced { new.len() } else { 0 },
            old.len(),
            failed.len(),
            events.len()
        ))
        .detail(failed.first().map(|e| format!("the first: {}", words(e))).unwrap_or_default())
        .holds(replaced && failed.is_empty() && !events.is_empty()))
}

/// The pods of reviews, as `pod/name`.
fn names(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let said = stage.kubectl(&["get", "pods", "-n", "default", "-l", "app=reviews", "-o", "name"])?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// An agent's pod is deleted: the DaemonSet makes another, which captures the node's pods again.
pub(crate) fn agent(stage: &mut Stage) -> anyhow::Result<Finding> {
    let old = stage.agent_beside("default", "productpage")?;
    let load = stage.load(PAGE, REVIEWS, 10, &["--new-connections"])?;
    let deleted = stage.kubectl(&["delete", "pod", "-n", SYSTEM, &old, &stage.timeout(READY)]);
    let ready = stage.wait_rolled_out(SYSTEM);
    std::thread::sleep(Duration::from_secs(2));
    let seen = Connections::of(load)?;
    deleted?;
    ready?;
    let new = stage.agent_beside("default", "productpage")?;
    let jason = reviewers(&stage.http(PAGE, REVIEWS, &["--count", "20", "--header", "end-user: jason"])?);
    Ok(Finding::new("An agent's pod is deleted, under load")
        .asked("another in its place, no new connection failed, and the rules in force afterwards")
        .seen(format!(
            "{}, {}; then jason: {}",
            if new == old { "the same agent" } else { "another agent" },
            seen.text(),
            listed(&jason)
        ))
        .detail(seen.first())
        .holds(new != old && seen.all_made() && jason.len() == 1 && jason.get("reviews-v2") == Some(&20)))
}

/// How connections fared, each with one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Connections {
    all: usize,
    /// Those that could not be made, as against one that was cut with the agent that carried it.
    refused: Vec<String>,
    /// Names that were not resolved: DNS is no connection, and the mesh does not touch it. A busy machine loses some.
    unresolved: usize,
    others: Vec<String>,
}

impl Connections {
    /// Ends the load.
    pub(crate) fn of(load: Load) -> anyhow::Result<Self> {
        Ok(Self::counted(&load.end()?))
    }

    pub(crate) fn counted(events: &[Value]) -> Self {
        let mut all = Self { all: events.len(), ..Self::default() };
        for event in events.iter().filter(|e| status(e) != 200) {
            let error = event.get("error").and_then(Value::as_str).unwrap_or_default();
            if error.contains("failed to lookup") {
                all.unresolved += 1;
            } else if error.contains("cannot connect") {
                all.refused.push(words(event));
            } else {
                all.others.push(words(event));
            }
        }
        all
    }

    /// Whether all could be made.
    pub(crate) fn all_made(&self) -> bool {
        self.refused.is_empty() && self.unresolved < self.all
    }

    /// Whether all were made, and each request on them answered.
    pub(crate) fn all_answered(&self) -> bool {
        self.all_made() && self.others.is_empty()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let unresolved = match self.unresolved {
            0 => String::new(),
            some => format!(", {some} names not resolved"),
        };
        let (refused, others) = (self.refused.len(), self.others.len());
        format!("{refused} of {} new connections failed, {others} requests otherwise{unresolved}", self.all)
    }

    /// The first failure.
    pub(crate) fn first(&self) -> String {
        let first = self.refused.first().or_else(|| self.others.first());
        first.map(|it| format!("the first: {it}")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_that_is_not_resolved_is_no_connection_that_failed() {
        let refused = json!({"error": "cannot connect: Connection refused (os error 111)"});
        let unresolved = json!({"error": "cannot connect: failed to lookup address information: try again"});
        let cut = json!({"error": "timed out"});
        let answered = json!({"status": 200});
        let seen = Connections::counted(&[answered.clone(), unresolved.clone(), cut.clone()]);
        assert!(seen.all_made() && !seen.all_answered());
        assert_eq!(seen.text(), "0 of 3 new connections failed, 1 requests otherwise, 1 names not resolved");
        let seen = Connections::counted(&[answered, refused, cut]);
        assert!(!seen.all_made());
        assert!(seen.first().contains("refused"), "{}", seen.first());
        assert!(!Connections::counted(std::slice::from_ref(&unresolved)).all_made(), "nothing was tried");
        assert!(!Connections::counted(&[]).all_made(), "nothing was tried");
        let seen = Connections::counted(&[json!({"status": 200}), unresolved]);
        assert!(seen.all_answered());
    }
}
