//! A VM that runs one command and ends.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::image::Image;
use super::kernels::Installed;
use crate::{progress, system};

/// Programs that export a directory to the VM, by where distributions have them.
const SERVERS: [&str; 2] = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];

/// How long a kernel may be silent that the machine's own CPUs run: where virtual CPUs are themselves in a virtual machine, they may be
/// there and not work.
const FIRST_SIGN: Duration = Duration::from_secs(20);

/// Who runs the VM's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The machine's CPUs.
    Kvm,
    /// Software.
    Tcg,
    /// Software that counts instructions, and whose clock they are.
    Count,
}

impl Accelerator {
    /// What this machine may have. What has not worked since it was booted is not tried again.
    pub(crate) fn to_try() -> Self {
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        let is_known = fs::read_to_string(Self::note()).is_ok_and(|boot| boot == boot_id());
        if kvm.is_ok() && !is_known { Self::Kvm } else { Self::Tcg }
    }

    /// Notes that KVM does not work, and goes on without.
    pub(crate) fn fall_back(&mut self) {
        eprintln!("/dev/kvm runs no kernel here: software emulates the CPUs");
        *self = Self::Tcg;
        // Without the note it is tried again, which costs some seconds.
        let _ = fs::write(Self::note(), boot_id());
    }

    fn note() -> PathBuf {
        super::directory().join("kvm-does-not-work")
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            // A feature that hosts in the cloud have and do not pass on.
            Self::Kvm => &["-accel", "kvm", "-cpu", "max,-arch-capabilities"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max"],
            Self::Count => &["-accel", "tcg,thread=single", "-cpu", "max", "-icount", "shift=0,sleep=off"],
        }
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// How a VM has ended.
pub(crate) enum Ended {
    /// The command ended with this status; the console's lines.
    Command(u8, Vec<String>),
    /// The kernel gave no sign of life.
    Dead,
}

/// What a VM has.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) cpus: u32,
    /// In MiB; what is written to the root file system is in it, too.
    pub(crate) memory: u32,
}

/// In a mount and a network namespace of its own: the machine's root, read-only, for the VM, and a link between its two NICs.
const SCRIPT: &str = r#"
set -e
cd "$1"; shift
mkdir -p root
mount --bind / root
mount -o remount,bind,ro root
ip link add joined type bridge
for nic in nic0 nic1; do
    ip tuntap add "$nic" mode tap multi_queue
    ip link set "$nic" master joined up
done
ip link set joined up
$SERVER &
server=$!
while [ ! -S $SOCKET ]; do kill -0 $server; sleep 0.02; done
exec setpriv --pdeathsig KILL "$@"
"#;

/// Boots it and shows its console until it ends.
///
/// # Errors
/// It cannot be booted, or does not end by itself within the limit.
pub(crate) fn run(
    kernel: &Installed,
    image: &Image,
    accelerator: Accelerator,
    size: Size,
    limit: Duration,
) -> Result<Ended> {
    let mut qemu = Qemu::start(kernel, image, accelerator, size)?;
    let stdout = qemu.0.stdout.take().context("qemu has no output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n') {
            let Ok(line) = line else { return };
            let text = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    let (start, mut console, mut status, mut lives) = (Instant::now(), Vec::new(), None, false);
    loop {
        let patience = if lives || accelerator != Accelerator::Kvm { limit } else { FIRST_SIGN.min(limit) };
        match lines.recv_timeout(patience.saturating_sub(start.elapsed())) {
            Ok(line) if line == image.sign => {
                lives = true;
                console.clear();
            }
            // What the firmware says, in sequences for a terminal, matters only where nothing else follows.
            Ok(line) if !lives => console.push(line),
            Ok(line) => {
                if let Some(rest) = line.strip_prefix(&image.token) {
                    status = Some(rest.trim().parse().context("the VM gave no status")?);
                } else if status.is_none() {
                    println!("{line}");
                    console.push(line);
                }
            }
            Err(_) if !lives && accelerator == Accelerator::Kvm => return Ok(Ended::Dead),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => bail!(
                "Linux {} did not end within {}: --limit gives it longer. The console's end is above",
                kernel.name,
                progress::elapsed(limit)
            ),
        }
    }
    let ended = qemu.0.wait().context("waiting for qemu")?;
    let status = status.with_context(|| {
        let log = fs::read_to_string(image.dir.join("log")).unwrap_or_default();
        // virtiofsd's words and qemu's: whichever ended last has not said why.
        let log: Vec<&str> = log.lines().rev().take(5).collect();
        let log = log.into_iter().rev().collect::<Vec<_>>().join("; ");
        if !lives {
            console.iter().for_each(|line| println!("{line}"));
        }
        format!("Linux {} ended before the command did ({ended}): see the console above; {log}", kernel.name)
    })?;
    Ok(Ended::Command(status, console))
}

/// A running VM: gone when this is.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Qemu {
    fn start(kernel: &Installed, image: &Image, accelerator: Accelerator, size: Size) -> Result<Self> {
        ensure!(
            system::is_root(),
            "the test VM needs root: it mounts this machine's root, read-only, for the VM"
        );
        let server = SERVERS.into_iter().find(|server| Path::new(server).exists());
        let server = server.context("no virtiofsd: install the package virtiofsd or qemu-system-common")?;
        // qemu's own keeps a lock by this name alone, wherever the socket is: VMs that run at once have different ones.
        let socket = format!("netd-vm-{}.socket", process::id());
        let server = match server {
            // qemu's own, before it became a project of its own.
            "/usr/lib/qemu/virtiofsd" => format!(
                "{server} --socket-path={socket} -o \"source=$PWD/root\" -o cache=always -o sandbox=chroot --thread-pool-size=1 -f"
            ),
            _ => format!(
                "{server} --socket-path={socket} --shared-dir \"$PWD/root\" --cache always --sandbox chroot"
            ),
        };
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--net",
            "sh",
            "-c",
            &SCRIPT.replace("$SERVER", &server).replace("$SOCKET", &socket),
            "sh",
        ]);
        command.arg(&image.dir).arg("qemu-system-x86_64");
        let Size { cpus, memory } = size;
        // The kernel's own messages below errors are not for the console: a command's output is there.
        let mut append = "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off".to_owned();
        if accelerator == Accelerator::Count {
            // The same addresses each time, and no other clock than the CPU's.
            append += " nokaslr norandmaps clocksource=tsc tsc=reliable";
        }
        command.args(accelerator.arguments()).args(["-M", "q35"]);
        command.args([
            "-smp",
            &cpus.to_string(),
            "-m",
            &format!("{memory}M"),
            "-nodefaults",
            "-no-user-config",
        ]);
        command.args(["-object", &format!("memory-backend-memfd,id=memory,size={memory}M,share=on")]);
        command.args(["-numa", "node,memdev=memory", "-nographic", "-monitor", "none", "-no-reboot"]);
        command.args(["-serial", "stdio", "-device", "virtio-rng-pci", "-append", &append]);
        command.args(["-chardev", &format!("socket,id=root,path={socket}")]);
        command.args(["-device", "vhost-user-fs-pci,chardev=root,tag=root"]);
        // A tap that is made for several queues takes none that says that it has one.
        let queues = cpus.max(2);
        for nic in ["nic0", "nic1"] {
            let tap = format!("tap,id={nic},ifname={nic},script=no,downscript=no,queues={queues}");
            let vectors = 2 * queues + 2;
            let device = format!(
                "virtio-net-pci,netdev={nic},mq=on,romfile=,vectors={vectors},mac=52:54:00:00:00:0{}",
                &nic[3..]
            );
            command.args(["-netdev", &tap, "-device", &device]);
        }
        command.arg("-kernel").arg(&kernel.image).args(["-initrd", "initramfs.cpio"]);
        // virtiofsd's and qemu's own words are of use only where the VM does not come up; they are in the directory of the run.
        let log = File::create(image.dir.join("log")).context("cannot write the VM's log")?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
        child.map(Self).context("cannot start qemu: install the package qemu-system-x86")
    }
}
