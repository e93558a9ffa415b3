//! TCP sockets inside of workloads' network namespaces, for connections that are made on a workload's behalf.
//!
//! A data thread must not change its namespace, so helper threads do, for the few microseconds that it takes to make some sockets.
//! Where connections come thick and fast, a small stock saves even the way to a helper. What lies in it keeps its namespace alive,
//! so nothing lies there for longer than a second.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::sync::oneshot;

use crate::locate::inside::{Place, Visitor};
use crate::model::balanced::Upstream;
use crate::proxy::listener::Home;

/// Helper threads: one that is held up by the kernel, as a namespace's end may, leaves another.
const HELPERS: usize = 2;

/// Orders that may wait. At some 100 µs each, both helpers have them done in 50 ms; who comes then is better told so.
const ORDERS: usize = 1024;

/// Sockets of a namespace and family that lie in stock once they are asked for: enough for what comes while a helper makes more.
const STOCK: usize = 8;

/// Sockets that lie in stock in all, of 1 kB each and a descriptor.
const STOCKED: usize = 1024;

/// How long what nobody asks for lies in stock: with the time between two looks, a second.
const IDLE: Duration = Duration::from_millis(750);

/// How often that is looked at.
const SWEEP: Duration = Duration::from_millis(250);

/// Makes sockets for connections to upstreams, in the network namespaces of the workloads that they are made for.
pub trait Sockets: Send + Sync {
    /// Asks for a TCP socket inside the network namespace with this cookie, of IPv4 or IPv6: not bound, not blocking, closed on exec
    /// and with `TCP_NODELAY`. To be [marked](Self::mark) before it connects.
    ///
    /// Fails with `NotFound` where the namespace is gone, with `WouldBlock` where too many are asked for at once.
    fn stream(&self, netns: u64, v6: bool) -> Asked;

    /// Tells the kernel what the socket is for, before it connects.
    ///
    /// # Errors
    ///
    /// The kernel's: the socket is not to be connected.
    fn mark(&self, socket: BorrowedFd<'_>, upstream: &Upstream<'_>) -> io::Result<()>;
}

/// A socket that was asked for: often there at once.
#[derive(Debug)]
pub struct Asked(Way);

#[derive(Debug)]
enum Way {
    Done(Option<io::Result<OwnedFd>>),
    Waits(oneshot::Receiver<io::Result<OwnedFd>>),
}

impl Asked {
    /// Returns one that has its answer.
    pub fn done(answer: io::Result<OwnedFd>) -> Self {
        Self(Way::Done(Some(answer)))
    }

    /// Returns whether the answer is there already.
    pub fn is_done(&self) -> bool {
        matches!(self.0, Way::Done(_))
    }
}

impl Future for Asked {
    type Output = io::Result<OwnedFd>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let gone = || io::Error::other("the threads that make sockets have ended");
        match &mut self.0 {
            Way::Done(answer) => Poll::Ready(answer.take().unwrap_or_else(|| Err(gone()))),
            Way::Waits(answer) => Pin::new(answer)
                .poll(context)
                .map(|answer| answer.unwrap_or_else(|_| Err(gone()))),
        }
    }
}

/// Helper threads and their stock. Dropping it ends them.
#[derive(Debug)]
pub struct Maker {
    orders: Option<SyncSender<Order>>,
    stock: Arc<Mutex<Stock>>,
    helpers: Vec<JoinHandle<()>>,
}

/// A network namespace, and whether of IPv6.
type Kind = (u64, bool);

#[derive(Debug)]
struct Order {
    place: Place,
    v6: bool,
    /// Who waits for the first; nobody where only the stock is to be filled.
    waits: Option<oneshot::Sender<io::Result<OwnedFd>>>,
}

#[derive(Debug, Default)]
struct Stock {
    shelves: HashMap<Kind, Shelf>,
    count: usize,
}

#[derive(Debug)]
struct Shelf {
    sockets: Vec<OwnedFd>,
    asked: Instant,
    /// Whether a helper fills it.
    ordered: bool,
}

impl Maker {
    /// Starts the helpers.
    ///
    /// # Errors
    ///
    /// When a thread cannot be had.
    pub fn start() -> io::Result<Self> {
        let (orders, taken) = sync_channel(ORDERS);
        let taken = Arc::new(Mutex::new(taken));
        let stock = Arc::new(Mutex::new(Stock::default()));
        let mut helpers = Vec::with_capacity(HELPERS);
        for _ in 0..HELPERS {
            let (taken, stock) = (taken.clone(), stock.clone());
            let builder = std::thread::Builder::new().name("netns-sockets".to_owned());
            helpers.push(builder.spawn(move || match Visitor::new() {
                Ok(visitor) => help(&visitor, &taken, &stock),
                Err(error) => {
                    tracing::error!(%error, "failed to open the agent's own network namespace")
                }
            })?);
        }
        Ok(Self {
            orders: Some(orders),
            stock,
            helpers,
        })
    }

    /// Returns how many sockets lie in stock.
    pub fn stocked(&self) -> usize {
        lock(&self.stock).count
    }

    fn order(&self, order: Order) -> io::Result<()> {
        let Some(orders) = &self.orders else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => {
                io::Error::new(io::ErrorKind::WouldBlock, "too many sockets are being made")
            }
            TrySendError::Disconnected(_) => io::ErrorKind::BrokenPipe.into(),
        })
    }
}

impl Maker {
    /// Asks for a socket inside the workload's network namespace, as [`Sockets::stream`].
    pub fn stream(&self, home: &Home, v6: bool) -> Asked {
        let kind = (home.place.netns_cookie, v6);
        let (found, order) = lock(&self.stock).take(kind);
        let place = || home.place.clone();
        let Some(socket) = found else {
            let (sender, answer) = oneshot::channel();
            let order = Order {
                place: place(),
                v6,
                waits: Some(sender),
            };
            return match self.order(order) {
                Ok(()) => Asked(Way::Waits(answer)),
                Err(error) => {
                    lock(&self.stock).not_ordered(kind);
                    Asked::done(Err(error))
                }
            };
        };
        if order {
            let order = Order {
                place: place(),
                v6,
                waits: None,
            };
            if self.order(order).is_err() {
                lock(&self.stock).not_ordered(kind);
            }
        }
        Asked::done(Ok(socket))
    }

    /// The workload is gone: what is kept for it is closed.
    pub fn forget(&self, netns_cookie: u64) {
        lock(&self.stock).retain(|(cookie, _), _| *cookie != netns_cookie);
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        drop(self.orders.take());
        for helper in self.helpers.drain(..) {
            if helper.join().is_err() {
                tracing::error!("a thread that makes sockets had panicked");
            }
        }
    }
}

impl Stock {
    /// Takes a socket, and returns whether the shelf is to be filled: by a helper that nobody else has asked.
    fn take(&mut self, kind: Kind) -> (Option<OwnedFd>, bool) {
        let now = Instant::now();
        let shelf = self.shelves.entry(kind).or_insert_with(|| Shelf {
            sockets: Vec::new(),
            asked: now,
            ordered: false,
        });
        shelf.asked = now;
        let found = shelf.sockets.pop();
        self.count -= usize::from(found.is_some());
        let order = shelf.sockets.len() < STOCK / 2 && !shelf.ordered;
        shelf.ordered |= order;
        (found, order)
    }

    /// Returns how many the shelf has room for.
    fn room(&self, kind: Kind) -> usize {
        let Some(shelf) = self.shelves.get(&kind) else {
            return 0;
        };
        let room = STOCK.saturating_sub(shelf.sockets.len());
        room.min(STOCKED.saturating_sub(self.count))
    }

    /// Puts sockets on the shelf, as far as it is there and has room: it is not once its namespace was forgotten.
    fn put(&mut self, kind: Kind, sockets: Vec<OwnedFd>) {
        let room = self.room(kind);
        let Entry::Occupied(mut shelf) = self.shelves.entry(kind) else {
            return;
        };
        let shelf = shelf.get_mut();
        shelf.ordered = false;
        let before = shelf.sockets.len();
        shelf.sockets.extend(sockets.into_iter().take(room));
        self.count += shelf.sockets.len() - before;
    }

    fn not_ordered(&mut self, kind: Kind) {
        if let Some(shelf) = self.shelves.get_mut(&kind) {
            shelf.ordered = false;
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.retain(|_, shelf| now.saturating_duration_since(shelf.asked) < IDLE);
    }

    fn retain(&mut self, keep: impl Fn(&Kind, &Shelf) -> bool) {
        self.shelves.retain(|kind, shelf| keep(kind, shelf));
        self.count = self.shelves.values().map(|it| it.sockets.len()).sum();
    }
}

/// What a helper does, until there is nobody to help.
fn help(visitor: &Visitor, orders: &Mutex<Receiver<Order>>, stock: &Mutex<Stock>) {
    loop {
        let order = lock(orders).recv_timeout(SWEEP);
        match order {
            Ok(order) => fill(visitor, order, stock),
            Err(RecvTimeoutError::Timeout) => lock(stock).sweep(Instant::now()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if visitor.is_stranded() {
            // The others go on.
            tracing::error!("a thread cannot leave a workload's network namespace, and ends");
            return;
        }
    }
}

/// Makes what was ordered: one for who waits, and some for the stock.
fn fill(visitor: &Visitor, order: Order, stock: &Mutex<Stock>) {
    let kind = (order.place.netns_cookie, order.v6);
    let count = {
        let mut stock = lock(stock);
        stock.sweep(Instant::now());
        stock.room(kind) + usize::from(order.waits.is_some())
    };
    let made = visitor.inside(&order.place, || {
        (0..count)
            .map(|_| make(order.v6))
            .collect::<io::Result<Vec<OwnedFd>>>()
    });
    let mut sockets = match made {
        Ok(sockets) => sockets,
        Err(error) => {
            lock(stock).not_ordered(kind);
            if let Some(waits) = order.waits {
                // Who has given up needs no answer.
                waits.send(Err(error)).ok();
            }
            return;
        }
    };
    if let Some(waits) = order.waits
        && let Some(socket) = sockets.pop()
    {
        waits.send(Ok(socket)).ok();
    }
    lock(stock).put(kind, sockets);
}

fn make(v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every holder leaves the value whole at each step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const KIND: Kind = (1, false);

    fn sockets(count: usize) -> Vec<OwnedFd> {
        let open = |_| File::open("/dev/null").unwrap().into();
        (0..count).map(open).collect()
    }

    #[test]
    fn a_shelf_is_ordered_once_until_it_is_filled() {
        let mut stock = Stock::default();
        let (found, order) = stock.take(KIND);
        assert!(found.is_none() && order);
        assert!(!stock.take(KIND).1, "somebody fills it");
        stock.put(KIND, sockets(2 * STOCK));
        assert_eq!((stock.count, stock.room(KIND)), (STOCK, 0));
        let orders = (0..STOCK).map(|_| stock.take(KIND));
        let orders: Vec<bool> = orders
            .map(|(found, order)| found.is_some() && order)
            .collect();
        assert_eq!(orders.iter().filter(|order| **order).count(), 1);
        assert!(orders[STOCK / 2], "as soon as half is gone");
        stock.not_ordered(KIND);
        assert!(stock.take(KIND).1);
    }

    #[test]
    fn what_is_forgotten_or_idle_is_closed_and_takes_nothing_more() {
        let mut stock = Stock::default();
        stock.put(KIND, sockets(1));
        assert_eq!((stock.count, stock.room(KIND)), (0, 0), "nobody has asked");
        let other = (2, true);
        for kind in [KIND, other] {
            stock.take(kind);
            stock.put(kind, sockets(3));
        }
        stock.retain(|kind, _| *kind != KIND);
        assert_eq!((stock.count, stock.room(KIND)), (3, 0));
        stock.put(KIND, sockets(1));
        assert_eq!(stock.count, 3);
        stock.sweep(Instant::now());
        assert_eq!(stock.count, 3);
        stock.sweep(Instant::now() + IDLE);
        assert_eq!((stock.count, stock.shelves.len()), (0, 0));
    }

    #[test]
    fn all_shelves_together_are_bounded() {
        let mut stock = Stock::default();
        for netns in 0..1000 {
            stock.take((netns, false));
            stock.put((netns, false), sockets(STOCK));
        }
        assert_eq!(stock.count, STOCKED);
        assert_eq!(stock.room((999, false)), 0);
    }
}
