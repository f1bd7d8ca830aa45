//! Times in the form that nearly all are written in: `2013-01-01T10:00:00Z`, with or without `.123`, `Z`, and a blank
//! for the `T`.
//!
//! They are written so as well, always with milliseconds and `Z`.
//!
//! Any other form, and any that may not be a time at all, is left to the reader that takes all of ISO 8601: `None`
//! here says nothing about a text.

#![deny(clippy::indexing_slicing)]

use std::ops::RangeInclusive;

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
    /// Writes one of [`TIMES_MS`] in quotes.
    pub(crate) fn write(&mut self, ms: i64, bytes: &mut Vec<u8>) {
        debug_assert!(TIMES_MS.contains(&ms), "{ms} has no year of four digits");
        let (day, of_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
        if day != self.day {
            self.day = day;
            let (year, month, day) = date(day);
            put(&mut self.text, [1, 2, 3, 4], year);
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
fn date(days: i64) -> (u32, u32, u32) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    // Within the years of four digits none is negative.
    let [year, month, day] = [year, month, day].map(|part| u32::try_from(part).unwrap_or(0));
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
    use crate::format::json::column::timestamp_ms;

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

    proptest! {
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
