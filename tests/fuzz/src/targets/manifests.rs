//! Manifests: any text is read or refused in words, the same each time, and what is read compiles to tables.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use http::Method;
use mesh_agent::config::check::{CheckReport, check};
use mesh_agent::l7::message::Fields;
use mesh_agent::l7::route::{Input, RequestView, Tables};
use mesh_agent::model::workload::Acceleration;
use tempfile::TempDir;

use crate::Target;

/// One file.
pub const TARGET: Target = Target {
    name: "manifests",
    run,
    words: &[
        "\n---\n",
        "apiVersion: ",
        "kind: ",
        "metadata:\n  name: ",
        "  namespace: ",
        "spec:\n",
        "  ",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "null",
        "-1",
        "65536",
        "0",
        "1.5",
        "10s",
        "1h",
        "100%",
        "*",
        "&a",
        "*a",
        "<<: ",
        "!!binary ",
        "|\n",
        ">-\n",
        "matches:",
        "filters:",
        "backendRefs:",
        "parentRefs:",
        "type: ",
        "weight: ",
        "value: ",
        "RegularExpression",
        "PathPrefix",
        "Exact",
        "RequestMirror",
        "(",
        "[[",
        "(?:a{1000}){1000}",
        "\u{feff}",
        "\t",
        "#",
    ],
    longest: 16 << 10,
};

/// A file of this thread's own.
struct Place {
    file: PathBuf,
    _directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is a directory for what is temporary");
        Self {
            file: directory.path().join("a.yaml"),
            _directory: directory,
        }
    }
}

fn run(data: &[u8]) {
    thread_local! {
        static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
    }
    PLACE.with_borrow_mut(|place| {
        let place = place.get_or_insert_with(Place::new);
        fs::write(&place.file, data).expect("the directory is there");
        let one = check(&place.file, Acceleration::Auto);
        let other = check(&place.file, Acceleration::Auto);
        let (text, again) = (one.to_string(), other.to_string());
        assert_eq!(text, again, "the same file read twice");
        assert_eq!(one.exit_code() == 1, one.errors() > 0);
        compile(&one);
    });
}

fn compile(report: &CheckReport) {
    let none = Tables::default();
    let (traffic, tls) = (Default::default(), Default::default());
    let input = Input {
        generation: 1,
        services: &report.services,
        routes: &report.routes,
        traffic: &traffic,
        tls: &tls,
    };
    let tables = Tables::compile(&input, &none);
    let fields = Fields::default();
    for port in tables.ports() {
        let Some(table) = port.table("default") else {
            continue;
        };
        for path in ["/", "/a/b", "*"] {
            let view = RequestView {
                method: &Method::GET,
                authority: "a",
                path,
                query: None,
                fields: &fields,
            };
            let walked = table.explain(&view);
            let walked = walked.last().filter(|last| last.misfit.is_none());
            assert_eq!(walked.is_some(), table.select(&view).is_some());
        }
    }
}
