//! The traffic generator: one end of a load, as a process of its own.
//!
//! Two processes, as two containers are, each inside the namespace of its end and bound to its CPUs. Both begin anew for
//! each sample, which takes a few milliseconds. Every load is bounded in time, or in time and count.

mod connect;
mod cost;
mod drops;
mod packets;
mod repeat;
mod request;
mod stream;
mod window;

use std::{
    io::{Write as _, stdout},
    net::{SocketAddrV4, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::{prctl, signal::Signal};
use serde::{Deserialize, Serialize};

use self::cost::Meter;
pub(super) use self::{
    cost::{Cost, why_no_counters},
    drops::{Outside, Sent},
};
use super::{case::Traffic, cpus, latency::Latency};

/// How long an end waits for the other before it gives up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a worker is told, as JSON in its one argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub(super) role: Role,
    pub(super) traffic: Traffic,
    /// The server's address; the server itself gets port 0 and prints which one it has.
    pub(super) address: SocketAddrV4,
    pub(super) cpus: Vec<usize>,
    pub(super) warmup: Duration,
    pub(super) time: Duration,
    /// For the client: the server's process, whose CPU time counts too.
    pub(super) peer: Option<u32>,
    /// For a client whose datagrams are dropped.
    pub(super) outside: Option<Outside>,
}

/// Which end a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Role {
    /// Listens, prints its port, and answers until it is killed.
    Server,
    /// Drives the load and prints its result.
    Client,
}

impl std::str::FromStr for Order {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
    }
}

/// What a client has found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Load {
    pub(super) measured: Measured,
    /// Of single requests; empty where there are none.
    pub(super) latency: Latency,
    pub(super) cost: Cost,
}

/// What was counted: so much, in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Measured {
    /// Round trips, connections, bytes or datagrams.
    pub(super) count: u64,
    pub(super) time: Duration,
}

impl Measured {
    /// As a receiver sends it to the client.
    fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.count) << 64 | self.time.as_nanos()).to_be_bytes()
    }

    fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        Self { count: (both >> 64) as u64, time: Duration::from_nanos(both as u64) }
    }
}

/// Does what a worker was told; its first line of output is what its parent waits for.
///
/// # Errors
/// The address cannot be bound or reached, or the other end goes away.
pub fn run(order: &Order) -> Result<()> {
    // It must not outlive whoever measures.
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot tie this process to its parent")?;
    cpus::pin(&order.cpus)?;
    match (order.role, order.traffic) {
        (Role::Server, Traffic::TcpRr) => request::serve_tcp(order),
        (Role::Server, Traffic::UdpRr) => request::serve_udp(order),
        (Role::Server, Traffic::UdpPackets) => packets::serve(order, packets::SMALL),
        (Role::Server, Traffic::UdpFragments) => packets::serve(order, packets::FRAGMENTED),
        (Role::Server, Traffic::TcpStream) => stream::serve(order),
        (Role::Server, Traffic::TcpCrr) => connect::serve(order),
        (Role::Client, Traffic::TcpRr) => say(&request::tcp(order)?),
        (Role::Client, Traffic::UdpRr) => say(&request::udp(order)?),
        (Role::Client, Traffic::UdpPackets) => say(&packets::run(order, packets::SMALL)?),
        (Role::Client, Traffic::UdpFragments) => say(&packets::run(order, packets::FRAGMENTED)?),
        (Role::Client, Traffic::TcpStream) => say(&stream::run(order)?),
        (Role::Client, Traffic::TcpCrr) => say(&connect::run(order)?),
        (Role::Client, Traffic::DroppedFrames) => say(&drops::frames(order)?),
        (Role::Client, Traffic::DroppedPackets) => say(&drops::packets(order)?),
        (Role::Server, Traffic::DroppedFrames | Traffic::DroppedPackets) => {
            bail!("what is dropped has no server")
        }
        (_, Traffic::Http) => bail!("nginx and wrk are the ends of that load"),
    }
}

/// Prints a line for the parent.
fn say(line: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(line).context("cannot write JSON")?;
    let mut out = stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write the result")
}

fn connect(address: SocketAddrV4) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    stream.set_read_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
    stream.set_write_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
    Ok(stream)
}

#[cfg(test)]
mod tests;
