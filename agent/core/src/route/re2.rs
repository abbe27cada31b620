//! RE2, which Istio's and Envoy's expressions are written in, on the `regex` crate.
//!
//! Both are linear-time automata with nearly one syntax. Where they differ the text is translated, so that an expression means
//! here what it means in Envoy: Perl classes are ASCII, a `{` that starts no repetition is a character, `\Q..\E` quotes, and
//! inside brackets `[`, `&&`, `--` and `~~` are characters. What neither knows (look-around, back-references) is refused.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use regex::bytes::{Regex, RegexBuilder};

/// Istio's admission limit, in characters.
const MAX_LENGTH: usize = 1024;
/// The largest automaton, bytes; it takes about 20 ms to make. Envoy has a limit too (`re2.max_program_size`).
const MAX_SIZE: usize = 1 << 20;

/// An expression that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// Longer than Istio admits.
    #[error("the expression has more than 1024 characters")]
    TooLong,
    /// Not RE2, or too large when compiled.
    #[error("not an RE2 expression: {0}")]
    Invalid(String),
}

/// Compiles for a full match: the whole text has to match.
pub(crate) fn full(expression: &str) -> Result<Arc<Regex>, RegexError> {
    build(expression, |translated| format!(r"\A(?:{translated})\z"))
}

/// Compiles for finding matches within a text.
pub(crate) fn partial(expression: &str) -> Result<Arc<Regex>, RegexError> {
    build(expression, |translated| translated)
}

/// What is in use, by its translated text. An automaton takes milliseconds to make, and every change of anything makes all
/// of a mesh's routes anew: without this, an object with some thousand expressions would hold up everybody's changes for as
/// many milliseconds, each time. It keeps nothing alive: what no snapshot uses any more goes.
static IN_USE: LazyLock<Mutex<HashMap<String, Weak<Regex>>>> = LazyLock::new(Mutex::default);

fn build(expression: &str, anchor: impl Fn(String) -> String) -> Result<Arc<Regex>, RegexError> {
    if expression.chars().count() > MAX_LENGTH {
        return Err(RegexError::TooLong);
    }
    let Some(translated) = translate(expression) else {
        return Err(RegexError::Invalid("unopened group".to_owned()));
    };
    let text = anchor(translated);
    let known = IN_USE.lock().unwrap_or_else(PoisonError::into_inner).get(&text).and_then(Weak::upgrade);
    if let Some(known) = known {
        return Ok(known);
    }
    let built = RegexBuilder::new(&text).size_limit(MAX_SIZE).build();
    let regex = Arc::new(built.map_err(|error| RegexError::Invalid(reason(&error)))?);
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    if in_use.len() == in_use.capacity() {
        in_use.retain(|_, regex| regex.strong_count() > 0);
    }
    in_use.insert(text, Arc::downgrade(&regex));
    Ok(regex)
}

/// The crate's message ends in one line that says what is wrong; what comes before points into the translated text.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().next_back().unwrap_or(&text);
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// `None` if a `)` closes what the expression has not opened: `a)(b` must not become valid by the parentheses around it.
fn translate(expression: &str) -> Option<String> {
    let mut open = 0u32;
    let mut out = String::with_capacity(expression.len() + 8);
    let mut rest = expression;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '\\' => escape(after, in_class, &mut out),
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                // A `]` right after the opening is a member.
                let (negation, after) = match after.strip_prefix('^') {
                    Some(after) => ("^", after),
                    None => ("", after),
                };
                out.push_str(negation);
                match after.strip_prefix(']') {
                    Some(after) => {
                        out.push_str(r"\]");
                        after
                    }
                    None => after,
                }
            }
            '[' => match posix_class(rest) {
                Some((class, after)) => {
                    out.push_str(class);
                    after
                }
                None => {
                    out.push_str(r"\[");
                    after
                }
            },
            ']' if in_class => {
                in_class = false;
                out.push(']');
                after
            }
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(c);
                after
            }
            // To the crate `--` is a difference; here it is a `-` that a range starts with, or one that it ends with.
            '-' if in_class && after.starts_with('-') => {
                if out.ends_with('[') || out.ends_with("[^") {
                    out.push_str(r"\-");
                    after
                } else {
                    out.push_str(r"-\-");
                    after.strip_prefix('-').unwrap_or(after)
                }
            }
            '{' if !in_class && !is_repetition(after) => {
                out.push_str(r"\{");
                after
            }
            _ => {
                match c {
                    '(' if !in_class => open += 1,
                    ')' if !in_class => open = open.checked_sub(1)?,
                    _ => {}
                }
                out.push(c);
                after
            }
        };
    }
    Some(out)
}

/// `[:alpha:]` within a class: same in both.
fn posix_class(text: &str) -> Option<(&str, &str)> {
    let end = text.strip_prefix("[:")?.find(":]")? + 4;
    let name = text.get(2..end - 2)?;
    let name = name.strip_prefix('^').unwrap_or(name);
    name.bytes().all(|byte| byte.is_ascii_lowercase()).then(|| text.split_at(end))
}

/// Whether what follows a `{` makes it a repetition: `3}`, `3,}`, `3,5}`.
fn is_repetition(after: &str) -> bool {
    let Some((range, _)) = after.split_once('}') else { return false };
    let (low, high) = range.split_once(',').unwrap_or((range, "0"));
    !low.is_empty()
        && low.bytes().all(|byte| byte.is_ascii_digit())
        && high.bytes().all(|byte| byte.is_ascii_digit())
}

/// Writes what a backslash and the text after it stand for; gives back the text after that.
fn escape<'a>(after: &'a str, in_class: bool, out: &mut String) -> &'a str {
    let Some(c) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    let rest = &after[c.len_utf8()..];
    let class = match c {
        'd' => Some(("0-9", false)),
        'D' => Some(("0-9", true)),
        'w' => Some(("0-9A-Za-z_", false)),
        'W' => Some(("0-9A-Za-z_", true)),
        's' => Some((r"\t\n\f\r ", false)),
        'S' => Some((r"\t\n\f\r ", true)),
        _ => None,
    };
    match (c, class) {
        (_, Some((members, false))) if in_class => out.push_str(members),
        (_, Some((members, true))) => out.extend(["[^", members, "]"]),
        (_, Some((members, false))) => out.extend(["[", members, "]"]),
        ('b', _) if !in_class => out.push_str(r"(?-u:\b)"),
        ('Q', _) if !in_class => {
            let (quoted, rest) = rest.split_once(r"\E").unwrap_or((rest, ""));
            out.push_str(&regex::escape(quoted));
            return rest;
        }
        _ => {
            out.push('\\');
            out.push(c);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_they_mean_in_re2() {
        for (expression, text, want) in [
            ("/a/.*", "/a/b", true),
            ("/a", "/a/b", false),
            ("a|b", "b", true),
            ("a|b", "bb", false),
            ("(?i)abc", "ABC", true),
            (r"\d+", "12", true),
            (r"\d+", "\u{0663}", false),
            (r"[\d]+", "12", true),
            (r"[^\d]", "1", false),
            (r"[\D]", "x", true),
            (r"\w\s\w", "a b", true),
            ("/x/{id}", "/x/{id}", true),
            ("a{2}", "aa", true),
            ("a{2,}", "aaa", true),
            ("a{2,3}", "aaaa", false),
            ("a{,3}", "a{,3}", true),
            ("[[]", "[", true),
            ("[]a]", "]", true),
            ("[^]a]", "b", true),
            ("[)]", ")", true),
            ("[[:alpha:])]", ")", true),
            (r"\)\Q)(\E[(]", "))((", true),
            ("[a&&b]", "&", true),
            ("[[:alpha:]]+", "ab", true),
            ("[+--]", ",", true),
            ("[--/]", ".", true),
            ("[a-]", "-", true),
            (r"\Qa.b\E.", "a.bc", true),
            (r"\Qa.b\E.", "axbc", false),
            (r"Bearer [^.]+?\.x", "Bearer abc.x", true),
            ("", "", true),
            ("", "a", false),
            (".*", "", true),
            (r"[\w.-]+", "a-b.c", true),
        ] {
            let regex = full(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
            assert_eq!(regex.is_match(text.as_bytes()), want, "{expression} on {text}");
        }
    }

    #[test]
    fn what_is_not_re2_is_refused_with_a_reason() {
        for expression in
            ["*", "a)(b", ")(", "(a)b)(?:c", "[(])(", "(a", r"(a)\1", "(?=a)", "(?!a)", "[a", r"a\"]
        {
            assert!(
                matches!(full(expression), Err(RegexError::Invalid(why)) if !why.is_empty()),
                "{expression}"
            );
        }
        assert_eq!(full(&"a".repeat(1025)).err(), Some(RegexError::TooLong));
        assert!(full(&"a".repeat(1024)).is_ok());
    }

    #[test]
    fn what_is_in_use_is_made_once_and_nothing_is_kept_for_longer() {
        let first = full("/once/[a-z]+").expect("valid");
        assert!(Arc::ptr_eq(&first, &full("/once/[a-z]+").expect("valid")));
        assert!(!Arc::ptr_eq(&first, &partial("/once/[a-z]+").expect("valid")), "another meaning");
        let weak = Arc::downgrade(&first);
        drop(first);
        assert_eq!(weak.strong_count(), 0);
        assert!(full("/once/[a-z]+").expect("made anew").is_match(b"/once/x"));
    }

    #[test]
    fn an_automaton_has_a_largest_size() {
        assert!(full("[^/]{1,900}").is_ok());
        assert!(matches!(full("((a{0,100}){0,100}){0,100}"), Err(RegexError::Invalid(_))));
        assert!(matches!(full(r"(\pL{1,99}){1,99}"), Err(RegexError::Invalid(_))));
    }
}
