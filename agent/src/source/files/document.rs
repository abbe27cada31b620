//! The text of one file to its objects.

use serde_json::Value;
use undermesh_core::api::mesh_config::MeshConfig;
use undermesh_core::api::meta::{Kinded as _, ObjectMeta};
use undermesh_core::api::origin::{Lines, Origin, Step};
use undermesh_core::api::{self, Identity, MESH_CONFIG_MAP, Object, Parsed};
use undermesh_core::diagnostic::{Code, Diagnostic, Severity};

use crate::source::yaml;

/// The largest file that is read.
pub(super) const MAX_FILE_BYTES: u64 = 32 << 20;
/// The most documents that one file may have, items of lists counted.
const MAX_DOCUMENTS: usize = 100_000;

/// A document of a file, or an item of a `List` in it.
#[derive(Debug)]
pub struct FileDocument {
    /// Which object it is about; `None` if it does not say, or not of a kind that we read.
    pub identity: Option<Identity>,
    /// The object; `None` if it is refused.
    pub object: Option<Object>,
    /// 1-based line on which it begins.
    pub line: u32,
    /// What is to be said about it.
    pub diagnostics: Vec<Diagnostic>,
}

impl FileDocument {
    fn broken(file: &str, line: u32, code: Code, message: impl Into<String>) -> Self {
        let diagnostic = Diagnostic::of_file(Severity::Error, code, file, Some(line), message);
        Self { identity: None, object: None, line, diagnostics: vec![diagnostic] }
    }

    /// Whether it may be about an object that it fails to name.
    pub(super) fn is_unidentified(&self) -> bool {
        self.identity.is_none()
            && self
                .diagnostics
                .iter()
                .any(|diagnostic| diagnostic.is_error() && diagnostic.code != Code::Refused)
    }
}

/// Reads the documents of a file.
pub(super) fn read_bytes(file: &str, bytes: &[u8]) -> Vec<FileDocument> {
    match std::str::from_utf8(bytes) {
        Ok(text) => read_text(file, text),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|&&byte| byte == b'\n').count() as u32 + 1;
            vec![FileDocument::broken(file, line, Code::Syntax, "the file is not UTF-8")]
        }
    }
}

/// Reads the documents of a text, YAML or JSON. `file` is its name in diagnostics.
pub fn read_text(file: &str, text: &str) -> Vec<FileDocument> {
    let mut documents = Vec::new();
    for chunk in yaml::chunks(text) {
        if documents.len() >= MAX_DOCUMENTS {
            let message = format!("more than {MAX_DOCUMENTS} documents; the rest is not read");
            documents.push(FileDocument::broken(file, chunk.first_line, Code::TooLarge, message));
            break;
        }
        match yaml::parse_document(chunk) {
            Ok(Some(document)) => add(file, document.value, document.lines, &mut documents),
            Ok(None) => {}
            // YAML is almost a superset of JSON; of the rest (surrogate pairs) JSON's own parser knows, though no lines.
            Err(error)
                if !error.is_duplicate_key
                    && let Ok(value) = serde_json::from_str(chunk.text) =>
            {
                add(file, value, Lines::at(chunk.first_line), &mut documents);
            }
            Err(error) => {
                let code = if error.is_duplicate_key { Code::DuplicateKey } else { Code::Syntax };
                let message = format!("{}; {}", error.message, yaml::skipped(chunk));
                let mut document = FileDocument::broken(file, error.line, code, message);
                document.diagnostics.iter_mut().for_each(|it| it.hint = error.hint.to_owned());
                documents.push(document);
            }
        }
    }
    documents
}

fn add(file: &str, mut value: Value, lines: Lines, documents: &mut Vec<FileDocument>) {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    if is_list && let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) {
        let item_lines = lines.child(&Step::Key("items".into())).cloned().unwrap_or_default();
        for (index, item) in items.into_iter().enumerate() {
            // The parser's limit on values is below u32.
            let lines =
                item_lines.child(&Step::Index(index as u32)).cloned().unwrap_or_else(|| lines.shallow());
            if documents.len() >= MAX_DOCUMENTS {
                let message = format!("more than {MAX_DOCUMENTS} objects; the rest is not read");
                documents.push(FileDocument::broken(
                    file,
                    lines.line().unwrap_or(1),
                    Code::TooLarge,
                    message,
                ));
                return;
            }
            documents.push(object(file, item, lines));
        }
        return;
    }
    documents.push(object(file, value, lines));
}

fn object(file: &str, value: Value, lines: Lines) -> FileDocument {
    let line = lines.line().unwrap_or(1);
    let parsed = match mesh_settings(&value) {
        Some(settings) => mesh_config(file, settings, &lines),
        None => api::parse(value, Origin::new(file, lines)).validated(),
    };
    FileDocument { identity: parsed.identity, object: parsed.object, line, diagnostics: parsed.diagnostics }
}

/// The text of Istio's mesh settings, if the object is the ConfigMap that holds them.
fn mesh_settings(value: &Value) -> Option<&str> {
    let (namespace, name, key) = MESH_CONFIG_MAP;
    let metadata = value.get("metadata")?;
    let is_it = value.get("kind")? == "ConfigMap"
        && metadata.get("name")? == name
        && metadata.get("namespace")? == namespace;
    if is_it { value.get("data")?.get(key)?.as_str() } else { None }
}

fn mesh_config(file: &str, settings: &str, lines: &Lines) -> Parsed {
    let (namespace, name, key) = MESH_CONFIG_MAP;
    let meta = ObjectMeta { name: name.into(), namespace: namespace.into(), ..Default::default() };
    let key_line = lines
        .child(&Step::Key("data".into()))
        .and_then(|data| data.child(&Step::Key(key.into())))
        .and_then(Lines::line)
        .unwrap_or(1);
    // More than one line is written as a block, which begins below its key.
    let first_line = if settings.trim_end().contains('\n') { key_line.saturating_add(1) } else { key_line };
    match yaml::parse_document(yaml::Chunk { first_line, text: settings }) {
        Ok(document) => {
            let (value, lines) = document
                .map_or((Value::Null, Lines::at(first_line)), |document| (document.value, document.lines));
            api::parse_mesh_config(value, &meta, Origin::new(file, lines)).validated()
        }
        Err(error) => {
            let about =
                Diagnostic::of_file(Severity::Error, Code::Syntax, file, Some(error.line), error.message);
            let diagnostic = Diagnostic {
                kind: MeshConfig::KIND.into(),
                namespace: namespace.into(),
                name: name.into(),
                field: format!("data.{key}"),
                ..about
            };
            let identity = Identity { kind: MeshConfig::KIND, key: meta.key() };
            Parsed { object: None, identity: Some(identity), diagnostics: vec![diagnostic] }
        }
    }
}
