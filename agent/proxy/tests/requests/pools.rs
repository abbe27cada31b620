//! How long connections to endpoints live, how many there are, and who waits for one.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Response;
use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::world::{PATIENCE, Reply, Upstream, World, destination_rule, service, silent};

/// An HTTP/2 server that answers each request after a while.
struct Http2 {
    address: SocketAddr,
    opened: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Http2 {
    fn start(max_streams: u32, wait: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (opened.clone(), open.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(LocalSet::new().run_until(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((io, _)) = listener.accept().await {
                    let (opened, open) = counts.clone();
                    opened.fetch_add(1, Ordering::SeqCst);
                    open.fetch_add(1, Ordering::SeqCst);
                    tokio::task::spawn_local(async move {
                        let mut builder = h2::server::Builder::new();
                        builder.max_concurrent_streams(max_streams);
                        let mut connection = builder.handshake::<_, bytes::Bytes>(io).await.unwrap();
                        while let Some(Ok((_, mut respond))) = connection.accept().await {
                            tokio::task::spawn_local(async move {
                                tokio::time::sleep(wait).await;
                                // The client may be gone.
                                let _ = respond.send_response(Response::new(()), true);
                            });
                        }
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }));
        });
        Self { address, opened, open }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

fn world(port_name: &str, endpoints: &[SocketAddr], pool: Value, workers: usize) -> World {
    let endpoints: Vec<_> = endpoints.iter().map(|address| ("v1", *address)).collect();
    let mut objects = service(1, "echo", port_name, &endpoints);
    let policy = json!({"loadBalancer": {"simple": "ROUND_ROBIN"}, "connectionPool": pool});
    objects.push(destination_rule("echo", json!({"trafficPolicy": policy})));
    World::with_workers(objects, workers)
}

/// Statuses of `count` requests made at once.
fn at_once(world: &World, count: usize) -> Vec<u16> {
    let mut connections: Vec<_> = (0..count).map(|_| world.connect(1)).collect();
    for connection in &mut connections {
        connection.send("GET / HTTP/1.1\r\nhost: echo\r\n\r\n");
    }
    connections.iter_mut().map(|connection| connection.response().unwrap().status).collect()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn requests_over_http2_take_turns_when_connections_and_streams_are_limited() {
    let server = Http2::start(1, Duration::from_millis(50));
    let world = world("http2", &[server.address], json!({"tcp": {"maxConnections": 1}}), 1);
    assert_eq!(at_once(&world, 4), [200; 4]);
    assert_eq!(server.opened(), 1);
}

#[test]
fn an_endpoint_without_a_connection_gets_one_whatever_others_hold() {
    for port_name in ["http", "http2"] {
        let servers: Vec<_> = (0..2).map(|_| Http2::start(100, Duration::from_millis(100))).collect();
        let plain: Vec<_> =
            (0..2).map(|_| Upstream::start(|_, _| Reply::After(Duration::from_millis(100)))).collect();
        let addresses: Vec<_> = match port_name {
            "http" => plain.iter().map(|upstream| upstream.address).collect(),
            _ => servers.iter().map(|server| server.address).collect(),
        };
        let world = world(port_name, &addresses, json!({"tcp": {"maxConnections": 1}}), 1);
        let started = Instant::now();
        assert_eq!(at_once(&world, 2), [200; 2]);
        assert!(started.elapsed() < Duration::from_secs(5), "{port_name}");
    }
}

#[test]
fn an_http2_connection_that_has_carried_what_it_may_is_closed_and_makes_room() {
    let server = Http2::start(100, Duration::ZERO);
    let pool = json!({"tcp": {"maxConnections": 1}, "http": {"maxRequestsPerConnection": 2}});
    let world = world("http2", &[server.address], pool, 1);
    let mut connection = world.connect(1);
    for _ in 0..6 {
        assert_eq!(connection.get("echo", "/", &[]).status, 200);
    }
    assert_eq!(server.opened(), 3);
    until("the spent ones are closed", || server.open.load(Ordering::SeqCst) <= 1);
}

#[test]
fn idle_connections_are_closed_after_their_time_and_not_before() {
    let server = Http2::start(100, Duration::ZERO);
    let upstream = Upstream::named("ok");
    for (port_name, address) in [("http", upstream.address), ("http2", server.address)] {
        let opened = || if port_name == "http" { upstream.opened() } else { server.opened() };
        for (timeout, want) in [("200ms", 2), ("1h", 1)] {
            let before = opened();
            let world = world(port_name, &[address], json!({"http": {"idleTimeout": timeout}}), 1);
            let mut connection = world.connect(1);
            assert_eq!(connection.get("echo", "/", &[]).status, 200);
            std::thread::sleep(Duration::from_millis(1500));
            assert_eq!(connection.get("echo", "/", &[]).status, 200);
            assert_eq!(opened() - before, want, "{port_name} {timeout}");
        }
    }
}

#[test]
fn a_connection_of_the_greatest_age_gets_no_further_requests() {
    let server = Http2::start(100, Duration::from_millis(20));
    let upstream = Upstream::start(|_, _| Reply::After(Duration::from_millis(20)));
    for (port_name, address) in [("http", upstream.address), ("http2", server.address)] {
        let opened = || if port_name == "http" { upstream.opened() } else { server.opened() };
        let world = world(port_name, &[address], json!({"tcp": {"maxConnectionDuration": "300ms"}}), 1);
        let mut connection = world.connect(1);
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(700) {
            assert_eq!(connection.get("echo", "/", &[]).status, 200);
        }
        assert!((2..=4).contains(&opened()), "{port_name}: {}", opened());
    }
}

#[test]
fn a_request_that_waits_for_its_connection_to_be_made_is_pending_too() {
    for port_name in ["http", "http2"] {
        let (address, _queue) = silent();
        let world = world(port_name, &[address], json!({"http": {"http1MaxPendingRequests": 1}}), 1);
        let mut first = world.connect(1);
        first.send("GET / HTTP/1.1\r\nhost: echo\r\n\r\n");
        std::thread::sleep(Duration::from_millis(100));
        let second = world.connect(1).get("echo", "/second", &[]);
        assert_eq!((second.status, second.header("x-envoy-overloaded")), (503, Some("true".to_owned())));
        assert!(world.log_line("/second").contains(" 503 UO "));
    }
}

#[test]
fn requests_that_wait_for_one_connection_fail_with_it() {
    let (address, _queue) = silent();
    let world = world("http2", &[address], json!({"tcp": {"connectTimeout": "500ms"}}), 1);
    let started = Instant::now();
    assert_eq!(at_once(&world, 12), [503; 12]);
    // Three tries, each of them once for all.
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn opaque_connections_over_the_limit_are_closed_whichever_worker_has_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for io in listener.incoming() {
            let mut io = io.unwrap();
            std::io::Write::write_all(&mut io, b"x").unwrap();
            kept.push(io);
        }
    });
    let world = world("tcp", &[address], json!({"tcp": {"maxConnections": 2}}), 3);
    let mut connections: Vec<_> = (0..6).map(|_| world.connect(1)).collect();
    let greeted = |connection: &mut crate::world::Connection| connection.try_read().is_some();
    let held = connections.iter_mut().map(greeted).filter(|is_held| *is_held).count();
    assert_eq!(held, 2);
    world.log_line(" 0 UO ");
}

#[test]
fn the_log_has_our_end_of_the_connection_to_the_endpoint() {
    let server = Http2::start(100, Duration::ZERO);
    let upstream = Upstream::named("ok");
    for (port_name, address) in [("http", upstream.address), ("http2", server.address)] {
        let world = world(port_name, &[address], json!({"tcp": {"maxConnections": 9}}), 1);
        let mut connection = world.connect(1);
        let mut ends = Vec::new();
        for path in ["/a", "/b"] {
            connection.get("echo", path, &[]);
            let line = world.log_line(&format!("GET {path} "));
            let mut words = line.split(' ').skip_while(|word| !word.starts_with("outbound|"));
            let end: SocketAddr = words.nth(1).unwrap().parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(end.ip().is_loopback() && end != address, "{line}");
            ends.push(end);
        }
        assert_eq!(ends[0], ends[1], "one connection");
    }
}
