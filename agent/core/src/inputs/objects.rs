//! The objects of one kind, in order of their keys: a map that is copied by reference and compared by what was touched.
//!
//! A mesh has hundreds of thousands of objects, and one of them changes at a time. Here a copy of all costs nothing, a change
//! copies one chunk of the list of chunks, and two versions are compared chunk by chunk: what they share is not looked at. So
//! a source may hand out all of its objects after each change, and who gets them can find out at little cost what it was.

use std::fmt;
use std::sync::Arc;

use crate::api::meta::{Key, Resource};

/// A chunk with more entries becomes two.
const CHUNK: usize = 64;

/// See the module's text.
pub struct Objects<T> {
    /// None of them is empty.
    chunks: Arc<Vec<Arc<Chunk<T>>>>,
    len: usize,
}

/// In order of their keys.
type Chunk<T> = Vec<(Key, Arc<Resource<T>>)>;

/// One object in two versions of the objects of its kind; never absent in both, never the same in both.
#[derive(Debug)]
pub struct Change<'a, T> {
    /// Which object.
    pub key: &'a Key,
    /// `None`: it is new.
    pub before: Option<&'a Arc<Resource<T>>>,
    /// `None`: it is gone.
    pub after: Option<&'a Arc<Resource<T>>>,
}

impl<T> Objects<T> {
    /// None.
    pub fn new() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The object of a key.
    pub fn get(&self, key: &Key) -> Option<&Arc<Resource<T>>> {
        let (chunk, at) = self.find(key);
        Some(&self.chunks.get(chunk)?.get(at.ok()?)?.1)
    }

    /// Whether there is an object of this key.
    pub fn contains_key(&self, key: &Key) -> bool {
        self.find(key).1.is_ok()
    }

    /// How many objects come before `key`, if it is there.
    pub fn position(&self, key: &Key) -> Option<usize> {
        let (chunk, at) = self.find(key);
        let before: usize = self.chunks.get(..chunk)?.iter().map(|chunk| chunk.len()).sum();
        Some(before + at.ok()?)
    }

    /// Adds an object; gives back the one it takes the place of.
    pub fn insert(&mut self, key: Key, object: Arc<Resource<T>>) -> Option<Arc<Resource<T>>> {
        let (chunk_at, at) = self.find(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let is_last = chunk_at + 1 >= chunks.len();
        let Some(chunk) = chunks.get_mut(chunk_at).map(Arc::make_mut) else {
            chunks.push(Arc::new(vec![(key, object)]));
            self.len += 1;
            return None;
        };
        let at = match at {
            Ok(at) => return chunk.get_mut(at).map(|(_, there)| std::mem::replace(there, object)),
            Err(at) => at,
        };
        // What comes in order fills its chunks.
        let is_append = is_last && at == chunk.len();
        chunk.insert(at, (key, object));
        self.len += 1;
        if chunk.len() > CHUNK {
            let second = chunk.split_off(if is_append { CHUNK } else { CHUNK / 2 });
            chunks.insert(chunk_at + 1, Arc::new(second));
        }
        None
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Resource<T>>> {
        let (chunk_at, at) = self.find(key);
        let at = at.ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(chunks.get_mut(chunk_at)?);
        let (_, object) = chunk.remove(at);
        self.len -= 1;
        let left = chunk.len();
        let next = chunks.get(chunk_at + 1).map_or(CHUNK, |next| next.len());
        if left == 0 {
            chunks.remove(chunk_at);
        } else if left + next <= CHUNK / 2 {
            // Small neighbours become one, so that removals do not leave a long list of nearly nothing.
            let next = chunks.remove(chunk_at + 1);
            if let Some(chunk) = chunks.get_mut(chunk_at) {
                Arc::make_mut(chunk).extend(next.iter().cloned());
            }
        }
        Some(object)
    }

    /// All, in order of their keys.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter(Cursor::of(self))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.iter().map(|(key, _)| key)
    }

    /// The objects, in order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Resource<T>>> {
        self.iter().map(|(_, object)| object)
    }

    /// Those of one namespace, in order of their names.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&Key, &Arc<Resource<T>>)> {
        let comes_before = |key: &Key| *key.namespace < *namespace;
        let chunk_at =
            self.chunks.partition_point(|chunk| chunk.last().is_some_and(|(key, _)| comes_before(key)));
        let chunks = self.chunks.get(chunk_at..).unwrap_or_default();
        let first = chunks.first().map_or(0, |chunk| chunk.partition_point(|(key, _)| comes_before(key)));
        let entries = chunks.iter().flat_map(|chunk| chunk.iter()).skip(first);
        entries.take_while(move |(key, _)| *key.namespace == *namespace).map(|(key, object)| (key, object))
    }

    /// Whether both are copies of one another, known without looking at the objects.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }

    /// What is different in `after`, in order of the keys. An object counts as the same only if it is the same allocation.
    pub fn changes<'a>(&'a self, after: &'a Self) -> Vec<Change<'a, T>> {
        let mut changes = Vec::new();
        if self.is_same(after) {
            return changes;
        }
        let (mut old, mut new) = (Cursor::of(self), Cursor::of(after));
        loop {
            if old.skips_shared(&new) {
                old.chunk += 1;
                new.chunk += 1;
                continue;
            }
            let (was, is) = (old.entry(), new.entry());
            let change = match (was, is) {
                (None, None) => return changes,
                (Some((key, before)), None) => Change { key, before: Some(before), after: None },
                (None, Some((key, after))) => Change { key, before: None, after: Some(after) },
                (Some((_, before)), Some((_, after))) if Arc::ptr_eq(before, after) => {
                    old.advance();
                    new.advance();
                    continue;
                }
                (Some((before_key, before)), Some((key, after))) => match before_key.cmp(key) {
                    std::cmp::Ordering::Less => Change { key: before_key, before: Some(before), after: None },
                    std::cmp::Ordering::Greater => Change { key, before: None, after: Some(after) },
                    std::cmp::Ordering::Equal => Change { key, before: Some(before), after: Some(after) },
                },
            };
            if change.before.is_some() {
                old.advance();
            }
            if change.after.is_some() {
                new.advance();
            }
            changes.push(change);
        }
    }

    /// The chunk that has `key` or would take it, and where in it.
    fn find(&self, key: &Key) -> (usize, Result<usize, usize>) {
        let after = self.chunks.partition_point(|chunk| chunk.first().is_some_and(|(first, _)| first <= key));
        let chunk_at = after.saturating_sub(1);
        let at = match self.chunks.get(chunk_at) {
            Some(chunk) => chunk.binary_search_by(|(known, _)| known.cmp(key)),
            None => Err(0),
        };
        (chunk_at, at)
    }
}

/// A place in the chunks.
struct Cursor<'a, T> {
    chunks: &'a [Arc<Chunk<T>>],
    chunk: usize,
    at: usize,
}

impl<'a, T> Cursor<'a, T> {
    fn of(objects: &'a Objects<T>) -> Self {
        Self { chunks: &objects.chunks, chunk: 0, at: 0 }
    }

    fn entry(&self) -> Option<&'a (Key, Arc<Resource<T>>)> {
        self.chunks.get(self.chunk)?.get(self.at)
    }

    fn advance(&mut self) {
        self.at += 1;
        if self.chunks.get(self.chunk).is_some_and(|chunk| self.at >= chunk.len()) {
            self.chunk += 1;
            self.at = 0;
        }
    }

    /// Whether both are at the beginning of one and the same chunk.
    fn skips_shared(&self, other: &Self) -> bool {
        let same = || Arc::ptr_eq(self.chunks.get(self.chunk)?, other.chunks.get(other.chunk)?).then_some(());
        self.at == 0 && other.at == 0 && same().is_some()
    }
}

/// See [`Objects::iter`].
pub struct Iter<'a, T>(Cursor<'a, T>);

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = (&'a Key, &'a Arc<Resource<T>>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, object) = self.0.entry()?;
        self.0.advance();
        Some((key, object))
    }
}

impl<'a, T> IntoIterator for &'a Objects<T> {
    type Item = (&'a Key, &'a Arc<Resource<T>>);
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> Clone for Objects<T> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for Objects<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<T: PartialEq> PartialEq for Objects<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T> FromIterator<(Key, Arc<Resource<T>>)> for Objects<T> {
    fn from_iter<I: IntoIterator<Item = (Key, Arc<Resource<T>>)>>(entries: I) -> Self {
        let mut objects = Self::new();
        objects.extend(entries);
        objects
    }
}

impl<T> Extend<(Key, Arc<Resource<T>>)> for Objects<T> {
    fn extend<I: IntoIterator<Item = (Key, Arc<Resource<T>>)>>(&mut self, entries: I) {
        for (key, object) in entries {
            self.insert(key, object);
        }
    }
}

#[cfg(test)]
mod tests;
