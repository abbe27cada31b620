//! How verbs print: tables for people, JSON and YAML for programs. The rows are the admin server's JSON, so that all three
//! say the same.

use std::io::Write;

use clap::ValueEnum;
use serde_json::Value;
use undermesh_core::diagnostic::printable;

/// `--output`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// A column of a table: heading, and the key of the row's value.
pub(super) type Column = (&'static str, &'static str);

/// Prints an array of objects.
///
/// # Errors
/// Writing failed.
pub(super) fn rows(
    out: &mut impl Write,
    output: Output,
    value: &Value,
    columns: &[Column],
) -> std::io::Result<()> {
    match output {
        Output::Table => table(out, value, columns),
        Output::Json | Output::Yaml => document(out, output, value),
    }
}

/// Prints a whole document; `Table` is taken for YAML, which people read well enough.
///
/// # Errors
/// Writing failed.
pub(super) fn document(out: &mut impl Write, output: Output, value: &Value) -> std::io::Result<()> {
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, value)?;
            writeln!(out)
        }
        Output::Table | Output::Yaml => yaml(out, value, 0, true),
    }
}

fn table(out: &mut impl Write, value: &Value, columns: &[Column]) -> std::io::Result<()> {
    let empty = Vec::new();
    let rows: Vec<Vec<String>> = value
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(|row| columns.iter().map(|(_, key)| cell(row.pointer(&format!("/{key}")))).collect())
        .collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, (heading, _))| {
            rows.iter().map(|row| row[index].chars().count()).chain([heading.len()]).max().unwrap_or_default()
        })
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(&mut columns.iter().map(|(heading, _)| *heading))?;
    for row in &rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => printable(text).into_owned(),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(","),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(key, value)| format!("{}={}", printable(key), cell(Some(value))))
            .collect::<Vec<_>>()
            .join(","),
        Some(other) => other.to_string(),
    }
}

/// Block style; every string is quoted as JSON quotes it, which is valid YAML and never mistaken for another type.
fn yaml(out: &mut impl Write, value: &Value, indent: usize, fresh_line: bool) -> std::io::Result<()> {
    let pad = "  ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                let pad = if index == 0 && !fresh_line { "" } else { &pad };
                let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte));
                let key = if plain { key.clone() } else { Value::from(key.as_str()).to_string() };
                write!(out, "{pad}{key}:")?;
                if is_block(value) {
                    writeln!(out)?;
                    yaml(out, value, indent + 1, true)?;
                } else {
                    writeln!(out, " {value}")?;
                }
            }
            Ok(())
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                let pad = if index == 0 && !fresh_line { "" } else { &pad };
                write!(out, "{pad}- ")?;
                if is_block(item) {
                    yaml(out, item, indent + 1, false)?;
                } else {
                    writeln!(out, "{item}")?;
                }
            }
            Ok(())
        }
        other => writeln!(out, "{pad}{other}"),
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(print: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_nothing_is_a_dash() {
        let rows_ =
            json!([{"name": "reviews", "ports": [9080, 80]}, {"name": "a", "ports": []}, {"ports": null}]);
        assert_eq!(
            text(|out| rows(out, Output::Table, &rows_, &[("NAME", "name"), ("PORTS", "ports")])),
            "NAME     PORTS\nreviews  9080,80\na        -\n-        -\n"
        );
    }

    #[test]
    fn yaml_is_block_style_with_quoted_strings() {
        let value = json!({"a": [{"b": "on", "c": {"d": 1}}, [1, 2], {}], "e f": null});
        assert_eq!(
            text(|out| document(out, Output::Yaml, &value)),
            "a:\n  - b: \"on\"\n    c:\n      d: 1\n  - - 1\n    - 2\n  - {}\n\"e f\": null\n"
        );
    }

    #[test]
    fn json_is_what_the_server_said() {
        let value = json!([{"a": 1}]);
        assert_eq!(
            text(|out| rows(out, Output::Json, &value, &[("A", "a")])),
            "[\n  {\n    \"a\": 1\n  }\n]\n"
        );
    }
}
