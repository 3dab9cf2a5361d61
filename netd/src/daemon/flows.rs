//! Translated flows: what is shown of them, and their removal.

use std::{collections::HashMap, net::Ipv4Addr};

use tokio::task::{block_in_place, spawn_blocking};
use tracing::info;

use super::{handle::Reply, owner::Owner};
use crate::{
    bpf::{FlowEntry, FlowFilter, Phase},
    request::{FlowList, FlowProtocol, FlowQuery, FlowView, Flushed, Refusal},
};

/// Flows that are listed if nothing else is asked for.
const LIMIT: usize = 10_000;

impl Owner {
    /// Lists flows. The table is read beside this task: that takes half a second where it is full.
    pub(super) fn list_flows(&self, query: &FlowQuery, reply: Reply<FlowList>) {
        let prepared =
            self.filter(query).and_then(|filter| Ok((filter, self.kernel.datapath().flow_reader()?)));
        let (filter, reader) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let names: HashMap<Ipv4Addr, String> =
            self.state.endpoints().map(|endpoint| (endpoint.address, endpoint.name.clone())).collect();
        let limit = query.limit.unwrap_or(LIMIT);
        spawn_blocking(move || {
            let list = reader.read(&filter, limit).map(|(flows, total)| {
                let mut flows: Vec<FlowView> =
                    flows.iter().map(|flow| view(flow, names.get(&flow.address).cloned())).collect();
                flows.sort();
                FlowList { flows, total }
            });
            let _ = reply.send(list.map_err(Refusal::Failed));
        });
    }

    /// Removes flows: their next packets begin new ones.
    pub(super) fn flush_flows(&mut self, query: &FlowQuery) -> Result<Flushed, Refusal> {
        if query.limit.is_some() {
            return Err(Refusal::Invalid("a limit is for listing flows: leave it out to flush".to_owned()));
        }
        let filter = self.filter(query)?;
        let removed = block_in_place(|| self.kernel.remove_flows(&filter))?;
        info!("{removed} flows flushed");
        Ok(Flushed { removed })
    }

    fn filter(&self, query: &FlowQuery) -> Result<FlowFilter, Refusal> {
        let address = |name: &String| match self.state.endpoint(name) {
            Some(endpoint) => Ok(endpoint.address),
            None => Err(Refusal::NotFound(format!("no endpoint `{name}`: `netd ls` shows all"))),
        };
        Ok(FlowFilter {
            address: query.endpoint.as_ref().map(address).transpose()?,
            protocol: query.protocol.map(number),
            remote: query.remote,
        })
    }
}

/// Assigned Internet Protocol Numbers (IANA).
const PROTOCOLS: [(FlowProtocol, u8, &str); 3] =
    [(FlowProtocol::Tcp, 6, "tcp"), (FlowProtocol::Udp, 17, "udp"), (FlowProtocol::Icmp, 1, "icmp")];

fn number(protocol: FlowProtocol) -> u8 {
    PROTOCOLS.iter().find(|(known, ..)| *known == protocol).map_or(0, |(_, number, _)| *number)
}

fn view(flow: &FlowEntry, endpoint: Option<String>) -> FlowView {
    let known = PROTOCOLS.iter().find(|(_, number, _)| *number == flow.protocol);
    let state = match flow.phase {
        Phase::Unreplied => "unreplied",
        Phase::Established => "established",
        Phase::Closing => "closing",
        Phase::Closed => "closed",
        Phase::Reset => "reset",
    };
    FlowView {
        endpoint,
        protocol: known.map_or_else(|| flow.protocol.to_string(), |(.., name)| (*name).to_owned()),
        address: flow.address,
        port: flow.port,
        remote: flow.remote,
        remote_port: flow.remote_port,
        translated: flow.translated,
        translated_port: flow.translated_port,
        state: state.to_owned(),
        idle: flow.idle.as_secs(),
        expires_in: flow.timeout.saturating_sub(flow.idle).as_secs(),
    }
}
