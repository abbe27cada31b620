//! Metrics of the data path, under Istio's names and labels, so that Kiali and Istio's dashboards work unchanged.
//!
//! Each worker counts in a shard of its own (no atomics, no locks on the request path); a scrape collects the shards and
//! adds them up. A series is its rendered label text; the request path keeps the series it has met and sees the text
//! only when one is new.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

mod shard;

pub(crate) use shard::{Outcome, SeriesCache, Shard};

/// Upper bounds of Istio's histograms (Envoy's defaults), in milliseconds or bytes.
const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Counts per bucket (not cumulative; the last is +Inf) and the sum.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    buckets: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, value: f64) {
        self.buckets[BOUNDS.partition_point(|&bound| bound < value)] += 1;
        self.sum += value;
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum += other.sum;
    }

    fn render(&self, out: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        for (count, bound) in self.buckets.iter().zip(BOUNDS.iter().map(Some).chain([None])) {
            total += count;
            // Writing to a String cannot fail.
            let _ = match bound {
                Some(bound) => writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}"),
                None => writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {total}"),
            };
        }
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {total}", self.sum);
    }
}

/// One series of requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HttpSeries {
    requests: u64,
    duration_ms: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

/// One series of opaque connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpSeries {
    opened: u64,
    closed: u64,
    sent_bytes: u64,
    received_bytes: u64,
}

macro_rules! counters {
    ($($name:ident $kind:literal $text:literal $labels:literal $help:literal;)*) => {
        /// Counters and gauges without a workload, named for the fact they count.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter {
            $(#[doc = $help] $name,)*
        }

        const COUNTERS: &[(Counter, &str, &str, &str, &str)] = &[$((Counter::$name, $kind, $text, $labels, $help)),*];
    };
}

counters! {
    Accepted "counter" "undermesh_connections_accepted_total" "" "Connections accepted from captured pods and at gateway ports.";
    Active "gauge" "undermesh_connections_active" "" "Accepted connections that are open.";
    RefusedNoOrigin "counter" "undermesh_connections_refused_total" "reason=\"no_origin\"" "Connections refused before any byte was read.";
    RefusedShare "counter" "undermesh_connections_refused_total" "reason=\"too_many_of_client\"" "Connections refused before any byte was read.";
    RefusedDraining "counter" "undermesh_connections_refused_total" "reason=\"draining\"" "Connections refused before any byte was read.";
    RefusedPolicy "counter" "undermesh_connections_refused_total" "reason=\"policy\"" "Connections refused before any byte was read.";
    AcceptFailed "counter" "undermesh_accept_errors_total" "" "accept() failed, most often for want of file descriptors.";
    UpstreamConnected "counter" "undermesh_upstream_connections_total" "result=\"connected\"" "Attempts to connect to an endpoint.";
    UpstreamFailed "counter" "undermesh_upstream_connections_total" "result=\"failed\"" "Attempts to connect to an endpoint.";
    UpstreamTimedOut "counter" "undermesh_upstream_connections_total" "result=\"timed_out\"" "Attempts to connect to an endpoint.";
    UpstreamReused "counter" "undermesh_upstream_reuses_total" "" "Requests that found a pooled connection.";
    UpstreamStale "counter" "undermesh_upstream_stale_total" "" "Pooled connections that the endpoint had closed when they were to be used.";
    Retries "counter" "undermesh_retries_total" "" "Attempts beyond the first.";
    RetriesOverflowed "counter" "undermesh_retries_overflowed_total" "" "Retries not made because maxRetries or the retryBudget was met.";
    EjectedGatewayErrors "counter" "undermesh_outlier_ejections_total" "cause=\"consecutive_gateway_failure\"" "Times that a client left an endpoint out for its failures.";
    Ejected5xx "counter" "undermesh_outlier_ejections_total" "cause=\"consecutive_5xx\"" "Times that a client left an endpoint out for its failures.";
    EjectedLocalOrigin "counter" "undermesh_outlier_ejections_total" "cause=\"consecutive_local_origin_failure\"" "Times that a client left an endpoint out for its failures.";
    EjectionsPrevented "counter" "undermesh_outlier_ejections_prevented_total" "" "Ejections that maxEjectionPercent forbade.";
    EjectionsActive "gauge" "undermesh_outlier_ejections_active" "" "Endpoints that are left out now, counted for each client.";
    MirrorAnswered "counter" "undermesh_mirrored_requests_total" "result=\"answered\"" "Copies of requests, by what became of them; not counted elsewhere.";
    MirrorFailed "counter" "undermesh_mirrored_requests_total" "result=\"failed\"" "Copies of requests, by what became of them; not counted elsewhere.";
    MirrorOverflowed "counter" "undermesh_mirrored_requests_total" "result=\"overflowed\"" "Copies of requests, by what became of them; not counted elsewhere.";
    MirrorCancelled "counter" "undermesh_mirrored_requests_total" "result=\"cancelled\"" "Copies of requests, by what became of them; not counted elsewhere.";
    LookupsAnswered "counter" "undermesh_dns_lookups_total" "result=\"answered\"" "Look-ups of upstreams' names.";
    LookupsFailed "counter" "undermesh_dns_lookups_total" "result=\"failed\"" "Look-ups of upstreams' names.";
    LookupsRefused "counter" "undermesh_dns_lookups_total" "result=\"too_many_names\"" "Look-ups of upstreams' names.";
    LoopsRefused "counter" "undermesh_dns_loops_refused_total" "" "Addresses of names that were our own listeners.";
    OpaqueFailed "counter" "undermesh_tcp_failed_total" "" "Opaque connections that got no endpoint.";
    Http2Protocol "counter" "undermesh_http2_errors_total" "reason=\"protocol\"" "Clients' HTTP/2 connections that were ended for what the client did.";
    Http2Flood "counter" "undermesh_http2_errors_total" "reason=\"flood\"" "Clients' HTTP/2 connections that were ended for what the client did.";
    Http2Handshake "counter" "undermesh_http2_errors_total" "reason=\"handshake_timeout\"" "Clients' HTTP/2 connections that were ended for what the client did.";
    Http2Drain "counter" "undermesh_http2_errors_total" "reason=\"drain_timeout\"" "Clients' HTTP/2 connections that were ended for what the client did.";
    Malformed "counter" "undermesh_malformed_requests_total" "" "Bytes from clients that were no valid request.";
}

/// A shard's sums: what a worker answers to a scrape, and, added up, the whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    http: BTreeMap<Arc<str>, HttpSeries>,
    tcp: BTreeMap<Arc<str>, TcpSeries>,
    rules: BTreeMap<Arc<str>, u64>,
    counters: BTreeMap<usize, i64>,
}

impl Metrics {
    /// Adds another worker's sums.
    pub fn add(&mut self, other: Self) {
        for (labels, series) in other.http {
            let mine = self.http.entry(labels).or_default();
            mine.requests += series.requests;
            mine.duration_ms.add(&series.duration_ms);
            mine.request_bytes.add(&series.request_bytes);
            mine.response_bytes.add(&series.response_bytes);
        }
        for (labels, series) in other.tcp {
            let mine = self.tcp.entry(labels).or_default();
            mine.opened += series.opened;
            mine.closed += series.closed;
            mine.sent_bytes += series.sent_bytes;
            mine.received_bytes += series.received_bytes;
        }
        for (rule, count) in other.rules {
            *self.rules.entry(rule).or_default() += count;
        }
        for (counter, value) in other.counters {
            *self.counters.entry(counter).or_default() += value;
        }
    }

    /// Sets what is not counted by the workers.
    pub(crate) fn set(&mut self, counter: Counter, value: i64) {
        self.counters.insert(counter as usize, value);
    }

    /// The value of `counter`.
    pub fn counter(&self, counter: Counter) -> i64 {
        self.counters.get(&(counter as usize)).copied().unwrap_or_default()
    }

    /// Requests of all series.
    pub fn requests(&self) -> u64 {
        self.http.values().map(|series| series.requests).sum()
    }

    /// Prometheus text format.
    pub fn render(&self, out: &mut String) {
        self.render_http(out);
        self.render_tcp(out);
        // Writing to a String cannot fail.
        header(out, "undermesh_rule_requests_total", "counter", "Requests by the rule that decided them.");
        for (rule, count) in &self.rules {
            let _ = writeln!(out, "undermesh_rule_requests_total{{rule=\"{}\"}} {count}", escape(rule));
        }
        let mut last = "";
        for (counter, kind, name, labels, help) in COUNTERS {
            if *name != last {
                header(out, name, kind, help);
                last = name;
            }
            let value = self.counter(*counter);
            let _ = if labels.is_empty() {
                writeln!(out, "{name} {value}")
            } else {
                writeln!(out, "{name}{{{labels}}} {value}")
            };
        }
    }

    fn render_http(&self, out: &mut String) {
        header(out, "istio_requests_total", "counter", "Requests.");
        for (labels, series) in &self.http {
            let _ = writeln!(out, "istio_requests_total{{{labels}}} {}", series.requests);
        }
        type Pick = fn(&HttpSeries) -> &Histogram;
        let histograms: [(&str, &str, Pick); 3] = [
            ("istio_request_duration_milliseconds", "Duration of requests.", |series| &series.duration_ms),
            ("istio_request_bytes", "Sizes of request bodies.", |series| &series.request_bytes),
            ("istio_response_bytes", "Sizes of response bodies.", |series| &series.response_bytes),
        ];
        for (name, help, pick) in histograms {
            header(out, name, "histogram", help);
            for (labels, series) in &self.http {
                pick(series).render(out, name, labels);
            }
        }
    }

    fn render_tcp(&self, out: &mut String) {
        type Pick = fn(&TcpSeries) -> u64;
        let counters: [(&str, &str, Pick); 4] = [
            ("istio_tcp_connections_opened_total", "Opaque connections opened.", |series| series.opened),
            ("istio_tcp_connections_closed_total", "Opaque connections closed.", |series| series.closed),
            ("istio_tcp_sent_bytes_total", "Bytes sent to clients.", |series| series.sent_bytes),
            ("istio_tcp_received_bytes_total", "Bytes received from clients.", |series| {
                series.received_bytes
            }),
        ];
        for (name, help, pick) in counters {
            header(out, name, "counter", help);
            for (labels, series) in &self.tcp {
                let _ = writeln!(out, "{name}{{{labels}}} {}", pick(series));
            }
        }
    }
}

fn header(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label value as Prometheus wants it.
pub fn escape(value: &str) -> std::borrow::Cow<'_, str> {
    if value.contains(['"', '\\', '\n']) {
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
    } else {
        value.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_is_in_that_bucket_and_one_above_is_not() {
        let mut histogram = Histogram::default();
        histogram.observe(1.0);
        histogram.observe(1.1);
        histogram.observe(1e9);
        assert_eq!((histogram.buckets[1], histogram.buckets[2], histogram.buckets[BOUNDS.len()]), (1, 1, 1));
    }

    #[test]
    fn each_family_has_one_header() {
        let mut text = String::new();
        Metrics::default().render(&mut text);
        let mut names: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let count = names.len();
        names.dedup();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        assert_eq!(escape("plain"), "plain");
    }
}
