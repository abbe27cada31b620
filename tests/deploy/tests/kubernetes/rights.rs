//! Least privilege, proved on a real API server: with the rights of the rendered manifests everything works, and each right that
//! is taken away is missed.
//!
//! What is granted is read from the manifests. There is an account for each right, which has all of them but that one, and a real
//! agent or gateway that has its token; all run at the same time. What the API server refuses them, they say in their logs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use undermesh_cluster::run::output;
use undermesh_cluster::{ControlPlane, can_run_here};
use undermesh_deploy::manifests::{self, objects};
use undermesh_deploy::repository;
use undermesh_deploy::rights::{self, Right};
use undermesh_tests::{Binaries, Node, Process, World, wait_until};

const EVERY_KIND: &str = include_str!("every_kind.yaml");
/// A hundred programs start on a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(150);
/// Kinds whose authors are told by an Event.
const BY_EVENT: [&str; 3] = ["EndpointSlice", "Namespace", "Pod"];

/// A role that runs with an account of its own.
struct Role {
    /// What its account does not have.
    without: Option<Right>,
    process: Process,
    socket: PathBuf,
}

impl Role {
    /// What it was refused, in the API server's words.
    fn refused(&self) -> BTreeSet<String> {
        // What is quoted within a quoted field of the log has backslashes.
        let text = self.process.stderr().replace('\\', "");
        let refusals = text.match_indices("cannot ").filter_map(|(at, _)| {
            let rest = text.get(at..)?;
            let (head, tail) = rest.split_once("in API group \"")?;
            let (group, _) = tail.split_once('"')?;
            (!head.contains('\n')).then(|| format!("{head}in API group \"{group}\""))
        });
        refusals.collect()
    }

    fn has_said(&self, text: &str) -> bool {
        self.process.stderr().contains(text)
    }

    /// As `undermesh status` has it. Sixty processes of that would take their time.
    fn status(&self) -> anyhow::Result<Value> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: undermesh\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("an answer has a body")?;
        Ok(serde_json::from_str(body)?)
    }

    /// By kind: state, and objects in force.
    fn kinds(status: &Value) -> anyhow::Result<BTreeMap<String, (String, u64)>> {
        let rows = status["source"]["kinds"].as_array().context("status names the kinds")?;
        let row = |row: &Value| {
            let state = row["state"].as_str().unwrap_or_default().to_owned();
            (
                row["kind"].as_str().unwrap_or_default().to_owned(),
                (state, row["objects"].as_u64().unwrap_or(0)),
            )
        };
        Ok(rows.iter().map(row).collect())
    }
}

/// What roles run with.
struct Place<'a> {
    plane: &'a ControlPlane,
    node: &'a Node,
    tokens: BTreeMap<String, String>,
}

impl Place<'_> {
    /// Starts a role whose account is in the namespace `place`.
    fn start(&self, who: &str, place: &str, without: Option<Right>) -> anyhow::Result<Role> {
        let world = self.plane.world();
        let token = self.tokens.get(place).context("a token was made")?;
        let kubeconfig = self.plane.kubeconfig_by_token_inside(place, token)?;
        let socket = world.folder().join(format!("{place}.sock"));
        let mut command = Command::new(&Binaries::for_tests()?.undermesh);
        command.args([who, "--workers", "1", "--access-log", "off"]);
        command.arg("--kubeconfig").arg(kubeconfig).arg("--admin-socket").arg(&socket);
        if who == "agent" {
            // Of its own, so that no agent is in the way of another; there are no pods here.
            let cgroup = world.cgroup().join("rights").join(place);
            std::fs::create_dir_all(&cgroup)?;
            command.arg("--cgroup").arg(cgroup);
            command.args(["--node", self.node.name(), "--pod-name", who, "--pod-namespace", place]);
        } else {
            command.args(["--labels", "istio=ingressgateway", "--name", place, "--namespace", place]);
        }
        let process = world.spawn(self.node.netns(), &format!("roles/{place}"), place, &command)?;
        Ok(Role { without, process, socket })
    }
}

/// Applies number `number` of every kind.
fn apply(plane: &ControlPlane, number: u8) -> anyhow::Result<()> {
    plane.apply(&EVERY_KIND.replace("NUMBER", &number.to_string()))
}

/// Creates objects, each of `sets` in its order, several sets at a time: kubectl sends one after the other.
fn create(plane: &ControlPlane, sets: &[Vec<Value>]) -> anyhow::Result<()> {
    let mut running = Vec::new();
    for sets in sets.chunks(sets.len().div_ceil(4)) {
        let items: Vec<_> = sets.concat();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        let mut kubectl = plane.kubectl();
        kubectl.args(["create", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = kubectl.spawn()?;
        child.stdin.take().context("it is piped")?.write_all(list.as_bytes())?;
        running.push(child);
    }
    for mut child in running {
        anyhow::ensure!(child.wait()?.success(), "kubectl create failed");
    }
    Ok(())
}

/// The tokens of all accounts, by namespace, once there are so many.
fn tokens(plane: &ControlPlane, count: usize) -> anyhow::Result<BTreeMap<String, String>> {
    const TEMPLATE: &str = r#"{{range .items}}{{if .data}}{{.metadata.namespace}} {{.data.token | base64decode}}{{"\n"}}{{end}}{{end}}"#;
    wait_until(LIMIT, "the accounts' tokens", || {
        let said = output(
            plane
                .kubectl()
                .args(["get", "secrets", "-A", "-l", "rights", "-o"])
                .arg(format!("go-template={TEMPLATE}")),
        )?;
        let lines = said.lines().filter_map(|line| line.split_once(' '));
        let tokens: BTreeMap<_, _> =
            lines.map(|(place, token)| (place.to_owned(), token.to_owned())).collect();
        Ok((tokens.len() == count).then_some(tokens))
    })
}

/// The kinds of those whose author was told of number `number`.
fn told(plane: &ControlPlane, resources: &str, number: u8) -> anyhow::Result<BTreeSet<String>> {
    let get = |what: &str| -> anyhow::Result<Vec<Value>> {
        let said = output(plane.kubectl().args(["get", what, "-A", "-o", "json"]))?;
        let said: Value = serde_json::from_str(&said)?;
        Ok(said["items"].as_array().cloned().unwrap_or_default())
    };
    let number = number.to_string();
    let mut kinds = BTreeSet::new();
    for object in get(resources)? {
        let conditions = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        let ours = conditions.iter().find(|it| it["type"] == "undermesh.io/InForce");
        let is_of_number = |said: &Value| {
            let has = |value: &Value| value.as_str().is_some_and(|text| text.contains(&number));
            has(&said["message"]) || has(&object["metadata"]["name"])
        };
        if ours.is_some_and(is_of_number) {
            kinds.extend(object["kind"].as_str().map(str::to_owned));
        }
    }
    for event in get("events.events.k8s.io")? {
        if event["reportingController"] == "undermesh"
            && event["note"].as_str().is_some_and(|text| text.contains(&number))
        {
            kinds.extend(event["regarding"]["kind"].as_str().map(str::to_owned));
        }
    }
    Ok(kinds)
}

/// `VirtualService` to `virtualservices`
fn plural(kind: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    kind.strip_suffix('y')
        .map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"))
        .replace("gatewaies", "gateways")
}

#[test]
fn each_right_of_the_manifests_is_needed_and_no_other() -> anyhow::Result<()> {
    let Some(programs) = can_run_here("each_right_of_the_manifests_is_needed_and_no_other") else {
        return Ok(());
    };
    Binaries::for_tests()?;
    let rendered = objects(&std::fs::read_to_string(repository("deploy/manifests/undermesh.yaml"))?)?;
    let began = Instant::now();
    let note = |what: &str| println!("[{:5.1} s] {what}", began.elapsed().as_secs_f64());
    let mut world = World::new()?;
    let node = world.node("n1")?;
    // A server that streams lists does not ask for the right to list. Older ones do not stream, and this one neither.
    let plane = ControlPlane::start_with(world, &programs, &["--feature-gates=WatchList=false"])?;
    plane.apply(&manifests::all_crds()?)?;
    output(plane.kubectl().args(["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]))?;
    apply(&plane, 1)?;

    let granted: Vec<Right> = rights::of(&rendered).into_iter().collect();
    let name = |index: usize| format!("without-{index}");
    let mut accounts = Vec::new();
    for who in ["agent", "gateway"] {
        accounts.push(rights::account(&rendered, who, None, &format!("all-{who}")));
    }
    for (index, right) in granted.iter().enumerate() {
        accounts.push(rights::account(&rendered, &right.who, Some(right), &name(index)));
    }
    create(&plane, &accounts)?;
    let place = Place { plane: &plane, node: &node, tokens: tokens(&plane, granted.len() + 2)? };
    note(&format!("{} accounts", granted.len() + 2));

    // With all of them: every kind is read and followed, every author is told.
    let mut agent = place.start("agent", "all-agent", None)?;
    let mut gateway = place.start("gateway", "all-gateway", None)?;
    let readable: BTreeSet<&str> =
        granted.iter().filter(|it| it.verb == "watch").map(|it| it.resource.as_str()).collect();
    let mut before = BTreeMap::new();
    for role in [&mut agent, &mut gateway] {
        before = wait_until(LIMIT, "every kind to be read", || {
            role.process.must_run()?;
            if !role.has_said("the API server answers") {
                return Ok(None);
            }
            let kinds = Role::kinds(&role.status()?)?;
            Ok(kinds.values().all(|(state, count)| state == "watching" && *count > 0).then_some(kinds))
        })
        .with_context(|| format!("{:?}", role.status()))?;
        let read: BTreeSet<String> = before.keys().map(|kind| plural(kind)).collect();
        assert_eq!(read.iter().map(String::as_str).collect::<BTreeSet<_>>(), readable);
    }
    note("every kind is read");
    let with_status: BTreeSet<&str> =
        granted.iter().filter_map(|it| it.resource.strip_suffix("/status")).collect();
    let resources = with_status.iter().copied().collect::<Vec<_>>().join(",");
    let mut all_told: BTreeSet<String> = BY_EVENT.map(str::to_owned).into();
    all_told.extend(before.keys().filter(|kind| with_status.contains(&*plural(kind))).cloned());
    for number in [1, 2] {
        if number == 2 {
            apply(&plane, number)?;
        }
        let mut said = BTreeSet::new();
        wait_until(LIMIT, "every author to be told", || {
            said = told(&plane, &resources, number)?;
            Ok((said == all_told).then_some(()))
        })
        .with_context(|| {
            format!("told of number {number}: {said:?} of {all_told:?}: {}", agent.process.stderr())
        })?;
    }
    let followed = Role::kinds(&agent.status()?)?;
    for (kind, (_, count)) in &followed {
        let more = before[kind].1 + u64::from(kind != "ConfigMap");
        assert!(*count >= more, "{kind} is not followed: {before:?} {followed:?}");
    }
    let lease = ["get", "lease", "-n", "all-agent", "-o", "jsonpath={.items[*].spec.holderIdentity}"];
    assert_eq!(output(plane.kubectl().args(lease))?, "agent");
    for role in [agent, gateway] {
        assert_eq!(role.refused(), BTreeSet::new(), "{}", role.process.stderr());
        role.process.terminate(LIMIT)?.success("a role with all rights")?;
    }
    note("every change is followed, every author was told; nothing was refused");

    // With one less.
    let mut roles = Vec::new();
    for (index, right) in granted.iter().enumerate() {
        roles.push(place.start(&right.who, &name(index), Some(right.clone()))?);
    }
    note("all others have been started");
    let is_up = |role: &Role| {
        let is_agent = role.without.as_ref().is_some_and(|it| it.who == "agent");
        let sign = if is_agent { "this agent tells authors" } else { "the API server answers" };
        role.has_said(sign) || !role.refused().is_empty()
    };
    let mut late: Vec<&mut Role> = roles.iter_mut().collect();
    wait_until(LIMIT, "all to be up, or refused something", || {
        for role in &mut late {
            role.process.must_run()?;
        }
        late.retain(|role| !is_up(role));
        std::thread::sleep(Duration::from_millis(100));
        Ok(late.is_empty().then_some(()))
    })?;
    note("all are up, or were refused something");
    // Something new to be read, and to be told of, while all of them are there.
    apply(&plane, 3)?;
    let mut unmissed: Vec<&Role> = roles.iter().collect();
    let waited = wait_until(Duration::from_secs(45), "each right to be missed", || {
        unmissed.retain(|role| role.refused().is_empty());
        std::thread::sleep(Duration::from_millis(100));
        Ok(unmissed.is_empty().then_some(()))
    });
    if waited.is_err() {
        let rights: Vec<_> =
            unmissed.iter().filter_map(|role| role.without.as_ref()).map(ToString::to_string).collect();
        anyhow::bail!("nobody misses: {rights:#?}");
    }
    note("each right is missed");
    for role in &roles {
        let Some(right) = &role.without else { continue };
        assert_eq!(role.refused(), BTreeSet::from([right.refusal()]), "{right}");
        if !matches!(right.verb.as_str(), "list" | "watch") {
            continue;
        }
        // Not only said: the kind is not there, or stays as it was, and all others go on.
        let status = role.status()?;
        for (kind, (state, count)) in Role::kinds(&status)? {
            let is_it = plural(&kind) == right.resource;
            assert_eq!(state == "failing", is_it, "{right}: {kind} is {state}");
            let want = match right.verb.as_str() {
                "list" => 0,
                _ => followed[&kind].1,
            };
            if is_it {
                assert_eq!(count, want, "{right}: {kind}");
            }
        }
        let generation = status.pointer("/configuration/generation").and_then(Value::as_u64);
        assert_eq!(
            generation == Some(0),
            right.verb == "list",
            "{right}: what cannot be listed is waited for"
        );
    }
    note("and it is the one that was taken away");
    drop(roles);
    assert_eq!(plane.end()?, Vec::<PathBuf>::new());
    Ok(())
}
