//! Read buffers of a worker: a pool of blocks, and [`Pipe`], the one block of a direction.
//!
//! A connection holds a block only while bytes are in it, so ten thousand idle connections hold none. Blocks come in two
//! sizes: 16 KiB for heads and short messages, 128 KiB for bulk (a 64 KiB answer costs half the CPU of what it does in
//! 16 KiB steps). Large blocks are handed out up to a budget, after that everybody makes do with small ones.

mod pipe;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use undermesh_core::edits::Edits;

pub use pipe::{Fill, HEADROOM, Pipe};

/// Size of a small block, bytes.
pub const SMALL: usize = 16 * 1024;
/// Size of a large block, bytes.
pub const LARGE: usize = 128 * 1024;
/// Free blocks kept for the next user, 4 MiB and 8 MiB; more go back to the allocator. A burst that is read in one go and
/// sent in another holds a block for each of its messages, and a fresh block is dear: it is zeroed.
const KEEP_SMALL: usize = 256;
const KEEP_LARGE: usize = 64;
/// Large blocks in use at a time (32 MiB), heads that need one excepted.
const LARGE_BUDGET: usize = 256;
/// A head scratch that grew beyond this is not kept.
const KEEP_SCRATCH: usize = 64 * 1024;

/// The blocks of one worker. Everything here is single-threaded: each worker owns one.
#[derive(Default)]
pub struct BufferPool {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    large_in_use: Cell<usize>,
    scratch: Cell<Option<Box<Scratch>>>,
}

/// Where a head is put together before it is laid down. One per worker, used between two awaits.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) head: Vec<u8>,
    pub(crate) edits: Edits,
}

/// The two sizes of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSize {
    /// [`SMALL`]
    Small,
    /// [`LARGE`]
    Large,
}

impl BufferPool {
    /// An empty pool.
    pub fn new() -> Rc<Self> {
        Rc::new(Self::default())
    }

    /// Bytes of the free blocks held at the moment.
    pub fn free_bytes(&self) -> usize {
        self.small.borrow().len() * SMALL + self.large.borrow().len() * LARGE
    }

    /// Large blocks handed out at the moment.
    pub fn large_in_use(&self) -> usize {
        self.large_in_use.get()
    }

    fn take_small(&self) -> Box<[u8]> {
        self.small.borrow_mut().pop().unwrap_or_else(|| vec![0; SMALL].into_boxed_slice())
    }

    /// A large block; `None` beyond the budget unless it `must` be.
    fn take_large(&self, must: bool) -> Option<Box<[u8]>> {
        let in_use = self.large_in_use.get();
        if in_use >= LARGE_BUDGET && !must {
            return None;
        }
        self.large_in_use.set(in_use + 1);
        // Fresh blocks of this size are mapped lazily, so only touched pages become resident.
        Some(self.large.borrow_mut().pop().unwrap_or_else(|| vec![0; LARGE].into_boxed_slice()))
    }

    fn put(&self, block: Box<[u8]>) {
        let (list, keep) = if block.len() == LARGE {
            self.large_in_use.set(self.large_in_use.get().saturating_sub(1));
            (&self.large, KEEP_LARGE)
        } else {
            (&self.small, KEEP_SMALL)
        };
        let mut list = list.borrow_mut();
        if list.len() < keep {
            list.push(block);
        }
    }

    /// Lends the scratch, cleared, for the length of a synchronous call. A nested call gets one of its own.
    pub(crate) fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut scratch = self.scratch.take().unwrap_or_default();
        scratch.head.clear();
        scratch.edits.clear();
        let result = work(&mut scratch);
        if scratch.head.capacity() <= KEEP_SCRATCH {
            self.scratch.set(Some(scratch));
        }
        result
    }
}
