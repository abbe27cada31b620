//! `kubectl undermesh`, the command line as a user has it who is on no node: the plugin in the PATH finds the agent.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::cluster::checks::{PAGE, REVIEWS, once};
use crate::cluster::stage::{MESHED, Stage};
use crate::demo::checks::{reviewer, words};
use crate::demo::report::Finding;

/// Why a request goes where it goes, and whether it then does.
pub(crate) fn explain(stage: &mut Stage) -> anyhow::Result<Finding> {
    let pod =
        ["get", "pod", "-n", "default", "-l", "app=productpage", "-o", "jsonpath={.items[0].metadata.name}"];
    let pod = format!("default/{}", stage.kubectl(&pod)?);
    let asked = ["explain", REVIEWS, "-H", "end-user:jason", "--pod", &pod];
    let answer = stage.plugin(&asked)?;
    ensure!(answer.code == Some(0), "exit code {:?}: {}", answer.code, answer.error);
    let event = once(stage.http(PAGE, REVIEWS, &["--header", "end-user: jason"])?)?;
    let answered = reviewer(&event).unwrap_or_else(|| words(&event));
    let line = answer.said.lines().find(|line| line.contains("=> ") || line.contains(&answered));
    // The twin: of a pod that is not there it says so, and does not answer for another.
    let nobody = stage.plugin(&["explain", REVIEWS, "--pod", "default/nobody"])?;
    let refusal = nobody.error.lines().last().unwrap_or_default().to_owned();
    Ok(Finding::new("The same by kubectl undermesh")
        .asked("explain names the pod that then answers; a pod that is not there is refused by its name")
        .seen(format!(
            "answered by {answered}, {}; exit code {:?}: {refusal}",
            if line.is_some() { "which it names" } else { "which it does not name" },
            nobody.code.unwrap_or_default()
        ))
        .holds(
            answer.said.contains("subset v2")
                && answer.said.contains(&answered)
                && nobody.code != Some(0)
                && nobody.error.contains("nobody"),
        ))
}

/// `doctor`: each pod of the mesh captured, proved by a connection; and why the one outside is not.
pub(crate) fn doctor(stage: &mut Stage) -> anyhow::Result<Finding> {
    let whole = stage.plugin(&["doctor"])?;
    let verdicts = verdicts(stage)?;
    let visitor = verdicts.iter().find(|(pod, _)| pod.starts_with("outside/visitor"));
    let (_, outside) = visitor.context("doctor says nothing about the visitor")?;
    let meshed = stage.pods_before.keys();
    let missing: Vec<_> =
        meshed.filter(|pod| verdicts.get(*pod).is_none_or(|it| it.verdict != "captured")).collect();
    let why = "no label istio.io/dataplane-mode: undermesh";
    Ok(Finding::new("Is every pod captured")
        .asked(format!(
            "kubectl undermesh doctor: exit code 0, all {} pods captured; the visitor outside is not, and why",
            stage.pods_before.len()
        ))
        .seen(format!(
            "exit code {}, {}; the visitor is {}: {}",
            whole.code.unwrap_or(-1),
            if missing.is_empty() { "all captured".into() } else { format!("not captured: {missing:?}") },
            outside.verdict,
            outside.detail
        ))
        .detail(if whole.code == Some(0) { String::new() } else { whole.said + &whole.error })
        .holds(
            whole.code == Some(0)
                && missing.is_empty()
                && outside.verdict == "not enrolled"
                && outside.detail.contains(why)
                && outside.advice.contains("istio.io/dataplane-mode=undermesh"),
        ))
}

/// What doctor says of a pod.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) verdict: String,
    pub(crate) detail: String,
    pub(crate) advice: String,
}

/// Of every pod, by `namespace/name`.
pub(crate) fn verdicts(stage: &Stage) -> anyhow::Result<BTreeMap<String, Verdict>> {
    let mut all = BTreeMap::new();
    for (_, node) in stage.agents()? {
        let answer = stage.plugin(&["--node", &node, "doctor", "--output", "json"])?;
        let report: Value = serde_json::from_str(&answer.said)
            .with_context(|| format!("exit code {:?}: {}", answer.code, answer.error))?;
        for pod in report.get("pods").and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| pod.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let verdict =
                Verdict { verdict: text("verdict"), detail: text("detail"), advice: text("advice") };
            all.insert(text("pod"), verdict);
        }
    }
    // Pods of the node's own network, or of the system, are among them.
    ensure!(MESHED.iter().all(|n| all.keys().any(|pod| pod.starts_with(&format!("{n}/")))), "{all:?}");
    Ok(all)
}
