//! Streams that notice when anything of them is lost, doubled or changed.

use std::{
    io::{BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use netd::lab::{Namespace, Service};
use nix::sys::socket::{setsockopt, sockopt};

/// Longer than the kernel would need to send something again that was lost a few times.
const TIMEOUT: Duration = Duration::from_secs(20);
const WORDS: usize = 4096;

/// A TCP connection on which a counter is sent as fast as a machine with other work can stand.
#[derive(Debug)]
pub struct TcpFlood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
    /// Words sent so far.
    progress: Arc<AtomicU64>,
}

impl TcpFlood {
    /// Serves the other end: checks the counter, and answers its end with how many bytes have come.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn sink(namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<Service> {
        Service::tcp(namespace, address.into(), |stream| {
            // What goes wrong here, the client notices by the missing answer.
            let _ = drain(stream);
        })
    }

    /// Connects from a namespace and sends until it is told to stop.
    ///
    /// # Errors
    /// There is no connection.
    pub fn start(from: &Namespace, server: impl Into<SocketAddr>) -> Result<Self> {
        let server = server.into();
        let mut stream = from.run(|| {
            TcpStream::connect_timeout(&server, TIMEOUT).with_context(|| format!("no TCP to {server}"))
        })?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, sent) = (Arc::clone(&stop), Arc::clone(&progress));
        let thread = thread::spawn(move || {
            let mut next: u64 = 0;
            while !stopped.load(Ordering::Relaxed) {
                let block: Vec<u8> = (next..next + WORDS as u64).flat_map(u64::to_le_bytes).collect();
                stream.write_all(&block).context("the connection broke while sending")?;
                next += WORDS as u64;
                sent.store(next, Ordering::Relaxed);
                // Leaves time to all the others on this machine.
                thread::sleep(Duration::from_micros(500));
            }
            stream.shutdown(Shutdown::Write)?;
            let mut answer = [0; 8];
            stream.read_exact(&mut answer).context("the other end found an error, or is gone")?;
            let (arrived, sent) = (u64::from_le_bytes(answer), next * 8);
            ensure!(arrived == sent, "{sent} bytes were sent, {arrived} arrived");
            Ok(sent)
        });
        Ok(Self { stop, thread, progress })
    }

    /// Connects from a namespace and sends that many bytes, a megabyte a call, as fast as they go.
    ///
    /// # Errors
    /// The connection broke, or something was lost.
    pub fn burst(from: &Namespace, server: impl Into<SocketAddr>, bytes: u64) -> Result<()> {
        const CALL: u64 = 1 << 20;
        let server = server.into();
        let mut stream = from.run(|| {
            TcpStream::connect_timeout(&server, TIMEOUT).with_context(|| format!("no TCP to {server}"))
        })?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut next: u64 = 0;
        while next * 8 < bytes {
            let block: Vec<u8> = (next..next + CALL / 8).flat_map(u64::to_le_bytes).collect();
            stream.write_all(&block).context("the connection broke while sending")?;
            next += CALL / 8;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).context("the other end found an error, or is gone")?;
        let (arrived, sent) = (u64::from_le_bytes(answer), next * 8);
        ensure!(arrived == sent, "{sent} bytes were sent, {arrived} arrived");
        Ok(())
    }

    /// Bytes sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.progress.load(Ordering::Relaxed) * 8
    }

    /// Ends the stream and returns how many bytes it carried.
    ///
    /// # Errors
    /// It broke, or something was lost.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the sender panicked"))?
    }
}

/// A TCP connection on which a counter comes as fast as a machine with other work can stand: a download.
#[derive(Debug)]
pub struct TcpFetch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
    /// Bytes that have come so far.
    progress: Arc<AtomicU64>,
}

impl TcpFetch {
    /// Serves the other end: sends until the connection ends.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn source(namespace: &Namespace, address: impl Into<SocketAddr>) -> Result<Service> {
        Service::tcp(namespace, address.into(), |mut stream| {
            let mut next: u64 = 0;
            let block =
                |next: u64| (next..next + WORDS as u64).flat_map(u64::to_le_bytes).collect::<Vec<u8>>();
            while stream.write_all(&block(next)).is_ok() {
                next += WORDS as u64;
                thread::sleep(Duration::from_micros(500));
            }
        })
    }

    /// Connects from a namespace and reads until it is told to stop.
    ///
    /// # Errors
    /// There is no connection.
    pub fn start(from: &Namespace, server: impl Into<SocketAddr>) -> Result<Self> {
        let server = server.into();
        let stream = from.run(|| {
            TcpStream::connect_timeout(&server, TIMEOUT).with_context(|| format!("no TCP to {server}"))
        })?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, came) = (Arc::clone(&stop), Arc::clone(&progress));
        let thread = thread::spawn(move || {
            let mut next: u64 = 0;
            let mut word = [0; 8];
            let mut reader = BufReader::new(stream);
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..WORDS {
                    reader.read_exact(&mut word).context("the connection broke while reading")?;
                    ensure!(word == next.to_le_bytes(), "word {next} is wrong");
                    next += 1;
                }
                came.store(next * 8, Ordering::Relaxed);
            }
            Ok(())
        });
        Ok(Self { stop, thread, progress })
    }

    /// Bytes that have come so far.
    #[must_use]
    pub fn got(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// It broke, or something was lost.
    pub fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the reader panicked"))?
    }
}

fn drain(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut buffer = vec![0; 1 << 16];
    let (mut kept, mut next) = (0, 0u64);
    loop {
        let got = stream.read(&mut buffer[kept..])?;
        if got == 0 {
            break;
        }
        let end = kept + got;
        let whole = end - end % 8;
        for word in buffer[..whole].chunks_exact(8) {
            ensure!(word == next.to_le_bytes(), "word {next} is wrong");
            next += 1;
        }
        buffer.copy_within(whole..end, 0);
        kept = end - whole;
    }
    ensure!(kept == 0, "the stream ends within a word");
    stream.write_all(&(next * 8).to_le_bytes())?;
    Ok(())
}

/// Numbered datagrams at a steady pace that no socket buffer overflows at.
#[derive(Debug)]
pub struct UdpPulse {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<u64>>,
}

impl UdpPulse {
    /// Sends from one namespace to a port of another.
    ///
    /// # Errors
    /// A socket cannot be made.
    pub fn start(from: &Namespace, to: &Namespace, address: impl Into<SocketAddr>) -> Result<Self> {
        let address = address.into();
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let server = to.run(|| UdpSocket::bind(address).with_context(|| format!("cannot bind {address}")))?;
        // For seconds: on a busy machine the receiver may have to wait for a CPU.
        setsockopt(&server, sockopt::RcvBufForce, &(8 << 20))?;
        let client = from.run(|| UdpSocket::bind(any).context("cannot bind"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let mut next: u64 = 0;
            while !stopped.load(Ordering::Relaxed) {
                client.send_to(&next.to_le_bytes(), address).context("cannot send")?;
                next += 1;
                thread::sleep(Duration::from_millis(1));
            }
            // The end; a few times, because that one may be lost without harm.
            for _ in 0..3 {
                client.send_to(&u64::MAX.to_le_bytes(), address)?;
            }
            Ok(next)
        });
        let receiver = thread::spawn(move || {
            server.set_read_timeout(Some(TIMEOUT))?;
            let mut next: u64 = 0;
            let mut buffer = [0; 16];
            loop {
                let length = server.recv(&mut buffer).context("nothing comes any more")?;
                ensure!(length == 8, "a datagram of {length} bytes");
                let number = u64::from_le_bytes(buffer[..8].try_into()?);
                if number == u64::MAX {
                    return Ok(next);
                }
                ensure!(number == next, "datagram {number} came where {next} was due");
                next += 1;
            }
        });
        Ok(Self { stop, sender, receiver })
    }

    /// Ends it and returns how many datagrams arrived.
    ///
    /// # Errors
    /// One was lost, doubled or out of order.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        let arrived = self.receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
        ensure!(arrived == sent, "{sent} datagrams were sent, {arrived} arrived");
        Ok(arrived)
    }
}
