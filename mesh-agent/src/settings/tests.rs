//! Tests of `settings`.

use std::io::Write;

use super::*;
use crate::telemetry::http::MetricNames;
use crate::telemetry::http::log::{LogFormat, LogTarget};

const EVERYTHING: &str = r#"
source = "kubernetes"
kubeconfig = "/k"
manifests = "/m"
cgroup = "/c"
bpf-dir = "/b"
socket = "/s"
metrics-address = "off"
log-level = "debug"
log-format = "json"
acceleration = "observe"
observation-window = "1m30s"
stall-timeout = "5s"
node-name = "n1"
zone = "z1"
region = "r1"
data-threads = 3
state-dir = "/st"
service-range = "240.1.0.0/16"
dns-capture = "on"
dns-address = "192.0.2.1"
dns-port = 53
dns-domain = "Mesh.Local"
dns-upstream = "192.0.2.53,fd00::53"
http-metrics-names = "istio"
access-log = "/var/log/access.log"
access-log-format = "text"
access-log-sample = 0.5
otlp-endpoint = "http://otel:80"
trace-sample = 1
"#;

fn merge(args: RunArgs, file: &str) -> Result<Settings, SettingsError> {
    let file = toml::from_str(file).unwrap();
    Settings::merge(args, None, file, "host".into(), || Some("/cg".into()))
}

#[test]
fn without_anything_the_defaults_hold() {
    let settings = merge(RunArgs::default(), "").unwrap();
    assert_eq!(settings.source, SourceKind::Manifests);
    assert_eq!(settings.kubeconfig, None);
    assert_eq!(settings.manifests, Path::new(MANIFESTS));
    assert_eq!(settings.cgroup, Path::new("/cg"));
    assert_eq!(settings.socket, Path::new(SOCKET));
    assert_eq!(settings.metrics_address, Some(METRICS_ADDRESS));
    assert_eq!(settings.acceleration, Acceleration::Auto);
    assert_eq!(settings.observation_window, Duration::from_secs(30));
    assert_eq!(settings.node_name, "host");
    let discovery = settings.discovery;
    assert_eq!(discovery.state_dir, Path::new("/var/lib/underpass"));
    assert_eq!(discovery.service_range, ServiceRange::default());
    assert_eq!(discovery.dns_capture, DnsCapture::Auto);
    assert_eq!((discovery.dns_address, discovery.dns_port), (None, 15053));
    assert_eq!(discovery.dns_domain, "cluster.local");
    assert_eq!(discovery.dns_upstream, None);
    assert_eq!(settings.http, HttpSettings::default());
}

#[test]
fn the_file_says_everything_that_flags_say() {
    let settings = merge(RunArgs::default(), EVERYTHING).unwrap();
    assert_eq!(
        settings,
        Settings {
            source: SourceKind::Kubernetes,
            kubeconfig: Some("/k".into()),
            manifests: "/m".into(),
            cgroup: "/c".into(),
            bpf_dir: "/b".into(),
            socket: "/s".into(),
            metrics_address: None,
            log: LogSettings {
                filter: "debug".into(),
                format: Output::Json,
            },
            acceleration: Acceleration::Observe,
            observation_window: Duration::from_secs(90),
            stall_timeout: Duration::from_secs(5),
            node_name: "n1".into(),
            zone: Some("z1".into()),
            region: Some("r1".into()),
            data_threads: 3,
            discovery: DiscoverySettings {
                state_dir: "/st".into(),
                service_range: "240.1.0.0/16".parse().unwrap(),
                dns_capture: DnsCapture::On,
                dns_address: "192.0.2.1:53".parse().ok(),
                dns_port: 53,
                dns_domain: "mesh.local".into(),
                dns_upstream: Some(vec![
                    "192.0.2.53:53".parse().unwrap(),
                    "[fd00::53]:53".parse().unwrap(),
                ]),
            },
            http: HttpSettings {
                names: MetricNames::Istio,
                domain: "mesh.local".into(),
                log: Some(LogTarget::File("/var/log/access.log".into())),
                log_format: LogFormat::Text,
                log_sample: 0.5,
                otlp_endpoint: "http://otel:80".parse().ok(),
                trace_sample: 1.0,
            },
        }
    );
}

#[test]
fn flags_win_over_the_file() {
    let args = RunArgs {
        manifests: Some("/flag".into()),
        metrics_address: Some("[::1]:9".parse().unwrap()),
        acceleration: Some(Acceleration::Off),
        stall_timeout: Some(Duration::from_secs(9)),
        ..RunArgs::default()
    };
    let settings = merge(args, EVERYTHING).unwrap();
    assert_eq!(settings.manifests, Path::new("/flag"));
    assert_eq!(settings.metrics_address, "[::1]:9".parse().ok());
    assert_eq!(settings.acceleration, Acceleration::Off);
    assert_eq!(settings.stall_timeout, Duration::from_secs(9));
    assert_eq!(settings.node_name, "n1");
}

#[test]
fn a_file_with_an_error_says_where() {
    for (text, says) in [
        ("manifest = '/m'", "unknown field `manifest`"),
        ("stall-timeout = 5", "expected a string"),
        ("access-log-sample = 2", "`2` is no share"),
        ("otlp-endpoint = 'https://otel'", "https is not supported"),
        ("stall-timeout = 'soon'", "`soon` is not a duration"),
        ("metrics-address = '15020'", "`15020` is neither"),
        (
            "acceleration = 'yes'",
            "`yes` is none of off, observe, auto, on",
        ),
        ("log-format = 'xml'", "`xml` is neither text nor json"),
        ("dns-capture = 'yes'", "`yes` is none of auto, on, off"),
        ("dns-address = '0.0.0.0:53'", "is every address"),
        ("service-range = '240.0.0.0'", "is no range of addresses"),
    ] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let args = RunArgs {
            config: Some(file.path().to_owned()),
            cgroup: Some("/c".into()),
            ..RunArgs::default()
        };
        let error = Settings::load(args, None).unwrap_err();
        let SettingsError::Parse { source, .. } = error else {
            panic!("{text}: {error}");
        };
        assert!(source.to_string().contains(says), "{text}: {source}");
        assert!(source.span().is_some(), "{text}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let error = merge(RunArgs::default(), "stall-timeout = '0s'").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`stall-timeout` must be longer than zero"
    );
    let args = RunArgs::default();
    let error = Settings::merge(args, None, File::default(), "h".into(), || None);
    assert!(matches!(error, Err(SettingsError::NoCgroup)));
    let args = RunArgs {
        config: Some("/nonexistent/agent.toml".into()),
        ..RunArgs::default()
    };
    let error = Settings::load(args, None);
    assert!(matches!(error, Err(SettingsError::Read { .. })));
}
