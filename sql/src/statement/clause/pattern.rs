//! Patterns: `SIMILAR TO` as a regular expression, `LIKE … ESCAPE` with a backslash.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Spanned, Value, ValueWithSpan};

use crate::error::SqlError;
use crate::statement::clause::invalid;

/// `x SIMILAR TO 'pattern'` as a regular expression.
pub(super) fn similar(
    negated: bool,
    text: &Expr,
    pattern: &Expr,
    escape: Option<&ValueWithSpan>,
) -> Result<Expr, SqlError> {
    let Expr::Value(pattern) = pattern else {
        return Err(invalid(
            pattern.span(),
            format!("SIMILAR TO takes a pattern that is written out, not {pattern}"),
            "write regexp_like(text, pattern) for a pattern that differs from row to row",
        ));
    };
    let Value::SingleQuotedString(written) = &pattern.value else {
        return Err(invalid(
            pattern.span,
            format!("{} is no pattern", pattern.value),
            "write SIMILAR TO '(a|b)%'",
        ));
    };
    let escape = match escape {
        None => Some('\\'),
        Some(escape) => escape_of(escape)?,
    };
    let mut regular = pattern.clone();
    regular.value = Value::SingleQuotedString(regular_of(written, escape));
    Ok(Expr::BinaryOp {
        left: Box::new(Expr::Nested(Box::new(text.clone()))),
        op: match negated {
            true => BinaryOperator::PGRegexNotMatch,
            false => BinaryOperator::PGRegexMatch,
        },
        right: Box::new(Expr::Value(regular)),
    })
}

/// `LIKE pattern ESCAPE escape` with a backslash, which is what the planner escapes with.
pub(super) fn escaped(pattern: &mut Expr, escape: &ValueWithSpan) -> Result<(), SqlError> {
    let Expr::Value(literal) = pattern else {
        return Err(invalid(
            pattern.span(),
            format!("ESCAPE takes a pattern that is written out, not {pattern}"),
            "leave ESCAPE out: a backslash escapes",
        ));
    };
    let escape = escape_of(escape)?;
    if let Value::SingleQuotedString(written) = &mut literal.value {
        let mut plain = String::with_capacity(written.len());
        let mut characters = written.chars();
        while let Some(character) = characters.next() {
            if Some(character) == escape {
                let taken = characters.next().unwrap_or(character);
                if matches!(taken, '%' | '_' | '\\') {
                    plain.push('\\');
                }
                plain.push(taken);
            } else {
                if character == '\\' {
                    plain.push('\\');
                }
                plain.push(character);
            }
        }
        *written = plain;
    }
    Ok(())
}

/// The one character behind `ESCAPE`; none if the text is empty.
fn escape_of(escape: &ValueWithSpan) -> Result<Option<char>, SqlError> {
    let Value::SingleQuotedString(text) = &escape.value else {
        return Err(no_escape(escape));
    };
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (first, None) => Ok(first),
        _ => Err(no_escape(escape)),
    }
}

fn no_escape(escape: &ValueWithSpan) -> SqlError {
    invalid(
        escape.span,
        format!("{escape} is not one character, and so nothing to escape with"),
        "write ESCAPE '!'",
    )
}

/// The regular expression of the whole text that a pattern of SQL stands for.
fn regular_of(pattern: &str, escape: Option<char>) -> String {
    let mut regular = String::from("^(?s:");
    let mut characters = pattern.chars();
    let mut is_in_brackets = false;
    while let Some(character) = characters.next() {
        match character {
            _ if Some(character) == escape => {
                let literal = characters.next().unwrap_or(character);
                if !literal.is_alphanumeric() {
                    regular.push('\\');
                }
                regular.push(literal);
            }
            '[' if !is_in_brackets => {
                is_in_brackets = true;
                regular.push('[');
            }
            ']' if is_in_brackets => {
                is_in_brackets = false;
                regular.push(']');
            }
            _ if is_in_brackets => {
                // `[:alpha:]` keeps its brackets, a lone one is a character.
                if character == '\\' || (character == '[' && !characters.as_str().starts_with(':'))
                {
                    regular.push('\\');
                }
                if character == '[' && characters.as_str().starts_with(':') {
                    regular.push('[');
                    for inner in characters.by_ref() {
                        regular.push(inner);
                        if inner == ']' {
                            break;
                        }
                    }
                    continue;
                }
                regular.push(character);
            }
            '%' => regular.push_str(".*"),
            '_' => regular.push('.'),
            '.' | '^' | '$' | '\\' => {
                regular.push('\\');
                regular.push(character);
            }
            _ => regular.push(character),
        }
    }
    regular.push_str(")$");
    regular
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_of_sql_stands_for_the_whole_text() {
        for (pattern, escape, regular) in [
            ("abc", Some('\\'), "^(?s:abc)$"),
            ("(A|b)%", Some('\\'), "^(?s:(A|b).*)$"),
            ("a_c.d", Some('\\'), "^(?s:a.c\\.d)$"),
            ("50!%", Some('!'), "^(?s:50\\%)$"),
            ("[a-c%]+", Some('\\'), "^(?s:[a-c%]+)$"),
            ("[[:digit:]]{2}", Some('\\'), "^(?s:[[:digit:]]{2})$"),
            ("a\\", None, "^(?s:a\\\\)$"),
        ] {
            assert_eq!(regular_of(pattern, escape), regular, "{pattern}");
        }
    }
}
