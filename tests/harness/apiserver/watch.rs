//! Watches.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Shared;
use super::http::Stream;
use super::list::shown;
use super::query::{Request, Selector};
use super::state::{Event, Kind, State};
use super::status::{self, Failure};

/// How long a watch lasts that does not say: the least that a real server gives it.
const TIME: Duration = Duration::from_secs(1800);

/// A watch that is allowed.
#[derive(Debug)]
pub(super) struct Watch {
    kind: Kind,
    selector: Selector,
    bookmarks: bool,
    /// Whether the first events are a list with an end.
    is_list: bool,
    /// What was seen already; `None`: nothing, so that what is there is told first.
    from: Option<u64>,
    time: Duration,
}

impl Watch {
    /// Returns the watch that is asked for.
    pub(super) fn new(
        state: &State,
        kind: &Kind,
        namespace: Option<&str>,
        request: &Request,
    ) -> Result<Self, Failure> {
        let wants_list = request.parameter("sendInitialEvents") == "true"
            && !state.faults.overlooks_streaming_lists;
        if wants_list && request.parameter("resourceVersionMatch") != "NotOlderThan" {
            return Err(status::streaming_needs_match());
        }
        if wants_list && state.faults.no_streaming_lists {
            return Err(status::no_streaming());
        }
        let from = match request.parameter("resourceVersion") {
            "" | "0" => None,
            text => Some(text.parse().map_err(|_| status::malformed_watch(text))?),
        };
        let seconds = request.parameter("timeoutSeconds").parse();
        Ok(Self {
            kind: kind.clone(),
            selector: Selector::of(request, namespace),
            bookmarks: request.parameter("allowWatchBookmarks") == "true",
            is_list: wants_list,
            from,
            time: seconds.map_or(TIME, Duration::from_secs),
        })
    }

    /// Tells until the time is over, or the connections are to end.
    pub(super) fn tell(
        &self,
        shared: &Shared,
        request: &Request,
        stream: &mut Stream,
        epoch: u64,
    ) -> io::Result<()> {
        let end = Instant::now() + self.time;
        let mut state = shared.lock();
        let (bookmarks, ended) = (state.bookmarks, state.ended);
        let mut told_bookmarks = bookmarks;
        let mut lines: Vec<Value> = Vec::new();
        if let Some(wanted) = self.from.filter(|_| self.is_list)
            && wanted > state.version
        {
            let current = state.version;
            drop(state);
            let error = status::too_large_event(wanted, current);
            return stream.line(&json!({"type": "ERROR", "object": error}));
        }
        if let Some(from) = self
            .from
            .filter(|from| !self.is_list && *from < state.compacted)
        {
            let oldest = state.compacted;
            drop(state);
            let error = status::expired_event(from, oldest);
            return stream.line(&json!({"type": "ERROR", "object": error}));
        }
        let mut seen = match self.from {
            Some(from) if !self.is_list => from,
            _ => {
                lines.extend(self.initial(&state, request));
                state.version
            }
        };
        loop {
            let first = state.events.partition_point(|event| event.version <= seen);
            for event in &state.events[first..] {
                lines.extend(self.event(event, request));
                seen = event.version;
            }
            if self.bookmarks && state.bookmarks != told_bookmarks {
                told_bookmarks = state.bookmarks;
                lines.push(self.bookmark(seen.max(state.version), false));
            }
            let is_over = state.epoch != epoch || state.ended != ended;
            if lines.is_empty() && !is_over && Instant::now() < end {
                let left = end.saturating_duration_since(Instant::now());
                state = shared.wait(state, left);
                continue;
            }
            let is_away = state.epoch != epoch;
            drop(state);
            if is_away {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            for line in lines.drain(..) {
                stream.line(&line)?;
            }
            if is_over || Instant::now() >= end {
                return Ok(());
            }
            state = shared.lock();
        }
    }

    fn initial(&self, state: &State, request: &Request) -> Vec<Value> {
        let objects = state.objects.get(&self.kind.word).into_iter().flatten();
        let selected = objects.filter(|(_, object)| self.selector.selects(object));
        let mut lines: Vec<Value> = selected
            .map(|(_, object)| self.line("ADDED", object, request))
            .collect();
        if self.is_list && self.bookmarks {
            lines.push(self.bookmark(state.version, true));
        }
        lines
    }

    /// Returns what an event is to this watch: objects that are not selected any more are gone.
    fn event(&self, event: &Event, request: &Request) -> Option<Value> {
        if event.kind != self.kind.word {
            return None;
        }
        let selected = |object: &Option<Arc<Value>>| {
            object
                .clone()
                .filter(|object| self.selector.selects(object))
        };
        let (before, now) = (selected(&event.before), selected(&event.now));
        match (before, now) {
            (None, Some(now)) => Some(self.line("ADDED", &now, request)),
            (Some(_), Some(now)) => Some(self.line("MODIFIED", &now, request)),
            (Some(before), None) => {
                let mut last = Value::clone(&before);
                last["metadata"]["resourceVersion"] = event.version.to_string().into();
                Some(self.line("DELETED", &Arc::new(last), request))
            }
            (None, None) => None,
        }
    }

    fn line(&self, sort: &str, object: &Arc<Value>, request: &Request) -> Value {
        json!({"type": sort, "object": shown(object, &self.kind, request, true)})
    }

    fn bookmark(&self, version: u64, ends_list: bool) -> Value {
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if ends_list {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let mut object = json!({"kind": self.kind.word, "apiVersion": self.kind.api_version(), "metadata": metadata});
        if !self.kind.is_custom {
            object["spec"] = json!({});
            object["status"] = json!({});
        }
        json!({"type": "BOOKMARK", "object": object})
    }
}
