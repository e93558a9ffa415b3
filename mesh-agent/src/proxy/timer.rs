//! One timer for all the deadlines of a connection, which costs nothing while they are met.
//!
//! A deadline that lies later than what the timer is set to leaves it alone: it goes off too early, sees that, and is set anew.
//! A connection that serves thousands of requests a second so touches the runtime's timer wheel once in the shortest of its
//! limits, not twice for each request.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The deadline passed first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it took too long")]
pub struct Elapsed;

/// A timer that is kept from one deadline to the next.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom it wakes.
    waker: Option<Waker>,
}

impl Timer {
    /// Is ready at `at`, or wakes the task at the latest then.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        let known = self
            .waker
            .as_ref()
            .is_some_and(|it| it.will_wake(cx.waker()));
        if known && !sleep.is_elapsed() && sleep.deadline() <= at {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }

    /// Runs `work` until `at`, when it is dropped.
    pub async fn within<F: Future>(&mut self, at: Instant, work: F) -> Result<F::Output, Elapsed> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_at(cx, at).map(|()| Err(Elapsed)),
        })
        .await
    }

    /// Runs `work` until it has waited for this long, when it is dropped. Asks for the time only if it waits.
    pub async fn within_idle<F: Future>(
        &mut self,
        idle: Duration,
        work: F,
    ) -> Result<F::Output, Elapsed> {
        let mut work = pin!(work);
        let mut at = None;
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => {
                let at = *at.get_or_insert_with(|| Instant::now() + idle);
                self.poll_at(cx, at).map(|()| Err(Elapsed))
            }
        })
        .await
    }

    /// Waits until `at`.
    pub async fn until(&mut self, at: Instant) {
        std::future::poll_fn(|cx| self.poll_at(cx, at)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deadlines_may_move_either_way() {
        let mut timer = Timer::default();
        let start = Instant::now();
        let seconds = |n| start + Duration::from_secs(n);
        assert_eq!(timer.within(seconds(60), async { 1 }).await, Ok(1));
        assert_eq!(
            timer.within(seconds(10), pending::<()>()).await,
            Err(Elapsed)
        );
        assert_eq!(start.elapsed().as_secs(), 10);
        // It is set to what has passed; then to something that is later than it will be.
        assert_eq!(
            timer.within(seconds(30), pending::<()>()).await,
            Err(Elapsed)
        );
        assert_eq!(start.elapsed().as_secs(), 30);
        let early = timer.within(seconds(35), tokio::task::yield_now()).await;
        assert_eq!(early, Ok(()));
        assert_eq!(
            timer.within(seconds(50), pending::<()>()).await,
            Err(Elapsed)
        );
        assert_eq!(start.elapsed().as_secs(), 50);
        timer.until(seconds(40)).await;
        assert_eq!(start.elapsed().as_secs(), 50);
        let ten = Duration::from_secs(10);
        assert_eq!(timer.within_idle(ten, pending::<()>()).await, Err(Elapsed));
        assert_eq!(timer.within_idle(ten, async { 1 }).await, Ok(1));
        assert_eq!(start.elapsed().as_secs(), 60);
    }
}
