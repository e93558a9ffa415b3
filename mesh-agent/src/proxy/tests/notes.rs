//! What was seen of requests and connections, kept for tests.

use std::sync::Mutex;

use http::StatusCode;

use crate::l7::flag::Flag;
use crate::model::workload::WorkloadName;
use crate::proxy::record::{
    Client, Messages, Observer, RelayEnd, RelayRecord, RequestRecord, Times,
};

/// What is kept of a record.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Seen {
    pub(in crate::proxy) path: String,
    pub(in crate::proxy) original: Option<String>,
    pub(in crate::proxy) status: Option<u16>,
    pub(in crate::proxy) flags: Vec<Flag>,
    pub(in crate::proxy) rule: Option<String>,
    pub(in crate::proxy) attempts: u32,
    pub(in crate::proxy) received: u64,
    pub(in crate::proxy) sent: u64,
    pub(in crate::proxy) messages: Option<Messages>,
    pub(in crate::proxy) workload: Option<WorkloadName>,
    pub(in crate::proxy) times: Times,
}

/// Hears of everything, and keeps it.
#[derive(Default)]
pub(in crate::proxy) struct Notes(
    pub(in crate::proxy) Mutex<Vec<Seen>>,
    pub(super) Mutex<Vec<(u16, String)>>,
    pub(in crate::proxy) Mutex<Vec<(RelayEnd, u64, u64)>>,
);

impl Observer for Notes {
    fn is_detailed(&self) -> bool {
        true
    }

    fn request(&self, record: &RequestRecord<'_>) {
        self.0.lock().unwrap().push(Seen {
            path: record.request.target.as_str().to_owned(),
            original: record.original.map(|it| it.0.clone()),
            status: record.status.map(|it| it.as_u16()),
            flags: record.flags.iter().collect(),
            rule: record.rule.map(|it| it.label()),
            attempts: record.attempts,
            received: record.received,
            sent: record.sent,
            messages: record.messages,
            workload: record.workload.map(|it| WorkloadName::clone(it)),
            times: record.times,
        });
    }

    fn relayed(&self, record: &RelayRecord<'_>) {
        let seen = (record.end, record.received, record.sent);
        self.2.lock().unwrap().push(seen);
    }

    fn refused(&self, _: &Client, status: StatusCode, why: &'static str) {
        self.1
            .lock()
            .unwrap()
            .push((status.as_u16(), why.to_owned()));
    }
}
