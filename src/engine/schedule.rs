//! Times of day: when a rule's `at:` comes next. Pure; the zone is handed in.
//!
//! A time of day that the clock skips in spring is taken at the moment after the gap; one that comes twice in autumn is
//! taken the first time. What is wished every hour (`cron` with `*` for the hour) goes by the minutes as they pass, through
//! both. No time comes twice, also when the clock is put back a little.

use std::fmt;
use std::time::Duration;

use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};

use crate::expr::Zone;
use crate::model::Wall;

/// The farthest day that is looked at: a leap day is at most eight years away.
const DAYS: usize = 9 * 366;

/// Minutes, hours and days, each as the bits of its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    second: u8,
    minutes: u64,
    hours: u32,
    /// 1 to 31.
    days: u32,
    /// 1 to 12.
    months: u16,
    /// 0 is Sunday.
    weekdays: u8,
    /// Every hour was wished.
    hourly: bool,
    /// With both a day of the month and of the week, either will do, as cron has it.
    either_day: bool,
}

const ALL_MINUTES: u64 = (1 << 60) - 1;
const ALL_HOURS: u32 = (1 << 24) - 1;
const ALL_DAYS: u32 = !1;
const ALL_MONTHS: u16 = 0b1_1111_1111_1110;
const ALL_WEEKDAYS: u8 = 0b111_1111;

const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const MONTHS: [&str; 13] = ["", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Schedule {
    /// Reads `07:30`, `07:30:15`, `mon-fri 07:30` or five fields as cron has them (`*/5 6-22 * * mon-fri`).
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let wrong = || {
            format!(
                "`{text}` is no time; write 07:30, mon-fri 07:30, or minute hour day month weekday: */5 6-22 * * 1-5"
            )
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut schedule = Schedule {
            text: words.join(" "),
            second: 0,
            minutes: ALL_MINUTES,
            hours: ALL_HOURS,
            days: ALL_DAYS,
            months: ALL_MONTHS,
            weekdays: ALL_WEEKDAYS,
            hourly: false,
            either_day: false,
        };
        match words.as_slice() {
            [time] | [_, time] if time.contains(':') => {
                if let [days, _] = words.as_slice() {
                    schedule.weekdays = weekdays(days).ok_or_else(wrong)?;
                }
                let parts: Vec<Option<u8>> = time.split(':').map(digits).collect();
                let (hour, minute, second) = match parts.as_slice() {
                    [Some(h @ ..24), Some(m @ ..60)] => (*h, *m, 0),
                    [Some(h @ ..24), Some(m @ ..60), Some(s @ ..60)] => (*h, *m, *s),
                    _ => return Err(wrong()),
                };
                (schedule.hours, schedule.minutes, schedule.second) = (1 << hour, 1 << minute, second);
            }
            [minute, hour, day, month, weekday] => {
                schedule.minutes = field(minute, 0, 59, &[]).ok_or_else(wrong)?;
                schedule.hours = field(hour, 0, 23, &[]).ok_or_else(wrong)? as u32;
                schedule.days = field(day, 1, 31, &[]).ok_or_else(wrong)? as u32;
                schedule.months = field(month, 1, 12, &MONTHS).ok_or_else(wrong)? as u16;
                schedule.weekdays = weekdays(weekday).ok_or_else(wrong)?;
                schedule.hourly = hour.starts_with('*');
                schedule.either_day = !day.starts_with('*') && !weekday.starts_with('*');
            }
            _ => return Err(wrong()),
        }
        if schedule.next(Wall(0), &Zone::UTC).is_none() {
            return Err(format!("`{text}` never comes"));
        }
        Ok(schedule)
    }

    /// The first time after `after`.
    pub fn next(&self, after: Wall, zone: &Zone) -> Option<Wall> {
        let zone = &zone.0;
        let after = Timestamp::from_millisecond(after.0).ok()?;
        let mut date = zone.to_datetime(after).date();
        for _ in 0..DAYS {
            if self.on(date)
                && let Some(next) = self.times(date, zone, after)
            {
                return Some(Wall(next.as_millisecond()));
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn on(&self, date: Date) -> bool {
        let weekday = self.weekdays >> date.weekday().to_sunday_zero_offset() & 1 == 1;
        let day = self.days >> date.day() & 1 == 1;
        let days = if self.either_day { weekday || day } else { weekday && day };
        days && self.months >> date.month() & 1 == 1
    }

    /// The first of its times on `date` that is after `after`.
    fn times(&self, date: Date, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        if self.hourly {
            return self.minutes_of(date, zone, after);
        }
        let mut first: Option<Timestamp> = None;
        for hour in (0..24).filter(|h| self.hours >> h & 1 == 1) {
            for minute in (0..60).filter(|m| self.minutes >> m & 1 == 1) {
                let time = Time::new(hour, minute, self.second as i8, 0).ok()?;
                let Some(at) = moment(zone, date, time).filter(|at| *at > after) else { continue };
                first = Some(first.map_or(at, |f| f.min(at)));
                break;
            }
        }
        first
    }

    /// Minute by minute as they pass, from midnight to midnight.
    fn minutes_of(&self, date: Date, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let begin = date.to_zoned(zone.clone()).ok()?.timestamp();
        let end = date.tomorrow().ok()?.to_zoned(zone.clone()).ok()?.timestamp();
        // the next whole minute; zones are whole minutes away from UTC
        let next_minute = Timestamp::from_second(after.as_second().div_euclid(60) * 60 + 60).ok()?;
        let mut at = begin.max(next_minute);
        while at < end {
            if self.minutes >> zone.to_datetime(at).minute() & 1 == 1 {
                return Some(at);
            }
            at = at.checked_add(1.minute()).ok()?;
        }
        None
    }
}

/// When a time of day is: the first of two, or the moment after the gap that skips it.
fn moment(zone: &TimeZone, date: Date, time: Time) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(date.to_datetime(time));
    match ambiguous.offset() {
        AmbiguousOffset::Gap { .. } => {
            let before = ambiguous.earlier().ok()?;
            zone.following(before).next().map(|t| t.timestamp())
        }
        _ => ambiguous.earlier().ok(),
    }
}

fn digits(text: &str) -> Option<u8> {
    (text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn weekdays(text: &str) -> Option<u8> {
    // cron calls Sunday 0 and 7; a range to sunday is one to 7
    let text = text.to_ascii_lowercase().replace("-sun", "-7");
    let bits = field(&text, 0, 7, &WEEKDAYS)?;
    Some(((bits | bits >> 7) & u64::from(ALL_WEEKDAYS)) as u8)
}

/// One field of cron: `*`, `*/5`, `1,2`, `1-5`, `1-9/2`, names.
fn field(text: &str, least: u8, most: u8, names: &[&str]) -> Option<u64> {
    let number = |t: &str| {
        let t = t.to_ascii_lowercase();
        let named = names.iter().position(|n| !n.is_empty() && *n == t).map(|i| i as u8);
        named.or_else(|| digits(&t)).filter(|n| (least..=most).contains(n))
    };
    let mut bits = 0u64;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, digits(step).filter(|s| *s > 0)?),
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((from, to)) => (number(from)?, number(to)?),
            None if part.contains('/') => (number(range)?, most),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return None;
        }
        bits |= (from..=to).step_by(step.into()).fold(0, |bits, n| bits | 1 << n);
    }
    Some(bits)
}

/// The next of several.
pub fn next_of(schedules: &[Schedule], after: Wall, zone: &Zone) -> Option<Wall> {
    schedules.iter().filter_map(|s| s.next(after, zone)).min()
}

/// How long a planned time may have passed and still be taken: what a clock that is set, or a machine that was busy,
/// has just jumped over.
pub const LATE: Duration = Duration::from_secs(120);
/// A clock that is put back by less than this does not bring a time twice.
pub const BACK: Duration = Duration::from_secs(3 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    /// Central Europe: on 2026-03-29 02:00 becomes 03:00, on 2026-10-25 03:00 becomes 02:00.
    fn zone() -> Zone {
        Zone(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap())
    }

    fn times(schedule: &str, after: &str, n: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule).unwrap();
        let mut at = Wall(after.parse::<Timestamp>().unwrap().as_millisecond());
        (0..n)
            .map(|_| {
                at = schedule.next(at, &zone()).unwrap();
                Timestamp::from_millisecond(at.0).unwrap().to_string()
            })
            .collect()
    }

    #[test]
    fn a_time_of_day_is_local_and_comes_once_a_day() {
        assert_eq!(times("07:30", "2026-11-20T06:29:59Z", 2), ["2026-11-20T06:30:00Z", "2026-11-21T06:30:00Z"]);
        assert_eq!(times("07:30", "2026-11-20T06:30:00Z", 1), ["2026-11-21T06:30:00Z"]);
        assert_eq!(times("07:30:15", "2026-07-01T00:00:00Z", 1), ["2026-07-01T05:30:15Z"]);
        // 2026-11-20 is a Friday
        assert_eq!(times("mon-fri 07:30", "2026-11-20T12:00:00Z", 1), ["2026-11-23T06:30:00Z"]);
        assert_eq!(times("sat-sun 08:00", "2026-11-20T12:00:00Z", 2), ["2026-11-21T07:00:00Z", "2026-11-22T07:00:00Z"]);
    }

    #[test]
    fn a_time_that_spring_skips_comes_right_after_the_gap() {
        let want = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        assert_eq!(times("02:30", "2026-03-28T00:00:00Z", 3), want);
    }

    #[test]
    fn a_time_that_autumn_repeats_comes_the_first_time() {
        let want = ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
        assert_eq!(times("02:30", "2026-10-24T00:00:00Z", 3), want);
    }

    #[test]
    fn what_is_wished_every_hour_goes_through_both() {
        let autumn = ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"];
        assert_eq!(times("*/30 * * * *", "2026-10-24T23:40:00Z", 4), autumn);
        let spring = ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"];
        assert_eq!(times("*/30 * * * *", "2026-03-29T00:10:00Z", 3), spring);
    }

    #[test]
    fn cron_fields_are_crons() {
        assert_eq!(times("0 6-8/2 * * *", "2026-11-20T00:00:00Z", 3).len(), 3);
        assert_eq!(times("0 12 1 jan *", "2026-11-20T00:00:00Z", 1), ["2027-01-01T11:00:00Z"]);
        assert_eq!(times("0 12 29 2 *", "2026-11-20T00:00:00Z", 1), ["2028-02-29T11:00:00Z"]);
        assert_eq!(times("0 12 * * 7", "2026-11-20T00:00:00Z", 1), ["2026-11-22T11:00:00Z"]);
        // either the first of the month or a Monday
        assert_eq!(times("0 12 1 * mon", "2026-11-24T00:00:00Z", 2), ["2026-11-30T11:00:00Z", "2026-12-01T11:00:00Z"]);
        for wrong in [
            "",
            "7",
            "25:00",
            "07:60",
            "7:5:99",
            "* * * *",
            "60 * * * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "0 0 30 2 *",
            "foo 07:30",
            "1 2 3 4 5 6",
        ] {
            assert!(Schedule::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_next_time_is_always_later() {
        let mut at = Wall(1_774_000_000_000);
        for text in ["02:30", "*/7 * * * *", "15 2,3 * * *", "0 */3 * * *"] {
            let schedule = Schedule::parse(text).unwrap();
            for _ in 0..500 {
                let next = schedule.next(at, &zone()).unwrap();
                assert!(next > at, "{text} at {at:?}");
                at = next;
            }
            at = Wall(1_774_000_000_000);
        }
    }
}
