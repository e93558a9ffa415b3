//! The real controller, on an API server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::agent::program;
use crate::process::Running;
use crate::wait::PATIENCE;

/// A running controller. Killed when dropped.
#[derive(Debug)]
pub struct Controller {
    running: Running,
    metrics: String,
}

impl Controller {
    /// Starts a controller; `flags` are more of its command line. Its log is in `dir`, under its name.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(name: &str, kubeconfig: &Path, dir: &Path, flags: &[&str]) -> Result<Self> {
        let mut command = Command::new(program()?);
        command
            .arg("controller")
            .args(["--metrics-address", "127.0.0.1:0"])
            .args([
                "--log-format",
                "json",
                "--log-level",
                "info,mesh_agent::controller=debug",
            ])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(flags);
        let mut running = Running::start(name, &mut command, dir.join(format!("{name}.log")))?;
        let metrics = crate::wait_for_some("the controller to listen", PATIENCE, || {
            let ended = matches!(running.ended(), Ok(Some(_)) | Err(_));
            match (field(&running.log(), "metrics"), ended) {
                (Some(metrics), _) => Some(Ok(metrics)),
                (None, true) => Some(Err(anyhow::anyhow!("it ended: {}", running.log()))),
                (None, false) => None,
            }
        });
        let metrics = metrics.and_then(|metrics| metrics);
        Ok(Self {
            metrics: metrics.context("the controller does not come up")?,
            running,
        })
    }

    /// Returns the number of its process.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        self.running.log()
    }

    /// Returns what it calls itself in leases.
    pub fn identity(&self) -> String {
        field(&self.log(), "identity").unwrap_or_default()
    }

    /// Returns status line and body of one of its pages.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn page(&self, path: &str) -> Result<(String, String)> {
        let mut stream = TcpStream::connect(&self.metrics)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("half an answer")?;
        Ok((
            head.lines().next().unwrap_or_default().to_owned(),
            body.to_owned(),
        ))
    }

    /// Returns the value of a metric; its labels are part of the name.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metric(&self, name: &str) -> Result<Option<f64>> {
        let (_, text) = self.page("/metrics")?;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.and_then(|value| value.parse().ok()))
    }

    /// Asks it to stop, and returns how it ended.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.running.signal(Signal::TERM)?;
        self.running.wait(PATIENCE)
    }

    /// Stops it where it is, or lets it go on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn freeze(&self, is_frozen: bool) -> Result<()> {
        self.running.signal(match is_frozen {
            true => Signal::STOP,
            false => Signal::CONT,
        })
    }

    /// Kills it.
    ///
    /// # Errors
    /// When the kernel does not know the process.
    pub fn kill(&mut self) -> Result<()> {
        self.running.kill()
    }
}

/// Returns the value of a field in the first line of a log that has it.
fn field(log: &str, name: &str) -> Option<String> {
    log.lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(line[name].as_str()?.to_owned())
    })
}
