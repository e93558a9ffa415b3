//! `node-agent`: the command line over the library.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use mesh_agent::cli::controller::ControllerArgs;
use mesh_agent::cli::{CheckArgs, Cli, Global, RunArgs, UninstallArgs};
use mesh_agent::ctl::exit::Exit;
use mesh_agent::ctl::{self, Local};
use mesh_agent::model::workload::Acceleration;
use mesh_agent::settings::controller::ControllerSettings;
use mesh_agent::settings::{BPF_DIR, Settings};
use mesh_agent::{agent, config, controller, heap, kernel, locate, log};

/// The image's program is linked with musl, whose own allocator takes as long for a request as all else that is done for it.
#[cfg(target_env = "musl")]
#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ctl::run(Cli::parse(), |local, global| match local {
        Local::Run(args) => told(run(*args, global)),
        Local::Controller(args) => told(control(args)),
        Local::Check(args) => check(&args, global),
        Local::Uninstall(args) => told(uninstall(&args)),
    })
    .into()
}

fn run(args: RunArgs, global: &Global) -> anyhow::Result<()> {
    let settings = Settings::load(args, global.socket.clone())?;
    log::init(&settings.log)?;
    heap::share();
    // Control only: the kernel carries the traffic. One thread for the tasks, others come when something blocks.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let bound = agent::bind(&settings)?;
    runtime.block_on(bound.run())
}

fn control(args: ControllerArgs) -> anyhow::Result<()> {
    let settings = ControllerSettings::new(args)?;
    log::init(&settings.log)?;
    heap::share();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(controller::run(&settings))
}

fn check(args: &CheckArgs, global: &Global) -> Exit {
    let mut report = config::check::check(&args.manifests, Acceleration::default());
    // On a machine without the rights to look, or on another than the node, the manifests are checked all the same.
    for located in
        locate::look_once(&report.workloads, &mesh_agent::settings::host()).unwrap_or_default()
    {
        if let locate::Outcome::NotFound { why, .. } = located.outcome {
            let help = "it is found once it runs here; only the node that runs it needs to find it";
            report.warn(
                &located.workload.name,
                &format!("not found on this machine: {why}"),
                help,
            );
        }
    }
    ctl::check::print_report(&report, global)
}

fn uninstall(args: &UninstallArgs) -> anyhow::Result<()> {
    let bpf_dir = args.bpf_dir.as_deref().unwrap_or(Path::new(BPF_DIR));
    kernel::uninstall(bpf_dir)?;
    if args.stay {
        // Until a signal ends the process.
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

fn told(outcome: anyhow::Result<()>) -> Exit {
    match outcome {
        Ok(()) => Exit::Fine,
        Err(error) => {
            eprintln!("node-agent: {error:#}");
            Exit::Bad
        }
    }
}
