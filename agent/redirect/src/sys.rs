//! bpf(2) on maps and objects that are already open: what aya has no call for (look up and delete) or only for types that
//! implement its own marker trait.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{from_mut, from_ref, null};

use aya_obj::generated::{bpf_map_info, bpf_prog_info};
use bytemuck::Pod;

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;

/// The part of `union bpf_attr` for one element of a map.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` for OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

/// `attr` is one of the structs above, whose pointers are valid for what `command` does with them.
fn bpf<A>(command: libc::c_long, attr: &mut A) -> io::Result<()> {
    // SAFETY: the kernel reads and writes no more of `attr` than its size, and takes missing fields as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, from_mut(attr), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn element<K>(map: BorrowedFd<'_>, key: *const K, value: u64) -> ElementAttr {
    ElementAttr { map_fd: map.as_raw_fd().cast_unsigned(), padding: 0, key: address(key), value, flags: 0 }
}

fn absent_is_none<T>(result: io::Result<()>, value: T) -> io::Result<Option<T>> {
    match result {
        Ok(()) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The caller vouches that the map's keys and values have the sizes of `K` and `V`.
pub(crate) fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = V::zeroed();
    let mut attr = element(map, from_ref(key), address(from_mut(&mut value)));
    absent_is_none(bpf(MAP_LOOKUP_ELEM, &mut attr), value)
}

/// As [`lookup`], into `values`, which holds one value for each possible CPU, each rounded up to eight bytes.
pub(crate) fn lookup_per_cpu(map: BorrowedFd<'_>, key: u32, values: &mut [u64]) -> io::Result<()> {
    let mut attr = element(map, from_ref(&key), address(values.as_mut_ptr()));
    bpf(MAP_LOOKUP_ELEM, &mut attr)
}

/// As [`lookup`], and the entry is gone: of two callers, one gets it.
pub(crate) fn take<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = V::zeroed();
    let mut attr = element(map, from_ref(key), address(from_mut(&mut value)));
    absent_is_none(bpf(MAP_LOOKUP_AND_DELETE_ELEM, &mut attr), value)
}

/// As [`lookup`]; inserts or replaces.
pub(crate) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr = element(map, from_ref(key), address(from_ref(value)));
    bpf(MAP_UPDATE_ELEM, &mut attr)
}

/// As [`lookup`]; whether there was an entry.
pub(crate) fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut attr = element(map, from_ref(key), 0);
    Ok(absent_is_none(bpf(MAP_DELETE_ELEM, &mut attr), ())?.is_some())
}

/// The key after `key`, or the first. If `key` is gone meanwhile, the walk starts again from the first.
pub(crate) fn next_key<K: Pod>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next = K::zeroed();
    let mut attr = element(map, key.map_or(null(), from_ref), address(from_mut(&mut next)));
    absent_is_none(bpf(MAP_GET_NEXT_KEY, &mut attr), next)
}

/// The kernel's description of an open map.
pub(crate) fn map_info(map: impl AsFd) -> io::Result<bpf_map_info> {
    // SAFETY: integers only.
    info(map.as_fd(), unsafe { zeroed() })
}

/// The kernel's description of an open program.
pub(crate) fn program_info(program: impl AsFd) -> io::Result<bpf_prog_info> {
    // SAFETY: integers only.
    info(program.as_fd(), unsafe { zeroed() })
}

/// `T` is the struct that belongs to the kind of `object`.
fn info<T>(object: BorrowedFd<'_>, mut info: T) -> io::Result<T> {
    let mut attr = InfoAttr {
        fd: object.as_raw_fd().cast_unsigned(),
        length: size_of::<T>() as u32,
        info: address(from_mut(&mut info)),
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}
