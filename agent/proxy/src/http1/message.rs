//! One direction of an exchange: a pipe, and where the message in it stands. No I/O here.

use std::rc::Rc;

use super::framing::{Framing, Malformed, PieceKind};
use super::header::MAX_HEAD;
use crate::buffer::{BlockSize, BufferPool, Pipe};

/// See the module's text.
pub(super) struct Message {
    pub(super) pipe: Pipe,
    framing: Framing,
    is_done: bool,
    /// Bytes of content so far.
    content: u64,
    /// Unjudged bytes that were looked at and are no whole head.
    looked: u32,
}

impl Message {
    pub(super) fn new(pool: Rc<BufferPool>, preferred: BlockSize) -> Self {
        Self {
            pipe: Pipe::new(pool, preferred),
            framing: Framing::None,
            is_done: true,
            content: 0,
            looked: 0,
        }
    }

    /// Whether it is worth parsing for a head: something came, and if it was looked at before, a line has ended since.
    pub(super) fn may_hold_head(&self) -> bool {
        let raw = self.pipe.raw();
        match self.looked as usize {
            0 => !raw.is_empty(),
            looked => raw.len() > MAX_HEAD || raw.get(looked..).is_some_and(|new| new.contains(&b'\n')),
        }
    }

    /// The unjudged bytes hold no whole head.
    pub(super) fn head_is_partial(&mut self) {
        self.looked = self.pipe.raw().len() as u32;
    }

    /// Its head has been dealt with; the body follows.
    pub(super) fn begin_body(&mut self, framing: Framing) {
        self.framing = framing;
        self.is_done = framing == Framing::None;
        self.content = 0;
        self.looked = 0;
    }

    /// Approves what came of the body.
    ///
    /// # Errors
    /// It breaks its framing; nothing after the break is approved.
    pub(super) fn advance(&mut self) -> Result<(), Malformed> {
        if !self.is_done && self.pipe.has_raw() {
            let advance = self.framing.advance(self.pipe.raw())?;
            self.pipe.approve(advance.used);
            self.content += advance.content;
            self.is_done = advance.done;
        }
        Ok(())
    }

    /// Takes the next piece of the body out, for a reader who wants its content and not its framing. `None`: nothing more
    /// for now, or at all once it [is done](Self::is_done).
    ///
    /// # Errors
    /// It breaks its framing.
    pub(super) fn take_piece<T>(
        &mut self,
        take: impl FnOnce(PieceKind, &[u8]) -> T,
    ) -> Result<Option<T>, Malformed> {
        if self.is_done || !self.pipe.has_raw() {
            return Ok(None);
        }
        let raw = self.pipe.raw();
        let piece = self.framing.piece(raw)?;
        if piece.kind == PieceKind::Content {
            self.content += piece.used as u64;
        }
        self.is_done = piece.kind == PieceKind::End || self.framing == Framing::Length(0);
        let taken = take(piece.kind, raw.get(..piece.used).unwrap_or_default());
        self.pipe.consume(piece.used);
        Ok(Some(taken))
    }

    /// So many bytes of content were sent that did not come through this pipe's scanner.
    pub(super) fn add_content(&mut self, count: u64) {
        self.content += count;
    }

    /// The peer ended its stream. Whether the message is whole.
    pub(super) fn end_of_stream(&mut self) -> bool {
        if self.framing == Framing::Close {
            self.is_done = true;
        }
        self.is_done
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    pub(super) fn content(&self) -> u64 {
        self.content
    }

    /// Nothing of it is sent on (any more): an answer is given in its stead.
    pub(super) fn abandon(&mut self) {
        self.pipe.skip_out();
        self.pipe.unpin();
    }

    /// What has come of it and was not approved is given up. What was approved still goes out: a part of it may be on its
    /// way already.
    pub(super) fn give_up(&mut self) {
        self.pipe.discard_raw();
        self.begin_body(Framing::None);
    }

    /// Skips empty lines before a request (RFC 9112 section 2.2).
    pub(super) fn skip_empty_lines(&mut self) {
        if self.looked == 0 && matches!(self.pipe.raw().first(), Some(b'\r' | b'\n')) {
            let raw = self.pipe.raw();
            let mut count = raw.iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
            // A CR at the end may be half of a line end.
            if count == raw.len() && raw.last() == Some(&b'\r') {
                count -= 1;
            }
            self.pipe.consume(count);
        }
    }
}
