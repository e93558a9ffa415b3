//! The suite of `tests/cluster`, as somebody runs it who has a cluster.

use std::path::Path;
use std::process::{Command, Stdio};

use harness::KubeNode;

use crate::{archive, built, cluster, definitions};

/// Runs the suite, with more words.
fn run(cluster: &KubeNode, words: &[&str]) {
    let files = cluster.node().files();
    let mut suite = Command::new(built("debug/cluster"));
    suite.arg("--kubeconfig").arg(cluster.kubeconfig());
    suite.arg("--image-import").arg(cluster.import_line());
    suite.arg("--agent-archive").arg(archive("dev"));
    suite.arg("--peer-archive").arg(archive("test-peer-dev"));
    suite.arg("--gateway-api").arg(definitions::write(files));
    // What kubectl finds out about servers it keeps at home otherwise.
    suite.env("KUBECACHEDIR", files.join("kubectl"));
    let output = suite.args(words).stdin(Stdio::null()).output().unwrap();
    // Shown where the test fails.
    print!("{}", String::from_utf8_lossy(&output.stdout));
    print!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words:?}: {}", output.status);
}

#[test]
fn the_whole_suite_passes() {
    if let Some(cluster) = cluster() {
        run(&cluster, &["--remove-crds"]);
    }
}

/// One after the other, as somebody tries them: what one left would be in the next one's way.
#[test]
fn every_overlay_is_installed_and_removed() {
    let Some(cluster) = cluster() else {
        return;
    };
    let overlays = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/overlays");
    for overlay in ["minimal", "observability", "strict"] {
        if overlay == "minimal" {
            // Without a controller nobody takes the taint away, so nodes are registered without.
            cluster.register_without_taint();
        }
        let overlay = overlays.join(overlay).display().to_string();
        run(&cluster, &["--overlay", &overlay, "--case", "precedence"]);
    }
}
