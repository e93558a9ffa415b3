//! The agent's listeners and sockets inside of a workload's network namespace, made as the data path has them made.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use harness::wait::PATIENCE;
use harness::{Pod, wait_for};
use mesh_agent::locate::inside::Place;
use mesh_agent::model::balanced::{Fail, Upstream};
use mesh_agent::model::workload::Acceleration;
use mesh_agent::proxy::handover::Marks;
use mesh_agent::proxy::listener::{Home, Intake, Listeners};
use mesh_agent::proxy::socket::{Asked, Maker};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::net::sockopt::{tcp_nodelay, tcp_quickack};

use super::scene::{FORMS, PORT, Scene, all};
use crate::ground::placed;
use crate::sys;

const THREADS: usize = 3;

fn home(pod: &Pod, netns_cookie: u64) -> Arc<Home> {
    Arc::new(Home {
        workload: placed(&(pod, "1", Acceleration::Off), netns_cookie).workload,
        place: Place {
            handle: pod.netns_path(),
            netns_cookie,
            addresses: Vec::new(),
        },
    })
}

/// Data threads that do nothing but have what they are given.
#[derive(Default)]
struct Threads(Mutex<Vec<(usize, u64, TcpListener)>>);

impl Intake for Threads {
    fn threads(&self) -> usize {
        THREADS
    }

    fn open(&self, thread: usize, home: &Arc<Home>, listener: TcpListener) {
        let mut all = self.0.lock().unwrap();
        all.push((thread, home.place.netns_cookie, listener));
    }

    fn close(&self, netns_cookie: u64) {
        let mut all = self.0.lock().unwrap();
        all.retain(|(_, cookie, _)| *cookie != netns_cookie);
    }
}

impl Threads {
    /// Returns whom the next connection comes from, and on which thread.
    fn accept(&self) -> (usize, SocketAddr) {
        let all = self.0.lock().unwrap();
        let mut waiting: Vec<PollFd<'_>> = all
            .iter()
            .map(|(.., it)| PollFd::new(it, PollFlags::IN))
            .collect();
        let patience = Timespec::try_from(PATIENCE).unwrap();
        assert_eq!(poll(&mut waiting, Some(&patience)).unwrap(), 1);
        let ready = waiting
            .iter()
            .position(|it| !it.revents().is_empty())
            .unwrap();
        let (thread, _, listener) = &all[ready];
        let (socket, from) = listener.accept().unwrap();
        // What the listener has is inherited.
        assert!(tcp_nodelay(&socket).unwrap());
        assert!(!tcp_quickack(&socket).unwrap());
        (*thread, from)
    }
}

/// The kernel side of a scene, which the scene goes on holding.
struct KernelOf(Scene);

impl Marks for KernelOf {
    fn listener(&self, socket: BorrowedFd<'_>) -> std::io::Result<()> {
        self.0.ground.kernel.mark_listener(socket)
    }

    fn upstream(&self, socket: BorrowedFd<'_>, upstream: &Upstream<'_>) -> std::io::Result<()> {
        self.0.ground.kernel.mark_upstream(socket, upstream)
    }
}

#[test]
fn every_thread_has_a_listener_of_each_family_while_the_workload_is_there() {
    let Some(scene) = Scene::away() else {
        return;
    };
    scene.serve(Some(all(Fail::Closed)));
    let netns = scene.netns;
    let client = home(&scene.ground.pods[0], netns);
    let sockets: Vec<_> = (0..100).map(|at| FORMS[at % 3]).collect();
    let mut scene = scene;
    let sockets: Vec<_> = sockets
        .into_iter()
        .map(|form| (form, scene.socket(form)))
        .collect();
    let mut late: Vec<_> = (0..1000).map(|_| scene.socket(FORMS[0])).collect();
    let (threads, kernel) = (Arc::new(Threads::default()), Arc::new(KernelOf(scene)));
    let mut listeners = Listeners::new(PORT, threads.clone(), kernel.clone());
    let wrong = Home {
        place: Place {
            netns_cookie: netns + 1,
            ..client.place.clone()
        },
        ..client.as_ref().clone()
    };
    assert_eq!(listeners.set(&[Arc::new(wrong)]), BTreeSet::new());
    for _ in 0..2 {
        assert_eq!(listeners.set(std::slice::from_ref(&client)), [netns].into());
    }
    assert_eq!(threads.0.lock().unwrap().len(), 2 * THREADS);
    let mut used = BTreeSet::new();
    for (form, socket) in &sockets {
        socket.connect(&(*form).into()).unwrap();
        let (thread, from) = threads.accept();
        used.insert(thread);
        assert!(kernel.0.take(from).is_some());
    }
    assert_eq!(used, BTreeSet::from_iter(0..THREADS));
    // The port is taken: by who was first.
    let mut others = Listeners::new(PORT, Arc::new(Threads::default()), kernel.clone());
    assert_eq!(
        others.set(std::slice::from_ref(&client)),
        [netns].into(),
        "the same owner may share it"
    );
    drop(others);
    assert_eq!(listeners.set(&[]), BTreeSet::new());
    assert!(threads.0.lock().unwrap().is_empty());
    // Another test's child may have a copy of a listener until it has become another program.
    let is_gone = || match late.pop().unwrap().connect(&FORMS[0].into()) {
        Ok(()) => false,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EHOSTDOWN));
            true
        }
    };
    wait_for("the listeners to be gone", PATIENCE, is_gone).unwrap();
    assert_eq!(listeners.set(&[client]), [netns].into());
    drop(listeners);
    assert!(threads.0.lock().unwrap().is_empty());
}

/// Wakes a thread that waits for one future.
#[derive(Default)]
struct Bell(Mutex<bool>, Condvar);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
}

fn wait(asked: Asked) -> std::io::Result<OwnedFd> {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    let mut asked = pin!(asked);
    loop {
        if let Poll::Ready(done) = asked.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        let rung = bell.0.lock().unwrap();
        let (mut rung, timeout) = bell
            .1
            .wait_timeout_while(rung, PATIENCE, |rung| !*rung)
            .unwrap();
        assert!(!timeout.timed_out());
        *rung = false;
    }
}

#[test]
fn a_socket_is_made_where_the_workload_is_and_often_lies_ready() {
    let Some(scene) = Scene::away() else {
        return;
    };
    let maker = Maker::start().unwrap();
    let [one, other] = &scene.ground.pods;
    let homes = [
        home(one, scene.netns),
        home(other, crate::ground::netns(other)),
    ];
    for (home, v6) in homes.iter().flat_map(|home| [(home, false), (home, true)]) {
        let began = Instant::now();
        let socket = wait(maker.stream(home, v6)).unwrap();
        println!("through a helper: {:?}", began.elapsed());
        assert_eq!(sys::netns_cookie(&socket).unwrap(), home.place.netns_cookie);
        assert!(fcntl_getfl(&socket).unwrap().contains(OFlags::NONBLOCK));
        assert!(tcp_nodelay(&socket).unwrap());
        let family = socket2::SockRef::from(&socket).domain().unwrap();
        assert_eq!(family == socket2::Domain::IPV6, v6);
    }
    assert!(maker.stocked() > 0);
    let began = Instant::now();
    let ready = maker.stream(&homes[0], false);
    println!("from stock: {:?}", began.elapsed());
    assert!(ready.is_done());
    let socket = wait(ready).unwrap();
    assert_eq!(sys::netns_cookie(&socket).unwrap(), scene.netns);
    // What is forgotten is closed at once, what is not asked for soon.
    let before = maker.stocked();
    maker.forget(homes[0].place.netns_cookie);
    assert!(maker.stocked() < before);
    wait_for("the stock to be closed", PATIENCE, || maker.stocked() == 0).unwrap();
    let gone = Home {
        place: Place {
            netns_cookie: 1,
            ..homes[0].place.clone()
        },
        ..homes[0].as_ref().clone()
    };
    assert_eq!(
        wait(maker.stream(&gone, false)).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let nowhere = Home {
        place: Place {
            handle: "/nowhere".into(),
            ..homes[0].place.clone()
        },
        ..homes[0].as_ref().clone()
    };
    assert_eq!(
        wait(maker.stream(&nowhere, false)).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn many_sockets_at_once_are_each_in_its_own_namespace() {
    const EACH: usize = 300;
    let Some(scene) = Scene::away() else {
        return;
    };
    let maker = Maker::start().unwrap();
    let [one, other] = &scene.ground.pods;
    let homes = [
        home(one, scene.netns),
        home(other, crate::ground::netns(other)),
    ];
    let asked: Vec<_> = (0..2 * EACH)
        .map(|at| (at % 2, maker.stream(&homes[at % 2], at % 3 == 0)))
        .collect();
    for (at, asked) in asked {
        let socket = wait(asked).unwrap();
        assert_eq!(
            sys::netns_cookie(&socket.as_fd()).unwrap(),
            homes[at].place.netns_cookie
        );
    }
    // Without anybody to wait for them.
    drop(
        (0..100)
            .map(|_| maker.stream(&homes[0], false))
            .collect::<Vec<_>>(),
    );
    drop(maker);
}

#[test]
fn a_namespace_ends_with_its_workload_although_sockets_were_open_in_it() {
    let Some(scene) = Scene::away() else {
        return;
    };
    let third = scene.ground.node.pod("third").unwrap();
    let netns = crate::ground::netns(&third);
    let home = home(&third, netns);
    let link = |scene: &Scene| {
        // The other end of the third pod's link, which goes only when the namespace itself does.
        let mut ip = scene.ground.node.command(Path::new("ip")).unwrap();
        let shown = ip.args(["link", "show", "v4"]).output().unwrap();
        shown.status.success()
    };
    let (threads, kernel) = (Arc::new(Threads::default()), Arc::new(KernelOf(scene)));
    let mut listeners = Listeners::new(PORT, threads.clone(), kernel.clone());
    let maker = Maker::start().unwrap();
    assert_eq!(listeners.set(std::slice::from_ref(&home)), [netns].into());
    drop(wait(maker.stream(&home, false)).unwrap());
    wait_for("the stock", PATIENCE, || maker.stocked() > 0).unwrap();
    assert!(link(&kernel.0));
    let deleted = Command::new("ip")
        .args(["netns", "del", third.netns()])
        .output();
    assert!(deleted.unwrap().status.success());
    wait_for("the stock to be closed", PATIENCE, || maker.stocked() == 0).unwrap();
    assert!(link(&kernel.0), "its listeners keep it");
    assert_eq!(listeners.set(&[]), BTreeSet::new());
    wait_for("the namespace to go", PATIENCE, || !link(&kernel.0)).unwrap();
    let gone = wait(maker.stream(&home, false)).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}
