//! The CNI plugin `bridge` with `host-local`, called as a runtime calls it: the configuration on the standard input, the rest in
//! the environment (CNI specification 1.0.0, section 2).

use std::{
    env,
    ffi::OsString,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::Attacher;
use crate::lab::{Lab, Namespace, World};

/// Where packages put the plugins: Debian's, and everybody else's.
const DIRECTORIES: &str = "/usr/lib/cni:/opt/cni/bin";

struct Cni {
    host: Namespace,
    container: Namespace,
    plugin: PathBuf,
    path: OsString,
    configuration: Value,
    /// What the last ADD printed: a runtime gives it to DEL.
    result: Value,
}

/// As a gateway that masquerades, which is what netd's network does.
pub(super) fn masquerading(lab: &Lab, world: &World) -> Result<Box<dyn Attacher>> {
    build(lab, world, "cni", true)
}

/// As a gateway only: the plugin sets no rule.
pub(super) fn plain(lab: &Lab, world: &World) -> Result<Box<dyn Attacher>> {
    build(lab, world, "cni-plain", false)
}

fn build(lab: &Lab, world: &World, name: &str, masquerade: bool) -> Result<Box<dyn Attacher>> {
    let path = env::var_os("CNI_PATH").unwrap_or_else(|| DIRECTORIES.into());
    let find = |plugin| find(&path, plugin);
    let (plugin, _) = (find("bridge")?, find("host-local")?);
    let host = lab.namespace(name)?;
    world.plug(lab, &host)?;
    let container = lab.namespace(&format!("{name}-container"))?;
    let configuration = json!({
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "ipMasq": masquerade,
        "ipam": {
            "type": "host-local",
            "dataDir": lab.directory().join(name),
            "ranges": [[{ "subnet": "10.99.0.0/16" }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    Ok(Box::new(Cni { host, container, plugin, path, configuration, result: Value::Null }))
}

fn find(path: &OsString, plugin: &str) -> Result<PathBuf> {
    env::split_paths(path).map(|directory| directory.join(plugin)).find(|file| file.is_file()).with_context(
        || {
            format!(
                "the CNI plugin {plugin} is not installed in {} (package containernetworking-plugins)",
                Path::new(path).display()
            )
        },
    )
}

impl Cni {
    fn call(&self, what: &str) -> Result<Vec<u8>> {
        let mut configuration = self.configuration.clone();
        if what == "DEL" {
            configuration["prevResult"] = self.result.clone();
        }
        let mut child = self
            .host
            .command(&self.plugin)?
            .env("CNI_COMMAND", what)
            .env("CNI_CONTAINERID", "bench")
            .env("CNI_NETNS", self.container.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.plugin.display()))?;
        let mut stdin = child.stdin.take().ok_or_else(|| anyhow!("the plugin has no standard input"))?;
        // An error here means that it has ended early; what it printed is the better message.
        let _ = stdin.write_all(configuration.to_string().as_bytes());
        drop(stdin);
        let output = child.wait_with_output().context("cannot wait for the plugin")?;
        if !output.status.success() {
            // The plugin prints its error as JSON on the standard output.
            let said = [&output.stdout[..], &output.stderr[..]].concat();
            bail!("bridge {what} ({}): {}", output.status, String::from_utf8_lossy(&said).trim());
        }
        Ok(output.stdout)
    }
}

impl Attacher for Cni {
    fn attach(&mut self) -> Result<()> {
        let output = self.call("ADD")?;
        self.result = serde_json::from_slice(&output).context("bridge ADD printed no JSON")?;
        Ok(())
    }

    fn detach(&mut self) -> Result<()> {
        self.call("DEL")?;
        Ok(())
    }
}
