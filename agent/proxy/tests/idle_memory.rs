//! What an idle connection costs in memory, counted: the whole proxy, a client that had an answer and says no more.
//!
//! A binary of its own, since it replaces the allocator. One test, so that nobody else allocates meanwhile.
#![allow(unsafe_code, reason = "a global allocator that counts cannot be written without")]
#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "shared with other tests; what fails here fails the test"
)]

#[path = "requests/world.rs"]
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use world::{Upstream, World, service};

/// The project's target is 4 KiB of the process (`xtask bench` measures that). Here is counted what was asked of the
/// allocator, without its own share, but with a line of the access log and the upstream's notes, which the test keeps.
const TARGET: i64 = 4096;
const CONNECTIONS: usize = 400;

struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

fn change(bytes: usize, sign: i64) {
    LIVE.fetch_add(sign * bytes as i64, Ordering::SeqCst);
}

// SAFETY: everything is passed on to the system's allocator; counting touches an atomic only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        change(layout.size(), 1);
        // SAFETY: the caller's contract is the one of `System::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        change(layout.size(), -1);
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn an_idle_connection_costs_less_than_4_kib() {
    let upstream = Upstream::named("here");
    let world = World::new(service(1, "web", "http", &[("v1", upstream.address)]));
    let idle = |count| -> Vec<_> {
        let one = || {
            let mut connection = world.connect(1);
            assert_eq!(connection.get("web", "/", &[]).status, 200);
            connection.into_inner()
        };
        (0..count).map(|_| one()).collect()
    };
    // Tables, pools and buffers are made at the first use, and are not what one more connection costs.
    let _warm = idle(20);
    let settle = || std::thread::sleep(Duration::from_millis(700));
    settle();
    let before = LIVE.load(Ordering::SeqCst);
    let held = idle(CONNECTIONS);
    settle();
    let each = (LIVE.load(Ordering::SeqCst) - before) / CONNECTIONS as i64;
    drop(held);
    println!("{each} bytes for each idle connection");
    assert!(each < TARGET, "{each} bytes for each idle connection");
    assert!(each > 200, "{each}: the measurement itself is broken");
}
