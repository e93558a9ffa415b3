//! Something that is open in each of some workloads' network namespaces, such as listeners: opened where it is missing, closed where
//! it is not wanted any more.
//!
//! A socket keeps its namespace alive. So these are closed as soon as the workload is gone, which shows in what led to the
//! namespace (a process, a path), and not in the namespace itself.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use crate::locate::inside::Place;

/// Pause before one that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(5);

/// What is open, by the cookie of the network namespace; dropping one closes it.
#[derive(Debug)]
pub struct Opened<T> {
    open: BTreeMap<u64, T>,
    failed: BTreeMap<u64, (Instant, String)>,
}

impl<T> Default for Opened<T> {
    fn default() -> Self {
        Self {
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }
}

impl<T> Opened<T> {
    /// Closes those that are not wanted, opens those that are missing, and returns where there is one now: cookies of network
    /// namespaces.
    ///
    /// One that cannot be opened is tried again some seconds later. `complain` is called with the cookie and why, once for each
    /// reason.
    pub fn set<W>(
        &mut self,
        wanted: &[W],
        place: impl Fn(&W) -> &Place,
        open: impl Fn(&W) -> io::Result<T>,
        complain: impl Fn(u64, &str),
    ) -> BTreeSet<u64> {
        let cookies: BTreeSet<u64> = wanted.iter().map(|it| place(it).netns_cookie).collect();
        self.failed.retain(|cookie, _| cookies.contains(cookie));
        self.open.retain(|cookie, _| cookies.contains(cookie));
        for wanted in wanted {
            let cookie = place(wanted).netns_cookie;
            let waits = self
                .failed
                .get(&cookie)
                .is_some_and(|(at, _)| at.elapsed() < REOPEN);
            if waits || self.open.contains_key(&cookie) {
                continue;
            }
            match open(wanted) {
                Ok(opened) => {
                    self.open.insert(cookie, opened);
                    self.failed.remove(&cookie);
                }
                Err(error) => {
                    let text = error.to_string();
                    let before = self.failed.insert(cookie, (Instant::now(), text.clone()));
                    if before.is_none_or(|(_, before)| before != text) {
                        complain(cookie, &text);
                    }
                }
            }
        }
        self.open.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use super::*;

    fn place(cookie: u64) -> Place {
        Place {
            handle: "/nowhere".into(),
            netns_cookie: cookie,
            addresses: Vec::new(),
        }
    }

    struct Open(Rc<Cell<u32>>);

    impl Drop for Open {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    #[test]
    fn what_is_wanted_is_open_once_and_a_failure_is_told_once_and_waits() {
        let (mut opened, count) = (Opened::default(), Rc::new(Cell::new(0)));
        let complaints = RefCell::new(Vec::new());
        let tries = Cell::new(0);
        let mut set = |cookies: &[u64]| {
            let places: Vec<Place> = cookies.iter().map(|cookie| place(*cookie)).collect();
            let open = |place: &Place| {
                tries.set(tries.get() + 1);
                if place.netns_cookie == 9 {
                    return Err(io::Error::other("no"));
                }
                count.set(count.get() + 1);
                Ok(Open(count.clone()))
            };
            let complain =
                |cookie, why: &str| complaints.borrow_mut().push((cookie, why.to_owned()));
            opened.set(&places, |place| place, open, complain)
        };
        assert_eq!(set(&[1, 2, 9]), [1, 2].into());
        assert_eq!((set(&[1, 2, 9]), tries.get()), ([1, 2].into(), 3));
        assert_eq!((set(&[2, 3]), count.get()), ([2, 3].into(), 2));
        assert_eq!((set(&[]), count.get()), ([].into(), 0));
        assert_eq!(*complaints.borrow(), [(9, "no".to_owned())]);
    }
}
