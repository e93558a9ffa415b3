//! Whose hostname counts below a headless service.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::super::Resolver;
use crate::config::content::Content;
use crate::config::problem::Severity;
use crate::model::service::ServiceName;
use crate::model::workload::Acceleration;

const SERVICE: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\n\
    spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432}]}\n";

/// Returns a pod `db-NUMBER` with these further fields of its `spec`.
fn pod(number: u8, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: db-{number}, namespace: shop, labels: {{app: db}}}}\n\
         spec: {{{spec}}}\nstatus: {{podIPs: [{{ip: 10.0.0.{number}}}]}}\n"
    )
}

/// Returns the address of each endpoint of `shop/db`, with its hostname; or what is wrong.
fn hostnames(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let content = Arc::new(Content::parse("a.yaml", text.as_bytes(), None));
    let mut resolver = Resolver::new(Acceleration::Auto);
    resolver.update(Ok(&[content]));
    let resolved = resolver.resolved();
    let problems = resolver.problems();
    if let Some(error) = problems.iter().find(|it| it.severity == Severity::Error) {
        return Err(error.to_string());
    }
    let name = ServiceName {
        namespace: "shop".into(),
        name: "db".into(),
    };
    let endpoints = resolved.services[&name].ports[0].endpoints.iter();
    let known = endpoints.map(|it| {
        (
            it.address.to_string(),
            it.hostname.as_deref().map(str::to_owned),
        )
    });
    Ok(known.collect())
}

#[test]
fn of_pods_those_whose_subdomain_is_the_service() {
    let text = [
        SERVICE,
        &pod(1, "hostname: first, subdomain: db"),
        &pod(2, "hostname: second, subdomain: other"),
        &pod(3, "hostname: third"),
        &pod(4, "subdomain: db"),
    ];
    let known = hostnames(&text.concat()).unwrap();
    let of = |number: u8, name: Option<&str>| (format!("10.0.0.{number}"), name.map(str::to_owned));
    assert_eq!(
        known,
        [of(1, Some("first")), of(2, None), of(3, None), of(4, None)]
    );
}

#[test]
fn of_slices_what_they_say() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
        metadata: {name: db-a, namespace: shop, labels: {kubernetes.io/service-name: db}}\naddressType: IPv4\n\
        endpoints:\n- {addresses: [10.0.0.1], hostname: HOST}\n- {addresses: [10.0.0.2]}\n\
        ports: [{port: 5432, name: ''}]\n";
    // The pod's own word is not asked where there are slices.
    let text = |host: &str| {
        let slice = slice.replace("HOST", host);
        format!(
            "{SERVICE}{}{slice}",
            pod(2, "hostname: second, subdomain: db")
        )
    };
    let known = hostnames(&text("first")).unwrap();
    assert_eq!(
        known,
        [
            ("10.0.0.1".to_owned(), Some("first".to_owned())),
            ("10.0.0.2".to_owned(), None)
        ]
    );
    let wrong = hostnames(&text("db.first")).unwrap_err();
    assert!(
        wrong.contains("endpoints[0].hostname: `db.first` is not a DNS label"),
        "{wrong}"
    );
}
