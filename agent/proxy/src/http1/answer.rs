//! Responses of our own: what the path answers in the upstream's stead, and refusals of bytes that are no request.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use undermesh_core::edits::Edits;

use super::exchange::{Fate, Http1Exchange};
use super::framing::Framing;
use super::header::{HeadWriter, push_number};
use super::io::ClientIo;
use super::reason::reason;
use super::relay::{Client, ROUNDS};
use super::request::Refusal;
use crate::exchange::{LocalReply, RequestPath};

/// What is left of a request's body after an answer of our own is read away up to so many bytes to keep the connection;
/// beyond that, ending the connection is cheaper.
const READ_AWAY: u64 = 64 * 1024;

impl<S: ClientIo, P: RequestPath> Http1Exchange<S, P> {
    /// Writes the head of a reply of our own into the download pipe.
    pub(super) fn begin_answer(&mut self, reply: &LocalReply<'_>) {
        self.upstream = None;
        self.drop_stream();
        self.download.give_up();
        self.upload.abandon();
        self.read_away();
        let is_too_long = match self.upload.framing() {
            Framing::Length(left) => left > READ_AWAY,
            _ => false,
        };
        // A client that waits for 100 may or may not send its body after this answer: nobody could tell what follows.
        let is_unclear = !self.upload.is_done() && (self.expects_continue || is_too_long);
        if is_unclear || self.is_malformed || self.path.is_draining() {
            self.close_after();
        }
        let closes = self.fate != Fate::KeepAlive;
        let pool = Rc::clone(self.download.pipe.pool());
        pool.with_scratch(|scratch| {
            write_reply(reply, closes, &mut scratch.head);
            let length = scratch.head.len();
            if self.download.pipe.feed(&scratch.head) {
                self.download.pipe.approve(length);
            } else {
                self.fate = Fate::Abort;
            }
        });
    }

    /// Answers bytes that are no request, and tells the path about it.
    pub(super) async fn refuse(&mut self, refusal: Refusal) {
        self.fate = Fate::Close;
        self.asked.head = false;
        self.is_malformed = true;
        let edits = Edits::default();
        self.begin_answer(&LocalReply { status: refusal.status, edits: &edits, body: b"" });
        // A client that is gone by now is told nothing; the refusal counts all the same.
        let _ = poll_fn(|context| self.poll_flush_client(context)).await;
        self.path.refused(refusal.status, refusal.why, 0);
    }

    /// Makes the connection ready for the next request. `false`: there cannot be one.
    pub(super) async fn finish(&mut self) -> bool {
        if !self.is_answered {
            // Nothing may follow a request that got no answer: the client would take the next one for it.
            self.fate = Fate::Abort;
        }
        if self.fate == Fate::KeepAlive && !self.upload.is_done() {
            let before = self.upload.content();
            // A client that stops sending is cut off like one that stops in the middle of a head.
            let deadline = super::alarm::now().checked_add(self.settings.head_timeout);
            let is_whole = poll_fn(|context| {
                for _ in 0..ROUNDS {
                    self.read_away();
                    if self.is_malformed || self.upload.content() - before > READ_AWAY {
                        return Poll::Ready(false);
                    }
                    if self.upload.is_done() {
                        return Poll::Ready(true);
                    }
                    match self.poll_client(context) {
                        Client::Moved => {}
                        Client::Gone => return Poll::Ready(false),
                        Client::Waits => {
                            return match deadline {
                                Some(deadline) => self.alarm.poll(context, deadline).map(|()| false),
                                None => Poll::Pending,
                            };
                        }
                    }
                }
                context.waker().wake_by_ref();
                Poll::Pending
            });
            if !Box::pin(is_whole).await {
                self.close_after();
            }
        }
        self.fate == Fate::KeepAlive
    }

    /// Takes in what came of a body that nobody wants.
    fn read_away(&mut self) {
        if !self.is_malformed {
            self.advance_upload();
        }
        self.upload.pipe.skip_out();
    }
}

fn write_reply(reply: &LocalReply<'_>, closes: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_number(out, u64::from(reply.status));
    out.push(b' ');
    out.extend_from_slice(reason(reply.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut writer = HeadWriter::new(out, &[]);
    // RFC 9110 section 8.6 forbids a length with these.
    if !(reply.status < 200 || reply.status == 204 || reply.status == 304) {
        writer.number("content-length", reply.body.len() as u64);
    }
    if !reply.body.is_empty() && !reply.edits.drops(b"content-type") {
        let is_set = reply.edits.lines().any(|(name, _)| name == "content-type");
        if !is_set {
            writer.line("content-type", b"text/plain");
        }
    }
    writer.edits(reply.edits);
    if closes {
        writer.line("connection", b"close");
    }
    out.extend_from_slice(b"\r\n");
}
