//! The bytes of one direction.
//!
//! ```text
//!   0        start        sent            ready        end       limit     size
//!   │ headroom │ replayable │ to be written │ not judged │  free   │ reserve │
//! ```
//!
//! A message is read behind the headroom. Its rewritten head is laid down so that it ends where the body starts: head and
//! body leave in one contiguous send, and the body is never copied.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{BlockSize, BufferPool, LARGE};

/// Free space kept before a message, into which its rewritten head may grow.
pub const HEADROOM: usize = 512;
/// This part of a block is not read into: a head that outgrows the headroom pushes the bytes behind it there.
const RESERVE_PART: usize = 16;

/// The bytes of one direction, in at most one block.
pub struct Pipe {
    pool: Rc<BufferPool>,
    block: Option<Box<[u8]>>,
    preferred: BlockSize,
    /// Bytes before it are free. Follows `sent` unless pinned.
    start: u32,
    sent: u32,
    ready: u32,
    end: u32,
    pinned: bool,
    /// The last read filled the block: the next one gets a large block.
    bulk: bool,
}

/// What [`Pipe::poll_fill`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// So many bytes came.
    Bytes(usize),
    /// The peer ended its side.
    Eof,
    /// No room: bytes must leave first. No waker was registered.
    Full,
}

impl Pipe {
    /// An empty pipe that takes blocks of the `preferred` size first.
    pub fn new(pool: Rc<BufferPool>, preferred: BlockSize) -> Self {
        let at = HEADROOM as u32;
        Self {
            pool,
            block: None,
            preferred,
            start: at,
            sent: at,
            ready: at,
            end: at,
            pinned: false,
            bulk: false,
        }
    }

    /// The pool its blocks come from.
    pub fn pool(&self) -> &Rc<BufferPool> {
        &self.pool
    }

    /// Bytes that may be written and were not yet.
    pub fn out(&self) -> &[u8] {
        self.slice(self.sent, self.ready)
    }

    /// Bytes read and not yet judged.
    pub fn raw(&self) -> &[u8] {
        self.slice(self.ready, self.end)
    }

    /// Whether nothing waits to be written.
    pub fn is_flushed(&self) -> bool {
        self.sent == self.ready
    }

    /// Whether bytes wait to be judged.
    pub fn has_raw(&self) -> bool {
        self.ready < self.end
    }

    /// Whether a block is held.
    pub fn holds_block(&self) -> bool {
        self.block.is_some()
    }

    /// Whether everything since [`Pipe::pin`] is still here.
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// `count` more bytes were judged good and may be written.
    pub fn approve(&mut self, count: usize) {
        self.ready = (self.ready + count as u32).min(self.end);
    }

    /// `count` bytes of [`Pipe::out`] were written.
    pub fn wrote(&mut self, count: usize) {
        self.sent = (self.sent + count as u32).min(self.ready);
        self.settle();
    }

    /// Everything approved counts as written.
    pub fn skip_out(&mut self) {
        self.sent = self.ready;
        self.settle();
    }

    /// Takes `count` unjudged bytes out. Only while nothing is to be written.
    pub fn consume(&mut self, count: usize) {
        self.approve(count);
        self.skip_out();
    }

    /// Forgets the unjudged bytes.
    pub fn discard_raw(&mut self) {
        self.end = self.ready;
        self.settle();
    }

    /// Keeps what is written from here on, so that [`Pipe::rewind`] can bring it back.
    pub fn pin(&mut self) {
        self.start = self.sent;
        self.pinned = true;
    }

    /// Lets go of what was written.
    pub fn unpin(&mut self) {
        self.pinned = false;
        self.start = self.sent;
        self.settle();
    }

    /// Everything since [`Pipe::pin`] is to be written again.
    pub fn rewind(&mut self) {
        if self.pinned {
            self.sent = self.start;
        }
    }

    /// The bytes kept since [`Pipe::pin`], or those to be written.
    pub fn kept(&self) -> &[u8] {
        self.slice(self.start, self.ready)
    }

    /// Puts `head` in the place of the first `old` unjudged bytes and approves it. `false`: there is no room for it.
    pub fn replace_head(&mut self, old: usize, head: &[u8]) -> bool {
        loop {
            let Some(block) = self.block.as_mut() else { return false };
            let stop = self.ready as usize + old;
            if stop > self.end as usize {
                return false;
            }
            // Bytes that wait before it (an interim response, a kept message) must not be run over.
            let floor = if self.start == self.ready { 0 } else { self.ready as usize };
            let at = match stop.checked_sub(head.len()) {
                Some(at) if at >= floor => at,
                _ => {
                    let up = floor + head.len() - stop;
                    if self.end as usize + up > block.len() {
                        if block.len() < LARGE && self.grow(true) {
                            continue;
                        }
                        return false;
                    }
                    block.copy_within(stop..self.end as usize, stop + up);
                    self.end += up as u32;
                    floor
                }
            };
            block[at..at + head.len()].copy_from_slice(head);
            if self.start == self.ready {
                self.start = at as u32;
            }
            if self.sent == self.ready {
                self.sent = at as u32;
            }
            self.ready = (at + head.len()) as u32;
            return true;
        }
    }

    /// Puts `bytes` in the place of `range` of [`Pipe::kept`]. `false`: there is no room.
    pub fn replace_kept(&mut self, range: std::ops::Range<usize>, bytes: &[u8]) -> bool {
        let (from, to) = (self.start as usize + range.start, self.start as usize + range.end);
        if range.start > range.end || to > self.ready as usize || self.sent != self.start {
            return false;
        }
        loop {
            let Some(block) = self.block.as_mut() else { return false };
            let stop = from + bytes.len();
            if stop > to {
                let up = stop - to;
                if self.end as usize + up > block.len() {
                    if block.len() < LARGE && self.grow(true) {
                        continue;
                    }
                    return false;
                }
                block.copy_within(to..self.end as usize, stop);
                self.ready += up as u32;
                self.end += up as u32;
            } else if stop < to {
                block.copy_within(to..self.end as usize, stop);
                self.ready -= (to - stop) as u32;
                self.end -= (to - stop) as u32;
            }
            block[from..stop].copy_from_slice(bytes);
            return true;
        }
    }

    /// Bytes that [`Pipe::append`] would take now.
    pub fn room(&mut self) -> usize {
        if self.has_raw() || !self.make_room(false) {
            return 0;
        }
        let size = self.block.as_ref().map_or(0, |block| block.len());
        let room = limit(size).saturating_sub(self.end as usize);
        self.settle();
        room
    }

    /// Adds bytes of our own to what is to be written, as many as fit; none while unjudged bytes are here.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        if self.has_raw() || !self.make_room(false) {
            return 0;
        }
        let Some(block) = self.block.as_mut() else { return 0 };
        let at = self.end as usize;
        let count = bytes.len().min(limit(block.len()).saturating_sub(at));
        block[at..at + count].copy_from_slice(&bytes[..count]);
        self.end += count as u32;
        self.ready = self.end;
        count
    }

    /// Adds bytes as if they had been read. `false`: they do not fit.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        while self.make_room(false) {
            let Some(block) = self.block.as_mut() else { return false };
            let at = self.end as usize;
            if bytes.len() <= limit(block.len()).saturating_sub(at) {
                block[at..at + bytes.len()].copy_from_slice(bytes);
                self.end += bytes.len() as u32;
                return true;
            }
            if block.len() == LARGE || !self.grow(true) {
                return false;
            }
        }
        false
    }

    /// Reads once from `io` into the free space. `may_unpin`: rather than stop reading, give up the ability to rewind.
    ///
    /// # Errors
    /// Those of `io`.
    pub fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        io: &mut R,
        may_unpin: bool,
    ) -> Poll<io::Result<Fill>> {
        if !self.make_room(may_unpin) {
            return Poll::Ready(Ok(Fill::Full));
        }
        let Some(block) = self.block.as_mut() else { return Poll::Ready(Ok(Fill::Full)) };
        let limit = limit(block.len());
        let mut buffer = ReadBuf::new(&mut block[self.end as usize..limit]);
        match Pin::new(io).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) => {
                let (count, room) = (buffer.filled().len(), buffer.capacity());
                self.bulk = count == room;
                self.end += count as u32;
                self.settle();
                Poll::Ready(Ok(if count == 0 { Fill::Eof } else { Fill::Bytes(count) }))
            }
            other => {
                self.settle();
                other.map_ok(|()| Fill::Eof)
            }
        }
    }

    /// Writes once to `io` of what is to be written; the number of bytes, 0 only if there is nothing.
    ///
    /// # Errors
    /// Those of `io`.
    pub fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        io: &mut W,
    ) -> Poll<io::Result<usize>> {
        if self.is_flushed() {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(Pin::new(io).poll_write(context, self.out()))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.wrote(count);
        Poll::Ready(Ok(count))
    }

    /// Sees to it that there is free space after `end`.
    fn make_room(&mut self, may_unpin: bool) -> bool {
        let Some(block) = self.block.as_mut() else {
            let wants_large = self.preferred == BlockSize::Large || self.bulk;
            let large = if wants_large { self.pool.take_large(false) } else { None };
            self.block = Some(large.unwrap_or_else(|| self.pool.take_small()));
            self.reset();
            return true;
        };
        let limit = limit(block.len());
        if self.start == self.end {
            self.reset();
            return true;
        }
        if (self.end as usize) < limit {
            return true;
        }
        let free = (self.start as usize).saturating_sub(HEADROOM);
        // Moving a lot to gain a little, over and over, would cost more than waiting for the rest to leave.
        if free > 0 && (free >= block.len() / 4 || self.start == self.ready) {
            block.copy_within(self.start as usize..self.end as usize, HEADROOM);
            let by = self.start - HEADROOM as u32;
            self.start -= by;
            self.sent -= by;
            self.ready -= by;
            self.end -= by;
            return true;
        }
        // An unfinished head (nothing is to be written) has nowhere else to go, whatever the budget.
        if (self.pinned && may_unpin || self.start == self.ready) && self.grow(self.start == self.ready) {
            return true;
        }
        if self.pinned && may_unpin {
            self.unpin();
            return self.make_room(false);
        }
        false
    }

    /// Moves to a large block.
    fn grow(&mut self, must: bool) -> bool {
        let Some(block) = &self.block else { return false };
        if block.len() == LARGE {
            return false;
        }
        let Some(mut large) = self.pool.take_large(must) else { return false };
        let (start, end) = (self.start as usize, self.end as usize);
        large[start..end].copy_from_slice(&block[start..end]);
        if let Some(small) = self.block.replace(large) {
            self.pool.put(small);
        }
        true
    }

    fn reset(&mut self) {
        let at = HEADROOM as u32;
        (self.start, self.sent, self.ready, self.end) = (at, at, at, at);
    }

    /// Keeps the invariants after a move of a cursor: what is not pinned is free, and an empty pipe holds no block.
    fn settle(&mut self) {
        if !self.pinned {
            self.start = self.sent;
        }
        if self.start == self.end {
            if let Some(block) = self.block.take() {
                self.pool.put(block);
            }
            self.reset();
        }
    }

    fn slice(&self, from: u32, to: u32) -> &[u8] {
        self.block.as_ref().and_then(|block| block.get(from as usize..to as usize)).unwrap_or_default()
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.put(block);
        }
    }
}

/// How far a block of so many bytes is read into.
fn limit(size: usize) -> usize {
    size - size / RESERVE_PART
}
