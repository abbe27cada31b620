//! Requests in a queue for a connection.

use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::sync::oneshot;

/// Requests that wait for a connection, or a place on one, in turn.
#[derive(Default)]
pub(super) struct Waiters(RefCell<VecDeque<oneshot::Sender<()>>>);

impl Waiters {
    /// Waits until something was given back or closed.
    pub(super) async fn turn(&self) {
        let (turn, wait) = oneshot::channel();
        self.0.borrow_mut().push_back(turn);
        let mut waiting = Waiting { all: self, turn: wait };
        // The sender is dropped only after it has sent, or with the pool itself.
        let _ = (&mut waiting.turn).await;
    }

    /// Whether anybody was waiting.
    pub(super) fn wake_one(&self) -> bool {
        while let Some(turn) = self.0.borrow_mut().pop_front() {
            if turn.send(()).is_ok() {
                return true;
            }
        }
        false
    }
}

/// One that waits. If it is gone before it took its turn, the next has it.
struct Waiting<'a> {
    all: &'a Waiters,
    turn: oneshot::Receiver<()>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.turn.try_recv().is_ok() {
            self.all.wake_one();
        }
    }
}
