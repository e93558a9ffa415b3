//! Follows one set of objects: lists it, watches it, and begins again where that ends, for ever.
//!
//! A list is streamed where the server can do that (Kubernetes 1.32 and later): it comes from the server's memory, object by object, and goes
//! on as a watch. Else it is read in pages. Whatever breaks, the version that was seen last is where the next watch begins; only
//! a server that does not know that version any more is asked for a list again. Nothing is taken away while that runs: what is
//! gone is known when the list has ended.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::client::Api;
use super::event::{self, Event, Head, Page};
use super::keep::{self, Keep};
use super::limits;
use super::lines::{Lines, Next};
use super::store::{Object, Watch};
use super::target::Target;
use super::trouble::{Sort, Trouble};

/// What is read. Protobuf is smaller, but custom resources have none.
pub(super) const JSON: &str = "application/json";

/// What a watch tells.
#[derive(Debug)]
pub(super) enum What {
    /// A list begins.
    Begin,
    /// An object is there.
    Set(Object),
    /// An object is gone.
    Gone { namespace: String, name: String },
    /// The list ended. Where something in it could not be read, nobody knows what is gone.
    End { complete: bool },
    /// The server tells of changes from now on.
    Watching,
    /// It does not, and will be asked again.
    Trouble(Trouble),
    /// Something came that cannot be read; it is passed over.
    Unreadable(String),
}

/// Follows a target.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) api: Arc<Api>,
    pub(super) target: Target,
    /// What is kept of each object.
    pub(super) keep: &'static Keep,
    pub(super) told: mpsc::Sender<(Watch, What)>,
    /// Ends pauses.
    pub(super) wake: Arc<Notify>,
    pub(super) backoff: Backoff,
    /// Whether the next list is read in pages, because the last one that was to be streamed did not come.
    pub(super) pages: bool,
}

/// Why a step ended early.
enum Ended {
    Trouble(Trouble),
    /// To be tried in another way, now.
    Otherwise,
    /// Nobody listens any more.
    Unheard,
}

impl From<Trouble> for Ended {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Follower {
    /// Follows until nobody listens. `delay` is when to begin.
    pub(super) async fn run(mut self, delay: Duration) {
        self.pause(delay).await;
        // What was seen last; `None` where a list is needed.
        let mut version = None;
        loop {
            let begun = Instant::now();
            let ended = self.step(&mut version).await;
            if begun.elapsed() >= limits::LASTED {
                self.backoff.reset();
            }
            let pause = match ended {
                Ok(()) if begun.elapsed() >= limits::LASTED => {
                    self.backoff.between(Duration::ZERO, limits::PAUSE)
                }
                Ok(()) => self.backoff.next(None),
                Err(Ended::Otherwise) => continue,
                Err(Ended::Unheard) => return,
                Err(Ended::Trouble(trouble)) => {
                    if trouble.sort == Sort::Expired {
                        version = None;
                    }
                    let pause = self.backoff.next(trouble.retry_after);
                    if self.tell(What::Trouble(trouble)).await.is_err() {
                        return;
                    }
                    pause
                }
            };
            self.pause(pause).await;
        }
    }

    async fn step(&mut self, version: &mut Option<String>) -> Result<(), Ended> {
        if version.is_none() {
            if !self.api.pages() && !std::mem::take(&mut self.pages) {
                return self.watch(version, true).await;
            }
            *version = Some(self.list().await?);
        }
        self.watch(version, false).await
    }

    /// Watches from a version on, or from a list on that comes first.
    async fn watch(
        &mut self,
        version: &mut Option<String>,
        mut is_list: bool,
    ) -> Result<(), Ended> {
        let seconds = self.backoff.between(limits::WATCH, 2 * limits::WATCH);
        let seconds = seconds.as_secs().to_string();
        let mut parameters = vec![
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", &seconds),
        ];
        let from = version.clone().unwrap_or_default();
        if is_list {
            parameters.push(("sendInitialEvents", "true"));
            parameters.push(("resourceVersionMatch", "NotOlderThan"));
        } else {
            parameters.push(("resourceVersion", &from));
        }
        let path = self.target.path(&parameters);
        let answer = match self.api.get(&path, JSON, None).await {
            Err(trouble) if is_list && trouble.sort == Sort::Refused => {
                self.api.use_pages();
                return Err(Ended::Otherwise);
            }
            answer => answer?,
        };
        let answer = answer.ok_or_else(|| Trouble::new(Sort::Garbled, "304 to a watch"))?;
        self.tell(if is_list { What::Begin } else { What::Watching })
            .await?;
        let keep = self.keep;
        let mut complete = true;
        let mut lines = Lines::new(answer.body);
        loop {
            let patience = match is_list {
                true => limits::LIST_SILENCE,
                false => limits::SILENCE,
            };
            let line = match lines.next(patience).await? {
                Next::Line(line) => line,
                Next::End if is_list => {
                    let text = "the list ended before all of it was told";
                    return Err(Trouble::new(Sort::Away, text).into());
                }
                Next::Silence if is_list => {
                    self.pages = true;
                    return Err(Ended::Otherwise);
                }
                Next::End | Next::Silence => return Ok(()),
            };
            let (what, seen) = match Event::read(line) {
                Ok(Event::Set(head, object)) => set(&head, object, keep),
                Ok(Event::Gone(head)) => gone(head),
                Ok(Event::Bookmark { version, ends_list }) => {
                    let ends = is_list && ends_list;
                    is_list &= !ends;
                    (ends.then_some(What::End { complete }), version)
                }
                Ok(Event::Error(trouble)) => return Err(trouble.into()),
                Err(error) => (Some(What::Unreadable(error.to_string())), String::new()),
            };
            complete &= !matches!(what, Some(What::Unreadable(_)));
            let is_end = matches!(what, Some(What::End { .. }));
            if let Some(what) = what {
                self.tell(what).await?;
            }
            if is_end {
                self.tell(What::Watching).await?;
            }
            // A list that breaks off is begun again: the versions in it are in no order.
            if !is_list && !seen.is_empty() {
                *version = Some(seen);
            }
        }
    }

    /// Lists page by page, and returns the version that the whole list is of.
    async fn list(&mut self) -> Result<String, Ended> {
        let keep = self.keep;
        let limit = limits::PAGE.to_string();
        let mut next = String::new();
        let mut complete = true;
        let mut has_begun = false;
        loop {
            let mut parameters = vec![("limit", limit.as_str())];
            if !next.is_empty() {
                parameters.push(("continue", &next));
            }
            let text = self.api.text(&self.target.path(&parameters)).await?;
            let page: Page<'_> = serde_json::from_slice(&text).map_err(|error| {
                Trouble::new(Sort::Garbled, format!("the list cannot be read: {error}"))
            })?;
            if !has_begun {
                has_begun = true;
                self.tell(What::Begin).await?;
            }
            for object in page.items.iter().flatten() {
                let what = match event::head(object) {
                    Ok(head) => set(&head, object, keep).0,
                    Err(error) => Some(What::Unreadable(error.to_string())),
                };
                complete &= !matches!(what, Some(What::Unreadable(_)));
                if let Some(what) = what {
                    self.tell(what).await?;
                }
            }
            next = page.metadata.next;
            if next.is_empty() {
                self.tell(What::End { complete }).await?;
                return Ok(page.metadata.version);
            }
        }
    }

    async fn tell(&self, what: What) -> Result<(), Ended> {
        let watch = (self.target.kind, self.target.scope);
        let sent = self.told.send((watch, what)).await;
        sent.map_err(|_| Ended::Unheard)
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            () = self.wake.notified() => {}
        }
    }
}

/// Returns what an object means, and its version.
fn set(head: &Head<'_>, object: &RawValue, keep: &Keep) -> (Option<What>, String) {
    let what = match keep::keep(object, keep) {
        Ok(text) => What::Set(Object {
            namespace: head.namespace.to_string(),
            name: head.name.to_string(),
            version: head.version.parse().unwrap_or(0),
            text,
        }),
        Err(error) => What::Unreadable(format!("{}: {error}", head.name)),
    };
    (Some(what), head.version.to_string())
}

fn gone(head: Head<'_>) -> (Option<What>, String) {
    let what = What::Gone {
        namespace: head.namespace.into_owned(),
        name: head.name.into_owned(),
    };
    (Some(what), head.version.into_owned())
}
