//! HTTP/1.1 on hyper: a path per question.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{State, doctor, dump, explain};

/// A batch of requests to explain may be large; more than this is a mistake.
const MAX_BODY: usize = 64 << 20;
/// A question's head may take so long, from the beginning of the connection or the end of the last answer.
const HEAD: Duration = Duration::from_secs(60);
/// Bytes of a head.
const MAX_HEAD: usize = 16 << 10;
/// Connections by TCP at once: scrapers and probes are a few.
const STRANGERS: usize = 64;
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// Questions on the socket wait so long for the first configuration.
const START: Duration = Duration::from_secs(2);

/// Answers until `ended`.
pub(super) fn run(
    unix: std::os::unix::net::UnixListener,
    metrics: Option<std::net::TcpListener>,
    state: Arc<State>,
    mut ended: watch::Receiver<bool>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "the admin server could not start"),
    };
    runtime.block_on(async move {
        let served = async {
            let metrics = metrics.map(|listener| serve_metrics(listener, state.clone()));
            tokio::try_join!(serve_unix(unix, state.clone()), async {
                match metrics {
                    Some(metrics) => metrics.await,
                    None => Ok(()),
                }
            })
        };
        tokio::select! {
            served = served => if let Err(error) = served {
                tracing::error!(%error, "the admin server failed");
            },
            _ = ended.wait_for(|ended| *ended) => {}
        }
    });
}

async fn serve_unix(listener: std::os::unix::net::UnixListener, state: Arc<State>) -> std::io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((io, _)) => drop(tokio::spawn(connection(io, state.clone(), true))),
            Err(error) => after_failure(&error).await,
        }
    }
}

async fn serve_metrics(listener: std::net::TcpListener, state: Arc<State>) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut live: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((io, _)) => {
                live.retain(|connection| !connection.is_finished());
                // Whoever holds many does not keep the kubelet's probes out: the oldest goes.
                if live.len() >= STRANGERS
                    && let Some(oldest) = live.pop_front()
                {
                    tracing::debug!(STRANGERS, "an old connection to the metrics is ended for a new one");
                    oldest.abort();
                }
                live.push_back(tokio::spawn(connection(io, state.clone(), false)));
            }
            Err(error) => after_failure(&error).await,
        }
    }
}

/// Not the listener has failed, but this connection, or there are no descriptors for a while.
async fn after_failure(error: &std::io::Error) {
    tracing::warn!(%error, "the admin server could not accept a connection");
    tokio::time::sleep(AFTER_FAILURE).await;
}

async fn connection(io: impl AsyncRead + AsyncWrite + Unpin, state: Arc<State>, is_local: bool) {
    let service = service_fn(|request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(request, &state, is_local).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection");
    }
}

async fn answer(request: Request<Incoming>, state: &Arc<State>, is_local: bool) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let json = |value: serde_json::Value| reply(StatusCode::OK, "application/json", value.to_string());
    let text = |text: String| reply(StatusCode::OK, "text/plain; version=0.0.4", text);
    if is_local {
        // While the agent starts there is nothing to tell; when that takes long, it is what there is to tell.
        state.is_ready.wait(START).await;
    }
    match (request.method(), path.as_str()) {
        (&Method::GET, "/metrics") => text(dump::metrics(state).await),
        (&Method::GET, "/healthz/live" | "/healthz/startup") => text("ok\n".to_owned()),
        (&Method::GET, "/healthz/ready") if state.is_ready.is_set() => text("ok\n".to_owned()),
        (&Method::GET, "/healthz/ready") => {
            let why = "the first configuration is not in force yet\n".to_owned();
            reply(StatusCode::SERVICE_UNAVAILABLE, "text/plain", why)
        }
        _ if !is_local => {
            reply(StatusCode::NOT_FOUND, "text/plain", "only /metrics and /healthz here\n".to_owned())
        }
        (&Method::GET, "/status") => json(dump::status(state).await),
        (&Method::GET, "/workloads") => json((**state.workloads.load()).clone()),
        (&Method::GET, "/services") => json(dump::services(state)),
        (&Method::GET, "/routes") => match dump::routes(state, &query) {
            Ok(rows) => json(rows),
            Err(why) => reply(StatusCode::BAD_REQUEST, "text/plain", why),
        },
        (&Method::GET, "/endpoints") => json(dump::endpoints(state)),
        (&Method::GET, "/connections") => json(dump::connections(state).await),
        (&Method::GET, "/diagnostics") => json(dump::all_diagnostics(state)),
        (&Method::GET, "/doctor") => match doctor::report(state).await {
            Ok(report) => json(serde_json::to_value(report).unwrap_or_default()),
            Err(why) => reply(StatusCode::NOT_FOUND, "text/plain", why),
        },
        (&Method::GET, "/bpf") => match dump::bpf(state) {
            Ok(value) => json(value),
            Err(why) => reply(StatusCode::NOT_FOUND, "text/plain", why),
        },
        (&Method::POST, "/explain") => {
            let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => return reply(StatusCode::BAD_REQUEST, "text/plain", error.to_string()),
            };
            match explain::live(state, &body) {
                Ok(results) => json(serde_json::to_value(results).unwrap_or_default()),
                Err(why) => reply(StatusCode::BAD_REQUEST, "text/plain", why),
            }
        }
        _ => reply(StatusCode::NOT_FOUND, "text/plain", format!("{path}: no such question\n")),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
