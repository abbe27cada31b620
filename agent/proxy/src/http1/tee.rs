//! The upload of a mirrored request, seen a second time: its content goes to the copies, its framing does not.
//!
//! The relay never copies a body; here it is copied once, whatever the number of mirrors. Other requests have no such
//! thing, and pay for it with one look at a `None`.

use bytes::{Bytes, BytesMut};

use super::bridge;
use super::framing::{Framing, PieceKind};
use crate::mirror::Tee;

/// See the module's text.
pub(super) struct UploadTee {
    /// Gone once the request was whole, or nobody wants the rest.
    tee: Option<Tee>,
    decoder: Framing,
    trailer_lines: Vec<u8>,
}

impl UploadTee {
    /// For a request whose head `tee` was given. `framing`: how its body is framed, from its start.
    pub(super) fn new(tee: Tee, framing: Framing) -> Self {
        let mut upload = Self { tee: Some(tee), decoder: framing, trailer_lines: Vec::new() };
        if framing == Framing::None {
            upload.end();
        }
        upload
    }

    /// Whether it needs to see no more.
    pub(super) fn is_done(&self) -> bool {
        self.tee.is_none()
    }

    /// Takes in the unjudged bytes of the upload, right before the relay approves them: as there, bytes that break the
    /// framing are not taken at all.
    pub(super) fn see(&mut self, mut raw: &[u8]) {
        let Some(tee) = &mut self.tee else { return };
        let mut content = BytesMut::new();
        let mut is_ended = false;
        while !is_ended && !raw.is_empty() {
            let Ok(piece) = self.decoder.piece(raw) else { return };
            let (taken, rest) = raw.split_at_checked(piece.used).unwrap_or((raw, &[]));
            raw = rest;
            match piece.kind {
                PieceKind::Content => content.extend_from_slice(taken),
                PieceKind::Trailers => self.trailer_lines.extend_from_slice(taken),
                PieceKind::Framing => {}
                PieceKind::End => is_ended = true,
            }
            is_ended |= self.decoder == Framing::Length(0);
        }
        let content: Bytes = content.freeze();
        tee.data(&content);
        if is_ended {
            self.end();
        } else if tee.is_unwanted() {
            self.tee = None;
        }
    }

    fn end(&mut self) {
        if let Some(tee) = self.tee.take() {
            let lines = std::mem::take(&mut self.trailer_lines);
            let trailers = if lines.is_empty() { None } else { bridge::read_trailers(&lines) };
            tee.end(trailers.as_ref());
        }
    }
}
