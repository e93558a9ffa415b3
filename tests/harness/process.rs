//! Programs that run while a test does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_for_some;

/// A started program, with its output in a file. Killed and reaped when dropped; when a test is failing, what it wrote is
/// shown.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Running {
    /// Starts `command` with standard output and error going to `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: PathBuf) -> Result<Self> {
        let open = || {
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&log)
                .with_context(|| format!("failed to open `{}`", log.display()))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        let name = name.to_owned();
        Ok(Self {
            name,
            child,
            log,
            ended: None,
        })
    }

    /// Returns the process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns what it wrote so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the file that it writes to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Returns how it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the kernel does not know the process.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            let status = self.child.try_wait();
            self.ended = status.with_context(|| format!("failed to wait for {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Returns how it ended, once it has.
    ///
    /// # Errors
    /// When it still runs after `timeout`; what it wrote is in the error.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        let waited = wait_for_some(&what, timeout, || self.ended().transpose());
        let log = || format!("{} wrote:\n{}", self.name, self.log());
        match waited {
            Ok(status) => status,
            Err(error) => Err(error).with_context(log),
        }
    }

    /// Waits for a successful end and returns what it wrote.
    ///
    /// # Errors
    /// When it still runs after `timeout`, or failed; what it wrote is in the error.
    pub fn success(&mut self, timeout: Duration) -> Result<String> {
        let status = self.wait(timeout)?;
        anyhow::ensure!(
            status.success(),
            "{} failed ({status}):\n{}",
            self.name,
            self.log()
        );
        Ok(self.log())
    }

    /// Returns the rest of the first line that starts with `prefix`, once it has been written.
    ///
    /// # Errors
    /// When the program ended without writing it, or did not within `timeout`.
    pub fn line(&mut self, prefix: &str, timeout: Duration) -> Result<String> {
        let what = format!("{} to write `{prefix}`", self.name);
        let found = wait_for_some(&what, timeout, || {
            let ended = matches!(self.ended(), Ok(Some(_)) | Err(_));
            let log = self.log();
            let complete = log
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let rest = complete.filter_map(|line| line.strip_prefix(prefix)).next();
            match rest {
                Some(rest) => Some(Ok(rest.trim_end().to_owned())),
                None if ended => Some(Err(anyhow::anyhow!("{} ended early", self.name))),
                None => None,
            }
        });
        found
            .and_then(|line| line)
            .with_context(|| format!("{} wrote:\n{}", self.name, self.log()))
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{} has no process number", self.name))?;
        kill_process(pid, signal).with_context(|| format!("failed to signal {}", self.name))
    }

    /// Kills it without any chance to react, and reaps it.
    ///
    /// # Errors
    /// When the kernel does not know the process.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.child
                .kill()
                .with_context(|| format!("failed to kill {}", self.name))?;
            self.ended = Some(self.child.wait().context("failed to reap a process")?);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
        if std::thread::panicking() {
            eprintln!("--- {} wrote:\n{}---", self.name, self.log());
        }
    }
}
