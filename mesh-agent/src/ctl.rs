//! The command line's side: asks the agent over its unix socket and prints the answer.
//!
//! Rendering is pure (data in, text out). Nothing here knows more of the agent than its admin API tells.

#![forbid(unsafe_code)]

pub mod check;
pub mod client;
pub mod exit;
pub mod screen;

mod acceleration;
mod balancing;
mod explain;
mod flows;
mod human;
mod nodes;
mod routes;
mod services;
mod shell;
mod status;
mod table;
mod top;
mod workloads;

use std::io::Write;

use serde::de::DeserializeOwned;

use crate::cli::{CheckArgs, Cli, Command, Global, Output, RunArgs, UninstallArgs};
use crate::ctl::client::Client;
use crate::ctl::exit::{CtlError, Exit, NOT_FOUND};
use crate::ctl::screen::Screen;
use crate::settings::SOCKET;

/// A command that works on this machine, without a running agent to ask.
#[derive(Clone, Debug)]
pub enum Local {
    /// Run the agent.
    Run(Box<RunArgs>),
    /// Validate manifests; print the answer with [`check::print_report`].
    Check(CheckArgs),
    /// Remove everything from the kernel.
    Uninstall(UninstallArgs),
}

/// Does what the command line says. Commands that need no running agent go to `local`.
pub fn run(cli: Cli, local: impl FnOnce(Local, &Global) -> Exit) -> Exit {
    let Cli { global, command } = cli;
    let context = Context::new(&global);
    let done = match command {
        Command::Run(args) => return local(Local::Run(args), &global),
        Command::Check(args) => return local(Local::Check(args), &global),
        Command::Uninstall(args) => return local(Local::Uninstall(args), &global),
        Command::Completions(args) => shell::completions(args.shell),
        Command::Man(args) => shell::man(args.dir.as_deref()),
        Command::Status(args) => context.wait(status::run(&context, &args)),
        Command::Flows(args) => context.wait(flows::run(&context, args)),
        Command::Top(args) => context.wait(top::run(&context, args)),
        Command::Register(args) => context.wait(services::register(&context, &args)),
        Command::Deregister(args) => context.wait(services::deregister(&context, &args)),
        Command::Lookup(args) => context.wait(services::lookup(&context, &args)),
        Command::Services(args) => context.wait(balancing::run(&context, &args)),
        Command::Explain(args) => context.wait(explain::run(&context, &args)),
        Command::Routes(args) => context.wait(routes::run(&context, &args)),
        Command::Policy(args) => context.wait(explain::policy(&context, &args)),
        Command::Workloads(args) => context.wait(workloads::run(&context, &args)),
        Command::Acceleration(args) => context.wait(acceleration::run(&context, args.to)),
    };
    exit::report(done)
}

/// What every command gets.
struct Context {
    client: Client,
    output: Output,
    screen: Screen,
}

impl Context {
    fn new(global: &Global) -> Self {
        let socket = global.socket.clone().unwrap_or_else(|| SOCKET.into());
        Self {
            client: Client::new(socket),
            output: global.output,
            screen: Screen::detect(global.color),
        }
    }

    /// Asks for what may not be there; says so where it is not. A script that asks in JSON reads that from the exit code.
    async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, CtlError> {
        match self.client.get(path).await {
            Err(CtlError::Refused { status, error }) if status == NOT_FOUND => {
                eprintln!("node-agent: {error}");
                Ok(None)
            }
            answer => answer.map(Some),
        }
    }

    /// Runs a command to its end. One thread is enough to wait for one socket and a keyboard.
    fn wait<T>(&self, command: impl Future<Output = Result<T, CtlError>>) -> Result<T, CtlError> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build()?.block_on(command)
    }
}

/// Prints text, and makes sure that it got out.
fn print(text: &str) -> Result<(), CtlError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Prints a value as JSON for a script.
fn print_json(value: &impl serde::Serialize) -> Result<(), CtlError> {
    let mut text = serde_json::to_string_pretty(value).map_err(std::io::Error::from)?;
    text.push('\n');
    print(&text)
}

#[cfg(test)]
mod tests;
