//! Limits and time-outs of HTTP/2 connections, with the reason for each default.

use std::time::Duration;

use undermesh_core::path::Normalization;

/// Settings of a connection that a client opened to us.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// `http` or `https`: the scheme of the transport. The client's own `:scheme` is not believed.
    pub scheme: &'static str,
    /// Whether `x-forwarded-proto` tells the scheme. Default false.
    pub trusts_forwarded_proto: bool,
    /// How paths are normalised before anything looks at them.
    pub normalization: Normalization,
    /// SETTINGS_MAX_CONCURRENT_STREAMS. Default 1024: a pod's gRPC channel carries all of its calls, so the usual 100
    /// would queue calls that reach the server at once without a mesh; Envoy's historic 2^31-1 bounds nothing (it has
    /// since moved to 1024 too).
    pub max_concurrent_streams: u32,
    /// Size of a request head as HPACK counts it (name + value + 32 for each line). Default 60 KiB, as Envoy's
    /// `max_request_headers_kb`. Larger: 431.
    pub max_head_bytes: usize,
    /// Lines of a request head. Default 100, as Envoy's `max_headers_count`. More: 431.
    pub max_head_lines: usize,
    /// Bytes of a stream's body that the client may send before we took any. Default 256 KiB.
    pub stream_window: u32,
    /// The same for all streams of the connection together, and so the most that a client can make us hold of its
    /// bodies. Default 2 MiB: eight stalled streams before the others feel it.
    pub connection_window: u32,
    /// Response bytes queued for one stream beyond what the client's window lets out. Default 64 KiB.
    pub send_buffer: usize,
    /// How much of a request's body is kept so that it can be sent again. Default 64 KiB; Envoy keeps up to its 1 MiB
    /// per-connection buffer limit, which a node-wide proxy cannot afford for each stream.
    pub replay_bytes: usize,
    /// From accept to the end of the client's preface. Default 10 s.
    pub handshake_timeout: Duration,
    /// A connection without streams is ended with GOAWAY after so long. Default 1 h, as Envoy's `idle_timeout`.
    pub idle_timeout: Duration,
    /// How long streams may go on after GOAWAY. Default 25 s: within the 30 s that Kubernetes leaves a pod by default.
    pub drain_timeout: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            scheme: "http",
            trusts_forwarded_proto: false,
            normalization: Normalization::default(),
            max_concurrent_streams: 1024,
            max_head_bytes: 60 * 1024,
            max_head_lines: 100,
            stream_window: 256 * 1024,
            connection_window: 2 * 1024 * 1024,
            send_buffer: 64 * 1024,
            replay_bytes: 64 * 1024,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            drain_timeout: Duration::from_secs(25),
        }
    }
}

/// Settings of a connection that we open to an upstream.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Size of a response head as HPACK counts it. Default 60 KiB, as Envoy's `max_response_headers_kb`. Larger: the
    /// attempt fails with `UpstreamProtocol`.
    pub max_head_bytes: u32,
    /// Bytes of a response that the upstream may send before the client took any. Default 256 KiB.
    pub stream_window: u32,
    /// The same for all streams of the connection together. Default 2 MiB.
    pub connection_window: u32,
    /// Request bytes queued for one stream beyond what the upstream's window lets out. Default 64 KiB.
    pub send_buffer: usize,
    /// Streams that may be opened before the upstream's SETTINGS came. Default 100, the least that RFC 9113 recommends
    /// to allow; streams beyond what the upstream then allows are refused by it and tried again.
    pub initial_max_streams: usize,
    /// Istio: `connectionPool.http.http2KeepAlive`. Default none.
    pub keep_alive: Option<KeepAlive>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            max_head_bytes: 60 * 1024,
            stream_window: 256 * 1024,
            connection_window: 2 * 1024 * 1024,
            send_buffer: 64 * 1024,
            initial_max_streams: 100,
            keep_alive: None,
        }
    }
}

/// PING frames on an upstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// From one answer to the next PING.
    pub interval: Duration,
    /// The connection is closed when the answer takes longer.
    pub timeout: Duration,
}
