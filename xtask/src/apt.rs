//! Installing Debian packages, on Debian and its relatives.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{self, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::progress;
use crate::system::{self, Version};

/// Where Debian asks whether a package may start its service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The package manager, and what is known of its state.
pub(crate) struct Apt {
    /// Whether apt-get is there at all.
    present: bool,
    /// Whether this run has fetched the package lists: once is enough.
    updated: bool,
}

impl Apt {
    /// The machine's apt-get, if it has one.
    pub(crate) fn new() -> Self {
        Self { present: system::find("apt-get").is_some(), updated: false }
    }

    /// Whether [`install`](Self::install) can work.
    pub(crate) fn usable(&self) -> bool {
        self.present && system::is_root()
    }

    /// The version of each package that would be installed; `None` for a package that there is not.
    ///
    /// Fetches the package lists when one is unknown, since on a fresh machine they are empty.
    pub(crate) fn candidates(&mut self, packages: &[&str]) -> Result<Vec<Option<Version>>> {
        if !self.present {
            return Ok(vec![None; packages.len()]);
        }
        let mut found = self.query(packages)?;
        if found.contains(&None) && self.usable() && !self.updated {
            self.update()?;
            found = self.query(packages)?;
        }
        Ok(found)
    }

    /// Whether there is such a package.
    pub(crate) fn has(&mut self, package: &str) -> Result<bool> {
        Ok(self.candidates(&[package])?[0].is_some())
    }

    /// Those of `packages` that there are.
    pub(crate) fn known<'a>(&mut self, packages: &[&'a str]) -> Result<Vec<&'a str>> {
        if !self.usable() {
            // Nothing can be installed; `install` says what to do.
            return Ok(packages.to_vec());
        }
        let versions = self.candidates(packages)?;
        let pairs = packages.iter().copied().zip(versions);
        Ok(pairs.filter(|(_, version)| version.is_some()).map(|(name, _)| name).collect())
    }

    /// Installs `packages`. Never removes one: where a package that the user has is in the way, this fails.
    pub(crate) fn install(&mut self, packages: &[&str]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        let names = packages.join(" ");
        if !self.present {
            bail!("set-up installs with apt-get only: install the equivalents of {names}, then try again");
        }
        if !system::is_root() {
            bail!(
                "set-up needs root: run `sudo apt-get install --no-install-recommends {names}`, then try again"
            );
        }
        let guard = ServiceGuard::new().context("keeping packages from starting services")?;
        let mut result = self.try_install(packages);
        if result.is_err() && !self.updated {
            // Lists that are out of date name files that are gone.
            self.update()?;
            result = self.try_install(packages);
        }
        drop(guard);
        result
    }

    fn try_install(&self, packages: &[&str]) -> Result<()> {
        // A progress line has to fit a line; longer lists have been printed before.
        let what = match packages {
            [_, _, _, _, ..] => format!("apt-get install ({} packages)", packages.len()),
            _ => format!("apt-get install {}", packages.join(" ")),
        };
        progress::run(
            &what,
            apt_get().args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(packages),
        )
    }

    fn update(&mut self) -> Result<()> {
        self.updated = true;
        progress::run("apt-get update", apt_get().arg("update"))
    }

    fn query(&self, packages: &[&str]) -> Result<Vec<Option<Version>>> {
        let mut command = Command::new("apt-cache");
        command.arg("policy").args(packages).env("LC_ALL", "C");
        let answer = system::output_of(&mut command).context("apt-cache policy failed")?;
        Ok(packages.iter().map(|package| candidate(&answer, package)).collect())
    }

    /// Undoes what a freshly installed package does so that its service starts at the next boot.
    pub(crate) fn disable_service(&self, service: &str) {
        // Without systemd there is nothing to undo, and then this fails: both are fine.
        let _ = Command::new("systemctl")
            .args(["disable", "--now", "--quiet", service])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Wait for another apt-get instead of failing; ask no questions; write plain lines.
    command
        .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
    command
}

/// The candidate version of `package` in the output of `apt-cache policy`.
fn candidate(policy: &str, package: &str) -> Option<Version> {
    let lines = policy.lines().skip_while(|line| line.strip_suffix(':') != Some(package)).skip(1);
    lines
        .take_while(|line| line.starts_with(' '))
        .find_map(|line| line.trim_start().strip_prefix("Candidate: "))
        .and_then(Version::parse)
}

/// While this lives, packages that are installed start no service.
///
/// A developer's machine that needs the program `nginx` for a benchmark must not serve on port 80 because of it.
/// Debian's way to say so is a program that is asked before each start.
struct ServiceGuard {
    ours: bool,
}

impl ServiceGuard {
    fn new() -> Result<Self> {
        // An administrator's own policy (containers come with one) stays.
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        // If this process is killed before it can remove the file, the file removes itself.
        let script = format!(
            "#!/bin/sh\n\
             # Written by `cargo xtask` of netd: no service starts while it installs packages.\n\
             [ \"$(cat /proc/{}/comm 2>/dev/null)\" = xtask ] && exit 101\n\
             rm -f -- \"$0\"\n",
            process::id()
        );
        fs::write(POLICY, script)?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for ServiceGuard {
    fn drop(&mut self) {
        if self.ours {
            // Nothing to be done if it fails: the file removes itself when it is next asked.
            let _ = fs::remove_file(POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY_OUTPUT: &str = "\
rustc-web:
  Installed: (none)
  Candidate: 1.96.0+dfsg1-1~deb12u2
  Version table:
     1.96.0+dfsg1-1~deb12u2 500
        500 file:/packages bookworm-security/main amd64 Packages
libstd-rust-dev-bpf:
  Installed: (none)
  Candidate: (none)
  Version table:
llvm-22-dev:
  Installed: 1:22.1.8-1~deb12u1
  Candidate: 1:22.1.8-1~deb12u1
";

    #[test]
    fn candidates_are_read_by_package() {
        assert_eq!(candidate(POLICY_OUTPUT, "rustc-web"), Some(Version(1, 96, 0)));
        assert_eq!(candidate(POLICY_OUTPUT, "llvm-22-dev"), Some(Version(22, 1, 8)));
    }

    #[test]
    fn a_package_without_a_version_and_one_that_is_not_listed_are_none() {
        assert_eq!(candidate(POLICY_OUTPUT, "libstd-rust-dev-bpf"), None);
        assert_eq!(candidate(POLICY_OUTPUT, "rustc"), None);
    }
}
