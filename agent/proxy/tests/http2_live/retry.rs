//! Attempts after the first: what is sent again, and what never is.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use undermesh_proxy::exchange::{AttemptError, End, Limits, Transfer};
use undermesh_proxy::http2::{ClientSettings, DriverError, KeepAlive, connect};

use super::support::*;

type Seen = Rc<RefCell<Vec<(Vec<u8>, Option<HeaderMap>, String)>>>;

/// Answers the first `failures` requests with `first` and the others with 200; keeps what it got.
async fn failing(failures: usize, first: u16, seen: Seen) -> SocketAddr {
    upstream(move |number, request, mut respond| {
        let seen = seen.clone();
        async move {
            let attempt =
                request.headers().get("x-envoy-attempt-count").unwrap().to_str().unwrap().to_owned();
            let (body, trailers) = collect(request.into_body()).await.unwrap();
            seen.borrow_mut().push((body, trailers, attempt));
            let code = if number <= failures { first } else { 200 };
            respond.send_response(status(code), true).unwrap();
        }
    })
    .await
}

#[test]
fn a_503_is_tried_again_with_the_same_body_and_trailers() {
    run(async {
        let seen = Seen::default();
        let address = failing(1, 503, seen.clone()).await;
        let path = Rc::new(Double { max_attempts: 2, ..Double::to(address) });
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        let body = pattern(40_000);
        send_all(&mut stream, body.clone(), false).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", 17.into());
        stream.send_trailers(trailers.clone()).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        let seen = seen.take();
        for (number, (got, end, attempt)) in (1..).zip(seen.iter()) {
            assert!(*got == body, "attempt {number} has another body");
            assert_eq!(end.as_ref(), Some(&trailers));
            assert_eq!(*attempt, number.to_string());
        }
        assert_eq!(seen.len(), 2);
        assert_eq!(
            path.record().await,
            Record::Relayed(Transfer { received: 40_000, sent: 0, end: End::Complete, grpc_status: None })
        );
    });
}

#[test]
fn a_refused_stream_is_tried_again() {
    run(async {
        let address = upstream(|number, request, mut respond| async move {
            if number == 1 {
                respond.send_reset(Reason::REFUSED_STREAM);
                return;
            }
            let (body, _) = collect(request.into_body()).await.unwrap();
            let mut stream = respond.send_response(status(200), false).unwrap();
            stream.send_data(body.into(), true).unwrap();
        })
        .await;
        let path = Rc::new(Double { max_attempts: 2, ..Double::to(address) });
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        stream.send_data("question".into(), true).unwrap();
        let (body, _) = collect(response.await.unwrap().into_body()).await.unwrap();
        assert_eq!(body, b"question");
        assert_eq!(*path.errors.borrow(), [AttemptError::Reset { reused: false, refused: true }]);
    });
}

#[test]
fn a_retry_in_the_middle_of_an_upload_starts_from_its_first_byte() {
    run(async {
        let address = upstream(|number, request, mut respond| async move {
            let mut body = request.into_body();
            if number == 1 {
                body.data().await.unwrap().unwrap();
                respond.send_response(status(503), true).unwrap();
                return;
            }
            let (body, _) = collect(body).await.unwrap();
            let mut stream = respond.send_response(status(200), false).unwrap();
            send_all(&mut stream, body.into(), true).await.unwrap();
        })
        .await;
        let path = Rc::new(Double { max_attempts: 2, ..Double::to(address) });
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        let mut want = Vec::new();
        for number in 0..20_u8 {
            let part = Bytes::from(vec![number; 1000]);
            want.extend_from_slice(&part);
            stream.send_data(part, number == 19).unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let (body, _) = collect(response.await.unwrap().into_body()).await.unwrap();
        assert!(body == want);
    });
}

#[test]
fn a_body_too_large_to_keep_is_not_sent_again() {
    run(async {
        let seen = Seen::default();
        let address = failing(1, 503, seen.clone()).await;
        let path = Rc::new(Double { max_attempts: 2, ..Double::to(address) });
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        send_all(&mut stream, pattern(200_000), true).await.unwrap();
        assert_eq!(response.await.unwrap().status(), 503);
        assert_eq!(seen.borrow().len(), 1);
    });
}

#[test]
fn the_last_attempts_answer_is_the_clients() {
    run(async {
        let seen = Seen::default();
        let address = failing(9, 503, seen.clone()).await;
        let path = Rc::new(Double { max_attempts: 3, ..Double::to(address) });
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 503);
        assert_eq!(seen.borrow().len(), 3);
    });
}

#[test]
fn a_try_that_takes_too_long_is_followed_by_another_with_time_of_its_own() {
    run(async {
        let address = upstream(|number, _request, mut respond| async move {
            let wait = if number == 1 { 10_000 } else { 300 };
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let _ = respond.send_response(status(200), true);
        })
        .await;
        let limits = Limits { per_try: Some(Duration::from_millis(1000)), route: None };
        let path = Rc::new(Double { max_attempts: 2, limits, ..Double::to(address) });
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert_eq!(path.errors.borrow().len(), 1);
    });
}

/// An upstream that answers each connection's preface with SETTINGS and `frames`, then reads on.
async fn scripted(frames: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            spawn_local(async move {
                io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                let (mut got, mut some) = (Vec::new(), [0; 4096]);
                let mut frames = frames;
                while let Ok(count @ 1..) = io.read(&mut some).await {
                    got.extend_from_slice(&some[..count]);
                    // A HEADERS frame of stream 1 that ends headers and stream.
                    if got.windows(6).any(|bytes| bytes == [1, 5, 0, 0, 0, 1]) {
                        io.write_all(std::mem::take(&mut frames)).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_goaway_below_our_stream_promises_that_it_was_not_processed() {
    run(async {
        // GOAWAY, last stream 0, NO_ERROR.
        let leaving = scripted(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await;
        let seen = Seen::default();
        let staying = failing(0, 503, seen.clone()).await;
        let path =
            Rc::new(Double { upstreams: vec![leaving, staying], max_attempts: 2, ..Double::default() });
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert_eq!(*path.errors.borrow(), [AttemptError::Reset { reused: false, refused: true }]);
        assert_eq!(seen.borrow().len(), 1);
    });
}

#[test]
fn a_connection_that_is_gone_has_sent_nothing() {
    run(async {
        let leaving = scripted(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await;
        let path = Rc::new(Double { upstreams: vec![leaving], max_attempts: 2, ..Double::default() });
        let proxy = proxy(&path).await;
        // The double keeps its handle, so the second attempt meets the connection that said goodbye.
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 503);
        assert_eq!(path.errors.borrow()[1], AttemptError::Reset { reused: true, refused: true });
    });
}

#[test]
fn an_upstream_that_answers_no_ping_is_left() {
    run(async {
        // Swallows everything; the test holds its end.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_silent, _) = listener.accept().await.unwrap();
        let interval = Duration::from_millis(20);
        let keep_alive = Some(KeepAlive { interval, timeout: Duration::from_millis(50) });
        let settings = ClientSettings { keep_alive, ..ClientSettings::default() };
        let (mut handle, driver) = connect(io, &settings).await.unwrap();
        let driver = spawn_local(driver);
        let (response, _) = handle.send_request(request("GET", "/"), true).unwrap();
        assert!(response.await.is_err());
        assert!(matches!(driver.await.unwrap(), Err(DriverError::KeepAlive(_))));
    });
}

#[test]
fn an_upstream_that_answers_pings_is_kept() {
    run(async {
        let address = failing(0, 503, Seen::default()).await;
        let io = TcpStream::connect(address).await.unwrap();
        let interval = Duration::from_millis(10);
        let keep_alive = Some(KeepAlive { interval, timeout: Duration::from_secs(5) });
        let settings = ClientSettings { keep_alive, ..ClientSettings::default() };
        let (handle, driver) = connect(io, &settings).await.unwrap();
        let driver = spawn_local(driver);
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(!driver.is_finished());
        drop(handle);
        assert!(driver.await.unwrap().is_ok());
    });
}
