//! An open map with the types of its keys and values, checked once against what the kernel says.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Map, MapData};
use bytemuck::Pod;

use crate::error::Error;
use crate::sys;

/// A hash or array map.
#[derive(Debug)]
pub(crate) struct TypedMap<K, V> {
    name: &'static str,
    fd: OwnedFd,
    limit: u32,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> TypedMap<K, V> {
    /// Opens the map `name` of `object` a second time, so that it lives as long as needed.
    pub(crate) fn open(object: &aya::Ebpf, name: &'static str) -> Result<Self, Error> {
        let map = object.map(name).ok_or(Error::NotInObject { what: "map", name })?;
        let data = data(map).ok_or(Error::NotInObject { what: "map", name })?;
        let fd = data.fd().as_fd().try_clone_to_owned().map_err(access(name, "open"))?;
        let info = sys::map_info(&fd).map_err(access(name, "examine"))?;
        for (what, object, agent) in
            [("key", info.key_size, size_of::<K>()), ("value", info.value_size, size_of::<V>())]
        {
            if object as usize != agent {
                return Err(Error::LayoutMismatch { map: name, what, object, agent: agent as u32 });
            }
        }
        Ok(Self { name, fd, limit: info.max_entries, types: PhantomData })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// How many entries it can hold.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, Error> {
        sys::lookup(self.fd.as_fd(), key).map_err(access(self.name, "read"))
    }

    /// Gets and removes; of two callers, one gets it.
    pub(crate) fn take(&self, key: &K) -> Result<Option<V>, Error> {
        sys::take(self.fd.as_fd(), key).map_err(access(self.name, "take from"))
    }

    pub(crate) fn insert(&self, key: &K, value: &V) -> Result<(), Error> {
        sys::update(self.fd.as_fd(), key, value).map_err(access(self.name, "write"))
    }

    /// Whether there was an entry.
    pub(crate) fn remove(&self, key: &K) -> Result<bool, Error> {
        sys::delete(self.fd.as_fd(), key).map_err(access(self.name, "remove from"))
    }

    /// Every entry at some moment of the walk. Ends after as many steps as the map has places: a walk over a map that
    /// changes meanwhile can start over.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<(K, V), Error>> {
        let mut last = None;
        let mut steps = self.limit;
        std::iter::from_fn(move || {
            loop {
                steps = steps.checked_sub(1)?;
                match sys::next_key(self.fd.as_fd(), last.as_ref()) {
                    Ok(None) => return None,
                    Ok(Some(key)) => {
                        last = Some(key);
                        if let Some(entry) = self.get(&key).transpose() {
                            return Some(entry.map(|value| (key, value)));
                        }
                    }
                    Err(source) => {
                        steps = 0;
                        return Some(Err(access(self.name, "walk")(source)));
                    }
                }
            }
        })
    }
}

impl<K, V> AsFd for TypedMap<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Names the map in an error.
pub(crate) fn access(map: &'static str, operation: &'static str) -> impl Fn(io::Error) -> Error {
    move |cause| Error::MapAccess { map, operation, cause }
}

/// What is behind aya's enum, for the kinds that the object has.
pub(crate) fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}
