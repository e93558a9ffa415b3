//! `uninstall` leaves nothing, at any time.

use harness::Node;
use harness::manifest::Acceleration;
use harness::wait::PATIENCE;

use crate::pins::Pins;
use crate::pins::version_dir;
use crate::rounds::Rounds;
use crate::told::agent;
use crate::world::World;

#[test]
fn everything_goes_and_live_flows_go_on_by_tcp() {
    for killed in [false, true] {
        let Some(mut world) = World::new(Some(Acceleration::On)) else {
            return;
        };
        let rounds = Rounds::new(&world);
        let dir = world.agent().bpf_dir().to_owned();
        let uninstall = ["uninstall", "--bpf-dir", dir.to_str().unwrap()];
        rounds.once();
        assert_eq!(world.flow(&rounds.client)["path"], "redirect");
        let pins = Pins::under(&dir);
        assert!(pins.any_link_lives());
        if killed {
            world.agent_mut().kill9().unwrap();
        } else {
            world.agent_mut().stop().unwrap();
        }
        rounds.during(|| {
            rounds.wait_for_more(20);
            for _ in 0..2 {
                let told = agent(&uninstall);
                assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{told:?}");
                assert!(!dir.exists());
                rounds.wait_for_more(20);
            }
        });
        harness::wait_for("the links to go", PATIENCE, || !pins.any_link_lives()).unwrap();
        rounds.finish();
        // The last sockets that were redirected hold the rest.
        harness::wait_for("programs and maps to go", PATIENCE, || {
            !pins.anything_lives()
        })
        .unwrap();
    }
}

#[test]
fn nothing_is_removed_under_a_running_agent() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let rounds = Rounds::new(&world);
    let dir = world.agent().bpf_dir().to_owned();
    let before = Pins::under(&dir);
    rounds.during(|| {
        rounds.wait_for_more(5);
        let told = agent(&["uninstall", "--bpf-dir", dir.to_str().unwrap()]);
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(told.err.contains("an agent runs with"), "{told:?}");
        assert!(told.err.contains(dir.to_str().unwrap()), "{told:?}");
        rounds.wait_for_more(5);
    });
    assert_eq!(Pins::under(&dir), before);
    let flow = world.flow(&rounds.client);
    assert_eq!(flow["tx_bytes"], flow["redirected_tx_bytes"], "{flow:#}");
    rounds.finish();
}

#[test]
fn nothing_installed_is_nothing_to_do() {
    if !harness::require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let dir = node.files().join("never-there");
    for _ in 0..2 {
        let told = agent(&["uninstall", "--bpf-dir", dir.to_str().unwrap()]);
        assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{told:?}");
    }
    // A directory that is not the kernel's, with files that only look like pins.
    let file = version_dir(&dir).join("maps/CONTROL");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "precious").unwrap();
    let told = agent(&["uninstall", "--bpf-dir", dir.to_str().unwrap()]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.err.contains("is not in a bpf file system"), "{told:?}");
    assert!(file.exists());
}
