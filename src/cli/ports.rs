//! `pinpost ports`: the serial ports of this machine.

use clap::Args;

use serde_json::json;

use super::{Outcome, out};
use crate::hal::list;

/// Arguments of `pinpost ports`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost ports                    what to write behind `path:` or `usb:`
  pinpost ports --json")]
pub struct PortsArgs {
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// Lists the ports.
pub fn run(args: &PortsArgs) -> Outcome {
    let ports = list::serial_ports();
    if args.json {
        let ports: Vec<_> = ports
            .iter()
            .map(|p| {
                json!({
                    "path": p.path, "by_id": p.by_id, "stable": p.stable(), "vid": p.vid.map(|v| v.to_string()),
                    "pid": p.pid.map(|v| v.to_string()), "serial": p.serial, "manufacturer": p.manufacturer,
                    "product": p.product, "driver": p.driver,
                })
            })
            .collect();
        return out::data(format!("{:#}\n", json!(ports)).as_bytes());
    }
    if ports.is_empty() {
        out::say("no serial ports here; on a Pi the header's UART is switched on with raspi-config");
    }
    let mut text = String::new();
    for port in &ports {
        text.push_str(&format!("{}\n", port.stable().display()));
        if port.by_id.is_some() {
            text.push_str(&format!("  now        {}\n", port.path.display()));
        }
        if let (Some(vid), Some(pid)) = (port.vid, port.pid) {
            let serial = port.serial.as_ref().map_or(String::new(), |s| format!(", serial: {s}"));
            text.push_str(&format!("  usb        {{ vid: \"{vid}\", pid: \"{pid}\"{serial} }}\n"));
        }
        let words: Vec<&str> = [&port.manufacturer, &port.product].into_iter().flatten().map(String::as_str).collect();
        if !words.is_empty() {
            text.push_str(&format!("  product    {}\n", words.join(" ")));
        }
        text.extend(port.driver.as_ref().map(|d| format!("  driver     {d}\n")));
    }
    out::data(text.as_bytes())
}
