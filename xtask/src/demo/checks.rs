//! What is tried, and how it is judged. Each check makes real requests from inside a pod and compares what the answers say
//! with what the YAML in deploy/examples asks.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use undermesh_tests::{Pod, wait_until};

use crate::demo::report::Finding;
use crate::demo::stage::Stage;

/// The Gateway's host.
const HOST: &str = "istio.k3s.local";
/// The Service `reviews` and a path of it.
const REVIEWS: &str = "http://10.96.0.12:9080/reviews/0";
/// The Service `service2` of ns2.
const SERVICE2: &str = "http://10.96.2.2:8080/";
/// Longest for any one client.
const LIMIT: Duration = Duration::from_secs(40);
const READERS: u32 = 200;
/// A share of so many readers may be off by four standard deviations: by chance once in 16 000 runs.
const DEVIATIONS: f64 = 4.0;

/// HTTP from inside a pod; one event for each request.
fn http(stage: &Stage, pod: &Pod, url: &str, host: &str, more: &[&str]) -> anyhow::Result<Vec<Value>> {
    let command = stage.client(&[&["http", url, "--host", host], more].concat());
    pod.run("client", &command, LIMIT)?.success("client")?.events()
}

/// The only event of a request made once.
fn once(events: Vec<Value>) -> anyhow::Result<Value> {
    events.into_iter().next().context("the client said nothing")
}

pub(crate) fn status(event: &Value) -> u64 {
    event.get("status").and_then(Value::as_u64).unwrap_or_default()
}

pub(crate) fn body(event: &Value) -> &str {
    event.get("body").and_then(Value::as_str).unwrap_or_default()
}

/// An event in a few words: the status, or the error.
pub(crate) fn words(event: &Value) -> String {
    match event.get("error").and_then(Value::as_str) {
        Some(error) => error.to_owned(),
        None => format!("status {}", status(event)),
    }
}

/// The pod that wrote these reviews.
pub(crate) fn reviewer(event: &Value) -> Option<String> {
    let reviews: Value = serde_json::from_str(body(event)).ok()?;
    Some(reviews.get("podname")?.as_str()?.to_owned())
}

/// How often each pod wrote the reviews; what was no review counts as `status 503` or the like.
fn reviewers(events: &[Value]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for event in events {
        *counts.entry(reviewer(event).unwrap_or_else(|| words(event))).or_default() += 1;
    }
    counts
}

pub(crate) fn listed(counts: &BTreeMap<String, u32>) -> String {
    let parts: Vec<String> = counts.iter().map(|(who, n)| format!("{who} {n}")).collect();
    parts.join(", ")
}

/// Whether the pods named got their shares of `total` (which sum to 1), and nobody else got any.
pub(crate) fn is_split(counts: &BTreeMap<String, u32>, total: u32, shares: &[(&str, f64)]) -> bool {
    let near = |(who, share): &(&str, f64)| {
        let n = f64::from(counts.get(*who).copied().unwrap_or_default());
        let total = f64::from(total);
        (n - total * share).abs() <= DEVIATIONS * (total * share * (1.0 - share)).sqrt()
    };
    counts.keys().all(|who| shares.iter().any(|(name, _)| name == who))
        && counts.values().sum::<u32>() == total
        && shares.iter().all(near)
}

/// `undermesh check`: what the files hold.
pub(crate) fn configuration(stage: &Stage) -> anyhow::Result<Finding> {
    let agent = stage.agents.first().context("two agents run")?;
    let status = agent.ask(&["status"])?;
    let number = |key: &str| status.pointer(&format!("/configuration/{key}")).and_then(Value::as_u64);
    let (services, virtual_services, errors) =
        (number("services"), number("virtual_services"), number("errors"));
    let diagnostics = agent.ask(&["diagnostics"])?;
    let lines = diagnostics.as_array().into_iter().flatten().map(|d| {
        let text = |key: &str| d.get(key).and_then(Value::as_str).unwrap_or_default();
        let about = match text("code") {
            // The article's short host.
            "UM0506" => "what that example shows, and here it works:",
            _ => text("severity"),
        };
        format!("{about} {}/{}: {}", text("kind"), text("name"), text("message"))
    });
    let show = |n: Option<u64>| n.map_or("no".into(), |n| n.to_string());
    Ok(Finding::new("The configuration as it is read")
        .asked("6 services, 3 virtual services, 0 errors")
        .seen(format!(
            "{} services, {} virtual services, {} errors",
            show(services),
            show(virtual_services),
            show(errors)
        ))
        .detail(lines.collect::<Vec<_>>().join("\n"))
        .holds((services, virtual_services, errors) == (Some(6), Some(3), Some(0))))
}

/// Gateway and VirtualService of the article, and three services behind the page.
pub(crate) fn page(stage: &Stage) -> anyhow::Result<Finding> {
    let url = format!("http://{}/productpage", stage.ingress());
    let answer = once(http(stage, &stage.visitor, &url, HOST, &[])?)?;
    let page = body(&answer);
    let by = page
        .split_once("Reviews served by: <b>")
        .and_then(|(_, rest)| rest.split_once('<'))
        .map(|(by, _)| by);
    let has_details = page.contains("William Shakespeare") && page.contains("PublisherA");
    let saved = crate::cargo::root().join("target/demo/productpage.html");
    if let Some(folder) = saved.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&saved, page)?;
    Ok(Finding::new("The page through the gateway")
        .asked(format!("GET http://{HOST}/productpage: 200, with details and reviews"))
        .seen(format!(
            "{}, details {}, reviews by {}, {:.0} ms",
            words(&answer),
            if has_details { "there" } else { "missing" },
            by.unwrap_or("nobody"),
            answer.get("ms").and_then(Value::as_f64).unwrap_or_default()
        ))
        .detail(format!("the page, to be opened: {}", saved.display()))
        .holds(status(&answer) == 200 && has_details && by.is_some_and(|b| b.starts_with("reviews-v"))))
}

/// Another host, and a path that the VirtualService does not match.
pub(crate) fn not_routed(stage: &Stage) -> anyhow::Result<Finding> {
    let ask = |host: &str, path: &str| {
        once(http(stage, &stage.visitor, &format!("http://{}{path}", stage.ingress()), host, &[])?)
    };
    let (host, path) = (ask("other.example.com", "/productpage")?, ask(HOST, "/ratings/0")?);
    Ok(Finding::new("What the gateway's rules do not name")
        .asked("404 for the host other.example.com, 404 for the path /ratings/0")
        .seen(format!("{}, {}", words(&host), words(&path)))
        .holds(status(&host) == 404 && status(&path) == 404))
}

/// The weights of VirtualService reviews, seen from outside by way of productpage.
pub(crate) fn split(stage: &Stage) -> anyhow::Result<Finding> {
    let url = format!("http://{}/api/v1/products/0/reviews", stage.ingress());
    let events = http(stage, &stage.visitor, &url, HOST, &["--count", &READERS.to_string()])?;
    let counts = reviewers(&events);
    Ok(Finding::new("200 readers of the reviews")
        .asked(format!("reviews-v1 90 %, reviews-v3 10 % (of {READERS}: 180 and 20, chance allows ±17)"))
        .seen(listed(&counts))
        .holds(is_split(&counts, READERS, &[("reviews-v1", 0.9), ("reviews-v3", 0.1)])))
}

/// The header match.
pub(crate) fn jason(stage: &Stage) -> anyhow::Result<Finding> {
    let url = format!("http://{}/api/v1/products/0/reviews", stage.ingress());
    let ask = |who: &str| http(stage, &stage.visitor, &url, HOST, &["--count", "40", "--header", who]);
    let (jason, json) = (reviewers(&ask("end-user: jason")?), reviewers(&ask("end-user: json")?));
    let all_v2 = jason.len() == 1 && jason.get("reviews-v2") == Some(&40);
    Ok(Finding::new("Jason's requests")
        .asked("with `end-user: jason` always reviews-v2; with `end-user: json` never")
        .seen(format!("jason: {}; json: {}", listed(&jason), listed(&json)))
        .holds(all_v2 && !json.contains_key("reviews-v2") && json.values().sum::<u32>() == 40))
}

/// The header that the application itself sets for whoever signed in.
pub(crate) fn sign_in(stage: &Stage) -> anyhow::Result<Finding> {
    let at = |path: &str| format!("http://{}{path}", stage.ingress());
    let form = ["--method", "POST", "--body", "username=jason&passwd="];
    let login = once(http(stage, &stage.visitor, &at("/login"), HOST, &form)?)?;
    let cookie = login.pointer("/headers/set-cookie").and_then(Value::as_str).unwrap_or_default();
    let cookie = cookie.split(';').next().unwrap_or_default();
    let header = format!("cookie: {cookie}");
    let page = once(http(stage, &stage.visitor, &at("/productpage"), HOST, &["--header", &header])?)?;
    let page = body(&page);
    let seen = [
        ("reviews-v2", "Reviews served by: <b>reviews-v2<"),
        ("black stars", "stars black"),
        ("his name", ">jason "),
    ];
    let missing: Vec<&str> =
        seen.iter().filter(|(_, text)| !page.contains(text)).map(|(what, _)| *what).collect();
    Ok(Finding::new("Jason signs in")
        .asked("POST /login, then a page with his name and the black stars of reviews-v2")
        .seen(if missing.is_empty() {
            "all three".into()
        } else {
            format!("without {} ({})", missing.join(", "), words(&login))
        })
        .holds(missing.is_empty()))
}

/// The article's VirtualService for service2.
pub(crate) fn delay(stage: &Stage) -> anyhow::Result<Finding> {
    let service1 = stage.pod("ns1/service1")?;
    let answer = once(http(stage, service1, SERVICE2, "service2.ns2:8080", &[])?)?;
    let ms = answer.get("ms").and_then(Value::as_f64).unwrap_or_default();
    let said: Value = serde_json::from_str(body(&answer)).unwrap_or_default();
    let client = said.get("client").and_then(Value::as_str).unwrap_or("nobody");
    let own = service1.addresses()[0].to_string();
    Ok(Finding::new("The delay that service1 sees")
        .asked(format!("service2.ns2 answers 200 after 2 s, and sees the caller's own address {own}"))
        .seen(format!("{} after {:.2} s, caller {client}", words(&answer), ms / 1000.0))
        .holds(status(&answer) == 200 && (2000.0..2500.0).contains(&ms) && client == own))
}

/// Kernel counters before and after, for a pod in the mesh and one that is not.
pub(crate) fn with_and_without(stage: &Stage) -> anyhow::Result<Finding> {
    const CONNECTS: u64 = 5;
    let agent = stage.agents.first().context("two agents run")?;
    let address = stage.pod("ns2/service2")?.at(8080);
    let count = CONNECTS.to_string();
    let more = ["--count", &count, "--new-connections"];
    let before = agent.counters()?;
    let within = once(http(stage, stage.pod("ns1/service1")?, SERVICE2, "service2.ns2:8080", &[])?)?;
    let between = agent.counters()?;
    let outside = http(stage, &stage.visitor, SERVICE2, "service2.ns2:8080", &more)?;
    let direct = http(stage, &stage.visitor, &format!("http://{address}/"), "service2.ns2:8080", &more)?;
    let after = agent.counters()?;

    let grown = |a: &BTreeMap<String, u64>, b: &BTreeMap<String, u64>, name: &str| {
        b.get(name).copied().unwrap_or_default().saturating_sub(a.get(name).copied().unwrap_or_default())
    };
    let redirected = grown(&before, &between, "redirected4");
    let left_alone = grown(&between, &after, "not_enrolled");
    let also_redirected = grown(&between, &after, "redirected4");
    let slowest = direct.iter().filter_map(|e| e.get("ms")?.as_f64()).fold(0.0, f64::max);
    let refused = outside.iter().filter(|e| e.get("error").is_some()).count() as u64;
    let answered = direct.iter().filter(|e| status(e) == 200).count() as u64;
    Ok(Finding::new("The same service with and without the mesh")
        .asked("a pod in the mesh is brought to the proxy; one outside is left alone, and has only the pod's own address")
        .seen(format!("in the mesh {redirected} of 1 redirected ({})", words(&within)))
        .detail(format!(
            "outside {left_alone} of {} left alone, {also_redirected} redirected\n\
             of those, to the service's address: {refused} of {CONNECTS} unreachable\n\
             of those, to the pod's address: {answered} of {CONNECTS} answered within {slowest:.0} ms",
            2 * CONNECTS
        ))
        .holds(
            redirected == 1
                && status(&within) == 200
                && left_alone == 2 * CONNECTS
                && also_redirected == 0
                && refused == CONNECTS
                && answered == CONNECTS
                && slowest < 1000.0,
        ))
}

/// The explanation, and whether the request did what it says.
pub(crate) fn explain(stage: &Stage) -> anyhow::Result<Finding> {
    let agent = stage.agents.first().context("two agents run")?;
    let verb = [
        "explain",
        "http://reviews:9080/reviews/0",
        "-H",
        "end-user:jason",
        "--pod",
        "default/productpage-v1",
    ];
    let text = agent.cli(&verb)?;
    ensure!(text.status.success(), "explain: {}", String::from_utf8_lossy(&text.stderr).trim());
    let json = agent.ask(&verb)?;
    let result = json.pointer("/results/0").context("explain gave no result")?;
    let say =
        |pointer: &str| result.pointer(pointer).map(|v| v.as_str().map_or(v.to_string(), str::to_owned));
    let subset = say("/destinations/0/subset").unwrap_or_default();
    let endpoint = say("/destinations/0/endpoints/0/id").unwrap_or_default();
    let rule = format!("{}:{}", say("/rule/file").unwrap_or_default(), say("/rule/line").unwrap_or_default());
    let event = once(http(
        stage,
        stage.pod("default/productpage-v1")?,
        REVIEWS,
        "reviews:9080",
        &["--header", "end-user: jason"],
    )?)?;
    let answered = reviewer(&event).unwrap_or_else(|| words(&event));
    Ok(Finding::new("Why did that request go there")
        .asked("explain names subset v2 and the pod that then answers")
        .seen(format!("explain: subset {subset}, {endpoint}, by {rule}; answered by {answered}"))
        .detail(String::from_utf8_lossy(&text.stdout))
        .holds(subset == "v2" && endpoint == answered && answered == "reviews-v2"))
}

/// New weights in the file, while requests go on.
pub(crate) fn live_change(stage: &Stage) -> anyhow::Result<Finding> {
    const NAME: &str = "bookinfo-reviews.yaml";
    let page = stage.pod("default/productpage-v1")?;
    let forever = ["http", REVIEWS, "--host", "reviews:9080", "--count", "0", "--interval-ms", "2"];
    let mut reader = page.spawn("reader", &stage.client(&forever))?;
    reader.wait_for_text("reviews-v1", LIMIT)?;

    let old = std::fs::read_to_string(stage.config.folder().join(NAME))?;
    let new = new_weights(&old)?;
    let changed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    stage.config.write(NAME, &new)?;
    let first = wait_until(Duration::from_secs(5), "the new weights", || {
        reader.must_run()?;
        // The last line may be half written.
        let events =
            reader.stdout().lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).collect::<Vec<_>>();
        let by_v2 = events.iter().find(|e| reviewer(e).as_deref() == Some("reviews-v2"));
        Ok(by_v2.and_then(|e| e.get("at")?.as_f64()))
    })?;
    let failed = reader
        .stdout()
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .filter(|e| status(e) != 200)
        .count();
    drop(reader);
    let ms = (first - changed) * 1000.0;
    let counts = reviewers(&http(stage, page, REVIEWS, "reviews:9080", &["--count", &READERS.to_string()])?);
    Ok(Finding::new("A live change of weights")
        .asked(format!("v1 50 %, v2 50 %, v3 none, in force within 1 s and without a failed request (of {READERS}: 100 and 100, ±28)"))
        .seen(format!("first at v2 after {ms:.0} ms, {failed} failed; then {}", listed(&counts)))
        .holds(
            ms < 1000.0 && failed == 0 && is_split(&counts, READERS, &[("reviews-v1", 0.5), ("reviews-v2", 0.5)]),
        ))
}

/// The VirtualService's last route with 50/50 between v1 and v2 instead of 90/10 between v1 and v3.
pub(crate) fn new_weights(old: &str) -> anyhow::Result<String> {
    let Some((before, last)) = old.rsplit_once("    - route:") else {
        bail!("the example has no last route")
    };
    let new = last
        .replace("subset: v3", "subset: v2")
        .replace("weight: 90", "weight: 50")
        .replace("weight: 10", "weight: 50");
    ensure!(
        new.matches("weight: 50").count() == 2 && new.contains("subset: v2"),
        "the example's weights are not 90 and 10"
    );
    Ok(format!("{before}    - route:{new}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn counts<const N: usize>(pairs: [(&str, u32); N]) -> BTreeMap<String, u32> {
        pairs.into_iter().map(|(who, n)| (who.to_owned(), n)).collect()
    }

    #[test]
    fn a_split_is_judged_with_chance_in_mind_and_no_more() {
        let asked = [("v1", 0.9), ("v3", 0.1)];
        for (seen, want) in [
            (counts([("v1", 180), ("v3", 20)]), true),
            (counts([("v1", 170), ("v3", 30)]), true),
            (counts([("v1", 160), ("v3", 40)]), false),
            (counts([("v1", 200)]), false),
            (counts([("v1", 180), ("v3", 19), ("v2", 1)]), false),
            (counts([("v1", 180), ("v3", 19), ("status 503", 1)]), false),
            (counts([("v1", 90), ("v3", 10)]), false),
        ] {
            assert_eq!(is_split(&seen, 200, &asked), want, "{seen:?}");
        }
    }

    #[test]
    fn what_is_no_review_is_counted_as_what_it_is() {
        let review = json!({"status": 200, "body": "{\"podname\": \"reviews-v1\"}"});
        let events = [review, json!({"status": 503, "body": "no"}), json!({"error": "cannot connect"})];
        assert_eq!(reviewers(&events), counts([("reviews-v1", 1), ("status 503", 1), ("cannot connect", 1)]));
    }

    #[test]
    fn the_examples_weights_can_be_changed() {
        let path = crate::cargo::root().join("deploy/examples/bookinfo/reviews.yaml");
        let old = std::fs::read_to_string(path).expect("the example is there");
        let new = new_weights(&old).expect("its weights are 90 and 10");
        assert_eq!((new.matches("weight: 50").count(), new.matches("weight: 90").count()), (2, 0));
        assert!(new_weights("kind: Nothing").is_err());
    }
}
