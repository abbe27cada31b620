//! Verdicts to the API server. Slowly: nobody reads them within a second, and the API server has better things to do.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, discovery};
use serde_json::{Value, json};
use undermesh_core::api::meta::Key;

use super::election::{Candidate, DURATION, PERIOD, Record, Step};
use super::verdict::{CONDITION, Subject, Verdict, verdicts};
use crate::app::publish::Published;
use crate::source::kubernetes::Access;

/// The Lease.
const LEASE: &str = "undermesh-diagnostics";
/// How often it is looked whether there is something new.
const LOOK: Duration = Duration::from_secs(1);
/// An API server that is there answers within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// What could not be written is tried again after so long.
const RETRY: Duration = Duration::from_secs(30);
/// Between two writes.
const PACE: Duration = Duration::from_millis(100);
/// Objects in one answer of the API server.
const PAGE: u32 = 500;
/// What events say they come from.
const COMPONENT: &str = "undermesh";

/// Groups whose kinds have a status for this.
const GROUPS: [&str; 2] = ["networking.istio.io", "security.istio.io"];

/// Who writes, and where its Lease is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The namespace of the Lease: the agent's own.
    pub namespace: String,
    /// A name that no other agent has, such as its pod's.
    pub identity: String,
}

/// Tells authors, as long as it is this agent's turn.
pub struct Writer {
    client: Client,
    settings: Settings,
    published: Arc<Published>,
    candidate: Candidate,
    /// Until when the Lease is ours without another word.
    leads_until: Option<Instant>,
    /// The Istio kinds that are served, by name, and whether they have a status.
    served: HashMap<String, (ApiResource, bool)>,
    /// What objects say now, so far as it is not good.
    written: BTreeMap<Subject, Verdict>,
    counts: Arc<Counts>,
    /// The last reason for which something could not be written, which has been logged.
    trouble: String,
}

/// What became of what there was to tell.
#[derive(Debug, Default)]
pub struct Counts {
    told: AtomicU64,
    untold: AtomicU64,
}

impl Counts {
    /// In Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        let name = "undermesh_authors_told_total";
        let [told, untold] = [&self.told, &self.untold].map(|count| count.load(Ordering::Relaxed));
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "# HELP {name} Verdicts on objects written for their authors.\n# TYPE {name} counter\n\
             {name}{{result=\"written\"}} {told}\n{name}{{result=\"failed\"}} {untold}"
        );
    }
}

impl Writer {
    /// With a connection of its own. Nothing is asked or written yet.
    ///
    /// # Errors
    /// As of [`Access`]: nothing says where the cluster is.
    pub async fn connect(
        access: &Access,
        settings: Settings,
        published: Arc<Published>,
        counts: Arc<Counts>,
    ) -> anyhow::Result<Self> {
        let (client, _) = access.client().await?;
        Ok(Self {
            candidate: Candidate::new(&settings.identity),
            client,
            settings,
            published,
            leads_until: None,
            served: HashMap::new(),
            written: BTreeMap::new(),
            counts,
            trouble: String::new(),
        })
    }

    /// Until the end of the agent. An API server that is away is asked again; traffic does not depend on any of this.
    pub async fn run(mut self) {
        let mut election = Instant::now();
        let mut done: Option<u64> = None;
        let mut not_before = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            if now >= election {
                let led = self.leads(now);
                if let Err(error) = in_time(self.elect(now)).await {
                    self.complain("the Lease could not be had", &error);
                }
                election = Instant::now() + PERIOD;
                if self.leads(Instant::now()) && !led {
                    tracing::info!(lease = LEASE, "this agent tells authors of objects what became of them");
                    done = None;
                    if let Err(error) = self.learn().await {
                        self.complain("the status of objects cannot be read", &error);
                        // Who cannot read must not keep others from trying.
                        self.leads_until = None;
                    }
                }
            }
            if !self.leads(Instant::now()) || Instant::now() < not_before {
                continue;
            }
            let config = self.published.config.load_full();
            if done != Some(config.generation) {
                if self.write(verdicts(&config.diagnostics)).await {
                    done = Some(config.generation);
                } else {
                    not_before = Instant::now() + RETRY;
                }
            }
        }
    }

    /// Once for each reason.
    fn complain(&mut self, what: &str, error: &kube::Error) {
        let text = format!("{what}: {error}");
        if text != self.trouble {
            tracing::warn!("authors are not told what became of objects: {text}");
            self.trouble = text;
        }
    }

    fn leads(&self, now: Instant) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    async fn elect(&mut self, now: Instant) -> kube::Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let lease = leases.get_opt(LEASE).await?;
        let record = lease.as_ref().map(|lease| Record {
            holder: lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
        });
        let step = self.candidate.step(record.as_ref(), now);
        if step == Step::Wait {
            self.leads_until = None;
            return Ok(());
        }
        let time = MicroTime(Timestamp::now());
        let is_first = lease.is_none();
        let version = lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        let mut spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
        spec.holder_identity = Some(self.candidate.identity().to_owned());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        if step != Step::Renew {
            spec.acquire_time = Some(time.clone());
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
        }
        let spec = LeaseSpec { renew_time: Some(time), ..spec };
        let metadata =
            ObjectMeta { name: Some(LEASE.to_owned()), resource_version: version, ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(spec) };
        if is_first {
            leases.create(&params(), &lease).await?;
        } else {
            // With the version that was read: of two who would take it, one is refused.
            leases.replace(LEASE, &params(), &lease).await?;
        }
        self.leads_until = Some(now + DURATION);
        Ok(())
    }

    /// Which kinds have a status, and what was written before our time.
    async fn learn(&mut self) -> kube::Result<()> {
        self.served.clear();
        self.written.clear();
        for group in GROUPS {
            let group = match in_time(discovery::group(&self.client, group)).await {
                Ok(group) => group,
                // Not installed; nothing of it can be wrong.
                Err(kube::Error::Discovery(_)) => continue,
                Err(error) => return Err(error),
            };
            for (resource, capabilities) in group.recommended_resources() {
                let is_status = |(it, _): &(ApiResource, _)| it.plural.rsplit('/').next() == Some("status");
                let has_status = capabilities.subresources.iter().any(is_status);
                self.served.insert(resource.kind.clone(), (resource, has_status));
            }
        }
        for (resource, _) in self.served.values().filter(|(_, has_status)| *has_status) {
            let objects: Api<DynamicObject> = Api::all_with(self.client.clone(), resource);
            let mut page = ListParams::default().limit(PAGE);
            loop {
                let list = in_time(objects.list(&page)).await?;
                for object in &list.items {
                    if let Some(verdict) = condition_of(&object.data) {
                        self.written.insert(subject(&resource.kind, &object.metadata), verdict);
                    }
                }
                match list.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => page = page.continue_token(&token),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Writes what differs; answers whether all could be written.
    async fn write(&mut self, wanted: BTreeMap<Subject, Verdict>) -> bool {
        let healed = self.written.keys().filter(|subject| !wanted.contains_key(subject));
        let healed: Vec<_> = healed.map(|subject| (subject.clone(), Verdict::good())).collect();
        let mut is_complete = true;
        for (subject, verdict) in wanted.into_iter().chain(healed) {
            if self.written.get(&subject) == Some(&verdict) {
                continue;
            }
            match in_time(self.tell(&subject, &verdict)).await {
                Ok(()) => {
                    self.counts.told.fetch_add(1, Ordering::Relaxed);
                    if verdict == Verdict::good() {
                        self.written.remove(&subject);
                    } else {
                        self.written.insert(subject, verdict);
                    }
                }
                // It is gone, and with it who could read it.
                Err(kube::Error::Api(status)) if status.code == 404 => drop(self.written.remove(&subject)),
                Err(error) => {
                    self.counts.untold.fetch_add(1, Ordering::Relaxed);
                    let Subject { kind, key } = &subject;
                    self.complain(&format!("{kind} {key}"), &error);
                    is_complete = false;
                }
            }
            tokio::time::sleep(PACE).await;
            if !self.leads(Instant::now()) {
                return false;
            }
        }
        is_complete
    }

    async fn tell(&self, subject: &Subject, verdict: &Verdict) -> kube::Result<()> {
        match self.served.get(&subject.kind) {
            Some((resource, true)) => self.set_condition(resource, subject, verdict).await,
            // Events fade by themselves.
            _ if *verdict == Verdict::good() => Ok(()),
            Some((resource, false)) => self.emit(resource, subject, verdict).await,
            None => match core_resource(&subject.kind) {
                Some(resource) => self.emit(&resource, subject, verdict).await,
                // Nothing of the kind is served, so there is nobody's object to tell of; mesh settings have no author to be told
                // but by `check` and the log, as their ConfigMap may only be listed and watched.
                None => Ok(()),
            },
        }
    }

    async fn set_condition(
        &self,
        resource: &ApiResource,
        subject: &Subject,
        verdict: &Verdict,
    ) -> kube::Result<()> {
        let objects: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &subject.key.namespace, resource);
        let object = objects.get(&subject.key.name).await?;
        let mut conditions = object.data["status"]["conditions"].clone();
        let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        merge(&mut conditions, verdict, &time);
        // With the version that was read: what somebody wrote meanwhile is not overwritten.
        let patch = json!({
            "metadata": { "resourceVersion": object.metadata.resource_version },
            "status": { "conditions": conditions },
        });
        objects.patch_status(&subject.key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn emit(&self, resource: &ApiResource, subject: &Subject, verdict: &Verdict) -> kube::Result<()> {
        let namespace = &*subject.key.namespace;
        let objects: Api<DynamicObject> = if namespace.is_empty() {
            Api::all_with(self.client.clone(), resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, resource)
        };
        let about = objects.get_metadata(&subject.key.name).await?;
        let home = if namespace.is_empty() { "default" } else { namespace };
        let events: Api<Event> = Api::namespaced(self.client.clone(), home);
        let name = event_name(subject, verdict);
        let now = MicroTime(Timestamp::now());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(home.to_owned()),
                ..ObjectMeta::default()
            },
            regarding: Some(ObjectReference {
                api_version: Some(resource.api_version.clone()),
                kind: Some(subject.kind.clone()),
                name: Some(subject.key.name.to_string()),
                namespace: Some(namespace.to_owned()).filter(|it| !it.is_empty()),
                uid: about.metadata.uid,
                ..ObjectReference::default()
            }),
            type_: Some("Warning".to_owned()),
            action: Some("Compile".to_owned()),
            reason: Some(verdict.reason.to_owned()),
            note: Some(verdict.message.clone()),
            event_time: Some(now.clone()),
            reporting_controller: Some(COMPONENT.to_owned()),
            reporting_instance: Some(self.settings.identity.clone()),
            ..Event::default()
        };
        match events.create(&params(), &event).await {
            // Said before, by whoever wrote then: it is as true now.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let patch = json!({ "series": { "count": 2, "lastObservedTime": now } });
                events.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
            created => created.map(drop),
        }
    }
}

/// `kube` waits for an answer as long as the connection seems to be there.
async fn in_time<T>(asked: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service(format!("no answer within {} s", PATIENCE.as_secs()).into())),
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(COMPONENT.to_owned()), ..PostParams::default() }
}

fn subject(kind: &str, metadata: &ObjectMeta) -> Subject {
    let key = Key::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    );
    Subject { kind: kind.to_owned(), key }
}

/// The same remark has the same name, so it is counted and not repeated.
fn event_name(subject: &Subject, verdict: &Verdict) -> String {
    let mut hasher = DefaultHasher::new();
    (&subject.kind, verdict.reason, &verdict.message).hash(&mut hasher);
    format!("{}.{:016x}", subject.key.name, hasher.finish())
}

/// Kinds of Kubernetes that remarks can be about: what the API server takes of the others is in order. A kind that is added here
/// is to be added to the role in the chart, for `get`.
fn core_resource(kind: &str) -> Option<ApiResource> {
    let (group, plural) = match kind {
        "Pod" => ("", "pods"),
        "Namespace" => ("", "namespaces"),
        "EndpointSlice" => ("discovery.k8s.io", "endpointslices"),
        _ => return None,
    };
    let gvk = kube::core::GroupVersionKind::gvk(group, "v1", kind);
    Some(ApiResource::from_gvk_with_plural(&gvk, plural))
}

/// Our condition of an object, if it has one that says that something is wrong.
fn condition_of(object: &Value) -> Option<Verdict> {
    let conditions = object["status"]["conditions"].as_array()?;
    let ours = conditions.iter().find(|it| it["type"] == CONDITION)?;
    let known = ["NotInForce", "PartlyRefused", "InForceWithWarnings"];
    let reason = known.into_iter().find(|it| ours["reason"] == *it)?;
    Some(Verdict {
        holds: ours["status"] == "True",
        reason,
        message: ours["message"].as_str().unwrap_or_default().to_owned(),
    })
}

/// Puts our condition among those of others.
fn merge(conditions: &mut Value, verdict: &Verdict, now: &str) {
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(all) = conditions.as_array_mut() else { return };
    let status = if verdict.holds { "True" } else { "False" };
    let before = all.iter().position(|it| it["type"] == CONDITION).map(|at| all.remove(at));
    let since = before
        .filter(|before| before["status"] == status)
        .and_then(|before| before["lastTransitionTime"].as_str().map(str::to_owned));
    all.push(json!({
        "type": CONDITION,
        "status": status,
        "reason": verdict.reason,
        "message": verdict.message,
        "lastTransitionTime": since.as_deref().unwrap_or(now),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong() -> Verdict {
        Verdict { holds: false, reason: "NotInForce", message: "no".into() }
    }

    #[test]
    fn our_condition_joins_those_of_others_and_keeps_its_time_while_it_says_the_same() {
        let mut status = json!({"conditions": [{"type": "Reconciled", "status": "True"}]});
        merge(&mut status["conditions"], &wrong(), "t1");
        merge(&mut status["conditions"], &Verdict { message: "still no".into(), ..wrong() }, "t2");
        assert_eq!(
            status["conditions"],
            json!([
                {"type": "Reconciled", "status": "True"},
                {
                    "type": CONDITION, "status": "False", "reason": "NotInForce", "message": "still no",
                    "lastTransitionTime": "t1"
                },
            ])
        );
        merge(&mut status["conditions"], &Verdict::good(), "t3");
        let ours = &status["conditions"][1];
        assert_eq!((&ours["status"], &ours["lastTransitionTime"]), (&json!("True"), &json!("t3")));
        assert_eq!(status["conditions"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn what_was_written_is_read_again_and_a_good_one_is_nothing_to_remember() {
        let mut object = json!({"status": {"conditions": null}});
        merge(&mut object["status"]["conditions"], &wrong(), "t1");
        assert_eq!(condition_of(&object), Some(wrong()));
        merge(&mut object["status"]["conditions"], &Verdict::good(), "t2");
        assert_eq!(condition_of(&object), None);
        assert_eq!(condition_of(&json!({})), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_is_not_waited_for() {
        let began = tokio::time::Instant::now();
        let error = in_time(std::future::pending::<kube::Result<()>>()).await.unwrap_err();
        assert_eq!(began.elapsed(), PATIENCE);
        assert!(error.to_string().contains("no answer within 30 s"), "{error}");
        assert!(in_time(async { Ok(()) }).await.is_ok());
    }

    #[test]
    fn what_was_told_and_what_could_not_be_is_counted_apart() {
        let counts = Counts::default();
        counts.untold.fetch_add(2, Ordering::Relaxed);
        let mut text = String::new();
        counts.render(&mut text);
        assert!(text.contains("undermesh_authors_told_total{result=\"written\"} 0\n"), "{text}");
        assert!(text.contains("undermesh_authors_told_total{result=\"failed\"} 2\n"), "{text}");
    }

    #[test]
    fn a_remark_has_a_name_and_another_one_another() {
        let subject = Subject { kind: "Service".into(), key: Key::new("default", "web") };
        let other = Verdict { message: "another".into(), ..wrong() };
        assert_eq!(event_name(&subject, &wrong()), event_name(&subject, &wrong()));
        assert_ne!(event_name(&subject, &wrong()), event_name(&subject, &other));
    }
}
