//! What the API server sends: pages of lists and events of watches, to JSON values one object at a time.
//!
//! Nothing here fails because of what an object is: whether it makes sense is the parser's to say. Parts of the metadata that
//! nobody reads, and that are often larger than the object, are skipped while reading.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Who wrote which field. As large as the object.
const MANAGED_FIELDS: &str = "managedFields";
/// The object as text, once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Kubernetes marks the end of a streamed list so.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// A line of a watch.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// New, or other than it was.
    Applied(Value),
    /// Gone.
    Deleted(Value),
    /// So far everything has been sent.
    Bookmark {
        /// Where a later watch may begin.
        version: String,
        /// All objects of a streamed list have been sent.
        ends_list: bool,
    },
    /// The watch cannot go on.
    Failed {
        /// An HTTP status.
        code: u16,
        /// For people.
        message: String,
    },
}

/// What is around the objects of a page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PageHead {
    /// Where a watch begins.
    pub(super) version: String,
    /// Asks for the next page; empty: there is none.
    pub(super) next: String,
}

/// Reads a line of a watch.
///
/// # Errors
/// It is not JSON, or no event.
pub(super) fn event(line: &[u8]) -> serde_json::Result<Event> {
    let mut reader = serde_json::Deserializer::from_slice(line);
    let (kind, object) = EventSeed.deserialize(&mut reader)?;
    Ok(match kind.as_str() {
        "ADDED" | "MODIFIED" => Event::Applied(object),
        "DELETED" => Event::Deleted(object),
        "BOOKMARK" => {
            let version = version(&object).to_owned();
            let end = object.pointer("/metadata/annotations").and_then(|all| all.get(INITIAL_EVENTS_END));
            Event::Bookmark { version, ends_list: end.and_then(Value::as_str) == Some("true") }
        }
        "ERROR" => Event::Failed {
            code: object
                .get("code")
                .and_then(Value::as_u64)
                .and_then(|code| code.try_into().ok())
                .unwrap_or(500),
            message: message(&object),
        },
        other => return Err(serde_json::Error::custom(format!("no event is of the type {other:?}"))),
    })
}

/// Reads a page, an object at a time.
///
/// # Errors
/// It is not JSON, or no list.
pub(super) fn page(text: &[u8], each: &mut dyn FnMut(Value)) -> serde_json::Result<PageHead> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    PageSeed(each).deserialize(&mut reader)
}

/// An object's `metadata.resourceVersion`, or nothing.
pub(super) fn version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// A text of an object's metadata, or nothing.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// What a `Status` says.
pub(super) fn message(status: &Value) -> String {
    status.get("message").and_then(Value::as_str).unwrap_or("no reason given").to_owned()
}

fn is_of_istio(object: &Map<String, Value>) -> bool {
    object.get("apiVersion").and_then(Value::as_str).is_some_and(|version| version.contains(".istio.io/"))
}

struct EventSeed;

impl<'de> DeserializeSeed<'de> for EventSeed {
    type Value = (String, Value);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EventSeed {
    type Value = (String, Value);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event of a watch")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut kind, mut object) = (String::new(), Value::Null);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => kind = map.next_value()?,
                "object" => object = map.next_value_seed(Pruned::Object)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((kind, object))
    }
}

struct PageSeed<'a>(&'a mut dyn FnMut(Value));

impl<'de> DeserializeSeed<'de> for PageSeed<'_> {
    type Value = PageHead;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PageHead, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for PageSeed<'_> {
    type Value = PageHead;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PageHead, A::Error> {
        let mut head = PageHead::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "metadata" => {
                    let metadata: Map<String, Value> = map.next_value()?;
                    let text =
                        |field| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
                    head = PageHead { version: text("resourceVersion"), next: text("continue") };
                }
                "items" => map.next_value_seed(ItemsSeed(self.0))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if head.version.is_empty() {
            return Err(A::Error::custom("a list without metadata.resourceVersion"));
        }
        Ok(head)
    }
}

struct ItemsSeed<'a>(&'a mut dyn FnMut(Value));

impl<'de> DeserializeSeed<'de> for ItemsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the objects of a list")
    }

    /// Go's empty list.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(object) = items.next_element_seed(Pruned::Object)? {
            (self.0)(object);
        }
        Ok(())
    }
}

/// Reads a value without what nobody reads, by where it is.
#[derive(Clone, Copy)]
enum Pruned {
    Object,
    Metadata,
    Annotations,
    Whole,
}

impl<'de> DeserializeSeed<'de> for Pruned {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            Self::Whole => serde::Deserialize::deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Pruned {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let inner = match (self, key.as_str()) {
                (Self::Metadata, MANAGED_FIELDS) | (Self::Annotations, LAST_APPLIED) => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                // Anybody with the right to write a status may nest it deeper than a reader goes, and nobody reads it. Keys are
                // sorted in these kinds, so the version has been read.
                (Self::Object, "status") if is_of_istio(&kept) => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                (Self::Object, "metadata") => Self::Metadata,
                (Self::Metadata, "annotations") => Self::Annotations,
                _ => Self::Whole,
            };
            kept.insert(key, map.next_value_seed(inner)?);
        }
        Ok(Value::Object(kept))
    }

    // What should be a mapping and is not is kept as it is, for the parser to say so.

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while let Some(item) = items.next_element()? {
            kept.push(item);
        }
        Ok(Value::Array(kept))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_told_apart() {
        let object = json!({"metadata": {"name": "a", "resourceVersion": "7"}});
        let line = |kind: &str, object: &Value| json!({"type": kind, "object": object}).to_string();
        for (kind, want) in [
            ("ADDED", Event::Applied(object.clone())),
            ("MODIFIED", Event::Applied(object.clone())),
            ("DELETED", Event::Deleted(object.clone())),
        ] {
            assert_eq!(event(line(kind, &object).as_bytes()).unwrap(), want);
        }
        let end = json!({"metadata": {"resourceVersion": "9", "annotations": {INITIAL_EVENTS_END: "true"}}});
        for (object, version, ends_list) in [(&object, "7", false), (&end, "9", true)] {
            let want = Event::Bookmark { version: version.into(), ends_list };
            assert_eq!(event(line("BOOKMARK", object).as_bytes()).unwrap(), want);
        }
        let status = json!({"kind": "Status", "code": 410, "message": "too old"});
        let want = Event::Failed { code: 410, message: "too old".into() };
        assert_eq!(event(line("ERROR", &status).as_bytes()).unwrap(), want);
        for wrong in ["", "{", "[]", "{}", r#"{"type":"NEWS","object":{}}"#] {
            assert!(event(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_page_gives_its_objects_whatever_they_are_without_what_nobody_reads() {
        let text = json!({
            "kind": "ServiceList",
            "items": [
                {"metadata": {"name": "a", "managedFields": [{"f": 1}], "annotations": {LAST_APPLIED: "{}", "x": "y"}}, "spec": {"annotations": 1}},
                {"metadata": "nonsense"}, null, 5, "x", [1], true, 1.5, -1
            ],
            "metadata": {"resourceVersion": "12", "continue": "more"},
        });
        let mut have = Vec::new();
        let head = page(text.to_string().as_bytes(), &mut |object| have.push(object)).unwrap();
        assert_eq!(head, PageHead { version: "12".into(), next: "more".into() });
        let first = json!({"metadata": {"name": "a", "annotations": {"x": "y"}}, "spec": {"annotations": 1}});
        assert_eq!(have[0], first);
        assert_eq!(have[1..], text["items"].as_array().unwrap()[1..]);
    }

    #[test]
    fn a_status_that_is_nested_without_end_costs_no_page() {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(5000), "}".repeat(5000));
        let rule = |version: &str| {
            format!(
                r#"{{"apiVersion":"{version}","kind":"VirtualService","metadata":{{"name":"a"}},"status":{deep}}}"#
            )
        };
        let text = |version: &str| {
            format!(r#"{{"items":[{}],"metadata":{{"resourceVersion":"1"}}}}"#, rule(version))
        };
        let mut names = Vec::new();
        page(text("networking.istio.io/v1").as_bytes(), &mut |object| {
            names.push(super::text(&object, "name").to_owned());
        })
        .unwrap();
        assert_eq!(names, ["a"]);
        let line = format!(r#"{{"type":"ADDED","object":{}}}"#, rule("security.istio.io/v1"));
        assert!(matches!(event(line.as_bytes()), Ok(Event::Applied(_))));
        assert!(page(text("v1").as_bytes(), &mut |_| ()).is_err(), "what is read may not be nested so");
    }

    #[test]
    fn an_empty_list_may_be_null_and_what_is_no_list_is_refused() {
        let mut none = |_| panic!("there is no object");
        assert!(page(br#"{"metadata":{"resourceVersion":"1"},"items":null}"#, &mut none).is_ok());
        for wrong in ["", "[]", "{}", r#"{"metadata":{"resourceVersion":"1"},"items":["#] {
            assert!(page(wrong.as_bytes(), &mut none).is_err(), "{wrong}");
        }
    }
}
