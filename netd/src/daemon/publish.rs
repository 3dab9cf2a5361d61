//! Publishing ports of an endpoint that is there, and taking them back.

use tracing::{info, warn};

use super::{handle::Reply, owner::Owner, requests::answer};
use crate::{
    bpf::FlowsOf,
    endpoint::Endpoint,
    held::NotHeld,
    holders::Holder,
    publish::{HostPort, Publish},
    reconcile::network_of,
    request::{EndpointView, Refusal},
};

impl Owner {
    pub(super) async fn publish(&mut self, name: &str, publish: &[String]) -> Result<EndpointView, Refusal> {
        let before = self.ports_of(name);
        let (endpoint, ports, changes) = self.state.publish(name, publish)?;
        if let Err(why) = self.held.take(&ports) {
            self.state.set_ports(name, before)?;
            return Err(why.into());
        }
        if let Err(error) = self.commit(changes).await {
            self.state.set_ports(name, before)?;
            self.held.free(&ports);
            return Err(Refusal::Failed(error.context(format!("cannot publish ports of `{name}`"))));
        }
        if let Err(error) = self.kernel.publish(&endpoint, &ports) {
            let (endpoint, changes) = self.state.set_ports(name, before)?;
            match self.kernel.unpublish(&endpoint, &ports) {
                Ok(flows) => self.remove_flows_of_ports(flows, None),
                Err(error) => warn!("endpoint {name}: undoing the publication: {error:#}"),
            }
            self.held.free(&ports);
            self.pending.extend(changes);
            self.flush_pending().await;
            return Err(Refusal::Failed(error.context(format!("cannot publish ports of `{name}`"))));
        }
        info!("endpoint {name} publishes {}", list(&ports));
        self.shown(&endpoint)
    }

    /// Takes ports back; answers when the connections that came by them have ended.
    pub(super) async fn unpublish(&mut self, name: &str, publish: &[String], reply: Reply<EndpointView>) {
        match self.take_back_ports(name, publish).await {
            Ok((endpoint, flows)) => self.remove_flows_of_ports(flows, Some((endpoint, reply))),
            Err(refusal) => answer(reply, Err(refusal)),
        }
    }

    async fn take_back_ports(
        &mut self,
        name: &str,
        publish: &[String],
    ) -> Result<(EndpointView, FlowsOf), Refusal> {
        let before = self.ports_of(name);
        let (endpoint, ports, changes) = self.state.unpublish(name, publish)?;
        if let Err(error) = self.commit(changes).await {
            self.state.set_ports(name, before)?;
            return Err(Refusal::Failed(error.context(format!("cannot take back ports of `{name}`"))));
        }
        let flows = self.kernel.unpublish(&endpoint, &ports)?;
        self.held.free(&ports);
        info!("endpoint {name} no longer publishes {}", list(&ports));
        Ok((self.shown(&endpoint)?, flows))
    }

    /// Holds the ports of all endpoints, as far as they can be had.
    pub(super) fn hold_ports(&mut self) {
        for endpoint in self.state.endpoints() {
            for why in self.held.take_all(&endpoint.publish) {
                // Whoever has one is named when that is known.
                if !matches!(why, NotHeld::InUse(_)) {
                    warn!("published {why}");
                }
            }
        }
        self.ask_for_holders();
    }

    /// Tries ports again that others have.
    pub(super) fn retry_ports(&mut self) {
        self.held.retry();
        self.ask_for_holders();
    }

    /// Finds out, beside this task, who has ports of which that is not known.
    fn ask_for_holders(&mut self) {
        let ports = self.held.unknown();
        if !ports.is_empty() {
            self.work.find_holders(ports);
        }
    }

    /// Takes in who has ports.
    pub(super) fn take_in_holders(&mut self, holders: Vec<(HostPort, Holder)>) {
        for (port, holder) in holders {
            if let Some(why) = self.held.found(port, holder) {
                warn!("published {why}");
            }
        }
    }

    fn ports_of(&self, name: &str) -> Vec<Publish> {
        self.state.endpoint(name).map(|endpoint| endpoint.publish.clone()).unwrap_or_default()
    }

    fn shown(&self, endpoint: &Endpoint) -> Result<EndpointView, Refusal> {
        Ok(self.show(endpoint, network_of(&self.state, endpoint)?)?)
    }
}

fn list(ports: &[Publish]) -> String {
    ports.iter().map(|port| port.shown()).collect::<Vec<_>>().join(", ")
}
