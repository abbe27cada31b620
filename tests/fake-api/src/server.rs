//! HTTP/1.1: paths to the store.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::resource::{Definition, Selector};
use crate::store::{Refusal, key, resource};
use crate::watch::{self, Watch};
use crate::{Asked, Shared, patch};

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Answers until the other end is dropped.
pub(crate) fn run(listener: std::net::TcpListener, shared: Arc<Shared>, ended: oneshot::Receiver<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async move {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        let accept = async {
            while let Ok((io, _)) = listener.accept().await {
                if !shared.lock().faults.is_down {
                    tokio::spawn(connection(io, shared.clone()));
                }
            }
        };
        tokio::select! {
            () = accept => {}
            _ = ended => {}
        }
    });
}

async fn connection(io: tokio::net::TcpStream, shared: Arc<Shared>) {
    let mut breaks = shared.breaks.subscribe();
    let service = service_fn(|request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
    tokio::select! {
        // Whether the client or the server ended it is all the same.
        _ = served => {}
        _ = breaks.changed() => {}
    }
}

async fn answer(request: Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let (latency, refused) = {
        let mut inner = shared.lock();
        inner.asked.push(Asked { method: head.method.to_string(), path: path.clone(), query: query.clone() });
        let refused =
            inner.faults.refuse.iter().find(|(part, _)| path.contains(part.as_str())).map(|it| it.1);
        (inner.faults.latency, refused)
    };
    tokio::time::sleep(latency).await;
    if let Some(code) = refused {
        return refusal(shared, &Refusal::new(code, "Refused", format!("told to refuse {path}")));
    }
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let content_type =
        head.headers.get(http::header::CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    match route(shared, &head.method, &path, &parameters(&query), content_type, &body) {
        Ok(Found::Json(status, value)) => reply(shared, status, &value),
        Ok(Found::Watch(watch)) => {
            let body = watch::start(shared.clone(), watch);
            let mut response = Response::new(body.boxed());
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            response
        }
        Err(why) => refusal(shared, &why),
    }
}

enum Found {
    Json(StatusCode, Value),
    Watch(Watch),
}

fn ok(value: Value) -> Result<Found, Refusal> {
    Ok(Found::Json(StatusCode::OK, value))
}

fn route(
    shared: &Arc<Shared>,
    method: &Method,
    path: &str,
    query: &BTreeMap<String, String>,
    content_type: &str,
    body: &[u8],
) -> Result<Found, Refusal> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["version"] => return ok(json!({"major": "1", "minor": "36", "gitVersion": "v1.36.4"})),
        ["readyz" | "livez" | "healthz"] => return ok(json!("ok")),
        ["api"] => return ok(json!({"kind": "APIVersions", "versions": ["v1"]})),
        ["apis"] => return ok(groups(shared)),
        ["apis", group] => return ok(self::group(shared, group).ok_or_else(|| Refusal::not_found(group))?),
        ["api", "v1"] => return ok(resources(shared, "", "v1")?),
        ["apis", group, version] => return ok(resources(shared, group, version)?),
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(Refusal::not_found(path)),
    };
    let (namespace, rest) = match rest {
        // The namespace itself is an object too.
        ["namespaces", name, rest @ ..] if !rest.is_empty() && *rest != ["status"] => (Some(*name), rest),
        rest => (None, rest),
    };
    let (plural, name, is_status) = match rest {
        [plural] => (*plural, None, false),
        [plural, name] => (*plural, Some(*name), false),
        [plural, name, "status"] => (*plural, Some(*name), true),
        _ => return Err(Refusal::not_found(path)),
    };
    let definition = {
        let inner = shared.lock();
        let found = inner.store.definition(group, version, plural).cloned();
        found.ok_or_else(|| Refusal::not_found("the server could not find the requested resource:"))?
    };
    let place = Place { definition, version, namespace };
    match (method, name) {
        (&Method::GET, None) if query.get("watch").is_some_and(|it| it == "true" || it == "1") => {
            Ok(Found::Watch(place.watch(shared, query)?))
        }
        (&Method::GET, None) => ok(place.list(shared, query)?),
        (&Method::GET, Some(name)) => ok(place.get(shared, name)?),
        (&Method::POST, None) => Ok(Found::Json(StatusCode::CREATED, place.create(shared, json_of(body)?)?)),
        (&Method::PUT, Some(name)) => ok(place.replace(shared, name, json_of(body)?, is_status)?),
        (&Method::PATCH, Some(name)) => {
            ok(place.patch(shared, name, content_type, json_of(body)?, is_status)?)
        }
        (&Method::DELETE, Some(name)) => {
            let key = place.key(name);
            let removed = shared.change(|store| store.remove(&resource(&place.definition), &key));
            removed.ok_or_else(|| Refusal::not_found(name))?;
            ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
        }
        _ => Err(Refusal::new(405, "MethodNotAllowed", format!("{method} {path}"))),
    }
}

/// A kind, and where in it.
struct Place<'a> {
    definition: Definition,
    version: &'a str,
    namespace: Option<&'a str>,
}

impl Place<'_> {
    fn api_version(&self) -> String {
        let group = &self.definition.group;
        if group.is_empty() { self.version.to_owned() } else { format!("{group}/{}", self.version) }
    }

    fn key(&self, name: &str) -> (String, String) {
        (self.namespace.unwrap_or_default().to_owned(), name.to_owned())
    }

    fn watch(&self, shared: &Shared, query: &BTreeMap<String, String>) -> Result<Watch, Refusal> {
        let inner = shared.lock();
        let streams = query.get("sendInitialEvents").is_some_and(|it| it == "true");
        if streams && inner.faults.refuses_streams {
            let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList \
                           feature gate is enabled";
            return Err(Refusal::new(422, "Invalid", message));
        }
        let from = match query.get("resourceVersion").map(String::as_str) {
            None | Some("" | "0") => None,
            Some(text) => Some(text.parse().map_err(|_| Refusal::new(400, "BadRequest", "resourceVersion"))?),
        };
        if from.is_some_and(|from| inner.store.is_gone(from)) {
            return Err(Refusal::gone());
        }
        Ok(Watch {
            resource: resource(&self.definition),
            namespace: self.namespace.map(str::to_owned),
            selector: Selector::parse(query.get("fieldSelector").map(String::as_str).unwrap_or_default()),
            api_version: self.api_version(),
            kind: self.definition.kind.clone(),
            bookmarks: query.get("allowWatchBookmarks").is_some_and(|it| it == "true"),
            from,
            marks_end: streams && !inner.faults.ignores_streams,
            seconds: query.get("timeoutSeconds").and_then(|it| it.parse().ok()).unwrap_or(1800),
        })
    }

    /// A page begins after the key that `continue` names; it is of the time it is asked for.
    fn list(&self, shared: &Shared, query: &BTreeMap<String, String>) -> Result<Value, Refusal> {
        let inner = shared.lock();
        let after = match query.get("continue") {
            None => None,
            Some(token) => {
                let mut parts = token.splitn(3, '/');
                let mut part = || parts.next().unwrap_or_default().to_owned();
                let revision: u64 =
                    part().parse().map_err(|_| Refusal::new(400, "BadRequest", "continue"))?;
                if inner.store.is_gone(revision) {
                    return Err(Refusal::gone());
                }
                Some((part(), part()))
            }
        };
        let limit =
            query.get("limit").and_then(|it| it.parse().ok()).filter(|it| *it > 0).unwrap_or(usize::MAX);
        let selector = Selector::parse(query.get("fieldSelector").map(String::as_str).unwrap_or_default());
        let mut all =
            inner.store.list(&resource(&self.definition), self.namespace, &selector, after.as_ref());
        let mut items = Vec::new();
        let mut last = None;
        for (key, object) in all.by_ref().take(limit) {
            // The items of a list do not say what they are.
            let mut object = object.clone();
            if let Some(fields) = object.as_object_mut() {
                fields.remove("apiVersion");
                fields.remove("kind");
            }
            items.push(object);
            last = Some(key);
        }
        let revision = inner.store.revision();
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if all.next().is_some()
            && let Some((namespace, name)) = last
        {
            metadata["continue"] = json!(format!("{revision}/{namespace}/{name}"));
        }
        let kind = format!("{}List", self.definition.kind);
        Ok(json!({"kind": kind, "apiVersion": self.api_version(), "metadata": metadata, "items": items}))
    }

    fn get(&self, shared: &Shared, name: &str) -> Result<Value, Refusal> {
        let object = shared.lock().store.get(&resource(&self.definition), &self.key(name)).cloned();
        object.ok_or_else(|| Refusal::not_found(&format!("{} {name:?}", self.definition.plural)))
    }

    fn create(&self, shared: &Shared, mut object: Value) -> Result<Value, Refusal> {
        if let Some(namespace) = self.namespace {
            object["metadata"]["namespace"] = json!(namespace);
        }
        let mut key = key(&self.definition, &object);
        if key.1.is_empty()
            && let Some(prefix) = object.pointer("/metadata/generateName").and_then(Value::as_str)
        {
            key.1 = format!("{prefix}{}", shared.lock().store.revision());
            object["metadata"]["name"] = json!(key.1);
        }
        let resource = resource(&self.definition);
        shared.change(|store| match store.get(&resource, &key) {
            Some(_) => Err(Refusal::new(409, "AlreadyExists", format!("{:?} already exists", key.1))),
            None => Ok(store.put(&resource, key, object)),
        })
    }

    fn replace(&self, shared: &Shared, name: &str, object: Value, is_status: bool) -> Result<Value, Refusal> {
        let key = self.key(name);
        let resource = resource(&self.definition);
        shared.change(|store| {
            let before = store.get(&resource, &key).cloned().ok_or_else(|| Refusal::not_found(name))?;
            check_version(&before, &object)?;
            let after = self.restricted(&before, object, is_status);
            Ok(store.put(&resource, key, after))
        })
    }

    fn patch(
        &self,
        shared: &Shared,
        name: &str,
        content_type: &str,
        change: Value,
        is_status: bool,
    ) -> Result<Value, Refusal> {
        let is_apply = content_type.starts_with("application/apply-patch");
        if !is_apply && content_type != "application/merge-patch+json" {
            return Err(Refusal::new(415, "UnsupportedMediaType", content_type));
        }
        let key = self.key(name);
        let resource = resource(&self.definition);
        shared.change(|store| {
            let before = match store.get(&resource, &key) {
                Some(before) => before.clone(),
                // Applying creates what is not there.
                None if is_apply && !is_status => {
                    let mut object = change;
                    object["metadata"]["name"] = json!(name);
                    if self.definition.is_namespaced {
                        object["metadata"]["namespace"] = json!(key.0);
                    }
                    return Ok(store.put(&resource, key, object));
                }
                None => return Err(Refusal::not_found(name)),
            };
            check_version(&before, &change)?;
            let mut after = before.clone();
            if is_apply {
                patch::apply(&mut after, change);
            } else {
                patch::merge(&mut after, change);
            }
            let after = self.restricted(&before, after, is_status);
            // What changes nothing has no new revision.
            if after == before { Ok(before) } else { Ok(store.put(&resource, key, after)) }
        })
    }

    /// By the path of the status only the status changes, and by the other one everything else.
    fn restricted(&self, before: &Value, after: Value, is_status: bool) -> Value {
        let (mut kept, source) = match (self.definition.has_status, is_status) {
            (false, _) => return after,
            (true, true) => (before.clone(), after),
            (true, false) => (after, before.clone()),
        };
        if let Some(fields) = kept.as_object_mut() {
            match source.get("status") {
                Some(status) => fields.insert("status".into(), status.clone()),
                None => fields.remove("status"),
            };
        }
        kept
    }
}

/// Who names a revision means that one and no other.
fn check_version(before: &Value, change: &Value) -> Result<(), Refusal> {
    let version =
        |it: &Value| it.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned);
    match version(change) {
        Some(wanted) if !wanted.is_empty() && Some(&wanted) != version(before).as_ref() => {
            Err(Refusal::new(409, "Conflict", "the object has been modified"))
        }
        _ => Ok(()),
    }
}

fn groups(shared: &Shared) -> Value {
    let names: std::collections::BTreeSet<String> = shared
        .lock()
        .store
        .definitions
        .iter()
        .map(|it| it.group.clone())
        .filter(|it| !it.is_empty())
        .collect();
    let groups: Vec<Value> = names.iter().filter_map(|name| group(shared, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group(shared: &Shared, name: &str) -> Option<Value> {
    let inner = shared.lock();
    let mut versions: Vec<&str> = Vec::new();
    for version in inner.store.definitions.iter().filter(|it| it.group == name).flat_map(|it| &it.versions) {
        if !versions.contains(&version.as_str()) {
            versions.push(version);
        }
    }
    let rows: Vec<Value> =
        versions.iter().map(|it| json!({"groupVersion": format!("{name}/{it}"), "version": it})).collect();
    let preferred = rows.first()?.clone();
    Some(
        json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": rows, "preferredVersion": preferred}),
    )
}

fn resources(shared: &Shared, group: &str, version: &str) -> Result<Value, Refusal> {
    let inner = shared.lock();
    let all = inner.store.definitions.iter();
    let rows: Vec<Value> = all
        .filter(|it| it.group == group && it.versions.iter().any(|it| it == version))
        .map(|it| {
            json!({"name": it.plural, "singularName": it.kind.to_lowercase(), "namespaced": it.is_namespaced,
                "kind": it.kind, "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"]})
        })
        .collect();
    if rows.is_empty() {
        return Err(Refusal::not_found(&format!("{group}/{version}")));
    }
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": rows}))
}

fn json_of(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::new(400, "BadRequest", error.to_string()))
}

fn parameters(query: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key), decoded(value))
    };
    query.split('&').filter(|it| !it.is_empty()).map(pair).collect()
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap_or_default() as u8;
                out.push(digit(high) * 16 + digit(low));
                rest = after;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn refusal(shared: &Shared, why: &Refusal) -> Answer {
    reply(shared, StatusCode::from_u16(why.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &why.status())
}

fn reply(shared: &Shared, status: StatusCode, value: &Value) -> Answer {
    let text = value.to_string();
    shared.lock().bytes += text.len() as u64;
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
