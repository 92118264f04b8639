//! `pinpost pins`: the header.

use clap::Args;

use serde_json::json;

use super::{Outcome, out};
use crate::hal::list;

/// Arguments of `pinpost pins`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinpost pins                     the header with BCM numbers and who uses what
  pinpost pins --json")]
pub struct PinsArgs {
    /// Print them as JSON
    #[arg(long)]
    pub json: bool,
}

/// Shows the pins.
pub fn run(args: &PinsArgs) -> Outcome {
    let model = list::board_model();
    let users = list::pin_users();
    let user = |bcm: u8| users.iter().find(|u| u.bcm == bcm);
    if args.json {
        let pins: Vec<_> = list::header()
            .iter()
            .map(|pin| {
                let used = pin.bcm.and_then(user);
                json!({
                    "place": pin.place, "bcm": pin.bcm, "role": pin.role,
                    "used_by": used.map(|u| u.consumer.clone()), "output": used.map(|u| u.output),
                })
            })
            .collect();
        return out::data(format!("{:#}\n", json!({ "board": model, "pins": pins })).as_bytes());
    }
    let mut text = format!("{}\n\n", model.as_deref().unwrap_or("not a Raspberry Pi; this is its 40-pin header"));
    text.push_str("place  pin     besides\n");
    for pin in list::header() {
        let name = pin.bcm.map_or(String::new(), |n| format!("GPIO{n}"));
        let used = match pin.bcm.and_then(user) {
            Some(u) if u.consumer.is_empty() => "   in use by the kernel".to_owned(),
            Some(u) => format!("   in use by {}{}", u.consumer, if u.output { " (output)" } else { "" }),
            None => String::new(),
        };
        text.push_str(format!("{:>5}  {name:<6}  {}{used}", pin.place, pin.role).trim_end());
        text.push('\n');
    }
    out::data(text.as_bytes())
}
