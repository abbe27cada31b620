//! "Did you mean": the known word nearest to an unknown one.

/// The candidate nearest to `word`, if it is near enough to be what was meant: at most a third of the letters differ.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|&(distance, candidate)| distance <= (candidate.len().max(word.len()) / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap neighbours) from one to the other.
fn distance(a: &str, b: &str) -> usize {
    // Words are field names; what is longer is no typo of one, and must not cost quadratic time.
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &from) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, &to) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(from != to)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from == b[j - 1] && a[i - 1] == to {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_are_recognised_and_other_words_are_not() {
        let fields = ["timeout", "route", "redirect", "rewrite", "retries", "match", "mirrorPercentage"];
        for (word, want) in [
            ("timeoutt", Some("timeout")),
            ("tiemout", Some("timeout")),
            ("Route", Some("route")),
            ("routes", Some("route")),
            ("mirrorpercentage", Some("mirrorPercentage")),
            ("retry", None),
            ("banana", None),
            ("", None),
            ("\u{fc}\u{fc}", None),
        ] {
            assert_eq!(nearest(word, fields), want, "{word}");
        }
    }

    #[test]
    fn a_huge_word_is_no_typo() {
        assert_eq!(nearest(&"x".repeat(1 << 20), ["timeout"]), None);
    }
}
