//! Names of upstreams as addresses: looked up once for the whole process, kept fresh while somebody uses them.
//!
//! A request never waits for a name that is known. The first one to ask waits, within a limit, for the first answer; from
//! then on a task of its own asks again when the answer's time is up. A failed look-up leaves the last good answer in force
//! and is counted (as Envoy's STRICT_DNS and LOGICAL_DNS do).

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::metrics::{Counter, Shard};

/// An answer is believed for at least so long, however short its time to live: a server that says 0 is not asked for each
/// request.
const SHORTEST: Duration = Duration::from_secs(1);
/// And for at most so long: who moves a service should not have to wait a day for us.
const LONGEST: Duration = Duration::from_secs(300);
/// After failures the pause doubles up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// No answer within this is none.
const PATIENCE: Duration = Duration::from_secs(10);
/// A name that nobody used for so long is forgotten.
const UNUSED: Duration = Duration::from_secs(600);
/// DYNAMIC_DNS takes names from clients, so there must be an end to them (Envoy: `max_hosts`, 1024).
const MOST: usize = 4096;

/// Asks for the addresses of names. Implemented by whoever starts the proxy; called on its workers' threads.
pub trait Resolver: Send + Sync {
    /// The addresses of `name`, of both families.
    fn resolve(&self, name: &str) -> Lookup;
}

/// A look-up under way.
pub type Lookup = Pin<Box<dyn Future<Output = Result<Answer, LookupError>> + Send>>;

/// What a name server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// In the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// How long it holds.
    pub time_to_live: Duration,
}

/// There is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("looking up the name failed: {0}")]
pub struct LookupError(pub String);

/// For those who have nothing to ask: every look-up fails.
pub struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &str) -> Lookup {
        Box::pin(std::future::ready(Err(LookupError("there is no resolver".to_owned()))))
    }
}

/// A name as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRow {
    /// In lower case.
    pub name: Arc<str>,
    /// Of the last good answer.
    pub addresses: Vec<IpAddr>,
    /// Look-ups that failed since.
    pub failures: u64,
}

/// All names that are in use.
pub(crate) struct Names {
    resolver: Arc<dyn Resolver>,
    known: Mutex<HashMap<Arc<str>, Arc<Name>>>,
}

/// One name.
pub(crate) struct Name {
    text: Arc<str>,
    state: watch::Sender<State>,
    /// Counts up with every change of the addresses, and at the end.
    version: AtomicU64,
    is_used: AtomicBool,
}

#[derive(Debug, Clone, Default)]
struct State {
    /// `None` before the first good answer.
    addresses: Option<Arc<[IpAddr]>>,
    failures: u64,
}

impl Name {
    /// Counts up with every change of [`Name::addresses`]. Asking keeps the name in use.
    pub(crate) fn version(&self) -> u64 {
        self.is_used.store(true, Ordering::Relaxed);
        self.version.load(Ordering::Acquire)
    }

    /// Of the last good answer; `None`: there has been none.
    pub(crate) fn addresses(&self) -> Option<Arc<[IpAddr]>> {
        self.state.borrow().addresses.clone()
    }

    /// Whether the first look-up has not ended yet.
    pub(crate) fn is_pending(&self) -> bool {
        let state = self.state.borrow();
        state.addresses.is_none() && state.failures == 0
    }

    /// Waits until the first look-up has ended.
    pub(crate) async fn settled(&self) {
        let mut state = self.state.subscribe();
        // The sender is ours, so it does not go away.
        let _ = state.wait_for(|state| state.addresses.is_some() || state.failures > 0).await;
    }

    fn answered(&self, addresses: Vec<IpAddr>) {
        let mut is_new = false;
        self.state.send_modify(|state| {
            state.failures = 0;
            is_new = state.addresses.as_deref() != Some(&addresses);
            if is_new {
                state.addresses = Some(addresses.into());
            }
        });
        if is_new {
            self.version.fetch_add(1, Ordering::Release);
        }
    }
}

impl Names {
    pub(crate) fn new(resolver: Arc<dyn Resolver>) -> Arc<Self> {
        Arc::new(Self { resolver, known: Mutex::default() })
    }

    /// The name; a new one is looked up from now on. `None`: it is no name, or there are too many.
    pub(crate) fn name(self: &Arc<Self>, text: &str, shard: &Rc<Shard>) -> Option<Arc<Name>> {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        if !is_name(&text) {
            return None;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = known.get(text.as_str()) {
            return Some(name.clone());
        }
        if known.len() >= MOST {
            shard.count(Counter::LookupsRefused);
            return None;
        }
        let text: Arc<str> = text.into();
        let name = Arc::new(Name {
            text: text.clone(),
            state: watch::Sender::new(State::default()),
            version: AtomicU64::new(0),
            is_used: AtomicBool::new(true),
        });
        known.insert(text, name.clone());
        tokio::task::spawn_local(keep(self.clone(), name.clone(), shard.clone()));
        Some(name)
    }

    /// All names, in order.
    pub(crate) fn rows(&self) -> Vec<NameRow> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |name: &Arc<Name>| {
            let state = name.state.borrow();
            NameRow {
                name: name.text.clone(),
                addresses: state.addresses.as_deref().unwrap_or_default().to_vec(),
                failures: state.failures,
            }
        };
        let mut rows: Vec<_> = known.values().map(row).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }
}

/// Looks a name up again and again until nobody uses it.
async fn keep(names: Arc<Names>, name: Arc<Name>, shard: Rc<Shard>) {
    let mut used = tokio::time::Instant::now();
    let mut pause = SHORTEST;
    loop {
        let lookup = tokio::time::timeout(PATIENCE, names.resolver.resolve(&name.text)).await;
        let wait = match lookup {
            Ok(Ok(answer)) if !answer.addresses.is_empty() => {
                shard.count(Counter::LookupsAnswered);
                pause = SHORTEST;
                name.answered(answer.addresses);
                answer.time_to_live.clamp(SHORTEST, LONGEST)
            }
            failed => {
                let error = match failed {
                    Ok(Err(LookupError(why))) => why,
                    Ok(Ok(_)) => "the answer has no address".to_owned(),
                    Err(_) => "no answer in time".to_owned(),
                };
                shard.count(Counter::LookupsFailed);
                tracing::debug!(name = &*name.text, error, "a name could not be looked up");
                name.state.send_modify(|state| state.failures += 1);
                let wait = pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                wait
            }
        };
        tokio::time::sleep(wait).await;
        if name.is_used.swap(false, Ordering::Relaxed) {
            used = tokio::time::Instant::now();
        } else if used.elapsed() >= UNUSED {
            names.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&name.text);
            // Whoever still holds it asks for it anew.
            name.version.fetch_add(1, Ordering::Release);
            return;
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::VecDeque;

    use super::*;

    /// Answers in turn; after the last one, fails.
    struct Script(Mutex<VecDeque<Answer>>);

    impl Resolver for Script {
        fn resolve(&self, _: &str) -> Lookup {
            let next = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            Box::pin(std::future::ready(next.ok_or(LookupError("the script is over".to_owned()))))
        }
    }

    fn names(answers: &[(&str, u64)]) -> Arc<Names> {
        let answer = |&(address, seconds): &(&str, u64)| Answer {
            addresses: vec![address.parse().expect("an address")],
            time_to_live: Duration::from_secs(seconds),
        };
        Names::new(Arc::new(Script(Mutex::new(answers.iter().map(answer).collect()))))
    }

    fn first(name: &Name) -> Option<String> {
        name.addresses()?.first().map(ToString::to_string)
    }

    async fn local(test: impl Future<Output = ()>) {
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_its_time_within_bounds_and_failures_keep_the_last_one() {
        local(async {
            let names = names(&[("192.0.2.1", 0), ("192.0.2.2", 20), ("192.0.2.3", 1_000_000)]);
            let shard = Rc::<Shard>::default();
            let name = names.name("A.Example.com.", &shard).expect("a name");
            assert!(name.is_pending());
            name.settled().await;
            let seen = Cell::new(name.version());
            for (wait, want) in
                [(0, "192.0.2.1"), (2, "192.0.2.2"), (17, "192.0.2.2"), (3, "192.0.2.3"), (301, "192.0.2.3")]
            {
                tokio::time::sleep(Duration::from_secs(wait)).await;
                assert_eq!(first(&name).as_deref(), Some(want), "after {wait} s");
                assert!(name.version() >= seen.get());
                seen.set(name.version());
            }
            let rows = names.rows();
            assert_eq!((&*rows[0].name, rows[0].failures > 0), ("a.example.com", true));
            assert!(Arc::ptr_eq(&name, &names.name("a.example.com", &shard).expect("the same")));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_without_an_answer_is_settled_by_the_failure() {
        local(async {
            let names = names(&[]);
            let name = names.name("a.example.com", &Rc::default()).expect("a name");
            name.settled().await;
            assert_eq!((name.is_pending(), first(&name)), (false, None));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_nobody_uses_is_forgotten_and_one_in_use_is_not() {
        local(async {
            let names = names(&[]);
            let shard = Rc::<Shard>::default();
            let used = names.name("used.test", &shard).expect("a name");
            let unused = names.name("unused.test", &shard).expect("a name");
            let before = unused.version();
            for _ in 0..30 {
                used.version();
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            let rows = names.rows();
            assert_eq!(rows.iter().map(|row| &*row.name).collect::<Vec<_>>(), ["used.test"]);
            assert!(unused.version() > before, "who holds it notices");
        })
        .await;
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        for (text, want) in [
            ("a.example.com", true),
            ("a_b-c.x", true),
            ("", false),
            ("a..b", false),
            ("a b", false),
            ("a/b", false),
            ("[::1]", false),
        ] {
            assert_eq!(is_name(text), want, "{text}");
        }
    }
}
