//! Servers on threads of this process, listening inside a namespace.
//!
//! A socket belongs to the namespace that it was made in, whichever thread uses it. So only the making happens inside.

use std::{
    collections::HashMap,
    io::{PipeWriter, pipe},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};

use super::{Namespace, socket};

/// A server; it stops, and its connections end, when this is dropped.
#[derive(Debug)]
pub struct Service {
    /// Closing it wakes the thread.
    wake: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    connections: Arc<Connections>,
}

/// The open connections, so that they can be ended. Holds a duplicate of each, under a number of its own.
#[derive(Debug, Default)]
struct Connections(Mutex<HashMap<u64, TcpStream>>);

impl Connections {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<u64, TcpStream>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Service {
    /// Serves TCP on `address`: `handle` is called for each connection, on a thread of its own.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the address cannot be bound.
    pub fn tcp(
        namespace: &Namespace,
        address: SocketAddr,
        handle: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = namespace.run(|| {
            TcpListener::bind(address)
                .with_context(|| format!("cannot listen on TCP {address} in {}", namespace.name()))
        })?;
        let (stop, wake) = pipe().context("cannot make a pipe")?;
        let connections = Arc::<Connections>::default();
        let handle = Arc::new(handle);
        let open = Arc::clone(&connections);
        let thread = thread::spawn(move || {
            let mut next = 0;
            while let Ok([true, false]) = socket::readable([&listener, &stop], None) {
                let Ok((stream, _)) = listener.accept() else { continue };
                let Ok(duplicate) = stream.try_clone() else { continue };
                let number = next;
                next += 1;
                open.with(|all| all.insert(number, duplicate));
                let (handle, open) = (Arc::clone(&handle), Arc::clone(&open));
                thread::spawn(move || {
                    handle(stream);
                    open.with(|all| all.remove(&number));
                });
            }
        });
        Ok(Self { wake: Some(wake), thread: Some(thread), connections })
    }

    /// Serves UDP on `address`: what `handle` returns for a datagram and its sender is sent back.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the address cannot be bound.
    pub fn udp(
        namespace: &Namespace,
        address: SocketAddr,
        handle: impl Fn(&[u8], SocketAddr) -> Option<Vec<u8>> + Send + 'static,
    ) -> Result<Self> {
        let server = namespace.run(|| {
            UdpSocket::bind(address)
                .with_context(|| format!("cannot listen on UDP {address} in {}", namespace.name()))
        })?;
        let (stop, wake) = pipe().context("cannot make a pipe")?;
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok([true, false]) = socket::readable([&server, &stop], None) {
                // An error is an ICMP error about an earlier answer.
                let Ok((length, peer)) = server.recv_from(&mut buffer) else { continue };
                if let Some(answer) = handle(&buffer[..length], peer) {
                    let _ = server.send_to(&answer, peer);
                }
            }
        });
        Ok(Self { wake: Some(wake), thread: Some(thread), connections: Arc::default() })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.connections.with(|all| {
            for stream in all.values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }
}
