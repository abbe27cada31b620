//! The changes that a decision makes to a head, resolved: what a codec applies in its one rewrite pass.
//!
//! A codec copies the lines of the head it received but for those that [`Edits::drops`] names, then appends
//! [`Edits::lines`]. The order of Istio's operations (set, add, remove; route and destination level) is settled by whoever
//! fills the list: each call here acts on what the earlier ones left. One `Edits` lives per connection and is cleared
//! between uses, so a request that changes nothing, or as much as an earlier one, allocates nothing.

/// Changes to one head. See the module's text for the contract with codecs.
#[derive(Debug, Default, Clone)]
pub struct Edits {
    /// Every text below, one after the other.
    text: Vec<u8>,
    target: Option<Span>,
    authority: Option<Span>,
    dropped: Vec<Span>,
    lines: Vec<Line>,
    /// See [`Edits::take_scratch`].
    scratch: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    name: Span,
    value: Span,
}

impl Edits {
    /// Forgets all changes, keeps the memory.
    pub fn clear(&mut self) {
        self.text.clear();
        self.target = None;
        self.authority = None;
        self.dropped.clear();
        self.lines.clear();
    }

    /// Whether the head goes on as it came.
    pub fn is_empty(&self) -> bool {
        self.target.is_none() && self.authority.is_none() && self.dropped.is_empty() && self.lines.is_empty()
    }

    /// The target (path and query) to send in place of the received one.
    pub fn target(&self) -> Option<&str> {
        self.target.map(|span| self.str(span))
    }

    /// The authority (`Host`) to send in place of the received one.
    pub fn authority(&self) -> Option<&str> {
        self.authority.map(|span| self.str(span))
    }

    /// Whether the received lines of the header `name` (any case) are left out.
    pub fn drops(&self, name: &[u8]) -> bool {
        self.dropped.iter().any(|&span| self.bytes(span).eq_ignore_ascii_case(name))
    }

    /// The header names whose received lines are left out, lower case.
    pub fn dropped(&self) -> impl Iterator<Item = &str> {
        self.dropped.iter().map(|&span| self.str(span))
    }

    /// The lines to append, in order. Names are lower case.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines.iter().map(|line| (self.str(line.name), self.bytes(line.value)))
    }

    /// Sends `target` (path and query) in place of the received one.
    pub fn set_target(&mut self, target: &str) {
        self.target = Some(self.push(target.as_bytes()));
    }

    /// Sends `authority` in place of the received one. Must be a valid `Host` value; Istio's validation sees to it.
    pub fn set_authority(&mut self, authority: &str) {
        self.authority = Some(self.push(authority.as_bytes()));
    }

    /// Overwrites the header: no received line of it, nor one added here before, survives. Control characters in `value`
    /// (they could only come from `%REQ(x)%`) become spaces, so no value can start a line of its own.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.add(name, value);
    }

    /// Adds a line after the received ones. Control characters in `value` become spaces.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        let name = self.push_name(name);
        let value = self.push(value);
        for byte in &mut self.text[value.start as usize..value.end as usize] {
            if *byte < b' ' && *byte != b'\t' || *byte == 0x7f {
                *byte = b' ';
            }
        }
        self.lines.push(Line { name, value });
    }

    /// Lends memory for composing a value that reads these edits; empty. Given back, it is used again.
    pub fn take_scratch(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.scratch)
    }

    /// Takes back what [`Edits::take_scratch`] lent.
    pub fn give_scratch(&mut self, mut scratch: Vec<u8>) {
        scratch.clear();
        self.scratch = scratch;
    }

    /// Leaves out the received lines of the header, and takes back those added here before.
    pub fn remove(&mut self, name: &str) {
        let text = &self.text;
        self.lines.retain(|line| {
            !text[line.name.start as usize..line.name.end as usize].eq_ignore_ascii_case(name.as_bytes())
        });
        if !self.drops(name.as_bytes()) {
            let span = self.push_name(name);
            self.dropped.push(span);
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Span {
        // Heads and configured values are limited to far less than 4 GiB.
        let start = self.text.len() as u32;
        self.text.extend_from_slice(bytes);
        Span { start, end: self.text.len() as u32 }
    }

    fn push_name(&mut self, name: &str) -> Span {
        let span = self.push(name.as_bytes());
        self.text[span.start as usize..span.end as usize].make_ascii_lowercase();
        span
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.text[span.start as usize..span.end as usize]
    }

    fn str(&self, span: Span) -> &str {
        // Only names, targets and authorities get here, and they came in as `&str`.
        std::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(edits: &Edits) -> Vec<(String, String)> {
        edits
            .lines()
            .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()))
            .collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_fresh_list_changes_nothing() {
        let edits = Edits::default();
        assert!(edits.is_empty());
        assert!(!edits.drops(b"host"));
    }

    #[test]
    fn set_drops_the_received_lines_and_add_does_not() {
        let mut edits = Edits::default();
        edits.set("X-Env", b"a");
        edits.add("x-tag", b"b");
        assert!(edits.drops(b"x-ENV"));
        assert!(!edits.drops(b"x-tag"));
        assert_eq!(lines(&edits), owned(&[("x-env", "a"), ("x-tag", "b")]));
    }

    #[test]
    fn a_later_set_wins_over_an_earlier_add_and_a_later_remove_over_both() {
        let mut edits = Edits::default();
        edits.add("x-a", b"1");
        edits.set("x-a", b"2");
        assert_eq!(lines(&edits), owned(&[("x-a", "2")]));
        edits.remove("x-a");
        assert!(edits.drops(b"x-a"));
        assert_eq!(lines(&edits), owned(&[]));
    }

    #[test]
    fn a_value_cannot_start_a_line_of_its_own() {
        let mut edits = Edits::default();
        edits.add("x-a", b"1\r\nhost: evil");
        assert_eq!(lines(&edits), owned(&[("x-a", "1  host: evil")]));
    }

    #[test]
    fn clear_forgets_everything() {
        let mut edits = Edits::default();
        edits.set_target("/x");
        edits.set_authority("a");
        edits.set("x-a", b"1");
        assert_eq!((edits.target(), edits.authority()), (Some("/x"), Some("a")));
        edits.clear();
        assert!(edits.is_empty());
    }
}
