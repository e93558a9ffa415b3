//! How the API server stands, for people.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, VecDeque};

use jiff::Timestamp;

use super::client::Api;
use super::discovery::Found;
use super::engine::Followed;
use super::limits;
use super::role::Role;
use super::store::{Store, Watch};
use super::target::Target;
use super::trouble::Trouble;
use crate::config::key::Kind;
use crate::model::api::{ApiKind, ApiState, ApiStatus, WatchState};

/// What is told of the API server.
#[derive(Debug)]
pub(super) struct Report {
    status: ApiStatus,
    /// Whether everything was told since the agent started.
    has_all: bool,
    unreadable: VecDeque<String>,
    not_served: Vec<ApiKind>,
    kinds_trouble: Option<Trouble>,
    /// What was logged last of each target, so that the hundredth failure is not logged like the first.
    logged: HashMap<Target, String>,
}

impl Report {
    pub(super) fn new(api: &Api) -> Self {
        Self {
            status: ApiStatus {
                server: api.server().to_owned(),
                state: ApiState::Starting,
                since: Timestamp::now(),
                why: None,
                last_sync: None,
                from_disk: None,
                requests: 0,
                kinds: Vec::new(),
                unreadable: Vec::new(),
            },
            has_all: false,
            unreadable: VecDeque::new(),
            not_served: Vec::new(),
            kinds_trouble: None,
            logged: HashMap::new(),
        }
    }

    /// Returns what was told last.
    pub(super) fn status(&self) -> ApiStatus {
        self.status.clone()
    }

    /// Notes that what runs comes from the disk.
    pub(super) fn restored(&mut self, written: Timestamp) {
        self.status.from_disk = Some(written);
        self.status.last_sync = Some(written);
    }

    /// Notes that everything was told; returns whether that is so for the first time.
    pub(super) fn all_told(&mut self) -> bool {
        self.status.from_disk = None;
        !std::mem::replace(&mut self.has_all, true)
    }

    /// Returns whether everything was told since the agent started.
    pub(super) fn has_all(&self) -> bool {
        self.has_all
    }

    /// Notes what keeps a target from being watched.
    pub(super) fn trouble(&mut self, target: &Target, trouble: &Trouble) {
        let last = self.logged.entry(target.clone()).or_default();
        if *last != trouble.message {
            trouble.message.clone_into(last);
            let kind = target.kind.word();
            tracing::warn!(kind, scope = %target.words(), error = %trouble, "not watched; what was told last holds, trying again");
        }
    }

    /// Notes what came and cannot be read.
    pub(super) fn unreadable(&mut self, target: &Target, why: &str) {
        let text = format!("{}: {why}", target.kind.word());
        tracing::warn!(
            event = text,
            "the API server sent what cannot be read; it is passed over"
        );
        self.unreadable.push_back(text);
        if self.unreadable.len() > limits::UNREADABLE {
            self.unreadable.pop_front();
        }
    }

    /// Notes whether it could be found out which kinds there are.
    pub(super) fn kinds_trouble(&mut self, trouble: Option<Trouble>) {
        self.kinds_trouble = trouble;
    }

    /// Notes the optional kinds that cannot be read.
    pub(super) fn not_served(&mut self, found: &BTreeMap<Kind, Found>, role: &Role) {
        let kinds = Target::optional_for(role).filter_map(|kind| {
            let why = match found.get(&kind) {
                Some(Found::Served(_)) => return None,
                None => "the API server does not have it".to_owned(),
                Some(Found::OtherVersions(versions)) => format!(
                    "the API server has it as {}, of which this version of the agent reads none",
                    versions.join(", ")
                ),
            };
            Some(ApiKind {
                kind: kind.word().to_owned(),
                version: kind.version().to_owned(),
                scope: "all".to_owned(),
                state: WatchState::NotServed,
                why: Some(why),
                objects: 0,
            })
        });
        self.not_served = kinds.collect();
    }

    /// Returns how everything stands now.
    pub(super) fn update(
        &mut self,
        followed: &BTreeMap<Watch, Followed>,
        store: &Store,
        api: &Api,
    ) -> ApiStatus {
        let watched = followed.iter().map(|(watch, followed)| ApiKind {
            kind: followed.target.kind.word().to_owned(),
            version: followed.target.version.clone(),
            scope: followed.target.words().into_owned(),
            state: followed.state,
            why: followed.trouble.as_ref().map(|it| it.message.clone()),
            objects: store.count(*watch),
        });
        self.status.kinds = watched.chain(self.not_served.iter().cloned()).collect();
        self.logged.retain(|target, _| {
            let followed = followed.get(&(target.kind, target.scope));
            followed.is_some_and(|followed| followed.state != WatchState::Watching)
        });
        let mut behind = followed
            .values()
            .filter(|it| it.state != WatchState::Watching)
            .peekable();
        let state = match (self.has_all, behind.peek().is_some()) {
            (false, _) => ApiState::Starting,
            (true, true) => ApiState::Behind,
            (true, false) => ApiState::Synced,
        };
        let trouble = behind.find_map(|followed| followed.trouble.as_ref());
        let trouble = trouble.or(self.kinds_trouble.as_ref());
        self.status.why = match state {
            ApiState::Synced => None,
            ApiState::Starting | ApiState::Behind => trouble.map(|it| it.message.clone()),
        };
        let now = Timestamp::now();
        if state != self.status.state {
            if state == ApiState::Synced {
                tracing::info!("synced with the API server");
            }
            self.status.since = now;
            self.status.state = state;
        }
        if state == ApiState::Synced {
            self.status.last_sync = Some(now);
        }
        self.status.requests = api.requests();
        self.status.unreadable = self.unreadable.iter().cloned().collect();
        self.status.clone()
    }
}
