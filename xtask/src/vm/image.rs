//! What a VM starts with: the first file system, in memory, and the scripts of a run.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::kernels::Installed;
use crate::{system, workspace};

/// Modules that lead to the root file system.
const MODULES: [&str; 3] = ["virtio_pci", "virtiofs", "overlay"];

/// Variables of this process that hold in the VM, too, and those that begin so.
const VARIABLES: [&str; 6] = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "CARGO", "RUST_TEST_THREADS"];
const PREFIX: &str = "NETD_";

/// The files of one run of a VM.
pub(crate) struct Image {
    /// The directory of the run.
    pub(crate) dir: PathBuf,
    /// The line before the output.
    pub(crate) sign: String,
    /// What the line at the end of the output begins with.
    pub(crate) token: String,
}

impl Image {
    /// Writes them. The command runs in this process's directory.
    ///
    /// # Errors
    /// A file cannot be written, or the kernel lacks a module.
    pub(crate) fn build(kernel: &Installed, command: &[OsString], dir: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&dir);
        let root = dir.join("initramfs");
        for part in ["bin", "proc", "dev", "lower", "rw", "root"] {
            fs::create_dir_all(root.join(part)).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let busybox = system::find("busybox").context("no busybox: install the package busybox-static")?;
        fs::copy(busybox, root.join("bin/busybox")).context("cannot copy busybox")?;
        let modules = with_needed(&kernel.modules, &MODULES)?;
        for module in &modules {
            let name = module.file_name().context("a module without a name")?;
            fs::copy(module, root.join(name)).with_context(|| format!("cannot copy {}", module.display()))?;
        }
        let names = modules.iter().filter_map(|module| module.file_name()?.to_str());
        write(&root.join("modules"), &names.map(|name| format!("{name}\n")).collect::<String>())?;
        let stage2 = dir.join("stage2.sh");
        let second = format!("{} {} {}", stage2.display(), dir.display(), kernel.modules.display());
        write(&root.join("stage2"), &second)?;
        write(&root.join("init"), include_str!("stage1.sh"))?;
        write(&stage2, include_str!("stage2.sh"))?;
        write(&dir.join("command.sh"), &script(command)?)?;
        // What a program that runs in the VM does not print by chance.
        let name = format!("netd-vm-{}-{}", std::process::id(), kernel.name);
        let [sign, token] = ["begin", "end"].map(|what| format!("{name}-{what}"));
        write(&dir.join("sign"), &format!("{sign}\n"))?;
        write(&dir.join("token"), &token)?;
        let pack = r#"cd "$1" && chmod 755 init bin/busybox && find . | busybox cpio -o -H newc > ../initramfs.cpio"#;
        let mut pack_command = Command::new("sh");
        pack_command.args(["-c", pack, "sh"]).arg(&root);
        system::output_of(&mut pack_command).context("cannot pack the VM's first file system")?;
        Ok(Self { dir, sign, token })
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The files of some modules, after those that they need.
fn with_needed(modules: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let read = |file: &str| {
        fs::read_to_string(modules.join(file)).with_context(|| format!("no {file} in {}", modules.display()))
    };
    let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    Ok(needed(&dependencies, &builtin, names)?.into_iter().map(|module| modules.join(module)).collect())
}

/// The same by the text of `modules.dep` and `modules.builtin`: paths under the directory of modules.
fn needed(dependencies: &str, builtin: &str, names: &[&str]) -> Result<Vec<String>> {
    let is = |path: &str, name: &str| {
        path.rsplit('/').next().and_then(|file| file.strip_suffix(".ko")).is_some_and(|own| own == name)
    };
    let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
    for name in names {
        if builtin.lines().any(|path| is(path, name)) {
            continue;
        }
        let found = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| is(path, name))
            .with_context(|| format!("the kernel has no module {name}"))?;
        // What is needed stands in the order from the nearest to the farthest.
        let needs = found.1.split_whitespace().rev();
        for path in needs.chain([found.0]) {
            if seen.insert(path) {
                all.push(path.to_owned());
            }
        }
    }
    Ok(all)
}

/// The command as a script.
fn script(command: &[OsString]) -> Result<String> {
    let mut script = String::new();
    for (name, value) in env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        if VARIABLES.contains(&name) || name.starts_with(PREFIX) {
            script.push_str(&format!("export {name}={}\n", quoted(value)));
        }
    }
    // What the command prints comes by a terminal in any case.
    if !io::stdout().is_terminal() {
        script.push_str("export NO_COLOR=1\n");
    }
    // What was built is found by its name.
    let binaries = workspace::netd_binary()?;
    let binaries = binaries.parent().context("netd is in no directory")?;
    script.push_str(&format!("export PATH={}:\"$PATH\"\n", quoted(&binaries.to_string_lossy())));
    let here = env::current_dir().context("this process has no directory")?;
    script.push_str(&format!("cd {} || exit\n", quoted(&here.to_string_lossy())));
    let words: Vec<String> = command.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    script.push_str(&format!("exec {}\n", words.join(" ")));
    Ok(script)
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "kernel/fs/fuse/virtiofs.ko: kernel/fs/fuse/fuse.ko kernel/virtio/virtio.ko\n\
                            kernel/fs/fuse/fuse.ko:\nkernel/fs/overlay.ko:\n";
        let found =
            needed(dependencies, "kernel/virtio/virtio_pci.ko\n", &["virtio_pci", "virtiofs", "fuse"]);
        let expected = ["kernel/virtio/virtio.ko", "kernel/fs/fuse/fuse.ko", "kernel/fs/fuse/virtiofs.ko"];
        assert_eq!(found.ok().as_deref(), Some(&expected.map(String::from)[..]));
        assert!(needed(dependencies, "", &["virtio_pci"]).is_err());
    }
}
