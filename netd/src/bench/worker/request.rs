//! One byte there and back over one TCP connection, or a datagram.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{Load, Order, connect, packets::SMALL, repeat::repeat, say};

/// The limit in count is only there to have one: a microsecond a round trip is out of reach.
const LIMIT: u64 = 100_000_000;
/// A datagram that has not come back after this time is lost.
const LOST: Duration = Duration::from_millis(200);
/// So many may be lost before the first comes back: a neighbour that answers late, for instance. None may be later.
const FIRST_TRIES: usize = 20;

pub(super) fn serve_tcp(order: &Order) -> Result<()> {
    let listener = TcpListener::bind(order.address).context("cannot listen")?;
    say(&listener.local_addr().context("no local address")?.port())?;
    let (mut stream, _) = listener.accept().context("cannot accept")?;
    stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    let mut byte = [0];
    while stream.read(&mut byte).context("cannot read the request")? == 1 {
        stream.write_all(&byte).context("cannot answer")?;
    }
    Ok(())
}

pub(super) fn tcp(order: &Order) -> Result<Load> {
    let mut stream = connect(order.address)?;
    let mut byte = [0];
    repeat(order, LIMIT, || {
        stream.write_all(&byte).context("cannot send a request")?;
        stream.read_exact(&mut byte).context("no answer")
    })
}

pub(super) fn serve_udp(order: &Order) -> Result<()> {
    let socket = UdpSocket::bind(order.address).context("cannot listen")?;
    say(&socket.local_addr().context("no local address")?.port())?;
    let mut data = [0; SMALL];
    loop {
        let (length, client) = socket.recv_from(&mut data).context("cannot receive")?;
        socket.send_to(&data[..length], client).context("cannot answer")?;
    }
}

pub(super) fn udp(order: &Order) -> Result<Load> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)).context("cannot bind")?;
    socket.connect(order.address).with_context(|| format!("cannot reach {}", order.address))?;
    socket.set_read_timeout(Some(LOST)).context("cannot set a timeout")?;
    let mut number = 0_u8;
    let (mut request, mut answer) = ([0; SMALL], [0; SMALL]);
    let mut exchange = || {
        number = number.wrapping_add(1);
        request[0] = number;
        socket.send(&request).context("cannot send")?;
        loop {
            match socket.recv(&mut answer) {
                Ok(_) if answer[0] == number => return Ok(true),
                // The answer to an earlier one that was given up.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
    };
    for tries in 1.. {
        if exchange()? {
            break;
        }
        ensure!(tries < FIRST_TRIES, "no answer to {tries} datagrams");
    }
    repeat(order, LIMIT, || {
        ensure!(exchange()?, "a datagram was lost");
        Ok(())
    })
}
