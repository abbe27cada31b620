//! What is tried, and how it is judged: real requests from inside pods, compared with what the YAML asks. The judging is the
//! demo's; names of pods are those that Kubernetes made of the Deployments'.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::cluster::rolls::Connections;
use crate::cluster::stage::{MESHED, READY, RELEASE, SYSTEM, Stage, wait};
use crate::demo::checks::{body, is_split, listed, new_weights, reviewer, status, words};
use crate::demo::report::Finding;

/// The Gateway's host, and the service by which the gateway is reached.
const HOST: &str = "istio.k3s.local";
const GATEWAY: &str = "http://istio-ingressgateway.undermesh-system";
pub(crate) const VISITOR: (&str, &str) = ("outside", "deploy/visitor");
pub(crate) const PAGE: (&str, &str) = ("default", "deploy/productpage-v1");
pub(crate) const SERVICE1: (&str, &str) = ("ns1", "deploy/service1");
pub(crate) const REVIEWS: &str = "http://reviews:9080/reviews/0";
const SERVICE2: &str = "http://service2.ns2:8080/";
const READERS: u32 = 200;

pub(crate) fn once(events: Vec<Value>) -> anyhow::Result<Value> {
    events.into_iter().next().context("the client said nothing")
}

pub(crate) fn ms(event: &Value) -> f64 {
    event.get("ms").and_then(Value::as_f64).unwrap_or_default()
}

/// The Deployment of a pod: `reviews-v1-6d9c4f5b7-x2x8z` is of `reviews-v1`.
fn deployment(pod: &str) -> &str {
    pod.rsplitn(3, '-').nth(2).unwrap_or(pod)
}

/// How often the pods of each Deployment wrote the reviews; what was no review counts as what it is.
pub(crate) fn reviewers(events: &[Value]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for event in events {
        let who = reviewer(event).map_or_else(|| words(event), |pod| deployment(&pod).to_owned());
        *counts.entry(who).or_default() += 1;
    }
    counts
}

/// The application alone, as Kubernetes carries it.
pub(crate) fn before(stage: &mut Stage) -> anyhow::Result<Finding> {
    for file in ["bookinfo", "two-namespaces", "visitor"] {
        stage.apply_workloads(&format!("deploy/kubernetes/{file}.yaml"))?;
    }
    for namespace in MESHED.iter().chain(&["outside"]) {
        stage.wait_rolled_out(namespace)?;
    }
    stage.pods_before = stage.pods()?;
    // DNS and kube-proxy may be a moment behind the pods.
    let answered = |from, url: &str| {
        let answer = once(stage.http(from, url, &[])?)?;
        anyhow::Ok((status(&answer) == 200).then_some(answer))
    };
    let page = "http://productpage.default:9080/productpage";
    let page = wait(stage.limit(10), "productpage", || answered(VISITOR, page))?;
    let service2 = wait(stage.limit(10), "service2", || answered(SERVICE1, SERVICE2))?;
    Ok(Finding::new("Before the mesh")
        .asked("productpage answers 200, and service2 answers service1 without a delay")
        .seen(format!("{}; {} after {:.0} ms", words(&page), words(&service2), ms(&service2)))
        .holds(status(&page) == 200 && status(&service2) == 200 && ms(&service2) < 1000.0))
}

/// `helm install`, then the labels: no pod is touched.
pub(crate) fn install(stage: &mut Stage) -> anyhow::Result<Finding> {
    let began = Instant::now();
    let chart = crate::cargo::root().join("deploy/chart").display().to_string();
    let (values, timeout) = (stage.values(), stage.timeout(READY));
    let mut arguments =
        vec!["install", RELEASE, &chart, "--namespace", SYSTEM, "--create-namespace", "--wait", &timeout];
    arguments.extend(values.iter().map(String::as_str));
    let mut installed = stage.helm(&arguments);
    if installed.is_err() && stage.cluster.patience() > 1 {
        // An API server that is short of time gives up requests. Asked again, helm goes on where it stopped.
        arguments.splice(..1, ["upgrade", "--install"]);
        installed = stage.helm(&arguments);
    }
    // helm alone says only that it waited in vain.
    installed.map_err(|e| e.context(stage.troubles(SYSTEM)))?;
    stage.wait_rolled_out(SYSTEM)?;
    stage.installed = Some(began.elapsed());
    for namespace in MESHED {
        stage.kubectl(&[
            "label",
            "namespace",
            namespace,
            "istio.io/dataplane-mode=undermesh",
            "--overwrite",
        ])?;
    }
    let want = stage.pods_before.len() as u64;
    let captured = wait(stage.limit(30), "the pods to be in the mesh", || {
        let captured = captured(stage)?;
        Ok((captured == want).then_some(captured))
    })?;
    for (agent, _) in stage.agents()? {
        let bpf = stage.ask(&agent, &["bpf"])?;
        let programs = bpf.get("programs").and_then(Value::as_array).into_iter().flatten();
        stage.programs.extend(programs.filter_map(|p| u32::try_from(p.get("id")?.as_u64()?).ok()));
    }
    let untouched = stage.pods()? == stage.pods_before;
    let agents = stage.agents()?.len();
    Ok(Finding::new("helm install, and a label on three namespaces")
        .asked(format!(
            "ready within {} s, {want} pods in the mesh, none restarted",
            stage.limit(READY).as_secs()
        ))
        .seen(format!(
            "{agents} agents and the gateways ready after {:.0} s, {captured} pods in the mesh, {}",
            stage.installed.unwrap_or_default().as_secs_f64(),
            if untouched { "none restarted" } else { "some are others than before" }
        ))
        .holds(untouched && captured == want && stage.installed.is_some_and(|t| t < stage.limit(READY))))
}

/// How many pods all agents have captured.
fn captured(stage: &Stage) -> anyhow::Result<u64> {
    stage.agents()?.iter().try_fold(0, |all, (agent, _)| {
        let status = stage.ask(agent, &["status"])?;
        Ok(all + status.pointer("/workloads/captured").and_then(Value::as_u64).unwrap_or_default())
    })
}

/// The article's YAML as it is, and that every agent has taken it in.
pub(crate) fn configuration(stage: &mut Stage) -> anyhow::Result<Finding> {
    for folder in ["article/bookinfo-gateway.yaml", "article/internal-mesh.yaml", "bookinfo/reviews.yaml"] {
        stage.apply(&format!("deploy/examples/{folder}"))?;
    }
    let agents = stage.agents()?;
    let read = |agent: &str| {
        let status = stage.ask(agent, &["status"])?;
        let number = |key: &str| {
            status.pointer(&format!("/configuration/{key}")).and_then(Value::as_u64).unwrap_or_default()
        };
        anyhow::Ok((number("virtual_services"), number("errors")))
    };
    let all = wait(stage.limit(10), "every agent to have read the YAML", || {
        let all = agents.iter().map(|(agent, _)| read(agent)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(all.iter().all(|read| *read == (3, 0)).then_some(all))
    })?;
    Ok(Finding::new("kubectl apply of the article's YAML")
        .asked("on every node 3 virtual services and 0 errors")
        .seen(all.iter().map(|(v, e)| format!("{v} and {e}")).collect::<Vec<_>>().join(", "))
        .holds(true))
}

/// Gateway and VirtualService of the article, and three services behind the page.
pub(crate) fn page(stage: &mut Stage) -> anyhow::Result<Finding> {
    let url = format!("{GATEWAY}/productpage");
    let answer = wait(stage.limit(10), "the gateway to answer", || {
        let answer = once(stage.http(VISITOR, &url, &["--host", HOST])?)?;
        Ok((status(&answer) == 200).then_some(answer))
    })?;
    let page = body(&answer);
    let by = page.split_once("Reviews served by: <b>").and_then(|(_, rest)| rest.split_once('<'));
    let by = by.map(|(by, _)| by);
    let details = page.contains("William Shakespeare") && page.contains("PublisherA");
    let ask =
        |host: &str, path: &str| once(stage.http(VISITOR, &format!("{GATEWAY}{path}"), &["--host", host])?);
    let (host, path) = (ask("other.example.com", "/productpage")?, ask(HOST, "/ratings/0")?);
    Ok(Finding::new("The page through the gateway")
        .asked("200 with details and reviews; 404 for a host and for a path that no rule names")
        .seen(format!(
            "{}, details {}, reviews by {}; {}, {}",
            words(&answer),
            if details { "there" } else { "missing" },
            by.unwrap_or("nobody"),
            words(&host),
            words(&path)
        ))
        .holds(
            details
                && by.is_some_and(|b| b.starts_with("reviews-v"))
                && (status(&host), status(&path)) == (404, 404),
        ))
}

/// The weights of VirtualService reviews, seen from outside by way of productpage.
pub(crate) fn split(stage: &mut Stage) -> anyhow::Result<Finding> {
    let url = format!("{GATEWAY}/api/v1/products/0/reviews");
    let count = READERS.to_string();
    let counts = reviewers(&stage.http(VISITOR, &url, &["--host", HOST, "--count", &count])?);
    Ok(Finding::new("200 readers of the reviews")
        .asked(format!("reviews-v1 90 %, reviews-v3 10 % (of {READERS}: 180 and 20, chance allows ±17)"))
        .seen(listed(&counts))
        .holds(is_split(&counts, READERS, &[("reviews-v1", 0.9), ("reviews-v3", 0.1)])))
}

/// The header match.
pub(crate) fn jason(stage: &mut Stage) -> anyhow::Result<Finding> {
    let url = format!("{GATEWAY}/api/v1/products/0/reviews");
    let ask = |who: &str| stage.http(VISITOR, &url, &["--host", HOST, "--count", "40", "--header", who]);
    let (jason, json) = (reviewers(&ask("end-user: jason")?), reviewers(&ask("end-user: json")?));
    let all_v2 = jason.len() == 1 && jason.get("reviews-v2") == Some(&40);
    Ok(Finding::new("Jason's requests")
        .asked("with `end-user: jason` always reviews-v2; with `end-user: json` never")
        .seen(format!("jason: {}; json: {}", listed(&jason), listed(&json)))
        .holds(all_v2 && !json.contains_key("reviews-v2") && json.values().sum::<u32>() == 40))
}

/// The article's VirtualService for service2, and who service2 believes to be called by.
pub(crate) fn delay(stage: &mut Stage) -> anyhow::Result<Finding> {
    let answer = once(stage.http(SERVICE1, SERVICE2, &[])?)?;
    let said: Value = serde_json::from_str(body(&answer)).unwrap_or_default();
    let client = said.get("client").and_then(Value::as_str).unwrap_or("nobody").to_owned();
    let own = ["get", "pod", "-n", "ns1", "-l", "app=service1", "-o", "jsonpath={.items[0].status.podIP}"];
    let own = stage.kubectl(&own)?;
    let outside = once(stage.http(VISITOR, SERVICE2, &[])?)?;
    Ok(Finding::new("The delay that service1 sees, and a visitor does not")
        .asked(format!("in the mesh 200 after 2 s, by caller {own}; outside of it 200 at once"))
        .seen(format!(
            "{} after {:.2} s, caller {client}; {} after {:.2} s",
            words(&answer),
            ms(&answer) / 1000.0,
            words(&outside),
            ms(&outside) / 1000.0
        ))
        .holds(
            status(&answer) == 200
                && (2000.0..3000.0).contains(&ms(&answer))
                && client == own
                && status(&outside) == 200
                && ms(&outside) < 1000.0,
        ))
}

/// `explain` by kubectl exec, and whether the request did what it says.
pub(crate) fn explain(stage: &mut Stage) -> anyhow::Result<Finding> {
    let agent = stage.agent_beside("default", "productpage")?;
    let pod =
        ["get", "pod", "-n", "default", "-l", "app=productpage", "-o", "jsonpath={.items[0].metadata.name}"];
    let pod = format!("default/{}", stage.kubectl(&pod)?);
    let verb = ["explain", "http://reviews:9080/reviews/0", "-H", "end-user:jason", "--pod", &pod];
    let text = stage.undermesh(&agent, &verb)?;
    let json = stage.ask(&agent, &verb)?;
    let result = json.pointer("/results/0").context("explain gave no result")?;
    let say = |pointer: &str| result.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (subset, endpoint) = (say("/destinations/0/subset"), say("/destinations/0/endpoints/0/id"));
    let event = once(stage.http(PAGE, REVIEWS, &["--header", "end-user: jason"])?)?;
    let answered = reviewer(&event).unwrap_or_else(|| words(&event));
    Ok(Finding::new("Why did that request go there")
        .asked("explain names subset v2 and the pod that then answers")
        .seen(format!("explain: subset {subset}, {endpoint}; answered by {answered}"))
        .detail(text)
        .holds(subset == "v2" && endpoint.ends_with(&answered) && deployment(&answered) == "reviews-v2"))
}

/// Istio's metrics of what went before, from the port that Prometheus scrapes.
pub(crate) fn metrics(stage: &mut Stage) -> anyhow::Result<Finding> {
    let agent = stage.agent_beside("default", "productpage")?;
    let address = ["get", "pod", "-n", SYSTEM, &agent, "-o", "jsonpath={.status.podIP}"];
    let url = format!("http://{}:15020/metrics", stage.kubectl(&address)?);
    let answer = once(stage.http(VISITOR, &url, &[])?)?;
    let want = [
        "istio_requests_total{",
        "source_workload=\"productpage-v1\"",
        "destination_service_name=\"reviews\"",
    ];
    let line = body(&answer).lines().find(|line| want.iter().all(|w| line.contains(w)));
    Ok(Finding::new("Metrics")
        .asked("istio_requests_total from productpage-v1 to reviews")
        .seen(line.map_or_else(|| format!("{}, no such series", words(&answer)), |_| "there".to_owned()))
        .detail(line.unwrap_or_default())
        .holds(line.is_some()))
}

/// New weights, while requests go on.
pub(crate) fn live_change(stage: &mut Stage) -> anyhow::Result<Finding> {
    let load = stage.load(PAGE, REVIEWS, 5, &[])?;
    std::thread::sleep(Duration::from_secs(1));
    let old = std::fs::read_to_string(crate::cargo::root().join("deploy/examples/bookinfo/reviews.yaml"))?;
    let file = std::env::temp_dir().join(format!("undermesh-reviews-{}.yaml", std::process::id()));
    std::fs::write(&file, new_weights(&old)?)?;
    let applied = stage.kubectl(&["apply", "-f", &file.display().to_string()]);
    std::fs::remove_file(&file)?;
    applied?;
    let soon = stage.limit(1);
    std::thread::sleep(soon);
    let events = load.end()?;
    let failed = events.iter().filter(|e| status(e) != 200).count();
    let count = READERS.to_string();
    let counts = reviewers(&stage.http(PAGE, REVIEWS, &["--count", &count])?);
    stage.apply("deploy/examples/bookinfo/reviews.yaml")?;
    Ok(Finding::new("kubectl apply of new weights, under load")
        .asked(format!(
            "v1 50 %, v2 50 %, v3 none, {} s after the apply, and no failed request (of {READERS}: 100 and 100, ±28)",
            soon.as_secs()
        ))
        .seen(format!("{failed} of {} failed; then {}", events.len(), listed(&counts)))
        .holds(failed == 0 && is_split(&counts, READERS, &[("reviews-v1", 0.5), ("reviews-v2", 0.5)])))
}

/// `helm upgrade` that replaces every agent, while new connections are made.
pub(crate) fn upgrade(stage: &mut Stage) -> anyhow::Result<Finding> {
    let old = stage.agents()?;
    let load = stage.load(PAGE, REVIEWS, 10, &["--new-connections"])?;
    let chart = crate::cargo::root().join("deploy/chart").display().to_string();
    let rolled = format!("--set-string=agent.podAnnotations.example\\.com/rolled={}", std::process::id());
    let timeout = stage.timeout(180);
    let upgrade =
        ["upgrade", RELEASE, &chart, "--namespace", SYSTEM, "--reuse-values", "--wait", &timeout, &rolled];
    let upgraded = stage.helm(&upgrade);
    let ready = stage.wait_rolled_out(SYSTEM);
    std::thread::sleep(Duration::from_secs(2));
    let seen = Connections::of(load)?;
    ready?;
    upgraded?;
    let new = stage.agents()?;
    let replaced = old.iter().all(|agent| !new.contains(agent)) && new.len() == old.len();
    let jason = reviewers(&stage.http(PAGE, REVIEWS, &["--count", "20", "--header", "end-user: jason"])?);
    Ok(Finding::new("helm upgrade under load")
        .asked("every agent replaced, no new connection failed, and the rules in force afterwards")
        .seen(format!(
            "{} of {} agents replaced, {}; then jason: {}",
            if replaced { new.len() } else { 0 },
            old.len(),
            seen.text(),
            listed(&jason)
        ))
        .detail(seen.first())
        .holds(replaced && seen.all_made() && jason.len() == 1 && jason.get("reviews-v2") == Some(&20)))
}

/// `helm uninstall`: the application goes on as Kubernetes alone carries it, and nothing of the mesh is left.
pub(crate) fn uninstall(stage: &mut Stage) -> anyhow::Result<Finding> {
    for (agent, _) in stage.agents()? {
        let bpf = stage.ask(&agent, &["bpf"])?;
        let programs = bpf.get("programs").and_then(Value::as_array).into_iter().flatten();
        stage.programs.extend(programs.filter_map(|p| u32::try_from(p.get("id")?.as_u64()?).ok()));
    }
    let load = stage.load(PAGE, REVIEWS, 10, &["--new-connections"])?;
    let timeout = stage.timeout(READY);
    stage.helm(&["uninstall", RELEASE, "--namespace", SYSTEM, "--wait", &timeout])?;
    std::thread::sleep(Duration::from_secs(2));
    let seen = Connections::of(load)?;
    let page = once(stage.http(VISITOR, "http://productpage.default:9080/productpage", &[])?)?;
    let service2 = once(stage.http(SERVICE1, SERVICE2, &[])?)?;
    ensure!(!stage.programs.is_empty(), "the agents named no programs of theirs");
    let left = left(stage)?;
    let untouched = stage.pods()? == stage.pods_before;
    Ok(Finding::new("helm uninstall")
        .asked("no new connection failed, no delay any more, no pod restarted, and nothing of the mesh left")
        .seen(format!(
            "{}; {}; {} after {:.0} ms; {}; left: {}",
            seen.text(),
            words(&page),
            words(&service2),
            ms(&service2),
            if untouched { "none restarted" } else { "some pods are others than before" },
            if left.is_empty() { "nothing".into() } else { left.join(", ") }
        ))
        .holds(
            seen.all_made()
                && status(&page) == 200
                && status(&service2) == 200
                && ms(&service2) < 1000.0
                && untouched
                && left.is_empty(),
        ))
}

/// What of the release is still there: objects (the kinds themselves stay, as helm leaves them), and programs in the kernel of
/// this machine, if the nodes are on it.
fn left(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let own = format!("app.kubernetes.io/instance={RELEASE}");
    let mut left = Vec::new();
    for kinds in [
        "daemonset,deployment,service,configmap,serviceaccount,role,rolebinding",
        "clusterrole,clusterrolebinding",
    ] {
        let said = stage.kubectl(&["get", kinds, "--all-namespaces", "-l", &own, "-o", "name"])?;
        left.extend(said.lines().map(str::to_owned));
    }
    let loaded = wait(stage.limit(10), "BPF programs to be released", || {
        Ok(stage.cluster.still_loaded(&stage.programs)?.is_empty().then_some(()))
    });
    if loaded.is_err() {
        left.push(format!("BPF programs {:?}", stage.cluster.still_loaded(&stage.programs)?));
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_belongs_to_its_deployment() {
        for (pod, want) in [
            ("reviews-v1-6d9c4f5b7-x2x8z", "reviews-v1"),
            ("details-v1-5f4d584748-abcde", "details-v1"),
            ("alone", "alone"),
            ("a-b", "a-b"),
        ] {
            assert_eq!(deployment(pod), want);
        }
    }

    #[test]
    fn reviews_count_for_the_deployment_and_failures_for_themselves() {
        let review = |pod: &str| json!({"status": 200, "body": format!("{{\"podname\": \"{pod}\"}}")});
        let events = [
            review("reviews-v1-6d9c4f5b7-x2x8z"),
            review("reviews-v1-6d9c4f5b7-aaaaa"),
            json!({"status": 503, "body": ""}),
        ];
        let want = BTreeMap::from([("reviews-v1".to_owned(), 2), ("status 503".to_owned(), 1)]);
        assert_eq!(reviewers(&events), want);
    }
}
