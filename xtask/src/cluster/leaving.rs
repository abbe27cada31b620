//! A namespace whose label is taken away while its pods are busy, and given back.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::checks::{PAGE, REVIEWS, reviewers};
use crate::cluster::doctor::verdicts;
use crate::cluster::stage::{Stage, wait};
use crate::demo::checks::{listed, status, words};
use crate::demo::report::Finding;

const NAMESPACE: &str = "default";
const JASON: [&str; 4] = ["--count", "60", "--header", "end-user: jason"];

/// Takes the label away: its pods go as Kubernetes alone carries them, and no request fails.
pub(crate) fn leave(stage: &mut Stage) -> anyhow::Result<Finding> {
    let (outside, outcome) = label(stage, "istio.io/dataplane-mode-", "not enrolled")?;
    // No rule speaks any more: jason is everybody.
    let jason = reviewers(&stage.http(PAGE, REVIEWS, &[&JASON[..], &["--new-connections"]].concat())?);
    let untouched = stage.pods()? == stage.pods_before;
    Ok(Finding::new("A namespace leaves the mesh under load")
        .asked(
            "no request failed, its pods not enrolled and not restarted, and its rules out of force for them",
        )
        .seen(format!(
            "{outcome}; {outside} pods not enrolled, {}; jason: {}",
            if untouched { "none restarted" } else { "some are others than before" },
            listed(&jason)
        ))
        .detail(outcome.first_failure.clone().unwrap_or_default())
        .holds(
            outcome.failed == 0
                && untouched
                && jason.len() == 3
                && jason.keys().all(|v| v.starts_with("reviews-v")),
        ))
}

/// Gives it back: the rules are in force again for new connections, and no request fails.
pub(crate) fn come_back(stage: &mut Stage) -> anyhow::Result<Finding> {
    let (inside, outcome) = label(stage, "istio.io/dataplane-mode=undermesh", "captured")?;
    let jason = reviewers(&stage.http(PAGE, REVIEWS, &JASON)?);
    Ok(Finding::new("And comes back")
        .asked("no request failed, its pods captured, jason reviews-v2 again")
        .seen(format!("{outcome}; {inside} pods captured; jason: {}", listed(&jason)))
        .detail(outcome.first_failure.clone().unwrap_or_default())
        .holds(outcome.failed == 0 && jason == BTreeMap::from([("reviews-v2".to_owned(), 60)])))
}

/// Labels the namespace under load, and waits for doctor's verdict on each of its pods, which are so many.
fn label(stage: &Stage, label: &str, want: &str) -> anyhow::Result<(usize, Outcome)> {
    let loads = loads(stage)?;
    std::thread::sleep(Duration::from_secs(1));
    stage.kubectl(&["label", "namespace", NAMESPACE, label])?;
    let pods = wait(stage.limit(15), &format!("doctor to say of its pods: {want}"), || {
        let verdicts = of_namespace(stage)?;
        let all = verdicts.iter().all(|(_, verdict)| verdict == want);
        anyhow::ensure!(all, "{verdicts:?}");
        Ok(Some(verdicts.len()))
    })?;
    std::thread::sleep(Duration::from_secs(1));
    Ok((pods, loads.end()?))
}

/// What doctor says of the namespace's pods.
fn of_namespace(stage: &Stage) -> anyhow::Result<Vec<(String, String)>> {
    let own = format!("{NAMESPACE}/");
    let all = verdicts(stage)?.into_iter().filter(|(pod, _)| pod.starts_with(&own));
    Ok(all.map(|(pod, verdict)| (pod, verdict.verdict)).collect())
}

/// Requests on one connection and on a new one each.
struct Loads([crate::cluster::stage::Load; 2]);

struct Outcome {
    requests: usize,
    failed: usize,
    first_failure: Option<String>,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} failed", self.failed, self.requests)
    }
}

fn loads(stage: &Stage) -> anyhow::Result<Loads> {
    Ok(Loads([stage.load(PAGE, REVIEWS, 5, &[])?, stage.load(PAGE, REVIEWS, 10, &["--new-connections"])?]))
}

impl Loads {
    fn end(self) -> anyhow::Result<Outcome> {
        let [kept, new] = self.0;
        let events: Vec<(&str, Value)> = kept
            .end()?
            .into_iter()
            .map(|event| ("a kept connection", event))
            .chain(new.end()?.into_iter().map(|event| ("a new connection", event)))
            .collect();
        let mut failures = events.iter().filter(|(_, event)| status(event) != 200).peekable();
        let first_failure =
            failures.peek().map(|(on, event)| format!("the first, on {on}: {}", words(event)));
        Ok(Outcome { requests: events.len(), failed: failures.count(), first_failure })
    }
}
