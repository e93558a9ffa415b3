//! The thread that wakes readers of what TCP brought behind redirected bytes.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::kernel::Wakes;
use crate::locate::inside::{Places, Visitor};

/// How long the programs count on this thread after it was last there: it may have to wait for its turn on a busy machine.
const PROMISE: Duration = Duration::from_secs(3);

/// It is there as often as this.
const PRESENT: Duration = Duration::from_millis(500);

/// The first look at a reader, which is at it; then half as often each time, since it may be slow on purpose, ...
const FIRST: Duration = Duration::from_micros(500);

/// ... but at least this often: it may have read on a moment after the last look.
const LAST: Duration = Duration::from_millis(500);

/// A look at a namespace with many sockets takes time: this share of a core at most.
const SHARE: u32 = 20;

/// The thread, while it runs.
#[derive(Debug)]
pub(super) struct Waker {
    /// Dropped to end it.
    stop: Sender<()>,
    places: Arc<ArcSwapOption<Places>>,
    thread: JoinHandle<()>,
}

impl Waker {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// When the thread cannot be had.
    pub(super) fn start(wakes: Wakes) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let places = Arc::<ArcSwapOption<Places>>::default();
        let known = places.clone();
        let builder = std::thread::Builder::new().name("wakes".to_owned());
        let thread = builder.spawn(move || match Visitor::new() {
            Ok(visitor) => run(wakes, &visitor, &known, &stopped),
            Err(error) => {
                tracing::error!(%error, "failed to open the agent's own network namespace");
            }
        })?;
        Ok(Self {
            stop,
            places,
            thread,
        })
    }

    /// Tells where the workloads are.
    pub(super) fn set_places(&self, places: &Places) {
        if self.places.load().as_deref() != Some(places) {
            self.places.store(Some(Arc::new(places.clone())));
        }
    }

    /// Ends it; takes half a second at most.
    pub(super) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the thread that wakes readers had panicked");
        }
    }
}

fn run(
    mut wakes: Wakes,
    visitor: &Visitor,
    places: &ArcSwapOption<Places>,
    stopped: &Receiver<()>,
) {
    let mut namespaces = BTreeSet::new();
    // Until the next look at those that are known, and until the next at all, even if there is no end of asking.
    let (mut pause, mut least) = (FIRST, FIRST);
    while stopped.recv_timeout(least) == Err(RecvTimeoutError::Timeout) && !visitor.is_stranded() {
        if let Err(error) = wakes.promise(PROMISE) {
            tracing::error!(%error, "failed to tell the programs that readers are woken");
        }
        wakes.wait(match namespaces.is_empty() {
            true => PRESENT,
            false => pause,
        });
        if wakes.asked(&mut namespaces) {
            pause = FIRST;
        }
        let began = Instant::now();
        if let Some(places) = places.load().as_deref() {
            namespaces.retain(|cookie| is_to_go_on(&wakes, visitor, places, *cookie));
        }
        least = (began.elapsed() * SHARE).clamp(FIRST, LAST);
        pause = (pause * 2).min(LAST);
    }
    // Until the next agent is there, more is redirected instead.
    wakes.promise(Duration::ZERO).ok();
}

/// Wakes the readers of a namespace, and returns whether it is to be looked at again.
fn is_to_go_on(wakes: &Wakes, visitor: &Visitor, places: &Places, cookie: u64) -> bool {
    let Some(place) = places.values().find(|place| place.netns_cookie == cookie) else {
        return false;
    };
    match visitor.inside(place, || wakes.pass()) {
        Ok(goes_on) => goes_on,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(%error, "failed to wake readers; trying again");
            true
        }
    }
}
