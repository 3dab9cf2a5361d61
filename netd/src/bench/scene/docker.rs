//! The rules that Docker sets, line for line.
//!
//! This is what `iptables-save` prints under dockerd 20.10.24 (Debian 12) with two containers on its default bridge, of which
//! one publishes a port (`docker run -p 8080:80 -p 8080:80/udp`), all else as installed. A user-defined network adds the same lines once more
//! for its own bridge.
//!
//! Docker 28 says the same in other chains: FORWARD jumps to DOCKER-USER and DOCKER-FORWARD, that to DOCKER-CT (the conntrack
//! rule), the isolation chains and DOCKER-BRIDGE (the jump to DOCKER), and raw PREROUTING drops packets from elsewhere to a
//! published container. A packet of an established connection between two containers is accepted by the conntrack rule in both:
//! in 20.10 after the two rules of DOCKER-USER and DOCKER-ISOLATION-STAGE-1, in 28 after fewer.

use std::net::Ipv4Addr;

/// The bridge's name.
pub(in super::super) const BRIDGE: &str = "docker0";

/// Input for `iptables-restore`. The comments give the function of dockerd's `libnetwork/drivers/bridge` that sets each part;
/// DOCKER-USER is from `libnetwork/firewall_linux.go`.
pub(in super::super) const RULES: &str = "\
*filter
# setupIPForwarding: dockerd sets the policy when it switches forwarding on itself.
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
# setupIPChains, arrangeUserFilterRule
:DOCKER -
:DOCKER-ISOLATION-STAGE-1 -
:DOCKER-ISOLATION-STAGE-2 -
:DOCKER-USER -
# arrangeUserFilterRule: the administrator's own chain, before all else.
-A FORWARD -j DOCKER-USER
# setupIPChains: bridges are kept apart from each other.
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
# iptables.ProgramChain: replies, then published ports.
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
# setupIPTablesInternal: out of the bridge; then, as --icc is on, between containers.
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
# portmapper: the published port.
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p udp -m udp --dport 80 -j ACCEPT
# setINC
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
# setupIPChains
:DOCKER -
# iptables.ProgramChain: published ports, for what is addressed to the host.
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
# setupIPTablesInternal: the masquerade.
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
# portmapper: the container to its own published port, and the translation.
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p udp -m udp --dport 80 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER ! -i docker0 -p udp -m udp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
";

/// The rules of a dockerd whose bridge has another address and a /24, and which leaves the masquerade to somebody else
/// (`--bip`, `--ip-masq=false`).
pub(super) fn rules_unmasqueraded(gateway: Ipv4Addr) -> String {
    let [a, b, c, _] = gateway.octets();
    let text = RULES.replace("172.17.0.", &format!("{a}.{b}.{c}."));
    let is_kept = |line: &&str| !line.contains("! -o docker0 -j MASQUERADE");
    text.lines().filter(is_kept).fold(String::new(), |text, line| text + line + "\n")
}

/// The sysctls that a host with dockerd 20.10 has: dockerd sets the first; the second is the default of br_netfilter, which
/// dockerd loads (up to 27; from 28 on only where something needs it, such as `--icc=false`).
pub(super) const FORWARDING: &str = "net.ipv4.ip_forward";
/// See [`FORWARDING`].
pub(super) const BRIDGE_NETFILTER: &str = "net.bridge.bridge-nf-call-iptables";

#[cfg(test)]
mod tests {
    use super::*;

    /// Each chain that is jumped to is declared, and the names above are those in the rules.
    #[test]
    fn rules_are_consistent() {
        for table in RULES.split("COMMIT\n").filter(|table| !table.is_empty()) {
            let declared: Vec<&str> = table
                .lines()
                .filter_map(|line| line.strip_prefix(':'))
                .filter_map(|line| line.split(' ').next())
                .collect();
            for rule in table.lines().filter(|line| line.starts_with("-A ")) {
                let words: Vec<&str> = rule.split(' ').collect();
                assert!(declared.contains(&words[1]), "{rule}");
                let target = words.iter().skip_while(|word| **word != "-j").nth(1).expect("a target");
                let known = ["ACCEPT", "DROP", "RETURN", "MASQUERADE", "DNAT"];
                assert!(declared.contains(target) || known.contains(target), "{rule}");
            }
        }
        assert!(RULES.contains(&format!("-i {BRIDGE} ")));
        let other = rules_unmasqueraded(Ipv4Addr::new(10, 244, 7, 1));
        assert_eq!(other.lines().count(), RULES.lines().count() - 1, "{other}");
        assert!(other.contains("-d 10.244.7.2/32 ") && !other.contains("172.17."), "{other}");
        assert_eq!(RULES.matches("COMMIT").count(), 2);
    }
}
