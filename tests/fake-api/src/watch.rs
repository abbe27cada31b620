//! The answer to a watch: lines, for as long as both sides want.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::Shared;
use crate::resource::Selector;
use crate::store::{Refusal, Resource};

/// What is watched.
pub(crate) struct Watch {
    pub(crate) resource: Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) bookmarks: bool,
    /// From here on; `None`: what there is comes first.
    pub(crate) from: Option<u64>,
    /// Whether the end of what there is is marked.
    pub(crate) marks_end: bool,
    pub(crate) seconds: u64,
}

/// A body that is written while it is sent.
pub(crate) struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// Begins to answer.
pub(crate) fn start(shared: Arc<Shared>, watch: Watch) -> Lines {
    let (lines, answer) = mpsc::channel(64);
    tokio::spawn(async move {
        // The client is gone: nobody is interested in the rest.
        let _ = write(&shared, watch, &lines).await;
    });
    Lines(answer)
}

async fn write(
    shared: &Shared,
    watch: Watch,
    lines: &mpsc::Sender<Bytes>,
) -> Result<(), mpsc::error::SendError<Bytes>> {
    let send = async |kind: &str, object: Value| {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        shared.lock().bytes += line.len() as u64;
        lines.send(line.into()).await
    };
    let mut revisions = shared.revision.subscribe();
    let mut injected = shared.lock().injected.len();
    let mut last = match watch.from {
        Some(revision) => revision,
        None => {
            let (objects, revision) = {
                let inner = shared.lock();
                let all =
                    inner.store.list(&watch.resource, watch.namespace.as_deref(), &watch.selector, None);
                (all.map(|(_, object)| object.clone()).collect::<Vec<_>>(), inner.store.revision())
            };
            for object in objects {
                send("ADDED", typed(&watch, object)).await?;
            }
            if watch.marks_end {
                send("BOOKMARK", bookmark(&watch, revision, true)).await?;
            }
            revision
        }
    };
    let end = Instant::now() + Duration::from_secs(watch.seconds);
    loop {
        let (is_gone, changes, raw, revision, pause) = {
            let inner = shared.lock();
            let changes =
                inner.store.changes_after(last, &watch.resource, watch.namespace.as_deref(), &watch.selector);
            let raw: Vec<String> = inner
                .injected
                .get(injected..)
                .unwrap_or_default()
                .iter()
                .filter(|(resource, _)| *resource == watch.resource)
                .map(|(_, line)| line.clone())
                .collect();
            injected = inner.injected.len();
            (inner.store.is_gone(last), changes, raw, inner.store.revision(), inner.faults.bookmarks)
        };
        if is_gone {
            return send("ERROR", Refusal::gone().status()).await;
        }
        for (kind, object) in changes {
            send(kind, typed(&watch, object)).await?;
        }
        for line in raw {
            lines.send(format!("{line}\n").into()).await?;
        }
        last = revision;
        tokio::select! {
            _ = revisions.changed() => {}
            () = tokio::time::sleep(pause), if watch.bookmarks => {
                send("BOOKMARK", bookmark(&watch, last, false)).await?;
            }
            () = sleep_until(end) => return Ok(()),
            () = lines.closed() => return Ok(()),
        }
    }
}

/// Objects of a watch say what they are, in the version that was asked for.
pub(crate) fn typed(watch: &Watch, mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".into(), json!(watch.api_version));
        fields.insert("kind".into(), json!(watch.kind));
    }
    object
}

fn bookmark(watch: &Watch, revision: u64, ends_list: bool) -> Value {
    let mut object = json!({"apiVersion": watch.api_version, "kind": watch.kind,
        "metadata": {"resourceVersion": revision.to_string()}});
    if ends_list {
        object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    object
}
