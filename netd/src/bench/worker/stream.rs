//! As many bytes as go through one TCP connection, counted by the receiver.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Measured, Order, connect, say, window::Window};

/// The size of a write and of a read, iperf's.
const BUFFER: usize = 128 << 10;
/// The sender goes on for so long after the receiver has counted, so that it never counts a sender at rest.
const MARGIN: Duration = Duration::from_millis(20);

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

pub(super) fn run(order: &Order) -> Result<Measured> {
    let mut stream = connect(order.address)?;
    let buffer = vec![0; BUFFER];
    let (begin, total) = (Instant::now(), order.warmup + order.time + MARGIN);
    while begin.elapsed() < total {
        stream.write_all(&buffer).context("cannot send")?;
    }
    stream.shutdown(Shutdown::Write).context("cannot end the stream")?;
    let mut result = [0; 16];
    stream.read_exact(&mut result).context("no result from the receiver")?;
    let measured = Measured::from_bytes(result);
    ensure!(!measured.time.is_zero(), "the receiver got nothing after the warm-up");
    Ok(measured)
}
