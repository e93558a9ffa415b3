//! temp
fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=../mesh-common/src");
    aya_build::build_ebpf(
        [aya_build::Package {
            name: "mesh-ebpf",
            root_dir: "../mesh-ebpf",
            ..Default::default()
        }],
        aya_build::Toolchain::Custom("bpf"),
    )
}
