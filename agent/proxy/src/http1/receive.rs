//! The head of a request: awaited, checked, planned, and staged in the form in which it goes upstream.

use std::rc::Rc;
use std::task::{Context, Poll};

use undermesh_core::edits::Edits;

use super::alarm::now;
use super::bridge;
use super::exchange::{Fate, Http1Exchange};
use super::framing::Framing;
use super::header::Slots;
use super::io::ClientIo;
use super::relay::ROUNDS;
use super::request::{Refusal, RequestHead};
use super::response::Asked;
use super::tee::UploadTee;
use super::to_http2::{ATTEMPT_COUNT, Http2Side};
use crate::buffer::Fill;
use crate::exchange::{RequestMeta, RequestPath, Stage};
use crate::mirror::Tee;

/// What comes next on a connection.
pub(super) enum Next<T> {
    /// A request, planned.
    Request(T),
    /// Bytes that are none.
    Refused(Refusal),
    /// The client is done, or waited for too long.
    Closed,
}

/// What parsing found out, kept after the slots are gone.
struct Found<T> {
    plan: T,
    stage: Stage,
    length: usize,
    framing: Framing,
    closes: bool,
    asked: Asked,
    expects_continue: bool,
    tee: Option<Box<UploadTee>>,
}

impl<S: ClientIo, P: RequestPath> Http1Exchange<S, P> {
    /// Waits for the head of the next request. While nothing of one has come and the path drains, being woken is enough to
    /// end the connection.
    pub(super) fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Next<P::Plan>> {
        for _ in 0..ROUNDS {
            self.upload.skip_empty_lines();
            match self.take_request() {
                Ok(None) => {}
                Ok(Some(plan)) => return Poll::Ready(Next::Request(plan)),
                Err(refusal) => return Poll::Ready(Next::Refused(refusal)),
            }
            match self.upload.pipe.poll_fill(context, &mut self.client, false) {
                Poll::Ready(Ok(Fill::Bytes(_))) => {}
                Poll::Ready(Ok(Fill::Full)) => {
                    let why = "request head does not fit";
                    return Poll::Ready(Next::Refused(Refusal { status: 431, why }));
                }
                Poll::Ready(Ok(Fill::Eof) | Err(_)) => return Poll::Ready(Next::Closed),
                Poll::Pending => return self.poll_waiting(context),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<Next<P::Plan>> {
        let has_begun = self.upload.pipe.has_raw();
        if !has_begun && self.path.is_draining() {
            return Poll::Ready(Next::Closed);
        }
        let since = match self.waiting {
            Some(since) if self.waits_for_rest == has_begun => since,
            _ => now(),
        };
        (self.waiting, self.waits_for_rest) = (Some(since), has_begun);
        let limit = if has_begun { self.settings.head_timeout } else { self.settings.idle_timeout };
        let Some(deadline) = since.checked_add(limit) else { return Poll::Pending };
        self.alarm.poll(context, deadline).map(|()| {
            let why = "request head took too long";
            if has_begun { Next::Refused(Refusal { status: 408, why }) } else { Next::Closed }
        })
    }

    /// Plans and stages the request whose head is in the buffer, if it is whole.
    fn take_request(&mut self) -> Result<Option<P::Plan>, Refusal> {
        if !self.upload.may_hold_head() {
            return Ok(None);
        }
        let pool = Rc::clone(self.upload.pipe.pool());
        pool.with_scratch(|scratch| {
            let mut slots = Slots::new();
            let Some(head) = RequestHead::parse(self.upload.pipe.raw(), &mut slots, &self.settings)? else {
                self.upload.head_is_partial();
                return Ok(None);
            };
            let framing = head.framing();
            let meta = RequestMeta { upgrade: head.upgrade(), has_body: framing != Framing::None };
            let (mut plan, stage) = self.path.plan(&head, &meta, &mut scratch.edits);
            let tee = P::take_tee(&mut plan).map(|tee| begin_tee(tee, &head, &scratch.edits));
            let found = Found {
                plan,
                stage,
                length: head.len(),
                framing,
                closes: head.closes(),
                asked: Asked { head: head.is_head(), upgrade: head.upgrade().is_some() },
                expects_continue: head.expects_continue(),
                tee,
            };
            self.http2 = None;
            match stage {
                Stage::Answer => {}
                Stage::Http1 => head.write(&scratch.edits, &mut scratch.head),
                Stage::Http2 => {
                    let request = bridge::request_to_http2(&head, &scratch.edits)?;
                    self.http2 = Some(Box::new(Http2Side::new(request, framing)));
                }
            }
            self.stage_request(found, &scratch.head).map(Some)
        })
    }

    fn stage_request(&mut self, found: Found<P::Plan>, head: &[u8]) -> Result<P::Plan, Refusal> {
        self.upload.pipe.unpin();
        match found.stage {
            Stage::Http1 => {
                self.upload.pipe.pin();
                if !self.upload.pipe.replace_head(found.length, head) {
                    return Err(Refusal { status: 431, why: "request head is too large when rewritten" });
                }
                self.head_length = head.len() as u32;
            }
            Stage::Answer => self.upload.pipe.consume(found.length),
            Stage::Http2 => {
                self.upload.pipe.consume(found.length);
                self.upload.pipe.pin();
            }
        }
        self.upload.begin_body(found.framing);
        self.stage = found.stage;
        self.asked = found.asked;
        self.expects_continue = found.expects_continue;
        self.tee = found.tee;
        self.is_last = found.closes;
        self.fate = if found.closes { Fate::Close } else { Fate::KeepAlive };
        self.number = 1;
        (self.is_malformed, self.is_tunnel, self.is_answered) = (false, false, false);
        (self.waiting, self.attempt_started, self.ended) = (None, None, None);
        self.advance_upload();
        Ok(found.plan)
    }

    /// Takes in what came of the request's body.
    pub(super) fn advance_upload(&mut self) {
        if let Some(tee) = &mut self.tee {
            tee.see(self.upload.pipe.raw());
            if tee.is_done() {
                self.tee = None;
            }
        }
        if self.upload.advance().is_err() {
            self.is_malformed = true;
        }
        if self.upload.is_done() && self.ended.is_none() {
            self.ended = Some(now());
        }
    }
}

/// Gives the copies of a mirrored request its head. One that HTTP/2's types cannot hold has none.
fn begin_tee(mut tee: Tee, head: &RequestHead<'_, '_>, edits: &Edits) -> Box<UploadTee> {
    if let Ok(mut copy) = bridge::request_to_http2(head, edits) {
        copy.headers_mut().insert(ATTEMPT_COUNT, 1.into());
        tee.begin(&copy);
    }
    Box::new(UploadTee::new(tee, head.framing()))
}
