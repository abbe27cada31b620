//! Which routes of a long list can match a path, without looking at each.
//!
//! Most conditions on the path are exact texts or prefixes. Their texts, in lower case, are kept sorted; a text knows the
//! longest of the others that is a prefix of it. One binary search for a path then finds its exact text and, up the chain, all
//! of its prefixes. The routes of those texts, merged in order with the routes that no text stands for (expressions, no
//! condition on the path), are the candidates: every route that can match is among them, in the order of the list, and each is
//! tested in full. So the first candidate that matches is the first route that matches.

use std::cmp::Ordering;

use super::matching::{Condition, RouteMatch, StringCondition, Subject};
use super::table::Route;

/// Shorter lists are as fast to walk.
const MIN_ROUTES: usize = 8;
/// Longer texts are not looked up; their routes count as routes of any path. What is looked up is copied to the stack.
const MAX_TEXT: usize = 256;
/// Lists of candidates that are merged. More texts that are prefixes of one another, and the routes are walked instead.
const MAX_LISTS: usize = 12;

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) struct PathIndex {
    /// The texts, one after the other.
    texts: Box<[u8]>,
    /// In the order of their texts.
    nodes: Box<[Node]>,
    /// Positions of routes; a list is a part of it, ascending.
    positions: Box<[u16]>,
    /// Routes that may match whatever the path.
    any: List,
}

/// Part of [`PathIndex::positions`].
#[derive(Debug, Clone, Copy, Default)]
struct List {
    start: u32,
    end: u32,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Its text: a part of [`PathIndex::texts`].
    start: u32,
    end: u32,
    /// The node of the longest text that is a prefix of this one and has `prefix` routes.
    parent: Option<u32>,
    /// Routes for this text.
    exact: List,
    /// Routes for texts that begin with it.
    prefix: List,
}

/// How a route's path is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Exact,
    Prefix,
}

impl PathIndex {
    /// `None` if it would not help.
    pub(super) fn new(routes: &[Route]) -> Option<Self> {
        if routes.len() < MIN_ROUTES {
            return None;
        }
        let mut any = Vec::new();
        let mut known: Vec<(Vec<u8>, Kind, u16)> = Vec::new();
        for (position, route) in (0..=u16::MAX).zip(routes) {
            match text(&route.matches) {
                Some((kind, text)) => known.push((text.to_ascii_lowercase(), kind, position)),
                None => any.push(position),
            }
        }
        if known.len() < MIN_ROUTES {
            return None;
        }
        known.sort_unstable();
        let mut index = Builder::default();
        for same in known.chunk_by(|(a, ..), (b, ..)| a == b) {
            index.push(same);
        }
        let any = index.list(any);
        Some(Self {
            texts: index.texts.into(),
            nodes: index.nodes.into(),
            positions: index.positions.into(),
            any,
        })
    }

    /// The positions of all routes that can match, ascending; `None`: walk them all.
    pub(super) fn candidates(&self, path: &str) -> Option<Candidates<'_>> {
        let mut copy = [0; MAX_TEXT];
        let length = path.len().min(MAX_TEXT);
        let (lower, start) = (copy.get_mut(..length)?, path.as_bytes().get(..length)?);
        lower.copy_from_slice(start);
        lower.make_ascii_lowercase();

        let mut candidates = Candidates { lists: [&[]; MAX_LISTS], count: 0 };
        candidates.push(self.positions(self.any))?;
        let after = self.nodes.partition_point(|node| self.text(node).cmp(lower) != Ordering::Greater);
        let Some(nearest) = after.checked_sub(1).and_then(|at| self.nodes.get(at)) else {
            return Some(candidates);
        };
        // Every text that is a prefix of the path is one of the nearest text, too: it sorts between the two.
        let common = self.text(nearest).iter().zip(&*lower).take_while(|(a, b)| a == b).count();
        if common == path.len() && nearest.length() == common {
            candidates.push(self.positions(nearest.exact))?;
        }
        let mut next = Some(nearest);
        while let Some(node) = next {
            if node.length() <= common {
                candidates.push(self.positions(node.prefix))?;
            }
            next = node.parent.and_then(|at| self.nodes.get(at as usize));
        }
        Some(candidates)
    }

    fn text(&self, node: &Node) -> &[u8] {
        self.texts.get(node.start as usize..node.end as usize).unwrap_or_default()
    }

    fn positions(&self, list: List) -> &[u16] {
        self.positions.get(list.start as usize..list.end as usize).unwrap_or_default()
    }
}

impl Node {
    fn length(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// The text a path has to be or to begin with, if a condition of the route says so.
fn text(matches: &RouteMatch) -> Option<(Kind, &[u8])> {
    matches.conditions.iter().find_map(|Condition { subject, test, negated }| {
        if *subject != Subject::Path || *negated {
            return None;
        }
        let (kind, text) = match test {
            StringCondition::Exact(text) | StringCondition::ExactIgnoreCase(text) => (Kind::Exact, text),
            StringCondition::Prefix(text) | StringCondition::PrefixIgnoreCase(text) => (Kind::Prefix, text),
            StringCondition::Present | StringCondition::Regex { .. } => return None,
        };
        (text.len() <= MAX_TEXT).then_some((kind, text.as_bytes()))
    })
}

#[derive(Default)]
struct Builder {
    texts: Vec<u8>,
    nodes: Vec<Node>,
    positions: Vec<u16>,
    /// The nodes with `prefix` routes whose texts are prefixes of the one pushed last, shortest first.
    chain: Vec<u32>,
}

impl Builder {
    /// Adds the routes of one text, sorted by kind and position; texts come in order.
    fn push(&mut self, same: &[(Vec<u8>, Kind, u16)]) {
        let Some((text, ..)) = same.first() else { return };
        let start = self.texts.len() as u32;
        self.texts.extend(text);
        let of_kind =
            |wanted: Kind| same.iter().filter(move |(_, kind, _)| *kind == wanted).map(|&(.., at)| at);
        let (exact, prefix) = (self.list(of_kind(Kind::Exact)), self.list(of_kind(Kind::Prefix)));
        while let Some(&last) = self.chain.last()
            && !self.is_prefix(last, text)
        {
            self.chain.pop();
        }
        let node =
            Node { start, end: self.texts.len() as u32, parent: self.chain.last().copied(), exact, prefix };
        if prefix.start < prefix.end {
            self.chain.push(self.nodes.len() as u32);
        }
        self.nodes.push(node);
    }

    fn is_prefix(&self, node: u32, text: &[u8]) -> bool {
        let node = self.nodes.get(node as usize);
        let other = node.and_then(|node| self.texts.get(node.start as usize..node.end as usize));
        other.is_some_and(|other| text.starts_with(other))
    }

    fn list(&mut self, positions: impl IntoIterator<Item = u16>) -> List {
        let start = self.positions.len() as u32;
        self.positions.extend(positions);
        List { start, end: self.positions.len() as u32 }
    }
}

/// Ascending lists, merged. A route is in one of them only.
pub(super) struct Candidates<'a> {
    lists: [&'a [u16]; MAX_LISTS],
    count: usize,
}

impl<'a> Candidates<'a> {
    /// `None`: there is no room.
    fn push(&mut self, list: &'a [u16]) -> Option<()> {
        if !list.is_empty() {
            *self.lists.get_mut(self.count)? = list;
            self.count += 1;
        }
        Some(())
    }
}

impl Iterator for Candidates<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        let lists = self.lists.get_mut(..self.count)?;
        let (first, least) = lists
            .iter_mut()
            .filter_map(|list| list.first().copied().map(|first| (first, list)))
            .min_by_key(|(first, _)| *first)?;
        *least = least.get(1..).unwrap_or_default();
        Some(first)
    }
}

#[cfg(test)]
mod tests;
