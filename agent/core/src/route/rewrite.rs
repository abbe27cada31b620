//! Rewriting the path: the matched prefix, the whole path, or what an expression finds. The query always stays.

use std::fmt;
use std::sync::Arc;

use regex::bytes::Regex;

use super::re2::{self, RegexError};

/// What is sent in place of path and Host.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// The path, if it changes.
    pub path: Option<PathRewrite>,
    /// The Host, if it changes. Wins over header operations.
    pub authority: Option<Box<str>>,
}

/// How the path changes.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// The first `length` bytes, which the route's prefix matched, become `with`. `/api` to `/` makes `/api/x` `//x`.
    Prefix {
        /// Length of the matched prefix.
        length: usize,
        /// In its place.
        with: Box<str>,
    },
    /// The whole path becomes this: after an exact or an expression match.
    Whole(Box<str>),
    /// All matches of an expression are replaced.
    Regex(Box<RegexRewrite>),
}

/// A global substitution by an RE2 expression.
#[derive(Clone)]
pub struct RegexRewrite {
    regex: Arc<Regex>,
    replacement: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Group(usize),
}

impl fmt::Debug for RegexRewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RegexRewrite").field(&self.regex.as_str()).field(&self.replacement).finish()
    }
}

impl RegexRewrite {
    /// `replacement` may name groups by `\1`; `\0` is the whole match and `\\` a backslash, as in RE2.
    pub fn new(expression: &str, replacement: &str) -> Result<Self, RegexError> {
        let regex = re2::partial(expression)?;
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut chars = replacement.chars();
        while let Some(c) = chars.next() {
            if c != '\\' {
                text.push(c);
                continue;
            }
            match chars.next() {
                Some('\\') => text.push('\\'),
                Some(digit @ '0'..='9') => {
                    let group = digit as usize - '0' as usize;
                    if group >= regex.captures_len() {
                        return Err(RegexError::Invalid(format!(
                            "the rewrite names group {group}, which is not there"
                        )));
                    }
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text).into()));
                    }
                    pieces.push(Piece::Group(group));
                }
                _ => {
                    return Err(RegexError::Invalid(
                        "a backslash in a rewrite needs a digit or a backslash after it".into(),
                    ));
                }
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.into()));
        }
        Ok(Self { regex, replacement: pieces })
    }

    fn write(&self, path: &[u8], out: &mut Vec<u8>) {
        let mut copied = 0;
        for captures in self.regex.captures_iter(path) {
            let Some(whole) = captures.get(0) else { continue };
            out.extend_from_slice(path.get(copied..whole.start()).unwrap_or_default());
            for piece in &self.replacement {
                match piece {
                    Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                    Piece::Group(group) => {
                        if let Some(group) = captures.get(*group) {
                            out.extend_from_slice(group.as_bytes());
                        }
                    }
                }
            }
            copied = whole.end();
        }
        out.extend_from_slice(path.get(copied..).unwrap_or_default());
    }
}

impl PathRewrite {
    /// Appends the target to send in place of `target`. It always begins with `/`: Envoy would send what cannot be a target.
    pub(super) fn write(&self, target: &str, out: &mut Vec<u8>) {
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let start = out.len();
        match self {
            Self::Prefix { length, with } => {
                out.extend_from_slice(with.as_bytes());
                out.extend_from_slice(path.as_bytes().get(*length..).unwrap_or_default());
            }
            Self::Whole(with) => out.extend_from_slice(with.as_bytes()),
            Self::Regex(rewrite) => rewrite.write(path.as_bytes(), out),
        }
        if out.get(start) != Some(&b'/') {
            out.insert(start, b'/');
        }
        out.extend_from_slice(query.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(rewrite: &PathRewrite, target: &str) -> String {
        let mut out = Vec::new();
        rewrite.write(target, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_prefix_is_swapped_textually_and_the_query_stays() {
        for (length, with, target, want) in [
            (4, "/", "/api/x", "//x"),
            (5, "/", "/api/x", "/x"),
            (1, "/base", "/x", "/basex"),
            (4, "/v2", "/api?a=/api", "/v2?a=/api"),
            (4, "v2", "/api/x", "/v2/x"),
            (9, "/v2", "/api", "/v2"),
        ] {
            let rewrite = PathRewrite::Prefix { length, with: with.into() };
            assert_eq!(rewritten(&rewrite, target), want);
        }
        assert_eq!(rewritten(&PathRewrite::Whole("/new".into()), "/old/x?k=v"), "/new?k=v");
    }

    #[test]
    fn an_expression_replaces_all_it_finds() {
        for (expression, replacement, target, want) in [
            (r"^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo"),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("/.*", "/replaced", "/a/b?q=/1", "/replaced?q=/1"),
            ("x", "y", "/a?x", "/a?x"),
            ("/a", r"/\\\0", "/a", r"/\/a"),
        ] {
            let rewrite =
                PathRewrite::Regex(Box::new(RegexRewrite::new(expression, replacement).expect(expression)));
            assert_eq!(rewritten(&rewrite, target), want, "{expression}");
        }
    }

    #[test]
    fn a_replacement_that_names_no_group_is_refused() {
        for replacement in [r"\2", r"\x", "a\\"] {
            assert!(RegexRewrite::new("(a)", replacement).is_err(), "{replacement}");
        }
        assert!(RegexRewrite::new("(a", "").is_err());
    }
}
