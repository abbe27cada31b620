//! `StringMatch`: exact, prefix or regex, for all the strings that rules compare.

use serde::Deserialize;

/// As written; a oneof, so at most one should be set. See [`StringMatch::condition`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StringMatch {
    /// The whole string.
    pub exact: Option<String>,
    /// The beginning, textually.
    pub prefix: Option<String>,
    /// The whole string, by an RE2 expression.
    pub regex: Option<String>,
}

/// What a [`StringMatch`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// Nothing set: the string only has to be there.
    Present,
    /// Equal.
    Exact(&'a str),
    /// Begins with.
    Prefix(&'a str),
    /// Full match.
    Regex(&'a str),
}

impl StringMatch {
    /// The condition. With several set (validation refuses that), the first of exact, prefix, regex counts.
    pub fn condition(&self) -> Condition<'_> {
        match self {
            Self { exact: Some(text), .. } => Condition::Exact(text),
            Self { prefix: Some(text), .. } => Condition::Prefix(text),
            Self { regex: Some(text), .. } => Condition::Regex(text),
            _ => Condition::Present,
        }
    }
}
