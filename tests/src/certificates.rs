//! Certificates for tests.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::Result;
use netd::cluster::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// Makes an authority and a certificate of its, for servers and clients at an address, and writes them to a directory.
///
/// # Errors
/// A file cannot be written.
pub fn make(directory: &Path, address: Ipv4Addr) -> Result<TlsFiles> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let root = authority.self_signed(&authority_key)?;
    let key = KeyPair::generate()?;
    let own = CertificateParams::new([address.to_string()])?;
    let own = own.signed_by(&key, &Issuer::new(authority, authority_key))?;
    fs::create_dir_all(directory)?;
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).map(|()| path)
    };
    Ok(TlsFiles {
        ca: write("ca.pem", root.pem())?,
        identity: Some((write("certificate.pem", own.pem())?, write("key.pem", key.serialize_pem())?)),
    })
}
