//! THE COMMAND LINE: one file a command. Data goes to stdout, words for people to stderr.
//!
//! Exit codes are part of the contract: see [`exit`]. A closed stdout (`| head`) ends a command with 0 and no noise.

mod ask;
mod broker;
mod check;
mod demo;
mod explain;
mod file;
mod mqtt;
mod pins;
mod ports;
mod publish;
mod queue;
mod run;
mod safe_state;
mod schema;
mod serial;
mod subscribe;
mod test;
mod view;

pub mod out;

use std::future::Future;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use out::say;

/// What an exit code means.
pub mod exit {
    /// Done.
    pub const DONE: i32 = 0;
    /// It could not be done.
    pub const FAILED: i32 = 1;
    /// The command line is wrong.
    pub const USAGE: i32 = 2;
    /// `sub -W`: the time ran out, as mosquitto_sub says it.
    pub const TIMED_OUT: i32 = 27;
    /// A fault of the program itself.
    pub const INTERNAL: i32 = 70;
    /// The configuration is wrong: starting again cannot help.
    pub const CONFIG: i32 = 78;
}

/// Where the daemon looks for its file.
pub const DEFAULT_FILE: &str = "/etc/pinpost/config.yaml";

/// Why a command did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One of [`exit`].
    pub code: i32,
    /// For stderr; empty if everything was said already.
    pub text: String,
}

impl Failure {
    /// It could not be done.
    pub fn failed(text: impl Into<String>) -> Failure {
        Failure { code: exit::FAILED, text: text.into() }
    }
    /// The command line is wrong in a way that only shows later.
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure { code: exit::USAGE, text: text.into() }
    }
    /// The configuration is wrong.
    pub fn config(text: impl Into<String>) -> Failure {
        Failure { code: exit::CONFIG, text: text.into() }
    }
    /// This code, and nothing more to say.
    pub fn silent(code: i32) -> Failure {
        Failure { code, text: String::new() }
    }
}

/// What a command comes to.
pub type Outcome = Result<(), Failure>;

const START_HERE: &str = "\
Start here:
  pinpost demo                     see it work: no hardware, no broker, nothing to install
  pinpost check my.yaml            every mistake in a file, with its line and what to write instead
  pinpost run -c my.yaml           run it (add --simulate on a machine without pins)

More about a command: pinpost COMMAND --help";

#[derive(Parser)]
#[command(name = "pinpost", version, about, before_help = START_HERE, arg_required_else_help = true)]
#[command(max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Run(run::RunArgs),
    /// Show the whole thing at work without hardware and without a broker
    Demo(demo::DemoArgs),
    /// Find every problem in a configuration file
    Check(check::CheckArgs),
    /// Show every device, topic and pin as the daemon would run them
    Explain(explain::ExplainArgs),
    /// Print the JSON Schema of the file, for completion in an editor
    Schema(schema::SchemaArgs),
    /// Publish messages
    Pub(publish::PubArgs),
    /// Subscribe and print messages
    Sub(subscribe::SubArgs),
    /// Run only the embedded broker
    Broker(broker::BrokerArgs),
    /// List the serial ports with their stable names
    Ports(ports::PortsArgs),
    /// Look at a serial line: bytes, frames, readings, and why a frame is refused
    Serial(serial::SerialArgs),
    /// Show the header's pins and who uses them
    Pins(pins::PinsArgs),
    /// Look into the store-and-forward queue, with the daemon running or not
    Queue(queue::QueueArgs),
    /// Drive the outputs of the last applied configuration to their safe state
    SafeState(safe_state::SafeStateArgs),
    /// Play scenarios: what happens at which time, and what must come of it
    Test(test::TestArgs),
    /// Show the latest pictures of a topic as a web page
    View(view::ViewArgs),
}

impl Command {
    fn run(&self) -> Outcome {
        match self {
            Command::Run(args) => run::run(args),
            Command::Demo(args) => demo::run(args),
            Command::Check(args) => check::run(args),
            Command::Explain(args) => explain::run(args),
            Command::Schema(args) => schema::run(args),
            Command::Pub(args) => publish::run(args),
            Command::Sub(args) => subscribe::run(args),
            Command::Broker(args) => broker::run(args),
            Command::Ports(args) => ports::run(args),
            Command::Serial(args) => serial::run(args),
            Command::Pins(args) => pins::run(args),
            Command::Queue(args) => queue::run(args),
            Command::SafeState(args) => safe_state::run(args),
            Command::Test(args) => test::run(args),
            Command::View(args) => view::run(args),
        }
    }
}

/// A file given as `-c FILE`.
#[derive(Debug, Clone, Args)]
pub struct ConfigOption {
    /// The configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = DEFAULT_FILE)]
    pub file: PathBuf,
}

/// A file given by itself.
#[derive(Debug, Clone, Args)]
pub struct ConfigFile {
    /// The configuration file
    #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
    pub file: PathBuf,
}

/// Runs the command of this process's arguments; returns its exit code. Does not panic.
pub fn main() -> i32 {
    panic::set_hook(Box::new(report));
    guarded(|| match Cli::try_parse() {
        Ok(cli) => code(cli.command.run()),
        Err(e) => {
            // Help and version go to stdout, which may be closed; there is nobody to tell then.
            let _ = e.print();
            e.exit_code()
        }
    })
}

fn code(outcome: Outcome) -> i32 {
    match outcome {
        Ok(()) => exit::DONE,
        Err(failure) => {
            if !failure.text.is_empty() {
                say(&format!("pinpost: {}", failure.text));
            }
            failure.code
        }
    }
}

fn guarded(body: impl FnOnce() -> i32) -> i32 {
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or(exit::INTERNAL)
}

/// One line for a panic, wherever it happens; whether it ends the process is for its catcher to say.
fn report(info: &PanicHookInfo<'_>) {
    say(&report_line(&panic_text(info.payload()), info.location().map(|l| l.to_string())));
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic").to_string()
}

fn report_line(text: &str, place: Option<String>) -> String {
    let to = match env!("CARGO_PKG_REPOSITORY") {
        "" => "to the issue tracker named in the README",
        url => url,
    };
    format!(
        "pinpost: internal error: {} (at {}, version {}); please report this line {to}",
        text.escape_debug(),
        place.unwrap_or_else(|| "an unknown place".into()),
        env!("CARGO_PKG_VERSION"),
    )
}

/// Runs a future on this thread. Does not wait at the end for what still blocks (a name look-up, a read of stdin).
fn block_on(future: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    let outcome = runtime.block_on(future);
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_panic_is_exit_code_70_and_one_line() {
        assert_eq!(guarded(|| panic!("deliberate")), exit::INTERNAL);
        let line = report_line("two\nlines", Some("src/x.rs:1:2".into()));
        assert_eq!(line.lines().count(), 1);
        assert!(line.contains("src/x.rs:1:2") && line.contains("report"), "{line}");
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let line = format!("pinpost {}", command.get_name());
            assert!(help.contains("Examples:") && help.contains(&line), "{line}: {help:?}");
        }
    }
}
