//! What `kubectl explain` says of a field: the comment above it in the source of the types.
//!
//! The sources are read as lines of text, which rustfmt keeps in one form. A field that this overlooks has no description,
//! nothing worse.

use std::collections::BTreeMap;
use std::path::Path;

use crate::repository;

/// Comments by type and field (as users write it).
#[derive(Debug, Default)]
pub struct Descriptions(BTreeMap<(String, String), String>);

impl Descriptions {
    /// Of all types of the API.
    ///
    /// # Errors
    /// The sources cannot be read.
    pub fn read() -> anyhow::Result<Self> {
        let mut descriptions = Self::default();
        descriptions.folder(&repository("agent/core/src/api"))?;
        Ok(descriptions)
    }

    /// That of a field.
    #[must_use]
    pub fn of(&self, name: &str, field: &str) -> Option<&str> {
        self.0.get(&(name.to_owned(), field.to_owned())).map(String::as_str)
    }

    fn folder(&mut self, folder: &Path) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                self.file(&std::fs::read_to_string(path)?);
            }
        }
        Ok(())
    }

    fn file(&mut self, source: &str) {
        let mut name = None;
        let mut comment = Vec::new();
        let mut renamed = None;
        for line in source.lines() {
            if let Some(rest) = line.strip_prefix("pub struct ") {
                name = rest.strip_suffix(" {");
                comment.clear();
            } else if let Some(text) = line.trim_start().strip_prefix("/// ") {
                comment.push(text);
            } else if let Some(rest) = line.trim_start().strip_prefix("#[serde(rename = \"") {
                renamed = rest.split('"').next();
            } else if let Some((field, _)) =
                line.strip_prefix("    pub ").and_then(|rest| rest.split_once(": "))
            {
                if let Some(name) = name.filter(|_| !comment.is_empty()) {
                    let field = renamed.map_or_else(|| camel_case(field), str::to_owned);
                    self.0.insert((name.to_owned(), field), plain(&comment.join(" ")));
                }
                comment.clear();
                renamed = None;
            } else if line == "}" {
                name = None;
            }
        }
    }
}

fn camel_case(field: &str) -> String {
    let mut words = field.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| {
        let mut letters = word.chars();
        let head = letters.next().map(|letter| letter.to_ascii_uppercase());
        text + &head.into_iter().chain(letters).collect::<String>()
    })
}

/// Without rustdoc's links: ``[`Type::field`](path)`` is `Type.field`.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((name, after)) = link.split_once("`]") else { break };
        out.push_str(before);
        out.push_str(&name.split("::").map(camel_case).collect::<Vec<_>>().join("."));
        rest = match after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_the_comment_above_it() {
        let descriptions = Descriptions::read().unwrap();
        for (name, field, want) in [
            ("HttpRoute", "match", Some("Alternatives; empty matches all.")),
            ("HttpRoute", "mirrorPercentage", Some("Share of requests to mirror; absent means all.")),
            ("RouteDestination", "weight", Some("As HttpRouteDestination.weight.")),
            ("HttpRoute", "nothing", None),
        ] {
            assert_eq!(descriptions.of(name, field), want, "{name}.{field}");
        }
    }
}
