//! The world outside: a router, and a server behind it that knows no way back to any container.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::Result;

use super::{End, Lab, Namespace, Service, echo, http};

/// A router with a network of its own for each host (RFC 2544's 198.18.0.0/15), and a server (RFC 5737's 203.0.113.0/24)
/// that answers ping, echo and HTTP.
///
/// Neither has a route to a container's address: an answer shows that the packets came with the host's.
#[derive(Debug)]
pub struct World {
    /// The router.
    pub router: Namespace,
    /// The server.
    pub server: Namespace,
    /// The server's address.
    pub address: Ipv4Addr,
    hosts: AtomicU8,
    _services: Vec<Service>,
}

/// Where a host is plugged in.
#[derive(Clone, Copy, Debug)]
pub struct Uplink {
    /// The host's address, in a /24.
    pub address: Ipv4Addr,
    /// The router's address in that network.
    pub router: Ipv4Addr,
}

/// A layer-2 network of the world's, with the router on it: a namespace whose bridge stands for a switch.
#[derive(Debug)]
pub struct Switch {
    /// The switch.
    pub namespace: Namespace,
    number: u8,
    hosts: AtomicU8,
}

/// What the uplink is called on a host.
pub const UPLINK: &str = "eth0";

impl World {
    /// Builds the router and the server, and starts the services.
    ///
    /// # Errors
    /// The namespaces, the cable or the services cannot be made.
    pub fn new(lab: &Lab) -> Result<Self> {
        let (router, server) = (lab.namespace("router")?, lab.namespace("server")?);
        router.set_sysctl("net.ipv4.ip_forward", "1")?;
        lab.cable(
            End { namespace: &router, interface: "servers", address: Some("203.0.113.1/24") },
            End { namespace: &server, interface: "eth0", address: Some("203.0.113.10/24") },
        )?;
        server.ip(["route add default via 203.0.113.1"])?;
        let address = Ipv4Addr::new(203, 0, 113, 10);
        let mut services: Vec<Service> =
            echo::serve(&server, SocketAddrV4::new(address, echo::PORT))?.into_iter().collect();
        services.push(http::serve(&server, SocketAddrV4::new(address, http::PORT))?);
        Ok(Self { router, server, address, hosts: AtomicU8::new(0), _services: services })
    }

    /// Gives a host an uplink, an address and a default route.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn plug(&self, lab: &Lab, host: &Namespace) -> Result<Uplink> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let uplink =
            Uplink { address: Ipv4Addr::new(198, 18, number, 2), router: Ipv4Addr::new(198, 18, number, 1) };
        lab.cable(
            End {
                namespace: &self.router,
                interface: &format!("host{number}"),
                address: Some(&format!("{}/24", uplink.router)),
            },
            End { namespace: host, interface: UPLINK, address: Some(&format!("{}/24", uplink.address)) },
        )?;
        host.ip([format!("route add default via {}", uplink.router)])?;
        Ok(uplink)
    }

    /// Makes a switch with the router on it; hosts are plugged in there instead of into the router.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn switch(&self, lab: &Lab) -> Result<Switch> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let namespace = lab.namespace(&format!("switch{number}"))?;
        namespace.ip(["link add ports type bridge", "link set ports up"])?;
        let name = format!("switch{number}");
        lab.cable(
            End {
                namespace: &self.router,
                interface: &name,
                address: Some(&format!("198.18.{number}.1/24")),
            },
            End { namespace: &namespace, interface: "router", address: None },
        )?;
        namespace.ip(["link set router master ports"])?;
        Ok(Switch { namespace, number, hosts: AtomicU8::new(0) })
    }

    /// The server's echo service.
    #[must_use]
    pub fn echo(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, echo::PORT)
    }
}

impl Switch {
    /// Gives a host an uplink to the switch, an address and a default route.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn plug(&self, lab: &Lab, host: &Namespace) -> Result<Uplink> {
        let port = self.hosts.fetch_add(1, Ordering::Relaxed) + 2;
        let uplink = Uplink {
            address: Ipv4Addr::new(198, 18, self.number, port),
            router: Ipv4Addr::new(198, 18, self.number, 1),
        };
        let interface = format!("port{port}");
        lab.cable(
            End { namespace: &self.namespace, interface: &interface, address: None },
            End { namespace: host, interface: UPLINK, address: Some(&format!("{}/24", uplink.address)) },
        )?;
        self.namespace.ip([format!("link set {interface} master ports")])?;
        host.ip([format!("route add default via {}", uplink.router)])?;
        Ok(uplink)
    }
}
