//! Asks for the lease and renews it, and says at each moment whether this process leads.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::chance::Chance;
use crate::controller::lease::{Candidate, Step};
use crate::controller::outcome;
use crate::controller::rights::Rights;
use crate::controller::told::Told;
use crate::settings::controller::LeaseTimes;
use crate::source::kubernetes::write::{Form, WriteError, Writer};
use crate::telemetry::metrics::controller::{Counts, Outcome, Sort};

/// Name of the lease.
const LEASE: &str = "underpass-controller";

/// What it takes to lead, and to see who does.
const LEASES: &str = "create, get and update leases";

/// Pauses of those who do not lead are up to this much longer, so that they do not ask together.
const JITTER: f64 = 1.2;

/// What to do for the lease.
pub(super) struct Elector {
    writer: Arc<Writer>,
    candidate: Candidate,
    leases: String,
    times: LeaseTimes,
    until: watch::Sender<Option<Instant>>,
    chance: Chance,
    told: Arc<Told>,
    rights: Arc<Rights>,
    counts: Arc<Counts>,
}

/// Whether this process leads.
#[derive(Clone, Debug)]
pub(super) struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// Returns whether this process leads now. Looks at the clock: a process that slept too long does not, whatever it missed.
    pub(super) fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until this process leads. Never returns where nobody asks for the lease any more.
    pub(super) async fn held(&mut self) {
        let is_held = |until: &Option<Instant>| until.is_some_and(|it| Instant::now() < it);
        if self.0.wait_for(is_held).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until this process does not lead.
    pub(super) async fn lost(&mut self) {
        loop {
            let until = *self.0.borrow_and_update();
            let Some(until) = until.filter(|until| Instant::now() < *until) else {
                return;
            };
            tokio::select! {
                () = sleep_until(until) => {}
                changed = self.0.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }
}

impl Elector {
    pub(super) fn new(
        writer: Arc<Writer>,
        namespace: &str,
        identity: &str,
        times: LeaseTimes,
        told: Arc<Told>,
        rights: Arc<Rights>,
        counts: Arc<Counts>,
    ) -> (Self, Leadership) {
        let (until, leadership) = watch::channel(None);
        let elector = Self {
            writer,
            candidate: Candidate::new(namespace, LEASE, identity, times.duration),
            leases: format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"),
            times,
            until,
            chance: Chance::random(),
            told,
            rights,
            counts,
        };
        (elector, Leadership(leadership))
    }

    /// Asks and renews until told to stop, and lets the lease go then.
    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        loop {
            let round = async {
                self.round().await;
                let pause = self.pause();
                sleep(pause).await;
            };
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => break,
                () = round => {}
            }
        }
        self.release().await;
    }

    /// Tries once to have the lease.
    async fn round(&mut self) {
        let led = self.until.borrow().is_some();
        // What is written now is seen by others no earlier than now.
        let begun = Instant::now();
        let tried = timeout(self.times.renew_deadline / 2, self.attempt()).await;
        let tried = tried.unwrap_or_else(|_| {
            let message = "no answer in time".to_owned();
            let after = None;
            Err(WriteError::Later { message, after })
        });
        match tried {
            Ok(None) => {
                self.rights.have(Sort::Lease, LEASES);
                self.told.clear(Sort::Lease.word());
                if !led {
                    tracing::info!("this controller leads now");
                }
                let until = begun + self.times.renew_deadline;
                self.until.send_replace(Some(until));
            }
            Ok(Some(holder)) => {
                self.rights.have(Sort::Lease, LEASES);
                self.told.clear(Sort::Lease.word());
                if led {
                    tracing::warn!(
                        holder,
                        "another controller leads now; nothing is written any more"
                    );
                }
                self.until.send_replace(None);
            }
            Err(error) => {
                self.counts.wrote(Sort::Lease, outcome(&error));
                if let WriteError::Forbidden(message) = &error {
                    self.rights.lack(Sort::Lease, LEASES, message);
                }
                self.told.tell(
                    Sort::Lease.word(),
                    &format!("the lease `{LEASE}` cannot be had: {error}"),
                );
                let is_over = self
                    .until
                    .borrow()
                    .is_some_and(|until| Instant::now() >= until);
                if is_over {
                    tracing::warn!(
                        "the lease was not renewed in time; nothing is written any more"
                    );
                    self.until.send_replace(None);
                }
            }
        }
        self.counts.lead(self.until.borrow().is_some());
    }

    /// Returns who else leads, or `None` where it is this process.
    async fn attempt(&mut self) -> Result<Option<String>, WriteError> {
        if self.candidate.is_ours() {
            // As long as nobody else touches it, one request renews it.
            match self.write().await {
                Err(WriteError::Conflict(_) | WriteError::Gone(_)) => {}
                other => return other,
            }
        }
        self.read().await?;
        match self.write().await {
            // Another replica was faster, as when both begin: it is seen now.
            Err(WriteError::Conflict(_) | WriteError::Exists(_)) => {
                self.read().await?;
                self.write().await
            }
            other => other,
        }
    }

    async fn read(&mut self) -> Result<(), WriteError> {
        let path = format!("{}/{LEASE}", self.leases);
        let lease = match self.writer.get(&path).await {
            Ok(text) => Some(parse(&text)?),
            Err(WriteError::Gone(_)) => None,
            Err(error) => return Err(error),
        };
        self.candidate.see(lease, Instant::now());
        Ok(())
    }

    async fn write(&mut self) -> Result<Option<String>, WriteError> {
        let (method, path, lease) = match self.candidate.step(Instant::now(), Timestamp::now()) {
            Step::Wait(holder) => return Ok(Some(holder)),
            Step::Create(lease) => (Method::POST, self.leases.clone(), lease),
            Step::Take(lease) => (Method::PUT, format!("{}/{LEASE}", self.leases), lease),
        };
        let sent = self
            .writer
            .write(method, &path, Form::Object, lease.to_string());
        let lease = parse(&sent.await?)?;
        self.counts.wrote(Sort::Lease, Outcome::Done);
        self.candidate.see(Some(lease), Instant::now());
        Ok(None)
    }

    fn pause(&mut self) -> Duration {
        let retry = self.times.retry;
        match self.until.borrow().is_some() {
            true => retry,
            false => retry + retry.mul_f64(JITTER * self.chance.unit()),
        }
    }

    /// Lets the lease go, if it is ours.
    async fn release(mut self) {
        // Nobody writes from here on.
        self.until.send_replace(None);
        self.counts.lead(false);
        // Else it ends by itself.
        match timeout(self.times.retry, self.let_go()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to let the lease go"),
            Err(_) => tracing::warn!("failed to let the lease go: no answer in time"),
        }
    }

    async fn let_go(&mut self) -> Result<(), WriteError> {
        // A renewal may have been on its way.
        self.read().await?;
        let Some(lease) = self.candidate.release(Timestamp::now()) else {
            return Ok(());
        };
        let path = format!("{}/{LEASE}", self.leases);
        let sent = self
            .writer
            .write(Method::PUT, &path, Form::Object, lease.to_string());
        sent.await?;
        tracing::info!("let the lease go");
        Ok(())
    }
}

fn parse(text: &[u8]) -> Result<Value, WriteError> {
    serde_json::from_slice(text).map_err(|error| WriteError::Later {
        message: format!("the lease cannot be read: {error}"),
        after: None,
    })
}
