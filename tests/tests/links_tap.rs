//! Taps, for virtual machines. The monitor is the tests' own: it opens the tap by name, and the guest behind it is a kernel's stack.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::Ordering,
};

use anyhow::{Context, Result, ensure};
use netd::lab::{
    Container, Vmm, icmp,
    vmm::{self, Opening},
};
use netd_common::host::build::{Body, Ip, frame};
use netd_tests::{
    Site, frames, segments,
    site::{PATIENCE, eventually, reach, unreachable},
    streams::{TcpFlood, UdpPulse},
    with_cluster, with_site,
};
use nix::sys::signal::Signal;
use serde_json::Value;

const CONFIG: &str = "[networks.default]\n[networks.other]\nsubnets = [\"10.89.0.0/24\", \"fd89::/64\"]\n";
const PORT: u16 = 4200;
/// Enough for a connection to send as much at a time as it ever will.
const BYTES: u64 = 16 << 20;

/// Attaches a virtual machine that serves echo.
fn guest(site: &mut Site, name: &str, options: &[&str], offloads: bool) -> Result<(Container, Vmm)> {
    let (guest, vmm) = site.host.guest(name, options, offloads)?;
    site.serve(&guest.namespace, guest.address)?;
    let address6 = guest.address6.context("a guest has no IPv6 address")?;
    site.serve(&guest.namespace, address6)?;
    Ok((guest, vmm))
}

/// What `ip` says of a link of the host's; none: there is no such link.
fn shown(site: &Site, link: &str) -> Result<Option<Value>> {
    let all = site.host.namespace.ip_json("-d link show")?;
    Ok(all.as_array().context("no list")?.iter().find(|one| one["ifname"] == link).cloned())
}

/// Everything that a container can reach, and is reached by, both families.
fn works(site: &Site, guest: &Container, other: &Container) -> Result<()> {
    let world = &site.world;
    let (guest6, other6) = (guest.address6.context("IPv6")?, other.address6.context("IPv6")?);
    reach(&guest.namespace, other.address, guest.address)?;
    reach(&other.namespace, guest.address, other.address)?;
    reach(&guest.namespace, other6, guest6)?;
    reach(&other.namespace, guest6, other6)?;
    reach(&site.host.namespace, guest.address, guest.gateway)?;
    guest.namespace.run(|| icmp::ping(guest.gateway, 56, PATIENCE))?;
    reach(&guest.namespace, world.address, site.host.address)
}

fn like_a_container(test: &str, offloads: bool) {
    with_site(test, CONFIG, |site| {
        let container = site.container("c")?;
        let stranger = site.container_with("s", &["--network", "other"])?;
        let (one, _one) = guest(site, "one", &["-p", "8007:7"], offloads)?;
        let (two, _two) = guest(site, "two", &[], offloads)?;
        works(site, &one, &container)?;
        works(site, &one, &two)?;
        // Published: from the world, from a container, and from the host itself.
        let published = SocketAddr::from((site.host.address, 8007));
        for from in [&site.world.server, &container.namespace, &two.namespace, &site.host.namespace] {
            let answer = from.run(|| netd::lab::echo::tcp(published, &[7; 3000], PATIENCE));
            answer.with_context(|| format!("port 8007 from {}", from.name()))?;
        }
        unreachable(&one.namespace, stranger.address)?;
        unreachable(&stranger.namespace, one.address)?;
        // The link's own view.
        let link = shown(site, &one.host_interface)?.context("no tap")?;
        ensure!(link["linkinfo"]["info_kind"] == "tun" && link["mtu"] == 1500, "{link}");
        ensure!(link["linkinfo"]["info_data"]["persist"] == true, "{link}");
        let listed = site.endpoint("one")?.context("no endpoint")?;
        ensure!(listed["link"] == "tap" && listed["netns"] == "", "{listed}");
        let (sent, got) =
            (site.endpoint_counter("one", "tx_packets")?, site.endpoint_counter("one", "rx_packets")?);
        ensure!(sent > 0 && got > 0, "{sent} sent, {got} received");
        ensure!(site.status()?["healthy"] == true, "{}", site.status()?);
        let output = site.host.netd(["detach", "one"])?;
        ensure!(output.status.success(), "{output:?}");
        ensure!(shown(site, &one.host_interface)?.is_none(), "the tap of a detached endpoint is there");
        unreachable(&container.namespace, one.address)?;
        reach(&container.namespace, two.address, container.address)
    });
}

#[test]
fn a_guest_with_offloads_is_like_a_container() {
    like_a_container("a_guest_with_offloads_is_like_a_container", true);
}

#[test]
fn a_guest_without_offloads_is_like_a_container() {
    like_a_container("a_guest_without_offloads_is_like_a_container", false);
}

/// Sends a lot to an address, all of which must arrive.
fn burst(from: &Container, to: &Container, address: IpAddr) -> Result<()> {
    let address = SocketAddr::new(address, PORT);
    let _sink = TcpFlood::sink(&to.namespace, address)?;
    TcpFlood::burst(&from.namespace, address, BYTES)
}

#[test]
fn offloads_survive_and_nothing_is_cut_wrong() {
    with_site("offloads_survive_and_nothing_is_cut_wrong", CONFIG, |site| {
        let container = site.container("c")?;
        for offloads in [true, false] {
            let name = if offloads { "with" } else { "without" };
            let (guest, vmm) = site.host.guest(name, &[], offloads)?;
            let families = [
                (guest.address.into(), container.address.into()),
                (guest.address6.context("IPv6")?.into(), container.address6.context("IPv6")?.into()),
            ];
            for (of_guest, of_container) in families {
                burst(&container, &guest, of_guest)?;
                burst(&guest, &container, of_container)?;
                segments::exchange(&container.namespace, &guest.namespace, (of_guest, 4300), 3)?;
                // Before Linux 6.11 a guest's kernel segments no UDP for a device that sums nothing up.
                if offloads {
                    segments::exchange(&guest.namespace, &container.namespace, (of_container, 4301), 3)?;
                }
            }
            // And through the uplink, where segments are translated.
            let world = SocketAddr::from((site.world.address, PORT));
            let _sink = TcpFlood::sink(&site.world.server, world)?;
            TcpFlood::burst(&guest.namespace, world, BYTES)?;
            for (way, carried) in ["to", "from"].into_iter().zip(&vmm.carried) {
                let uncut = carried.uncut.load(Ordering::Relaxed);
                let longest = carried.longest.load(Ordering::Relaxed);
                if offloads {
                    ensure!(uncut > 0 && longest > 30_000, "{way} the guest: {uncut} uncut, {longest} bytes");
                } else {
                    ensure!(uncut == 0 && longest <= 1514, "{way} the guest: {uncut} uncut, {longest} bytes");
                }
            }
        }
        for reason in ["too-big", "malformed", "rewrite"] {
            ensure!(site.drops(reason)? == 0, "{} packets dropped: {reason}", site.drops(reason)?);
        }
        Ok(())
    });
}

#[test]
fn what_a_guest_forges_is_dropped() {
    with_site("what_a_guest_forges_is_dropped", CONFIG, |site| {
        let victim = site.container("v")?;
        let answer = site.host.json(["attach", "vm", "--link", "tap", "--json"])?;
        let text = |key: &str| answer[key].as_str().map(str::to_owned).context("no text");
        let (device, own) = (text("host_interface")?, frames::mac(&text("mac")?)?);
        let (address, _) =
            answer["addresses"][0].as_str().and_then(|one| one.split_once('/')).context("no address")?;
        let (address, gateway): (Ipv4Addr, Ipv4Addr) = (address.parse()?, text("gateway")?.parse()?);
        let link = shown(site, &device)?.context("no tap")?;
        let host = frames::mac(link["address"].as_str().context("no MAC")?)?;
        let tap =
            vmm::Tap::open(&site.host.namespace, &device, Opening { offloads: true, multi_queue: false })?;
        let other = [2, 0, 0, 0, 0, 0x99];
        let udp = Body::Udp(1000, 2000, vec![7; 40]);
        let to = |from: Ipv4Addr| Ip::new(from.octets(), victim.address.octets());
        let catcher = frames::Catcher::new(&victim.namespace, 2000)?;
        let table = [
            ("spoofed-mac", frame(host, other, &to(address), &udp)),
            ("spoofed-address", frame(host, own, &to(victim.gateway), &udp)),
            ("spoofed-arp", frames::arp_request(own, own, victim.address, gateway)?),
        ];
        for (reason, bytes) in table {
            let before = site.drops(reason)?;
            tap.send(&[&[0; vmm::HEADER][..], &bytes].concat())?;
            let dropped = site.drops(reason)? - before;
            ensure!(dropped == 1, "{reason}: {dropped} counted");
        }
        ensure!(catcher.count()? == 0, "a forged packet has arrived");
        // As it should be; with the header that says that only the first bytes of it are to be looked at, too.
        let honest = frame(host, own, &to(address), &udp);
        for looked_at in [0u16, 14, 20] {
            let mut header = [0; vmm::HEADER];
            header[2..4].copy_from_slice(&looked_at.to_le_bytes());
            tap.send(&[&header[..], &honest].concat())?;
        }
        ensure!(catcher.count()? == 3, "an honest packet has not arrived");
        Ok(())
    });
}

#[test]
fn a_monitor_may_come_and_go() {
    with_site("a_monitor_may_come_and_go", CONFIG, |site| {
        let container = site.container("c")?;
        let (guest, vmm) = guest(site, "vm", &[], true)?;
        reach(&container.namespace, guest.address, container.address)?;
        site.services.clear();
        drop(vmm);
        let link = shown(site, &guest.host_interface)?.context("the tap went with its monitor")?;
        let carrier = |link: &Value| {
            link["flags"].as_array().is_some_and(|flags| flags.iter().all(|f| f != "NO-CARRIER"))
        };
        eventually("the tap has no carrier", PATIENCE * 10, || {
            Ok(shown(site, &guest.host_interface)?.is_some_and(|link| !carrier(&link)))
        })?;
        ensure!(site.status()?["healthy"] == true, "{}", site.status()?);
        unreachable(&container.namespace, guest.address)?;
        // Another one, which does not take what the first did.
        let vmm = site.host.boot(&guest, false)?;
        site.serve(&guest.namespace, guest.address)?;
        site.serve(&container.namespace, container.address)?;
        reach(&container.namespace, guest.address, container.address)?;
        burst(&container, &guest, guest.address.into())?;
        let longest = vmm.carried[0].longest.load(Ordering::Relaxed);
        ensure!(longest <= 1514, "{longest} bytes");
        // Somebody deletes it: it is made anew.
        drop(vmm);
        let before = link["ifindex"].clone();
        site.host.namespace.ip([format!("link del {}", guest.host_interface)])?;
        eventually("the tap is there again", PATIENCE * 10, || {
            Ok(shown(site, &guest.host_interface)?.is_some_and(|link| link["ifindex"] != before))
        })?;
        eventually("it works again", PATIENCE * 10, || {
            Ok(site.endpoint("vm")?.is_some_and(|vm| vm["problem"].is_null()))
        })?;
        let _vmm = site.host.boot(&guest, true)?;
        reach(&container.namespace, guest.address, container.address)
    });
}

#[test]
fn a_tap_outlives_the_daemon_and_goes_with_purge() {
    with_site("a_tap_outlives_the_daemon_and_goes_with_purge", CONFIG, |site| {
        let container = site.container("c")?;
        let (guest, _vmm) = guest(site, "vm", &[], true)?;
        let index = |site: &Site| -> Result<_> {
            Ok(shown(site, &guest.host_interface)?.context("no tap")?["ifindex"].clone())
        };
        let before = index(site)?;
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            site.host.stop(signal)?;
            reach(&container.namespace, guest.address, container.address)?;
            reach(&guest.namespace, site.world.address, site.host.address)?;
            site.host.start()?;
            ensure!(index(site)? == before, "another tap after {signal}");
            works(site, &guest, &container)?;
        }
        site.host.stop(Signal::SIGTERM)?;
        let mut arguments = site.host.run_arguments();
        arguments.push("--purge".into());
        let output = site.host.namespace.command(netd::lab::host::binary()?)?.args(arguments).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(shown(site, &guest.host_interface)?.is_none(), "a tap is left");
        Ok(())
    });
}

/// Opens a tap as a user of a group; but `/dev/net/tun` as root: who may open that is not netd's to say.
fn open_as(site: &Site, device: &str, (user, group): (u32, u32), multi_queue: bool) -> Result<()> {
    site.host.namespace.run(|| {
        let file = vmm::Tap::file()?;
        // SAFETY: system calls with numbers only; they count for this thread, which ends with the closure.
        unsafe {
            let none: [u32; 0] = [];
            ensure!(libc::syscall(libc::SYS_setgroups, 0, none.as_ptr()) == 0, "setgroups");
            ensure!(libc::syscall(libc::SYS_setresgid, group, group, group) == 0, "setresgid");
            ensure!(libc::syscall(libc::SYS_setresuid, user, user, user) == 0, "setresuid");
        }
        vmm::Tap::attach(file, device, Opening { offloads: true, multi_queue })?;
        Ok(())
    })
}

#[test]
fn only_its_owner_opens_it_and_with_its_queues() {
    with_site("only_its_owner_opens_it_and_with_its_queues", CONFIG, |site| {
        let attach = |name: &str, options: &[&str]| -> Result<String> {
            let arguments = ["attach", name, "--link", "tap", "--json"];
            let answer = site.host.json(arguments.iter().chain(options))?;
            Ok(answer["host_interface"].as_str().context("no name")?.to_owned())
        };
        let (root, one) = (attach("root", &[])?, attach("one", &["--owner", "1001"])?);
        let both = attach("both", &["--owner", "1001:1002", "--queues", "4"])?;
        let table = [
            (&root, (1001, 1001), false, false),
            (&one, (1001, 5), false, true),
            (&one, (1003, 1001), false, false),
            (&both, (1001, 1002), true, true),
            (&both, (1003, 1005), true, false),
        ];
        for (device, who, multi_queue, may) in table {
            let opened = open_as(site, device, who, multi_queue);
            ensure!(opened.is_ok() == may, "{device} as {who:?}: {opened:?}");
        }
        // As many queues as it was made for; and none alone, which is another kind of tap to the kernel.
        let queue = Opening { offloads: true, multi_queue: true };
        let queues: Result<Vec<_>> =
            (0..4).map(|_| vmm::Tap::open(&site.host.namespace, &both, queue)).collect();
        queues?;
        let single = vmm::Tap::open(&site.host.namespace, &both, Opening::default());
        ensure!(single.is_err(), "a tap of many queues opened with one");
        let shown = site.endpoint("both")?.context("no endpoint")?;
        ensure!(shown["tap"] == serde_json::json!({ "owner": 1001, "group": 1002, "queues": 4 }), "{shown}");
        Ok(())
    });
}

#[test]
fn what_makes_no_sense_is_refused_with_the_mend() {
    let config = format!("{CONFIG}[networks.big]\nsubnets = [\"10.90.0.0/24\"]\nbig-tcp = true\n");
    with_site("what_makes_no_sense_is_refused_with_the_mend", &config, |site| {
        let netns = site.lab.namespace("n")?;
        let netns = netns.name();
        let table: [(&[&str], &str); 7] = [
            (&["--link", "tap", "--netns", netns], "leave --netns out"),
            (&["--link", "veth"], "say which network namespace that has (--netns)"),
            (&["--link", "veth", "--netns", netns, "--owner", "5"], "say --link tap, or leave them out"),
            (&["--link", "tap", "--queues", "0"], "a tap has 1 to 256"),
            (&["--link", "tap", "--queues", "257"], "a tap has 1 to 256"),
            (&["--link", "tap", "--owner", "root"], "`id -u NAME`"),
            (&["--link", "tap", "--network", "big"], "choose a network without"),
        ];
        for (options, mend) in table {
            let output = site.host.netd(["attach", "vm"].iter().chain(options))?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success() && said.contains(mend), "{options:?}: {said}");
        }
        ensure!(site.endpoints()?.is_empty());
        Ok(())
    });
}

#[test]
fn no_datagram_is_lost_while_programs_are_replaced() {
    with_site("no_datagram_is_lost_while_programs_are_replaced", CONFIG, |site| {
        let container = site.container("c")?;
        let (guest, _vmm) = guest(site, "vm", &[], true)?;
        // Room for what comes while the monitor has to wait for a CPU.
        site.host.namespace.ip([format!("link set {} txqueuelen 10000", guest.host_interface)])?;
        guest.namespace.ip(["link set eth0 txqueuelen 10000"])?;
        let (host, own) = (site.host.namespace.clone(), &guest.namespace);
        let port = |address, port| SocketAddr::new(IpAddr::V4(address), port);
        let pulses = [
            UdpPulse::start(&host, own, port(guest.address, 4300))?,
            UdpPulse::start(&container.namespace, own, port(guest.address, 4301))?,
            UdpPulse::start(own, &container.namespace, port(container.address, 4302))?,
        ];
        // What a tap is sent runs by a filter first, then by a filter and a link, then by a link.
        site.host.settle()?;
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            site.host.stop(signal)?;
            site.host.start()?;
        }
        for pulse in pulses {
            ensure!(pulse.finish()? > 0, "nothing was sent");
        }
        Ok(())
    });
}

fn on_two_hosts(transport: &str) {
    with_cluster("guests_on_two_hosts", transport, |cluster| {
        let guests = [(0, "a"), (1, "b")].map(|(node, name)| cluster.nodes[node].guest(name, &[], true));
        let [(a, _a), (b, _b)] =
            guests.into_iter().collect::<Result<Vec<_>>>()?.try_into().ok().context("two")?;
        for (from, to) in [(&a, &b), (&b, &a)] {
            cluster.serve(to)?;
            reach(&from.namespace, to.address, from.address)?;
            reach(&from.namespace, to.address6.context("IPv6")?, from.address6.context("IPv6")?)?;
            burst(from, to, to.address.into())?;
        }
        cluster.nothing_dropped()
    });
}

#[test]
fn guests_on_two_hosts() {
    on_two_hosts("direct");
    on_two_hosts("vxlan");
}
