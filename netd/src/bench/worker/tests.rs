//! Each load over the loopback, client and server as threads.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
    thread,
};

use super::*;

pub(super) fn order(role: Role, traffic: Traffic, port: u16) -> Order {
    Order {
        role,
        traffic,
        address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        cpus: Vec::new(),
        warmup: Duration::from_millis(1),
        time: Duration::from_millis(20),
        peer: None,
        outside: None,
    }
}

/// A port that is free now.
fn port(traffic: Traffic) -> u16 {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let address = match traffic {
        Traffic::UdpRr | Traffic::UdpPackets | Traffic::UdpFragments => {
            UdpSocket::bind(any).and_then(|socket| socket.local_addr())
        }
        _ => TcpListener::bind(any).and_then(|socket| socket.local_addr()),
    };
    address.expect("a free port").port()
}

#[test]
fn orders_survive_their_way_to_the_worker() {
    let order = order(Role::Client, Traffic::TcpCrr, 7);
    let text = serde_json::to_string(&order).expect("JSON");
    assert_eq!(text.parse::<Order>().expect("an order"), order);
    assert!("{}".parse::<Order>().is_err());
}

type Serve = fn(&Order) -> Result<()>;
type Run = fn(&Order) -> Result<Load>;

#[test]
fn loads_measure_something() {
    let loads: [(Traffic, Serve, Run); 6] = [
        (Traffic::TcpRr, request::serve_tcp, request::tcp),
        (Traffic::UdpRr, request::serve_udp, request::udp),
        (
            Traffic::UdpPackets,
            |order| packets::serve(order, packets::SMALL),
            |order| packets::run(order, packets::SMALL),
        ),
        (
            Traffic::UdpFragments,
            |order| packets::serve(order, packets::FRAGMENTED),
            |order| packets::run(order, packets::FRAGMENTED),
        ),
        (Traffic::TcpStream, stream::serve, stream::run),
        (Traffic::TcpCrr, connect::serve, connect::run),
    ];
    for (traffic, serve, run) in loads {
        let port = port(traffic);
        // Some serve for ever: their threads end with the test's process.
        thread::spawn(move || serve(&order(Role::Server, traffic, port)));
        let client = order(Role::Client, traffic, port);
        let load = (0..200).find_map(|_| {
            let load = run(&client).ok();
            if load.is_none() {
                thread::sleep(Duration::from_millis(5));
            }
            load
        });
        let Load { measured, latency, cost } = load.unwrap_or_else(|| panic!("{traffic:?} measured nothing"));
        assert!(measured.count > 0 && !measured.time.is_zero(), "{traffic:?}: {measured:?}");
        let is_of_requests = matches!(traffic, Traffic::TcpRr | Traffic::UdpRr | Traffic::TcpCrr);
        assert_eq!(!latency.is_empty(), is_of_requests, "{traffic:?}");
        assert!(cost.cpu > Duration::ZERO && cost.time >= client.time, "{traffic:?}: {cost:?}");
    }
}

#[test]
fn results_survive_their_way_to_the_client() {
    let measured = Measured { count: 12_345_678_901, time: Duration::from_nanos(600_000_000_007) };
    assert_eq!(Measured::from_bytes(measured.to_bytes()), measured);
}

#[test]
fn a_silent_server_is_an_error() {
    let port = port(Traffic::TcpRr);
    for (traffic, run) in [(Traffic::TcpRr, request::tcp as Run), (Traffic::TcpStream, stream::run)] {
        assert!(run(&order(Role::Client, traffic, port)).is_err(), "{traffic:?}");
    }
}
