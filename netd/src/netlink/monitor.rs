//! What the kernel announces: links, addresses, routes.

use std::{collections::HashMap, io, os::fd::AsRawFd};

use anyhow::{Context, Result};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NlasIterator, parse_string, parse_u32},
    packet_route::{RouteNetlinkMessage, link::LinkFlags, link::LinkMessage},
    sys::{self, protocols::NETLINK_ROUTE},
};
use tokio::{io::unix::AsyncFd, sync::mpsc};

use super::{
    Link, links, routes,
    socket::{Socket, messages},
};

/// What happened in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link appeared: its index and name.
    LinkAdded(u32, String),
    /// The link of that index went.
    LinkRemoved(u32),
    /// Somebody removed BPF filters of the link of that index, or the qdisc that has them.
    FiltersRemoved(u32),
    /// An address, an IPv4 default route of the main table, or a link's name, state (up, carrier) or MTU changed:
    /// the uplink may be another now. Said once for all that comes at once.
    HostChanged,
    /// The kernel had more to say than could be kept: look at everything again.
    Lost,
}

/// Events that wait for the receiver; beyond them the kernel's buffer fills up, and beyond that comes [`Event::Lost`].
const QUEUE: usize = 256;
/// Bytes that the kernel is asked to keep (`net.core.rmem_max` may allow less).
const KERNEL_QUEUE: i32 = 1 << 20;
/// The kernel never sends a datagram beyond 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Datagrams that are read before their events are passed on.
const DRAIN: usize = 64;

/// Watches the calling thread's namespace until the receiver is dropped. Must be called in a tokio runtime. Whoever lists
/// links and addresses after this call misses nothing in between. If the sender goes away, watching has failed (the log
/// says why): call again, as after [`Event::Lost`].
///
/// # Errors
/// The kernel gives no socket, or refuses to list its links.
pub fn monitor() -> Result<mpsc::Receiver<Event>> {
    let socket = open().context("opening a netlink socket to watch the network")?;
    let mut requests = Socket::open().context("opening a netlink socket to watch the network")?;
    let links = Links::read(&mut requests)?;
    let (events, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let closed = events.clone();
        tokio::select! {
            () = closed.closed() => {}
            Err(error) = watch(&socket, requests, links, events) => {
                tracing::error!("watching the network: {error:#}");
            }
        }
    });
    Ok(receiver)
}

fn open() -> io::Result<AsyncFd<sys::Socket>> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Tc,
    ];
    let mut socket = sys::Socket::new(NETLINK_ROUTE)?;
    leave_out_routes(&socket)?;
    socket.set_rx_buf_sz(KERNEL_QUEUE)?;
    let mask = groups.iter().fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
    socket.bind(&sys::SocketAddr::new(0, mask))?;
    socket.set_non_blocking(true)?;
    // SAFETY: the socket owns its descriptor, and nothing replaces or closes it before the AsyncFd is dropped.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// Has the kernel leave out announcements of routes that are no default routes: a routing daemon that fills its table would
/// overrun the socket, and one that changes it all the time would keep us busy.
fn leave_out_routes(socket: &sys::Socket) -> io::Result<()> {
    /// Where a message has its type, and where one about a route has the length of the destination's prefix.
    const TYPE: u32 = 4;
    const LENGTH: u32 = 17;
    let op = |code: u32, k: u32, yes: u8, no: u8| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let load = |size: u32, at: u32| op(libc::BPF_LD | size | libc::BPF_ABS, at, 0, 0);
    let is = |value: u32, yes, no| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, yes, no);
    // The filter reads numbers in network byte order; that of the message is the machine's.
    let kind = |kind: u16| u32::from(kind.to_be());
    let mut program = [
        load(libc::BPF_H, TYPE),
        is(kind(libc::RTM_NEWROUTE), 1, 0),
        is(kind(libc::RTM_DELROUTE), 0, 2),
        load(libc::BPF_B, LENGTH),
        is(0, 0, 1),
        op(libc::BPF_RET | libc::BPF_K, u32::MAX, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the option's value is this structure, whose program has as many instructions as it says; the kernel copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

async fn watch(
    socket: &AsyncFd<sys::Socket>,
    mut requests: Socket,
    mut links: Links,
    events: mpsc::Sender<Event>,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
    loop {
        let mut ready = socket.readable().await?;
        let mut batch = Batch::default();
        for _ in 0..DRAIN {
            buffer.clear();
            match socket.get_ref().recv_from(&mut buffer, 0) {
                Ok((_, from)) if from.port_number() == 0 => {
                    for message in messages(&buffer) {
                        links.apply(message.message_type(), message.payload(), &mut batch);
                    }
                }
                // Not from the kernel.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    break;
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => batch.lost = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("reading"),
            }
        }
        if batch.lost {
            links = Links::read(&mut requests)?;
        }
        for event in batch.events() {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// What one drain of the socket amounts to.
#[derive(Debug, Default)]
struct Batch {
    links: Vec<Event>,
    changed: bool,
    lost: bool,
}

impl Batch {
    fn events(self) -> Vec<Event> {
        if self.lost {
            return vec![Event::Lost];
        }
        let mut events = self.links;
        events.extend(self.changed.then_some(Event::HostChanged));
        events
    }
}

/// The links as last heard of, by index: the kernel announces a link anew whenever anything about it changes.
#[derive(Debug)]
struct Links(HashMap<u32, State>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    name: String,
    mtu: u32,
    flags: LinkFlags,
}

impl Links {
    fn read(socket: &mut Socket) -> Result<Self> {
        let found = socket
            .dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(|refusal| refusal.while_doing("listing links"))?;
        Ok(Self(found.iter().filter_map(|payload| state(payload)).collect()))
    }

    /// Takes in one announcement.
    fn apply(&mut self, kind: u16, payload: &[u8], batch: &mut Batch) {
        match kind {
            libc::RTM_NEWLINK => {
                let Some((ifindex, new)) = state(payload) else { return };
                match self.0.insert(ifindex, new.clone()) {
                    None => batch.links.push(Event::LinkAdded(ifindex, new.name)),
                    Some(old) => batch.changed |= old != new,
                }
            }
            libc::RTM_DELLINK => {
                if let Some((ifindex, _)) = state(payload)
                    && self.0.remove(&ifindex).is_some()
                {
                    batch.links.push(Event::LinkRemoved(ifindex));
                }
            }
            libc::RTM_NEWADDR | libc::RTM_DELADDR => batch.changed = true,
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
                batch.changed |= routes::is_default_route(payload);
            }
            libc::RTM_DELQDISC | libc::RTM_DELTFILTER => {
                let event = filtered(payload).map(Event::FiltersRemoved);
                batch.links.extend(event.filter(|event| batch.links.last() != Some(event)));
            }
            _ => {}
        }
    }
}

/// The index of the link that an announcement about a clsact qdisc or a BPF filter is about.
fn filtered(payload: &[u8]) -> Option<u32> {
    /// Length of `struct tcmsg`, which precedes the attributes.
    const HEADER: usize = 20;
    const KIND: u16 = 1;
    let kind =
        NlasIterator::new(payload.get(HEADER..)?).flatten().find(|attribute| attribute.kind() == KIND)?;
    let kind = parse_string(kind.value()).ok()?;
    let ifindex = parse_u32(payload.get(4..8)?).ok()?;
    matches!(kind.as_str(), "clsact" | "bpf").then_some(ifindex)
}

fn state(payload: &[u8]) -> Option<(u32, State)> {
    let link = Link::parse(payload)?;
    let flags = links::flags(payload) & (LinkFlags::Up | LinkFlags::LowerUp);
    Some((link.ifindex, State { name: link.name, mtu: link.mtu, flags }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{
            Netlink, Route, Which, addresses,
            testing::{ip, isolated, net, netns, veth},
        },
        *,
    };

    /// The events until nothing comes for a while, repetitions left out.
    async fn heard(events: &mut mpsc::Receiver<Event>) -> Vec<Event> {
        let mut heard = Vec::new();
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(50), events.recv()).await {
            heard.push(event);
        }
        heard.dedup();
        heard
    }

    #[test]
    fn tells_what_matters() {
        isolated("tells_what_matters", || async {
            let (host, ns) = (Netlink::host()?, netns());
            let mut events = monitor()?;
            let ifindex = host.create_pair(&veth(&ns)).await?;
            assert_eq!(heard(&mut events).await, [Event::LinkAdded(ifindex, "ndtest".into())]);
            host.set_up(ifindex).await?;
            assert_eq!(heard(&mut events).await, [Event::HostChanged]);
            // The carrier comes.
            Netlink::enter(&ns).await?.set_up(2).await?;
            assert_eq!(heard(&mut events).await, [Event::HostChanged]);
            host.add_address(ifindex, net("192.0.2.1/24")).await?;
            assert_eq!(heard(&mut events).await, [Event::HostChanged]);

            let gateway = Some(ip("192.0.2.254"));
            let mut route =
                Route { destination: net("10.0.0.0/8"), gateway, ifindex, source: None, onlink: false };
            host.add_route(&route).await?;
            assert_eq!(heard(&mut events).await, []);
            route.destination = net("0.0.0.0/0");
            host.add_route(&route).await?;
            assert_eq!(heard(&mut events).await, [Event::HostChanged]);
            host.del_route(&route).await?;
            assert_eq!(heard(&mut events).await, [Event::HostChanged]);

            // A link that was there before is not new, whatever else is said of it.
            let mut later = monitor()?;
            host.del_address(ifindex, net("192.0.2.1/24")).await?;
            assert_eq!(heard(&mut later).await, [Event::HostChanged]);
            host.delete_link(ifindex).await?;
            assert!(heard(&mut later).await.contains(&Event::LinkRemoved(ifindex)));
            assert!(heard(&mut events).await.contains(&Event::LinkRemoved(ifindex)));
            Ok(())
        });
    }

    #[test]
    fn says_when_it_lost_something() {
        isolated("says_when_it_lost_something", || async {
            let (host, ns) = (Netlink::host()?, netns());
            let ifindex = host.create_pair(&veth(&ns)).await?;
            let mut events = monitor()?;
            // The watching task cannot run meanwhile: this thread is the runtime.
            let mut socket = Socket::open()?;
            for n in 0..5000_u32 {
                let address = std::net::Ipv4Addr::from_bits(0x0a00_0001 + n);
                let request = addresses::add(ifindex, net(&format!("{address}/32")));
                socket.request(request).map_err(|refusal| refusal.while_doing("adding"))?;
            }
            let said = heard(&mut events).await;
            assert!(said.contains(&Event::Lost), "{said:?}");
            // Nothing is lost where it is asked for: this takes many datagrams.
            assert_eq!(host.addresses().await?.len(), 5000);
            // And the watching goes on.
            host.set_up(ifindex).await?;
            assert_eq!(heard(&mut events).await, [Event::HostChanged]);
            Ok(())
        });
    }

    #[test]
    fn a_full_table_of_routes_is_no_news() {
        isolated("a_full_table_of_routes_is_no_news", || async {
            let (host, ns) = (Netlink::host()?, netns());
            let ifindex = host.create_pair(&veth(&ns)).await?;
            host.set_up(ifindex).await?;
            let mut events = monitor()?;
            // The watching task cannot run meanwhile: this thread is the runtime.
            let mut socket = Socket::open()?;
            for n in 0..10_000_u32 {
                let address = std::net::Ipv4Addr::from_bits(0x0a00_0001 + n);
                let destination = net(&format!("{address}/32"));
                let route = Route { destination, gateway: None, ifindex, source: None, onlink: false };
                socket.request(routes::add(&route)).map_err(|refusal| refusal.while_doing("adding"))?;
            }
            assert_eq!(heard(&mut events).await, []);
            assert_eq!(host.routes(Which::Single).await?.len(), 10_000);
            assert_eq!(host.routes(Which::Default).await?, []);
            Ok(())
        });
    }

    #[test]
    fn filters_that_go_are_told() {
        let announced = |kind: &[u8]| {
            let mut payload = vec![0; 20];
            payload[4] = 5;
            payload.extend((4 + kind.len() as u16).to_ne_bytes());
            payload.extend(1u16.to_ne_bytes());
            payload.extend(kind);
            payload
        };
        for (message, kind, expected) in [
            (libc::RTM_DELQDISC, &b"clsact\0"[..], vec![Event::FiltersRemoved(5)]),
            (libc::RTM_DELTFILTER, b"bpf\0", vec![Event::FiltersRemoved(5)]),
            (libc::RTM_DELQDISC, b"fq_codel\0", vec![]),
            (libc::RTM_DELTFILTER, b"u32\0", vec![]),
            (libc::RTM_NEWQDISC, b"clsact\0", vec![]),
        ] {
            let mut batch = Batch::default();
            for _ in 0..2 {
                Links(HashMap::new()).apply(message, &announced(kind), &mut batch);
            }
            assert_eq!(batch.events(), expected, "{message}");
        }
        assert_eq!((filtered(&[0; 12]), filtered(&[0; 20])), (None, None));
    }

    #[test]
    fn a_port_of_a_bridge_is_no_link() {
        let mut links = Links(HashMap::new());
        let mut batch = Batch::default();
        let mut payload = vec![0; 16];
        payload[0] = libc::AF_BRIDGE as u8;
        payload[4] = 5;
        links.apply(libc::RTM_NEWLINK, &payload, &mut batch);
        assert_eq!(batch.events(), []);
    }
}
