//! Headers that an application must hand on, or a trace and a user's route end at its first hop. The list is that of
//! Bookinfo's productpage.
//! <https://istio.io/latest/docs/tasks/observability/distributed-tracing/overview/#trace-context-propagation>

use http::HeaderMap;

const PROPAGATED: [&str; 19] = [
    "authorization",
    "b3",
    "cookie",
    "end-user",
    "grpc-trace-bin",
    "jwt",
    "sw8",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-b3-flags",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-cloud-trace-context",
    "x-datadog-trace-id",
    "x-ot-span-context",
    "x-request-id",
];

/// Those of `incoming` that belong on calls made on its behalf.
pub(crate) fn propagated(incoming: &HeaderMap) -> HeaderMap {
    let mut outgoing = HeaderMap::new();
    for name in PROPAGATED {
        for value in incoming.get_all(name) {
            outgoing.append(name, value.clone());
        }
    }
    outgoing
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn traces_and_users_go_on_and_hop_by_hop_headers_stay() {
        let mut incoming = HeaderMap::new();
        for name in [
            "end-user",
            "x-request-id",
            "b3",
            "traceparent",
            "host",
            "connection",
            "content-length",
            "accept",
        ] {
            incoming.append(name, HeaderValue::from_static("x"));
        }
        incoming.append("tracestate", HeaderValue::from_static("a=1"));
        incoming.append("tracestate", HeaderValue::from_static("b=2"));
        let outgoing = propagated(&incoming);
        let mut names: Vec<&str> = outgoing.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["b3", "end-user", "traceparent", "tracestate", "x-request-id"]);
        assert_eq!(outgoing.get_all("tracestate").iter().count(), 2, "repeated headers stay repeated");
    }
}
