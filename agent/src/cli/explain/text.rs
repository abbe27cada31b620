//! Answers of `explain` for people: the way of the decision, then all that comes of it. Made of the JSON, which a running agent
//! sends as well.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::Value;

/// Prints all results of the document.
pub(super) fn print(out: &mut impl Write, answer: &Value) -> anyhow::Result<()> {
    let results = list(&answer["results"]);
    for (index, result) in results.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        if results.len() > 1 {
            writeln!(out, "request {}", text(&result["id"]))?;
        }
        one(out, result)?;
    }
    Ok(())
}

fn one(out: &mut impl Write, result: &Value) -> anyhow::Result<()> {
    for line in list(&result["trace"]) {
        writeln!(out, "{}", text(line))?;
    }
    let status = result["status"].as_u64().map(|status| format!(" {status}")).unwrap_or_default();
    let flag = result["flag"].as_str().map(|flag| format!(" ({flag})")).unwrap_or_default();
    writeln!(out, "=> {}{status}{flag}", text(&result["outcome"]))?;
    if let Some(line) = rule(&result["rule"]) {
        writeln!(out, "   by {line}")?;
    }
    if let Some(location) = result["redirect"]["location"].as_str() {
        writeln!(out, "   location: {location}")?;
    }
    if result["direct_response"].is_object() {
        writeln!(out, "   body: {}", text(&result["direct_response"]["body"]))?;
    }
    for line in [fault(&result["fault"]), timeout(result), retries(&result["retries"])].into_iter().flatten()
    {
        writeln!(out, "   {line}")?;
    }
    for mirror in list(&result["mirrors"]) {
        writeln!(out, "   copied: {}% to {}", mirror["percent"], place(mirror))?;
    }
    if let Some(line) = cors(&result["cors"]) {
        writeln!(out, "   {line}")?;
    }
    for block in list(&result["policy"]) {
        writeln!(out, "   {} from {}{}", text(&block["block"]), text(&block["from"]), at(block))?;
    }
    list(&result["destinations"]).iter().try_for_each(|one| destination(out, one))
}

fn destination(out: &mut impl Write, destination: &Value) -> anyhow::Result<()> {
    let unavailable =
        destination["unavailable"].as_str().map(|why| format!(": unavailable, {why}")).unwrap_or_default();
    let hash = destination["hash_key"].as_str().map(|key| format!(" of {key}")).unwrap_or_default();
    writeln!(
        out,
        "   {:.1}% {} by {}{hash}{unavailable}",
        destination["share"].as_f64().unwrap_or_default() * 100.0,
        place(destination),
        text(&destination["balancer"]),
    )?;
    let request = &destination["request"];
    if request.is_object() {
        writeln!(out, "      sent: {} {}", text(&request["authority"]), text(&request["path"]))?;
        changes(out, "request", &[("set", &request["headers"])], &request["headers_removed"])?;
    }
    let response = &destination["response"];
    let kept = [("set", &response["headers_set"]), ("add", &response["headers_added"])];
    changes(out, "response", &kept, &response["headers_removed"])?;
    for group in by_endpoint(list(&destination["endpoints"])) {
        let [endpoint, ..] = group.as_slice() else { continue };
        let state = match endpoint["excluded"].as_str() {
            Some(why) => format!("out: {why}"),
            None => format!("{:.1}%", endpoint["share"].as_f64().unwrap_or_default() * 100.0),
        };
        let addresses: Vec<_> = group.iter().map(|endpoint| socket_address(endpoint)).collect();
        let locality = match text(&endpoint["locality"]) {
            "" | "-" => String::new(),
            locality => format!(" in {locality}"),
        };
        writeln!(out, "      {} {}{locality} {state}", text(&endpoint["id"]), addresses.join(", "))?;
    }
    Ok(())
}

/// What is out has a row for each address of either family, where what is in has only the one that requests go to: a line for
/// each endpoint, in order.
fn by_endpoint(endpoints: &[Value]) -> Vec<Vec<&Value>> {
    let mut groups: Vec<Vec<&Value>> = Vec::new();
    let mut known = BTreeMap::new();
    for endpoint in endpoints {
        let Some(why) = endpoint["excluded"].as_str() else {
            groups.push(vec![endpoint]);
            continue;
        };
        let at = *known.entry((text(&endpoint["id"]), why)).or_insert(groups.len());
        match groups.get_mut(at) {
            Some(group) => group.push(endpoint),
            None => groups.push(vec![endpoint]),
        }
    }
    groups
}

fn socket_address(endpoint: &Value) -> String {
    match text(&endpoint["address"]) {
        v6 if v6.contains(':') => format!("[{v6}]:{}", endpoint["port"]),
        other => format!("{other}:{}", endpoint["port"]),
    }
}

/// Header changes, a line each.
fn changes(out: &mut impl Write, of: &str, kept: &[(&str, &Value)], removed: &Value) -> anyhow::Result<()> {
    for (word, headers) in kept {
        for (name, values) in headers.as_object().into_iter().flatten() {
            for value in list(values) {
                writeln!(out, "      {of} header {word}: {name}: {}", text(value))?;
            }
        }
    }
    for name in list(removed) {
        writeln!(out, "      {of} header removed: {}", text(name))?;
    }
    Ok(())
}

fn rule(rule: &Value) -> Option<String> {
    rule.as_object()?;
    let mut line = format!(
        "{} {}/{} rule {}",
        text(&rule["kind"]),
        text(&rule["namespace"]),
        text(&rule["name"]),
        rule["route"]
    );
    if let Some(entry) = rule["match"].as_u64() {
        line.push_str(&format!(" match {entry}"));
    }
    if let Some(name) = rule["route_name"].as_str().filter(|name| !name.is_empty()) {
        line.push_str(&format!(" {name:?}"));
    }
    if let Some(root) = rule["delegated_by"].as_str() {
        line.push_str(&format!(", delegated by {root}"));
    }
    Some(line + &at(rule))
}

fn fault(fault: &Value) -> Option<String> {
    fault.as_object()?;
    let mut parts = Vec::new();
    if let Some(delay) = fault["delay_ms"].as_u64() {
        parts.push(format!("delay of {delay} ms for {}%", fault["delay_percent"]));
    }
    let abort = match (fault["abort_status"].as_u64(), fault["abort_grpc_status"].as_u64()) {
        (Some(status), _) => Some(format!("status {status}")),
        (None, Some(status)) => Some(format!("gRPC status {status}")),
        (None, None) => None,
    };
    parts.extend(abort.map(|what| format!("{what} for {}%", fault["abort_percent"])));
    Some(format!("injected: {}", parts.join(", ")))
}

fn cors(cors: &Value) -> Option<String> {
    cors.as_object()?;
    let origins: Vec<_> = list(&cors["allow_origins"]).iter().map(text).collect();
    let here = match cors["origin_allowed"].as_bool() {
        Some(true) => "this request's is allowed",
        Some(false) => "this request's is not allowed",
        None => "this request has none",
    };
    Some(format!("cors: origins {}; {here}", origins.join(", ")))
}

fn timeout(result: &Value) -> Option<String> {
    match result["timeout_ms"].as_u64() {
        Some(timeout) => Some(format!("timeout: {timeout} ms")),
        // Only what is forwarded could have one.
        None => result["retries"].is_object().then(|| "timeout: none".to_owned()),
    }
}

fn retries(retries: &Value) -> Option<String> {
    let attempts = retries["attempts"].as_u64()?;
    if attempts == 0 {
        return Some("retries: none".to_owned());
    }
    let on: Vec<_> = list(&retries["retry_on"]).iter().map(text).collect();
    let per_try =
        retries["per_try_timeout_ms"].as_u64().map(|limit| format!(", {limit} ms each")).unwrap_or_default();
    Some(format!("retries: {attempts} on {}{per_try}", on.join(",")))
}

/// `host subset v1 port 9080`
fn place(of: &Value) -> String {
    let subset = of["subset"].as_str().filter(|subset| !subset.is_empty());
    let subset = subset.map(|subset| format!(" subset {subset}")).unwrap_or_default();
    format!("{}{subset} port {}", text(&of["host"]), of["port"])
}

/// ` (a.yaml:12)`
fn at(of: &Value) -> String {
    match (of["file"].as_str(), of["line"].as_u64()) {
        (Some(file), Some(line)) => format!(" ({file}:{line})"),
        (Some(file), None) => format!(" ({file})"),
        _ => String::new(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(result: &Value) -> String {
        let mut out = Vec::new();
        print(&mut out, &json!({"results": [result]})).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn all_that_comes_of_a_request_is_printed() {
        let text = printed(&json!({
            "id": "1", "outcome": "forward", "status": null, "flag": null,
            "rule": {"kind": "VirtualService", "namespace": "shop", "name": "v", "route": 1, "match": 0, "route_name": "a", "file": "a.yaml", "line": 3},
            "destinations": [{
                "host": "catalog", "subset": "v1", "port": 80, "share": 0.9, "balancer": "RANDOM", "hash_key": null, "unavailable": null,
                "request": {"path": "/x", "authority": "c", "headers": {"x-env": ["a"]}, "headers_removed": ["x-b"]},
                "response": {"headers_set": {}, "headers_added": {"x-r": ["b"]}, "headers_removed": []},
                "endpoints": [
                    {"id": "c-1", "address": "fd00::1", "port": 8080, "locality": "r/z/s", "share": 1.0, "excluded": null},
                    {"id": "c-2", "address": "10.0.0.2", "port": 8080, "locality": "", "share": 0.0, "excluded": "not ready"},
                ],
            }],
            "redirect": null, "direct_response": null,
            "fault": {"delay_ms": 5, "delay_percent": 10.0, "abort_status": 418, "abort_grpc_status": null, "abort_percent": 1.0},
            "timeout_ms": 3000, "retries": {"attempts": 2, "per_try_timeout_ms": 100, "retry_on": ["5xx", "reset"]},
            "mirrors": [{"host": "m", "subset": null, "port": 81, "percent": 50.0}], "cors": null,
            "policy": [{"block": "connectionPool", "from": "DestinationRule shop/d", "file": "d.yaml", "line": 7}],
            "trace": ["first", "second"],
        }));
        assert_eq!(
            text,
            "first\nsecond\n=> forward\n   by VirtualService shop/v rule 1 match 0 \"a\" (a.yaml:3)\n   \
             injected: delay of 5 ms for 10.0%, status 418 for 1.0%\n   timeout: 3000 ms\n   \
             retries: 2 on 5xx,reset, 100 ms each\n   copied: 50.0% to m port 81\n   \
             connectionPool from DestinationRule shop/d (d.yaml:7)\n   90.0% catalog subset v1 port 80 by RANDOM\n      \
             sent: c /x\n      request header set: x-env: a\n      request header removed: x-b\n      \
             response header add: x-r: b\n      c-1 [fd00::1]:8080 in r/z/s 100.0%\n      c-2 10.0.0.2:8080 out: not ready\n"
        );
    }

    #[test]
    fn an_endpoint_of_two_families_is_one_line_whether_it_is_in_or_out() {
        let endpoint = |id: &str, address: &str, excluded: Option<&str>| json!({"id": id, "address": address, "port": 9080, "share": 1.0, "excluded": excluded});
        let out = Some("not in the subset");
        let endpoints = [
            endpoint("v2", "10.0.0.2", None),
            endpoint("v1", "10.0.0.1", out),
            endpoint("v3", "10.0.0.3", out),
            endpoint("v1", "fd00::1", out),
            endpoint("v3", "10.0.0.4", Some("not ready")),
        ];
        let text = printed(
            &json!({"outcome": "forward", "destinations": [{"host": "r", "share": 1.0, "endpoints": endpoints}]}),
        );
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| line.starts_with('v')).collect();
        assert_eq!(
            lines,
            [
                "v2 10.0.0.2:9080 100.0%",
                "v1 10.0.0.1:9080, [fd00::1]:9080 out: not in the subset",
                "v3 10.0.0.3:9080 out: not in the subset",
                "v3 10.0.0.4:9080 out: not ready",
            ]
        );
    }

    #[test]
    fn what_we_answer_ourselves_has_status_and_where_it_leads() {
        let text = printed(
            &json!({"outcome": "redirect", "status": 301, "redirect": {"location": "http://a/", "code": 301}}),
        );
        assert_eq!(text, "=> redirect 301\n   location: http://a/\n");
        let text = printed(&json!({"outcome": "reject", "status": 404, "flag": "NR"}));
        assert_eq!(text, "=> reject 404 (NR)\n");
    }
}
