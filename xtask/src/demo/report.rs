//! What people read: progress while it works, then each finding with what was asked beside what was seen.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::Instant;

/// One line of progress, with the time since the first.
pub(crate) fn progress(what: &str) {
    undermesh_tests::stop_if_interrupted();
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    println!("[{:5.1} s] {what}", BEGAN.get_or_init(Instant::now).elapsed().as_secs_f64());
}

/// One thing that was tried.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    title: String,
    asked: String,
    seen: String,
    /// More to read, as it was printed elsewhere.
    detail: Option<String>,
    holds: bool,
}

impl Finding {
    /// About this.
    pub(crate) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            asked: String::new(),
            seen: String::new(),
            detail: None,
            holds: false,
        }
    }

    /// What the YAML (or the mesh's promise) asks.
    pub(crate) fn asked(mut self, asked: impl Into<String>) -> Self {
        self.asked = asked.into();
        self
    }

    /// What was seen.
    pub(crate) fn seen(mut self, seen: impl Into<String>) -> Self {
        self.seen = seen.into();
        self
    }

    /// And this below it.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Whether the two agree. A finding that is never told does not.
    pub(crate) fn holds(mut self, holds: bool) -> Self {
        self.holds = holds;
        self
    }

    /// Whether what was seen is what was asked.
    pub(crate) fn is_as_asked(&self) -> bool {
        self.holds
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mark = if self.holds { "✓" } else { "✗" };
        let mut out =
            format!("\n {mark} {}\n     asked  {}\n     seen   {}\n", self.title, self.asked, self.seen);
        for line in self.detail.iter().flat_map(|d| d.trim_end().lines()) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "            {line}");
        }
        out
    }
}

/// All findings, in the order of the story.
#[derive(Debug, Default)]
pub(crate) struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Adds what came of one check. One that could not be made is a finding, too: the others still count.
    pub(crate) fn add(&mut self, title: &str, outcome: anyhow::Result<Finding>) {
        let failed = |e: anyhow::Error| Finding::new(title).asked("an answer").seen(format!("{e:#}"));
        self.findings.push(outcome.unwrap_or_else(failed));
    }

    /// How many differ.
    pub(crate) fn differences(&self) -> usize {
        self.findings.iter().filter(|f| !f.is_as_asked()).count()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        self.findings
            .iter()
            .fold("\nWhat the YAML asks, and what was seen\n".to_owned(), |all, f| all + &f.text())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_finding_holds_only_when_told_so() {
        assert!(!Finding::new("x").asked("a").seen("a").is_as_asked());
        assert!(Finding::new("x").holds(true).is_as_asked());
    }

    #[test]
    fn a_check_that_could_not_be_made_counts_as_a_difference() {
        let mut report = Report::default();
        report.add("one", Ok(Finding::new("one").holds(true)));
        report.add("two", Err(anyhow!("no route to host")));
        assert_eq!(report.differences(), 1);
        assert!(report.text().contains("no route to host"));
    }
}
