//! The keys of `[cluster]` that are for `store = "etcd"`.

use std::{
    fs::{self, File},
    io::Read as _,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use tracing::warn;

use super::file;
use crate::cluster::{EtcdConfig, TlsFiles};

/// Seconds that a lease may last. Below, a busy machine would lose its own; above, the routes of a dead node stay for too
/// long.
const LEASE: std::ops::RangeInclusive<i64> = 5..=600;
/// A longer file holds something else than a password.
const MAX_PASSWORD: u64 = 4096;

/// Refuses keys that mean nothing to the local store.
pub(super) fn refuse(cluster: &file::Cluster) -> Result<()> {
    let keys = [
        ("endpoints", cluster.endpoints.is_some()),
        ("prefix", cluster.prefix.is_some()),
        ("lease", cluster.lease.is_some()),
        ("ca", cluster.ca.is_some()),
        ("certificate", cluster.certificate.is_some()),
        ("key", cluster.key.is_some()),
        ("user", cluster.user.is_some()),
        ("password-file", cluster.password_file.is_some()),
    ];
    match keys.iter().find(|(_, is_there)| *is_there) {
        Some((key, _)) => bail!("cluster.{key} is for cluster.store = \"etcd\""),
        None => Ok(()),
    }
}

pub(super) fn read(cluster: &mut file::Cluster) -> Result<EtcdConfig> {
    let default = EtcdConfig::default();
    let endpoints = cluster.endpoints.take().unwrap_or(default.endpoints);
    let encrypted = check_endpoints(&endpoints).context("cluster.endpoints")?;
    let prefix = cluster.prefix.take().unwrap_or(default.prefix);
    check_prefix(&prefix).context("cluster.prefix")?;
    let lease = match cluster.lease {
        None => default.lease,
        Some(seconds) if LEASE.contains(&seconds) => Duration::from_secs(seconds.unsigned_abs()),
        Some(seconds) => {
            bail!("cluster.lease: {seconds} is not between {} and {} seconds", LEASE.start(), LEASE.end())
        }
    };
    let tls = tls(cluster, encrypted)?;
    let user = match (cluster.user.take(), cluster.password_file.take()) {
        (None, None) => None,
        (Some(user), Some(file)) => Some((user, password(&file).context("cluster.password-file")?)),
        (Some(_), None) => bail!("cluster.user needs cluster.password-file"),
        (None, Some(_)) => bail!("cluster.password-file needs cluster.user"),
    };
    if user.is_some()
        && let Some(url) = endpoints.iter().find(|url| !encrypted && !is_loopback(url))
    {
        warn!(
            "cluster.user: the password goes to {url} as it is, for everybody on the way to read: use https there, and \
             cluster.ca here"
        );
    }
    Ok(EtcdConfig { endpoints, prefix, lease, tls, user })
}

/// Checks the URLs, and returns whether they are of https.
fn check_endpoints(endpoints: &[String]) -> Result<bool> {
    let schemes = endpoints.iter().map(|url| is_https(url)).collect::<Result<Vec<_>>>()?;
    match schemes.as_slice() {
        [] => bail!("there must be one, such as [\"http://127.0.0.1:2379\"]"),
        [first, others @ ..] if others.contains(&!first) => bail!("all of http or all of https"),
        [first, ..] => Ok(*first),
    }
}

fn is_https(url: &str) -> Result<bool> {
    let parts = || {
        let (scheme, rest) = url.split_once("://")?;
        let (host, port) = rest.rsplit_once(':')?;
        let port = port.parse::<u16>().ok().filter(|number| *number > 0 && !port.starts_with('+'))?;
        Some((scheme, host, port))
    };
    let is_host = |host: &str| match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)),
    };
    match parts() {
        Some((scheme @ ("http" | "https"), host, _)) if is_host(host) => Ok(scheme == "https"),
        _ => Err(anyhow!("{url:?} is not a URL such as \"http://127.0.0.1:2379\"")),
    }
}

/// Whether the host of a URL is this machine, so that nobody else sees what goes there.
fn is_loopback(url: &str) -> bool {
    let host = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once(':')).map_or("", |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn check_prefix(prefix: &str) -> Result<()> {
    if !prefix.starts_with('/') {
        bail!("{prefix:?} does not begin with '/'");
    }
    if prefix.ends_with('/') {
        bail!("{prefix:?} ends with '/'");
    }
    if let Some(character) = prefix.chars().find(|c| !c.is_ascii_graphic()) {
        bail!("{prefix:?} contains {character:?}");
    }
    Ok(())
}

fn tls(cluster: &mut file::Cluster, encrypted: bool) -> Result<Option<TlsFiles>> {
    let (ca, certificate, key) = (cluster.ca.take(), cluster.certificate.take(), cluster.key.take());
    if !encrypted {
        let keys = [("ca", ca.is_some()), ("certificate", certificate.is_some()), ("key", key.is_some())];
        return match keys.iter().find(|(_, is_there)| *is_there) {
            Some((key, _)) => bail!("cluster.{key} is for endpoints of https"),
            None => Ok(None),
        };
    }
    let Some(ca) = ca else {
        bail!("cluster.ca: endpoints of https need the file of the authority that signed their certificates")
    };
    let identity = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (Some(_), None) => bail!("cluster.certificate needs cluster.key"),
        (None, Some(_)) => bail!("cluster.key needs cluster.certificate"),
    };
    Ok(Some(TlsFiles { ca, identity }))
}

fn password(path: &Path) -> Result<String> {
    let text = path.display();
    let cannot = || format!("cannot read {text}");
    let mode = fs::metadata(path).with_context(cannot)?.permissions().mode();
    if mode & 0o077 != 0 {
        warn!("cluster.password-file: others than the owner can use {text}: chmod 600 {text}");
    }
    let mut password = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PASSWORD).read_to_string(&mut password))
        .with_context(cannot)?;
    // The line's end, which editors and `echo` add.
    password.truncate(password.trim_end_matches(['\r', '\n']).len());
    if password.is_empty() {
        bail!("{text} is empty");
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, path::PathBuf};

    use super::*;
    use crate::config::Config;

    fn parse(keys: &str) -> Result<EtcdConfig> {
        let config = Config::parse(&format!("[cluster]\nstore = 'etcd'\n{keys}"))?;
        config.cluster.etcd.context("no etcd")
    }

    fn secret(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn by_default() {
        assert_eq!(parse("").unwrap(), EtcdConfig::default());
        assert_eq!(Config::parse("").unwrap().cluster.etcd, None);
    }

    #[test]
    fn everything() {
        let password = secret("pass word\n");
        let config = parse(&format!(
            r#"
            endpoints     = ["https://etcd-1.example:2379", "https://[2001:db8::1]:1", "https://192.0.2.1:65535"]
            prefix        = "/rack-1/netd"
            lease         = 5
            ca            = "/etc/netd/ca.pem"
            certificate   = "/etc/netd/node.pem"
            key           = "/etc/netd/node.key"
            user          = "netd"
            password-file = "{}"
            [networks.a]
            subnets = ["10.0.0.0/16"]
            slice   = 26
            "#,
            password.path().display()
        ))
        .unwrap();
        let identity = Some((PathBuf::from("/etc/netd/node.pem"), PathBuf::from("/etc/netd/node.key")));
        assert_eq!(config.endpoints.len(), 3);
        assert_eq!(config.prefix, "/rack-1/netd");
        assert_eq!(config.lease, Duration::from_secs(5));
        assert_eq!(config.tls, Some(TlsFiles { ca: "/etc/netd/ca.pem".into(), identity }));
        assert_eq!(config.user, Some(("netd".to_owned(), "pass word".to_owned())));
        let shown = format!("{config:?}");
        assert!(shown.contains("netd") && !shown.contains("pass word"), "{shown}");
    }

    #[test]
    fn where_a_password_may_go() {
        for (url, expected) in [
            ("http://127.0.0.1:2379", true),
            ("http://[::1]:2379", true),
            ("http://localhost:2379", true),
            ("http://127.0.0.1.example:2379", false),
            ("http://192.0.2.1:2379", false),
            ("http://[2001:db8::1]:2379", false),
            ("http://localhost.example:2379", false),
        ] {
            assert_eq!(is_loopback(url), expected, "{url}");
        }
    }

    #[test]
    fn a_slice_of_a_network() {
        let config =
            Config::parse("[cluster]\nstore = 'etcd'\n[networks.a]\nsubnets = ['10.0.0.0/16']\nslice = 16");
        assert_eq!(config.unwrap().networks["a"].slice, Some(16));
    }

    #[test]
    fn errors_name_the_key() {
        let empty = secret("\n");
        let url =
            |url: &str| format!("cluster.endpoints: {url:?} is not a URL such as \"http://127.0.0.1:2379\"");
        let tls = "endpoints = ['https://a:1']\n";
        for (keys, expected) in [
            ("endpoints = []".to_owned(), "cluster.endpoints: there must be one, such as [\"http://127.0.0.1:2379\"]".to_owned()),
            ("endpoints = ['a:1']".to_owned(), url("a:1")),
            ("endpoints = ['ftp://a:1']".to_owned(), url("ftp://a:1")),
            ("endpoints = ['http://a']".to_owned(), url("http://a")),
            ("endpoints = ['http://a:0']".to_owned(), url("http://a:0")),
            ("endpoints = ['http://a:+1']".to_owned(), url("http://a:+1")),
            ("endpoints = ['http://a:65536']".to_owned(), url("http://a:65536")),
            ("endpoints = ['http://a:1/']".to_owned(), url("http://a:1/")),
            ("endpoints = ['http://:1']".to_owned(), url("http://:1")),
            ("endpoints = ['http://u:p@a:1']".to_owned(), url("http://u:p@a:1")),
            ("endpoints = ['http://2001:db8::1:1']".to_owned(), url("http://2001:db8::1:1")),
            ("endpoints = ['http://a:1', 'https://a:2']".to_owned(), "cluster.endpoints: all of http or all of https".to_owned()),
            ("prefix = ''".to_owned(), "cluster.prefix: \"\" does not begin with '/'".to_owned()),
            ("prefix = '/'".to_owned(), "cluster.prefix: \"/\" ends with '/'".to_owned()),
            ("prefix = '/a b'".to_owned(), "cluster.prefix: \"/a b\" contains ' '".to_owned()),
            ("lease = 4".to_owned(), "cluster.lease: 4 is not between 5 and 600 seconds".to_owned()),
            ("lease = -5".to_owned(), "cluster.lease: -5 is not between 5 and 600 seconds".to_owned()),
            ("ca = 'x'".to_owned(), "cluster.ca is for endpoints of https".to_owned()),
            ("certificate = 'x'".to_owned(), "cluster.certificate is for endpoints of https".to_owned()),
            ("key = 'x'".to_owned(), "cluster.key is for endpoints of https".to_owned()),
            (tls.to_owned(), "cluster.ca: endpoints of https need the file of the authority that signed their certificates".to_owned()),
            (format!("{tls}ca = 'x'\nkey = 'x'"), "cluster.key needs cluster.certificate".to_owned()),
            (format!("{tls}ca = 'x'\ncertificate = 'x'"), "cluster.certificate needs cluster.key".to_owned()),
            ("user = 'x'".to_owned(), "cluster.user needs cluster.password-file".to_owned()),
            ("password-file = 'x'".to_owned(), "cluster.password-file needs cluster.user".to_owned()),
            (
                "user = 'x'\npassword-file = '/nonexistent/x'".to_owned(),
                "cluster.password-file: cannot read /nonexistent/x: No such file or directory (os error 2)".to_owned(),
            ),
            (
                format!("user = 'x'\npassword-file = '{}'", empty.path().display()),
                format!("cluster.password-file: {} is empty", empty.path().display()),
            ),
            (
                "[[cluster.peers]]\nname = 'b'\naddress = '192.0.2.2'\nsubnets = []".to_owned(),
                "[[cluster.peers]] is for cluster.store = \"local\": etcd says what other nodes there are".to_owned(),
            ),
            (
                "[node]\nsubnets = ['10.88.1.0/24']".to_owned(),
                "node.subnets is for cluster.store = \"local\": etcd says what other nodes there are".to_owned(),
            ),
        ] {
            assert_eq!(format!("{:#}", parse(&keys).expect_err(&keys)), expected, "for {keys}");
        }
    }

    #[test]
    fn the_local_store_has_none_of_them() {
        for (key, value) in [
            ("endpoints", "['http://a:1']"),
            ("prefix", "'/netd'"),
            ("lease", "30"),
            ("ca", "'x'"),
            ("certificate", "'x'"),
            ("key", "'x'"),
            ("user", "'x'"),
            ("password-file", "'x'"),
        ] {
            let error = Config::parse(&format!("[cluster]\n{key} = {value}")).unwrap_err();
            assert_eq!(format!("{error:#}"), format!("cluster.{key} is for cluster.store = \"etcd\""));
        }
    }
}
