//! dockerd: a running container gets a second network, and loses it. Starting a container is more than giving it a network.

use anyhow::Result;

use super::{Attacher, CONTAINERS, Memory};
use crate::{
    bench::{dockerd, memory},
    lab::{Lab, World},
};

const NETWORK: &str = "bench";

struct Docker(dockerd::Docker);

pub(super) fn build(lab: &Lab, world: &World) -> Result<Box<dyn Attacher>> {
    let host = lab.namespace("docker")?;
    world.plug(lab, &host)?;
    let mut docker = dockerd::Docker::start(lab, &host, "docker")?;
    docker.docker(&["network", "create", "--subnet", "10.97.0.0/16", NETWORK])?;
    for index in 0..CONTAINERS {
        let container = docker.run(&name(index), &[])?;
        // Named, so that it is killed when the lab goes.
        lab.adopt(&format!("docker-container{index}"), container.pid)?;
    }
    Ok(Box::new(Docker(docker)))
}

fn name(index: usize) -> String {
    format!("container{index}")
}

impl Attacher for Docker {
    fn attach(&self, index: usize) -> Result<()> {
        self.0.docker(&["network", "connect", NETWORK, &name(index)])?;
        Ok(())
    }

    fn detach(&self, index: usize) -> Result<()> {
        self.0.docker(&["network", "disconnect", NETWORK, &name(index)])?;
        Ok(())
    }

    fn memory(&self) -> Result<Option<Memory>> {
        Ok(Some(Memory { daemon: memory::resident_with_children(self.0.pid())?, maps: None }))
    }
}
