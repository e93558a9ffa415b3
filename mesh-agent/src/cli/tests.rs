//! Tests of `cli`.

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;

fn parse(args: &[&str]) -> Result<Cli, ErrorKind> {
    let all = std::iter::once("node-agent").chain(args.iter().copied());
    Cli::try_parse_from(all).map_err(|error| error.kind())
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn global_flags_stand_before_and_after_the_command() {
    for args in [
        ["--output", "json", "status"],
        ["status", "--output", "json"],
        ["status", "-o", "json"],
    ] {
        assert_eq!(parse(&args).unwrap().global.output, Output::Json);
    }
}

#[test]
fn flows_takes_its_filters() {
    let cli = parse(&[
        "flows",
        "--follow",
        "--since",
        "5m",
        "--workload",
        "shop/cart",
        "--namespace",
        "shop",
        "--port",
        "8080",
        "--path",
        "tcp",
        "--limit",
        "3",
    ]);
    let Command::Flows(args) = cli.unwrap().command else {
        panic!("another command");
    };
    assert!(args.follow);
    assert_eq!(args.since, Some(Duration::from_secs(300)));
    assert_eq!(args.workload.unwrap().to_string(), "shop/cart");
    assert_eq!(
        (args.port, args.path.as_deref(), args.limit),
        (Some(8080), Some("tcp"), 3)
    );
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for args in [
        &["flows", "--workload", "cart"][..],
        &["flows", "--since", "yesterday"],
        &["flows", "--port", "70000"],
        &["flows", "--path", "sideways"],
        &["run", "--metrics-address", "localhost"],
        &["run", "--acceleration", "maybe"],
        &["run", "--stall-timeout=-1s"],
        &["top", "--interval", "1ms"],
        &["acceleration", "perhaps"],
    ] {
        let kind = parse(args).unwrap_err();
        let wanted = [ErrorKind::ValueValidation, ErrorKind::InvalidValue];
        assert!(wanted.contains(&kind), "{args:?}: {kind:?}");
    }
}

#[test]
fn the_kill_switch_has_two_names() {
    for name in ["acceleration", "accelerate"] {
        assert!(parse(&[name, "off"]).is_ok());
    }
}

#[test]
fn the_help_documents_the_exit_codes() {
    let help = Cli::command().render_help().to_string();
    assert!(help.contains("3  the agent could not be reached"));
    assert!(help.contains("UNDERPASS_SOCKET"));
}
