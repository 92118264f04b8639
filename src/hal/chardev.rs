//! Pins through the kernel's GPIO character device (uAPI v2): the only file that names `gpiocdev`. For boards that rppal
//! does not know; a pin is a line's number on the chip.
//!
//! - An output is requested with its level, which the kernel sets before or with the direction. One that is to be kept
//!   is requested as it is, read, and then made an output.
//! - The kernel may let go of a line that is released. So the line of an output that is dropped stays requested until
//!   the process ends or somebody here wants it again; what happens at the end of the process is the driver's affair.
//! - Edges carry the kernel's monotonic time and a number for each; a gap in the numbers is counted as lost. ONE thread
//!   waits for all lines and is woken through a socket.
//! - The kernel debounces contacts. It tells a change when it has held, so what it says is dated back; and a storm that
//!   it keeps back nobody sees but in its count of interrupts, so that is looked at now and then.
//! - The chip is looked for anew for every pin that is taken. When it vanishes, its edges end and its outputs fail;
//!   the pins can be taken again as soon as it is back. Kernels before 6.7 wake nobody who waits for a line of a chip
//!   that vanishes, but its node goes from `/dev`, and that does.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use gpiocdev::line::{Bias, Direction, EdgeDetection, EdgeEvent, EdgeKind, Value};
use gpiocdev::request::Config;
use gpiocdev::{Chip, Request};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::time::{ClockId, clock_gettime};

use super::raspberry_pi::{missed, moment};
use super::{
    Board, Bounce, Edge, EdgeSender, HalError, HalErrorKind, InputPin, Level, OutputPin, Pull, Start, boards, list,
    port,
};

/// Whom the kernel names as the holder of our lines.
const CONSUMER: &str = "pinpost";
/// Edges that the kernel keeps for a line.
const KERNEL_BUFFER: u32 = 1024;
/// Edges that are read at a time.
const AT_A_TIME: usize = 16;
/// Chips that are looked for: `/dev/gpiochip0` and so on.
const CHIP_NUMBERS: u8 = 64;
/// How often interrupts are counted while the kernel debounces a line.
const LOOK: Duration = Duration::from_secs(4);
/// Where the kernel counts them.
const INTERRUPTS: &str = "/proc/interrupts";
/// Longest time the edge thread may take to give a line up; far more than any ioctl.
const ORDER: Duration = Duration::from_secs(1);

/// Outputs that nobody drives any more, by line, still requested.
type Parked = Arc<Mutex<BTreeMap<u8, Request>>>;

/// The lines of one GPIO chip.
pub struct Chardev {
    chip: Option<String>,
    parked: Parked,
    edges: Arc<EdgeThread>,
}

impl Chardev {
    /// The chip with this label, name or path; by default the header's of a Raspberry Pi, or the only one.
    pub fn open(chip: Option<String>) -> Result<Chardev, HalError> {
        let edges = EdgeThread::start()
            .map_err(|e| HalError::new(HalErrorKind::Io, format!("cannot start the thread for edges: {e}")))?;
        Ok(Chardev { chip, parked: Parked::default(), edges: Arc::new(edges) })
    }

    fn request(&self, pin: u8, config: &Config) -> Result<Request, HalError> {
        self.request_as(pin, config, CONSUMER)
    }

    fn request_as(&self, pin: u8, config: &Config, consumer: &str) -> Result<Request, HalError> {
        let chip = find(self.chip.as_deref())?;
        Request::from_config(config.clone())
            .on_chip(chip.path())
            .with_consumer(consumer)
            .with_kernel_event_buffer_size(KERNEL_BUFFER)
            .request()
            .map_err(|e| refused(pin, &chip, &e))
    }

    /// The output that was dropped here, with its level; `None` if there is none, or none that still works.
    fn unpark(&self, pin: u8, start: Start) -> Option<Request> {
        let request = lock(&self.parked).remove(&pin)?;
        let works = match start {
            Start::Keep => request.value(pin.into()).map(drop),
            Start::At(level) => request.set_value(pin.into(), value(level)),
        };
        works.is_ok().then_some(request)
    }
}

fn lock(parked: &Parked) -> std::sync::MutexGuard<'_, BTreeMap<u8, Request>> {
    parked.lock().unwrap_or_else(|e| e.into_inner())
}

impl Board for Chardev {
    fn describe(&self) -> String {
        let machine = list::board_model().unwrap_or_else(|| std::env::consts::ARCH.into());
        match find(self.chip.as_deref()).and_then(|chip| chip.info().map_err(|e| failed("its chip", &e))) {
            Ok(chip) => format!("{machine} ({}, {})", chip.name, chip.label),
            Err(e) => format!("{machine} (character device: {e})"),
        }
    }

    fn input(&self, pin: u8, pull: Pull, edges: EdgeSender) -> Result<Box<dyn InputPin>, HalError> {
        self.contact(pin, pull, Bounce { hold: Duration::ZERO, limit: u32::MAX }, edges)
    }

    fn contact(&self, pin: u8, pull: Pull, bounce: Bounce, edges: EdgeSender) -> Result<Box<dyn InputPin>, HalError> {
        lock(&self.parked).remove(&pin);
        let bias = match pull {
            Pull::Up => Bias::PullUp,
            Pull::Down => Bias::PullDown,
            Pull::Off => Bias::Disabled,
        };
        let mut config = Config::default();
        config.as_input().with_bias(bias).with_edge_detection(EdgeDetection::BothEdges).with_line(pin.into());
        let mut consumer = CONSUMER.to_owned();
        if !bounce.hold.is_zero() {
            config.with_debounce_period(bounce.hold);
            // its interrupts are counted under this name
            consumer = contact_name(pin);
        }
        let request = Arc::new(self.request_as(pin, &config, &consumer)?);
        self.edges.arm(pin, request.clone(), bounce, edges)?;
        Ok(Box::new(Input { pin, request: Some(request), lag: bounce.hold, edges: self.edges.clone() }))
    }

    fn output(&self, pin: u8, start: Start) -> Result<Box<dyn OutputPin>, HalError> {
        let request = match (self.unpark(pin, start), start) {
            (Some(request), _) => request,
            (None, Start::At(level)) => {
                let mut config = Config::default();
                config.as_output(value(level)).with_line(pin.into());
                self.request(pin, &config)?
            }
            (None, Start::Keep) => {
                let mut config = Config::default();
                config.with_line(pin.into());
                let request = self.request(pin, &config)?;
                let fault = |e| failed(&format!("GPIO{pin}"), &e);
                let now = request.value(pin.into()).map_err(fault)?;
                config.as_output(now);
                request.reconfigure(&config).map_err(fault)?;
                request
            }
        };
        Ok(Box::new(Output { pin, request: Some(request), parked: self.parked.clone() }))
    }
}

struct Output {
    pin: u8,
    /// Always there until the drop.
    request: Option<Request>,
    parked: Parked,
}

impl Output {
    fn request(&self) -> Result<&Request, HalError> {
        self.request.as_ref().ok_or_else(|| HalError::new(HalErrorKind::Io, "the pin was given up"))
    }
}

impl OutputPin for Output {
    fn write(&mut self, level: Level) -> Result<(), HalError> {
        let set = self.request()?.set_value(self.pin.into(), value(level));
        set.map_err(|e| failed(&format!("GPIO{}", self.pin), &e))
    }
    fn read(&self) -> Result<Level, HalError> {
        read(self.pin, self.request()?)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            lock(&self.parked).insert(self.pin, request);
        }
    }
}

struct Input {
    pin: u8,
    /// Always there until the drop.
    request: Option<Arc<Request>>,
    lag: Duration,
    edges: Arc<EdgeThread>,
}

impl InputPin for Input {
    fn read(&self) -> Result<Level, HalError> {
        match &self.request {
            Some(request) => read(self.pin, request),
            None => Err(HalError::new(HalErrorKind::Io, "the pin was given up")),
        }
    }
    fn lag(&self) -> Duration {
        self.lag
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.request = None;
        self.edges.disarm(self.pin);
    }
}

fn value(level: Level) -> Value {
    if level == Level::High { Value::Active } else { Value::Inactive }
}

fn read(pin: u8, request: &Request) -> Result<Level, HalError> {
    match request.value(pin.into()) {
        Ok(Value::Active) => Ok(Level::High),
        Ok(Value::Inactive) => Ok(Level::Low),
        Err(e) => Err(failed(&format!("GPIO{pin}"), &e)),
    }
}

/// What the edge thread is asked to do.
enum Order {
    Arm(u8, Arc<Request>, Bounce, EdgeSender),
    /// Answered when it is done.
    Disarm(u8, SyncSender<()>),
}

/// The thread that waits for edges, seen from outside. It ends when this is dropped.
struct EdgeThread {
    orders: Mutex<Option<Sender<Order>>>,
    bell: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl EdgeThread {
    fn start() -> io::Result<EdgeThread> {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        let (orders, inbox) = mpsc::channel();
        let nodes = watch_nodes().inspect_err(|e| log::debug!("/dev cannot be watched: {e}")).ok();
        let waiter = Waiter { inbox, ear, nodes, armed: Vec::new(), look: None };
        let thread = std::thread::Builder::new().name("edges".into()).spawn(move || waiter.run())?;
        Ok(EdgeThread { orders: Mutex::new(Some(orders)), bell, thread: Some(thread) })
    }

    fn ask(&self, order: Order) -> bool {
        let orders = self.orders.lock().unwrap_or_else(|e| e.into_inner());
        let sent = orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        // a bell that is full has rung already
        let _ = (&self.bell).write(&[1]);
        sent
    }

    fn arm(&self, pin: u8, request: Arc<Request>, bounce: Bounce, edges: EdgeSender) -> Result<(), HalError> {
        let no = || HalError::new(HalErrorKind::Io, format!("GPIO{pin} cannot be watched: the edge thread has ended"));
        self.ask(Order::Arm(pin, request, bounce, edges)).then_some(()).ok_or_else(no)
    }

    fn disarm(&self, pin: u8) {
        let (tell, told) = mpsc::sync_channel(1);
        if !self.ask(Order::Disarm(pin, tell)) || told.recv_timeout(ORDER).is_err() {
            log::error!("GPIO{pin} was not given up: the edge thread does not answer");
        }
    }
}

impl Drop for EdgeThread {
    fn drop(&mut self) {
        self.orders.lock().unwrap_or_else(|e| e.into_inner()).take();
        let _ = (&self.bell).write(&[1]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One line that is watched.
struct Armed {
    pin: u8,
    request: Arc<Request>,
    /// `None` when its chip has failed.
    edges: Option<EdgeSender>,
    /// Number of its last edge; the kernel counts from 1.
    last: u32,
    /// What the kernel keeps back.
    bounce: Bounce,
    /// Its interrupts at the last look.
    interrupts: Option<u64>,
}

/// The thread that waits for edges, from inside.
struct Waiter {
    inbox: Receiver<Order>,
    ear: UnixStream,
    /// Woken by the end of a node in `/dev`.
    nodes: Option<Inotify>,
    armed: Vec<Armed>,
    /// The last look at the interrupts, while the kernel debounces a line.
    look: Option<Instant>,
}

impl Waiter {
    fn run(mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Arm(pin, request, bounce, edges)) => {
                    self.armed.push(Armed { pin, request, edges: Some(edges), last: 0, bounce, interrupts: None });
                }
                Ok(Order::Disarm(pin, tell)) => {
                    self.armed.retain(|a| a.pin != pin);
                    let _ = tell.send(());
                }
                Err(mpsc::TryRecvError::Disconnected) => return,
                Err(mpsc::TryRecvError::Empty) => self.wait(),
            }
        }
    }

    /// Waits for edges or a ring, and hands the edges over.
    fn wait(&mut self) {
        let next = self.watch_storms();
        let ready: Vec<bool> = {
            let watched = self.armed.iter().filter(|a| a.edges.is_some());
            let mut fds = vec![PollFd::new(self.ear.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.nodes.iter().map(|nodes| PollFd::new(nodes.as_fd(), PollFlags::POLLIN)));
            fds.extend(watched.map(|a| PollFd::new(a.request.as_fd(), PollFlags::POLLIN)));
            if poll(&mut fds, next).is_err() {
                // called out of its wait; nothing else can go wrong with descriptors that are open
                return;
            }
            fds.iter().map(|fd| fd.any().unwrap_or(true)).collect()
        };
        let mut ready = ready.into_iter();
        if ready.next() == Some(true) {
            while self.ear.read(&mut [0; 64]).is_ok_and(|n| n == 64) {}
        }
        if let Some(nodes) = &self.nodes
            && ready.next() == Some(true)
        {
            // which node it was does not matter: the next wait tells of a line whose chip is gone
            while nodes.read_events().is_ok() {}
        }
        for (armed, ready) in self.armed.iter_mut().filter(|a| a.edges.is_some()).zip(ready) {
            if ready && let Err(e) = armed.take() {
                log::error!("GPIO{}: its chip fails: {e}", armed.pin);
                armed.edges = None;
            }
        }
    }
}

impl Waiter {
    /// Looks at the interrupts of the lines that the kernel debounces, if it is time; when to look again.
    fn watch_storms(&mut self) -> PollTimeout {
        if self.armed.iter().all(|a| a.bounce.hold.is_zero() || a.edges.is_none()) {
            self.look = None;
            return PollTimeout::NONE;
        }
        let now = Instant::now();
        let passed = self.look.map_or(Duration::ZERO, |last| now - last);
        if self.look.is_some() && passed < LOOK {
            return PollTimeout::try_from(LOOK - passed + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        }
        self.look = Some(now);
        // where they cannot be read there is nothing to be said of storms
        let text = std::fs::read_to_string(INTERRUPTS).unwrap_or_default();
        for armed in self.armed.iter_mut().filter(|a| !a.bounce.hold.is_zero()) {
            let count = interrupts(&text, &contact_name(armed.pin));
            let before = std::mem::replace(&mut armed.interrupts, count);
            let (Some(count), Some(before), Some(edges)) = (count, before, &armed.edges) else { continue };
            if count.saturating_sub(before) as f64 > f64::from(armed.bounce.limit) * passed.as_secs_f64() {
                edges.storm();
            }
        }
        PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX)
    }
}

/// Tells of nodes that go from `/dev`.
fn watch_nodes() -> nix::Result<Inotify> {
    let nodes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    nodes.add_watch("/dev", AddWatchFlags::IN_DELETE)?;
    Ok(nodes)
}

/// The name under which a debounced line is requested, so that its interrupts can be told from others.
fn contact_name(pin: u8) -> String {
    format!("{CONSUMER}-{pin}")
}

/// Interrupts of whoever has this name, on all processors; `None` if there is nobody. Source: proc(5), `/proc/interrupts`.
fn interrupts(text: &str, name: &str) -> Option<u64> {
    let rows = text.lines().filter(|line| line.split_whitespace().next_back() == Some(name));
    let counts = rows.map(|row| {
        let words = row.split_whitespace().skip(1);
        words.map_while(|word| word.parse::<u64>().ok()).fold(0, u64::saturating_add)
    });
    counts.reduce(u64::saturating_add)
}

impl Armed {
    /// Hands over what the kernel has; a chip that has vanished says so here.
    fn take(&mut self) -> gpiocdev::Result<()> {
        let size = self.request.edge_event_u64_size();
        let mut buffer = vec![0; size * AT_A_TIME];
        let words = self.request.read_edge_events_into_slice(&mut buffer)?;
        for event in buffer.get(..words).unwrap_or_default().chunks(size) {
            let event = self.request.edge_event_from_slice(event)?;
            self.hand_over(&event);
        }
        Ok(())
    }

    fn hand_over(&mut self, event: &EdgeEvent) {
        let Some(edges) = &self.edges else { return };
        let lost = missed(self.last, event.line_seqno);
        self.last = event.line_seqno;
        if lost > 0 {
            edges.lose(lost);
        }
        let level = if event.kind == EdgeKind::Rising { Level::High } else { Level::Low };
        let now = Instant::now();
        let at = match clock_gettime(ClockId::CLOCK_MONOTONIC) {
            Ok(clock) => moment(Duration::from_nanos(event.timestamp_ns), now, Duration::from(clock)),
            Err(_) => now,
        };
        edges.push(Edge { level, at: at.checked_sub(self.bounce.hold).unwrap_or(at) });
    }
}

/// Opens the chip that is meant.
fn find(wanted: Option<&str>) -> Result<Chip, HalError> {
    if let Some(name) = wanted.filter(|w| w.starts_with('/') || is_chip_name(w)) {
        let path = Path::new("/dev").join(name);
        return Chip::from_path(&path).map_err(|e| no_chip(&path, &e));
    }
    let (chips, forbidden) = chips();
    let label = wanted.or_else(|| boards::here().map(|b| b.chip));
    let found: Vec<&(Chip, String)> = chips.iter().filter(|c| label.is_none_or(|l| l == c.1)).collect();
    let list = |chips: &[&(Chip, String)]| {
        let names: Vec<String> = chips.iter().map(|(chip, label)| format!("{} ({label})", chip.name())).collect();
        names.join(", ")
    };
    let path = match (&found[..], forbidden) {
        ([one], _) => one.0.path().to_owned(),
        ([], Some(e)) => return Err(e),
        ([], None) => {
            let all: Vec<_> = chips.iter().collect();
            let there =
                if all.is_empty() { "there is none at all".into() } else { format!("there are: {}", list(&all)) };
            let which = label.map_or_else(String::new, |l| format!(" `{l}`"));
            let text = format!("no GPIO chip{which} at /dev/gpiochip*; {there}");
            return Err(HalError::new(HalErrorKind::NotFound, text));
        }
        (several, _) => {
            let text = format!("which GPIO chip is meant? write gpio: {{ chip: NAME }} with one of {}", list(several));
            return Err(HalError::new(HalErrorKind::Unsupported, text));
        }
    };
    Chip::from_path(&path).map_err(|e| no_chip(&path, &e))
}

fn is_chip_name(name: &str) -> bool {
    name.strip_prefix("gpiochip").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// All chips that may be opened, each once, with their labels; and the first that may not.
fn chips() -> (Vec<(Chip, String)>, Option<HalError>) {
    let (mut chips, mut forbidden) = (Vec::<(Chip, String)>::new(), None);
    for n in 0..CHIP_NUMBERS {
        let path = PathBuf::from(format!("/dev/gpiochip{n}"));
        match Chip::from_path(&path) {
            // some names are links to others
            Ok(chip) if chips.iter().any(|c| c.0.path() == chip.path()) => {}
            Ok(chip) => {
                if let Ok(info) = chip.info() {
                    chips.push((chip, info.label));
                }
            }
            Err(e) => {
                let e = no_chip(&path, &e);
                if e.kind == HalErrorKind::Permission && forbidden.is_none() {
                    forbidden = Some(e);
                }
            }
        }
    }
    (chips, forbidden)
}

/// A GPIO chip of this machine, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChipList {
    /// `gpiochip0`.
    pub name: String,
    /// `pinctrl-rp1`.
    pub label: String,
    /// Its lines, in order.
    pub lines: Vec<LineList>,
}

/// A line of a chip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineList {
    /// Its number: the pin.
    pub pin: u32,
    /// Its name on the board, where it has one.
    pub name: String,
    /// Who holds it; an empty name is the kernel itself. `None` if nobody.
    pub user: Option<String>,
    /// Whether it is driven.
    pub output: bool,
}

/// All chips that may be opened, with their lines.
pub fn list() -> Vec<ChipList> {
    let of = |(chip, label): &(Chip, String)| {
        let lines = chip.line_info_iter().into_iter().flatten().flatten().map(|line| LineList {
            pin: line.offset,
            name: line.name,
            user: line.used.then_some(line.consumer),
            output: line.direction == Direction::Output,
        });
        ChipList { name: chip.name(), label: label.clone(), lines: lines.collect() }
    };
    chips().0.iter().map(of).collect()
}

/// What the kernel has said.
fn errno(e: &gpiocdev::Error) -> Option<i32> {
    match e {
        gpiocdev::Error::Os(errno) | gpiocdev::Error::Uapi(_, gpiocdev_uapi::Error::Os(errno)) => Some(errno.0),
        _ => None,
    }
}

/// Why a chip cannot be opened.
fn no_chip(path: &Path, e: &gpiocdev::Error) -> HalError {
    match errno(e) {
        Some(libc::EACCES | libc::EPERM) => {
            port::forbidden(&path.to_string_lossy(), &io::ErrorKind::PermissionDenied.into())
        }
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            let text = format!("{} is not there; `pinpost pins` shows the chips of this machine", path.display());
            HalError::new(HalErrorKind::NotFound, text)
        }
        _ => failed(&path.display().to_string(), e),
    }
}

/// Why a line was refused.
fn refused(pin: u8, chip: &Chip, e: &gpiocdev::Error) -> HalError {
    match errno(e) {
        Some(libc::EBUSY) => {
            let text = match chip.line_info(pin.into()).map(|line| line.consumer) {
                Ok(who) if who.starts_with(CONSUMER) => {
                    format!("GPIO{pin} is already in use in this gateway, or in another")
                }
                Ok(who) if !who.is_empty() => format!("`{who}` holds GPIO{pin} of {}; end it", chip.name()),
                _ => format!("a kernel driver or another program holds GPIO{pin} of {}", chip.name()),
            };
            HalError::new(HalErrorKind::Busy, text)
        }
        Some(libc::EINVAL) if chip.info().is_ok_and(|c| c.num_lines <= pin.into()) => {
            let lines = chip.info().map_or(0, |c| c.num_lines);
            let text = format!("{} has no line {pin}: it has {lines}, from 0 on", chip.name());
            HalError::new(HalErrorKind::Unsupported, text)
        }
        Some(libc::EACCES | libc::EPERM | libc::ENOENT) => no_chip(chip.path(), e),
        _ => failed(&format!("GPIO{pin} of {}", chip.name()), e),
    }
}

fn failed(what: &str, e: &gpiocdev::Error) -> HalError {
    match errno(e) {
        Some(libc::ENODEV) => HalError::new(HalErrorKind::NotFound, format!("{what}: the GPIO chip has vanished")),
        _ => HalError::new(HalErrorKind::Io, format!("{what}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::interrupts;

    #[test]
    fn interrupts_are_counted_by_name_on_all_processors() {
        let text = "           CPU0       CPU1
 24:         12          3  pinctrl-bcm2835  17 Edge      pinpost-17
 25:          1          0  pinctrl-bcm2835   7 Edge      pinpost-7
 45:        100          9     GICv3 32 Level     arch_timer
ERR:          7
";
        assert_eq!(interrupts(text, "pinpost-17"), Some(15));
        assert_eq!(interrupts(text, "pinpost-7"), Some(1));
        assert_eq!(interrupts(text, "pinpost-1"), None);
    }
}
