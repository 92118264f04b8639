//! pinpost: GPIO pins and serial frames to MQTT and back. The map of the house.
//!
//! # The idea
//! Readings come up from devices, commands go down to them, and what is *decided* in between is decided in one place
//! that does no I/O: [`engine::Engine::handle`] takes an event and the present moment and gives effects. Around it are
//! thin, supervised tasks: one per device, one for the broker, one loop (the hub) that feeds events in and carries
//! effects out. Every message that leaves passes through one log (the queue), so "online" is only the case where the
//! log is short. The YAML is read as *what was written*, then resolved into a *plan* in which nothing is missing and
//! nothing conflicts; only a plan can run. Kinds of device, ways to cut and decode frames, and filters are open lists:
//! an entry is one file and one word in a list.
//!
//! ```text
//!           ┌────────┐ readings, outcomes ┌─────────────────────────┐ append ┌───────┐ take/done ┌──────┐
//!  pins ──▶ │ device │ ─────────────────▶ │ hub ── Event ──▶ engine │ ─────▶ │ queue │ ────────▶ │ link │ ◀─▶ broker
//! ports ──▶ │ tasks  │ ◀───────────────── │     ◀─ Effect ── (pure) │        └───┬───┘           └──┬───┘
//!           └────────┘       orders       └────────▲────────▲───────┘            │ writer thread     │
//!                                                  │        └── messages, up, down ──────────────────┘
//!                                                  └ signals, watchdog           └─▶ disk
//! ```
//!
//! # The rooms
//! - [`model`] THE NOUNS: id, value, reading, command, message, status, problem, time. Imports nothing.
//! - [`config`] WHAT WAS WRITTEN: YAML to raw shapes with the place of every key; every mistake of form, with advice.
//! - [`codec`] BYTES TO FRAMES TO FIELDS, pure: framing, check, decoding.
//! - [`wire`] MQTT WORDS, pure: topics (built and taken apart only there), payloads, commands, the queue's records, one
//!   file for each dialect (Home Assistant, Homie, Sparkplug).
//! - [`expr`] EXPRESSIONS AND TEMPLATES, pure: Jinja, compiled once, names resolved to points; "not known" is not false.
//! - [`engine`] DECISIONS, pure: points and filters, outputs and their limits, commands, rules, relays, sessions, what
//!   the gateway says of itself, also to Home Assistant and to Sparkplug's hosts.
//! - [`hal`] DOORS TO HARDWARE: pins (Raspberry Pi, character device, simulated), ports (serial line, TCP, a program) and
//!   the task by which devices share one, buses and the kernel's sensors, what each board can do, what is plugged in.
//! - [`device`] KINDS: one file each over hal and codec; a kind reads its keys, claims its pins and gives a task.
//! - [`queue`] STORE AND FORWARD: opaque bytes and their numbers, in memory and on disk; it knows nothing of MQTT.
//! - [`link`] THE BROKER: one connection (and a witness for each further will), the window of what is unacknowledged,
//!   MQTT 5 and 3.1.1, the embedded broker and who may do what there, and one in memory behind the same door for
//!   `pinpost test`.
//! - [`plan`] WHAT CAN RUN: a file resolved against the open lists; every mistake of meaning.
//! - [`runtime`] THE ONLY ROOM THAT STARTS TASKS: wiring, hub, supervisor, what survives (state, memory), systemd.
//! - [`cli`] one file per command.
//! - [`clock`] the only place that reads time · [`backoff`] when to try again, pure · [`logging`] journal or stderr.
//!
//! # Who may name whom
//! `tests/architecture.rs` reads the source and holds this table. *params* are the shapes of the configuration
//! (`scalar`, `raw`, `Word`, `Places`, `near`), nothing that reads a file.
//!
//! | room | may name |
//! |---|---|
//! | model, queue | nobody |
//! | config, clock, backoff | model |
//! | codec, wire, expr | model, params |
//! | engine | model, wire, expr, params |
//! | hal | model, params, clock, backoff, logging |
//! | device | as hal, and codec, expr, hal |
//! | link | model, wire, queue, clock, backoff, logging |
//! | plan | model, config, wire, codec, expr, device, hal, engine, link, queue |
//! | runtime | all but cli |
//! | cli | all |
//!
//! Members of an open list do not name each other. No clock, task, file or socket in model, codec, wire, expr and engine.
//! Crates with one door: rppal, gpiocdev and tokio-serial in hal, rumqttc and rumqttd in link, the YAML parsers in
//! config, minijinja in expr, rmodbus in device, ciborium and prost in wire, the journal in logging.
//!
//! # A frame's way up
//! Bytes of a port → `hal/bus` (every device on the port hears them; one at a time may speak) → `codec` (cut, checked,
//! decoded; what is wrong is counted by reason and never ends the task) → the device stamps a reading with the moment
//! it was read → a bounded channel, in which a flood slows its own device
//! (and all wait a moment while the queue's memory is nearly full, so that disk and link catch up) → hub →
//! `engine/points` (filters, last value) → `wire::Record` → queue (gives the number, keeps the stamp) →
//! `runtime/outbox` (the record becomes a message only now, when its time may have been put right; here readings are
//! put together in batches, and Sparkplug's births go first) → link → PUBACK → the queue forgets each reading.
//!
//! # A command's way down
//! Topic → `wire::topics` says whose it is → `engine/commands`: not a duplicate, not retained, not old news, known →
//! `engine/outputs`: interlock, dead time, min and max → the device acts and **reads back** → the state as read, the
//! answer with its correlation, and only then the acknowledgement to the broker. `bridge/request/command` goes the
//! same way; nothing moves a pin past `engine/outputs`, which also speaks up by itself: a limit, a stop, a lost broker.
//!
//! # Manners
//! - Vital parts (hub, queue) end the process when they fail and systemd starts it anew; devices and link fail alone
//!   and come back. A panic in a device is that device's outage: `offline`, a pause, and its output starts safe.
//! - Who could wait for whom: devices wait for the hub, the hub waits for nobody (to a device it says "behind", to the
//!   link it speaks through the queue, to the disk through the queue's thread). So no ring can close.
//! - Stopping is an order with deadlines: outputs take `on_stop` and nothing is begun any more; the link says `offline`
//!   and ends; devices end and what they still had to say is queued; the queue is written.
//! - A reload is such a stop and a start in one process: the pins, the clock and the mark of a running daemon stay, and
//!   outputs that both plans have are left as they are.
//! - `pinpost test` runs the same daemon on a stage: moments are tokio's, so a runtime whose time is held holds all of
//!   the gateway's; pins, ports and broker are in memory. So no `std::time::Instant` where a timer could be waited for.
//! - READY means that the plan runs, not that a broker answered. The watchdog is fed only when the hub has answered.
//! - Errors: `Problem` for people who write YAML, all at once; small enums elsewhere, by what happens next.
//! - Comments say why. Test names are sentences; histories of the engine are texts in `tests/engine/`. No test sleeps.
//!
//! # Where it differs from the first proposal, and why
//! - `plan` is a room, not a file of runtime: `check`, `explain` and `safe-state` need it and start no task.
//! - The limits of outputs are in `engine/outputs`, not in the kind: an interlock is between devices, and a limit must
//!   hold for whoever wishes. A kind only writes and reads back.
//! - The queue is two halves: bookkeeping behind a short lock (`queue::Shared`), and a thread that does what it asks
//!   (`queue::Writer`). The hub and the link never wait for a disk.
//! - A reading is written as a message when it leaves, not when it is read: only then its number and true time are known.
//! - engine, hal and device know the shapes of their own keys (params), so that an entry of an open list is one file.

pub mod backoff;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod device;
pub mod engine;
pub mod expr;
pub mod hal;
pub mod link;
pub mod logging;
pub mod model;
pub mod plan;
pub mod queue;
pub mod runtime;
pub mod wire;
