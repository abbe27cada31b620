//! The node daemon: source, proxy and capture together.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use undermesh_redirect::Redirect;

use super::capture::Capture;
use super::enrolment::LocalPods;
use super::publish::Published;
use super::{Common, finish};
use crate::admin::{self, Admin, Role};
use crate::shutdown;
use crate::source::files::FilesSource;

/// Pods that could not be captured are tried again this often; so is what the kernel forgot.
const RETRY: Duration = Duration::from_secs(2);
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
    /// Where to attach; found if not given.
    pub cgroup: Option<PathBuf>,
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
    let Settings { common, node, cgroup, listener_port, event_sample } = settings;
    // First of all, so that a failure says so before anything else is touched.
    let redirect = Redirect::load(&undermesh_redirect::Settings { cgroup, ..Default::default() })
        .context("the kernel half could not be loaded")?;
    let origins = redirect.origins();
    let redirect = Arc::new(Mutex::new(redirect));
    let published = Arc::new(Published::new());
    let (proxy, sink, writer) = common.proxy(&published)?;
    let proxy = Arc::new(proxy);
    let mut capture = Capture::new(redirect.clone(), listener_port, event_sample);
    let mut source = FilesSource::of(common.config.clone());
    published.publish(source.load());
    let mut local = LocalPods::new(node.as_str());
    let mut pass = |published: &Published| {
        let config = published.config.load();
        let pods = local.of(&config.inputs);
        let passed = capture.pass(pods, &published.snapshot.load(), &proxy);
        (passed, capture.rows())
    };
    let (first, rows) = pass(&published);
    let first = first?;
    tracing::info!(node, captured = first.captured, failed = first.failed, "pods captured");
    let admin = Admin::start(
        &common.admin_socket,
        common.metrics_address,
        admin::State {
            role: Role::Agent { node: node.clone() },
            published: published.clone(),
            proxy: proxy.clone(),
            redirect: Some(redirect.clone()),
            workloads: arc_swap::ArcSwap::from_pointee(rows),
            log_sink: sink.clone(),
        },
    )?;
    tracing::info!(socket = %common.admin_socket.display(), "ready");
    let mut last = first;
    let mut retry = tokio::time::interval(RETRY);
    let end = shutdown::requested();
    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            signal = &mut end => {
                tracing::info!(signal = signal?, "ending");
                break;
            }
            () = source.changed() => {
                published.publish(source.load());
            }
            _ = retry.tick() => {
                match origins.sweep(STALE_ORIGIN) {
                    Ok(0) => {}
                    Ok(removed) => tracing::info!(removed, "removed records of connections that nobody accepted"),
                    Err(error) => tracing::warn!(%error, "records of captured connections could not be looked through"),
                }
                if last.failed == 0 {
                    continue;
                }
            }
        }
        let (passed, rows) = pass(&published);
        admin.state().workloads.store(Arc::new(rows));
        match passed {
            Ok(passed) => {
                if passed != last {
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
