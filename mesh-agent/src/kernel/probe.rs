//! The start-up probe: drives a socket pair through the known defects of socket redirect on the running kernel.
//!
//! It runs in a network namespace of its own with a program and maps of its own, so it touches nothing that is in use. Each
//! defect forbids behaviours: a workload that was seen to do one of them is not accelerated.

mod checks;
mod pair;
mod sockets;

use std::io;
use std::time::Instant;

use aya::maps::{Array, MapData, SockMap};
use aya::programs::SkMsg;
use aya::{EbpfLoader, VerifierLogLevel};
use mesh_common::behaviour;
use rustix::thread::UnshareFlags;

use crate::model::observed::{Defect, Level, Missing, ProbeReport};

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-probe"));

/// Forbidden on every kernel: these cannot be driven here, and no kernel honours them on a redirected socket; or they are
/// the harm itself, whatever the probe had found.
const ALWAYS_FORBIDDEN: u64 = behaviour::ULP
    | behaviour::REPAIR
    | behaviour::IO_URING
    | behaviour::ZEROCOPY_RECEIVE
    | behaviour::STALLED
    | behaviour::SPURIOUS_EAGAIN;

/// What the probe found, and the behaviours that follow from it.
#[derive(Clone, Debug)]
pub(crate) struct Findings {
    /// For a person.
    pub(crate) report: ProbeReport,
    /// `behaviour::*` bits that forbid redirect.
    pub(crate) forbidden: u64,
}

/// The sending end of the probe's map, as the checks see it.
pub(crate) struct Redirect {
    sockets: SockMap<MapData>,
    switch: Array<MapData, u32>,
}

impl Redirect {
    fn load() -> anyhow::Result<(aya::Ebpf, Self)> {
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::STATS)
            .load(OBJECT)?;
        let take = |ebpf: &mut aya::Ebpf, name: &str| {
            ebpf.take_map(name)
                .ok_or_else(|| anyhow::anyhow!("the probe's object has no map `{name}`"))
        };
        let sockets = SockMap::try_from(take(&mut ebpf, "PROBE_SOCKETS")?)?;
        let switch = Array::try_from(take(&mut ebpf, "PROBE_REDIRECT")?)?;
        let program = ebpf
            .program_mut("probe_message")
            .ok_or_else(|| anyhow::anyhow!("the probe's object is empty"))?;
        let program: &mut SkMsg = program.try_into()?;
        program.load()?;
        program.attach(&sockets.fd().try_clone()?)?;
        Ok((ebpf, Self { sockets, switch }))
    }

    /// Lets messages be redirected, or passed to TCP.
    fn set(&mut self, redirect: bool) -> io::Result<()> {
        self.switch
            .set(0, u32::from(redirect), 0)
            .map_err(io::Error::other)
    }
}

/// Runs the probe. Takes well below 200 ms.
pub(crate) fn run() -> Findings {
    let started = Instant::now();
    let outcome = std::thread::spawn(in_scratch_namespace).join();
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("the probe panicked")));
    let mut findings = match outcome {
        Ok(results) => judge(&results),
        Err(error) => unusable(format!("the probe could not run: {error:#}")),
    };
    findings.report.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    findings
}

/// Makes the agent's own part known to the verdict: without the observer no application can be trusted, and without the
/// counts of receive calls nothing bounds what is in flight.
pub(crate) fn without(findings: &mut Findings, missing: Missing, level: Level) {
    let report = &mut findings.report;
    if level < Level::Applications && report.level >= level {
        report.level = level;
        let why = format!("{}: {}", missing.feature, missing.lost);
        report.why.push(why);
    }
    report.missing.push(missing);
}

fn in_scratch_namespace() -> anyhow::Result<Vec<(&'static checks::Check, io::Result<bool>)>> {
    // SAFETY: only this thread's network namespace changes; it ends with the probe, and the namespace with it.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    sockets::loopback_up()?;
    let (_ebpf, mut redirect) = Redirect::load()?;
    Ok(checks::ALL
        .iter()
        .map(|check| (check, (check.run)(&mut redirect)))
        .collect())
}

fn judge(results: &[(&checks::Check, io::Result<bool>)]) -> Findings {
    let mut findings = Findings {
        report: report(Level::Applications),
        forbidden: ALWAYS_FORBIDDEN,
    };
    for (check, result) in results {
        let words = match result {
            Ok(true) => continue,
            Ok(false) => check.words.to_owned(),
            // A check that cannot be driven proves nothing: as if it had failed.
            Err(error) => format!("{} (could not be checked: {error})", check.words),
        };
        findings.forbidden |= check.forbids;
        if check.forbids == 0 {
            findings.report.level = Level::Off;
            findings.report.why.push(words.clone());
        }
        let forbids = behaviour::ALL
            .iter()
            .filter(|(bit, ..)| check.forbids & bit != 0);
        let forbids = forbids.map(|(_, label, _)| (*label).to_owned()).collect();
        findings.report.defects.push(Defect {
            name: check.name.to_owned(),
            words,
            forbids,
        });
    }
    findings
}

fn unusable(why: String) -> Findings {
    let mut report = report(Level::Off);
    report.why.push(why);
    Findings {
        report,
        forbidden: u64::MAX,
    }
}

fn report(level: Level) -> ProbeReport {
    let kernel = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    ProbeReport {
        kernel,
        level,
        why: Vec::new(),
        defects: Vec::new(),
        missing: Vec::new(),
        took_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_on_this_kernel_is_complete() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("SKIPPED: needs root");
            return;
        }
        let findings = run();
        println!("{findings:#?}");
        assert_eq!(
            findings.report.level,
            Level::Applications,
            "{:?}",
            findings.report.why
        );
        assert!(findings.report.took_ms < 1000);
        for defect in &findings.report.defects {
            assert!(!defect.words.contains("could not be checked"), "{defect:?}");
        }
        // kernel-facts rows that hold on every kernel so far.
        assert_ne!(findings.forbidden & behaviour::SPLICE, 0);
        assert_ne!(findings.forbidden & behaviour::WAITALL, 0);
        // Every kernel so far gives a reader that is woken without data `EAGAIN`; one that is mended shows no such defect.
        let found = |defect: &Defect| defect.name == "spurious-eagain";
        assert_eq!(
            findings.forbidden & behaviour::BLOCKING_RECEIVE != 0,
            findings.report.defects.iter().any(found)
        );
        assert_ne!(findings.forbidden & behaviour::SPURIOUS_EAGAIN, 0);
    }

    #[test]
    fn a_failed_order_check_switches_redirect_off() {
        let order = checks::ALL
            .iter()
            .find(|check| check.forbids == 0)
            .expect("one is essential");
        let findings = judge(&[(order, Ok(false))]);
        assert_eq!(findings.report.level, Level::Off);
        assert!(!findings.report.why.is_empty());
    }
}
