//! Containers of a real dockerd.

use anyhow::{Context, Result};

use super::{Path, Scene, publish};
use crate::{
    bench::{case::Route, dockerd::Docker},
    lab::{Lab, World},
};

pub(super) fn build(lab: &Lab, world: &World) -> Result<Scene> {
    let host = lab.namespace("docker")?;
    let uplink = world.plug(lab, &host)?;
    let mut docker = Docker::start(lab, &host, "docker")?;
    let server = docker
        .run("server", &publish("--publish").each_ref().map(String::as_str))
        .context("cannot start the server's container")?;
    let client = docker.run("client", &[]).context("cannot start the client's container")?;
    let address = server.address;
    let server = lab.adopt("docker-server", server.pid)?;
    let client = lab.adopt("docker-client", client.pid)?;
    let egress = Path::new(&client, &world.router, uplink.router);
    let local = Path::new(&client, &server, address);
    let published = Path::published(&world.router, &server, uplink.address);
    Ok(Scene {
        paths: vec![(Route::SameHost, local), (Route::Egress, egress), (Route::Published, published)],
        evidence: Some(Box::new(move || {
            let version = docker.docker(&["version", "--format", "{{.Server.Version}}"])?;
            Ok(format!("containers of dockerd {version}"))
        })),
        hosts: None,
        missing: Vec::new(),
    })
}
