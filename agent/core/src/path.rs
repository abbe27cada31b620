//! Normalising a request's path before anything looks at it (istio-semantics section 11, Envoy's `normalize_path`).
//!
//! BASE, Istio's default: fragment cut, `\` becomes `/`, escapes of unreserved characters are decoded (`%61` is `a`), dot
//! segments are resolved. `//` stays, `%2F` and `%2f` stay and differ. The query is never touched. What decides and what is sent
//! on are the same bytes, so no rule can be walked around by writing a path differently.

use std::borrow::Cow;

/// A target that is none: 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed path")]
pub struct Malformed;

/// How much is normalised. MeshConfig: `pathNormalization.normalization`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Normalization {
    /// As received, but for the fragment.
    None,
    /// See the module's text.
    #[default]
    Base,
    /// And runs of slashes become one.
    MergeSlashes,
    /// And `%2F`, `%5C` count as slashes.
    DecodeAndMergeSlashes,
}

/// Normalises a target (path and query) by [`Normalization::Base`]. A target that is normal already is not copied.
pub fn normalize(target: &str) -> Result<Cow<'_, str>, Malformed> {
    Normalization::Base.apply(target)
}

impl Normalization {
    /// Normalises a target: `*`, or one that begins with `/`. Any other is malformed, as are control characters and spaces.
    pub fn apply(self, target: &str) -> Result<Cow<'_, str>, Malformed> {
        let target = target.split_once('#').map_or(target, |(target, _)| target);
        if target == "*" {
            return Ok(Cow::Borrowed(target));
        }
        if !target.starts_with('/') || target.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(Malformed);
        }
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        if self == Self::None || self.is_normal(path) {
            return Ok(Cow::Borrowed(target));
        }
        let mut out = self.path(path)?;
        out.push_str(query);
        Ok(Cow::Owned(out))
    }

    /// A quick no: anything that could need work is looked at again.
    fn is_normal(self, path: &str) -> bool {
        let bytes = path.as_bytes();
        let merge = matches!(self, Self::MergeSlashes | Self::DecodeAndMergeSlashes);
        !bytes.iter().any(|byte| matches!(byte, b'\\' | b'%'))
            && !bytes.windows(2).any(|pair| pair == b"/." || merge && pair == b"//")
    }

    fn path(self, path: &str) -> Result<String, Malformed> {
        let decoded = self.decode(path)?;
        // Dot segments go first, then slashes merge: Envoy's order.
        let resolved = resolve(&decoded);
        Ok(match self {
            Self::MergeSlashes | Self::DecodeAndMergeSlashes => {
                let mut merged = String::with_capacity(resolved.len());
                for c in resolved.chars() {
                    if c != '/' || !merged.ends_with('/') {
                        merged.push(c);
                    }
                }
                merged
            }
            Self::None | Self::Base => resolved,
        })
    }

    fn decode(self, path: &str) -> Result<String, Malformed> {
        let mut out = String::with_capacity(path.len());
        let mut rest = path;
        while let Some(at) = rest.find(['%', '\\']) {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            if let Some(after) = from.strip_prefix('\\') {
                out.push('/');
                rest = after;
                continue;
            }
            // An escape that is none is malformed: whoever reads it next might guess otherwise.
            let digits = from
                .get(1..3)
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .ok_or(Malformed)?;
            let byte = u8::from_str_radix(digits, 16).map_err(|_| Malformed)?;
            match byte {
                0 => return Err(Malformed),
                b'/' | b'\\' if self == Self::DecodeAndMergeSlashes => out.push('/'),
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte));
                }
                _ => out.push_str(from.get(..3).unwrap_or_default()),
            }
            rest = from.get(3..).unwrap_or_default();
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// RFC 3986 section 5.2.4. `..` above the root stays at the root; an empty segment is a segment.
fn resolve(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut all = path.split('/').skip(1).peekable();
    while let Some(segment) = all.next() {
        let is_last = all.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => {
                segments.push(segment);
                continue;
            }
        }
        // A dot segment at the end leaves its slash.
        if is_last {
            segments.push("");
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_and_queries_are_not() {
        for (target, want) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/a//b", "/a//b"),
            ("//a", "//a"),
            ("/a//../b", "/a/b"),
            (r"/a\b", "/a/b"),
            (r"/a\..\b", "/b"),
            ("/%61bc", "/abc"),
            ("/%2e%2e/b", "/b"),
            ("/a/%2E/b", "/a/b"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a%2fb", "/a%2fb"),
            ("/a%20b", "/a%20b"),
            ("/a?x=/../%61", "/a?x=/../%61"),
            ("/a/..?x", "/?x"),
            ("/a#frag", "/a"),
            ("/a?q#frag", "/a?q"),
            ("/.hidden/...", "/.hidden/..."),
            ("/\u{e9}", "/\u{e9}"),
            ("*", "*"),
        ] {
            assert_eq!(normalize(target).as_deref(), Ok(want), "{target}");
        }
    }

    #[test]
    fn a_normal_path_is_not_copied() {
        assert!(matches!(normalize("/a/b?c"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for target in
            ["", "a", "?x", "#", "/a%", "/a%4", "/%zz", "/%00", "/a b", "/a\tb", "/%2", "/\u{7f}", "/%+1"]
        {
            assert_eq!(normalize(target), Err(Malformed), "{target}");
        }
    }

    #[test]
    fn stronger_normalisation_merges_slashes() {
        for (normalization, want) in [
            (Normalization::None, "//a/./%2Fb%5c/"),
            (Normalization::Base, "//a/%2Fb%5c/"),
            (Normalization::MergeSlashes, "/a/%2Fb%5c/"),
            (Normalization::DecodeAndMergeSlashes, "/a/b/"),
        ] {
            assert_eq!(normalization.apply("//a/./%2Fb%5c/").as_deref(), Ok(want), "{normalization:?}");
        }
    }

    #[test]
    fn normalising_twice_changes_nothing_more() {
        for target in ["/%252e%252e/a", "/a/%2e%2e%2fb", "/x/..//y", r"/\\a/..\b", "/%2e/%2e%2e/c?%2e"] {
            let once = normalize(target).expect(target).into_owned();
            assert_eq!(normalize(&once).as_deref(), Ok(&*once), "{target}");
        }
    }
}
