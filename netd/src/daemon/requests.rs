//! What the owner of the state does when it is asked.

use std::net::IpAddr;

use tokio::task::spawn_blocking;
use tracing::{Instrument, debug_span, info, warn};

use super::{
    handle::{Reply, Request},
    owner::Owner,
};
use crate::{
    config::{DEFAULT_NETWORK, parse_subnets},
    endpoint::{Endpoint, NetnsRef},
    held::NotHeld,
    holders::find_holders,
    names,
    netlink::{Netns, has_ipv6, is_gone},
    network::{Definition, Lan, MTU6, Network, Written, check_mtu, check_mtu6, check_slice},
    node::Occupied,
    pair,
    reconcile::{Patience, add_gateways, free_interface, network_of, remove_gateways, remove_link},
    request::{AttachRequest, EndpointView, NetworkRequest, NetworkView, Refusal},
    state::Place,
    store::{Change, Kind},
};

impl Owner {
    /// Answers a request, or keeps it until what it may need is free.
    pub(super) async fn serve(&mut self, request: Request) {
        match request {
            Request::RemoveNetwork(..) if self.work.is_freeing() => self.work.postpone(request),
            request => self.carry_out(request, true).await,
        }
    }

    /// Answers a request that has waited.
    pub(super) async fn serve_at_last(&mut self, request: Request) {
        self.carry_out(request, false).await;
    }

    async fn carry_out(&mut self, request: Request, may_wait: bool) {
        match request {
            Request::Attach(request, reply) => {
                let span = debug_span!("attach", name = request.name);
                let attached = self.attach(&request).instrument(span).await;
                if may_wait && self.work.is_freeing() && matches!(attached, Err(Refusal::Conflict(_))) {
                    return self.work.postpone(Request::Attach(request, reply));
                }
                if let Err(error) = &attached {
                    info!("endpoint {} refused: {error}", request.name);
                }
                answer(reply, attached);
            }
            Request::Detach(name, reply) => self.detach(&name, reply).await,
            Request::Publish(name, request, reply) => {
                answer(reply, self.publish(&name, &request.publish).await);
            }
            Request::Unpublish(name, request, reply) => {
                self.unpublish(&name, &request.publish, reply).await;
            }
            Request::Endpoints(reply) => answer(reply, self.endpoints()),
            Request::CreateNetwork(request, reply) => match definition(&request) {
                // First what of the host's addresses and routes is in the way: there may be many.
                Ok(definition) if definition.lan.is_some() && self.config.cluster.is_one() => {
                    let why = "a macvlan network is for a node without a cluster: use another kind of link";
                    answer(reply, Err(Refusal::Invalid(why.to_owned())));
                }
                Ok(definition) => {
                    let identity = &self.state.facts().identity;
                    self.work.look_for_room(self.kernel.netlink(), identity, definition, reply);
                }
                Err(refusal) => answer(reply, Err(refusal)),
            },
            Request::RemoveNetwork(name, reply) if self.membership.is_some() => {
                self.remove_shared_network(&name, reply);
            }
            Request::RemoveNetwork(name, reply) => answer(reply, self.remove_network(&name).await),
            Request::RemoveNode(name, reply) => self.remove_node(&name, reply),
            Request::Networks(reply) => answer(reply, Ok(self.networks())),
            Request::Nodes(reply) => answer(reply, self.nodes()),
            Request::Flows(query, reply) => self.list_flows(&query, reply),
            Request::FlushFlows(query, reply) => self.flush_flows(&query, reply),
            Request::Deny(request, reply) => answer(reply, self.deny(&request).await),
            Request::Allow(request, reply) => answer(reply, self.allow(&request).await),
            Request::Denied(reply) => answer(reply, self.denied()),
            Request::Status(reply) => answer(reply, self.status()),
        }
    }

    async fn attach(&mut self, request: &AttachRequest) -> Result<EndpointView, Refusal> {
        self.state.check_attach(request)?;
        let place = self.place(request).await?;
        let (endpoint, changes) = self.state.attach(request, place)?;
        if let Err(why) = self.held.take(&endpoint.publish) {
            self.state.remove(&endpoint.name);
            return Err(why.into());
        }
        if let Err(error) = self.commit(changes).await {
            self.state.remove(&endpoint.name);
            self.held.free(&endpoint.publish);
            return Err(Refusal::Failed(error.context("cannot keep the endpoint")));
        }
        tracing::debug!("committed");
        let network = network_of(&self.state, &endpoint)?.clone();
        let mtu = network.mtu.unwrap_or(self.view.mtu());
        if let Err(error) = self.kernel.bring_up(&endpoint, &network, mtu, Patience::Carrier).await {
            let error = error.context(format!("cannot attach `{}`", endpoint.name));
            self.take_back(endpoint).await;
            return Err(Refusal::Failed(error));
        }
        let addresses: Vec<String> = endpoint.addresses().map(|address| address.to_string()).collect();
        let addresses = addresses.join(" and ");
        info!("endpoint {} attached: {addresses} in network {}", endpoint.name, network.name);
        Ok(self.show(&endpoint, &network)?)
    }

    /// Finds out where an endpoint goes.
    async fn place(&self, request: &AttachRequest) -> Result<Place, Refusal> {
        let netns = self.netns_of(request)?;
        let names = self.state.host_interfaces(&request.name);
        let host_interface = self.kernel.free_name(&request.name, names).await?;
        let interface = match &request.netns {
            Some(_) => free_interface(&self.kernel.interfaces_in(&netns).await?),
            None => host_interface.clone(),
        };
        let without_ipv6 = if !self.view.ipv6 {
            Some("this host has no IPv6, or has it switched off (net.ipv6.conf.default.disable_ipv6)")
        } else if self.mtu_of(request) < MTU6 {
            Some("the MTU of its link would be below 1280, which is the least for IPv6")
        } else if !netns.run(|| has_ipv6("default"))? {
            Some("the namespace has IPv6 switched off (net.ipv6.conf.default.disable_ipv6)")
        } else {
            None
        };
        let own = self.view.addresses.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let reserved = own.collect();
        Ok(Place { netns: NetnsRef::of(&netns)?, interface, host_interface, without_ipv6, reserved })
    }

    /// The namespace that an endpoint's link leads to: that of its container, or, for a tap, this one.
    fn netns_of(&self, request: &AttachRequest) -> Result<Netns, Refusal> {
        let Some(name) = &request.netns else { return Ok(Netns::open(NetnsRef::OWN)?) };
        // A relative path would be relative to the daemon's directory, which nobody means.
        if name.contains('/') && !name.starts_with('/') {
            return Err(Refusal::Invalid(format!("the path of a namespace must be absolute, not {name}")));
        }
        let netns = Netns::open(name).map_err(|error| {
            // That a file does not exist is said in better words than the kernel's already.
            Refusal::Invalid(if is_gone(&error) { error.to_string() } else { format!("{error:#}") })
        })?;
        if netns.id()? == self.netns {
            return Err(Refusal::Invalid(format!(
                "{name} is the daemon's own network namespace: a container needs one of its own"
            )));
        }
        Ok(netns)
    }

    /// The MTU of the link that an endpoint gets.
    fn mtu_of(&self, request: &AttachRequest) -> u32 {
        let network = self.state.network(request.network.as_deref().unwrap_or(DEFAULT_NETWORK));
        network.ok().and_then(|network| network.mtu).unwrap_or(self.view.mtu())
    }

    /// Undoes an attachment that failed half way.
    async fn take_back(&mut self, endpoint: Endpoint) {
        let mut torn = self.kernel.tear_down(&endpoint).await;
        // At once: who asked for it is to find nothing of it when it is answered.
        if let Some(link) = torn.link.take() {
            torn.errors.extend(remove_link(self.kernel.netlink(), &endpoint, link).await.err());
            torn.errors.extend(self.kernel.forget_link(link).err());
        }
        self.held.free(&endpoint.publish);
        if let Some((_, changes)) = self.state.remove_name(&endpoint.name) {
            self.pending.extend(changes);
            self.flush_pending().await;
        }
        self.leave(endpoint, torn, None);
    }

    async fn detach(&mut self, name: &str, reply: Reply<()>) {
        // A link on a LAN is found by the state only: it goes first. After a crash in between it is made again.
        let lan = self.state.endpoint(name).filter(|endpoint| endpoint.link.is_lan()).cloned();
        let torn = match &lan {
            Some(endpoint) => Some(self.kernel.tear_down(endpoint).await),
            None => None,
        };
        let Some((endpoint, mut changes)) = self.state.remove_name(name) else {
            return answer(
                reply,
                Err(Refusal::NotFound(format!("no endpoint `{name}`: `netd ls` shows all"))),
            );
        };
        // Should the daemon end before the link is gone, the next one knows that it is to go.
        changes.extend(Change::put(Kind::Leaving, name, &endpoint.host_interface));
        // Also if the disk is full: the container ends in any case. It stays pending then, and `netd status` says so.
        self.pending.extend(changes);
        self.flush_pending().await;
        self.broken.forget(name);
        let torn = match torn {
            Some(torn) => torn,
            None => self.kernel.tear_down(&endpoint).await,
        };
        match torn.link {
            Some(link) => drop(self.leaving.insert(link, name.to_owned())),
            None => self.pending.push(Change::delete(Kind::Leaving, name)),
        }
        self.held.free(&endpoint.publish);
        info!("endpoint {name} detached");
        // The datapath no longer knows it, so from here on nobody else need wait.
        self.leave(endpoint, torn, Some(reply));
    }

    /// Makes a network, on this node or in the whole cluster, beside what the host has.
    pub(super) async fn create_beside(
        &mut self,
        occupied: Occupied,
        definition: Definition,
        reply: Reply<NetworkView>,
    ) {
        if self.membership.is_some() {
            self.create_shared_network(definition, &occupied, reply);
        } else {
            answer(reply, self.create_network(definition, &occupied).await);
        }
    }

    async fn create_network(
        &mut self,
        definition: Definition,
        occupied: &Occupied,
    ) -> Result<NetworkView, Refusal> {
        if definition.slice.is_some() {
            let why = "a slice length is for a cluster with a shared store: cluster.store = \"etcd\"";
            return Err(Refusal::Invalid(why.to_owned()));
        }
        let (network, changes) = self.state.create_network(definition, occupied)?;
        if let Err(error) = self.commit(changes).await {
            self.state.remove_network(&network.name);
            return Err(Refusal::Failed(error.context("cannot keep the network")));
        }
        let added = match add_gateways(self.kernel.netlink(), &network, &self.view).await {
            Ok(()) => self.kernel.set_routes(&self.state, &self.view).await,
            Err(error) => Err(error),
        };
        if let Err(error) = added {
            self.pending.extend(self.state.remove_network(&network.name));
            let _ = self.commit(Vec::new()).await;
            let _ = remove_gateways(self.kernel.netlink(), &network).await;
            return Err(Refusal::Failed(error.context(format!("cannot create network `{}`", network.name))));
        }
        info!("network {} created: {}", network.name, pair::text(network.subnet, network.subnet6));
        Ok(self.show_network(&network, 0))
    }

    async fn remove_network(&mut self, name: &str) -> Result<(), Refusal> {
        let network = self.state.check_removable(name)?.clone();
        // Before the commit: a gateway that is missing is put back at the next start, one too many would stay.
        remove_gateways(self.kernel.netlink(), &network).await?;
        let changes = self.state.remove_network(name);
        if let Err(error) = self.commit(changes).await {
            self.restore(network).await;
            return Err(Refusal::Failed(error.context(format!("cannot remove network `{name}`"))));
        }
        self.kernel.set_routes(&self.state, &self.view).await?;
        info!("network {name} removed");
        Ok(())
    }

    async fn restore(&mut self, network: Network) {
        if let Err(error) = add_gateways(self.kernel.netlink(), &network, &self.view).await {
            warn!("network {}: {error:#}", network.name);
        }
        self.state.restore_network(network);
    }
}

/// What a request for a network asks for, checked.
fn definition(request: &NetworkRequest) -> Result<Definition, Refusal> {
    names::check(&request.name).map_err(|error| Refusal::Invalid(format!("network name: {error}")))?;
    let parsed = parse_subnets(&request.subnets);
    let (subnet, subnet6) = parsed.map_err(|error| Refusal::Invalid(error.to_string()))?;
    let slice = request.slice.map(|length| check_slice(subnet, i64::from(length))).transpose();
    let slice = slice.map_err(|error| Refusal::Invalid(format!("slice: {error}")))?;
    let mtu = check_mtu(request.mtu).and_then(|mtu| check_mtu6(mtu, subnet6).map(|()| mtu));
    let mtu = mtu.map_err(|error| Refusal::Invalid(format!("MTU: {error}")))?;
    let [parent, range, gateway] = [&request.parent, &request.range, &request.gateway].map(Option::as_deref);
    let (link, big_tcp) = (request.link, request.big_tcp);
    let lan = Lan::read(&Written { link, subnet, subnet6, big_tcp, slice, parent, range, gateway });
    let lan = lan.map_err(|error| Refusal::Invalid(format!("{error:#}")))?;
    if let Some(why) = request.link.kind().missing() {
        return Err(Refusal::Invalid(format!("link: {why}")));
    }
    Ok(Definition {
        name: request.name.clone(),
        subnet,
        subnet6,
        masquerade: request.masquerade && lan.is_none(),
        link: request.link,
        mtu,
        big_tcp: request.big_tcp,
        slice,
        lan,
    })
}

/// Sends an answer. If nobody waits for it any more, what was asked is done all the same.
pub(super) fn answer<T: Send + 'static>(reply: Reply<T>, result: Result<T, Refusal>) {
    if let Err(Refusal::NotHeld(NotHeld::InUse(port))) = result {
        // Who asks wants to know by whom, and nobody else is to wait for that.
        spawn_blocking(move || {
            let holder = find_holders(&[port]).pop();
            let refusal = holder
                .map_or(NotHeld::InUse(port).into(), |(port, holder)| Refusal::Conflict(holder.has(port)));
            let _ = reply.send(Err(refusal));
        });
        return;
    }
    let _ = reply.send(result);
}
