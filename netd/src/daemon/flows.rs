//! Translated flows: what is shown of them, and their removal.

use std::{collections::HashMap, net::IpAddr};

use tokio::task::spawn_blocking;

use super::{handle::Reply, owner::Owner, requests::answer};
use crate::{
    bpf::{FlowEntry, FlowFilter, FlowsOf, Phase, Protocol},
    endpoint::Endpoint,
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
        let named = |endpoint: &Endpoint| {
            let name = endpoint.name.clone();
            endpoint.addresses().map(move |address| (address, name.clone())).collect::<Vec<_>>()
        };
        let names: HashMap<IpAddr, String> = self.state.endpoints().flat_map(named).collect();
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
    pub(super) fn flush_flows(&mut self, query: &FlowQuery, reply: Reply<Flushed>) {
        let filter = match query.limit {
            Some(_) => {
                Err(Refusal::Invalid("a limit is for listing flows: leave it out to flush".to_owned()))
            }
            None => self.filter(query),
        };
        match filter {
            Ok(filter) => self.flush(FlowsOf::Filter(filter), reply),
            Err(refusal) => answer(reply, Err(refusal)),
        }
    }

    fn filter(&self, query: &FlowQuery) -> Result<FlowFilter, Refusal> {
        let slot = |name: &String| match self.state.endpoint(name) {
            Some(endpoint) => Ok(endpoint.slot),
            None => Err(Refusal::NotFound(format!("no endpoint `{name}`: `netd ls` shows all"))),
        };
        Ok(FlowFilter {
            slot: query.endpoint.as_ref().map(slot).transpose()?,
            protocol: query.protocol.map(numbers),
            remote: query.remote,
        })
    }
}

/// Assigned Internet Protocol Numbers (IANA).
const NAMES: [(u8, &str); 4] = [(6, "tcp"), (17, "udp"), (1, "icmp"), (58, "icmpv6")];

fn numbers(protocol: FlowProtocol) -> Protocol {
    match protocol {
        FlowProtocol::Tcp => Protocol { v4: 6, v6: 6 },
        FlowProtocol::Udp => Protocol { v4: 17, v6: 17 },
        FlowProtocol::Icmp => Protocol { v4: 1, v6: 58 },
    }
}

fn view(flow: &FlowEntry, endpoint: Option<String>) -> FlowView {
    let known = NAMES.iter().find(|(number, _)| *number == flow.protocol);
    let state = match flow.phase {
        Phase::Unreplied => "unreplied",
        Phase::Established => "established",
        Phase::Closing => "closing",
        Phase::Closed => "closed",
        Phase::Reset => "reset",
    };
    FlowView {
        endpoint,
        protocol: known.map_or_else(|| flow.protocol.to_string(), |(_, name)| (*name).to_owned()),
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
