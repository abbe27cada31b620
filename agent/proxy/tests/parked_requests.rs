//! What a request costs that an injected delay holds: thousands of them must be no burden. In a process of its own, since the
//! memory of the whole process is looked at.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    unreachable_pub,
    reason = "what fails here fails the test; the world is made for others too"
)]

#[path = "requests/world.rs"]
mod world;

use serde_json::json;

use crate::world::{Upstream, World, service, virtual_service};

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn delayed_requests_are_parked_in_little_memory() {
    const COUNT: usize = 400;
    let upstream = Upstream::named("ok");
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.push(virtual_service(
        "echo",
        json!([{"match": [{"uri": {"prefix": "/f"}}], "route": [{"destination": {"host": "echo"}}],
                "fault": {"delay": {"percentage": {"value": 100}, "fixedDelay": "60s"}}},
            {"route": [{"destination": {"host": "echo"}}]}]),
    ));
    let world = World::new(objects);
    let park = |count: usize| -> Vec<_> {
        let parked = (0..count).map(|_| {
            let mut connection = world.connect(1);
            connection.send("GET /f HTTP/1.1\r\nhost: echo\r\nuser-agent: test\r\naccept: */*\r\n\r\n");
            // Ours is small too then.
            connection.into_io()
        });
        parked.collect()
    };
    let _first = park(100);
    let before = resident();
    let _parked = park(COUNT);
    // The last one's request has been read when another connection is served.
    assert_eq!(world.connect(1).get("echo", "/other", &[]).status, 200);
    let each = resident().saturating_sub(before) / COUNT;
    println!("{each} bytes for each parked request");
    // A block of 16 KiB of which what was written to is resident, and the connection's task.
    assert!(each < 24 * 1024, "{each} bytes for each parked request");
}
