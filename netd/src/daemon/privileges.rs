//! What the daemon must be allowed to do.

use std::fs;

use anyhow::{Context, Result, anyhow, bail};

/// The capabilities that `netd run` needs: number, name, what for (`linux/capability.h`).
const NEEDED: [(u32, &str, &str); 3] =
    [(12, "CAP_NET_ADMIN", "links"), (39, "CAP_BPF", "programs"), (21, "CAP_SYS_ADMIN", "namespaces")];

/// Checks that the process has the capabilities that the daemon needs.
///
/// # Errors
/// Names those that are missing.
pub(super) fn check() -> Result<()> {
    const PATH: &str = "/proc/self/status";
    let status = fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    let missing = missing(&status)?;
    if !missing.is_empty() {
        bail!("netd run needs {}: run it as root, e.g. `sudo netd run`", missing.join(", "));
    }
    Ok(())
}

fn missing(status: &str) -> Result<Vec<String>> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .ok_or_else(|| anyhow!("cannot tell which capabilities this process has"))?;
    let missing = NEEDED.iter().filter(|(number, ..)| effective & (1 << number) == 0);
    Ok(missing.map(|(_, name, purpose)| format!("{name} (for {purpose})")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_one_is_named() {
        let status = |caps: u64| format!("Name:\tnetd\nCapPrm:\t0\nCapEff:\t{caps:016x}\nCapBnd:\t0\n");
        let all = (1 << 12) | (1 << 39) | (1 << 21);
        assert_eq!(missing(&status(all)).unwrap(), [""; 0]);
        assert_eq!(missing(&status(all ^ (1 << 39))).unwrap(), ["CAP_BPF (for programs)"]);
        assert_eq!(missing(&status(0)).unwrap().len(), 3);
        assert!(missing("Name:\tnetd\n").is_err());
    }
}
