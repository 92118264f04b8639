//! THE NOUNS. What the other rooms talk about; this room talks about nobody.
//!
//! No clock, file, socket or task here, and no name of another room.

pub mod command;
pub mod id;
pub mod message;
pub mod output;
pub mod problem;
pub mod reading;
pub mod spec;
pub mod status;
pub mod time;
pub mod value;

pub use command::{Action, Command, Outcome, OutcomeKind, Refusal};
pub use id::{DeviceId, PointId, Ticket, is_name};
pub use message::{Incoming, Message, Properties, Qos};
pub use output::{Begin, OutputLimits, Scale, Setting};
pub use problem::{Place, Problem};
pub use reading::{Frame, Quality, Reading};
pub use spec::{Batch, Deliver, DeviceSpec, PayloadFormat, PointSpec, Priority, Takes, VerbSpec};
pub use status::{DeviceCounters, DeviceStatus};
pub use time::{Boot, Mono, Now, Stamp, Wall, rough};
pub use value::Value;
