//! Links: pairs of veth and of netkit, listing, state, deletion.

use std::os::fd::AsRawFd;

use anyhow::Result;
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NlasIterator, parse_i32, parse_string, parse_u32},
    packet_route::{
        RouteNetlinkMessage,
        link::{
            AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoNetkit, InfoVeth,
            LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, NetkitMode, NetkitPolicy,
        },
    },
};

use super::{Netlink, Netns, container::take, error::Refusal, socket::Request};

/// The index of `lo` in every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// How long packets of TCP may be on a link that takes such above 64 KiB, bytes: what BIG TCP is mostly used with. (The kernel's
/// limit is 512 KiB, `GSO_MAX_SIZE` in `include/linux/netdevice.h`.)
pub(super) const BIG_TCP: u32 = 192 << 10;

/// Length of `struct ifinfomsg`, which precedes a link's attributes.
pub(super) const HEADER: usize = 16;

/// What makes a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairKind {
    /// veth.
    Veth,
    /// netkit. Until there is a program, what the container sends goes nowhere.
    Netkit,
    /// netkit without MAC addresses.
    NetkitL3,
}

/// A pair of links to be made.
#[derive(Clone, Copy, Debug)]
pub struct PairSpec<'a> {
    /// What makes it.
    pub kind: PairKind,
    /// Name of the end that stays in this namespace; at most 15 bytes.
    pub host_name: &'a str,
    /// MAC address of that end, if this kind has any.
    pub host_mac: [u8; 6],
    /// Name of the end that is born in `netns`.
    pub container_name: &'a str,
    /// MAC address of that end.
    pub container_mac: [u8; 6],
    /// Where the container's end is born.
    pub netns: &'a Netns,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
    /// Both ends take segmentation-offloaded TCP packets of 192 KiB, instead of 64 (BIG TCP).
    pub big_tcp: bool,
    /// `IFLA_IFALIAS` of the host's end; empty: none.
    pub alias: &'a str,
}

/// A link as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address; none if it has none, or one of another length than Ethernet's.
    pub mac: Option<[u8; 6]>,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its alias, if it has one.
    pub alias: Option<String>,
    /// What made it, e.g. `veth` or `bridge`; none for a physical device.
    pub kind: Option<String>,
    /// For a veth or netkit: the index of its other end, in the other end's namespace.
    pub peer_ifindex: Option<u32>,
    /// For a veth or netkit: the number of the other end's namespace in this one; none: it is this one. See [`Netlink::number_of`].
    pub peer_netns: Option<i32>,
}

impl Netlink {
    /// Makes a pair of links, the container's end born in its namespace; returns the index of the host's end. Both ends are
    /// down, so that programs can be attached before the first packet. The kernel gives the host's end no IPv6 address
    /// of its own making; for the container's end, see [`configure_container`](Netlink::configure_container).
    ///
    /// # Errors
    /// One of the names is taken ([`exists`](super::exists)), or the kernel refuses. Nothing is left then.
    pub async fn create_pair(&self, spec: &PairSpec<'_>) -> Result<u32> {
        let kind = spec.kind.as_str();
        let what =
            format!("creating link {} ({kind}) towards {}", spec.host_name, spec.netns.path().display());
        // A descriptor of its own: the caller's may be closed, and its number used again, before the request is made.
        let netns = spec.netns.file().map_err(|e| Refusal::from(e).while_doing(&*what))?;
        let create = create(spec, netns.as_raw_fd());
        let find = by_name(spec.host_name);
        let alias = spec.alias.to_owned();
        self.call(move |socket| {
            let requests = vec![Request::with_flags(create, NLM_F_CREATE | NLM_F_EXCL), Request::new(find)];
            let answers = take(socket.batch(requests));
            drop(netns);
            let [created, found] = answers.map_err(|refusal| refusal.while_doing(&*what))?;
            created.map_err(|refusal| refusal.while_doing(&*what))?;
            let ifindex =
                found.and_then(|found| only(&found)).map_err(|refusal| refusal.while_doing(&*what))?.ifindex;

            // The kernel takes neither of these in the message that creates. By index and behind it, they can only
            // touch the link that was just made.
            let mut rest = vec![without_ipv6_addresses(ifindex)];
            if !alias.is_empty() {
                let mut message = indexed(ifindex);
                message.attributes.push(LinkAttribute::IfAlias(alias));
                rest.push(Request::new(RouteNetlinkMessage::SetLink(message)));
            }
            let refused = match socket.batch(rest) {
                Ok(answers) => answers.into_iter().filter_map(Result::err).find(|refusal| !no_ipv6(refusal)),
                Err(refusal) => Some(refusal),
            };
            match refused {
                None => Ok(ifindex),
                Some(refusal) => {
                    let _ = socket.request(Request::new(RouteNetlinkMessage::DelLink(indexed(ifindex))));
                    Err(refusal.while_doing(what).into())
                }
            }
        })
        .await
    }

    /// All links of the namespace.
    pub async fn links(&self) -> Result<Vec<Link>> {
        self.call(|socket| {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            let found = socket
                .dump(&RouteNetlinkMessage::GetLink(message))
                .map_err(|refusal| refusal.while_doing("listing links"))?;
            Ok(found.iter().filter_map(|payload| Link::parse(payload)).collect())
        })
        .await
    }

    /// The link of that name, if there is one.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>> {
        let what = format!("looking for link {name}");
        self.find(by_name(name), what).await
    }

    /// The link of that index, if there is one.
    pub async fn link_by_index(&self, ifindex: u32) -> Result<Option<Link>> {
        let message = RouteNetlinkMessage::GetLink(indexed(ifindex));
        self.find(message, format!("looking for link number {ifindex}")).await
    }

    async fn find(&self, message: RouteNetlinkMessage, what: String) -> Result<Option<Link>> {
        self.call(move |socket| match socket.request(Request::new(message)).and_then(|found| only(&found)) {
            Ok(link) => Ok(Some(link)),
            Err(refusal) if refusal.is_gone() => Ok(None),
            Err(refusal) => Err(refusal.while_doing(what).into()),
        })
        .await
    }

    /// Sets a link up.
    pub async fn set_up(&self, ifindex: u32) -> Result<()> {
        self.call(move |socket| {
            socket
                .request(Request::new(up(ifindex)))
                .map_err(|refusal| refusal.while_doing(format!("setting link number {ifindex} up")))?;
            Ok(())
        })
        .await
    }

    /// Deletes a link, and with it its other end; false: it was gone. Takes tens of milliseconds.
    pub async fn delete_link(&self, ifindex: u32) -> Result<bool> {
        self.call(move |socket| {
            match socket.request(Request::new(RouteNetlinkMessage::DelLink(indexed(ifindex)))) {
                Ok(_) => Ok(true),
                Err(refusal) if refusal.is_gone() => Ok(false),
                Err(refusal) => Err(refusal.while_doing(format!("deleting link number {ifindex}")).into()),
            }
        })
        .await
    }
}

impl Link {
    /// Reads a link from a message's payload. Only the attributes that are wanted are looked at: links of kinds that
    /// netd knows nothing of must not be able to confuse it.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        const ADDRESS: u16 = 1;
        const NAME: u16 = 3;
        const MTU: u16 = 4;
        const LINK: u16 = 5;
        const LINKINFO: u16 = 18;
        const ALIAS: u16 = 20;
        const LINK_NETNSID: u16 = 37;
        const INFO_KIND: u16 = 1;

        let attributes = payload.get(HEADER..)?;
        // A port of a bridge is announced as if it were a link, in the bridge's family.
        if payload[0] != libc::AF_UNSPEC as u8 {
            return None;
        }
        let mut link = Self {
            ifindex: parse_u32(&payload[4..8]).ok()?,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: flags(payload).contains(LinkFlags::Up),
            alias: None,
            kind: None,
            peer_ifindex: None,
            peer_netns: None,
        };
        for attribute in NlasIterator::new(attributes).flatten() {
            let value = attribute.value();
            match attribute.kind() {
                ADDRESS => link.mac = value.try_into().ok(),
                NAME => link.name = parse_string(value).ok()?,
                MTU => link.mtu = parse_u32(value).ok()?,
                LINK => link.peer_ifindex = parse_u32(value).ok(),
                LINKINFO => {
                    link.kind = NlasIterator::new(value)
                        .flatten()
                        .find(|info| info.kind() == INFO_KIND)
                        .and_then(|info| parse_string(info.value()).ok());
                }
                LINK_NETNSID => link.peer_netns = parse_i32(value).ok().filter(|number| *number >= 0),
                ALIAS => link.alias = parse_string(value).ok(),
                _ => {}
            }
        }
        // For other kinds it is what they are stacked upon.
        if !matches!(link.kind.as_deref(), Some("veth" | "netkit")) {
            (link.peer_ifindex, link.peer_netns) = (None, None);
        }
        Some(link)
    }
}

/// The flags in a link message's header.
pub(super) fn flags(payload: &[u8]) -> LinkFlags {
    let bits = payload.get(8..12).and_then(|bytes| parse_u32(bytes).ok());
    LinkFlags::from_bits_retain(bits.unwrap_or_default())
}

/// The link in the answer to a request for one.
pub(super) fn only(payloads: &[Vec<u8>]) -> Result<Link, Refusal> {
    payloads.first().and_then(|payload| Link::parse(payload)).ok_or_else(|| Refusal::new(Errno::ENODEV))
}

pub(super) fn by_name(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(message)
}

pub(super) fn up(ifindex: u32) -> RouteNetlinkMessage {
    let mut message = indexed(ifindex);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// Keeps the kernel from giving the link a link-local address. It must come before the link is set up, in a message of its
/// own: within one message the kernel sets links up first.
pub(super) fn without_ipv6_addresses(ifindex: u32) -> Request {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let mut message = indexed(ifindex);
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
    Request::new(RouteNetlinkMessage::SetLink(message))
}

/// Whether a refusal of [`without_ipv6_addresses`] only says that there is no IPv6 on the link.
pub(super) fn no_ipv6(refusal: &Refusal) -> bool {
    refusal.errno == Errno::EAFNOSUPPORT
}

pub(super) fn indexed(ifindex: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
}

/// What makes a link take, and put together, TCP packets of [`BIG_TCP`] bytes: IPv6 since Linux 5.19, IPv4 since 6.3. IPv6's
/// limits come first: the kernel takes one of up to 64 KiB for both families.
fn big_tcp() -> [LinkAttribute; 4] {
    [
        LinkAttribute::GsoMaxSize(BIG_TCP),
        LinkAttribute::GroMaxSize(BIG_TCP),
        LinkAttribute::GsoIpv4MaxSize(BIG_TCP),
        LinkAttribute::GroIpv4MaxSize(BIG_TCP),
    ]
}

fn create(spec: &PairSpec<'_>, netns: i32) -> RouteNetlinkMessage {
    let end = |name: &str, mac: [u8; 6]| {
        let mut attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(spec.mtu)];
        if spec.kind != PairKind::NetkitL3 {
            attributes.push(LinkAttribute::Address(mac.to_vec()));
        }
        if spec.big_tcp {
            attributes.extend(big_tcp());
        }
        attributes
    };
    let mut peer = LinkMessage::default();
    peer.attributes = end(spec.container_name, spec.container_mac);
    peer.attributes.push(LinkAttribute::NetNsFd(netns));
    let mut message = LinkMessage::default();
    message.attributes = end(spec.host_name, spec.host_mac);
    let (kind, data) = match spec.kind {
        PairKind::Veth => (InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer))),
        PairKind::Netkit | PairKind::NetkitL3 => {
            let mode = if spec.kind == PairKind::NetkitL3 { NetkitMode::L3 } else { NetkitMode::L2 };
            let policy = InfoNetkit::PeerPolicy(NetkitPolicy::Drop);
            let data = vec![InfoNetkit::Mode(mode), policy, InfoNetkit::Peer(peer)];
            (InfoKind::Netkit, InfoData::Netkit(data))
        }
    };
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    RouteNetlinkMessage::NewLink(message)
}

impl PairKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Netkit | Self::NetkitL3 => "netkit",
        }
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::Nla as _;

    use super::{
        super::{
            exists, is_gone,
            testing::{isolated, netns, veth},
        },
        *,
    };

    #[test]
    fn veth_pair() {
        isolated("veth_pair", || async {
            let (host, ns) = (Netlink::host()?, netns());
            let ifindex = host.create_pair(&veth(&ns)).await?;
            let inside = Netlink::enter(&ns).await?;
            let near = host.link_by_name("ndtest").await?.unwrap();
            let far = inside.link_by_name("eth0").await?.unwrap();
            assert_eq!(
                near,
                Link {
                    ifindex,
                    name: "ndtest".into(),
                    mac: Some([2, 0, 0, 0, 0, 1]),
                    mtu: 1400,
                    up: false,
                    alias: Some("netd:web".into()),
                    kind: Some("veth".into()),
                    peer_ifindex: Some(far.ifindex),
                    peer_netns: host.number_of(&ns).await?,
                }
            );
            assert_eq!(
                far,
                Link {
                    ifindex: far.ifindex,
                    name: "eth0".into(),
                    mac: Some([2, 0, 0, 0, 0, 2]),
                    alias: None,
                    peer_ifindex: Some(ifindex),
                    peer_netns: far.peer_netns,
                    ..near.clone()
                }
            );
            assert!(near.peer_netns.is_some());
            assert_eq!(host.number_of(&netns()).await?, None, "no link leads there");
            host.set_up(ifindex).await?;
            inside.set_up(far.ifindex).await?;
            assert!(host.link_by_index(ifindex).await?.unwrap().up);
            let made_up: Vec<_> =
                host.addresses().await?.into_iter().filter(|a| a.ifindex == ifindex).collect();
            assert_eq!(made_up, []);

            assert!(host.delete_link(ifindex).await?);
            assert!(!host.delete_link(ifindex).await?);
            assert_eq!(host.link_by_index(ifindex).await?, None);
            assert_eq!(inside.link_by_name("eth0").await?, None);
            let error = host.set_up(ifindex).await.unwrap_err();
            assert!(is_gone(&error));
            assert_eq!(error.to_string(), format!("setting link number {ifindex} up: No such device"));
            Ok(())
        });
    }

    #[test]
    fn refused_veth_leaves_nothing() {
        isolated("refused_veth_leaves_nothing", || async {
            let (host, ns) = (Netlink::host()?, netns());
            let taken = host.create_pair(&veth(&ns)).await?;
            let before = host.links().await?;

            let same_name = PairSpec { alias: "another", container_name: "eth1", ..veth(&ns) };
            let error = host.create_pair(&same_name).await.unwrap_err();
            assert!(exists(&error));
            let expected =
                format!("creating link ndtest (veth) towards {}: File exists", ns.path().display());
            assert_eq!(error.to_string(), expected);

            let same_name_inside = PairSpec { host_name: "ndtest2", ..veth(&ns) };
            assert!(exists(&host.create_pair(&same_name_inside).await.unwrap_err()));

            // Refused only by the second message.
            let alias = "x".repeat(300);
            let alias = PairSpec { host_name: "ndtest2", container_name: "eth1", alias: &alias, ..veth(&ns) };
            host.create_pair(&alias).await.unwrap_err();

            let name = PairSpec { host_name: "a-name-that-is-too-long", ..veth(&ns) };
            let error = host.create_pair(&name).await.unwrap_err().to_string();
            assert!(error.starts_with("creating link a-name-that-is-too-long (veth) towards "), "{error}");

            // Nothing more, and the link that was there is as it was.
            assert_eq!(host.links().await?, before);
            assert_eq!(host.link_by_index(taken).await?.unwrap().alias.as_deref(), Some("netd:web"));
            Ok(())
        });
    }

    #[test]
    fn both_ends_take_large_packets() {
        isolated("both_ends_take_large_packets", || async {
            let (host, ns) = (Netlink::host()?, netns());
            let inside = Netlink::enter(&ns).await?;
            // Before Linux 6.3 IPv4 has no such limits.
            let has_ipv4 = limits(&host, "lo").await?[2] != 0;
            for (name, far, big_tcp, expected) in
                [("ndsmall", "eth0", false, 65_536), ("ndbig", "eth1", true, BIG_TCP)]
            {
                let spec = PairSpec { host_name: name, container_name: far, big_tcp, ..veth(&ns) };
                host.create_pair(&spec).await?;
                for (end, name) in [(&host, name), (&inside, far)] {
                    let ipv4 = if has_ipv4 { expected } else { 0 };
                    assert_eq!(limits(end, name).await?, [expected, expected, ipv4, ipv4], "{name}");
                }
            }
            Ok(())
        });
    }

    /// How long packets may be: IPv6's sent and aggregated, IPv4's sent and aggregated.
    async fn limits(nl: &Netlink, name: &str) -> Result<[u32; 4]> {
        let message = by_name(name);
        nl.call(move |socket| {
            let found = socket
                .request(Request::new(message))
                .map_err(|refusal| refusal.while_doing("looking for a link"))?;
            let wanted = big_tcp().map(|attribute| attribute.kind());
            let attributes: Vec<_> = NlasIterator::new(&found[0][HEADER..]).flatten().collect();
            Ok(wanted.map(|kind| {
                let found = attributes.iter().find(|attribute| attribute.kind() == kind);
                found.and_then(|found| parse_u32(found.value()).ok()).unwrap_or(0)
            }))
        })
        .await
    }

    #[test]
    fn many_links_at_once() {
        isolated("many_links_at_once", || async {
            let (host, ns) = (Netlink::host()?, netns());
            // More than one datagram's worth, made by more tasks than there are sockets.
            let tasks: Vec<_> = (0..100)
                .map(|n| {
                    let (host, file) = (host.clone(), ns.file());
                    tokio::spawn(async move {
                        let file = file?;
                        let netns = Netns::open(&format!("/proc/self/fd/{}", file.as_raw_fd()))?;
                        let (near, far) = (format!("nd{n}"), format!("eth{n}"));
                        let spec = PairSpec { host_name: &near, container_name: &far, ..veth(&netns) };
                        host.create_pair(&spec).await
                    })
                })
                .collect();
            for task in tasks {
                task.await??;
            }
            let links = host.links().await?;
            assert_eq!(links.iter().filter(|link| link.name.starts_with("nd")).count(), 100);
            Ok(())
        });
    }
}
