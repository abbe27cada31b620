//! What we have to say about a user's configuration: which object, which field, what is wrong, what to change.
//!
//! Bad configuration never stops good configuration, so a diagnostic is a value that travels beside the result, not an
//! error that ends something. `check` prints them; their JSON is a stable contract (docs/explain-schema.md).

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

pub use code::Code;

mod code;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Istio's admission would refuse the object, or we do. `check` exits 1.
    Error,
    /// It applies, but probably not as meant.
    Warning,
    /// Worth knowing.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// One remark. Empty strings mean "none"; an object from Kubernetes has no file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The rule, stable.
    pub code: Code,
    /// `VirtualService`
    pub kind: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// `spec.http[0].route[1].weight`
    pub field: String,
    /// The file, as the source names it.
    pub file: Option<String>,
    /// 1-based.
    pub line: Option<u32>,
    /// What is wrong, in Istio's words where it has some.
    pub message: String,
    /// What to change.
    pub hint: String,
}

impl Diagnostic {
    /// A remark about a file rather than an object in it.
    pub fn of_file(
        severity: Severity,
        code: Code,
        file: impl Into<String>,
        line: Option<u32>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code,
            kind: String::new(),
            namespace: String::new(),
            name: String::new(),
            field: String::new(),
            file: Some(file.into()),
            line,
            message: message.into(),
            hint: String::new(),
        }
    }

    /// The same with advice.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Whether `check` fails because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// A text of somebody's for a terminal or a log: what would move the cursor, or begin a line, is escaped.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// `a.yaml:12: error[UM0123] VirtualService default/x spec.http[0]: message (hint)`
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: ")?,
            (Some(file), None) => write!(f, "{file}: ")?,
            _ => {}
        }
        write!(f, "{}[{}]", self.severity, self.code)?;
        if !self.kind.is_empty() {
            write!(f, " {}", self.kind)?;
        }
        match (self.namespace.is_empty(), self.name.is_empty()) {
            (false, false) => write!(f, " {}/{}", self.namespace, self.name)?,
            (true, false) => write!(f, " {}", self.name)?,
            _ => {}
        }
        if !self.field.is_empty() {
            write!(f, " {}", printable(&self.field))?;
        }
        write!(f, ": {}", printable(&self.message))?;
        if !self.hint.is_empty() {
            write!(f, " ({})", printable(&self.hint))?;
        }
        Ok(())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code: Code::UnknownField,
            kind: "VirtualService".into(),
            namespace: "default".into(),
            name: "x".into(),
            field: "spec.http[0].timeoutt".into(),
            file: Some("a.yaml".into()),
            line: Some(12),
            message: "unknown field".into(),
            hint: "did you mean \"timeout\"?".into(),
        }
    }

    #[test]
    fn reads_like_a_compiler_message() {
        assert_eq!(
            full().to_string(),
            "a.yaml:12: error[UM0101] VirtualService default/x spec.http[0].timeoutt: unknown field (did you mean \
             \"timeout\"?)"
        );
        let file = Diagnostic::of_file(Severity::Warning, Code::Syntax, "b.yaml", None, "empty");
        assert_eq!(file.to_string(), "b.yaml: warning[UM0001]: empty");
    }

    #[test]
    fn a_name_that_somebody_gave_moves_no_cursor_and_begins_no_line() {
        let message = "\u{1b}[2J\nerror: äß \u{9b}".into();
        let text = Diagnostic { message, ..full() }.to_string();
        assert!(text.contains(r"\u{1b}[2J\nerror: äß \u{9b} (did"), "{text}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }

    #[test]
    fn json_is_the_contract() {
        let want = serde_json::json!({
            "severity": "error", "code": "UM0101", "kind": "VirtualService", "namespace": "default", "name": "x",
            "field": "spec.http[0].timeoutt", "file": "a.yaml", "line": 12, "message": "unknown field",
            "hint": "did you mean \"timeout\"?"
        });
        assert_eq!(serde_json::to_value(full()).unwrap(), want);
    }
}
