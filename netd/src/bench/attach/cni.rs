//! The CNI plugin `bridge`.

use anyhow::Result;
use serde_json::Value;

use super::Attacher;
use crate::{
    bench::cni::Plugin,
    lab::{Lab, Namespace, World},
};

struct Cni {
    plugin: Plugin,
    container: Namespace,
    result: Value,
}

/// With a masquerade, as netd's network has one.
pub(super) fn masquerading(lab: &Lab, world: &World) -> Result<Box<dyn Attacher>> {
    build(lab, world, "cni", true)
}

/// Without.
pub(super) fn plain(lab: &Lab, world: &World) -> Result<Box<dyn Attacher>> {
    build(lab, world, "cni-plain", false)
}

fn build(lab: &Lab, world: &World, name: &str, masquerade: bool) -> Result<Box<dyn Attacher>> {
    let host = lab.namespace(name)?;
    let plugin = Plugin::new(&host, &lab.directory().join(name), masquerade)?;
    world.plug(lab, &host)?;
    Ok(Box::new(Cni { plugin, container: lab.namespace(&format!("{name}-container"))?, result: Value::Null }))
}

impl Attacher for Cni {
    fn attach(&mut self) -> Result<()> {
        self.result = self.plugin.add(&self.container)?;
        Ok(())
    }

    fn detach(&mut self) -> Result<()> {
        self.plugin.delete(&self.container, &self.result)
    }
}
