//! Which of the Istio kinds the server has, and in which version. They may be installed at any time, and go.
//!
//! The server is asked at the start, while a kind is missing, and when one cannot be found any more. Definitions could be
//! watched instead, which needs one more permission; to ask what there is, everybody may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::sleep;

use super::Shared;
use super::ask::ask_all;
use super::kinds::{KINDS, Kind, optional_groups};
use super::link::Trouble;
use super::pace::{Pace, jittered};

/// The version of each kind that is served; kinds that are not in here are not served.
pub(super) type Served = BTreeMap<&'static str, &'static str>;

/// While a kind is missing, it is looked for this often.
const POLL: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize)]
struct GroupVersion {
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

/// Looks for the kinds for as long as the source lives.
pub(super) async fn discover(shared: Arc<Shared>) {
    let mut pace = Pace::default();
    // Kinds that the last answer did not have although they were served before: a server that has just started may not
    // know all of its kinds yet, so one answer is not enough to let go of objects.
    let mut doubted: Served = Served::new();
    loop {
        let wait = match look(&shared).await {
            Ok(found) => {
                pace.reset();
                let known = shared.served.borrow().clone().unwrap_or_default();
                let lost: Served = known
                    .iter()
                    .filter(|(name, _)| !found.contains_key(*name))
                    .map(|(k, v)| (*k, *v))
                    .collect();
                let still =
                    lost.iter().filter(|(name, _)| !doubted.contains_key(*name)).map(|(k, v)| (*k, *v));
                let mut served = found;
                served.extend(still);
                doubted = lost;
                let is_complete = doubted.is_empty()
                    && KINDS.iter().all(|kind| kind.is_built_in || served.contains_key(kind.name));
                shared.served.send_if_modified(|now| {
                    let is_new = now.as_ref() != Some(&served);
                    *now = Some(served);
                    is_new
                });
                (!is_complete).then(|| jittered(shared.timing.discovery))
            }
            Err(trouble) => {
                if shared.served.borrow().is_none() {
                    for kind in KINDS.iter().filter(|kind| !kind.is_built_in) {
                        shared.link.failed(kind, trouble.clone());
                    }
                }
                Some(pace.after_failure())
            }
        };
        match wait {
            Some(wait) => {
                tokio::select! {
                    () = sleep(wait) => {}
                    // Not more often than this, whoever asks.
                    () = async { shared.rediscover.notified().await; sleep(wait / 8).await } => {}
                }
            }
            None => shared.rediscover.notified().await,
        }
    }
}

/// How often a missing kind is looked for, unless told otherwise.
pub(super) const fn default_poll() -> Duration {
    POLL
}

async fn look(shared: &Shared) -> Result<Served, Trouble> {
    let mut served = Served::new();
    for group in optional_groups() {
        let Some(text) =
            unless_missing(ask_all(&shared.client, &shared.link, &format!("/apis/{group}")).await)?
        else {
            continue;
        };
        let versions: Vec<String> = read::<Group>(&text)?.versions.into_iter().map(|it| it.version).collect();
        let of_group: Vec<&'static Kind> = KINDS.iter().filter(|kind| kind.group == group).collect();
        let preferred = of_group.first().map(|kind| kind.versions).unwrap_or_default();
        for &version in preferred.iter().filter(|version| versions.iter().any(|it| it == *version)) {
            if of_group.iter().all(|kind| served.contains_key(kind.name)) {
                break;
            }
            let path = format!("/apis/{group}/{version}");
            let Some(text) = unless_missing(ask_all(&shared.client, &shared.link, &path).await)? else {
                continue;
            };
            let resources = read::<Resources>(&text)?.resources;
            for kind in &of_group {
                if resources.iter().any(|it| it.name == kind.plural) {
                    served.entry(kind.name).or_insert(version);
                }
            }
        }
    }
    Ok(served)
}

fn unless_missing<T>(answer: Result<T, Trouble>) -> Result<Option<T>, Trouble> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Trouble::Refused { status: 404, .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

fn read<T: for<'de> Deserialize<'de>>(text: &[u8]) -> Result<T, Trouble> {
    serde_json::from_slice(text)
        .map_err(|error| Trouble::Unreachable(format!("what it serves cannot be read: {error}")))
}
