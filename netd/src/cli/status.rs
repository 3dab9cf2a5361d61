//! `netd status`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{print, print_json, table};
use crate::{api::client::Client, bpf::Counter, names, request};

/// Show how the daemon and the datapath are: programs, tables, packets forwarded and dropped
///
/// The exit status is 1 if something is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netd status
  netd status --json | jq .drops           all reasons for drops, also those that have not occurred")]
pub(super) struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode> {
        let status = client.status().await?;
        if self.json {
            print_json(&status)?;
        } else {
            print(describe(&status))?;
        }
        Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn describe(status: &request::Status) -> String {
    let mut sections = vec![table::text(&overview(status))];

    let mut programs = table::table(&["program", "hook", "links"], &[2]);
    let mode = status.uplink.as_ref().and_then(|uplink| uplink.xdp);
    for program in &status.programs {
        let hook = match mode.filter(|_| program.hook == "xdp" && program.attached > 0) {
            Some(mode) => format!("{}, {mode}", program.hook),
            None => program.hook.clone(),
        };
        programs.add_row([program.name.clone(), hook, program.attached.to_string()]);
    }
    sections.push(table::text(&programs));

    let mut features = table::table(&["feature", "", ""], &[]);
    for feature in &status.features {
        let on = if feature.on { "on" } else { "off" };
        features.add_row([feature.name.clone(), on.to_owned(), names::one_line(&feature.detail)]);
    }
    sections.push(table::text(&features));

    let mut maps = table::table(&["map", "entries", "capacity", "full"], &[1, 2, 3]);
    for map in &status.maps {
        let percent = map.entries as f64 * 100.0 / map.capacity.max(1) as f64;
        let full = format!("{percent:.0} %");
        maps.add_row([map.name.clone(), map.entries.to_string(), map.capacity.to_string(), full]);
    }
    sections.push(table::text(&maps));

    sections.push(counters("forwarded", &status.forwarded));
    sections.push(counters("dropped", &status.drops));
    sections.join("\n\n")
}

fn overview(status: &request::Status) -> comfy_table::Table {
    let mut overview = table::list();
    let uplink = status.uplink.as_ref().map_or_else(
        || "none: there is no default route".to_owned(),
        |uplink| {
            let address6 = uplink.address6.map(|address| format!(", {address}")).unwrap_or_default();
            format!("{} ({}{address6}, MTU {})", uplink.name, uplink.address, uplink.mtu)
        },
    );
    overview.add_row(["node", &status.node]);
    overview.add_row(["daemon", &format!("netd {} (pid {})", status.version, status.pid)]);
    overview.add_row(["uplink", &uplink]);
    overview.add_row(["store", &status.store]);
    overview.add_row(["networks", &status.networks.to_string()]);
    overview.add_row(["endpoints", &status.endpoints.to_string()]);
    if status.healthy {
        overview.add_row(["health", "good"]);
    }
    for problem in &status.problems {
        overview.add_row(["PROBLEM", &names::one_line(problem)]);
    }
    overview
}

/// Counters that are not zero.
fn counters(heading: &str, counters: &[Counter]) -> String {
    let mut shown = table::table(&[heading, "packets", "bytes", ""], &[1, 2]);
    let counted: Vec<&Counter> = counters.iter().filter(|counter| counter.packets > 0).collect();
    for counter in &counted {
        shown.add_row([
            counter.name.clone(),
            counter.packets.to_string(),
            table::bytes(counter.bytes),
            counter.meaning.clone(),
        ]);
    }
    if counted.is_empty() {
        shown.add_row(["nothing"]);
    }
    table::text(&shown)
}
