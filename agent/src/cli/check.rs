//! `undermesh check`

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;
use undermesh_core::compile::compile;
use undermesh_core::coverage;
use undermesh_core::diagnostic::{Code, Diagnostic, Severity};
use undermesh_core::snapshot::Snapshot;
use undermesh_core::vocabulary;

mod against;

use super::Answer;
use super::output::Output;
use super::source::ClusterArgs;
use crate::source::Loaded;
use crate::source::files::FilesSource;

/// Compile configuration and say what is wrong with it.
///
/// Without PATH it reads the cluster. With --against-cluster it says what applying the files to the cluster would change:
/// objects, routes, and remarks that come and go; then only errors that would come make the exit code 1.
///
/// Exit code 0: no errors (there may be warnings, unless --fail-on says otherwise); 1: errors. Objects without errors apply
/// whatever is wrong with others.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  undermesh check ./mesh
  kubectl get vs,dr,gw,svc,pods,ns -A -o yaml | undermesh check -
  undermesh check ./mesh --fail-on warning        for CI
  undermesh check --config ./mesh --output json
  undermesh check --context production
  undermesh check --against-cluster ./mesh/reviews.yaml
  undermesh check --coverage")]
pub(super) struct Args {
    /// Folders and files; `-` is standard input.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The same, for symmetry with the other verbs.
    #[arg(long, value_name = "PATH")]
    config: Vec<PathBuf>,
    /// Say what applying the files to the cluster would change.
    #[arg(long, conflicts_with = "coverage")]
    against_cluster: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    /// Which remarks make the exit code 1.
    #[arg(long, value_enum, default_value = "error", value_name = "SEVERITY")]
    fail_on: FailOn,
    /// Print which fields of which kinds are enforced, refused or warned about, and nothing else: Markdown, or --output json.
    #[arg(long)]
    coverage: bool,
}

/// See [`Args::fail_on`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    Error,
    Warning,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        if self.coverage {
            let mut out = std::io::stdout().lock();
            match self.output {
                Output::Table => out.write_all(coverage::markdown().as_bytes())?,
                Output::Json | Output::Yaml => {
                    let value = json!({ "version": 1, "coverage": coverage::rows() });
                    super::output::document(&mut out, self.output, &value)?;
                }
            }
            return Ok(Answer::Yes);
        }
        let paths: Vec<PathBuf> = self.paths.into_iter().chain(self.config).collect();
        if self.against_cluster {
            let files = load(&paths)?;
            let change = against::Change::of(self.cluster.load()?, files);
            change.print(self.output)?;
            return Ok(if self.fail_on.is_well(&change.come) { Answer::Yes } else { Answer::No });
        }
        let (loaded, files) = match (paths.is_empty(), self.cluster.is_asked()) {
            (true, _) => (self.cluster.load()?, None),
            (false, false) => {
                let (loaded, files) = read(&paths)?;
                (loaded, Some(files))
            }
            (false, true) => {
                bail!("files or a cluster: with --against-cluster, the one is compared with the other")
            }
        };
        let objects = loaded.inputs.count();
        let diagnostics = remarks(loaded);
        let is_valid = !diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        let is_well = self.fail_on.is_well(&diagnostics);
        match self.output {
            Output::Table => text(&paths, files, objects, diagnostics)?,
            Output::Json | Output::Yaml => programs(self.output, &diagnostics, is_valid)?,
        }
        Ok(if is_well { Answer::Yes } else { Answer::No })
    }
}

impl FailOn {
    fn is_well(self, diagnostics: &[Diagnostic]) -> bool {
        !diagnostics.iter().any(|it| match it.severity {
            Severity::Error => true,
            Severity::Warning => self == Self::Warning,
            Severity::Info => false,
        })
    }
}

/// All that is to be said about a configuration, in the order of its files.
fn remarks(loaded: Loaded) -> Vec<Diagnostic> {
    compiled(loaded).1
}

/// What is in force by a configuration, and all that is to be said about it.
fn compiled(loaded: Loaded) -> (Snapshot, Vec<Diagnostic>) {
    let mut diagnostics = loaded.diagnostics;
    let compiled = compile(&loaded.inputs);
    diagnostics.extend(compiled.diagnostics);
    if loaded.trusts_annotations {
        diagnostics.extend(vocabulary::nowhere(&loaded.inputs));
    }
    diagnostics.sort_by(|a, b| (&a.file, a.line, a.severity).cmp(&(&b.file, b.line, b.severity)));
    (compiled.snapshot, diagnostics)
}

/// What the files (or standard input) say.
///
/// # Errors
/// No path was given, one does not exist, or standard input cannot be read.
pub(super) fn load(paths: &[PathBuf]) -> anyhow::Result<Loaded> {
    Ok(read(paths)?.0)
}

/// The same, and from how many files.
fn read(paths: &[PathBuf]) -> anyhow::Result<(Loaded, usize)> {
    anyhow::ensure!(!paths.is_empty(), "give a folder or file of configuration, or `-` for standard input");
    if paths == [PathBuf::from("-")] {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
        return Ok((crate::source::files::load_text("stdin", &text), 1));
    }
    let mut source = FilesSource::open(paths.to_vec())?;
    let loaded = source.load();
    Ok((loaded, source.files()))
}

/// For people: a line for each remark, then what they are about. Files are named so that an editor finds them from here; the
/// JSON names them from the folder, whoever asks.
fn text(
    paths: &[PathBuf],
    files: Option<usize>,
    objects: usize,
    mut diagnostics: Vec<Diagnostic>,
) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if let [root] = paths {
        for file in diagnostics.iter_mut().filter_map(|it| it.file.as_mut()) {
            *file = from_here(root, file);
        }
    }
    for diagnostic in &diagnostics {
        writeln!(out, "{diagnostic}")?;
    }
    if files == Some(0) {
        writeln!(out, "nothing to read: no file ends in .yaml, .yml or .json")?;
    }
    let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let many = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let files = files.map_or_else(String::new, |files| format!("{}, ", many(files, "file")));
    writeln!(
        out,
        "{files}{} in force: {}, {}, {}",
        many(objects, "object"),
        many(count(Severity::Error), "error"),
        many(count(Severity::Warning), "warning"),
        many(count(Severity::Info), "remark"),
    )?;
    out.flush()?;
    Ok(())
}

/// The path of a file that the only root names from itself.
fn from_here(root: &Path, file: &str) -> String {
    let path =
        if root.is_dir() && !Path::new(file).is_absolute() { root.join(file) } else { root.to_owned() };
    if root == Path::new("-") { file.to_owned() } else { path.display().to_string() }
}

fn programs(output: Output, diagnostics: &[Diagnostic], is_valid: bool) -> anyhow::Result<()> {
    // What Istio's admission would say by itself: what we refuse is not among it.
    let is_admitted =
        !diagnostics.iter().any(|diagnostic| diagnostic.is_error() && diagnostic.code != Code::Refused);
    let value = json!({
        "version": 1, "valid": is_valid, "admitted": is_admitted, "diagnostics": diagnostics
    });
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    super::output::document(&mut out, output, &value)?;
    out.flush()?;
    Ok(())
}
