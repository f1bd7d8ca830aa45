//! Formats of times, in the three languages that users know.
//!
//! The engine's functions take chrono's formats (`%Y-%m-%d`) and would write or read any other text as it stands:
//! `date_format(at, 'yyyy-MM-dd')` would answer `yyyy-MM-dd`. So a format without `%` is one of Java, as Flink takes them
//! (`yyyy-MM-dd HH:mm:ss.SSS`), or of PostgreSQL (`YYYY-MM-DD HH24:MI:SS.MS`), and is written as chrono's here. `date_format`
//! takes Java's and `to_char` PostgreSQL's; where times are read, `yyyy`, `dd`, `mm` or `ss` tell a format of Java.
//! A letter that means nothing, or what can not be written, is an error that names it. Names of months and days are written as
//! `Mon` and `Day` are, and read in any case.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

/// Whose letters a format without `%` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Language {
    Java,
    Postgres,
    /// Either, as its letters tell.
    Either,
}

/// Functions that take formats, by the function of the engine that computes them.
const FUNCTIONS: [(&str, &str, Language); 8] = [
    ("to_char", "to_char", Language::Postgres),
    ("date_format", "to_char", Language::Java),
    ("to_date", "to_date", Language::Either),
    ("to_timestamp", "to_timestamp", Language::Either),
    (
        "to_timestamp_seconds",
        "to_timestamp_seconds",
        Language::Either,
    ),
    (
        "to_timestamp_millis",
        "to_timestamp_millis",
        Language::Either,
    ),
    (
        "to_timestamp_micros",
        "to_timestamp_micros",
        Language::Either,
    ),
    ("to_timestamp_nanos", "to_timestamp_nanos", Language::Either),
];

/// What takes the place of the engine's functions of the same names.
#[must_use]
pub fn patterned(functions: &[Arc<ScalarUDF>]) -> Vec<Arc<ScalarUDF>> {
    let each = FUNCTIONS.iter().filter_map(|(name, inner, language)| {
        // Of two of one name the last one counts.
        let inner = functions.iter().rfind(|known| known.name() == *inner)?;
        Some(Arc::new(ScalarUDF::from(Patterned {
            name,
            language: *language,
            inner: inner.as_ref().clone(),
        })))
    });
    each.collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Patterned {
    name: &'static str,
    language: Language,
    inner: ScalarUDF,
}

impl ScalarUDFImpl for Patterned {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> EngineResult<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> EngineResult<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> EngineResult<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        for format in args.args.iter_mut().skip(1) {
            let written = |text: &str| self.language.chrono(self.name, text);
            *format = match &*format {
                ColumnarValue::Scalar(ScalarValue::Utf8(Some(text))) => {
                    ColumnarValue::Scalar(ScalarValue::Utf8(Some(written(text)?)))
                }
                ColumnarValue::Array(texts) if texts.data_type().is_string() => {
                    let texts = cast(texts, &DataType::Utf8)?;
                    let texts = texts.as_string::<i32>().iter();
                    let texts = texts.map(|text| text.map(written).transpose());
                    let texts = texts.collect::<EngineResult<StringArray>>()?;
                    ColumnarValue::Array(Arc::new(texts) as ArrayRef)
                }
                other => other.clone(),
            };
        }
        self.inner.invoke_with_args(args)
    }
}

/// Letters of Java, the longest first, and what they are to chrono.
const JAVA: [(&str, &str); 30] = [
    ("yyyy", "%Y"),
    ("uuuu", "%Y"),
    ("yy", "%y"),
    ("y", "%Y"),
    ("MMMM", "%B"),
    ("MMM", "%b"),
    ("MM", "%m"),
    ("M", "%-m"),
    ("DDD", "%j"),
    ("D", "%-j"),
    ("dd", "%d"),
    ("d", "%-d"),
    ("EEEE", "%A"),
    ("EEE", "%a"),
    ("E", "%a"),
    ("HH", "%H"),
    ("H", "%-H"),
    ("hh", "%I"),
    ("h", "%-I"),
    ("mm", "%M"),
    ("m", "%-M"),
    ("ss", "%S"),
    ("s", "%-S"),
    ("SSSSSSSSS", "%9f"),
    ("SSSSSS", "%6f"),
    ("SSS", "%3f"),
    ("a", "%p"),
    ("XXX", "%:z"),
    ("Z", "%z"),
    ("ww", "%V"),
];

/// Letters of PostgreSQL in upper case, a longer word before those that it begins like, and what they are to chrono; none: chrono
/// has no such thing, and they mean something else than the shorter word.
const POSTGRES: [(&str, &str); 30] = [
    ("SSSSS", ""),
    ("SSSS", ""),
    ("IDDD", ""),
    ("TZM", ""),
    ("TZH", "%z"),
    ("TZ", ""),
    ("YYYY", "%Y"),
    ("YY", "%y"),
    ("IYYY", "%G"),
    ("IW", "%V"),
    ("MONTH", "%B"),
    ("MON", "%b"),
    ("MM", "%m"),
    ("MI", "%M"),
    ("MS", "%3f"),
    ("DAY", "%A"),
    ("DDD", "%j"),
    ("DD", "%d"),
    ("DY", "%a"),
    ("ID", "%u"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("HH", "%I"),
    ("SS", "%S"),
    ("US", "%6f"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("OF", "%:z"),
    // They are no letters of a format, and stand in most times as they are written.
    ("T", "T"),
    ("Z", "Z"),
];

impl Language {
    /// A format as chrono has it; one with `%` is that already.
    fn chrono(self, function: &str, format: &str) -> EngineResult<String> {
        if format.contains('%') {
            return Ok(format.to_owned());
        }
        let is_java = match self {
            Self::Java => true,
            Self::Postgres => false,
            Self::Either => ["yy", "uu", "dd", "mm", "ss"]
                .iter()
                .any(|letters| format.contains(letters)),
        };
        let quote = if is_java { '\'' } else { '"' };
        let mut written = String::with_capacity(2 * format.len());
        let mut rest = format;
        while let Some(first) = rest.chars().next() {
            if first == quote {
                rest = literal(&rest[1..], quote, &mut written);
            } else if !first.is_ascii_alphabetic() {
                written.push(first);
                rest = &rest[first.len_utf8()..];
            } else {
                let found = match is_java {
                    true => java(rest),
                    false => postgres(rest, self == Self::Postgres),
                };
                let (chrono, length) =
                    found.ok_or_else(|| unknown(function, format, rest, is_java))?;
                written.push_str(chrono);
                rest = &rest[length..];
            }
        }
        Ok(written)
    }
}

/// Writes a text up to the quote that ends it, and answers what comes behind; a quote that is doubled stands for itself.
fn literal<'a>(mut text: &'a str, quote: char, written: &mut String) -> &'a str {
    if let Some(behind) = text.strip_prefix(quote) {
        written.push(quote);
        return behind;
    }
    while let Some((before, behind)) = text.split_once(quote) {
        written.push_str(before);
        let Some(more) = behind.strip_prefix(quote) else {
            return behind;
        };
        written.push(quote);
        text = more;
    }
    written.push_str(text);
    ""
}

/// What a format of Java begins with; letters count as many as there are of them.
fn java(format: &str) -> Option<(&'static str, usize)> {
    let first = format.chars().next()?;
    let length = format.chars().take_while(|letter| *letter == first).count();
    let found = JAVA
        .iter()
        .find(|(letters, _)| *letters == &format[..length]);
    found.map(|(_, chrono)| (*chrono, length))
}

/// What a format of PostgreSQL begins with; `FM` leaves out the zeros of the number behind it.
fn postgres(format: &str, writes: bool) -> Option<(&'static str, usize)> {
    if let Some(rest) = format.strip_prefix("FM") {
        let (chrono, length) = postgres(rest, writes)?;
        let without = match chrono {
            "%m" => "%-m",
            "%d" => "%-d",
            "%H" => "%-H",
            "%I" => "%-I",
            "%M" => "%-M",
            "%S" => "%-S",
            "%j" => "%-j",
            other => other,
        };
        return Some((without, length + 2));
    }
    let begin = |letters: &str| {
        let begin = format.get(..letters.len())?;
        begin.eq_ignore_ascii_case(letters).then_some(begin)
    };
    let mut words = POSTGRES.iter();
    let (begin, chrono) = words.find_map(|(letters, chrono)| Some((begin(letters)?, *chrono)))?;
    let chrono = match (chrono, begin) {
        ("", _) => return None,
        // In PostgreSQL the case of the word is that of the name; chrono has one of each.
        ("%p", "am" | "pm") if writes => "%P",
        ("%p", "AM" | "PM") | ("%B", "Month") | ("%b", "Mon") | ("%A", "Day") | ("%a", "Dy") => {
            chrono
        }
        ("%p" | "%B" | "%b" | "%A" | "%a", _) if writes => return None,
        _ => chrono,
    };
    Some((chrono, begin.len()))
}

fn unknown(function: &str, format: &str, rest: &str, is_java: bool) -> DataFusionError {
    let (whose, example) = match is_java {
        true => ("Java", "'yyyy-MM-dd HH:mm:ss.SSS'"),
        false => ("PostgreSQL", "'YYYY-MM-DD HH24:MI:SS.MS'"),
    };
    DataFusionError::Execution(format!(
        "{function} does not know '{rest}' in the format '{format}', which it reads as one of {whose}; \
         write one like {example} or, with chrono's letters, '%Y-%m-%d %H:%M:%S%.3f'"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_java_and_postgres_become_those_of_chrono() {
        let chrono = |language: Language, format| language.chrono("f", format).unwrap();
        let java = |format| chrono(Language::Java, format);
        assert_eq!(
            java("yyyy-MM-dd'T'HH:mm:ss.SSSXXX"),
            "%Y-%m-%dT%H:%M:%S.%3f%:z"
        );
        assert_eq!(
            java("d. MMM yy, h 'o''clock' a"),
            "%-d. %b %y, %-I o'clock %p"
        );
        assert_eq!(java("%H:%M"), "%H:%M");
        let postgres = |format| chrono(Language::Postgres, format);
        assert_eq!(
            postgres("YYYY-MM-DD\"T\"HH24:MI:SS.MS"),
            "%Y-%m-%dT%H:%M:%S.%3f"
        );
        assert_eq!(
            postgres("FMDD Mon YYYY, HH12:MI am, Day AM"),
            "%-d %b %Y, %I:%M %P, %A %p"
        );
        assert_eq!(postgres("YYYY-MM-DDTHH24:MI:SSZ"), "%Y-%m-%dT%H:%M:%SZ");
        let either = |format| chrono(Language::Either, format);
        assert_eq!(either("yyyyMMdd"), "%Y%m%d");
        assert_eq!(either("YYYYMMDD"), "%Y%m%d");
        assert_eq!(either("DD-MON-YYYY HH12:MI am"), "%d-%b-%Y %I:%M %p");
    }

    #[test]
    fn a_letter_that_means_nothing_is_named() {
        let error = Language::Java.chrono("date_format", "yyyy-QQ").unwrap_err();
        let error = error.to_string();
        assert!(error.contains("does not know 'QQ'"), "{error}");
        // Every word of PostgreSQL that is not written as there, whatever shorter one it begins like.
        for format in [
            "YYYY ÄB",
            "SSSS",
            "SSSSS",
            "IDDD",
            "HH24:MI TZ",
            "TZM",
            "DD MON YYYY",
            "mon",
            "MONTH",
            "month",
            "DAY",
            "day",
            "DY",
            "dy",
            "Am",
            "D",
            "W",
            "WW",
            "CC",
            "J",
            "Q",
            "RM",
            "IYY",
            "IY",
            "I",
            "Y,YYY",
            "YYY",
            "Y",
            "BC",
            "AD",
            "A.M.",
            "a.m.",
            "FF1",
            "FX",
            "TMMonth",
            "TMMon",
            "DDth",
            "DDSP",
        ] {
            let written = Language::Postgres.chrono("to_char", format);
            assert!(written.is_err(), "{format}: {written:?}");
        }
    }
}
