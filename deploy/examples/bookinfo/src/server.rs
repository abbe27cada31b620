//! An HTTP/1.1 server around one role, until SIGTERM.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::reply::Reply;

/// What a service does with a request.
pub(crate) trait Role: Send + Sync + 'static {
    /// Answers one request of the client at `peer`.
    fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> impl Future<Output = Reply> + Send;
}

/// Serves `role` at `listen` until SIGTERM or SIGINT. Says `listening on` once clients can connect.
pub(crate) async fn serve(listen: SocketAddr, role: impl Role) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    println!("listening on {}", listener.local_addr()?);
    let role = Arc::new(role);
    loop {
        let (stream, peer) = tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    // Out of file descriptors, or the peer is gone already: neither is a reason to stop serving.
                    eprintln!("cannot accept: {e}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        // Small answers on a kept connection: Nagle against delayed acknowledgement would cost 40 ms.
        let _ = stream.set_nodelay(true);
        let role = Arc::clone(&role);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let role = Arc::clone(&role);
                async move { Ok::<_, Infallible>(role.answer(request, peer).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(300))
                .serve_connection(TokioIo::new(stream), service);
            if let Err(e) = connection.await
                && !e.is_incomplete_message()
                && !e.is_timeout()
            {
                eprintln!("connection of {peer}: {e}");
            }
        });
    }
}
