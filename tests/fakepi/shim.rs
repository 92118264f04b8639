//! Makes the genuine, unmodified rppal believe that it runs on a Raspberry Pi 4. Loaded with LD_PRELOAD; does nothing
//! without $FAKEPI_DIR. x86-64 Linux with glibc only. Built by `tests/support/fake_pi.rs` with a bare `rustc`.
//!
//! - The files rppal opens are taken from $FAKEPI_DIR instead: `cpuinfo`, `model`, `gpiomem`, `gpiochip0`, `interrupts`,
//!   and the kernel's PWMs below `pwm`. A file `NAME.forbidden` beside one makes its opening fail with EACCES, even for root.
//! - GPIO ioctls are answered, as the kernel's driver would: it sets and reads the same registers, and its stores are in
//!   `trace` too. While `gpiochip0` is away the chip has vanished.  A line request gives a FIFO, `line-N`: a `gpio_v2_line_event` written there is an edge.
//!   A line whose FIFO has a reader is busy, also for another process.
//! - The register page is mapped read-only. A store to it faults; the handler decodes the one instruction, does to the
//!   page what the chip would do, and steps over it. So no store is ever missed, whatever other threads do, and none
//!   is seen half done. Each is written to `trace`: register, value, LEV after it.

mod page;

use page::{BUSY, DEBOUNCE, PINS, Page, REGISTERS, SEQ, SIZE};
use std::ffi::{CStr, c_char, c_int, c_long, c_ulong, c_void};
use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn getenv(name: *const c_char) -> *const c_char;
    fn sigaction(signal: c_int, new: *const SigAction, old: *mut SigAction) -> c_int;
    fn abort() -> !;
    fn strdup(text: *const c_char) -> *mut c_char;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
}

const SYS_WRITE: c_long = 1;
const SYS_CLOSE: c_long = 3;
const SYS_MMAP: c_long = 9;
const SYS_MUNMAP: c_long = 11;
const SYS_IOCTL: c_long = 16;
const SYS_ACCESS: c_long = 21;
const SYS_OPENAT: c_long = 257;
const SYS_MKNODAT: c_long = 259;
const AT_FDCWD: c_int = -100;
const O_WRONLY: c_int = 1;
const O_RDWR: c_int = 2;
const O_CREAT: c_int = 0o100;
const O_APPEND: c_int = 0o2000;
const O_NONBLOCK: c_int = 0o4000;
const O_CLOEXEC: c_int = 0o2000000;
const S_IFIFO: c_int = 0o010000;
const EPERM: c_int = 1;
const EACCES: c_int = 13;
const EBUSY: c_int = 16;
const ENODEV: c_int = 19;
const EINVAL: c_int = 22;
const PROT_READ: c_int = 1;
const PROT_WRITE: c_int = 2;
const MAP_SHARED: c_int = 1;
const SIGSEGV: c_int = 11;
const SA_SIGINFO: c_int = 4;
const SA_NODEFER: c_int = 0x4000_0000;
const SA_ONSTACK: c_int = 0x0800_0000;

fn dir() -> Option<&'static str> {
    static DIR: OnceLock<Option<String>> = OnceLock::new();
    let read = || unsafe {
        let text = getenv(c"FAKEPI_DIR".as_ptr());
        if text.is_null() { None } else { CStr::from_ptr(text).to_str().ok().map(str::to_owned) }
    };
    DIR.get_or_init(read).as_deref()
}

unsafe fn fail(errno: c_int) -> c_int {
    unsafe { *__errno_location() = errno };
    -1
}

unsafe fn raw_open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    unsafe { syscall(SYS_OPENAT, AT_FDCWD, path, flags, mode) as c_int }
}

unsafe fn open_in(dir: &str, name: &str, flags: c_int, mode: c_int) -> c_int {
    unsafe {
        let forbidden = format!("{dir}/{name}.forbidden\0");
        if syscall(SYS_ACCESS, forbidden.as_ptr(), 0) == 0 {
            return fail(EACCES);
        }
        let path = format!("{dir}/{name}\0");
        raw_open(path.as_ptr().cast(), flags, mode)
    }
}

unsafe fn redirected(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    unsafe {
        let name = match CStr::from_ptr(path).to_bytes() {
            b"/proc/cpuinfo" => "cpuinfo",
            b"/proc/device-tree/model" | b"/sys/firmware/devicetree/base/model" => "model",
            b"/dev/gpiomem" => "gpiomem",
            // never the machine's own memory or chips
            b"/dev/mem" => "mem",
            b"/proc/interrupts" => "interrupts",
            pwm if pwm.starts_with(b"/sys/class/pwm/") => {
                std::str::from_utf8(&pwm[b"/sys/class/".len()..]).unwrap_or("pwm")
            }
            chip if chip.starts_with(b"/dev/gpiochip") => {
                std::str::from_utf8(&chip[b"/dev/".len()..]).unwrap_or("gpiochip")
            }
            _ => return raw_open(path, flags, mode),
        };
        match dir() {
            Some(dir) => open_in(dir, name, flags, mode),
            None => raw_open(path, flags, mode),
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    unsafe { redirected(path, flags, mode) }
}
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    unsafe { redirected(path, flags, mode) }
}

// ---- the GPIO character device; layouts: linux/gpio.h ----

#[repr(C)]
struct ChipInfo {
    name: [u8; 32],
    label: [u8; 32],
    lines: u32,
}

#[repr(C)]
struct LineInfo {
    name: [u8; 32],
    consumer: [u8; 32],
    offset: u32,
    num_attrs: u32,
    flags: u64,
    attrs: [u64; 20],
    padding: [u32; 4],
}

#[repr(C)]
struct LineRequest {
    offsets: [u32; 64],
    consumer: [u8; 32],
    config: [u64; 34],
    num_lines: u32,
    event_buffer_size: u32,
    padding: [u32; 5],
    fd: c_int,
}

const GET_CHIPINFO: c_ulong = 0x8044_b401;
const GET_LINEINFO: c_ulong = 0xc100_b405;
const GET_LINE: c_ulong = 0xc250_b407;
const GET_VALUES: c_ulong = 0xc010_b40e;
const SET_VALUES: c_ulong = 0xc010_b40f;
const SET_CONFIG: c_ulong = 0xc110_b40d;
const LINE_USED: u64 = 1;
const LINE_INPUT: u64 = 4;
const LINE_OUTPUT: u64 = 8;
const PULL_UP: u64 = 1 << 8;
const PULL_DOWN: u64 = 1 << 9;
const NO_PULL: u64 = 1 << 10;
const ATTR_FLAGS: u64 = 1;
const ATTR_VALUES: u64 = 2;
const ATTR_DEBOUNCE: u64 = 3;

/// `struct gpio_v2_line_values`.
#[repr(C)]
struct LineValues {
    bits: u64,
    mask: u64,
}

/// Line of each descriptor of a request, plus 1.
static LINES: [AtomicUsize; 1024] = [const { AtomicUsize::new(0) }; 1024];

fn line_of(fd: c_int) -> Option<u32> {
    let line = LINES.get(fd as usize)?.load(SeqCst);
    (line > 0).then(|| line as u32 - 1)
}

/// What the kernel's driver does to the registers for a `struct gpio_v2_line_config`. Only what changes is stored.
fn configure(dir: &str, line: u32, config: &[u64; 34]) {
    let Some(world) = world(dir) else { return };
    let (mut flags, mut high, mut debounce) = (config[0], false, 0);
    for n in 0..(config[1] & 0xffff_ffff).min(10) as usize {
        let [id, value, mask] = [0, 1, 2].map(|i| config[4 + 3 * n + i]);
        match id & 0xffff_ffff {
            ATTR_FLAGS if mask & 1 == 1 => flags = value,
            ATTR_VALUES if mask & 1 == 1 => high = value & 1 == 1,
            ATTR_DEBOUNCE if mask & 1 == 1 => debounce = value as u32,
            _ => {}
        }
    }
    world.word(DEBOUNCE + line as usize).store(debounce, SeqCst);
    let field = |register: usize, shift: u32, width: u32, value: u32| {
        let before = world.word(register).load(SeqCst);
        let after = before & !(((1 << width) - 1) << shift) | value << shift;
        if before != after {
            kernel_store(dir, world, register, after);
        }
    };
    if flags & (PULL_UP | PULL_DOWN | NO_PULL) != 0 {
        let pull = if flags & PULL_UP != 0 { 1 } else { u32::from(flags & PULL_DOWN != 0) * 2 };
        field(page::PULL + line as usize / 16, line % 16 * 2, 2, pull);
    }
    let mode = (page::FSEL + line as usize / 10, line % 10 * 3);
    if flags & LINE_OUTPUT != 0 {
        kernel_store(dir, world, if high { page::SET } else { page::CLR }, 1 << line);
        field(mode.0, mode.1, 3, 1);
    } else if flags & LINE_INPUT != 0 {
        field(mode.0, mode.1, 3, 0);
    }
}

/// A store that the kernel makes, not the program.
fn kernel_store(dir: &str, world: Page, register: usize, value: u32) {
    open_trace(dir);
    world.store(register, value);
    let level = world.word(page::LEV).load(SeqCst);
    unsafe { say(TRACE.load(SeqCst) as c_int, format_args!("{register} {value:#x} {level:#x}\n")) };
}

fn open_trace(dir: &str) {
    if TRACE.load(SeqCst) == usize::MAX {
        let trace = unsafe { open_in(dir, "trace", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644) };
        TRACE.store(trace as usize, SeqCst);
    }
}

fn put(field: &mut [u8; 32], text: &str) {
    *field = [0; 32];
    field[..text.len()].copy_from_slice(text.as_bytes());
}

fn fifo(dir: &str, line: u32) -> String {
    format!("{dir}/line-{line}\0")
}

/// Whether some process has this line requested.
unsafe fn requested(dir: &str, line: u32) -> bool {
    unsafe {
        // without a reader this fails
        let fd = raw_open(fifo(dir, line).as_ptr().cast(), O_WRONLY | O_NONBLOCK | O_CLOEXEC, 0);
        if fd >= 0 {
            syscall(SYS_CLOSE, fd);
        }
        fd >= 0
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
    // musl and glibc disagree on the width of the request
    let request = request & 0xffff_ffff;
    let Some(dir) = dir().filter(|_| request >> 8 & 0xff == 0xb4) else {
        return unsafe { syscall(SYS_IOCTL, fd, request, arg) as c_int };
    };
    let busy = |line: u32| world(dir).is_some_and(|w| w.word(BUSY).load(SeqCst) >> (line & 31) & 1 == 1);
    unsafe {
        match request {
            GET_CHIPINFO => {
                let chip = &mut *arg.cast::<ChipInfo>();
                put(&mut chip.name, "gpiochip0");
                put(&mut chip.label, "pinctrl-bcm2711");
                chip.lines = 58;
                0
            }
            GET_LINEINFO => {
                let info = &mut *arg.cast::<LineInfo>();
                if info.offset >= PINS.into() {
                    return fail(EINVAL);
                }
                put(&mut info.name, &format!("GPIO{}", info.offset));
                let consumer = match () {
                    _ if busy(info.offset) => "other-program",
                    _ if requested(dir, info.offset) => "RPPAL",
                    _ => "",
                };
                put(&mut info.consumer, consumer);
                info.flags = LINE_INPUT | if consumer.is_empty() { 0 } else { LINE_USED };
                info.num_attrs = 0;
                0
            }
            GET_LINE => {
                let request = &mut *arg.cast::<LineRequest>();
                let line = request.offsets[0];
                if request.num_lines != 1 || line >= PINS.into() {
                    return fail(EINVAL);
                }
                let path = fifo(dir, line);
                syscall(SYS_MKNODAT, AT_FDCWD, path.as_ptr(), S_IFIFO | 0o600, 0);
                if busy(line) || requested(dir, line) {
                    return fail(EBUSY);
                }
                if let Some(world) = world(dir) {
                    world.word(SEQ + line as usize).store(0, SeqCst);
                }
                // both ends in one: it never ends, and nothing waits for it
                let fd = raw_open(path.as_ptr().cast(), O_RDWR | O_CLOEXEC, 0);
                if fd < 0 {
                    return -1;
                }
                if let Some(place) = LINES.get(fd as usize) {
                    place.store(line as usize + 1, SeqCst);
                }
                configure(dir, line, &request.config);
                request.fd = fd;
                0
            }
            GET_VALUES | SET_VALUES | SET_CONFIG => {
                let (Some(line), Some(world)) = (line_of(fd), world(dir)) else { return fail(EINVAL) };
                if gone(dir) {
                    return fail(ENODEV);
                }
                if request == SET_CONFIG {
                    configure(dir, line, &*arg.cast::<[u64; 34]>());
                    return 0;
                }
                let values = &mut *arg.cast::<LineValues>();
                if request == GET_VALUES {
                    values.bits = values.mask & u64::from(world.level(line as u8));
                } else if values.mask & 1 == 1 {
                    if world.mode(line as u8) != 1 {
                        return fail(EPERM);
                    }
                    let register = if values.bits & 1 == 1 { page::SET } else { page::CLR };
                    kernel_store(dir, world, register, 1 << line);
                }
                0
            }
            _ => fail(EINVAL),
        }
    }
}

/// Whether the chip has vanished: its file has.
fn gone(dir: &str) -> bool {
    let path = format!("{dir}/gpiochip0\0");
    unsafe { syscall(SYS_ACCESS, path.as_ptr(), 0) != 0 }
}

/// A chip's name is its own, there being none of it outside $FAKEPI_DIR.
#[unsafe(no_mangle)]
unsafe extern "C" fn realpath(path: *const c_char, into: *mut c_char) -> *mut c_char {
    type Real = unsafe extern "C" fn(*const c_char, *mut c_char) -> *mut c_char;
    const NEXT: *mut c_void = usize::MAX as *mut c_void;
    unsafe {
        if dir().is_some() && into.is_null() && CStr::from_ptr(path).to_bytes().starts_with(b"/dev/gpiochip") {
            return strdup(path);
        }
        let real = dlsym(NEXT, c"realpath".as_ptr());
        std::mem::transmute::<*mut c_void, Real>(real)(path, into)
    }
}

// ---- the registers ----

/// Where the program sees the registers; 0 while it does not.
static SEEN: AtomicUsize = AtomicUsize::new(0);
static TRACE: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The page behind the registers, mapped once for good.
fn world(dir: &str) -> Option<Page> {
    static WORLD: OnceLock<Option<usize>> = OnceLock::new();
    let map = || unsafe {
        let fd = open_in(dir, "gpiomem", O_RDWR | O_CLOEXEC, 0);
        if fd < 0 {
            return None;
        }
        let at = syscall(SYS_MMAP, 0usize, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0usize);
        syscall(SYS_CLOSE, fd);
        (at > 0).then_some(at as usize)
    };
    WORLD.get_or_init(map).map(|at| unsafe { Page::at(at) })
}

#[repr(C)]
struct SigAction {
    handler: usize,
    mask: [u64; 16],
    flags: c_int,
    restorer: usize,
}

static mut BEFORE: SigAction = SigAction { handler: 0, mask: [0; 16], flags: 0, restorer: 0 };

unsafe fn map(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    unsafe {
        let registers = length == REGISTERS * 4 && protection == PROT_READ | PROT_WRITE && flags == MAP_SHARED;
        let Some(dir) = dir().filter(|_| registers) else {
            return syscall(SYS_MMAP, address, length, protection, flags, fd, offset) as *mut c_void;
        };
        // everything the handler needs exists before the first fault
        if world(dir).is_none() {
            fail(EACCES);
            return usize::MAX as *mut c_void;
        }
        if TRACE.load(SeqCst) == usize::MAX {
            open_trace(dir);
        }
        static HANDLED: AtomicUsize = AtomicUsize::new(0);
        if HANDLED.swap(1, SeqCst) == 0 {
            let on_store = on_store as *const () as usize;
            let new = SigAction {
                handler: on_store,
                mask: [0; 16],
                flags: SA_SIGINFO | SA_NODEFER | SA_ONSTACK,
                restorer: 0,
            };
            sigaction(SIGSEGV, &new, &raw mut BEFORE);
        }
        let seen = syscall(SYS_MMAP, 0usize, SIZE, PROT_READ, MAP_SHARED, fd, 0usize);
        if seen > 0 {
            SEEN.store(seen as usize, SeqCst);
        }
        seen as *mut c_void
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(a: *mut c_void, l: usize, p: c_int, f: c_int, fd: c_int, o: i64) -> *mut c_void {
    unsafe { map(a, l, p, f, fd, o) }
}
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap64(a: *mut c_void, l: usize, p: c_int, f: c_int, fd: c_int, o: i64) -> *mut c_void {
    unsafe { map(a, l, p, f, fd, o) }
}
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(address: *mut c_void, length: usize) -> c_int {
    unsafe {
        let ours = SEEN.compare_exchange(address as usize, 0, SeqCst, SeqCst).is_ok() && !address.is_null();
        syscall(SYS_MUNMAP, address, if ours { SIZE } else { length }) as c_int
    }
}

/// Place of each register, by its number in an instruction, in the saved registers of a signal; source: sys/ucontext.h.
const SAVED: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];
const RIP: usize = 16;
/// Words before the saved registers in a ucontext_t.
const CONTEXT: usize = 5;

unsafe extern "C" fn on_store(_: c_int, info: *const usize, context: *mut u64) {
    unsafe {
        let seen = SEEN.load(SeqCst);
        let address = *info.add(2);
        if seen == 0 || !(seen..seen + REGISTERS * 4).contains(&address) {
            // not ours: whoever was there before meets the fault when it repeats itself
            sigaction(SIGSEGV, &raw const BEFORE, std::ptr::null_mut());
            return;
        }
        let saved = context.add(CONTEXT);
        let at = *saved.add(RIP) as *const u8;
        let Some((length, source)) = decode(at) else {
            say(2, format_args!("fake Pi: unknown store {:02x?}\n", std::slice::from_raw_parts(at, 12)));
            abort();
        };
        let value = match source {
            Source::Register(n) => *saved.add(SAVED[n]) as u32,
            Source::Number(value) => value,
        };
        let register = (address - seen) / 4;
        if let Some(world) = dir().and_then(world) {
            world.store(register, value);
            let level = world.word(page::LEV).load(SeqCst);
            say(TRACE.load(SeqCst) as c_int, format_args!("{register} {value:#x} {level:#x}\n"));
        }
        *saved.add(RIP) += length as u64;
    }
}

enum Source {
    Register(usize),
    Number(u32),
}

/// Length and source of a 32-bit `mov` to memory; source: Intel SDM volume 2, "MOV" and chapter 2.1.
unsafe fn decode(at: *const u8) -> Option<(usize, Source)> {
    let byte = |n: usize| unsafe { *at.add(n) };
    let mut n = 0;
    let mut rex = 0;
    if byte(0) & 0xf0 == 0x40 {
        rex = byte(0);
        n = 1;
    }
    let opcode = byte(n);
    let modrm = byte(n + 1);
    n += 2;
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    if rex & 8 != 0 || mode == 3 {
        return None;
    }
    let mut base = rm;
    if rm == 4 {
        base = byte(n) & 7;
        n += 1;
    }
    n += match mode {
        1 => 1,
        2 => 4,
        _ if base == 5 => 4,
        _ => 0,
    };
    match opcode {
        0x89 => Some((n, Source::Register(usize::from(reg) + if rex & 4 != 0 { 8 } else { 0 }))),
        0xc7 if reg == 0 => {
            let number = u32::from_le_bytes([byte(n), byte(n + 1), byte(n + 2), byte(n + 3)]);
            Some((n + 4, Source::Number(number)))
        }
        _ => None,
    }
}

/// Writes without allocating: it runs inside a signal handler.
unsafe fn say(fd: c_int, text: std::fmt::Arguments<'_>) {
    struct Line([u8; 128], usize);
    impl Write for Line {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            for byte in text.bytes().take(self.0.len() - self.1) {
                self.0[self.1] = byte;
                self.1 += 1;
            }
            Ok(())
        }
    }
    let mut line = Line([0; 128], 0);
    let _ = line.write_fmt(text);
    unsafe { syscall(SYS_WRITE, fd, line.0.as_ptr(), line.1) };
}
