//! What a request costs in the steady state, counted: no allocation, and little memory per idle connection.
//!
//! A binary of its own, since it replaces the allocator. One test, so that nobody else allocates meanwhile.
#![allow(unsafe_code, reason = "a global allocator that counts cannot be written without")]
#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use undermesh_proxy::buffer::BufferPool;
use undermesh_proxy::http1::{self, Settings};

use crate::support::{Proxy, TestPath, contains, request, run};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending counts no more.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator; counting touches a thread-local cell only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the one of `System::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Answers every read with the same bytes; allocates nothing either.
async fn answer_everything(listener: TcpListener, answer: &'static [u8]) {
    loop {
        let (mut io, _) = listener.accept().await.unwrap();
        io.set_nodelay(true).unwrap();
        spawn_local(async move {
            let mut buffer = [0; 8192];
            while matches!(io.read(&mut buffer).await, Ok(1..)) {
                io.write_all(answer).await.unwrap();
            }
        });
    }
}

/// Allocations of `rounds` exchanges on one connection that has carried a few before.
async fn allocations(ask: &[u8], answer: &'static [u8], rounds: u64) -> u64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let serving = spawn_local(answer_everything(listener, answer));
    let proxy = Proxy::start(upstream).await;
    proxy.path.quiet.set(true);
    proxy.path.edit_request.set(|edits| {
        edits.set("x-request-id", b"0123456789");
        edits.remove("x-gone");
        edits.set_target("/elsewhere");
    });
    proxy.path.edit_response.set(|edits| edits.set("server", b"istio-envoy"));
    let mut io = TcpStream::connect(proxy.address).await.unwrap();
    let end = answer.last().copied();
    let mut buffer = [0; 8192];
    let mut before = 0;
    for round in 0..rounds + 10 {
        if round == 10 {
            before = ALLOCATIONS.with(Cell::get);
        }
        io.write_all(ask).await.unwrap();
        loop {
            let count = io.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "the proxy closed");
            if buffer[..count].last().copied() == end {
                break;
            }
        }
    }
    let after = ALLOCATIONS.with(Cell::get);
    assert!(contains(&buffer, "server: istio-envoy"), "it went through the proxy");
    assert_eq!(proxy.path.idle().given_back.get() as u64, rounds + 10, "and through one upstream connection");
    assert_eq!(proxy.path.idle().closed.get(), 0);
    serving.abort();
    after - before
}

#[test]
fn the_steady_state_allocates_nothing_and_an_idle_connection_is_small() {
    run(async {
        let lines = "User-Agent: test\r\nAccept: */*\r\nX-Gone: 1\r\nCookie: a=b\r\n";
        let get = request("GET", "/bench?x=y", lines);
        let post = [request("POST", "/bench", "Content-Length: 5\r\n"), b"hello".to_vec()].concat();
        let chunked =
            [request("POST", "/b", "Transfer-Encoding: chunked\r\n"), b"5\r\nhello\r\n0\r\n\r\n".to_vec()]
                .concat();
        let cases: [(&str, &[u8], &'static [u8]); 4] = [
            ("GET", &get, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\n\r\nok"),
            (
                "GET, chunked answer",
                &get,
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ),
            ("POST", &post, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            ("POST, chunked", &chunked, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ];
        for (name, ask, answer) in cases {
            assert_eq!(allocations(ask, answer, 200).await, 0, "{name}");
        }

        let path = TestPath::new(([127, 0, 0, 1], 1).into());
        let (_client, io) = tokio::io::duplex(64);
        let future = http1::serve(io, path, Rc::new(Settings::default()), BufferPool::new(), b"");
        let size = size_of_val(&future);
        println!("size of the serve future: {size} bytes");
        assert!(size < 1500, "{size}");
    });
}
