//! A small HTTP/1.1 file server, and a client that checks what it gets by its SHA-256.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

use super::{Namespace, Service};

/// The port of the HTTP services here.
pub const PORT: u16 = 80;
/// More is not served: the path is what a client says.
const MAX_BYTES: u64 = 1 << 32;
const CHUNK: usize = 64 * 1024;

/// A download that was checked.
#[derive(Clone, Copy, Debug)]
pub struct Download {
    /// Bytes of content.
    pub bytes: u64,
    /// From the first packet to the last byte.
    pub time: Duration,
}

/// Serves files on `address`: `GET /N` is N bytes of pseudo-random content, always the same.
///
/// # Errors
/// The namespace cannot be entered, or the address cannot be bound.
pub fn serve(namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<Service> {
    Service::tcp(namespace, address.into(), |stream| {
        // The client went away: its affair.
        let _ = answer(stream);
    })
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
        }
        let bytes = request
            .strip_prefix("GET /")
            .and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok())
            .filter(|bytes| *bytes <= MAX_BYTES);
        let Some(bytes) = bytes else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        stream.write_all(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {bytes}\r\n\r\n"
            )
            .as_bytes(),
        )?;
        for chunk in Content::new(bytes) {
            stream.write_all(&chunk)?;
        }
    }
}

/// Downloads `bytes` bytes and checks their hash. To be called inside the client's namespace.
///
/// # Errors
/// The server does not answer within `timeout` (per step), or what comes is not what it must be.
pub fn download(server: impl Into<SocketAddr>, bytes: u64, timeout: Duration) -> Result<Download> {
    let server = server.into();
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, timeout)
        .with_context(|| format!("no TCP connection to {server}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream
        .write_all(format!("GET /{bytes} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").as_bytes())
        .context("cannot send the request")?;
    let mut reader = BufReader::with_capacity(CHUNK, stream);
    let mut status = String::new();
    reader.read_line(&mut status).context("no answer to the request")?;
    ensure!(status.starts_with("HTTP/1.1 200 "), "the server said {}", status.trim());
    let mut length = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).context("the answer's header ends early")?;
        match line.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = Some(value.trim().parse::<u64>().context("bad Content-Length")?);
            }
            Some(_) => {}
            None => break,
        }
    }
    ensure!(length == Some(bytes), "asked for {bytes} bytes, the server sends {length:?}");
    let mut hash = Sha256::new();
    let mut left = bytes;
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let got = reader.read(&mut buffer[..part]).with_context(|| format!("{left} bytes are missing"))?;
        ensure!(got > 0, "the connection ended, {left} bytes are missing");
        hash.update(&buffer[..got]);
        left -= got as u64;
    }
    let time = start.elapsed();
    ensure!(hash.finalize() == digest(bytes), "the SHA-256 of {bytes} bytes is wrong");
    Ok(Download { bytes, time })
}

fn digest(bytes: u64) -> sha2::digest::Output<Sha256> {
    let mut hash = Sha256::new();
    Content::new(bytes).for_each(|chunk| hash.update(&chunk));
    hash.finalize()
}

/// `bytes` pseudo-random bytes in chunks (SplitMix64 with a fixed seed).
struct Content {
    state: u64,
    left: u64,
}

impl Content {
    fn new(bytes: u64) -> Self {
        Self { state: 0x6e65_7464, left: bytes }
    }
}

impl Iterator for Content {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.left == 0 {
            return None;
        }
        let length = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        self.left -= length as u64;
        let mut chunk = Vec::with_capacity(length + 8);
        while chunk.len() < length {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
        }
        chunk.truncate(length);
        Some(chunk)
    }
}
