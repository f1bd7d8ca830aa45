//! Times in the form that nearly all are written in: `2013-01-01T10:00:00Z`, with or without `.123`, `Z`, and a blank
//! for the `T`.
//!
//! They are written so as well, always with milliseconds and `Z`; years of more than four digits, and those before 0, with their sign,
//! as ISO 8601 has it: `+44972-09-15T16:00:00.000Z`. Every time and every date that a column can hold is written and read back the same.
//!
//! Any other form of a time, and any that may not be one at all, is left to the reader that takes all of ISO 8601 ([`timestamp_ms`]): `None`
//! of [`instant_ms`] says nothing about a text.

#![deny(clippy::indexing_slicing)]

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr as _;

use arrow::array::timezone::Tz;
use arrow::compute::kernels::cast_utils::string_to_datetime;

/// Milliseconds since 1970.
pub(crate) fn instant_ms(text: &str) -> Option<i64> {
    let (seconds, rest) = text.as_bytes().split_first_chunk::<19>()?;
    let [
        y1,
        y2,
        y3,
        y4,
        b'-',
        m1,
        m2,
        b'-',
        d1,
        d2,
        b'T' | b' ',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
    ] = *seconds
    else {
        return None;
    };
    let ms = match *rest {
        [] | [b'Z'] => 0,
        [b'.', a, b, c] | [b'.', a, b, c, b'Z'] => number([b'0', a, b, c])?,
        _ => return None,
    };
    let year = number([y1, y2, y3, y4])?;
    let pair = |high, low| number([b'0', b'0', high, low]);
    let (month, day) = (pair(m1, m2)?, pair(d1, d2)?);
    let (hour, minute, second) = (pair(h1, h2)?, pair(n1, n2)?, pair(s1, s2)?);
    let is_time = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !is_time {
        return None;
    }
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1000 + ms)
}

/// Milliseconds since 1970 of a time in ISO 8601; without a zone it is UTC.
pub(crate) fn timestamp_ms(text: &str) -> Option<i64> {
    let utc = Tz::from_str("+00:00").ok()?;
    let near = |text: &str| Some(string_to_datetime(&utc, text).ok()?.timestamp_millis());
    let Some((year, rest)) = signed_year(text) else {
        return near(text);
    };
    // The calendar repeats itself every 400 years, so one with four digits stands for it.
    let stands_in = 2000 + year.rem_euclid(400);
    let ms = i128::from(near(&format!("{stands_in}{rest}"))?);
    let eras = i128::from((year - stands_in) / 400);
    i64::try_from(ms + eras * i128::from(146_097 * DAY_MS)).ok()
}

/// Days since 1970 of a date: `2024-01-05`, `2024-1-5`, `20240105`, with a signed year, or the date of a time as it is written.
pub(crate) fn date_days(text: &str) -> Option<i32> {
    let (year, rest) = match signed_year(text) {
        Some(year) => year,
        None => {
            let (year, rest) = text.split_at_checked(4)?;
            (count(year)?, rest)
        }
    };
    let date = match rest.strip_prefix('-') {
        Some(rest) => {
            let (month, rest) = rest.split_once('-')?;
            let end = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (day, time) = rest.split_at_checked(end)?;
            if !time.is_empty()
                && (!time.starts_with(['T', 't', ' ']) || timestamp_ms(text).is_none())
            {
                return None;
            }
            [month, day]
        }
        None if rest.len() == 4 && text.len() == 8 => {
            let (month, day) = rest.split_at_checked(2)?;
            [month, day]
        }
        None => return None,
    };
    let [month, day] = date.map(|part| count(part).filter(|_| part.len() <= 2));
    let (month, day) = (month?, day?);
    let is_date = (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day);
    is_date.then(|| i32::try_from(days(year, month, day)).ok())?
}

/// The year of a text that begins with its sign, and what follows.
fn signed_year(text: &str) -> Option<(i64, &str)> {
    let digits = text.strip_prefix(['+', '-'])?;
    let (year, rest) = digits.split_at_checked(digits.find('-')?)?;
    let year = count(year).filter(|_| (4..=9).contains(&year.len()))?;
    Some((if text.starts_with('-') { -year } else { year }, rest))
}

/// A number of digits alone.
fn count(text: &str) -> Option<i64> {
    let are_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| are_digits)
}

/// Writes a date as [`date_days`] reads it.
pub(crate) fn write_date(days: i32, out: &mut impl fmt::Write) -> fmt::Result {
    let (year, month, day) = date(days.into());
    write_year(year, out)?;
    write!(out, "-{month:02}-{day:02}")
}

fn write_year(year: i64, out: &mut impl fmt::Write) -> fmt::Result {
    match year {
        0..=9999 => write!(out, "{year:04}"),
        _ => write!(out, "{year:+05}"),
    }
}

/// Times of the years 0 to 9999, which have four digits.
pub(crate) const TIMES_MS: RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

/// Writes times; those of a column mostly lie in one day, whose text is kept.
#[derive(Debug)]
pub(crate) struct Instants {
    day: i64,
    text: [u8; 26],
}

impl Default for Instants {
    fn default() -> Self {
        Self {
            day: 0,
            text: *b"\"1970-01-01T00:00:00.000Z\"",
        }
    }
}

impl Instants {
    /// Writes a time in quotes.
    pub(crate) fn write(&mut self, ms: i64, bytes: &mut Vec<u8>) {
        let (day, of_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
        if !TIMES_MS.contains(&ms) {
            // The time of that day, behind a year that takes more room.
            let mut text = String::from('"');
            let (year, month, day) = date(day);
            let written = write_year(year, &mut text);
            debug_assert!(written.is_ok(), "a string takes all that is written");
            let mut near = Vec::new();
            let stand_in = days(2000, month.into(), day.into());
            self.write(stand_in * DAY_MS + of_day, &mut near);
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(near.get(5..).unwrap_or_default());
            return;
        }
        if day != self.day {
            self.day = day;
            let (year, month, day) = date(day);
            put(
                &mut self.text,
                [1, 2, 3, 4],
                u32::try_from(year).unwrap_or(0),
            );
            put(&mut self.text, [6, 7], month);
            put(&mut self.text, [9, 10], day);
        }
        // They fit, and the processor divides small numbers sooner.
        let of_day = u32::try_from(of_day).unwrap_or(0);
        let (seconds, ms) = (of_day / 1000, of_day % 1000);
        let (minutes, second) = (seconds / 60, seconds % 60);
        put(&mut self.text, [12, 13], minutes / 60);
        put(&mut self.text, [15, 16], minutes % 60);
        put(&mut self.text, [18, 19], second);
        put(&mut self.text, [21, 22, 23], ms);
        bytes.extend_from_slice(&self.text);
    }
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Puts the digits of a number at these places.
fn put<const DIGITS: usize>(text: &mut [u8; 26], places: [usize; DIGITS], mut number: u32) {
    for place in places.into_iter().rev() {
        if let Some(digit) = text.get_mut(place) {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        }
        number /= 10;
    }
}

/// Year, month and day of a day since 1970: the way back from [`days`].
fn date(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    // Neither is negative.
    let [month, day] = [month, day].map(|part| u32::try_from(part).unwrap_or(0));
    (year, month, day)
}

fn number(digits: [u8; 4]) -> Option<i64> {
    digits.into_iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit()
            .then(|| value * 10 + i64::from(byte - b'0'))
    })
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970 of a day in the Gregorian calendar. Years begin in March here, so that a leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_forms_are_left_to_another_reader() {
        assert_eq!(instant_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(instant_ms("1970-01-01 00:00:00.001"), Some(1));
        for text in [
            "1970-01-01",
            "1970-01-01T00:00:00.1Z",
            "1970-01-01T00:00:00+01:00",
            "1970-02-29T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:60Z",
            "+970-01-01T00:00:00Z",
        ] {
            assert_eq!(instant_ms(text), None, "{text}");
        }
    }

    #[test]
    fn the_first_and_the_last_time_of_four_digits_are_written_and_read() {
        for (ms, text) in [
            (*TIMES_MS.start(), "\"0000-01-01T00:00:00.000Z\""),
            (-1, "\"1969-12-31T23:59:59.999Z\""),
            (951_782_400_000, "\"2000-02-29T00:00:00.000Z\""),
            (*TIMES_MS.end(), "\"9999-12-31T23:59:59.999Z\""),
        ] {
            let mut bytes = Vec::new();
            Instants::default().write(ms, &mut bytes);
            assert_eq!(std::str::from_utf8(&bytes).unwrap(), text);
        }
    }

    #[test]
    fn a_date_is_read_as_written_and_garbage_behind_it_is_refused() {
        let day = 19_727;
        for (text, expected) in [
            ("2024-01-05", Some(day)),
            ("2024-1-5", Some(day)),
            ("20240105", Some(day)),
            ("+2024-01-05", Some(day)),
            // The day of its own zone, not that of UTC.
            ("2024-01-05T00:30:00+02:00", Some(day)),
            ("2024-01-05 23:59:59", Some(day)),
            ("-0001-12-31", Some(-719_529)),
            ("+5881580-07-11", Some(i32::MAX)),
            ("-5877641-06-23", Some(i32::MIN)),
            ("+5881580-07-12", None),
            ("2024-1-5xy", None),
            ("2024-01-05T", None),
            ("2024-01-05Tnoon", None),
            ("2024-01-05Z", None),
            ("2024-02-30", None),
            ("2024-13-01", None),
            ("2024-001-5", None),
            ("2024-01-", None),
            ("+24-01-05", None),
            ("2024", None),
            ("24-01-05", None),
            ("202401050", None),
            ("2024-+1-05", None),
            ("\u{e4}\u{e4}-01-05", None),
            ("", None),
        ] {
            assert_eq!(date_days(text), expected, "{text}");
        }
    }

    #[test]
    fn times_of_far_years_have_their_sign() {
        for (ms, text) in [
            (1_357_034_400_000_000, "\"+44972-09-15T16:00:00.000Z\""),
            (*TIMES_MS.end() + 1, "\"+10000-01-01T00:00:00.000Z\""),
            (*TIMES_MS.start() - 1, "\"-0001-12-31T23:59:59.999Z\""),
        ] {
            let mut bytes = Vec::new();
            Instants::default().write(ms, &mut bytes);
            assert_eq!(std::str::from_utf8(&bytes).unwrap(), text);
        }
        for text in [
            "+44972-02-30T00:00:00Z",
            "+44972-01-01",
            "+999999999-01-01T00:00:00Z",
            "+1-01-01T00:00:00Z",
        ] {
            assert_eq!(
                timestamp_ms(text).is_some(),
                text == "+44972-01-01",
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_date_is_written_and_reads_back_the_same(days in any::<i32>(), near in -800_000..3_000_000) {
            for days in [days, near] {
                let mut text = String::new();
                write_date(days, &mut text).unwrap();
                prop_assert_eq!(date_days(&text), Some(days), "{}", text);
            }
        }

        #[test]
        fn every_time_is_written_and_reads_back_the_same(times in prop::collection::vec(any::<i64>(), 2), near in TIMES_MS) {
            let mut instants = Instants::default();
            for ms in times.into_iter().flat_map(|ms| [ms, ms / 1000, near]).chain([i64::MIN, i64::MAX]) {
                let mut bytes = Vec::new();
                instants.write(ms, &mut bytes);
                let text = std::str::from_utf8(&bytes).unwrap().trim_matches('"');
                prop_assert_eq!(timestamp_ms(text), Some(ms), "{}", text);
            }
        }

        #[test]
        fn a_time_that_is_written_reads_back_the_same(ms in TIMES_MS, later in prop::collection::vec(0..3 * DAY_MS, 3)) {
            let mut instants = Instants::default();
            for ms in [ms].into_iter().chain(later.iter().map(|later| ms - later)).filter(|ms| TIMES_MS.contains(ms)) {
                let mut bytes = Vec::new();
                instants.write(ms, &mut bytes);
                let text = std::str::from_utf8(&bytes).unwrap().trim_matches('"');
                prop_assert_eq!(instant_ms(text), Some(ms));
            }
        }

        #[test]
        fn a_time_is_what_the_reader_of_all_forms_takes_it_for(
            date in (0_u32..10_000, 0_u32..14, 0_u32..33),
            time in (0_u32..25, 0_u32..61, 0_u32..61, 0_u32..1000),
            blank in any::<bool>(),
            zone in any::<bool>(),
        ) {
            let separator = if blank { ' ' } else { 'T' };
            let zone = if zone { "Z" } else { "" };
            let ((y, m, d), (h, n, s, ms)) = (date, time);
            let text = format!("{y:04}-{m:02}-{d:02}{separator}{h:02}:{n:02}:{s:02}.{ms:03}{zone}");
            if let Some(found) = instant_ms(&text) {
                prop_assert_eq!(Some(found), timestamp_ms(&text), "{}", text);
            } else {
                prop_assert!(m == 0 || m > 12 || d == 0 || d > 28 || h > 23 || n > 59 || s > 59, "{}", text);
            }
        }
    }
}
