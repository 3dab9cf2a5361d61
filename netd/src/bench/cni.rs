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

use crate::lab::Namespace;

/// Where packages put the plugins: Debian's, and everybody else's.
const DIRECTORIES: &str = "/usr/lib/cni:/opt/cni/bin";

/// The plugin, as it is configured on a host.
pub(super) struct Plugin {
    host: Namespace,
    plugin: PathBuf,
    path: OsString,
    configuration: Value,
}

impl Plugin {
    /// The plugin of this host; `data` is where it keeps which addresses it gave. As a gateway that masquerades, which is what
    /// netd's network does, or as a gateway only: then it sets no rule.
    ///
    /// # Errors
    /// It is not installed.
    pub(super) fn new(host: &Namespace, data: &Path, masquerade: bool) -> Result<Self> {
        let path = env::var_os("CNI_PATH").unwrap_or_else(|| DIRECTORIES.into());
        let find = |plugin| find(&path, plugin);
        let (plugin, _) = (find("bridge")?, find("host-local")?);
        let configuration = json!({
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": masquerade,
            "ipam": {
                "type": "host-local",
                "dataDir": data,
                "ranges": [[{ "subnet": "10.99.0.0/16" }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        });
        Ok(Self { host: host.clone(), plugin, path, configuration })
    }

    /// Gives a container its network. Returns what the plugin printed.
    ///
    /// # Errors
    /// It fails; the message is its own.
    pub(super) fn add(&self, container: &Namespace) -> Result<Value> {
        let output = self.call("ADD", container, &self.configuration)?;
        serde_json::from_slice(&output).context("bridge ADD printed no JSON")
    }

    /// Takes it away. `result` is what [`Plugin::add`] returned, as a runtime gives it.
    ///
    /// # Errors
    /// As [`Plugin::add`].
    pub(super) fn delete(&self, container: &Namespace, result: &Value) -> Result<()> {
        let mut configuration = self.configuration.clone();
        configuration["prevResult"] = result.clone();
        self.call("DEL", container, &configuration)?;
        Ok(())
    }

    fn call(&self, what: &str, container: &Namespace, configuration: &Value) -> Result<Vec<u8>> {
        let mut child = self
            .host
            .command(&self.plugin)?
            .env("CNI_COMMAND", what)
            .env("CNI_CONTAINERID", container.name())
            .env("CNI_NETNS", container.path())
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
