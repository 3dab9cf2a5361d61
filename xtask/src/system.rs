//! Questions to the machine: which programs it has, which versions, who is asking.

use std::env;
use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories that hold programs but that a user's PATH often lacks.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Whether this process may install packages.
pub(crate) fn is_root() -> bool {
    // The owner of a process's /proc entry is its effective user.
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The program `name`, searched in PATH, in cargo's bin directory and in the sbin directories; an absolute path stands
/// for itself.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin())
        .chain(SYSTEM_DIRS.map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| is_program(candidate))
}

/// Where `cargo install` puts programs.
fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    Some(home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?.join("bin"))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What `command` writes to its standard output; nothing if it cannot be started or fails.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// A version's first three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Version {
    /// Reads the version at the start of `text`, as in `1.96.0-nightly`, `1.95`, or a Debian package's
    /// `1:22.1.8-1~deb12u1` (the epoch is not part of it).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.split_once(':').map_or(text, |(_epoch, version)| version);
        let mut parts = text.split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| &part[..end]);
            (digits.parse().ok(), digits.len() == part.len())
        });
        let mut numbers = [0; 3];
        for (i, number) in numbers.iter_mut().enumerate() {
            match parts.next() {
                Some((Some(value), whole)) => {
                    *number = value;
                    if !whole {
                        break;
                    }
                }
                _ if i == 0 => return None,
                _ => break,
            }
        }
        Some(Self(numbers[0], numbers[1], numbers[2]))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_and_packages_say() {
        let read = |text| Version::parse(text);
        assert_eq!(read("1.96.0"), Some(Version(1, 96, 0)));
        assert_eq!(read("1.95"), Some(Version(1, 95, 0)));
        assert_eq!(read("1.101.0-nightly (92b5b8c87 2026-10-29)"), Some(Version(1, 101, 0)));
        assert_eq!(read("1.96.0+dfsg1-1~deb12u2"), Some(Version(1, 96, 0)));
        assert_eq!(read("1:22.1.8-1~deb12u1"), Some(Version(22, 1, 8)));
        assert_eq!(read("23-2"), Some(Version(23, 0, 0)));
        assert_eq!(read("(none)"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn versions_compare_by_number_not_by_letter() {
        assert!(Version(1, 101, 0) > Version(1, 96, 9));
        assert!(Version(0, 9, 14) < Version(0, 13, 0));
    }

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        assert!(find("sh").is_some());
        assert_eq!(find("/bin/sh"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find("/bin/no-such-program"), None);
        assert_eq!(find("no-such-program"), None);
    }
}
