//! Comparing an explanation with what a case expects.
//!
//! A decision settles: status of what we answer ourselves, where requests go and in which shares, what the upstream and the
//! client see of our changes, redirects, flags, delays, mirrors. It does not settle what depends on how upstreams behave, on
//! time or on connections; those keys are for the live run.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use undermesh_core::explain::{DecidedBy, Destination, Explanation, OutcomeName};

use crate::world::{World, array, text};

type Outcome = Result<(), String>;

pub(crate) fn check(answer: &Explanation, request: &Value, expect: &Value, world: &World) -> Outcome {
    let Some(expect) = expect.as_object() else { return Ok(()) };
    for (key, want) in expect {
        let result = match key.as_str() {
            "status" if !world.has_behaviour() => same("status", status(answer, request), want.as_u64()),
            "grpc_status" if !world.has_behaviour() => {
                same("grpc status", grpc_status(answer), want.as_u64())
            }
            "destination" => destination(answer, want, expect.contains_key("status"), world.has_behaviour()),
            "passthrough" => same("passthrough", answer.outcome == OutcomeName::Passthrough, true),
            "connection" => connection(answer, text(want)),
            "distribution" => distribution(answer, want),
            "status_distribution" => status_distribution(answer, want),
            "upstream" if answer.path == DecidedBy::None => untouched(request, want),
            "upstream" => each(answer, |it| upstream(it, request, want)),
            "response" => response(answer, want),
            "location" => {
                same("location", answer.redirect.as_ref().map(|it| it.location.as_str()), want.as_str())
            }
            "response_flag" if !world.has_behaviour() => flag(answer, text(want)),
            "sticky" => {
                same("sticky", answer.destinations.iter().any(|it| it.hash_key.is_some()), want != false)
            }
            "duration" if !world.has_behaviour() => duration(answer, want),
            "mirror" => mirror(answer, want),
            "per_version" => per_version(answer, request, want),
            _ => Ok(()),
        };
        result?;
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "calls read better with values")]
fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want { Ok(()) } else { Err(format!("{what} is {got:?}, want {want:?}")) }
}

fn status(answer: &Explanation, request: &Value) -> Option<u64> {
    // Over gRPC every answer of ours is 200 with a grpc-status.
    if request["protocol"] == "grpc" { Some(200) } else { Some(answer.status.map_or(200, u64::from)) }
}

fn grpc_status(answer: &Explanation) -> Option<u64> {
    match &answer.fault {
        Some(fault) if answer.outcome == OutcomeName::Abort => fault.abort_grpc_status.map(u64::from),
        _ => Some(if answer.status.is_some_and(|status| status != 200) { 14 } else { 0 }),
    }
}

/// What the upstream sees of a request on a connection that is not captured: what the client sent.
fn untouched(request: &Value, expect: &Value) -> Outcome {
    for key in expect.as_object().into_iter().flat_map(|it| it.keys()) {
        let sent = |name: &Value| request["headers"].get(text(name)).is_some();
        match key.as_str() {
            "headers_absent" => same("absent headers", array(expect, key).iter().any(sent), false)?,
            other => return Err(format!("{other} of a connection that is not captured: not compared")),
        }
    }
    Ok(())
}

/// Destinations that get requests.
fn used(answer: &Explanation) -> impl Iterator<Item = &Destination> {
    answer.destinations.iter().filter(|it| it.share > 0.0)
}

fn each(answer: &Explanation, mut check: impl FnMut(&Destination) -> Outcome) -> Outcome {
    let mut any = false;
    for destination in used(answer) {
        any = true;
        check(destination)?;
    }
    if any {
        Ok(())
    } else {
        Err(format!("no destination, outcome {:?}: {:?}", answer.outcome, answer.trace))
    }
}

fn is_dead(destination: &Destination) -> bool {
    destination.unavailable.is_some()
        || destination.discovery == "endpoints"
            && destination.endpoints.iter().all(|it| it.excluded.is_some())
}

fn destination(answer: &Explanation, want: &Value, has_status: bool, has_behaviour: bool) -> Outcome {
    if want == "none" {
        let alone = match answer.outcome {
            OutcomeName::Forward => used(answer).all(is_dead),
            OutcomeName::Passthrough => false,
            _ => true,
        };
        return same("answered without an upstream", alone, true);
    }
    same("outcome", answer.outcome, OutcomeName::Forward)?;
    each(answer, |it| {
        same("destination host", Some(&*it.host), want["host"].as_str().or(Some(&it.host)))?;
        same("destination port", Some(u64::from(it.port)), want["port"].as_u64().or(Some(it.port.into())))?;
        if let Some(subset) = want["subset"].as_str() {
            same("subset", it.subset.as_deref(), Some(subset))?;
        }
        let live: Vec<_> = it.endpoints.iter().filter(|it| it.excluded.is_none()).collect();
        if has_status && is_dead(it) {
            return Err(format!("{} has no endpoint: {:?}", it.cluster, it.unavailable));
        }
        if want.get("endpoints").is_some() {
            let allowed: BTreeSet<&str> = array(want, "endpoints").iter().map(text).collect();
            let usable: BTreeSet<&str> = live.iter().map(|it| &*it.id).collect();
            // Upstreams that fail are left only by trying them.
            let agree = if has_behaviour { allowed.is_subset(&usable) } else { usable.is_subset(&allowed) };
            if !agree {
                return Err(format!("endpoints are {usable:?}, want {allowed:?}"));
            }
        }
        if let Some(address) = want["address"].as_str() {
            same("addresses", live.iter().all(|it| it.address == address) && !live.is_empty(), true)?;
        }
        if let Some(dialed) = want["dialed"].as_str() {
            let all: Vec<_> = live.iter().map(|it| format!("{}:{}", it.address, it.port)).collect();
            same("dialed", all, vec![dialed.to_owned()])?;
        }
        Ok(())
    })
}

fn connection(answer: &Explanation, want: &str) -> Outcome {
    let fails = match answer.outcome {
        OutcomeName::Forward => used(answer).all(is_dead),
        OutcomeName::Reject => answer.status.is_none(),
        _ => false,
    };
    match want {
        "ok" => same("connection fails", fails, false),
        "reset" | "refused" => same("connection fails", fails, true),
        _ => Ok(()),
    }
}

/// Shares by a property of the endpoint that answers.
fn shares(answer: &Explanation, by: &str) -> BTreeMap<String, f64> {
    let mut shares = BTreeMap::new();
    for destination in &answer.destinations {
        for endpoint in destination.endpoints.iter().filter(|it| it.excluded.is_none()) {
            let key = match by {
                "version" => endpoint.labels.get("version").cloned().unwrap_or_default(),
                "host" => destination.host.clone(),
                "address" => endpoint.address.clone(),
                _ => endpoint.id.clone(),
            };
            *shares.entry(key).or_insert(0.0) += destination.share * endpoint.share;
        }
    }
    shares
}

fn distribution(answer: &Explanation, want: &Value) -> Outcome {
    let got = shares(answer, text(&want["by"]));
    // Exact but for rounding in the case's own numbers.
    for (key, share) in want["values"].as_object().into_iter().flatten() {
        let have = got.get(key).copied().unwrap_or(0.0);
        if (have - share.as_f64().unwrap_or(-1.0)).abs() > 0.011 {
            return Err(format!("share of {key} is {have}, want {share}; all: {got:?}"));
        }
    }
    Ok(())
}

fn status_distribution(answer: &Explanation, want: &Value) -> Outcome {
    let mut got: BTreeMap<String, f64> = BTreeMap::new();
    for destination in &answer.destinations {
        let status = if is_dead(destination) { "503" } else { "200" };
        *got.entry(status.into()).or_insert(0.0) += destination.share;
    }
    for (status, share) in want.as_object().into_iter().flatten() {
        let have = got.get(status).copied().unwrap_or(0.0);
        if (have - share.as_f64().unwrap_or(-1.0)).abs() > 0.011 {
            return Err(format!("share of {status} is {have}, want {share}"));
        }
    }
    Ok(())
}

fn upstream(destination: &Destination, request: &Value, want: &Value) -> Outcome {
    let sent = destination.request.as_ref().ok_or("no HTTP request is sent")?;
    if let Some(path) = want["path"].as_str() {
        same("upstream path", &*sent.path, path)?;
    }
    if let Some(authority) = want["authority"].as_str() {
        same("upstream authority", &*sent.authority, authority)?;
    }
    // What the proxy adds to every request is not routing's.
    let is_ours = |name: &str| {
        !matches!(name, "x-envoy-attempt-count" | "x-request-id" | "x-forwarded-proto" | "x-forwarded-for")
    };
    let value = |name: &str| -> Option<String> {
        let name = name.to_ascii_lowercase();
        let received = || match &request["headers"][&name] {
            Value::Null => None,
            Value::Array(lines) => Some(lines.iter().map(|it| text(it).to_owned()).collect::<Vec<_>>()),
            one => Some(vec![one.as_str().map_or_else(|| one.to_string(), str::to_owned)]),
        };
        let set = sent.headers.get(&name).cloned();
        let received = if sent.headers_removed.contains(&name) || set.is_some() { None } else { received() };
        set.or(received).map(|lines| lines.join(","))
    };
    for (name, want) in want["headers"].as_object().into_iter().flatten().filter(|(name, _)| is_ours(name)) {
        same(&format!("upstream header {name}"), value(name).as_deref(), want.as_str())?;
    }
    for name in array(want, "headers_absent").iter().map(text).filter(|name| is_ours(name)) {
        same(&format!("upstream header {name}"), value(name), None)?;
    }
    Ok(())
}

fn response(answer: &Explanation, want: &Value) -> Outcome {
    if let Some(body) = want["body"].as_str()
        && let Some(direct) = &answer.direct_response
    {
        same("body", &*direct.body, body)?;
    }
    if answer.outcome != OutcomeName::Forward {
        return match &answer.cors {
            Some(cors) => headers(want, |name| cors.response_headers.get(name).map(|it| it.join(","))),
            None => Ok(()),
        };
    }
    each(answer, |it| {
        let Some(changes) = &it.response else { return Ok(()) };
        let value = |name: &str| {
            changes.headers_set.get(name).or_else(|| changes.headers_added.get(name)).map(|it| it.join(","))
        };
        headers(want, value)
    })
}

/// `value` is what we set, by lower-case name.
fn headers(want: &Value, value: impl Fn(&str) -> Option<String>) -> Outcome {
    for (name, want) in want["headers"].as_object().into_iter().flatten() {
        let have = value(&name.to_ascii_lowercase());
        same(&format!("response header {name}"), have.as_deref(), want.as_str())?;
    }
    for name in array(want, "headers_absent").iter().map(text) {
        same(&format!("response header {name}"), value(&name.to_ascii_lowercase()), None)?;
    }
    Ok(())
}

fn flag(answer: &Explanation, want: &str) -> Outcome {
    let delays = answer.fault.as_ref().is_some_and(|it| it.delay_ms.is_some() && it.delay_percent == 100.0);
    let got = answer.flag.unwrap_or(if delays { "DI" } else { "-" });
    same("flag", got, want)
}

fn duration(answer: &Explanation, want: &Value) -> Outcome {
    let seconds = |value: &Value| -> Option<f64> {
        match value {
            Value::String(text) => match text.strip_suffix("ms") {
                Some(millis) => millis.parse::<f64>().ok().map(|it| it / 1000.0),
                None => text.strip_suffix('s').and_then(|it| it.parse().ok()),
            },
            number => number.as_f64(),
        }
    };
    let delay = answer.fault.as_ref().and_then(|it| it.delay_ms).map_or(0.0, |it| it as f64 / 1000.0);
    let in_time = seconds(&want["min"]).is_none_or(|min| delay >= min)
        && seconds(&want["max"]).is_none_or(|max| delay < max);
    if in_time { Ok(()) } else { Err(format!("the delay is {delay} s, want {want}")) }
}

fn mirror(answer: &Explanation, want: &Value) -> Outcome {
    for mirror in want.as_array().into_iter().flatten() {
        let fraction = mirror["fraction"].as_f64().unwrap_or(1.0);
        let found = answer.mirrors.iter().any(|it| {
            it.host == text(&mirror["host"])
                && mirror["subset"].as_str().is_none_or(|subset| it.subset.as_deref() == Some(subset))
                && (it.percent / 100.0 - fraction).abs() < 0.011
        });
        if !found && fraction > 0.0 {
            return Err(format!("mirrors are {:?}, want {mirror}", answer.mirrors));
        }
    }
    Ok(())
}

fn per_version(answer: &Explanation, request: &Value, want: &Value) -> Outcome {
    for (version, want) in want.as_object().into_iter().flatten() {
        let of_version = |it: &&Destination| {
            it.endpoints.iter().any(|it| it.excluded.is_none() && it.labels.get("version") == Some(version))
        };
        let destination = used(answer).find(of_version).ok_or(format!("nothing goes to {version}"))?;
        let mut only = answer.clone();
        only.destinations = vec![destination.clone()];
        upstream(destination, request, &want["upstream"])?;
        response(&only, &want["response"])?;
    }
    Ok(())
}
