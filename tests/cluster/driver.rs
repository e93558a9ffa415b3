//! Cases in pods of a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::conformance::{Client, Driver, Names, Request, Seen, mark};
use harness::wait_for;
use serde_json::Value;

use crate::kubectl::{Kubectl, documents, identity};
use crate::scene::{CLIENT, Scene};
use crate::steady::Steady;

/// How long what was applied may take to be in force: the API server tells within moments, and machines are busy.
const IN_FORCE: Duration = Duration::from_secs(30);

/// A cluster with everything that cases need in it.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) kubectl: Kubectl,
    pub(crate) namespace: String,
    pub(crate) guest: String,
    program: String,
    names: Names,
    /// What the case before applied.
    applied: Vec<Value>,
    round: u32,
}

impl Cluster {
    pub(crate) fn new(kubectl: Kubectl, scene: &Scene, names: Names) -> Self {
        Self {
            kubectl,
            namespace: scene.namespace.clone(),
            guest: scene.guest.clone(),
            program: scene.program().to_owned(),
            names,
            applied: Vec::new(),
            round: 0,
        }
    }

    fn peer(&self, from: Client, words: &[String]) -> Result<String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let words = [&[self.program.as_str()][..], words.as_slice()].concat();
        self.kubectl.exec(self.namespace_of(from), CLIENT, &words)
    }

    fn namespace_of(&self, from: Client) -> &str {
        match from {
            Client::Own => &self.namespace,
            Client::Guest => &self.guest,
        }
    }

    /// Asks once, with names filled in.
    pub(crate) fn get(&self, from: Client, url: &str) -> Result<Seen> {
        let url = self
            .names
            .fill(url)
            .map_err(|name| anyhow::anyhow!("no {name} here"))?;
        let request = Request {
            from,
            ..Request::get(&url)
        };
        self.ask(&request, &url)
    }

    /// Begins to ask without end, each time by a new connection.
    pub(crate) fn steadily(&self, url: &str) -> Result<Steady> {
        let url = self
            .names
            .fill(url)
            .map_err(|name| anyhow::anyhow!("no {name} here"))?;
        let words = [self.program.as_str(), "ask", "--steadily", "--told", &url];
        let call = self
            .kubectl
            .exec_until_told(&self.namespace, CLIENT, &words)?;
        Ok(Steady::new(call))
    }

    /// Waits until an answer is as it has to be.
    pub(crate) fn wait(
        &self,
        what: &str,
        from: Client,
        url: &str,
        is_so: impl Fn(&Seen) -> bool,
    ) -> Result<()> {
        let mut last = Seen::default();
        let waited = wait_for(what, IN_FORCE, || {
            last = self.get(from, url).unwrap_or_default();
            is_so(&last)
        });
        waited.with_context(|| format!("{last:?}"))
    }
}

impl Driver for Cluster {
    fn names(&self) -> &Names {
        &self.names
    }

    fn apply(&mut self, routes: &str) -> Result<()> {
        self.round += 1;
        let host = format!("round-{}", self.round);
        let mark = self
            .names
            .fill(&mark(&host))
            .map_err(|name| anyhow::anyhow!("no {name} here"))?;
        let objects = documents(routes)?;
        let kept: BTreeSet<_> = objects.iter().map(identity).collect();
        let gone: Vec<Value> = self
            .applied
            .iter()
            .filter(|object| !kept.contains(&identity(object)))
            .cloned()
            .collect();
        self.kubectl.delete(&gone)?;
        self.kubectl.apply(&objects)?;
        self.kubectl.apply(&documents(&mark)?)?;
        self.applied = objects;
        for from in [Client::Own, Client::Guest] {
            self.wait(
                "the routes to be in force",
                from,
                "http://<mark>/",
                |seen| seen.field("location").is_some_and(|it| it.contains(&host)),
            )?;
        }
        Ok(())
    }

    fn ask(&self, request: &Request, url: &str) -> Result<Seen> {
        let text = self.peer(request.from, &request.words(url, 1))?;
        serde_json::from_str(text.trim()).with_context(|| text.clone())
    }

    fn spread(&self, request: &Request, url: &str, count: u32) -> Result<BTreeMap<String, u32>> {
        let text = self.peer(request.from, &request.words(url, count))?;
        let answer: Value = serde_json::from_str(text.trim()).with_context(|| text.clone())?;
        ensure!(answer["answers"].is_object(), "{text}");
        Ok(serde_json::from_value(answer["answers"].clone())?)
    }

    fn patience(&self) -> Duration {
        IN_FORCE
    }
}
