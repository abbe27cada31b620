//! The negative twins: explanations with one thing wrong, that have to be noticed on the very request the right one fits.

use serde_json::{Value, json};

use crate::compare::Saw;

pub(crate) const KINDS: [&str; 11] = [
    "rule",
    "status",
    "location",
    "cluster",
    "share",
    "path",
    "authority",
    "request header",
    "removed request header",
    "response header",
    "removed response header",
];

/// Copies of the explanation with one thing wrong, and what.
pub(crate) fn all(explained: &Value, saw: &Saw) -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    let mut with = |kind, change: &dyn Fn(&mut Value)| {
        let mut copy = explained.clone();
        change(&mut copy);
        all.push((kind, copy));
    };
    if explained["rule"].is_object() {
        with("rule", &|it| it["rule"]["route"] = 99.into());
    }
    if saw.is_aborted(explained) {
        return all;
    }
    if let Some(status) = explained["status"].as_u64() {
        with("status", &|it| it["status"] = (status + 1).into());
    }
    if explained["redirect"].is_object() {
        with("location", &|it| it["redirect"]["location"] = "/nowhere".into());
    }
    let is_request = explained["destinations"][0]["request"].is_object();
    if explained["outcome"] != "forward" || saw.upstream.is_none() || !is_request {
        return all;
    }
    let mut each = |kind, change: &dyn Fn(&mut Value)| {
        with(kind, &|it| it["destinations"].as_array_mut().into_iter().flatten().for_each(change));
    };
    each("cluster", &|it| it["cluster"] = "outbound|80||nowhere".into());
    each("share", &|it| it["share"] = 0.0.into());
    each("path", &|it| it["request"]["path"] = "/nowhere".into());
    each("authority", &|it| it["request"]["authority"] = "nowhere".into());
    each("request header", &|it| it["request"]["headers"]["x-nowhere"] = json!(["1"]));
    each("removed request header", &|it| it["request"]["headers_removed"] = json!(["x-kept"]));
    each("response header", &|it| it["response"]["headers_set"]["x-nowhere"] = json!(["1"]));
    each("removed response header", &|it| it["response"]["headers_removed"] = json!(["x-kept"]));
    all
}
