//! The real agent on a node.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::machine::workspace_program;
use crate::node::Node;
use crate::process::Running;
use crate::wait::{PATIENCE, wait_for};
use crate::{command, cpu, memory};

/// Names the agent's program, where it is not beside the tests.
pub const PROGRAM_VARIABLE: &str = "UNDERPASS_NODE_AGENT";

/// Returns the agent's program.
///
/// # Errors
/// When it has not been built.
pub fn program() -> Result<PathBuf> {
    workspace_program("node-agent", PROGRAM_VARIABLE)
}

/// Returns where the agent of `node` pins its programs and maps, whether it runs or not.
///
/// # Errors
/// When no such place is known.
pub fn bpf_dir(node: &Node) -> Result<PathBuf> {
    node.scope().bpf_directory()
}

/// The agent's command line, in one place.
#[derive(Debug)]
struct CommandLine {
    program: PathBuf,
    manifests: String,
    cgroup: String,
    bpf_dir: String,
    socket: String,
    state_dir: String,
}

impl CommandLine {
    /// Where it serves metrics, inside the node's namespace.
    const METRICS: &str = "127.0.0.1:15020";

    fn of(node: &Node) -> Result<Self> {
        let text = |path: PathBuf| path.display().to_string();
        Ok(Self {
            program: program()?,
            manifests: text(node.manifests()),
            cgroup: text(node.cgroup()?),
            bpf_dir: text(bpf_dir(node)?),
            socket: text(node.files().join("agent.sock")),
            state_dir: text(node.files().join("state")),
        })
    }

    fn run(&self) -> Vec<String> {
        let words = [
            ("--manifests", self.manifests.as_str()),
            ("--cgroup", &self.cgroup),
            ("--bpf-dir", &self.bpf_dir),
            ("--socket", &self.socket),
            ("--metrics-address", Self::METRICS),
            ("--state-dir", &self.state_dir),
        ];
        let flags = words.into_iter().flat_map(|(flag, value)| [flag, value]);
        ["run"]
            .into_iter()
            .chain(flags)
            .map(str::to_owned)
            .collect()
    }

    fn ask(&self, what: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(what).args(["--socket", &self.socket]);
        command
    }

    fn uninstall(&self) -> Vec<String> {
        let program = self.program.display().to_string();
        let words = ["uninstall", "--bpf-dir", &self.bpf_dir].map(str::to_owned);
        [program].into_iter().chain(words).collect()
    }
}

/// A running agent. Dropping it kills it and takes its programs out of the kernel.
#[derive(Debug)]
pub struct Agent {
    node: Node,
    line: CommandLine,
    wrapper: Vec<String>,
    arguments: Vec<String>,
    /// How long it may take to be ready.
    patience: Duration,
    running: Option<Running>,
}

impl Agent {
    /// Starts the agent on `node` with further arguments, and returns once it is ready.
    ///
    /// # Errors
    /// When it has not been built, ends early, or is not ready in time; what it wrote is in the error.
    pub fn start(node: &Node, arguments: &[&str]) -> Result<Self> {
        Self::start_through(node, &[], arguments)
    }

    /// As [`Agent::start`], for one that has much to read before it is ready.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_within(node: &Node, arguments: &[&str], patience: Duration) -> Result<Self> {
        Self::start_patiently(node, &[], arguments, patience)
    }

    /// As [`Agent::start`], through a command that prepares its surroundings and then becomes what follows it.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_through(node: &Node, wrapper: &[&str], arguments: &[&str]) -> Result<Self> {
        Self::start_patiently(node, wrapper, arguments, PATIENCE)
    }

    fn start_patiently(
        node: &Node,
        wrapper: &[&str],
        arguments: &[&str],
        patience: Duration,
    ) -> Result<Self> {
        let line = CommandLine::of(node)?;
        node.scope().remember_uninstall(&line.uninstall())?;
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let (wrapper, arguments) = (owned(wrapper), owned(arguments));
        let mut agent = Self {
            node: node.clone(),
            line,
            wrapper,
            arguments,
            patience,
            running: None,
        };
        agent.start_again()?;
        Ok(agent)
    }

    /// Starts the agent anew after [`Agent::kill9`] or [`Agent::stop`], with the same arguments.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_again(&mut self) -> Result<()> {
        let program = &self.line.program;
        let mut command = match self.wrapper.split_first() {
            None => self.node.command(program)?,
            Some((first, rest)) => {
                let mut command = self.node.command(Path::new(first))?;
                command.args(rest).arg(program);
                command
            }
        };
        command.args(self.line.run()).args(&self.arguments);
        command.env("RUST_BACKTRACE", "1");
        let log = self.node.files().join("agent.log");
        let running = self
            .running
            .insert(Running::start("node-agent", &mut command, log)?);
        let line = &self.line;
        let ready = wait_for("the agent to be ready", self.patience, || {
            matches!(running.ended(), Ok(Some(_)) | Err(_)) || is_ready(line)
        });
        let log = running.log();
        let alive = running.ended()?.is_none();
        ready
            .and_then(|()| {
                ensure!(alive, "the agent ended early");
                Ok(())
            })
            .with_context(|| format!("the agent wrote:\n{log}"))
    }

    /// Returns what `node-agent status` says; a degraded agent also answers.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status(&self) -> Result<Value> {
        status(&self.line)
    }

    /// Returns `node-agent status` as it shows itself to a person.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status_text(&self) -> Result<String> {
        command::answer_of(&mut self.line.ask(&["status"]))
    }

    /// Returns how the workload `name` stands: an object with `state`, `why`, `behaviours`, ...; null while it is unknown.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn workload(&self, name: &str) -> Result<Value> {
        let answer = self.json(&["workloads", "--output", "json"])?;
        let all = answer["workloads"].as_array();
        let found = all.and_then(|all| all.iter().find(|workload| workload["name"] == name));
        Ok(found.cloned().unwrap_or_default())
    }

    /// Returns once every one of the workloads is in `state`, such as `accelerated`.
    ///
    /// # Errors
    /// When one is not within `timeout`; the error shows how they stand.
    pub fn wait_for_state(&self, names: &[&str], state: &str, timeout: Duration) -> Result<()> {
        let what = format!("{names:?} to be {state}");
        let reached = wait_for(&what, timeout, || {
            names
                .iter()
                .all(|name| matches!(self.workload(name), Ok(found) if found["state"] == state))
        });
        let stand = || match self.ask(&["workloads"]) {
            Ok(text) => text,
            Err(error) => format!("{error:#}"),
        };
        reached.with_context(stand)
    }

    /// Throws the kill switch: with `false` every message goes by TCP from now on.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn allow_redirect(&self, allowed: bool) -> Result<()> {
        self.ask(&["acceleration", if allowed { "on" } else { "off" }])
            .map(drop)
    }

    /// Returns the live flows and those that ended of late.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn flows(&self) -> Result<Value> {
        self.json(&[
            "flows", "--since", "1h", "--limit", "1000", "--output", "json",
        ])
    }

    /// Returns what any other question to the agent's socket gives, as text.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn ask(&self, what: &[&str]) -> Result<String> {
        command::output_of(&mut self.line.ask(what))
    }

    /// Returns the agent's answer to a question of its command line, as JSON.
    ///
    /// # Errors
    /// When it answers with an error, or with no JSON.
    pub fn json(&self, what: &[&str]) -> Result<Value> {
        let text = self.ask(what)?;
        serde_json::from_str(&text).with_context(|| format!("{what:?} gave no JSON:\n{text}"))
    }

    /// Returns what the agent's metrics endpoint serves.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String> {
        let url = format!("http://{}/metrics", CommandLine::METRICS);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.node.netns()));
        command.args(["--", "curl", "--silent", "--show-error", "--fail", &url]);
        command::output_of(&mut command)
    }

    /// Returns a command that asks this agent, to be run as its caller likes.
    pub fn question(&self, what: &[&str]) -> Command {
        self.line.ask(what)
    }

    /// Returns the command that starts another agent on the same node: in the same place, and with the same flags but for
    /// those given, as pairs of a flag and its value.
    ///
    /// # Errors
    /// When the node's cgroup cannot be made.
    pub fn another(&self, other: &[(&str, &str)]) -> Result<Command> {
        let mut command = self.node.command(&self.line.program)?;
        let words = self.line.run();
        let (run, flags) = words.split_first().context("an empty command")?;
        command.arg(run);
        for flag in flags.chunks(2) {
            let given = other.iter().find(|(name, _)| flag[0] == *name);
            command.arg(&flag[0]);
            command.arg(given.map_or(flag[1].as_str(), |(_, value)| value));
        }
        for (flag, value) in other {
            if !words.iter().any(|word| word == flag) {
                command.args([flag, value]);
            }
        }
        Ok(command)
    }

    /// Returns where its programs and maps are pinned.
    pub fn bpf_dir(&self) -> &Path {
        Path::new(&self.line.bpf_dir)
    }

    /// Returns the directory of what outlives it.
    pub fn state_dir(&self) -> &Path {
        Path::new(&self.line.state_dir)
    }

    /// Returns its admin socket.
    pub fn socket(&self) -> &Path {
        Path::new(&self.line.socket)
    }

    /// Returns where it serves metrics, inside the node's namespace.
    pub fn metrics_address(&self) -> &'static str {
        CommandLine::METRICS
    }

    /// Sends it a signal and returns how it ended; its programs stay in the kernel.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub fn end_by(&mut self, signal: Signal) -> Result<std::process::ExitStatus> {
        let running = self.running.take();
        let mut running = running.context("the agent does not run")?;
        running.signal(signal)?;
        running.wait(PATIENCE)
    }

    /// Returns its process number, or `None` while it does not run.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    /// Returns its resident memory in bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resident_bytes(&self) -> Result<u64> {
        memory::resident_bytes(self.pid().context("the agent does not run")?)
    }

    /// Returns the CPU time that it has used.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu::of_process(self.pid().context("the agent does not run")?)
    }

    /// Returns what it wrote.
    pub fn log(&self) -> String {
        self.running.as_ref().map(Running::log).unwrap_or_default()
    }

    /// Kills the agent without any chance to react; its programs stay in the kernel.
    ///
    /// # Errors
    /// When the kernel does not know the process.
    pub fn kill9(&mut self) -> Result<()> {
        match self.running.take() {
            Some(mut running) => running.kill(),
            None => Ok(()),
        }
    }

    /// Ends the agent as a service manager does, and returns once it has ended; its programs stay in the kernel.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else {
            return Ok(());
        };
        running.signal(Signal::TERM)?;
        running.wait(PATIENCE).map(drop)
    }

    /// Takes the agent's programs out of the kernel, after stopping it.
    ///
    /// # Errors
    /// When either fails.
    pub fn uninstall(&mut self) -> Result<()> {
        self.stop()?;
        let words = self.line.uninstall();
        let (program, words) = words.split_first().context("an empty command")?;
        command::output_of(Command::new(program).args(words)).map(drop)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The log goes with the process handle, so it is dropped (and shown, when a test is failing) before the rest.
        let killed = self.kill9();
        if let Err(error) = killed.and_then(|()| self.uninstall()) {
            eprintln!("{error:#}");
        }
    }
}

fn status(line: &CommandLine) -> Result<Value> {
    let asked = ["status", "--no-rates", "--output", "json"];
    let text = command::answer_of(&mut line.ask(&asked))?;
    serde_json::from_str(&text).with_context(|| format!("`status` gave no JSON:\n{text}"))
}

/// Returns whether the agent answers and has brought the kernel in line with what it read.
fn is_ready(line: &CommandLine) -> bool {
    status(line).is_ok_and(|status| {
        let generation = status["config"]["generation"].as_u64().unwrap_or(0);
        let pending = status["agent"]["pending"]
            .as_array()
            .is_none_or(Vec::is_empty);
        pending && generation > 0 && status["config"]["kernel_generation"] == generation
    })
}
