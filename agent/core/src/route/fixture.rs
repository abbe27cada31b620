//! A request head for tests.

use crate::view::{HttpVersion, RequestView};

#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) version: HttpVersion,
    pub(crate) method: String,
    pub(crate) scheme: String,
    pub(crate) authority: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn get(target: &str) -> Self {
        Self {
            version: HttpVersion::Http1,
            method: "GET".into(),
            scheme: "http".into(),
            authority: "catalog".into(),
            target: target.into(),
            headers: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, name: &str, lines: &[&str]) -> Self {
        self.headers.extend(lines.iter().map(|line| (name.to_owned(), (*line).to_owned())));
        self
    }

    pub(crate) fn to(self, authority: &str) -> Self {
        Self { authority: authority.into(), ..self }
    }
}

impl RequestView for Head {
    fn version(&self) -> HttpVersion {
        self.version
    }
    fn method(&self) -> &str {
        &self.method
    }
    fn scheme(&self) -> &str {
        &self.scheme
    }
    fn authority(&self) -> &str {
        &self.authority
    }
    fn target(&self) -> &str {
        &self.target
    }
    fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(known, _)| known == name).map(|(_, line)| line.as_bytes())
    }
}
