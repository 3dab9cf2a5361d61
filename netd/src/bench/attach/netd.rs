//! netd's own commands.

use anyhow::{Context, Result, bail};

use super::{Attacher, CONTAINERS, Memory};
use crate::{
    bench::memory,
    lab::{Host, Lab, Namespace, World},
};

struct Netd {
    host: Host,
    containers: Vec<Namespace>,
}

pub(super) fn build(lab: &Lab, world: &World) -> Result<Box<dyn Attacher>> {
    let host = Host::running(lab, world, "netd", "").context("cannot start the daemon")?;
    let containers = (0..CONTAINERS).map(|index| lab.namespace(&format!("netd-container{index}")));
    Ok(Box::new(Netd { containers: containers.collect::<Result<_>>()?, host }))
}

impl Netd {
    fn netd(&self, arguments: &[&str]) -> Result<()> {
        let output = self.host.netd(arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("netd {} ({}): {}", arguments.join(" "), output.status, said.trim());
        }
        Ok(())
    }
}

impl Attacher for Netd {
    fn attach(&self, index: usize) -> Result<()> {
        self.netd(&["attach", &format!("bench{index}"), "--netns", self.containers[index].name()])
    }

    fn detach(&self, index: usize) -> Result<()> {
        self.netd(&["detach", &format!("bench{index}")])
    }

    fn memory(&self) -> Result<Option<Memory>> {
        let process = self.host.process().context("no daemon")?;
        let daemon = memory::resident(process.pid())?;
        Ok(Some(Memory { daemon, maps: Some(memory::maps(self.host.bpffs())?) }))
    }
}
