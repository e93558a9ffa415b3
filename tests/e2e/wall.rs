//! A packet filter in a pod that lets nothing in.

use harness::Pod;
use harness::machine::require_programs;
use harness::wait::{PATIENCE, wait_for};
use serde_json::Value;

/// The filter, which stands until [`Wall::fall`] or the end of the pod.
pub(crate) struct Wall<'a>(&'a Pod);

impl<'a> Wall<'a> {
    /// Returns whether there can be one; says so loudly when not.
    pub(crate) fn is_possible() -> bool {
        require_programs(&["nft"])
    }

    /// Drops whatever IP packet reaches `pod`, from now on.
    pub(crate) fn raise(pod: &'a Pod) -> Self {
        nft(
            pod,
            "table inet wall { chain into { type filter hook input priority 0; counter drop; }; }",
        );
        Self(pod)
    }

    /// Returns once another packet has been dropped.
    pub(crate) fn await_drop(&self) {
        let before = self.dropped();
        wait_for("a packet to be dropped", PATIENCE, || {
            self.dropped() > before
        })
        .unwrap();
    }

    /// Returns how many packets were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        let text = nft(self.0, "list table inet wall");
        let all: Value = serde_json::from_str(&text).unwrap();
        let mut rules = all["nftables"].as_array().unwrap().iter();
        let counted = rules.find_map(|entry| {
            let parts = entry["rule"]["expr"].as_array()?;
            parts
                .iter()
                .find_map(|part| part["counter"]["packets"].as_u64())
        });
        counted.unwrap()
    }

    /// Lets everything in again.
    pub(crate) fn fall(self) {
        nft(self.0, "delete table inet wall");
    }
}

/// Runs one command of nft's, whose answer is JSON.
fn nft(pod: &Pod, line: &str) -> String {
    let output = pod.command("nft").args(["-j", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
