//! The command line.

use std::path::{Path, PathBuf};

use clap::Parser;

/// What the cluster has to have.
const NEEDS: &str = "\
The cluster needs:
  - Kubernetes 1.27 or newer on Linux nodes of kernel 5.17 or newer with BTF, a cgroup2 tree (v2, or v2 beside v1), and bpf mounted at
    /sys/fs/bpf. containerd or CRI-O, any CNI plug-in that gives pods addresses of their own, kube-proxy in any mode. `/` of a node
    need not be a shared mount.
  - An IPv4 pod network, and room for nine small pods.
  - The Gateway API's definitions (v1.1 or newer; retries are left out in its standard channel), or `--gateway-api FILE`, which installs
    them and removes them in the end.
  - Rights of an administrator for the kubeconfig that is used: it makes namespaces, cluster roles, definitions, and privileged pods.
  - No other Underpass in the namespace `underpass-system`: what is there is replaced, and removed in the end.
This machine needs kubectl. Nodes need to get the two images: by `--image-import`, which is given each archive on its standard input,
or by `--registry` from a registry that they may pull from without a password.

Examples:
  cargo xtask test --cluster -- --dry-run
  cargo xtask test --cluster -- --image-import 'ctr -n k8s.io images import -'
  cargo xtask test --cluster -- --image-import 'ssh node-1 sudo ctr -n k8s.io images import -' --gateway-api experimental-install.yaml
  cargo xtask test --cluster -- --image-import 'kind load image-archive /dev/stdin'
  cargo xtask test --cluster -- --registry registry.example:5000/underpass --image-push 'skopeo copy docker-archive:$ARCHIVE docker://$IMAGE'";

/// Tests the mesh in the cluster that KUBECONFIG names.
#[derive(Parser, Debug, Default)]
#[command(name = "cargo xtask test --cluster --", after_help = NEEDS, max_term_width = 120)]
pub(crate) struct Options {
    /// Kubeconfig, instead of KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context in it, instead of the current one
    #[arg(long)]
    pub(crate) context: Option<String>,
    /// What to install, as kustomize has it
    #[arg(long, value_name = "DIR", default_value_os_t = overlay())]
    pub(crate) overlay: PathBuf,
    /// Command that takes an image's archive on its standard input and brings it to the nodes
    #[arg(long, value_name = "COMMAND")]
    pub(crate) image_import: Option<String>,
    /// Where images are pushed to and pulled from, instead
    #[arg(long, value_name = "HOST/PATH", conflicts_with = "image_import")]
    pub(crate) registry: Option<String>,
    /// Command that pushes $ARCHIVE as $IMAGE
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "registry",
        default_value = "skopeo copy docker-archive:$ARCHIVE docker://$IMAGE"
    )]
    pub(crate) image_push: String,
    /// Archive of the agent's image; `cargo xtask` builds and names it
    #[arg(long, value_name = "FILE")]
    pub(crate) agent_archive: Option<PathBuf>,
    /// Archive of the image with the test's own program; `cargo xtask` builds and names it
    #[arg(long, value_name = "FILE")]
    pub(crate) peer_archive: Option<PathBuf>,
    /// Name of the agent's image
    #[arg(long, value_name = "IMAGE", default_value = concat!("underpass.dev/node-agent:", env!("CARGO_PKG_VERSION")))]
    pub(crate) agent_image: String,
    /// Name of the image with the test's own program
    #[arg(long, value_name = "IMAGE", default_value = concat!("underpass.dev/test-peer:", env!("CARGO_PKG_VERSION")))]
    pub(crate) peer_image: String,
    /// The test's program in its image
    #[arg(long, value_name = "PATH", default_value = "/usr/bin/peer")]
    pub(crate) peer_program: String,
    /// Definitions of the Gateway API, to install where the cluster has none
    #[arg(long, value_name = "FILE")]
    pub(crate) gateway_api: Option<PathBuf>,
    /// Run only cases with this in their names
    #[arg(long, value_name = "PART")]
    pub(crate) case: Option<String>,
    /// Remove the project's own definitions in the end, and with them every policy of those kinds
    #[arg(long)]
    pub(crate) remove_crds: bool,
    /// Leave everything as it is in the end
    #[arg(long)]
    pub(crate) keep: bool,
    /// Show and check everything that would be applied; needs no cluster
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write the results to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    /// Returns an image's name where nodes find it.
    pub(crate) fn image(&self, name: &str) -> String {
        match &self.registry {
            Some(registry) => {
                let last = name.rsplit('/').next().unwrap_or(name);
                format!("{}/{last}", registry.trim_end_matches('/'))
            }
            None => name.to_owned(),
        }
    }
}

fn overlay() -> PathBuf {
    folder("base")
}

/// Returns the overlay by which users are told to uninstall.
pub(crate) fn way_out() -> PathBuf {
    folder("overlays/uninstall")
}

fn folder(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tests.parent().unwrap_or(tests);
    root.join("deploy/kubernetes").join(name)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
        let options = Options::parse_from(["it", "--registry", "r.example:5000/u/"]);
        assert_eq!(
            options.image("underpass.dev/node-agent:1"),
            "r.example:5000/u/node-agent:1"
        );
    }
}
