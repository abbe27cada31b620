//! `docs/kubernetes.md`, read: its commands in their order, and what they are to say.
//!
//! The first words of a block's fence say whose it is: `sh run` is run as it is written, `sh run eventually` again until it
//! succeeds (a reader is slower than a script), `sh k3s` and `sh build` are done by the harness in another way. What must (or
//! must not) be in a line of the output stands below the block, as comments that a reader of the page does not see:
//! `<!-- says: PATTERN -->` and `<!-- never says: PATTERN -->`, extended regular expressions.

use anyhow::{Context as _, bail, ensure};

/// The page, in the repository.
pub(crate) const PATH: &str = "docs/kubernetes.md";

/// A part of the page under a heading of its own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) blocks: Vec<Block>,
}

/// Commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) whose: Whose,
    pub(crate) text: String,
    pub(crate) says: Vec<String>,
    pub(crate) never_says: Vec<String>,
}

/// Who runs a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The test, as it is written.
    Run,
    /// The test, until it succeeds.
    Eventually,
    /// The harness, whose cluster stands for k3s.
    K3s,
    /// The harness, which has built already.
    Build,
}

impl Whose {
    fn parse(words: &str) -> anyhow::Result<Self> {
        Ok(match words {
            "sh run" => Self::Run,
            "sh run eventually" => Self::Eventually,
            "sh k3s" => Self::K3s,
            "sh build" => Self::Build,
            _ => bail!(
                "a block is marked `{words}`: who runs it? (sh run, sh run eventually, sh k3s, sh build)"
            ),
        })
    }

    /// Whether it is run as it is written.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Run | Self::Eventually)
    }
}

/// The sections that have commands.
///
/// # Errors
/// A block that nobody runs, or an expectation of nothing; the message names the line.
pub(crate) fn parse(page: &str) -> anyhow::Result<Vec<Section>> {
    let mut sections = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let at = || format!("line {}", number + 1);
        if let Some(title) = line.strip_prefix("## ") {
            sections.push(Section { title: title.to_owned(), blocks: Vec::new() });
        } else if let Some(words) = line.strip_prefix("```") {
            let whose = Whose::parse(words).with_context(at)?;
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let text: String = inside.flat_map(|line| [line, "\n"]).collect();
            let section =
                sections.last_mut().with_context(at).context("commands before the first heading")?;
            section.blocks.push(Block { whose, text, says: Vec::new(), never_says: Vec::new() });
        } else if let Some(comment) = line.strip_prefix("<!-- ") {
            let comment = comment.strip_suffix(" -->").with_context(at)?;
            let block = sections.last_mut().and_then(|section| section.blocks.last_mut());
            let block = block.filter(|block| block.whose.is_ours()).with_context(at);
            let block = block.context("an expectation of no block that is run")?;
            match comment.split_once(": ") {
                Some(("says", pattern)) => block.says.push(pattern.to_owned()),
                Some(("never says", pattern)) => block.never_says.push(pattern.to_owned()),
                _ => bail!("line {}: neither `says: ` nor `never says: `", number + 1),
            }
        }
    }
    sections.retain(|section| !section.blocks.is_empty());
    ensure!(!sections.is_empty(), "there are no commands in it");
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_of_the_page_has_somebody_who_runs_it_and_that_is_mostly_the_test() {
        let page = std::fs::read_to_string(crate::cargo::root().join(PATH)).expect("the page");
        let sections = parse(&page).expect("every block is marked");
        let blocks: Vec<_> = sections.iter().flat_map(|section| &section.blocks).collect();
        let (ours, others): (Vec<&Block>, Vec<&Block>) =
            blocks.into_iter().partition(|block| block.whose.is_ours());
        assert!(ours.len() > 20 && others.len() <= 4, "{} run, {} not", ours.len(), others.len());
        // What the harness does in another way is k3s's or a build, and nothing else hides there.
        for line in others.iter().flat_map(|block| block.text.lines()) {
            assert!(line.contains("k3s") || line.starts_with("cargo xtask image"), "{line}");
        }
        for tool in
            ["helm install", "helm uninstall", "kubectl undermesh doctor", "kubectl undermesh explain"]
        {
            assert!(ours.iter().any(|block| block.text.contains(tool)), "{tool} is not run");
        }
    }

    #[test]
    fn a_page_is_read_with_what_it_expects() {
        let page = "# Title\ntext\n## One\n```sh run\na\nb\n```\n<!-- says: x: y -->\n<!-- never says: z -->\n## Text\n## Two\n```sh k3s\nc\n```\n";
        let sections = parse(page).expect("it is well formed");
        assert_eq!(sections.len(), 2);
        let want = Block {
            whose: Whose::Run,
            text: "a\nb\n".into(),
            says: vec!["x: y".into()],
            never_says: vec!["z".into()],
        };
        assert_eq!(sections[0], Section { title: "One".into(), blocks: vec![want] });
        assert!(!sections[1].blocks[0].whose.is_ours());
    }

    #[test]
    fn what_nobody_runs_or_expects_of_nobody_is_refused_by_its_line() {
        for (page, want) in [
            ("## A\n```sh\na\n```\n", "line 2"),
            ("## A\n```\na\n```\n", "who runs it"),
            ("## A\n```console\na\n```\n", "who runs it"),
            ("```sh run\na\n```\n", "before the first heading"),
            ("## A\n```sh k3s\na\n```\n<!-- says: a -->\n", "no block that is run"),
            ("## A\n```sh run\na\n```\n<!-- say: a -->\n", "line 5"),
            ("## A\ntext\n", "no commands"),
        ] {
            let error = format!("{:#}", parse(page).expect_err(page));
            assert!(error.contains(want), "{page:?}: {error}");
        }
    }
}
