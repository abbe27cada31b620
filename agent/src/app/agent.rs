//! The node daemon: source, proxy and capture together.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use undermesh_redirect::Redirect;

use super::capture::{self, Capture, Surroundings};
use super::enrolment::{self, LocalPods, Rules};
use super::publish::Published;
use super::{Common, finish};
use crate::admin::{self, Admin, Role};
use crate::report::{self, Writer};
use crate::shutdown;
use crate::source::Place;

/// Pods that could not be captured are tried again this often; so is what the kernel forgot.
const RETRY: Duration = Duration::from_secs(2);
/// Everything is looked at afresh this often, in case that news of a cgroup was lost.
const RESCAN: Duration = Duration::from_secs(30);
/// A process joins its pod's namespace some milliseconds after its cgroup, and nothing tells. So a pod that is not there yet is
/// looked for this often, for so long after the last news of a cgroup.
const SOON: Duration = Duration::from_millis(4);
const SOON_FOR: Duration = Duration::from_secs(1);
/// Then, as a busy node is slow, and for one whose sandbox may be another, this often, for so long.
const LATER: Duration = Duration::from_millis(50);
const LATER_FOR: Duration = Duration::from_secs(5);
/// Origins of connections that nobody accepted for so long are removed.
const STALE_ORIGIN: Duration = Duration::from_secs(60);

/// A connection that was redirected when the end began is in the listener's queue after so long.
const ON_THEIR_WAY: Duration = Duration::from_millis(200);

/// What the node daemon is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As for a gateway.
    pub common: Common,
    /// This node's name: pods with this `spec.nodeName` are ours.
    pub node: String,
    /// Where the node's cgroup2 is; found if not given.
    pub cgroup: Option<PathBuf>,
    /// The node's `/proc`.
    pub proc: PathBuf,
    /// The node's network namespace; `None`: this process's.
    pub node_netns: Option<PathBuf>,
    /// The label `istio-injection: enabled` of a namespace enrols, too.
    pub enrol_istio_injection: bool,
    /// As whom it may tell authors of objects what became of them; `None`: it does not.
    pub report: Option<report::Settings>,
    /// The port of the listeners in the pods.
    pub listener_port: NonZeroU16,
    /// One of so many kernel decisions becomes an event; 0: none.
    pub event_sample: u32,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start; the message says what is missing.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let Settings {
        common,
        node,
        cgroup,
        proc,
        node_netns,
        enrol_istio_injection,
        report,
        listener_port,
        event_sample,
    } = settings;
    // First of all, so that a failure says so before anything else is touched.
    let (mut source, socket) = common.take()?;
    let mut redirect =
        Redirect::load(&undermesh_redirect::Settings { cgroup, node_netns, ..Default::default() })
            .context("the kernel half could not be loaded")?;
    let origins = redirect.origins();
    let mut cgroups = redirect.pod_cgroups();
    let own_pod = redirect.own_pod();
    let redirect = Arc::new(Mutex::new(redirect));
    let published = Arc::new(Published::new());
    let (proxy, sink, writer) = common.proxy(&published)?;
    let proxy = Arc::new(proxy);
    let mut capture =
        Capture::new(redirect.clone(), capture::Settings { listener_port, event_sample, proc })?;
    let told = Arc::new(report::Counts::default());
    let admin = Admin::start(
        socket,
        common.metrics_address,
        admin::State {
            role: Role::Agent { node: node.clone() },
            published: published.clone(),
            proxy: proxy.clone(),
            redirect: Some(redirect.clone()),
            workloads: arc_swap::ArcSwap::from_pointee(serde_json::json!([])),
            log_sink: sink.clone(),
            source: source.link(),
            report: report.as_ref().map(|_| told.clone()),
            is_ready: Default::default(),
        },
    )?;
    let end = shutdown::requested();
    let mut end = std::pin::pin!(end);
    tokio::select! {
        loaded = source.load() => published.publish(loaded),
        signal = &mut end => {
            tracing::info!(signal = signal?, "ending before there was a configuration");
            return Ok(());
        }
    };
    let mut local = LocalPods::new(node.as_str());
    let mut pass = |published: &Published, around: &Surroundings<'_>| {
        let config = published.config.load();
        let rules = Rules {
            istio_injection: enrol_istio_injection,
            trusts_annotations: config.trusts_annotations,
            own_pod,
        };
        let pods = local.of(&config.inputs, rules);
        let passed = capture.pass(pods, around, &published.snapshot.load(), &proxy);
        let has_changed = passed.as_ref().map_or(true, |passed| passed.has_changed);
        (passed, has_changed.then(|| capture.rows()))
    };
    let nothing = BTreeSet::new();
    let (first, rows) = pass(&published, &Surroundings { cgroups: &cgroups, touched: &nothing });
    let (first, rows) = (first?, rows.unwrap_or_else(|| serde_json::json!([])));
    tracing::info!(node, captured = first.captured, failed = first.failed, "pods captured");
    if let Some(text) = enrolment::elsewhere(&published.config.load().inputs, &node) {
        tracing::warn!("{text}");
    }
    admin.state().workloads.store(Arc::new(rows));
    admin.state().is_ready.set();
    if let (Place::Kubernetes(access), Some(report)) = (&common.source, report) {
        match Writer::connect(access, report, published.clone(), told).await {
            Ok(writer) => drop(tokio::spawn(writer.run())),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "authors are not told what became of objects");
            }
        }
    }
    tracing::info!(socket = %common.admin_socket.display(), "ready");
    let mut last = first;
    let mut retry = tokio::time::interval(RETRY);
    let mut rescan = tokio::time::interval(RESCAN);
    let mut news_at = Instant::now();
    // The pods of the last news.
    let mut recent = BTreeSet::new();
    loop {
        let mut touched = BTreeSet::new();
        let since_news = news_at.elapsed();
        if since_news > LATER_FOR {
            recent.clear();
        }
        let step = if since_news < SOON_FOR { SOON } else { LATER };
        tokio::select! {
            signal = &mut end => {
                tracing::info!(signal = signal?, "ending");
                break;
            }
            () = source.changed() => {
                published.publish(source.load().await);
            }
            pods = cgroups.changed() => {
                recent.extend(&pods);
                touched = pods;
                news_at = Instant::now();
            }
            () = tokio::time::sleep(step), if last.waiting > 0 && since_news < LATER_FOR => {}
            () = tokio::time::sleep(LATER), if !recent.is_empty() => touched.clone_from(&recent),
            _ = rescan.tick() => {
                cgroups.rescan();
                touched = cgroups.pods().map(|(uid, _)| uid).collect();
            }
            _ = retry.tick() => {
                match origins.sweep(STALE_ORIGIN) {
                    Ok(0) => {}
                    Ok(removed) => tracing::info!(removed, "removed records of connections that nobody accepted"),
                    Err(error) => tracing::warn!(%error, "records of captured connections could not be looked through"),
                }
                if last.failed + last.waiting + last.retired == 0 {
                    continue;
                }
            }
        }
        let (passed, rows) = pass(&published, &Surroundings { cgroups: &cgroups, touched: &touched });
        if let Some(rows) = rows {
            admin.state().workloads.store(Arc::new(rows));
        }
        match passed {
            Ok(passed) => {
                let count = |pass: capture::Pass| (pass.captured, pass.failed);
                if count(passed) != count(last) {
                    tracing::info!(captured = passed.captured, failed = passed.failed, "pods captured");
                }
                last = passed;
            }
            // Tried again with the next change or tick.
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "capture could not be brought up to date");
                last.failed += 1;
            }
        }
    }
    // New connections go past us from here on; those on their way are accepted; then what we have is served to its end.
    if let Err(error) = capture.stop_redirecting(&published.snapshot.load()) {
        tracing::warn!(
            error = format!("{error:#}"),
            "connections may be redirected until the programs are gone"
        );
    }
    tokio::time::sleep(ON_THEIR_WAY).await;
    admin.end();
    drop((capture, redirect));
    finish(proxy, sink, writer, common.drain);
    Ok(())
}
