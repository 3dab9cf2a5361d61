//! A real etcd in a namespace, of one member or of several.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, ConnectOptions, DeleteOptions, GetOptions, Txn, TxnOp};
use nix::sys::signal::Signal;

use super::{Lab, Namespace, Process};
use crate::cluster::TlsFiles;

/// How long it may take until a member answers.
const START: Duration = Duration::from_secs(20);
/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(5);

/// A cluster of etcd's.
#[derive(Debug)]
pub struct Etcd {
    namespace: Namespace,
    members: Vec<Member>,
    /// The clients' user, once authentication is on.
    user: Option<(String, String)>,
    /// What members and clients prove themselves with, if they do.
    tls: Option<TlsFiles>,
}

#[derive(Debug)]
struct Member {
    address: SocketAddrV4,
    /// What it is started with.
    arguments: Vec<String>,
    directory: PathBuf,
    process: Option<Arc<Process>>,
}

impl Etcd {
    /// Whether etcd is installed.
    #[must_use]
    pub fn is_installed() -> bool {
        Command::new("etcd").arg("--version").output().is_ok_and(|output| output.status.success())
    }

    /// Starts `members` members at an address of a namespace, and waits until each answers.
    ///
    /// # Errors
    /// etcd is not installed, or does not start.
    pub fn start(lab: &Lab, namespace: &Namespace, address: Ipv4Addr, members: u16) -> Result<Self> {
        Self::start_with(lab, namespace, address, members, None)
    }

    /// The same where clients and members prove who they are, both with the certificate of `tls`, which must be for the
    /// address.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        lab: &Lab,
        namespace: &Namespace,
        address: Ipv4Addr,
        members: u16,
        tls: Option<TlsFiles>,
    ) -> Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let identity = tls.as_ref().and_then(|files| Some((files.ca.display(), files.identity.as_ref()?)));
        let proofs = identity.map(|(ca, (certificate, key))| {
            [
                "--client-cert-auth".to_owned(),
                format!("--trusted-ca-file={ca}"),
                format!("--cert-file={}", certificate.display()),
                format!("--key-file={}", key.display()),
            ]
        });
        let at = |port: u16| SocketAddrV4::new(address, port);
        let peer = |index: u16| format!("m{index}=http://{}", at(12380 + index));
        let initial = (0..members).map(peer).collect::<Vec<_>>().join(",");
        let member = |index: u16| {
            let (client, peer) = (at(12370 + index), at(12380 + index));
            let directory = lab.directory().join(format!("etcd-{index}"));
            let arguments = [
                format!("--name=m{index}"),
                format!("--data-dir={}", directory.display()),
                format!("--listen-client-urls={scheme}://{client}"),
                format!("--advertise-client-urls={scheme}://{client}"),
                format!("--listen-peer-urls=http://{peer}"),
                format!("--initial-advertise-peer-urls=http://{peer}"),
                format!("--initial-cluster={initial}"),
                "--logger=zap".to_owned(),
            ];
            let arguments = arguments.into_iter().chain(proofs.iter().flatten().cloned()).collect();
            Member { address: client, arguments, directory, process: None }
        };
        let members_all: Vec<Member> = (0..members).map(member).collect();
        let mut etcd = Self { namespace: namespace.clone(), members: members_all, user: None, tls };
        for index in 0..usize::from(members) {
            etcd.launch(lab, index)?;
        }
        (0..usize::from(members)).try_for_each(|index| etcd.wait(index))?;
        Ok(etcd)
    }

    /// The URLs that clients connect to.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|index| self.endpoint(index)).collect()
    }

    fn endpoint(&self, index: usize) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.members[index].address)
    }

    /// Sends a member a signal, such as SIGSTOP: it is silent then.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        self.members[index].process.as_ref().context("the member does not run")?.signal(signal)
    }

    /// Ends a member: with SIGTERM in order, with SIGKILL not so.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&mut self, index: usize, signal: Signal) -> Result<()> {
        if let Some(process) = self.members[index].process.take() {
            process.signal(signal)?;
            process.wait(START)?;
        }
        Ok(())
    }

    /// Starts a member again, with the data that it had, and waits until it answers.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self, lab: &Lab, index: usize) -> Result<()> {
        self.launch(lab, index)?;
        self.wait(index)
    }

    /// Removes the data of a member that is stopped.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub fn lose_data(&self, index: usize) -> Result<()> {
        let directory = &self.members[index].directory;
        std::fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))
    }

    /// Copies the data of a member that is stopped.
    ///
    /// # Errors
    /// They cannot be copied.
    pub fn back_up(&self, index: usize) -> Result<()> {
        let directory = &self.members[index].directory;
        copy(directory, &directory.with_extension("backup"))
    }

    /// Puts the copy of a member's data in place of what it has. It is stopped.
    ///
    /// # Errors
    /// There is no copy, or it cannot be put there.
    pub fn restore(&self, index: usize) -> Result<()> {
        self.lose_data(index)?;
        let directory = &self.members[index].directory;
        copy(&directory.with_extension("backup"), directory)
    }

    /// The member that leads.
    ///
    /// # Errors
    /// None answers.
    pub fn leader(&self) -> Result<usize> {
        let ids: Vec<(u64, u64)> = (0..self.members.len())
            .filter(|index| self.members[*index].process.is_some())
            .map(|index| {
                self.ask(index, async |mut client| {
                    let status = client.status().await?;
                    let id = status.header().map_or(0, etcd_client::ResponseHeader::member_id);
                    Ok((id, status.leader()))
                })
            })
            .collect::<Result<_>>()?;
        ids.iter().position(|(id, leader)| id == leader).context("no member leads")
    }

    /// Writes a key.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<()> {
        let value = value.into();
        self.with_client(async move |mut client| client.put(key, value.clone(), None).await.map(drop))
    }

    /// Writes many keys.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn put_all(&self, records: &[(String, String)]) -> Result<()> {
        // etcd takes 128 operations at once.
        self.with_client(async |mut client| {
            for chunk in records.chunks(100) {
                let puts: Vec<TxnOp> =
                    chunk.iter().map(|(key, value)| TxnOp::put(key.as_str(), value.as_str(), None)).collect();
                client.txn(Txn::new().and_then(puts)).await?;
            }
            Ok(())
        })
    }

    /// The keys and values below a prefix.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn get(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        self.with_client(async move |mut client| {
            let got = client.get(prefix, Some(GetOptions::new().with_prefix())).await?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ok(got.kvs().iter().map(|kv| (text(kv.key()), text(kv.value()))).collect())
        })
    }

    /// Removes all keys below a prefix.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn delete(&self, prefix: &str) -> Result<()> {
        let options = DeleteOptions::new().with_prefix();
        self.with_client(async move |mut client| client.delete(prefix, Some(options.clone())).await.map(drop))
    }

    /// Forgets all revisions but the present one.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn compact(&self) -> Result<()> {
        self.with_client(async |mut client| {
            let now = client.get("now", None).await?;
            let revision = now.header().map_or(0, etcd_client::ResponseHeader::revision);
            client.compact(revision, None).await.map(drop)
        })
    }

    /// Makes clients name themselves.
    ///
    /// # Errors
    /// etcd does not answer, or it is so already.
    pub fn require_user(&mut self, name: &str, password: &str) -> Result<()> {
        self.with_client(async move |mut client| {
            client.role_add("root").await?;
            for user in ["root", name] {
                client.user_add(user, password, None).await?;
                client.user_grant_role(user, "root").await?;
            }
            client.auth_enable().await.map(drop)
        })?;
        self.user = Some((name.to_owned(), password.to_owned()));
        Ok(())
    }

    /// Does something with a client of a member that runs, on a thread in its namespace.
    ///
    /// # Errors
    /// What that returns, or etcd does not answer.
    pub fn with_client<T: Send>(
        &self,
        question: impl AsyncFn(Client) -> std::result::Result<T, etcd_client::Error> + Send + Sync,
    ) -> Result<T> {
        let running = self.members.iter().position(|member| member.process.is_some());
        self.ask(running.context("no member of etcd runs")?, question)
    }

    fn ask<T: Send>(
        &self,
        index: usize,
        question: impl AsyncFn(Client) -> std::result::Result<T, etcd_client::Error> + Send + Sync,
    ) -> Result<T> {
        let endpoint = self.endpoint(index);
        let mut options = ConnectOptions::new().with_timeout(ANSWER);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        if let Some(files) = &self.tls {
            options = options.with_tls(files.options()?);
        }
        self.namespace.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = Client::connect([&endpoint], Some(options)).await?;
                Ok(question(client).await?)
            })
        })
    }

    /// Starts a member, and does not wait for it: alone it may not answer.
    ///
    /// # Errors
    /// etcd is not installed.
    pub fn launch(&mut self, lab: &Lab, index: usize) -> Result<()> {
        ensure!(Self::is_installed(), "etcd is not installed (package etcd-server)");
        let member = &mut self.members[index];
        let mut command = Command::new("etcd");
        command.args(&member.arguments);
        let log = lab.directory().join(format!("etcd-{index}.log"));
        member.process = Some(lab.spawn(&self.namespace, &command, &log)?);
        Ok(())
    }

    fn wait(&self, index: usize) -> Result<()> {
        let end = Instant::now() + START;
        loop {
            let answered = self.ask(index, async |mut client| client.get("ready", None).await.map(drop));
            let Err(error) = answered else { return Ok(()) };
            let log =
                || self.members[index].process.as_ref().map(|process| process.log()).unwrap_or_default();
            ensure!(Instant::now() < end, "etcd does not answer: {error:#}; its log:\n{}", log());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status().context("cannot run cp")?;
    ensure!(status.success(), "cannot copy {} to {}", from.display(), to.display());
    Ok(())
}
