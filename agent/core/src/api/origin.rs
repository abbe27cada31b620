//! Where an object was written: the file, and the line of each of its fields.
//!
//! Field paths are those of diagnostics: `spec.http[0].route[1].weight`. A map key with characters that would blur the path
//! is quoted: `spec.http[0].headers.request.set["x.y"]`.

use std::fmt::Write as _;

/// The lines of a value's fields, a tree of the value's own shape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    /// 1-based line where the value's key (or, in a list, the value) starts; 0 if unknown.
    line: u32,
    children: Vec<(Step, Lines)>,
}

/// One step of a field path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A key of a mapping.
    Key(Box<str>),
    /// A position in a list.
    Index(u32),
}

impl Lines {
    /// A value without fields.
    pub fn at(line: u32) -> Self {
        Self { line, children: Vec::new() }
    }

    /// Adds a field, or an item.
    pub fn push(&mut self, step: Step, lines: Self) {
        self.children.push((step, lines));
    }

    /// The line of the value itself, if known.
    pub fn line(&self) -> Option<u32> {
        (self.line > 0).then_some(self.line)
    }

    /// The subtree one step down.
    pub fn child(&self, step: &Step) -> Option<&Self> {
        // The last one, as the last of duplicate keys would win; a parser that refuses them has only one.
        self.children.iter().rev().find(|(key, _)| key == step).map(|(_, lines)| lines)
    }

    /// The same position without the fields' lines.
    pub fn shallow(&self) -> Self {
        Self::at(self.line)
    }

    /// Gives the value itself another line (a list item's lines start at its first key; a mapping value's at its key).
    pub fn with_line(mut self, line: u32) -> Self {
        self.line = line;
        self
    }
}

/// Where an object comes from. An object read from the Kubernetes API has the default: no file, no lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    file: Option<String>,
    lines: Lines,
}

impl Origin {
    /// An object in `file`, as diagnostics should name it.
    pub fn new(file: impl Into<String>, lines: Lines) -> Self {
        Self { file: Some(file.into()), lines }
    }

    /// The file, if the object was read from one.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The line of `field`, or of its nearest parent that was written. `None` if the object has no file.
    pub fn line(&self, field: &str) -> Option<u32> {
        let mut lines = &self.lines;
        let mut line = lines.line();
        for step in steps(field) {
            let Some(child) = lines.child(&step) else { break };
            lines = child;
            line = lines.line().or(line);
        }
        line
    }

    /// The same without the lines of fields; for objects of which thousands are kept and only the name is reported.
    pub fn shallow(&self) -> Self {
        Self { file: self.file.clone(), lines: self.lines.shallow() }
    }
}

/// Appends a mapping key to a field path.
pub fn push_key(path: &mut String, key: &str) {
    let plain = !key.is_empty()
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if !plain {
        // Debug quotes and escapes, which `steps` takes back.
        let _infallible = write!(path, "[{key:?}]");
    } else {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    }
}

/// Appends a list position to a field path.
pub fn push_index(path: &mut String, index: usize) {
    let _infallible = write!(path, "[{index}]");
}

/// Splits a field path. Lenient: what is not a step ends the path.
fn steps(field: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = field;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("[\"") {
            let mut key = String::new();
            let mut chars = after.char_indices();
            let mut end = None;
            while let Some((at, c)) = chars.next() {
                match c {
                    '\\' => key.extend(chars.next().map(|(_, escaped)| escaped)),
                    '"' => {
                        end = Some(at + 1);
                        break;
                    }
                    _ => key.push(c),
                }
            }
            let Some(tail) = end.and_then(|end| after.get(end..)).and_then(|tail| tail.strip_prefix(']'))
            else {
                break;
            };
            steps.push(Step::Key(key.into()));
            rest = tail;
        } else if let Some(after) = rest.strip_prefix('[') {
            let Some((index, tail)) = after.split_once(']') else { break };
            let Ok(index) = index.parse() else { break };
            steps.push(Step::Index(index));
            rest = tail;
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (key, tail) = after.split_at(end);
            if key.is_empty() {
                break;
            }
            steps.push(Step::Key(key.into()));
            rest = tail;
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Origin {
        let mut weight = Lines::at(5);
        weight.push(Step::Key("weight".into()), Lines::at(7));
        let mut http = Lines::at(4);
        http.push(Step::Index(0), weight);
        let mut spec = Lines::at(3);
        spec.push(Step::Key("http".into()), http);
        spec.push(Step::Key("a.b\"c".into()), Lines::at(9));
        let mut root = Lines::at(1);
        root.push(Step::Key("spec".into()), spec);
        Origin::new("a.yaml", root)
    }

    #[test]
    fn a_field_has_its_line_and_a_missing_one_its_parents() {
        let origin = tree();
        for (field, want) in [
            ("spec.http[0].weight", 7),
            ("spec.http[0].match[3].uri", 5),
            ("spec.http[1]", 4),
            ("spec.tls", 3),
            ("", 1),
            ("status", 1),
            ("spec[\"a.b\\\"c\"]", 9),
            ("spec[\"a.b", 3),
            ("spec.http[x]", 4),
        ] {
            assert_eq!(origin.line(field), Some(want), "{field}");
        }
    }

    #[test]
    fn an_object_without_file_has_no_lines() {
        assert_eq!(Origin::default().line("spec"), None);
        assert_eq!(Origin::default().file(), None);
    }

    #[test]
    fn pushed_keys_are_found_again() {
        for key in ["plain", "a.b", "a\"b", "a[0]", "", "back\\slash"] {
            let mut path = "spec".to_owned();
            push_key(&mut path, key);
            assert_eq!(steps(&path), [Step::Key("spec".into()), Step::Key(key.into())], "{path}");
        }
    }
}
