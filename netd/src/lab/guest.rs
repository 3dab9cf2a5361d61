//! What stands for a virtual machine behind a tap: a network namespace with a kernel's whole stack, and a wire to it that copies frames as
//! a machine's monitor does, segmentation and checksums left undone where the sender has left them so.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Namespace, host::Container, socket::readable};
use crate::netlink::{open_tap, set_tap_offload};

/// How often the wire looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);
/// The longest frame with its `struct virtio_net_hdr`.
const FRAME: usize = 10 + 14 + 65_536;

/// The wire. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    stop: Arc<AtomicBool>,
    copying: Vec<JoinHandle<()>>,
}

impl Guest {
    /// Boots it: connects the host's tap with an interface in the guest's namespace, and configures that as `netd attach` said.
    ///
    /// # Errors
    /// A tap cannot be opened, or `ip` refuses.
    pub(super) fn start(host: &Namespace, container: &Container, mtu: u64) -> Result<Self> {
        let guest = &container.namespace;
        let open = |at: &Namespace, name: &str| {
            at.run(|| {
                let tap = open_tap(name, false).with_context(|| format!("cannot open the tap {name}"))?;
                let offload = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
                set_tap_offload(&tap, offload).context("the tap does no segmentation offload")?;
                Ok(tap)
            })
        };
        let ends = [open(host, &container.interface)?, open(guest, INSIDE)?];
        let Container { address, prefix, gateway, mac, .. } = container;
        host.ip([format!("link set {} {QUEUE}", container.interface)])?;
        guest.set_sysctl(&format!("net.ipv6.conf.{INSIDE}.addr_gen_mode"), "1").or_else(no_ipv6)?;
        guest.ip([
            format!("link set {INSIDE} address {mac} mtu {mtu} {QUEUE}"),
            format!("link set {INSIDE} up"),
            format!("address add {address}/{prefix} dev {INSIDE}"),
            format!("route add default via {gateway} dev {INSIDE}"),
        ])?;
        if let (Some(address6), Some(gateway6)) = (container.address6, container.gateway6) {
            guest.ip([
                format!("address add {address6}/64 dev {INSIDE} nodad"),
                format!("route add default via {gateway6} dev {INSIDE} onlink"),
            ])?;
        }
        wait(host, &container.interface)?;
        wait(guest, INSIDE)?;
        let stop = Arc::new(AtomicBool::new(false));
        let [a, b] = ends;
        let (a2, b2) = (a.try_clone()?, b.try_clone()?);
        let copying = [(a, b), (b2, a2)].map(|(from, to)| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || copy(from, to, &stop))
        });
        Ok(Self { stop, copying: copying.into() })
    }
}

/// Waits until an interface has its carrier and can use its addresses: a kernel's thread sees to that when it gets round to it.
fn wait(at: &Namespace, interface: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = at.ip_json(&format!("address show dev {interface}"))?;
        let addresses = shown[0]["addr_info"].as_array().into_iter().flatten();
        let tentative = addresses.into_iter().any(|address| address["tentative"] == true);
        let up = shown[0]["flags"].as_array().is_some_and(|flags| flags.contains(&"LOWER_UP".into()));
        if up && shown[0]["operstate"] != "DOWN" && !tentative {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{interface} does not come up: {shown}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Room for what comes while the wire has to wait for a CPU, which may be seconds on a busy machine.
const QUEUE: &str = "txqueuelen 10000";

/// What the guest calls its interface.
const INSIDE: &str = "eth0";

/// Without IPv6 there is no such sysctl.
fn no_ipv6(error: anyhow::Error) -> Result<()> {
    if std::path::Path::new("/proc/sys/net/ipv6").exists() { Err(error) } else { Ok(()) }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.copying.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Copies frames until the end, or until a tap is gone. What the other side has no room for is lost, as on a wire.
fn copy(mut from: File, mut to: File, stop: &AtomicBool) {
    let mut frame = vec![0; FRAME];
    while !stop.load(Ordering::Relaxed) {
        match from.read(&mut frame) {
            Ok(length) => drop(to.write(&frame[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if readable([&from], Some(LOOK)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A tap that is down says this.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => thread::sleep(LOOK),
            Err(_) => return,
        }
    }
}
