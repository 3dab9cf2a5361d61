//! Requests to the daemon that no client of ours makes: each is refused in one line, or does what it says, and nothing else.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use netd_tests::{
    Site,
    site::{eventually, reach},
    snapshot::Snapshot,
    with_site,
};
use serde_json::{Value, json};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer: its status, and its body. None: the connection was closed without one.
type Answer = Option<(u16, String)>;

/// Sends bytes to the daemon and reads what it answers.
fn send(site: &Site, bytes: &[u8]) -> Result<Answer> {
    let stream = UnixStream::connect(site.host.socket()).context("cannot connect")?;
    exchange(stream, bytes, false)
}

/// The same on a connection. `all`: and says that nothing more will come, as of what is no whole request.
fn exchange(mut stream: UnixStream, bytes: &[u8], all: bool) -> Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // It may have answered, and closed, before it has read all.
    match stream.write_all(bytes) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error).context("cannot send"),
        _ => {}
    }
    if all {
        // It may have closed already.
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        if let Some(whole) = parse(&answer)? {
            return Ok(Some(whole));
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(length) => answer.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error).context("no answer"),
        }
    }
}

/// The answer, if all of it is there.
fn parse(bytes: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let status = head.split_whitespace().nth(1).context("no status")?.parse()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = length.is_none_or(|length| body.len() >= length);
    Ok(whole.then(|| (status, body.to_owned())))
}

fn request(site: &Site, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: netd\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    send(site, &[head.as_bytes(), body].concat())
}

/// Checks that an answer is a refusal: a status of 4xx, and an error that is one line.
fn refused(what: &str, answer: &Answer) -> Result<()> {
    let Some((status, body)) = answer else { bail!("{what}: no answer") };
    ensure!((400..500).contains(status), "{what}: {status}: {body}");
    let error: Value =
        serde_json::from_str(body).with_context(|| format!("{what}: {status}: no JSON: {body}"))?;
    let error = error["error"].as_str().with_context(|| format!("{what}: {body} has no error"))?;
    let is_line = !error.is_empty() && !error.contains(|c: char| c.is_control());
    ensure!(is_line, "{what}: not one line: {error:.300?}");
    Ok(())
}

/// Runs each attempt, and fails with all that were not refused.
fn all_refused(site: &Site, attempts: &[(String, &str, String, Value)]) -> Result<()> {
    let attempt = |(what, method, path, body): &(String, &str, String, Value)| {
        refused(what, &request(site, method, path, body.to_string().as_bytes())?)
    };
    let failures: Vec<String> =
        attempts.iter().filter_map(|one| attempt(one).err()).map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{} of {}:\n{}", failures.len(), attempts.len(), failures.join("\n"));
    println!("{} attempts", attempts.len());
    Ok(())
}

/// That nothing of the host was changed, and nothing of what the daemon says.
fn unchanged(site: &Site, before: &(Snapshot, String)) -> Result<()> {
    let (snapshot, said) = state(site)?;
    ensure!(snapshot == before.0, "something was changed: {}", before.0.difference(&snapshot));
    ensure!(said == before.1, "the daemon said {}, and says {said}", before.1);
    let log = site.host.log();
    ensure!(!log.contains("panicked"), "the daemon has panicked: {log}");
    Ok(())
}

fn state(site: &Site) -> Result<(Snapshot, String)> {
    let mut endpoints = site.endpoints()?;
    for endpoint in &mut endpoints {
        endpoint["counters"].take();
    }
    let networks = site.host.json(["network", "ls", "--json"])?;
    let denied = site.host.json(["deny", "ls", "--json"])?;
    Ok((Snapshot::of(&site.host)?, format!("{endpoints:?} {networks} {denied}")))
}

#[test]
fn values_that_make_no_sense() {
    with_site("values_that_make_no_sense", "", |site| {
        let t = site.container("t")?;
        let free = site.lab.namespace("free")?;
        let netns = free.name().to_owned();
        let host_netns = site.host.namespace.name().to_owned();
        let before = state(site)?;
        let mut all: Vec<(String, &str, String, Value)> = Vec::new();
        let long = |length: usize| "x".repeat(length);

        let names = [
            "../../etc/passwd",
            "..",
            ".",
            "",
            "-rf",
            "--help",
            "a b",
            "a\nb",
            "a\0b",
            "ä",
            "/",
            "a/b",
            "%2e%2e",
            "$(id)",
            "`id`",
            "a;b",
            "\u{1f600}",
            "a\u{202e}b",
            "\u{1b}[31m",
            "a\r\nWARN forged",
        ];
        let names = names.map(|name| json!(name)).into_iter().chain([
            json!(long(129)),
            json!(long(10_000)),
            Value::Null,
            json!(5),
            json!(true),
            json!([]),
            json!({}),
        ]);
        for name in names {
            let what = |of: &str| format!("{of} {:.60}", name.to_string());
            let body = json!({"name": name, "netns": netns});
            all.push((what("an endpoint named"), "POST", "/v1/endpoints".into(), body));
            let body = json!({"name": name, "subnets": ["10.77.0.0/16"]});
            all.push((what("a network named"), "POST", "/v1/networks".into(), body));
            let body = json!({"name": "x", "netns": netns, "network": name});
            if !name.is_null() {
                all.push((what("in a network named"), "POST", "/v1/endpoints".into(), body));
            }
        }
        let places = [
            "/etc/passwd",
            "/dev/zero",
            "/dev/null",
            "/dev/full",
            "/proc/self/ns/mnt",
            "/proc/self/ns/user",
            "/nonexistent",
            "../../etc/passwd",
            "/proc/self/ns/net",
            "",
            ".",
            "..",
            "/",
            "/proc/1/root",
            "/proc/0/ns/net",
            "/sys",
            "a\0b",
            "/run/netns/../../etc/passwd",
            &host_netns,
        ];
        for place in
            places.map(|place| json!(place)).into_iter().chain([json!(long(60_000)), json!(5), Value::Null])
        {
            let what = format!("the namespace {:.60}", place.to_string());
            all.push((what, "POST", "/v1/endpoints".into(), json!({"name": "x", "netns": place})));
        }
        let addresses = [
            json!("10.88.0.9"),
            json!(5),
            json!([5]),
            json!(["10.88.0.1"]),
            json!(["10.88.0.0"]),
            json!(["10.88.255.255"]),
            json!(["127.0.0.1"]),
            json!(["0.0.0.0"]),
            json!(["255.255.255.255"]),
            json!(["10.99.0.1"]),
            json!(["1.2.3"]),
            json!(["10.88.0.9/32"]),
            json!(["10.88.0.010"]),
            json!(["::1"]),
            json!(["fd88::1"]),
            json!(["fe80::9"]),
            json!(["::ffff:10.88.0.9"]),
            json!(["10.88.0.9", "fd88::8"]),
            json!(["10.88.0.9", "10.88.0.10"]),
            json!(vec!["10.88.0.9"; 1000]),
            json!([t.address.to_string()]),
            json!([""]),
            json!(["10.88.0.9\n"]),
        ];
        for list in addresses {
            let what = format!("the addresses {:.60}", list.to_string());
            let body = json!({"name": "x", "netns": netns, "addresses": list});
            all.push((what, "POST", "/v1/endpoints".into(), body));
        }
        let ports = [
            "0:80",
            "80:0",
            "-1:80",
            "65536:80",
            "80:65536",
            "80",
            "80:80/sctp",
            "80:80/TCP/",
            "a:b",
            "1-70000:1",
            "8000-8010:8000-8005",
            "9-1:9-1",
            "127.0.0.1:",
            "[::1:80:80",
            ":::",
            "80:80:80:80:80",
            "0x50:80",
            "80:80/tcp/udp",
            " 80:80",
            "80:80\n",
            "",
            ":",
            "255.255.255.255:80:80",
            "224.0.0.1:80:80",
            "8.8.8.8:80:80",
            "[fe80::1]:80:80",
            "[ff02::1]:80:80",
            "\u{661}\u{662}:80",
        ];
        for port in ports {
            let body = json!({"publish": [port]});
            all.push((format!("publish {port:?}"), "POST", "/v1/endpoints/t/ports".into(), body.clone()));
            all.push((format!("unpublish {port:?}"), "DELETE", "/v1/endpoints/t/ports".into(), body));
            let body = json!({"name": "x", "netns": netns, "publish": [port]});
            all.push((format!("attach and publish {port:?}"), "POST", "/v1/endpoints".into(), body));
        }
        let networks = [
            json!({"name": "n"}),
            json!({"name": "n", "subnets": []}),
            json!({"name": "n", "subnet": "10.77.0.0/16"}),
            json!({"name": "n", "subnets": "10.77.0.0/16"}),
            json!({"name": "n", "subnets": ["0.0.0.0/0"]}),
            json!({"name": "n", "subnets": ["10.0.0.0/7"]}),
            json!({"name": "n", "subnets": ["127.0.0.0/8"]}),
            json!({"name": "n", "subnets": ["224.0.0.0/8"]}),
            json!({"name": "n", "subnets": ["169.254.0.0/16"]}),
            json!({"name": "n", "subnets": ["198.18.0.0/15"]}),
            json!({"name": "n", "subnets": ["10.88.0.0/24"]}),
            json!({"name": "n", "subnets": ["10.77.0.0/31"]}),
            json!({"name": "n", "subnets": ["10.77.0.1/24"]}),
            json!({"name": "n", "subnets": ["10.77.0.0/33"]}),
            json!({"name": "n", "subnets": ["10.77.0.0"]}),
            json!({"name": "n", "subnets": ["fd77::/48"]}),
            json!({"name": "n", "subnets": ["10.77.0.0/16", "fe80::/64"]}),
            json!({"name": "n", "subnets": ["10.77.0.0/16", "fd88::/64"]}),
            json!({"name": "n", "subnets": ["10.77.0.0/16", "fd77::/127"]}),
            json!({"name": "n", "subnets": vec!["10.77.0.0/24"; 50]}),
            json!({"name": "n", "subnets": ["10.77.0.0/24"], "mtu": -5}),
            json!({"name": "n", "subnets": ["10.77.0.0/24"], "mtu": 100}),
            json!({"name": "n", "subnets": ["10.77.0.0/24"], "mtu": 70_000}),
            json!({"name": "n", "subnets": ["10.77.0.0/24"], "mtu": 1e99}),
            json!({"name": "n", "subnets": ["10.77.0.0/24"], "link": "wire"}),
            json!({"name": "n", "subnets": ["10.77.0.0/24"], "masquerade": "yes"}),
            json!({"name": "n", "subnets": ["10.77.0.0/24"], "slice": 26}),
            json!({"name": "n", "subnets": ["10.77.0.0/24"], "slice": 300}),
            json!({"name": "n", "subnets": ["10.77.0.0/24"], "bogus": 1}),
            json!({"name": "default", "subnets": ["10.77.0.0/24"]}),
        ];
        for body in networks {
            all.push((format!("the network {body:.90}"), "POST", "/v1/networks".into(), body));
        }
        for sources in [
            json!(null),
            json!("192.0.2.1"),
            json!([5]),
            json!(["0.0.0.0/0"]),
            json!(["::/0"]),
            json!(["x"]),
            json!([""]),
            json!(["192.0.2.1/33"]),
            json!(["192.0.2.1/24"]),
            json!(["192.0.2.1", "x"]),
            json!(["192.0.2.1", "0.0.0.0/0"]),
            json!(["192.0.2"]),
            json!(["2001:db8::1/129"]),
            json!(["2001:db8::1/64"]),
            json!(["fe80::1%eth0"]),
        ] {
            let body = json!({"sources": sources});
            all.push((format!("deny {sources}"), "POST", "/v1/deny".into(), body.clone()));
            all.push((format!("allow {sources}"), "DELETE", "/v1/deny".into(), body));
        }
        all_refused(site, &all)?;
        unchanged(site, &before)?;
        reach(&t.namespace, site.world.address, site.host.address)
    });
}

#[test]
fn requests_that_are_none() {
    with_site("requests_that_are_none", "", |site| {
        let t = site.container("t")?;
        let before = state(site)?;
        let deep = "{\"a\":".repeat(10_000);
        let text = format!("\"{}\"", "x".repeat(60_000));
        let twice = format!(r#"{{"name":"q","name":"../x","netns":"{}"}}"#, t.namespace.name());
        let bodies: [(&str, &[u8]); 12] = [
            ("nothing", b""),
            ("null", b"null"),
            ("a list", b"[]"),
            ("a list of lists", b"[[[[]]]]"),
            ("a number", b"1e400"),
            ("cut", b"{"),
            ("cut in a text", b"{\"name\": \"x"),
            ("deep", deep.as_bytes()),
            ("a long text", text.as_bytes()),
            ("no UTF-8", b"\xff\xfe\x00"),
            ("a field twice", twice.as_bytes()),
            ("zeros", &[0; 1000]),
        ];
        for path in ["/v1/endpoints", "/v1/networks", "/v1/deny", "/v1/endpoints/t/ports"] {
            for (what, body) in bodies {
                refused(&format!("{what} to {path}"), &request(site, "POST", path, body)?)?;
            }
            // Longer than any; it need not read all of it.
            let answer = request(site, "POST", path, &vec![b'x'; 10 << 20])?;
            ensure!(answer.as_ref().is_none_or(|(status, _)| *status == 413), "10 MiB to {path}: {answer:?}");
        }
        for (method, path) in [
            ("PUT", "/v1/endpoints"),
            ("PATCH", "/v1/endpoints"),
            ("OPTIONS", "/v1/endpoints"),
            ("TRACE", "/v1/endpoints"),
            ("BREW", "/v1/endpoints"),
            ("DELETE", "/v1/endpoints"),
            ("DELETE", "/v1/networks"),
            ("POST", "/v1/status"),
            ("POST", "/v1/nodes"),
            ("DELETE", "/v1/status"),
            ("GET", "/"),
            ("GET", "//"),
            ("GET", "/v1"),
            ("GET", "/v2/status"),
            ("GET", "/../../etc/passwd"),
            ("GET", "/v1/../../etc/passwd"),
            ("GET", "/v1/%2e%2e/status"),
            ("DELETE", "/v1/endpoints/..%2f..%2fetc"),
            ("DELETE", "/v1/endpoints/%00"),
            ("DELETE", "/v1/endpoints/%ff"),
            ("DELETE", "/v1/endpoints/t/"),
            ("DELETE", "/v1/endpoints//ports"),
            ("DELETE", "/v1/endpoints/T"),
            ("DELETE", "/v1/endpoints/t%0a"),
            ("DELETE", "/v1/networks/%2e%2e"),
            ("DELETE", "/v1/networks/default"),
            ("DELETE", "/v1/nodes/%2e%2e"),
            ("DELETE", "/v1/nodes/x%0ay"),
            ("GET", "/v1/flows?endpoint=../x"),
            ("GET", "/v1/flows?endpoint=%00"),
            ("GET", "/v1/flows?bogus=1"),
            ("GET", "/v1/flows?limit=-1"),
            ("GET", "/v1/flows?limit=1e9"),
            ("GET", "/v1/flows?remote=x"),
            ("GET", "/v1/flows?protocol=x"),
            ("DELETE", "/v1/flows?bogus=1"),
            ("DELETE", "/v1/flows?endpoint=nobody"),
        ] {
            refused(&format!("{method} {path}"), &request(site, method, path, b"")?)?;
        }
        for (what, path) in [
            ("a long name", format!("/v1/endpoints/{}", "x".repeat(20_000))),
            ("a long question", format!("/v1/flows?endpoint={}", "y".repeat(20_000))),
        ] {
            refused(what, &request(site, "DELETE", &path, b"")?)?;
        }
        // Not HTTP, or nearly: an answer, if there is one, is no success.
        let head = "POST /v1/endpoints HTTP/1.1\r\nHost: netd\r\nContent-Type: application/json\r\nConnection: close\r\n";
        let header =
            format!("GET /v1/endpoints/t HTTP/1.1\r\nHost: netd\r\nX: {}\r\n\r\n", "y".repeat(1_000_000));
        let headers: String = (0..10_000).map(|number| format!("A{number}: b\r\n")).collect();
        let headers = format!("GET /v1/status HTTP/1.1\r\nHost: netd\r\n{headers}\r\n");
        for (what, bytes) in [
            ("a negative length", format!("{head}Content-Length: -1\r\n\r\nx")),
            ("two lengths", format!("{head}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}")),
            (
                "a length and chunks",
                format!("{head}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            ),
            ("chunks of no length", format!("{head}Transfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n")),
            ("a header of a megabyte", header),
            ("ten thousand headers", headers),
            ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
            ("HTTP/0.9", "GET /v1/status\r\n\r\n".to_owned()),
            ("a header with a NUL", "GET /v1/status HTTP/1.1\r\nHost: \0\r\n\r\n".to_owned()),
            ("a tunnel", "CONNECT netd:80 HTTP/1.1\r\nHost: netd\r\n\r\n".to_owned()),
            ("no words", "\u{1}\u{2}\u{3}\u{4}\r\n\r\n\r\n\r\n".to_owned()),
        ] {
            let stream = UnixStream::connect(site.host.socket()).context("cannot connect")?;
            let answer = exchange(stream, bytes.as_bytes(), true).with_context(|| what.to_owned())?;
            let success = answer.as_ref().is_some_and(|(status, _)| *status < 400);
            ensure!(!success, "{what}: {answer:?}");
        }
        unchanged(site, &before)?;
        reach(&t.namespace, site.world.address, site.host.address)
    });
}

#[test]
fn half_a_request_holds_nobody_up() {
    const CONNECTIONS: usize = 900;
    with_site("half_a_request_holds_nobody_up", "", |site| {
        let half = b"POST /v1/endpoints HTTP/1.1\r\nHost: netd\r\nContent-Length: 100\r\n\r\n{";
        let streams: Vec<UnixStream> = (0..CONNECTIONS)
            .map(|_| {
                let mut stream = UnixStream::connect(site.host.socket())?;
                stream.write_all(half)?;
                Ok(stream)
            })
            .collect::<std::io::Result<_>>()?;
        let a = site.container("a")?;
        reach(&a.namespace, site.world.address, site.host.address)?;
        drop(streams);
        // What they held is given back.
        let pid = site.host.process().context("no daemon")?.pid();
        let open = || Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() < CONNECTIONS / 2);
        eventually("the connections are closed", PATIENCE, open)
    });
}

#[test]
fn six_at_once_for_one_name() {
    with_site("six_at_once_for_one_name", "", |site| {
        let namespaces =
            (0..2).map(|number| site.lab.namespace(&format!("same-{number}"))).collect::<Result<Vec<_>>>()?;
        let before = Snapshot::of(&site.host)?;
        let failures: Vec<String> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..6)
                .map(|worker| {
                    let (site, netns) = (&*site, namespaces[worker % 2].name());
                    scope.spawn(move || -> Result<Vec<String>> {
                        let mut odd = Vec::new();
                        for _ in 0..6 {
                            for words in [&["attach", "same", "--netns", netns][..], &["detach", "same"]] {
                                let output = site.host.netd(words)?;
                                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                                // Somebody else was first.
                                let expected = said.contains("`same`") && said.lines().count() == 1;
                                if !output.status.success() && !expected {
                                    odd.push(said);
                                }
                            }
                        }
                        Ok(odd)
                    })
                })
                .collect();
            let results = workers.into_iter().map(|worker| worker.join().expect("a worker does not panic"));
            results.flat_map(|result| result.unwrap_or_else(|error| vec![format!("{error:#}")])).collect()
        });
        ensure!(failures.is_empty(), "{failures:?}");
        // Whoever was last: nothing is left but what is listed.
        let _ = site.host.netd(["detach", "same"])?;
        ensure!(site.endpoints()?.is_empty());
        let after = Snapshot::of(&site.host)?;
        ensure!(after == before, "not as before: {}", before.difference(&after));
        for namespace in &namespaces {
            let links = namespace.ip_json("link show type veth")?;
            let left = links.as_array().into_iter().flatten().any(|link| !link["ifname"].is_null());
            ensure!(!left, "{} has {links}", namespace.name());
        }
        Ok(())
    });
}

/// Nobody but root gets to ask, or to change what is kept.
#[test]
fn files_of_the_daemon_are_roots() {
    with_site("files_of_the_daemon_are_roots", "", |site| {
        let a = site.container("a")?;
        let mode = |path: &std::path::Path| -> Result<u32> {
            let found = path.metadata().with_context(|| format!("no {}", path.display()))?;
            Ok(found.permissions().mode() & 0o777)
        };
        ensure!(mode(&site.host.socket())? == 0o600, "the socket has mode {:o}", mode(&site.host.socket())?);
        let mut paths = vec![site.host.state()];
        let mut looked = 0;
        while let Some(path) = paths.pop() {
            let others = mode(&path)? & 0o022;
            ensure!(others == 0, "{} can be written by others", path.display());
            looked += 1;
            if path.is_dir() {
                paths.extend(
                    std::fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?,
                );
            }
        }
        ensure!(looked > 1, "no files of the state");
        for pin in netd_tests::snapshot::pins(site.host.bpffs()) {
            let path = site.host.bpffs().join(pin);
            ensure!(mode(&path)? & 0o077 == 0, "{} has mode {:o}", path.display(), mode(&path)?);
        }
        reach(&a.namespace, site.world.address, site.host.address)
    });
}
