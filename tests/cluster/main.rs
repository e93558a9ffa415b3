//! An end-to-end suite against a real cluster: installs the mesh there, makes pods of its own, asks through them, and removes everything.
//!
//! It speaks to the cluster by `kubectl` alone: that knows every kind of kubeconfig and how to execute something in a pod, and who installs
//! the mesh has it. What Gateway API asks of a mesh is a table that also runs on one machine (`harness::conformance`).
#![forbid(unsafe_code)]

mod cases;
mod driver;
mod images;
mod install;
mod kubectl;
mod options;
mod report;
mod scene;
mod steady;
mod traces;
mod validate;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use install::Install;
use kubectl::Kubectl;
use options::Options;
use report::Report;
use scene::Scene;

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.dry_run {
        true => validate::run(&options),
        false => run(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything, and returns whether all of it was right.
fn run(options: &Options) -> Result<bool> {
    let kubectl = Kubectl::new(options);
    let version = kubectl.server_version()?;
    println!(
        "cluster: Kubernetes {version}, context {}",
        kubectl.context()?
    );
    let install = Install::render(&kubectl, options)?;
    let scene = Scene::new(options);
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, interrupted.clone())
            .context("failed to listen for signals")?;
    }
    images::bring(options)?;
    let mut report = Report::default();
    let ran = all(
        &kubectl,
        &install,
        &scene,
        options,
        &interrupted,
        &mut report,
    );
    // Whatever happened.
    if options.keep {
        println!("left as it is: {}", scene.namespaces().join(", "));
    } else {
        report.case("everything_of_the_tests_is_removed", || {
            scene.remove(&kubectl).map(|()| String::new())
        });
        report.case("uninstalling_leaves_no_trace", || {
            install.remove(&kubectl, options)
        });
    }
    if let Err(error) = ran {
        eprintln!("error: {error:#}");
        return Ok(false);
    }
    print!("{}", report.summary());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report.json(&version))?;
        std::fs::write(file, text + "\n")
            .with_context(|| format!("failed to write `{}`", file.display()))?;
    }
    Ok(report.is_good())
}

fn all(
    kubectl: &Kubectl,
    install: &Install,
    scene: &Scene,
    options: &Options,
    interrupted: &AtomicBool,
    report: &mut Report,
) -> Result<()> {
    println!("installing {} objects", install.objects().len());
    install.apply(kubectl, options)?;
    scene.apply(kubectl)?;
    let mut cluster = scene.driver(kubectl)?;
    for case in cases::all(install) {
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if options
            .case
            .as_ref()
            .is_some_and(|part| !case.name.contains(part.as_str()))
        {
            continue;
        }
        report.case(case.name, || (case.run)(&mut cluster, install));
    }
    Ok(())
}
