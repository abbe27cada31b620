//! A copy of a request in the making: the codec writes it by a [`Tee`], the task that sends it reads a [`Copy`].
//!
//! A channel of one thread, with room for [`MAX_WAITING`] bytes that were not sent yet. Its writer never waits: a copy that
//! falls behind by more is lost as a whole, since a body with a hole in it would be a lie.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request};

use crate::http2::{Next, Source};

/// Bytes of one copy that may wait to be sent: Envoy's buffer limit of a connection.
pub(crate) const MAX_WAITING: usize = 1024 * 1024;
/// Bytes of all copies of a worker that may wait.
pub(crate) const MAX_WAITING_OF_WORKER: usize = 32 * 1024 * 1024;
/// What a piece of a body or a line of a head costs beyond its bytes.
const OVERHEAD: usize = 64;

/// What waits to be sent, of all copies of a worker.
#[derive(Debug, Default)]
pub(crate) struct Budget(Cell<usize>);

/// Why there will be no whole copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The request never became whole.
    Cancelled,
    /// More waited than may.
    Behind,
    /// Its head cannot be sent as it would have to be.
    Unsendable,
}

#[derive(Debug)]
enum Stage {
    Open,
    Ended(Option<HeaderMap>),
    Lost(Loss),
}

#[derive(Debug)]
struct State {
    head: Option<Request<()>>,
    waiting: VecDeque<Bytes>,
    stage: Stage,
    /// The reader is gone.
    is_unwanted: bool,
    /// What this copy takes of the budget; all of it but the head's part goes as it is sent.
    cost: usize,
    budget: Rc<Budget>,
    waker: Option<Waker>,
}

impl State {
    /// Takes `cost` more, or loses the copy.
    fn charge(&mut self, cost: usize) -> bool {
        let all = self.budget.0.get();
        if self.cost + cost > MAX_WAITING || all + cost > MAX_WAITING_OF_WORKER {
            self.lose(Loss::Behind);
            return false;
        }
        self.cost += cost;
        self.budget.0.set(all + cost);
        true
    }

    fn refund(&mut self, cost: usize) {
        self.cost = self.cost.saturating_sub(cost);
        self.budget.0.set(self.budget.0.get().saturating_sub(cost));
    }

    fn lose(&mut self, why: Loss) {
        if matches!(self.stage, Stage::Open) {
            self.waiting.clear();
            self.refund(self.cost);
            self.stage = Stage::Lost(why);
        }
        self.wake();
    }

    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open) && !self.is_unwanted
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.refund(self.cost);
    }
}

/// The writing end, for all copies of one request. Dropped before [`Tee::end`], it cancels them.
#[derive(Debug)]
pub struct Tee {
    copies: Vec<Rc<RefCell<State>>>,
    has_begun: bool,
}

impl Tee {
    /// A writing end and its copies.
    pub(crate) fn new(count: usize, budget: &Rc<Budget>) -> (Self, Vec<Copy>) {
        let state = || State {
            head: None,
            waiting: VecDeque::new(),
            stage: Stage::Open,
            is_unwanted: false,
            cost: 0,
            budget: budget.clone(),
            waker: None,
        };
        let copies: Vec<_> = (0..count).map(|_| Rc::new(RefCell::new(state()))).collect();
        let read = copies.iter().map(|state| Copy(state.clone())).collect();
        (Self { copies, has_begun: false }, read)
    }

    /// Gives the head: the one that goes upstream, with the number of its first attempt. To be called once, and first.
    pub fn begin(&mut self, head: &Request<()>) {
        let lines = head.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD);
        let cost = lines.sum::<usize>() + head.uri().path().len();
        self.has_begun = true;
        self.write(|state| {
            if state.charge(cost) {
                let mut copy = Request::new(());
                *copy.method_mut() = head.method().clone();
                *copy.uri_mut() = head.uri().clone();
                *copy.version_mut() = head.version();
                *copy.headers_mut() = head.headers().clone();
                state.head = Some(copy);
            }
        });
    }

    /// Gives the next bytes of the body.
    pub fn data(&mut self, data: &Bytes) {
        if !data.is_empty() {
            self.write(|state| {
                if state.charge(cost_of(data)) {
                    state.waiting.push_back(data.clone());
                }
            });
        }
    }

    /// The request is whole.
    pub fn end(mut self, trailers: Option<&HeaderMap>) {
        self.write(|state| state.stage = Stage::Ended(trailers.cloned()));
        self.copies.clear();
    }

    /// Whether nobody reads any more.
    pub fn is_unwanted(&self) -> bool {
        self.copies.is_empty()
    }

    fn write(&mut self, mut change: impl FnMut(&mut State)) {
        self.copies.retain(|copy| {
            let state = &mut *copy.borrow_mut();
            if state.is_open() {
                change(state);
                state.wake();
            }
            state.is_open()
        });
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        let why = if self.has_begun { Loss::Cancelled } else { Loss::Unsendable };
        for copy in &self.copies {
            copy.borrow_mut().lose(why);
        }
    }
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Copy(Rc<RefCell<State>>);

impl Copy {
    /// The head; once.
    pub(crate) fn take_head(&self) -> Option<Request<()>> {
        self.0.borrow_mut().head.take()
    }

    /// Whether neither bytes nor trailers follow the head.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.0.borrow();
        state.waiting.is_empty() && matches!(state.stage, Stage::Ended(None))
    }

    /// Ready when the copy is lost. The task that polls is woken by whatever happens to the copy.
    pub(crate) fn poll_lost(&self, cx: &mut Context<'_>) -> Poll<Loss> {
        let mut state = self.0.borrow_mut();
        match state.stage {
            Stage::Lost(why) => Poll::Ready(why),
            _ => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Ready when the request is whole.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.borrow_mut();
        match state.stage {
            Stage::Ended(_) => Poll::Ready(()),
            _ => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Source for &Copy {
    fn next(&self) -> Next {
        let state = self.0.borrow();
        match (state.waiting.front(), &state.stage) {
            (Some(data), stage) => {
                let is_last = state.waiting.len() == 1 && matches!(stage, Stage::Ended(None));
                Next::Data(data.clone(), is_last)
            }
            (None, Stage::Ended(trailers)) => Next::End(trailers.clone()),
            (None, _) => Next::NotYet,
        }
    }

    fn advance(&mut self, count: usize) {
        let mut state = self.0.borrow_mut();
        let Some(front) = state.waiting.front_mut() else { return };
        let before = cost_of(front);
        let rest = front.split_off(count.min(front.len()));
        if rest.is_empty() {
            state.waiting.pop_front();
            state.refund(before);
        } else {
            *front = rest;
            state.refund(count);
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        state.is_unwanted = true;
        state.waiting.clear();
        state.head = None;
        let cost = state.cost;
        state.refund(cost);
    }
}

fn cost_of(data: &Bytes) -> usize {
    data.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(copy: &Copy) -> Vec<u8> {
        let mut source = copy;
        let mut all = Vec::new();
        while let Next::Data(data, _) = source.next() {
            // As an upstream does that takes a little at a time.
            let count = data.len().min(3);
            all.extend_from_slice(&data[..count]);
            source.advance(count);
        }
        all
    }

    fn lost(copy: &Copy) -> Option<Loss> {
        match copy.poll_lost(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(why) => Some(why),
            Poll::Pending => None,
        }
    }

    #[test]
    fn every_copy_has_the_whole_request_and_gives_its_room_back() {
        let budget = Rc::default();
        let (mut tee, copies) = Tee::new(2, &budget);
        tee.begin(&Request::new(()));
        let head_cost = budget.0.get();
        tee.data(&Bytes::from_static(b"hello "));
        tee.data(&Bytes::from_static(b"world"));
        assert!(budget.0.get() > head_cost);
        tee.end(None);
        for copy in &copies {
            assert!(copy.take_head().is_some() && !copy.is_empty());
            assert_eq!((content(copy), lost(copy)), (b"hello world".to_vec(), None));
            assert!(matches!(Source::next(&copy), Next::End(None)));
        }
        assert_eq!(budget.0.get(), head_cost);
        drop(copies);
        assert_eq!(budget.0.get(), 0);
    }

    #[test]
    fn a_copy_that_falls_behind_is_lost_alone_and_holds_nothing() {
        let budget = Rc::default();
        let (mut tee, copies) = Tee::new(2, &budget);
        tee.begin(&Request::new(()));
        let piece = Bytes::from(vec![7; MAX_WAITING / 4]);
        for _ in 0..8 {
            tee.data(&piece);
            content(&copies[0]);
        }
        assert_eq!((lost(&copies[0]), lost(&copies[1])), (None, Some(Loss::Behind)));
        assert!(!tee.is_unwanted());
        drop(copies);
        tee.data(&piece);
        assert!(tee.is_unwanted(), "nobody reads");
        assert_eq!(budget.0.get(), 0);
    }

    #[test]
    fn all_copies_of_a_worker_share_one_budget() {
        let budget = Rc::default();
        let piece = Bytes::from(vec![7; MAX_WAITING - 2 * OVERHEAD]);
        let mut held = Vec::new();
        let mut refused = 0;
        for _ in 0..(2 * MAX_WAITING_OF_WORKER / MAX_WAITING) {
            let (mut tee, copies) = Tee::new(1, &budget);
            tee.begin(&Request::new(()));
            tee.data(&piece);
            refused += usize::from(lost(&copies[0]) == Some(Loss::Behind));
            assert!(budget.0.get() <= MAX_WAITING_OF_WORKER);
            held.push((tee, copies));
        }
        assert!(refused > 0 && refused < held.len());
        held.clear();
        assert_eq!(budget.0.get(), 0);
    }

    #[test]
    fn a_request_that_breaks_off_or_never_begins_leaves_no_copy() {
        let budget = Rc::default();
        let (mut tee, copies) = Tee::new(1, &budget);
        tee.begin(&Request::new(()));
        tee.data(&Bytes::from_static(b"half"));
        drop(tee);
        assert_eq!((lost(&copies[0]), budget.0.get()), (Some(Loss::Cancelled), 0));
        let (tee, copies) = Tee::new(1, &budget);
        drop(tee);
        assert_eq!(lost(&copies[0]), Some(Loss::Unsendable));
    }
}
