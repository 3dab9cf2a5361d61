//! Software that people run, behind netd.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netd::lab::{Container, Namespace, echo, icmp};
use netd_tests::{
    Site,
    site::{PATIENCE, eventually},
    with_site,
};
use nix::sys::signal::Signal;

const MEBIBYTE: usize = 1 << 20;

/// Whether a program that a test needs is missing; says so.
fn lacks(test: &str, programs: &[&str]) -> bool {
    let there = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut directories: Vec<_> = std::env::split_paths(&path).collect();
        directories.extend(["/usr/sbin", "/sbin"].map(Into::into));
        Path::new(program).is_absolute() && Path::new(program).exists()
            || directories.iter().any(|directory| directory.join(program).is_file())
    };
    match programs.iter().find(|program| !there(program)) {
        Some(program) => {
            eprintln!("SKIP {test}: there is no {program}");
            true
        }
        None => false,
    }
}

/// Bytes that repeat late.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 % 251) as u8 ^ (index >> 10) as u8).collect()
}

/// Starts a server in a namespace, and waits until it takes connections.
fn serve(site: &Site, at: &Namespace, name: &str, command: &Command, address: SocketAddrV4) -> Result<()> {
    let process = site.lab.spawn(at, command, &site.lab.directory().join(format!("{name}.log")))?;
    eventually(&format!("{name} serves {address}"), PATIENCE * 3, || {
        ensure!(process.ended()?.is_none(), "{name} has ended: {}", process.log());
        at.run(|| Ok(TcpStream::connect_timeout(&address.into(), PATIENCE).is_ok()))
    })
}

fn nginx(site: &Site, at: &Namespace, name: &str, address: SocketAddrV4) -> Result<()> {
    let directory = site.lab.directory().join(name);
    fs::create_dir_all(directory.join("www"))?;
    fs::write(directory.join("www/file"), bytes(3 * MEBIBYTE))?;
    fs::write(directory.join("www/index.html"), "hello\n")?;
    let path = directory.display();
    let config = format!(
        "daemon off; master_process off; user root; pid {path}/pid; error_log stderr error;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fast;\n\
         uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi; client_max_body_size 8m;\n\
         server {{ listen {address}; root {path}/www; }} }}\n"
    );
    fs::write(directory.join("nginx.conf"), config)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&directory).arg("-c").arg(directory.join("nginx.conf")).args(["-e", "stderr"]);
    serve(site, at, name, &command, address)
}

#[test]
fn curl_and_wrk_get_pages_from_nginx() {
    const TEST: &str = "curl_and_wrk_get_pages_from_nginx";
    if lacks(TEST, &["nginx", "curl", "wrk"]) {
        return;
    }
    with_site(TEST, "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let outside = SocketAddrV4::new(site.world.address, 8080);
        let beside = SocketAddrV4::new(b.address, 8080);
        nginx(site, &site.world.server, "nginx-outside", outside)?;
        nginx(site, &b.namespace, "nginx-beside", beside)?;
        for server in [outside, beside] {
            let file = site.lab.directory().join(format!("got-{}", server.ip()));
            let url = format!("http://{server}/file");
            a.namespace.output("curl", ["-fsS", "--max-time", "10", "-o", &file.to_string_lossy(), &url])?;
            ensure!(fs::read(&file)? == bytes(3 * MEBIBYTE), "{url}: curl got something else");

            let url = format!("http://{server}/");
            let said = a.namespace.output("wrk", ["-t1", "-c16", "-d1s", "--timeout", "5s", &url])?;
            let requests = said.lines().find_map(|line| line.trim().split_once(" requests in "));
            let requests: u64 = requests.context("wrk counts no requests")?.0.parse()?;
            ensure!(requests > 50, "{url}: only {requests} requests");
            ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{url}: {said}");
        }
        Ok(())
    });
}

#[test]
fn dig_asks_dnsmasq() {
    const TEST: &str = "dig_asks_dnsmasq";
    if lacks(TEST, &["dnsmasq", "dig"]) {
        return;
    }
    with_site(TEST, "", |site| {
        let a = site.container("a")?;
        let server = site.world.address.to_string();
        let long = "x".repeat(200);
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
        ]);
        command.args(["--pid-file=", "--user=root", "--log-facility=-", "--address=/example.test/192.0.2.7"]);
        command.arg(format!("--listen-address={server}")).arg("--edns-packet-max=4096");
        // An answer in more than one packet.
        command.args((0..12).map(|number| format!("--txt-record=long.test,{number}{long}")));
        serve(site, &site.world.server, "dnsmasq", &command, SocketAddrV4::new(site.world.address, 53))?;
        let at = format!("@{server}");
        let dig = |options: &[&str]| {
            let words = [&at, "+time=2", "+tries=2"].into_iter().chain(options.iter().copied());
            a.namespace.output("dig", words)
        };
        for options in [&["+short", "example.test"][..], &["+short", "+tcp", "example.test"]] {
            let said = dig(options)?;
            ensure!(said.trim() == "192.0.2.7", "dig {options:?}: {said}");
        }
        for options in
            [&["+bufsize=4096", "+notcp", "+ignore", "long.test", "TXT"][..], &["+tcp", "long.test", "TXT"]]
        {
            let said = dig(options)?;
            let records = said.matches(&long).count();
            ensure!(records == 12, "dig {options:?}: {records} of 12 records: {said}");
        }
        Ok(())
    });
}

#[test]
fn traceroute_finds_every_router() {
    const TEST: &str = "traceroute_finds_every_router";
    if lacks(TEST, &["traceroute"]) {
        return;
    }
    with_site(TEST, "", |site| {
        let a = site.container("a")?;
        let target = site.world.address.to_string();
        let router = Ipv4Addr::new(198, 18, 1, 1).to_string();
        let hops = [a.gateway.to_string(), router, target.clone()];
        // By UDP, by echo requests, and by TCP to a port that is open.
        let port = echo::PORT.to_string();
        for method in [&[][..], &["-I"], &["-T", "-p", &port]] {
            let options = ["-n", "-q", "1", "-N", "1", "-w", "3", "-m", "6"];
            let words = options.into_iter().chain(method.iter().copied()).chain([target.as_str()]);
            let said = a.namespace.output("traceroute", words)?;
            let found: Vec<&str> =
                said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
            ensure!(found == hops, "traceroute {method:?}: {said}");
        }
        Ok(())
    });
}

#[test]
fn datagrams_and_pings_above_the_mtu() {
    with_site("datagrams_and_pings_above_the_mtu", "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        for to in [site.world.address, b.address] {
            for size in [1472, 1473, 8000, 60_000] {
                a.namespace
                    .run(|| icmp::ping(to, size, PATIENCE).map(drop))
                    .with_context(|| format!("{size} bytes"))?;
                let server = SocketAddrV4::new(to, echo::PORT);
                a.namespace
                    .run(|| echo::udp(server, &bytes(size), PATIENCE).map(drop))
                    .with_context(|| format!("{size} bytes"))?;
            }
        }
        if lacks("datagrams_and_pings_above_the_mtu", &["ping"]) {
            return Ok(());
        }
        for (to, size) in [(site.world.address, "20000"), (b.address, "20000"), (a.gateway, "20000")] {
            a.namespace
                .output("ping", ["-n", "-c", "2", "-i", "0.2", "-W", "3", "-s", size, &to.to_string()])?;
        }
        Ok(())
    });
}

#[test]
fn an_ssh_session_outlives_the_daemon() {
    const TEST: &str = "an_ssh_session_outlives_the_daemon";
    if lacks(TEST, &["/usr/sbin/sshd", "ssh", "ssh-keygen", "unshare"]) {
        return;
    }
    with_site(TEST, "", |site| {
        let (a, b) = (site.container("a")?, site.container("b")?);
        let directory = site.lab.directory().join("run");
        fs::create_dir(&directory)?;
        for key in ["host", "user"] {
            let path = directory.join(format!("{key}-key"));
            let words = ["-q", "-t", "ed25519", "-N", "", "-f"].map(str::to_owned);
            a.namespace
                .output("ssh-keygen", words.into_iter().chain([path.to_string_lossy().into_owned()]))?;
        }
        let (outside, beside) =
            (SocketAddrV4::new(site.world.address, 2222), SocketAddrV4::new(b.address, 2222));
        sshd(site, &site.world.server, "sshd-outside", outside)?;
        sshd(site, &b.namespace, "sshd-beside", beside)?;
        let mut sessions = [session(&a, &directory, outside)?, session(&a, &directory, beside)?];
        for session in &mut sessions {
            if let Err(error) = session.says("before") {
                let log =
                    fs::read_to_string(site.lab.directory().join("sshd-outside.log")).unwrap_or_default();
                if log.contains("account is locked") {
                    eprintln!("SKIP {TEST}: root may not log in here");
                    return Ok(());
                }
                return Err(error.context(log));
            }
        }
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            site.host.stop(signal)?;
            sessions.iter_mut().try_for_each(|session| session.says("without a daemon"))?;
            site.host.start()?;
            sessions.iter_mut().try_for_each(|session| session.says("with the next one"))?;
        }
        Ok(())
    });
}

/// A server of its own: its keys and its configuration are the test's.
fn sshd(site: &Site, at: &Namespace, name: &str, address: SocketAddrV4) -> Result<()> {
    let config = format!(
        "ListenAddress {address}\nHostKey /run/host-key\nAuthorizedKeysFile /run/user-key.pub\nStrictModes no\nUsePAM no\n\
         PidFile none\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    );
    // It wants /run/sshd, which boot scripts make: so it gets a /run of its own, with its files in it.
    let run = site.lab.directory().join("run");
    fs::create_dir_all(run.join("sshd"))?;
    fs::write(run.join(format!("{name}.conf")), config)?;
    let script =
        format!("mount --bind {} /run && exec /usr/sbin/sshd -D -e -f /run/{name}.conf", run.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    serve(site, at, name, &command, address)
}

/// A session in which what is said comes back.
struct Session {
    child: std::process::Child,
    output: BufReader<std::process::ChildStdout>,
}

fn session(from: &Container, directory: &Path, to: SocketAddrV4) -> Result<Session> {
    let mut command = from.namespace.command("ssh")?;
    command.args([
        "-F",
        "/dev/null",
        "-T",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]);
    command.args(["-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5", "-i"]);
    command.arg(directory.join("user-key")).arg("-p").arg(to.port().to_string());
    // A session that hears nothing ends, and the test with it.
    command.args(["-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=5"]);
    command.arg(format!("root@{}", to.ip())).arg("exec cat");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run ssh")?;
    let output = BufReader::new(child.stdout.take().context("ssh has no output")?);
    Ok(Session { child, output })
}

impl Session {
    fn says(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("ssh has no input")?;
        writeln!(input, "{line}").context("the session has ended")?;
        input.flush()?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        ensure!(answer.trim_end() == line, "said {line:?}, got {answer:?}");
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn ftp_in_passive_mode() {
    const TEST: &str = "ftp_in_passive_mode";
    // The distribution's, which has the distribution's modules.
    const PYTHON: &str = "/usr/bin/python3";
    const MODULE: &str = "/usr/lib/python3/dist-packages/pyftpdlib/__init__.py";
    if lacks(TEST, &[PYTHON, MODULE, "curl"]) {
        return;
    }
    with_site(TEST, "", |site| {
        let a = site.container("a")?;
        let directory = site.lab.directory().join("ftp");
        fs::create_dir(&directory)?;
        fs::write(directory.join("file"), bytes(MEBIBYTE))?;
        let address = SocketAddrV4::new(site.world.address, 2121);
        let mut command = Command::new(PYTHON);
        command
            .args(["-m", "pyftpdlib", "-w", "-i", &address.ip().to_string(), "-p", "2121", "-d"])
            .arg(&directory);
        serve(site, &site.world.server, "ftp", &command, address)?;
        // The data's connection by the answer to EPSV (RFC 2428) and to PASV (RFC 959), both made by the container.
        for option in ["--ftp-pasv", "--disable-epsv"] {
            let (url, file) = (format!("ftp://{address}/"), site.lab.directory().join("fetched"));
            let fetched = file.to_string_lossy().into_owned();
            a.namespace.output(
                "curl",
                ["-fsS", "--max-time", "10", option, "-o", &fetched, &format!("{url}file")],
            )?;
            ensure!(fs::read(&file)? == bytes(MEBIBYTE), "{option}: curl got something else");
            a.namespace
                .output("curl", ["-fsS", "--max-time", "10", option, "-T", &fetched, &format!("{url}up")])?;
            eventually("what was sent is all there", Duration::from_secs(3), || {
                Ok(fs::read(directory.join("up")).unwrap_or_default() == bytes(MEBIBYTE))
            })?;
            fs::remove_file(directory.join("up"))?;
        }
        Ok(())
    });
}
