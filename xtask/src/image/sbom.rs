//! What the program is made of, as a CycloneDX list (1.6): a hundred lines of what cargo knows already, and no further tool.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::crates::{Crates, Package};
use crate::process::first_line;

/// Returns the list. It bears neither time nor serial number, which would make each one another.
///
/// # Errors
///
/// When the compiler does not say what it is.
pub(super) fn of(crates: &Crates) -> anyhow::Result<String> {
    let compiler = first_line("rustc", &["--version"]).context("failed to run `rustc`")?;
    let compiler = compiler.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut components: Vec<Value> = crates.shipped().map(component).collect();
    components.push(json!({
        "type": "library",
        "bom-ref": "rust-std",
        "name": "rust-std",
        "version": compiler,
        "description": "The standard library, with the musl libc that it brings for this target",
        "licenses": [{"expression": "(MIT OR Apache-2.0) AND MIT"}],
    }));
    let needs = crates.shipped().map(|package| {
        let needs: Vec<String> = crates.needs(package).map(Package::purl).collect();
        json!({"ref": package.purl(), "dependsOn": needs})
    });
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": super::NAME,
                "version": crates.version()?,
            },
        },
        "components": components,
        "dependencies": needs.collect::<Vec<_>>(),
    });
    let mut text = serde_json::to_string_pretty(&bill)?;
    text.push('\n');
    Ok(text)
}

fn component(package: &Package) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": package.purl(),
        "name": package.name,
        "version": package.version,
        "purl": package.purl(),
    });
    if let Some(license) = &package.license {
        // The slash of old manifests means `OR`.
        component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
    }
    component
}
