//! What programs note of a workload while the agent decides on it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mesh_agent::model::workload::Acceleration;
use mesh_common::behaviour;

use crate::ground::{Ground, taken};
use crate::sys;

#[test]
fn a_behaviour_is_not_forgotten_when_it_is_seen_while_the_mode_changes() {
    const TIMES: u64 = 2000;
    let Some(mut ground) = Ground::new() else {
        return;
    };
    let id = ground.id(&ground.pods[0]);
    let (client, _server) = ground.join();
    let descriptor = taken(&mut ground.client, &client);
    let (rounds, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let ground = &ground;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                ground.set_modes(Acceleration::On);
                ground.set_modes(Acceleration::Off);
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        });
        // Whatever was under way is over once two more rounds have ended.
        let settle = || {
            let until = rounds.load(Ordering::SeqCst) + 2;
            while rounds.load(Ordering::SeqCst) < until {
                std::thread::yield_now();
            }
        };
        let mut forgotten = 0;
        for _ in 0..TIMES {
            ground.maps.admissions.clear(id);
            settle();
            sys::set_option(
                &descriptor,
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                &10i32.to_ne_bytes(),
            )
            .unwrap();
            settle();
            forgotten += u64::from(behaviours(ground, id) != behaviour::RCVLOWAT);
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(forgotten, 0, "of {TIMES}");
    });
}

fn behaviours(ground: &Ground, id: u32) -> u64 {
    ground.maps.admissions.get(id).unwrap().behaviours
}
