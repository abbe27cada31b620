//! What came of one request against the JSON of its explanation.

use std::net::SocketAddr;

use serde_json::Value;
use undermesh_core::explain::Request;

pub(crate) type Lines = Vec<(String, String)>;

/// What a client, an upstream and the access log tell of one request.
#[derive(Debug)]
pub(crate) struct Saw {
    /// The client's end of its connection.
    pub(crate) client: SocketAddr,
    /// What it sent.
    pub(crate) sent: Lines,
    /// `None`: closed without a response.
    pub(crate) status: Option<u16>,
    pub(crate) headers: Lines,
    pub(crate) body: String,
    /// `None`: no upstream answered.
    pub(crate) upstream: Option<Upstream>,
    /// The line of the access log.
    pub(crate) log: Value,
}

/// What an upstream saw. It tells in its response's body.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) local: SocketAddr,
    pub(crate) path: String,
    pub(crate) headers: Lines,
}

impl Upstream {
    /// Reads [`Self::report`].
    pub(crate) fn read(text: &str) -> Option<Self> {
        let report: Value = serde_json::from_str(text).ok()?;
        let line = |line: &Value| Some((line[0].as_str()?.to_owned(), line[1].as_str()?.to_owned()));
        Some(Self {
            local: report["local"].as_str()?.parse().ok()?,
            path: report["path"].as_str()?.to_owned(),
            headers: report["headers"].as_array()?.iter().filter_map(line).collect(),
        })
    }

    pub(crate) fn report(&self) -> String {
        serde_json::json!({"local": self.local.to_string(), "path": self.path, "headers": self.headers})
            .to_string()
    }
}

impl Saw {
    /// Whether an injected error, of less than all requests, was drawn.
    pub(crate) fn is_aborted(&self, explained: &Value) -> bool {
        let fault = &explained["fault"];
        explained["outcome"] != "abort"
            && fault["abort_percent"].as_f64().is_some_and(|it| it > 0.0)
            && self.status.map(u64::from) == fault["abort_status"].as_u64()
            && self.log["response_flags"] == "FI"
    }
}

/// The values of a header's lines.
pub(crate) fn values<'a>(lines: &'a Lines, name: &str) -> Vec<&'a str> {
    lines.iter().filter(|(it, _)| it == name).map(|(_, value)| value.as_str()).collect()
}

/// # Errors
/// What was done otherwise than explained.
pub(crate) fn agrees(explained: &Value, request: &Request, saw: &Saw) -> Result<(), String> {
    if saw.log.is_null() {
        return Err("there is no line in the access log".to_owned());
    }
    let rule = &explained["rule"];
    let rule = rule.is_object().then(|| {
        let part = |name: &str| rule[name].as_str().unwrap_or_default();
        format!("{}/{}/{}#{}", part("kind"), part("namespace"), part("name"), rule["route"])
    });
    same("rule", saw.log["rule"].as_str(), rule.as_deref())?;
    if saw.is_aborted(explained) {
        return same("an upstream that saw it", saw.upstream.is_some(), false);
    }
    // A delay that was drawn has a flag too.
    let flags = saw.log["response_flags"].as_str().unwrap_or_default();
    if let Some(flag) = explained["flag"].as_str()
        && !flags.split(',').any(|it| it == flag)
    {
        return Err(format!("flags {flags}, explained {flag}"));
    }
    let status = explained["status"].as_u64().and_then(|it| u16::try_from(it).ok());
    let outcome = explained["outcome"].as_str().unwrap_or_default();
    if outcome == "forward" && status.is_none() {
        return forwarded(explained, saw);
    }
    if outcome == "passthrough" {
        same("upstream_cluster", saw.log["upstream_cluster"].as_str(), Some("PassthroughCluster"))?;
        let dialled = request.address.map(|it| SocketAddr::new(it, request.port));
        return same("address", saw.upstream.as_ref().map(|it| it.local), dialled);
    }
    same("status", saw.status, status)?;
    same("an upstream that saw it", saw.upstream.is_some(), false)?;
    if let Some(location) = explained["redirect"]["location"].as_str() {
        same("location", values(&saw.headers, "location"), vec![location])?;
    }
    // What such a status forbids a response to have, nobody gets.
    if outcome == "direct_response" && status != Some(204) {
        same("body", Some(saw.body.as_str()), explained["direct_response"]["body"].as_str())?;
    }
    Ok(())
}

fn forwarded(explained: &Value, saw: &Saw) -> Result<(), String> {
    let cluster = &saw.log["upstream_cluster"];
    let destinations = explained["destinations"].as_array().map(Vec::as_slice).unwrap_or_default();
    // A cluster may be there twice, with other edits: one of them has to fit.
    let mut possible = destinations
        .iter()
        .filter(|it| it["cluster"] == *cluster && it["share"].as_f64().is_some_and(|share| share > 0.0));
    let first = possible.next().ok_or_else(|| format!("{cluster} is no explained destination"))?;
    let why = match to(first, saw) {
        Ok(()) => return Ok(()),
        Err(why) => why,
    };
    if possible.any(|it| to(it, saw).is_ok()) { Ok(()) } else { Err(why) }
}

/// As if it had gone to this destination.
fn to(destination: &Value, saw: &Saw) -> Result<(), String> {
    let endpoints = destination["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let usable: Vec<SocketAddr> = endpoints
        .iter()
        .filter(|it| it["share"].as_f64().is_some_and(|share| share > 0.0))
        .filter_map(|it| format!("{}:{}", it["address"].as_str()?, it["port"]).parse().ok())
        .collect();
    let by_endpoints = destination["discovery"] == "endpoints";
    let Some(upstream) = &saw.upstream else {
        let fails = !destination["unavailable"].is_null() || (by_endpoints && usable.is_empty());
        let is_opaque = destination["request"].is_null();
        if !fails {
            return Err("no upstream saw it".to_owned());
        }
        return same("status", saw.status, (!is_opaque).then_some(503));
    };
    if by_endpoints && !usable.contains(&upstream.local) {
        return Err(format!("went to {}, explained {usable:?}", upstream.local));
    }
    let request = &destination["request"];
    if request.is_null() {
        return Ok(());
    }
    same("path", Some(upstream.path.as_str()), request["path"].as_str())?;
    same(
        "authority",
        values(&upstream.headers, "host"),
        request["authority"].as_str().into_iter().collect(),
    )?;
    let mut changed = removed("request", &request["headers_removed"], &upstream.headers)?;
    for (name, new) in lines(&request["headers"]) {
        let have = values(&upstream.headers, name);
        let beside = [values(&saw.sent, name), new.clone()].concat();
        if have != new && have != beside {
            return Err(format!("request header {name}: {have:?}, explained {new:?}"));
        }
        changed.push(name);
    }
    for (name, _) in saw.sent.iter().filter(|(name, _)| !changed.contains(&name.as_str())) {
        same(name, values(&upstream.headers, name), values(&saw.sent, name))?;
    }
    response(&destination["response"], saw)
}

fn response(change: &Value, saw: &Saw) -> Result<(), String> {
    let theirs: Lines = crate::live::ANSWERED.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let gone = removed("response", &change["headers_removed"], &saw.headers)?;
    let (set, added) = (lines(&change["headers_set"]), lines(&change["headers_added"]));
    for (name, new) in set.iter().chain(&added) {
        let is_set = set.iter().any(|(it, _)| it == name);
        let before = if is_set { Vec::new() } else { values(&theirs, name) };
        same(&format!("response header {name}"), values(&saw.headers, name), [before, new.clone()].concat())?;
    }
    let is_changed = |name: &str| gone.contains(&name) || set.iter().chain(&added).any(|(it, _)| *it == name);
    for (name, _) in theirs.iter().filter(|(name, _)| !is_changed(name)) {
        same(&format!("response header {name}"), values(&saw.headers, name), values(&theirs, name))?;
    }
    Ok(())
}

fn removed<'a>(what: &str, names: &'a Value, have: &Lines) -> Result<Vec<&'a str>, String> {
    let names: Vec<&str> = names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match names.iter().find(|name| !values(have, name).is_empty()) {
        Some(name) => Err(format!("{what} header {name} is there, explained as removed")),
        None => Ok(names),
    }
}

/// Names with the values of their lines.
fn lines(headers: &Value) -> Vec<(&str, Vec<&str>)> {
    let all = headers.as_object().into_iter().flatten();
    all.map(|(name, lines)| {
        let lines = lines.as_array().into_iter().flatten().filter_map(Value::as_str);
        (name.as_str(), lines.collect())
    })
    .collect()
}

#[expect(clippy::needless_pass_by_value, reason = "calls read better with values")]
fn same<T: PartialEq + std::fmt::Debug>(what: &str, have: T, explained: T) -> Result<(), String> {
    if have == explained { Ok(()) } else { Err(format!("{what}: {have:?}, explained {explained:?}")) }
}
