//! Compares what came of a group of requests with what the case expects. Every reason says what was wanted and what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::Value;

use crate::case::{By, Connection, Destination, Expect, Mirror, Protocol, UpstreamExpect};
use crate::client::Outcome;
use crate::group::{Group, ended};
use crate::message::{Checked, response, same, upstream};
use crate::topology::has_labels;
use crate::upstream::Seen;
use crate::world::{array, text};

/// One response with the upstream's view of its request.
struct Pair<'a> {
    outcome: &'a Outcome,
    seen: Option<&'a Seen>,
}

/// Whether all of `expect` holds.
pub(crate) fn check(expect: &Expect, group: &Group<'_>, protocol: Protocol) -> Checked {
    let pairs: Vec<_> =
        group.outcomes.iter().map(|outcome| Pair { outcome, seen: group.seen_of(outcome) }).collect();
    let checking = Checking { group, protocol, pairs: pairs.iter().collect(), is_all: true, status: None };
    checking.check(expect)
}

/// Some of a group's responses.
struct Checking<'a> {
    group: &'a Group<'a>,
    protocol: Protocol,
    pairs: Vec<&'a Pair<'a>>,
    /// All of the group's.
    is_all: bool,
    /// The one status that they have, if they were chosen by it.
    status: Option<u16>,
}

impl<'a> Checking<'a> {
    fn check(&self, expect: &Expect) -> Checked {
        self.statuses(expect)?;
        self.connections(expect)?;
        self.destinations(expect)?;
        self.spread(expect)?;
        self.counts(expect)?;
        self.times(expect)?;
        if let Some(want) = &expect.upstream {
            self.each_seen(|seen| upstream(seen, want))?;
        }
        if let Some(want) = &expect.response {
            self.each(|outcome| response(outcome, want))?;
        }
        if let Some(want) = &expect.location {
            self.each(|it| same("location", it.header("location").as_deref(), Some(want.as_str())))?;
        }
        if let Some(want) = &expect.tls {
            self.each(|it| same("the server's certificate", &it.server_cert, &want.server_cert))?;
        }
        if let Some(want) = &expect.echo {
            self.each(|it| same("the echo", it.echo.as_ref(), Some(want)))?;
        }
        if let Some(want) = &expect.banner {
            self.each(|it| same("the banner", it.banner.as_ref(), Some(want)))?;
        }
        if let Some(want) = &expect.peer {
            let has_mtls = |it: &Seen| it.facts.tls.as_ref().is_some_and(|it| it.has_client_cert);
            self.each_seen(|seen| same("mutual TLS at the upstream", has_mtls(seen), want.mtls))?;
        }
        self.log(expect)?;
        for (status, want) in &expect.on_status {
            let chosen = |it: &&&Pair<'a>| it.outcome.status.is_some_and(|it| it.to_string() == *status);
            self.only(self.pairs.iter().filter(chosen).copied().collect(), status.parse().ok())
                .check(want)
                .map_err(|why| format!("with status {status}: {why}"))?;
        }
        for (version, want) in &expect.per_version {
            let is_of = |it: &&&Pair<'a>| {
                it.seen.is_some_and(|it| it.upstream.labels.get("version") == Some(version))
            };
            let pairs: Vec<_> = self.pairs.iter().filter(is_of).copied().collect();
            if pairs.is_empty() {
                return Err(format!("no response came from version {version}"));
            }
            self.only(pairs, None).check(want).map_err(|why| format!("of version {version}: {why}"))?;
        }
        Ok(())
    }

    fn only(&self, pairs: Vec<&'a Pair<'a>>, status: Option<u16>) -> Checking<'a> {
        Checking { group: self.group, protocol: self.protocol, pairs, is_all: false, status }
    }

    fn each(&self, mut check: impl FnMut(&Outcome) -> Checked) -> Checked {
        self.pairs.iter().try_for_each(|it| check(it.outcome))
    }

    /// What upstreams saw of these requests; where an answer does not tell, all that they saw.
    fn each_seen(&self, mut check: impl FnMut(&Seen) -> Checked) -> Checked {
        for pair in &self.pairs {
            if let Some(seen) = pair.seen {
                check(seen)?;
            } else if self.is_all && !self.group.seen.is_empty() {
                self.group.seen.iter().try_for_each(&mut check)?;
            } else {
                return Err(format!("no upstream saw the request ({})", ended(pair.outcome)));
            }
        }
        Ok(())
    }

    fn statuses(&self, expect: &Expect) -> Checked {
        let status = |it: &Outcome| it.status.ok_or_else(|| format!("there is no response: {}", ended(it)));
        if let Some(want) = expect.status {
            self.each(|it| same("status", status(it)?, want))?;
        }
        if let Some(want) = &expect.status_in {
            self.each(|it| {
                let status = status(it)?;
                want.contains(&status)
                    .then_some(())
                    .ok_or_else(|| format!("status is {status}, want one of {want:?}"))
            })?;
        }
        if let Some(want) = expect.grpc_status {
            self.each(|it| {
                status(it)?;
                same("grpc-status", it.grpc_status, Some(want))
            })?;
        }
        let name =
            |it: &Outcome| it.status.map_or_else(|| it.connection.name().to_owned(), |it| it.to_string());
        let counts = count(self.pairs.iter().map(|it| name(it.outcome)));
        for (status, want) in &expect.status_distribution {
            let tolerance = expect.tolerance.ok_or("status_distribution without tolerance")?;
            self.share(&format!("status {status}"), counts.get(status).copied(), *want, tolerance)?;
        }
        for (status, want) in &expect.min_count {
            let have = counts.get(status).copied().unwrap_or(0);
            if have < *want {
                return Err(format!("{have} times {status}, want at least {want}; all: {counts:?}"));
            }
        }
        Ok(())
    }

    fn connections(&self, expect: &Expect) -> Checked {
        let allowed = expect.connection.map(|it| vec![it]).or(expect.connection_in.clone());
        let Some(mut allowed) = allowed else { return Ok(()) };
        if self.protocol.is_tls() && allowed.contains(&Connection::TlsError) {
            // A refused certificate may reach the client as an alert or as a reset.
            allowed.push(Connection::Reset);
        }
        self.each(|it| {
            if allowed.contains(&it.connection) {
                return Ok(());
            }
            let allowed: Vec<_> = allowed.iter().map(|it| it.name()).collect();
            Err(format!("connection is {}, want {}", ended(it), allowed.join(" or ")))
        })
    }

    fn destinations(&self, expect: &Expect) -> Checked {
        if expect.passthrough == Some(true) {
            self.each_seen(|it| same("forwarded to", it.local, self.group.dialled))?;
        }
        match &expect.destination {
            None => Ok(()),
            Some(Value::String(none)) if none == "none" => {
                if self.is_all {
                    let seen: Vec<_> = self.group.seen.iter().map(|it| (&it.upstream.id, &it.path)).collect();
                    return same("requests seen by upstreams", seen, Vec::new());
                }
                let seen = self.pairs.iter().filter_map(|it| it.seen).map(|it| &it.upstream.id);
                same("upstreams that answered", seen.collect(), Vec::<&String>::new())
            }
            Some(want) => {
                let want: Destination = serde_json::from_value(want.clone())
                    .map_err(|error| format!("destination is not understood: {error}"))?;
                self.each_seen(|seen| self.destination(seen, &want))
            }
        }
    }

    fn destination(&self, seen: &Seen, want: &Destination) -> Checked {
        let listening = self.group.topology.listening.get(&seen.local).ok_or("nobody listens there")?;
        let serves = |(host, port): &&(String, u16)| {
            want.host.as_ref().is_none_or(|it| it == host) && want.port.is_none_or(|it| it == *port)
        };
        if (want.host.is_some() || want.port.is_some()) && !listening.serves.iter().any(|it| serves(&it)) {
            return Err(format!(
                "destination is {} {} of {:?}, want {:?} {:?}",
                seen.upstream.id, seen.local, listening.serves, want.host, want.port
            ));
        }
        if let Some(endpoints) = &want.endpoints
            && !endpoints.contains(&seen.upstream.id)
        {
            return Err(format!("endpoint is {}, want one of {endpoints:?}", seen.upstream.id));
        }
        if let Some(subset) = &want.subset {
            self.subset(seen, subset)?;
        }
        if let Some(address) = want.address {
            same("address", seen.local.ip(), address)?;
        }
        if let Some(addresses) = &want.address_in
            && !addresses.contains(&seen.local.ip())
        {
            return Err(format!("address is {}, want one of {addresses:?}", seen.local.ip()));
        }
        if let Some(dialed) = &want.dialed {
            let (host, port) = dialed.rsplit_once(':').ok_or("dialed without port")?;
            let host = host.trim_matches(['[', ']']);
            let address = self.group.topology.zone.get(host).copied().or_else(|| host.parse().ok());
            let address = address.ok_or_else(|| format!("{host} does not resolve"))?;
            let port = port.parse().map_err(|_| format!("{dialed} is no address"))?;
            same("dialed", seen.local, SocketAddr::new(address, port))?;
        }
        Ok(())
    }

    /// Some DestinationRule has a subset of that name to which the endpoint belongs.
    fn subset(&self, seen: &Seen, name: &str) -> Checked {
        let rules = self.group.config.iter().filter(|it| it["kind"] == "DestinationRule");
        let mut subsets = rules.flat_map(|it| array(&it["spec"], "subsets")).filter(|it| it["name"] == *name);
        let labels = |it: &Value| -> BTreeMap<String, String> {
            let labels = it["labels"].as_object().into_iter().flatten();
            labels.map(|(key, value)| (key.clone(), text(value).to_owned())).collect()
        };
        if subsets.any(|it| has_labels(&seen.upstream.labels, &labels(it))) {
            return Ok(());
        }
        Err(format!("{} is not in a subset {name}", seen.upstream.id))
    }

    /// How requests spread over endpoints.
    fn spread(&self, expect: &Expect) -> Checked {
        let endpoint = |it: &&&Pair<'a>| it.seen.map(|it| it.upstream.id.clone());
        let endpoints = count(self.pairs.iter().filter_map(|it| endpoint(&it)));
        if let Some(want) = &expect.distribution {
            for (key, share) in &want.values {
                let of_key =
                    self.pairs.iter().filter_map(|it| it.seen).filter(|it| self.is_of(it, want.by, key));
                self.share(key, Some(of_key.count()), *share, want.tolerance)
                    .map_err(|why| format!("{why}; by endpoint: {endpoints:?}"))?;
            }
        }
        match &expect.sticky {
            None => {}
            Some(Value::Bool(true)) => {
                let answered: usize = endpoints.values().sum();
                same("responses of upstreams", answered, self.pairs.len())?;
                if endpoints.len() != 1 {
                    return Err(format!("answers came from {endpoints:?}, want one endpoint"));
                }
            }
            Some(Value::Bool(false)) if endpoints.len() < 2 => {
                return Err(format!("answers came from {endpoints:?}, want several endpoints"));
            }
            Some(Value::Bool(false)) => {}
            Some(Value::String(it)) if it == "per-key" => {
                let mut by_key: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
                for pair in &self.pairs {
                    let key = pair.outcome.key.as_ref().ok_or("sticky per key without vary_header")?;
                    by_key.entry(key).or_default().extend(pair.seen.map(|it| &it.upstream.id));
                }
                if let Some((key, several)) = by_key.iter().find(|(_, it)| it.len() != 1) {
                    return Err(format!("{key} was answered by {several:?}, want one endpoint"));
                }
            }
            Some(other) => return Err(format!("sticky: {other} is not understood")),
        }
        if let Some(want) = expect.min_endpoints
            && endpoints.len() < want
        {
            return Err(format!("answers came from {endpoints:?}, want {want} endpoints"));
        }
        if let Some(want) = &expect.includes_endpoint
            && !endpoints.contains_key(want)
        {
            return Err(format!("answers came from {endpoints:?}, want some from {want}"));
        }
        if let Some(want) = &expect.excludes_endpoint {
            // A refused attempt shows in nobody's record, so the log is not asked: an answer must not be its, and no other.
            if endpoints.contains_key(want) {
                return Err(format!("answers came from {endpoints:?}, want none from {want}"));
            }
        }
        for (endpoint, limit) in &expect.share_below {
            let share = endpoints.get(endpoint).copied().unwrap_or(0) as f64 / self.pairs.len().max(1) as f64;
            if share >= *limit {
                return Err(format!(
                    "share of {endpoint} is {share:.3}, want below {limit}; all: {endpoints:?}"
                ));
            }
        }
        if let Some(want) = &expect.moved_fraction
            && self.group.moved > want.max
        {
            return Err(format!("{:.3} of the keys moved, want at most {}", self.group.moved, want.max));
        }
        Ok(())
    }

    fn is_of(&self, seen: &Seen, by: By, key: &str) -> bool {
        match by {
            By::Version => seen.upstream.labels.get("version").is_some_and(|it| it == key),
            By::Endpoint => seen.upstream.id == key,
            By::Address => seen.local.ip().to_string() == key,
            By::Host => {
                let listening = self.group.topology.listening.get(&seen.local);
                listening.is_some_and(|it| it.serves.iter().any(|(host, _)| host == key))
            }
        }
    }

    fn share(&self, what: &str, have: Option<usize>, want: f64, tolerance: f64) -> Checked {
        let share = have.unwrap_or(0) as f64 / self.pairs.len().max(1) as f64;
        if (share - want).abs() <= tolerance {
            return Ok(());
        }
        Err(format!("share of {what} is {share:.3}, want {want} ± {tolerance}"))
    }

    /// Attempts, connections, hops, copies.
    fn counts(&self, expect: &Expect) -> Checked {
        let group = self.group;
        if let Some(want) = expect.attempts {
            same("requests seen by upstreams", group.seen.len(), want * self.pairs.len())?;
        }
        if let Some(want) = expect.connect_attempts {
            same("connects tried", group.connects, want * self.pairs.len())?;
        }
        if let Some(want) = expect.upstream_connections {
            same("connections opened", group.opened, want)?;
        }
        if let Some(want) = &expect.hops {
            let passed = group.logs.gateways.iter().filter(|(_, lines)| !lines.is_empty()).map(|(id, _)| id);
            same("gateways on the way", passed.collect::<BTreeSet<_>>(), want.iter().collect())?;
        }
        let Some(mirrors) = &expect.mirror else { return Ok(()) };
        let answered: BTreeSet<usize> =
            self.pairs.iter().filter_map(|it| it.seen).map(|it| it.number).collect();
        let copies: Vec<&Seen> = group.seen.iter().filter(|it| !answered.contains(&it.number)).collect();
        mirrors.iter().try_for_each(|want| self.copies(want, &copies))
    }

    fn copies(&self, want: &Mirror, copies: &[&Seen]) -> Checked {
        let target = Destination {
            host: Some(want.host.clone()),
            subset: want.subset.clone(),
            ..Destination::default()
        };
        let copies: Vec<_> = copies.iter().filter(|it| self.destination(it, &target).is_ok()).collect();
        let what = format!("copies to {}", want.host);
        self.share(&what, Some(copies.len()), want.fraction.unwrap_or(1.0), want.tolerance.unwrap_or(0.0))?;
        let headers = UpstreamExpect {
            path: want.path.clone(),
            authority: want.authority.clone(),
            method: want.method.clone(),
            headers: want.headers.clone(),
            ..UpstreamExpect::default()
        };
        for copy in copies {
            upstream(copy, &headers).map_err(|why| format!("a copy: {why}"))?;
            if let Some(body) = &want.body {
                same("a copy's body", &copy.body, body)?;
            }
        }
        Ok(())
    }

    fn times(&self, expect: &Expect) -> Checked {
        if let Some(want) = expect.duration {
            self.each(|it| {
                let in_time = want.min.is_none_or(|min| it.duration >= min)
                    && want.max.is_none_or(|max| it.duration <= max);
                in_time.then_some(()).ok_or_else(|| format!("it took {:?}, want {want:?}", it.duration))
            })?;
        }
        if let Some(want) = &expect.slow_fraction {
            let threshold = want.threshold.unwrap_or_default();
            let slow = self.pairs.iter().filter(|it| it.outcome.duration >= threshold).count();
            self.share(&format!("responses after {threshold:?}"), Some(slow), want.value, want.tolerance)?;
        }
        if let Some(want) = expect.stays_open {
            self.each(|it| {
                let open = it.stayed_open.ok_or_else(|| format!("it was not held: {}", ended(it)))?;
                (open >= want)
                    .then_some(())
                    .ok_or_else(|| format!("it stayed open for {open:?}, want {want:?}"))
            })?;
        }
        Ok(())
    }

    /// Flags and names of routes, where the access log tells them.
    fn log(&self, expect: &Expect) -> Checked {
        if expect.response_flag.is_none() && expect.response_flag_in.is_none() && expect.route_name.is_none()
        {
            return Ok(());
        }
        for line in self
            .group
            .logs
            .lines()
            .filter(|it| self.status.is_none_or(|status| it["response_code"] == status))
        {
            let flags = text(&line["response_flags"]);
            if let Some(want) = &expect.response_flag {
                same("response flags", flags, want.as_str())?;
            }
            if let Some(want) = &expect.response_flag_in
                && !want.iter().any(|it| it == flags)
            {
                return Err(format!("response flags are {flags}, want one of {want:?}"));
            }
            if let Some(want) = &expect.route_name {
                same("route name", text(&line["route_name"]), want.as_str())?;
            }
        }
        Ok(())
    }
}

fn count<T: Ord>(items: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_insert(0) += 1;
    }
    counts
}
