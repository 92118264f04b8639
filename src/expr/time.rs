//! Time in expressions: parts of the time of day, and when an expression changes without anything happening.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::eval::Cell;
use super::{Blank, Lookup};
use crate::model::{Now, PointId};

/// A time zone, handed in by who may read one.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone(pub TimeZone);

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Zone = Zone(TimeZone::UTC);

    /// The time of day there.
    pub fn local(&self, now: &Now) -> Option<DateTime> {
        Some(self.0.to_datetime(Timestamp::from_millisecond(now.wall.0).ok()?))
    }
}

/// A part of `now`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Seconds since 1970.
    Seconds,
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    /// 0 is Monday.
    Weekday,
    /// 1 is Monday.
    IsoWeekday,
    /// `HH:MM:SS`
    Time,
    /// `YYYY-MM-DD`
    Date,
}

/// The words behind `now.`
pub(super) const PARTS: &[(&str, Part)] = &[
    ("year", Part::Year),
    ("month", Part::Month),
    ("day", Part::Day),
    ("hour", Part::Hour),
    ("minute", Part::Minute),
    ("second", Part::Second),
    ("weekday", Part::Weekday),
    ("isoweekday", Part::IsoWeekday),
    ("time", Part::Time),
    ("date", Part::Date),
    ("timestamp", Part::Seconds),
];

/// A part of the moment, once the clock is set.
pub(super) fn part(part: Part, at: &dyn Lookup) -> Result<Cell<'static>, Blank> {
    let now = at.now();
    if !now.synced {
        return Err(Blank::Clock);
    }
    let local = at.zone().local(&now).ok_or(Blank::Clock)?;
    let number = match part {
        Part::Seconds => now.wall.0 as f64 / 1000.0,
        Part::Year => local.year().into(),
        Part::Month => local.month().into(),
        Part::Day => local.day().into(),
        Part::Hour => local.hour().into(),
        Part::Minute => local.minute().into(),
        Part::Second => local.second().into(),
        Part::Weekday => local.weekday().to_monday_zero_offset().into(),
        Part::IsoWeekday => local.weekday().to_monday_one_offset().into(),
        Part::Time => {
            return Ok(Cell::text(format!("{:02}:{:02}:{:02}", local.hour(), local.minute(), local.second())));
        }
        Part::Date => return Ok(Cell::text(format!("{:04}-{:02}-{:02}", local.year(), local.month(), local.day()))),
    };
    Ok(Cell::Number(number))
}

/// What makes an expression change while nothing happens.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ClockUse {
    /// The age of a point is compared with these seconds.
    AgeAgainst(PointId, f64),
    /// The age of a point is computed with.
    Age(PointId),
    /// The seconds of the day.
    Second,
    /// The minutes, hours or days.
    Minute,
}

impl ClockUse {
    /// How long until it may change.
    pub(super) fn next(&self, at: &dyn Lookup) -> Option<Duration> {
        const TICK: Duration = Duration::from_secs(1);
        let wall = |every: i64| {
            let now = at.now();
            let left = every - now.wall.0.rem_euclid(every);
            now.synced.then(|| Duration::from_millis(left.max(1) as u64))
        };
        match self {
            ClockUse::AgeAgainst(id, limit) => {
                let age = at.point(*id).age?;
                let limit = Duration::try_from_secs_f64(*limit).ok()?;
                // `>` turns just behind the limit, `>=` on it
                (age <= limit).then(|| limit - age + Duration::from_millis(u64::from(age == limit)))
            }
            ClockUse::Age(id) => at.point(*id).age.map(|_| TICK),
            ClockUse::Second => wall(1000),
            ClockUse::Minute => wall(60_000),
        }
    }
}
