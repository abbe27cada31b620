//! YAML to JSON values, with the line of every field: the way `kubectl` reads it.
//!
//! `kubectl` (sigs.k8s.io/yaml) follows YAML 1.1 for unquoted scalars, and so do we, since the same files must mean the
//! same: `yes`, `on`, `y` are booleans, `010` is eight, `<<` merges. Other than there, a key that occurs twice is an error
//! (with server-side validation `kubectl` says the same), as are values that JSON cannot hold.
//!
//! A document ends at a line that starts with `---`, whatever state the parser is in; YAML forbids such a line inside a
//! document. So a broken document does not disturb the next one.

mod mistake;
mod scalar;
mod tree;

pub use mistake::skipped;
pub use tree::{Document, Error, parse_document};

/// A document's text within its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// 1-based line of the file on which the text begins.
    pub first_line: u32,
    /// From the `---` (if any) to before the next one.
    pub text: &'a str,
}

/// Splits a file into its documents.
pub fn chunks(text: &str) -> impl Iterator<Item = Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = Some((1, text));
    std::iter::from_fn(move || {
        let (first_line, text) = rest.take()?;
        let mut end = 0;
        let mut line = first_line;
        for (index, part) in text.split_inclusive('\n').enumerate() {
            // A chunk's own marker is its first line.
            if index > 0 && is_marker(part, "---") {
                break;
            }
            end += part.len();
            line += 1;
            if is_marker(part, "...") {
                break;
            }
        }
        let (chunk, after) = text.split_at(end);
        if !after.is_empty() {
            rest = Some((line, after));
        }
        Some(Chunk { first_line, text: chunk })
    })
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_split_at_their_markers_only() {
        for (text, want) in [
            ("", vec![(1, "")]),
            ("a: 1\n", vec![(1, "a: 1\n")]),
            ("---\na: 1\n---\nb: 2", vec![(1, "---\na: 1\n"), (3, "---\nb: 2")]),
            ("a: 1\n---\r\nb: 2\n", vec![(1, "a: 1\n"), (2, "---\r\nb: 2\n")]),
            ("a: |\n  ---\n  x\n----\n", vec![(1, "a: |\n  ---\n  x\n----\n")]),
            ("a: 1\n...\nb: 2\n", vec![(1, "a: 1\n...\n"), (3, "b: 2\n")]),
            ("--- # one\na: 1\n--- {b: 2}", vec![(1, "--- # one\na: 1\n"), (3, "--- {b: 2}")]),
            ("\u{feff}a: 1", vec![(1, "a: 1")]),
        ] {
            let have: Vec<_> = chunks(text).map(|chunk| (chunk.first_line, chunk.text)).collect();
            assert_eq!(have, want, "{text:?}");
        }
    }
}
