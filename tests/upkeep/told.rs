//! Commands as a script sees them: exit code, standard output, standard error.

use std::process::{Command, Stdio};

/// Seconds that a command may take; one that takes longer is killed, and fails its test.
const LIMIT: &str = "60";

/// What a command said, and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// `None`: by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Told {
    /// Returns standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs a command to its end.
pub(crate) fn tell(command: &Command) -> Told {
    let mut limited = Command::new("timeout");
    limited
        .args(["--signal=KILL", LIMIT])
        .arg(command.get_program());
    limited.args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let output = limited.output().unwrap();
    Told {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the agent's program with these arguments.
pub(crate) fn agent(arguments: &[&str]) -> Told {
    tell(Command::new(harness::agent::program().unwrap()).args(arguments))
}
