//! Times in the form that nearly all are written in: `2013-01-01T10:00:00Z`, with or without `.123`, `Z`, and a blank
//! for the `T`.
//!
//! Any other form, and any that may not be a time at all, is left to the reader that takes all of ISO 8601: `None`
//! here says nothing about a text.

#![deny(clippy::indexing_slicing)]

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

    proptest! {
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
