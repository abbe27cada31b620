//! The seam between the codecs and the request path: one request in the hands of a codec.
//!
//! ```text
//!            codec (http1, http2)                        request path (request.rs), written once
//!   head complete ── RequestPath::plan(view, edits) ──▶  route, draw faults, fill the edits       (synchronous)
//!                 ── RequestPath::run(plan, exchange) ─▶ loop { pick, connect,
//!                        ◀─ Exchange::attempt(upstream) ─       send, wait for a head,
//!   response head ── Judge::judge(view, edits) ──────────▶      relay it or try again }          (synchronous)
//!                        ◀─ Exchange::relay / answer ────  record
//! ```
//!
//! Heads are seen through `core`'s views and changed through its edits, in synchronous calls made while the codec has the
//! head parsed; so nothing of a head is copied or kept for later, and each head is parsed once and written once.

use std::time::{Duration, Instant};

use http::HeaderMap;
use undermesh_core::edits::Edits;
use undermesh_core::view::{RequestView, ResponseView};

use crate::mirror::Tee;
use crate::pool::Upstream;

/// Facts about a request that a codec knows and a view does not tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestMeta<'a> {
    /// The protocol named in `Upgrade` of a valid upgrade request (HTTP/1.1), or `:protocol` of an extended CONNECT.
    pub upgrade: Option<&'a str>,
    /// Whether a body follows.
    pub has_body: bool,
}

/// The form in which the codec prepares the request, right after `plan` and with the edits it filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It will be answered here; nothing is sent on.
    Answer,
    /// It goes to an HTTP/1.1 upstream.
    Http1,
    /// It goes to an HTTP/2 upstream.
    Http2,
}

/// The life of a request above the codec. Implemented by the proxy's request path, and by doubles in codec tests.
pub trait RequestPath {
    /// What `plan` found out, carried to `run`.
    type Plan;

    /// Called once for each request as soon as its head is complete. Fills `edits` (handed in empty) with the changes for
    /// the head that goes upstream. The codec itself handles framing, hop-by-hop headers and `x-envoy-attempt-count`.
    fn plan(&self, head: &impl RequestView, meta: &RequestMeta<'_>, edits: &mut Edits)
    -> (Self::Plan, Stage);

    /// The writing end of the request's copies, if it is mirrored. Called once, right after `plan`: the codec gives it the head
    /// that it stages, and the body as it reads it.
    fn take_tee(_plan: &mut Self::Plan) -> Option<Tee> {
        None
    }

    /// Serves the request: exactly one of `relay` and `answer` has been called on `exchange` when it returns, or the client
    /// is gone. May be dropped at any await when the client's connection ends. The codec drops `plan` right after it; it is
    /// lent, since a future that owns it would have room for it twice, for as long as the connection lives.
    fn run<X: Exchange>(&self, plan: &mut Self::Plan, exchange: &mut X) -> impl Future<Output = ()>;

    /// Bytes that are no request (bad framing, head too large, HTTP/1.0): the codec answers `status` by itself and closes.
    /// `why` is for the log: lower case, no user bytes.
    fn refused(&self, status: u16, why: &'static str, sent_bytes: u64);

    /// Whether the connection should end after the current request (drain): the codec then says `connection: close`.
    fn is_draining(&self) -> bool;
}

/// Decides what becomes of a response while its head is in view.
pub trait Judge {
    /// Called once for each final response head. With [`Verdict::Relay`], `edits` (handed in empty) holds the changes for
    /// the head that goes to the client. `is_replayable` is what [`Exchange::is_replayable`] would say now.
    fn judge(&mut self, head: &impl ResponseView, is_replayable: bool, edits: &mut Edits) -> Verdict;
}

/// See [`Judge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The client gets this response.
    Relay,
    /// Drop it; the request will be tried again. Only valid when [`Exchange::is_replayable`].
    Retry,
}

/// Time limits of one attempt. Both start when the request has been received whole (Envoy: after the downstream end of
/// stream), so a slow upload does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Istio: `HTTPRetry.perTryTimeout`, for the wait until the response head.
    pub per_try: Option<Duration>,
    /// Istio: `HTTPRoute.timeout`, for the whole request over all attempts, until the end of the response.
    pub route: Option<Duration>,
}

/// Which limit an attempt met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::per_try`]
    PerTry,
    /// [`Limits::route`]
    Route,
}

/// Why an attempt brought no response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttemptError {
    /// The upstream connection ended or failed before the first byte of a response.
    #[error("upstream closed the connection before answering")]
    Reset {
        /// It had been idle in the pool: most likely the peer closed it while we sent (a stale connection).
        reused: bool,
        /// HTTP/2 REFUSED_STREAM, or GOAWAY below our stream: the peer promises not to have processed the request.
        refused: bool,
    },
    /// What came is no valid response. Status 502, flag UPE.
    #[error("upstream answered with a malformed message")]
    UpstreamProtocol,
    /// A time limit passed. Status 504, flag UT.
    #[error("upstream did not answer in time")]
    Timeout(Limit),
    /// The client's connection or stream ended. Flag DC; nobody is left to answer.
    #[error("client went away")]
    ClientGone,
    /// The client's body breaks its framing. Status 400, flag DPE.
    #[error("client sent a malformed body")]
    ClientProtocol,
}

/// The client's connection or stream ended while the request waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("client went away")]
pub struct ClientGone;

/// How an exchange ended, once the head of its response was on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All of the response was handed to the client's socket.
    Complete,
    /// The client left before that: flag DC.
    ClientGone,
    /// The upstream's message ended early: the client's connection was reset, flag UC (UPE if it broke framing).
    UpstreamReset,
    /// [`Limits::route`] passed in the middle of the response: flag UT.
    Timeout,
    /// The client's body broke its framing after the response had begun: flag DPE.
    ClientProtocol,
}

/// What was moved for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes of the request's body (Envoy's BYTES_RECEIVED).
    pub received: u64,
    /// Bytes of the response's body (Envoy's BYTES_SENT).
    pub sent: u64,
    /// How it ended.
    pub end: End,
    /// `grpc-status` of the response's trailers. (A gRPC status in the head is the judge's to see; trailers that pass from
    /// HTTP/1.1 to HTTP/1.1 are not looked at.)
    pub grpc_status: Option<u32>,
}

/// The `grpc-status` of a trailer section.
pub(crate) fn grpc_status(trailers: &HeaderMap) -> Option<u32> {
    trailers.get("grpc-status")?.to_str().ok()?.trim().parse().ok()
}

/// A response of our own.
#[derive(Debug, Clone, Copy)]
pub struct LocalReply<'a> {
    /// HTTP status; the codec knows the reason phrase.
    pub status: u16,
    /// Changes to the reply's own head (`content-type: text/plain` when there is a body, `content-length`), and its further
    /// lines: `location`, `grpc-status`, the route's response header operations.
    pub edits: &'a Edits,
    /// The body; not sent in answer to HEAD.
    pub body: &'a [u8],
}

/// One request and the way back to its client.
///
/// The request was staged after [`RequestPath::plan`]. After a failed `attempt`, or one judged [`Verdict::Retry`], the
/// upstream is dropped and, if `is_replayable`, another `attempt` may follow.
pub trait Exchange {
    /// Whether the whole request, as sent so far, can be sent again: nothing of it left the buffer.
    fn is_replayable(&self) -> bool;

    /// When the request had been received whole; `None` while its body is still coming.
    fn request_ended(&self) -> Option<Instant>;

    /// A request that has been received whole counts as received whole only now: its limits start here. For an injected
    /// delay, which is outside of them (Envoy: the router does not know of it).
    fn restart_limits(&mut self);

    /// Waits until `until` (an injected delay, a retry's back-off), watching the client meanwhile.
    fn pause(&mut self, until: Instant) -> impl Future<Output = Result<(), ClientGone>>;

    /// Sends the request to `upstream` as attempt `number` (from 1, sent as `x-envoy-attempt-count`), relays 1xx heads, and
    /// gives the head of the final response to `judge`.
    fn attempt(
        &mut self,
        upstream: Upstream,
        number: u32,
        limits: Limits,
        judge: &mut impl Judge,
    ) -> impl Future<Output = Result<Verdict, AttemptError>>;

    /// Relays the response that was judged [`Verdict::Relay`], and the rest of the request. After a 101 it is a tunnel.
    fn relay(&mut self, limits: Limits) -> impl Future<Output = Transfer>;

    /// Answers in the upstream's stead. Bytes of the request's body that still come are read away or the connection ends.
    fn answer(&mut self, reply: &LocalReply<'_>) -> impl Future<Output = Transfer>;
}
