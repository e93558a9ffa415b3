//! Tasks that serve a client's requests, one at a time each, and stay for the next: their memory is warm, and nothing is allocated
//! for a request.

use std::task::{Context, Poll, Waker};

use super::streams::wait;
use super::{Job, Session};

/// The tasks of a connection.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    cells: Vec<Cell>,
    /// Those that wait. The one that ended last is the next to work.
    idle: Vec<usize>,
    /// Counts the times that all of them were sent home.
    generation: u32,
}

/// What is known of a task.
#[derive(Debug)]
struct Cell {
    waker: Option<Waker>,
    job: Option<Job>,
    is_idle: bool,
}

/// Which task this is.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy::h2) struct Lane {
    number: usize,
    generation: u32,
}

impl Session {
    /// Hands out a request if fewer than `most` are served; returns a task that has to be begun for it.
    pub(in crate::proxy::h2) fn hand_out(&mut self, most: usize) -> Option<Lane> {
        while self.serving < most
            && let Some(job) = self.jobs.pop_front()
        {
            self.serving += 1;
            let lanes = &mut self.lanes;
            let Some(number) = lanes.idle.pop() else {
                lanes.cells.push(Cell {
                    waker: None,
                    job: Some(job),
                    is_idle: false,
                });
                return Some(Lane {
                    number: lanes.cells.len() - 1,
                    generation: lanes.generation,
                });
            };
            let cell = &mut lanes.cells[number];
            cell.is_idle = false;
            cell.job = Some(job);
            if let Some(waker) = &cell.waker {
                waker.wake_by_ref();
            }
        }
        None
    }

    /// Waits for the next request of a task; `None`: there will be none.
    pub(in crate::proxy::h2) fn poll_job(
        &mut self,
        lane: Lane,
        most: usize,
        cx: &Context<'_>,
    ) -> Poll<Option<Job>> {
        let lanes = &mut self.lanes;
        if lanes.generation != lane.generation {
            return Poll::Ready(None);
        }
        let cell = &mut lanes.cells[lane.number];
        if let Some(job) = cell.job.take() {
            return Poll::Ready(Some(job));
        }
        if self.over.is_some() {
            return Poll::Ready(None);
        }
        if cell.is_idle {
            wait(&mut cell.waker, cx);
            return Poll::Pending;
        }
        if self.serving < most
            && let Some(job) = self.jobs.pop_front()
        {
            self.serving += 1;
            return Poll::Ready(Some(job));
        }
        wait(&mut cell.waker, cx);
        cell.is_idle = true;
        lanes.idle.push(lane.number);
        Poll::Pending
    }

    /// Sends those home that wait.
    pub(super) fn send_home(&mut self) {
        let lanes = &mut self.lanes;
        for cell in lanes.cells.iter().filter(|cell| cell.is_idle) {
            if let Some(waker) = &cell.waker {
                waker.wake_by_ref();
            }
        }
        if lanes.idle.len() == lanes.cells.len() {
            lanes.generation = lanes.generation.wrapping_add(1);
            lanes.cells = Vec::new();
            lanes.idle = Vec::new();
        }
    }
}
