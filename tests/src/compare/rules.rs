//! The rules of hosts and parties.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use netd::lab::Namespace;

use super::{Family, PUBLISHED, Published};

/// As dockerd sets them for a network (`netd/src/bench/scene/docker.rs` has them with their origins), with `ip6tables` also those
/// of IPv6; published ports as without `userland-proxy`, so that containers get to them, too, by the host's addresses. The source
/// is translated there, as podman's and CNI's rules do: Docker has the bridge call netfilter instead, which a copy does not.
pub(super) fn docker(family: Family) -> String {
    let (subnet, bits) = match family {
        Family::V4 => ("10.88.0.0/16", 32),
        Family::V6 => ("fd88::/48", 128),
    };
    let for_each = |rule: &dyn Fn(&Published, IpAddr) -> String| -> String {
        PUBLISHED.iter().map(|one| rule(one, one.owner.ip(family)) + "\n").collect()
    };
    let accept = for_each(&|one, owner| {
        let (name, inner) = (one.name(), one.inner);
        format!("-A FORWARD -d {owner}/{bits} ! -i br0 -o br0 -p {name} --dport {inner} -j ACCEPT")
    });
    let hairpin = for_each(&|one, owner| {
        let (name, inner) = (one.name(), one.inner);
        format!("-A POSTROUTING -s {subnet} -d {owner}/{bits} -p {name} --dport {inner} -j MASQUERADE")
    });
    let translate = for_each(&|one, owner| {
        let at = if one.bound { format!("-d {}/{bits} ", family.node()) } else { String::new() };
        let to = SocketAddr::new(owner, one.inner);
        format!("-A DOCKER {at}-p {} --dport {} -j DNAT --to-destination {to}", one.name(), one.port)
    });
    format!(
        "*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n\
         -A FORWARD -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         {accept}-A FORWARD -i br0 ! -o br0 -j ACCEPT\n\
         -A FORWARD -i br0 -o br0 -j ACCEPT\n\
         COMMIT\n\
         *nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n:DOCKER -\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A POSTROUTING -s {subnet} ! -o br0 -j MASQUERADE\n\
         {hairpin}{translate}COMMIT\n"
    )
}

/// Those of a party whose kernel is to say nothing; IPv6's neighbours are found by ICMPv6.
pub(super) fn mute(family: Family) -> String {
    let found = ["neighbour-solicitation", "neighbour-advertisement"]
        .map(|kind| format!("-A INPUT -p icmpv6 --icmpv6-type {kind} -j ACCEPT\n"))
        .concat();
    let found = if family == Family::V6 { &found } else { "" };
    format!("*filter\n:INPUT DROP\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n{found}COMMIT\n")
}

/// Sets rules in a namespace.
pub(super) fn restore(namespace: &Namespace, family: Family, rules: &str) -> Result<()> {
    let program = match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    };
    let mut child = namespace
        .command(program)?
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // An error here means that it has ended early; what it said is the better message.
        let _ = stdin.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {program}"))?;
    if !output.status.success() {
        bail!("{program} does not take the rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
