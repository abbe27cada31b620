//! The few kinds of answers that all roles give.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;

/// A whole answer; Bookinfo streams nothing.
pub(crate) type Reply = Response<Full<Bytes>>;

/// JSON, as all of Bookinfo's services but the page answer.
pub(crate) fn json(status: StatusCode, value: &Value) -> Reply {
    typed(status, "application/json", value.to_string())
}

/// A page for people.
pub(crate) fn html(status: StatusCode, text: String) -> Reply {
    typed(status, "text/html; charset=utf-8", text)
}

/// Any other text.
pub(crate) fn typed(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(text.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// To another page, after a form.
pub(crate) fn see_other(path: &'static str) -> Reply {
    let mut reply = typed(StatusCode::FOUND, "text/plain", "");
    reply.headers_mut().insert(LOCATION, HeaderValue::from_static(path));
    reply
}

/// There is no such thing here.
pub(crate) fn not_found() -> Reply {
    json(StatusCode::NOT_FOUND, &serde_json::json!({"error": "not found"}))
}
