//! Renders the kustomizations of this repository, as `kubectl kustomize` does.
//!
//! Debian's kubectl is too old to read them, and no other has to be installed for a test. So they use two features only,
//! `resources` and strategic merges of files in `patches`, which is what is carried out here; anything else fails. Where a
//! kubectl of today is installed, a test compares both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Objects in the order in which they were found.
pub(super) type Rendered = Vec<Value>;

/// Lists whose items are told apart by a field, as Kubernetes' types say; all others are replaced as a whole.
const MERGED: [(&str, &str); 5] = [
    ("containers", "name"),
    ("env", "name"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
    ("volumes", "name"),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/kubernetes")
        .join(name)
}

/// Returns what a folder comes to.
pub(super) fn render(name: &str) -> Rendered {
    in_folder(&folder(name))
}

fn in_folder(folder: &Path) -> Rendered {
    let text = fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
    let kustomization: Value = serde_saphyr::from_str(&text).unwrap();
    let mut objects = Vec::new();
    for (field, value) in kustomization.as_object().unwrap() {
        match field.as_str() {
            "apiVersion" => assert_eq!(value, "kustomize.config.k8s.io/v1beta1"),
            "kind" => assert_eq!(value, "Kustomization"),
            "resources" | "patches" => {}
            other => panic!("{}: `{other}` is not rendered here", folder.display()),
        }
    }
    let all = |field: &str| kustomization[field].as_array().cloned().unwrap_or_default();
    for resource in all("resources") {
        let path = folder.join(resource.as_str().unwrap());
        match path.is_dir() {
            true => objects.extend(in_folder(&path)),
            false => objects.extend(documents(&path)),
        }
    }
    for patch in all("patches") {
        let fields: Vec<_> = patch.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["path"], "{}", folder.display());
        for patch in documents(&folder.join(patch["path"].as_str().unwrap())) {
            let mut found = objects.iter_mut().filter(|it| key(it) == key(&patch));
            let target = found
                .next()
                .unwrap_or_else(|| panic!("nothing to patch: {:?}", key(&patch)));
            merge(target, &patch, "");
        }
    }
    objects
}

fn documents(file: &Path) -> Vec<Value> {
    let text =
        fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Merges a patch into a value, which is the value of `field`.
fn merge(value: &mut Value, patch: &Value, field: &str) {
    if let (Some(fields), Some(patch)) = (value.as_object_mut(), patch.as_object()) {
        for (name, patch) in patch {
            if patch.is_null() {
                fields.remove(name);
            } else {
                merge(fields.entry(name).or_insert(Value::Null), patch, name);
            }
        }
        return;
    }
    let by = MERGED.iter().find(|(list, _)| *list == field);
    let (Some((_, by)), Some(items), Some(patch)) = (by, value.as_array_mut(), patch.as_array())
    else {
        *value = patch.clone();
        return;
    };
    let mut new = Vec::new();
    for patch in patch {
        match items.iter_mut().find(|it| it[by] == patch[by]) {
            Some(item) => merge(item, patch, ""),
            None => new.push(patch.clone()),
        }
    }
    // What a patch adds comes first.
    items.splice(..0, new);
}

/// Returns what tells an object from all others.
pub(super) fn key(object: &Value) -> [String; 4] {
    let metadata = &object["metadata"];
    [
        &object["apiVersion"],
        &object["kind"],
        &metadata["namespace"],
        &metadata["name"],
    ]
    .map(|part| part.as_str().unwrap_or_default().to_owned())
}

/// Returns objects in an order that does not depend on who rendered them.
pub(super) fn sorted(objects: &Rendered) -> Rendered {
    let mut objects = objects.clone();
    objects.sort_by_key(key);
    objects
}

/// Returns what kubectl makes of a folder; `None` where there is none, or one that is too old.
pub(super) fn by_kubectl(name: &str) -> Option<Rendered> {
    // The first with today's fields.
    const OLDEST: u32 = 5;
    let version = Command::new("kubectl")
        .args(["version", "--client"])
        .output()
        .ok()?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let version = version
        .lines()
        .find_map(|line| line.strip_prefix("Kustomize Version: v"))?;
    let major: u32 = version.split('.').next()?.parse().ok()?;
    if major < OLDEST {
        return None;
    }
    let output = Command::new("kubectl")
        .arg("kustomize")
        .arg(folder(name))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // It says so there when something is not as it should be, such as a field that will go.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}");
    Some(serde_saphyr::from_multiple(&String::from_utf8(output.stdout).unwrap()).unwrap())
}
