//! Service ports by number, and numbers by service port: for those who must not wait until the state is brought in line.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::kernel::services::wanted::IpFamily;
use crate::model::balanced::PortId;

/// Names of numbers, kept until a number is given to another: records of ended flows come late. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(in crate::kernel) struct Names(Arc<RwLock<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    ids: HashMap<u32, Arc<PortId>>,
    numbers: HashMap<Arc<PortId>, [u32; 2]>,
}

impl Names {
    /// Returns the service port behind a number.
    pub(in crate::kernel) fn get(&self, number: u32) -> Option<Arc<PortId>> {
        self.read().ids.get(&number).cloned()
    }

    /// Returns the number of a service port where IPv4 (or IPv6) addresses of it are dialled.
    pub(in crate::kernel) fn number(&self, id: &PortId, v4: bool) -> Option<u32> {
        let [four, six] = *self.read().numbers.get(id)?;
        Some(if v4 { four } else { six }).filter(|number| *number != 0)
    }

    /// Names a number.
    pub(super) fn insert(&self, number: u32, family: IpFamily, id: &Arc<PortId>) {
        let mut inner = self.write();
        inner.ids.insert(number, id.clone());
        let [four, six] = inner.numbers.entry(id.clone()).or_default();
        match family {
            IpFamily::V4 => *four = number,
            IpFamily::V6 => *six = number,
        }
    }

    /// Forgets a number, which another is to get.
    pub(super) fn remove(&self, number: u32) {
        let mut inner = self.write();
        let Some(id) = inner.ids.remove(&number) else {
            return;
        };
        let Some(numbers) = inner.numbers.get_mut(&id) else {
            return;
        };
        for own in numbers.iter_mut().filter(|own| **own == number) {
            *own = 0;
        }
        if *numbers == [0, 0] {
            inner.numbers.remove(&id);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // Every writer leaves both maps whole.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::{Protocol, ServiceName};

    fn id(name: &str) -> Arc<PortId> {
        Arc::new(PortId {
            service: ServiceName {
                namespace: "default".to_owned(),
                name: name.to_owned(),
            },
            port: 80,
            protocol: Protocol::Tcp,
        })
    }

    #[test]
    fn a_number_is_known_both_ways_until_another_gets_it() {
        let names = Names::default();
        let (web, db) = (id("web"), id("db"));
        names.insert(1, IpFamily::V4, &web);
        names.insert(2, IpFamily::V6, &web);
        assert_eq!(
            (names.number(&web, true), names.number(&web, false)),
            (Some(1), Some(2))
        );
        names.remove(1);
        names.insert(1, IpFamily::V4, &db);
        assert_eq!(names.get(1), Some(db.clone()));
        assert_eq!(
            (names.number(&web, true), names.number(&db, true)),
            (None, Some(1))
        );
        names.remove(2);
        names.remove(2);
        assert_eq!((names.get(2), names.number(&web, false)), (None, None));
        assert_eq!(names.read().numbers.len(), 1);
    }
}
