//! Rules for limits and time-outs.

use super::{Checker, values};
use crate::api::connection_pool::{
    ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, RetryBudget, TcpSettings,
};
use crate::diagnostic::Code;

pub(super) fn check(check: &mut Checker<'_>, settings: Option<&ConnectionPoolSettings>) {
    let Some(settings) = settings else { return };
    if settings.http.is_none() && settings.tcp.is_none() {
        check.error(Code::EmptyPolicy, "connection pool must have at least one field");
    }
    if let Some(http) = &settings.http {
        check.field("http", |check| self::http(check, http));
    }
    if let Some(tcp) = &settings.tcp {
        check.field("tcp", |check| self::tcp(check, tcp));
    }
}

fn non_negative(check: &mut Checker<'_>, field: &str, value: i32, words: &str) {
    if value < 0 {
        check.error_at(field, Code::InvalidConnectionPool, format!("{words} must be non-negative"));
    }
}

fn http(check: &mut Checker<'_>, http: &HttpSettings) {
    non_negative(
        check,
        "http1MaxPendingRequests",
        http.http1_max_pending_requests,
        "http1 max pending requests",
    );
    non_negative(check, "http2MaxRequests", http.http2_max_requests, "http2 max requests");
    non_negative(
        check,
        "maxRequestsPerConnection",
        http.max_requests_per_connection,
        "max requests per connection",
    );
    non_negative(check, "maxRetries", http.max_retries, "max retries");
    non_negative(check, "maxConcurrentStreams", http.max_concurrent_streams, "max concurrent streams");
    check.field("idleTimeout", |check| values::duration(check, http.idle_timeout));
    if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol {
        let message = "use client protocol must not be true when H2UpgradePolicy is UPGRADE";
        check.error_at("useClientProtocol", Code::InvalidConnectionPool, message);
    }
    if let Some(keep_alive) = &http.http2_keep_alive {
        check.field("http2KeepAlive", |check| {
            for (name, value) in [("interval", keep_alive.interval), ("timeout", keep_alive.timeout)] {
                if value.is_none() {
                    let message = format!("http2 keepalive {name} is required");
                    check.error(Code::InvalidConnectionPool, message);
                }
            }
            check.field("interval", |check| values::duration(check, keep_alive.interval));
            check.field("timeout", |check| values::duration(check, keep_alive.timeout));
        });
    }
}

fn tcp(check: &mut Checker<'_>, tcp: &TcpSettings) {
    non_negative(check, "maxConnections", tcp.max_connections, "max connections");
    check.field("connectTimeout", |check| values::duration(check, tcp.connect_timeout));
    check.field("maxConnectionDuration", |check| values::duration(check, tcp.max_connection_duration));
    // Below 1 ms counts as 0, which switches it off. Over HTTP there is no such exception.
    check.field("idleTimeout", |check| {
        values::duration(check, tcp.idle_timeout.filter(|timeout| timeout.get().as_millis() > 0));
    });
    if let Some(keepalive) = &tcp.tcp_keepalive {
        check.field("tcpKeepalive.time", |check| values::duration(check, keepalive.time));
        check.field("tcpKeepalive.interval", |check| values::duration(check, keepalive.interval));
    }
}

pub(super) fn retry_budget(check: &mut Checker<'_>, budget: Option<&RetryBudget>) {
    let Some(budget) = budget else { return };
    if budget.percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
        check.error_at("percent", Code::InvalidPercent, "retry budget percent must be in range 0..100");
    }
}
