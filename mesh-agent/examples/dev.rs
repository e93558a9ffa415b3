use mesh_agent::kernel::*;
use mesh_agent::model::observed::KernelView;
use mesh_agent::model::workload::*;
use std::os::fd::AsRawFd;
fn cookie(path: &str) -> u64 {
    let path = path.to_owned();
    std::thread::spawn(move || {
        let f = std::fs::File::open(path).unwrap();
        assert_eq!(unsafe { libc::setns(f.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
        let s = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let mut v = 0u64;
        let mut l = 8u32;
        assert_eq!(
            unsafe { libc::getsockopt(s.as_raw_fd(), 1, 71, (&raw mut v).cast(), &raw mut l) },
            0
        );
        v
    })
    .join()
    .unwrap()
}
fn main() {
    tracing_subscriber::fmt().init();
    let mut placed = vec![];
    for a in std::env::args().skip(1) {
        let p: Vec<&str> = a.split('=').collect();
        placed.push(Placed {
            workload: std::sync::Arc::new(Workload {
                name: WorkloadName {
                    namespace: "t".into(),
                    name: p[0].into(),
                },
                uid: None,
                labels: Default::default(),
                service_account: "default".into(),
                addresses: p[2].split(',').map(|x| x.parse().unwrap()).collect(),
                location: Location::Addresses,
                acceleration: p[3].parse().unwrap(),
                origin: "".into(),
            }),
            netns: Ok(cookie(p[1])),
        });
    }
    let s = KernelSettings {
        cgroup: mounts::cgroup2().unwrap(),
        bpf_dir: "/sys/fs/bpf/dev".into(),
        observation_window: std::time::Duration::from_secs(3),
        stall_timeout: std::time::Duration::from_secs(60),
    };
    let (k, mut r) = Kernel::start(&s).unwrap();
    println!("{:?}", k.probe());
    k.apply(1, &placed).unwrap();
    println!("READY");
    loop {
        r.drain(std::time::Duration::from_millis(250), |f| println!("ENDED {}:{} -> {}:{} path {} reason {} close {} tx {} rx {} rtx {} rrx {} msgs {}/{} turns {} connect {} rtt {}", f.source, f.source_port, f.destination, f.destination_port, f.path, f.reason, f.close, f.tx_bytes, f.rx_bytes, f.redirect_tx_bytes, f.redirect_rx_bytes, f.tx_messages, f.rx_messages, f.turns, f.connect_us, f.srtt_us));
        for st in k.tick().unwrap() {
            println!("STALLED {st:?}");
        }
        if std::path::Path::new("/tmp/dump").exists() {
            for f in k.live_flows().unwrap() {
                println!(
                    "LIVE {}:{} -> {}:{} path {} reason {} tx {} rx {} rtx {} rrx {}",
                    f.source,
                    f.source_port,
                    f.destination,
                    f.destination_port,
                    f.path,
                    f.reason,
                    f.tx_bytes,
                    f.rx_bytes,
                    f.redirect_tx_bytes,
                    f.redirect_rx_bytes
                );
            }
            println!("{:?}\n{:?}", k.counters().unwrap(), k.map_fill().unwrap());
            for w in k.workloads() {
                println!("{w:?}");
            }
            std::fs::remove_file("/tmp/dump").unwrap();
        }
        if std::path::Path::new("/tmp/stop").exists() {
            std::fs::remove_file("/tmp/stop").unwrap();
            break;
        }
    }
    drop(k);
    uninstall(&s.bpf_dir).unwrap();
}
