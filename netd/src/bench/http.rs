//! nginx as the server and wrk as the client: a real web server's way of using a network.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt as _,
    path::Path as File,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sched::sched_setaffinity,
    sys::{
        prctl,
        resource::{UsageWho, getrusage},
        signal::Signal,
        time::TimeVal,
    },
    time::clock_getcpuclockid,
    unistd::Pid,
};
use serde::Deserialize;

use super::{
    cpus::{self, Placement},
    latency::Latency,
    sample::Timing,
    scene::Path,
    worker::{Cost, Load, Measured},
};
use crate::lab::Namespace;

/// The server's port, in a namespace of the bench's own, where no port is published.
const PORT: u16 = 8080;
/// Open connections.
const CONNECTIONS: usize = 16;
/// Bytes of an answer's body.
const BODY: usize = 1024;
/// How long nginx may take to listen.
const PATIENCE: Duration = Duration::from_secs(5);
/// wrk measures whole seconds.
const SHORTEST: Duration = Duration::from_secs(1);

/// What wrk prints at its end: one line of JSON, times in µs.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local pairs = {}
  for i = 1, #latency do
    local value, count = latency(i)
    pairs[i] = string.format("[%d,%d]", value, count)
  end
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('\nRESULT {"requests":%d,"microseconds":%d,"errors":%d,"latency":[%s]}\n',
    summary.requests, summary.duration, failed, table.concat(pairs, ",")))
end
"#;

/// Makes the load once.
///
/// # Errors
/// One of the two is not installed, or a request fails.
pub(super) fn run(path: &Path, placement: &Placement, timing: Timing) -> Result<Load> {
    let directory = tempfile::tempdir().context("cannot make a directory for nginx")?;
    let (outside, inside) = path.published.unwrap_or((PORT, PORT));
    let server = Server::start(&path.server, inside, directory.path(), &placement.server)?;
    let script = directory.path().join("done.lua");
    fs::write(&script, SCRIPT).with_context(|| format!("cannot write {}", script.display()))?;
    let seconds = timing.time.max(SHORTEST).as_secs_f64().ceil();
    let mut command = path.client.command("wrk")?;
    command
        .args(["-t", "1", "-c", &CONNECTIONS.to_string(), "-d", &format!("{seconds}s"), "-s"])
        .arg(&script)
        .arg(format!("http://{}:{outside}/", path.address));
    bind(&mut command, &placement.client)?;
    let clock = clock_getcpuclockid(Pid::from_raw(server.0.id().cast_signed())).context("nginx has ended")?;
    let now = || -> Result<Duration> {
        let own = getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot ask for CPU times")?;
        let server = Duration::from(clock.now().context("nginx has ended")?);
        Ok(server + duration(own.user_time()) + duration(own.system_time()))
    };
    let (start, before) = (Instant::now(), now()?);
    let output = command.stdin(Stdio::null()).output().map_err(|error| missing(error, "wrk"))?;
    // wrk has been waited for: its time is among that of the children.
    let cost =
        Cost { time: start.elapsed(), cpu: now()?.saturating_sub(before), instructions: None, cycles: None };
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "wrk failed: {}", said.trim());
    load(&said, cost)
}

#[derive(Deserialize)]
struct Summary {
    requests: u64,
    microseconds: u64,
    errors: u64,
    latency: Vec<(u64, u64)>,
}

fn load(said: &str, cost: Cost) -> Result<Load> {
    let line = said.lines().find_map(|line| line.strip_prefix("RESULT ")).context("wrk has no result")?;
    let summary: Summary = serde_json::from_str(line).with_context(|| format!("wrk printed {line:?}"))?;
    if summary.errors > 0 {
        bail!("{} of {} requests failed", summary.errors, summary.requests);
    }
    let pairs: Vec<(u64, u64)> =
        summary.latency.into_iter().map(|(value, count)| (value * 1000, count)).collect();
    Ok(Load {
        measured: Measured { count: summary.requests, time: Duration::from_micros(summary.microseconds) },
        latency: Latency::try_from(pairs)?,
        cost,
    })
}

/// nginx, as one process; killed when this is dropped.
struct Server(Child);

impl Server {
    fn start(namespace: &Namespace, port: u16, directory: &File, cpus: &[usize]) -> Result<Self> {
        let file = directory.join("nginx.conf");
        fs::write(&file, configuration(directory, port))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = namespace.command("nginx")?;
        command.arg("-e").arg("stderr").arg("-p").arg(directory).arg("-c").arg(&file);
        bind(&mut command, cpus)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = Self(command.spawn().map_err(|error| missing(error, "nginx"))?);
        let start = Instant::now();
        loop {
            let answers = namespace.run(|| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()))?;
            if answers {
                return Ok(server);
            }
            let ended = server.0.try_wait().context("cannot wait for nginx")?;
            ensure!(ended.is_none(), "nginx ended: {}", server.complaint());
            ensure!(start.elapsed() < PATIENCE, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn complaint(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut errors) = self.0.stderr.take() {
            // What cannot be read is nothing that could be reported.
            let _ = errors.read_to_string(&mut text);
        }
        text.trim().replace('\n', " ")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One process that serves from memory: what is measured is the network. Nothing of the machine's own nginx is used.
fn configuration(directory: &File, port: u16) -> String {
    let (body, directory) = ("x".repeat(BODY), directory.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {directory}/{kind};\n"))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n{temporary}  access_log off;\n  keepalive_requests 1000000000;\n  tcp_nodelay on;\n  server {{\n    \
         listen {port} reuseport;\n    location / {{ return 200 \"{body}\"; }}\n  }}\n}}\n"
    )
}

/// The process runs on these CPUs, and does not outlive this one.
fn bind(command: &mut Command, cpus: &[usize]) -> Result<()> {
    let set = cpus::set(cpus)?;
    // SAFETY: between fork and exec only prctl(2) and sched_setaffinity(2) are called, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
        });
    }
    Ok(())
}

fn missing(error: std::io::Error, program: &str) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("{program} is not installed (package {program})"),
        _ => anyhow::Error::new(error).context(format!("cannot run {program}")),
    }
}

fn duration(time: TimeVal) -> Duration {
    Duration::new(time.tv_sec().unsigned_abs(), (time.tv_usec() * 1000) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_read() {
        let said = "Running 1s test\nRESULT {\"requests\":3,\"microseconds\":1000000,\"errors\":0,\"latency\":[[50,1],[70,2]]}\n";
        let Load { measured, latency, .. } = load(said, Cost::default()).expect("a load");
        assert_eq!(measured, Measured { count: 3, time: Duration::from_secs(1) });
        assert!((latency.percentile(99.0) - 70.0).abs() < 0.1, "{latency:?}");
        assert!(load(&said.replace("\"errors\":0", "\"errors\":1"), Cost::default()).is_err());
        assert!(load("nothing", Cost::default()).is_err());
    }

    #[test]
    fn the_configuration_is_of_its_own_directory() {
        let text = configuration(File::new("/tmp/here"), PORT);
        assert!(text.contains("pid /tmp/here/pid;") && text.contains(&format!("listen {PORT}")), "{text}");
        assert!(!text.contains("/etc") && !text.contains("/var"), "{text}");
    }
}
