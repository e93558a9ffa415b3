//! The container image that `cargo xtask image` makes: taken apart as an engine does, and run from an empty root.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::told::{Told, tell};

/// Names the archive, where it is not where `cargo xtask test` puts it.
const VARIABLE: &str = "UNDERPASS_IMAGE";

/// The program in the image.
pub(crate) const PROGRAM: &str = "/usr/bin/node-agent";

/// Where licences and the list of crates are in the image.
const DOCUMENTS: &str = "usr/share/doc/underpass";

/// Files of an archive, by path.
type Files = BTreeMap<String, Vec<u8>>;

fn archive() -> Vec<u8> {
    let default = harness::agent::program().unwrap();
    let target = default.parent().and_then(Path::parent).unwrap();
    let path = std::env::var_os(VARIABLE).map_or(target.join("image/dev.tar"), PathBuf::from);
    fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; `cargo xtask image --profile dev` makes it",
            path.display()
        )
    })
}

fn files(archive: &[u8]) -> Files {
    let mut found = Files::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 0);
        let path = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if entry.header().entry_type().is_file() {
            assert!(
                found.insert(path.clone(), bytes).is_none(),
                "{path} comes twice"
            );
        }
    }
    found
}

fn json_of(files: &Files, path: &str) -> Value {
    serde_json::from_slice(&files[path]).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    let hex = Sha256::digest(bytes)
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect::<String>();
    format!("sha256:{hex}")
}

/// Returns what a descriptor leads to, if it is what it says.
fn blob<'f>(files: &'f Files, descriptor: &Value) -> &'f [u8] {
    let name = descriptor["digest"].as_str().unwrap();
    let bytes = &files[&format!("blobs/{}", name.replace(':', "/"))];
    assert_eq!(digest(bytes), name);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

/// Returns the image's layer, unpacked, and its configuration.
fn layer(files: &Files) -> (Vec<u8>, Value) {
    assert_eq!(
        json_of(files, "oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"})
    );
    let index = json_of(files, "index.json");
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), 1);
    let manifest: Value = serde_json::from_slice(blob(files, &manifests[0])).unwrap();
    let config: Value = serde_json::from_slice(blob(files, &manifest["config"])).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1);
    let mut unpacked = Vec::new();
    let mut packed = GzDecoder::new(blob(files, &layers[0]));
    packed.read_to_end(&mut unpacked).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&unpacked)]));
    (unpacked, config)
}

/// Unpacks the image.
pub(crate) fn unpack(to: &Path) {
    let (layer, _) = layer(&files(&archive()));
    tar::Archive::new(layer.as_slice()).unpack(to).unwrap();
}

#[test]
fn engines_find_what_they_look_for() {
    let files = files(&archive());
    let (layer, config) = layer(&files);
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("underpass.dev/node-agent:{version}");
    // containerd goes by the index, docker by its own.
    let annotations = &json_of(&files, "index.json")["manifests"][0]["annotations"];
    assert_eq!(annotations["io.containerd.image.name"], name.as_str());
    let docker = json_of(&files, "manifest.json");
    assert_eq!(docker[0]["RepoTags"], json!([name]));
    assert_eq!(
        serde_json::from_slice::<Value>(&files[docker[0]["Config"].as_str().unwrap()]).unwrap(),
        config
    );
    assert!(files.contains_key(docker[0]["Layers"][0].as_str().unwrap()));
    // Each part once: index, manifest, layout, and three that are named by what they are.
    assert_eq!(files.len(), 6);

    assert_eq!(config["os"], "linux");
    let run = &config["config"];
    assert_eq!(run["Entrypoint"], json!([PROGRAM]));
    assert_eq!(run["User"], "65532:65532");
    // By which `kubectl exec` finds the program.
    assert_eq!(run["Env"], json!(["PATH=/usr/bin"]));
    let label = |name: &str| run["Labels"][format!("org.opencontainers.image.{name}")].clone();
    assert_eq!(label("version"), version);
    assert!(label("licenses").as_str().unwrap().contains("GPL-2.0-only"));

    let inside = self::files(&layer);
    assert!(String::from_utf8_lossy(&inside["etc/passwd"]).contains("\nunderpass:x:65532:65532:"));
    for licence in ["LICENSE-APACHE", "LICENSE-GPL-2.0", "LICENSE-MIT"] {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(licence);
        assert_eq!(
            inside[&format!("{DOCUMENTS}/{licence}")],
            fs::read(own).unwrap()
        );
    }
}

#[test]
fn it_says_what_it_is_made_of() {
    let (layer, _) = layer(&files(&archive()));
    let inside = files(&layer);
    let bill = json_of(&inside, &format!("{DOCUMENTS}/sbom.cdx.json"));
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let components = bill["components"].as_array().unwrap();
    let names: Vec<&str> = components
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    for shipped in [
        "mesh-agent",
        "mesh-ebpf",
        "aya-ebpf",
        "tokio",
        "rustls",
        "aws-lc-sys",
        "rust-std",
    ] {
        assert!(names.contains(&shipped), "{shipped}");
    }
    // What only tests and builds need is not in it.
    for other in [
        "proptest",
        "aya-build",
        "mesh-tests",
        "xtask",
        "libfuzzer-sys",
    ] {
        assert!(!names.contains(&other), "{other}");
    }
    let references: Vec<&Value> = components.iter().map(|it| &it["bom-ref"]).collect();
    for dependency in bill["dependencies"].as_array().unwrap() {
        for needed in dependency["dependsOn"].as_array().unwrap() {
            assert!(references.contains(&needed), "{needed}");
        }
    }
    let third = String::from_utf8(inside[&format!("{DOCUMENTS}/THIRD-PARTY")].clone()).unwrap();
    for component in components.iter().filter(|it| it["name"] != "rust-std") {
        let (name, version) = (
            component["name"].as_str().unwrap(),
            component["version"].as_str().unwrap(),
        );
        assert!(component["licenses"].is_array(), "{name} has no licence");
        let is_own = name.starts_with("mesh-");
        assert!(
            is_own || third.contains(&format!("{name} {version}")),
            "no text of {name}"
        );
    }
}

/// Returns whether a program loads nothing: it has neither an interpreter nor names of libraries (elf(5)).
fn is_static(program: &[u8]) -> bool {
    let number = |at: usize, length: usize| {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(&program[at..at + length]);
        usize::try_from(u64::from_le_bytes(bytes)).unwrap()
    };
    const DYNAMIC: usize = 2;
    const INTERPRETER: usize = 3;
    const NEEDED: usize = 1;
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count)
        .map(|index| table + index * size)
        .all(|at| match number(at, 4) {
            INTERPRETER => false,
            DYNAMIC => {
                let (start, length) = (number(at + 8, 8), number(at + 32, 8));
                let mut entries = (start..start + length).step_by(16);
                entries.all(|entry| number(entry, 8) != NEEDED)
            }
            _ => true,
        })
}

fn inside(root: &Path, words: &[&str]) -> Told {
    let mut command = Command::new("chroot");
    command.arg(root).arg(PROGRAM).args(words).env_clear();
    tell(&command)
}

#[test]
fn the_program_needs_nothing_of_a_system() {
    if !harness::require_root() {
        return;
    }
    let root = TempDir::new().unwrap();
    unpack(root.path());
    let program = fs::read(root.path().join(PROGRAM.trim_start_matches('/'))).unwrap();
    assert!(is_static(&program));
    assert!(
        !is_static(&fs::read(harness::agent::program().unwrap()).unwrap()),
        "nothing is ever found"
    );

    let told = inside(root.path(), &["--version"]);
    assert_eq!(
        (told.code, told.out.trim()),
        (Some(0), concat!("node-agent ", env!("CARGO_PKG_VERSION"))),
        "{told:?}"
    );
    let manifest = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\n";
    fs::write(root.path().join("web.yaml"), manifest).unwrap();
    let told = inside(root.path(), &["check", "/web.yaml"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    fs::write(
        root.path().join("web.yaml"),
        manifest.replace("80", "80000"),
    )
    .unwrap();
    let told = inside(root.path(), &["check", "/web.yaml"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!((told.out + &told.err).contains("80000"));
}
