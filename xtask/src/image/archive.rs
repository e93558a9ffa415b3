//! The archive: the OCI image layout (image-spec 1.1), with the index by which `docker load` finds the same parts.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::layer::{Packed, append, digest};

const LICENCES: &str = "(MIT OR Apache-2.0) AND GPL-2.0-only";

/// What an archive is made of.
#[derive(Debug)]
pub(super) struct Image<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    /// What runs in it, and what it is told where nothing else is said.
    pub(super) program: &'a str,
    pub(super) words: &'a [&'a str],
    /// What is said of it, for people.
    pub(super) description: &'a str,
    pub(super) created: &'a str,
    pub(super) revision: &'a str,
    pub(super) user: u32,
    pub(super) layer: &'a Packed,
}

/// Returns what the image runs on, in the words of container runtimes.
pub(super) fn platform() -> String {
    format!("linux/{}", architecture())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Image<'_> {
    /// Returns the archive.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(super) fn archive(&self) -> anyhow::Result<Vec<u8>> {
        let config = text(&self.config())?;
        let manifest = text(&self.manifest(&config))?;
        let files = BTreeMap::from([
            ("index.json".to_owned(), text(&self.index(&manifest))?),
            ("manifest.json".to_owned(), text(&self.docker(&config)?)?),
            (
                "oci-layout".to_owned(),
                text(&json!({"imageLayoutVersion": "1.0.0"}))?,
            ),
            (blob(&config)?, config),
            (blob(&manifest)?, manifest),
            (blob(&self.layer.packed)?, self.layer.packed.clone()),
        ]);
        let mut tar = tar::Builder::new(Vec::new());
        for folder in ["blobs", "blobs/sha256"] {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            append(&mut tar, header, folder, &[])?;
        }
        for (path, bytes) in files {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o644);
            append(&mut tar, header, &path, &bytes)?;
        }
        tar.into_inner().context("failed to end an archive")
    }

    fn config(&self) -> Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "created": self.created,
            "config": {
                "User": format!("{0}:{0}", self.user),
                "Env": ["PATH=/usr/bin"],
                "Entrypoint": [self.program],
                "Cmd": self.words,
                "WorkingDir": "/",
                "Labels": self.labels(),
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(&self.layer.unpacked)]},
            "history": [{"created": self.created, "created_by": "cargo xtask image"}],
        })
    }

    fn labels(&self) -> Value {
        json!({
            "org.opencontainers.image.created": self.created,
            "org.opencontainers.image.description": self.description,
            "org.opencontainers.image.licenses": LICENCES,
            "org.opencontainers.image.revision": self.revision,
            "org.opencontainers.image.title": "underpass",
            "org.opencontainers.image.version": self.version,
        })
    }

    fn manifest(&self, config: &[u8]) -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &self.layer.packed)],
            "annotations": self.labels(),
        })
    }

    fn index(&self, manifest: &[u8]) -> Value {
        let mut one = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
        one["platform"] = json!({"architecture": architecture(), "os": "linux"});
        one["annotations"] = json!({
            // By which containerd and docker name what they load.
            "io.containerd.image.name": self.reference(),
            "org.opencontainers.image.ref.name": self.version,
        });
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [one]})
    }

    fn docker(&self, config: &[u8]) -> anyhow::Result<Value> {
        Ok(json!([{
            "Config": blob(config)?,
            "RepoTags": [self.reference()],
            "Layers": [blob(&self.layer.packed)?],
        }]))
    }

    fn reference(&self) -> String {
        format!("{}:{}", self.name, self.version)
    }
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

/// Returns where the archive holds something.
fn blob(bytes: &[u8]) -> anyhow::Result<String> {
    let digest = digest(bytes);
    let (sort, hex) = digest.split_once(':').context("a digest without sort")?;
    Ok(format!("blobs/{sort}/{hex}"))
}

fn text(value: &Value) -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}
