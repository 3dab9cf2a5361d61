//! As many bytes as go through one TCP connection, counted by the receiver.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener},
};

use anyhow::{Context, Result, ensure};

use super::{Load, Measured, Order, connect, repeat::transmit, say, window::Window};
use crate::bench::latency::Latency;

/// The size of a write and of a read, iperf's.
const BUFFER: usize = 128 << 10;

pub(super) fn serve(order: &Order) -> Result<()> {
    let listener = TcpListener::bind(order.address).context("cannot listen")?;
    say(&listener.local_addr().context("no local address")?.port())?;
    let (mut stream, _) = listener.accept().context("cannot accept")?;
    let mut buffer = vec![0; BUFFER];
    let mut window = Window::new(order);
    loop {
        let length = stream.read(&mut buffer).context("cannot read")?;
        if length == 0 {
            break;
        }
        window.add(length as u64);
    }
    stream.write_all(&window.measured().to_bytes()).context("cannot send the result")
}

pub(super) fn run(order: &Order) -> Result<Load> {
    let mut stream = connect(order.address)?;
    let buffer = vec![0; BUFFER];
    let cost = transmit(order, || stream.write_all(&buffer).context("cannot send"))?;
    stream.shutdown(Shutdown::Write).context("cannot end the stream")?;
    let mut result = [0; 16];
    stream.read_exact(&mut result).context("no result from the receiver")?;
    let measured = Measured::from_bytes(result);
    ensure!(!measured.time.is_zero(), "the receiver got nothing after the warm-up");
    Ok(Load { measured, latency: Latency::new(), cost })
}
