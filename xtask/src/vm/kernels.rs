//! The kernels that netd is tried on, and where they come from: Debian's packages, in the versions that stand here.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{progress, system, workspace};

/// A kernel by its packages.
pub(crate) struct Kernel {
    /// What a user calls it.
    pub(crate) name: &'static str,
    /// Debian's suite that has the packages.
    suite: &'static str,
    packages: &'static [(&'static str, &'static str)],
}

/// From the oldest to the newest: these are the only lines that change for another version.
pub(crate) const KERNELS: [Kernel; 3] = [
    Kernel {
        name: "6.1",
        suite: "bookworm-security",
        packages: &[("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2")],
    },
    Kernel {
        name: "6.12",
        suite: "bookworm-security",
        packages: &[("linux-image-6.12.117+deb12-cloud-amd64", "6.12.117-1~deb12u1")],
    },
    Kernel {
        name: "7.3",
        suite: "trixie-backports",
        packages: &[
            ("linux-binary-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
            ("linux-modules-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
            ("linux-base-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
        ],
    },
];

/// A kernel that is there to be booted.
pub(crate) struct Installed {
    pub(crate) name: &'static str,
    /// The compressed kernel.
    pub(crate) image: PathBuf,
    /// Its directory of modules, named by the kernel's release.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// The kernel of that name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn named(name: &str) -> Result<&'static Self> {
        KERNELS.iter().find(|kernel| kernel.name == name).with_context(|| {
            let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
            format!("no kernel `{name}`: choose from {}", names.join(", "))
        })
    }

    /// Fetches and unpacks it, if that is not done yet.
    ///
    /// # Errors
    /// A package is not to be had, or is not as expected.
    pub(crate) fn install(&self) -> Result<Installed> {
        let versions: Vec<String> =
            self.packages.iter().map(|(_, version)| version.replace(':', "_")).collect();
        let root = super::directory().join(format!("{}-{}", self.name, versions[0]));
        if !root.join("complete").exists() {
            self.unpack(&root).with_context(|| format!("installing Linux {} for the test VM", self.name))?;
        }
        let below = |parts: [&str; 2]| parts.map(|part| root.join("root").join(part));
        let modules = below(["lib/modules", "usr/lib/modules"])
            .into_iter()
            .find_map(|dir| first_in(&dir, ""))
            .with_context(|| format!("no modules in {}", root.display()))?;
        let image = first_in(&root.join("root/boot"), "vmlinuz")
            .or_else(|| first_in(&modules, "vmlinuz"))
            .with_context(|| format!("no kernel in {}", root.display()))?;
        Ok(Installed { name: self.name, image, modules })
    }

    fn unpack(&self, root: &Path) -> Result<()> {
        let (downloads, unpacked) = (root.join("packages"), root.join("root"));
        for dir in [&downloads, &unpacked] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let apt = PrivateApt::new(self.suite)?;
        for (package, version) in self.packages {
            apt.download(package, version, &downloads)?;
        }
        for package in files(&downloads).filter(|file| file.extension() == Some(OsStr::new("deb"))) {
            workspace::run("unpacking", Command::new("dpkg-deb").arg("-x").arg(package).arg(&unpacked))?;
        }
        let modules = ["lib/modules", "usr/lib/modules"].map(|part| unpacked.join(part));
        let modules = modules.iter().find(|dir| dir.is_dir()).context("the packages have no modules")?;
        // busybox, which loads them before there is anything else, reads no compressed ones.
        let script = r#"find "$1" -name '*.ko.xz' -exec xz -df {} + && for v in "$1"/*; do busybox depmod -b "${1%/lib/modules}" "${v##*/}"; done"#;
        workspace::run("preparing modules", Command::new("sh").args(["-c", script, "sh"]).arg(modules))?;
        fs::write(root.join("complete"), "").context("cannot note that the kernel is complete")
    }
}

fn files(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn first_in(dir: &Path, prefix: &str) -> Option<PathBuf> {
    files(dir).find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
}

/// Where this machine's apt gets a suite's archive from: by the suite of the machine's own release that is in the same one.
fn address_of(suite: &str) -> Option<String> {
    let os = fs::read_to_string("/etc/os-release").ok()?;
    let format = ["indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"];
    found(&os, &system::output_of(Command::new("apt-get").args(format))?, suite)
}

/// The same by the text of /etc/os-release, and lines of releases and addresses.
fn found(os: &str, known: &str, suite: &str) -> Option<String> {
    let value = |key: &str| os.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let codename = value("VERSION_CODENAME").filter(|_| value("ID") == Some("debian"))?;
    // What is urgent has an archive of its own.
    let own = if suite.ends_with("-security") { format!("{codename}-security") } else { codename.to_owned() };
    let mut lines = known.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(release, _)| *release == own).map(|(_, address)| address.trim().to_owned())
}

/// An apt with lists of its own: the machine's sources stay as they are.
struct PrivateApt {
    options: Vec<String>,
}

impl PrivateApt {
    /// Lists of a suite, from where the machine itself gets Debian's packages.
    fn new(suite: &str) -> Result<Self> {
        let dir = super::directory().join("apt").join(suite);
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part)).context("cannot make apt's directories")?;
        }
        let address = match address_of(suite) {
            Some(address) => address,
            None => {
                // Where there are no lists, apt says nothing of where they would come from.
                progress::run("apt-get update", Command::new("apt-get").arg("update").env("LC_ALL", "C"))?;
                address_of(suite)
                    .context("this machine's apt has no archive of Debian's: the test VM runs on Debian")?
            }
        };
        let sources = dir.join("sources.list");
        let line = format!(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {address} {suite} main\n"
        );
        fs::write(&sources, line).context("cannot write apt's sources")?;
        let options = [
            format!("Dir::Etc::SourceList={}", sources.display()),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", dir.join("lists").display()),
            format!("Dir::Cache={}", dir.join("cache").display()),
            "APT::Sandbox::User=root".into(),
        ];
        let options = options.into_iter().flat_map(|option| ["-o".into(), option]).collect();
        let apt = Self { options };
        progress::run(&format!("apt-get update ({suite})"), apt.get().arg("update"))?;
        Ok(apt)
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.args(&self.options).env("LC_ALL", "C");
        command
    }

    fn download(&self, package: &str, version: &str, to: &Path) -> Result<()> {
        let wanted = format!("{package}={version}");
        let downloaded = progress::run(
            &format!("apt-get download {package}"),
            self.get().arg("download").arg(&wanted).current_dir(to),
        );
        if downloaded.is_err() {
            bail!(
                "no package {wanted}: the archive may have a newer one; name it in xtask/src/vm/kernels.rs"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_found_by_the_machines_own_release() {
        let debian = "NAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        let known = "nodistro https://other.example/\nbookworm http://mirror.example/debian/\n\
                     bookworm-updates http://mirror.example/debian/\n\
                     bookworm-security http://mirror.example/debian-security/\n";
        let at = |os, suite| found(os, known, suite);
        assert_eq!(at(debian, "trixie-backports").as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(
            at(debian, "bookworm-security").as_deref(),
            Some("http://mirror.example/debian-security/")
        );
        assert_eq!(at("ID=ubuntu\nVERSION_CODENAME=bookworm\n", "trixie-backports"), None);
        assert_eq!(found(debian, "", "trixie-backports"), None);
    }
}
