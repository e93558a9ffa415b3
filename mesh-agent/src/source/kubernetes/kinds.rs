//! Looks which of the optional kinds the server has, now and whenever that may have changed.
//!
//! Definitions of custom resources are watched, by their names only, so that a new kind is followed within seconds at the cost
//! of one more watch. An agent that may not do that asks once a minute, which costs an answer without body.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::backoff::Backoff;
use super::client::{self, Api};
use super::discovery::{self, Found};
use super::event::{Event, Page};
use super::limits;
use super::lines::{Lines, Next};
use super::target::Target;
use super::trouble::{Sort, Trouble};
use crate::chance::Chance;
use crate::config::key::Kind;

/// Only names are asked for.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// What a look found.
pub(super) type Kinds = Result<BTreeMap<Kind, Found>, Trouble>;

/// What was found last, and how the server tells whether it still holds.
#[derive(Debug, Default)]
struct Known {
    etag: Option<String>,
    found: BTreeMap<Kind, Found>,
}

/// Looks for kinds.
#[derive(Debug)]
pub(super) struct Looker {
    pub(super) api: Arc<Api>,
    pub(super) told: mpsc::Sender<Kinds>,
    /// Told by whoever finds a kind missing.
    pub(super) look: Arc<Notify>,
    /// Told when definitions change: the kinds follow some seconds later.
    pub(super) defined: Arc<Notify>,
    pub(super) backoff: Backoff,
}

impl Looker {
    /// Looks until nobody listens.
    pub(super) async fn run(mut self) {
        if self.wait_until_ready().await.is_err() {
            return;
        }
        let definitions = Definitions {
            api: self.api.clone(),
            begun: self.look.clone(),
            changed: self.defined.clone(),
        };
        tokio::select! {
            () = self.look() => {}
            () = definitions.follow(Backoff::new(Chance::random())) => {}
        }
    }

    /// A server that starts does not know all kinds yet.
    async fn wait_until_ready(&mut self) -> Result<(), ()> {
        loop {
            let trouble = match self.api.text("/readyz").await {
                Err(trouble) if matches!(trouble.sort, Sort::Away | Sort::Failing) => trouble,
                // Who may not ask goes on without.
                Ok(_) | Err(_) => return Ok(()),
            };
            let pause = self.backoff.next(trouble.retry_after);
            self.told.send(Err(trouble)).await.map_err(|_| ())?;
            self.pause(pause).await;
        }
    }

    async fn look(&mut self) {
        let mut known = Known::default();
        let mut tries = 0;
        loop {
            let asked = self.ask(&mut known).await;
            let pause = match &asked {
                Ok(is_less) => {
                    self.backoff.reset();
                    self.next(*is_less, &mut tries)
                }
                Err(trouble) => self.backoff.next(trouble.retry_after),
            };
            let found = asked.map(|_| known.found.clone());
            if self.told.send(found).await.is_err() {
                return;
            }
            if self.pause(pause).await {
                tries = limits::DISCOVERY_TRIES;
            }
        }
    }

    /// Returns when to look again.
    fn next(&mut self, is_less: bool, tries: &mut u32) -> Duration {
        if is_less {
            return limits::DISCOVERY_AGAIN;
        }
        if *tries > 0 {
            *tries -= 1;
            return limits::PAUSE * (1 << (limits::DISCOVERY_TRIES - *tries));
        }
        let period = match self.api.watches_definitions() {
            true => limits::DISCOVERY_WATCHED,
            false => limits::DISCOVERY,
        };
        self.backoff.between(period, 2 * period)
    }

    /// Brings what is known up to date, and returns whether kinds are gone since the last look.
    async fn ask(&self, known: &mut Known) -> Result<bool, Trouble> {
        let etag = known.etag.as_deref();
        let answer = self.api.get(discovery::PATH, discovery::ACCEPT, etag);
        let Some(answer) = answer.await? else {
            return Ok(false);
        };
        let etag = answer.etag;
        let text = client::whole(answer.body).await?;
        let found = discovery::found(&text).map_err(|error| {
            let message = format!("the list of kinds cannot be read: {error}");
            Trouble::new(Sort::Garbled, message)
        })?;
        let is_less = known.found.keys().any(|kind| !found.contains_key(kind));
        *known = Known { etag, found };
        Ok(is_less)
    }

    /// Returns whether definitions changed; early if so, or if somebody asked for a look.
    async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            () = self.defined.notified() => true,
            () = self.look.notified() => false,
            () = sleep(pause) => false,
        }
    }
}

/// Watches definitions of custom resources.
#[derive(Debug)]
struct Definitions {
    api: Arc<Api>,
    /// Told when a watch begins.
    begun: Arc<Notify>,
    /// Told when a definition changes.
    changed: Arc<Notify>,
}

impl Definitions {
    async fn follow(&self, mut backoff: Backoff) {
        loop {
            let trouble = self.watch().await.err();
            self.api.set_watches_definitions(false);
            let pause = match trouble {
                None => {
                    backoff.reset();
                    backoff.next(None)
                }
                // Rights are hardly given at once: until then kinds are looked for by time.
                Some(trouble) if matches!(trouble.sort, Sort::Forbidden | Sort::NotServed) => {
                    tracing::debug!(error = %trouble, "definitions of custom resources are not watched");
                    backoff.between(limits::DISCOVERY_WATCHED, 2 * limits::DISCOVERY_WATCHED)
                }
                Some(trouble) => backoff.next(trouble.retry_after),
            };
            sleep(pause).await;
        }
    }

    /// Watches from now on. Whoever begins looks at the kinds themselves once, for what happened before.
    async fn watch(&self) -> Result<(), Trouble> {
        let first = format!("{DEFINITIONS}?limit=1");
        let answer = self.api.get(&first, METADATA_LIST, None);
        let garbled = || Trouble::new(Sort::Garbled, "definitions cannot be read");
        let text = client::whole(answer.await?.ok_or_else(garbled)?.body).await?;
        let page: Page<'_> = serde_json::from_slice(&text).map_err(|_| garbled())?;
        let seconds = limits::WATCH.as_secs();
        let path = format!(
            "{DEFINITIONS}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            page.metadata.version
        );
        let answer = self.api.get(&path, METADATA, None).await?;
        let mut lines = Lines::new(answer.ok_or_else(garbled)?.body);
        self.api.set_watches_definitions(true);
        self.begun.notify_one();
        loop {
            let line = match lines.next(limits::SILENCE).await? {
                Next::Line(line) => line,
                Next::End | Next::Silence => return Ok(()),
            };
            match Event::read(line) {
                Ok(Event::Set(head, _) | Event::Gone(head)) if is_ours(&head.name) => {
                    self.changed.notify_one();
                }
                Ok(Event::Error(trouble)) => return Err(trouble),
                Ok(Event::Set(..) | Event::Gone(_) | Event::Bookmark { .. }) | Err(_) => {}
            }
        }
    }
}

/// Returns whether a definition, such as `httproutes.gateway.networking.k8s.io`, is of a group of which kinds are read.
fn is_ours(name: &str) -> bool {
    let Some((_, group)) = name.split_once('.') else {
        return false;
    };
    Target::optional().any(|kind| {
        let version = kind.version().split_once('/');
        version.is_some_and(|(of, _)| of == group)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_definitions_of_groups_that_are_read_count() {
        assert!(is_ours("httproutes.gateway.networking.k8s.io"));
        assert!(is_ours("authorizationpolicies.underpass.dev"));
        assert!(!is_ours("certificates.cert-manager.io"));
        assert!(!is_ours("gateway.networking.k8s.io"));
    }
}
