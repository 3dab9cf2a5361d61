//! How etcd is reached.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use etcd_client::{Certificate, Identity, TlsOptions};

/// The keys of `[cluster]` for `store = "etcd"`.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// URLs of the members, at least one; either all of http or all of https.
    pub endpoints: Vec<String>,
    /// What all keys begin with, e.g. `/netd`.
    pub prefix: String,
    /// How long a node that is silent is still taken for alive.
    pub lease: Duration,
    /// What https needs; none: the endpoints are of http.
    pub tls: Option<TlsFiles>,
    /// Name and password; none: etcd asks for none.
    pub user: Option<(String, String)>,
}

/// Files (PEM) for https. They are read anew for each connection, so that certificates can be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority that signed the members' certificates.
    pub ca: PathBuf,
    /// This node's certificate and its key; none: etcd asks for none.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// What they hold, as the client takes it.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn options(&self) -> Result<TlsOptions> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&self.ca)?));
        Ok(match &self.identity {
            Some((certificate, key)) => tls.identity(Identity::from_pem(read(certificate)?, read(key)?)),
            None => tls,
        })
    }
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            prefix: "/netd".to_owned(),
            lease: Duration::from_secs(30),
            tls: None,
            user: None,
        }
    }
}

impl fmt::Debug for EtcdConfig {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("lease", &self.lease)
            .field("tls", &self.tls)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish()
    }
}
