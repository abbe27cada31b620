//! The negative twin of every expectation: a copy with one wrong value must fail on the very outcome that the right one
//! passes on. So no key of a case is read and then not looked at.

use serde_json::{Map, Value, json};

/// Copies of an `expect`, each with one thing wrong, and which.
pub(crate) fn wrong(expect: &Value) -> Vec<(String, Value)> {
    let mut wrong = Vec::new();
    for (key, value) in expect.as_object().into_iter().flatten() {
        for (at, value) in wrong_values(key, value) {
            let mut copy = expect.clone();
            copy[key] = value;
            wrong.push((format!("{key}{at}"), copy));
        }
    }
    wrong
}

fn wrong_values(key: &str, value: &Value) -> Vec<(String, Value)> {
    let one = |value: Value| vec![(String::new(), value)];
    match key {
        "status" | "grpc_status" | "attempts" | "connect_attempts" | "upstream_connections" => {
            one((value.as_u64().unwrap_or_default() + 1).into())
        }
        "location" | "echo" | "banner" | "response_flag" | "route_name" => {
            one(format!("{}-", value.as_str().unwrap_or_default()).into())
        }
        "status_in" => one(json!([1])),
        "response_flag_in" => one(json!(["-WRONG"])),
        "includes_endpoint" => one("nobody".into()),
        "hops" => one(json!(["nobody/nowhere"])),
        "stays_open" => one("10m".into()),
        "connection" => one(if value == "ok" { "refused" } else { "ok" }.into()),
        "connection_in" => one(json!(["refused"])),
        "min_count" | "share_below" => {
            fields(value, |_, it| if it.is_u64() { 1_000_000.into() } else { json!(-1.0) })
        }
        "status_distribution" => fields(value, |_, it| json!(it.as_f64().unwrap_or_default() + 2.0)),
        "sticky" if value == "per-key" => one(true.into()),
        "sticky" => one((value != true).into()),
        "duration" => {
            let of =
                |key: &str, wrong: &str| value.get(key).map(|_| (format!(".{key}"), json!({ key: wrong })));
            of("min", "10m").into_iter().chain(of("max", "0s")).collect()
        }
        "destination" if value == "none" => one(json!({"host": "nowhere"})),
        "destination" => fields(value, |key, _| match key {
            "port" => 1.into(),
            "endpoints" => json!(["nobody"]),
            "address" => "192.0.2.250".into(),
            "address_in" => json!(["192.0.2.250"]),
            "dialed" => "192.0.2.250:1".into(),
            _ => "nowhere".into(),
        }),
        "upstream" | "response" => parts(value),
        "peer" => one(json!({"mtls": value["mtls"] != true})),
        "tls" => one(json!({"server_cert": "nobody"})),
        "distribution" => nested(
            value,
            "values",
            fields(&value["values"], |_, it| json!(it.as_f64().unwrap_or_default() + 2.0)),
        ),
        "per_version" | "on_status" => {
            let inner = value.as_object().into_iter().flatten();
            let wrong = inner
                .flat_map(|(name, it)| wrong(it).into_iter().map(move |(at, it)| (name.clone(), at, it)));
            wrong.map(|(name, at, it)| (format!(".{name}.{at}"), with(value, &name, it))).collect()
        }
        "mirror" => {
            let mirrors = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let wrong = mirrors
                .iter()
                .enumerate()
                .flat_map(|(index, it)| parts(it).into_iter().map(move |(at, it)| (index, at, it)));
            let copy = |index: usize, wrong: Value| {
                let mut copy = value.clone();
                copy[index] = wrong;
                copy
            };
            // A copy that is not to be sent at all has no wrong parts.
            let is_sent = |index: usize| mirrors[index]["fraction"].as_f64() != Some(0.0);
            wrong.filter(|(index, ..)| is_sent(*index)).map(|(index, at, it)| (at, copy(index, it))).collect()
        }
        // Says nothing alone, or has no wrong value: `passthrough` would have to be aimed elsewhere, an exclusion at whoever
        // answered.
        _ => Vec::new(),
    }
}

/// Of what an upstream saw or a client got.
fn parts(value: &Value) -> Vec<(String, Value)> {
    let mut wrong = Vec::new();
    for (key, part) in value.as_object().into_iter().flatten() {
        let bad: Vec<(String, Value)> = match (key.as_str(), part) {
            ("headers" | "header_contains", _) => nested(value, key, fields(part, |_, _| "-wrong-".into())),
            ("headers_present", _) => vec![(String::new(), with(value, key, json!(["x-nowhere"])))],
            // What is there for certain: an upstream's Host or an answer's own header.
            ("headers_absent" | "tolerance" | "set_cookie", _) => Vec::new(),
            (_, Value::Bool(it)) => vec![(String::new(), with(value, key, (!it).into()))],
            (_, Value::Number(it)) => {
                let more = it
                    .as_u64()
                    .map_or_else(|| json!(it.as_f64().unwrap_or_default() + 2.0), |it| (it + 1).into());
                vec![(String::new(), with(value, key, more))]
            }
            _ => vec![(String::new(), with(value, key, "-wrong-".into()))],
        };
        wrong.extend(bad.into_iter().map(|(at, it)| (format!(".{key}{at}"), it)));
    }
    wrong
}

/// One copy for each field, with that field replaced.
fn fields(value: &Value, replace: impl Fn(&str, &Value) -> Value) -> Vec<(String, Value)> {
    let fields: Map<String, Value> = value.as_object().cloned().unwrap_or_default();
    fields.iter().map(|(key, it)| (format!(".{key}"), with(value, key, replace(key, it)))).collect()
}

/// Copies of `value` with its field `key` replaced by each of `copies`.
fn nested(value: &Value, key: &str, copies: Vec<(String, Value)>) -> Vec<(String, Value)> {
    copies.into_iter().map(|(at, it)| (at, with(value, key, it))).collect()
}

fn with(value: &Value, key: &str, replacement: Value) -> Value {
    let mut copy = value.clone();
    copy[key] = replacement;
    copy
}
