//! Ctrl-C: the default would end the process and leave namespaces, cgroups and their processes behind.
//!
//! One thread per process waits for SIGINT and SIGTERM. It removes every world that is still alive and exits, unless
//! somebody is waiting for that very signal ([`wait_for_interrupt`]).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};

use anyhow::Context as _;

use crate::leftovers;

/// What the shell reports for a program ended by SIGINT.
const EXIT_INTERRUPTED: i32 = 128 + 2;

/// Everything is being removed under the hands of whoever still works with it.
static IS_REMOVING: AtomicBool = AtomicBool::new(false);

#[derive(Default)]
struct State {
    worlds: BTreeSet<String>,
    waiting: Vec<mpsc::Sender<()>>,
}

static STATE: Mutex<State> = Mutex::new(State { worlds: BTreeSet::new(), waiting: Vec::new() });

fn with_state<T>(work: impl FnOnce(&mut State) -> T) -> T {
    work(&mut STATE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// From now on a signal removes the world of that name.
pub(crate) fn guard(world: &str) -> anyhow::Result<()> {
    static LISTENING: OnceLock<Result<(), String>> = OnceLock::new();
    with_state(|s| s.worlds.insert(world.to_owned()));
    LISTENING
        .get_or_init(|| listen().map_err(|e| format!("{e:#}")))
        .clone()
        .map_err(|e| anyhow::anyhow!("cannot listen for Ctrl-C: {e}"))
}

/// The world was removed otherwise.
pub(crate) fn unguard(world: &str) {
    with_state(|s| s.worlds.remove(world));
}

/// Blocks until Ctrl-C (or SIGTERM) and returns, so that the caller ends in its own order.
pub fn wait_for_interrupt() {
    let (told, wait) = mpsc::channel();
    with_state(|s| s.waiting.push(told));
    // An error means that nobody can tell us any more: also a reason to end.
    let _ = wait.recv();
}

/// Does not return once a signal has begun to remove the worlds: what is found in them from then on is of no interest to
/// anyone, and the process ends when they are gone.
pub fn stop_if_interrupted() {
    while IS_REMOVING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn listen() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        anyhow::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    std::thread::Builder::new()
        .name("interrupt".into())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                    let waiting = with_state(|s| std::mem::take(&mut s.waiting));
                    if waiting.is_empty() {
                        clean_up_and_exit();
                    }
                    for one in waiting {
                        // It stopped waiting: nothing to tell.
                        let _ = one.send(());
                    }
                }
            });
        })
        .context("cannot start the thread that waits for Ctrl-C")?;
    Ok(())
}

fn clean_up_and_exit() -> ! {
    IS_REMOVING.store(true, Ordering::SeqCst);
    for world in with_state(|s| s.worlds.clone()) {
        match leftovers::remove(&world) {
            Ok(()) => eprintln!("\ninterrupted: removed all of {world}"),
            Err(e) => eprintln!("\ninterrupted: {e:#}"),
        }
    }
    std::process::exit(EXIT_INTERRUPTED)
}
