//! How long and how much to keep, as people write it: "7d", "12h", "10GiB", "none".

use std::time::Duration;

const TIMES: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("d", 24 * 60 * 60 * 1000),
];
const SIZES: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Milliseconds; 0 for "none".
///
/// # Errors
/// What is wrong, in words.
pub fn time(text: &str) -> Result<u64, String> {
    let example = "write it like 7d, 12h, 30m, 45s or none";
    with_unit(text, &TIMES).ok_or_else(|| example.to_owned())
}

/// How long a table is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableTime {
    /// As long as the log.
    AsLog,
    /// So many ms; 0 for ever.
    For(u64),
}

/// A time as [`time`] reads it, or "log".
///
/// # Errors
/// What is wrong, in words.
pub fn table_time(text: &str) -> Result<TableTime, String> {
    if text.eq_ignore_ascii_case("log") {
        return Ok(TableTime::AsLog);
    }
    let ms = time(text).map_err(|why| format!("{why}, or log for as long as the log"))?;
    Ok(TableTime::For(ms))
}

/// Bytes; 0 for "none".
///
/// # Errors
/// What is wrong, in words.
pub fn size(text: &str) -> Result<u64, String> {
    let example = "write it like 10GiB, 500MB, 1048576B or none";
    with_unit(text, &SIZES).ok_or_else(|| example.to_owned())
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    if text.eq_ignore_ascii_case("none") {
        return Some(0);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let (_, factor) = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number
        .parse::<u64>()
        .ok()
        .filter(|number| *number > 0)?
        .checked_mul(*factor)
}

/// A time in words, as [`time`] reads it.
#[must_use]
pub fn time_in_words(ms: u64) -> String {
    let unit = TIMES
        .iter()
        .rev()
        .find(|(_, factor)| ms.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) if ms > 0 => format!("{}{name}", ms / factor),
        _ => format!("{:?}", Duration::from_millis(ms)),
    }
}

/// A size in words: whole units where they fit, else rounded to a tenth.
#[must_use]
pub fn size_in_words(bytes: u64) -> String {
    let unit = SIZES[..4].iter().rev().find(|(_, factor)| bytes >= *factor);
    match unit {
        Some((name, factor)) if bytes.is_multiple_of(*factor) => {
            format!("{} {name}", bytes / factor)
        }
        Some((name, factor)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(*factor);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_as_people_write_them() {
        assert_eq!(time("7d"), Ok(7 * 86_400_000));
        assert_eq!(time("90s"), Ok(90_000));
        assert_eq!(time("None"), Ok(0));
        assert_eq!(size("10GiB"), Ok(10 << 30));
        assert_eq!(size("500 mb"), Ok(500_000_000));
        for wrong in [
            "",
            "7",
            "d",
            "-1d",
            "7y",
            "0d",
            "99999999999999999999d",
            "1.5d",
        ] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert!(size("10").is_err());
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        for ms in [1, 1500, 60_000, 7 * 86_400_000, 3_600_000] {
            assert_eq!(time(&time_in_words(ms)), Ok(ms));
        }
        assert_eq!(size_in_words(10 << 30), "10 GiB");
        assert_eq!(size_in_words(1536), "1.5 KiB");
        assert_eq!(size_in_words(7), "7 B");
    }
}
