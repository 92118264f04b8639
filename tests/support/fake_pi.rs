//! A Raspberry Pi 4 in a directory: whatever runs with [`FakePi::environment`] sees it as the machine's own GPIO, through
//! the genuine rppal. x86-64 Linux with glibc only; anywhere else the tests that use it fail, they are not skipped.
//!
//! Pins are BCM numbers 0 to 27, levels are `true` for high. See `tests/fakepi/` for how it works.
#![allow(dead_code, reason = "each test that includes this file uses its own part of it")]

#[path = "../fakepi/page.rs"]
mod page;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use page::{BUSY, DEBOUNCE, PINS, Page, SEQ, SIZE};
pub use page::{CLR, FSEL, SET};

/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// A Raspberry Pi 4 whose pins nothing drives.
pub struct FakePi {
    dir: PathBuf,
    page: Page,
    /// Removes the directory at the end, if it is ours.
    _own: Option<tempfile::TempDir>,
}

/// A store to a register, in the order in which they happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Store {
    /// Word offset: [`FSEL`], [`SET`], [`CLR`] …
    pub register: usize,
    pub value: u32,
    /// Levels of all pins after it.
    pub levels: u32,
}

/// What an event says besides its level.
#[repr(C)]
struct LineEvent {
    timestamp_ns: u64,
    id: u32,
    offset: u32,
    seqno: u32,
    line_seqno: u32,
    padding: [u32; 6],
}

impl FakePi {
    /// A new one.
    pub fn new() -> FakePi {
        let own = tempfile::tempdir().unwrap();
        let dir = own.path().to_owned();
        // the revision of a 4 B with 4 GB; rppal looks for this very line
        fs::write(dir.join("cpuinfo"), "Hardware\t: BCM2835\nRevision\t: c03111\nSerial\t\t: 00000000deadbeef\n")
            .unwrap();
        fs::write(dir.join("model"), "Raspberry Pi 4 Model B Rev 1.1\0").unwrap();
        fs::write(dir.join("gpiomem"), vec![0; SIZE]).unwrap();
        fs::write(dir.join("gpiochip0"), "").unwrap();
        fs::write(dir.join("trace"), "").unwrap();
        for pin in 0..PINS {
            nix::unistd::mkfifo(&dir.join(format!("line-{pin}")), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        }
        FakePi { page: map(&dir), dir, _own: Some(own) }
    }

    /// The one at `dir`, made by another process.
    pub fn at(dir: impl Into<PathBuf>) -> FakePi {
        let dir = dir.into();
        FakePi { page: map(&dir), dir, _own: None }
    }

    /// What a program's environment needs so that this is its machine.
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [("LD_PRELOAD", shim().into()), ("FAKEPI_DIR", self.dir.clone().into())]
    }

    /// Its files: `cpuinfo`, `model`, `gpiomem`, `gpiochip0`, `interrupts`; a file `NAME.forbidden` forbids `NAME`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Drives an input from outside and raises the interrupt, if the line is armed. Waits while the program is behind.
    pub fn edge(&self, pin: u8, high: bool) {
        self.drive(pin, Some(high));
        if let Some(mut line) = self.line(pin) {
            let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
            let number = self.page.word(SEQ + usize::from(pin)).fetch_add(1, SeqCst) + 1;
            let event = LineEvent {
                timestamp_ns: u64::try_from(now.as_nanos()).unwrap(),
                id: if high { 1 } else { 2 },
                offset: pin.into(),
                seqno: number,
                line_seqno: number,
                padding: [0; 6],
            };
            // SAFETY: a plain struct without gaps
            let bytes = unsafe { std::slice::from_raw_parts((&raw const event).cast(), size_of::<LineEvent>()) };
            // the line may be given up just now
            if let Err(e) = line.write_all(bytes) {
                assert_eq!(e.kind(), std::io::ErrorKind::BrokenPipe);
            }
        }
    }

    /// Drives a pin from outside without an interrupt; `None` lets go of it, so that its pull decides.
    pub fn drive(&self, pin: u8, high: Option<bool>) {
        self.page.drive(pin, high);
    }

    /// Lets the kernel lose `n` edges of an armed line: their numbers are missing.
    pub fn lose(&self, pin: u8, n: u32) {
        self.page.word(SEQ + usize::from(pin)).fetch_add(n, SeqCst);
    }

    /// The debounce that was asked of the kernel for a line; the fake kernel does not do it.
    pub fn debounce(&self, pin: u8) -> Duration {
        Duration::from_micros(self.page.word(DEBOUNCE + usize::from(pin)).load(SeqCst).into())
    }

    /// What the kernel says of its interrupts: their number since the start, and whose they are.
    pub fn interrupts(&self, rows: &[(u64, &str)]) {
        let row = |(n, (count, who)): (usize, &(u64, &str))| format!("{n:3}: {count} 0 fake {n} Edge {who}\n");
        let text: String = rows.iter().enumerate().map(row).collect();
        fs::write(self.dir.join("interrupts"), format!("     CPU0 CPU1\n{text}")).unwrap();
    }

    /// Loads the overlay of the kernel's PWM, with these channels.
    pub fn load_pwm(&self, channels: &[u8]) {
        let chip = self.dir.join("pwm/pwmchip0");
        fs::create_dir_all(&chip).unwrap();
        fs::write(chip.join("export"), "").unwrap();
        for channel in channels {
            let dir = chip.join(format!("pwm{channel}"));
            fs::create_dir_all(&dir).unwrap();
            for (file, text) in [("period", "0"), ("duty_cycle", "0"), ("polarity", "normal"), ("enable", "0")] {
                fs::write(dir.join(file), format!("{text}\n")).unwrap();
            }
        }
    }

    /// A channel of the kernel's PWM: period and pulse in ns, and whether it runs.
    pub fn pwm(&self, channel: u8) -> (u64, u64, bool) {
        let dir = self.dir.join(format!("pwm/pwmchip0/pwm{channel}"));
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap().trim().to_owned();
        assert_eq!(read("polarity"), "normal");
        (read("period").parse().unwrap(), read("duty_cycle").parse().unwrap(), read("enable") == "1")
    }

    /// Makes reading an armed line fail.
    pub fn fail(&self, pin: u8) {
        self.line(pin).expect("the line is not armed").write_all(&[0; 8]).unwrap();
    }

    /// The level of a pin.
    pub fn level(&self, pin: u8) -> bool {
        self.page.level(pin)
    }

    /// Function of a pin: 0 input, 1 output.
    pub fn mode(&self, pin: u8) -> u32 {
        self.page.mode(pin)
    }

    /// Pull of a pin: 0 none, 1 up, 2 down.
    pub fn pull(&self, pin: u8) -> u32 {
        self.page.pull(pin)
    }

    /// Lets another program hold a line, or give it up.
    pub fn hold(&self, pin: u8, held: bool) {
        let busy = self.page.word(BUSY);
        match held {
            true => busy.fetch_or(1 << pin, SeqCst),
            false => busy.fetch_and(!(1 << pin), SeqCst),
        };
    }

    /// Whether a program has the line requested.
    pub fn armed(&self, pin: u8) -> bool {
        self.line(pin).is_some()
    }

    /// Waits until a program has the line requested.
    pub fn wait_armed(&self, pin: u8) {
        let (tell, told) = std::sync::mpsc::channel();
        let path = self.dir.join(format!("line-{pin}"));
        // opening a FIFO waits for its reader
        std::thread::spawn(move || tell.send(OpenOptions::new().write(true).open(path)));
        told.recv_timeout(LONG).expect("the line is never armed").unwrap();
    }

    /// Waits until a store has made `done` true.
    pub fn wait_until(&self, done: impl Fn(&FakePi) -> bool) {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
        watch.add_watch(&self.dir.join("trace"), AddWatchFlags::IN_MODIFY).unwrap();
        let since = Instant::now();
        while !done(self) {
            let left = LONG.checked_sub(since.elapsed()).expect("it never happens");
            poll(&mut [PollFd::new(watch.as_fd(), PollFlags::POLLIN)], PollTimeout::try_from(left).unwrap()).unwrap();
            let _ = watch.read_events();
        }
    }

    /// Waits until a pin is an output at this level.
    pub fn wait_output(&self, pin: u8, high: bool) {
        self.wait_until(|pi| pi.mode(pin) == 1 && pi.level(pin) == high);
    }

    /// All stores to the registers so far.
    pub fn trace(&self) -> Vec<Store> {
        let text = fs::read_to_string(self.dir.join("trace")).unwrap();
        let hex = |word: &str| u32::from_str_radix(word.trim_start_matches("0x"), 16).unwrap();
        text.lines()
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                Store { register: words[0].parse().unwrap(), value: hex(words[1]), levels: hex(words[2]) }
            })
            .collect()
    }

    /// The writing end of a line's events; `None` if nobody reads it.
    fn line(&self, pin: u8) -> Option<File> {
        let path = self.dir.join(format!("line-{pin}"));
        let file = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        // SAFETY: the descriptor is open; writing may wait from here on
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) }, 0);
        Some(file)
    }
}

/// Runs `body` in a process of its own whose machine is a fake Pi. `test` is the full name of the calling test, which is
/// run again there, alone.
pub fn inside(test: &str, body: impl FnOnce(&FakePi)) {
    if let Some(dir) = std::env::var_os("FAKEPI_DIR") {
        return body(&FakePi::at(dir));
    }
    let pi = FakePi::new();
    let run = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .envs(pi.environment())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "inside the fake Pi ({}):\n{said}", run.status);
}

/// The shim's file; built at first use, once for each version of its source.
fn shim() -> PathBuf {
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))) {
        panic!(
            "the fake Pi needs x86-64 Linux with glibc: it decodes the program's stores and is loaded by LD_PRELOAD"
        );
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakepi");
    let source = dir.join("shim.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut hash = DefaultHasher::new();
    (fs::read(&source).unwrap(), fs::read(dir.join("page.rs")).unwrap(), &rustc).hash(&mut hash);
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fakepi-{:016x}.so", hash.finish()));
    if !built.exists() {
        // several tests may build at a time: each makes its own file, and the last one wins
        let own = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let part = own.path().join("fakepi.so");
        let run = Command::new(&rustc)
            .args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-C", "panic=abort", "-A", "dead_code", "-o"])
            .arg(&part)
            .arg(&source)
            .output()
            .unwrap_or_else(|e| panic!("the fake Pi needs rustc to build itself ({e}); set RUSTC to its path"));
        assert!(run.status.success(), "the fake Pi does not build:\n{}", String::from_utf8_lossy(&run.stderr));
        fs::rename(part, &built).unwrap();
    }
    built
}

fn map(dir: &Path) -> Page {
    let file = OpenOptions::new().read(true).write(true).open(dir.join("gpiomem")).unwrap();
    let how = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new shared mapping of the whole file, kept to the end of the process
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), SIZE, how, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(at, libc::MAP_FAILED);
        Page::at(at as usize)
    }
}
