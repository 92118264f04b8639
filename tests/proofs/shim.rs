//! Faults in the file system calls of an unmodified program, at exactly the n-th. Loaded with LD_PRELOAD; does nothing
//! without $FAULT_DIR. Linux with glibc. Built by `tests/proofs/calls.rs` with a bare `rustc`.
//!
//! Every call that names a path below $FAULT_DIR, or a descriptor that was opened there, is counted, by all threads
//! together, and written to $FAULT_LOG as `NUMBER NAME`. $FAULT says what happens:
//! - `N:kill`: the process is killed (SIGKILL) in place of call N.
//! - `N:ERRNO`: call N fails so, and does nothing else. (A close closes all the same, as Linux does. Closing a directory
//!   never fails: no local file system has anything to do there, and Rust's library takes its failure for a bug.)
//! - `nosync`: no fsync and no fdatasync does anything, and none says so.
//! - `no-NAME`: as `nosync`, for the calls of one name only.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn getenv(name: *const c_char) -> *const c_char;
    fn syscall(number: c_long, ...) -> c_long;
    fn dirfd(dir: *mut c_void) -> c_int;
    fn getpid() -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn __errno_location() -> *mut c_int;
}

#[cfg(target_arch = "x86_64")]
const WRITE: c_long = 1;
#[cfg(target_arch = "aarch64")]
const WRITE: c_long = 64;
const NEXT: *mut c_void = -1isize as *mut c_void;

/// The function of this name behind us.
macro_rules! real {
    ($name:ident($($arg:expr),*): fn($($of:ty),*) -> $ret:ty) => {{
        let found = dlsym(NEXT, concat!(stringify!($name), "\0").as_ptr().cast());
        let function: unsafe extern "C" fn($($of),*) -> $ret = std::mem::transmute(found);
        function($($arg),*)
    }};
}
enum What {
    Count,
    Kill(u32),
    Fail(u32, c_int),
    Skip(String),
}

struct Plan {
    dir: Vec<u8>,
    what: What,
    log: c_int,
}

fn text(name: &CStr) -> Option<String> {
    // SAFETY: the environment is not changed by the program.
    unsafe {
        let value = getenv(name.as_ptr());
        if value.is_null() { None } else { Some(CStr::from_ptr(value).to_string_lossy().into_owned()) }
    }
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| {
        let dir = text(c"FAULT_DIR")?.into_bytes();
        let fault = text(c"FAULT").unwrap_or_default();
        let what = match fault.split_once(':') {
            Some((n, "kill")) => What::Kill(n.parse().ok()?),
            Some((n, errno)) => What::Fail(n.parse().ok()?, errno.parse().ok()?),
            None if fault == "nosync" => What::Skip("sync".into()),
            None => fault.strip_prefix("no-").map_or(What::Count, |name| What::Skip(name.into())),
        };
        let path = text(c"FAULT_LOG")? + "\0";
        const CREATE_APPEND: c_int = 0o2000 | 0o100 | 1 | 0o2000000;
        // SAFETY: a whole C string.
        let log = unsafe { real!(open64(path.as_ptr().cast::<c_char>(), CREATE_APPEND, 0o600): fn(*const c_char, c_int, c_int) -> c_int) };
        Some(Plan { dir, what, log })
    })
    .as_ref()
}

static COUNT: AtomicU32 = AtomicU32::new(0);
static OURS: [AtomicBool; 1024] = [const { AtomicBool::new(false) }; 1024];
static DIRS: Mutex<Vec<usize>> = Mutex::new(Vec::new());

fn path_is_ours(path: *const c_char) -> bool {
    // SAFETY: the program hands over C strings.
    plan().is_some_and(|p| !path.is_null() && unsafe { CStr::from_ptr(path) }.to_bytes().starts_with(&p.dir))
}

fn fd_is_ours(fd: c_int) -> bool {
    usize::try_from(fd).is_ok_and(|fd| OURS.get(fd).is_some_and(|o| o.load(SeqCst)))
}

fn mark(fd: c_int, ours: bool) {
    if let Some(slot) = usize::try_from(fd).ok().and_then(|fd| OURS.get(fd)) {
        slot.store(ours, SeqCst);
    }
}

/// What becomes of a call: `None`, it is done; `Some(0)`, it only seems to be; `Some(errno)`.
fn fate(name: &str) -> Option<c_int> {
    let plan = plan()?;
    let n = COUNT.fetch_add(1, SeqCst) + 1;
    let line = format!("{n} {name}\n");
    // SAFETY: a whole buffer.
    unsafe { syscall(WRITE, plan.log, line.as_ptr(), line.len()) };
    match &plan.what {
        // SAFETY: a plain call.
        What::Kill(at) if *at == n => unsafe {
            kill(getpid(), 9);
            None
        },
        What::Fail(at, errno) if *at == n => Some(*errno),
        What::Skip(what) => name.ends_with(what.as_str()).then_some(0),
        _ => None,
    }
}

fn fail(errno: c_int) -> c_int {
    if errno == 0 {
        return 0;
    }
    // SAFETY: this thread's own.
    unsafe { *__errno_location() = errno };
    -1
}

/// Calls that take a path first and give no descriptor.
macro_rules! by_path {
    ($($name:ident($path:ident $(, $arg:ident: $of:ty)*);)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($path: *const c_char $(, $arg: $of)*) -> c_int {
            if path_is_ours($path) && let Some(errno) = fate(stringify!($name)) {
                return fail(errno);
            }
            unsafe { real!($name($path $(, $arg)*): fn(*const c_char $(, $of)*) -> c_int) }
        }
    )*};
}

by_path! {
    mkdir(path, mode: c_uint);
    unlink(path);
    rename(path, to: *const c_char);
    stat64(path, into: *mut c_void);
    lstat64(path, into: *mut c_void);
}

/// Calls that take a descriptor first.
macro_rules! by_fd {
    ($($name:ident($fd:ident $(, $arg:ident: $of:ty)*) -> $ret:ty;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($fd: c_int $(, $arg: $of)*) -> $ret {
            if fd_is_ours($fd) && let Some(errno) = fate(stringify!($name)) {
                return fail(errno) as $ret;
            }
            unsafe { real!($name($fd $(, $arg)*): fn(c_int $(, $of)*) -> $ret) }
        }
    )*};
}

by_fd! {
    read(fd, into: *mut c_void, n: usize) -> isize;
    pread64(fd, into: *mut c_void, n: usize, at: i64) -> isize;
    write(fd, from: *const c_void, n: usize) -> isize;
    pwrite64(fd, from: *const c_void, n: usize, at: i64) -> isize;
    ftruncate64(fd, len: i64) -> c_int;
    fdatasync(fd) -> c_int;
    fsync(fd) -> c_int;
    flock(fd, how: c_int) -> c_int;
    fstat64(fd, into: *mut c_void) -> c_int;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn statx(fd: c_int, path: *const c_char, flags: c_int, mask: c_uint, into: *mut c_void) -> c_int {
    if (path_is_ours(path) || fd_is_ours(fd))
        && let Some(errno) = fate("statx")
    {
        return fail(errno);
    }
    unsafe { real!(statx(fd, path, flags, mask, into): fn(c_int, *const c_char, c_int, c_uint, *mut c_void) -> c_int) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    let ours = path_is_ours(path);
    if ours && let Some(errno) = fate("open") {
        return fail(errno);
    }
    let fd = unsafe { real!(open64(path, flags, mode): fn(*const c_char, c_int, c_int) -> c_int) };
    mark(fd, ours);
    fd
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    let errno = if fd_is_ours(fd) { fate("close") } else { None };
    mark(fd, false);
    let closed = unsafe { real!(close(fd): fn(c_int) -> c_int) };
    errno.map_or(closed, fail)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn opendir(path: *const c_char) -> *mut c_void {
    let ours = path_is_ours(path);
    if ours && let Some(errno) = fate("opendir") {
        fail(errno);
        return std::ptr::null_mut();
    }
    let dir = unsafe { real!(opendir(path): fn(*const c_char) -> *mut c_void) };
    if ours && !dir.is_null() {
        mark(unsafe { dirfd(dir) }, true);
        DIRS.lock().unwrap().push(dir as usize);
    }
    dir
}

#[unsafe(no_mangle)]
unsafe extern "C" fn readdir64(dir: *mut c_void) -> *mut c_void {
    let ours = DIRS.lock().unwrap().contains(&(dir as usize));
    if ours && let Some(errno) = fate("readdir") {
        fail(errno);
        return std::ptr::null_mut();
    }
    unsafe { real!(readdir64(dir): fn(*mut c_void) -> *mut c_void) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn closedir(dir: *mut c_void) -> c_int {
    DIRS.lock().unwrap().retain(|d| *d != dir as usize);
    let fd = unsafe { dirfd(dir) };
    if fd_is_ours(fd) {
        fate("closedir");
    }
    mark(fd, false);
    unsafe { real!(closedir(dir): fn(*mut c_void) -> c_int) }
}
