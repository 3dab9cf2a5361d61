//! What the kernel's own container networking would leave in a namespace: bridges, netfilter rules, conntrack entries.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Namespace;

/// A number, and how it was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The number.
    pub number: u64,
    /// E.g. the command that was asked.
    pub how: String,
}

/// Counts the bridges in a namespace.
///
/// # Errors
/// `ip` fails.
pub fn bridges(namespace: &Namespace) -> Result<Count> {
    let links = namespace.ip_json("link show type bridge")?;
    // ip prints an empty object for each link of another kind.
    let bridges = links
        .as_array()
        .into_iter()
        .flatten()
        .filter(|link| link.as_object().is_some_and(|link| !link.is_empty()));
    Ok(Count { number: bridges.count() as u64, how: "ip link show type bridge".to_owned() })
}

/// Counts the rules of nftables, and the tables of the older iptables, in a namespace. A table of those exists only once a
/// rule was asked for, so having one counts as a rule.
///
/// # Errors
/// The namespace cannot be entered, or nft fails.
pub fn netfilter_rules(namespace: &Namespace) -> Result<Count> {
    // Not /proc/net: that is the main thread's.
    let names = |file: &str| {
        fs::read_to_string(format!("/proc/thread-self/net/{file}")).map_or(0, |text| text.lines().count())
    };
    let tables = namespace.run(|| Ok(names("ip_tables_names") + names("ip6_tables_names")))?;
    let legacy = "/proc/net/ip_tables_names, ip6_tables_names";
    let has_nft = namespace
        .command("nft")?
        .arg("--version")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_nft {
        let how = format!("{legacy} (no nft here to ask for nftables' rules)");
        return Ok(Count { number: tables as u64, how });
    }
    let text = namespace.output("nft", ["--json", "list", "ruleset"])?;
    let ruleset: Value = serde_json::from_str(&text).context("nft list ruleset: not JSON")?;
    let rules =
        ruleset["nftables"].as_array().into_iter().flatten().filter(|item| item.get("rule").is_some());
    Ok(Count { number: (rules.count() + tables) as u64, how: format!("nft list ruleset; {legacy}") })
}

/// Counts the connections that the kernel's conntrack follows in a namespace.
///
/// # Errors
/// The namespace cannot be entered.
pub fn conntrack_entries(namespace: &Namespace) -> Result<Count> {
    const SYSCTL: &str = "net.netfilter.nf_conntrack_count";
    match namespace.sysctl(SYSCTL) {
        Ok(value) => Ok(Count {
            number: value.parse().with_context(|| format!("{SYSCTL} is {value:?}"))?,
            how: format!("sysctl {SYSCTL}"),
        }),
        // Without that sysctl there is no conntrack in the kernel.
        Err(_) if namespace.path().exists() => {
            Ok(Count { number: 0, how: format!("no conntrack in the kernel (no sysctl {SYSCTL})") })
        }
        Err(error) => Err(error),
    }
}
