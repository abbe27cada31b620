//! Ends: resets from either side, time limits, drain.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use undermesh_proxy::exchange::{AttemptError, End, Limit, Limits, Transfer};
use undermesh_proxy::http2::ServerSettings;

use super::support::*;

/// An upstream that answers `head` and one chunk if asked to, then waits for its stream to be reset and keeps the reason.
async fn patient(begins: bool, reason: Rc<Cell<Option<Reason>>>) -> std::net::SocketAddr {
    upstream(move |_, request, mut respond| {
        let reason = reason.clone();
        async move {
            let _body = request.into_body();
            let reset = if begins {
                let mut stream = respond.send_response(status(200), false).unwrap();
                stream.send_data("begun".into(), false).unwrap();
                poll_fn(|cx| stream.poll_reset(cx)).await
            } else {
                poll_fn(|cx| respond.poll_reset(cx)).await
            };
            reason.set(reset.ok());
        }
    })
    .await
}

#[test]
fn a_reset_before_the_answer_reaches_the_upstream() {
    run(async {
        let reason = Rc::new(Cell::new(None));
        let path = Rc::new(Double::to(patient(false, reason.clone()).await));
        let proxy = proxy(&path).await;
        let (_response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        stream.send_data("x".into(), false).unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        stream.send_reset(Reason::CANCEL);
        assert_eq!(path.record().await, Record::ClientGone);
        until("the upstream's reset", || reason.get() == Some(Reason::CANCEL)).await;
    });
}

#[test]
fn a_reset_amid_the_answer_reaches_the_upstream() {
    run(async {
        let reason = Rc::new(Cell::new(None));
        let path = Rc::new(Double::to(patient(true, reason.clone()).await));
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "begun");
        stream.send_reset(Reason::CANCEL);
        assert_eq!(
            path.record().await,
            Record::Relayed(Transfer { received: 0, sent: 5, end: End::ClientGone, grpc_status: None })
        );
        until("the upstream's reset", || reason.get() == Some(Reason::CANCEL)).await;
    });
}

#[test]
fn a_reset_while_the_path_waits_for_a_connection_drops_the_request() {
    run(async {
        let path = Rc::new(Double { hangs: true, ..Double::default() });
        let proxy = proxy(&path).await;
        let (_response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        until("the request", || path.started.get() == 1).await;
        stream.send_reset(Reason::CANCEL);
        assert_eq!(path.record().await, Record::Dropped);
    });
}

#[test]
fn a_reset_during_a_pause_ends_it() {
    run(async {
        let path =
            Rc::new(Double { pause: Some(Duration::from_secs(20)), ..Double::answering(200, &[], b"") });
        let proxy = proxy(&path).await;
        let (_response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        until("the request", || path.started.get() == 1).await;
        stream.send_reset(Reason::CANCEL);
        assert_eq!(path.record().await, Record::ClientGone);
    });
}

#[test]
fn a_pause_lasts_as_long_as_asked() {
    run(async {
        let path =
            Rc::new(Double { pause: Some(Duration::from_millis(80)), ..Double::answering(200, &[], b"") });
        let proxy = proxy(&path).await;
        let asked = std::time::Instant::now();
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        response.await.unwrap();
        assert!(asked.elapsed() >= Duration::from_millis(80));
    });
}

#[test]
fn a_client_whose_connection_ends_is_gone_from_all_its_streams() {
    run(async {
        let reason = Rc::new(Cell::new(None));
        let path = Rc::new(Double::to(patient(false, reason.clone()).await));
        let proxy = proxy(&path).await;
        let io = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
        let (mut handle, connection) = h2::client::handshake(io).await.unwrap();
        let connection = spawn_local(connection);
        let first = handle.send_request(request("GET", "/"), true).unwrap();
        let second = handle.send_request(request("GET", "/"), true).unwrap();
        until("the requests", || path.started.get() == 2).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        connection.abort();
        until("both records", || path.records.borrow().len() == 2).await;
        assert_eq!(*path.records.borrow(), [Record::ClientGone, Record::ClientGone]);
        until("the upstream's reset", || reason.get() == Some(Reason::CANCEL)).await;
        drop((first, second));
    });
}

#[test]
fn an_upstreams_reset_before_its_head_is_a_reset() {
    run(async {
        let address =
            upstream(|_, _, mut respond| async move { respond.send_reset(Reason::INTERNAL_ERROR) }).await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 503);
        assert_eq!(*path.errors.borrow(), [AttemptError::Reset { reused: false, refused: false }]);
    });
}

#[test]
fn an_upstreams_reset_amid_its_body_resets_the_client() {
    run(async {
        let address = upstream(|_, _, mut respond| async move {
            let mut stream = respond.send_response(status(200), false).unwrap();
            stream.send_data("half".into(), false).unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
            stream.send_reset(Reason::CANCEL);
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        let error = collect(response.await.unwrap().into_body()).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(
            path.record().await,
            Record::Relayed(Transfer { received: 0, sent: 4, end: End::UpstreamReset, grpc_status: None })
        );
    });
}

#[test]
fn a_body_shorter_than_its_length_is_never_a_clean_end() {
    run(async {
        let address = upstream(|_, _, mut respond| async move {
            let mut head = status(200);
            head.headers_mut().insert("content-length", 10.into());
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data("half".into(), true).unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        let whole = async { collect(response.await?.into_body()).await };
        assert!(whole.await.is_err());
    });
}

#[test]
fn an_upstream_that_closes_its_connection_is_a_reset() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let path = Rc::new(Double::to(listener.local_addr().unwrap()));
        spawn_local(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut some = [0; 100];
            let _ = io.read(&mut some).await;
        });
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 503);
        let errors = path.errors.borrow();
        assert!(matches!(errors[..], [AttemptError::Reset { refused: false, .. }]), "{errors:?}");
    });
}

#[test]
fn an_upstream_that_speaks_something_else_is_a_protocol_error() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let path = Rc::new(Double::to(listener.local_addr().unwrap()));
        spawn_local(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            io.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            let mut rest = Vec::new();
            let _ = io.read_to_end(&mut rest).await;
        });
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 502);
        assert_eq!(*path.errors.borrow(), [AttemptError::UpstreamProtocol]);
    });
}

#[test]
fn a_head_that_does_not_come_in_time_is_a_timeout() {
    run(async {
        let reason = Rc::new(Cell::new(None));
        for (limits, want) in [
            (Limits { per_try: Some(Duration::from_millis(50)), route: None }, Limit::PerTry),
            (Limits { per_try: None, route: Some(Duration::from_millis(50)) }, Limit::Route),
        ] {
            let path = Rc::new(Double { limits, ..Double::to(patient(false, reason.clone()).await) });
            let proxy = proxy(&path).await;
            let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 504);
            assert_eq!(*path.errors.borrow(), [AttemptError::Timeout(want)]);
            until("the upstream's reset", || reason.take() == Some(Reason::CANCEL)).await;
        }
    });
}

#[test]
fn a_slow_upload_does_not_use_up_the_time() {
    run(async {
        let address = upstream(|_, request, mut respond| async move {
            collect(request.into_body()).await.unwrap();
            respond.send_response(status(200), true).unwrap();
        })
        .await;
        let limit = Some(Duration::from_millis(150));
        let path = Rc::new(Double { limits: Limits { per_try: limit, route: limit }, ..Double::to(address) });
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        for _ in 0..5 {
            stream.send_data("x".into(), false).unwrap();
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn a_route_timeout_cuts_a_response_and_a_try_timeout_does_not() {
    run(async {
        let reason = Rc::new(Cell::new(None));
        let address = patient(true, reason.clone()).await;
        let limits =
            Limits { per_try: Some(Duration::from_millis(20)), route: Some(Duration::from_millis(100)) };
        let path = Rc::new(Double { limits, ..Double::to(address) });
        let proxy = proxy(&path).await;
        let asked = std::time::Instant::now();
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        let error = collect(response.await.unwrap().into_body()).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        assert!(asked.elapsed() >= Duration::from_millis(100));
        assert_eq!(
            path.record().await,
            Record::Relayed(Transfer { received: 0, sent: 5, end: End::Timeout, grpc_status: None })
        );
    });
}

#[test]
fn an_answer_before_the_end_of_the_request_stops_the_upload() {
    run(async {
        let address = upstream(|_, request, mut respond| async move {
            let mut body = request.into_body();
            body.data().await.unwrap().unwrap();
            respond.send_response(status(413), true).unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        stream.send_data(pattern(1000), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 413);
        let reset = poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
        assert_eq!(reset, Reason::NO_ERROR);
        assert_eq!(
            path.record().await,
            Record::Relayed(Transfer { received: 1000, sent: 0, end: End::Complete, grpc_status: None })
        );
    });
}

/// Starts a slow request, drains in the way of `drain`, and sees the request finish, the connection end and no new stream.
fn drains(drain: impl Fn(&Double, &Proxy)) {
    run(async {
        let address = upstream(|_, _, mut respond| async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            respond.send_response(status(200), true).unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let mut client = client(proxy.address).await;
        let (slow, _) = client.send_request(request("GET", "/"), true).unwrap();
        until("the request", || path.started.get() == 1).await;
        drain(&path, &proxy);
        let (also, _) = client.send_request(request("GET", "/"), true).unwrap();
        assert_eq!(slow.await.unwrap().status(), 200);
        // It crossed the first GOAWAY, which names no last stream: served all the same.
        assert_eq!(also.await.unwrap().status(), 200);
        until("the end", || !proxy.ends.borrow().is_empty()).await;
        assert!(matches!(proxy.ends.borrow()[..], [Ok(())]));
        let refused = poll_fn(|cx| client.poll_ready(cx)).await;
        assert!(refused.is_err(), "a drained connection takes no more streams");
    });
}

#[test]
fn a_drain_finishes_what_was_begun() {
    drains(|_, proxy| {
        proxy.drain.send_replace(true);
    });
}

#[test]
fn a_drain_that_only_the_path_knows_of_is_seen_at_the_next_stream() {
    drains(|path, _| path.draining.set(true));
}

#[test]
fn a_drain_ends_an_idle_connection_at_once() {
    run(async {
        let path = Rc::new(Double::answering(204, &[], b""));
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        response.await.unwrap();
        proxy.drain.send_replace(true);
        until("the end", || !proxy.ends.borrow().is_empty()).await;
        assert!(matches!(proxy.ends.borrow()[..], [Ok(())]));
    });
}

#[test]
fn a_stream_without_end_does_not_hold_up_a_drain_for_ever() {
    run(async {
        let reason = Rc::new(Cell::new(None));
        let path = Rc::new(Double::to(patient(true, reason.clone()).await));
        let settings =
            ServerSettings { drain_timeout: Duration::from_millis(100), ..ServerSettings::default() };
        let proxy = proxy_with(&path, settings).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        let _body = response.await.unwrap();
        proxy.drain.send_replace(true);
        until("the end", || !proxy.ends.borrow().is_empty()).await;
        assert!(matches!(proxy.ends.borrow()[..], [Err(_)]));
        assert!(matches!(path.record().await, Record::Relayed(Transfer { end: End::ClientGone, .. })));
    });
}

#[test]
fn an_idle_connection_is_ended_and_a_busy_one_is_not() {
    run(async {
        let address = upstream(|_, _, mut respond| async move {
            tokio::time::sleep(Duration::from_millis(250)).await;
            respond.send_response(status(200), true).unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let settings =
            ServerSettings { idle_timeout: Duration::from_millis(100), ..ServerSettings::default() };
        let proxy = proxy_with(&path, settings).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert!(proxy.ends.borrow().is_empty());
        until("the end", || !proxy.ends.borrow().is_empty()).await;
        assert!(matches!(proxy.ends.borrow()[..], [Ok(())]));
    });
}
