//! A connection for each request.
//!
//! The server closes first, as an HTTP server without keep-alive does. So it is the server that keeps the closed
//! connections (TIME_WAIT), and the client's ports are free again at once.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

use anyhow::{Context, Result, ensure};

use super::{Load, Order, connect, repeat::repeat, say};

/// Connections of one sample, and of its warm-up. A flow table and conntrack remember each for up to two minutes; this
/// many, on a server's port of its own for each sample, do not fill them, and no sample meets the remains of another.
const LIMIT: u64 = 10_000;

pub(super) fn serve(order: &Order) -> Result<()> {
    let listener = TcpListener::bind(order.address).context("cannot listen")?;
    say(&listener.local_addr().context("no local address")?.port())?;
    loop {
        let (mut stream, _) = listener.accept().context("cannot accept")?;
        let mut byte = [0];
        stream.read_exact(&mut byte).context("cannot read the request")?;
        stream.write_all(&byte).context("cannot answer")?;
    }
}

pub(super) fn run(order: &Order) -> Result<Load> {
    repeat(order, LIMIT, || {
        let mut stream = connect(order.address)?;
        let mut byte = [1];
        stream.write_all(&byte).context("cannot send a request")?;
        stream.read_exact(&mut byte).context("no answer")?;
        let end = stream.read(&mut byte).context("the server does not close")?;
        ensure!(end == 0, "the server sends more than its answer");
        Ok(())
    })
}
