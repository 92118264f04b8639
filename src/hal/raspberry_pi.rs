//! A Raspberry Pi's pins through rppal: the only file that names it.
//!
//! What rppal 0.22.1 does, and what is made of it here:
//! - An output is a register store. Its level is set before its direction, and rppal's habit of making pins inputs
//!   again when they are dropped is turned off, for inputs too: what a pin was before we came is no safer. The kernel
//!   does not protect a pin from such a store, so it is asked first who holds it.
//! - Edges come from the kernel (uAPI v2, 1024 kept for each line), with its monotonic time and a number for each. A gap
//!   in the numbers is counted as lost.
//! - `set_async_interrupt` hides that a line is busy, so every line is armed synchronously and ONE thread waits for all.
//!   rppal holds a lock while it waits: to change the set of lines, that thread is called out of its wait by a signal
//!   that does nothing else. So it never wakes up without an edge or an order.
//! - If the chip itself fails, every input's edges end (`None`), and the inputs can be taken again once all are dropped.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::time::{ClockId, clock_gettime};
use rppal::gpio::{self, Gpio, Mode, Trigger};
use rppal::pwm::{self, Channel, Polarity, Pwm};
use rppal::system::{DeviceInfo, Model};

use super::soft_pwm::SoftPwm;
use super::{
    Board, Edge, EdgeSender, HalError, HalErrorKind, InputPin, Level, OutputPin, Pull, PwmPin, Start, list, port,
};

/// The signal that calls the edge thread out of its wait. By default it is ignored, so a stray one harms nobody.
const CALL: Signal = Signal::SIGURG;
/// Time between two calls, for the case that one came just before the wait began.
const CALL_AGAIN: Duration = Duration::from_millis(2);
/// Longest time an order to the edge thread may take; far more than any ioctl.
const ORDER: Duration = Duration::from_secs(1);

/// The pins of this Raspberry Pi.
pub struct RaspberryPi {
    gpio: Gpio,
    model: String,
    board: Model,
    /// PWM channels in use.
    channels: Arc<Mutex<Vec<u8>>>,
    edges: Arc<EdgeThread>,
}

impl RaspberryPi {
    /// Whether this machine is one that rppal knows.
    pub fn known() -> bool {
        DeviceInfo::new().is_ok()
    }

    /// Finds the board and its GPIO. Several may be open at a time; they share the pins.
    pub fn open() -> Result<RaspberryPi, HalError> {
        let device = DeviceInfo::new().map_err(|_| no_board())?;
        let gpio = Gpio::new().map_err(no_gpio)?;
        let edges = EdgeThread::start(gpio.clone())
            .map_err(|e| HalError::new(HalErrorKind::Io, format!("cannot start the thread for edges: {e}")))?;
        Ok(RaspberryPi {
            gpio,
            model: device.model().to_string(),
            board: device.model(),
            channels: Arc::default(),
            edges: Arc::new(edges),
        })
    }

    /// The pin, if nobody has it: taking one writes its registers, which nothing but this question stops.
    fn free(&self, pin: u8) -> Result<gpio::Pin, HalError> {
        let free = self.gpio.get(pin).map_err(|e| refused(pin, e))?;
        match list::pin_user(pin) {
            Some(user) if !user.consumer.is_empty() => Err(held(pin, &format!("`{}`", user.consumer))),
            _ => Ok(free),
        }
    }
}

impl Board for RaspberryPi {
    fn describe(&self) -> String {
        format!("{} (rppal)", self.model)
    }

    fn input(&self, pin: u8, pull: Pull, edges: EdgeSender) -> Result<Box<dyn InputPin>, HalError> {
        let free = self.free(pin)?;
        let mut input = match pull {
            Pull::Up => free.into_input_pullup(),
            Pull::Down => free.into_input_pulldown(),
            Pull::Off => free.into_input(),
        };
        input.set_reset_on_drop(false);
        let input = self.edges.arm(input, edges)?;
        Ok(Box::new(Input { pin: Some(input), edges: self.edges.clone() }))
    }

    fn output(&self, pin: u8, start: Start) -> Result<Box<dyn OutputPin>, HalError> {
        let free = self.free(pin)?;
        let level = match start {
            Start::At(level) => level,
            Start::Keep => from_rppal(free.read()),
        };
        let mut output = match level {
            Level::Low => free.into_output_low(),
            Level::High => free.into_output_high(),
        };
        output.set_reset_on_drop(false);
        Ok(Box::new(Output { pin: output }))
    }

    fn pwm(&self, pin: u8, frequency: f64, high: f64, rest: Level) -> Result<Box<dyn PwmPin>, HalError> {
        if let Some(pwm) = self.hardware_pwm(pin, frequency, high)? {
            return Ok(Box::new(pwm));
        }
        let output = self.output(pin, Start::At(rest))?;
        Ok(Box::new(SoftPwm::start(pin, output, frequency, high, rest)?))
    }
}

/// Channel and function of the pins with a PWM. Sources: BCM2835 and BCM2711 ARM Peripherals, "Alternative function
/// assignments"; RP1 Peripherals, "Function select".
fn pwm_channel(model: Model, pin: u8) -> Option<(Channel, Mode)> {
    let five = matches!(
        model,
        Model::RaspberryPi5
            | Model::RaspberryPi500
            | Model::RaspberryPiComputeModule5
            | Model::RaspberryPiComputeModule5Lite
    );
    match pin {
        12 => Some((Channel::Pwm0, Mode::Alt0)),
        13 => Some((Channel::Pwm1, Mode::Alt0)),
        18 if five => Some((Channel::Pwm2, Mode::Alt3)),
        19 if five => Some((Channel::Pwm3, Mode::Alt3)),
        18 => Some((Channel::Pwm0, Mode::Alt5)),
        19 => Some((Channel::Pwm1, Mode::Alt5)),
        _ => None,
    }
}

impl RaspberryPi {
    /// The pin's own PWM; `None` if it has none, another pin has its channel, or the overlay is not loaded.
    fn hardware_pwm(&self, pin: u8, frequency: f64, high: f64) -> Result<Option<HardwarePwm>, HalError> {
        let Some((channel, mode)) = pwm_channel(self.board, pin) else { return Ok(None) };
        let mut taken = self.channels.lock().unwrap_or_else(|e| e.into_inner());
        if taken.contains(&(channel as u8)) {
            return Ok(None);
        }
        let free = self.free(pin)?;
        let pwm = match Pwm::with_frequency(channel, frequency, high, Polarity::Normal, true) {
            Ok(mut pwm) => {
                pwm.set_reset_on_drop(false);
                pwm
            }
            Err(e) => {
                log::info!("GPIO{pin}: pulses are made in software, since its PWM cannot be had: {e}");
                return Ok(None);
            }
        };
        // the pin is given to its PWM when that runs already
        let mut io = free.into_io(mode);
        io.set_reset_on_drop(false);
        taken.push(channel as u8);
        let channels = self.channels.clone();
        Ok(Some(HardwarePwm { pwm, pin, channel: channel as u8, channels, _io: io }))
    }
}

/// A pin of which a PWM has charge.
struct HardwarePwm {
    pwm: Pwm,
    pin: u8,
    channel: u8,
    channels: Arc<Mutex<Vec<u8>>>,
    /// Held, so that nobody else takes it.
    _io: gpio::IoPin,
}

impl HardwarePwm {
    fn error(&self, e: pwm::Error) -> HalError {
        HalError::new(HalErrorKind::Io, format!("GPIO{}: its PWM: {e}", self.pin))
    }
}

impl PwmPin for HardwarePwm {
    fn set(&mut self, high: f64) -> Result<(), HalError> {
        let period = self.pwm.period().map_err(|e| self.error(e))?;
        self.pwm.set_pulse_width(period.mul_f64(high.clamp(0.0, 1.0))).map_err(|e| self.error(e))
    }
    fn high(&self) -> Result<f64, HalError> {
        let period = self.pwm.period().map_err(|e| self.error(e))?;
        let width = self.pwm.pulse_width().map_err(|e| self.error(e))?;
        Ok(if period.is_zero() { 0.0 } else { width.as_secs_f64() / period.as_secs_f64() })
    }
    fn how(&self) -> &'static str {
        "hardware"
    }
}

impl Drop for HardwarePwm {
    fn drop(&mut self) {
        self.channels.lock().unwrap_or_else(|e| e.into_inner()).retain(|c| *c != self.channel);
    }
}

struct Output {
    pin: gpio::OutputPin,
}

impl OutputPin for Output {
    fn write(&mut self, level: Level) -> Result<(), HalError> {
        match level {
            Level::Low => self.pin.set_low(),
            Level::High => self.pin.set_high(),
        }
        Ok(())
    }
    fn read(&self) -> Result<Level, HalError> {
        Ok(if self.pin.is_set_high() { Level::High } else { Level::Low })
    }
}

struct Input {
    /// Always there until the drop.
    pin: Option<Arc<gpio::InputPin>>,
    edges: Arc<EdgeThread>,
}

impl InputPin for Input {
    fn read(&self) -> Result<Level, HalError> {
        match &self.pin {
            Some(pin) => Ok(from_rppal(pin.read())),
            None => Err(HalError::new(HalErrorKind::Io, "the pin was given up")),
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if let Some(pin) = self.pin.take() {
            self.edges.disarm(pin);
        }
    }
}

fn from_rppal(level: gpio::Level) -> Level {
    match level {
        gpio::Level::Low => Level::Low,
        gpio::Level::High => Level::High,
    }
}

/// What the edge thread is asked to do. Each is answered when it is done.
enum Order {
    Arm(gpio::InputPin, EdgeSender, SyncSender<Result<Arc<gpio::InputPin>, HalError>>),
    Disarm(Arc<gpio::InputPin>, SyncSender<()>),
    Stop,
}

/// The thread that waits for edges, seen from outside.
struct EdgeThread {
    orders: Sender<Order>,
    /// Set before each order, so that a thread busy with edges looks for it.
    asked: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EdgeThread {
    fn start(gpio: Gpio) -> io::Result<EdgeThread> {
        extern "C" fn nothing(_: libc::c_int) {}
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing; without SA_RESTART it ends the wait of the thread it is sent to.
        unsafe { sigaction(CALL, &action) }?;
        let (orders, inbox) = mpsc::channel();
        let asked = Arc::new(AtomicBool::new(false));
        let flag = asked.clone();
        let thread = std::thread::Builder::new().name("edges".into()).spawn(move || {
            let called = SigSet::from(CALL);
            let _ = called.thread_unblock();
            Waiter { gpio, inbox, asked: flag, armed: Vec::new(), failed: false }.run();
        })?;
        Ok(EdgeThread { orders, asked, thread: Some(thread) })
    }

    fn arm(&self, pin: gpio::InputPin, edges: EdgeSender) -> Result<Arc<gpio::InputPin>, HalError> {
        let number = pin.pin();
        let (tell, answer) = mpsc::sync_channel(1);
        self.ask(Order::Arm(pin, edges, tell), &answer).unwrap_or_else(|| {
            Err(HalError::new(
                HalErrorKind::Io,
                format!("GPIO{number} cannot be watched: the edge thread does not answer"),
            ))
        })
    }

    fn disarm(&self, pin: Arc<gpio::InputPin>) {
        let number = pin.pin();
        let (tell, answer) = mpsc::sync_channel(1);
        if self.ask(Order::Disarm(pin, tell), &answer).is_none() {
            log::error!("GPIO{number} was not given up: the edge thread does not answer");
        }
    }

    fn ask<T>(&self, order: Order, answer: &Receiver<T>) -> Option<T> {
        let since = Instant::now();
        self.orders.send(order).ok()?;
        while since.elapsed() < ORDER {
            self.call();
            match answer.recv_timeout(CALL_AGAIN) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        None
    }

    /// Calls the thread out of its wait.
    fn call(&self) {
        use std::os::unix::thread::JoinHandleExt;
        self.asked.store(true, Ordering::SeqCst);
        if let Some(thread) = &self.thread {
            // SAFETY: the thread was not joined yet, so its handle is valid even if it has ended.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), CALL as libc::c_int) };
        }
    }
}

impl Drop for EdgeThread {
    fn drop(&mut self) {
        let since = Instant::now();
        let _ = self.orders.send(Order::Stop);
        while self.thread.as_ref().is_some_and(|t| !t.is_finished()) && since.elapsed() < ORDER {
            self.call();
            std::thread::park_timeout(CALL_AGAIN);
        }
        if let Some(thread) = self.thread.take().filter(|t| t.is_finished()) {
            let _ = thread.join();
        }
    }
}

/// One line that is watched.
struct Armed {
    pin: Arc<gpio::InputPin>,
    edges: Option<EdgeSender>,
    /// Number of its last edge; the kernel counts from 1.
    last: Cell<u32>,
}

/// The thread that waits for edges, from inside.
struct Waiter {
    gpio: Gpio,
    inbox: Receiver<Order>,
    asked: Arc<AtomicBool>,
    armed: Vec<Armed>,
    /// The chip failed: no wait until every line is given up.
    failed: bool,
}

impl Waiter {
    fn run(mut self) {
        loop {
            let order = if self.armed.is_empty() || self.failed {
                self.inbox.recv().ok()
            } else {
                match self.inbox.try_recv() {
                    Ok(order) => Some(order),
                    Err(mpsc::TryRecvError::Disconnected) => None,
                    Err(mpsc::TryRecvError::Empty) => {
                        self.wait();
                        continue;
                    }
                }
            };
            match order {
                None | Some(Order::Stop) => return,
                Some(Order::Arm(pin, edges, tell)) => {
                    let _ = tell.send(self.arm(pin, edges));
                }
                Some(Order::Disarm(pin, tell)) => {
                    self.disarm(pin);
                    let _ = tell.send(());
                }
            }
        }
    }

    fn arm(&mut self, mut pin: gpio::InputPin, edges: EdgeSender) -> Result<Arc<gpio::InputPin>, HalError> {
        let number = pin.pin();
        if self.failed {
            return Err(HalError::new(
                HalErrorKind::Io,
                "the GPIO chip failed; it is tried again when all pins are free",
            ));
        }
        pin.set_interrupt(Trigger::Both, None).map_err(|e| refused(number, e))?;
        let pin = Arc::new(pin);
        self.armed.push(Armed { pin: pin.clone(), edges: Some(edges), last: Cell::new(0) });
        Ok(pin)
    }

    fn disarm(&mut self, pin: Arc<gpio::InputPin>) {
        let number = pin.pin();
        self.armed.retain(|a| a.pin.pin() != number);
        // rppal goes on watching a line whose pin is dropped
        if let Some(mut pin) = Arc::into_inner(pin)
            && let Err(e) = pin.clear_interrupt()
        {
            log::warn!("GPIO{number} is still watched: {e}");
        }
        if self.armed.is_empty() {
            self.failed = false;
        }
    }

    /// Hands edges over until an order comes or the chip fails.
    fn wait(&mut self) {
        let pins: Vec<&gpio::InputPin> = self.armed.iter().map(|a| &*a.pin).collect();
        // always the full list: an edge of a line not asked for would be overwritten by that line's next one
        let failure = loop {
            if self.asked.swap(false, Ordering::SeqCst) {
                return;
            }
            match self.gpio.poll_interrupts(&pins, false, None) {
                Ok(Some((pin, event))) => {
                    if let Some(armed) = self.armed.iter().find(|a| a.pin.pin() == pin.pin()) {
                        armed.hand_over(event);
                    }
                }
                Ok(None) => {}
                Err(gpio::Error::Io(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break e,
            }
        };
        log::error!("the GPIO chip fails: {failure}");
        self.failed = true;
        for armed in &mut self.armed {
            armed.edges = None;
        }
    }
}

impl Armed {
    fn hand_over(&self, event: gpio::Event) {
        let Some(edges) = &self.edges else { return };
        let lost = missed(self.last.replace(event.seqno), event.seqno);
        if lost > 0 {
            edges.lose(lost);
        }
        let level = match event.trigger {
            Trigger::RisingEdge => Level::High,
            _ => Level::Low,
        };
        let now = Instant::now();
        let at = match clock_gettime(ClockId::CLOCK_MONOTONIC) {
            Ok(clock) => moment(event.timestamp, now, Duration::from(clock)),
            Err(_) => now,
        };
        edges.push(Edge { level, at });
    }
}

/// Edges between two numbers that nobody saw. A number that goes back is a new count, not a loss.
pub(super) fn missed(last: u32, next: u32) -> u64 {
    let step = next.wrapping_sub(last);
    if step == 0 || step > u32::MAX / 2 { 0 } else { u64::from(step - 1) }
}

/// The instant of a time of the monotonic clock, which is also the clock of [`Instant`]. Never in the future.
pub(super) fn moment(stamp: Duration, now: Instant, clock: Duration) -> Instant {
    if stamp.is_zero() {
        return now;
    }
    now.checked_sub(clock.saturating_sub(stamp)).unwrap_or(now)
}

/// Why a pin was refused.
fn refused(pin: u8, e: gpio::Error) -> HalError {
    match e {
        gpio::Error::PinUsed(_) => {
            HalError::new(HalErrorKind::Busy, format!("GPIO{pin} is already in use in this gateway"))
        }
        gpio::Error::PinNotAvailable(_) => {
            HalError::new(HalErrorKind::Unsupported, format!("this board has no GPIO{pin}"))
        }
        gpio::Error::Io(e) if e.raw_os_error() == Some(libc::EBUSY) => held(pin, "another program or a kernel driver"),
        gpio::Error::PermissionDenied(path) => port::forbidden(&path, &io::ErrorKind::PermissionDenied.into()),
        e => HalError::new(HalErrorKind::Io, format!("GPIO{pin}: {e}")),
    }
}

/// Somebody else has the pin.
fn held(pin: u8, who: &str) -> HalError {
    HalError::new(HalErrorKind::Busy, format!("{who} holds GPIO{pin}; end it, or take its overlay out of config.txt"))
}

/// Why there is no board.
fn no_board() -> HalError {
    let unsupported = |text: String| HalError::new(HalErrorKind::Unsupported, text);
    let model = list::board_model();
    match (std::fs::read_to_string("/proc/cpuinfo"), model) {
        (_, Some(model)) if model.starts_with("Raspberry Pi") => unsupported(format!(
            "the board says it is a {model}, which rppal 0.22 does not know; write gpio: {{ backend: chardev }}, or use --simulate"
        )),
        (Err(e), None) => unsupported(format!(
            "cannot tell whether this is a Raspberry Pi: /proc/cpuinfo: {e}; under systemd the unit must not have ProcSubset=pid"
        )),
        (_, Some(model)) => {
            let help = "write gpio: { backend: chardev }, or use --simulate";
            unsupported(format!("this is not a Raspberry Pi ({model}); {help}"))
        }
        (Ok(_), None) => {
            unsupported(format!("this is not a Raspberry Pi ({}); use --simulate", std::env::consts::ARCH))
        }
    }
}

/// Why its GPIO cannot be opened.
fn no_gpio(e: gpio::Error) -> HalError {
    match e {
        gpio::Error::PermissionDenied(path) => port::forbidden(&path, &io::ErrorKind::PermissionDenied.into()),
        gpio::Error::Io(e) if e.kind() == io::ErrorKind::NotFound => {
            let missing = ["/dev/gpiomem", "/dev/gpiomem0"].iter().all(|p| std::fs::File::open(p).is_err());
            let text = if missing {
                "/dev/gpiomem is missing: in a container it must be passed in (--device), under systemd allowed (DeviceAllow=, no PrivateDevices=)"
            } else {
                "no /dev/gpiochip of this board is there: in a container or under systemd all /dev/gpiochip* must be allowed"
            };
            HalError::new(HalErrorKind::NotFound, text)
        }
        gpio::Error::UnknownModel => no_board(),
        e => HalError::new(HalErrorKind::Io, format!("cannot open the GPIO: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_numbers_is_a_loss_and_a_new_count_is_none() {
        assert_eq!(missed(0, 1), 0);
        assert_eq!(missed(1, 2), 0);
        assert_eq!(missed(0, 5), 4);
        assert_eq!(missed(u32::MAX, 0), 0);
        assert_eq!(missed(u32::MAX - 1, 1), 2);
        assert_eq!(missed(900, 1), 0);
        assert_eq!(missed(7, 7), 0);
    }

    #[test]
    fn a_kernel_time_becomes_an_instant_and_never_one_of_the_future() {
        let now = Instant::now();
        let clock = Duration::from_secs(5000);
        assert_eq!(moment(Duration::from_millis(4_999_750), now, clock), now - Duration::from_millis(250));
        assert_eq!(moment(Duration::from_secs(5001), now, clock), now);
        assert_eq!(moment(Duration::ZERO, now, clock), now);
    }
}
