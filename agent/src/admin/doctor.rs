//! `undermesh doctor`: kernel, proxy and pods in one verdict, with a real connection made from inside each captured pod.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde_json::Value;
use undermesh_core::api::meta::Key;
use undermesh_core::diagnostic::Severity;
use undermesh_core::inputs::Inputs;
use undermesh_core::inventory::PodPhase;

use super::State;
use crate::app::enrolment;
use crate::probe::{self, Seen};

/// Probes at a time.
const AT_ONCE: usize = 8;

/// The whole verdict. Fields may be added.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: u32,
    /// Nothing is wrong with what ought to work. Pods that are not enrolled are as they were asked to be.
    healthy: bool,
    checks: Vec<Check>,
    pods: Vec<Pod>,
}

/// Something about the node.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    ok: bool,
    detail: String,
    /// What to do about it; empty if nothing is to be done.
    advice: String,
}

/// A pod of the node.
#[derive(Debug, Serialize)]
struct Pod {
    pod: String,
    /// `captured`, `not enrolled`, `starting`, `ending`, `not captured`, `not reached`.
    verdict: &'static str,
    ok: bool,
    detail: String,
    advice: String,
    probes: Vec<Seen>,
}

/// Looks at everything. Takes some seconds if something is wrong.
pub(super) async fn report(state: &Arc<State>) -> Result<Report, String> {
    let redirect = state.redirect.clone().ok_or("a gateway captures nothing: ask the agent of a node")?;
    let (attach, inspection) = {
        let redirect = redirect.lock().map_err(|_| "the kernel half has panicked".to_owned())?;
        (redirect.cgroup().to_owned(), redirect.inspect())
    };
    let generation = state.published.snapshot.load().generation();
    let mut checks = vec![configuration(state)];
    match &inspection {
        Ok(inspection) => {
            checks.push(Check {
                what: "kernel programs",
                ok: !inspection.programs.is_empty(),
                detail: format!("{} attached at {}", inspection.programs.len(), attach.display()),
                advice: String::new(),
            });
            let in_step = inspection.generation == generation;
            checks.push(Check {
                what: "kernel maps",
                ok: in_step,
                detail: format!(
                    "generation {}, {} destinations, {} pods",
                    inspection.generation,
                    inspection.services.len(),
                    inspection.workloads.len()
                ),
                advice: if in_step {
                    String::new()
                } else {
                    format!("the proxy is at generation {generation}: look for errors of capture in the agent's log")
                },
            });
        }
        Err(error) => checks.push(Check {
            what: "kernel programs",
            ok: false,
            detail: error.to_string(),
            advice: "restart the agent, and read why it cannot load them".to_owned(),
        }),
    }
    let rows = state.workloads.load_full();
    let config = state.published.config.load_full();
    let cgroup = ProbeCgroup::below(&attach);
    let mut pods = Vec::new();
    for some in rows.as_array().map(Vec::as_slice).unwrap_or_default().chunks(AT_ONCE) {
        let waiting: Vec<_> = some
            .iter()
            .map(|row| {
                let (row, cgroup) = (row.clone(), cgroup.path.clone());
                let stage = Stage::of(&row, &config.inputs);
                tokio::task::spawn_blocking(move || pod(&row, stage, &cgroup))
            })
            .collect();
        for one in waiting {
            pods.push(one.await.map_err(|error| error.to_string())?);
        }
    }
    let healthy = checks.iter().all(|check| check.ok) && pods.iter().all(|pod| pod.ok);
    Ok(Report { version: 1, healthy, checks, pods })
}

fn configuration(state: &State) -> Check {
    let config = state.published.config.load_full();
    let count = |severity| config.diagnostics.iter().filter(|it| it.severity == severity).count();
    let errors = count(Severity::Error);
    let age = config.since.and_then(|since| since.elapsed().ok()).map_or(0, |age| age.as_secs());
    Check {
        what: "configuration",
        ok: config.generation > 0,
        detail: format!(
            "generation {}, in force for {age} s, {errors} errors, {} warnings",
            config.generation,
            count(Severity::Warning)
        ),
        advice: if errors > 0 { "undermesh diagnostics".to_owned() } else { String::new() },
    }
}

/// Two may ask at the same time, and one is done before the other.
fn probe_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("undermesh-probe-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A cgroup of our own below the one the programs are attached to, for the time of the probes.
struct ProbeCgroup {
    path: PathBuf,
}

impl ProbeCgroup {
    fn below(attach: &Path) -> Self {
        let path = attach.join(probe_name());
        // Whether it is there shows when a probe moves into it.
        let _ = std::fs::create_dir(&path);
        Self { path }
    }
}

impl Drop for ProbeCgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// How far a pod is: at both ends it may rightly be in no namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Running,
    Ending,
}

impl Stage {
    fn of(row: &Value, inputs: &Inputs) -> Self {
        let (namespace, name) = row["pod"].as_str().and_then(|pod| pod.split_once('/')).unwrap_or_default();
        match inputs.pods.get(&Key::new(namespace, name)) {
            Some(pod) if pod.spec.is_terminating => Self::Ending,
            Some(pod) if pod.spec.phase == PodPhase::Pending => Self::Starting,
            Some(_) => Self::Running,
            None => Self::Ending,
        }
    }
}

/// The verdict on the pod of a row of `workloads`.
fn pod(row: &Value, stage: Stage, probes_cgroup: &Path) -> Pod {
    let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let mut pod = Pod {
        pod: text("pod"),
        verdict: "captured",
        ok: true,
        detail: text("reason"),
        advice: String::new(),
        probes: Vec::new(),
    };
    if row["state"] != "enrolled" {
        pod.verdict = "not enrolled";
        if pod.detail == enrolment::Enrolment::NotLabelled.reason() {
            pod.advice =
                format!("to enrol it: label {}=undermesh on it or its namespace", enrolment::MODE_LABEL);
        }
        return pod;
    }
    match (row["capture"].as_str(), stage) {
        (Some("yes"), _) => {
            pod.probes = probes(row, probes_cgroup);
            judge(&mut pod);
            if !pod.ok && stage == Stage::Ending {
                (pod.verdict, pod.ok, pod.advice) = ("ending", true, String::new());
            }
        }
        (Some("waiting"), Stage::Starting) => pod.verdict = "starting",
        (Some("waiting"), Stage::Ending) => pod.verdict = "ending",
        _ => {
            pod.verdict = "not captured";
            pod.ok = false;
            pod.advice =
                "the agent tries again every two seconds; the reason says what is missing".to_owned();
        }
    }
    pod
}

/// A connection by each family that the pod has a listener of.
fn probes(row: &Value, probes_cgroup: &Path) -> Vec<Seen> {
    let Some(netns) = row["netns"].as_str() else { return Vec::new() };
    // In the node's own network namespace pods are told apart by cgroup, so the probe has to be in the pod's.
    let own = row["cgroup"].as_str().filter(|_| row["host_network"] == true);
    let own = own.map(|own| ProbeCgroup::below(Path::new(own)));
    let cgroup = own.as_ref().map_or(probes_cgroup, |own| &own.path);
    let place = probe::Place { netns: netns.into(), cgroup: cgroup.to_owned() };
    let families = [(4, "listener4"), (6, "listener6")];
    let listening = families.into_iter().filter(|(_, listener)| row[*listener].is_u64());
    listening.map(|(family, _)| probe::run(&place, family)).collect()
}

fn judge(pod: &mut Pod) {
    if pod.probes.is_empty() {
        pod.verdict = "not reached";
        pod.ok = false;
        pod.detail = "it has no listener to try a connection with".to_owned();
        pod.advice = "look for it in undermesh workloads and in the agent's log".to_owned();
    }
    for seen in &pod.probes {
        let wrong = match (&seen.answered_as, &seen.error) {
            (Some(name), _) if *name == pod.pod => continue,
            (Some(other), _) => format!("IPv{}: taken for {other}", seen.family),
            (None, Some(error)) => format!("IPv{}: {error}", seen.family),
            (None, None) => format!("IPv{}: the proxy's answer names no pod", seen.family),
        };
        pod.verdict = "not reached";
        pod.ok = false;
        pod.detail = wrong;
        pod.advice = "look for another program on the same cgroup (undermesh bpf), or a pod outside of the cgroup that the \
                      programs are attached to"
            .to_owned();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(answered_as: Option<&str>, error: Option<&str>) -> Seen {
        Seen {
            family: 4,
            answered_as: answered_as.map(str::to_owned),
            generation: answered_as.map(|_| 1),
            ms: 1.0,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn only_the_proxys_answer_for_this_very_pod_counts() {
        for (probes, want) in [
            (vec![seen(Some("default/a"), None)], "captured"),
            (vec![seen(Some("default/b"), None)], "not reached"),
            (vec![seen(None, Some("not brought to the proxy"))], "not reached"),
            (vec![seen(Some("default/a"), None), seen(None, Some("nobody listens"))], "not reached"),
            // Nothing was tried, so nothing is known.
            (Vec::new(), "not reached"),
        ] {
            let mut pod = Pod {
                pod: "default/a".into(),
                verdict: "captured",
                ok: true,
                detail: String::new(),
                advice: String::new(),
                probes,
            };
            judge(&mut pod);
            assert_eq!((pod.verdict, pod.ok), (want, want == "captured"));
        }
    }

    #[test]
    fn a_pod_that_nobody_enrolled_is_well_and_one_that_cannot_be_captured_is_not() {
        let of = |state: &str, capture: &str, stage: Stage| {
            let row = json!({"pod": "default/a", "state": state, "capture": capture, "reason": "why"});
            let pod = pod(&row, stage, Path::new("/nowhere"));
            (pod.verdict, pod.ok)
        };
        assert_eq!(of("not enrolled", "no", Stage::Running), ("not enrolled", true));
        assert_eq!(of("enrolled", "failed", Stage::Running), ("not captured", false));
        assert_eq!(of("enrolled", "failed", Stage::Starting), ("not captured", false));
        // One that runs and is nowhere: its cgroup or processes cannot be seen.
        assert_eq!(of("enrolled", "waiting", Stage::Running), ("not captured", false));
        assert_eq!(of("enrolled", "waiting", Stage::Starting), ("starting", true));
        assert_eq!(of("enrolled", "waiting", Stage::Ending), ("ending", true));
        assert_eq!(of("enrolled", "yes", Stage::Ending), ("ending", true));
        assert_eq!(of("enrolled", "yes", Stage::Running), ("not reached", false));
    }
}
