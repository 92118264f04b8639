//! WHAT THE QUEUE COSTS, beside what the disk costs by itself in the same run. `cargo bench --bench queue [DIR]`;
//! DIR (default: a directory under `target`) should lie on the disk in question, not on a tmpfs. The backlog has
//! `QUEUE_BENCH_RECORDS` readings (default 1,000,000; a week at ten a second is 6,048,000).

#[path = "parts/drain.rs"]
mod drain;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pinpost::queue::{Entry, Inspector, Log, Options, Queue, Shared, Stamp, Sync, Writer};

const T0: Duration = Duration::ZERO;

fn reading(n: u64) -> Entry {
    let points = ["weather/temperature", "weather/humidity", "door", "water/total"];
    let source = points[n as usize % 4].to_string();
    let stamp = Stamp { wall: 1_700_000_000_000 + n as i64 * 100, mono: n * 100, boot: 7, synced: true };
    let body = format!("{:025}", n).into_bytes();
    Entry { reading: true, rank: 100, lane: n % 4, source, stamp, body, ..Entry::default() }
}

fn options(dir: &Path, name: &str) -> Options {
    let dir = dir.join(name);
    let _ = std::fs::remove_dir_all(&dir);
    let mut options = Options::new(dir);
    options.limits.max_bytes = 4 << 30;
    options.clock = Stamp { wall: 1_700_000_000_000, mono: 0, boot: 7, synced: true };
    options
}

fn line(what: &str, value: String) {
    println!("{what:58} {value}");
}

fn rate(n: u64, began: Instant) -> f64 {
    n as f64 / began.elapsed().as_secs_f64()
}

fn work(q: &mut Queue, log: &mut Log, now: Duration) {
    while let Some(job) = q.next_job(now) {
        let done = log.run(job);
        q.finished(done, now);
    }
}

/// fdatasyncs a second of a file that is overwritten, as a journal could at best.
fn bare_sync(dir: &Path) -> f64 {
    let path = dir.join("bare");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
    (&file).write_all(&vec![0; 1 << 20]).unwrap();
    file.sync_all().unwrap();
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < Duration::from_secs(2) {
        file.write_all_at(&[n as u8; 64], n % 16_000 * 64).unwrap();
        file.sync_data().unwrap();
        n += 1;
    }
    let rate = rate(n, began);
    std::fs::remove_file(path).unwrap();
    rate
}

/// Appends that each wait until they are on disk, from so many threads.
fn durable(dir: &Path, writers: u64) -> f64 {
    let (queue, log) = Queue::open(Options { sync: Sync::Always, ..options(dir, "always") }, T0).unwrap();
    let shared = Shared::new(queue, Instant::now());
    let (lock, cond) = (Arc::new(std::sync::Mutex::new(())), Arc::new(std::sync::Condvar::new()));
    let told = (lock.clone(), cond.clone());
    let writer = Writer::start(shared.clone(), log, move || {
        let _guard = told.0.lock().unwrap();
        told.1.notify_all();
    })
    .unwrap();
    let done = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|s| {
        for w in 0..writers {
            let (shared, lock, cond, done) = (&shared, &lock, &cond, &done);
            s.spawn(move || {
                while began.elapsed() < Duration::from_secs(3) {
                    let now = shared.now();
                    let seq = shared.lock().append(reading(w), now).unwrap();
                    let mut guard = lock.lock().unwrap();
                    while !shared.lock().is_durable(seq) {
                        guard = cond.wait_timeout(guard, Duration::from_millis(100)).unwrap().0;
                    }
                    drop(guard);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let rate = rate(done.load(Ordering::Relaxed), began);
    writer.stop();
    rate
}

/// Bytes written to the device under `dir`, journal and all, whoever wrote them; 0 if it cannot be told.
fn device_written(dir: &Path) -> u64 {
    let dev = std::fs::metadata(dir).map_or(0, |m| m.dev());
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
    stat.split_whitespace().nth(6).and_then(|s| s.parse::<u64>().ok()).unwrap_or(0) * 512
}

/// Bytes this process has sent to the disk.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kb.unwrap_or(0) / 1024
}

fn main() {
    let dir = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_else(|| "target/bench-queue".into());
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir).unwrap();

    let bare = bare_sync(dir);
    line("bare fdatasync of an overwritten file", format!("{bare:.0}/s"));
    for writers in [1, 64] {
        let rate = durable(dir, writers);
        line(
            &format!("sync: always, {writers} writers, each waiting"),
            format!("{rate:.0}/s = {:.2} of that", rate / bare),
        );
    }

    let (mut q, mut log) = Queue::open(Options { sync: Sync::Always, ..options(dir, "single") }, T0).unwrap();
    q.append(reading(0), T0);
    work(&mut q, &mut log, T0);
    let before = device_written(dir);
    for n in 1..=1000 {
        q.append(reading(n), T0);
        work(&mut q, &mut log, T0);
    }
    line("sync: always, bytes to the disk for a single reading", format!("{}", (device_written(dir) - before) / 1000));

    let (mut q, mut log) = Queue::open(options(dir, "healthy"), T0).unwrap();
    q.link_up();
    work(&mut q, &mut log, T0);
    let (before, began) = (written(), Instant::now());
    for n in 0..1_000_000u64 {
        let now = Duration::from_micros(n * 10);
        q.append(reading(n), now);
        let out = q.take(now).unwrap();
        q.done(out.token);
        if n % 100 == 0 {
            work(&mut q, &mut log, now);
        }
    }
    line(
        "sync: 1s, healthy link, append + take + done",
        format!("{:.0}/s, {} bytes written", rate(1_000_000, began), written() - before),
    );

    let records = std::env::var("QUEUE_BENCH_RECORDS").ok().and_then(|v| v.parse().ok()).unwrap_or(1_000_000u64);
    let (mut q, mut log) = Queue::open(options(dir, "backlog"), T0).unwrap();
    let began = Instant::now();
    let mut now = T0;
    for n in 0..records {
        now = Duration::from_micros(n * 100);
        q.append(reading(n), now);
        if n % 64 == 0 {
            work(&mut q, &mut log, now);
        }
    }
    work(&mut q, &mut log, now + Duration::from_secs(1));
    line("sync: 1s, no link, append to disk", format!("{:.0}/s", rate(records, began)));
    let bytes = q.stats().bytes as f64 / records as f64;
    line("bytes on disk for a reading of 25 bytes", format!("{bytes:.1}"));
    line("resident memory, MiB", rss().to_string());
    drop((q, log));

    let mut again = Options::new(dir.join("backlog"));
    again.limits.max_bytes = 4 << 30;
    let began = Instant::now();
    let (mut q, mut log) = Queue::open(again, T0).unwrap();
    let waiting = q.stats().waiting;
    line("opening that backlog", format!("{:.1?} ({waiting} found)", began.elapsed()));
    q.link_up();
    let began = Instant::now();
    let mut n = 0;
    loop {
        work(&mut q, &mut log, began.elapsed());
        let before = n;
        for _ in 0..64 {
            let Some(out) = q.take(began.elapsed()) else { break };
            q.done(out.token);
            n += 1;
        }
        if n == before {
            break;
        }
    }
    line("draining it", format!("{:.0}/s ({n})", rate(n, began)));
    line("resident memory, MiB", rss().to_string());
    q.stop();
    work(&mut q, &mut log, began.elapsed());
    drop((q, log));
    line("records left", Inspector::open(&dir.join("backlog")).unwrap().count().to_string());
    let drained = records.min(1_000_000);
    let (ours, bare) = drain::drain(|| Options { clock: Stamp::default(), ..options(dir, "drain") }, drained);
    line("bare rumqttc, QoS 1, MQTT 5, to a peer that acknowledges", format!("{bare:.0}/s"));
    line(&format!("{drained} queued on disk, through the link"), format!("{ours:.0}/s = {:.2} of that", ours / bare));
    let _ = File::open(dir).and_then(|d| d.sync_all());
    let _ = std::fs::remove_dir_all(dir);
}
