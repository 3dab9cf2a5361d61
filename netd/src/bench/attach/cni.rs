//! The CNI plugin `bridge`.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use serde_json::Value;

use super::{Attacher, CONTAINERS};
use crate::{
    bench::cni::Plugin,
    lab::{Lab, Namespace, World},
};

struct Cni {
    plugin: Plugin,
    /// Each with what the last ADD printed.
    containers: Vec<(Namespace, Mutex<Value>)>,
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
    let containers = (0..CONTAINERS)
        .map(|index| Ok((lab.namespace(&format!("{name}-container{index}"))?, Mutex::default())))
        .collect::<Result<_>>()?;
    Ok(Box::new(Cni { plugin, containers }))
}

impl Attacher for Cni {
    fn attach(&self, index: usize) -> Result<()> {
        let (container, result) = &self.containers[index];
        let printed = self.plugin.add(container)?;
        *result.lock().unwrap_or_else(PoisonError::into_inner) = printed;
        Ok(())
    }

    fn detach(&self, index: usize) -> Result<()> {
        let (container, result) = &self.containers[index];
        self.plugin.delete(container, &result.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
