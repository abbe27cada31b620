//! The programs that carry a node's pods are restarted while requests go on: the mesh does not depend on them.

use std::collections::BTreeMap;

use serde_json::Value;
use undermesh_cluster::NodeProgram;

use crate::cargo::root;
use crate::cluster::checks::reviewers;
use crate::cluster::rolls::Connections;
use crate::cluster::stage::{READY, SYSTEM, Stage, events, wait};
use crate::demo::checks::{listed, status};
use crate::demo::report::Finding;

const FILE: &str = "deploy/kubernetes/reader.yaml";
const READER: &str = "deploy/reader";
/// So many answers are enough to say what happens to them.
const ENOUGH: usize = 60;

/// A pod calls all the time, by itself: what kubectl started in it would end with the kubelet. Another is made after both are back.
pub(crate) fn node_programs(stage: &mut Stage) -> anyhow::Result<Finding> {
    let finding = Finding::new("Kubelet and containerd are restarted, under load");
    let agents = stage.agents()?;
    start(stage)?;
    let mut restarted = Vec::new();
    for program in [NodeProgram::Kubelet, NodeProgram::Containerd] {
        let before = answers(stage, 0)?.len();
        if !stage.cluster.restart(program)? {
            end(stage)?;
            return Ok(finding
                .asked("nodes whose programs may be restarted")
                .seen("these are somebody else's: not tried")
                .holds(true));
        }
        // Written while it was away, or after; its log says which by being whole.
        answers(stage, before + ENOUGH)?;
        restarted.push(program.name());
    }
    let through = answers(stage, 0)?;
    end(stage)?;
    start(stage)?;
    let late = answers(stage, ENOUGH)?;
    end(stage)?;
    let untouched = stage.pods()? == stage.pods_before;
    let same = stage.agents()? == agents;
    let connections = Connections::counted(&through);
    let failed = through.iter().enumerate().find(|(_, event)| status(event) != 200);
    let failed = failed
        .map(|(at, event)| format!("number {at} of {}: {event}\n{}", through.len(), logged(stage, &agents)));
    // A name that was not resolved is no answer of anybody.
    let answered: Vec<Value> = through.into_iter().filter(|event| status(event) == 200).collect();
    let (readers, late) = (reviewers(&answered), reviewers(&late));
    let by_rule = |counts: &BTreeMap<String, u32>| counts.len() == 1 && counts.contains_key("reviews-v2");
    Ok(finding
        .asked(
            "no new connection failed, no pod and no agent restarted, and a pod that starts afterwards is in \
             the mesh: jason always reviews-v2",
        )
        .seen(format!(
            "{} restarted on every node; {}; jason: {}; {}, {}; a new pod: {}",
            restarted.join(", then "),
            connections.text(),
            listed(&readers),
            if untouched { "none restarted" } else { "some pods are others than before" },
            if same { "the same agents" } else { "other agents" },
            listed(&late)
        ))
        .detail(failed.unwrap_or_default())
        .holds(connections.all_answered() && untouched && same && by_rule(&readers) && by_rule(&late)))
}

fn start(stage: &Stage) -> anyhow::Result<()> {
    let file = root().join(FILE).display().to_string();
    stage.kubectl(&["apply", "-f", &file])?;
    let timeout = stage.timeout(READY);
    stage
        .kubectl(&["rollout", "status", READER, "-n", "default", &timeout])
        .map_err(|e| e.context(stage.troubles("default")))?;
    Ok(())
}

fn end(stage: &Stage) -> anyhow::Result<()> {
    let file = root().join(FILE).display().to_string();
    stage.kubectl(&["delete", "-f", &file, &stage.timeout(READY)])?;
    // The next is another pod of the same name; and the pods are compared with those of before.
    let gone = ["wait", "--for=delete", "pod", "-l", "app=reader", "-n", "default", &stage.timeout(READY)];
    stage.kubectl(&gone).map(drop)
}

/// What it was answered so far, once that is so many times; by a kubelet that may have to come back first.
fn answers(stage: &Stage, at_least: usize) -> anyhow::Result<Vec<Value>> {
    wait(stage.limit(60), &format!("{at_least} answers in the reader's log"), || {
        let log = stage.kubectl(&["logs", "-n", "default", READER])?;
        // The last line may be half written.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let answers = events(whole)?;
        Ok((answers.len() >= at_least).then_some(answers))
    })
}

/// What the agents logged of answers that nobody wants.
fn logged(stage: &Stage, agents: &[(String, String)]) -> String {
    let logs = agents
        .iter()
        .filter_map(|(agent, _)| stage.kubectl(&["logs", "-n", SYSTEM, agent, "--since=2m"]).ok());
    let lines = logs.flat_map(|log| {
        log.lines().filter(|line| line.contains("503")).map(str::to_owned).collect::<Vec<_>>()
    });
    lines.take(4).collect::<Vec<_>>().join("\n")
}
