//! The parser's complaint about a document, put so that it leads to the mistake.
//!
//! A parser notices on the next line, or at the end of the text, what is missing on an earlier one; people look for it where
//! they are sent.

use super::{Chunk, Error, is_marker};

/// What the parser says of a line without a colon, once it sees the next one.
const NO_COLON: &str = "simple key expect ':'";
/// Keys that every object begins with.
const FIRST_KEYS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// The list or mapping in which the parser was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Within {
    /// 1-based, from the start of the file.
    pub(super) line: u32,
    /// What it begins with if it is written with brackets.
    pub(super) bracket: char,
}

/// `line` is the parser's, from the start of the file.
pub(super) fn syntax(chunk: Chunk<'_>, line: u32, info: &str, within: Option<Within>) -> Error {
    let error = |line, message: String, hint| Error { line, message, hint, is_duplicate_key: false };
    if info == NO_COLON {
        let message = "invalid YAML: this is neither `key: value` nor part of a value".to_owned();
        let hint = "a colon with a space behind it is missing, or the line has to be indented";
        return error(last_content(chunk, line.saturating_sub(1)), message, hint);
    }
    let line = last_content(chunk, line);
    let message = format!("invalid YAML: {info}");
    let is_open = |within: &Within| {
        let text = chunk.text.lines().nth(within.line.saturating_sub(chunk.first_line) as usize);
        text.is_some_and(|text| text.contains(within.bracket))
            && (info.contains("flow") || info.contains("node content") || info == "invalid indentation")
    };
    match within.filter(is_open) {
        Some(within) if info.contains("flow") => {
            error(line, format!("{message}; the `{}` of line {} is open", within.bracket, within.line), "")
        }
        Some(within) => {
            error(within.line, format!("{message}: the `{}` of this line is not closed", within.bracket), "")
        }
        None => error(line, message, ""),
    }
}

/// A key that is there for the second time.
pub(super) fn duplicate_key(line: u32, key: &str) -> Error {
    let hint = if FIRST_KEYS.contains(&key) {
        "if another object begins here, put a line `---` before it"
    } else {
        ""
    };
    Error {
        line,
        message: format!("the key {key:?} is here for the second time"),
        hint,
        is_duplicate_key: true,
    }
}

/// What is lost with a document: its lines, and what it seems to be.
pub fn skipped(chunk: Chunk<'_>) -> String {
    let is_blank = |line: &str| line.trim().is_empty() || is_marker(line, "---") || is_marker(line, "...");
    let before = chunk.text.lines().take_while(|line| is_blank(line)).count();
    let first = chunk.first_line.saturating_add(u32::try_from(before).unwrap_or(u32::MAX));
    let last = last_content(chunk, u32::MAX).max(first);
    let value = |key: &str| {
        let value = chunk.text.lines().find_map(|line| line.trim_start().strip_prefix(key))?;
        let value = value.split('#').next()?.trim().trim_matches(['"', '\'']);
        value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)).then_some(value)
    };
    let what = [value("kind:"), value("name:")].into_iter().flatten().filter(|it| !it.is_empty());
    let what = what.collect::<Vec<_>>().join(" ");
    let what = if what.is_empty() { what } else { format!(" ({what})") };
    format!("the document of lines {first} to {last}{what} is skipped")
}

/// The last line with something on it, of those up to `line`; from the start of the file.
fn last_content(chunk: Chunk<'_>, line: u32) -> u32 {
    let lines = chunk.text.lines().zip(chunk.first_line..=line);
    let with_content =
        lines.filter(|(text, _)| !text.trim().is_empty() && !text.trim_start().starts_with('#'));
    with_content.last().map_or(chunk.first_line, |(_, line)| line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::yaml::parse_document;

    #[test]
    fn people_are_sent_to_the_line_of_the_mistake() {
        for (text, line, says) in [
            ("a: 1\nb\nc: 1\n", 2, "neither `key: value`"),
            ("a: 1\nb 2\n", 2, "neither `key: value`"),
            ("a: 1\nb:2\n# and\n\nc: 3\n", 2, "neither `key: value`"),
            ("a: 1\nb: [\n", 2, "the `[` of this line is not closed"),
            ("a:\n  b: [1, 2\nc: 1\nd: 2\n", 2, "the `[` of this line is not closed"),
            ("a: {b: 1\nc: 2\nd: 3\n", 2, "the `{` of line 1 is open"),
            ("a: [1,\n  2\n\n\n", 2, "the `[` of line 1 is open"),
            // Right as it is.
            ("a: 1\n b: 2\nc: 3\n", 2, "invalid YAML"),
            ("a: 1\nb: x: y\nc: 1\n", 2, "mapping values are not allowed"),
            ("a:\n\tb: 1\nc: 1\n", 2, "tabs"),
        ] {
            let error = parse_document(Chunk { first_line: 1, text }).unwrap_err();
            assert!(error.message.contains(says), "{text:?}: {error:?}");
            assert_eq!(error.line, line, "{text:?}: {error:?}");
            // Also further down in a file.
            let error = parse_document(Chunk { first_line: 11, text }).unwrap_err();
            assert_eq!(error.line, line + 10, "{text:?}: {error:?}");
        }
    }

    #[test]
    fn a_second_kind_is_a_missing_separator_and_another_second_key_is_not() {
        let hint = |text| parse_document(Chunk { first_line: 1, text }).unwrap_err().hint;
        assert!(hint("kind: A\nkind: B\n").contains("---"));
        assert_eq!(hint("a: 1\na: 2\n"), "");
    }

    #[test]
    fn what_is_skipped_is_named_as_far_as_it_can_be_read() {
        let text = "---\n\nkind: 'Service' # one\nmetadata:\n  name: a\nspec: [\n\n";
        assert_eq!(
            skipped(Chunk { first_line: 5, text }),
            "the document of lines 7 to 10 (Service a) is skipped"
        );
        assert_eq!(
            skipped(Chunk { first_line: 1, text: "a: [\n" }),
            "the document of lines 1 to 1 is skipped"
        );
    }
}
