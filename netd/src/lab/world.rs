//! The world outside: a router, and a server behind it that knows no way back to any container.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::Result;

use super::{End, Lab, Namespace, Service, echo, http};

/// A router with a network of its own for each host (RFC 2544's 198.18.0.0/15), and a server (RFC 5737's 203.0.113.0/24)
/// that answers ping, echo and HTTP. All have IPv6 too, in 2001:db8::/32 (RFC 3849), where the kernel has it.
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
    /// Its IPv6 address; none: this kernel has no IPv6.
    pub address6: Option<Ipv6Addr>,
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
    /// The host's IPv6 address, in a /64, if there is IPv6.
    pub address6: Option<Ipv6Addr>,
}

impl Uplink {
    /// The one with a number in a network with a number.
    fn new(network: u8, number: u8) -> Self {
        let address6 = has_ipv6().then(|| address6(network, number));
        let (address, router) = (Ipv4Addr::new(198, 18, network, number), Ipv4Addr::new(198, 18, network, 1));
        Self { address, router, address6 }
    }

    /// Gives a host its addresses and default routes on a link that is up.
    fn configure(&self, network: u8, host: &Namespace) -> Result<()> {
        host.ip([format!("route add default via {}", self.router)])?;
        if let Some(address) = self.address6 {
            host.ip([
                format!("address add {address}/64 dev {UPLINK} nodad"),
                format!("route add ::/0 via {}", address6(network, 1)),
            ])?;
        }
        Ok(())
    }
}

/// An address of a network of the world's, in a /64.
fn address6(network: u8, number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, network.into(), 0, 0, 0, number.into())
}

/// The network of the servers.
const SERVERS: u8 = 0xff;

/// Whether this kernel has IPv6.
fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
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
        if has_ipv6() {
            // A router asks for neighbours from its link-local address, which it has only when it knows that nobody else has it: the
            // first packet would wait for that, a second or two.
            for namespace in [&router, &server] {
                namespace.set_sysctl("net.ipv6.conf.default.dad_transmits", "0")?;
            }
        }
        lab.cable(
            End { namespace: &router, interface: "servers", address: Some("203.0.113.1/24") },
            End { namespace: &server, interface: "eth0", address: Some("203.0.113.10/24") },
        )?;
        server.ip(["route add default via 203.0.113.1"])?;
        let address = Ipv4Addr::new(203, 0, 113, 10);
        let ipv6 = has_ipv6().then(|| address6(SERVERS, 10));
        if let Some(address) = ipv6 {
            router.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
            router.ip([format!("address add {}/64 dev servers nodad", address6(SERVERS, 1))])?;
            server.ip([
                format!("address add {address}/64 dev eth0 nodad"),
                format!("route add ::/0 via {}", address6(SERVERS, 1)),
            ])?;
        }
        let mut services: Vec<Service> =
            echo::serve(&server, SocketAddrV4::new(address, echo::PORT))?.into_iter().collect();
        services.push(http::serve(&server, SocketAddrV4::new(address, http::PORT))?);
        if let Some(address) = ipv6 {
            services.extend(echo::serve(&server, SocketAddrV6::new(address, echo::PORT, 0, 0))?);
            services.push(http::serve(&server, SocketAddrV6::new(address, http::PORT, 0, 0))?);
        }
        Ok(Self { router, server, address, address6: ipv6, hosts: AtomicU8::new(0), _services: services })
    }

    /// Gives a host an uplink, an address and a default route.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn plug(&self, lab: &Lab, host: &Namespace) -> Result<Uplink> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let uplink = Uplink::new(number, 2);
        let interface = format!("host{number}");
        lab.cable(
            End {
                namespace: &self.router,
                interface: &interface,
                address: Some(&format!("{}/24", uplink.router)),
            },
            End { namespace: host, interface: UPLINK, address: Some(&format!("{}/24", uplink.address)) },
        )?;
        self.add_ipv6(number, &interface)?;
        uplink.configure(number, host)?;
        Ok(uplink)
    }

    /// The router's IPv6 address in a network.
    fn add_ipv6(&self, network: u8, interface: &str) -> Result<()> {
        match self.address6 {
            Some(_) => {
                let address = address6(network, 1);
                self.router.ip([format!("address add {address}/64 dev {interface} nodad")])
            }
            None => Ok(()),
        }
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
        self.add_ipv6(number, &name)?;
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
        let uplink = Uplink::new(self.number, port);
        let interface = format!("port{port}");
        lab.cable(
            End { namespace: &self.namespace, interface: &interface, address: None },
            End { namespace: host, interface: UPLINK, address: Some(&format!("{}/24", uplink.address)) },
        )?;
        self.namespace.ip([format!("link set {interface} master ports")])?;
        uplink.configure(self.number, host)?;
        Ok(uplink)
    }
}
