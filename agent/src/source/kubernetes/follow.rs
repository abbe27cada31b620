//! One kind, from its list to its changes, for as long as the source lives.
//!
//! ```text
//!          ┌──────────── 410 Gone ─────────────┐
//!          ▼                                   │
//!   list (streamed, or in pages) ──▶ watch ──▶ end of it, silence: watch from where it was
//!          ▲                           │
//!          └── failure: wait ◀─────────┴── failure: wait, watch from where it was
//! ```
//!
//! What was read stays until the server says that it is gone: by an event, or by a complete list on which it is not.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};
use undermesh_core::api::meta::Key;

use super::Shared;
use super::ask::{Part, ask, ask_all, next};
use super::kinds::Kind;
use super::link::Trouble;
use super::pace::{Pace, jittered};
use super::store;
use super::wire::{self, Event};

/// Objects per page: what is held as text at a time.
const PAGE: usize = 500;
/// etcd holds objects of 1.5 MiB.
const MAX_LINE: usize = 16 << 20;

/// A watch that ends sooner, and has said nothing, has failed.
const SHORT: Duration = Duration::from_secs(1);

/// See the module's text.
pub(super) struct Follower {
    shared: Arc<Shared>,
    kind: &'static Kind,
    pace: Pace,
    /// Where to go on watching; `None`: from a new list.
    position: Option<String>,
}

/// Why a list or watch did not go on.
enum Stop {
    /// Too much has happened since: list anew.
    Gone,
    /// Streamed lists are not to be had.
    NoStreams,
    Trouble(Trouble),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused { status: 410, .. } => Self::Gone,
            other => Self::Trouble(other),
        }
    }
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>, kind: &'static Kind) -> Self {
        Self { shared, kind, pace: Pace::default(), position: None }
    }

    /// Never returns.
    pub(super) async fn run(mut self) {
        loop {
            let Some(version) = self.version().await else { continue };
            let stopped = match self.position.clone() {
                Some(position) => self.watch(version, &format!("resourceVersion={position}"), None).await,
                None => self.list(version).await,
            };
            match stopped {
                Ok(()) => continue,
                Err(Stop::NoStreams) => {
                    self.shared.can_stream.store(false, Ordering::Relaxed);
                    continue;
                }
                Err(Stop::Gone) => {
                    tracing::debug!(kind = self.kind.name, "changes were missed: reading all of them anew");
                    self.position = None;
                }
                Err(Stop::Trouble(trouble)) => {
                    if matches!(trouble, Trouble::Refused { status: 404, .. }) {
                        self.position = None;
                        self.shared.rediscover.notify_one();
                    }
                    self.shared.link.failed(self.kind, trouble);
                }
            }
            sleep(self.pace.after_failure()).await;
        }
    }

    /// The version to ask for; `None` after the server had none for a while.
    async fn version(&mut self) -> Option<&'static str> {
        if self.kind.is_built_in {
            return self.kind.versions.first().copied();
        }
        let mut served = self.shared.served.subscribe();
        let version = {
            let known = served.wait_for(Option::is_some).await;
            known.ok().and_then(|known| known.as_ref()?.get(self.kind.name).copied())
        };
        if version.is_some() {
            return version;
        }
        self.position = None;
        self.complete(&HashSet::new());
        self.shared.link.not_served(self.kind);
        // A kind that is not there is not waited for.
        let _ended = served.changed().await;
        None
    }

    async fn list(&mut self, version: &str) -> Result<(), Stop> {
        self.shared.link.lists(self.kind, version);
        if self.shared.can_stream.load(Ordering::Relaxed) {
            let how = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
            return match self.watch(version, how, Some(HashSet::new())).await {
                // An older server does not know the question; one that does not stream refuses it.
                Err(Stop::Trouble(Trouble::Refused { status: 400 | 422, .. })) => Err(Stop::NoStreams),
                other => other,
            };
        }
        let mut listed = HashSet::new();
        let mut next_page = String::new();
        loop {
            let path = format!("{}?limit={PAGE}{}{next_page}", self.kind.path(version), self.selector());
            let text = ask_all(&self.shared.client, &self.shared.link, &path).await?;
            self.shared.link.listing(self.kind);
            let mut has_changed = false;
            let page = wire::page(&text, &mut |object| {
                let (key, changed) = self.apply(version, object);
                has_changed |= changed;
                listed.extend(key);
            });
            self.after(has_changed);
            let head =
                page.map_err(|error| Trouble::Unreachable(format!("a list cannot be read: {error}")))?;
            if head.next.is_empty() {
                self.complete(&listed);
                self.position = Some(head.version);
                self.pace.reset();
                return Ok(());
            }
            next_page = format!("&continue={}", encoded(&head.next));
        }
    }

    /// Follows changes until the server ends it. With `listed`, all objects come first and are gathered there.
    async fn watch(
        &mut self,
        version: &str,
        from: &str,
        mut listed: Option<HashSet<Key>>,
    ) -> Result<(), Stop> {
        let timing = self.shared.timing;
        let seconds = jittered(timing.watch).as_secs().max(1);
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&{from}{}",
            self.kind.path(version),
            self.selector()
        );
        let mut body = ask(&self.shared.client, &path).await?.into_body();
        self.shared.link.watches(self.kind);
        match listed {
            Some(_) => self.shared.link.listing(self.kind),
            None => self.shared.link.watching(self.kind),
        }
        let mut text: Vec<u8> = Vec::new();
        let (began, mut has_come) = (Instant::now(), false);
        loop {
            let patience = if listed.is_some() { timing.first_list } else { timing.silence };
            let data = match next(&mut body, &self.shared.link, patience).await? {
                Part::Data(data) => data,
                // Asked again at once, it would go on like this as fast as the network does (client-go's "very short watch").
                Part::End if !has_come && began.elapsed() < SHORT => {
                    let what = "the server ended a watch at once, and said nothing".to_owned();
                    return Err(Trouble::Unreachable(what).into());
                }
                Part::Silence if listed.is_some() => return Err(Stop::NoStreams),
                // Not necessarily a failure, but a connection that is dead looks the same: watch by another one.
                Part::End | Part::Silence => return Ok(()),
            };
            has_come = true;
            text.extend_from_slice(&data);
            let mut start = 0;
            let mut has_changed = false;
            let mut failed = None;
            while let Some(length) =
                text.get(start..).and_then(|rest| rest.iter().position(|it| *it == b'\n'))
            {
                let line = text.get(start..start + length).unwrap_or_default();
                start += length + 1;
                match self.line(version, line, &mut listed) {
                    Ok(changed) => has_changed |= changed,
                    Err(stop) => {
                        failed = Some(stop);
                        break;
                    }
                }
            }
            text.drain(..start);
            self.after(has_changed);
            if let Some(stop) = failed {
                return Err(stop);
            }
            if text.len() > MAX_LINE {
                let message = format!("an event of more than {MAX_LINE} bytes");
                return Err(Stop::Trouble(Trouble::Unreachable(message)));
            }
        }
    }

    /// One event. Whether anything changed.
    fn line(&mut self, version: &str, line: &[u8], listed: &mut Option<HashSet<Key>>) -> Result<bool, Stop> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(false);
        }
        let event = match wire::event(line) {
            Ok(event) => event,
            Err(error) => {
                self.shared.link.malformed(self.kind, &error.to_string());
                return Ok(false);
            }
        };
        let (has_changed, position) = match event {
            Event::Applied(object) => {
                let position = wire::version(&object).to_owned();
                let (key, changed) = self.apply(version, object);
                if let Some(listed) = listed {
                    listed.extend(key);
                }
                (changed, position)
            }
            Event::Deleted(object) => {
                let position = wire::version(&object).to_owned();
                self.shared.link.event(self.kind);
                let Some(key) = store::key(self.kind, &object) else {
                    self.shared.link.malformed(self.kind, "an object without a name is gone");
                    return Ok(false);
                };
                if let Some(listed) = listed {
                    listed.remove(&key);
                }
                (self.shared.store().delete(self.kind, key), position)
            }
            Event::Bookmark { version, ends_list } => {
                if ends_list && let Some(listed) = listed.take() {
                    self.complete(&listed);
                    self.shared.link.watching(self.kind);
                }
                (false, version)
            }
            Event::Failed { code, message } => {
                return Err(Trouble::Refused { status: code, message }.into());
            }
        };
        // Within a list there is nowhere to go on from.
        if listed.is_none() && !position.is_empty() {
            self.position = Some(position);
        }
        self.pace.reset();
        Ok(has_changed)
    }

    /// An object as the server has it now: its key if it has one, and whether anything changed.
    fn apply(&self, version: &str, object: Value) -> (Option<Key>, bool) {
        self.shared.link.event(self.kind);
        let Some(key) = store::key(self.kind, &object) else {
            self.shared.link.malformed(self.kind, "an object without a name");
            return (None, false);
        };
        let has_changed = self.shared.store().apply(self.kind, version, key.clone(), object);
        (Some(key), has_changed)
    }

    /// All that there is has been read.
    fn complete(&self, listed: &HashSet<Key>) {
        let has_changed = self.shared.store().keep_only(self.kind, listed);
        self.after(has_changed);
        self.shared.complete(self.kind);
    }

    fn after(&self, has_changed: bool) {
        let count = self.shared.store().count(self.kind);
        self.shared.link.objects(self.kind, count);
        if has_changed {
            self.shared.changed();
        }
    }

    fn selector(&self) -> String {
        self.kind.field_selector.map(|it| format!("&fieldSelector={}", encoded(it))).unwrap_or_default()
    }
}

/// For a query.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
