//! As many bytes as go through one TCP connection, counted by the receiver.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Measured, Order, connect, say};

/// The size of a write and of a read, iperf's.
const BUFFER: usize = 128 << 10;
/// The sender goes on for so long after the receiver has counted, so that it never counts a sender at rest.
const MARGIN: Duration = Duration::from_millis(20);

pub(super) fn serve(order: &Order) -> Result<()> {
    let listener = TcpListener::bind(order.address).context("cannot listen")?;
    say(&listener.local_addr().context("no local address")?.port())?;
    let (mut stream, _) = listener.accept().context("cannot accept")?;
    let mut buffer = vec![0; BUFFER];
    let begin = Instant::now();
    let mut counted = None;
    let mut measured = Measured { count: 0, time: Duration::ZERO };
    loop {
        let length = stream.read(&mut buffer).context("cannot read")?;
        if length == 0 {
            break;
        }
        let now = Instant::now();
        match counted {
            None if now - begin >= order.warmup => counted = Some(now),
            None => {}
            Some(_) if measured.time >= order.time => {}
            Some(start) => {
                measured.count += length as u64;
                measured.time = now - start;
            }
        }
    }
    let nanoseconds = measured.time.as_nanos() as u64;
    let result = [measured.count.to_be_bytes(), nanoseconds.to_be_bytes()].concat();
    stream.write_all(&result).context("cannot send the result")
}

pub(super) fn run(order: &Order) -> Result<Measured> {
    let mut stream = connect(order.address)?;
    let buffer = vec![0; BUFFER];
    let (begin, total) = (Instant::now(), order.warmup + order.time + MARGIN);
    while begin.elapsed() < total {
        stream.write_all(&buffer).context("cannot send")?;
    }
    stream.shutdown(Shutdown::Write).context("cannot end the stream")?;
    let (mut count, mut nanoseconds) = ([0; 8], [0; 8]);
    stream.read_exact(&mut count).context("no result from the receiver")?;
    stream.read_exact(&mut nanoseconds).context("no result from the receiver")?;
    let time = Duration::from_nanos(u64::from_be_bytes(nanoseconds));
    ensure!(!time.is_zero(), "the receiver got nothing after the warm-up");
    Ok(Measured { count: u64::from_be_bytes(count), time })
}
