//! VirtualServices: every kind of match, action and edit.

use serde_json::{Value, json};

use super::objects::{NAMES, NAMESPACES, created, export_to, host};
use crate::chance::Chance;

/// Paths of requests, and of rules about them.
pub(super) const PATHS: [&str; 8] =
    ["/", "/a", "/a/", "/A/b", "/a/b/c", "/v1/items", "/v1/Items/7", "/static/x.css"];
pub(super) const HEADERS: [&str; 3] = ["x-user", "x-flag", "cookie"];
pub(super) const VALUES: [&str; 4] = ["yes", "no", "jason", ""];

pub(super) fn virtual_service(chance: &mut Chance) -> Value {
    let is_delegate = chance.once_in(6);
    let mut rules: Vec<_> = (0..1 + chance.below(5)).map(|_| rule(chance, is_delegate)).collect();
    if chance.once_in(12) {
        // As many as an index is made for.
        rules.extend((0..12).map(|_| rule(chance, is_delegate)));
    }
    let mut spec = json!({"http": rules});
    if !is_delegate {
        spec["hosts"] = match chance.below(12) {
            0 => json!(["*.shop.svc.cluster.local"]),
            1 => json!(["made-up.example", host(chance)]),
            2 => json!(["*"]),
            _ => json!([host(chance)]),
        };
        match chance.below(8) {
            0 => spec["gateways"] = json!(["g"]),
            1 => spec["gateways"] = json!(["mesh", "shop/g"]),
            _ if spec["hosts"] == json!(["*"]) => spec["gateways"] = json!(["shop/g"]),
            _ => {}
        }
        if chance.once_in(8) {
            spec["tcp"] = json!([{"route": [{"destination": destination(chance, false)}]}]);
        }
    }
    export_to(chance, &mut spec);
    let name = if is_delegate { format!("d{}", chance.below(2)) } else { format!("v{}", chance.below(6)) };
    let namespace = if chance.once_in(2) { *chance.pick(&NAMESPACES) } else { "shop" };
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "spec": spec,
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created(chance)}})
}

fn rule(chance: &mut Chance, is_delegate: bool) -> Value {
    let mut rule = json!({});
    let matches: Vec<_> = (0..chance.below(3)).map(|_| match_entry(chance, is_delegate)).collect();
    if !matches.is_empty() {
        rule["match"] = json!(matches);
    }
    if chance.once_in(3) {
        rule["name"] = json!(chance.pick(&["first", "second"]));
    }
    match chance.below(14) {
        0 => rule["redirect"] = redirect(chance),
        1 => {
            let status = *chance.pick(&[200, 204, 404, 503]);
            rule["directResponse"] = json!({"status": status, "body": {"string": "no"}});
        }
        2 if !is_delegate => {
            rule["delegate"] =
                json!({"name": format!("d{}", chance.below(2)), "namespace": chance.pick(&NAMESPACES)});
            return rule;
        }
        _ => route(chance, &mut rule),
    }
    if chance.once_in(3) {
        rule["headers"] = headers(chance);
    }
    rule
}

fn route(chance: &mut Chance, rule: &mut Value) {
    let legs = 1 + chance.below(3);
    let share = 100 / legs;
    let legs = (0..legs).map(|_| {
        let mut leg = json!({"destination": destination(chance, true), "weight": share});
        if chance.once_in(4) {
            leg["headers"] = headers(chance);
        }
        leg
    });
    rule["route"] = legs.collect();
    match chance.below(8) {
        0 => rule["rewrite"] = json!({"uri": chance.pick(&["/", "/new", "/new/"])}),
        1 => rule["rewrite"] = json!({"authority": "new.example"}),
        2 => rule["rewrite"] = json!({"uriRegexRewrite": {"match": "/([a-z]+)/(.*)", "rewrite": r"/\2/\1"}}),
        _ => {}
    }
    match chance.below(10) {
        0 => {
            rule["fault"] =
                json!({"abort": {"httpStatus": 418, "percentage": {"value": chance.pick(&[0, 50, 100])}}});
        }
        1 => rule["fault"] = json!({"delay": {"fixedDelay": "1ms", "percentage": {"value": 50}}}),
        2 => rule["timeout"] = json!("5s"),
        3 => rule["retries"] = json!({"attempts": 1, "retryOn": "5xx"}),
        4 => {
            rule["mirrors"] = json!([{"destination": destination(chance, true), "percentage": {"value": 0}}]);
        }
        _ => {}
    }
}

fn destination(chance: &mut Chance, with_subset: bool) -> Value {
    let mut destination = json!({"host": host(chance)});
    if with_subset && chance.once_in(3) {
        destination["subset"] = json!(chance.pick(&["v1", "v2", "v9"]));
    }
    if chance.once_in(3) {
        destination["port"] = json!({"number": chance.pick(&[80, 8080, 9000])});
    }
    destination
}

fn string_match(chance: &mut Chance, of: &[&str]) -> Value {
    let text = *chance.pick(of);
    match chance.below(4) {
        0 => json!({"prefix": text.get(..text.len().min(3)).filter(|text| !text.is_empty()).unwrap_or("x")}),
        1 => json!({"regex": ".*[ai].*"}),
        _ => json!({"exact": if text.is_empty() { "x" } else { text }}),
    }
}

fn match_entry(chance: &mut Chance, is_delegate: bool) -> Value {
    let mut entry = json!({});
    if !chance.once_in(5) {
        let path = *chance.pick(&PATHS);
        entry["uri"] = match chance.below(6) {
            0..=1 => json!({"exact": path}),
            2..=4 => json!({"prefix": path}),
            _ => json!({"regex": "/[av][a-z0-9]*(/.*)?"}),
        };
        if chance.once_in(5) {
            entry["ignoreUriCase"] = json!(true);
        }
    }
    match chance.below(10) {
        0 => entry["method"] = json!({"exact": chance.pick(&["GET", "POST"])}),
        1..=2 => entry["headers"] = json!({*chance.pick(&HEADERS): string_match(chance, &VALUES)}),
        3 => entry["withoutHeaders"] = json!({*chance.pick(&HEADERS): string_match(chance, &VALUES)}),
        4 => entry["queryParams"] = json!({"q": {"exact": chance.pick(&VALUES)}}),
        5 => entry["authority"] = json!({"prefix": "a"}),
        6 => entry["port"] = json!(chance.pick(&[80, 8080])),
        7 if !is_delegate => entry["sourceLabels"] = json!({"app": chance.pick(&NAMES)}),
        8 if !is_delegate => entry["sourceNamespace"] = json!(chance.pick(&NAMESPACES)),
        _ => {}
    }
    entry
}

fn headers(chance: &mut Chance) -> Value {
    let operations = |chance: &mut Chance| match chance.below(5) {
        0 => json!({"set": {"x-set": *chance.pick(&["1", "%REQ(x-user)%", "%PROTOCOL%"])}}),
        1 => json!({"add": {"x-user": "added"}}),
        2 => json!({"remove": [chance.pick(&HEADERS)]}),
        3 => json!({"set": {"x-flag": "rule"}, "add": {"x-more": "2"}, "remove": ["x-user"]}),
        _ => json!({}),
    };
    let mut request = operations(chance);
    if chance.once_in(8) {
        request["set"] = json!({"Host": "set.example"});
    }
    json!({"request": request, "response": operations(chance)})
}

fn redirect(chance: &mut Chance) -> Value {
    let mut redirect = match chance.below(3) {
        0 => json!({"uri": "/moved"}),
        1 => json!({"authority": "moved.example"}),
        _ => json!({"scheme": "https", "uri": "/moved?x=1"}),
    };
    if chance.once_in(2) {
        redirect["redirectCode"] = json!(chance.pick(&[302, 307]));
    }
    redirect
}
