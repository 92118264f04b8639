//! `pinpost pins`: the header.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{DEFAULT_FILE, Outcome, file, out};
use crate::config::When;
use crate::hal::boards::{self, BoardTable};
use crate::hal::{chardev, device_tree, list};
use crate::plan::board::PinClaim;

/// Arguments of `pinpost pins`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost pins                     the header with BCM numbers and who uses what
  pinpost pins -c my.yaml          with the devices of a file
  pinpost pins --board pi5         what the pins of another board can do
  pinpost pins --json")]
pub struct PinsArgs {
    /// Whose devices are shown [default: those of /etc/pinpost/config.yaml, if it is there and right]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The header of this board: zero, zero2w, pi1 to pi5 [default: this machine's]
    #[arg(long, value_name = "BOARD", value_parser = boards::by_name)]
    pub board: Option<&'static BoardTable>,
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// The pins that a file's devices have.
fn claims(args: &PinsArgs) -> Result<Vec<PinClaim>, super::Failure> {
    match &args.file {
        Some(path) => Ok(file::plan(path, When::Check, false)?.pins),
        // nobody asked for this file: what is wrong with it is for `check`
        None => Ok(file::check(DEFAULT_FILE.as_ref(), When::Check, false).plan.map_or_else(Vec::new, |p| p.pins)),
    }
}

/// The chips of a machine without a header that is known, and their lines.
fn chips(args: &PinsArgs, chips: &[chardev::ChipList], claims: &[PinClaim]) -> Outcome {
    let model = list::board_model();
    let device = |pin: u32| claims.iter().find(|c| u32::from(c.pin) == pin).map(|c| c.device.as_str());
    if args.json {
        let line = |l: &chardev::LineList| {
            json!({
                "pin": l.pin, "name": l.name, "device": device(l.pin),
                "used_by": l.user, "output": l.user.as_ref().map(|_| l.output),
            })
        };
        let chips: Vec<_> = chips
            .iter()
            .map(|c| json!({ "name": c.name, "label": c.label, "pins": c.lines.iter().map(line).collect::<Vec<_>>() }))
            .collect();
        return out::data(format!("{:#}\n", json!({ "board": model, "chips": chips })).as_bytes());
    }
    let mut text =
        format!("{}: for `gpio: {{ backend: chardev }}`\n", model.as_deref().unwrap_or("not a Raspberry Pi"));
    for chip in chips {
        text.push_str(&format!("\n{} ({}), {} lines\n", chip.name, chip.label, chip.lines.len()));
        for line in &chip.lines {
            let mut notes: Vec<String> = device(line.pin).map(|d| format!("device `{d}`")).into_iter().collect();
            notes.extend(line.user.as_deref().map(|user| match user {
                "" => "in use by the kernel".to_owned(),
                user => format!("in use by {user}{}", if line.output { " (output)" } else { "" }),
            }));
            let notes = if notes.is_empty() { String::new() } else { format!("   <- {}", notes.join(", ")) };
            text.push_str(format!("{:>5}  {}{notes}", line.pin, line.name).trim_end());
            text.push('\n');
        }
    }
    out::data(text.as_bytes())
}

/// Shows the pins.
pub fn run(args: &PinsArgs) -> Outcome {
    let claims = claims(args)?;
    let here = args.board.is_none();
    if here && boards::here().is_none() {
        let found = chardev::list();
        if !found.is_empty() {
            return chips(args, &found, &claims);
        }
    }
    let model = if here { list::board_model() } else { None };
    let board = args.board.or_else(boards::here);
    let (users, taken) = if here { (list::pin_users(), device_tree::taken()) } else { (Vec::new(), Vec::new()) };
    let title = match (board, &model) {
        (_, Some(model)) => model.clone(),
        (Some(board), None) => board.title.to_owned(),
        (None, None) => "not a Raspberry Pi".to_owned(),
    };
    let functions = |bcm: u8| board.map_or_else(|| list::role(bcm).to_owned(), |b| b.functions(bcm));
    let device = |bcm: u8| claims.iter().find(|c| c.pin == bcm).map(|c| c.device.as_str());
    let given = |bcm: u8| taken.iter().find(|t| t.pin == bcm).map(|t| t.by.as_str());
    let user = |bcm: u8| users.iter().find(|u| u.bcm == bcm);
    if args.json {
        let pins: Vec<_> = list::header()
            .iter()
            .map(|pin| {
                let used = pin.bcm.and_then(user);
                json!({
                    "place": pin.place, "bcm": pin.bcm,
                    "role": pin.bcm.map_or_else(|| pin.role.to_owned(), functions),
                    "pwm_channel": pin.bcm.and_then(|n| board.and_then(|b| b.pwm_channel(n))),
                    "device": pin.bcm.and_then(device), "given_to": pin.bcm.and_then(given),
                    "used_by": used.map(|u| u.consumer.clone()), "output": used.map(|u| u.output),
                })
            })
            .collect();
        let json = json!({
            "board": title, "family": board.map(|b| b.name), "chip": board.map(|b| b.chip), "pins": pins,
        });
        return out::data(format!("{json:#}\n").as_bytes());
    }
    let mut text = match board {
        Some(board) => format!("{title} (header chip {})\n\n", board.chip),
        None => format!("{title}: there is no header that is known here; this is a Raspberry Pi's\n\n"),
    };
    text.push_str("place  pin     besides\n");
    for pin in list::header() {
        let name = pin.bcm.map_or(String::new(), |n| format!("GPIO{n}"));
        let role = pin.bcm.map_or_else(|| pin.role.to_owned(), functions);
        let mut notes = Vec::new();
        if let Some(bcm) = pin.bcm {
            notes.extend(device(bcm).map(|d| format!("device `{d}`")));
            notes.extend(given(bcm).map(|by| format!("given to {by}")));
            notes.extend(user(bcm).map(|u| match u.consumer.as_str() {
                "" => "in use by the kernel".to_owned(),
                consumer => format!("in use by {consumer}{}", if u.output { " (output)" } else { "" }),
            }));
        }
        let notes = if notes.is_empty() { String::new() } else { format!("   <- {}", notes.join(", ")) };
        text.push_str(format!("{:>5}  {name:<6}  {role}{notes}", pin.place).trim_end());
        text.push('\n');
    }
    out::data(text.as_bytes())
}
