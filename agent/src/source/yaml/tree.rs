//! One YAML document to one JSON value and the tree of its lines.
//!
//! Iterative, and bounded in depth and in size after aliases are expanded: a folder may hold anything.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Value};
use undermesh_core::api::origin::{Lines, Step};

use super::mistake::{self, Within};
use super::{Chunk, scalar};

/// Deeper nesting is an error; Kubernetes objects reach about 20.
const MAX_DEPTH: usize = 100;
/// Values per document, aliases expanded.
const MAX_VALUES: usize = 4_000_000;

/// A document that is not empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its content.
    pub value: Value,
    /// Its lines, counted from the start of the file.
    pub lines: Lines,
}

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// 1-based, from the start of the file.
    pub line: u32,
    /// What is wrong.
    pub message: String,
    /// What to change; empty if the message says it.
    pub hint: &'static str,
    /// A mapping has a key twice (which is not an error of syntax).
    pub is_duplicate_key: bool,
}

/// Reads one document; `None` if it has no content.
pub fn parse_document(chunk: Chunk<'_>) -> Result<Option<Document>, Error> {
    let mut builder = Builder {
        first_line: chunk.first_line,
        stack: Vec::new(),
        anchors: HashMap::new(),
        values: 0,
        root: None,
    };
    for event in Parser::new_from_str(chunk.text) {
        let (event, span) = event.map_err(|error| {
            let line = chunk.first_line.saturating_add(line_of(error.marker().line()));
            mistake::syntax(chunk, line, error.info(), builder.within())
        })?;
        builder.event(event, span)?;
    }
    Ok(builder
        .root
        .filter(|root| !root.value.is_null())
        .map(|root| Document { value: root.value, lines: root.lines }))
}

/// Lines to add to the first one.
fn line_of(line: usize) -> u32 {
    u32::try_from(line.saturating_sub(1)).unwrap_or(u32::MAX)
}

#[derive(Clone)]
struct Node {
    value: Value,
    lines: Lines,
    /// Values in it, itself included: what an alias costs.
    weight: usize,
}

enum Frame {
    List { items: Vec<Value>, lines: Lines, anchor: usize, weight: usize },
    Mapping(Mapping),
}

struct Mapping {
    entries: Map<String, Value>,
    lines: Lines,
    key: Option<(String, u32)>,
    /// The key just read is `<<`.
    is_merge: bool,
    /// Values of `<<`, in order.
    merged: Vec<Node>,
    anchor: usize,
    weight: usize,
}

struct Builder {
    first_line: u32,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    values: usize,
    root: Option<Node>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Error> {
        let line = self.first_line.saturating_add(line_of(span.start.line()));
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Scalar(text, style, anchor, tag) => {
                let is_plain = style == ScalarStyle::Plain;
                if self.wants_key() && is_plain && tag.is_none() && text == "<<" {
                    if let Some(Frame::Mapping(mapping)) = self.stack.last_mut() {
                        mapping.key = Some((text.into_owned(), line));
                        mapping.is_merge = true;
                    }
                    return Ok(());
                }
                let value =
                    scalar_value(&text, is_plain, tag.as_deref()).map_err(|message| error(line, message))?;
                self.add(Node { value, lines: Lines::at(line), weight: 1 }, anchor, line)
            }
            Event::Alias(anchor) => {
                // Unfinished anchors are not in the map, so a value cannot contain itself.
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(error(line, "an alias (*) refers to a value that contains it"));
                };
                if self.values.saturating_add(node.weight) > MAX_VALUES {
                    return Err(error(line, format!("more than {MAX_VALUES} values, aliases expanded")));
                }
                let node = node.clone();
                self.values += node.weight;
                self.add(node, 0, line)
            }
            Event::SequenceStart(anchor, _) => {
                self.open(line, Frame::List { items: Vec::new(), lines: Lines::at(line), anchor, weight: 1 })
            }
            Event::MappingStart(anchor, _) => self.open(
                line,
                Frame::Mapping(Mapping {
                    entries: Map::new(),
                    lines: Lines::at(line),
                    key: None,
                    is_merge: false,
                    merged: Vec::new(),
                    anchor,
                    weight: 1,
                }),
            ),
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List { items, lines, anchor, weight }) => {
                    self.add(Node { value: Value::Array(items), lines, weight }, anchor, line)
                }
                Some(Frame::Mapping(mapping)) => {
                    let anchor = mapping.anchor;
                    self.add(mapping.finish(), anchor, line)
                }
                None => Ok(()),
            },
        }
    }

    fn open(&mut self, line: u32, frame: Frame) -> Result<(), Error> {
        if self.wants_key() {
            return Err(error(line, "a mapping key must be a single value"));
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(error(line, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.stack.push(frame);
        Ok(())
    }

    /// What is open.
    fn within(&self) -> Option<Within> {
        let (lines, bracket) = match self.stack.last()? {
            Frame::List { lines, .. } => (lines, '['),
            Frame::Mapping(mapping) => (&mapping.lines, '{'),
        };
        Some(Within { line: lines.line()?, bracket })
    }

    fn wants_key(&self) -> bool {
        matches!(self.stack.last(), Some(Frame::Mapping(Mapping { key: None, .. })))
    }

    /// Puts a complete value where it belongs.
    fn add(&mut self, node: Node, anchor: usize, line: u32) -> Result<(), Error> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(error(line, format!("more than {MAX_VALUES} values")));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
            self.values += node.weight;
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, lines, weight, .. }) => {
                *weight += node.weight;
                // More items than u32 would be beyond MAX_VALUES.
                lines.push(Step::Index(items.len() as u32), node.lines);
                items.push(node.value);
            }
            Some(Frame::Mapping(mapping)) => mapping.add(node, line)?,
        }
        Ok(())
    }
}

impl Mapping {
    fn add(&mut self, node: Node, line: u32) -> Result<(), Error> {
        let Some((key, key_line)) = self.key.take() else {
            let key = key_text(&node.value).ok_or_else(|| error(line, "a mapping key must be a string"))?;
            if self.entries.contains_key(&key) {
                return Err(mistake::duplicate_key(line, &key));
            }
            self.key = Some((key, line));
            return Ok(());
        };
        self.weight += node.weight + 1;
        if std::mem::take(&mut self.is_merge) {
            let is_mergeable = match &node.value {
                Value::Object(_) => true,
                Value::Array(items) => items.iter().all(Value::is_object),
                _ => false,
            };
            if !is_mergeable {
                return Err(error(key_line, "<< takes a mapping, or a list of mappings"));
            }
            self.merged.push(node);
            return Ok(());
        }
        self.lines.push(Step::Key(key.as_str().into()), node.lines.with_line(key_line));
        self.entries.insert(key, node.value);
        Ok(())
    }

    /// Adds what `<<` brings: the mapping's own keys win, then earlier ones.
    fn finish(mut self) -> Node {
        for node in std::mem::take(&mut self.merged) {
            match node.value {
                Value::Object(entries) => self.merge(entries, &node.lines),
                Value::Array(items) => {
                    for (index, item) in items.into_iter().enumerate() {
                        let lines = node.lines.child(&Step::Index(index as u32)).cloned().unwrap_or_default();
                        if let Value::Object(entries) = item {
                            self.merge(entries, &lines);
                        }
                    }
                }
                _ => {}
            }
        }
        Node { value: Value::Object(self.entries), lines: self.lines, weight: self.weight }
    }

    fn merge(&mut self, entries: Map<String, Value>, lines: &Lines) {
        for (key, value) in entries {
            if !self.entries.contains_key(&key) {
                let step = Step::Key(key.as_str().into());
                let lines = lines.child(&step).cloned().unwrap_or_default();
                self.lines.push(step, lines);
                self.entries.insert(key, value);
            }
        }
    }
}

fn error(line: u32, message: impl Into<String>) -> Error {
    Error { line, message: message.into(), hint: "", is_duplicate_key: false }
}

/// JSON has string keys only; `kubectl` turns numbers and booleans into strings.
fn key_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

fn scalar_value(text: &str, is_plain: bool, tag: Option<&Tag>) -> Result<Value, String> {
    const NO_JSON: &str = "JSON has no such number";
    let Some(tag) = tag else {
        return if is_plain { scalar::plain(text).ok_or_else(|| NO_JSON.into()) } else { Ok(text.into()) };
    };
    // `!` alone says: a string.
    if tag.handle.is_empty() && tag.suffix == "!" {
        return Ok(text.into());
    }
    if !tag.is_yaml_core_schema() {
        return Err(format!("the tag {tag} means nothing here"));
    }
    let value = scalar::plain(text).ok_or(NO_JSON)?;
    let fits = match tag.suffix.as_str() {
        "str" => return Ok(text.into()),
        "null" => value.is_null(),
        "bool" => value.is_boolean(),
        "int" => value.is_i64() || value.is_u64(),
        "float" => value.is_number(),
        "timestamp" => return Ok(text.into()),
        other => return Err(format!("the tag !!{other} means nothing here")),
    };
    if fits { Ok(value) } else { Err(format!("{text:?} is no {}", tag.suffix)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use undermesh_core::api::origin::Origin;

    use super::*;

    fn read(text: &str) -> Result<Option<Document>, Error> {
        parse_document(Chunk { first_line: 1, text })
    }

    fn value(text: &str) -> Value {
        read(text)
            .unwrap_or_else(|error| panic!("{text:?}: {error:?}"))
            .map_or(Value::Null, |document| document.value)
    }

    #[test]
    fn values() {
        for (text, want) in [
            ("", json!(null)),
            ("# nothing\n", json!(null)),
            ("---\n", json!(null)),
            ("a: 1\nb: [x, 'y', \"z\"]\n", json!({"a": 1, "b": ["x", "y", "z"]})),
            ("a: '1'\nb: \"yes\"\nc: yes\n", json!({"a": "1", "b": "yes", "c": true})),
            ("1: a\ntrue: b\n'x.y': c\n", json!({"1": "a", "true": "b", "x.y": "c"})),
            ("a: |\n  x\n  ---\n", json!({"a": "x\n---\n"})),
            ("a: &x {b: 1}\nc: *x\n", json!({"a": {"b": 1}, "c": {"b": 1}})),
            (
                "a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\n",
                json!({"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
            ),
            (
                "a: &x {b: 1}\nc: &y {b: 2, d: 3}\ne:\n  <<: [*x, *y]\n",
                json!({"a": {"b": 1}, "c": {"b": 2, "d": 3}, "e": {"b": 1, "d": 3}}),
            ),
            ("a: !!str 1\nb: !!int '2'\nc: ! 3\n", json!({"a": "1", "b": 2, "c": "3"})),
            ("'<<': 1\n", json!({"<<": 1})),
            ("{\"a\": [1, {\"b\": null}]}", json!({"a": [1, {"b": null}]})),
            ("a:\n- b: 1\n  c: 2\n-\n  d: 3\n", json!({"a": [{"b": 1, "c": 2}, {"d": 3}]})),
        ] {
            assert_eq!(value(text), want, "{text:?}");
        }
    }

    #[test]
    fn errors_name_their_line() {
        for (text, line, message) in [
            ("a: 1\nb: [\n", 2, "invalid YAML"),
            ("a: 1\n b: 2\n", 2, "invalid YAML"),
            ("a: 1\nb: 2\na: 3\n", 3, "the key \"a\" is here for the second time"),
            ("a: .inf\n", 1, "JSON has no such number"),
            ("a: !foo 1\n", 1, "means nothing here"),
            ("a: !!int x\n", 1, "\"x\" is no int"),
            ("x: 1\n? [a]\n: 1\n", 2, "a mapping key must be a single value"),
            ("~: 1\n", 1, "a mapping key must be a string"),
            ("a: 1\n<<: 1\n", 2, "<< takes a mapping"),
            ("a: *x\n", 1, "invalid YAML"),
            ("a: &x [*x]\n", 1, "contains it"),
        ] {
            let error = read(text).expect_err(text);
            assert_eq!(error.line, line, "{text:?}: {}", error.message);
            assert!(error.message.contains(message), "{text:?}: {}", error.message);
        }
    }

    #[test]
    fn every_field_has_the_line_it_is_written_on() {
        let text = "---\n# comment\nspec:\n  http:\n  - match:\n    - uri:\n        exact: /a\n    route:\n    - destination: {host: b,\n        port: {number: 1}}\n  hosts: [a,\n    b]\n";
        let document = parse_document(Chunk { first_line: 11, text }).unwrap().unwrap();
        let origin = Origin::new("a.yaml", document.lines);
        for (field, line) in [
            ("spec", 13),
            ("spec.http", 14),
            ("spec.http[0]", 15),
            ("spec.http[0].match[0].uri.exact", 17),
            ("spec.http[0].route", 18),
            ("spec.http[0].route[0].destination.host", 19),
            ("spec.http[0].route[0].destination.port.number", 20),
            ("spec.hosts[1]", 22),
        ] {
            assert_eq!(origin.line(field), Some(line), "{field}");
        }
    }

    #[test]
    fn depth_and_aliases_are_bounded() {
        assert!(read(&"[".repeat(100_000)).is_err());
        let nested = format!("{}1{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
        assert!(read(&nested).unwrap_err().message.contains("nested deeper"));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let previous = level - 1;
            let refs = vec![format!("*a{previous}"); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert!(read(&bomb).unwrap_err().message.contains("values"));
    }
}
