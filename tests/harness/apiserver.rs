//! A small Kubernetes API server: lists, watches, discovery and mistakes as a real one has them, and breakdowns on demand.
//!
//! What it answers was checked against recordings of a real server of Kubernetes 1.36 (`tests/kubernetes/transcripts.rs`).
//! It keeps objects as they are given and validates nothing, so that it can serve what no real server would. What clients write,
//! it takes as far as a controller writes: leases, events, taints, and statuses, with versions, field managers and rights. In a cluster that has
//! nodes ([`State::has_nodes`]) it takes whole objects too, as `kubectl apply` sends them.

mod apply;
pub mod chaos;
mod discovery;
mod exec;
mod faults;
mod http;
pub mod large;
mod list;
pub mod objects;
mod openapi;
mod place;
mod query;
mod rights;
mod state;
mod status;
mod watch;
mod whole;
mod write;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::{Shutdown, shutdown};
use serde_json::Value;

pub use discovery::CLUSTER_WIDE;
pub use exec::Exec;
pub use faults::{Chunks, Faults};
pub use rights::{Account, Rule};
pub use state::{Asked, Kind, State, builtin};
pub use whole::now;

/// The token that the server knows.
pub const TOKEN: &str = "a-token-of-a-service-account";

/// An API server on loopback. Dropping it ends it and all its connections.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: Mutex<Option<TcpListener>>,
}

/// What connections share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and wakes whoever waits for one.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits for a change, for a time at most.
    fn wait<'s>(&self, state: MutexGuard<'s, State>, most: Duration) -> MutexGuard<'s, State> {
        let waited = self.changed.wait_timeout(state, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl ApiServer {
    /// Starts a server that has the kinds of Kubernetes itself, and no object.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new()),
            changed: Condvar::new(),
        });
        let server = Self {
            shared,
            address,
            listener: Mutex::new(None),
        };
        server.serve(listener)?;
        Ok(server)
    }

    /// Returns where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the address where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a kubeconfig for this server, and returns where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, dir: &Path) -> Result<PathBuf> {
        self.kubeconfig_of(dir, TOKEN)
    }

    /// Writes a kubeconfig for this server with a token, and returns where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_of(&self, dir: &Path, token: &str) -> Result<PathBuf> {
        let url = self.url();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: '{url}'}}}}]\n\
             users: [{{name: test, user: {{token: {token}}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n"
        );
        let file = dir.join(format!("kubeconfig-{token}"));
        std::fs::write(&file, text).context("failed to write a kubeconfig")?;
        Ok(file)
    }

    /// Changes whatever there is.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.shared.change(change)
    }

    /// Creates an object, or replaces it. Its kind has to be there.
    pub fn set(&self, object: Value) {
        self.change(|state| state.set(object));
    }

    /// Deletes an object, if it is there.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.change(|state| state.delete(kind, namespace, name));
    }

    /// Says what is executed in a pod, by its namespace and name, and with which words. Of pods that it does not know there is
    /// nothing.
    pub fn on_exec(&self, exec: impl Fn(&str, &str, &[String]) -> Option<Exec> + Send + 'static) {
        let exec =
            move |namespace: &str, pod: &str, words: &[String], _| exec(namespace, pod, words);
        self.on_any_exec(exec);
    }

    /// The same, told as well whether it reads what the client sends.
    pub fn on_any_exec(
        &self,
        exec: impl Fn(&str, &str, &[String], bool) -> Option<Exec> + Send + 'static,
    ) {
        self.change(|state| state.exec = exec::Hook::new(exec));
    }

    /// Says what the containers of a pod wrote, by the pod and a container's name, which may be empty. It may not ask this server.
    pub fn on_log(&self, log: impl Fn(&Value, &str) -> Option<String> + Send + 'static) {
        self.change(|state| state.logs = exec::Logs::new(log));
    }

    /// Looks at whatever there is.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.lock())
    }

    /// Waits until something is newer than a version, for a time at most; returns the version there is.
    pub fn changed_since(&self, version: u64, most: Duration) -> u64 {
        let state = self.shared.lock();
        if state.version > version {
            return state.version;
        }
        self.shared.wait(state, most).version
    }

    /// Returns what was asked for so far, oldest first: paths with queries.
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    /// Returns every request so far with what came of it, oldest first.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// Returns an object as it is now.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.shared.lock().get(kind, namespace, name)
    }

    /// Returns the number of watches that are open.
    pub fn watches(&self) -> usize {
        self.shared.lock().watches
    }

    /// Ends every connection and listens no more.
    pub fn go_away(&self) {
        self.change(|state| state.epoch += 1);
        let listener = self.listener.lock();
        if let Some(listener) = listener.unwrap_or_else(PoisonError::into_inner).take() {
            // Whoever accepts is told so.
            shutdown(&listener, Shutdown::Both).ok();
        }
        while self.shared.lock().is_listening {
            let state = self.shared.lock();
            drop(self.shared.wait(state, Duration::from_millis(10)));
        }
    }

    /// Listens again, where it did.
    ///
    /// # Errors
    /// When somebody else took the port.
    pub fn come_back(&self) -> Result<()> {
        let listener = TcpListener::bind(self.address);
        self.serve(listener.context("the API server's port is taken")?)
    }

    fn serve(&self, listener: TcpListener) -> Result<()> {
        let other = listener.try_clone()?;
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(other);
        let epoch = self.change(|state| {
            state.is_listening = true;
            state.epoch
        });
        let shared = self.shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.lock().epoch != epoch {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let shared = shared.clone();
                thread::spawn(move || {
                    // A client that goes away is none of a server's errors.
                    http::serve(&shared, stream, epoch).ok();
                });
            }
            drop(listener);
            shared.change(|state| state.is_listening = false);
        });
        Ok(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.go_away();
    }
}
