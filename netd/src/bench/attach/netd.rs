//! netd's own commands.

use anyhow::{Context, Result, bail};

use super::Attacher;
use crate::lab::{Host, Lab, Namespace, World};

struct Netd {
    host: Host,
    container: Namespace,
}

pub(super) fn build(lab: &Lab, world: &World) -> Result<Box<dyn Attacher>> {
    let host = Host::running(lab, world, "netd", "").context("cannot start the daemon")?;
    Ok(Box::new(Netd { host, container: lab.namespace("netd-container")? }))
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
    fn attach(&mut self) -> Result<()> {
        self.netd(&["attach", "bench", "--netns", self.container.name()])
    }

    fn detach(&mut self) -> Result<()> {
        self.netd(&["detach", "bench"])
    }
}
